"""The quickstart's campaign, as it is shipped, on a real Slurm."""

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
    for command in (campaigns.INIT_BULK, campaigns.RUN):
        master = campaigns.Master(folder, command)
        master.start()
        assert master.wait(900) == 0, master.said
    rows = micro.status(folder)["iterations"]
    assert any(row["candidate"] and row["labelled"] for row in rows if row["candidate"] is not None)
    assert rows[-1]["force_rmse_ev_per_ang"] <= 0.85 * rows[0]["force_rmse_ev_per_ang"]
    assert set(micro.executions(folder).values()) == {1}
    campaigns.Slurm(cluster).check_none_left(folder)
