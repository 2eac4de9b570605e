"""Which scheduler: decided once, remembered, never switched."""

from __future__ import annotations

import pytest

from pwact_like.errors import InputError, NotAvailableError, SchedulerError
from pwact_like.jobs.choose import choose_scheduler
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.slurm import SlurmScheduler


@pytest.fixture
def journal(tmp_path):
    with MasterLock(tmp_path) as lock, Journal(tmp_path / "journal.sqlite", lock) as opened:
        yield opened


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH on which only the given programs are; each a line of shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(**lines):
        for name, line in lines.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)

    return put


def test_without_sbatch_it_is_this_machine(journal, tmp_path, programs):
    scheduler = choose_scheduler("auto", journal, tmp_path)
    assert isinstance(scheduler, LocalScheduler) and scheduler.folder == tmp_path / "jobs"
    assert journal.meta("scheduler") == "local"


def test_slurm_that_answers_is_it(journal, tmp_path, programs):
    programs(sbatch="exit 0", squeue="exit 0", scancel="exit 0", scontrol="echo 'Slurmctld(primary) at node1 is UP'")
    assert isinstance(choose_scheduler("auto", journal, tmp_path), SlurmScheduler)
    assert journal.meta("scheduler") == "slurm"


def test_slurm_without_its_commands_is_named_with_the_cure(journal, tmp_path, programs):
    programs(sbatch="exit 0")
    with pytest.raises(NotAvailableError, match=r'squeue, scancel, scontrol are not on PATH.*"scheduler": "local"') as caught:
        choose_scheduler("slurm", journal, tmp_path)
    assert caught.value.exit_status == 2 and journal.meta("scheduler") is None


@pytest.mark.parametrize(
    "scontrol", ["echo 'Slurmctld(primary) at node1 is DOWN'; exit 1", "echo 'Slurmctld(primary) at node1 is DOWN'", "exit 1"]
)
def test_sbatch_without_an_answer_is_a_question(journal, tmp_path, programs, scontrol):
    programs(sbatch="exit 0", scontrol=scontrol)
    with pytest.raises(SchedulerError, match=r'does not answer.*"scheduler": "local"'):
        choose_scheduler("auto", journal, tmp_path)


def test_sbatch_without_scontrol_is_a_question_too(journal, tmp_path, programs):
    programs(sbatch="exit 0")
    with pytest.raises(SchedulerError, match="scontrol"):
        choose_scheduler("auto", journal, tmp_path)


def test_local_asks_nobody(journal, tmp_path, programs):
    programs(sbatch="exit 0", scontrol="exit 1")
    assert isinstance(choose_scheduler("local", journal, tmp_path), LocalScheduler)


def test_a_campaign_that_was_begun_locally_stays_local(journal, tmp_path, programs):
    choose_scheduler("auto", journal, tmp_path)
    programs(sbatch="exit 0", scontrol="echo is UP")
    assert isinstance(choose_scheduler("auto", journal, tmp_path), LocalScheduler), "sbatch came later"
    with pytest.raises(InputError, match="begun with 'local'"):
        choose_scheduler("slurm", journal, tmp_path)


def test_an_unknown_name(journal, tmp_path):
    with pytest.raises(InputError, match="auto, local or slurm"):
        choose_scheduler("pbs", journal, tmp_path)
