"""rewind while jobs are in flight: they are cancelled on Slurm, their results go aside, and the same end is reached."""

from __future__ import annotations

import os
import shlex

import campaigns
import micro
import pytest
from fake.fake_slurm import FakeSlurm
from support import run_cli

pytestmark = pytest.mark.slurm

LABELS = "iter.0000/02.label/scf/*/*/*"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    with FakeSlurm(tmp_path / "slurm") as slurm:
        slurm.install(monkeypatch)
        yield slurm


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    return campaigns.undisturbed_once(tmp_path_factory, "campaign")


def test_back_to_the_exploration_while_labels_run(fake, undisturbed, tmp_path):
    folder = tmp_path / "it's a campaign"
    folder.mkdir()
    hold = folder / "hold"
    master = campaigns.campaign(folder)
    line = f"while [ -e {shlex.quote(str(hold))} ]; do sleep 0.05; done"
    micro.edit(folder / "resource.json", lambda content: content["DFT"].update(env_list=[line]))
    hold.touch()
    master.start()
    slurm = campaigns.Slurm(fake)
    master.until(lambda: "label: " in master.log and len(slurm.alive()) >= 1, 90)
    refused = run_cli("rewind", "--to", "0:explore", "--yes", "--work-dir", folder, environment=dict(os.environ))
    assert refused.returncode == 4 and "Ctrl-C or SIGTERM" in refused.stderr, "a master works here"
    master.close()
    before = slurm.alive()
    fake.controller_down()
    silent = run_cli("rewind", "--to", "0:explore", "--yes", "--work-dir", folder, environment=dict(os.environ))
    assert silent.returncode == 1 and "nothing more is moved" in silent.stderr and not (folder / "rewound").exists()
    fake.controller_up()
    assert before and slurm.alive() == before
    done = run_cli("rewind", "--to", "0:explore", "--yes", "--work-dir", folder, environment=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert slurm.alive() == [] and list(folder.glob("rewound/*/iter.0000/01.explore")) and not (folder / "iter.0000/01.explore").exists()
    hold.unlink()
    master.finish()
    assert master.product() == undisturbed["product"]
    assert len(list(folder.glob(LABELS))) == len([name for name in undisturbed["executions"] if "/scf/" in name])
    slurm.check_none_left(folder)
