"""Failed tasks that begin anew at the next start, on the user's word."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pwact_like.errors import InputError, Problem
from pwact_like.fsio import MANIFEST_NAME, is_finished
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.rows import TaskRow
from pwact_like.jobs.types import TaskState
from pwact_like.stages.bulk import COLLECTION_FOLDER, WORK_FOLDER
from pwact_like.workflows.at_rest import at_rest
from pwact_like.workflows.rewind_plan import refuse_half_rewound
from pwact_like.workflows.session import ANOTHER_ROUND, STATE_DIR

_MOST_NAMES = 5

# folder of a stage's tasks below iter.NNNN → (name of the stage, folder of its product)
_RUN_STAGES = {"00.train": ("train", "00.train"), "01.explore": ("explore", "01.explore/md"), "02.label": ("label", "02.label/result")}

BULK_CURE = (
    f"to make a stage of init_bulk anew: end its master, move {WORK_FOLDER}/STAGE, the stages after it "
    f"(relax, structures, aimd, bigmodel, direct, scf) and {COLLECTION_FOLDER} out of the folder, and start init_bulk again"
)


@dataclass(frozen=True)
class FailedTask:
    """A task that failed for good: its name, its attempts so far, and why it failed."""

    name: str
    attempts: int
    reason: str


@dataclass(frozen=True)
class Retried:
    """Tasks that begin anew at the next start, and failed ones that cannot because their stage is finished."""

    tasks: tuple[FailedTask, ...]
    out_of_reach: tuple[FailedTask, ...]


def retry(work_dir: Path, workflow: str, wanted: Sequence[str], here: Path) -> Retried:
    """Let failed tasks begin anew at the next start; the folders of their earlier attempts stay.

    Parameters
    ----------
    work_dir, workflow
        The campaign's folder (absolute) and ``run`` or ``init_bulk``.
    wanted
        Names of tasks, unique parts of names, or paths of their folders; empty: every failed task of a stage that is not
        finished.
    here
        The folder that paths are relative to.

    Raises
    ------
    InputError
        With everything that cannot be retried, and why.
    LockedError
        When a master runs.
    """
    with at_rest(work_dir, workflow) as journal:
        refuse_half_rewound(work_dir / STATE_DIR / workflow)
        rows = journal.tasks()
        failed = [row for row in rows.values() if row.state is TaskState.FAILED]
        out_of_reach = {row.name for row in failed if finished_product(work_dir, workflow, row.name) is not None}
        open_tasks = [row.name for row in failed if row.name not in out_of_reach]
        if wanted:
            names = _chosen(work_dir, workflow, wanted, here, rows, set(open_tasks))
        else:
            names = open_tasks
        _promise(journal, names)
    left = () if wanted else tuple(_told(row) for row in failed if row.name in out_of_reach)
    return Retried(tuple(_told(rows[name]) for name in names), left)


def _told(row: TaskRow) -> FailedTask:
    return FailedTask(row.name, row.attempts, row.reason)


def _promise(journal: Journal, names: Sequence[str]) -> None:
    """Note the tasks for the next start, beside those that begin anew anyway."""
    if not names:
        return
    before: list[str] = json.loads(journal.meta(ANOTHER_ROUND) or "[]")
    with journal.transaction() as writer:
        writer.set_meta(ANOTHER_ROUND, json.dumps(list(dict.fromkeys([*before, *names]))))
        for name in names:
            writer.event("retry", f"{name}: the user asked for another round; it begins anew at the next start")


# ---- the stage of a task ----------------------------------------------------------------------------------------------


def stage_of(workflow: str, name: str) -> tuple[str, str] | None:
    """``ITERATION:STAGE`` (in init_bulk: the stage), and the folder of its product relative to the campaign's, from a task's name.

    None for a name that no stage gives.
    """
    parts = name.split("/")
    if workflow == "init_bulk":
        return (parts[1], f"{WORK_FOLDER}/{parts[1]}") if len(parts) > 2 and parts[0] == WORK_FOLDER else None
    iteration = re.fullmatch(r"iter\.(\d{4,})", parts[0])
    if iteration is None or len(parts) < 3 or parts[1] not in _RUN_STAGES:
        return None
    if parts[1:3] == ["01.explore", "choice"]:
        return f"{int(iteration[1])}:select", f"{parts[0]}/01.explore/choice"
    stage, product = _RUN_STAGES[parts[1]]
    return f"{int(iteration[1])}:{stage}", f"{parts[0]}/{product}"


def finished_product(work_dir: Path, workflow: str, name: str) -> Path | None:
    """The finished product of a task's stage; None as long as the stage is under way."""
    stage = stage_of(workflow, name)
    if stage is None:
        return None
    folders = [work_dir / stage[1]]
    if workflow == "init_bulk":
        folders.append(work_dir / COLLECTION_FOLDER)  # at the end the stages' own folders are removed
    return next((folder for folder in folders if is_finished(folder)), None)


# ---- which tasks are meant --------------------------------------------------------------------------------------------


def _chosen(
    work_dir: Path, workflow: str, wanted: Iterable[str], here: Path, rows: Mapping[str, TaskRow], open_tasks: set[str]
) -> list[str]:
    """The tasks that are meant, each once.

    Raises
    ------
    InputError
        With every word that means none, several, or one that cannot be retried.
    """
    names: dict[str, None] = {}
    problems = []
    for word in wanted:
        name = named_task(work_dir, word, here, rows, open_tasks)
        problem = name if isinstance(name, Problem) else _obstacle(work_dir, workflow, rows[name])
        if isinstance(name, str) and problem is None:
            names[name] = None
        elif isinstance(problem, Problem):
            problems.append(problem)
    if problems:
        raise InputError(problems)
    return list(names)


def named_task(work_dir: Path, word: str, here: Path, rows: Mapping[str, TaskRow], open_tasks: Collection[str] = ()) -> str | Problem:
    """The task that a word means: its name, its folder or anything in it, a part of its name that only one has.

    Of several with that part, the one in ``open_tasks`` is meant.
    """
    text = word.rstrip("/")
    if text in rows:
        return text
    by_folder = {row.folder: row.name for row in rows.values()}
    for path in (os.path.abspath(here / word), os.path.realpath(here / word)):  # noqa: PTH100 - links stay as the user knows them
        place = os.path.relpath(path, work_dir) if os.path.lexists(path) else ""
        while place and place != os.curdir and not place.startswith(os.pardir):
            if place in by_folder:
                return by_folder[place]
            place = os.path.dirname(place)  # noqa: PTH120 - text, as it stands in the journal
    found = [name for name in rows if text and text in name] or _holding(work_dir, text, rows)
    if len(found) > 1:
        # one of an earlier iteration that was accepted is hardly meant
        found = [name for name in found if name in open_tasks] or found
    if len(found) == 1:
        return found[0]
    if found:
        return Problem(word, f"{len(found)} tasks have this in their names: {_some(found)}", "give more of the one that you mean")
    return Problem(word, "there is no such task", _near(text, rows, open_tasks))


def _holding(work_dir: Path, text: str, rows: Mapping[str, TaskRow]) -> list[str]:
    """Tasks with a folder of this name in theirs: trajectories that share a task are known to the user by their own names."""
    leaf = text.rsplit("/", 1)[-1]
    if leaf in ("", os.curdir, os.pardir):
        return []
    beside = (row for row in rows.values() if not text.startswith("iter.") or text.startswith(f"{row.name.rpartition('/')[0]}/"))
    return [row.name for row in beside if (work_dir / row.folder / leaf).is_dir()]


def _obstacle(work_dir: Path, workflow: str, row: TaskRow) -> Problem | None:
    """Why a task cannot be retried; None when it can."""
    if row.state is TaskState.ACCEPTED:
        return Problem(row.name, "it was accepted, there is nothing to try again", _anew(workflow, row.name))
    if row.state is None:
        what = f"it has not failed: it is still under way (attempt {max(1, row.attempts)})"
        return Problem(row.name, what, "the next start goes on with it")
    product = finished_product(work_dir, workflow, row.name)
    if product is None:
        return None
    what = f"its stage is finished without it ({product / MANIFEST_NAME}), and a finished product is never rewritten"
    return Problem(row.name, what, _anew(workflow, row.name))


def _anew(workflow: str, name: str) -> str:
    """How a stage is made anew."""
    stage = stage_of(workflow, name)
    if workflow == "init_bulk":
        return BULK_CURE
    return f"to make the whole stage anew, and all after it: pwact-like rewind --to {stage[0]}" if stage else ""


def _near(text: str, rows: Mapping[str, TaskRow], open_tasks: Collection[str]) -> str:
    """Names that look like what was asked for, by themselves or by their last part; else those that failed."""
    if not rows:
        return "no task was begun yet"
    by_last: dict[str, str] = {}
    for name in [*rows, *open_tasks]:  # the last one of a last part wins: one that failed
        by_last[name.rsplit("/", 1)[-1]] = name
    last = text.rsplit("/", 1)[-1]
    near = difflib.get_close_matches(text, rows, n=3, cutoff=0.8)
    near = near or [by_last[part] for part in difflib.get_close_matches(last, by_last, n=3, cutoff=0.7)]
    if near:
        return f"did you mean {_some(near)}?"
    return f"failed tasks: {_some(sorted(open_tasks))}" if open_tasks else "no task of an unfinished stage has failed"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
