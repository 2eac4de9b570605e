"""The faults that a dispatcher on Slurm must stand, one test each; inherited by the fake Slurm and by the real one.

Each test runs shell tasks to their end with the real dispatcher, does its damage on the way, and counts executions from the
tasks' own files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest
from jobs_support import always_ok, executions, make_task, wait_until

from pwact_like.config.resource import Resource, ResourceSection, Retry
from pwact_like.errors import DataError, LockedError
from pwact_like.jobs import submit
from pwact_like.jobs.dispatcher import Dispatcher
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.script import attempt_folder
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.slurm import SlurmScheduler
from pwact_like.jobs.types import EndCause, TaskState
from pwact_like.outcome import Ok, Reject, TaskFiles
from pwact_like.outcome import Retry as AskAgain

HOLD = "while [ -e ../../../hold ]; do sleep 0.05; done"
# one CPU and little memory, so that several run side by side
SMALL = ResourceSection(memory="200M", time="10")


class Bench:
    """A campaign folder with a dispatcher on a Slurm, and a master that can be replaced."""

    def __init__(
        self, folder: Path, section: ResourceSection = SMALL, timeout_s: float = 30.0, grace_s: float = 1.5, **resource: object
    ) -> None:
        self.folder = folder
        self.scheduler = SlurmScheduler(timeout_s)
        self.stop = StopFlag()
        self.lock = MasterLock(folder / "state")
        self.lock.acquire()
        self.journal = Journal(folder / "state" / "journal.sqlite", self.lock)
        self.ticks = 0
        self.closed = False
        self.events: list[tuple[Callable[[], bool], Callable[[], None]]] = []
        settings = Resource(scheduler="slurm", train=section, **resource)  # type: ignore[arg-type]
        self.dispatcher = Dispatcher(
            folder / "state",
            folder,
            self.journal,
            self.scheduler,
            settings,
            "faults",
            stop=self.stop,
            on_tick=self._on_tick,
            poll_s=(0.05, 0.3),
            grace_s=grace_s,
        )

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.stop.close()
            self.journal.close()
            self.lock.release()

    def when(self, condition: Callable[[], bool], action: Callable[[], object]) -> Bench:
        """Do something, once, after the tick after which a condition holds; several wait for one another."""
        self.events.append((condition, action))
        return self

    def _on_tick(self) -> None:
        self.ticks += 1
        assert time.monotonic() < self.deadline, f"it did not come to its end in time; {self.dispatcher.job_rows()}"
        if self.events and self.events[0][0]():
            self.events.pop(0)[1]()

    def run(self, tasks, judge=always_ok, timeout_s: float = 90.0):
        """Drive tasks to their ends; every event must have come."""
        self.deadline = time.monotonic() + timeout_s
        results = self.dispatcher.run(tasks, judge)
        assert not self.events, "an event never came"
        return results

    def submitted(self) -> bool:
        return bool(self.journal.jobs()) and all(job.scheduler_id for job in self.journal.jobs().values())

    def running(self, *tasks) -> Callable[[], bool]:
        return lambda: all(executions(task) for task in tasks)

    def job_id(self, number: int = 0) -> str:
        found = sorted(self.journal.jobs().values(), key=lambda job: job.intended)[number].scheduler_id
        assert found is not None
        return found

    def cause(self, task, number: int = 1) -> str:
        return self.journal.attempts(task.name)[number - 1].cause


def build_bench(slurm, tmp_path, monkeypatch):
    """A function that opens benches on this Slurm; the body of a fixture."""
    monkeypatch.setattr(submit, "_REFUSED_WAIT_S", (0.5, 2.0))
    opened: list[Bench] = []

    def build(folder: Path | None = None, **options: object) -> Bench:
        opened.append(Bench(folder or tmp_path, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield build
    for one in opened:
        one.close()


def greedy_command() -> str:
    """A command that takes 220 MB for some seconds."""
    return 'python3 -c "import time; x = bytearray(220 << 20); time.sleep(4)"'


def hold(folder: Path) -> Path:
    """While this file is there, tasks with HOLD wait."""
    (folder / "hold").touch()
    return folder / "hold"


def check_once(*tasks) -> None:
    """Each was accepted, and ran once."""
    for task in tasks:
        assert (task.folder / "out").exists(), task.name
        assert [line[0] for line in executions(task)] == ["1"], (task.name, executions(task))


class FaultTable:
    """Needs the fixture ``slurm`` and the methods below of the class that inherits it."""

    @pytest.fixture
    def bench(self, slurm, tmp_path, monkeypatch):
        yield from build_bench(slurm, tmp_path, monkeypatch)

    # what a kind of Slurm knows how to do
    def controller_away(self, slurm):
        raise NotImplementedError

    def controller_back(self, slurm):
        raise NotImplementedError

    def node_fails(self, slurm, node):
        raise NotImplementedError

    def pass_time(self, slurm, seconds):
        """Let time pass as far as the cluster is concerned."""
        raise NotImplementedError

    def live_jobs(self, slurm) -> list[str]:
        """Names of jobs that are not at their end."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the table

    def test_slurmctld_killed_mid_run_and_started_again(self, slurm, bench, tmp_path):
        """Jobs go on meanwhile; nothing is concluded from the silence."""
        held = hold(tmp_path)
        tasks = [make_task(tmp_path / f"t{n}", HOLD, "touch out") for n in range(3)]
        master = bench()
        master.when(master.running(*tasks), lambda: self.controller_away(slurm))
        master.when(lambda: master.dispatcher.silent, held.unlink)
        master.when(lambda: True, lambda: self.controller_back(slurm))
        assert {result.state for result in master.run(tasks).values()} == {TaskState.ACCEPTED}
        check_once(*tasks)

    def test_slurmctld_away_while_jobs_are_submitted(self, slurm, bench, tmp_path):
        tasks = [make_task(tmp_path / f"t{n}", "touch out") for n in range(6)]
        master = bench()
        self.controller_away(slurm)
        master.when(lambda: master.ticks > 1, lambda: self.controller_back(slurm))
        assert {result.state for result in master.run(tasks, timeout_s=150).values()} == {TaskState.ACCEPTED}
        check_once(*tasks)
        wait_until(lambda: self.live_jobs(slurm) == [], 60)  # a job writes its end before Slurm has seen it

    def test_no_accounting(self, slurm, bench, tmp_path):
        """A job that squeue has forgotten is judged by its marker, and is lost without one."""
        tasks = [make_task(tmp_path / "good", "touch out"), make_task(tmp_path / "cut", "kill -9 0", max_attempts=1)]
        master = bench()
        assert not master.scheduler.facts.accounting
        results = master.run(tasks)
        assert results["good"].state is TaskState.ACCEPTED and results["cut"].state is TaskState.FAILED
        assert "ended without a word on this task" in results["cut"].reason, results["cut"].reason

    def test_one_slurmd_killed(self, slurm, bench, tmp_path):
        """NODE_FAIL: begun anew elsewhere, without a strike; the failed node is left out."""
        held = hold(tmp_path)
        task = make_task(tmp_path / "t", HOLD, "touch out", max_attempts=1)
        master = bench()
        failed = []

        def fail() -> None:
            failed.append(master.dispatcher.job_rows()[0].node)
            self.node_fails(slurm, failed[0])

        master.when(lambda: bool(executions(task)) and master.dispatcher.job_rows()[0].node != "", fail)
        master.when(lambda: len(master.journal.attempts("t")) == 2, held.unlink)
        result = master.run([task], timeout_s=120)["t"]
        first, second = master.journal.attempts("t")
        assert result.state is TaskState.ACCEPTED and [line[0] for line in executions(task)] == ["1", "2"]
        assert first.cause == EndCause.NODE_FAIL and not first.strike and first.node == failed[0]
        assert second.asks.exclude == (failed[0],) and second.node not in ("", failed[0])

    def test_scontrol_requeue(self, slurm, bench, tmp_path):
        """The second start of the script leaves the first one's claims alone; its task is begun anew in another job, without a strike."""
        held = hold(tmp_path)
        task = make_task(tmp_path / "t", HOLD, "touch out", max_attempts=1)
        master = bench()

        master.when(master.running(task), lambda: self.requeue(slurm, master.job_id()))
        master.when(lambda: len(master.journal.attempts("t")) == 2 or not self.live_jobs(slurm), lambda: None)
        master.when(lambda: len(master.journal.attempts("t")) == 2, held.unlink)
        result = master.run([task], timeout_s=240)["t"]
        first = master.journal.attempts("t")[0]
        assert result.state is TaskState.ACCEPTED and first.cause == EndCause.PREEMPTED and not first.strike
        assert [line[0] for line in executions(task)] == ["1", "2"]

    def requeue(self, slurm, number):
        """As an administrator does who does not care for --no-requeue."""
        raise NotImplementedError

    def test_late_output(self, slurm, bench, tmp_path):
        """As on a network file system: the marker is there, the output comes seconds later."""
        task = make_task(tmp_path / "t", "true")
        master = bench(grace_s=6.0)
        marker = attempt_folder(task, 1) / "exit"
        master.when(marker.exists, Timer(1.2, marker.with_name("out").touch).start)
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        check_once(task)

    def test_truncated_output(self, slurm, bench, tmp_path):
        """What a program left is judged by its engine, not by its exit status."""
        task = make_task(tmp_path / "t", 'if [ "${AGAIN-}" ]; then echo whole >out; else printf who >out; fi')
        broken = make_task(tmp_path / "broken", "printf who >out")

        def judge(task, folder):
            if (folder / "out").read_text() == "whole\n":
                return Ok()
            return Reject("cut off for good") if task.name == "broken" else AskAgain("the output is cut off", {"AGAIN": "1"})

        results = bench().run([task, broken], judge)
        assert results["t"].state is TaskState.ACCEPTED and results["t"].attempts == 2
        assert results["broken"].state is TaskState.FAILED and results["broken"].reason == "cut off for good"

    def test_full_disk(self, slurm, bench, tmp_path):
        """The task failed for want of room: the master says so and stops, and with room again all goes on."""
        with tmpfs(tmp_path / "disk", 12) as disk:
            task = make_task(disk / "t", "head -c 20000000 /dev/zero >out || exit 1", max_attempts=2)
            master = bench()
            with pytest.raises(DataError, match="No space left on device"):
                master.run([task])
            assert master.journal.attempts("t")[0].state != "rejected"
            master.close()
            subprocess.run(["mount", "-o", "remount,size=64M", str(disk)], check=True)
            again = bench()
            assert again.run([task])["t"].state is TaskState.ACCEPTED
            assert (task.folder / "out").stat().st_size == 20000000

    def test_task_folder_removed(self, slurm, bench, tmp_path):
        """Somebody cleans up while the job runs: the task fails with words, the others come to their end."""
        held = hold(tmp_path)
        files = TaskFiles(inputs=("INPUT",), outputs=("out",))
        gone = make_task(tmp_path / "gone", HOLD, "cat INPUT >out", files=files, max_attempts=2)
        good = make_task(tmp_path / "good", HOLD, "touch out")
        (gone.folder / "INPUT").write_text("x")
        master = bench()

        def clean_up() -> None:
            shutil.rmtree(gone.folder)
            held.unlink()

        master.when(master.running(gone, good), clean_up)
        results = master.run([gone, good])
        assert results["good"].state is TaskState.ACCEPTED and results["gone"].state is TaskState.FAILED
        assert "INPUT" in results["gone"].reason or "without a word" in results["gone"].reason

    def test_non_ascii_output(self, slurm, bench, tmp_path):
        """Other jobs of the same user have any name, our separator and no UTF-8 included."""
        held = hold(tmp_path)
        for name in (b"caf\xc3\xa9|a|b", b"caf\xe9 \xff", "日本|".encode()):
            subprocess.run(
                [b"sbatch", b"-J", name, b"-o", b"/dev/null", b"--wrap", b"sleep 20"], check=True, capture_output=True, cwd=tmp_path
            )
        task = make_task(tmp_path / "t", HOLD, "touch out", "printf '\\377\\376\\n' >&2; exit 3", max_attempts=1)
        master = bench()
        master.when(master.running(task), held.unlink)
        result = master.run([task])["t"]
        assert result.state is TaskState.FAILED and "exit status 3" in result.reason and not master.dispatcher.silent
        result.reason.encode()

    def test_out_of_memory(self, slurm, bench, tmp_path):
        """Again, with more memory."""
        section = ResourceSection(memory="150M", retry=Retry(memory_max="2G"))
        task = make_task(tmp_path / "t", self.greedy(tmp_path), "touch out")
        master = bench(section=section, grace_s=4.0)
        self.prepare_memory(slurm, master)
        result = master.run([task], timeout_s=150)["t"]
        first = master.journal.attempts("t")[0]
        assert first.cause == EndCause.OUT_OF_MEMORY, first
        assert result.state is TaskState.ACCEPTED and "it had 150 MB" in first.reason
        assert master.journal.attempts("t")[1].asks.memory_mb == 300

    def greedy(self, folder: Path) -> str:
        """A command that takes 220 MB."""
        return greedy_command()

    def prepare_memory(self, slurm, master):
        """Plan what a Slurm without real memory does."""

    def test_time_limit(self, slurm, bench, tmp_path):
        """A training goes on from its checkpoint without a strike; a label is not tried again unchanged."""
        training = make_task(
            tmp_path / "training",
            "n=$(cat checkpoint 2>/dev/null || echo 0); echo $((n + 1)) >checkpoint; [ $n -ge 1 ] || sleep 300",
            "touch out",
            files=TaskFiles(outputs=("out",), carry=("checkpoint",), checkpoints=("checkpoint",)),
            max_attempts=1,
        )
        label = make_task(tmp_path / "label", "sleep 300", "touch out", section="DFT", max_attempts=5)
        quick = ResourceSection(memory="200M", time="1", retry=Retry(time_factor=1.0))
        master = bench(section=quick, dft=quick)
        self.when_they_run(slurm, master, training, label)
        results = master.run([training, label], timeout_s=200)
        assert results["training"].state is TaskState.ACCEPTED and results["training"].attempts == 2
        assert master.cause(training) == master.cause(label) == EndCause.TIMEOUT and not master.journal.attempts("training")[0].strike
        assert results["label"].state is TaskState.FAILED and "more are not allowed" in results["label"].reason
        assert [line[0] for line in executions(label)] == ["1"]

    def when_they_run(self, slurm, master, *tasks):
        """Let a Slurm with a virtual clock know that time passes."""
        master.when(master.running(*tasks), lambda: self.pass_time(slurm, 120))

    def test_two_masters(self, slurm, bench, tmp_path):
        """The second is refused with host, pid and age of the first, which goes on."""
        held = hold(tmp_path)
        task = make_task(tmp_path / "t", HOLD, "touch out")
        master = bench()
        refused = []

        def second() -> None:
            with pytest.raises(LockedError) as caught:
                MasterLock(tmp_path / "state").acquire()
            refused.append(str(caught.value))
            held.unlink()

        master.when(master.running(task), second)
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        assert f"pid {os.getpid()} on {os.uname().nodename}, started" in refused[0]
        check_once(task)

    def test_a_new_master_takes_up_the_jobs(self, slurm, bench, tmp_path):
        held = hold(tmp_path)
        tasks = [make_task(tmp_path / f"t{n}", HOLD, "touch out") for n in range(4)]
        first = bench(section=SMALL.model_copy(update={"group_size": 2}))
        first.dispatcher.begin(tasks, always_ok)
        first.dispatcher.tick()
        first.close()
        held.unlink()
        second = bench(section=SMALL.model_copy(update={"group_size": 2}))
        assert {result.state for result in second.run(tasks).values()} == {TaskState.ACCEPTED}
        assert len(second.journal.jobs()) == 2
        check_once(*tasks)

    def test_jobs_that_somebody_cancels_are_begun_anew(self, slurm, bench, tmp_path):
        held = hold(tmp_path)
        task = make_task(tmp_path / "t", HOLD, "touch out", max_attempts=1)
        master = bench()
        master.when(master.running(task), lambda: subprocess.run(["scancel", master.job_id()], check=True))
        master.when(lambda: len(master.journal.attempts("t")) == 2, held.unlink)
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        assert master.cause(task) == EndCause.CANCELLED and not master.journal.attempts("t")[0].strike

    def test_stragglers_are_cancelled(self, slurm, bench, tmp_path):
        tasks = [
            make_task(tmp_path / f"t{n}", "[ $(basename $(dirname $(dirname $PWD))) != t3 ] || sleep 300", "touch out") for n in range(4)
        ]
        master = bench(section=SMALL.model_copy(update={"enough": 0.75, "straggler_wait_s": 0.5}))
        results = master.run(tasks)
        assert [results[f"t{n}"].state for n in range(4)] == [TaskState.ACCEPTED] * 3 + [TaskState.FAILED]
        wait_until(lambda: self.live_jobs(slurm) == [], 20)


@contextmanager
def tmpfs(folder: Path, megabytes: int):
    """A small file system, if this user may mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("no right to mount a tmpfs: the full disk is tested where tests run as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
