"""The contract of labelling engines, on the real CP2K (apt-get install --no-install-recommends cp2k cp2k-data)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from labeler_contract import LabelerContract, killed_md, run_commands, start_attempt

from pwact_like.config.common import GaussianParam, StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.cp2k import OUTPUT_FILE, Cp2kLabeler
from pwact_like.engines.labelers.cp2k_basis import data_folders
from pwact_like.engines.protocols import LabelRequest
from pwact_like.outcome import Ok, Reject, Retry

pytestmark = pytest.mark.engines

if shutil.which("cp2k.psmp") is None and os.environ.get("CI", "").lower() != "true":
    pytest.skip("no cp2k.psmp: apt-get install --no-install-recommends cp2k cp2k-data", allow_module_level=True)

TEMPLATE = """\
! silicon, as cheap as it gets; the path in lower case must stay so
&GLOBAL
  PROJECT users_own_name
  RUN_TYPE ENERGY
  PRINT_LEVEL LOW
&END GLOBAL
&FORCE_EVAL
  METHOD Quickstep
  &DFT
    &MGRID
      CUTOFF {cutoff}
      REL_CUTOFF 25
    &END MGRID
    &QS
      EPS_DEFAULT 1.0E-8
      EXTRAPOLATION USE_GUESS
    &END QS
    &SCF
      EPS_SCF {eps_scf}
      MAX_SCF {max_scf}
      ADDED_MOS 4
      &DIAGONALIZATION
      &END DIAGONALIZATION
      &SMEAR
        METHOD FERMI_DIRAC
        ELECTRONIC_TEMPERATURE [K] 1000   # makes the entropy term large enough to be seen
      &END SMEAR
      &MIXING
        METHOD BROYDEN_MIXING
        ALPHA 0.4
      &END MIXING
    &END SCF
    &XC
      &XC_FUNCTIONAL PADE
      &END XC_FUNCTIONAL
    &END XC
  &END DFT
&END FORCE_EVAL
&MOTION
  &CELL_OPT
    MAX_FORCE 2.0E-3
    MAX_DR 0.02
    RMS_DR 0.01
    RMS_FORCE 1.5E-3
    PRESSURE_TOLERANCE [bar] 2000
    EXTERNAL_PRESSURE [bar] 0
  &END CELL_OPT
  &MD
    ENSEMBLE NVT
    STEPS 3
    TIMESTEP [fs] 1.0
    TEMPERATURE [K] 2000
    &THERMOSTAT
      TYPE CSVR
      &CSVR
        TIMECON [fs] 20
      &END CSVR
    &END THERMOSTAT
  &END MD
&END MOTION
"""


class TestCp2k(LabelerContract):
    aimd_steps = 3
    displacement_ang = 0.01
    virial_tolerance = 0.05
    strain = 0.004

    @pytest.fixture(autouse=True)
    def _template(self, tmp_path):
        self.path = tmp_path / "inputs" / "Users own.inp"
        self.path.parent.mkdir()
        self.write_template()

    def write_template(self, **values):
        self.path.write_text(TEMPLATE.format(**{"cutoff": 70, "max_scf": 50, "eps_scf": "1.0E-6", **values}))

    def labeler(self):
        data = data_folders()[0]
        gaussian = GaussianParam(
            basis_set_file=data / "BASIS_MOLOPT",
            potential_file=data / "GTH_POTENTIALS",
            atom_list=("Si",),
            basis_set_list=("SZV-MOLOPT-SR-GTH",),
            potential_list=("GTH-PADE-q4",),
        )
        return Cp2kLabeler(LabelSettings(dft_style="cp2k", gaussian_param=gaussian))

    def atoms(self):
        atoms = bulk("Si")
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0], [0, 0.02, 0.01]])), scale_atoms=True)
        atoms.rattle(0.08, seed=1)
        return atoms

    def entry(self, kind):
        return StageInput(input=self.path, kspacing=1.3)

    def truncate(self, attempt: Path) -> None:
        path = attempt / OUTPUT_FILE
        path.write_text(path.read_text().split("PROGRAM ENDED AT")[0])

    def test_an_scf_that_does_not_converge_is_rejected(self, tmp_path):
        self.write_template(max_scf=3)
        frames, outcome = self.label(tmp_path / "task", self.atoms())
        assert frames == []
        assert isinstance(outcome, Reject)
        assert "SCF run NOT converged" in outcome.reason

    def test_a_killed_run_is_to_be_tried_again(self, tmp_path):
        labeler = self.labeler()
        request = LabelRequest("scf", self.atoms(), self.entry("scf"), 7)
        files = labeler.write(tmp_path / "task", request)
        attempt = start_attempt(tmp_path / "task", files, 1)
        assert isinstance(labeler.outcome(attempt, "scf"), Retry)
        run_commands(attempt, labeler.commands(self.command, request))
        text = (attempt / OUTPUT_FILE).read_text()
        for share in (0.3, 0.6, 0.95):
            (attempt / OUTPUT_FILE).write_text(text[: int(share * len(text))])
            assert not isinstance(labeler.outcome(attempt, "scf"), Ok), share

    def test_an_md_that_is_killed_counts_with_its_whole_frames(self, tmp_path):
        whole, _ = self.label(tmp_path / "whole", self.atoms(), "aimd")
        self.path.write_text(self.path.read_text().replace("STEPS 3", "STEPS 500"))
        request = LabelRequest("aimd", self.atoms(), self.entry("aimd"), 7)

        def has_enough(attempt: Path) -> bool:
            output = attempt / OUTPUT_FILE
            return output.is_file() and output.read_text(errors="replace").count("ENERGY| Total FORCE_EVAL") >= 5

        frames, outcome = killed_md(self.labeler(), request, tmp_path / "killed", has_enough)
        self.check_cut_off(frames, outcome, whole, 501)

    def test_unconverged_md_frames_are_dropped_and_told(self, tmp_path):
        """Eight SCF steps are enough for the perfect crystal and not for a strongly disturbed one; what is left is right."""
        self.write_template(max_scf=8)
        self.path.write_text(self.path.read_text().replace("TIMESTEP [fs] 1.0", "TIMESTEP [fs] 12.0").replace("[K] 2000", "[K] 5000"))
        frames, outcome = self.label(tmp_path / "task", bulk("Si"), "aimd")
        lost = (tmp_path / "task" / OUTPUT_FILE).read_text().count("SCF run NOT converged")
        assert 0 < lost < 4
        assert isinstance(outcome, Ok) and f"{lost} of 4 frames dropped" in outcome.note
        assert len(frames) == 4 - lost
        self.write_template()
        ((single,), _) = self.label(tmp_path / "single", frames[-1].atoms)
        assert frames[-1].label.energy_ev == pytest.approx(single.label.energy_ev, abs=1e-3)

    def test_k_points_have_gamma_among_them(self, tmp_path):
        self.path.write_text(
            self.path.read_text().replace("    &XC\n", "    &PRINT\n      &KPOINTS ON\n      &END KPOINTS\n    &END PRINT\n    &XC\n")
        )
        self.label(tmp_path / "task", self.atoms())
        printed = (tmp_path / "task" / "cp2k.inp").read_text()
        assert "SCHEME" in printed
        output = (tmp_path / "task" / OUTPUT_FILE).read_text()
        rows = [line.split()[2:] for line in output.splitlines() if line.startswith(" BRILLOUIN|") and line.split()[1].isdigit()]
        points = np.array([[float(word) for word in row[1:]] for row in rows])
        weights = np.array([float(row[0]) for row in rows])
        assert weights.sum() == pytest.approx(1.0, abs=1e-4)
        assert np.any(np.all(points == 0.0, axis=1))

    def test_a_denser_grid_of_the_small_cell_is_the_gamma_point_of_the_large_one(self, tmp_path):
        """Folding: 2×2×2 k-points in the primitive cell are the Γ point of its 2×2×2 super cell, only where Γ is in the grid."""
        small = bulk("Si")
        small.set_cell(small.cell.array * 1.02, scale_atoms=True)
        length = 2 * np.pi * np.linalg.norm(np.linalg.inv(small.cell.array), axis=0).max()
        self.entry = lambda kind: StageInput(input=self.path, kspacing=length / 2)
        ((one,), _) = self.label(tmp_path / "small", small)
        self.entry = lambda kind: StageInput(input=self.path, kspacing=length)
        ((many,), _) = self.label(tmp_path / "large", small.repeat(2))
        assert one.label.energy_ev == pytest.approx(many.label.energy_ev / 8, abs=5e-3)
