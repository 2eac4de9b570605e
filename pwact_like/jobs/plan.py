"""What is left to do, in memory: pending attempts and jobs in flight, as the journal and the folders have them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pwact_like import fsio
from pwact_like.crashpoints import reach
from pwact_like.errors import DataError, InputError, Problem, SchedulerError
from pwact_like.jobs import attempt as folder_of
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.rows import AttemptRow, TaskRow
from pwact_like.jobs.script import Work, attempt_folder
from pwact_like.jobs.types import Answer, Asks, AttemptState, EndCause, JobView, NoAnswer, Scheduler, Task, TaskState

log = logging.getLogger(__name__)


@dataclass
class InFlight:
    """An attempt in a job, the path of its exit marker, and since when that is there while outputs are missing."""

    work: Work
    job: str
    marker_since: float | None = None
    marker: str = ""

    def __post_init__(self) -> None:
        self.marker = os.fspath(attempt_folder(self.work.task, self.work.number) / "exit")


@dataclass
class Job:
    """A job in flight: what was in it, what is not judged yet, and what the scheduler last said of it.

    ``judged`` says that some of its attempts came to an end: it has done something. ``absent`` counts how often in sequence
    the scheduler did not know it, ``looked_back`` says that its long memory was asked, too. ``view`` is what the scheduler
    last showed of it.
    """

    name: str
    work: tuple[Work, ...]
    inside: dict[str, InFlight]
    id: str | None = None
    state: AttemptState = AttemptState.SUBMITTING
    judged: bool = False
    absent: int = 0
    looked_back: bool = False
    gone_since: float | None = None
    cause: EndCause = EndCause.UNKNOWN
    reason: str = ""
    view: JobView | None = None
    stuck_since: float | None = None
    told_stuck: bool = False

    @property
    def node(self) -> str:
        """Where it runs or ran, "" as long as nobody said."""
        return self.view.node if self.view else ""

    @property
    def ended_as(self) -> EndCause:
        """The cause to record for its end; a job all of whose attempts were judged before it was seen to end has completed."""
        return self.cause if self.state is AttemptState.ENDED else EndCause.COMPLETED

    @property
    def asks(self) -> Asks:
        """What its attempts, all alike, ask of the scheduler."""
        return self.work[0].asks


@dataclass
class Plan:
    """Tasks by name, attempts that wait for a job, jobs in flight by name, and how many tasks are accepted."""

    tasks: dict[str, Task] = field(default_factory=dict)
    pending: list[Work] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    accepted: int = 0

    def put_into_jobs(self, shared: Mapping[str, Sequence[Work]]) -> list[Job]:
        """Move pending attempts into jobs of these names."""
        moved = {item.task.name for work in shared.values() for item in work}
        self.pending = [item for item in self.pending if item.task.name not in moved]
        jobs = [Job(name, tuple(work), {item.task.name: InFlight(item, name) for item in work}) for name, work in shared.items()]
        self.jobs |= {job.name: job for job in jobs}
        return jobs

    def take_back(self, job: Job) -> None:
        """Make a refused job's attempts pending again, first in line."""
        del self.jobs[job.name]
        self.pending = [*job.work, *self.pending]

    def leave(self, item: InFlight) -> None:
        """Take a judged attempt out of its job."""
        job = self.jobs[item.job]
        job.inside.pop(item.work.task.name, None)
        job.judged = True


def open_plan(journal: Journal, tasks: Sequence[Task], work_dir: Path) -> Plan:
    """Read where an earlier master stopped, complete what it was accepting, and plan first attempts of the rest.

    Raises
    ------
    InputError
        Two tasks with one name, key or folder; a task whose inputs changed since it was begun; an accepted task whose
        outputs are gone. All of them at once.
    """
    rows = journal.tasks()
    live = {row.task: row for row in journal.live_attempts()}
    _insist_on_distinct(tasks)
    anew = _what_begins_anew(tasks, rows, live)
    by_key = {row.key: row.name for row in rows.values() if row.name not in anew}
    clashes = [
        Problem(task.name, f"it is the same work as {by_key[task.key]}, recorded before", "give it another seed or remove one of them")
        for task in tasks
        if by_key.get(task.key, task.name) != task.name
    ]
    if clashes:
        raise InputError(clashes)
    generation = int(journal.meta("generation") or 0)
    with journal.transaction() as writer:
        if anew:
            writer.set_meta("generation", str(generation + 1))
        for task in tasks:
            if task.name in anew:
                writer.forget_task(task.name)
                writer.event("anew", f"{task.name}: its folder was emptied; it starts anew")
                live.pop(task.name, None)
        for task in tasks:
            if task.name not in rows or task.name in anew:
                folder = fsio.relative_path(task.folder, work_dir)
                writer.add_task(task.name, task.key, task.section, folder, task.seed)
    plan = Plan(tasks={task.name: task for task in tasks})
    for name in anew:
        rows.pop(name, None)
    _complete_acceptances(journal, plan, live)
    _take_up(journal, plan, live)
    return plan


def drop_unwanted(journal: Journal, tasks: Sequence[Task], scheduler: Scheduler) -> None:
    """End the jobs, and forget the tasks, that were begun and that nobody asks for any more: settings were edited between two starts.

    A job that wanted tasks share runs on. A scheduler that gives no answer is asked again at the next start. Asked for once more, a
    task begins with the next free number of attempt, from the checkpoint that its folder holds.
    """
    wanted = {task.name for task in tasks}
    live = journal.live_attempts()
    gone = [row for row in live if row.task not in wanted and row.accepting is None]
    if not gone:
        return
    shared = {row.job for row in live if row.task in wanted}
    alone = {name: row for name, row in journal.jobs(live_only=True).items() if name in {row.job for row in gone} - shared}
    doomed = {row.scheduler_id: name for name, row in alone.items() if row.scheduler_id is not None}
    unrecorded = [name for name, row in alone.items() if row.scheduler_id is None]
    found = scheduler.find(*unrecorded) if unrecorded else Answer({})
    try:
        if isinstance(found, NoAnswer):
            raise SchedulerError(found.text)
        doomed |= {number: view.name for number, view in found.jobs.items() if view.alive}
        if doomed:
            scheduler.cancel(doomed)
    except SchedulerError as error:
        log.warning("jobs of tasks that are no longer asked for stay for now (%s): %s", error, ", ".join(sorted(alone)))
        return
    names = sorted(row.task for row in gone)
    with journal.transaction() as writer:
        # as for folders that were emptied: should they be asked for again, their jobs need other names
        writer.set_meta("generation", str(int(journal.meta("generation") or 0) + 1))
        for name in names:
            writer.forget_task(name)
            writer.event("unwanted", f"{name}: no longer asked for")
        for name in sorted(alone):
            writer.job_ended(name, EndCause.CANCELLED, "its tasks are no longer asked for")
    log.info("no longer asked for: %s%s", ", ".join(names[:10]), f", and {len(names) - 10} more" * (len(names) > 10))
    if doomed:
        log.info("%d jobs of them were cancelled", len(doomed))


def _insist_on_distinct(tasks: Sequence[Task]) -> None:
    problems = []
    for what, of in (("name", lambda task: task.name), ("key", lambda task: task.key), ("folder", lambda task: str(task.folder))):
        seen: dict[str, str] = {}
        for task in tasks:
            value = of(task)
            if value in seen:
                problems.append(Problem(task.name, f"it has the same {what} as {seen[value]}: {value}"))
            seen[value] = task.name
    if problems:
        raise InputError(problems)


def _what_begins_anew(tasks: Sequence[Task], rows: Mapping[str, TaskRow], live: Mapping[str, AttemptRow]) -> set[str]:
    """Tasks whose folder the user emptied; raises when a recorded task does not fit what is asked for now."""
    anew, problems = set(), []
    for task in tasks:
        row = rows.get(task.name)
        if row is None:
            continue
        emptied = folder_of.is_untouched(task) and not _in_a_job(live.get(task.name))
        if emptied and (row.state is not None or row.key != task.key):
            anew.add(task.name)
        elif row.key != task.key:
            cure = task.anew or f"remove {task.folder} to run it anew"
            problems.append(Problem(task.name, "its inputs changed since it was begun", f"undo the change, or {cure}"))
        elif row.state is TaskState.ACCEPTED and (missing := folder_of.missing_results(task)):
            problems.append(
                Problem(
                    task.name,
                    f"it was accepted before, and {', '.join(missing)} is missing from {task.folder}",
                    "put it back, or remove the whole folder to run the task anew",
                )
            )
    if problems:
        raise InputError(problems)
    return anew


def _in_a_job(row: AttemptRow | None) -> bool:
    return row is not None and row.state is not AttemptState.PLANNED


def _complete_acceptances(journal: Journal, plan: Plan, live: dict[str, AttemptRow]) -> None:
    """Finish the renames of attempts that an earlier master had found good."""
    for name, row in list(live.items()):
        task = plan.tasks.get(name)
        if task is None or row.accepting is None:
            continue
        try:
            folder_of.accept(task, row.number, row.accepting)
        except DataError as error:
            with journal.transaction() as writer:
                writer.rejected(name, row.number, EndCause.FAILED, str(error), strike=True)
        else:
            with journal.transaction() as writer:
                writer.accepted(name, row.number)
            reach("accepted")
        del live[name]


def _take_up(journal: Journal, plan: Plan, live: Mapping[str, AttemptRow]) -> None:
    """Sort every unfinished task: into its job in flight, or pending; plan an attempt where there is none."""
    rows = journal.tasks()
    jobs = journal.jobs(live_only=True)
    in_job: dict[str, list[Work]] = {}
    first: list[Work] = []
    for name, task in plan.tasks.items():
        if rows[name].state is not None:
            plan.accepted += rows[name].state is TaskState.ACCEPTED
            folder_of.remove_secrets(task)  # planning the stage again may have written them again
            continue
        row = live.get(name)
        if row is None:
            first.append(_next_work(journal, task, rows[name]))
        elif row.state is AttemptState.PLANNED or row.job not in jobs:
            plan.pending.append(Work(task, row.number, row.env, row.asks))
        else:
            in_job.setdefault(row.job, []).append(Work(task, row.number, row.env, row.asks))
    if first:
        with journal.transaction() as writer:
            for work in first:
                writer.plan_attempt(work.task.name, work.number, work.env, work.asks)
        plan.pending += first
    for job in plan.put_into_jobs(in_job):
        job.id, job.state = jobs[job.name].scheduler_id, jobs[job.name].state
        job.judged = journal.has_judged(job.name)
    _close_finished_jobs(journal, live, set(jobs))
    order = {name: place for place, name in enumerate(plan.tasks)}
    plan.pending.sort(key=lambda work: order[work.task.name])
    done = sum(rows[name].state is not None for name in plan.tasks)
    if plan.jobs or done:
        log.info("%d of %d tasks were done before, %d jobs are taken up again", done, len(plan.tasks), len(plan.jobs))


def _next_work(journal: Journal, task: Task, row: TaskRow) -> Work:
    """The next attempt; never with a number that a folder left by anyone already has (its marker is not ours)."""
    earlier = journal.attempts(task.name)
    number = max(row.attempts, folder_of.last_attempt_on_disk(task)) + 1
    return Work(task, number, earlier[-1].env, earlier[-1].asks) if earlier else Work(task, number)


def _close_finished_jobs(journal: Journal, live: Mapping[str, AttemptRow], jobs: set[str]) -> None:
    """Close jobs all of whose attempts were judged just before an earlier master ended."""
    finished = jobs - {row.job for row in live.values()}
    if finished:
        with journal.transaction() as writer:
            for name in sorted(finished):
                writer.job_ended(name, EndCause.COMPLETED, "")
