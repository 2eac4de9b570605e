"""examples/si_cp2k from end to end with the real CP2K: init_bulk, then two iterations and a last training."""

from __future__ import annotations

import re
import shutil

import micro
import pytest
from support import ROOT, require_program, run_cli

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]


def test_silicon_by_cp2k_runs_from_end_to_end(tmp_path):
    require_program("cp2k.psmp", "apt-get install --no-install-recommends cp2k cp2k-data")
    folder = tmp_path / "silicon by CP2K"
    shutil.copytree(ROOT / "examples" / "si_cp2k", folder)
    # three members are a committee, and what is shown here is CP2K's part
    micro.edit(folder / "param.json", lambda content: content["strategy"].update(model_num=3))
    for command in (("init_bulk", "init_param.json", "resource.json"), ("run", "param.json", "resource.json")):
        done = run_cli(*command, cwd=folder, timeout_s=550)
        assert done.returncode == 0, done.stdout + done.stderr
    status = micro.status(folder)
    rows = status["iterations"]
    assert status["state"] == "finished" and [row["entry"] for row in rows] == [0, 1, None]
    assert all(row["accurate"] + row["candidate"] + row["failed"] == row["frames_planned"] for row in rows[:-1])
    assert sum(row["labelled"] for row in rows[:-1]) > 0
    assert rows[-1]["force_rmse_ev_per_ang"] < rows[0]["force_rmse_ev_per_ang"]

    # one label against the raw line of its own CP2K output (27.211386245988 eV a Hartree, CODATA 2018)
    output = next(folder.glob("iter.*/02.label/scf/*/*/*-scf/cp2k.out"))
    hartree = float(re.findall(r"ENERGY\| Total FORCE_EVAL.*?(-\d+\.\d+)\s*$", output.read_text(), re.MULTILINE)[-1])
    labels = [
        line for path in folder.glob("iter.*/02.label/result/train.xyz") for line in path.read_text().splitlines() if "energy=" in line
    ]
    energies = [float(re.search(r'(?<![a-z_])energy="?(-?[0-9.eE+-]+)', line).group(1)) for line in labels]
    assert min(abs(energy - hartree * 27.211386245988) for energy in energies) < 1e-7
