"""kill ends exactly this folder's jobs, by recorded id and name, on the fake Slurm and on the real one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from fake.fake_slurm import FakeSlurm
from fault_table import HOLD, build_bench, hold
from jobs_support import always_ok, executions, make_task, wait_until
from support import run_cli

from pwact_like.jobs.choose import choose_scheduler
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.kill import kill_campaign
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.types import TaskState

pytestmark = pytest.mark.slurm


class KillContract:
    """Needs the fixture ``slurm``."""

    @pytest.fixture
    def bench(self, slurm, tmp_path, monkeypatch):
        yield from build_bench(slurm, tmp_path, monkeypatch)

    def begin(self, bench, folder: Path, count: int = 2):
        """A campaign whose master has submitted jobs and ended; they run."""
        hold(folder)
        tasks = [make_task(folder / f"t{n}", HOLD, "touch out", max_attempts=1) for n in range(count)]
        master = bench(folder)
        choose_scheduler("slurm", master.journal, folder / "state")
        master.dispatcher.begin(tasks, always_ok)
        master.dispatcher.tick()
        master.close()
        wait_until(lambda: all(executions(task) for task in tasks), 30)
        return tasks, master

    def live(self) -> set[str]:
        done = subprocess.run(["squeue", "-h", "-u", str(os.getuid()), "-o", "%j"], capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    def test_this_folders_jobs_and_no_others(self, slurm, bench, tmp_path):
        here, there = tmp_path / "here", tmp_path / "there"
        for folder in (here, there):
            folder.mkdir()
        tasks, _ = self.begin(bench, here)
        others, _ = self.begin(bench, there)
        subprocess.run(["sbatch", "-J", "mine-too", "-o", "/dev/null", "--wrap", "sleep 60"], check=True, capture_output=True, cwd=tmp_path)
        before = self.live()
        killed = kill_campaign(here / "state")
        assert killed.master is None and len(killed.jobs) == 2 and not killed.failure
        names = {name for _, name in killed.jobs}
        wait_until(lambda: not self.live() & names, 30)
        assert before - names == self.live() and len(before - names) == 3
        again = kill_campaign(here / "state")
        assert again.jobs == () and not again.failure
        # the same command goes on: cancelled jobs count against nobody
        (here / "hold").unlink()
        results = bench(here).run(tasks)
        assert {result.state for result in results.values()} == {TaskState.ACCEPTED}
        assert len(others) == 2 and (there / "hold").exists()

    def test_a_job_that_a_killed_master_never_recorded(self, slurm, bench, tmp_path):
        self.begin(bench, tmp_path, 1)
        with MasterLock(tmp_path / "state") as lock, Journal(tmp_path / "state" / "journal.sqlite", lock) as journal:
            journal._connection.execute("UPDATE jobs SET scheduler_id = NULL, state = 'submitting'")
        killed = kill_campaign(tmp_path / "state")
        assert len(killed.jobs) == 1 and killed.jobs[0][0].isdigit()
        wait_until(lambda: killed.jobs[0][1] not in self.live(), 30)

    def test_in_a_copy_the_original_is_spared(self, slurm, bench, tmp_path):
        """The copy has the journal with the ids and names of the original's jobs."""
        original, copy = tmp_path / "original", tmp_path / "copy"
        original.mkdir()
        tasks, _ = self.begin(bench, original)
        before = self.live()
        shutil.copytree(original, copy)
        killed = kill_campaign(copy / "state")
        assert killed.jobs == () and "of which this is a copy" in killed.failure and self.live() == before
        # nor does a master of the copy take them up
        (copy / "hold").unlink()
        copies = [make_task(copy / task.name, HOLD, "touch out", max_attempts=1) for task in tasks]
        second = bench(copy)
        choose_scheduler("slurm", second.journal, copy / "state")
        results = second.run(copies)
        assert {result.state for result in results.values()} == {TaskState.ACCEPTED} and before <= self.live()
        assert {result.attempts for result in results.values()} == {2}
        kill_campaign(original / "state")

    def test_without_an_answer_it_says_which_jobs_may_run(self, slurm, bench, tmp_path):
        work_dir = tmp_path / "campaign"
        (work_dir / ".pwact_like").mkdir(parents=True)
        self.begin(bench, work_dir)
        (work_dir / ".pwact_like" / "run").symlink_to(work_dir / "state")
        self.away(slurm)
        done = run_cli("kill", "run", "--work-dir", work_dir, environment=dict(os.environ))
        assert done.returncode == 1 and "jobs that may still run: " in done.stderr and "pwl-faults-" in done.stderr, done.stderr
        self.back(slurm)
        done = run_cli("kill", "run", "--work-dir", work_dir, environment=dict(os.environ))
        assert done.returncode == 0 and "ended 2 jobs:" in done.stdout, done.stderr
        wait_until(lambda: not self.live(), 30)

    def away(self, slurm):
        raise NotImplementedError

    def back(self, slurm):
        raise NotImplementedError


class TestFake(KillContract):
    @pytest.fixture
    def slurm(self, tmp_path, monkeypatch):
        with FakeSlurm(tmp_path / "slurm") as slurm:
            slurm.install(monkeypatch)
            yield slurm

    def test_a_list_with_holes_is_no_success(self, slurm, bench, tmp_path):
        self.begin(bench, tmp_path)
        slurm.purge(min(job.id for job in slurm.jobs()))
        slurm.fault("squeue", "stderr:squeue: error: a plugin complains", times=None)
        killed = kill_campaign(tmp_path / "state")
        assert len(killed.jobs) == 1 and "may still run" in killed.failure

    def away(self, slurm):
        slurm.controller_down()

    def back(self, slurm):
        slurm.controller_up()


class TestReal(KillContract):
    @pytest.fixture
    def slurm(self, cluster):
        return cluster

    def away(self, slurm):
        slurm.slurmctld_kill()

    def back(self, slurm):
        slurm.slurmctld_start()
