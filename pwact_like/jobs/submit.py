"""Hand jobs to the scheduler: the intent is on the disk before, the answer after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
from pwact_like.jobs.types import Asks, Refused, Scheduler, Submitted, SubmitUnknown
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
        self._refused_until = 0.0
        self._refused_wait_s = _REFUSED_WAIT_S[0]
        self.beyond_reach: list[tuple[Job, str]] = []

    def submit(self, plan: Plan) -> bool:
        """Submit what is planned, as far as the cap on jobs in flight allows."""
        cap = self.resource.max_jobs
        room = len(plan.pending) if cap is None else cap - len(plan.jobs)
        if not plan.pending or room <= 0 or self._stop.is_set or self.waits:
            return False
        changed = False
        waiting = group.groups(plan.pending, self.resource)[:room]
        for start in range(0, len(waiting), BATCH):
            if self._stop.is_set or self.waits or self.beyond_reach:
                break
            changed = self.hand_over(plan, self._intend(plan, waiting[start : start + BATCH])) or changed
        return changed

    @property
    def waits(self) -> bool:
        """Whether the scheduler has refused to take more for now."""
        return self._clock.monotonic() < self._refused_until

    def _intend(self, plan: Plan, shared: Sequence[Sequence[Work]]) -> list[Job]:
        """Write scripts, and record that they are about to be submitted."""
        intents = []
        for work in shared:
            name = group.job_name(self._campaign, work, self._journal.uid)
            folder = self._jobs / name
            digest = group.write_script(folder / group.SCRIPT_NAME, group.script_text(name, folder, work, self.resource, self._scheduler))
            intents.append((name, digest, work))
        with self._journal.transaction() as writer:
            for name, digest, work in intents:
                writer.intend_job(name, work[0].task.section, digest, [(item.task.name, item.number) for item in work])
        jobs = plan.put_into_jobs({name: work for name, _, work in intents})
        for _ in jobs:
            reach("intent-written")
        return jobs

    def hand_over(self, plan: Plan, jobs: Sequence[Job]) -> bool:
        """Submit jobs whose intents are recorded, and record the answers; a stop or a refusal withdraws the rest."""
        replies = self._submit_all(jobs)
        taken = [(job, reply.id) for job, reply in zip(jobs, replies, strict=True) if isinstance(reply, Submitted)]
        for job, reply in zip(jobs, replies, strict=True):
            if isinstance(reply, SubmitUnknown):
                log.warning("whether job %s was taken is unknown: %s; it is looked for by name", job.name, reply.text)
                job.absent = 0
                self._pause()
        if taken:
            record_ids(self._journal, taken)
            self._refused_wait_s = _REFUSED_WAIT_S[0]
        for _ in taken:
            reach("submitted")
        self._withdraw(plan, [job for job, reply in zip(jobs, replies, strict=True) if reply is None or isinstance(reply, Refused)])
        for job, reply in zip(jobs, replies, strict=True):
            if isinstance(reply, Refused):
                self._refused(job, reply)
        return any(reply is not None and not isinstance(reply, Refused) for reply in replies)

    def _submit_all(self, jobs: Sequence[Job]) -> list[Reply | None]:
        """The scheduler's replies, several submissions at a time where it likes that; None for those not tried any more.

        The first reply that is no plain yes ends the round: with a controller away each call would cost its time-out.
        """
        ended = threading.Event()

        def submit(job: Job) -> Reply | None:
            if self._stop.is_set or ended.is_set():
                return None
            self._journal.check()
            reply = self._scheduler.submit(self._script(job), job.name)
            reach("submitted-unrecorded")
            if not isinstance(reply, Submitted):
                ended.set()
            return reply

        at_a_time = min(self._scheduler.pace.submissions, len(jobs))
        if at_a_time <= 1:
            return [submit(job) for job in jobs]
        with ThreadPoolExecutor(max_workers=at_a_time, thread_name_prefix="submit") as pool:
            return list(pool.map(submit, jobs))

    def _script(self, job: Job) -> Path:
        """The script of a job; written again if it is an earlier master's and is gone."""
        script = self._jobs / job.name / group.SCRIPT_NAME
        if not script.exists():
            group.write_script(script, group.script_text(job.name, script.parent, job.work, self.resource, self._scheduler))
        return script

    def _withdraw(self, plan: Plan, jobs: Sequence[Job]) -> None:
        """Plan the attempts of jobs that were not submitted again, in their old order."""
        if not jobs:
            return
        with self._journal.transaction() as writer:
            for job in jobs:
                writer.withdraw_job(job.name)
        for job in reversed(jobs):
            plan.take_back(job)

    def _pause(self) -> None:
        """Submit nothing for a while, each time longer."""
        self._refused_until = self._clock.monotonic() + self._refused_wait_s
        self._refused_wait_s = min(2 * self._refused_wait_s, _REFUSED_WAIT_S[1])

    def _refused(self, job: Job, refusal: Refused) -> None:
        if refusal.wait:
            log.warning("the scheduler takes no more jobs for now: %s", refusal.text)
            self._pause()
        elif job.asks != Asks():
            # what an earlier failure made it ask for cannot be had: these tasks' misfortune, not the campaign's
            self.beyond_reach.append((job, refusal.text))
        else:
            raise SchedulerError(
                f"the scheduler refused job {job.name}: {refusal.text} (script {self._jobs / job.name / group.SCRIPT_NAME}); "
                f"correct resource.json, then start again"
            )
