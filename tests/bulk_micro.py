"""A real init_bulk in seconds: copper, labels by ASE's EMT, everything through the command line."""

from __future__ import annotations

import json
from pathlib import Path

from ase.build import bulk
from ase.io import write


def write_inputs(folder: Path, systems: list[dict], *, resource: dict | None = None, **param) -> None:
    """Write init_param.json, resource.json (without ``resource``: all on this machine) and the structures Cu.xyz and POSCAR."""
    folder.mkdir(parents=True, exist_ok=True)
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.rattle(0.02, seed=3)
    write(folder / "Cu.xyz", atoms, format="extxyz")
    write(folder / "POSCAR", atoms, format="vasp")
    content = {
        "dft_style": "ase",
        "calculator": "emt",
        "sys_configs": systems,
        "relax_input": [{"fmax": 0.02}, {"fmax": 1e-9, "max_steps": 1}],
        "aimd_input": [{"temp": 500, "nsteps": 8, "md_dt": 0.002}],
        **param,
    }
    (folder / "init_param.json").write_text(json.dumps(content, indent=1))
    section = {"command": "pwact-like", "group_size": -1, "parallel_num": 2}
    content = {"scheduler": "local", "DFT": section} if resource is None else resource
    (folder / "resource.json").write_text(json.dumps(content, indent=1))


EVERYTHING = [
    {
        "config": "POSCAR",
        "format": "vasp/poscar",
        "relax": True,
        "super_cell": [2, 1, 1],
        "scale": [0.97, 1.0],
        "perturb": 1,
        "cell_pert_fraction": 0.02,
        "atom_pert_distance": 0.05,
        "aimd": True,
    },
    {"config": "Cu.xyz", "relax": True, "relax_input_idx": 1, "aimd": True},  # one step is not enough: it fails
    {"config": "Cu.xyz", "perturb": 2, "scf": True},
    {"config": "Cu.xyz", "aimd": True, "scf": True},
    {"config": "Cu.xyz", "scale": [1.02]},
]

# the same chain, as short as it can be: five tasks in three stages, one of which fails
SHORT = [
    {"config": "Cu.xyz", "relax": True, "scale": [0.97], "perturb": 1, "aimd": True, "scf": True},
    {"config": "Cu.xyz", "relax": True, "relax_input_idx": 1},
]
