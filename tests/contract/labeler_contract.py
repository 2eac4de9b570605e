"""What every labelling engine must do, on the real program; a test module subclasses and names its engine.

The truth here is calculus: forces and virial are compared with finite differences of the energies that the same program
gives, so a wrong unit, sign or factor cannot hide.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pwact_like.config.common import StageInput
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.outcome import CUT_OFF_FILE, Ok, Outcome, Retry

TIMEOUT_S = 300


def start_attempt(task: Path, files, number: int) -> Path:
    """An attempt's folder as the dispatcher makes it: copies of the inputs, links, checkpoints of the one before."""
    attempt = task / ".attempt" / str(number)
    attempt.mkdir(parents=True)
    for name in files.inputs:
        (attempt / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(task / name, attempt / name)
    for name, target in files.links:
        assert Path(target).is_absolute()
        (attempt / name).parent.mkdir(parents=True, exist_ok=True)
        (attempt / name).symlink_to(target)
    for name in files.carry:
        before = task / ".attempt" / str(number - 1) / name
        if before.is_file():
            shutil.copyfile(before, attempt / name)
    return attempt


def run_commands(attempt: Path, commands: tuple[str, ...]) -> int:
    """Run the shell lines as a job script does; the exit status of the first that fails, else 0."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    for command in commands:
        with (attempt / "stdout").open("ab") as stdout:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=attempt,
                env=environment,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )
        if done.returncode:
            return done.returncode
    return 0


def run_until(attempt: Path, commands: tuple[str, ...], has_enough: Callable[[], bool]) -> None:
    """Run the shell lines, and kill all their processes as a scheduler does when the time limit comes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(["bash", "-c", "\n".join(commands)], cwd=attempt, env=environment, start_new_session=True)
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and not has_enough() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def killed_md(labeler: Labeler, request: LabelRequest, task: Path, has_enough: Callable[[Path], bool]) -> tuple[list, Outcome]:
    """Frames and verdict of an MD by the real program that is killed in the middle, and accepted as its task's end."""
    files = labeler.write(task, request)
    assert files.counts_cut_off
    attempt = start_attempt(task, files, 1)
    run_until(attempt, labeler.commands("", request), lambda: has_enough(attempt))
    assert isinstance(labeler.outcome(attempt, "aimd"), Retry)
    (attempt / CUT_OFF_FILE).write_text("its time limit came\n")
    outcome = labeler.outcome(attempt, "aimd")
    accept(task, attempt, files)
    shutil.move(attempt / CUT_OFF_FILE, task / CUT_OFF_FILE)
    return labeler.read(task, "aimd"), outcome


def accept(task: Path, attempt: Path, files) -> None:
    """Rename the outputs into the task's folder."""
    for pattern in (*files.outputs, *files.optional_outputs):
        for path in attempt.glob(pattern):
            target = task / path.relative_to(attempt)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)


class LabelerContract:
    """Subclass it, and say how to make the labeler and its inputs."""

    # displacement (Å) and strain of the central differences, and how well they must agree
    displacement_ang = 0.01
    force_tolerance = 0.01  # of the largest force
    strain = 0.002
    virial_tolerance = 0.01  # of the largest element of the virial
    position_tolerance_ang = 1e-9  # of what comes back against what was asked
    command = ""
    aimd_steps = 4

    def labeler(self) -> Labeler:
        """The engine."""
        raise NotImplementedError

    def atoms(self):
        """A small periodic structure away from its minimum: forces of some 0.1 to 1 eV/Å, a sheared cell."""
        raise NotImplementedError

    def entry(self, kind: LabelKind) -> StageInput:
        """The stage's input; for aimd ``aimd_steps`` steps, every frame kept."""
        raise NotImplementedError

    def truncate(self, attempt: Path) -> None:
        """Spoil the attempt's result as a full disk or a killed job would."""
        raise NotImplementedError

    # helpers

    def execute(self, attempt: Path, commands: tuple[str, ...]) -> int:
        """Run the attempt (a quick engine may do so in this process where the command itself is not the matter)."""
        return run_commands(attempt, commands)

    def label(self, task: Path, atoms, kind: LabelKind = "scf", seed: int = 7, number: int = 1) -> tuple[list, Outcome]:
        """Write, run, judge, accept, read."""
        labeler = self.labeler()
        request = LabelRequest(kind, atoms, self.entry(kind), seed)
        files = labeler.write(task, request)
        attempt = start_attempt(task, files, number)
        status = self.execute(attempt, labeler.commands(self.command, request))
        assert status == 0, (attempt / "stdout").read_text()
        missing = [name for name in files.outputs if not (attempt / name).exists()]
        assert not missing, missing
        outcome = labeler.outcome(attempt, kind)
        accept(task, attempt, files)
        return (labeler.read(task, kind) if isinstance(outcome, Ok) else []), outcome

    def energy(self, folder: Path, atoms) -> float:
        """Energy of one structure."""
        ((frame,), _) = self.label(folder, atoms)
        return frame.label.energy_ev

    def check_cut_off(self, frames: list, outcome: Outcome, whole: list, planned: int) -> None:
        """What counts of a killed MD is to the last bit what a whole run with the same seed has."""
        assert isinstance(outcome, Ok) and outcome.note == f"{len(frames)} of {planned} frames", outcome
        assert len(frames) >= 2 and len(whole) >= 2
        for mine, its in zip(frames, whole, strict=False):
            assert mine.origin.step == its.origin.step and mine.label.energy_ev == its.label.energy_ev
            for name in ("forces_ev_per_ang", "virial_ev"):
                assert np.array_equal(getattr(mine.label, name), getattr(its.label, name)), name
            assert np.array_equal(mine.atoms.positions, its.atoms.positions)
            assert np.array_equal(mine.atoms.cell.array, its.atoms.cell.array)

    # the contract

    def test_a_label_has_the_asked_structure_and_shapes(self, tmp_path):
        atoms = self.atoms()
        labeler = self.labeler()
        request = LabelRequest("scf", atoms, self.entry("scf"), 7)
        task = tmp_path / "a task's folder, with spaces"
        files = labeler.write(task, request)
        attempt = start_attempt(task, files, 1)
        assert run_commands(attempt, labeler.commands(self.command, request)) == 0, (attempt / "stdout").read_text()
        outcome = labeler.outcome(attempt, "scf")
        assert isinstance(outcome, Ok), outcome
        accept(task, attempt, files)
        (frame,) = labeler.read(task, "scf")
        assert frame.atoms.calc is None
        assert list(frame.atoms.numbers) == list(atoms.numbers)
        assert list(frame.atoms.pbc) == list(atoms.pbc)
        np.testing.assert_allclose(frame.atoms.positions, atoms.positions, rtol=0, atol=self.position_tolerance_ang)
        np.testing.assert_allclose(frame.atoms.cell.array, atoms.cell.array, rtol=0, atol=1e-9)
        assert frame.label.forces_ev_per_ang.shape == (len(atoms), 3)
        assert frame.label.virial_ev.shape == (3, 3)
        np.testing.assert_allclose(frame.label.virial_ev, frame.label.virial_ev.T, atol=1e-6)
        assert np.isfinite(frame.label.energy_ev)

    def test_forces_are_minus_the_gradient_of_the_energy(self, tmp_path):
        atoms = self.atoms()
        ((frame,), _) = self.label(tmp_path / "mid", atoms)
        forces = frame.label.forces_ev_per_ang
        atom, axis = np.unravel_index(np.argmax(abs(forces)), forces.shape)
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * self.displacement_ang
            energies.append(self.energy(tmp_path / f"move{sign}", moved))
        expected = -(energies[0] - energies[1]) / (2 * self.displacement_ang)
        assert abs(expected) > 0.1
        assert forces[atom, axis] == pytest.approx(expected, abs=self.force_tolerance * abs(forces).max())

    def test_the_virial_is_minus_the_derivative_by_strain(self, tmp_path):
        atoms = self.atoms()
        ((frame,), _) = self.label(tmp_path / "mid", atoms)
        virial = frame.label.virial_ev
        scale = abs(virial).max()
        for name, direction in {"all": np.eye(3), "shear": np.array([[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])}.items():
            energies = []
            for sign in (1, -1):
                strained = atoms.copy()
                strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * self.strain * direction), scale_atoms=True)
                energies.append(self.energy(tmp_path / f"{name}{sign}", strained))
            expected = -(energies[0] - energies[1]) / (2 * self.strain)  # W:direction
            found = float((virial * direction).sum())
            assert found == pytest.approx(expected, abs=self.virial_tolerance * scale), name

    def test_the_trace_of_the_virial_is_positive_under_compression(self, tmp_path):
        squeezed = self.atoms()
        squeezed.set_cell(squeezed.cell.array * 0.93, scale_atoms=True)
        ((frame,), _) = self.label(tmp_path / "squeezed", squeezed)
        assert np.trace(frame.label.virial_ev) > 0

    def test_the_same_again_is_the_same(self, tmp_path):
        ((first,), _) = self.label(tmp_path / "first", self.atoms())
        ((second,), _) = self.label(tmp_path / "second", self.atoms())
        assert first.label.energy_ev == second.label.energy_ev
        assert np.array_equal(first.label.forces_ev_per_ang, second.label.forces_ev_per_ang)
        assert np.array_equal(first.label.virial_ev, second.label.virial_ev)

    def test_a_truncated_result_is_not_ok(self, tmp_path):
        labeler = self.labeler()
        request = LabelRequest("scf", self.atoms(), self.entry("scf"), 7)
        files = labeler.write(tmp_path, request)
        attempt = start_attempt(tmp_path, files, 1)
        assert not isinstance(labeler.outcome(attempt, "scf"), Ok)  # nothing has run
        assert self.execute(attempt, labeler.commands(self.command, request)) == 0
        assert isinstance(labeler.outcome(attempt, "scf"), Ok)
        self.truncate(attempt)
        assert not isinstance(labeler.outcome(attempt, "scf"), Ok)

    def test_relaxing_lowers_energy_and_forces(self, tmp_path):
        start = self.energy(tmp_path / "start", self.atoms())
        frames, outcome = self.label(tmp_path / "relax", self.atoms(), "relax")
        assert isinstance(outcome, Ok), outcome
        (frame,) = frames
        assert frame.label.energy_ev < start
        assert abs(frame.label.forces_ev_per_ang).max() < 0.1
        # the label belongs to the structure that comes with it
        ((again,), _) = self.label(tmp_path / "again", frame.atoms)
        assert frame.label.energy_ev == pytest.approx(again.label.energy_ev, abs=1e-3)
        np.testing.assert_allclose(frame.label.forces_ev_per_ang, again.label.forces_ev_per_ang, atol=5e-3)
        np.testing.assert_allclose(frame.label.virial_ev, again.label.virial_ev, atol=0.05)

    def test_md_gives_the_planned_frames_by_one_seed(self, tmp_path):
        frames, outcome = self.label(tmp_path / "md", self.atoms(), "aimd", seed=3)
        assert isinstance(outcome, Ok), outcome
        assert len(frames) == self.aimd_steps + 1
        np.testing.assert_allclose(frames[0].atoms.positions, self.atoms().positions, atol=1e-8)
        moved = [abs(late.atoms.positions - early.atoms.positions).max() for early, late in itertools.pairwise(frames)]
        assert 0 < min(moved) and max(moved) < 0.5
        ((single,), _) = self.label(tmp_path / "single", frames[-1].atoms)
        # the virial of a moving frame has no kinetic part, and belongs to its own structure
        np.testing.assert_allclose(frames[-1].label.energy_ev, single.label.energy_ev, atol=2e-4)
        np.testing.assert_allclose(frames[-1].label.forces_ev_per_ang, single.label.forces_ev_per_ang, atol=5e-3)
        np.testing.assert_allclose(frames[-1].label.virial_ev, single.label.virial_ev, atol=2e-2)
        others, _ = self.label(tmp_path / "other seed", self.atoms(), "aimd", seed=4)
        assert abs(others[-1].atoms.positions - frames[-1].atoms.positions).max() > 1e-4

    def test_the_level_of_theory_is_the_same_for_every_kind(self):
        levels = {self.labeler().level_of_theory(self.entry(kind)) for kind in ("scf", "relax", "aimd")}
        assert len(levels) == 1
        assert levels.pop().startswith(self.labeler().name)
