"""What every training engine must do, on the real program; a test module subclasses and names its engine.

The truth here is the labels: errors are computed again from the model's predictions by their definition, and a training
must beat the prediction of no forces at all.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from labeler_contract import accept, run_commands, start_attempt

from pwact_like.cli.main import main
from pwact_like.config.common import DataPath
from pwact_like.config.train import TrainSettings
from pwact_like.data.formats import write_frames
from pwact_like.data.frames import Frame, Label
from pwact_like.engines.protocols import Trainer, TrainReport, TrainRequest
from pwact_like.errors import DataError
from pwact_like.outcome import Ok, Reject, TaskFiles
from pwact_like.units import virial_from_stress


def copper(count: int, seed: int) -> list[Frame]:
    """Strained and shaken copper with ASE's EMT labels."""
    frames = []
    for index in range(count):
        atoms = bulk("Cu", cubic=True)
        random = np.random.default_rng([seed, index])
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + random.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.positions += random.normal(scale=0.1, size=(4, 3))
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(force_consistent=True), atoms.get_forces(), atoms.get_stress(voigt=False)
        label = Label(float(energy), forces, virial_from_stress(stress, atoms.get_volume()))
        atoms.calc = None
        frames.append(Frame(atoms, label, level_of_theory="EMT"))
    return frames


def errors(frames: list[Frame], predictions: list[tuple[float, np.ndarray]]) -> tuple[float, float]:
    """RMSE of the energy an atom, and of the force components."""
    energy = [(predicted[0] - frame.label.energy_ev) / len(frame.atoms) for frame, predicted in zip(frames, predictions, strict=True)]
    force = np.concatenate(
        [(predicted[1] - frame.label.forces_ev_per_ang).ravel() for frame, predicted in zip(frames, predictions, strict=True)]
    )
    return float(np.sqrt(np.mean(np.square(energy)))), float(np.sqrt(np.mean(force**2)))


def predict_by_ase(python: str, calculator: str, model: Path, structures: Sequence[Atoms]) -> list[tuple[float, np.ndarray]]:
    """Energies and forces by an ASE calculator of another environment; ``calculator``: code that makes it from ``sys.argv[1]``."""
    code = (
        f"import sys, numpy as np; from ase.io import iread; {calculator}\n"
        "said = [(calculator.get_potential_energy(atoms), calculator.get_forces(atoms)) for atoms in iread(sys.argv[2], ':')]\n"
        "np.savez(sys.argv[3], energies=[energy for energy, _ in said], forces=np.concatenate([forces for _, forces in said]))"
    )
    place, answer = model.parent / "asked.xyz", model.parent / "said.npz"
    write_frames(place, [Frame(atoms) for atoms in structures])
    subprocess.run([python, "-c", code, str(model), str(place), str(answer)], check=True, capture_output=True)
    said = np.load(answer)
    borders = np.cumsum([len(atoms) for atoms in structures])[:-1]
    return list(zip(map(float, said["energies"]), np.split(said["forces"], borders), strict=True))


def run_in_process(attempt: Path, commands: tuple[str, ...]) -> int:
    """Run a command of our own in this process: torch takes two seconds to load. What follows the launcher is run as a shell would."""
    (command,) = commands
    words = shlex.split(command.partition(" -m pwact_like ")[2])
    target = words.pop()[1:] if words[-1].startswith(">") else None
    words = [str(attempt / word) if (attempt / word).exists() and not word.startswith("-") else word for word in words]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(words)
    if target:
        (attempt / target).write_text(printed.getvalue())
    return status


def write_data(folder: Path) -> dict[str, Path]:
    """Files of labelled frames: train_a, train_b, valid, test."""
    paths = {}
    for name, count, seed in (("train_a", 9, 1), ("train_b", 3, 2), ("valid", 4, 3), ("test", 5, 4)):
        paths[name] = folder / f"{name}.xyz"
        write_frames(paths[name], copper(count, seed))
    return paths


class TrainerContract:
    """Subclass it, and say how to make the trainer and its settings."""

    command = ""

    def trainer(self) -> Trainer:
        raise NotImplementedError

    def settings(self, epochs: int = 30) -> TrainSettings:
        """A small and quick training for copper."""
        raise NotImplementedError

    def predict(self, model: Path, *structures: Atoms) -> list[tuple[float, np.ndarray]]:
        """Energy and forces of each by another way than the trainer's."""
        raise NotImplementedError

    def execute(self, attempt: Path, commands: tuple[str, ...]) -> int:
        """Run the commands in the attempt's folder; the exit status."""
        return run_commands(attempt, commands)

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory) -> dict[str, Path]:
        """Labelled frames in files, two for the training."""
        return write_data(tmp_path_factory.mktemp("data with spaces"))

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, tmp_path_factory, data) -> TrainReport:
        """One training of full length, for all tests that need one."""
        contract = cls()
        return contract.train(tmp_path_factory.mktemp("trained") / "a task", contract.request(data))

    def request(self, data: dict[str, Path], *, epochs: int = 30, seed: int = 5, init_model: Path | None = None) -> TrainRequest:
        return TrainRequest(
            train_data=(DataPath(path=data["train_a"]), DataPath(path=data["train_b"])),
            valid_data=(DataPath(path=data["valid"]),),
            test_data=(DataPath(path=data["test"]),),
            settings=self.settings(epochs),
            seed=seed,
            init_model=init_model,
        )

    def run(self, task: Path, request: TrainRequest) -> tuple[Path, TaskFiles]:
        """Write and run attempt 1."""
        trainer = self.trainer()
        files = trainer.write(task, request)
        attempt = start_attempt(task, files, 1)
        status = self.execute(attempt, trainer.commands(self.command, request))
        assert status == 0, (attempt / "stdout").read_text() if (attempt / "stdout").exists() else status
        return attempt, files

    def train(self, task: Path, request: TrainRequest) -> TrainReport:
        """Run and accept."""
        attempt, files = self.run(task, request)
        assert self.trainer().outcome(attempt) == Ok()
        accept(task, attempt, files)
        return self.trainer().read(task)

    def test_inputs_name_no_place_and_are_written_again_the_same(self, tmp_path, data):
        contents = []
        for name in ("here", "some where/else"):
            for _ in range(2):
                files = self.trainer().write(tmp_path / name, self.request(data))
                contents.append({file: (tmp_path / name / file).read_bytes() for file in files.inputs})
        assert contents[0] and all(content == contents[0] for content in contents)
        folder = data["test"].parent
        for text in contents[0].values():
            assert str(tmp_path).encode() not in text and str(folder).encode() not in text
        assert {Path(target) for _, target in files.links} == {path.resolve() for path in data.values()}
        self.trainer().write(tmp_path / "here", self.request(data, seed=6))
        assert {file: (tmp_path / "here" / file).read_bytes() for file in files.inputs} != contents[0]

    def test_a_training_learns_and_tells_its_errors_on_the_test_set(self, trained):
        report = trained
        assert report.model.name == self.trainer().model_file and report.model.parent.name == "a task"
        assert report.learning_curve is not None and report.learning_curve.stat().st_size > 0
        frames = copper(5, 4)
        energy, force = errors(frames, self.predict(report.model, *(frame.atoms for frame in frames)))
        assert report.test is not None
        assert report.test["n_frames"] == 5
        assert report.test["energy_rmse_ev_per_atom"] == pytest.approx(energy, rel=1e-3)
        assert report.test["force_rmse_ev_per_ang"] == pytest.approx(force, rel=1e-3)
        nothing = errors(frames, [(0.0, np.zeros((4, 3)))] * 5)[1]
        assert force < 0.5 * nothing

    @pytest.fixture(scope="class")
    @classmethod
    def cold(cls, tmp_path_factory, data) -> TrainReport:
        """A short training from scratch."""
        contract = cls()
        return contract.train(tmp_path_factory.mktemp("cold") / "a task", contract.request(data, epochs=1, seed=8))

    def test_equal_seeds_give_equal_models_and_others_do_not(self, tmp_path, data, cold):
        atoms = copper(1, 9)[0].atoms
        again, other = (self.train(tmp_path / str(seed), self.request(data, epochs=1, seed=seed)) for seed in (8, 6))
        forces = [self.predict(report.model, atoms)[0][1] for report in (cold, again, other)]
        assert (forces[0] == forces[1]).all()
        assert abs(forces[0] - forces[2]).max() > 1e-6

    def test_a_warm_start_goes_on_from_the_model_given(self, tmp_path, data, trained, cold):
        warm = self.train(tmp_path / "warm", self.request(data, epochs=1, seed=8, init_model=trained.model))
        assert warm.test["force_rmse_ev_per_ang"] < 0.9 * cold.test["force_rmse_ev_per_ang"]

    def test_a_given_model_is_judged_as_it_was_after_its_training(self, tmp_path, data, trained):
        trainer = self.trainer()
        if not trainer.can_judge:
            pytest.skip("this trainer judges only what it has trained")
        request = self.request(data)
        task = tmp_path / "judged"
        task.mkdir()
        (task / trainer.model_file).write_bytes(trained.model.read_bytes())
        files = trainer.write_judging(task, request)
        assert files.outputs == ("test.json",)
        attempt = start_attempt(task, files, 1)
        assert self.execute(attempt, trainer.judging_commands(self.command, request)) == 0
        accept(task, attempt, files)
        judged = trainer.read(task).test
        for name in ("n_frames", "energy_rmse_ev_per_atom", "force_rmse_ev_per_ang"):
            assert judged[name] == pytest.approx(trained.test[name], rel=1e-6)

    def test_an_empty_attempt_is_rejected(self, tmp_path, data):
        trainer = self.trainer()
        assert isinstance(trainer.outcome(tmp_path), Reject)
        files = trainer.write(tmp_path / "task", self.request(data))
        outcome = trainer.outcome(start_attempt(tmp_path / "task", files, 1))
        assert isinstance(outcome, Reject) and trainer.model_file in outcome.reason
        with pytest.raises(DataError):
            trainer.read(tmp_path / "task")
