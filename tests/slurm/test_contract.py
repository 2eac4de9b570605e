"""Slurm keeps the scheduler's contract: the fake one and the real one by the same tests, so that the fake cannot drift."""

from __future__ import annotations

import time

import pytest
from fake.fake_slurm import FakeSlurm
from jobs_support import NASTY, executions, make_task, wait_until
from scheduler_contract import SchedulerContract

from pwact_like.config.resource import ResourceSection
from pwact_like.errors import SchedulerError
from pwact_like.jobs.script import attempt_folder
from pwact_like.jobs.slurm import SlurmScheduler
from pwact_like.jobs.types import Answer, EndCause, NoAnswer, Refused

pytestmark = pytest.mark.slurm

# both slots at work at the same time
BOTH = (
    'echo "$CUDA_VISIBLE_DEVICES" >out; until [ -e ../../../t0/.attempt/1/out ] && [ -e ../../../t1/.attempt/1/out ]; do sleep 0.02; done'
)
FOREVER = "while [ ! -e ../../go ]; do sleep 0.02; done"


class SlurmContract(SchedulerContract):
    """What Slurm adds to every scheduler's contract."""

    @pytest.fixture
    def scheduler(self, slurm):
        return SlurmScheduler(timeout_s=30)

    def another(self, scheduler):
        return SlurmScheduler(timeout_s=30)

    def test_its_configuration_is_read(self, scheduler):
        assert scheduler.facts.version.startswith("22.05") and scheduler.facts.min_job_age_s and not scheduler.facts.accounting
        shortest, longest = scheduler.pace.poll_s
        assert shortest <= longest <= scheduler.facts.min_job_age_s / 2
        assert scheduler.longest_s(ResourceSection()) == 3600 and scheduler.longest_s(ResourceSection(queue_name="gpu")) == 3600

    def test_what_it_shows_of_a_job(self, scheduler, jobs, tmp_path):
        before = time.time()
        task = make_task(tmp_path / "t", FOREVER)
        job = self.submit(scheduler, jobs, task, "pwl-contract-k-1", ResourceSection(memory="700M"))
        wait_until(lambda: self.look(scheduler, job).running, self.timeout_s)
        view = self.look(scheduler, job)
        assert view.said == "RUNNING" and view.node in ("n1", "n2", "n3") and view.since is not None
        assert before - 2 <= view.since <= time.time() + 2
        assert scheduler.memory_mb(job) == 700
        (task.folder / "go").touch()
        view = self.until_ended(scheduler, job)
        assert view.said in ("COMPLETED", "FAILED") and view.since is not None and view.since <= time.time() + 2

    def test_a_job_that_waits_for_ever_says_so(self, scheduler, jobs, tmp_path):
        section = ResourceSection(custom_flags=("--dependency=afterok:999999", "--kill-on-invalid-dep=no"), queue_name="short", time="30")
        reply = scheduler.submit(
            self.write(scheduler, jobs, make_task(tmp_path / "t", "true"), "pwl-contract-l-1", section), "pwl-contract-l-1"
        )
        if isinstance(reply, Refused):
            assert not reply.wait
            return
        wait_until(lambda: self.look(scheduler, reply.id).reason not in ("", "Priority"), self.timeout_s)
        assert self.look(scheduler, reply.id).stuck
        scheduler.cancel({reply.id: "pwl-contract-l-1"})

    @pytest.mark.parametrize("flag", ["--partition=nowhere", "--mem=900G", "--gres=gpu:9"])
    def test_what_can_never_be_is_refused_for_good(self, scheduler, jobs, tmp_path, flag):
        section = ResourceSection(custom_flags=(flag,))
        reply = scheduler.submit(
            self.write(scheduler, jobs, make_task(tmp_path / "t", "true"), "pwl-contract-m-1", section), "pwl-contract-m-1"
        )
        assert isinstance(reply, Refused) and not reply.wait and reply.text, reply

    @pytest.mark.parametrize("folder", [*NASTY, "100%job", "back\\slash"])
    def test_job_folders_of_any_kind(self, scheduler, tmp_path, folder):
        """Slurm expands % and backslashes in the folder that it is called in: such jobs would fail to launch."""
        task = make_task(tmp_path / "t", "touch out")
        job = self.submit(scheduler, tmp_path / folder / "jobs", task, "pwl-contract-n-1")
        assert self.until_ended(scheduler, job).cause is EndCause.COMPLETED
        assert len(executions(task)) == 1

    def test_the_script_runs_as_it_was_when_it_was_taken(self, scheduler, jobs, tmp_path):
        task = make_task(tmp_path / "t", "touch out")
        job = self.submit(scheduler, jobs, task, "pwl-contract-o-1")
        (jobs / "pwl-contract-o-1" / "job.sh").unlink()
        assert self.until_ended(scheduler, job).cause is EndCause.COMPLETED and (attempt_folder(task, 1) / "out").exists()

    def test_gpus_are_dealt_out_to_slots(self, scheduler, jobs, tmp_path):
        tasks = [
            make_task(
                tmp_path / f"t{n}",
                BOTH,
            )
            for n in range(2)
        ]
        section = ResourceSection(gpu_per_node=2, parallel_num=2, group_size=2, queue_name="gpu", cpu_per_node=2)
        name = "pwl-contract-p-1"
        from pwact_like.jobs import group
        from pwact_like.jobs.script import Work, render_job
        from pwact_like.jobs.types import JobRequest

        text = render_job(name, jobs / name, [Work(task, 1) for task in tasks], section, scheduler.header(JobRequest(name, section)))
        group.write_script(jobs / name / "job.sh", text)
        job = scheduler.submit(jobs / name / "job.sh", name).id
        assert self.until_ended(scheduler, job).cause is EndCause.COMPLETED
        assert sorted((attempt_folder(task, 1) / "out").read_text().strip() for task in tasks) == ["0", "1"]

    def test_the_environment_of_an_enclosing_job_stays_outside(self, scheduler, jobs, tmp_path, monkeypatch):
        """A master that is itself a job must not hand its own limits on, nor may the user's SBATCH_ variables outrank the script."""
        for name, value in {"SLURM_JOB_ID": "1", "SLURM_MEM_PER_NODE": "1", "SBATCH_JOB_NAME": "other", "SQUEUE_STATES": "PD"}.items():
            monkeypatch.setenv(name, value)
        task = make_task(tmp_path / "t", 'echo "$SLURM_JOB_NAME" "${SLURM_MEM_PER_NODE-none}" >out')
        job = self.submit(scheduler, jobs, task, "pwl-contract-q-1")
        assert self.until_ended(scheduler, job).name == "pwl-contract-q-1"
        assert (attempt_folder(task, 1) / "out").read_text().split()[0] == "pwl-contract-q-1"

    def test_a_controller_that_is_away_gives_no_answer(self, scheduler, jobs, tmp_path, slurm):
        job = self.submit(scheduler, jobs, make_task(tmp_path / "t", FOREVER), "pwl-contract-r-1")
        self.away(slurm)
        quick = SlurmScheduler(timeout_s=20)
        assert isinstance(quick.query([job]), NoAnswer)
        assert quick.pace.poll_s[0] == 10
        begin = time.monotonic()
        assert all(quick.pace.submissions == 4 for _ in range(100)) and time.monotonic() - begin < 1, "asked again each time"
        with pytest.raises(SchedulerError, match="may still run"):
            quick.cancel({job: "pwl-contract-r-1"})
        self.back(slurm)
        answer = scheduler.query([job])
        assert isinstance(answer, Answer) and answer.jobs[job].alive
        scheduler.cancel({job: "pwl-contract-r-1"})

    def away(self, slurm):
        raise NotImplementedError

    def back(self, slurm):
        raise NotImplementedError


class TestFake(SlurmContract):
    @pytest.fixture
    def slurm(self, tmp_path, monkeypatch):
        hour = {"max_time": "1:00:00", "default_time": "10"}
        partitions = {
            "cpu": {**hour, "nodes": ["n1", "n2"]},
            "gpu": {**hour, "nodes": ["n3"]},
            "short": {"max_time": "1", "nodes": ["n1", "n2"]},
        }
        with FakeSlurm(tmp_path / "slurm", nodes={"n1": {}, "n2": {}, "n3": {"gpus": 2}}, partitions=partitions) as slurm:
            slurm.install(monkeypatch)
            yield slurm

    def away(self, slurm):
        slurm.controller_down()

    def back(self, slurm):
        slurm.controller_up()


class TestReal(SlurmContract):
    @pytest.fixture
    def slurm(self, cluster):
        return cluster

    def away(self, slurm):
        slurm.slurmctld_kill()

    def back(self, slurm):
        slurm.slurmctld_start()
