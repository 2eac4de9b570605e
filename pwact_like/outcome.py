"""What an engine says of a finished attempt; the dispatcher acts on it and knows no physics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
        Checkpoint files that the next attempt takes over from the one before it.
    secret
        Names that exist only in a live attempt and are removed afterwards (POTCAR).
    """

    inputs: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    outputs: tuple[str, ...] = ()
    optional_outputs: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()
