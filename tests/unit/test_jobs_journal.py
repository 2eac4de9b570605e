"""The journal: all or nothing, one writer, and words for a full disk."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import pytest

from pwact_like.errors import DataError, FencedError
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.lock import MasterLock, locks_work
from pwact_like.jobs.types import AttemptState, EndCause, TaskState


@pytest.fixture
def journal(tmp_path):
    with MasterLock(tmp_path) as lock, Journal(tmp_path / "journal.sqlite", lock) as opened:
        yield opened


def add(journal, name, number=1):
    with journal.transaction() as writer:
        writer.add_task(name, f"key {name}", "train", f"folder of {name}", 7)
        writer.plan_attempt(name, number, {"A": "1"})


def test_no_write_ahead_log_and_full_synchronisation(journal):
    assert journal._all("PRAGMA journal_mode")[0][0] == "delete"
    assert journal._all("PRAGMA synchronous")[0][0] == 2


def test_an_attempts_way_through_the_journal(journal):
    add(journal, "t")
    assert journal.counts() == {"planned": 1, "queued": 0, "running": 0, "ended": 0, "failed": 0}
    with journal.transaction() as writer:
        writer.intend_job("job", "train", "hash", [("t", 1)])
    row = journal.live_attempts()[0]
    assert (row.state, row.job, dict(row.env), row.accepting) == (AttemptState.SUBMITTING, "job", {"A": "1"}, None)
    assert journal.jobs(live_only=True)["job"].scheduler_id is None
    with journal.transaction() as writer:
        writer.job_submitted("job", "42")
    assert journal.counts()["queued"] == 1 and journal.jobs()["job"].scheduler_id == "42"
    with journal.transaction() as writer:
        writer.job_state("job", AttemptState.RUNNING)
    assert journal.counts()["running"] == 1
    with journal.transaction() as writer:
        writer.accepting("t", 1, ["out"], "a note")
    assert journal.live_attempts()[0].accepting == ("out",)
    with journal.transaction() as writer:
        writer.accepted("t", 1)
        writer.job_ended("job", EndCause.COMPLETED, "")
    assert journal.live_attempts() == [] and journal.jobs(live_only=True) == {}
    assert journal.tasks()["t"].state is TaskState.ACCEPTED and journal.tasks()["t"].note == "a note"
    assert journal.counts()["ended"] == 1


def test_strikes_and_failure(journal):
    add(journal, "t")
    with journal.transaction() as writer:
        writer.rejected("t", 1, EndCause.NODE_FAIL, "node", strike=False)
        writer.plan_attempt("t", 2, {})
        writer.rejected("t", 2, EndCause.FAILED, "status 1", strike=True)
        writer.failed("t", "status 1")
    assert journal.strikes("t") == 1
    assert [row.cause for row in journal.attempts("t")] == ["node failure", "failed"]
    assert journal.counts()["failed"] == 1


def test_a_transaction_that_fails_leaves_nothing(journal):
    add(journal, "t")
    with pytest.raises(ZeroDivisionError), journal.transaction() as writer:
        writer.failed("t", "half")
        raise ZeroDivisionError
    assert journal.tasks()["t"].state is None
    with pytest.raises(DataError, match="journal cannot be used"), journal.transaction() as writer:
        writer.event("x", "y")
        writer.add_task("t", "another", "train", "f", 1)
    assert journal.events() == []


def test_a_master_without_its_lock_writes_nothing(tmp_path):
    with MasterLock(tmp_path) as lock, Journal(tmp_path / "journal.sqlite", lock) as old:
        content = json.loads((tmp_path / "lock").read_text())
        content["process"].update(host="elsewhere", boot="other")
        (tmp_path / "lock").write_text(json.dumps(content))
        with MasterLock(tmp_path, take_over=True) as second, Journal(tmp_path / "journal.sqlite", second) as new:
            with pytest.raises(FencedError), old.transaction() as writer:
                writer.event("late", "old master")
            add(new, "t")
        assert lock.epoch == 1 and second.epoch == 2


def test_the_epoch_in_the_file_fences_even_when_the_lock_looks_right(tmp_path):
    with MasterLock(tmp_path) as lock, Journal(tmp_path / "journal.sqlite", lock) as journal:
        other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
        other.execute("UPDATE meta SET value = '9' WHERE name = 'epoch'")
        other.close()
        with pytest.raises(FencedError, match="epoch 9"), journal.transaction() as writer:
            writer.event("late", "old master")
    with MasterLock(tmp_path) as lock, pytest.raises(FencedError, match="write 9 into"):
        Journal(tmp_path / "journal.sqlite", lock)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "journal.sqlite").write_bytes(b"this is no database, not even nearly so" * 200)
    with MasterLock(tmp_path) as lock, pytest.raises(DataError, match=r"journal\.sqlite"):
        Journal(tmp_path / "journal.sqlite", lock)


def test_another_versions_journal_is_refused(tmp_path):
    with MasterLock(tmp_path) as lock:
        with Journal(tmp_path / "journal.sqlite", lock) as journal, journal.transaction() as writer:
            writer.set_meta("schema", "99")
        with pytest.raises(DataError, match="schema 99"):
            Journal(tmp_path / "journal.sqlite", lock)


FILL = """
import resource, signal, sys
from pathlib import Path
from pwact_like.errors import DataError
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.lock import MasterLock, locks_work
folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with MasterLock(folder) as lock, Journal(folder / "journal.sqlite", lock) as journal:
    with journal.transaction() as writer:
        writer.event("before", "kept")
    size = (folder / "journal.sqlite").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        with journal.transaction() as writer:
            writer.event("big", "x" * 200000)
    except DataError as error:
        print(error)
    print(journal.events()[-1][1:])
"""


def test_a_file_that_cannot_grow_loses_nothing(tmp_path):
    result = subprocess.run([sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "journal cannot be used" in result.stdout and "space, quota" in result.stdout, result.stderr
    assert result.stdout.splitlines()[-1] == "('before', 'kept')"
    with MasterLock(tmp_path) as lock, Journal(tmp_path / "journal.sqlite", lock) as journal:
        assert [kind for _, kind, _ in journal.events()] == ["before"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """Lustre without flock: SQLite gave up with "disk I/O error"."""
    import errno
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with MasterLock(tmp_path) as lock, Journal(tmp_path / "journal.sqlite", lock) as journal:
        assert not locks_work(tmp_path)
        with journal.transaction() as writer:
            writer.set_meta("a", "b")
        # with nolock SQLite takes no lock of the file, and another connection is not kept out
        other = sqlite3.connect(tmp_path / "journal.sqlite")
        assert other.execute("SELECT value FROM meta WHERE name = 'a'").fetchone() == ("b",)
        other.close()
