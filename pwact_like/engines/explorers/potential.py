"""What drives the atoms of an MD run and says how wrong it may be: a model, a committee, or any ASE calculators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.uncertainty.committee import force_deviation, virial_deviation
from pwact_like.uncertainty.table import COMMITTEE, EV_PER_ANG
from pwact_like.units import virial_from_stress

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from pwact_like.potentials.chgnet_model import ChgnetCommittee
    from pwact_like.potentials.committee import Committee
    from pwact_like.potentials.joined import JoinedCommittee

Array = NDArray[np.float64]
Triple = tuple[float, float, float]
Driven = tuple[float, Array, Array]
"""Energy in eV, forces (N, 3) in eV/Å, virial (3, 3) in eV: what moves the atoms."""

NO_VIRIALS: Triple = (np.nan, np.nan, np.nan)


@dataclass
class Deviation:
    """(max, min, mean) over atoms of the forces' uncertainty, and over components of the virial's (NaN: unknown)."""

    forces: Triple
    virials: Triple = NO_VIRIALS

    @classmethod
    def of_atoms(cls, values: Array, virials: Triple = NO_VIRIALS) -> Deviation:
        """From one value an atom."""
        return cls((float(values.max()), float(values.min()), float(values.mean())), virials)


def deviation_row(forces: Array, virials: Array) -> Deviation:
    """A committee's row of the deviation table, in DeePMD-kit's figures.

    Parameters
    ----------
    forces, virials
        Shapes (K, N, 3) in eV/Å and (K, 3, 3) in eV. The virial's deviation is an atom's, and its mean is quadratic.
    """
    virial = virial_deviation(virials, forces.shape[1])
    return Deviation.of_atoms(force_deviation(forces), (float(virial.max()), float(virial.min()), float(np.sqrt((virial**2).mean()))))


@dataclass(frozen=True, eq=False)
class Assessment:
    """What drives the atoms, and how wrong it may be: energy in eV, forces (N, 3) in eV/Å, virial (3, 3) in eV."""

    energy: float
    forces: Array
    virial: Array
    deviation: Deviation


class Potential(ABC):
    """Energies in eV, forces in eV/Å, virials in eV (see ``units``).

    Attributes
    ----------
    kind, unit
        Of the deviation table (see ``uncertainty.table``); kind "" when the potential cannot tell how wrong it is.
    """

    kind: str = ""
    unit: str = EV_PER_ANG

    @abstractmethod
    def drive(self, atoms: Atoms) -> Driven:
        """Energy, forces (N, 3), virial (3, 3) that move the atoms."""

    @abstractmethod
    def assess(self, atoms: Atoms) -> Assessment:
        """The same and their uncertainty; only asked where ``kind`` is not empty."""

    def drive_all(self, structures: Mapping[int, Atoms]) -> dict[int, Driven]:
        """`drive` of several trajectories' structures, each under its trajectory's number; joined where that is faster.

        Raises
        ------
        DataError
            When one of the structures cannot be evaluated.
        """
        return {number: self.drive(atoms) for number, atoms in structures.items()}

    def assess_all(self, structures: Mapping[int, Atoms]) -> dict[int, Assessment]:
        """The same of `assess`."""
        return {number: self.assess(atoms) for number, atoms in structures.items()}

    def forget(self) -> None:  # noqa: B027 (most have nothing to forget)
        """Drop neighbour lists, so that what follows depends on the atoms alone and not on the steps before."""


def _assessment(energies: Array, forces: Array, virials: Array) -> Assessment:
    return Assessment(float(energies[0]), forces[0], virials[0], deviation_row(forces, virials))


class CommitteePotential(Potential):
    """K models, the first of which drives; with one there is no deviation."""

    def __init__(self, n_models: int) -> None:
        self.n_models = n_models
        self.kind = COMMITTEE if n_models > 1 else ""

    @abstractmethod
    def compare(self, atoms: Atoms) -> tuple[Array, Array, Array]:
        """All models': energies (K,), forces (K, N, 3), virials (K, 3, 3)."""

    def assess(self, atoms: Atoms) -> Assessment:
        """See ``Potential``."""
        return _assessment(*self.compare(atoms))


class ModelPotential(CommitteePotential):
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

        super().__init__(len(models))
        self._driver = load_committee(models[:1])
        self._all = load_committee(models) if len(models) > 1 else self._driver
        self._joined_driver = join(self._driver)
        self._joined = join(self._all) if self._all is not self._driver else self._joined_driver

    def drive(self, atoms: Atoms) -> Driven:
        """See ``Potential``."""
        energies, forces, virials = self._driver.compute(atoms)
        return float(energies[0]), forces[0], virials[0]

    def compare(self, atoms: Atoms) -> tuple[Array, Array, Array]:
        """See ``CommitteePotential``."""
        energies, forces, virials = self._all.compute(atoms)
        return energies, forces, virials

    def drive_all(self, structures: Mapping[int, Atoms]) -> dict[int, Driven]:
        """See ``Potential``."""
        return first_of_all(self._joined_driver, structures) if self._joined_driver else super().drive_all(structures)

    def assess_all(self, structures: Mapping[int, Atoms]) -> dict[int, Assessment]:
        """See ``Potential``."""
        if self._joined is None:
            return super().assess_all(structures)
        return {number: _assessment(*said) for number, said in self._joined.compute(structures).items()}

    def forget(self) -> None:
        """See ``Potential``."""
        for committee in (self._driver, self._all, self._joined_driver, self._joined):
            if committee is not None:
                committee.forget()


def join(committee: Committee | ChgnetCommittee) -> JoinedCommittee | None:
    """The committee on several structures at once; None where that is not built (CHGNet)."""
    from pwact_like.potentials.committee import Committee
    from pwact_like.potentials.joined import JoinedCommittee

    return JoinedCommittee(committee) if isinstance(committee, Committee) else None


def first_of_all(joined: JoinedCommittee, structures: Mapping[int, Atoms]) -> dict[int, Driven]:
    """What the first member says of every structure."""
    said = joined.compute(structures)
    return {number: (float(energies[0]), forces[0], virials[0]) for number, (energies, forces, virials) in said.items()}


class CalculatorPotential(CommitteePotential):
    """ASE calculators as a committee (one: no deviation)."""

    def __init__(self, *calculators: BaseCalculator) -> None:
        super().__init__(len(calculators))
        self._calculators = calculators

    def _ask(self, calculator: BaseCalculator, atoms: Atoms) -> Driven:
        forces = np.array(calculator.get_property("forces", atoms), dtype=np.float64)
        energy = calculator.results.get("free_energy", calculator.results.get("energy"))
        if energy is None:
            energy = calculator.get_property("energy", atoms)
        virial = np.full((3, 3), np.nan)
        if atoms.pbc.all():
            stress = calculator.get_property("stress", atoms)
            virial = virial_from_stress(np.asarray(stress), atoms.get_volume())
        return float(energy), forces, virial

    def drive(self, atoms: Atoms) -> Driven:
        """See ``Potential``."""
        return self._ask(self._calculators[0], atoms)

    def compare(self, atoms: Atoms) -> tuple[Array, Array, Array]:
        """See ``CommitteePotential``."""
        answers = [self._ask(calculator, atoms) for calculator in self._calculators]
        energies, forces, virials = zip(*answers, strict=True)
        return np.array(energies), np.array(forces), np.array(virials)

    def forget(self) -> None:
        """See ``Potential``."""
        for calculator in self._calculators:
            reset = getattr(calculator, "reset", None)
            if reset is not None:
                reset()
