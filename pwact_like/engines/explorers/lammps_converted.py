"""Converted models that all runs of an exploration share: a file a model, whose name tells what it was made of and its own digest.

Files come in by rename, and one whose content is not what its name says is passed over: whoever is killed, wherever, leaves nothing
that another run would take for a model. Runs that start at once wait for the first one, where the file system knows locks.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pwact_like.seeds import sha256_file

log = logging.getLogger(__name__)

WAIT_S = 600.0
"""Longest wait for another run's conversion; then each converts for itself."""
_LOOK_EVERY_S = 0.2
_DIGITS = 32
_LOCK_NAME = "lock"


class ConvertedModels:
    """Files of a folder by the digest of the model that they were made of.

    Parameters
    ----------
    folder
        Shared by the runs; made when it is needed. None: nothing is shared.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def take(self, digest: str, target: Path) -> bool:
        """Copy what was made of a model to ``target``, by rename; whether there was a whole one."""
        for path in sorted(self.folder.glob(f"{digest[:_DIGITS]}.*{target.suffix}")) if self.folder is not None else ():
            try:
                _copy(path, target)
            except OSError as error:  # cleaned up meanwhile, or out of reach: each can convert for itself
                log.warning("%s cannot be taken over: %s", path, error)
                continue
            if path.name.split(".")[1] == sha256_file(target)[:_DIGITS]:
                return True
            target.unlink()
        return False

    def keep(self, digest: str, made: Path) -> None:
        """Keep what was made of a model for the others; without room for it each converts for itself."""
        if self.folder is None:
            return
        name = f"{digest[:_DIGITS]}.{sha256_file(made)[:_DIGITS]}{made.suffix}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _copy(made, self.folder / name)
        except OSError as error:
            log.warning("%s: converted models cannot be kept for the other runs: %s", self.folder, error)

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Wait while another run converts; the lock ends with the process that holds it."""
        stream = None
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stream = (self.folder / _LOCK_NAME).open("ab")
                _wait_for(stream.fileno())
            except OSError:
                pass  # a file system without locks: the same work is done several times, and no harm comes of it
        try:
            yield
        finally:
            if stream is not None:
                stream.close()


def _wait_for(descriptor: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return
            time.sleep(_LOOK_EVERY_S)
        else:
            return


def _copy(source: Path, target: Path) -> None:
    """Copy by rename; the temporary name is no other process's, on no other machine either."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as out, source.open("rb") as stream:
            shutil.copyfileobj(stream, out)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
