"""Run by DeePMD-kit's own Python: converts models and says what its ASE calculator says of structures.

    python deepmd_evaluate.py TASKS.npz RESULTS.npz

TASKS holds, for task n, ``n.model`` (a .dp or .pb file) and of every structure m ``n.m.numbers``, ``positions``, ``cell``, ``pbc``.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from deepmd.calculator import DP
from deepmd.entrypoints.convert_backend import convert_backend

tasks, results = np.load(sys.argv[1]), {}
for number in sorted({name.split(".")[0] for name in tasks.files}):
    model = Path(str(tasks[f"{number}.model"]))
    if model.suffix == ".dp":
        convert_backend(INPUT=str(model), OUTPUT=str(model.with_suffix(".pb")))
    calculator = DP(str(model.with_suffix(".pb")))
    for place in sorted({name.rpartition(".")[0] for name in tasks.files if name.startswith(f"{number}.") and name.count(".") == 2}):
        numbers, positions, cell, pbc = (tasks[f"{place}.{what}"] for what in ("numbers", "positions", "cell", "pbc"))
        atoms = Atoms(numbers, positions=positions, cell=cell, pbc=pbc, calculator=calculator)
        results[f"{place}.energy"] = atoms.get_potential_energy()
        results[f"{place}.forces"] = atoms.get_forces()
        if pbc.all():
            results[f"{place}.virial"] = -atoms.get_stress(voigt=False) * atoms.get_volume()
np.savez(sys.argv[2], **results)
