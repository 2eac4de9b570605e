"""Reading the journal: what the master does all the time, and what others do on a copy."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pwact_like.errors import DataError
from pwact_like.jobs.rows import AttemptRow, JobRow, TaskRow, attempt_row, job_row, task_row
from pwact_like.jobs.types import AttemptState, TaskState

# what SQLite calls a hot journal begins with this (https://www.sqlite.org/fileformat2.html#the_rollback_journal)
_HOT = bytes.fromhex("d9d505f920a163d7")
_CHANGE_COUNTER = slice(24, 28)
_PATIENCE_S = 10.0

PLACE = "place"

# columns of schema 2 that a journal of schema 1 gets when it is opened
_ADDED = (
    ("attempts", "asks", "'{}'"),
    ("attempts", "node", "''"),
    ("jobs", "node", "''"),
    ("jobs", "said", "''"),
    ("attempts", "harmless", "''"),
)


def add_missing_columns(connection: sqlite3.Connection) -> None:
    """Bring the tables of an older version up to date."""
    for table, column, default in _ADDED:
        present = {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}
        if column not in present:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT NOT NULL DEFAULT {default}")


class JournalReader:
    """What can be asked of a journal.

    Parameters
    ----------
    path
        The file, for messages.
    connection
        An open connection with ``sqlite3.Row`` rows.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def uid(self) -> str:
        """Random name of this journal; another folder's is different, whatever the campaign is called."""
        uid = self.meta("uid")
        if uid is None:
            raise DataError(f"{self.path}: the journal has lost its uid; move the folder {self.path.parent} away to begin anew")
        # begun anew, a task has an attempt 1 again: the generation keeps its job's name unlike the first one's
        return uid + (self.meta("generation") or "")

    def meta(self, name: str) -> str | None:
        """A named value, or None."""
        with self.sqlite_errors():
            return self._meta(name)

    def tasks(self) -> dict[str, TaskRow]:
        """Every recorded task by name."""
        rows = self._all("SELECT * FROM tasks")
        return {row["name"]: task_row(row) for row in rows}

    def attempts(self, task: str) -> list[AttemptRow]:
        """The attempts of a task, first to last."""
        return [attempt_row(row) for row in self._all("SELECT * FROM attempts WHERE task = ? ORDER BY number", task)]

    def live_attempts(self) -> list[AttemptRow]:
        """Attempts that are neither accepted nor rejected."""
        return [attempt_row(row) for row in self._all("SELECT * FROM attempts WHERE state NOT IN ('accepted', 'rejected') ORDER BY rowid")]

    def strikes(self, task: str) -> int:
        """How many attempts of a task count against its ``max_attempts``."""
        return int(self._all("SELECT count(*) AS n FROM attempts WHERE task = ? AND strike", task)[0]["n"])

    def misfortunes(self, task: str) -> int:
        """How many attempts of a task failed by no fault of theirs; going on from a checkpoint, or a turn that never came, is none."""
        query = "SELECT count(*) AS n FROM attempts WHERE task = ? AND state = 'rejected' AND NOT strike AND harmless = ''"
        return int(self._all(query, task)[0]["n"])

    def ends(self, tasks: Collection[str]) -> list[float]:
        """When these tasks came to their ends (seconds since 1970), the earliest first."""
        rows = self._all("SELECT name, ended FROM tasks WHERE state != '' AND ended IS NOT NULL ORDER BY ended")
        return [float(row["ended"]) for row in rows if row["name"] in tasks]

    def has_taken(self, section: str) -> bool:
        """Whether the scheduler ever took a job of this section of resource.json."""
        return bool(self._all("SELECT 1 FROM jobs WHERE section = ? AND scheduler_id IS NOT NULL LIMIT 1", section))

    @property
    def is_at_home(self) -> bool:
        """Whether the journal lies in the folder in which its jobs were submitted, and not in a copy of it.

        The path tells: jobs write there, whatever was done to the folder. Seen from another machine or after a move the path
        may be another one; then it is the same folder if the inode is, and nobody has put a journal in the old place.
        """
        recorded = self.meta(PLACE)
        if recorded is None:
            return True
        inode, _, path = recorded.partition(" ")
        here, _, real = place_of(self.path).partition(" ")
        return real == path or (here == inode and not Path(path, self.path.name).exists())

    def has_judged(self, job: str) -> bool:
        """Whether any attempt of a job has come to its end."""
        return bool(self._all("SELECT 1 FROM attempts WHERE job = ? AND state IN ('accepted', 'rejected') LIMIT 1", job))

    def jobs(self, live_only: bool = False) -> dict[str, JobRow]:
        """Recorded jobs by name."""
        where = "WHERE state != 'ended'" if live_only else ""
        return {row["name"]: job_row(row) for row in self._all(f"SELECT * FROM jobs {where}")}  # noqa: S608 - a constant

    def events(self) -> list[tuple[float, str, str]]:
        """(time, kind, what) of everything told to the journal, oldest first."""
        return [(row["time"], row["kind"], row["what"]) for row in self._all("SELECT * FROM events ORDER BY id")]

    def counts(self) -> dict[str, int]:
        """Tasks by what they are doing: planned, queued, running, ended (accepted), failed; for the status snapshot."""
        counts = dict.fromkeys(("planned", "queued", "running", "ended", "failed"), 0)
        rows = self._all(
            "SELECT tasks.state AS task, attempts.state AS attempt, count(*) AS n FROM tasks "
            "LEFT JOIN attempts ON attempts.task = tasks.name AND attempts.number = tasks.attempts GROUP BY 1, 2"
        )
        for row in rows:
            if row["task"] == TaskState.ACCEPTED:
                kind = "ended"
            elif row["task"] == TaskState.FAILED:
                kind = "failed"
            elif row["attempt"] == AttemptState.QUEUED:
                kind = "queued"
            elif row["attempt"] in (None, AttemptState.PLANNED, AttemptState.SUBMITTING):
                kind = "planned"
            else:
                kind = "running"
            counts[kind] += int(row["n"])
        return counts

    def _meta(self, name: str) -> str | None:
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row["value"])

    def _all(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self.sqlite_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def sqlite_errors(self) -> Iterator[None]:
        """Turn what SQLite raises into a message that names the file."""
        try:
            yield
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: the journal cannot be used: {error}; what was recorded before is intact: see to the disk "
                f"(space, quota, permissions) and start again"
            ) from error


def place_of(path: Path) -> str:
    """What tells the folder of a journal from a copy of it: inode and real path."""
    return f"{path.parent.stat().st_ino} {path.parent.resolve()}"


@contextmanager
def read_copy(path: Path) -> Iterator[JournalReader]:
    """Open a consistent copy of a journal: the master is not disturbed, no lock of a network file system is asked for.

    The copy counts when the file's change counter, size and time are the same before and after, and no transaction was
    under way.

    Raises
    ------
    DataError
        When there is none, or it never held still.
    """
    with tempfile.TemporaryDirectory(prefix="pwact_like_journal_") as scratch:
        copy = Path(scratch) / path.name
        deadline = time.monotonic() + _PATIENCE_S
        while not _copy_if_still(path, copy):
            if time.monotonic() > deadline:
                raise DataError(f"{path}: it was written to all the time, or a killed master left a transaction open: try again later")
            time.sleep(0.05)
        connection = sqlite3.connect(copy)
        connection.row_factory = sqlite3.Row
        reader = JournalReader(path, connection)
        try:
            with reader.sqlite_errors():
                add_missing_columns(connection)
            yield reader
        finally:
            reader.close()


def _copy_if_still(path: Path, copy: Path) -> bool:
    """Copy the file (and what a killed master left of a transaction, which SQLite then rolls back in the copy)."""
    hot = path.with_name(path.name + "-journal")
    try:
        before, counter = path.stat(), _counter(path)
        shutil.copyfile(path, copy)
        rest = _begun(hot)
        if rest:
            shutil.copyfile(hot, copy.with_name(copy.name + "-journal"))
        else:
            copy.with_name(copy.name + "-journal").unlink(missing_ok=True)
        after = path.stat()
        same = (before.st_mtime_ns, before.st_size, counter) == (after.st_mtime_ns, after.st_size, _counter(path))
        return same and rest == _begun(hot)
    except FileNotFoundError as error:
        if Path(error.filename or "") == path:
            raise DataError(f"{path}: there is no journal: nothing was ever started here") from None
        return False  # the transaction ended while we looked


def _counter(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(100)[_CHANGE_COUNTER]


def _begun(hot: Path) -> tuple[int, int] | None:
    """Time and size of a transaction's own file; None when there is none."""
    try:
        with hot.open("rb") as stream:
            if stream.read(8) != _HOT:
                return None
        found = hot.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
