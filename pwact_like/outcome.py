"""What an engine says of a finished attempt; the dispatcher acts on it and knows no physics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CUT_OFF_FILE = "cut_off"
# how a program ends that was made to: for its memory, its time, a preemption, by somebody's scancel. Why is known when the
# scheduler says how the job ended; what started the program may pass the number of the signal on
KILLED = frozenset({9, 15, 129, 130, 137, 138, 143})


@dataclass(frozen=True)
class Ok:
    """The attempt is good. ``note`` is told to the user (an MD run that ended early, say)."""

    note: str = ""


@dataclass(frozen=True)
class Retry:
    """Try again; ``changes`` are environment variables for the next attempt (the engine reads them in its command)."""

    reason: str
    changes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reject:
    """Final: trying again unchanged would give the same (an SCF that did not converge, say)."""

    reason: str


Outcome = Ok | Retry | Reject


@dataclass(frozen=True)
class TaskFiles:
    """What an engine's ``write`` left in a task folder, and what its program will leave there.

    Attributes
    ----------
    inputs
        Names of files in the task folder; each attempt works on copies of them.
    links
        (name in the attempt's folder, absolute path of the target): large or shared read-only inputs.
    outputs
        Names that must exist after success; renamed into the task folder when the attempt is accepted.
    optional_outputs
        Names or glob patterns that are kept too when they exist.
    carry
        Files that the next attempt takes over from the one before it: checkpoints, and what is written on (logs, trajectories).
    checkpoints
        Those of ``carry`` that become another one only when the work has got on, never by a start alone. An attempt that was cut short
        and leaves one such as no attempt before it has progressed, and being cut short is not held against its task, as often as it
        comes. A log is none: it would let a task that gets nowhere be tried for ever.
    passes_over
        The work is many pieces, and a later attempt passes over the one at which earlier ones died: to die is held against the task only
        where it has not progressed, and counts as a misfortune otherwise.
    counts_cut_off
        What the program leaves is worth something piece by piece (the frames of an MD). When the time limit ends the task for good, its
        engine is asked for the pieces that are whole: it finds a file `CUT_OFF_FILE` in the folder then, which is kept with the outputs.
    secret
        Names that exist only in a live attempt and are removed afterwards (POTCAR).
    """

    inputs: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    outputs: tuple[str, ...] = ()
    optional_outputs: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()
    passes_over: bool = False
    counts_cut_off: bool = False


def was_cut_off(folder: Path) -> bool:
    """Whether what an attempt's folder, or that of the accepted task, holds ends where the time limit came."""
    return (folder / CUT_OFF_FILE).is_file()
