"""Back to an earlier stage of a campaign: its results and all later ones are moved aside, and the journal forgets them.

Nothing is deleted. What comes next is a function of the products alone (`active_learning`), so the next start goes on
from the stage; with the same settings and seed it comes to the same data set. Beside the stages' own folders, a later
stage leaves: lines in al.record and iter_select.txt (written anew, the old ones are kept), tasks and jobs in the
journal, the status, and trajectories that were cut down to their selected frames (why a selection alone cannot always
be made anew).
"""

from __future__ import annotations

import difflib
import json
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pwact_like.crashpoints import reach
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import LEDGER_NAME, fsync_folder, read_json, safe_join, write_bytes
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.types import EndCause
from pwact_like.stages.base import Place
from pwact_like.stages.exploration import entry_explored
from pwact_like.stages.thinning import is_thinned
from pwact_like.workflows.at_rest import at_rest
from pwact_like.workflows.edits import forget_stage
from pwact_like.workflows.history import STAGES, dataset_facts, iteration_folders, iteration_row, product_facts, write_records
from pwact_like.workflows.jobs_at_rest import end_jobs
from pwact_like.workflows.retry import BULK_CURE
from pwact_like.workflows.rewind_plan import RewindPlan, drop_plan, read_plan, write_plan
from pwact_like.workflows.session import ANOTHER_ROUND, STATE_DIR
from pwact_like.workflows.snapshot import SNAPSHOT_NAME, Snapshot
from pwact_like.workflows.start import refuse_foreign

ASIDE_FOLDER = "rewound"
RECORDS = ("al.record", "iter_select.txt")
BULK_STAGES = ("relax", "structures", "aimd", "bigmodel", "direct", "scf", "collection")

# what shows that a stage was begun, and what is moved to undo it and the later ones of its iteration, the latest first
_BEGUN = {
    "train": ("00.train",),
    "explore": ("01.explore/md",),
    "select": ("01.explore/select", "01.explore/choice"),
    "label": ("02.label",),
}
_UNDONE = {
    "train": (".",),
    "explore": ("02.label", "01.explore"),
    "select": ("02.label", "01.explore/select", "01.explore/choice"),
    "label": ("02.label",),
}


@dataclass(frozen=True)
class Target:
    """The stage to go back to."""

    iteration: int
    stage: str

    def __str__(self) -> str:
        return f"{self.iteration}:{self.stage}"

    @property
    def folder(self) -> str:
        """``iter.NNNN``."""
        return f"iter.{self.iteration:04d}"


@dataclass(frozen=True)
class Content:
    """What is moved: the path relative to the campaign's folder, the number of its files and their size in bytes."""

    path: str
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Rewind:
    """A rewind that can be carried out; ``is_half_done`` when it completes one that was interrupted.

    ``jobs`` are the names of the jobs in flight that it ends.
    """

    work_dir: Path
    plan: RewindPlan
    is_half_done: bool
    jobs: tuple[str, ...]
    tasks: frozenset[str]
    journal: Journal

    @property
    def state_dir(self) -> Path:
        """Of the workflow `run`."""
        return self.work_dir / STATE_DIR / "run"

    def contents(self) -> list[Content]:
        """What is still to be moved."""
        return [content_of(self.work_dir, path) for path in reversed(self.plan.moves) if os.path.lexists(self.work_dir / path)]

    def carry_out(self) -> None:
        """End the jobs, move the results aside, and forget them; interrupted, the same again completes it.

        Raises
        ------
        SchedulerError
            When the scheduler does not answer, or jobs do not end: then nothing was moved.
        DataError
            When something lies again where results were moved from.
        """
        end_jobs(self.state_dir, self.journal, self.jobs)
        write_plan(self.state_dir, self.plan)
        _keep_records(self.work_dir, self.plan)
        for path in self.plan.moves:
            _move(self.work_dir, self.plan, path)
        _forget(self.journal, self.plan, self.tasks, self.jobs)
        write_records(self.work_dir, self.plan.iterations)
        _publish(self.work_dir, self.state_dir, self.journal, self.plan)
        forget_stage(self.state_dir)
        drop_plan(self.state_dir)


@contextmanager
def open_rewind(work_dir: Path, to: str) -> Iterator[Rewind]:
    """Hold the campaign's folder, and find what a rewind would move; nothing is changed yet.

    Raises
    ------
    InputError
        For a target that is none or was not reached, and while a rewind to another one is half done.
    LockedError
        When a master runs.
    """
    target = read_target(to)
    if not (work_dir / STATE_DIR / "run").is_dir() and (work_dir / STATE_DIR / "init_bulk").is_dir():
        raise InputError(Problem(str(work_dir), "only init_bulk was started here, and rewind is for run", BULK_CURE))
    with at_rest(work_dir, "run") as journal:
        refuse_foreign(work_dir)
        begun = read_plan(work_dir / STATE_DIR / "run")
        if begun is not None and begun.target != str(target):
            what = f"a rewind to {begun.target} was interrupted and must be completed before another one"
            raise InputError(Problem(f"--to {to}", what, f"give --to {begun.target} first"))
        plan = begun or make_plan(work_dir, target)
        tasks = frozenset(row.name for row in journal.tasks().values() if _is_moved(row.folder, plan))
        live = journal.jobs(live_only=True)
        jobs = {row.job for name in tasks for row in journal.attempts(name)} & live.keys()
        yield Rewind(work_dir, plan, begun is not None, tuple(sorted(jobs)), tasks, journal)


def read_target(text: str) -> Target:
    """``2:explore``, or ``2`` alone for ``2:train``.

    Raises
    ------
    InputError
        Naming what was meant, perhaps.
    """
    where, form = f"--to {text}", "give ITERATION:STAGE, 2:explore for example; 2 alone is 2:train"
    number, separator, stage = text.strip().lower().removeprefix("iter.").partition(":")
    if (stage or number) in BULK_STAGES:
        raise InputError(Problem(where, "this is a stage of init_bulk, and rewind is for run", BULK_CURE))
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise InputError(Problem(where, f"{number!r} is not the number of an iteration", form))
    if separator and stage not in STAGES:
        near = difflib.get_close_matches(stage, STAGES, n=1)
        hint = f"did you mean {int(number)}:{near[0]}?" if near else f"the stages are {', '.join(STAGES)}; {form}"
        raise InputError(Problem(where, f"there is no stage {stage!r}", hint))
    return Target(int(number), stage or "train")


def make_plan(work_dir: Path, target: Target) -> RewindPlan:
    """What is moved to go back to a stage, and where to.

    Raises
    ------
    InputError
        When the stage was not begun yet, when a selection cannot be made anew, or when something cannot be renamed.
    """
    iterations = _iterations(work_dir)
    if not _is_begun(work_dir / target.folder, target.stage):
        raise InputError(Problem(f"--to {target}", f"this stage was not begun yet in {work_dir}", _where_it_stands(iterations)))
    _refuse_thinned(work_dir, target)
    later = [iterations[index].name for index in sorted(iterations, reverse=True) if index > target.iteration]
    own = [os.path.normpath(f"{target.folder}/{part}") for part in _UNDONE[target.stage]]
    moves = tuple(path for path in [*later, *own] if os.path.lexists(work_dir / path))
    device = work_dir.stat().st_dev
    strangers = [path for path in moves if (work_dir / path).parent.stat().st_dev != device]
    if strangers:
        what = f"{', '.join(strangers)} lies on another file system, and cannot be moved aside by renaming"
        raise InputError(Problem(str(work_dir), what, f"bring it onto that of {work_dir}"))
    left = target.iteration + (target.stage != "train")
    return RewindPlan(str(target), _new_folder(work_dir), moves, left)


def content_of(work_dir: Path, path: str) -> Content:
    """Count the files below a path."""
    files, size = 0, 0
    for folder, _, names in os.walk(work_dir / path):
        for name in names:
            files += 1
            try:
                size += os.lstat(Path(folder) / name).st_size
            except OSError:
                continue  # gone meanwhile: a job that is still at work
    return Content(path, files, size)


def _iterations(work_dir: Path) -> dict[int, Path]:
    """The iterations' folders by their numbers, in order; a user's own ``iter.0000.old`` is none."""
    return {int(found[1]): path for path in iteration_folders(work_dir) if (found := re.fullmatch(r"iter\.([0-9]+)", path.name))}


def _new_folder(work_dir: Path) -> str:
    """A name below ``rewound`` that is not taken."""
    stem = f"{ASIDE_FOLDER}/{time.strftime('%Y-%m-%dT%H-%M-%S')}"
    name, number = stem, 1
    while os.path.lexists(work_dir / name):
        number += 1
        name = f"{stem}.{number}"
    return name


def _is_begun(iteration: Path, stage: str) -> bool:
    return any((iteration / part).exists() for part in _BEGUN[stage])


def _where_it_stands(iterations: dict[int, Path]) -> str:
    """The latest stage that was begun."""
    for index in sorted(iterations, reverse=True):
        for stage in reversed(STAGES):
            if _is_begun(iterations[index], stage):
                return f"the campaign has come to {index}:{stage}"
    return "no stage was begun yet"


def _refuse_thinned(work_dir: Path, target: Target) -> None:
    """Refuse to select again from trajectories of which only the selected frames are left."""
    folder = work_dir / target.folder / "01.explore" / "md"
    if target.stage == "select" and (is_thinned(folder) or (folder / LEDGER_NAME).exists()):
        what = "its trajectories were cut down to the frames that were selected (reserve_md_traj is false): no others can be selected"
        raise InputError(Problem(f"--to {target}", what, f"give --to {target.iteration}:explore"))


# ---- carrying it out --------------------------------------------------------------------------------------------------


def _is_moved(folder: str, plan: RewindPlan) -> bool:
    return any(folder == path or folder.startswith(f"{path}/") for path in plan.moves)


def _keep_records(work_dir: Path, plan: RewindPlan) -> None:
    """Keep al.record and iter_select.txt as they were, beside what is moved."""
    for name in RECORDS:
        kept = work_dir / plan.aside / name
        if (work_dir / name).is_file() and not kept.exists():
            write_bytes(kept, (work_dir / name).read_bytes())


def _move(work_dir: Path, plan: RewindPlan, path: str) -> None:
    source, target = safe_join(work_dir, path), safe_join(work_dir, plan.aside, path)
    if not os.path.lexists(source):
        return  # moved before an interruption
    if os.path.lexists(target):
        raise DataError(
            f"{source}: moved to {target} before, and now something lies there again; move that away, then give the same command again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    reach("cleaning")
    source.rename(target)
    fsync_folder(target.parent)
    fsync_folder(source.parent)


def _forget(journal: Journal, plan: RewindPlan, tasks: Collection[str], jobs: Collection[str]) -> None:
    """Forget what was moved; jobs of the same tasks get other names from now on."""
    promised = json.loads(journal.meta(ANOTHER_ROUND) or "[]")
    generation = int(journal.meta("generation") or 0)
    with journal.transaction() as writer:
        writer.set_meta("generation", str(generation + 1))
        writer.set_meta(ANOTHER_ROUND, json.dumps([name for name in promised if name not in tasks]))
        for name in jobs:
            writer.job_ended(name, EndCause.CANCELLED, f"the campaign was rewound to {plan.target}")
        for name in tasks:
            writer.forget_task(name)
        writer.event("rewound", f"to {plan.target}: {len(tasks)} tasks, {len(jobs)} jobs ended; the results are in {plan.aside}")


def _publish(work_dir: Path, state_dir: Path, journal: Journal, plan: RewindPlan) -> None:
    """Let `status` show what is left."""
    target = read_target(plan.target)
    before = read_json(state_dir / SNAPSHOT_NAME) if (state_dir / SNAPSHOT_NAME).is_file() else {}
    folders = _iterations(work_dir)
    rows = [iteration_row(index, path, entry_explored(Place(work_dir, 0, index))) for index, path in folders.items()]
    models: list[str] = []
    for row, path in zip(rows, folders.values(), strict=True):
        trained = product_facts(path).get("train")
        models = [str(path / "00.train" / name) for name in trained["models"]] if trained else models
        if row["index"] == target.iteration:
            row["stage"] = target.stage
    board = Snapshot(state_dir, "run", str(before.get("campaign", "")), journal.counts, notes=list(before.get("notes", [])))
    board.state, board.reason = "stopped", f"rewound to {plan.target}: the same command as before goes on from there"
    board.scheduler = str(before.get("scheduler", ""))
    board.iterations, board.models = rows, models
    board.dataset = dataset_facts(work_dir, plan.iterations)
    board.publish()
