"""The fault table on the fake Slurm and on the real one, and what only the fake can be made to do."""

from __future__ import annotations

import pytest
from fake.fake_slurm import FakeSlurm
from fault_table import HOLD, SMALL, FaultTable, check_once, hold
from jobs_support import executions, make_task

from pwact_like.jobs.types import EndCause, TaskState

pytestmark = pytest.mark.slurm


class TestFake(FaultTable):
    @pytest.fixture
    def slurm(self, tmp_path, monkeypatch):
        hour = {"max_time": "1:00:00", "default_time": "10"}
        partitions = {"cpu": {**hour, "nodes": ["n1", "n2"]}, "gpu": {**hour, "nodes": ["n3"]}}
        with FakeSlurm(tmp_path / "slurm", nodes={"n1": {}, "n2": {}, "n3": {"gpus": 2}}, partitions=partitions) as slurm:
            slurm.install(monkeypatch)
            yield slurm

    def controller_away(self, slurm):
        slurm.controller_down()

    def controller_back(self, slurm):
        slurm.controller_up()

    def node_fails(self, slurm, node):
        slurm.node_down(node)

    def pass_time(self, slurm, seconds):
        slurm.advance(seconds)

    def requeue(self, slurm, number):
        slurm.requeue(number)

    def live_jobs(self, slurm):
        return [job.name for job in slurm.jobs() if job.display in ("PENDING", "RUNNING", "COMPLETING")]

    def prepare_memory(self, slurm, master):
        slurm_end = lambda: slurm.end(master.job_id(), "OUT_OF_MEMORY", (0, 125))  # noqa: E731
        master.when(lambda: bool(master.dispatcher.job_rows()) and master.dispatcher.job_rows()[0].state == "running", slurm_end)

    def greedy(self, folder):
        return "[ $(basename $PWD) = 2 ] || sleep 60"

    # ------------------------------------------------------------------ what only the fake can be made to do

    def test_master_dies_between_sbatch_and_recording_its_id(self, slurm, bench, tmp_path):
        """Seen from the next master: an intent without an id, and a job of that name. (The real kill: tests/crash.)"""
        slurm.fault("sbatch", "accept_then_die")
        task = make_task(tmp_path / "t", "touch out")
        master = bench()
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        check_once(task)
        assert len(slurm.jobs(forgotten=True)) == 1

    def test_sbatch_times_out_but_the_job_was_accepted(self, slurm, bench, tmp_path):
        slurm.fault("sbatch", "accept_then_hang")
        task = make_task(tmp_path / "t", "touch out")
        master = bench(timeout_s=1.0)
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        check_once(task)
        assert len(slurm.jobs(forgotten=True)) == 1

    @pytest.mark.parametrize(
        "kind", ["accept_then_error", "error:sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"]
    )
    def test_sbatch_fails_without_a_clear_word(self, slurm, bench, tmp_path, kind):
        slurm.fault("sbatch", kind)
        task = make_task(tmp_path / "t", "touch out")
        assert bench().run([task])["t"].state is TaskState.ACCEPTED
        check_once(task)
        assert len(slurm.jobs(forgotten=True)) == 1

    @pytest.mark.parametrize("kind", ["empty", "partial", "partial:lines", "garbage", "hang", "unreachable", "munge"])
    def test_one_bad_answer_of_squeue(self, slurm, bench, tmp_path, kind):
        """Empty once, cut off, another program's noise, no answer: no job is lost, none runs twice."""
        held = hold(tmp_path)
        tasks = [make_task(tmp_path / f"t{n}", HOLD, "touch out") for n in range(4)]
        master = bench(timeout_s=1.0)

        def fault():
            slurm.fault("squeue", kind, times=1)
            self.seen = master.ticks

        master.when(master.running(*tasks), fault)
        master.when(lambda: master.ticks >= self.seen + 2, held.unlink)
        assert {result.state for result in master.run(tasks).values()} == {TaskState.ACCEPTED}
        check_once(*tasks)
        assert len(slurm.jobs(forgotten=True)) == 4

    def test_squeue_hangs_for_long(self, slurm, bench, tmp_path):
        task = make_task(tmp_path / "t", "touch out")
        slurm.fault("squeue", "hang", times=3)
        assert bench(timeout_s=0.5).run([task])["t"].state is TaskState.ACCEPTED
        check_once(task)

    @pytest.mark.parametrize("state", ["A_STATE_OF_TOMORROW", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING"])
    def test_an_unknown_state_is_alive(self, slurm, bench, tmp_path, state):
        held = hold(tmp_path)
        task = make_task(tmp_path / "t", HOLD, "touch out")
        master = bench()
        master.when(master.running(task), lambda: slurm.set_state(master.job_id(), state))
        master.when(lambda: master.dispatcher.job_rows()[0].said == state and master.ticks > 6, held.unlink)
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        check_once(task)

    def test_submit_limit(self, slurm, bench, tmp_path):
        """Waited out: tasks are neither lost nor failed."""
        slurm.configure(max_submit=2)
        tasks = [make_task(tmp_path / f"t{n}", "touch out") for n in range(5)]
        master = bench()
        assert {result.state for result in master.run(tasks, timeout_s=120).values()} == {TaskState.ACCEPTED}
        check_once(*tasks)

    def test_max_job_count(self, slurm, bench, tmp_path):
        """sbatch blocks and tries again by itself: given up after its time-out, and the job is not there twice."""
        held = hold(tmp_path)
        slurm.configure(max_job_count=2)
        tasks = [make_task(tmp_path / f"t{n}", HOLD, "touch out") for n in range(3)]
        master = bench(timeout_s=1.0)
        master.when(lambda: sum(bool(executions(task)) for task in tasks) == 2 and master.ticks > 8, held.unlink)
        master.when(lambda: True, lambda: slurm.configure(max_job_count=100))
        assert {result.state for result in master.run(tasks, timeout_s=120).values()} == {TaskState.ACCEPTED}
        check_once(*tasks)

    def test_two_bad_answers_of_squeue_and_the_job_is_asked_for_by_its_id(self, slurm, bench, tmp_path):
        held = hold(tmp_path)
        task = make_task(tmp_path / "t", HOLD, "touch out", max_attempts=1)
        master = bench(grace_s=0.3)

        def fault():
            slurm.fault("squeue", "empty", times=2, match="-u")
            self.seen = master.ticks

        master.when(master.running(task), fault)
        master.when(lambda: master.ticks >= self.seen + 6, held.unlink)
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        check_once(task)

    @pytest.mark.parametrize("state", ["PREEMPTED", "BOOT_FAIL", "NODE_FAIL"])
    def test_nobodys_fault(self, slurm, bench, tmp_path, state):
        held = hold(tmp_path)
        task = make_task(tmp_path / "t", HOLD, "touch out", max_attempts=1)
        master = bench()
        master.when(master.running(task), lambda: slurm.end(master.job_id(), state))
        master.when(lambda: len(master.journal.attempts("t")) == 2, held.unlink)
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        assert not master.journal.attempts("t")[0].strike and [line[0] for line in executions(task)] == ["1", "2"]

    def test_forgotten_before_anybody_asked(self, slurm, bench, tmp_path):
        """MinJobAge went by while the master was away."""
        task = make_task(tmp_path / "t", "touch out")
        cut = make_task(tmp_path / "cut", "kill -9 0", max_attempts=1)
        first = bench()
        first.dispatcher.begin([task, cut], lambda task, folder: None)
        first.dispatcher.tick()
        ids = [job.scheduler_id for job in first.journal.jobs().values()]
        first.close()
        for number in ids:
            slurm.wait(number, "COMPLETED", "FAILED")
            slurm.purge(number)
        second = bench()
        results = second.run([task, cut])
        assert results["t"].state is TaskState.ACCEPTED and results["cut"].state is TaskState.FAILED
        check_once(task)

    def test_accounting_names_the_cause_of_what_squeue_has_forgotten(self, slurm, bench, tmp_path):
        slurm.configure(accounting=True)
        task = make_task(tmp_path / "t", "[ $(basename $PWD) = 2 ] || sleep 60", "touch out", max_attempts=1)
        master = bench()
        assert master.scheduler.facts.accounting

        def end():
            slurm.end(master.job_id(), "NODE_FAIL")
            slurm.purge(master.job_id())

        master.when(master.running(task), end)
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        assert master.cause(task) == EndCause.NODE_FAIL and not master.journal.attempts("t")[0].strike

    def test_accounting_that_missed_the_end_is_not_believed(self, slurm, bench, tmp_path):
        """A runaway job: RUNNING for ever in sacct, unknown to the controller."""
        slurm.configure(accounting=True)
        task = make_task(tmp_path / "t", "[ $(basename $PWD) = 2 ] || sleep 60", "touch out", max_attempts=2)
        master = bench()

        def vanish():
            slurm.end(master.job_id(), "FAILED")
            slurm.accounting_says(master.job_id(), "RUNNING")
            slurm.purge(master.job_id())

        master.when(master.running(task), vanish)
        assert master.run([task])["t"].state is TaskState.ACCEPTED and master.cause(task) == EndCause.LOST

    def test_clock_skew(self, slurm, bench, tmp_path):
        """The cluster's clock is a day ahead: nothing is concluded from times."""
        slurm.advance(86400)
        held = hold(tmp_path)
        task = make_task(tmp_path / "t", HOLD, "touch out")
        master = bench()
        rows = []
        master.when(
            lambda: bool(executions(task)) and master.dispatcher.job_rows()[0].since is not None,
            lambda: rows.extend(master.dispatcher.job_rows()),
        )
        master.when(lambda: True, held.unlink)
        assert master.run([task])["t"].state is TaskState.ACCEPTED
        check_once(task)
        assert rows[0].since > slurm.now - 3600

    def test_a_job_waits_for_ever(self, slurm, bench, tmp_path, caplog):
        held = hold(tmp_path)
        task = make_task(tmp_path / "t", HOLD, "touch out")
        master = bench()
        first = make_task(tmp_path / "first", HOLD, "touch out")
        master.when(master.running(first, task), lambda: None)
        master.when(lambda: True, held.unlink)
        master.run([first, task])
        late = make_task(tmp_path / "late", "touch out")
        slurm.drain("n1"), slurm.drain("n2")
        again = [make_task(tmp_path / "late", "touch out")]
        master.when(master.submitted, lambda: slurm.set_pending_reason(master.job_id(2), "PartitionTimeLimit"))
        master.when(
            lambda: "PartitionTimeLimit" in caplog.text, lambda: (slurm.set_pending_reason(master.job_id(2), ""), slurm.node_up("n1"))
        )
        assert master.run(again)["late"].state is TaskState.ACCEPTED
        assert "will not begin by itself: PartitionTimeLimit" in caplog.text
        check_once(late)

    def test_one_squeue_a_tick(self, slurm, bench, tmp_path):
        held = hold(tmp_path)
        tasks = [make_task(tmp_path / f"t{n}", HOLD, "touch out") for n in range(6)]
        master = bench(section=SMALL)

        def count():
            self.before = master.ticks
            slurm.forget_calls()

        master.when(master.running(*tasks), count)
        master.when(lambda: master.ticks >= self.before + 5, lambda: self.counted(slurm, master, held))
        master.run(tasks)
        assert self.calls == 5

    def counted(self, slurm, master, held):
        self.calls = len(slurm.calls("squeue"))
        held.unlink()


class TestReal(FaultTable):
    @pytest.fixture
    def slurm(self, cluster):
        return cluster

    def controller_away(self, slurm):
        slurm.slurmctld_kill()

    def controller_back(self, slurm):
        slurm.slurmctld_start()

    def node_fails(self, slurm, node):
        slurm.slurmd_kill(node, with_jobs=True)

    def pass_time(self, slurm, seconds):
        """It passes by itself."""

    def requeue(self, slurm, number):
        slurm.scontrol("update", f"JobId={number}", "Requeue=1")
        slurm.scontrol("requeue", number)

    def live_jobs(self, slurm):
        return [row[1] for row in slurm.squeue("-h", columns="%i|%j")]
