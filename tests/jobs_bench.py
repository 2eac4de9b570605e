"""Dispatchers tick by tick, with a scheduler that answers as it is told and a clock turned by hand."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jobs_support import always_ok, run_script

from pwact_like.config.resource import Resource
from pwact_like.jobs.dispatcher import Dispatcher
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.types import Answer, EndCause, JobView, NoAnswer, Pace, Refused, Submitted, SubmitUnknown


@dataclass
class Scripted:
    """A scheduler that runs a job when it is told to, and answers as it is told."""

    name: str = "scripted"
    jobs: dict[str, JobView] = field(default_factory=dict)
    scripts: dict[str, Path] = field(default_factory=dict)
    submissions: list[str] = field(default_factory=list)
    replies: list = field(default_factory=list)
    silent: bool = False
    hidden: set[str] = field(default_factory=set)
    requests: list = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    looked_back: list = field(default_factory=list)
    memory: Answer | NoAnswer = field(default_factory=lambda: Answer({}))
    longest: int | None = None
    complete: bool = True
    pace: Pace = field(default_factory=Pace)

    def submit(self, script, name):
        self.submissions.append(name)
        reply = self.replies.pop(0) if self.replies else None
        if isinstance(reply, Refused):
            return reply
        number = str(len(self.submissions))
        if reply != "never arrived":
            self.jobs[number] = JobView(number, name, alive=True)
            self.scripts[number] = script
        return SubmitUnknown("time-out") if reply in ("unknown", "never arrived") else Submitted(number)

    def query(self, ids):
        return (
            NoAnswer("connect failure")
            if self.silent
            else Answer({i: self.jobs[i] for i in ids if i in self.jobs and i not in self.hidden}, self.complete)
        )

    def find(self, *names):
        return (
            NoAnswer("connect failure")
            if self.silent
            else Answer({i: view for i, view in self.jobs.items() if view.name in names and i not in self.hidden})
        )

    def cancel(self, jobs):
        for number, name in jobs.items():
            assert self.jobs[number].name == name
            self.cancelled.append(number)

    def header(self, request):
        self.requests.append(request)
        return ()

    def look_back(self, jobs):
        self.looked_back.append(dict(jobs))
        return self.memory

    def longest_s(self, section):
        return self.longest

    def memory_mb(self, number):
        return 1000

    def run(self, number="1"):
        run_script(self.scripts[number])

    def end(self, number="1", cause=EndCause.COMPLETED, reason=""):
        self.jobs[number] = JobView(number, self.jobs[number].name, alive=False, cause=cause, reason=reason)


@dataclass
class Hands:
    """A clock turned by hand."""

    now: float = 1000.0

    def time(self):
        """What the journal writes is the machine's time; turned on by as much as the hands."""
        return time.time() + self.now - 1000.0

    def monotonic(self):
        return self.now

    def wait(self, seconds, stop):
        self.now += seconds


@contextmanager
def scripted_bench(tmp_path: Path):
    """Dispatchers on one folder, one after the other, with one scripted scheduler and one clock."""
    scheduler, clock = Scripted(), Hands()
    state_dir = tmp_path / "state"
    opened = []

    def build(tasks, judge=always_ok, once=False, **resource):
        for journal, lock in opened:
            journal.close()
            lock.release()
        lock = MasterLock(state_dir)
        lock.acquire()
        journal = Journal(state_dir / "journal.sqlite", lock)
        opened[:] = [(journal, lock)]
        dispatcher = Dispatcher(
            state_dir, tmp_path, journal, scheduler, Resource(**resource), "bench", clock=clock, grace_s=30.0, once=once
        )
        dispatcher.begin(tasks, judge)
        return dispatcher

    build.scheduler, build.clock = scheduler, clock
    yield build
    for journal, lock in opened:
        journal.close()
        lock.release()


def state_of(dispatcher, task="t"):
    result = dispatcher.results().get(task)
    return result.state if result else None
