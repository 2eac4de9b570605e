"""The big model's MD of init_bulk, and the choice among its frames (PWact's ``bigmodel`` and ``direct``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.engines.choosers.embedded import EmbeddedChooser
from pwact_like.engines.choosers.script import ScriptChooser
from pwact_like.engines.protocols import ChoiceRequest, Chooser, Labeler
from pwact_like.errors import DataError, JobError
from pwact_like.fsio import read_json, read_manifest, relative_path, write_json, write_manifest
from pwact_like.jobs.types import Task, TaskResult
from pwact_like.outcome import Outcome, TaskFiles
from pwact_like.seeds import sha256_file
from pwact_like.stages.aimd import AimdStage, step_numbers
from pwact_like.stages.base import TaskMaker, require_all
from pwact_like.stages.bulk import Bulk, BulkStage, recipe_hash

if TYPE_CHECKING:
    from pwact_like.config.common import StageInput
    from pwact_like.data.frames import Frame

log = logging.getLogger(__name__)

CANDIDATES = "candidates.json"
CHOSEN = "chosen.json"


class BigModelStage(AimdStage):
    """MD of every structure at the end of a chain, with a big model."""

    flag = "bigmodel"
    section = "explore"

    @property
    def labeler(self) -> Labeler:
        """The engine of bigmodel_input's entries.

        Raises
        ------
        JobError
            When no system asks for it.
        """
        if self.bulk.md_engine is None:
            raise JobError("no system asks for MD with a big model")
        return self.bulk.md_engine

    @property
    def command(self) -> str:
        """Of the section explore, as in PWact."""
        return self.bulk.md_command

    def entry(self, system: int) -> StageInput:
        """``bigmodel_input[bigmodel_input_idx]``."""
        return self.bulk.param.bigmodel_input[self.bulk.systems[system].bigmodel_input_idx]


def chosen_systems(bulk: Bulk) -> list[int]:
    """Systems among whose frames a choice is made."""
    return [index for index, system in enumerate(bulk.systems) if system.bigmodel and system.direct]


def accepted_runs(bulk: Bulk, systems: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of the big model's good MD runs of these systems."""
    rows = read_manifest(BigModelStage(bulk).folder)["facts"]["rows"] if systems else []
    return [row for row in rows if row["accepted"] and row["system"] in systems]


@dataclass
class DirectStage(BulkStage):
    """Choose among the frames of the big model's MD: by each script of direct_input those of its systems, together."""

    bulk: Bulk
    name: str = "direct"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folder."""
        self.folder = self.bulk.work_folder / "direct"

    def _choosers(self) -> dict[str, tuple[Chooser, list[int]]]:
        """Name of a task → who chooses, and among which systems."""
        param = self.bulk.param
        found: dict[str, tuple[Chooser, list[int]]] = {}
        for index in chosen_systems(self.bulk):
            if param.direct_input:
                number = self.bulk.systems[index].direct_input_idx
                found.setdefault(str(number), (ScriptChooser(param.direct_input[number]), []))[1].append(index)
            else:
                found.setdefault("0", (EmbeddedChooser("direct"), []))[1].append(index)
        return found

    @property
    def recipe(self) -> str:
        """The MD, the scripts, and how many may be chosen."""
        param = self.bulk.param
        scripts = [sha256_file(script) for script in param.direct_input]
        wanted = [[index, self.bulk.systems[index].direct_input_idx] for index in chosen_systems(self.bulk)]
        return recipe_hash("direct", BigModelStage(self.bulk).recipe, scripts, wanted, param.interval, param.scf_max_num)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The MD."""
        return (BigModelStage(self.bulk).folder,)

    def plan(self) -> list[Task]:
        """One task a script."""
        make_task = TaskMaker(self.bulk.place)
        tasks = []
        for number, (name, (chooser, systems)) in enumerate(self._choosers().items()):
            folder = self.folder / name
            files: TaskFiles | None = self.bulk.fork(
                prepare,
                chooser,
                BigModelStage(self.bulk).labeler,
                accepted_runs(self.bulk, systems),
                self.bulk.place.work_dir,
                folder,
                self.bulk.param.interval,
                self.bulk.param.scf_max_num,
            )
            if files is not None:
                seed = self.bulk.seed(systems[0], "direct", number)
                tasks.append(make_task(chooser.name, folder, "direct", chooser.commands(self.bulk.direct_command), files, seed))
        return tasks

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """The chooser's word."""
        return self._choosers()[task.folder.name][0].outcome(attempt)

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """Note which frames of which runs were chosen.

        Raises
        ------
        JobError
            When a task failed.
        """
        require_all(results, "direct")
        chosen: dict[str, list[int]] = {}
        offered = 0
        for name, (chooser, _) in self._choosers().items():
            task = self.folder / name
            if relative_path(task, self.bulk.place.work_dir) not in results:
                continue  # no frame to choose from
            candidates = read_json(task / CANDIDATES)
            offered += len(candidates)
            for index in chooser.read(task):
                folder, place = candidates[index]
                chosen.setdefault(folder, []).append(place)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / CHOSEN, {folder: sorted(places) for folder, places in sorted(chosen.items())})
        write_manifest(
            self.folder,
            "init_bulk direct",
            inputs={result.task.name: result.task.key for result in results.values()},
            outputs=[CHOSEN],
            facts={**self.provenance(), "candidates": offered, "chosen": sum(map(len, chosen.values()))},
        )


def prepare(
    chooser: Chooser,
    labeler: Labeler,
    runs: Sequence[Mapping[str, Any]],
    work_dir: Path,
    folder: Path,
    interval: int,
    max_num: int | None,
) -> TaskFiles | None:
    """Gather every interval-th frame of the runs for a choice; None when there is none (runs in a child process)."""
    frames: list[Frame] = []
    candidates: list[tuple[str, int]] = []
    for row in runs:
        try:
            run = labeler.read(work_dir / str(row["folder"]), "aimd")
        except (DataError, ValueError) as error:
            log.warning("direct: %s cannot be read: %s", row["folder"], error)
            continue
        for place, frame in zip(step_numbers([frame.origin.step for frame in run]), run, strict=True):
            if place % interval == 0:
                frames.append(frame)
                candidates.append((str(row["folder"]), place))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CANDIDATES, candidates)
    if not frames:
        return None
    count = len(frames) if max_num is None else min(max_num, len(frames))
    return chooser.write(folder, ChoiceRequest(frames=frames, count=count, groups=(0,) * len(frames), quotas=(count,)))


def chosen_places(bulk: Bulk) -> dict[str, frozenset[int]] | None:
    """Folder of a run → places of its chosen frames; None where no choice is made."""
    if not chosen_systems(bulk):
        return None
    return {folder: frozenset(places) for folder, places in read_json(DirectStage(bulk).folder / CHOSEN).items()}


def is_chosen(chosen: Mapping[str, frozenset[int]] | None, systems: Sequence[int], row: Mapping[str, Any], place: int) -> bool:
    """Whether a frame goes on: it was chosen, or its system makes no choice."""
    if chosen is None or row["system"] not in systems:
        return True
    return place in chosen.get(str(row["folder"]), frozenset())
