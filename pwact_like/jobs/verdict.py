"""What becomes of an ended attempt."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pwact_like import fsio
from pwact_like.crashpoints import reach
from pwact_like.errors import FencedError, StopRequested
from pwact_like.jobs import attempt as folder_of
from pwact_like.jobs.script import attempt_folder, is_variable
from pwact_like.jobs.types import EndCause, Judge, Task
from pwact_like.outcome import CUT_OFF_FILE, Ok, Outcome, Reject, Retry

# what a program ends with when it was told to, or made to: 75 (EX_TEMPFAIL), and SIGHUP, SIGINT, SIGKILL, SIGUSR1, SIGTERM
_STOPPED = frozenset({75, 129, 130, 137, 138, 143})

# the disk's fault, not the attempt's: the master stops with a message instead of calling the attempt failed
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE})


@dataclass(frozen=True)
class Good:
    """The attempt is accepted: these names are renamed into the task's folder."""

    names: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Bad:
    """The attempt failed.

    Attributes
    ----------
    final
        Trying again would give the same.
    strike
        It counts against the task's attempts; ``harmless``: nor is it one of the misfortunes of which there may be so many.
    sequel
        What the next attempt does otherwise, in words.
    first
        The next attempt goes into a job before all others.
    """

    reason: str
    cause: EndCause = EndCause.FAILED
    final: bool = False
    strike: bool = True
    harmless: bool = False
    sequel: str = ""
    first: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


Verdict = Good | Bad

_CAUSE_WORDS = {
    EndCause.OUT_OF_MEMORY: "out of memory",
    EndCause.TIMEOUT: "its time limit came",
    EndCause.NODE_FAIL: "its node failed",
    EndCause.PREEMPTED: "preempted",
    EndCause.CANCELLED: "cancelled",
}


def judge_attempt(task: Task, number: int, status: int, judge: Judge, job_cause: EndCause = EndCause.UNKNOWN) -> Verdict:
    """Judge an attempt that has left its exit marker: status, then outputs, then the engine's word.

    ``job_cause`` is the scheduler's word on its job, as far as it was said and can be meant for this attempt.
    """
    if status != 0:
        cause, reason = EndCause.FAILED, folder_of.failure_reason(task, number, status)
        if status in _STOPPED and folder_of.was_warned(task, number):
            cause = EndCause.TIMEOUT
        elif job_cause in (EndCause.OUT_OF_MEMORY, EndCause.TIMEOUT, EndCause.NODE_FAIL, EndCause.PREEMPTED, EndCause.CANCELLED):
            cause = job_cause
        if cause is not EndCause.FAILED:
            reason = f"{_CAUSE_WORDS.get(cause, cause)}; {reason}"
        return Bad(reason, cause=cause)
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


def lost_attempt(task: Task, number: int, cause: EndCause, reason: str, *, job_worked: bool, vanished: bool = False) -> Bad:
    """Judge an attempt whose job is gone and left no marker.

    An attempt that nobody had begun is not to blame, unless its job began none at all (a job that dies in its first
    lines would otherwise be submitted for ever). Nor is one whose job vanished; but that counts as a misfortune.

    Parameters
    ----------
    job_worked
        Its job began some attempt.
    vanished
        The scheduler knows nothing of its end: a controller that was killed before it had saved its last seconds forgets
        what was submitted and started in them.
    """
    begun = folder_of.was_claimed(task, number)
    strike = not vanished and (begun or not job_worked)
    harmless = not strike and not begun and job_worked and cause in (EndCause.LOST, EndCause.TIMEOUT, EndCause.OUT_OF_MEMORY)
    if harmless:
        cause = EndCause.NOT_BEGUN  # what ended its job has nothing to do with it
    said = folder_of.diagnosis(attempt_folder(task, number) / "stderr") if begun else ""
    where = f" ({attempt_folder(task, number)})" if begun else ", before this task had begun"
    return Bad(f"{reason}{where}" + f": {said}" * bool(said), cause=cause, strike=strike, harmless=harmless)


def judge_cut_off(task: Task, number: int, bad: Bad, judge: Judge) -> Verdict:
    """Judge what is whole of an attempt that would be its task's end because the time limit came (``files.counts_cut_off``).

    The mark by which the engine knows is left in the attempt's folder before it is asked, so a master that is killed meanwhile finds
    no more than it would have made, and goes with the outputs: they are read the same way ever after.
    """
    folder_of.refresh(task, number)
    if folder_of.missing_outputs(task, number):
        return bad
    fsio.write_text(attempt_folder(task, number) / CUT_OFF_FILE, f"{bad.reason}\n")
    outcome = _ask(task, number, judge)
    if not isinstance(outcome, Ok):
        return replace(bad, reason=f"{bad.reason}; nor does what it left count: {outcome.reason}")
    names = dict.fromkeys([*folder_of.names_to_accept(task, number), CUT_OFF_FILE])
    return Good(tuple(names), f"cut off by its time limit: {outcome.note}" if outcome.note else "cut off by its time limit")


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
