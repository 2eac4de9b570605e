"""A real campaign in seconds: copper, labels by ASE's EMT, tiny networks, everything through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from pwact_like.crashpoints import KILL_AT_VARIABLE


def copper_frames(count: int, seed: int, displacement_ang: float = 0.08) -> list:
    """Rattled 8-atom copper cells with ASE's EMT label in `info` and `arrays`, as anybody's extxyz holds it."""
    generator = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True).repeat((2, 1, 1))
        atoms.set_cell(atoms.cell * generator.uniform(0.97, 1.03), scale_atoms=True)
        atoms.positions += generator.normal(scale=displacement_ang, size=atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(force_consistent=True), atoms.get_forces()
        virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
        atoms.calc = None
        atoms.info.update(energy=energy, virial=virial)
        atoms.arrays["forces"] = forces
        frames.append(atoms)
    return frames


def write_campaign(
    folder: Path,
    *,
    seed: int = 1,
    entries: int = 1,
    strategy: dict | None = None,
    explore_steps: int = 20,
    resource: dict | None = None,
    **param,
) -> tuple[Path, Path]:
    """Write the inputs of a micro-campaign; returns the paths of param.json and resource.json.

    ``resource`` is resource.json; without it everything runs on this machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "init.xyz", copper_frames(12, seed=5), format="extxyz")
    write(folder / "test.xyz", copper_frames(6, seed=6), format="extxyz")
    start = bulk("Cu", "fcc", a=3.6, cubic=True).repeat((2, 1, 1))
    start.rattle(0.05, seed=3)
    write(folder / "start.xyz", start, format="extxyz")
    job = {"sys_idx": [0], "nsteps": explore_steps, "md_dt": 0.002, "trj_freq": 2, "ensemble": "nvt", "taut": 0.05}
    content = {
        "seed": seed,
        "init_data": ["init.xyz"],
        "test_data": ["test.xyz"],
        "train": {
            "model_type": "DP",
            "atom_type": [29],
            "model": {
                "descriptor": {"Rmax": 4.0, "Rmin": 1.0, "M2": 3, "network_size": [4, 8]},
                "fitting_net": {"network_size": [8, 8, 1]},
            },
            "optimizer": {"optimizer": "ADAM", "epochs": 4, "batch_size": 1},
        },
        "strategy": {
            "model_num": 3,
            "lower_model_devi_f": 1e-4,
            "upper_model_devi_f": 50.0,
            "max_select": 3,
            **(strategy or {}),
        },
        "explore": {"sys_configs": ["start.xyz"], "md_jobs": [{**job, "temps": [300.0 + 100.0 * entry]} for entry in range(entries)]},
        "DFT": {"dft_style": "ase", "calculator": "emt"},
        **param,
    }
    (folder / "param.json").write_text(json.dumps(content, indent=1))
    sections = {name: {"command": "pwact-like", "group_size": -1, "parallel_num": 2} for name in ("train", "explore", "DFT")}
    content = {"scheduler": "local", **sections} if resource is None else resource
    (folder / "resource.json").write_text(json.dumps(content, indent=1))
    return folder / "param.json", folder / "resource.json"


def on_slurm(poll_s: float = 0.1, *, env_list: Sequence[str] = (), **top) -> dict:
    """A resource.json for Slurm, quick to see what happens.

    A job for each training, so that several are submitted at the same time, and two labels a job, so that a job is more
    than its task; at most two run side by side.
    """
    common = {"command": "pwact-like", "memory": "1500M", "time": "20", "env_list": list(env_list)}
    sections = {
        "train": {**common, "group_size": 1},
        "explore": {**common, "group_size": 1},
        "DFT": {**common, "group_size": 2, "parallel_num": 1},
    }
    return {"scheduler": "slurm", "poll_s": poll_s, "grace_s": 5, "slurm_timeout_s": 60, **sections, **top}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Edit a JSON file as a user does."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1))


def pwact_like(folder: Path, *arguments: str, kill_at: str = "", timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, as a user would, with a kill point if asked for."""
    environment = {**os.environ, **({KILL_AT_VARIABLE: kill_at} if kill_at else {})}
    return subprocess.run(
        [sys.executable, "-m", "pwact_like", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def executions(folder: Path) -> dict[str, int]:
    """How often each task was begun, counted from the tasks' own append-only files (not from the journal)."""
    return {
        str(path.parents[1].relative_to(folder)): len(path.read_text().splitlines())
        for path in sorted(folder.rglob("executions.log"))
        if path.parent.name == ".attempt"
    }


def status(folder: Path) -> dict:
    """`status --json`."""
    done = pwact_like(folder, "status", "run", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
