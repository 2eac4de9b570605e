"""Named places in the master where a test can end it as a power cut would.

``PWACT_LIKE_KILL_AT=NAME`` (or ``NAME:n`` for the n-th passage) makes ``reach(NAME)`` send SIGKILL to its own
process. Unset, which is always the case outside the tests, a call costs one dictionary lookup.
"""

from __future__ import annotations

import os
import signal
import threading

KILL_AT_VARIABLE = "PWACT_LIKE_KILL_AT"

NAMES = (
    "stage-planned",  # inputs of a stage are written, nothing is submitted
    "intent-written",  # the journal holds the intent, the scheduler knows nothing
    "submitted-unrecorded",  # the scheduler has the job, the journal has no id
    "submitted",  # the journal holds the id
    "ended-unjudged",  # the exit marker is there, nothing was judged
    "accepting",  # between two renames of an acceptance
    "accepted",  # the acceptance is in the journal
    "collecting",  # a stage's product is half written
    "manifest-written",  # a product's manifest was renamed in
    "cleaning",  # a clean-up is in its ledger, files are half gone
    "record-written",  # al.record and iter_select.txt hold the iteration
    "iteration-done",  # between two iterations
)

_passages: dict[str, int] = {}
_counting = threading.Lock()  # jobs are submitted by several threads


def reach(name: str) -> None:
    """Die here if the environment asks for it."""
    wanted = os.environ.get(KILL_AT_VARIABLE)
    if not wanted:
        return
    wanted_name, _, count = wanted.partition(":")
    if wanted_name != name:
        return
    with _counting:
        _passages[name] = _passages.get(name, 0) + 1
        if _passages[name] >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
