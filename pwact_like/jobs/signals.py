"""Ending on request: a signal sets a flag, the tick ends, the jobs stay."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pwact_like.errors import StopRequested

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopFlag:
    """Remembers that somebody asked the master to end.

    The first signal lets the current tick end; from the second on the next safe point inside the tick is enough.
    A pipe wakes the waiting master at once (setting a threading.Event from a handler can deadlock with its own wait).
    """

    def __init__(self) -> None:
        self._signum = 0
        self._count = 0
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._count > 0

    @property
    def is_urgent(self) -> bool:
        """Whether it was asked for more than once."""
        return self._count > 1

    def set(self, signum: int) -> None:
        """Ask for a stop; safe in a signal handler."""
        self._signum = self._signum or signum
        self._count += 1
        try:
            os.write(self._writer, b"x")
        except BlockingIOError:
            pass  # thousands of signals: the pipe is full, so the reader wakes anyway

    def check(self) -> None:
        """Raise StopRequested if a stop was asked for."""
        if self.is_set:
            raise StopRequested(self._signum)

    def safe_point(self) -> None:
        """Raise StopRequested if a stop was asked for twice."""
        if self.is_urgent:
            raise StopRequested(self._signum)

    def wait(self, seconds: float) -> None:
        """Sleep, but not longer than until a stop is asked for."""
        select.select([self._reader], [], [], max(0.0, seconds))

    def close(self) -> None:
        """Free the pipe."""
        os.close(self._reader)
        os.close(self._writer)

    @contextmanager
    def installed(self) -> Iterator[StopFlag]:
        """Catch SIGINT, SIGTERM and SIGHUP inside the block (main thread only); a signal ignored before, as by nohup, stays ignored."""

        def handle(signum: int, frame: FrameType | None) -> None:
            self.set(signum)

        caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handle) for number in caught}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
