"""Labels of several frames a task, for labelers whose model takes longer to load than a label takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.engines.protocols import Labeler, LabelRequest
from pwact_like.errors import DataError
from pwact_like.fsio import relative_path
from pwact_like.jobs.types import Task, TaskResult, TaskState
from pwact_like.seeds import derive_seed
from pwact_like.stages.base import Place, TaskMaker

if TYPE_CHECKING:
    from pwact_like.config.common import StageInput
    from pwact_like.data.frames import Frame

BATCH_FOLDER = "bigmodel"  # PWact's name


@dataclass(frozen=True)
class Batches:
    """How the rows of selection.json are shared out: ``size`` frames a task, in their order, rejected rows left out."""

    place: Place
    size: int

    @property
    def folder(self) -> Path:
        """``02.label/bigmodel``."""
        return self.place.iteration_folder() / "02.label" / BATCH_FOLDER

    def task_folder(self, number: int) -> Path:
        """``02.label/bigmodel/NNN``."""
        return self.folder / f"{number:03d}"

    def shares(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, list[int]]]:
        """(number of the batch, places of its rows)."""
        wanted = [index for index, row in enumerate(rows) if row["reject"] is None]
        for number, first in enumerate(range(0, len(wanted), self.size)):
            yield number, wanted[first : first + self.size]

    def folders(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, Path]:
        """Place of a row → folder of the task that labels it."""
        return {index: self.task_folder(number) for number, indices in self.shares(rows) for index in indices}

    def plan(
        self, labeler: Labeler, entry: StageInput, command: str, rows: Sequence[Mapping[str, Any]], frames: Sequence[Frame]
    ) -> list[Task]:
        """One task a batch."""
        make_task = TaskMaker(self.place, "label")
        tasks = []
        for number, indices in self.shares(rows):
            seed = derive_seed(self.place.root_seed, self.place.iteration, "label batch", number)
            requests = [LabelRequest("scf", frames[index].atoms, entry, seed) for index in indices]
            folder = self.task_folder(number)
            files = labeler.write_batch(folder, requests)
            tasks.append(make_task(labeler.name, folder, "DFT", labeler.commands(command, requests[0]), files, seed))
        return tasks

    def read(self, labeler: Labeler, rows: Sequence[Mapping[str, Any]], results: Mapping[str, TaskResult]) -> dict[int, Frame | str]:
        """Place of a row → its label, or why there is none."""
        found: dict[int, Frame | str] = {}
        for number, indices in self.shares(rows):
            folder = self.task_folder(number)
            result = results[relative_path(folder, self.place.work_dir)]
            labels: Sequence[Frame | str] = [result.reason] * len(indices)
            if result.state is TaskState.ACCEPTED:
                try:
                    labels = labeler.read_batch(folder)
                except (DataError, ValueError) as error:
                    labels = [f"cannot be read: {error}"] * len(indices)
                if len(labels) != len(indices):
                    labels = [f"{folder}: {len(labels)} labels for {len(indices)} structures"] * len(indices)
            found.update(zip(indices, labels, strict=True))
        return found
