"""What a stage is, and what all stages share. A stage plans tasks and collects a product; it never submits."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pwact_like.engines.protocols import Labeler, LabelRequest
from pwact_like.errors import BudgetExceededError, JobError
from pwact_like.fsio import is_finished, read_manifest, relative_path
from pwact_like.jobs.types import Task, TaskResult, TaskState
from pwact_like.outcome import Outcome, TaskFiles
from pwact_like.seeds import sha256_file, task_key

Fork = Callable[..., Any]
"""Run a module-level function in a short-lived child process and return its result (large reads stay out of the master)."""


@dataclass(frozen=True)
class Place:
    """Where in the campaign a stage works."""

    work_dir: Path
    root_seed: int
    iteration: int = 0

    def iteration_folder(self, iteration: int | None = None) -> Path:
        """``iter.NNNN``."""
        return self.work_dir / f"iter.{self.iteration if iteration is None else iteration:04d}"


class Stage(ABC):
    """One step of a workflow: plan() writes inputs and gives tasks, collect() gives a product with a manifest."""

    name: str
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether the product is there."""
        return is_finished(self.folder)

    @property
    def facts(self) -> dict[str, Any]:
        """The finished product's facts."""
        facts: dict[str, Any] = read_manifest(self.folder)["facts"]
        return facts

    @abstractmethod
    def plan(self) -> list[Task]:
        """Write every input and give the tasks; the same again after an interruption."""

    @abstractmethod
    def judge(self, task: Task, attempt: Path) -> Outcome:
        """Judge an ended attempt (the engine's word)."""

    @abstractmethod
    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """Make the product from the accepted tasks, and its manifest last."""


class HashCache:
    """Content hashes of files that many tasks share (models, data sets), each read once."""

    def __init__(self) -> None:
        self._hashes: dict[tuple[str, int, int], str] = {}

    def __call__(self, path: Path) -> str:
        """Hex SHA-256 of the file."""
        status = path.stat()
        place = (str(path), status.st_size, status.st_mtime_ns)
        if place not in self._hashes:
            self._hashes[place] = sha256_file(path)
        return self._hashes[place]


@dataclass
class TaskMaker:
    """Builds tasks with content keys; ``stage``, one of a campaign's, is what a rewind has to go back to."""

    place: Place
    stage: str = ""

    @cached_property
    def hash_of(self) -> HashCache:
        """Shared between the tasks of a stage."""
        return HashCache()

    def __call__(self, engine: str, folder: Path, section: str, commands: tuple[str, ...], files: TaskFiles, seed: int) -> Task:
        """Task whose key is H(engine, contents of inputs and links, seed) and whose name is its folder."""
        hashes = {name: self.hash_of(folder / name) for name in files.inputs}
        for name, target in files.links:
            path = Path(target)
            # a folder (pwmlff/npy) is known by the hashes of its files
            hashes[name] = (
                self.hash_of(path)
                if path.is_file()
                else json.dumps({str(file.relative_to(path)): self.hash_of(file) for file in sorted(path.rglob("*")) if file.is_file()})
            )
        return Task(
            key=task_key(engine, {"outputs": files.outputs}, hashes, seed),
            name=relative_path(folder, self.place.work_dir),
            folder=folder,
            section=section,
            commands=commands,
            files=files,
            seed=seed,
            anew=f"make the stage anew with it: pwact-like rewind --to {self.place.iteration}:{self.stage}" if self.stage else "",
        )


class Secrets:
    """A context for a plan: where it fails, licensed files (POTCAR) that it has written are taken back.

    What lay there before stays: jobs that wait may need it.
    """

    def __init__(self) -> None:
        self._written: list[Path] = []

    def __enter__(self) -> Self:
        """Nothing is written yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take back what was written, when something went wrong."""
        for path in self._written if kind is not None else ():
            path.unlink(missing_ok=True)

    def write(self, labeler: Labeler, folder: Path, request: LabelRequest) -> TaskFiles:
        """``labeler.write``, watched."""
        before = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        try:
            files = labeler.write(folder, request)
        except BaseException:  # a full disk, perhaps: which of its files are licensed was not said yet
            self._written += [path for path in (folder.iterdir() if folder.is_dir() else ()) if path.name not in before and path.is_file()]
            raise
        self._written += [folder / name for name in files.secret if name not in before]
        return files


def failures(results: Mapping[str, TaskResult]) -> list[TaskResult]:
    """The failed tasks, by name."""
    return [results[name] for name in sorted(results) if results[name].state is TaskState.FAILED]


def require_all(results: Mapping[str, TaskResult], what: str) -> None:
    """Every task must have been accepted (a committee without one of its members is no committee).

    Raises
    ------
    JobError
        Naming every failed task with its reason.
    """
    failed = failures(results)
    if failed:
        lines = "\n".join(f"  {result.task.folder}: {result.reason}" for result in failed)
        anew = failed[0].task.anew or "remove the folders of all these tasks as well"
        raise JobError(
            f"{len(failed)} of {len(results)} {what} tasks failed for good; nothing can go on without them:\n{lines}\n"
            f"Mend the cause and start again; where that changes a task's input, {anew}"
        )


def check_budget(n_failed: int, n_all: int, budget: float, what: str, where: Path | str) -> None:
    """Raise when more than the budgeted share failed.

    Raises
    ------
    BudgetExceededError
        With the cure: mend the cause, or raise the budget, and start again.
    """
    if n_all and n_failed / n_all > budget:
        raise BudgetExceededError(
            f"{what}: {n_failed} of {n_all} failed, more than the failure budget of {budget:.0%} allows; the reasons stand in {where}. "
            "Mend the cause and start again, or raise strategy.failure_budget to go on without them"
        )
