"""The exceptions of pwact_like.

::

    PwactLikeError                 exit status 1
    ├── InputError                 2   the user's files or options are wrong (every problem at once)
    ├── NotAvailableError          2   an engine or option that is not built or not installed
    ├── DataError                  2   a data file or a program's output cannot be read or does not make sense
    ├── BudgetExceededError        3   more tasks failed than the failure budget allows
    ├── LockedError                4   another master holds the folder
    ├── FencedError                4   this master lost its lock to another one
    ├── JobError                   1   a task failed for good and nothing can go on without it
    ├── SchedulerError             1   the scheduler refused for good
    ├── OutOfTimeError             75  a program ends at its job's time limit, with a checkpoint (EX_TEMPFAIL of sysexits.h)
    ├── InProgress                 0   ``--once``: nothing more can be done before some job moves
    └── StopRequested              128 + signal: the user or the system asked the master to end

Every message says what happened, where (file and place), and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class PwactLikeError(Exception):
    """Base of all errors that pwact_like raises on purpose."""

    exit_status: int = 1


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the user's input.

    Attributes
    ----------
    where
        File and place, e.g. ``param.json: strategy.model_num``.
    what
        What is wrong, in a sentence.
    cure
        What to do about it; may be empty when ``what`` says it all.
    """

    where: str
    what: str
    cure: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        return f"{text} ({self.cure})" if self.cure else text


class InputError(PwactLikeError):
    """The user's input is wrong; carries every problem that was found, not the first."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if len(self.problems) == 1:
            text = str(self.problems[0])
        else:
            text = "\n".join(f"{number}. {problem}" for number, problem in enumerate(self.problems, start=1))
        super().__init__(text)

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem, ...]]]:
        """Pickle with the problems, not with the text (it travels back from child processes)."""
        return type(self), (self.problems,)


class NotAvailableError(PwactLikeError):
    """Something known that is not built yet, or whose program is not installed; the message names the cure."""

    exit_status = 2


class DataError(PwactLikeError):
    """A data file or a program's output that cannot be read, or whose content does not make sense."""

    exit_status = 2


class BudgetExceededError(PwactLikeError):
    """More tasks failed than the campaign's failure budget allows."""

    exit_status = 3


class LockedError(PwactLikeError):
    """Another master holds this folder."""

    exit_status = 4


class FencedError(PwactLikeError):
    """The master has lost its lock to another one and must not write any more."""

    exit_status = 4


class JobError(PwactLikeError):
    """A task failed for good, and the workflow cannot go on without its product."""


class SchedulerError(PwactLikeError):
    """The scheduler refused for good, or cannot be used."""


class OutOfTimeError(PwactLikeError):
    """A program's job is about to reach its time limit; what was done is in a checkpoint."""

    exit_status = 75


class InProgress(PwactLikeError):
    """With ``--once``: everything that can be done now is done; jobs are under way."""

    exit_status = 0

    def __init__(self, jobs: int, pending: int) -> None:
        self.jobs, self.pending = jobs, pending
        waiting = f", {pending} tasks wait for their turn" * bool(pending)
        super().__init__(f"{jobs} job{'s' * (jobs != 1)} under way{waiting}; give the same command again later")

    def __reduce__(self) -> tuple[type[InProgress], tuple[int, int]]:
        """Pickle with the counts."""
        return type(self), (self.jobs, self.pending)


class StopRequested(PwactLikeError):
    """A signal asked the master to end; jobs stay, and the next start goes on."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        self.exit_status = 128 + signum
        super().__init__(f"stopped by signal {signum}")

    def __reduce__(self) -> tuple[type[StopRequested], tuple[int]]:
        """Pickle with the signal."""
        return type(self), (self.signum,)
