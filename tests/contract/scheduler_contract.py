"""What every scheduler must do; a test class of its own inherits this one and says how to get the scheduler.

::

    class TestLocal(SchedulerContract):
        @pytest.fixture
        def scheduler(self, tmp_path): ...
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from jobs_support import NASTY, executions, make_task, wait_until

from pwact_like.config.resource import ResourceSection
from pwact_like.jobs import group
from pwact_like.jobs.script import Work, attempt_folder, render_job
from pwact_like.jobs.types import Answer, EndCause, JobRequest, JobView, Scheduler, Submitted, Task


class SchedulerContract:
    """Inherited by the tests of each scheduler."""

    timeout_s = 30.0

    @pytest.fixture
    def scheduler(self, tmp_path: Path) -> Scheduler:
        raise NotImplementedError

    @pytest.fixture
    def jobs(self, tmp_path: Path) -> Path:
        """The folder of job folders."""
        return tmp_path / "jobs"

    # ------------------------------------------------------------------ helpers

    def write(self, scheduler: Scheduler, jobs: Path, task: Task, name: str, section: ResourceSection | None = None) -> Path:
        folder = jobs / name
        section = section or ResourceSection()
        header = scheduler.header(JobRequest(name, section))
        group.write_script(folder / "job.sh", render_job(name, folder, [Work(task, 1)], section, header))
        return folder / "job.sh"

    def submit(self, scheduler: Scheduler, jobs: Path, task: Task, name: str, section: ResourceSection | None = None) -> str:
        reply = scheduler.submit(self.write(scheduler, jobs, task, name, section), name)
        assert isinstance(reply, Submitted), reply
        return reply.id

    def look(self, scheduler: Scheduler, job: str) -> JobView:
        answer = scheduler.query([job])
        assert isinstance(answer, Answer), answer
        return answer.jobs[job]

    def until_ended(self, scheduler: Scheduler, job: str) -> JobView:
        wait_until(lambda: not self.look(scheduler, job).alive, self.timeout_s)
        return self.look(scheduler, job)

    # ------------------------------------------------------------------ the contract

    def test_a_job_runs_and_is_seen_through_to_its_end(self, scheduler, jobs, tmp_path):
        task = make_task(tmp_path / "t", "while [ ! -e ../../go ]; do sleep 0.02; done; touch out")
        job = self.submit(scheduler, jobs, task, "pwl-contract-a-1")
        wait_until(lambda: self.look(scheduler, job).running, self.timeout_s)
        view = self.look(scheduler, job)
        assert (view.id, view.name, view.alive) == (job, "pwl-contract-a-1", True)
        (task.folder / "go").touch()
        view = self.until_ended(scheduler, job)
        assert (view.cause, view.running) == (EndCause.COMPLETED, False)
        assert (attempt_folder(task, 1) / "out").exists() and len(executions(task)) == 1

    def test_a_job_that_fails_ended_so(self, scheduler, jobs, tmp_path):
        task = make_task(tmp_path / "t", "exit 3")
        job = self.submit(scheduler, jobs, task, "pwl-contract-b-1")
        assert self.until_ended(scheduler, job).cause is EndCause.FAILED

    def test_what_was_never_submitted_is_absent_without_error(self, scheduler, jobs, tmp_path):
        task = make_task(tmp_path / "t", "touch out")
        job = self.submit(scheduler, jobs, task, "pwl-contract-c-1")
        answer = scheduler.query([job, "999999"])
        assert isinstance(answer, Answer) and set(answer.jobs) == {job}
        answer = scheduler.find("pwl-contract-never-1")
        assert isinstance(answer, Answer) and not answer.jobs
        answer = scheduler.query([])
        assert isinstance(answer, Answer) and not answer.jobs
        self.until_ended(scheduler, job)

    def test_a_script_that_was_written_and_not_submitted_is_absent(self, scheduler, jobs, tmp_path):
        self.write(scheduler, jobs, make_task(tmp_path / "t", "touch out"), "pwl-contract-d-1")
        answer = scheduler.find("pwl-contract-d-1")
        assert isinstance(answer, Answer) and not answer.jobs

    def test_a_job_is_found_by_its_name_alive_and_ended(self, scheduler, jobs, tmp_path):
        task = make_task(tmp_path / "t", "while [ ! -e ../../go ]; do sleep 0.02; done")
        job = self.submit(scheduler, jobs, task, "pwl-contract-e-1")
        answer = scheduler.find("pwl-contract-e-1")
        assert isinstance(answer, Answer) and answer.jobs[job].alive
        (task.folder / "go").touch()
        self.until_ended(scheduler, job)
        answer = scheduler.find("pwl-contract-e-1")
        assert isinstance(answer, Answer) and not answer.jobs[job].alive

    def test_cancelling_ends_the_job_with_all_its_processes(self, scheduler, jobs, tmp_path):
        task = make_task(tmp_path / "t", "(while true; do echo x >> ../../ticks; sleep 0.05; done) & wait", "touch out")
        job = self.submit(scheduler, jobs, task, "pwl-contract-f-1")
        ticks = task.folder / "ticks"
        wait_until(ticks.exists, self.timeout_s)
        scheduler.cancel({job: "pwl-contract-f-1", "999999": "pwl-contract-never-1"})
        view = self.until_ended(scheduler, job)
        assert view.cause is EndCause.CANCELLED
        size = ticks.stat().st_size
        time.sleep(0.3)
        assert ticks.stat().st_size == size, "a child of the job still runs"
        assert not (attempt_folder(task, 1) / "exit").exists()

    def test_cancelling_what_has_ended_is_no_error(self, scheduler, jobs, tmp_path):
        job = self.submit(scheduler, jobs, make_task(tmp_path / "t", "touch out"), "pwl-contract-g-1")
        self.until_ended(scheduler, job)
        scheduler.cancel({job: "pwl-contract-g-1"})
        assert self.look(scheduler, job).cause is EndCause.COMPLETED

    def test_only_the_job_of_that_name_is_cancelled(self, scheduler, jobs, tmp_path):
        """An id may be another job's by now: a scheduler set up anew counts from the beginning."""
        if scheduler.name == "local":
            pytest.skip("here the id is the name")
        task = make_task(tmp_path / "t", "while [ ! -e ../../go ]; do sleep 0.02; done; touch out")
        job = self.submit(scheduler, jobs, task, "pwl-contract-j-1")
        wait_until(lambda: self.look(scheduler, job).running, self.timeout_s)
        scheduler.cancel({job: "pwl-contract-another-1"})
        (task.folder / "go").touch()
        assert self.until_ended(scheduler, job).cause is EndCause.COMPLETED

    def test_the_long_memory_knows_nothing_of_what_never_was(self, scheduler):
        answer = scheduler.look_back({"999999": "pwl-contract-never-1"})
        assert isinstance(answer, Answer) and not answer.jobs

    @pytest.mark.parametrize("name", [NASTY[2], NASTY[5]])
    def test_folders_of_any_kind(self, scheduler, jobs, tmp_path, name):
        task = make_task(tmp_path / name, "touch out")
        job = self.submit(scheduler, jobs, task, "pwl-contract-h-1")
        assert self.until_ended(scheduler, job).cause is EndCause.COMPLETED

    def test_another_master_sees_the_same_jobs(self, scheduler, jobs, tmp_path):
        """A second instance, as a new master makes it, knows what the first one submitted."""
        task = make_task(tmp_path / "t", "while [ ! -e ../../go ]; do sleep 0.02; done")
        job = self.submit(scheduler, jobs, task, "pwl-contract-i-1")
        wait_until(lambda: self.look(scheduler, job).running, self.timeout_s)
        second = self.another(scheduler)
        assert self.look(second, job).running
        (task.folder / "go").touch()
        assert self.until_ended(second, job).cause is EndCause.COMPLETED

    def another(self, scheduler: Scheduler) -> Scheduler:
        """A new instance on the same scheduler."""
        raise NotImplementedError
