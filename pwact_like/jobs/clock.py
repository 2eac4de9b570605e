"""Time as the dispatcher sees it, so that tests can turn it."""

from __future__ import annotations

import time
from typing import Protocol

from pwact_like.jobs.signals import StopFlag


class Clock(Protocol):
    """Wall time, monotonic time, and waiting that a stop cuts short."""

    def time(self) -> float:
        """Seconds since 1970."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def wait(self, seconds: float, stop: StopFlag) -> None:
        """Wait, but not longer than until a stop is asked for."""


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def wait(self, seconds: float, stop: StopFlag) -> None:
        """Wait, but not longer than until a stop is asked for."""
        stop.wait(seconds)
