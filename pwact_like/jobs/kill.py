"""End one folder's master and its jobs, and nothing else."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

from pwact_like.errors import LockedError, PwactLikeError, SchedulerError
from pwact_like.jobs.choose import SCHEDULER_META, open_scheduler
from pwact_like.jobs.journal import JOURNAL_NAME
from pwact_like.jobs.journal_read import read_copy
from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.lock import LockRecord, MasterLock, read_lock
from pwact_like.jobs.process import ProcessId, has_open, host_name, is_alive, is_elsewhere, send_signal
from pwact_like.jobs.types import NoAnswer, Scheduler

MASTER_PATIENCE_S = 20.0
_STARTING_S = 2.0


@dataclass(frozen=True)
class Killed:
    """What was ended: the master's pid (None: none ran), whether it had to be forced, and (id, name) of jobs.

    ``failure`` says which jobs may still run because the scheduler did not answer.
    """

    master: int | None
    forced: bool
    jobs: tuple[tuple[str, str], ...]
    failure: str = ""


def kill_campaign(state_dir: Path, patience_s: float = MASTER_PATIENCE_S, slurm_timeout_s: float = 60.0, master_job: str = "") -> Killed:
    """End the master that holds this state folder, then its jobs.

    The master gets SIGTERM, and SIGKILL when it has not ended after ``patience_s`` (its state survives that). Which
    process it is follows from the lock's pid, start time and boot id, and it must have this folder's journal open: a
    recycled pid is left alone, and so is the master of a folder of which this one is a copy. Jobs are those that the
    journal recorded, each only if the scheduler still knows it under its name.

    Parameters
    ----------
    master_job
        Slurm's id of the job that the master itself is, as far as its status said so.

    Raises
    ------
    LockedError
        When the lock belongs to another machine: the master cannot be ended from here.
    """
    record = read_lock(state_dir)
    master, forced = (None, False) if record is None else _end_master(state_dir, record, patience_s, master_job)
    with ExitStack() as stack:
        if record is None or not is_alive(record.process):
            # no new master may take up the jobs that are being ended; a copy's lock names a master that lives elsewhere
            stack.enter_context(MasterLock(state_dir))
        ended, failure = _end_jobs(state_dir, slurm_timeout_s)
    return Killed(master, forced, ended, failure)


def _end_master(state_dir: Path, record: LockRecord, patience_s: float, master_job: str) -> tuple[int | None, bool]:
    process = record.process
    if is_elsewhere(process):
        cure = f"end it with: scancel {master_job}" if master_job else "log in there to end it"
        raise LockedError(f"{state_dir}: the master (pid {process.pid}) runs on {process.host}: {cure}; this is {host_name()}")
    if not (_holds_journal(process, state_dir) and send_signal(process, SIGTERM)):
        return None, False
    forced = False
    deadline = time.monotonic() + patience_s
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    if is_alive(process):
        forced = send_signal(process, SIGKILL)
        while is_alive(process):
            time.sleep(0.02)
    return process.pid, forced


def _end_jobs(state_dir: Path, slurm_timeout_s: float) -> tuple[tuple[tuple[str, str], ...], str]:
    """End the jobs of a folder; (id, name) of each, and what went wrong."""
    path = state_dir / JOURNAL_NAME
    if not path.exists():
        return (), ""
    with read_copy(path) as journal:
        name = journal.meta(SCHEDULER_META) or "local"
        live, at_home = journal.jobs(live_only=True), journal.is_at_home
    if name == "local":
        scheduler = LocalScheduler(state_dir / "jobs")
        names = scheduler.live()
        scheduler.cancel(names)
        return tuple((job, job) for job in names), ""
    if not live:
        return (), ""
    if not at_home:
        return (), f"{len(live)} jobs are those of the folder of which this is a copy: they were left alone"
    jobs = {job.scheduler_id: job.name for job in live.values() if job.scheduler_id is not None}
    unrecorded = [job.name for job in live.values() if job.scheduler_id is None]
    try:
        slurm = open_scheduler(name, state_dir, slurm_timeout_s)
        jobs |= _find(slurm, unrecorded)
        alive, untold = _alive(slurm, jobs)
        slurm.cancel(alive)
    except PwactLikeError as error:
        return (
            (),
            f"{error}\njobs that may still run: {', '.join(f'{number} ({job})' for number, job in jobs.items()) or ', '.join(unrecorded)}",
        )
    # a list with holes: those that stood in it have been ended, of the others nothing is known
    return tuple(alive.items()), f"Slurm's list was not whole; jobs that may still run: {', '.join(untold)}; try again" * bool(untold)


def _find(scheduler: Scheduler, names: list[str]) -> dict[str, str]:
    """Jobs that a killed master had submitted and not recorded, by their names."""
    if not names:
        return {}
    answer = scheduler.find(*names)
    if isinstance(answer, NoAnswer):
        raise SchedulerError(f"{answer.text}; try again when Slurm answers")
    return {number: name for number, view in answer.jobs.items() for name in names if view.alive and view.belongs_to(name)}


def _alive(scheduler: Scheduler, jobs: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Jobs that live; and ids of which an answer with holes said nothing."""
    answer = scheduler.query(jobs)
    if isinstance(answer, NoAnswer):
        raise SchedulerError(f"{answer.text}; try again when Slurm answers")
    alive = {
        number: name
        for number, name in jobs.items()
        if number in answer.jobs and answer.jobs[number].alive and answer.jobs[number].belongs_to(name)
    }
    return alive, [] if answer.complete else [number for number in jobs if number not in answer.jobs]


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
