"""Hand jobs to the scheduler: the intent is on the disk before, the answer after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.crashpoints import reach
from pwact_like.errors import SchedulerError
from pwact_like.jobs import group
from pwact_like.jobs.clock import Clock
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.plan import Job, Plan
from pwact_like.jobs.script import Work
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.types import NO_ASKS, Refused, Scheduler, Submitted, SubmitUnknown
from pwact_like.jobs.watch import record_ids

if TYPE_CHECKING:
    from pwact_like.config.resource import Resource

log = logging.getLogger(__name__)

Reply = Submitted | Refused | SubmitUnknown

# so many jobs, or ended attempts, share one transaction: each costs the disk's time for its flushes
BATCH = 32
_REFUSED_WAIT_S = (5.0, 60.0)


class Submitter:
    """Turns pending attempts into jobs in flight.

    Parameters
    ----------
    jobs
        The folder of job folders.
    journal, scheduler, resource, campaign, clock, stop
        As the dispatcher has them.

    Attributes
    ----------
    resource
        May be replaced when the user edits the file: it counts for what is submitted from then on.
    beyond_reach
        Jobs that asked for more than their section gives, because of earlier failures, and were refused for good, with
        the scheduler's words; their attempts are pending again until the dispatcher has dealt with them.
    """

    def __init__(
        self, jobs: Path, journal: Journal, scheduler: Scheduler, resource: Resource, campaign: str, clock: Clock, stop: StopFlag
    ) -> None:
        self._jobs = jobs
        self._journal = journal
        self._scheduler = scheduler
        self.resource = resource
        self._campaign = campaign
        self._clock = clock
        self._stop = stop
        self._contents: dict[str, bytes] = {}  # scripts that are recorded and not written yet
        self._ended = threading.Event()
        self._words = ""
        self._refused_until = 0.0
        self._refused_wait_s = _REFUSED_WAIT_S[0]
        self.beyond_reach: list[tuple[Job, str]] = []

    def submit(self, plan: Plan) -> bool:
        """Submit what is planned, as far as the cap on jobs in flight allows."""
        cap = self.resource.max_jobs
        room = len(plan.pending) if cap is None else cap - len(plan.jobs)
        if not plan.pending or room <= 0 or self._stop.is_set or self.waits:
            return False
        waiting = group.groups(plan.pending, self.resource)[:room]
        batches = [waiting[start : start + BATCH] for start in range(0, len(waiting), BATCH)]
        self._ended.clear()
        at_a_time = min(self._scheduler.pace.submissions, len(waiting))
        changed = False
        if at_a_time <= 1:
            for batch in batches:
                if self._must_end:
                    break
                changed = self.hand_over(plan, self._intend(plan, batch)) or changed
            return changed
        before: tuple[list[Job], list[Future[Reply | None]]] | None = None
        with ThreadPoolExecutor(max_workers=at_a_time, thread_name_prefix="submit") as pool:
            # the next batch's intents are written while this one's jobs are on their way
            for batch in batches:
                if self._must_end or self._ended.is_set():
                    break
                jobs = self._intend(plan, batch)
                under_way = jobs, [pool.submit(self._submit, job) for job in jobs]
                changed = self._take(plan, before) or changed
                before = under_way
            return self._take(plan, before) or changed

    @property
    def _must_end(self) -> bool:
        return self._stop.is_set or self.waits or bool(self.beyond_reach)

    @property
    def waits(self) -> bool:
        """Whether the scheduler has refused to take more for now."""
        return self._clock.monotonic() < self._refused_until

    def _intend(self, plan: Plan, shared: Sequence[Sequence[Work]]) -> list[Job]:
        """Record that jobs are about to be submitted; their scripts are written right before that."""
        intents, uid = [], self._journal.uid
        for work in shared:
            name = group.job_name(self._campaign, work, uid)
            content = group.script_content(name, self._jobs / name, work, self.resource, self._scheduler)
            self._contents[name] = content
            intents.append((name, group.digest_of(content), work))
        with self._journal.transaction() as writer:
            for name, digest, work in intents:
                writer.intend_job(name, work[0].task.section, digest, [(item.task.name, item.number) for item in work])
        jobs = plan.put_into_jobs({name: work for name, _, work in intents})
        for _ in jobs:
            reach("intent-written")
        return jobs

    def hand_over(self, plan: Plan, jobs: Sequence[Job]) -> bool:
        """Submit jobs whose intents are recorded, one after the other, and record the answers."""
        self._ended.clear()
        return self._settle(plan, jobs, [self._submit(job) for job in jobs])

    def _take(self, plan: Plan, batch: tuple[Sequence[Job], Sequence[Future[Reply | None]]] | None) -> bool:
        return batch is not None and self._settle(plan, batch[0], [future.result() for future in batch[1]])

    def _submit(self, job: Job) -> Reply | None:
        """The scheduler's reply; None when it was not tried any more. Called by several threads.

        The first reply that is no plain yes ends the round: with a controller away each call would cost its time-out.
        """
        if self._stop.is_set or self._ended.is_set():
            return None
        script = self._script(job)
        self._journal.check()
        reply = self._scheduler.submit(script, job.name)
        reach("submitted-unrecorded")
        if not isinstance(reply, Submitted):
            self._ended.set()
        return reply

    def _script(self, job: Job) -> Path:
        """The script of a job; one that an earlier master wrote stays, one of its that is gone is written again."""
        script = self._jobs / job.name / group.SCRIPT_NAME
        content = self._contents.pop(job.name, None)
        if content is None and not script.exists():
            content = group.script_content(job.name, script.parent, job.work, self.resource, self._scheduler)
        if content is not None:
            group.write_script(script, content, flush=not self._scheduler.pace.copies_scripts)
        return script

    def _settle(self, plan: Plan, jobs: Sequence[Job], replies: Sequence[Reply | None]) -> bool:
        """Record the replies; jobs that were refused or not tried any more are withdrawn."""
        taken = [(job, reply.id) for job, reply in zip(jobs, replies, strict=True) if isinstance(reply, Submitted)]
        for job, reply in zip(jobs, replies, strict=True):
            if isinstance(reply, SubmitUnknown):
                log.warning("whether job %s was taken is unknown: %s; it is looked for by name", job.name, reply.text)
                job.absent = 0
                self._pause(reply.text)
        if taken:
            record_ids(self._journal, taken)
            self._refused_wait_s = _REFUSED_WAIT_S[0]
        for _ in taken:
            reach("submitted")
        self._withdraw(plan, [job for job, reply in zip(jobs, replies, strict=True) if reply is None or isinstance(reply, Refused)])
        for job, reply in zip(jobs, replies, strict=True):
            self._contents.pop(job.name, None)
            if isinstance(reply, Refused):
                self._refused(job, reply)
        return any(reply is not None and not isinstance(reply, Refused) for reply in replies)

    def _withdraw(self, plan: Plan, jobs: Sequence[Job]) -> None:
        """Plan the attempts of jobs that were not submitted again, in their old order."""
        if not jobs:
            return
        with self._journal.transaction() as writer:
            for job in jobs:
                writer.withdraw_job(job.name)
        for job in reversed(jobs):
            plan.take_back(job)

    @property
    def refusal(self) -> str:
        """Why nothing more is submitted at present; "" when it is, or there is nothing to submit."""
        return self._words if self.waits else ""

    def _pause(self, words: str) -> None:
        """Submit nothing for a while, each time longer."""
        self._words = words
        self._refused_until = self._clock.monotonic() + self._refused_wait_s
        self._refused_wait_s = min(2 * self._refused_wait_s, _REFUSED_WAIT_S[1])

    def _refused(self, job: Job, refusal: Refused) -> None:
        # words that nobody knows: a scheduler that has taken such jobs before is given time
        wait = refusal.wait or not (refusal.sure or not self._journal.has_taken(job.work[0].task.section))
        if wait:
            log.warning("the scheduler takes no more jobs for now: %s", refusal.text)
            self._pause(refusal.text)
        elif refusal.about_size and job.asks != NO_ASKS:
            # what an earlier failure made it ask for cannot be had: these tasks' misfortune, not the campaign's
            self.beyond_reach.append((job, refusal.text))
        else:
            raise SchedulerError(
                f"the scheduler refused job {job.name}: {refusal.text} (script {self._jobs / job.name / group.SCRIPT_NAME}); "
                f"correct resource.json, then start again"
            )
