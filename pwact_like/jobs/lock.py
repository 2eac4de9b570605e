"""One master a folder: a lock file that says who holds it, and an epoch that fences off who has lost it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pwact_like import fsio
from pwact_like.errors import FencedError, LockedError
from pwact_like.jobs.process import ProcessId, boot_id, host_name, is_alive, is_elsewhere, this_process

LOCK_NAME = "lock"
EPOCH_NAME = "epoch"
GUARD_NAME = "lock.guard"


@dataclass(frozen=True)
class LockRecord:
    """What the lock file says.

    Attributes
    ----------
    process
        The holder.
    epoch
        Counts the masters of this folder; a master with a lower one than the present lock's is fenced off.
    since
        When the lock was taken (seconds since 1970).
    """

    process: ProcessId
    epoch: int
    since: float

    @property
    def age(self) -> str:
        """How long ago it was taken, in words."""
        seconds = max(0.0, time.time() - self.since)
        for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
            if seconds >= 2 * size:
                return f"{seconds / size:.0f} {unit}"
        return f"{seconds:.0f} seconds"


def read_lock(folder: Path) -> LockRecord | None:
    """The present lock of a state folder; None when nobody holds it."""
    try:
        content = json.loads((folder / LOCK_NAME).read_text(encoding="utf-8"))
        return LockRecord(process=ProcessId(**content["process"]), epoch=int(content["epoch"]), since=float(content["since"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LockedError(
            f"{folder / LOCK_NAME}: not a lock of pwact_like ({error}); if no master runs in {folder.parent.parent}, delete it"
        ) from error


class MasterLock:
    """Hold a state folder against other masters; a context manager.

    Parameters
    ----------
    folder
        State folder (``WORK_DIR/.pwact_like/run``), created if need be.
    take_over
        Take the lock from a master on another machine, of which nothing can be told from here. A dead master of this
        machine is always replaced, a living one never.

    Raises
    ------
    LockedError
        On entering, when another master holds it: names its machine, pid and age.
    """

    def __init__(self, folder: Path, take_over: bool = False) -> None:
        self.folder = folder
        self.path = folder / LOCK_NAME
        self.epoch = 0
        self._take_over = take_over
        self._content = b""
        self._pid = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, or raise LockedError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._guard():
            present = read_lock(self.folder)
            if present is not None:
                self._refuse_unless_stale(present)
            self.epoch = max(self._stored_epoch(), present.epoch if present else 0) + 1
            record = LockRecord(process=this_process(), epoch=self.epoch, since=time.time())
            self._content = json.dumps(asdict(record)).encode()
            fsio.write_text(self.folder / EPOCH_NAME, f"{self.epoch}\n")
            temporary = self.path.with_name(f".{LOCK_NAME}.{host_name()}.{os.getpid()}.tmp")
            temporary.write_bytes(self._content)
            try:
                if present is None:
                    os.link(temporary, self.path)  # fails when a master without our guard (another machine) was quicker
                else:
                    temporary.replace(self.path)
            except FileExistsError:
                quicker = read_lock(self.folder)
                raise LockedError(_held_by(self.folder, quicker) if quicker else f"{self.path}: another master was quicker") from None
            finally:
                temporary.unlink(missing_ok=True)
            fsio.fsync_folder(self.folder)
            self._pid = os.getpid()

    def check(self) -> None:
        """Raise FencedError unless the lock is still this master's."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        if not self._content or content != self._content:
            raise FencedError(
                f"{self.path}: this master (pid {os.getpid()} on {host_name()}) has lost its lock to another one; "
                f"it stops here, and that one goes on"
            )

    def release(self) -> None:
        """Give the lock back, unless it is another master's by now (or this is a forked child)."""
        if self._pid != os.getpid():
            return
        with self._guard():
            try:
                self.check()
            except FencedError:
                return
            self.path.unlink()
        self._content = b""

    def _refuse_unless_stale(self, present: LockRecord) -> None:
        if is_elsewhere(present.process):
            if self._take_over:
                return
            raise LockedError(
                f"{_held_by(self.folder, present)}; whether it still runs cannot be told from {host_name()}: end it there, "
                f"or start with --take-over if that machine is gone"
            )
        if is_alive(present.process):
            raise LockedError(f"{_held_by(self.folder, present)}; wait for it, or end it first (pwact-like kill)")

    def _stored_epoch(self) -> int:
        try:
            return int((self.folder / EPOCH_NAME).read_text())
        except (FileNotFoundError, ValueError):
            return 0

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Serialise taking and giving back among the processes of this machine (stale locks are replaced, not re-linked)."""
        handle = os.open(self.folder / GUARD_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks: the lock file itself still decides
            yield
        finally:
            os.close(handle)


def locks_work(folder: Path) -> bool:
    """Whether files in this folder can be locked (fcntl)."""
    handle = os.open(folder / GUARD_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        # held by another process of ours: then they do
        return error.errno in (errno.EACCES, errno.EAGAIN)
    finally:
        os.close(handle)
    return True


def _held_by(folder: Path, record: LockRecord) -> str:
    process = record.process
    return f"{folder}: another master holds it: pid {process.pid} on {process.host}, started {record.age} ago"


def holder_is_alive(record: LockRecord) -> bool:
    """Whether the holder runs on this machine, now."""
    return record.process.boot == boot_id() and is_alive(record.process)
