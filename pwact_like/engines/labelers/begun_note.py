"""Which structure a batch is at, on disk before it is begun: a process that dies there says nothing itself.

The note outlives the process, not the machine: it is never flushed, for a node that fails says nothing about a structure.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_text

BEGUN_FILE = "label.begun.json"
DEATHS_ALLOWED = 1  # a further one is the structure's own fault
_HEAD = '{"begun": '
_WIDTH = 12
_NONE = -1


class BegunNote:
    """A context in which the death of the process is laid to the structure that was begun last.

    Every other way out, SIGTERM included, is laid to none.

    Attributes
    ----------
    deaths
        Structure → attempts in which the process died at it.
    short_of_memory
        The structure at which the attempt before this one ran out of memory; −1: none.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / BEGUN_FILE
        self.deaths: Counter[int] = Counter()
        self.short_of_memory = self._next_short = _NONE
        with suppress(DataError, KeyError, TypeError, ValueError, AttributeError):  # without a note of before, nothing is known
            content = read_json(self._path)
            self.deaths.update({int(index): int(count) for index, count in content["deaths"].items()})
            self.short_of_memory = int(content["short_of_memory"])
            if int(content["begun"]) != _NONE:
                self.deaths[int(content["begun"])] += 1
        self._handle = _NONE
        self._before: signal._HANDLER = None

    def __enter__(self) -> Self:
        """Write the note of what is known so far."""
        self._write()
        self._handle = os.open(self._path, os.O_WRONLY)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, _end)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """No structure is under way any more."""
        os.close(self._handle)
        self._write()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def begin(self, index: int) -> None:
        """A structure is begun: a dozen bytes in place."""
        os.pwrite(self._handle, f"{index:{_WIDTH}d}".encode(), len(_HEAD))

    def ran_out_of_memory(self, index: int) -> None:
        """The attempt ends here, and the next one begins with this structure."""
        self._next_short = index

    def _write(self) -> None:
        deaths = ", ".join(f'"{index}": {count}' for index, count in sorted(self.deaths.items()))
        write_text(self._path, f'{_HEAD}{_NONE:{_WIDTH}d}, "deaths": {{{deaths}}}, "short_of_memory": {self._next_short}}}\n')


def _end(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
