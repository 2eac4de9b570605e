"""End one folder's master and its jobs, and nothing else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

from pwact_like.errors import LockedError
from pwact_like.jobs.journal import JOURNAL_NAME
from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.lock import read_lock
from pwact_like.jobs.process import ProcessId, has_open, host_name, is_alive, is_elsewhere, send_signal

MASTER_PATIENCE_S = 20.0
_STARTING_S = 2.0


@dataclass(frozen=True)
class Killed:
    """What was ended: the master's pid (None: none ran), whether it had to be forced, and names of jobs."""

    master: int | None
    forced: bool
    jobs: tuple[str, ...]


def kill_campaign(state_dir: Path, patience_s: float = MASTER_PATIENCE_S) -> Killed:
    """End the master that holds this state folder, then its local jobs with all their processes.

    The master gets SIGTERM, and SIGKILL when it has not ended after ``patience_s`` (its state survives that). Which
    process it is follows from the lock's pid, start time and boot id, and it must have this folder's journal open: a
    recycled pid is left alone, and so is the master of a folder of which this one is a copy.

    Raises
    ------
    LockedError
        When the lock belongs to another machine: nothing can be ended from here.
    """
    record = read_lock(state_dir)
    master, forced = None, False
    if record is not None:
        process = record.process
        if is_elsewhere(process):
            raise LockedError(
                f"{state_dir}: the master (pid {process.pid}) runs on {process.host}: log in there to end it; this is {host_name()}"
            )
        if _holds_journal(process, state_dir) and send_signal(process, SIGTERM):
            master = process.pid
            deadline = time.monotonic() + patience_s
            while is_alive(process) and time.monotonic() < deadline:
                time.sleep(0.02)
            if is_alive(process):
                forced = send_signal(process, SIGKILL)
                while is_alive(process):
                    time.sleep(0.02)
    scheduler = LocalScheduler(state_dir / "jobs")
    jobs = tuple(scheduler.live())
    scheduler.cancel(jobs)
    return Killed(master, forced, jobs)


def _holds_journal(process: ProcessId, state_dir: Path) -> bool:
    """Whether the process has this folder's journal open; a master that has just taken the lock is about to."""
    deadline = time.monotonic() + _STARTING_S
    while is_alive(process):
        if has_open(process, state_dir / JOURNAL_NAME):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return False
