"""The initial data: train, validation and test frames, disjoint, fixed before the first iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.errors import InputError, Problem
from pwact_like.fsio import write_manifest
from pwact_like.jobs.types import Task, TaskResult
from pwact_like.outcome import Ok, Outcome
from pwact_like.stages.base import Fork, Place, Stage
from pwact_like.stages.labelling import HASHES_FILE, write_hashes

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.data.frames import Frame

FILES = {"train": "train.xyz", "valid": "valid.xyz", "test": "test.xyz"}


@dataclass(frozen=True)
class InitialDataRequest:
    """Everything the child process needs; picklable."""

    folder: Path
    init_data: Sequence[DataPath]
    valid_data: Sequence[DataPath]
    test_data: Sequence[DataPath]
    test_share: float
    seed: int
    allow_mixed_theory: bool
    label_theory: str
    elements: tuple[int, ...]


@dataclass
class InitialDataStage(Stage):
    """Read the user's data once, check it, split off the test set, and keep it in the campaign's own folder."""

    place: Place
    request: InitialDataRequest
    fork: Fork
    name: str = "dataset"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folder."""
        self.folder = self.request.folder

    def plan(self) -> list[Task]:
        """Nothing to submit."""
        return []

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """Nothing to judge."""
        return Ok()

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """Read and write in a child process (large files stay out of the master)."""
        facts = self.fork(make_initial_data, self.request)
        outputs = [name for kind, name in FILES.items() if facts["frames"][kind]] + [HASHES_FILE]
        write_manifest(self.folder, "dataset", outputs=outputs, facts=facts)


def make_initial_data(request: InitialDataRequest) -> dict[str, Any]:
    """Read, check, split, write; returns the facts (runs in a child process).

    Raises
    ------
    InputError
        For data without labels, of elements that the model does not know, of mixed levels of theory, or for frames that
        stand in two of the three sets.
    """
    from pwact_like.data.dataset import read_data_paths, split
    from pwact_like.data.formats import write_frames

    sets: dict[str, list[Frame]] = {
        "train": read_data_paths(request.init_data),
        "valid": read_data_paths(request.valid_data),
        "test": read_data_paths(request.test_data),
    }
    source = "test_data" if sets["test"] else ""
    if not sets["test"] and request.test_share > 0.0 and len(sets["train"]) > 1:
        sets["train"], sets["test"] = split(sets["train"], request.test_share, request.seed)
        source = f"a share of {request.test_share} of init_data"
    problems = [*_content_problems(sets, request), *_overlaps(sets), *_theory_problems(sets, request)]
    if problems:
        raise InputError(problems)
    for kind, name in FILES.items():
        if sets[kind]:
            write_frames(request.folder / name, sets[kind], "extxyz")
    write_hashes(request.folder, [frame for frames in sets.values() for frame in frames])
    return {
        "frames": {kind: len(frames) for kind, frames in sets.items()},
        "test_source": source,
        "levels_of_theory": sorted({frame.level_of_theory for frames in sets.values() for frame in frames}),
        "seed": request.seed,
    }


def _content_problems(sets: Mapping[str, Sequence[Frame]], request: InitialDataRequest) -> list[Problem]:
    key = {"train": "init_data", "valid": "valid_data", "test": "test_data"}
    problems = []
    for kind, frames in sets.items():
        unlabelled = sum(frame.label is None for frame in frames)
        if unlabelled:
            problems.append(Problem(key[kind], f"{unlabelled} of {len(frames)} frames have no energy and forces", "give labelled data"))
        strange = sorted({int(number) for frame in frames for number in frame.atoms.numbers} - set(request.elements))
        if strange:
            problems.append(
                Problem(key[kind], f"holds the elements {strange}, which train.atom_type {list(request.elements)} does not", "add them")
            )
    return problems


def _overlaps(sets: Mapping[str, Sequence[Frame]]) -> list[Problem]:
    from pwact_like.data.hashes import frame_hash

    hashes = {kind: {frame_hash(frame) for frame in frames if frame.label is not None} for kind, frames in sets.items()}
    problems = []
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        shared = len(hashes[first] & hashes[second])
        if shared:
            problems.append(
                Problem(
                    f"{first} and {second} data",
                    f"{shared} frames stand in both; a test on training data says nothing",
                    "take them out of one of the two",
                )
            )
    return problems


def _theory_problems(sets: Mapping[str, Sequence[Frame]], request: InitialDataRequest) -> list[Problem]:
    if request.allow_mixed_theory:
        return []
    known = {frame.level_of_theory for frames in sets.values() for frame in frames} | {request.label_theory}
    known.discard("")
    if len(known) < 2:
        return []
    return [
        Problem(
            "init_data and DFT",
            f"different levels of theory: {', '.join(sorted(known))}; energies of different programs or settings do not belong together",
            "label everything with the same settings, or set strategy.allow_mixed_theory to true if you know better",
        )
    ]
