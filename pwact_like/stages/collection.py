"""The collection of init_bulk: structures and labelled data in PWact's layout, put together aside and renamed in whole."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pwact_like.errors import BudgetExceededError, DataError, JobError
from pwact_like.fsio import (
    fsync_folder,
    is_finished,
    read_manifest,
    relative_path,
    write_manifest,
    write_text,
)
from pwact_like.jobs.types import Task, TaskResult
from pwact_like.outcome import Ok, Outcome
from pwact_like.stages.aimd import AimdStage, step_numbers
from pwact_like.stages.bigmodel import BigModelStage, DirectStage, chosen_places, chosen_systems, is_chosen
from pwact_like.stages.bulk import Bulk, BulkStage, LabellingStage, recipe_hash, system_name
from pwact_like.stages.crystals import structure_suffix, write_structure
from pwact_like.stages.labelling import LabelGates, files_below, write_labels
from pwact_like.stages.relaxation import RelaxationStage
from pwact_like.stages.single_points import ASKED_FRAMES, SinglePointStage, unreadable_runs
from pwact_like.stages.structures import INITIAL, STRUCTURES_FILE, StructuresStage

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import StageInput
    from pwact_like.data.frames import Frame
    from pwact_like.engines.protocols import Labeler

COLLECTION_KIND = "init_bulk collection"
DATAPATH_FILE = "datapath.txt"
REJECTED_FILE = "rejected.csv"
STAGES: Mapping[str, type[LabellingStage]] = {"scf": SinglePointStage, "aimd": AimdStage, "bigmodel": BigModelStage}
GATES = LabelGates(net_force_tolerance=0.1, min_distance_ang=0.5)  # the defaults of strategy in `run`


@dataclass(frozen=True)
class Rejection:
    """A frame, or with ``step`` None a whole task, that gives no label; ``note`` marks a mere remark."""

    task: str
    step: int | None
    reason: str
    note: bool = False


@dataclass(frozen=True)
class SystemPlan:
    """What is collected of one system.

    Attributes
    ----------
    kind
        ``scf`` (single points outrank the MD that they relabel), ``aimd``, ``bigmodel``, or "" for structures only.
    rows
        The rows of that stage's tasks.
    given_up
        Rows that led to nothing: failed relaxations, MD runs whose frames were to be labelled again.
    """

    index: int
    structure_file: str
    kind: str
    entry: StageInput | None
    theory: str
    rows: Sequence[Mapping[str, Any]]
    given_up: Sequence[Mapping[str, Any]]
    shuffle_seed: int


@dataclass(frozen=True)
class CollectionRequest:
    """Everything the child process needs; picklable."""

    work_dir: Path
    staging: Path
    final: Path
    structures: Path
    asked: Path
    labeler: Labeler | None
    md_labeler: Labeler | None
    chosen: Mapping[str, frozenset[int]] | None
    chosen_systems: Sequence[int]
    suffix: str
    data_format: str
    interval: int
    shuffle: bool
    gates: LabelGates
    systems: Sequence[SystemPlan]


def stages_before_collection(bulk: Bulk) -> list[BulkStage]:
    """The stages that the settings ask for, in their order."""
    systems = bulk.systems
    wanted: list[tuple[BulkStage, bool]] = [
        (RelaxationStage(bulk), any(system.relax for system in systems)),
        (StructuresStage(bulk), True),
        (AimdStage(bulk), any(system.aimd for system in systems)),
        (BigModelStage(bulk), any(system.bigmodel for system in systems)),
        (DirectStage(bulk), bool(chosen_systems(bulk))),
        (SinglePointStage(bulk), any(system.scf for system in systems)),
    ]
    return [stage for stage, used in wanted if used]


@dataclass
class CollectionStage(BulkStage):
    """Gather the structures and labels of every system."""

    bulk: Bulk
    gates: LabelGates = GATES
    name: str = "collection"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folder."""
        self.folder = self.bulk.collection_folder

    @property
    def recipe(self) -> str:
        """The stages before, and how their frames are gathered."""
        param = self.bulk.param
        wanted = [[system.aimd, system.scf, *((True, system.direct) if system.bigmodel else ())] for system in self.bulk.systems]
        before = [stage.recipe for stage in stages_before_collection(self.bulk)]
        gates = [self.gates.net_force_tolerance, self.gates.min_distance_ang]
        return recipe_hash("collection", before, wanted, param.interval, param.data_shuffle, param.data_format, gates)

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every stage before it."""
        return tuple(stage.folder for stage in stages_before_collection(self.bulk))

    def plan(self) -> list[Task]:
        """Nothing to submit."""
        return []

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """Nothing to judge."""
        return Ok()

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """Put everything together in the work folder, in a child process, then rename it in.

        Raises
        ------
        BudgetExceededError
            When more labels were rejected than the budget allows.
        JobError
            When labels were asked for and there is none.
        """
        staging = self.bulk.work_folder / "collection"
        if staging.exists():
            shutil.rmtree(staging)  # an interrupted collection of ours: its sources are all still there
        staging.mkdir(parents=True)
        rows, sha256 = self.bulk.fork(make_collection, self._request(staging))
        self._check_counts(rows, staging)
        engine = self.bulk.engine
        write_manifest(
            staging,
            COLLECTION_KIND,
            outputs=files_below(staging, "."),
            facts={
                **self.provenance(),
                "engine": engine.name if engine else "",
                "engine_version": engine.version() if engine else "",
                "data_format": self.bulk.param.data_format,
                "seed": self.bulk.place.root_seed,
                "frames": sum(row["frames"] for row in rows),
                "rejected": sum(row["rejected"] for row in rows),
                "sha256": sha256,
                "systems": rows,
            },
        )
        staging.replace(self.folder)  # an empty folder of this name gives way; anything else was refused at the start
        fsync_folder(self.folder.parent)

    def _request(self, staging: Path) -> CollectionRequest:
        bulk = self.bulk
        stages = {
            kind: read_manifest(bulk.work_folder / kind)["facts"]["rows"]
            for kind in ("relax", "aimd", "bigmodel", "scf")
            if is_finished(bulk.work_folder / kind)
        }
        unreadable = unreadable_runs(bulk.work_folder / "scf") if stages.get("scf") is not None else []
        plans = []
        for index, system in enumerate(bulk.systems):
            kind = "scf" if system.scf else "aimd" if system.aimd else "bigmodel" if system.bigmodel else ""
            entry, theory = None, ""
            if kind:
                stage = STAGES[kind](bulk)
                entry = stage.entry(index)
                theory = stage.labeler.level_of_theory(entry)
            lost = [row for row in stages.get("relax", []) if not row["accepted"]]
            if kind == "scf":
                lost += [row for name in ("aimd", "bigmodel") for row in stages.get(name, []) if not row["accepted"]] + unreadable
            plans.append(
                SystemPlan(
                    index=index,
                    structure_file=relative_path(system.file, bulk.place.work_dir),
                    kind=kind,
                    entry=entry,
                    theory=theory,
                    rows=[row for row in stages.get(kind, []) if row["system"] == index],
                    given_up=[row for row in lost if row["system"] == index],
                    shuffle_seed=bulk.seed(index, "shuffle", 0),
                )
            )
        return CollectionRequest(
            work_dir=bulk.place.work_dir,
            staging=staging,
            final=self.folder,
            structures=bulk.work_folder / "structures",
            asked=bulk.work_folder / "scf" / ASKED_FRAMES,
            labeler=bulk.engine,
            md_labeler=bulk.md_engine,
            chosen=chosen_places(bulk),
            chosen_systems=tuple(chosen_systems(bulk)),
            suffix=structure_suffix(bulk.param.labelling.engine),
            data_format=bulk.param.data_format,
            interval=bulk.param.interval,
            shuffle=bulk.param.data_shuffle,
            gates=self.gates,
            systems=plans,
        )

    def _check_counts(self, rows: Sequence[Mapping[str, Any]], staging: Path) -> None:
        frames, rejected = sum(row["frames"] for row in rows), sum(row["rejected_frames"] for row in rows)
        if rejected > self.bulk.failure_budget * (frames + rejected):
            raise BudgetExceededError(
                f"collection: {rejected} of {frames + rejected} labels were rejected, more than {self.bulk.failure_budget:.0%}; "
                f"the reasons stand in {staging}/init_config_*/{REJECTED_FILE}. Mend the cause and start again"
            )
        if not frames and any(system.aimd or system.scf or system.bigmodel for system in self.bulk.systems):
            raise JobError(
                f"collection: no labelled frame is left of any system; the reasons stand in {staging}/init_config_*/{REJECTED_FILE} and in "
                f"{self.bulk.work_folder}. Mend the cause and start again"
            )


def make_collection(request: CollectionRequest) -> tuple[list[dict[str, Any]], str]:
    """Write structures, data and lists; returns a row a system, and the hash of all labels (runs in a child process)."""
    from pwact_like.data.dataset import dataset_hash

    structures = _write_structures(request)
    rows: list[dict[str, Any]] = []
    sha256 = dataset_hash(_collect_systems(request, structures, rows))
    lines = [f"{json.dumps(str(request.final / str(row['data'])), ensure_ascii=False)},\n" for row in rows if row["data"]]
    write_text(request.staging / DATAPATH_FILE, "".join(lines))
    return rows, sha256


def _write_structures(request: CollectionRequest) -> list[Atoms]:
    """Every built structure as the labelling program's users know it; the user's own file is not copied."""
    from pwact_like.data.formats import read_frames

    rows = read_manifest(request.structures)["facts"]["rows"]
    frames = read_frames(request.structures / STRUCTURES_FILE, "extxyz") if rows else []
    for row, frame in zip(rows, frames, strict=True):
        if row["name"] != INITIAL:
            write_structure(request.staging / f"{system_name(row['system'])}/{row['name']}{request.suffix}", frame.atoms)
    return [frame.atoms for frame in frames]


def _collect_systems(request: CollectionRequest, structures: list[Atoms], rows: list[dict[str, Any]]) -> Iterator[Frame]:
    """Write the labels of one system after the other, append its row, and hand its frames on."""
    from pwact_like.data.dataset import dataset_hash
    from pwact_like.data.formats import read_frames

    asked: list[Atoms] = []
    if any(system.kind == "scf" and system.rows for system in request.systems):
        asked = [frame.atoms for frame in read_frames(request.asked, "extxyz")]
    for system in request.systems:
        folder = request.staging / system_name(system.index)
        folder.mkdir(exist_ok=True)
        rejected = [Rejection(str(row["task"]), None, str(row["reason"])) for row in system.given_up]
        if system.kind == "scf":
            frames = list(_single_points(request, system, asked, rejected))
        else:
            frames = list(_md_frames(request, system, structures, rejected))
        if request.shuffle:
            order = np.random.default_rng(system.shuffle_seed).permutation(len(frames))
            frames = [frames[place] for place in order]
        data = f"{folder.name}/{write_labels(folder, frames, request.data_format)}" if frames else ""
        write_text(folder / REJECTED_FILE, _rejected_text(rejected))
        rows.append(
            {
                "system": folder.name,
                "structure": system.structure_file,
                "data": data,
                "frames": len(frames),
                "rejected": sum(not rejection.note for rejection in rejected),
                "rejected_frames": sum(rejection.step is not None for rejection in rejected),
                "level_of_theory": system.theory,
                "sha256": dataset_hash(frames) if frames else None,
                "failed_tasks": [str(row["folder"]) for row in [*system.given_up, *system.rows] if not row["accepted"]],
            }
        )
        yield from frames


def _read(request: CollectionRequest, system: SystemPlan, row: Mapping[str, Any]) -> list[Frame] | str:
    """Frames of an accepted task, or why they cannot be read."""
    labeler = request.md_labeler if system.kind == "bigmodel" else request.labeler
    if labeler is None:
        raise JobError(f"{system_name(system.index)}: labels without a labelling engine")
    try:
        frames = labeler.read(request.work_dir / str(row["folder"]), "scf" if system.kind == "scf" else "aimd")
    except (DataError, ValueError) as error:
        return f"cannot be read: {error}"
    if system.kind == "scf" and len(frames) != 1:
        return f"{len(frames)} frames in the output of a single point"
    return frames


def _single_points(request: CollectionRequest, system: SystemPlan, asked: Sequence[Atoms], rejected: list[Rejection]) -> Iterator[Frame]:
    """Good single points of a system; the others go to ``rejected``."""
    for row in system.rows:
        task, step = str(row["task"]), int(row["step"] or 0)
        frames = _read(request, system, row) if row["accepted"] else str(row["reason"])
        reason = frames if isinstance(frames, str) else _check(frames[0], asked[row["index"]], request.gates)
        if isinstance(frames, str) or reason is not None:
            rejected.append(Rejection(task, step, str(reason)))
        else:
            yield _finished(frames[0], request, system, row, step)


def _md_frames(request: CollectionRequest, system: SystemPlan, structures: Sequence[Atoms], rejected: list[Rejection]) -> Iterator[Frame]:
    """Every n-th good frame of a system's MD runs; the others go to ``rejected``."""
    for row in system.rows:
        task = str(row["task"])
        frames = _read(request, system, row) if row["accepted"] else str(row["reason"])
        if isinstance(frames, str):
            rejected.append(Rejection(task, None, frames))
            continue
        if row["note"]:
            rejected.append(Rejection(task, None, str(row["note"]), note=True))
        places = step_numbers([frame.origin.step for frame in frames])
        present = set(places)
        for place in range(0, max(present, default=-1) + 1, request.interval):
            if place not in present and is_chosen(request.chosen, request.chosen_systems, row, place):
                rejected.append(Rejection(task, place, "the program left no converged label of this frame"))
        for place, frame in zip(places, frames, strict=True):
            if place % request.interval or not is_chosen(request.chosen, request.chosen_systems, row, place):
                continue
            step = frame.origin.step if frame.origin.step >= 0 else place
            start = structures[row["index"]]
            if list(frame.atoms.numbers) != list(start.numbers):
                reason: str | None = "other atoms, or in another order, than the run's first structure"
            else:
                reason = _check(frame, None, request.gates)
            if reason is not None:
                rejected.append(Rejection(task, step, reason))
                continue
            yield _finished(frame, request, system, row, step)


def _check(frame: Frame, asked: Atoms | None, gates: LabelGates) -> str | None:
    from pwact_like.data.checks import check_label

    return check_label(frame, asked, net_force_tolerance=gates.net_force_tolerance, min_distance_ang=gates.min_distance_ang)


def _finished(frame: Frame, request: CollectionRequest, system: SystemPlan, row: Mapping[str, Any], step: int) -> Frame:
    """The frame with its origin: the structure that it stems from (a file that stays, unlike the task's folder), task and step."""
    from pwact_like.data.frames import Origin

    source = system.structure_file
    if row["name"] != INITIAL:
        source = f"{request.final.name}/{system_name(system.index)}/{row['name']}{request.suffix}"
    origin = Origin(source=source, task=f"{system.kind}/{row['task']}", step=step, seed=int(row["seed"]))
    return replace(frame, origin=origin, level_of_theory=system.theory)


def _rejected_text(rejected: Sequence[Rejection]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["task", "step", "reason"])
    for rejection in rejected:
        reason = f"note: {rejection.reason}" if rejection.note else rejection.reason
        writer.writerow([rejection.task, "" if rejection.step is None else rejection.step, reason])
    return stream.getvalue()
