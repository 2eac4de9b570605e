"""The training stage: one task a committee member, each with its own seed, member m warm-started from member m."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.engines.protocols import Trainer, TrainRequest
from pwact_like.errors import InputError, Problem
from pwact_like.fsio import read_json, write_manifest, write_through
from pwact_like.jobs.types import Task, TaskResult
from pwact_like.outcome import Ok, Outcome, Reject
from pwact_like.seeds import derive_seed
from pwact_like.stages.base import Place, Stage, TaskMaker, require_all

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.config.train import TrainSettings


TEST_ERRORS = ("energy_rmse_ev_per_atom", "force_rmse_ev_per_ang", "virial_rmse_ev_per_atom")


@dataclass
class TrainingStage(Stage):
    """Train, or take over, the committee of one iteration.

    Attributes
    ----------
    init_models
        Models to warm-start from, one a member, or empty.
    skip_training
        The models are taken over as they are (init_model_list, or no new labels since they were trained) and only
        judged on the test set.
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
    name: str = "train"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folder."""
        self.folder = self.place.iteration_folder() / "00.train"

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

    def plan(self) -> list[Task]:
        """One task a member; when training is skipped, one that judges the model if there is a test set.

        Raises
        ------
        InputError
            When training is skipped and there are fewer models than members.
        """
        if self.skip_training and len(self.init_models) < self.n_members:
            raise InputError(
                Problem(
                    "param.json: strategy.model_num",
                    f"{self.n_members} models are wanted, but there are {len(self.init_models)} and this iteration trains none "
                    f"({self.why_skipped})",
                    f"set it to {len(self.init_models)}",
                )
            )
        make_task = TaskMaker(self.place)
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
        target = folder / self.trainer.model_file
        if not target.exists():
            write_through(target, lambda temporary: _copy(model, temporary))

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
        write_manifest(
            self.folder,
            "models",
            inputs={result.task.name: result.task.key for result in results.values()},
            outputs=facts["models"],
            facts=facts,
        )


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
