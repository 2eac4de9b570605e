"""The selection stage: classify every explored frame, choose what is labelled, fetch those frames.

It reads deviation tables and nothing else of the exploration, then fetches the chosen frames; all of it in a child
process, so that the master stays small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.frames import Frame, Origin
from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_json, write_manifest, write_text
from pwact_like.jobs.types import Task, TaskResult
from pwact_like.outcome import Ok, Outcome
from pwact_like.stages.base import Fork, Place, Stage
from pwact_like.stages.exploration import trajectories_of
from pwact_like.stages.frame_pool import CSV_NAMES, FramePool, read_pool, write_csvs
from pwact_like.uncertainty.choice import Choice, choose
from pwact_like.uncertainty.levels import FrameClass, Levels, RelativeLevels, TrustLevels

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import DataPath
    from pwact_like.engines.protocols import Explorer

SELECTION_FILE = "selection.json"
FRAMES_FILE = "candidate.xyz"
SUMMARY_FILE = "select_summary.txt"
CHOSEN_FILE = "chosen.json"  # in the choice's folder: numbers of the iteration's frames


@dataclass(frozen=True)
class SelectionRequest:
    """Everything the child process needs; picklable.

    ``levels_from`` tells where the levels come from; ``choice`` is the finished product of a choice among the candidates, None where
    they are drawn at random.
    """

    place: Place
    explorer: Explorer
    md_folder: Path
    folder: Path
    levels: Levels
    levels_from: str
    random_share: float
    lmps_tolerance: bool
    min_distance_ang: float
    test_data: tuple[DataPath, ...] = ()
    choice: Path | None = None


@dataclass
class SelectionStage(Stage):
    """Choose the frames of one iteration."""

    request: SelectionRequest
    fork: Fork
    name: str = "select"
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
        """Run the selection in a child process, then write the manifest."""
        facts = self.fork(select, self.request)
        outputs = [*CSV_NAMES.values(), SELECTION_FILE, SUMMARY_FILE, *([FRAMES_FILE] if facts["selected"] else [])]
        write_manifest(self.folder, "selection", outputs=outputs, facts=facts)


def select(request: SelectionRequest) -> dict[str, Any]:
    """Classify, choose, fetch, and write every file of the selection; returns its facts (runs in a child process)."""
    trajectories = trajectories_of(request.md_folder)
    pool = read_pool(trajectories, request.place.work_dir, lmps_tolerance=request.lmps_tolerance)
    pool.refuse_other_unit(request.levels)
    classes = pool.classify(request.levels)
    in_test = starts_in_test_set(request, pool, classes, trajectories)
    choice = choose(
        classes,
        pool.values,
        pool.groups,
        pool.quotas,
        eligible=pool.eligible & ~in_test,
        chosen=chosen_before(request.choice, classes),
        random_share=request.random_share,
        root_seed=request.place.root_seed,
        iteration=request.place.iteration,
    )
    request.folder.mkdir(parents=True, exist_ok=True)
    rows = _fetch(request, pool, choice, trajectories)
    write_csvs(request.folder, pool, classes, choice)
    write_json(request.folder / SELECTION_FILE, rows)
    counts = pool.counts(classes)
    facts: dict[str, Any] = {
        **counts,
        "trajectories": len(trajectories),
        **levels_facts(request.levels, request.levels_from),
        "kind": pool.kind,
        "selected": len(rows),
        "chosen_candidates": len(choice.candidates),
        "chosen_random": len(choice.random),
        "rescued": len(choice.rescued),
        "unphysical": sum(row["reject"] is not None for row in rows),
        "notes": list(pool.notes),
    }
    write_text(request.folder / SUMMARY_FILE, summary(facts, trajectories, pool, request.levels))
    return facts


def chosen_before(folder: Path | None, classes: NDArray[np.int8]) -> NDArray[np.int64] | None:
    """The candidates that the stage before has chosen; None without one.

    Raises
    ------
    DataError
        When they are no candidates now.
    """
    if folder is None:
        return None
    chosen = np.array(read_json(folder / CHOSEN_FILE)["frames"], dtype=np.int64)
    if len(chosen) and (chosen.max() >= len(classes) or (classes[chosen] != FrameClass.CANDIDATE).any()):
        raise DataError(
            f"{folder}: frames were chosen that are no candidates by the levels of now: the levels were edited since; undo the change, "
            "or choose again (pwact-like rewind --to ITERATION:select)"
        )
    return chosen


def starts_in_test_set(
    request: SelectionRequest, pool: FramePool, classes: NDArray[np.int8], trajectories: Sequence[Mapping[str, Any]]
) -> NDArray[np.bool_]:
    """Start structures that the test set holds; labelled once more they would be trained on.

    Later frames of an MD run are never the same as any other's.
    """
    from pwact_like.data.checks import same_structure
    from pwact_like.data.dataset import read_data_paths

    found = np.zeros(len(classes), dtype=bool)
    places = np.flatnonzero((pool.steps == 0) & pool.eligible & (classes != FrameClass.FAILED))
    if not len(places) or not request.test_data:
        return found
    known: dict[bytes, list[Atoms]] = {}
    for frame in read_data_paths(request.test_data):
        known.setdefault(frame.atoms.numbers.tobytes(), []).append(frame.atoms)
    for place in places:
        folder = (request.place.work_dir / str(trajectories[int(pool.trajectory[place])]["trajectory"])).parent
        (start,) = request.explorer.frames(folder, [0])
        found[place] = any(same_structure(other, start) is None for other in known.get(start.numbers.tobytes(), ()))
    return found


def _fetch(request: SelectionRequest, pool: FramePool, choice: Choice, trajectories: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fetch the chosen frames into candidate.xyz, in the order of the rows of selection.json."""
    from pwact_like.data.checks import minimum_distance_ang
    from pwact_like.data.formats import write_frames

    kinds = {"candidate": choice.candidates, "random": choice.random, "rescued": choice.rescued}
    kind_of = {int(index): kind for kind, indices in kinds.items() for index in indices}
    frames: list[Frame] = []
    rows: list[dict[str, Any]] = []
    wanted = np.array(sorted(kind_of), dtype=np.int64)
    for index, row, step, atoms in fetch(request, pool, wanted, trajectories):
        distance = minimum_distance_ang(atoms, request.min_distance_ang)
        too_close = distance < request.min_distance_ang
        rows.append(
            {
                "system": row["system"],
                "leaf": row["leaf"],
                "step": step,
                "value": float(pool.values[index]) if np.isfinite(pool.values[index]) else None,
                "why": kind_of[index],
                "reject": f"two atoms only {distance:.3f} Å apart (strategy.min_distance_ang {request.min_distance_ang})"
                if too_close
                else None,
            }
        )
        origin = Origin(source=str(row["trajectory"]), iteration=request.place.iteration, task=str(row["leaf"]), step=step)
        frames.append(Frame(atoms, origin=origin))
    if frames:
        write_frames(request.folder / FRAMES_FILE, frames, "extxyz")
    return rows


def fetch(
    request: SelectionRequest, pool: FramePool, wanted: NDArray[np.int64], trajectories: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int, Mapping[str, Any], int, Atoms]]:
    """(number in the pool, row of its trajectory, MD step, structure) of these frames, trajectory by trajectory; ``wanted`` is sorted."""
    for trajectory in np.unique(pool.trajectory[wanted]):
        row = trajectories[int(trajectory)]
        indices = wanted[pool.trajectory[wanted] == trajectory]
        steps = [int(step) for step in pool.steps[indices]]
        folder = (request.place.work_dir / str(row["trajectory"])).parent
        for index, step, atoms in zip(indices, steps, request.explorer.frames(folder, steps), strict=True):
            yield int(index), row, step, atoms


def levels_facts(levels: Levels, source: str) -> dict[str, Any]:
    """The levels in force: in eV/Å, or both as multiples of each run's own first values (``relative``); and where they come from."""
    relative = isinstance(levels, RelativeLevels)
    return {
        "lower": levels.lower,
        "upper": levels.lower * levels.upper if relative else levels.upper,
        "relative": relative,
        "levels_from": source,
    }


def levels_from(facts: Mapping[str, Any]) -> Levels:
    """The levels that `levels_facts` has recorded."""
    lower, upper = float(facts["lower"]), float(facts["upper"])
    return RelativeLevels(lower, upper / lower) if facts["relative"] else TrustLevels(lower, upper)


def levels_text(facts: Mapping[str, Any]) -> str:
    """The levels in force as people read them."""
    unit = "times each run's own first values" if facts.get("relative") else "eV/Å"
    return f"lower {facts['lower']:.6g} upper {facts['upper']:.6g} {unit}"


def summary(facts: Mapping[str, Any], trajectories: Sequence[Mapping[str, Any]], pool: FramePool, levels: Levels) -> str:
    """Text of select_summary.txt."""
    planned = facts["frames_planned"]
    relative = isinstance(levels, RelativeLevels)
    lines = [
        f"levels: {levels_text(facts)} ({facts['kind']}), from {facts['levels_from']}",
        counts_line(facts),
        f"frames written {facts['frames']}, missing of those planned {planned - facts['frames']} (counted as error)",
        f"for labelling: {facts['chosen_candidates']} candidates, {facts['chosen_random']} at random"
        + (f", {facts['rescued']} of the least bad failed frames (there was no candidate)" if facts["rescued"] else ""),
        "",
        f"{'trajectory':<32} {'planned':>8} {'accurate':>9} {'candidate':>10} {'error':>7}"
        + (f" {'lower':>11} {'upper':>11}" if relative else "")
        + "  end",
    ]
    for index, row in enumerate(trajectories):
        accurate, candidate, failed = pool.counts_of(index, levels)
        own = pool.levels_of(index, levels)
        lines.append(
            f"{row['leaf']:<32} {row['frames_planned']:>8} {accurate:>9} {candidate:>10} {failed:>7}"
            + (f" {own.lower:>11.4g} {own.upper:>11.4g}" if relative else "")
            + f"  {row['ended'] or 'complete'}"
        )
    lines += ["", *facts["notes"]] if facts["notes"] else []
    return "\n".join(lines) + "\n"


def counts_line(facts: Mapping[str, Any]) -> str:
    """The counts as PWact's users know them, fractions of the planned frames."""
    total = facts["frames_planned"]

    def part(name: str, count: int) -> str:
        return f"{name} {count} rate {100.0 * count / total if total else 0.0:.2f}%"

    return "    ".join(
        [
            f"Total structures {total}",
            part("accurate", facts["accurate"]),
            part("selected", facts["candidate"]),
            part("error", facts["failed"]),
        ]
    )


def selection_folder(md_folder: Path) -> Path:
    """The product folder of the selection among an exploration's frames."""
    return md_folder.parent / "select"


def selection_request(
    place: Place,
    explorer: Explorer,
    md_folder: Path,
    strategy: Any,
    levels: Levels,
    levels_from: str,
    test_data: tuple[DataPath, ...] = (),
) -> SelectionRequest:
    """Request of one iteration from the campaign's strategy."""
    return SelectionRequest(
        place=place,
        explorer=explorer,
        md_folder=md_folder,
        folder=selection_folder(md_folder),
        levels=levels,
        levels_from=levels_from,
        random_share=strategy.random_share,
        lmps_tolerance=strategy.lmps_tolerance,
        min_distance_ang=strategy.min_distance_ang,
        test_data=test_data,
    )
