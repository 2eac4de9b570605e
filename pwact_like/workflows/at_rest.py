"""A campaign at rest: its folder held, and its journal open, without a master at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pwact_like.errors import InputError, LockedError, Problem
from pwact_like.jobs.choose import SCHEDULER_META
from pwact_like.jobs.journal import JOURNAL_NAME, Journal
from pwact_like.jobs.lock import MasterLock, read_lock
from pwact_like.jobs.process import host_name, is_elsewhere
from pwact_like.workflows.session import STATE_DIR


@contextmanager
def at_rest(work_dir: Path, workflow: str) -> Iterator[Journal]:
    """Hold the folder of a workflow that no master works in, and open its journal.

    Raises
    ------
    InputError
        When this workflow was never started in the folder.
    LockedError
        When a master runs; it says how to end that one and leave its jobs.
    """
    state_dir = work_dir / STATE_DIR / workflow
    if not (state_dir / JOURNAL_NAME).is_file():
        raise InputError(Problem(str(work_dir), f"no {workflow} was ever started here", "give the campaign's folder with --work-dir"))
    lock = MasterLock(state_dir)
    try:
        lock.acquire()
    except LockedError as error:
        raise LockedError(_held(state_dir, workflow) or str(error)) from error
    try:
        with Journal(state_dir / JOURNAL_NAME, lock) as journal:
            if journal.meta(SCHEDULER_META) == "slurm":
                journal.settle()  # in a copy of a folder: the jobs are the original's
            yield journal
    finally:
        lock.release()


def _held(state_dir: Path, workflow: str) -> str:
    """Who holds the folder, and what to do; "" when nobody does any more."""
    record = read_lock(state_dir)
    if record is None:
        return ""
    process = record.process
    who = f"{state_dir}: the master of {workflow} holds it (pid {process.pid} on {process.host}, since {record.age})"
    if is_elsewhere(process):
        return (
            f"{who}; whether it still runs cannot be told from {host_name()}: end it there, with Ctrl-C or SIGTERM (its jobs stay); "
            f"if that machine is gone for good, delete {state_dir / 'lock'}"
        )
    return f"{who}; end it first with Ctrl-C or SIGTERM (kill -TERM {process.pid}): its jobs stay"
