"""init_bulk is killed with SIGKILL in every stage; the next start goes on as if nothing had happened.

The dispatcher's own points are the same code as in `run` (test_campaign_killed.py); here it is the stages' points that
matter, each passed once a stage: relax, structures, aimd, scf, collection.
"""

from __future__ import annotations

import json
import signal

import bulk_micro
import micro
import pytest

pytestmark = pytest.mark.crash

RUN = ("init_bulk", "init_param.json", "resource.json")
SETTINGS = {"data_shuffle": True, "interval": 2, "scf_max_num": 2}
PASSAGES = [
    "stage-planned:3",
    "submitted-unrecorded:2",
    "accepting",
    "accepted:3",
    *(f"collecting:{number}" for number in (1, 4, 5)),
    *(f"manifest-written:{number}" for number in range(1, 6)),
    "cleaning",
    "iteration-done",
]


def product(folder):
    """Hash of the data set, and everything that the collection consists of."""
    manifest = json.loads((folder / "collection/manifest.json").read_text())
    files = {name: digest for name, digest in manifest["outputs"].items() if name != "datapath.txt"}  # it holds absolute paths
    return manifest["facts"]["sha256"], files


def run(folder, point="", reserve_work=True):
    if not (folder / "init_param.json").exists():
        bulk_micro.write_inputs(folder, bulk_micro.SHORT, reserve_work=reserve_work, **SETTINGS)
    return micro.pwact_like(folder, *RUN, kill_at=point)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Product and execution counts of an init_bulk that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return product(folder), micro.executions(folder)


@pytest.mark.parametrize("point", PASSAGES)
def test_killed_at(point, undisturbed, tmp_path):
    reserve_work = point != "cleaning"  # there is nothing to clean otherwise
    killed = run(tmp_path, point, reserve_work)
    assert killed.returncode == -signal.SIGKILL, f"the kill at {point} did not land:\n{killed.stdout}{killed.stderr}"
    again = run(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert product(tmp_path) == undisturbed[0]
    if reserve_work:
        counts = micro.executions(tmp_path)
        assert counts == undisturbed[1] and set(counts.values()) == {1}  # every task once: none redone, none forgotten
    else:
        left = {path.name for path in (tmp_path / "temp_init_bulk_work").iterdir()}
        assert left == {"made_by_pwact_like.json", "relax"}  # the failed relaxation is kept


def test_another_seed_gives_another_data_set(undisturbed, tmp_path):
    bulk_micro.write_inputs(tmp_path, bulk_micro.SHORT, seed=2, reserve_work=True, **SETTINGS)
    done = micro.pwact_like(tmp_path, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert product(tmp_path)[0] != undisturbed[0][0]
