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
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.errors import DataError, InProgress, SchedulerError
from pwact_like.jobs import attempt as folder_of
from pwact_like.jobs import group
from pwact_like.jobs.clock import Clock, SystemClock
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.plan import InFlight, Job, Plan, drop_unwanted, open_plan
from pwact_like.jobs.record import Recorder
from pwact_like.jobs.rows import JobShown
from pwact_like.jobs.script import Work
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.submit import BATCH, Submitter
from pwact_like.jobs.types import NO_ASKS, AttemptState, EndCause, Judge, Scheduler, Task, TaskResult
from pwact_like.jobs.verdict import Verdict, judge_attempt, lost_attempt
from pwact_like.jobs.watch import Watch
from pwact_like.outcome import KILLED

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
        Shortest and longest pause between two ticks: it grows while nothing changes. None: as resource.json, or else the
        scheduler, says.
    grace_s
        How long a marker or an output may come late after the scheduler said that the job is over; None likewise.
    once
        Do what can be done now, and do not wait for jobs.
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
        poll_s: tuple[float, float] | None = None,
        grace_s: float | None = None,
        once: bool = False,
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
        self._pace = (poll_s, grace_s)
        self._once = once
        self._plan = Plan()
        self._judge: Judge | None = None
        self._watch = Watch(scheduler, journal, self.clock)
        self._submitter = Submitter(state_dir / JOBS_FOLDER, journal, scheduler, resource, campaign, self.clock, self.stop)
        self._recorder = Recorder(self._plan, journal, scheduler, resource, state_dir / JOBS_FOLDER)
        self._told_enough = False
        self._jitter = random.Random()  # noqa: S311 - spreads the questions of many masters, no secret

    def run(self, tasks: Sequence[Task], judge: Judge) -> dict[str, TaskResult]:
        """Drive these tasks to their end; results by task name.

        Raises
        ------
        StopRequested
            After the tick in which a stop was asked for; jobs stay.
        InProgress
            Told to look only once: nothing more can be done before some job moves.
        InputError
            A task whose inputs changed since it was begun, a section that is missing, shell that bash cannot parse.
        SchedulerError
            The scheduler refused for good.
        DataError
            The disk failed; what was done before is intact.
        """
        with _disk_errors():
            self.begin(tasks, judge)
            pause_s = self.poll_s[0]
            while True:
                changed = self.tick()
                if self._on_tick is not None:
                    self._on_tick()
                if self.done:
                    return self.results()
                self.stop.check()
                if self._once and not changed and self.is_settled:
                    raise InProgress(len(self._plan.jobs), len(self._plan.pending))
                shortest, longest = self.poll_s
                pause_s = shortest if changed else min(pause_s * 1.5, longest)
                self.clock.wait(pause_s * self._jitter.uniform(0.9, 1.0), self.stop)
                self.stop.check()

    def begin(self, tasks: Sequence[Task], judge: Judge) -> None:
        """Reconcile the journal with the folders, and plan what is left to do; ``run`` starts with this."""
        self._judge = judge
        group.check_work([Work(task, 1) for task in tasks], self.resource)
        self._plan = open_plan(self.journal, tasks, self.work_dir)
        drop_unwanted(self.journal, tasks, self.scheduler)
        self._recorder = Recorder(self._plan, self.journal, self.scheduler, self.resource, self.state_dir / JOBS_FOLDER, judge)
        self._told_enough = False

    def use(self, resource: Resource) -> None:
        """Go on with another resource.json: it counts for what is not submitted yet.

        Raises
        ------
        InputError
            Shell that bash cannot parse; then nothing is changed.
        """
        group.check_work([Work(task, 1) for task in self._plan.tasks.values()], resource)
        self.resource = self._submitter.resource = self._recorder.resource = resource

    @property
    def poll_s(self) -> tuple[float, float]:
        """Shortest and longest pause between two ticks."""
        if self._pace[0] is not None:
            return self._pace[0]
        shortest, longest = self.scheduler.pace.poll_s
        if self.resource.poll_s is not None:
            # at most what the scheduler can stand: a cluster forgets finished jobs
            shortest, longest = min(self.resource.poll_s, longest), min(6 * self.resource.poll_s, longest)
        return shortest, longest

    @property
    def grace_s(self) -> float:
        """How long a marker or an output may come late."""
        given = self._pace[1] if self._pace[1] is not None else self.resource.grace_s
        return self.scheduler.pace.grace_s if given is None else given

    @property
    def silent(self) -> bool:
        """Whether the scheduler left the last question without an answer."""
        return self._watch.silent

    @property
    def refusal(self) -> str:
        """The scheduler's words while it takes no more jobs for now, else ""."""
        return self._submitter.refusal

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits for a second look: every job in flight is with the scheduler, alive, or it does not answer anyway."""
        return self._watch.silent or all(
            job.id is not None
            and not job.absent
            and job.gone_since is None
            and all(item.marker_since is None for item in job.inside.values())
            for job in self._plan.jobs.values()
        )

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
        return group.dry_run(tasks, self.resource, self.state_dir, self.campaign, self.scheduler)

    def job_rows(self) -> list[JobShown]:
        """The jobs in flight, for the status snapshot."""
        return [
            JobShown(
                name=job.name,
                id=job.id,
                section=job.work[0].task.section,
                state=job.state,
                said=job.view.said if job.view else "",
                reason=job.view.reason if job.view else job.reason,
                node=job.node,
                since=job.view.since if job.view else None,
                tasks=len(job.inside),
                stuck=job.told_stuck,
            )
            for job in self._plan.jobs.values()
        ]

    def tick(self) -> bool:
        """One round: ask, judge, give up, submit; True when anything changed."""
        changed = self._find_unrecorded()
        changed = self._watch.ask(self._plan.jobs.values()) or changed
        changed = self._harvest() or changed
        changed = self._give_up() or changed
        changed = self._leave_stragglers() or changed
        changed = self._ask_for_less() or changed
        changed = self._submitter.submit(self._plan) or changed
        while self._submitter.beyond_reach:
            self._recorder.beyond_reach(*self._submitter.beyond_reach.pop())
            changed = True
        return changed

    def _find_unrecorded(self) -> bool:
        """Look up by name the jobs whose id was never recorded; those that never reached the scheduler go there now."""
        changed, never_taken = self._watch.look_up(self._plan.jobs.values(), lambda job: folder_of.has_claim(self._folder(job.name)))
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
                    self._recorder.record(ended)
                    ended = []
                    self.stop.safe_point()
                changed = True
        self._recorder.record(ended)
        return changed

    def _verdict(self, job: Job, item: InFlight) -> Verdict | None:
        if not os.path.exists(item.marker):  # noqa: PTH110 - asked thousands of times a second: no Path is built for it
            return None
        task, number = item.work.task, item.work.number
        status = folder_of.exit_status(task, number)
        if status is None:
            return None
        if status in KILLED and job.gone_since is None and job.state is not AttemptState.ENDED:
            return None  # not of itself, perhaps: when the job is over the scheduler says why
        if status == 0 and folder_of.missing_outputs(task, number):
            # on a network file system the outputs may show after the marker
            folder_of.refresh(task, number)
            item.marker_since = item.marker_since if item.marker_since is not None else self.clock.monotonic()
            if folder_of.missing_outputs(task, number) and self.clock.monotonic() - item.marker_since < self.grace_s:
                return None
        if self._judge is None:
            return None
        return judge_attempt(
            task, number, status, self._judge, self._recorder.cause_of(job, item.work) if status != 0 else EndCause.UNKNOWN
        )

    def _give_up(self) -> bool:
        """Declare lost what is left of jobs that are gone and left no marker within the grace period."""
        changed = False
        for job in list(self._plan.jobs.values()):
            if job.gone_since is None or self.clock.monotonic() - job.gone_since < self.grace_s:
                continue
            for item in job.inside.values():
                folder_of.refresh(item.work.task, item.work.number)
            if any(folder_of.exit_status(item.work.task, item.work.number) is not None for item in job.inside.values()):
                continue  # a late marker: the next tick judges it
            began = folder_of.claimed_by(self._folder(job.name))
            if began != job.id and self._watch.has_namesake(job):
                continue
            cause = self._recorder.cause_of(job)
            cause = EndCause.LOST if cause in (EndCause.COMPLETED, EndCause.UNKNOWN, EndCause.FAILED) else cause
            said = folder_of.diagnosis(self._folder(job.name) / "stderr")
            reason = f"job {job.name} ended without a word on this task: {job.reason or cause}" + f"; it said: {said}" * bool(said)
            worked = self._recorder.has_worked(job)
            vanished = job.state is not AttemptState.ENDED and cause is EndCause.LOST
            self._recorder.record(
                [
                    (item, lost_attempt(item.work.task, item.work.number, cause, reason, job_worked=worked, vanished=vanished))
                    for item in list(job.inside.values())
                ]
            )
            changed = True
        return changed

    def _leave_stragglers(self) -> bool:
        """Go on without the last tasks once enough are done and the rest have had their time (``enough`` of resource.json)."""
        plan = self._plan
        if not plan.tasks or self.done:
            return False
        section = group.section_of(self.resource, next(iter(plan.tasks.values())))
        if section.enough >= 1.0:
            return False
        ends, enough = self.journal.ends(plan.tasks), math.ceil(section.enough * len(plan.tasks))
        if len(ends) < enough:
            return False
        # from the journal, so that it counts over several starts
        since = ends[max(0, enough - 1)]
        if not self._told_enough:
            self._told_enough = True
            log.info("%d of %d tasks have ended: the rest has %.0f s more", len(ends), len(plan.tasks), section.straggler_wait_s)
        if self.clock.time() - since < section.straggler_wait_s:
            return False
        try:
            self.scheduler.cancel({job.id: job.name for job in plan.jobs.values() if job.id is not None})
        except SchedulerError as error:
            log.warning("the stragglers stay for now: %s", error)
            return False
        works = [*plan.pending, *(item.work for job in plan.jobs.values() for item in job.inside.values())]
        reason = f"a straggler: {len(ends)} of {len(plan.tasks)} tasks were enough (`enough` of resource.json)"
        self._recorder.give_up(works, reason, EndCause.CANCELLED)
        return True

    def _ask_for_less(self) -> bool:
        """End the jobs that would wait for ever for what earlier failures made them ask for."""
        hopeless = [
            job
            for job in self._plan.jobs.values()
            if job.told_stuck and job.asks != NO_ASKS and job.id is not None and job.view is not None and job.view.too_much
        ]
        if not hopeless:
            return False
        try:
            self.scheduler.cancel({job.id: job.name for job in hopeless if job.id is not None})
        except SchedulerError as error:
            log.warning("jobs that would wait for ever stay for now: %s", error)
            return False
        for job in hopeless:
            self._recorder.ask_for_less(job, job.view.reason if job.view else "")
        return True

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
