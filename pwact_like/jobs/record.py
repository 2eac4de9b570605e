"""Records how attempts ended, and what follows: acceptance by rename, another attempt, or the task's end."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.crashpoints import reach
from pwact_like.errors import DataError
from pwact_like.jobs import attempt as folder_of
from pwact_like.jobs.group import section_of
from pwact_like.jobs.journal import Journal, Writer
from pwact_like.jobs.plan import InFlight, Job, Plan
from pwact_like.jobs.script import Work, attempt_folder
from pwact_like.jobs.triage import MISFORTUNES, JobFacts, memory_mb, triage
from pwact_like.jobs.types import Asks, EndCause, Judge, Scheduler, Task
from pwact_like.jobs.verdict import Bad, Good, Verdict, judge_cut_off

if TYPE_CHECKING:
    from pwact_like.config.resource import Resource

log = logging.getLogger(__name__)

# what Slurm writes into a job's stderr when it ends a process for its memory; the job's state does not always say so
_MEMORY_WORDS = re.compile(rb"oom[-_ ]?kill|exceeded (job |step )?memory limit|out of memory handler", re.IGNORECASE)
_DUE_TO = {
    EndCause.TIMEOUT: re.compile(rb"DUE TO TIME LIMIT"),
    EndCause.PREEMPTED: re.compile(rb"DUE TO PREEMPTION"),
    EndCause.NODE_FAIL: re.compile(rb"DUE TO NODE FAILURE"),
}
_REQUEUE_MARKER = "requeued"
_TAIL_BYTES = 65536


class Recorder:
    """Writes verdicts into the journal and brings folders and plan in line with them.

    Parameters
    ----------
    plan, journal, scheduler, resource
        As the dispatcher has them; ``resource`` may be replaced when the user edits the file.
    jobs
        The folder of job folders.
    judge
        Asked once more about attempts that their time limit cut off, where what is whole of them counts.
    """

    def __init__(
        self, plan: Plan, journal: Journal, scheduler: Scheduler, resource: Resource, jobs: Path, judge: Judge | None = None
    ) -> None:
        self.resource = resource
        self._plan = plan
        self._journal = journal
        self._scheduler = scheduler
        self._jobs = jobs
        self._judge = judge

    def record(self, ended: Sequence[tuple[InFlight, Verdict]]) -> None:
        """Record verdicts: rejections at once, acceptances around their renames."""
        if not ended:
            return
        for item, verdict in ended:
            if isinstance(verdict, Bad):
                folder_of.refuse_full_disk(item.work.task)
        good: list[tuple[InFlight, Good]] = []
        bad: list[tuple[InFlight, Bad, Asks]] = []
        for item, verdict in ended:
            asks = item.work.asks
            if isinstance(verdict, Bad):
                verdict, asks = self._triage(item, verdict)
                verdict = self._kept(item.work, verdict)
            if isinstance(verdict, Good):
                good.append((item, verdict))
            else:
                bad.append((item, verdict, asks))
        with self._journal.transaction() as writer:
            for item, verdict in good:
                writer.accepting(item.work.task.name, item.work.number, verdict.names, verdict.note)
            for item, failure, asks in bad:
                self._reject(writer, item.work, failure, asks, self._node(item))
        for item, _, _ in bad:
            self._plan.leave(item)
        self._accept(good)
        self.close_empty_jobs()

    def cause_of(self, job: Job, work: Work | None = None) -> EndCause:
        """Why a job (or an attempt in it) ended: the scheduler's word, and what its own files add to it."""
        folder = self._jobs / job.name
        if work is not None and _says(attempt_folder(work.task, work.number) / "stderr", _MEMORY_WORDS):
            return EndCause.OUT_OF_MEMORY  # of a step that srun began: it says so there
        if job.cause in (EndCause.COMPLETED, EndCause.FAILED, EndCause.UNKNOWN):
            if (folder / _REQUEUE_MARKER).exists():
                # the system started the script anew, and the second start left the first one's claims alone
                return EndCause.PREEMPTED
            if _says(folder / "stderr", _MEMORY_WORDS):
                return EndCause.OUT_OF_MEMORY
            # the scheduler may have forgotten the job before anybody asked for it
            for cause, words in _DUE_TO.items():
                if _says(folder / "stderr", words):
                    return cause
        return job.cause

    def beyond_reach(self, job: Job, words: str) -> None:
        """Deal with attempts, pending again, whose wishes no node can fulfil: drop the exclusion of nodes, else set the tasks aside."""
        asks = job.asks
        with self._journal.transaction() as writer:
            for work in job.work:
                self._plan.pending.remove(work)
                self._reject_wish(writer, work, asks, words)

    def ask_for_less(self, job: Job, words: str) -> None:
        """Take what is inside a job that was cancelled because it would have waited for ever for what it asks for."""
        asks = job.asks
        with self._journal.transaction() as writer:
            for item in job.inside.values():
                self._reject_wish(writer, item.work, asks, words)
        for item in list(job.inside.values()):
            self._plan.leave(item)
        self.close_empty_jobs()

    def _reject_wish(self, writer: Writer, work: Work, asks: Asks, words: str) -> None:
        if asks.exclude:
            bad = Bad(f"without the nodes {', '.join(asks.exclude)} it cannot run: {words}", EndCause.NOT_BEGUN, strike=False)
            self._reject(writer, work, bad, replace(asks, exclude=()), "")
        else:
            bad = Bad(f"what it needs after earlier failures cannot be had: {words}", EndCause.NOT_BEGUN, final=True, strike=False)
            self._reject(writer, work, bad, asks, "")

    def give_up(self, works: Sequence[Work], reason: str, cause: EndCause) -> None:
        """Set tasks aside for good, whatever they are doing."""
        with self._journal.transaction() as writer:
            for work in works:
                self._reject(writer, work, Bad(reason, cause, final=True, strike=False), work.asks, "")
        names = {work.task.name for work in works}
        self._plan.pending = [work for work in self._plan.pending if work.task.name not in names]
        for job in self._plan.jobs.values():
            for name in names & job.inside.keys():
                self._plan.leave(job.inside[name])
        self.close_empty_jobs()

    def close_empty_jobs(self) -> None:
        """Close the jobs that have nothing left inside."""
        empty = [job for job in self._plan.jobs.values() if not job.inside]
        if not empty:
            return
        with self._journal.transaction() as writer:
            for job in empty:
                writer.job_ended(job.name, job.ended_as, job.reason, job.node, job.view.said if job.view else "")
                del self._plan.jobs[job.name]

    # ------------------------------------------------------------------ one attempt

    def _triage(self, item: InFlight, bad: Bad) -> tuple[Bad, Asks]:
        job, section = self._plan.jobs[item.job], section_of(self.resource, item.work.task)
        memory, longest, late_s = job.view.memory_mb if job.view else None, None, 0.0
        if bad.cause is EndCause.OUT_OF_MEMORY and memory is None and job.id is not None and memory_mb(section, item.work.asks) is None:
            memory = self._scheduler.memory_mb(job.id)
        if bad.cause is EndCause.TIMEOUT:
            longest = self._scheduler.longest_s(section)
            late_s = folder_of.began_later_s(item.work.task, item.work.number, self._jobs / job.name)
        return triage(item.work, bad, JobFacts(job.node, memory, longest, self.has_worked(job), late_s), section)

    def _kept(self, work: Work, bad: Bad) -> Verdict:
        """What is whole of an attempt, where its time limit would be the task's end; else the failure as it is."""
        may_count = bad.cause is EndCause.TIMEOUT and work.task.files.counts_cut_off
        if self._judge is None or not may_count or not self._is_end(work.task, bad):
            return bad
        return judge_cut_off(work.task, work.number, bad, self._judge)

    def _is_end(self, task: Task, bad: Bad) -> bool:
        """Whether no attempt follows this failure, which is not in the journal yet."""
        strikes = self._journal.strikes(task.name) + bad.strike
        misfortunes = self._journal.misfortunes(task.name) + (not bad.strike and not bad.harmless)
        return bad.final or strikes >= attempts_of(task, self.resource) or misfortunes >= MISFORTUNES

    @staticmethod
    def has_worked(job: Job) -> bool:
        """Whether a job began any of its attempts."""
        return job.judged or any(folder_of.was_claimed(work.task, work.number) for work in job.work)

    def _node(self, item: InFlight) -> str:
        return self._plan.jobs[item.job].node

    def _accept(self, good: Sequence[tuple[InFlight, Good]]) -> None:
        accepted = []
        for item, verdict in good:
            try:
                folder_of.accept(item.work.task, item.work.number, verdict.names)
                accepted.append((item, verdict))
            except DataError as error:
                with self._journal.transaction() as writer:
                    self._reject(writer, item.work, Bad(str(error)), item.work.asks, self._node(item))
                self._plan.leave(item)
        if accepted:
            with self._journal.transaction() as writer:
                for item, _ in accepted:
                    writer.accepted(item.work.task.name, item.work.number, self._node(item))
        for item, verdict in accepted:
            reach("accepted")
            self._plan.leave(item)
            self._plan.accepted += 1
            log.info("%s accepted%s", item.work.task.name, f": {verdict.note}" if verdict.note else "")

    def _reject(self, writer: Writer, work: Work, bad: Bad, asks: Asks, node: str) -> None:
        """Record a failed attempt, and what follows: another one, or the task's end."""
        task, number = work.task, work.number
        is_end = self._is_end(task, bad)
        writer.rejected(task.name, number, bad.cause, bad.reason, bad.strike, node, bad.harmless)
        if not is_end:
            folder_of.remove_attempt_secrets(task, number)
            following = Work(task, max(number, folder_of.last_attempt_on_disk(task)) + 1, {**work.env, **bad.env}, asks)
            writer.plan_attempt(task.name, following.number, following.env, following.asks)
            self._plan.pending.insert(0 if bad.first else len(self._plan.pending), following)
            sequel = f"; {bad.sequel}" * bool(bad.sequel)
            log.warning("%s, attempt %d failed and is tried again: %s%s", task.name, number, bad.reason, sequel)
        else:
            folder_of.remove_secrets(task)
            writer.failed(task.name, bad.reason)
            log.error("%s failed after %d attempt%s: %s", task.name, number, "s" * (number != 1), bad.reason)


def attempts_of(task: Task, resource: Resource) -> int:
    """How many attempts of a task may fail by their own fault."""
    return section_of(resource, task).retry.attempts if task.max_attempts is None else task.max_attempts


def is_out_of_attempts(journal: Journal, task: Task, resource: Resource) -> bool:
    """Whether a task was set aside for what a mended resource.json, or a better day, may cure; not when its engine rejected it."""
    attempts = journal.attempts(task.name)
    if journal.strikes(task.name) >= attempts_of(task, resource) or journal.misfortunes(task.name) >= MISFORTUNES:
        return True
    return bool(attempts) and (attempts[-1].cause != EndCause.FAILED or not attempts[-1].strike)


def _says(path: Path, words: re.Pattern[bytes]) -> bool:
    """Whether the end of a file holds one of these words."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            return words.search(stream.read()) is not None
    except OSError:
        return False
