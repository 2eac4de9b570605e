"""Hand jobs to the scheduler: the intent is on the disk before, the answer after."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from pwact_like.jobs.types import Refused, Scheduler, Submitted
from pwact_like.jobs.watch import record_ids

if TYPE_CHECKING:
    from pwact_like.config.resource import Resource

log = logging.getLogger(__name__)

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
    """

    def __init__(
        self, jobs: Path, journal: Journal, scheduler: Scheduler, resource: Resource, campaign: str, clock: Clock, stop: StopFlag
    ) -> None:
        self._jobs = jobs
        self._journal = journal
        self._scheduler = scheduler
        self._resource = resource
        self._campaign = campaign
        self._clock = clock
        self._stop = stop
        self._refused_until = 0.0
        self._refused_wait_s = _REFUSED_WAIT_S[0]

    def submit(self, plan: Plan) -> bool:
        """Submit what is planned, as far as the cap on jobs in flight allows."""
        cap = self._resource.max_jobs
        room = len(plan.pending) if cap is None else cap - len(plan.jobs)
        if not plan.pending or room <= 0 or self._stop.is_set or self._clock.monotonic() < self._refused_until:
            return False
        changed = False
        waiting = group.groups(plan.pending, self._resource)[:room]
        for start in range(0, len(waiting), BATCH):
            if self._stop.is_set or self._clock.monotonic() < self._refused_until:
                break
            changed = self.hand_over(plan, self._intend(plan, waiting[start : start + BATCH])) or changed
        return changed

    def _intend(self, plan: Plan, shared: Sequence[Sequence[Work]]) -> list[Job]:
        """Write scripts, and record that they are about to be submitted."""
        intents = []
        for work in shared:
            name = group.job_name(self._campaign, work, self._journal.uid)
            folder = self._jobs / name
            digest = group.write_script(folder / group.SCRIPT_NAME, group.script_text(name, folder, work, self._resource))
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
        taken: list[tuple[Job, str]] = []
        refusal: Refused | None = None
        tried = 0
        for job in jobs:
            if self._stop.is_set:
                break
            self._journal.check()
            reply = self._scheduler.submit(self._script(job), job.name)
            reach("submitted-unrecorded")
            if isinstance(reply, Refused):
                refusal = reply
                break
            tried += 1
            if isinstance(reply, Submitted):
                taken.append((job, reply.id))
            else:
                log.warning("whether job %s was taken is unknown: %s; it is looked for by name", job.name, reply.text)
                job.absent = 0
        if taken:
            record_ids(self._journal, taken)
        for _ in taken:
            reach("submitted")
        self._withdraw(plan, jobs[tried:])
        if refusal is not None:
            self._refused(jobs[tried], refusal)
        elif taken:
            self._refused_wait_s = _REFUSED_WAIT_S[0]
        return tried > 0

    def _script(self, job: Job) -> Path:
        """The script of a job; written again if it is an earlier master's and is gone."""
        script = self._jobs / job.name / group.SCRIPT_NAME
        if not script.exists():
            group.write_script(script, group.script_text(job.name, script.parent, job.work, self._resource))
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

    def _refused(self, job: Job, refusal: Refused) -> None:
        if not refusal.wait:
            raise SchedulerError(
                f"the scheduler refused job {job.name}: {refusal.text} (script {self._jobs / job.name / group.SCRIPT_NAME}); "
                f"correct resource.json, then start again"
            )
        log.warning("the scheduler takes no more jobs for now: %s", refusal.text)
        self._refused_until = self._clock.monotonic() + self._refused_wait_s
        self._refused_wait_s = min(2 * self._refused_wait_s, _REFUSED_WAIT_S[1])
