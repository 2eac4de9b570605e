"""The training stage: one task a trained model, each with its own seed, model m warm-started from model m.

A committee is several trainings. With kpu and kpu-committee there is one, which also learns how wrong its model is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.engines.protocols import Compression, Explorer, KnownErrors, KpuKind, Trainer, TrainRequest
from pwact_like.errors import DataError, InputError, NotAvailableError, Problem
from pwact_like.fsio import read_json, read_manifest, relative_path, write_manifest, write_through
from pwact_like.jobs.types import Task, TaskResult
from pwact_like.outcome import Ok, Outcome, Reject
from pwact_like.seeds import derive_seed
from pwact_like.stages.base import Place, Stage, TaskMaker, require_all

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.config.run import Strategy
    from pwact_like.config.train import TrainSettings, UncertaintySettings


TEST_ERRORS = ("energy_rmse_ev_per_atom", "force_rmse_ev_per_ang", "virial_rmse_ev_per_atom")


@dataclass
class TrainingStage(Stage):
    """Train, or take over, the models of one iteration.

    Attributes
    ----------
    n_members
        Trainings.
    init_models
        Models to warm-start from, one a training, or empty.
    skip_training
        The models are taken over as they are (init_model_list, or no new labels since they were trained) and only
        judged on the test set.
    uncertainty
        What the training is to learn of its model's errors; None for a committee.
    compress
        Whether and how the trained models are tabulated.
    """

    place: Place
    trainer: Trainer
    settings: TrainSettings
    command: str
    n_members: int
    train_data: Sequence[DataPath]
    valid_data: Sequence[DataPath]
    test_data: Sequence[DataPath]
    init_models: Sequence[Path] = ()
    skip_training: bool = False
    why_skipped: str = ""
    uncertainty: UncertaintySettings | None = None
    compress: Compression | None = None
    name: str = "train"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folder."""
        self.folder = training_folder(self.place)

    def member_folder(self, member: int) -> Path:
        """``train.00M``."""
        return self.folder / f"train.{member:03d}"

    @property
    def models(self) -> tuple[Path, ...]:
        """The members' model files (of the finished stage; model_num may have been edited since)."""
        names = (
            self.facts["models"] if self.finished else [f"train.{member:03d}/{self.trainer.model_file}" for member in range(self.n_members)]
        )
        return tuple(self.folder / name for name in names)

    @property
    def kpu(self) -> Path | None:
        """What an explorer needs besides the model; None for a committee."""
        return kpu_of(self.folder) if self.finished else None

    @property
    def members(self) -> tuple[Path, ...]:
        """The members that the training of a kpu-committee drew."""
        return tuple(self.folder / name for name in self.facts.get("members", ()))

    def plan(self) -> list[Task]:
        """One task a member; when training is skipped, one that judges the model if there is a test set.

        Raises
        ------
        InputError
            When training is skipped and there are fewer models than members, or nothing is known of their errors.
        NotAvailableError
            When the trainer cannot learn its models' errors.
        """
        if self.uncertainty is not None:
            refuse_no_kpu(self.trainer)
        if self.skip_training and len(self.init_models) < self.n_members:
            raise InputError(
                Problem(
                    "param.json: strategy.model_num",
                    f"{self.n_members} models are wanted, but there are {len(self.init_models)} and this iteration trains none "
                    f"({self.why_skipped})",
                    f"set it to {len(self.init_models)}",
                )
            )
        make_task = TaskMaker(self.place, "train")
        tasks = []
        for member in range(self.n_members):
            folder = self.member_folder(member)
            seed = derive_seed(self.place.root_seed, self.place.iteration, "train", member)
            request = TrainRequest(
                train_data=tuple(self.train_data),
                valid_data=tuple(self.valid_data),
                test_data=tuple(self.test_data),
                settings=self.settings,
                seed=seed,
                # a member beyond those of the iteration before (model_num was raised) starts from scratch
                init_model=self.init_models[member] if member < len(self.init_models) else None,
                uncertainty=self.uncertainty,
                compress=self.compress,
            )
            if self.skip_training:
                self._take_over(folder, self.init_models[member])
                if not self.test_data or not self.trainer.can_judge:
                    continue
                files = self.trainer.write_judging(folder, request)
                commands = self.trainer.judging_commands(self.command, request)
            else:
                files = self.trainer.write(folder, request)
                commands = self.trainer.commands(self.command, request)
            tasks.append(make_task(self.trainer.name, folder, "train", commands, files, seed))
        return tasks

    def _take_over(self, folder: Path, model: Path) -> None:
        copies = self.trainer.taken_over(model)
        if self.uncertainty is not None:
            known = known_errors(self.trainer, model, self.uncertainty.kind, self.why_skipped)
            copies |= {name: model.parent / name for name in known.files}
        for name, source in copies.items():
            if not (folder / name).exists():
                write_through(folder / name, lambda temporary, source=source: _copy(source, temporary))  # type: ignore[misc]

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """The trainer's word; a judging of models that were taken over needs its figures only."""
        if not self.skip_training:
            return self.trainer.outcome(attempt)
        return Ok() if (attempt / "test.json").is_file() else Reject("test.json is missing")

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """Record the members' errors on the test set."""
        require_all(results, "training")
        tests: list[dict[str, Any]] = []
        for member in range(self.n_members):
            path = self.member_folder(member) / "test.json"
            if path.is_file():
                tests.append(read_json(path))
        facts: dict[str, Any] = {
            "models": [f"train.{member:03d}/{self.trainer.model_file}" for member in range(self.n_members)],
            "engine": self.trainer.name,
            "engine_version": self.trainer.version(),
            "trained": not self.skip_training,
            "why_skipped": self.why_skipped,
            "warm_start": bool(self.init_models) and not self.skip_training,
            "test": {name: [test.get(name) for test in tests] for name in TEST_ERRORS} if tests else None,
            "test_frames": tests[0]["n_frames"] if tests else 0,
        }
        for name in TEST_ERRORS[:2]:
            facts[name] = _mean([test.get(name) for test in tests])
        outputs = list(facts["models"])
        if self.uncertainty is not None:
            folder = self.member_folder(0)
            known = self.trainer.known_errors(folder, self.uncertainty.kind)
            facts |= {
                "uncertainty": known.facts,
                "kpu": relative_path(known.kpu, self.folder),
                "members": [relative_path(path, self.folder) for path in known.members],
            }
            outputs += [f"{folder.name}/{name}" for name in known.files]
        write_manifest(
            self.folder,
            "models",
            inputs={result.task.name: result.task.key for result in results.values()},
            outputs=outputs,
            facts=facts,
        )


def compression(strategy: Strategy) -> Compression | None:
    """What a training is to do with its model at the end."""
    return Compression(strategy.compress_order, strategy.compress_dx) if strategy.compress else None


def training_folder(place: Place) -> Path:
    """The product folder of an iteration's training."""
    return place.iteration_folder() / "00.train"


def is_made_by(place: Place, trainer: Trainer) -> bool:
    """Whether the models of a finished training are of this trainer, which may have been edited since."""
    facts = read_manifest(training_folder(place))["facts"]
    return facts.get("engine", trainer.name) == trainer.name and {Path(name).name for name in facts["models"]} == {trainer.model_file}


def kpu_of(folder: Path) -> Path | None:
    """The kpu file of a finished training; None for a committee's."""
    name = read_manifest(folder)["facts"].get("kpu")
    return folder / name if name else None


def refuse_no_kpu(engine: Trainer | Explorer) -> None:
    """Refuse an engine that does not know its models' errors.

    Raises
    ------
    NotAvailableError
        With the cure.
    """
    if not engine.can_kpu:
        raise NotAvailableError(
            f"the engine {engine.name} has no kpu: strategy.uncertainty kpu and kpu-committee need the embedded engines "
            '("command": "pwact-like" in resource.json); committee needs nothing of the kind'
        )


def known_errors(trainer: Trainer, model: Path, kind: KpuKind, why: str) -> KnownErrors:
    """What lies beside a model that is taken over.

    Raises
    ------
    InputError
        When nothing is known of this model's errors, with the cure.
    """
    try:
        return trainer.known_errors(model.parent, kind)
    except DataError as error:
        raise InputError(
            Problem(
                "param.json: strategy.uncertainty",
                f"{kind} is wanted of a model that is taken over as it is ({why}): {error}",
                "give a model in the folder of such a training; or let the model be trained: leave init_model_list out",
            )
        ) from error


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
