"""What becomes of an ended attempt."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field

from pwact_like.crashpoints import reach
from pwact_like.errors import FencedError, StopRequested
from pwact_like.jobs import attempt as folder_of
from pwact_like.jobs.script import attempt_folder, is_variable
from pwact_like.jobs.types import EndCause, Judge, Task
from pwact_like.outcome import Ok, Outcome, Reject, Retry

# causes that are nobody's fault: tried again without counting against max_attempts, up to so many times
NO_STRIKE = frozenset({EndCause.NODE_FAIL, EndCause.PREEMPTED, EndCause.CANCELLED})
FREE_ATTEMPTS = 10

# the disk's fault, not the attempt's: the master stops with a message instead of calling the attempt failed
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE})


@dataclass(frozen=True)
class Good:
    """The attempt is accepted: these names are renamed into the task's folder."""

    names: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Bad:
    """The attempt failed; ``final`` means that trying again would give the same."""

    reason: str
    cause: EndCause = EndCause.FAILED
    final: bool = False
    strike: bool = True
    env: Mapping[str, str] = field(default_factory=dict)


Verdict = Good | Bad


def judge_attempt(task: Task, number: int, status: int, judge: Judge) -> Verdict:
    """Judge an attempt that has left its exit marker: status, then outputs, then the engine's word."""
    if status != 0:
        return Bad(folder_of.failure_reason(task, number, status))
    missing = folder_of.missing_outputs(task, number)
    folder = attempt_folder(task, number)
    if missing:
        said = folder_of.diagnosis(folder / "stderr")
        return Bad(f"exit status 0, but it left no {', '.join(missing)}" + f": {said}" * bool(said) + f" ({folder})")
    reach("ended-unjudged")
    outcome = _ask(task, number, judge)
    if isinstance(outcome, Ok):
        return Good(tuple(folder_of.names_to_accept(task, number)), outcome.note)
    if isinstance(outcome, Reject):
        return Bad(outcome.reason, final=True)
    bad_names = [name for name in outcome.changes if not is_variable(name)]
    if bad_names:
        return Bad(f"{outcome.reason} (the changes asked for are unusable: {bad_names} are not names of variables)")
    return Bad(outcome.reason, env=dict(outcome.changes))


def lost_attempt(task: Task, number: int, cause: EndCause, reason: str, job_did_nothing: bool) -> Bad:
    """Judge an attempt whose job is gone and left no marker.

    An attempt that nobody had begun is not to blame, unless its job began none at all (a job that dies in its first
    lines would otherwise be submitted for ever).
    """
    begun = folder_of.was_claimed(task, number)
    strike = (begun or job_did_nothing) and cause not in NO_STRIKE
    said = folder_of.diagnosis(attempt_folder(task, number) / "stderr") if begun else ""
    where = f" ({attempt_folder(task, number)})" if begun else ", before this task had begun"
    return Bad(f"{reason}{where}" + f": {said}" * bool(said), cause=cause, strike=strike)


def may_try_again(task: Task, number: int, strikes: int) -> bool:
    """Whether another attempt follows attempt ``number``."""
    return strikes < task.max_attempts and number < task.max_attempts + FREE_ATTEMPTS


def _ask(task: Task, number: int, judge: Judge) -> Outcome:
    """Ask the engine; whatever goes wrong in reading an attempt's files is that attempt's failure, not the master's."""
    folder = attempt_folder(task, number)
    try:
        outcome = judge(task, folder)
    except (StopRequested, FencedError, MemoryError):
        raise
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise
        return Retry(f"its results cannot be read: {_in_words(error)} ({folder})")
    except Exception as error:
        return Retry(f"its results cannot be read: {_in_words(error)} ({folder})")
    if not isinstance(outcome, Ok | Retry | Reject):
        return Retry(f"the engine gave no verdict but {outcome!r} ({folder})")
    return outcome


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
