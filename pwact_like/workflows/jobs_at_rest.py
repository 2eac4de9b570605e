"""Ends jobs of a campaign at rest, and knows for certain that they have ended."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

from pwact_like.errors import SchedulerError
from pwact_like.jobs.choose import SCHEDULER_META, open_scheduler
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.types import NoAnswer, Scheduler
from pwact_like.jobs.watch import CONFIRMATIONS

PATIENCE_S = 120.0  # Slurm gives a cancelled job 30 s (KillWait) before it is killed, and its epilog takes time, too
_LOOK_EVERY_S = (0.1, 2.0)


def end_jobs(state_dir: Path, journal: Journal, names: Collection[str], patience_s: float = PATIENCE_S) -> None:
    """End jobs by their names in the journal, and wait until none of them lives.

    Raises
    ------
    SchedulerError
        When the scheduler does not answer, or a job does not end in time: it may still write into its folders.
    NotAvailableError
        When the campaign's scheduler cannot be asked from this machine.
    """
    rows = [row for name, row in journal.jobs(live_only=True).items() if name in names]
    if not rows:
        return
    scheduler = open_scheduler(journal.meta(SCHEDULER_META) or "local", state_dir)
    ids = {row.scheduler_id: row.name for row in rows if row.scheduler_id is not None}
    try:
        scheduler.cancel(ids)
        # an intent whose answer was lost: the job may be there all the same
        found = _find(scheduler, [row.name for row in rows if row.scheduler_id is None])
        if found:
            scheduler.cancel(found)
        _wait(scheduler, {**ids, **found}, patience_s)
    except SchedulerError as error:
        raise SchedulerError(
            f"nothing more is moved as long as jobs may write into these folders: {error}; then give the same command again"
        ) from error


def _find(scheduler: Scheduler, names: Collection[str]) -> dict[str, str]:
    """Id → name of the jobs that the scheduler has under these names; that there is none must be said more than once."""
    found: dict[str, str] = {}
    for attempt in range(CONFIRMATIONS if names else 0):
        if attempt:
            time.sleep(_pause_s(scheduler))
        for name in names:
            answer = scheduler.find(name)
            if isinstance(answer, NoAnswer):
                raise SchedulerError(f"the scheduler does not answer: {answer.text}; wait until it does")
            found |= {number: name for number, view in answer.jobs.items() if view.alive and view.belongs_to(name)}
    return found


def _wait(scheduler: Scheduler, jobs: Mapping[str, str], patience_s: float) -> None:
    """Wait until the scheduler has said, more than once in sequence, that none of the jobs is alive."""
    deadline, quiet = time.monotonic() + patience_s, 0
    while True:
        answer = scheduler.query(jobs)
        if isinstance(answer, NoAnswer) or not answer.complete:
            quiet, what = 0, "the scheduler does not answer" + (f": {answer.text}" if isinstance(answer, NoAnswer) else " in full")
        else:
            alive = [view for number, view in answer.jobs.items() if view.alive and view.belongs_to(jobs.get(number, ""))]
            quiet = 0 if alive else quiet + 1
            if quiet >= CONFIRMATIONS:
                return
            told = "; ".join(f"{view.name} ({view.id}){f': {view.reason}' * bool(view.reason)}" for view in alive[:20])
            what = f"{len(alive)} jobs still live {patience_s:.0f} s after they were cancelled: {told}; see to them"
        if time.monotonic() >= deadline:
            raise SchedulerError(what)
        time.sleep(_pause_s(scheduler))


def _pause_s(scheduler: Scheduler) -> float:
    shortest, longest = _LOOK_EVERY_S
    return min(max(shortest, scheduler.pace.poll_s[0]), longest)
