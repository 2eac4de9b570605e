"""A stateful test of the dispatcher: random faults of scheduler, nodes, disk and master, in any order, as hypothesis thinks them up.

The jobs are played in this process by the rules of the job script (claims, markers), so that thousands of steps take seconds.
Whatever happens: every attempt is executed at most once, every task comes to its end, what was accepted was executed and
accepted once, and no job is left.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from jobs_bench import Hands
from jobs_support import make_task

from pwact_like.config.resource import Resource, ResourceSection, Retry
from pwact_like.jobs.dispatcher import Dispatcher
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.script import attempt_folder
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.types import Answer, EndCause, JobView, NoAnswer, Pace, Refused, Submitted, SubmitUnknown, TaskState
from pwact_like.outcome import Ok, TaskFiles

pytestmark = pytest.mark.slurm

ENDS = (EndCause.FAILED, EndCause.TIMEOUT, EndCause.OUT_OF_MEMORY, EndCause.NODE_FAIL, EndCause.PREEMPTED, EndCause.CANCELLED)


class PowerCut(BaseException):
    """The master dies here."""


@dataclass
class Played:
    """A job as the cluster has it: its script's text, and how far it is."""

    name: str
    script: Path
    state: str = "pending"  # pending, running, ended
    cause: EndCause = EndCause.UNKNOWN
    works: bool = True  # False: a second start, which the job's claim sends home


@dataclass
class Cluster:
    """A scheduler with faults."""

    name: str = "played"
    pace: Pace = field(default_factory=Pace)
    jobs: dict[str, Played] = field(default_factory=dict)
    replies: list[str] = field(default_factory=list)
    silent: bool = False
    hidden: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    remembers: bool = True
    executions: Counter = field(default_factory=Counter)
    attempts: dict[str, list[tuple[Path, int]]] = field(default_factory=dict)

    def header(self, request):
        return ()

    def longest_s(self, section):
        return None

    def memory_mb(self, number):
        return 1000

    def submit(self, script, name):
        reply = self.replies.pop(0) if self.replies else "taken"
        if reply == "wait":
            return Refused("AssocMaxSubmitJobLimit", wait=True)
        if reply != "lost on the way":
            self.jobs[str(len(self.jobs) + 1)] = Played(name, script)
        if reply == "power cut":
            raise PowerCut
        number = str(len(self.jobs))
        return SubmitUnknown("time-out") if reply in ("lost on the way", "taken without a word") else Submitted(number)

    def _view(self, number):
        job = self.jobs[number]
        if job.state == "ended":
            return JobView(number, job.name, alive=False, cause=job.cause, node="n1")
        return JobView(number, job.name, alive=True, running=job.state == "running", node="n1" if job.state == "running" else "")

    def _known(self):
        return [number for number in self.jobs if number not in self.hidden and number not in self.forgotten]

    def query(self, ids):
        wanted = set(ids)
        return NoAnswer("away") if self.silent else Answer({n: self._view(n) for n in self._known() if n in wanted})

    def find(self, *names):
        return NoAnswer("away") if self.silent else Answer({n: self._view(n) for n in self._known() if self.jobs[n].name in names})

    def look_back(self, jobs):
        if self.silent:
            return NoAnswer("away")
        return Answer({n: self._view(n) for n in jobs if self.remembers and n in self.jobs and self.jobs[n].state == "ended"})

    def cancel(self, jobs):
        for number in jobs:
            if self.jobs[number].state != "ended":
                self.jobs[number].state, self.jobs[number].cause = "ended", EndCause.CANCELLED

    # ---- the job script's rules

    def start(self, job):
        job.state = "running"
        claim = job.script.parent / "claim"
        if claim.exists():
            job.works = False
        else:
            claim.touch()

    def do_task(self, folder: Path, number: int, end: str):
        """One attempt, if nobody has claimed it."""
        attempt = folder / ".attempt" / str(number)
        attempt.mkdir(parents=True, exist_ok=True)
        if (attempt / "claim").exists():
            return
        (attempt / "claim").touch()
        self.executions[folder.name, number] += 1
        if end == "good":
            (attempt / "out").write_text(folder.name)
            (attempt / "exit").write_text("0\n")
        elif end == "late output":
            (attempt / "late").write_text(folder.name)
            (attempt / "exit").write_text("0\n")
        elif end == "bad":
            (attempt / "exit").write_text("3\n")
        elif end == "killed":
            (attempt / "exit").write_text("137\n")


class RandomFaults(RuleBasedStateMachine):
    """Tasks of one stage, three to a job."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="pwl-faults-"))
        self.cluster, self.clock = Cluster(), Hands()
        self.journal = self.lock = self.dispatcher = None
        files = TaskFiles(outputs=("out",))
        self.tasks = [make_task(self.folder / f"t{n}", "touch out", files=files, max_attempts=3) for n in range(5)]
        self.accepted: Counter = Counter()

    # ---- the master

    @initialize()
    def begin(self):
        self.start_master()

    def start_master(self):
        self.lock = MasterLock(self.folder / "state")
        self.lock.acquire()
        self.journal = Journal(self.folder / "state" / "journal.sqlite", self.lock)
        resource = Resource(scheduler="local", max_jobs=3, train=ResourceSection(group_size=2, memory="1G", retry=Retry(attempts=3)))
        options = {"clock": self.clock, "grace_s": 30.0, "stop": StopFlag()}
        self.dispatcher = Dispatcher(self.folder / "state", self.folder, self.journal, self.cluster, resource, "faults", **options)
        self.dispatcher.begin(self.tasks, self.judge)

    def stop_master(self):
        self.dispatcher.stop.close()
        self.journal.close()
        self.lock.release()

    def judge(self, task, folder):
        assert (folder / "out").read_text() == task.folder.name
        self.accepted[task.name] += 1
        return Ok()

    def tick(self, seconds=5.0):
        self.clock.now += seconds
        try:
            self.dispatcher.tick()
        except PowerCut:
            self.stop_master()
            self.start_master()

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0]))
    def a_tick(self, seconds):
        self.tick(seconds)

    @rule()
    def another_master(self):
        self.stop_master()
        self.start_master()

    # ---- faults of the scheduler

    @rule(reply=st.sampled_from(["wait", "lost on the way", "taken without a word", "power cut", "taken"]))
    def next_reply(self, reply):
        self.cluster.replies.append(reply)

    @rule()
    def falls_silent_or_answers(self):
        self.cluster.silent = not self.cluster.silent

    @rule(data=st.data())
    @precondition(lambda self: self.cluster.jobs)
    def hides_a_job(self, data):
        """An answer without it, once: the next rule may bring it back."""
        number = data.draw(st.sampled_from(sorted(self.cluster.jobs)))
        self.cluster.hidden ^= {number}

    @rule(data=st.data())
    @precondition(lambda self: any(job.state == "ended" for job in self.cluster.jobs.values()))
    def forgets_an_ended_job(self, data):
        ended = sorted(number for number, job in self.cluster.jobs.items() if job.state == "ended")
        self.cluster.forgotten.add(data.draw(st.sampled_from(ended)))

    @rule()
    def accounting_comes_or_goes(self):
        self.cluster.remembers = not self.cluster.remembers

    # ---- what the jobs do

    def in_state(self, *states):
        return sorted(number for number, job in self.cluster.jobs.items() if job.state in states)

    @rule(data=st.data())
    @precondition(lambda self: self.in_state("pending"))
    def a_job_starts(self, data):
        self.cluster.start(self.cluster.jobs[data.draw(st.sampled_from(self.in_state("pending")))])

    @rule(data=st.data(), ends=st.lists(st.sampled_from(["good", "good", "bad", "killed", "late output", "cut off"]), max_size=2))
    @precondition(lambda self: self.in_state("running"))
    def a_job_works(self, data, ends):
        job = self.cluster.jobs[data.draw(st.sampled_from(self.in_state("running")))]
        if job.works:
            for (folder, number), end in zip(attempts_in(job.script), ends, strict=False):
                self.cluster.do_task(folder, number, end)

    @rule(data=st.data(), cause=st.sampled_from((EndCause.COMPLETED, *ENDS)))
    @precondition(lambda self: self.in_state("pending", "running"))
    def a_job_ends(self, data, cause):
        job = self.cluster.jobs[data.draw(st.sampled_from(self.in_state("pending", "running")))]
        job.state, job.cause = "ended", cause

    @rule()
    def late_outputs_arrive(self):
        for task in self.tasks:
            for late in task.folder.glob(".attempt/*/late"):
                late.replace(late.with_name("out"))

    # ---- what must hold

    @invariant()
    def no_attempt_is_executed_twice(self):
        assert all(count == 1 for count in self.cluster.executions.values()), self.cluster.executions

    @invariant()
    def an_accepted_task_has_its_output(self):
        if self.dispatcher is None:
            return
        for name, result in self.dispatcher.results().items():
            if result.state is TaskState.ACCEPTED:
                assert (self.folder / name / "out").read_text() == name

    def teardown(self):
        try:
            if self.dispatcher is not None:
                self.calm_down()
        finally:
            if self.journal is not None:
                self.stop_master()
            shutil.rmtree(self.folder)

    def calm_down(self):
        """From whatever state: with all faults over, the campaign comes to its end by itself."""
        self.cluster.silent, self.cluster.remembers = False, True
        self.cluster.replies.clear()
        self.cluster.hidden.clear()
        for _ in range(400):
            self.late_outputs_arrive()
            for job in self.cluster.jobs.values():
                if job.state == "pending":
                    self.cluster.start(job)
                elif job.state == "running":
                    if job.works:
                        for folder, number in attempts_in(job.script):
                            self.cluster.do_task(folder, number, "good")
                    job.state, job.cause = "ended", EndCause.COMPLETED
            if self.dispatcher.done:
                break
            self.tick(40.0)
        assert self.dispatcher.done, "it never came to its end"
        self.no_attempt_is_executed_twice()
        self.an_accepted_task_has_its_output()
        results = self.dispatcher.results()
        assert set(results) == {task.name for task in self.tasks}
        for task in self.tasks:
            accepted = [row for row in self.journal.attempts(task.name) if row.state == "accepted"]
            assert len(accepted) == (results[task.name].state is TaskState.ACCEPTED)
            if accepted:
                assert self.cluster.executions[task.name, accepted[0].number] == 1
        assert all(job.state == "ended" for job in self.cluster.jobs.values()), "an orphan"


def attempts_in(script: Path) -> list[tuple[Path, int]]:
    """The attempts that a rendered script begins, as it says so itself."""
    found = []
    for line in script.read_text().splitlines():
        if line.startswith("  pwl_begin "):
            folder, number = line.removeprefix("  pwl_begin ").removesuffix(" || return 0").rsplit(" ", 1)
            found.append((Path(folder), int(number)))
    return found


def test_the_script_is_read_right(tmp_path):
    machine = RandomFaults()
    machine.begin()
    machine.tick()
    scripts = [job.script for job in machine.cluster.jobs.values()]
    assert [attempts_in(script) for script in scripts] == [
        [(machine.tasks[0].folder, 1), (machine.tasks[1].folder, 1)],
        [(machine.tasks[2].folder, 1), (machine.tasks[3].folder, 1)],
        [(machine.tasks[4].folder, 1)],
    ]
    machine.teardown()
    assert sum(machine.accepted.values()) == 5
    assert attempt_folder(machine.tasks[0], 1).name == "1"


RandomFaults.TestCase.settings = settings(
    max_examples=int(os.environ.get("PWACT_LIKE_FAULT_EXAMPLES", "60")),
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestRandomFaults = RandomFaults.TestCase
