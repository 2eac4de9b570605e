"""examples/si_qe from end to end with the real pw.x: init_bulk, then two iterations and a last training; here, and on a real Slurm."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import campaigns
import micro
import pytest
from slurm.conftest import cluster, real_cluster  # noqa: F401 - fixtures
from support import ROOT, require_program, run_cli

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

COMMANDS = (campaigns.INIT_BULK, campaigns.RUN)


def example(folder: Path) -> Path:
    require_program("pw.x", "apt-get install --no-install-recommends quantum-espresso quantum-espresso-data")
    shutil.copytree(ROOT / "examples" / "si_qe", folder)
    return folder


def check_end(folder: Path) -> list[dict]:
    """What holds however little was trained; returns the iterations."""
    status = micro.status(folder)
    rows = status["iterations"]
    assert status["state"] == "finished" and [row["entry"] for row in rows] == [0, 1, None]
    assert all(row["accurate"] + row["candidate"] + row["failed"] == row["frames_planned"] for row in rows[:-1])
    assert sum(row["labelled"] for row in rows[:-1]) > 0
    # one label against the raw line of its own output, which has eight decimals (13.605693122994 eV a Rydberg, CODATA 2018)
    output = next(folder.glob("iter.*/02.label/scf/*/*/*-scf/pw.out"))
    rydberg = float(re.findall(r"^!\s+total energy\s+=\s+(-\d+\.\d+) Ry", output.read_text(), re.MULTILINE)[-1])
    labels = [
        line for path in folder.glob("iter.*/02.label/result/train.xyz") for line in path.read_text().splitlines() if "energy=" in line
    ]
    energies = [float(re.search(r'(?<![a-z_])energy="?(-?[0-9.eE+-]+)', line).group(1)) for line in labels]
    assert min(abs(energy - rydberg * 13.605693122994) for energy in energies) < 2e-7
    # wave functions and densities are gone wherever pw.x has run
    assert not [path for path in folder.rglob("*") if path.name in ("out", "label.save") or path.suffix == ".dat"]
    return rows


def test_silicon_by_quantum_espresso_runs_from_end_to_end(tmp_path):
    folder = example(tmp_path / "silicon by pw.x")
    # three members are a committee, and what is shown here is Quantum ESPRESSO's part
    micro.edit(folder / "param.json", lambda content: content["strategy"].update(model_num=3))
    for command in COMMANDS:
        done = run_cli(*command, cwd=folder, timeout_s=850)
        assert done.returncode == 0, done.stdout + done.stderr
    rows = check_end(folder)
    assert rows[-1]["force_rmse_ev_per_ang"] < rows[0]["force_rmse_ev_per_ang"]


@pytest.mark.slurm
def test_silicon_by_quantum_espresso_on_slurm(cluster, tmp_path):  # noqa: F811
    folder = example(tmp_path / "silicon")
    # seconds between two looks do not matter to a campaign of days, and would to this one; the potential is not the matter here
    micro.edit(folder / "resource.json", lambda content: content.update(scheduler="slurm", poll_s=0.2))
    micro.edit(
        folder / "param.json", lambda content: (content["train"]["optimizer"].update(epochs=4), content["strategy"].update(max_select=3))
    )
    for command in COMMANDS:
        master = campaigns.Master(folder, command)
        master.start()
        assert master.wait(850) == 0, master.said
    check_end(folder)
    assert set(micro.executions(folder).values()) == {1}
    campaigns.Slurm(cluster).check_none_left(folder)
