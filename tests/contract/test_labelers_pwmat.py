"""The contract of labelling engines for PWmat, with a stand-in (tests/stand_in_pwmat.py): PWmat itself was never run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import stand_in_pwmat
import vasp_files
from ase import Atoms
from labeler_contract import LabelerContract
from support import ROOT

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.pwmat import PwmatLabeler
from pwact_like.outcome import Ok


class TestPwmat(LabelerContract):
    aimd_steps = 4
    virial_tolerance = 0.02
    command = f"PYTHONPATH={ROOT}:{ROOT / 'tests'} {sys.executable} {ROOT / 'tests' / 'stand_in_pwmat.py'}"

    @pytest.fixture(autouse=True)
    def _inputs(self, tmp_path):
        self.folder = tmp_path / "inputs"
        self.folder.mkdir()
        for element in ("Au", "Cu"):
            (self.folder / f"{element}.SG15.PBE.UPF").write_text(f"<UPF> {element}\n")
        texts = (("scf", vasp_files.ETOT), ("relax", vasp_files.ETOT_RELAX), ("aimd", vasp_files.etot_aimd(self.aimd_steps + 1)))
        for kind, text in texts:
            (self.folder / f"{kind}.input").write_text(text)

    def labeler(self):
        return PwmatLabeler(LabelSettings(dft_style="pwmat", pseudo=sorted(self.folder.glob("*.UPF"))))

    def atoms(self):
        """Elements in turn, gold first: an order that is not undone is seen."""
        a = 3.85
        atoms = Atoms("AuCuAuCu", [[0, 0, 0], [0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]], cell=[a, a, a], pbc=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0], [0, 0.02, 0.01]])), scale_atoms=True)
        atoms.rattle(0.08, seed=1)
        return atoms

    def entry(self, kind):
        return StageInput(input=self.folder / f"{kind}.input", kspacing=0.5)

    def execute(self, attempt: Path, commands: tuple[str, ...]) -> int:
        return stand_in_pwmat.main(attempt)

    def truncate(self, attempt: Path) -> None:
        path = attempt / "OUT.MLMD"
        path.write_text(path.read_text()[:-120])

    def test_md_gives_the_planned_frames_by_one_seed(self, tmp_path):
        """PWmat draws its velocities with a seed of its own: frames and labels only."""
        frames, outcome = self.label(tmp_path / "md", self.atoms(), "aimd")
        assert outcome == Ok() and len(frames) == self.aimd_steps + 1
        np.testing.assert_allclose(frames[0].atoms.positions, self.atoms().positions, atol=1e-8)
        ((single,), _) = self.label(tmp_path / "single", frames[-1].atoms)
        np.testing.assert_allclose(frames[-1].label.energy_ev, single.label.energy_ev, atol=1e-6)
        np.testing.assert_allclose(frames[-1].label.forces_ev_per_ang, single.label.forces_ev_per_ang, atol=1e-6)
        np.testing.assert_allclose(frames[-1].label.virial_ev, single.label.virial_ev, atol=1e-4)
