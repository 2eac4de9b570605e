"""The master's memory: an SQLite file with every task, attempt and job of a campaign.

One writer, the master that holds the lock; its epoch is checked in every transaction. A rollback journal and full
synchronisation, because write-ahead logging does not work on network file systems (https://www.sqlite.org/wal.html).
`status` never opens it: it reads the snapshot that the master writes.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pwact_like.errors import DataError, FencedError
from pwact_like.jobs.journal_read import PLACE, JournalReader, add_missing_columns, place_of
from pwact_like.jobs.lock import MasterLock, locks_work
from pwact_like.jobs.rows import NO_ASKS, asks_text
from pwact_like.jobs.types import Asks, AttemptState, EndCause, TaskState

JOURNAL_NAME = "journal.sqlite"
SCHEMA_VERSION = "2"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    name TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, section TEXT NOT NULL, folder TEXT NOT NULL, seed INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '', planned REAL NOT NULL, ended REAL
);
CREATE TABLE IF NOT EXISTS attempts (
    task TEXT NOT NULL REFERENCES tasks (name), number INTEGER NOT NULL, state TEXT NOT NULL, job TEXT NOT NULL DEFAULT '',
    env TEXT NOT NULL DEFAULT '{}', cause TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
    strike INTEGER NOT NULL DEFAULT 0, accepting TEXT, planned REAL NOT NULL, submitted REAL, ended REAL,
    asks TEXT NOT NULL DEFAULT '{}', node TEXT NOT NULL DEFAULT '', harmless TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (task, number)
);
CREATE INDEX IF NOT EXISTS attempts_job ON attempts (job);
CREATE TABLE IF NOT EXISTS jobs (
    name TEXT PRIMARY KEY, state TEXT NOT NULL, scheduler_id TEXT, section TEXT NOT NULL, script_sha256 TEXT NOT NULL,
    cause TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', intended REAL NOT NULL, submitted REAL, ended REAL,
    node TEXT NOT NULL DEFAULT '', said TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, what TEXT NOT NULL);
"""


class Journal(JournalReader):
    """The journal of one state folder, opened by the master that holds ``lock``.

    Raises
    ------
    FencedError
        When a later master has written to it; in every transaction, too.
    DataError
        When the file is not a journal, is damaged, or cannot be written (disk full).
    """

    def __init__(self, path: Path, lock: MasterLock) -> None:
        self._lock = lock
        path.parent.mkdir(parents=True, exist_ok=True)
        # where the file system has no locks (Lustre without flock) SQLite would give up: the lock file keeps others out
        place = path.absolute().as_uri() + ("" if locks_work(path.parent) else "?nolock=1")
        super().__init__(path, sqlite3.connect(place, uri=True, isolation_level=None, timeout=30.0))
        self._connection.row_factory = sqlite3.Row
        try:
            with self.sqlite_errors():
                self._connection.execute("PRAGMA journal_mode=DELETE")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.execute("PRAGMA foreign_keys=ON")
                self._connection.executescript(_SCHEMA)
                add_missing_columns(self._connection)
            self._open()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Raise FencedError if this master has lost its lock (asked before every submission, too)."""
        self._lock.check()

    @contextmanager
    def transaction(self) -> Iterator[Writer]:
        """Write all or nothing, as long as this master is the one that holds the lock."""
        self._lock.check()
        with self.sqlite_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                stored = self._meta("epoch")
                if stored != str(self._lock.epoch):
                    raise FencedError(
                        f"{self.path}: a later master (epoch {stored}) has written here; this one (epoch {self._lock.epoch}) stops"
                    )
                yield Writer(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def settle(self) -> None:
        """Remember the folder; in a copy of it forget the jobs, which are the original's, and take a name of its own."""
        if self.meta(PLACE) is None:
            with self.transaction() as writer:
                writer.set_meta(PLACE, place_of(self.path))
        if self.is_at_home:
            if self.meta(PLACE) != place_of(self.path):  # moved
                with self.transaction() as writer:
                    writer.set_meta(PLACE, place_of(self.path))
            return
        foreign = self.jobs(live_only=True)
        reason = "the campaign's folder was copied: this job is the original's"
        with self.transaction() as writer:
            writer.set_meta(PLACE, place_of(self.path))
            writer.set_meta("uid", uuid.uuid4().hex)
            for row in self.live_attempts():
                if row.job in foreign:
                    writer.rejected(row.task, row.number, EndCause.NOT_BEGUN, reason, strike=False)
            for name in foreign:
                writer.job_ended(name, EndCause.LOST, reason)
            writer.event("copy", f"{len(foreign)} jobs are those of the folder of which this is a copy")

    def _open(self) -> None:
        """Write this master's epoch in, unless a later one has been here."""
        self._lock.check()
        with self.sqlite_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                stored = int(self._meta("epoch") or 0)
                if stored > self._lock.epoch:
                    # a lost epoch file (restored from a backup, say) must not lock the folder for ever, a later master must fence
                    raise FencedError(
                        f"{self.path}: written by a later master (epoch {stored}, mine is {self._lock.epoch}); if none runs, write "
                        f"{stored} into {self._lock.folder / 'epoch'} and start again"
                    )
                version = self._meta("schema") or SCHEMA_VERSION
                if version not in ("1", SCHEMA_VERSION):
                    raise DataError(f"{self.path}: written by another version of pwact_like (schema {version}, mine is {SCHEMA_VERSION})")
                Writer(self._connection).set_meta("schema", SCHEMA_VERSION)
                if self._meta("uid") is None:
                    Writer(self._connection).set_meta("uid", uuid.uuid4().hex)
                Writer(self._connection).set_meta("epoch", str(self._lock.epoch))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


class Writer:
    """What may be written inside one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def set_meta(self, name: str, value: str) -> None:
        """Remember a named value."""
        self._connection.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))

    def event(self, kind: str, what: str) -> None:
        """Remember that something happened."""
        self._connection.execute("INSERT INTO events (time, kind, what) VALUES (?, ?, ?)", (time.time(), kind, what))

    def add_task(self, name: str, key: str, section: str, folder: str, seed: int) -> None:
        """Record a task, before anything is done for it."""
        self._connection.execute(
            "INSERT INTO tasks (name, key, section, folder, seed, planned) VALUES (?, ?, ?, ?, ?, ?)",
            (name, key, section, folder, seed, time.time()),
        )

    def forget_task(self, name: str) -> None:
        """Forget a task and its attempts (its folder was emptied by the user)."""
        self._connection.execute("DELETE FROM attempts WHERE task = ?", (name,))
        self._connection.execute("DELETE FROM tasks WHERE name = ?", (name,))

    def plan_attempt(self, task: str, number: int, env: Mapping[str, str], asks: Asks = NO_ASKS) -> None:
        """Record the next attempt of a task, not yet in a job."""
        self._connection.execute(
            "INSERT INTO attempts (task, number, state, env, asks, planned) VALUES (?, ?, ?, ?, ?, ?)",
            (task, number, AttemptState.PLANNED, json.dumps(dict(env)), asks_text(asks), time.time()),
        )
        self._connection.execute("UPDATE tasks SET attempts = ? WHERE name = ?", (number, task))

    def intend_job(self, job: str, section: str, script_sha256: str, attempts: Iterable[tuple[str, int]]) -> None:
        """Record that a job is about to be submitted, with the attempts in it."""
        self._connection.execute(
            "INSERT INTO jobs (name, state, section, script_sha256, intended) VALUES (?, ?, ?, ?, ?)",
            (job, AttemptState.SUBMITTING, section, script_sha256, time.time()),
        )
        self._connection.executemany(
            "UPDATE attempts SET state = ?, job = ? WHERE task = ? AND number = ?",
            [(AttemptState.SUBMITTING, job, task, number) for task, number in attempts],
        )

    def withdraw_job(self, job: str) -> None:
        """The scheduler refused the job: its attempts are planned again."""
        self._connection.execute("UPDATE attempts SET state = ?, job = '' WHERE job = ?", (AttemptState.PLANNED, job))
        self._connection.execute("DELETE FROM jobs WHERE name = ?", (job,))

    def job_submitted(self, job: str, scheduler_id: str) -> None:
        """Record the scheduler's id of a job."""
        self._connection.execute(
            "UPDATE jobs SET state = ?, scheduler_id = ?, submitted = ? WHERE name = ?",
            (AttemptState.QUEUED, scheduler_id, time.time(), job),
        )
        self._connection.execute(
            "UPDATE attempts SET state = ?, submitted = ? WHERE job = ? AND state = ?",
            (AttemptState.QUEUED, time.time(), job, AttemptState.SUBMITTING),
        )

    def job_state(self, job: str, state: AttemptState, node: str = "", said: str = "", reason: str = "") -> None:
        """Record that a job was seen queued, running, or unknown to the scheduler, where, and in which words."""
        self._connection.execute(
            "UPDATE jobs SET state = ?, node = CASE ? WHEN '' THEN node ELSE ? END, said = ?, reason = ? WHERE name = ?",
            (state, node, node, said, reason, job),
        )
        self._connection.execute("UPDATE attempts SET state = ? WHERE job = ? AND state IN ('queued', 'running', 'unknown')", (state, job))

    def job_ended(self, job: str, cause: EndCause, reason: str, node: str = "", said: str = "") -> None:
        """Record that a job has ended and nothing more is expected of it."""
        self._connection.execute(
            "UPDATE jobs SET state = ?, cause = ?, reason = ?, ended = ?, node = CASE ? WHEN '' THEN node ELSE ? END, said = ? "
            "WHERE name = ?",
            (AttemptState.ENDED, cause, reason, time.time(), node, node, said, job),
        )

    def accepting(self, task: str, number: int, names: Sequence[str], note: str) -> None:
        """Record that an attempt is good and what is renamed, before the first rename."""
        self._connection.execute(
            "UPDATE attempts SET state = ?, accepting = ?, ended = ? WHERE task = ? AND number = ?",
            (AttemptState.ENDED, json.dumps(list(names)), time.time(), task, number),
        )
        self._connection.execute("UPDATE tasks SET note = ? WHERE name = ?", (note, task))

    def accepted(self, task: str, number: int, node: str = "") -> None:
        """Record that an attempt's outputs are in place: the task is done for good."""
        self._connection.execute(
            "UPDATE attempts SET state = ?, cause = ?, node = ? WHERE task = ? AND number = ?",
            (AttemptState.ACCEPTED, EndCause.COMPLETED, node, task, number),
        )
        self._connection.execute("UPDATE tasks SET state = ?, ended = ? WHERE name = ?", (TaskState.ACCEPTED, time.time(), task))

    def rejected(self, task: str, number: int, cause: EndCause, reason: str, strike: bool, node: str = "", harmless: bool = False) -> None:
        """Record a failed attempt."""
        self._connection.execute(
            "UPDATE attempts SET state = ?, cause = ?, reason = ?, strike = ?, ended = ?, node = ?, harmless = ? "
            "WHERE task = ? AND number = ?",
            (AttemptState.REJECTED, cause, reason, int(strike), time.time(), node, "yes" * harmless, task, number),
        )

    def failed(self, task: str, reason: str) -> None:
        """Record that a task is set aside for good."""
        self._connection.execute(
            "UPDATE tasks SET state = ?, reason = ?, ended = ? WHERE name = ?", (TaskState.FAILED, reason, time.time(), task)
        )
