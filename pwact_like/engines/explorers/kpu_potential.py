"""A model that knows its own errors drives the atoms: by draws of its weights (kpu), or by members made of them (kpu-committee)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.engines.explorers.potential import Assessment, Deviation, Driven, ModelPotential, Potential, first_of_all
from pwact_like.uncertainty.committee import force_deviation
from pwact_like.uncertainty.table import DIMENSIONLESS, EV_PER_ANG, KPU, KPU_COMMITTEE

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.engines.protocols import ExploreUncertainty

Array = NDArray[np.float64]


class KpuPotential(Potential):
    """One model, and the KPU of its forces.

    Parameters
    ----------
    model, kpu
        Files of one training.
    relative
        The variance as it is, a component's (the mean over x, y, z), instead of the calibrated σ in eV/Å.

    Raises
    ------
    DataError
        When a file cannot be read, or the two are not of one training.
    """

    kind = KPU

    def __init__(self, model: Path, kpu: Path, *, relative: bool = False) -> None:
        from pwact_like.potentials.committee import Committee
        from pwact_like.potentials.joined import JoinedCommittee
        from pwact_like.potentials.kpu_file import SelfAware, read_knowledge
        from pwact_like.potentials.modelfile import read_model

        driver = read_model(model)[0]
        knowledge = read_knowledge(kpu, driver)
        self._driver = Committee([driver])
        self._joined = JoinedCommittee(self._driver)
        self._aware = SelfAware(driver, knowledge, where=str(kpu))
        self._relative = relative
        self.unit = DIMENSIONLESS if relative else EV_PER_ANG

    def drive(self, atoms: Atoms) -> Driven:
        """See ``Potential``."""
        energies, forces, virials = self._driver.compute(atoms)
        return float(energies[0]), forces[0], virials[0]

    def assess(self, atoms: Atoms) -> Assessment:
        """See ``Potential``."""
        return self._assessment(self.drive(atoms), atoms)

    def _assessment(self, driven: Driven, atoms: Atoms) -> Assessment:
        geometry = self._driver.geometry(atoms)
        values = self._aware.variances(geometry).force / 3.0 if self._relative else self._aware.sigma(geometry)
        return Assessment(*driven, Deviation.of_atoms(values))

    def drive_all(self, structures: Mapping[int, Atoms]) -> dict[int, Driven]:
        """See ``Potential``."""
        return first_of_all(self._joined, structures)

    def assess_all(self, structures: Mapping[int, Atoms]) -> dict[int, Assessment]:
        """See ``Potential``: the atoms are driven together, the variances are computed one structure after the other."""
        return {number: self._assessment(driven, structures[number]) for number, driven in self.drive_all(structures).items()}

    def forget(self) -> None:
        """See ``Potential``."""
        self._driver.forget()
        self._joined.forget()


class KpuCommitteePotential(Potential):
    """One model, and the deviation of members that were drawn about it, scaled back and calibrated.

    The members stand closer to the model than the draws that they are made of (within its linear range, see
    ``potentials.linear_committee``): their deviation about their mean times ``factor`` is what the draws' would be.

    Parameters
    ----------
    models
        The model that drives, then all members.
    kpu
        Of the same training.

    Raises
    ------
    DataError
        When a file cannot be read, or model and kpu are not of one training.
    InputError
        When the members are not all those that this training drew: their factor would be wrong.
    """

    kind = KPU_COMMITTEE

    def __init__(self, models: tuple[Path, ...], kpu: Path) -> None:
        from pwact_like.potentials.committee import Committee
        from pwact_like.potentials.joined import JoinedCommittee
        from pwact_like.potentials.kpu_file import read_knowledge, refuse_strange_members
        from pwact_like.potentials.modelfile import read_model

        driver, *members = (read_model(path)[0] for path in models)
        knowledge = read_knowledge(kpu, driver)
        refuse_strange_members(knowledge, list(zip(models[1:], members, strict=True)), kpu)
        self._calibration, self._factor = knowledge.calibration, knowledge.factor
        self._driver = Committee([driver])
        self._all = Committee([driver, *members])
        self._joined_driver, self._joined = JoinedCommittee(self._driver), JoinedCommittee(self._all)

    def drive(self, atoms: Atoms) -> Driven:
        """See ``Potential``."""
        energies, forces, virials = self._driver.compute(atoms)
        return float(energies[0]), forces[0], virials[0]

    def assess(self, atoms: Atoms) -> Assessment:
        """See ``Potential``."""
        return self._assessment(*self._all.compute(atoms))

    def _assessment(self, energies: Array, forces: Array, virials: Array) -> Assessment:
        variances = np.square(self._factor * force_deviation(forces[1:]))
        return Assessment(float(energies[0]), forces[0], virials[0], Deviation.of_atoms(self._calibration.sigma(variances)))

    def drive_all(self, structures: Mapping[int, Atoms]) -> dict[int, Driven]:
        """See ``Potential``."""
        return first_of_all(self._joined_driver, structures)

    def assess_all(self, structures: Mapping[int, Atoms]) -> dict[int, Assessment]:
        """See ``Potential``."""
        return {number: self._assessment(*said) for number, said in self._joined.compute(structures).items()}

    def forget(self) -> None:
        """See ``Potential``."""
        for committee in (self._driver, self._all, self._joined_driver, self._joined):
            committee.forget()


def potential_for(models: tuple[Path, ...], uncertainty: ExploreUncertainty | None) -> Potential:
    """The potential of a run: a committee (or one model that cannot tell its errors), unless another uncertainty is asked for."""
    if uncertainty is None:
        return ModelPotential(models)
    if uncertainty.kind == KPU_COMMITTEE:
        return KpuCommitteePotential(models, uncertainty.kpu)
    return KpuPotential(models[0], uncertainty.kpu, relative=uncertainty.scale == "relative")
