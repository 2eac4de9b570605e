"""Rows of the journal as the dispatcher sees them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pwact_like.jobs.types import NO_ASKS, Asks, AttemptState, TaskState

__all__ = ["NO_ASKS"]


def asks_text(asks: Asks) -> str:
    """What an attempt asks for, as JSON; only what differs from nothing."""
    return json.dumps({name: value for name, value in asdict(asks).items() if value})


def read_asks(text: str) -> Asks:
    """What was recorded by `asks_text`."""
    stored = json.loads(text)
    return Asks(stored.get("memory_mb"), stored.get("time_s"), tuple(stored.get("exclude", ())))


@dataclass(frozen=True)
class TaskRow:
    """A task as recorded; ``state`` is None until it is accepted or failed for good."""

    name: str
    key: str
    section: str
    folder: str
    state: TaskState | None
    attempts: int
    reason: str
    note: str


@dataclass(frozen=True)
class AttemptRow:
    """An attempt as recorded.

    ``accepting`` holds the names being renamed into the task's folder once the attempt was found good: an
    interrupted acceptance is completed from it. ``strike`` says whether it counts against ``max_attempts``. Times are
    seconds since 1970.
    """

    task: str
    number: int
    state: AttemptState
    job: str
    env: Mapping[str, str]
    cause: str
    reason: str
    strike: bool
    accepting: tuple[str, ...] | None
    asks: Asks
    node: str
    planned: float
    submitted: float | None
    ended: float | None


@dataclass(frozen=True)
class JobRow:
    """A job as recorded; ``scheduler_id`` is None between the intent and the scheduler's answer.

    ``said`` and ``reason`` are the scheduler's last words on its state. Times are seconds since 1970.
    """

    name: str
    state: AttemptState
    scheduler_id: str | None
    section: str
    script_sha256: str
    cause: str
    reason: str
    node: str
    said: str
    intended: float
    submitted: float | None
    ended: float | None


@dataclass(frozen=True)
class JobShown:
    """A job in flight as ``status`` shows it.

    ``state`` is ours, ``said`` the scheduler's own word; ``since`` in seconds since 1970; ``tasks`` counts those still
    inside; ``stuck`` says that it waits for something that will not come by itself.
    """

    name: str
    id: str | None
    section: str
    state: str
    said: str
    reason: str
    node: str
    since: float | None
    tasks: int
    stuck: bool


def task_row(row: sqlite3.Row) -> TaskRow:
    """Read a row of ``tasks``."""
    return TaskRow(
        name=row["name"],
        key=row["key"],
        section=row["section"],
        folder=row["folder"],
        state=TaskState(row["state"]) if row["state"] else None,
        attempts=row["attempts"],
        reason=row["reason"],
        note=row["note"],
    )


def attempt_row(row: sqlite3.Row) -> AttemptRow:
    """Read a row of ``attempts``."""
    return AttemptRow(
        task=row["task"],
        number=row["number"],
        state=AttemptState(row["state"]),
        job=row["job"],
        env=json.loads(row["env"]),
        cause=row["cause"],
        reason=row["reason"],
        strike=bool(row["strike"]),
        accepting=None if row["accepting"] is None else tuple(json.loads(row["accepting"])),
        asks=read_asks(row["asks"]),
        node=row["node"],
        planned=row["planned"],
        submitted=row["submitted"],
        ended=row["ended"],
    )


def job_row(row: sqlite3.Row) -> JobRow:
    """Read a row of ``jobs``."""
    return JobRow(
        name=row["name"],
        state=AttemptState(row["state"]),
        scheduler_id=row["scheduler_id"],
        section=row["section"],
        script_sha256=row["script_sha256"],
        cause=row["cause"],
        reason=row["reason"],
        node=row["node"],
        said=row["said"],
        intended=row["intended"],
        submitted=row["submitted"],
        ended=row["ended"],
    )
