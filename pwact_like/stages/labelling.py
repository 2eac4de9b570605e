"""The labelling stage: one task a chosen frame, gates on every label, rejects listed with their reason."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.data.frames import Frame, Origin
from pwact_like.engines.protocols import Labeler, LabelRequest
from pwact_like.errors import DataError
from pwact_like.fsio import delete_with_ledger, read_json, relative_path, write_manifest, write_text
from pwact_like.jobs.types import Task, TaskResult, TaskState
from pwact_like.outcome import Outcome
from pwact_like.seeds import derive_seed
from pwact_like.stages.base import Fork, Place, Secrets, Stage, TaskMaker, check_budget
from pwact_like.stages.label_batches import Batches
from pwact_like.stages.selection import FRAMES_FILE, SELECTION_FILE

if TYPE_CHECKING:
    from pwact_like.config.common import StageInput

REJECTED_FILE = "rejected.csv"
HASHES_FILE = "frame_hashes.txt"
TEST_FOLDER = "test"
Rejection = tuple[Mapping[str, Any], Path, str]
"""Row of the selection, folder of the task, and why there is no label."""


@dataclass(frozen=True)
class LabelGates:
    """What a label must pass besides its program's own convergence; none with a larger force than ``max_force`` is kept."""

    net_force_tolerance: float
    min_distance_ang: float
    max_force: float | None = None


@dataclass
class LabelStage(Stage):
    """Label the chosen frames of one iteration.

    Attributes
    ----------
    test_share
        Share of these labels that becomes the fixed test set; 0 when there is one already.
    """

    place: Place
    labeler: Labeler
    entry: StageInput
    command: str
    gates: LabelGates
    failure_budget: float
    data_format: str
    fork: Fork
    test_share: float = 0.0
    keep_files: bool = False
    name: str = "label"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folders."""
        self.folder = label_folder(self.place)
        self._select = self.place.iteration_folder() / "01.explore" / "select"
        self._scf = self.place.iteration_folder() / "02.label" / "scf"

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = read_json(self._select / SELECTION_FILE)
        return rows

    def _asked(self, rows: Sequence[Mapping[str, Any]]) -> list[Frame]:
        if not rows:
            return []
        from pwact_like.data.formats import read_frames

        frames = read_frames(self._select / FRAMES_FILE, "extxyz")
        if len(frames) != len(rows):
            raise DataError(f"{self._select / FRAMES_FILE}: {len(frames)} frames, but {SELECTION_FILE} lists {len(rows)}; was it edited?")
        return frames

    @property
    def _batches(self) -> Batches | None:
        """How frames are shared out when one task labels several; None when each has its own."""
        size = self.labeler.frames_a_task(self.entry)
        return Batches(self.place, size) if size > 1 else None

    def task_folder(self, row: Mapping[str, Any]) -> Path:
        """``scf/<md>/<leaf>/STEP-scf``."""
        return self._scf / row["system"] / row["leaf"] / f"{row['step']}-scf"

    def plan(self) -> list[Task]:
        """One task a frame that is not rejected beforehand, or one for several of them."""
        rows = self._rows()
        if (batches := self._batches) is not None:
            return batches.plan(self.labeler, self.entry, self.command, rows, self._asked(rows))
        make_task = TaskMaker(self.place, "label")
        tasks = []
        with Secrets() as secrets:
            for index, (row, frame) in enumerate(zip(rows, self._asked(rows), strict=True)):
                if row["reject"] is not None:
                    continue
                seed = derive_seed(self.place.root_seed, self.place.iteration, "label", index)
                request = LabelRequest("scf", frame.atoms, self.entry, seed)
                folder = self.task_folder(row)
                files = secrets.write(self.labeler, folder, request)
                tasks.append(make_task(self.labeler.name, folder, "DFT", self.labeler.commands(self.command, request), files, seed))
        return tasks

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """The labeler's word."""
        return self.labeler.outcome(attempt, "scf") if self._batches is None else self.labeler.batch_outcome(attempt)

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """Read, gate and write the labels, in a child process (outputs of DFT programs are large).

        Raises
        ------
        BudgetExceededError
            When more labels were rejected than the budget allows; nothing is lost, the next start looks again.
        """
        quiet = replace(self, fork=no_fork)
        outputs, facts = self.fork(collect_labels, quiet, dict(results))
        if not self.keep_files:
            self._clean()  # before the manifest: what a kill leaves undone is done at the next start
        write_manifest(
            self.folder,
            "labels",
            inputs={result.task.name: result.task.key for result in results.values()},
            outputs=outputs,
            facts=facts,
        )

    def make_product(self, results: Mapping[str, TaskResult]) -> tuple[list[str], dict[str, Any]]:
        """Everything of the product but its manifest; returns the names of its files and its facts."""
        from pwact_like.data.checks import force_above

        rows = self._rows()
        labelled: list[Frame] = []
        rejected: list[Rejection] = []
        left_out = 0  # sound labels that the user does not want: no failure of anything
        batches = self._batches
        folders = batches.folders(rows) if batches else {index: self.task_folder(row) for index, row in enumerate(rows)}
        of_batches = batches.read(self.labeler, rows, results) if batches else {}
        theory = self.labeler.level_of_theory(self.entry)
        for index, (row, asked) in enumerate(zip(rows, self._asked(rows), strict=True)):
            folder = folders.get(index, self.task_folder(row))  # a rejected one is in no batch
            if row["reject"] is not None:
                found: Frame | str = str(row["reject"])
            else:
                found = of_batches[index] if batches else self._label_of(folder, results)
                found = self._gated(found, row, asked, index, folder)
                reason = None if isinstance(found, str) else force_above(found, self.gates.max_force)
                if reason is not None:
                    found, left_out = reason, left_out + 1
            if isinstance(found, str):
                rejected.append((row, folder, found))
            else:
                labelled.append(replace(found, level_of_theory=theory))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / REJECTED_FILE, self._rejected_text(rejected))
        check_budget(len(rejected) - left_out, len(rows), self.failure_budget, "labelling", self.folder / REJECTED_FILE)
        return self._write_product(labelled, rejected)

    def _label_of(self, folder: Path, results: Mapping[str, TaskResult]) -> Frame | str:
        result = results[relative_path(folder, self.place.work_dir)]
        if result.state is not TaskState.ACCEPTED:
            return result.reason
        try:
            (frame,) = self.labeler.read(folder, "scf")
        except (DataError, ValueError) as error:
            return f"cannot be read: {error}"
        return frame

    def _gated(self, frame: Frame | str, row: Mapping[str, Any], asked: Frame, index: int, folder: Path) -> Frame | str:
        """The label with its origin, when it passes the gates."""
        from pwact_like.data.checks import check_label

        if isinstance(frame, str):
            return frame
        reason = check_label(
            frame,
            asked.atoms,
            net_force_tolerance=self.gates.net_force_tolerance,
            min_distance_ang=self.gates.min_distance_ang,
        )
        if reason is not None:
            return reason
        origin = Origin(
            source=relative_path(folder, self.place.work_dir),
            iteration=self.place.iteration,
            task=str(row["leaf"]),
            step=int(row["step"]),
            seed=derive_seed(self.place.root_seed, self.place.iteration, "label", index),
        )
        return replace(frame, origin=origin)

    def _write_product(self, labelled: list[Frame], rejected: Sequence[Rejection]) -> tuple[list[str], dict[str, Any]]:
        from pwact_like.data.dataset import split

        test: list[Frame] = []
        train = labelled
        if self.test_share > 0.0 and len(labelled) > 1:
            train, test = split(labelled, self.test_share, derive_seed(self.place.root_seed, self.place.iteration, "test set"))
        outputs = [REJECTED_FILE, write_hashes(self.folder, labelled)]
        data = ""
        if train:
            data = write_labels(self.folder, train, self.data_format)
            outputs += files_below(self.folder, data)
        test_data = ""
        if test:
            test_data = f"{TEST_FOLDER}/{write_labels(self.folder / TEST_FOLDER, test, 'extxyz')}"
            outputs.append(test_data)
        facts = {
            "engine": self.labeler.name,
            "engine_version": self.labeler.version(),
            "level_of_theory": self.labeler.level_of_theory(self.entry),
            "data": data,
            "data_format": self.data_format,
            "test_data": test_data,
            "asked": len(labelled) + len(rejected),
            "labelled": len(labelled),
            "rejected": len(rejected),
            "train_frames": len(train),
            "test_frames": len(test),
        }
        return outputs, facts

    def _rejected_text(self, rejected: Sequence[Rejection]) -> str:
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["leaf", "step", "folder", "reason"])
        for row, folder, reason in rejected:
            writer.writerow([row["leaf"], row["step"], relative_path(folder, self.place.work_dir), reason])
        return stream.getvalue()

    def _clean(self) -> None:
        """Remove what the programs left in the attempts besides logs (wave functions, densities); results stay."""
        kept = {"stdout", "stderr", "exit", "claim", "executions.log"}
        doomed = []
        batches = self._batches
        found = batches.folder.glob("*/.attempt") if batches else self._scf.glob("*/*/*-scf/.attempt")
        for attempts in sorted(found):
            for path in sorted(attempts.glob("*/*")):
                if path.name not in kept:
                    doomed.append(path)
        delete_with_ledger(self._scf.parent, doomed, "strategy: reserve_scf_files is false")


def write_labels(folder: Path, frames: Sequence[Frame], data_format: str) -> str:
    """Write labelled frames as PWact's users know them; returns the name below ``folder``."""
    from pwact_like.data.formats import write_frames

    folder.mkdir(parents=True, exist_ok=True)
    name = "train.xyz" if data_format == "extxyz" else "PWdata"
    write_frames(folder / name, list(frames), data_format)
    return name


def files_below(folder: Path, name: str) -> list[str]:
    """Files of a product's output, which may be a file or a folder, relative to ``folder``."""
    path = folder / name
    if path.is_file():
        return [name]
    return sorted(os.path.relpath(file, folder) for file in path.rglob("*") if file.is_file())


def write_hashes(folder: Path, frames: Sequence[Frame]) -> str:
    """Write the frames' hashes beside them, so that the whole data set's hash needs no frame to be read again."""
    from pwact_like.data.hashes import frame_hash

    write_text(folder / HASHES_FILE, "".join(f"{frame_hash(frame)}\n" for frame in frames))
    return HASHES_FILE


def collect_labels(stage: LabelStage, results: dict[str, TaskResult]) -> tuple[list[str], dict[str, Any]]:
    """``stage.make_product`` for a child process."""
    return stage.make_product(results)


def no_fork(*arguments: Any) -> Any:
    """Stand in for ``fork`` inside a child process."""
    raise RuntimeError("a child process does not start another one")


def label_folder(place: Place) -> Path:
    """The product folder of an iteration's labels."""
    return place.iteration_folder() / "02.label" / "result"
