"""DeePMD-kit, its LAMMPS and tblite: a committee campaign of real programs from end to end, here and on a real Slurm."""

from __future__ import annotations

import campaigns
import deepmd_campaign
import micro
import pytest
from slurm.conftest import cluster, real_cluster  # noqa: F401 - fixtures
from support import require_deepmd

require_deepmd()
pytest.importorskip("tblite", reason="pip install 'pwact-like[xtb]'")


@pytest.mark.engines
@pytest.mark.timeout(2400)  # a minute on an idle machine
def test_two_iterations(tmp_path):
    folder = tmp_path / "silicon by DeePMD-kit"
    deepmd_campaign.write_campaign(folder)
    checked = micro.pwact_like(folder, "check", "param.json", "resource.json")
    assert checked.returncode == 0 and "train: deepmd" in checked.stdout and "explore: lammps" in checked.stdout, checked.stdout
    done = micro.pwact_like(folder, "run", "param.json", "resource.json", timeout_s=2300)
    assert done.returncode == 0, done.stdout + done.stderr
    deepmd_campaign.check_campaign(folder)


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_two_iterations_on_slurm(cluster, tmp_path):  # noqa: F811
    folder = tmp_path / "silicon"
    deepmd_campaign.write_campaign(folder, scheduler="slurm", poll_s=0.2, train={"time": "20"}, explore={"time": "20"}, DFT={"time": "20"})
    master = campaigns.Master(folder, campaigns.RUN)
    master.start()
    assert master.wait(2300) == 0, master.said
    deepmd_campaign.check_campaign(folder)
    assert set(micro.executions(folder).values()) == {1}
    campaigns.Slurm(cluster).check_none_left(folder)
