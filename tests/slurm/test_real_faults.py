"""Faults of the real Slurm's own daemons, beyond the table that it shares with the fake one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from threading import Timer

import pytest
from fault_table import HOLD, SMALL, Bench, build_bench, check_once, greedy_command, hold
from jobs_support import executions, make_task, wait_until

from pwact_like.config.resource import ResourceSection
from pwact_like.jobs.slurm import SlurmScheduler
from pwact_like.jobs.types import EndCause, TaskState

pytestmark = pytest.mark.slurm


@pytest.fixture
def slurm(cluster):
    return cluster


bench = pytest.fixture(build_bench)


def names(slurm) -> list[str]:
    return [row[0] for row in slurm.squeue("-h", "-a", "-t", "all", columns="%j") if row[0].startswith("pwl-faults-")]


def test_sbatch_times_out_but_the_job_was_accepted(slurm, bench, tmp_path):
    """The controller is stopped: sbatch is given up, and its request, still in the socket, is taken when the controller goes on."""
    task = make_task(tmp_path / "t", "touch out")
    master = bench(timeout_s=1.0)
    pid = slurm.daemons["slurmctld"].pid
    os.kill(pid, signal.SIGSTOP)
    Timer(2.5, os.kill, (pid, signal.SIGCONT)).start()
    assert master.run([task])["t"].state is TaskState.ACCEPTED
    check_once(task)


def test_hung_squeue(slurm, bench, tmp_path):
    """Nothing is concluded while the controller hangs; markers count meanwhile."""
    held = hold(tmp_path)
    tasks = [make_task(tmp_path / f"t{n}", HOLD, "touch out") for n in range(2)]
    master = bench(timeout_s=1.0)
    pid = slurm.daemons["slurmctld"].pid
    master.when(master.running(*tasks), lambda: os.kill(pid, signal.SIGSTOP))
    master.when(lambda: master.dispatcher.silent, held.unlink)
    try:
        assert {result.state for result in master.run(tasks).values()} == {TaskState.ACCEPTED}
    finally:
        os.kill(pid, signal.SIGCONT)
    check_once(*tasks)


def test_max_job_count(slurm, bench, tmp_path):
    """sbatch blocks, is given up, and the job is there once in the end."""
    slurm.reconfigure(MaxJobCount=len(slurm.squeue("-h", "-a", "-t", "all")) + 1)
    filler = [make_task(tmp_path / f"t{n}", "touch out") for n in range(3)]
    master = bench(timeout_s=1.5)
    master.when(lambda: master.ticks > 6, lambda: slurm.reconfigure())
    assert {result.state for result in master.run(filler, timeout_s=120).values()} == {TaskState.ACCEPTED}
    check_once(*filler)


def test_a_controller_killed_before_it_had_saved_a_job(slurm, bench, tmp_path):
    """It forgets the job, and gives its id to the next one: not taken for ours; the task is submitted again."""
    task = make_task(tmp_path / "t", "touch out", max_attempts=1)
    slurm.run("scontrol", "update", "PartitionName=cpu", "State=DOWN")
    master = bench()

    def forget() -> None:
        slurm.slurmctld_kill(saved=False)
        slurm.slurmctld_start()
        slurm.run("scontrol", "update", "PartitionName=cpu", "State=UP")
        slurm.sbatch("-J", "somebody-else", "-o", "/dev/null", "--wrap", "true")

    master.when(master.submitted, forget)
    result = master.run([task], timeout_s=120)["t"]
    assert result.state is TaskState.ACCEPTED
    assert len(executions(task)) == 1


def test_a_controller_killed_before_it_had_saved_that_a_job_runs(slurm, bench, tmp_path):
    """It starts the job anew under its old id; whatever comes of that, the task is accepted once and no attempt runs twice."""
    held = hold(tmp_path)
    task = make_task(tmp_path / "t", HOLD, "touch out", max_attempts=1)
    master = bench(grace_s=3.0)

    def forget() -> None:
        slurm.slurmctld_kill(saved=False)
        slurm.slurmctld_start()
        Timer(8.0, held.unlink).start()

    master.when(master.running(task), forget)
    assert master.run([task], timeout_s=150)["t"].state is TaskState.ACCEPTED
    numbers = [line[0] for line in executions(task)]
    assert len(numbers) == len(set(numbers))
    assert not any(attempt.strike for attempt in master.journal.attempts("t"))


def test_forgotten_after_min_job_age(slurm, bench, tmp_path):
    """The master was away for longer than the controller remembers finished jobs."""
    slurm.reconfigure(MinJobAge=2)
    held = hold(tmp_path)
    tasks = [make_task(tmp_path / "good", HOLD, "touch out"), make_task(tmp_path / "cut", HOLD, "kill -9 0", max_attempts=1)]
    first = bench()
    assert SlurmScheduler().pace.poll_s == (1.0, 1.0), "asked often enough to see them end"
    first.dispatcher.begin(tasks, lambda task, folder: None)

    def running() -> bool:
        """The master stays until both began: a busy Slurm refuses for a while, or loses a job that it has taken."""
        first.dispatcher.tick()
        return all(executions(task) for task in tasks) and first.submitted()

    wait_until(running, 120, every_s=0.5, what=lambda: str(slurm.squeue("-a", "-t", "all")))
    ours = set(first.journal.jobs())
    first.close()
    held.unlink()
    wait_until(lambda: not ours & set(names(slurm)), 150, every_s=0.5)  # when the controller gets round to it
    second = bench()
    results = second.run(tasks)
    assert results["good"].state is TaskState.ACCEPTED and results["cut"].state is TaskState.FAILED
    reason = "the scheduler knows this job no more"
    lost = [attempt for attempt in second.journal.attempts("cut") if reason in attempt.reason]
    assert len(lost) == 1 and lost[0].cause == EndCause.LOST and not lost[0].strike
    assert (tasks[0].folder / "out").exists() and len(executions(tasks[0])) == 1


def test_out_of_memory_by_the_kernel(cgroup_cluster, tmp_path, monkeypatch):
    """OUT_OF_MEMORY, of one task among two of a job: that one alone gets more memory."""
    tasks = [make_task(tmp_path / "modest", "touch out"), make_task(tmp_path / "greedy", greedy_command(), "touch out")]
    master = Bench(tmp_path, section=ResourceSection(memory="150M", time="10", group_size=2), grace_s=4.0)
    try:
        results = master.run(tasks, timeout_s=120)
        first = master.journal.attempts("greedy")[0]
        assert first.cause == EndCause.OUT_OF_MEMORY and master.journal.attempts("greedy")[1].asks.memory_mb == 300
        assert {result.state for result in results.values()} == {TaskState.ACCEPTED}
        assert len(executions(tasks[0])) == 1
    finally:
        master.close()


class TestAccounting:
    """With slurmdbd: limits, and a memory that outlives the controller's."""

    @pytest.fixture
    def slurm(self, accounting_cluster):
        return accounting_cluster

    def test_submit_limit(self, slurm, bench, tmp_path):
        slurm.set_limits(MaxSubmitJobs=2)
        tasks = [make_task(tmp_path / f"t{n}", "touch out") for n in range(5)]
        master = bench()
        assert {result.state for result in master.run(tasks, timeout_s=120).values()} == {TaskState.ACCEPTED}
        check_once(*tasks)

    def test_what_the_controller_forgot_is_in_the_accounting(self, slurm, bench, tmp_path):
        """The cause of an end, by name and by id, long after squeue has forgotten it."""
        held = hold(tmp_path)
        slurm.reconfigure(MinJobAge=2)
        task = make_task(tmp_path / "t", HOLD, "touch out", max_attempts=1)
        first = bench()
        first.dispatcher.begin([task], lambda task, folder: None)
        first.dispatcher.tick()
        wait_until(lambda: bool(executions(task)), 30)
        job = next(iter(first.journal.jobs().values()))
        first.close()
        subprocess.run(["scancel", job.scheduler_id], check=True)
        slurm.wait_recorded(job.scheduler_id, "CANCELLED")
        wait_until(lambda: job.name not in names(slurm), 60)
        found = SlurmScheduler().find(job.name)
        assert [view.cause for view in found.jobs.values()] == [EndCause.CANCELLED]
        held.unlink()
        second = bench()
        assert second.run([task])["t"].state is TaskState.ACCEPTED
        assert second.cause(task) == EndCause.CANCELLED and not second.journal.attempts("t")[0].strike

    def test_a_wrong_account_is_refused_for_good(self, slurm, bench, tmp_path):
        from pwact_like.errors import SchedulerError

        section = SMALL.model_copy(update={"custom_flags": ("--account=nobodys",)})
        with pytest.raises(SchedulerError, match=r"(?i)account.*correct resource.json"):
            bench(section=section).run([make_task(tmp_path / "t", "touch out")])


def test_a_thousand_jobs_are_asked_for_with_one_squeue(slurm, tmp_path):
    """Beside benchmarks/slurm_speed.py: that no process is started for each job."""
    scheduler = SlurmScheduler()
    calls = []
    run = scheduler.commands.run
    scheduler.commands.run = lambda program, *rest, **options: (calls.append(program), run(program, *rest, **options))[1]
    begin = time.monotonic()
    scheduler.query([str(number) for number in range(1000)])
    assert calls == ["squeue"] and time.monotonic() - begin < 5
