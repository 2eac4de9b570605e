"""The dispatcher: drives tasks to their end through any scheduler, and loses or doubles none.

A loop of small ticks. What is about to be done is in the journal before it is done, what was done after it; a new
master reads the journal, looks at the folders and asks the scheduler, and goes on. The rules:

1. the intent is recorded before a job is submitted, its id after; an intent without an id is looked up by name, and
   submitted again only after the scheduler has said twice, without error, that it knows no such job, and when no
   process has claimed the job's folder;
2. a scheduler that does not answer changes nothing; a job that it does not know is gone only when that was said twice;
3. a task's end is its own exit marker and its outputs; the scheduler only names the cause of a failure;
4. a job that is gone and left no marker is given a grace period (late files of network file systems), then is lost.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.crashpoints import reach
from pwact_like.errors import DataError
from pwact_like.jobs import attempt as folder_of
from pwact_like.jobs import group
from pwact_like.jobs.clock import Clock, SystemClock
from pwact_like.jobs.journal import Journal, Writer
from pwact_like.jobs.plan import InFlight, Job, Plan, open_plan
from pwact_like.jobs.script import Work
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.submit import BATCH, Submitter
from pwact_like.jobs.types import AttemptState, EndCause, Judge, Scheduler, Task, TaskResult
from pwact_like.jobs.verdict import Bad, Good, Verdict, judge_attempt, lost_attempt, may_try_again
from pwact_like.jobs.watch import Watch

if TYPE_CHECKING:
    from pwact_like.config.resource import Resource

log = logging.getLogger(__name__)

JOBS_FOLDER = "jobs"


class Dispatcher:
    """Drive tasks to their end.

    Parameters
    ----------
    state_dir, work_dir
        State folder (journal, lock, jobs) and the campaign's folder; absolute.
    journal, scheduler, resource, campaign
        The open journal, who runs the jobs, resource.json, and the campaign's name in job names.
    clock, stop
        Time and the wish to end; tests bring their own.
    on_tick
        Called after every tick (status snapshot, heartbeat).
    poll_s
        Shortest and longest pause between two ticks: it grows while nothing changes.
    grace_s
        How long a marker or an output may come late after the scheduler said that the job is over.
    """

    def __init__(
        self,
        state_dir: Path,
        work_dir: Path,
        journal: Journal,
        scheduler: Scheduler,
        resource: Resource,
        campaign: str,
        *,
        clock: Clock | None = None,
        on_tick: Callable[[], None] | None = None,
        stop: StopFlag | None = None,
        poll_s: tuple[float, float] = (0.05, 0.5),
        grace_s: float = 1.0,
    ) -> None:
        self.state_dir = state_dir
        self.work_dir = work_dir
        self.journal = journal
        self.scheduler = scheduler
        self.resource = resource
        self.campaign = campaign
        self.clock = clock or SystemClock()
        self.stop = stop or StopFlag()
        self._on_tick = on_tick
        self._poll_s = poll_s
        self._grace_s = grace_s
        self._plan = Plan()
        self._judge: Judge | None = None
        self._watch = Watch(scheduler, journal, self.clock)
        self._submitter = Submitter(state_dir / JOBS_FOLDER, journal, scheduler, resource, campaign, self.clock, self.stop)

    def run(self, tasks: Sequence[Task], judge: Judge) -> dict[str, TaskResult]:
        """Drive these tasks to their end; results by task name.

        Raises
        ------
        StopRequested
            After the tick in which a stop was asked for; jobs stay.
        InputError
            A task whose inputs changed since it was begun, a section that is missing, shell that bash cannot parse.
        SchedulerError
            The scheduler refused for good.
        DataError
            The disk failed; what was done before is intact.
        """
        with _disk_errors():
            self.begin(tasks, judge)
            pause_s = self._poll_s[0]
            while True:
                changed = self.tick()
                if self._on_tick is not None:
                    self._on_tick()
                if self.done:
                    return self.results()
                self.stop.check()
                pause_s = self._poll_s[0] if changed else min(pause_s * 1.5, self._poll_s[1])
                self.clock.wait(pause_s, self.stop)
                self.stop.check()

    def begin(self, tasks: Sequence[Task], judge: Judge) -> None:
        """Reconcile the journal with the folders, and plan what is left to do; ``run`` starts with this."""
        self._judge = judge
        group.check_work([Work(task, 1) for task in tasks], self.resource)
        self._plan = open_plan(self.journal, tasks, self.work_dir)

    @property
    def done(self) -> bool:
        """Whether every task has come to its end."""
        return not self._plan.pending and not any(job.inside for job in self._plan.jobs.values())

    def results(self) -> dict[str, TaskResult]:
        """What became of the tasks that have come to their end."""
        rows = self.journal.tasks()
        found = {}
        for name, task in self._plan.tasks.items():
            row = rows[name]
            if row.state is not None:
                found[name] = TaskResult(task, row.state, row.attempts, row.reason, row.note)
        return found

    def counts(self) -> dict[str, int]:
        """Tasks of the whole campaign by what they are doing, for the status snapshot."""
        return self.journal.counts()

    def dry_run(self, tasks: Sequence[Task]) -> list[Path]:
        """Write every script under ``state_dir/dry-run`` and submit nothing."""
        return group.dry_run(tasks, self.resource, self.state_dir, self.campaign)

    def tick(self) -> bool:
        """One round: ask, judge, give up, submit; True when anything changed."""
        changed = self._find_unrecorded()
        changed = self._watch.ask(self._plan.jobs.values()) or changed
        changed = self._harvest() or changed
        changed = self._give_up() or changed
        return self._submitter.submit(self._plan) or changed

    def _find_unrecorded(self) -> bool:
        """Look up by name the jobs whose id was never recorded; those that never reached the scheduler go there now."""
        changed, never_taken = self._watch.look_up(self._plan.jobs.values(), lambda job: (self._folder(job.name) / "claim").exists())
        if never_taken and not self.stop.is_set:
            log.info("submitted again, as they never reached the scheduler: %s", ", ".join(job.name for job in never_taken))
            changed = self._submitter.hand_over(self._plan, never_taken) or changed
        return changed

    # ------------------------------------------------------------------ what has ended

    def _harvest(self) -> bool:
        """Judge every attempt that has left its exit marker, and record the verdicts batch by batch."""
        ended: list[tuple[InFlight, Verdict]] = []
        changed = False
        for job in list(self._plan.jobs.values()):
            if job.state is AttemptState.QUEUED and not self._watch.silent:
                continue  # it had not begun a moment ago
            for item in list(job.inside.values()):
                verdict = self._verdict(job, item)
                if verdict is None:
                    continue
                ended.append((item, verdict))
                if len(ended) >= BATCH or self.stop.is_urgent:
                    self._record(ended)
                    ended = []
                    self.stop.safe_point()
                changed = True
        self._record(ended)
        return changed

    def _verdict(self, job: Job, item: InFlight) -> Verdict | None:
        if not os.path.exists(item.marker):  # noqa: PTH110 - asked thousands of times a second: no Path is built for it
            return None
        task, number = item.work.task, item.work.number
        status = folder_of.exit_status(task, number)
        if status is None:
            return None
        if status == 0 and folder_of.missing_outputs(task, number):
            # on a network file system the outputs may show after the marker
            folder_of.refresh(task, number)
            item.marker_since = item.marker_since if item.marker_since is not None else self.clock.monotonic()
            if folder_of.missing_outputs(task, number) and self.clock.monotonic() - item.marker_since < self._grace_s:
                return None
        if self._judge is None:
            return None
        return judge_attempt(task, number, status, self._judge)

    def _record(self, ended: Sequence[tuple[InFlight, Verdict]]) -> None:
        """Record verdicts: rejections at once, acceptances around their renames."""
        if not ended:
            return
        for item, verdict in ended:
            if isinstance(verdict, Bad):
                folder_of.refuse_full_disk(item.work.task)
        good = [(item, verdict) for item, verdict in ended if isinstance(verdict, Good)]
        with self.journal.transaction() as writer:
            for item, verdict in ended:
                if isinstance(verdict, Good):
                    writer.accepting(item.work.task.name, item.work.number, verdict.names, verdict.note)
                else:
                    self._reject(writer, item, verdict)
        for item, verdict in ended:
            if isinstance(verdict, Bad):
                self._plan.leave(item)
        accepted = []
        for item, verdict in good:
            try:
                folder_of.accept(item.work.task, item.work.number, verdict.names)
                accepted.append((item, verdict))
            except DataError as error:
                with self.journal.transaction() as writer:
                    self._reject(writer, item, Bad(str(error)))
                self._plan.leave(item)
        if accepted:
            with self.journal.transaction() as writer:
                for item, _ in accepted:
                    writer.accepted(item.work.task.name, item.work.number)
        for item, verdict in accepted:
            reach("accepted")
            self._plan.leave(item)
            log.info("%s accepted%s", item.work.task.name, f": {verdict.note}" if verdict.note else "")
        self._close_empty_jobs()

    def _reject(self, writer: Writer, item: InFlight, verdict: Bad) -> None:
        """Record a failed attempt, and what follows: another one, or the task's end."""
        task, number = item.work.task, item.work.number
        writer.rejected(task.name, number, verdict.cause, verdict.reason, verdict.strike)
        if not verdict.final and may_try_again(task, number, self.journal.strikes(task.name)):
            folder_of.remove_attempt_secrets(task, number)
            following = Work(task, max(number, folder_of.last_attempt_on_disk(task)) + 1, {**item.work.env, **verdict.env})
            writer.plan_attempt(task.name, following.number, following.env)
            self._plan.pending.append(following)
            log.warning("%s, attempt %d failed and is tried again: %s", task.name, number, verdict.reason)
        else:
            folder_of.remove_secrets(task)
            writer.failed(task.name, verdict.reason)
            log.error("%s failed after %d attempts: %s", task.name, number, verdict.reason)

    def _close_empty_jobs(self) -> None:
        empty = [job for job in self._plan.jobs.values() if not job.inside]
        if not empty:
            return
        with self.journal.transaction() as writer:
            for job in empty:
                writer.job_ended(job.name, job.cause if job.state is AttemptState.ENDED else EndCause.COMPLETED, job.reason)
                del self._plan.jobs[job.name]

    def _give_up(self) -> bool:
        """Declare lost what is left of jobs that are gone and left no marker within the grace period."""
        changed = False
        for job in list(self._plan.jobs.values()):
            if job.gone_since is None or self.clock.monotonic() - job.gone_since < self._grace_s:
                continue
            for item in job.inside.values():
                folder_of.refresh(item.work.task, item.work.number)
            if any(folder_of.exit_status(item.work.task, item.work.number) is not None for item in job.inside.values()):
                continue  # a late marker: the next tick judges it
            cause = EndCause.LOST if job.cause in (EndCause.COMPLETED, EndCause.UNKNOWN, EndCause.FAILED) else job.cause
            said = folder_of.diagnosis(self._folder(job.name) / "stderr")
            reason = f"job {job.name} ended without a word on this task: {job.reason or cause}" + f"; it said: {said}" * bool(said)
            did_nothing = not (job.judged or any(folder_of.was_claimed(work.task, work.number) for work in job.work))
            self._record(
                [(item, lost_attempt(item.work.task, item.work.number, cause, reason, did_nothing)) for item in list(job.inside.values())]
            )
            changed = True
        return changed

    def _folder(self, job: str) -> Path:
        return self.state_dir / JOBS_FOLDER / job


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn a full disk or a missing permission into a message that says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or 'the disk'}: {error.strerror or error}; what was recorded before is intact: see to the disk "
            f"(space, quota, permissions) and start again"
        ) from error
