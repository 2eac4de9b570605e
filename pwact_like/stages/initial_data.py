"""The initial data: train, validation and test frames, disjoint, fixed before the first iteration."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.errors import InputError, Problem
from pwact_like.fsio import write_manifest
from pwact_like.jobs.types import Task, TaskResult
from pwact_like.outcome import Ok, Outcome
from pwact_like.seeds import derive_seed
from pwact_like.stages.base import Fork, Place, Stage
from pwact_like.stages.labelling import HASHES_FILE, write_hashes

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.data.frames import Frame

log = logging.getLogger(__name__)

DATASET_FOLDER = "dataset"
DATASET_KIND = "dataset"
LEAST_VALID = 2  # frames that a calibration takes at least
FILES = {"train": "train.xyz", "valid": "valid.xyz", "test": "test.xyz"}


@dataclass(frozen=True)
class InitialDataRequest:
    """Everything the child process needs; picklable.

    ``valid_share`` of init_data becomes the validation set when there is no valid_data; 0: then there is none. It is fixed here, for
    all iterations: what a model has been warm-started from must not have seen the frames that tell how wrong it is.
    """

    folder: Path
    init_data: Sequence[DataPath]
    valid_data: Sequence[DataPath]
    test_data: Sequence[DataPath]
    test_share: float
    seed: int
    allow_mixed_theory: bool
    label_theory: str
    elements: tuple[int, ...]
    valid_share: float = 0.0

    def sources(self) -> dict[str, list[list[Any]]]:
        """Path, bytes, format and sign of everything that is read; the campaign and its data may be moved, so paths say little."""
        named = {"init_data": self.init_data, "valid_data": self.valid_data, "test_data": self.test_data}
        return {key: [[str(one.path), _bytes_of(one.path), one.format, one.virial_sign] for one in paths] for key, paths in named.items()}


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
        if facts["repeated"]:
            log.warning("%d frames of the initial data stand there more than once; each is taken once", facts["repeated"])
        outputs = [name for kind, name in FILES.items() if facts["frames"][kind]] + [HASHES_FILE]
        write_manifest(self.folder, DATASET_KIND, outputs=outputs, facts={**facts, "sources": self.request.sources()})

    def refuse_new_sources(self) -> None:
        """Refuse data that were named or changed after the sets were made: they would be ignored without a word.

        Raises
        ------
        InputError
            Naming every such path.
        """
        recorded = self.facts.get("sources")
        if recorded is None:
            return
        problems = []
        for key, asked in self.request.sources().items():
            left = [tuple(row[1:]) for row in recorded[key]]
            for path, *looks in asked:
                if tuple(looks) in left:
                    left.remove(tuple(looks))
                    continue
                problems.append(
                    Problem(
                        f"param.json: {key}",
                        f"{path} was added, or its content changed, after the campaign's data sets were made in {self.folder}; "
                        "they are fixed, and it would be ignored",
                        "undo the change, or begin in another folder (the labels so far can be init_data there: pwact-like gather_pwdata); "
                        "while nothing was trained yet, removing dataset and iter.0000 is enough",
                    )
                )
        if problems:
            raise InputError(problems)


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

    named = {"train": request.init_data, "valid": request.valid_data, "test": request.test_data}
    found = {kind: read_data_paths(paths) for kind, paths in named.items()}
    # a frame that stands twice in init_data must not be split into both train and test
    sets: dict[str, list[Frame]] = {kind: _each_once(frames) for kind, frames in found.items()}
    n_read = sum(map(len, sets.values()))
    source = "test_data" if sets["test"] else ""
    if not sets["test"] and request.test_share > 0.0 and len(sets["train"]) > 1:
        sets["train"], sets["test"] = split(sets["train"], request.test_share, request.seed)
        source = f"a share of {request.test_share} of init_data"
    if not sets["valid"] and request.valid_share > 0.0 and len(sets["train"]) >= 2 * LEAST_VALID:
        share = max(request.valid_share, LEAST_VALID / len(sets["train"]))
        sets["train"], sets["valid"] = split(sets["train"], share, derive_seed(request.seed, "validation set"))
    problems = [*_content_problems(sets, request), *_overlaps(sets), *_theory_problems(sets, request)]
    if problems:
        raise InputError(problems)
    for kind, name in FILES.items():
        if sets[kind]:
            write_frames(request.folder / name, sets[kind], "extxyz")
    write_hashes(request.folder, [frame for frames in sets.values() for frame in frames])
    return {
        "frames": {kind: len(frames) for kind, frames in sets.items()},
        "repeated": sum(map(len, found.values())) - n_read,
        "test_source": source,
        "levels_of_theory": sorted({frame.level_of_theory for frames in sets.values() for frame in frames}),
        "seed": request.seed,
    }


def _each_once(frames: Sequence[Frame]) -> list[Frame]:
    """The frames in their order, each once; those without a label stay, to be complained of."""
    from pwact_like.data.hashes import frame_hash

    first: dict[str, Frame] = {}
    for place, frame in enumerate(frames):
        first.setdefault(f"unlabelled {place}" if frame.label is None else frame_hash(frame), frame)
    return list(first.values())


def _bytes_of(path: Path) -> int:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


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
