"""Ask the scheduler about jobs, and conclude no more than it said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from pwact_like.jobs.clock import Clock
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.plan import Job
from pwact_like.jobs.types import Answer, AttemptState, EndCause, JobView, NoAnswer, Scheduler

log = logging.getLogger(__name__)

# a job is absent only when the scheduler said so this often in sequence, each time without an error
CONFIRMATIONS = 2
STUCK_S = 5.0


class Watch:
    """Keeps the state of jobs in flight up to what the scheduler says of them.

    ``silent`` says that its last question had no answer.
    """

    def __init__(self, scheduler: Scheduler, journal: Journal, clock: Clock) -> None:
        self._scheduler = scheduler
        self._journal = journal
        self._clock = clock
        self.silent = False

    def look_up(self, jobs: Iterable[Job], has_begun: Callable[[Job], bool]) -> tuple[bool, list[Job]]:
        """Look up by name the jobs whose id was never recorded.

        Returns
        -------
        changed, never_taken
            Whether anything is known better now; and the jobs that the scheduler has never had for certain.
        """
        changed, never_taken = False, []
        unrecorded = [job for job in jobs if job.id is None]
        if not unrecorded:
            return False, []
        answer = self._scheduler.find(*(job.name for job in unrecorded))
        if isinstance(answer, NoAnswer):
            self._note_silence(answer.text)
            return False, []
        self._note_answer()
        for job in unrecorded:
            views = sorted((view for view in answer.jobs.values() if view.belongs_to(job.name)), key=lambda view: view.alive, reverse=True)
            if views:
                record_ids(self._journal, [(job, views[0].id)])
                log.info("job %s found again as %s", job.name, views[0].id)
                changed = True
                continue
            job.absent += 1
            if job.absent < CONFIRMATIONS:
                changed = True  # ask again soon
            elif not has_begun(job):
                never_taken.append(job)
            elif job.gone_since is None:
                # it did start, ended long ago, and the scheduler has forgotten it
                job.gone_since, job.reason = self._clock.monotonic(), "the scheduler knows this job no more"
        return changed, never_taken

    def has_namesake(self, job: Job) -> bool:
        """Whether a job that is gone goes on as another one of its name (followed from now on), or nobody can tell.

        An sbatch that outlived its master, or our patience, may come through after its job was looked for and submitted
        again: of the two the one that begins first does the work, and the other one ends at once.
        """
        answer = self._scheduler.find(job.name)
        if isinstance(answer, NoAnswer):
            self._note_silence(answer.text)
            return True
        self._note_answer()
        alive = [view.id for view in answer.jobs.values() if view.alive and view.id != job.id]
        if not alive:
            return False
        log.info("job %s was submitted twice: it goes on as %s", job.name, alive[0])
        record_ids(self._journal, [(job, alive[0])])
        job.gone_since, job.looked_back, job.cause, job.reason = None, False, EndCause.UNKNOWN, ""
        return True

    def ask(self, jobs: Iterable[Job]) -> bool:
        """Ask once for all jobs with an id; True when any of them changed its state."""
        by_id = {job.id: job for job in jobs if job.id is not None}
        if not by_id:
            return False
        answer = self._scheduler.query(list(by_id))
        if isinstance(answer, NoAnswer):
            self._note_silence(answer.text)
            return False
        self._note_answer()
        views = {job.name: _view_of(job, answer) for job in by_id.values()}
        # of an answer with holes only what stands in it counts
        told = [job for job in by_id.values() if answer.complete or views[job.name] is not None]
        changed = [job for job in told if self._has_changed(job, views[job.name])]
        changed += self._look_back([job for job in by_id.values() if job.absent >= CONFIRMATIONS and not job.looked_back])
        # how a job ended is recorded together with what becomes of its tasks
        moved = {job.name: job for job in changed if job.state is not AttemptState.ENDED}
        if moved:
            with self._journal.transaction() as writer:
                for job in moved.values():
                    said, reason = (job.view.said, job.view.reason) if job.view else ("", "")
                    writer.job_state(job.name, job.state, job.node, said, reason)
        return bool(changed)

    def _look_back(self, jobs: Sequence[Job]) -> list[Job]:
        """Ask the scheduler's long memory for jobs that were absent often enough; what it does not know is gone without a cause."""
        if not jobs:
            return []
        answer = self._scheduler.look_back({job.id: job.name for job in jobs if job.id is not None})
        for job in jobs:
            view = None if isinstance(answer, NoAnswer) else _view_of(job, answer)
            if view is not None:
                self._has_changed(job, view)
                continue
            job.looked_back = isinstance(answer, Answer)  # else it is asked again until the grace period is over
            if job.gone_since is None:
                job.gone_since, job.reason = self._clock.monotonic(), "the scheduler knows this job no more"
        return list(jobs)

    def _has_changed(self, job: Job, view: JobView | None) -> bool:
        before, words = job.state, (job.view.said, job.view.reason, job.view.node) if job.view else None
        if view is None:
            job.absent += 1
            job.state = AttemptState.UNKNOWN
            return job.state is not before or job.absent == CONFIRMATIONS
        self._tell_if_stuck(job, view)
        job.view = view
        if view.alive:
            job.absent, job.looked_back, job.gone_since = 0, False, None
            job.state = AttemptState.RUNNING if view.running else AttemptState.QUEUED
        else:
            job.absent, job.cause, job.reason = 0, view.cause, view.reason
            job.state = AttemptState.ENDED
            if job.gone_since is None:
                job.gone_since = self._clock.monotonic()
        return job.state is not before or words != (view.said, view.reason, view.node)

    def _tell_if_stuck(self, job: Job, view: JobView) -> None:
        """Say once that a job waits for ever; some such reasons come and go, a node that was just resumed for one."""
        if not view.stuck:
            job.stuck_since, job.told_stuck = None, False
        elif job.stuck_since is None:
            job.stuck_since = self._clock.monotonic()
        if view.stuck and not job.told_stuck and self._clock.monotonic() - (job.stuck_since or 0.0) >= STUCK_S:
            job.told_stuck = True
            log.warning("job %s (%s) will not begin by itself: %s; see to it, or end it", job.name, view.id, view.reason)

    def _note_silence(self, text: str) -> None:
        if not self.silent:
            log.warning("the scheduler does not answer: %s; nothing is concluded from that, it is asked again", text)
        self.silent = True

    def _note_answer(self) -> None:
        if self.silent:
            log.info("the scheduler answers again")
        self.silent = False


def _view_of(job: Job, answer: Answer) -> JobView | None:
    """What an answer says of a job; an id that was given to another job says nothing of ours."""
    view = answer.jobs.get(job.id or "")
    return view if view is not None and view.belongs_to(job.name) else None


def record_ids(journal: Journal, taken: Sequence[tuple[Job, str]]) -> None:
    """Record the scheduler's ids of jobs."""
    with journal.transaction() as writer:
        for job, scheduler_id in taken:
            writer.job_submitted(job.name, scheduler_id)
    for job, scheduler_id in taken:
        job.id, job.state, job.absent = scheduler_id, AttemptState.QUEUED, 0
