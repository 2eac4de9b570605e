"""What the stages of init_bulk share: the settings, the folders, the seeds, and the stage that labels structures."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import BudgetExceededError, InputError, JobError, Problem
from pwact_like.fsio import MANIFEST_NAME, relative_path, write_manifest, write_text
from pwact_like.jobs.types import Task, TaskResult, TaskState
from pwact_like.outcome import Outcome
from pwact_like.seeds import derive_seed, sha256_file
from pwact_like.stages.base import Fork, Place, Secrets, Stage, TaskMaker

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import StageInput
    from pwact_like.config.init_bulk import BulkSystem, InitBulkParam

log = logging.getLogger(__name__)

WORK_FOLDER = "temp_init_bulk_work"  # PWact's name
COLLECTION_FOLDER = "collection"
FAILED_FILE = "failed.csv"
FAILURE_BUDGET = 0.5  # share of a stage's tasks that may fail


def system_name(index: int) -> str:
    """``init_config_I``, PWact's name of the I-th structure of sys_configs."""
    return f"init_config_{index}"


@dataclass(frozen=True)
class Bulk:
    """What every stage of one init_bulk works with; ``md_engine`` runs a big model's MD, where a system asks for it."""

    place: Place
    param: InitBulkParam
    engine: Labeler | None
    command: str
    fork: Fork
    md_engine: Labeler | None = None
    md_command: str = ""
    direct_command: str = ""
    failure_budget: float = FAILURE_BUDGET

    @property
    def labeler(self) -> Labeler:
        """The labelling engine; there is none when no system asks for relax, aimd or scf."""
        if self.engine is None:
            raise JobError("no system asks for relax, aimd or scf, so no labelling engine was set up")
        return self.engine

    @property
    def work_folder(self) -> Path:
        """Where the tasks run; removed at the end unless reserve_work."""
        return self.place.work_dir / WORK_FOLDER

    @property
    def collection_folder(self) -> Path:
        """The product."""
        return self.place.work_dir / COLLECTION_FOLDER

    @property
    def systems(self) -> tuple[BulkSystem, ...]:
        """The starting structures."""
        return self.param.sys_configs

    def seed(self, system: int, stage: str, index: int) -> int:
        """Seed of the index-th random thing that a stage does with a system."""
        return derive_seed(self.place.root_seed, system, stage, index)

    def entry_recipe(self, entry: StageInput, labeler: Labeler) -> dict[str, Any]:
        """What of an input entry decides the results: contents, not paths."""
        return {
            "input": None if entry.input is None else sha256_file(entry.input),
            "kspacing": entry.kspacing,
            "flag_symm": entry.flag_symm,
            "options": entry.options,
            "level_of_theory": labeler.level_of_theory(entry),
        }


def recipe_hash(*parts: Any) -> str:
    """Hash of what a product is made from and how; a finished product with another one is never taken for this one."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class BulkStage(Stage):
    """A stage of init_bulk. ``recipe`` hashes everything that decides its product and stands in its manifest."""

    bulk: Bulk

    @property
    @abstractmethod
    def recipe(self) -> str:
        """Hash of the settings and contents that the product follows from."""

    @property
    @abstractmethod
    def sources(self) -> tuple[Path, ...]:
        """Folders of the products that this stage reads."""

    def provenance(self) -> dict[str, Any]:
        """What of a product's origin goes into its facts, so that it is never taken for that of another origin."""
        return {"recipe": self.recipe, "from": {folder.name: sha256_file(folder / MANIFEST_NAME) for folder in self.sources}}


@dataclass(frozen=True)
class Asked:
    """One structure that a stage hands to the labelling program.

    ``task`` is the folder below the stage's own, ``facts`` whatever the stage wants to find again in its manifest.
    """

    system: int
    task: str
    seed: int
    facts: Mapping[str, Any] = field(default_factory=dict)


class LabellingStage(BulkStage):
    """Hand structures to the labelling program, one task each; the product is the list of what became of them."""

    kind: ClassVar[LabelKind]
    section: ClassVar[str] = "DFT"

    @property
    def labeler(self) -> Labeler:
        """The program."""
        return self.bulk.labeler

    @property
    def command(self) -> str:
        """The user's command."""
        return self.bulk.command

    def __init__(self, bulk: Bulk) -> None:
        self.bulk = bulk
        self.name = self.kind
        self.folder = bulk.work_folder / self.kind
        self._asked: list[Asked] = []

    @abstractmethod
    def entry(self, system: int) -> StageInput:
        """The user's input for this stage and system."""

    @abstractmethod
    def structures(self) -> Iterator[tuple[Asked, Atoms]]:
        """What is asked, in an order that is always the same."""

    def plan(self) -> list[Task]:
        """One task a structure.

        Raises
        ------
        InputError
            With what the labelling program cannot do of any of them.
        """
        make_task = TaskMaker(self.bulk.place)
        tasks = []
        problems: dict[Problem, None] = {}  # in order, each once
        self._asked = []
        with Secrets() as secrets:
            for asked, atoms in self.structures():
                request = LabelRequest(self.kind, atoms, self.entry(asked.system), asked.seed)
                folder = self.folder / asked.task
                try:
                    files = secrets.write(self.labeler, folder, request)
                    commands = self.labeler.commands(self.command, request)
                except InputError as error:
                    problems.update(dict.fromkeys(error.problems))
                    continue
                tasks.append(make_task(self.labeler.name, folder, self.section, commands, files, asked.seed))
                self._asked.append(asked)
            if problems:
                raise InputError(list(problems))
        return tasks

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """The labeler's word."""
        return self.labeler.outcome(attempt, self.kind)

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """List what became of every task; the failed ones are given up unless they are too many.

        Raises
        ------
        BudgetExceededError
            When more tasks failed than the budget allows; what is done stays, the next start looks again.
        """
        rows = [self._row(asked, results) for asked in self._asked]
        rows = self.read_results(rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        failed = [row for row in rows if not row["accepted"]]
        write_text(self.folder / FAILED_FILE, _failed_text(failed))
        self._check_budget(len(failed), len(rows))
        if failed:
            log.warning("%s: %d of %d failed; what would follow from them is given up", self.name, len(failed), len(rows))
        write_manifest(
            self.folder,
            f"init_bulk {self.name}",
            inputs={result.task.name: result.task.key for result in results.values()},
            outputs=[FAILED_FILE, *self.product_files()],
            facts={
                **self.provenance(),
                "engine": self.labeler.name,
                "engine_version": self.labeler.version(),
                "failed": len(failed),
                "rows": rows,
            },
        )

    def read_results(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Read what this stage's product holds besides the list; may turn an accepted row into a failed one."""
        return rows

    def product_files(self) -> Sequence[str]:
        """Files of the product besides the lists."""
        return ()

    def _row(self, asked: Asked, results: Mapping[str, TaskResult]) -> dict[str, Any]:
        folder = relative_path(self.folder / asked.task, self.bulk.place.work_dir)
        result = results[folder]
        return {
            "system": asked.system,
            "task": asked.task,
            "folder": folder,
            "seed": asked.seed,
            "accepted": result.state is TaskState.ACCEPTED,
            "reason": result.reason,
            "note": result.note,
            **asked.facts,
        }

    def _check_budget(self, n_failed: int, n_all: int) -> None:
        budget = self.bulk.failure_budget
        if n_all and n_failed / n_all > budget:
            raise BudgetExceededError(
                f"{self.name}: {n_failed} of {n_all} tasks failed, more than the {budget:.0%} that init_bulk goes on without; the reasons "
                f"stand in {self.folder / FAILED_FILE}. Mend the cause (the input file, the structure, resource.json), remove the folders "
                "that are listed there, and start again: what succeeded is not done again"
            )


def _failed_text(rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["task", "folder", "reason"])
    for row in rows:
        writer.writerow([row["task"], row["folder"], row["reason"]])
    return stream.getvalue()
