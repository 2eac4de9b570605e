"""A small campaign of real programs: silicon, DeePMD-kit trains a committee, LAMMPS explores with it, tblite labels."""

from __future__ import annotations

import json
from pathlib import Path

import micro
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from deepmd_support import ONE_THREAD, dp_command, evaluate
from support import require_deepmd

from pwact_like.uncertainty.table import read_table

MODELS = 3
STEPS, EVERY = 40, 4


def shaken_silicon(seed: int, displacement_ang: float) -> Atoms:
    """Eight atoms in their cubic cell, a little deformed."""
    random = np.random.default_rng(seed)
    atoms = bulk("Si", cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + random.normal(scale=0.015, size=(3, 3))), scale_atoms=True)
    atoms.positions += random.normal(scale=displacement_ang, size=atoms.positions.shape)
    return atoms


def labelled(count: int, seed: int) -> list[Atoms]:
    """GFN1-xTB's labels as anybody's extxyz holds them."""
    from tblite.ase import TBLite

    frames = []
    for index in range(count):
        atoms = shaken_silicon(1000 * seed + index, 0.08)
        atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
        atoms.calc = None
        atoms.info.update(energy=energy, virial=virial)
        atoms.arrays["forces"] = forces
        frames.append(atoms)
    return frames


def write_campaign(folder: Path, **resource) -> None:
    """param.json and resource.json of two iterations; ``resource`` is merged into resource.json."""
    folder.mkdir(parents=True)
    write(folder / "init.xyz", labelled(10, 1), format="extxyz")
    write(folder / "test.xyz", labelled(5, 2), format="extxyz")
    write(folder / "start.xyz", shaken_silicon(3, 0.03), format="extxyz")
    job = {"sys_idx": 0, "nsteps": STEPS, "md_dt": 0.001, "trj_freq": EVERY, "ensemble": "nvt", "taut": 0.05}
    param = {
        "init_data": ["init.xyz"],
        "test_data": ["test.xyz"],
        "train": {
            "atom_type": ["Si"],
            "model": {
                "descriptor": {"Rmax": 4.5, "Rmin": 1.0, "M2": 4, "network_size": [4, 8], "sel": 60},
                "fitting_net": {"network_size": [16, 16]},
            },
            "optimizer": {"optimizer": "ADAM", "epochs": 25, "learning_rate": 0.01, "stop_lr": 1e-4},
        },
        "strategy": {"model_num": MODELS, "lower_model_devi_f": 1e-3, "upper_model_devi_f": 30.0, "max_select": 4},
        "explore": {"sys_configs": ["start.xyz"], "md_jobs": [{**job, "temps": 300.0}, {**job, "temps": 600.0}]},
        "DFT": {"dft_style": "xtb", "method": "GFN1-xTB"},
        "reserve_md_traj": True,
    }
    (folder / "param.json").write_text(json.dumps(param, indent=1))
    threads = [f"export {name}={value}" for name, value in ONE_THREAD.items()]
    content = {
        "scheduler": "local",
        "train": {"command": dp_command(), "group_size": 1, "env_list": threads},
        "explore": {"command": str(require_deepmd("lmp") / "lmp"), "env_list": threads},
        "DFT": {"command": "pwact-like", "group_size": -1},
    }
    for key, value in resource.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    (folder / "resource.json").write_text(json.dumps(content, indent=1))


def check_campaign(folder: Path) -> None:
    """Two iterations and a last training; the deviations are those of the three models, told by DeePMD-kit's calculator."""
    status = micro.status(folder)
    rows = status["iterations"]
    assert status["state"] == "finished" and [row["entry"] for row in rows] == [0, 1, None]
    planned = STEPS // EVERY + 1
    for row in rows[:-1]:
        assert row["frames_planned"] == planned and row["accurate"] + row["candidate"] + row["failed"] == planned
        assert row["labelled"] > 0
    assert rows[-1]["force_rmse_ev_per_ang"] < rows[0]["force_rmse_ev_per_ang"]
    for iteration in range(2):
        (task,) = (folder / f"iter.{iteration:04d}/01.explore/md").glob("*/*/model_devi.out")
        table = read_table(task)
        assert table.steps.tolist() == list(range(0, STEPS + 1, EVERY))
        models = [folder / f"iter.{iteration:04d}/00.train/train.{member:03d}/model.pb" for member in range(MODELS)]
        frames = read(task.parent / "traj.lammpstrj", ":", format="lammps-dump-text", specorder=["Si"])
        # in the dump's own frame: the deviation does not depend on the orientation
        last = Atoms("Si8", positions=frames[-1].positions, cell=frames[-1].cell, pbc=True)
        said = evaluate(folder, {f"m{member}": (model, [last]) for member, model in enumerate(models)})
        forces = np.array([said[f"m{member}"][0]["forces"] for member in range(MODELS)])
        by_atom = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
        assert np.ptp(forces, axis=0).max() > 1e-3
        assert table.value[-1] == pytest.approx(by_atom.max(), rel=0.01)
    for member in range(MODELS):
        # the second training went on from the first one's checkpoint, the last one from the second's
        for iteration in (1, 2):
            used = json.loads((folder / f"iter.{iteration:04d}/00.train/train.{member:03d}/train.json").read_text())
            assert used["init_model"] == "model.pb"
            attempt = folder / f"iter.{iteration:04d}/00.train/train.{member:03d}/.attempt/1"
            assert "initialize from model init/model.ckpt" in (attempt / "stderr").read_text() + (attempt / "stdout").read_text()
    labels = [frame for path in folder.glob("iter.*/02.label/result/train.xyz") for frame in read(path, ":")]
    assert labels
    from tblite.ase import TBLite

    fresh = labels[0].copy()
    fresh.calc = TBLite(method="GFN1-xTB", verbosity=0)
    np.testing.assert_allclose(labels[0].get_forces(), fresh.get_forces(), atol=1e-5)
