"""What the stand-ins for VASP and PWmat compute: ASE's EMT, so that forces and stress belong to the energies.

A stand-in reads the inputs that pwact_like wrote and prints what it computes in the program's own format. It shows that structures,
orders of atoms and labels come through; it cannot show what the real program makes of its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

CALLS = "called.log"


@dataclass(frozen=True)
class Step:
    """One structure with its free energy (eV), forces (eV/Å) and virial (eV, positive under compression)."""

    atoms: Atoms
    energy_ev: float
    forces: np.ndarray
    virial_ev: np.ndarray


def evaluated(atoms: Atoms) -> Step:
    """EMT's label of a structure."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    energy = float(atoms.get_potential_energy(force_consistent=True))
    virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
    return Step(atoms, energy, atoms.get_forces(), virial)


def moved(atoms: Atoms, steps: int, dt_fs: float, temperature_k: float, seed: int) -> list[Step]:
    """Velocity Verlet at constant energy, the start structure first."""
    random = np.random.default_rng(seed)
    masses = atoms.get_masses()[:, None]
    velocities = random.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * temperature_k / masses)
    velocities -= (masses * velocities).sum(axis=0) / masses.sum()
    found = [evaluated(atoms)]
    dt = dt_fs * units.fs
    for _ in range(steps - 1):
        velocities = velocities + 0.5 * dt * found[-1].forces / masses
        following = found[-1].atoms.copy()
        following.positions += dt * velocities
        found.append(evaluated(following))
        velocities = velocities + 0.5 * dt * found[-1].forces / masses
    return found


def relaxed(atoms: Atoms, steps: int, fmax: float) -> tuple[list[Step], bool]:
    """Cell and positions, every structure on the way, and whether the forces came below ``fmax``."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    optimizer = BFGS(FrechetCellFilter(atoms), logfile=None)
    found: list[Step] = []
    last = False
    for converged in optimizer.irun(fmax=fmax, steps=steps - 1):
        found.append(evaluated(atoms))
        last = bool(converged)
    return found, last


def note_call(folder: Path) -> None:
    """Count the calls."""
    with (folder / CALLS).open("a", encoding="utf-8") as stream:
        stream.write("called\n")
