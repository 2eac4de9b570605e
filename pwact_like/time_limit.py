"""The end of a job's time, as its script tells it to the programs that it runs.

The scheduler warns the script some minutes before the time limit; the script makes the file that
``PWACT_LIKE_STOP_FILE`` names. Programs that can go on from a checkpoint look at it, write one, and end with status 75.
"""

from __future__ import annotations

import os
import time

from pwact_like.errors import OutOfTimeError

STOP_FILE_VARIABLE = "PWACT_LIKE_STOP_FILE"
LOOK_EVERY_S = 2.0  # a look costs milliseconds on a network file system


class TimeLimit:
    """Knows whether the warning has come; looks at most every two seconds."""

    def __init__(self) -> None:
        self._path = os.environ.get(STOP_FILE_VARIABLE, "")
        self._next_look = 0.0
        self._near = False

    @property
    def is_near(self) -> bool:
        """Whether it is time to write a checkpoint and end."""
        if self._path and not self._near and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY_S
            self._near = os.path.exists(self._path)  # noqa: PTH110 - asked in the innermost loop
        return self._near


def out_of_time(what: str) -> OutOfTimeError:
    """The error to end with, once the checkpoint is written."""
    return OutOfTimeError(f"the job's time limit is near: {what}; the next attempt goes on from there")
