"""The plan of a rewind: on the disk before the first folder is moved, gone when all is done.

As long as it is there the rewind is half done: the same command completes it, and `run` refuses to start.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import fsync_folder, read_json, write_json

PLAN_NAME = "rewind.json"


@dataclass(frozen=True)
class RewindPlan:
    """What a rewind moves, and where to.

    Attributes
    ----------
    target
        ``ITERATION:STAGE``.
    aside
        Folder that the results are moved into, relative to the campaign's.
    moves
        What is moved, relative to the campaign's folder, in this order: the latest results first, so that at any moment what is
        left is a campaign that got less far.
    iterations
        How many iterations are left, the one under way among them.
    """

    target: str
    aside: str
    moves: tuple[str, ...]
    iterations: int


def write_plan(state_dir: Path, plan: RewindPlan) -> None:
    """Record that a rewind has begun."""
    write_json(state_dir / PLAN_NAME, asdict(plan))


def read_plan(state_dir: Path) -> RewindPlan | None:
    """The rewind that is half done; None when there is none.

    Raises
    ------
    DataError
        When the file is not a plan.
    """
    path = state_dir / PLAN_NAME
    if not path.exists():
        return None
    stored: Any = read_json(path)
    try:
        return RewindPlan(str(stored["target"]), str(stored["aside"]), tuple(map(str, stored["moves"])), int(stored["iterations"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the plan of a rewind ({error!r}); was it edited?") from error


def drop_plan(state_dir: Path) -> None:
    """Record that the rewind is done."""
    (state_dir / PLAN_NAME).unlink(missing_ok=True)
    fsync_folder(state_dir)


def refuse_half_rewound(state_dir: Path) -> None:
    """Refuse to work in a folder where a rewind is half done: some results are moved aside, and the journal still knows them.

    Raises
    ------
    InputError
        Naming the command that completes it.
    """
    plan = read_plan(state_dir)
    if plan is None:
        return
    work_dir = state_dir.parent.parent
    raise InputError(
        Problem(
            str(work_dir),
            f"a rewind to {plan.target} was interrupted: some results are in {plan.aside}, others still in their places",
            f"complete it: pwact-like rewind --to {plan.target} --work-dir {shlex.quote(str(work_dir))}",
        )
    )
