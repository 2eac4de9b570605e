"""Trajectories of several runs a task, for explorers whose small cells cost less together than one after the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.fsio import relative_path

if TYPE_CHECKING:
    from pwact_like.stages.exploration import Run


@dataclass(frozen=True)
class MdBatch:
    """Runs that share a process: ``folder/LEAF`` is each one's."""

    number: int
    folder: Path
    runs: tuple[Run, ...]

    def run_folder(self, run: Run) -> Path:
        """Where the run's files are."""
        return self.folder / run.leaf


def batches(folder: Path, runs: Sequence[Run], size: int) -> list[MdBatch]:
    """Share runs out, ``size`` to a batch at most and as evenly as can be, in their order.

    Only runs of the same length and the same distance of frames share one: all are then evaluated, and assessed, at the same steps to
    the end, and the list of neighbours that serves them need not change.
    """
    alike: dict[tuple[int, int], list[Run]] = {}
    for run in runs:
        alike.setdefault((run.md.nsteps, run.md.trj_freq), []).append(run)
    found: list[MdBatch] = []
    for group in alike.values():
        count = -(-len(group) // size)
        least, more = divmod(len(group), count)
        first = 0
        for place in range(count):
            last = first + least + (place < more)
            found.append(MdBatch(len(found), folder / f"batch.{len(found):03d}", tuple(group[first:last])))
            first = last
    return found


def link_to(usual: Path, real: Path) -> None:
    """Let the usual name of a run's folder lead to where it is, unless something lies there (a run from before the batches)."""
    usual.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(usual):
        usual.symlink_to(relative_path(real, usual.parent))
