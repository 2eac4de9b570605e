"""Frames: a structure, its label, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Label:
    """What a labelling program says of a structure.

    Attributes
    ----------
    energy_ev
        Free energy of the cell in eV (VASP's TOTEN, PWmat's Ep), the one that is consistent with the forces.
    forces_ev_per_ang
        Shape (n_atoms, 3), eV/Å.
    virial_ev
        Shape (3, 3), eV, W = −V·σ (tr W > 0 under compression), without the kinetic part; None when the program
        gave none (a missing virial is masked in training, never taken as zero).
    atomic_energies_ev
        Shape (n_atoms,), eV: a program's own partition of the energy (PWmat's), with their sum equal to it; None elsewhere.
    """

    energy_ev: float
    forces_ev_per_ang: NDArray[np.float64]
    virial_ev: NDArray[np.float64] | None = None
    atomic_energies_ev: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Origin:
    """Where a frame came from.

    Attributes
    ----------
    source
        Path of the file that held it, relative to the campaign where possible, or empty.
    iteration, task, step, seed
        Iteration of the campaign (−1: initial data), name of the task, MD step, seed of the task.
    """

    source: str = ""
    iteration: int = -1
    task: str = ""
    step: int = -1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Frame:
    """A structure with its label and origin.

    ``atoms`` carries numbers, positions (Å), cell (Å) and pbc, and no calculator. ``level_of_theory`` is the
    fingerprint of code, functional, cutoff, k-spacing and pseudopotentials ("" when unknown).
    """

    atoms: Atoms
    label: Label | None = None
    origin: Origin = Origin()
    level_of_theory: str = ""

    def with_label(self, label: Label, level_of_theory: str = "") -> Frame:
        """Return this frame labelled."""
        return replace(self, label=label, level_of_theory=level_of_theory or self.level_of_theory)
