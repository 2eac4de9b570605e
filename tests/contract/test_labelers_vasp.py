"""The contract of labelling engines for VASP, with a stand-in (tests/stand_in_vasp.py): VASP itself was never run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import stand_in_vasp
import vasp_files
from ase import Atoms
from labeler_contract import LabelerContract
from support import ROOT

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.vasp import VaspLabeler


class TestVasp(LabelerContract):
    aimd_steps = 4
    force_tolerance = 0.01
    virial_tolerance = 0.02  # EMT has a long tail
    command = f"PYTHONPATH={ROOT}:{ROOT / 'tests'} {sys.executable} {ROOT / 'tests' / 'stand_in_vasp.py'}"

    @pytest.fixture(autouse=True)
    def _inputs(self, tmp_path):
        self.folder = tmp_path / "inputs"
        self.folder.mkdir()
        vasp_files.write_potcars(self.folder, Au=230.0, Cu=295.0)
        for kind, text in (("scf", vasp_files.INCAR), ("relax", vasp_files.RELAX), ("aimd", vasp_files.aimd(self.aimd_steps + 1))):
            (self.folder / f"INCAR.{kind}").write_text(text)

    def labeler(self):
        return VaspLabeler(LabelSettings(dft_style="vasp", pseudo=[self.folder / "POTCAR_Cu", self.folder / "POTCAR_Au"]))

    def atoms(self):
        """Elements in turn, so that an order that is not undone is seen."""
        a = 3.85
        atoms = Atoms("CuAuCuAu", [[0, 0, 0], [0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]], cell=[a, a, a], pbc=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0], [0, 0.02, 0.01]])), scale_atoms=True)
        atoms.rattle(0.08, seed=1)
        return atoms

    def entry(self, kind):
        return StageInput(input=self.folder / f"INCAR.{kind}", kspacing=0.5)

    def execute(self, attempt: Path, commands: tuple[str, ...]) -> int:
        return stand_in_vasp.main(attempt)

    def truncate(self, attempt: Path) -> None:
        (attempt / "OUTCAR").write_text((attempt / "OUTCAR").read_text().split(" General timing")[0])
        (attempt / "vasprun.xml").write_text((attempt / "vasprun.xml").read_text().split("</modeling>")[0])
