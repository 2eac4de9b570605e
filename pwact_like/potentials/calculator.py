"""ASE's view of a model or a committee."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from pwact_like.potentials.committee import Committee, CommitteePrediction, Potential, Prediction
from pwact_like.units import stress_from_virial


class PotentialCalculator(Calculator):
    """Energy, forces, stress and atomic energies for ASE.

    Parameters
    ----------
    model
        A model, or a committee: its first member then drives the atoms, and ``prediction`` holds what all of them say
        of the structure computed last.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]  # type: ignore[misc]

    def __init__(self, model: Potential | Committee, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.prediction: Prediction | CommitteePrediction | None = None

    def calculate(self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes) -> None:
        """Compute everything at once: nothing here is much cheaper alone."""
        super().calculate(atoms, properties or ["energy"], system_changes)
        assert self.atoms is not None
        self.prediction = self.model.compute(self.atoms)
        first = self.prediction.member(0) if isinstance(self.prediction, CommitteePrediction) else self.prediction
        self.results = {
            "energy": first.energy_ev,
            "free_energy": first.energy_ev,
            "energies": first.atomic_energies,
            "forces": np.array(first.forces_ev_per_ang),
        }
        if self.atoms.cell.rank == 3 and self.atoms.pbc.all():
            self.results["stress"] = stress_from_virial(first.virial_ev, self.atoms.get_volume())
