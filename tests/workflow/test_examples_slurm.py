"""The quickstart's campaign on a real Slurm, with its first conditions and short trainings: what it learns is judged on this machine."""

from __future__ import annotations

import shutil

import campaigns
import micro
import pytest
from slurm.conftest import cluster, real_cluster  # noqa: F401 - fixtures
from support import ROOT

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.timeout(1200)
def test_silicon(cluster, tmp_path):  # noqa: F811
    folder = tmp_path / "silicon"
    shutil.copytree(ROOT / "examples" / "si_xtb", folder)
    # seconds between two looks do not matter to a campaign of days, and would to this one
    micro.edit(folder / "resource.json", lambda content: content.update(scheduler="slurm", poll_s=0.2))
    micro.edit(folder / "param.json", _shorten)
    for command in (campaigns.INIT_BULK, campaigns.RUN):
        master = campaigns.Master(folder, command)
        master.start()
        assert master.wait(900) == 0, master.said
    rows = micro.status(folder)["iterations"]
    assert any(row["candidate"] and row["labelled"] for row in rows if row["candidate"] is not None)
    assert len(rows) == 2 and rows[-1]["force_rmse_ev_per_ang"] > 0.0
    assert set(micro.executions(folder).values()) == {1}
    campaigns.Slurm(cluster).check_none_left(folder)


def _shorten(param):
    param["train"]["optimizer"]["epochs"] = 2
    del param["explore"]["md_jobs"][1:], param["strategy"]["convergence"]
