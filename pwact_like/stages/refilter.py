"""Other trust levels on an exploration that was done; PWact's folders can be read too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pwact_like.errors import InputError, Problem
from pwact_like.fsio import is_finished, write_text
from pwact_like.stages.exploration import trajectories_of
from pwact_like.stages.frame_pool import read_pool, write_csvs
from pwact_like.stages.selection import levels_facts, summary
from pwact_like.uncertainty.choice import Choice
from pwact_like.uncertainty.levels import FrameClass, Levels, RelativeLevels, TrustLevels
from pwact_like.uncertainty.table import DIMENSIONLESS, read_table

TABLE_NAMES = ("model_devi.out", "kpu_model_devi.out")


def refilter(md_dir: Path, lower: float, upper: float, *, save: bool) -> tuple[str, Path | None]:
    """Classify the frames again; returns the summary and where it was saved.

    Parameters
    ----------
    md_dir
        The exploration.
    lower, upper
        In eV/Å, or, where the tables hold a variance without unit, both as multiples of each run's own first values.
    save
        Write the lists of frames.

    Raises
    ------
    InputError
        For levels in the wrong order, or a folder without deviation tables.
    """
    if not lower < upper:
        raise InputError(Problem("-l, -u", f"the lower level {lower} is not below the upper level {upper}"))
    folder, work_dir, trajectories = _find(md_dir)
    pool = read_pool(trajectories, work_dir)
    levels: Levels = RelativeLevels(lower, upper / lower) if pool.unit == DIMENSIONLESS else TrustLevels(lower, upper)
    classes = pool.classify(levels)
    nothing = np.empty(0, dtype=np.int64)
    choice = Choice(np.flatnonzero(classes == FrameClass.CANDIDATE), nothing, nothing)
    facts: dict[str, Any] = {
        **pool.counts(classes),
        **levels_facts(levels, "the command line"),
        "kind": pool.kind,
        "chosen_candidates": len(choice.candidates),
        "chosen_random": 0,
        "rescued": 0,
        "notes": list(pool.notes),
    }
    text = summary(facts, trajectories, pool, levels)
    if not save:
        return text, None
    target = folder.parent / "filter"
    target.mkdir(exist_ok=True)
    write_csvs(target, pool, classes, choice)
    write_text(target / "select_summary.txt", text)
    return text, target


def _find(md_dir: Path) -> tuple[Path, Path, list[dict[str, Any]]]:
    """(md folder, folder that the rows' paths are relative to, rows)."""
    for folder in (md_dir, md_dir / "md"):
        if is_finished(folder):
            rows = trajectories_of(folder)
            return folder, folder.parents[2], rows
    folder = md_dir / "md" if (md_dir / "md").is_dir() else md_dir
    tables = sorted(path for name in TABLE_NAMES for path in folder.rglob(name) if ".attempt" not in path.parts)
    if not tables:
        raise InputError(
            Problem(str(md_dir), f"no deviation table ({' or '.join(TABLE_NAMES)}) below it", "give iter.NNNN/01.explore or its md folder")
        )
    rows = []
    for index, table in enumerate(tables):
        # without a manifest (PWact's own folders) nobody knows what was planned: what is there counts
        frames = len(read_table(table).steps)
        rows.append(
            {
                "system": table.parent.parent.name,
                "leaf": table.parent.name,
                "group": index,
                "quota": frames,
                "frames_planned": frames,
                "trajectory": str(table.parent / "traj"),
                "table": str(table),
                "ended": "",
            }
        )
    return folder, folder, rows
