"""examples/si_chgnet from end to end with the real CHGNet: init_bulk, then two iterations and a last training."""

from __future__ import annotations

import importlib.util
import shutil

import micro
import numpy as np
import pytest
from support import ROOT, run_cli

from pwact_like.data.formats import read_frames

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]


def test_silicon_by_chgnet_runs_from_end_to_end(tmp_path):
    if importlib.util.find_spec("chgnet") is None:
        pytest.skip("chgnet is not installed: pip install 'pwact-like[chgnet]'")
    folder = tmp_path / "silicon by CHGNet"
    shutil.copytree(ROOT / "examples" / "si_chgnet", folder)
    for command in (("init_bulk", "init_param.json", "resource.json"), ("run", "param.json", "resource.json")):
        done = run_cli(*command, cwd=folder, timeout_s=550)
        assert done.returncode == 0, done.stdout + done.stderr
    status = micro.status(folder)
    rows = status["iterations"]
    assert status["state"] == "finished" and [row["entry"] for row in rows] == [0, 1, None]
    assert all(row["accurate"] + row["candidate"] + row["failed"] == row["frames_planned"] for row in rows[:-1])
    assert all(row["labelled"] > 1 for row in rows[:-1])
    assert rows[-1]["force_rmse_ev_per_ang"] < rows[0]["force_rmse_ev_per_ang"]

    # one task labelled all the structures of an iteration: the model was loaded once
    tasks = sorted(path.parent.name for path in folder.glob("iter.0000/02.label/bigmodel/*/result.json"))
    assert tasks == ["000"] and not (folder / "iter.0000/02.label/scf").exists()

    # one label against CHGNet's own interface, in its units: eV an atom, eV/Å, GPa (1 eV/Å³ = 160.21766 GPa)
    from chgnet.model.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    frame = read_frames(folder / "iter.0001/02.label/result/train.xyz", "extxyz")[-1]
    own = CHGNet.load(use_device="cpu", verbose=False).predict_structure(AseAtomsAdaptor.get_structure(frame.atoms))
    assert frame.label.energy_ev == pytest.approx(float(own["e"]) * len(frame.atoms), abs=1e-5)
    np.testing.assert_allclose(frame.label.forces_ev_per_ang, own["f"], atol=1e-5)
    np.testing.assert_allclose(-frame.label.virial_ev / frame.atoms.get_volume() * 160.21766208, own["s"], atol=1e-3)
    assert frame.level_of_theory.startswith("bigmodel-chgnet-0.3.0-")
