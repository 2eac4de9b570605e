"""One tiny job for each section, through the campaign's scheduler, with the script that real jobs have: what happens is told."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.config.sbatch import seconds, value_of
from pwact_like.errors import InputError, SchedulerError, StopRequested
from pwact_like.jobs.attempt import diagnosis, exit_status
from pwact_like.jobs.choose import open_scheduler
from pwact_like.jobs.group import SCRIPT_NAME, job_name, write_script
from pwact_like.jobs.script import Work, attempt_folder, check_shell, render_job
from pwact_like.jobs.types import Answer, Asks, JobRequest, JobView, NoAnswer, Refused, Scheduler, Submitted, Task
from pwact_like.report.doctor.disk import file_clock_skew_s
from pwact_like.report.doctor.findings import Finding, Level, bad, guarded, ok, one_line, warn
from pwact_like.report.doctor.trial_report import (
    STAMP,
    clock_findings,
    node_findings,
    read_report,
    tail,
    trial_commands,
    words_of,
)

if TYPE_CHECKING:
    from pwact_like.config.resource import Resource, ResourceSection
    from pwact_like.jobs.signals import StopFlag

# short jobs start sooner: the scheduler fits them into gaps
TRIAL_TIME_S = 600
STUCK_S = 5.0
FOLDER = Path(".pwact_like") / "doctor"
_POLL_S = {"local": (0.1, 0.5), "slurm": (1.0, 5.0)}


@dataclass
class Trial:
    """One section's job on its way."""

    topic: str
    section: ResourceSection
    task: Task
    name: str
    folder: Path
    submitted: float = 0.0
    id: str = ""
    view: JobView | None = None
    started: float | None = None
    ended: float | None = None  # when the scheduler was first seen to say so
    marked: float | None = None  # when the job's own exit marker was first seen
    stuck_since: float | None = None  # since when it waits for what will not come by itself
    missing: float | None = None  # since when a scheduler that had it does not know it
    shown: str = ""
    ended_itself: bool = False
    done: bool = False  # told; if it has not ended itself, it is ended when all are done

    @property
    def begun(self) -> bool:
        """Whether the job's script is seen to have started."""
        return (self.folder / "claim").exists()


class Trials:
    """Submits, watches, tells, and tidies up.

    Parameters
    ----------
    scheduler_name
        ``local`` or ``slurm``.
    sections
        By heading.
    timeout_s
        Jobs that have not ended by then are ended.
    keep
        Whether the folder stays, whatever happened.
    """

    def __init__(
        self,
        work_dir: Path,
        resource: Resource,
        scheduler_name: str,
        sections: Mapping[str, tuple[str, ResourceSection]],
        timeout_s: float,
        keep: bool,
        stop: StopFlag,
    ) -> None:
        self.work_dir, self.resource, self.timeout_s, self.keep, self.stop = work_dir, resource, timeout_s, keep, stop
        self.folder = work_dir / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.scheduler: Scheduler = open_scheduler(scheduler_name, self.folder, resource.slurm_timeout_s)
        self.poll_s = _POLL_S[scheduler_name]
        self.sections = sections
        self.trials: list[Trial] = []
        grace = resource.grace_s
        self.grace_s = self.scheduler.pace.grace_s if grace is None else grace

    def run(self) -> Iterator[Finding | str]:
        """Findings, and between them lines on what goes on. However it ends, no job is left.

        Raises
        ------
        StopRequested
            On a signal, once the jobs have been ended.
        """
        self.folder.mkdir(parents=True)
        good, stopped = True, None
        try:
            skew_s = file_clock_skew_s(self.folder)
            for item in self._events(skew_s):
                good = good and not (isinstance(item, Finding) and item.level is not Level.OK)
                yield item
        except StopRequested as request:
            stopped = request
        except BaseException:
            good = False
            raise
        finally:
            failure = self._cancel_live()
            if failure is None and not self.keep and (good or stopped is not None):
                self._remove()
        if failure is not None:
            yield failure
        if self.folder.exists():
            yield f"the trial's files are kept in {self.folder}"
        if stopped is not None:
            raise stopped

    def _events(self, skew_s: float) -> Iterator[Finding | str]:
        for topic, (name, section) in self.sections.items():
            self.stop.check()
            yield from self._submit(topic, name, section)
        deadline = time.monotonic() + self.timeout_s
        pause = self.poll_s[0]
        while open_ones := [trial for trial in self.trials if not trial.done]:
            self.stop.check()
            yield from self._look(open_ones)
            for trial in open_ones:
                if trial.marked is not None or self._is_over(trial):
                    trial.done = trial.ended_itself = True
                    yield from guarded(trial.topic, partial(self._judge, trial, skew_s))
                elif trial.stuck_since is not None and time.time() - trial.stuck_since > STUCK_S:
                    yield from self._give_up(trial, "waits for something that will not come by itself")
            if time.monotonic() > deadline:
                for trial in self.trials:
                    if not trial.done:
                        yield from self._give_up(trial, "")
                return
            if any(not trial.done for trial in self.trials):
                self.stop.wait(pause)
                pause = min(self.poll_s[1], 1.3 * pause)

    # ------------------------------------------------------------------ one job

    def _submit(self, topic: str, name: str, section: ResourceSection) -> Iterator[Finding | str]:
        task = Task(
            key=f"doctor {name} {secrets.token_hex(8)}",
            name=f"doctor/{name}",
            folder=self.folder / name,
            section=name,
            commands=trial_commands(section),
            max_attempts=1,
        )
        work = [Work(task, 1, asks=_asks(section))]
        job = job_name("doctor", work)
        trial = Trial(topic, section, task, job, self.folder / "jobs" / job)
        try:
            check_shell(work, section)
        except InputError as error:
            for problem in error.problems:
                yield bad(topic, problem.what, problem.cure)
            return
        task.folder.mkdir()
        header = self.scheduler.header(JobRequest(job, section, work[0].asks))
        write_script(trial.folder / SCRIPT_NAME, render_job(job, trial.folder, work, section, header))
        trial.submitted = time.time()
        reply = self.scheduler.submit(trial.folder / SCRIPT_NAME, job)
        if isinstance(reply, Refused):
            cure = "limits pass; try again later" if reply.wait else "correct this section of resource.json"
            yield (warn if reply.wait else bad)(topic, f"{self.scheduler.name} does not take the job: {reply.text}", cure)
            return
        self.trials.append(trial)
        if isinstance(reply, Submitted):
            trial.id = reply.id
            yield f"{topic}: submitted, job {reply.id}"
        else:
            yield f"{topic}: no clear answer to the submission ({reply.text}); looking for the job by its name"

    def _look(self, trials: list[Trial]) -> Iterator[Finding | str]:
        for trial in trials:
            if not trial.id:
                answer = self.scheduler.find(trial.name)
                if isinstance(answer, Answer) and answer.jobs:
                    trial.id = next(iter(answer.jobs))
        known = [trial for trial in trials if trial.id]
        reply = self.scheduler.query([trial.id for trial in known])
        now = time.time()
        for trial in trials:
            self._refresh(trial, now)
        if isinstance(reply, NoAnswer):
            for trial in known:
                yield from self._show(trial, f"{self.scheduler.name} does not answer: {reply.text}")
            return
        for trial in known:
            view = reply.jobs.get(trial.id)
            if view is None:
                trial.missing = trial.missing or now
                continue
            trial.view, trial.missing = view, None
            # a node that has just come back passes for not available for some seconds
            stuck = view.stuck and not view.reason.startswith("ReqNodeNotAvail")
            trial.stuck_since = (trial.stuck_since or now) if stuck else None
            if view.running and trial.started is None:
                trial.started = now
            if not view.alive and trial.ended is None:
                trial.ended = now
            yield from self._show(trial, _state(view))

    def _refresh(self, trial: Trial, now: float) -> None:
        """Look for the exit markers; listing the folders makes a network file system look again."""
        for folder in (trial.folder, trial.task.folder, attempt_folder(trial.task, 1)):
            if folder.is_dir():
                for _ in os.scandir(folder):
                    pass
        if trial.marked is None and (trial.folder / "exit").exists() and exit_status(trial.task, 1) is not None:
            trial.marked = now

    def _show(self, trial: Trial, text: str) -> Iterator[str]:
        if text != trial.shown:
            trial.shown = text
            yield f"{trial.topic}: {text} ({time.time() - trial.submitted:.0f} s)"

    def _is_over(self, trial: Trial) -> bool:
        """Whether the job has ended, or is gone, and its files had the time to show."""
        since = trial.ended or trial.missing
        return since is not None and time.time() - since > max(self.grace_s, 1.0)

    # ------------------------------------------------------------------ what came of it

    def _judge(self, trial: Trial, skew_s: float) -> Iterator[Finding]:
        topic, view = trial.topic, trial.view
        status = exit_status(trial.task, 1)
        attempt = attempt_folder(trial.task, 1)
        if trial.marked is None or status is None:
            yield self._without_marker(trial)
            return
        report = read_report(tail(attempt / "stdout", 1 << 16), tail(attempt / "programs", 1 << 16), words_of(trial.section))
        waited = max(0.0, (trial.started or trial.marked) - trial.submitted)
        node = report.facts.get("host") or (view.node if view is not None else "?")
        yield ok(topic, f"a job ran on {node}; it waited {waited:.0f} s")
        if status != 0:
            said = diagnosis(attempt / "stderr") or diagnosis(trial.folder / "stderr") or "it said nothing"
            yield bad(topic, f"the job failed on {node} with status {status}: {said}", f"see {attempt}")
        yield from node_findings(topic, trial.section, report, tail(trial.folder / "stderr"), self.scheduler.name == "local")
        stamp = attempt / STAMP
        seen = stamp.stat().st_mtime if stamp.exists() else None
        yield from clock_findings(topic, report, seen, trial.submitted, trial.marked, skew_s)
        late_s = max(0.0, trial.marked - trial.ended) if trial.ended is not None else 0.0
        text = f"the job's files were seen here {f'{late_s:.0f} s after its end' if late_s >= 1 else 'at once'}"
        if late_s > self.grace_s / 2:
            yield warn(topic, text, f'"grace_s": {max(60, round(4 * late_s))} in resource.json')
        else:
            yield ok(topic, text)

    def _without_marker(self, trial: Trial) -> Finding:
        view = trial.view
        how = f"{view.cause}{f' ({view.reason})' if view.reason else ''}{f' on {view.node}' if view.node else ''}" if view else "unknown"
        said = diagnosis(trial.folder / "stderr") or diagnosis(attempt_folder(trial.task, 1) / "stderr")
        text = f"the job ended without its exit marker: {how}" + f"; it said: {one_line(said)}" * bool(said)
        if trial.begun:
            return bad(trial.topic, text, f"see {trial.folder}")
        text += f"; nothing of it was seen in {trial.folder} for {self.grace_s:.0f} s"
        cure = "is the work folder on a file system that the compute nodes share, under the same path? give another --work-dir"
        return bad(trial.topic, text, cure)

    def _give_up(self, trial: Trial, why: str) -> Iterator[Finding]:
        trial.done = True
        view = trial.view
        waited = f"after {time.time() - trial.submitted:.0f} s"
        if why:
            reason = view.reason if view is not None else ""
            yield bad(trial.topic, f"the job {why}: {reason}", "correct this section of resource.json (scontrol show job tells more)")
        elif view is None:
            yield bad(trial.topic, f"{self.scheduler.name} does not show the job {waited}", "look with squeue; try again")
        elif not view.alive:
            trial.ended_itself = True
            yield self._without_marker(trial)
        elif view.running:
            cure = "a line of resource.json hangs there, or its files do not come back"
            yield bad(trial.topic, f"the job on {view.node or 'its node'} has not ended {waited}", cure)
        else:
            text = f"the job still waits {waited}" + f" ({view.reason})" * bool(view.reason)
            yield warn(trial.topic, f"{text}: nothing was learned", "try again when the queue is shorter, or with a longer --timeout")

    # ------------------------------------------------------------------ tidying up

    def _cancel_live(self) -> Finding | None:
        """End what has not ended; the finding when that is not certain."""
        for trial in self.trials:
            if not trial.id:
                answer = self.scheduler.find(trial.name)
                if isinstance(answer, Answer) and answer.jobs:
                    trial.id = next(iter(answer.jobs))
        live = {trial.id: trial.name for trial in self.trials if trial.id and not trial.ended_itself}
        if not live:
            return None
        try:
            self.scheduler.cancel(live)
        except SchedulerError as error:
            return bad("trial", f"jobs {', '.join(live)} may still wait or run: {error}", f"scancel {' '.join(live)}")
        return None

    def _remove(self) -> None:
        """Remove the trial's folder, and the folders above it that it made."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, self.folder.parent.parent):
            try:
                folder.rmdir()
            except OSError:
                return  # not empty: somebody else's


def _asks(section: ResourceSection) -> Asks:
    """A short time limit, unless the section's own is shorter."""
    given = seconds(value_of(section.custom_flags, "--time", "-t") or section.time or "")
    return Asks(time_s=min(given, TRIAL_TIME_S) if given else TRIAL_TIME_S)


def _state(view: JobView) -> str:
    word = view.said or ("running" if view.running else "waiting" if view.alive else str(view.cause))
    reason = f" ({view.reason})" if view.reason and view.alive else ""
    return f"{word}{reason}" + f" on {view.node}" * bool(view.node and view.running)
