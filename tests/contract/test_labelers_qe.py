"""The contract of labelling engines, on the real pw.x of Quantum ESPRESSO."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from labeler_contract import LabelerContract, killed_md, run_commands, start_attempt

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.qe import OUTPUT_FILE, QeLabeler
from pwact_like.engines.protocols import LabelRequest
from pwact_like.outcome import Ok, Reject, Retry

pytestmark = pytest.mark.engines

if shutil.which("pw.x") is None and os.environ.get("CI", "").lower() != "true":
    pytest.skip("no pw.x: apt-get install --no-install-recommends quantum-espresso quantum-espresso-data", allow_module_level=True)

TEMPLATE = """\
! silicon, as cheap as it gets
&control
  Calculation = '{calculation}', prefix = 'users_own_name', outdir = '/nowhere'
  nstep = {nstep}, dt = 20.7 ! 1 fs
  forc_conv_thr = 1.0d-3, etot_conv_thr = 1.0d-4
/
&system
  ibrav = 2, celldm(1) = 10.2, nat = 2, ntyp = 1
  ecutwfc = {cutoff}
  occupations = 'smearing', smearing = 'gauss', degauss = 0.02 ! large: makes the entropy term large enough to be seen
  nosym = .true.
/
&electrons
  conv_thr = {conv_thr}, electron_maxstep = {max_steps}
  {electrons}
/
&ions
  tempw = 2000
/
&cell
  press_conv_thr = 5.0
/
ATOMIC_SPECIES
  Si 28.0855 Si.pz-vbc.UPF
ATOMIC_POSITIONS crystal
  Si 0 0 0
  Si 0.25 0.25 0.25
K_POINTS gamma
"""


class TestQe(LabelerContract):
    aimd_steps = 3
    cutoff = 16
    displacement_ang = 0.01
    virial_tolerance = 0.05
    strain = 0.004

    @pytest.fixture(autouse=True)
    def _template(self, tmp_path):
        self.path = tmp_path / "inputs" / "Users own.in"
        self.path.parent.mkdir()
        self.write_template()

    def write_template(self, **values):
        usual = {"calculation": "scf", "nstep": 4, "cutoff": self.cutoff, "conv_thr": "1.0d-9", "max_steps": 50, "electrons": ""}
        self.path.write_text(TEMPLATE.format(**{**usual, **values}))

    def labeler(self):
        return QeLabeler(LabelSettings(dft_style="qe"))

    def atoms(self):
        atoms = bulk("Si")
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0], [0, 0.02, 0.01]])), scale_atoms=True)
        atoms.rattle(0.08, seed=1)
        return atoms

    def entry(self, kind):
        if kind == "relax":
            self.write_template(nstep=50)
        return StageInput(input=self.path, kspacing=1.3)

    def test_the_virial_is_minus_the_derivative_by_strain(self, tmp_path):
        """The basis changes with the cell: at 16 Ry the trace is 1.4 eV off the derivative, at 40 Ry 0.06, at 80 Ry 0.005."""
        self.cutoff = 40
        self.write_template()
        super().test_the_virial_is_minus_the_derivative_by_strain(tmp_path)

    def test_relaxing_lowers_energy_and_forces(self, tmp_path, monkeypatch):
        """From not too far away: at 16 Ry pw.x's BFGS gets lost from the structure of the other tests."""
        near = bulk("Si", a=5.5)
        near.set_cell(near.cell.array @ (np.eye(3) + np.array([[0.01, 0.01, 0], [0, -0.01, 0], [0, 0.01, 0]])), scale_atoms=True)
        near.rattle(0.05, seed=1)
        monkeypatch.setattr(self, "atoms", near.copy)
        super().test_relaxing_lowers_energy_and_forces(tmp_path)

    def truncate(self, attempt: Path) -> None:
        path = attempt / OUTPUT_FILE
        path.write_text(path.read_text().split("JOB DONE")[0])

    def test_an_scf_that_does_not_converge_is_rejected(self, tmp_path):
        self.write_template(max_steps=3)
        frames, outcome = self.label(tmp_path / "task", self.atoms())
        assert frames == []
        assert isinstance(outcome, Reject) and "convergence NOT achieved" in outcome.reason

    def test_an_scf_that_pw_calls_converged_and_is_not_is_rejected(self, tmp_path):
        """With scf_must_converge = .false. pw.x 6.7 says "convergence has been achieved" after the last allowed step."""
        self.write_template(max_steps=4, electrons="scf_must_converge = .false.")
        frames, outcome = self.label(tmp_path / "task", self.atoms())
        assert "convergence has been achieved in   4 iterations" in (tmp_path / "task" / OUTPUT_FILE).read_text()
        assert frames == [] and isinstance(outcome, Reject) and "SCF not converged (accuracy" in outcome.reason

    def test_a_killed_run_is_to_be_tried_again(self, tmp_path):
        labeler = self.labeler()
        request = LabelRequest("scf", self.atoms(), self.entry("scf"), 7)
        files = labeler.write(tmp_path / "task", request)
        attempt = start_attempt(tmp_path / "task", files, 1)
        assert isinstance(labeler.outcome(attempt, "scf"), Retry)
        assert run_commands(attempt, labeler.commands(self.command, request)) == 0
        assert not (attempt / "out").exists()  # wave functions and densities
        text = (attempt / OUTPUT_FILE).read_text()
        for share in (0.3, 0.6, 0.95):
            (attempt / OUTPUT_FILE).write_text(text[: int(share * len(text))])
            assert isinstance(labeler.outcome(attempt, "scf"), Retry), share

    def test_what_pw_refuses_is_rejected_in_its_own_words(self, tmp_path):
        self.path.write_text(self.path.read_text().replace("occupations = 'smearing'", "occupations = 'fixed', tot_charge = 1"))
        frames, outcome = self.label(tmp_path / "task", self.atoms())
        assert frames == [] and isinstance(outcome, Reject)
        assert outcome.reason.startswith("pw.x stopped in electrons: charge is wrong: smearing is needed (this is a metal")

    def test_a_relaxation_that_ran_out_of_steps_is_rejected(self, tmp_path):
        self.entry = lambda kind: StageInput(input=self.path, kspacing=1.3)
        for calculation in ("relax", "scf"):
            self.write_template(nstep=2, calculation=calculation)
            frames, outcome = self.label(tmp_path / calculation, self.atoms(), "relax")
            assert frames == [] and isinstance(outcome, Reject)
            assert "relaxation not converged after 2 evaluations: raise nstep" in outcome.reason

    def test_a_relaxation_of_the_atoms_keeps_the_cell(self, tmp_path):
        self.write_template(nstep=50, calculation="relax")
        self.entry = lambda kind: StageInput(input=self.path, kspacing=1.3)
        ((relaxed,), outcome) = self.label(tmp_path / "relax", self.atoms(), "relax")
        assert isinstance(outcome, Ok), outcome
        np.testing.assert_allclose(relaxed.atoms.cell.array, self.atoms().cell.array, atol=1e-8)
        assert abs(relaxed.label.forces_ev_per_ang).max() < 0.03
        ((again,), _) = self.label(tmp_path / "again", relaxed.atoms)
        assert relaxed.label.energy_ev == pytest.approx(again.label.energy_ev, abs=1e-5)
        np.testing.assert_allclose(relaxed.label.forces_ev_per_ang, again.label.forces_ev_per_ang, atol=2e-3)
        np.testing.assert_allclose(relaxed.label.virial_ev, again.label.virial_ev, atol=5e-3)

    def test_md_frames_that_did_not_converge_are_dropped_and_told(self, tmp_path):
        """Six SCF steps are enough for the first frames of a crystal that is shaken hard; pw.x stops at the first one that fails."""
        outcomes = {}
        for number, electrons in enumerate(("", "scf_must_converge = .false.")):
            self.write_template(max_steps=6, nstep=6, conv_thr="5.0d-8", electrons=electrons)
            self.path.write_text(self.path.read_text().replace("dt = 20.7", "dt = 200").replace("tempw = 2000", "tempw = 6000"))
            frames, outcome = self.label(tmp_path / str(number), bulk("Si"), "aimd")
            assert isinstance(outcome, Ok), outcome
            outcomes[electrons] = outcome.note, len(frames)
        note, count = outcomes[""]
        assert 0 < count < 5
        assert f"1 of {count + 1} frames dropped (evaluations {count})" in note and f"ended early: {count + 1} of 6 frames" in note
        note, count = outcomes["scf_must_converge = .false."]
        assert f"{6 - count} of 6 frames dropped" in note and 0 < count < 6 and "SCF not converged (accuracy" in note

    def stopped_md(self, tmp_path, routine: str):
        """A real MD that is ended after three frames or more; pw.x's own box of errors in place of the kill."""
        self.write_template(nstep=40)
        labeler, entry = self.labeler(), StageInput(input=self.path, kspacing=1.3)
        request = LabelRequest("aimd", self.atoms(), entry, 7)
        files = labeler.write(tmp_path / "task", request)
        attempt = start_attempt(tmp_path / "task", files, 1)
        output = attempt / OUTPUT_FILE
        with output.open("wb") as stream:
            process = subprocess.Popen(["pw.x", "-in", "pw.in"], cwd=attempt, stdout=stream)
        while process.poll() is None and output.read_text().count("Forces acting") < 3:
            time.sleep(0.05)
        process.kill()
        process.wait()
        shutil.move(attempt / "out" / "label.save" / "data-file-schema.xml", attempt / "pw.xml")
        killed = labeler.outcome(attempt, "aimd")
        bar = "%" * 78
        with output.open("a") as stream:
            stream.write(f"\n {bar}\n     Error in routine {routine} (99):\n     problems computing cholesky\n {bar}\n")
        return labeler, attempt, killed

    def test_frames_before_a_box_of_errors_are_kept(self, tmp_path):
        labeler, attempt, killed = self.stopped_md(tmp_path, "cdiaghg")
        assert isinstance(killed, Retry)  # as for the other programs: another attempt may give the whole run
        outcome = labeler.outcome(attempt, "aimd")
        frames = labeler.read(attempt, "aimd")
        assert isinstance(outcome, Ok) and len(frames) >= 2
        assert "pw.x stopped in cdiaghg: problems computing cholesky" in outcome.note and "of 40 frames" in outcome.note
        for number, frame in ((0, frames[0]), (1, frames[-1])):  # each belongs to its structure
            ((again,), _) = self.label(tmp_path / str(number), frame.atoms)
            assert frame.label.energy_ev == pytest.approx(again.label.energy_ev, abs=1e-5)
            np.testing.assert_allclose(frame.label.forces_ev_per_ang, again.label.forces_ev_per_ang, atol=2e-3)

    def test_an_md_that_is_killed_counts_with_its_whole_frames(self, tmp_path):
        whole, _ = self.label(tmp_path / "whole", self.atoms(), "aimd")
        self.write_template(nstep=500)
        request = LabelRequest("aimd", self.atoms(), StageInput(input=self.path, kspacing=1.3), 7)

        def has_enough(attempt: Path) -> bool:
            output = attempt / OUTPUT_FILE
            return output.is_file() and output.read_text(errors="replace").count("Forces acting") >= 5

        frames, outcome = killed_md(self.labeler(), request, tmp_path / "killed", has_enough)
        assert (tmp_path / "killed" / "out" / "label.save" / "data-file-schema.xml").is_file()
        self.check_cut_off(frames, outcome, whole, 500)

    def test_a_box_of_errors_for_the_machines_sake_is_tried_again(self, tmp_path):
        labeler, attempt, _ = self.stopped_md(tmp_path, "davcio")
        assert isinstance(labeler.outcome(attempt, "aimd"), Retry)

    def test_a_run_that_ran_out_of_its_own_time_is_rejected(self, tmp_path):
        self.path.write_text(self.path.read_text().replace("nstep = 4", "max_seconds = 0.01"))
        frames, outcome = self.label(tmp_path / "task", self.atoms())
        assert frames == [] and isinstance(outcome, Reject) and "pw.x stopped at max_seconds" in outcome.reason

    def test_gamma_is_in_the_grid(self, tmp_path):
        """Folding: 2×2×2 k-points in the primitive cell are the Γ point of its 2×2×2 super cell, only where Γ is in the grid."""
        small = bulk("Si")
        small.set_cell(small.cell.array * 1.02, scale_atoms=True)
        length = 2 * np.pi * np.linalg.norm(np.linalg.inv(small.cell.array), axis=0).max()
        self.entry = lambda kind: StageInput(input=self.path, kspacing=length / 2)
        ((one,), _) = self.label(tmp_path / "small", small)
        self.entry = lambda kind: StageInput(input=self.path, kspacing=length)
        ((many,), _) = self.label(tmp_path / "large", small.repeat(2))
        assert "K_POINTS gamma" in (tmp_path / "large" / "pw.in").read_text()
        assert one.label.energy_ev == pytest.approx(many.label.energy_ev / 8, abs=5e-3)
