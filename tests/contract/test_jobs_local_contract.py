"""The local scheduler keeps the scheduler's contract."""

from __future__ import annotations

import pytest
from scheduler_contract import SchedulerContract

from pwact_like.jobs.local import LocalScheduler


class TestLocal(SchedulerContract):
    @pytest.fixture
    def scheduler(self, jobs):
        scheduler = LocalScheduler(jobs, cores=2, gpus=())
        yield scheduler
        scheduler.cancel(scheduler.live())

    def another(self, scheduler):
        return LocalScheduler(scheduler.folder, cores=2, gpus=())
