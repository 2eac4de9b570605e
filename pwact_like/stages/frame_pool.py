"""All explored frames of an iteration as arrays, and PWact's csv files of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError
from pwact_like.fsio import write_through
from pwact_like.uncertainty.choice import Choice
from pwact_like.uncertainty.levels import FrameClass, Levels, RelativeLevels, TrustLevels
from pwact_like.uncertainty.table import DIMENSIONLESS, read_table

CSV_NAMES = {
    "accurate": "accurate.csv",
    "candidate": "candidate.csv",
    "candidate_delete": "candidate_delete.csv",
    "fail": "fail.csv",
    "random": "random.csv",
}
CSV_HEADER = ",devi_force,config_index,file_path\n"


@dataclass(frozen=True)
class FramePool:
    """Frames of all trajectories, in order.

    Attributes
    ----------
    values, steps, trajectory, groups
        Shape (n_frames,): deviation in the tables' unit (eV/Å), MD step, number of the trajectory, number of the explored structure.
    eligible
        False where a frame may not be labelled: the start structure seen again in another trajectory, or frames of a
        run that died early when lmps_tolerance is off.
    untrusted
        True where a frame counts as failed whatever its value (lmps_tolerance off).
    planned
        Planned frames of each trajectory; quotas: of each group; paths: trajectory files, absolute.
    kind, unit
        Of all tables: ``committee in eV/Ang`` and ``eV/Ang``, say; "none" and "" when there are no frames.
    """

    values: NDArray[np.float64]
    steps: NDArray[np.int64]
    trajectory: NDArray[np.int32]
    groups: NDArray[np.int32]
    eligible: NDArray[np.bool_]
    untrusted: NDArray[np.bool_]
    planned: tuple[int, ...]
    quotas: tuple[int, ...]
    paths: tuple[str, ...]
    kind: str
    unit: str
    notes: tuple[str, ...]

    def _span(self, trajectory: int) -> slice:
        return slice(*np.searchsorted(self.trajectory, [trajectory, trajectory + 1]))

    def levels_of(self, trajectory: int, levels: Levels) -> TrustLevels:
        """The levels of one trajectory, in the tables' unit."""
        return levels.of_run(self.values[self._span(trajectory)])

    def refuse_other_unit(self, levels: Levels) -> None:
        """Refuse levels that are not meant for the tables' unit.

        Raises
        ------
        DataError
            With the cure.
        """
        relative = isinstance(levels, RelativeLevels)
        if self.unit and relative != (self.unit == DIMENSIONLESS):
            wanted = "multiples of each run's first frames" if relative else "in eV/Å"
            raise DataError(
                f"the deviation tables are {self.kind}, and the levels are {wanted}: kpu_scale was edited since the exploration; "
                "undo the change, or explore again (pwact-like rewind --to ITERATION:explore)"
            )

    def classify(self, levels: Levels) -> NDArray[np.int8]:
        """Class of every frame."""
        if isinstance(levels, TrustLevels):
            classes = levels.classify(self.values)
        else:
            classes = np.full(len(self.values), FrameClass.FAILED, dtype=np.int8)
            for trajectory in np.unique(self.trajectory):
                span = self._span(int(trajectory))
                classes[span] = levels.of_run(self.values[span]).classify(self.values[span])
        classes[self.untrusted] = FrameClass.FAILED
        return classes

    def counts(self, classes: NDArray[np.int8]) -> dict[str, int]:
        """Frames of each class; what is missing of the planned frames counts as failed."""
        planned = sum(self.planned)
        found = np.bincount(classes, minlength=3)
        return {
            "frames_planned": planned,
            "frames": len(self.values),
            "accurate": int(found[FrameClass.ACCURATE]),
            "candidate": int(found[FrameClass.CANDIDATE]),
            "failed": int(found[FrameClass.FAILED]) + planned - len(self.values),
        }

    def counts_of(self, trajectory: int, levels: Levels) -> tuple[int, int, int]:
        """(accurate, candidate, failed) of one trajectory."""
        span = self._span(trajectory)
        classes = levels.of_run(self.values[span]).classify(self.values[span])
        classes[self.untrusted[span]] = FrameClass.FAILED
        found = np.bincount(classes, minlength=3)
        return int(found[0]), int(found[1]), int(found[2]) + self.planned[trajectory] - len(classes)


def read_pool(trajectories: Sequence[Mapping[str, Any]], work_dir: Path, *, lmps_tolerance: bool = True) -> FramePool:
    """Read the deviation tables of an exploration's trajectory rows (see ``ExplorationStage.collect``).

    Raises
    ------
    DataError
        When a table cannot be read or holds more frames than were planned, or the tables are of different kinds.
    """
    values, steps, untrusted, lengths, notes = [], [], [], [], []
    kinds: dict[str, str] = {}
    unit = ""
    for row in trajectories:
        if row["table"] is None:
            lengths.append(0)
            notes.append(f"{row['leaf']}: no frames: {row['ended']}")
            continue
        path = work_dir / row["table"]
        table = read_table(path)
        if len(table.steps) > row["frames_planned"]:
            raise DataError(
                f"{path}: {len(table.steps)} frames, but only {row['frames_planned']} were planned; is this another run's file?"
            )
        if table.note:
            notes.append(f"{row['leaf']}: {table.note}")
        kinds.setdefault(f"{table.kind}, a variance" if table.unit == DIMENSIONLESS else f"{table.kind} in {table.unit}", str(path))
        unit = table.unit
        values.append(table.value)
        steps.append(table.steps)
        distrusted = bool(row["ended"]) and not lmps_tolerance
        untrusted.append(np.full(len(table.steps), distrusted))
        lengths.append(len(table.steps))
    if len(kinds) > 1:
        listed = "; ".join(f"{kind}: {path}" for kind, path in kinds.items())
        raise DataError(f"the deviation tables are of different kinds and cannot share trust levels: {listed}")
    group_of = np.array([row["group"] for row in trajectories], dtype=np.int32)
    trajectory = np.repeat(np.arange(len(trajectories), dtype=np.int32), lengths)
    quotas = [0] * (int(group_of.max()) + 1 if len(group_of) else 0)
    for row in trajectories:
        quotas[row["group"]] = row["quota"]
    all_steps = np.concatenate(steps) if steps else np.empty(0, dtype=np.int64)
    all_untrusted = np.concatenate(untrusted) if untrusted else np.empty(0, dtype=bool)
    return FramePool(
        values=np.concatenate(values) if values else np.empty(0),
        steps=all_steps,
        trajectory=trajectory,
        groups=group_of[trajectory] if len(trajectory) else np.empty(0, dtype=np.int32),
        eligible=~(_repeated_starts(trajectories, trajectory, all_steps) | all_untrusted),
        untrusted=all_untrusted,
        planned=tuple(int(row["frames_planned"]) for row in trajectories),
        quotas=tuple(quotas),
        paths=tuple(str(work_dir / row["trajectory"]) if row["trajectory"] else "" for row in trajectories),
        kind=next(iter(kinds), "none"),
        unit=unit,
        notes=tuple(notes),
    )


def _repeated_starts(
    trajectories: Sequence[Mapping[str, Any]], trajectory: NDArray[np.int32], steps: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Step 0 of every trajectory but the first from the same structure file: the same atoms again."""
    seen: set[str] = set()
    repeated = np.zeros(len(trajectories), dtype=bool)
    for index, row in enumerate(trajectories):
        structure = row.get("structure")
        if structure is None or row["table"] is None:
            continue
        repeated[index] = structure in seen
        seen.add(structure)
    return np.asarray(repeated[trajectory] & (steps == 0)) if len(trajectory) else np.empty(0, dtype=bool)


def write_csvs(folder: Path, pool: FramePool, classes: NDArray[np.int8], choice: Choice) -> None:
    """Write accurate, candidate, candidate_delete, fail and random.csv; every frame stands in exactly one of the first four.

    candidate.csv holds what is labelled for its deviation (rescued frames too), candidate_delete.csv the surplus;
    random.csv repeats the frames that are labelled for the random share.
    """
    labelled = np.zeros(len(classes), dtype=bool)
    labelled[choice.candidates] = True
    labelled[choice.rescued] = True
    is_candidate = classes == FrameClass.CANDIDATE
    parts = {
        "accurate": np.flatnonzero(classes == FrameClass.ACCURATE),
        "candidate": np.flatnonzero(labelled),
        "candidate_delete": np.flatnonzero(is_candidate & ~labelled),
        "fail": np.flatnonzero((classes == FrameClass.FAILED) & ~labelled),
        "random": choice.random,
    }
    for name, indices in parts.items():
        write_through(folder / CSV_NAMES[name], lambda path, indices=indices: _write_csv(path, pool, indices))  # type: ignore[misc]


def _write_csv(path: Path, pool: FramePool, indices: NDArray[np.int64]) -> None:
    # one trajectory at a time: the text of 10⁶ frames never stands in memory at once
    trajectory = pool.trajectory[indices]
    borders = np.flatnonzero(np.diff(trajectory)) + 1
    with path.open("w", encoding="utf-8") as stream:
        stream.write(CSV_HEADER)
        row = 0
        for part in np.split(indices, borders) if len(indices) else []:
            file_path = _csv_text(pool.paths[int(pool.trajectory[part[0]])])
            cells = zip(
                map(str, range(row, row + len(part))),
                map(repr, pool.values[part].tolist()),
                map(str, pool.steps[part].tolist()),
                strict=True,
            )
            # joins of C loops: 10⁶ formatted lines would take half as long again
            stream.write(f",{file_path}\n".join(map(",".join, cells)) + f",{file_path}\n")
            row += len(part)


def _csv_text(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text
