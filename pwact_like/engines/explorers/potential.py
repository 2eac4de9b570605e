"""What drives the atoms of an MD run: a model or a committee, or any ASE calculator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pwact_like.units import virial_from_stress

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

Array = NDArray[np.float64]


class Potential(Protocol):
    """Energies in eV, forces in eV/Å, virials in eV (see ``units``); K models, the first of which drives."""

    n_models: int

    def drive(self, atoms: Atoms) -> tuple[float, Array, Array]:
        """The first model's energy, forces (N, 3), virial (3, 3)."""

    def compare(self, atoms: Atoms) -> tuple[Array, Array, Array]:
        """All models': energies (K,), forces (K, N, 3), virials (K, 3, 3)."""

    def forget(self) -> None:
        """Drop neighbour lists, so that what follows depends on the atoms alone and not on the steps before."""


class ModelPotential:
    """One or several embedded models.

    Raises
    ------
    DataError
        When a model cannot be read, or the models do not belong together.
    NotAvailableError
        When torch is not installed.
    """

    def __init__(self, models: tuple[Path, ...]) -> None:
        from pwact_like.potentials.committee import load_committee

        self.n_models = len(models)
        self._driver = load_committee(models[:1])
        self._all = load_committee(models) if len(models) > 1 else self._driver

    def drive(self, atoms: Atoms) -> tuple[float, Array, Array]:
        """See ``Potential``."""
        energies, forces, virials = self._driver.compute(atoms)
        return float(energies[0]), forces[0], virials[0]

    def compare(self, atoms: Atoms) -> tuple[Array, Array, Array]:
        """See ``Potential``."""
        energies, forces, virials = self._all.compute(atoms)
        return energies, forces, virials

    def forget(self) -> None:
        """See ``Potential``."""
        self._driver.forget()
        self._all.forget()


class CalculatorPotential:
    """ASE calculators as a committee (one: no deviation)."""

    def __init__(self, *calculators: BaseCalculator) -> None:
        self.n_models = len(calculators)
        self._calculators = calculators

    def _ask(self, calculator: BaseCalculator, atoms: Atoms) -> tuple[float, Array, Array]:
        forces = np.array(calculator.get_property("forces", atoms), dtype=np.float64)
        energy = calculator.results.get("free_energy", calculator.results.get("energy"))
        if energy is None:
            energy = calculator.get_property("energy", atoms)
        virial = np.full((3, 3), np.nan)
        if atoms.pbc.all():
            stress = calculator.get_property("stress", atoms)
            virial = virial_from_stress(np.asarray(stress), atoms.get_volume())
        return float(energy), forces, virial

    def drive(self, atoms: Atoms) -> tuple[float, Array, Array]:
        """See ``Potential``."""
        return self._ask(self._calculators[0], atoms)

    def compare(self, atoms: Atoms) -> tuple[Array, Array, Array]:
        """See ``Potential``."""
        answers = [self._ask(calculator, atoms) for calculator in self._calculators]
        energies, forces, virials = zip(*answers, strict=True)
        return np.array(energies), np.array(forces), np.array(virials)

    def forget(self) -> None:
        """See ``Potential``."""
        for calculator in self._calculators:
            reset = getattr(calculator, "reset", None)
            if reset is not None:
                reset()
