"""The contract of labelling engines, for ASE's EMT and tblite's GFN1-xTB."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from labeler_contract import LabelerContract, run_commands, start_attempt

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.ase_calculator import AseLabeler
from pwact_like.engines.labelers.job_files import CHECKPOINT_FILE, LABEL_FILE, PARTIAL_FILE
from pwact_like.engines.labelers.label_run import run_job_file
from pwact_like.engines.labelers.tblite import XtbLabeler
from pwact_like.engines.protocols import LabelRequest
from pwact_like.outcome import Ok, Reject


class EmbeddedContract(LabelerContract):
    def execute(self, attempt: Path, commands: tuple[str, ...]) -> int:
        run_job_file(attempt / "label.json")
        return 0

    def truncate(self, attempt: Path) -> None:
        path = attempt / LABEL_FILE
        path.write_bytes(path.read_bytes()[:-40])

    def run_md(self, folder: Path, steps: int, **options) -> Path:
        """Run an MD job in this process."""
        request = LabelRequest(
            "aimd", self.atoms(), StageInput(options={"temp": 900, "nsteps": steps, "checkpoint_every": 3, **options}), 11
        )
        if not (folder / "label.json").exists():
            self.labeler().write(folder, request)
        run_job_file(folder / "label.json")
        return folder / LABEL_FILE

    def test_an_interrupted_md_continues_to_the_same_last_bit(self, tmp_path, monkeypatch):
        """The second attempt takes over frames and checkpoint, the partial file being longer than the checkpoint knows."""
        from pwact_like.engines.labelers import dynamics

        whole = self.run_md(tmp_path / "whole", 8).read_bytes()

        class Killed(BaseException):
            pass

        steps = []

        def killed_in_step(*args):
            steps.append(1)
            if len(steps) == 6:
                raise Killed
            return real_step(*args)

        real_step = dynamics._step
        labeler, request = (
            self.labeler(),
            LabelRequest("aimd", self.atoms(), StageInput(options={"temp": 900, "nsteps": 8, "checkpoint_every": 3}), 11),
        )
        files = labeler.write(tmp_path / "task", request)
        first = start_attempt(tmp_path / "task", files, 1)
        monkeypatch.setattr(dynamics, "_step", killed_in_step)
        with pytest.raises(Killed):
            run_job_file(first / "label.json")
        monkeypatch.setattr(dynamics, "_step", real_step)
        assert not (first / LABEL_FILE).exists()
        second = start_attempt(tmp_path / "task", files, 2)
        assert (second / PARTIAL_FILE).read_bytes().count(b"Lattice") == 6  # steps 0 to 5; the checkpoint is of step 3
        calls = []
        monkeypatch.setattr(dynamics, "_step", lambda *args: calls.append(1) or real_step(*args))
        run_job_file(second / "label.json")
        assert len(calls) == 5  # steps 4 to 8: nothing before the checkpoint is done again
        assert (second / LABEL_FILE).read_bytes() == whole

    @pytest.mark.parametrize("spoil", ["checkpoint", "frames"])
    def test_a_spoilt_checkpoint_means_to_begin_anew(self, tmp_path, spoil):
        whole = self.run_md(tmp_path / "whole", 4).read_bytes()
        folder = tmp_path / "spoilt"
        request = LabelRequest("aimd", self.atoms(), StageInput(options={"temp": 900, "nsteps": 4, "checkpoint_every": 3}), 11)
        self.labeler().write(folder, request)
        (folder / CHECKPOINT_FILE).write_bytes(
            (tmp_path / "whole" / CHECKPOINT_FILE).read_bytes()[: -10 if spoil == "checkpoint" else None]
        )
        (folder / PARTIAL_FILE).write_bytes(whole if spoil == "checkpoint" else b"")
        run_job_file(folder / "label.json")
        assert (folder / LABEL_FILE).read_bytes() == whole


class TestEmt(EmbeddedContract):
    aimd_steps = 20

    def labeler(self):
        return AseLabeler(LabelSettings(dft_style="ase", options={"calculator": "EMT"}))

    def atoms(self):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0], [0, 0.02, 0.01]])), scale_atoms=True)
        atoms.rattle(0.1, seed=1)
        return atoms

    def entry(self, kind):
        return StageInput(options={"temperature_k": 500, "nsteps": self.aimd_steps} if kind == "aimd" else {})


class TestXtb(EmbeddedContract):
    def labeler(self):
        return XtbLabeler(LabelSettings(dft_style="xtb"))

    def atoms(self):
        atoms = bulk("Si")
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0], [0, 0.02, 0.01]])), scale_atoms=True)
        atoms.rattle(0.05, seed=1)
        return atoms

    def entry(self, kind):
        return StageInput(options={"aimd": {"temp": 500, "nsteps": self.aimd_steps}, "relax": {"fmax": 0.02}, "scf": {}}[kind])

    def test_eight_atoms_by_finite_differences(self, tmp_path):
        """The cubic cell, forces only, one component."""
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.05, seed=3)
        ((frame,), _) = self.label(tmp_path / "mid", atoms)
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[0, 0] += sign * self.displacement_ang
            energies.append(self.energy(tmp_path / f"move{sign}", moved))
        expected = -(energies[0] - energies[1]) / (2 * self.displacement_ang)
        assert frame.label.forces_ev_per_ang[0, 0] == pytest.approx(expected, abs=2e-3)

    def test_an_scf_that_does_not_converge_is_rejected_with_tblites_words(self, tmp_path):
        self.entry = lambda kind: StageInput(options={"max_iterations": 2})
        frames, outcome = self.label(tmp_path, self.atoms())
        assert frames == []
        assert isinstance(outcome, Reject)
        assert "SCF not converged" in outcome.reason

    def test_a_relaxation_out_of_steps_is_rejected(self, tmp_path):
        self.entry = lambda kind: StageInput(options={"max_steps": 1})
        _frames, outcome = self.label(tmp_path, self.atoms(), "relax")
        assert isinstance(outcome, Reject)
        assert "not converged" in outcome.reason and "max_steps" in outcome.reason

    def test_a_molecule_has_no_virial(self, tmp_path):
        from ase.build import molecule

        frames, outcome = self.label(tmp_path, molecule("H2O"))
        assert isinstance(outcome, Ok)
        assert frames[0].label.virial_ev is None


def test_the_command_by_this_python_runs_in_any_folder(tmp_path, monkeypatch):
    """The default command does not lean on PATH."""
    labeler = XtbLabeler(LabelSettings(dft_style="xtb"))
    request = LabelRequest("scf", bulk("Si"), StageInput(), 1)
    (command,) = labeler.commands("", request)
    assert sys.executable in command and command.endswith("label label.json")
    files = labeler.write(tmp_path / "task", request)
    attempt = start_attempt(tmp_path / "task", files, 1)
    monkeypatch.setenv("PATH", os.defpath)
    assert run_commands(attempt, (command,)) == 0
    assert isinstance(labeler.outcome(attempt, "scf"), Ok)
