"""Tasks, attempts and the Scheduler protocol; this room knows nothing of physics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pwact_like.outcome import Outcome, TaskFiles

if TYPE_CHECKING:
    from pwact_like.config.resource import ResourceSection


@dataclass(frozen=True)
class Task:
    """One unit of work in one folder.

    Attributes
    ----------
    key
        ``seeds.task_key(...)``: content, not place; two tasks of one campaign may share neither key nor folder.
    name
        Unique and readable, e.g. ``iter.0000/00.train/train.000``.
    folder
        Absolute path of the task folder; attempts work in ``folder/.attempt/N``.
    section
        Section of resource.json whose settings run it: ``train``, ``explore``, ``DFT`` or ``direct``.
    commands
        Shell lines, run in order in the attempt's folder; the first that fails ends the attempt.
    files
        Inputs, links, outputs, checkpoints to carry, secrets.
    seed
        The task's own seed (recorded; the engine has already written it into the inputs).
    max_attempts
        Attempts that may fail by their own fault before the task is set aside; None: as its section of resource.json says.
    anew
        What the user does to have it begun anew with other inputs, with all that belongs to it; "": its folder is removed.
    """

    key: str
    name: str
    folder: Path
    section: str
    commands: tuple[str, ...]
    files: TaskFiles = field(default_factory=TaskFiles)
    seed: int = 0
    max_attempts: int | None = None
    anew: str = ""


Judge = Callable[[Task, Path], Outcome]
"""(task, folder of the ended attempt, outputs present, exit status 0 or a `CUT_OFF_FILE` in it) → what the engine says of it."""


class AttemptState(StrEnum):
    """States of an attempt. UNKNOWN counts as alive."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    RUNNING = "running"
    UNKNOWN = "unknown"
    ENDED = "ended"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class TaskState(StrEnum):
    """What became of a task."""

    ACCEPTED = "accepted"
    FAILED = "failed"  # rejected by its engine, or out of attempts


@dataclass(frozen=True)
class TaskResult:
    """A task's end: accepted (outputs are in ``task.folder``) or failed with the reason in one line."""

    task: Task
    state: TaskState
    attempts: int
    reason: str = ""
    note: str = ""


class EndCause(StrEnum):
    """Why a job left the scheduler, in the dispatcher's words."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out of memory"
    CANCELLED = "cancelled"
    NODE_FAIL = "node failure"
    PREEMPTED = "preempted"
    LOST = "lost"
    NOT_BEGUN = "not begun"  # its job ended before its turn came
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Submitted:
    """The scheduler took the job under this id."""

    id: str


@dataclass(frozen=True)
class Refused:
    """The scheduler refused: ``wait`` (limits: try later) or fatal.

    ``sure`` is False when the words are not known: then a scheduler that has taken such jobs before is given time.
    ``about_size`` says that no node, or no limit, allows what the job asks for.
    """

    text: str
    wait: bool
    sure: bool = True
    about_size: bool = False


@dataclass(frozen=True)
class SubmitUnknown:
    """No answer: the job may or may not be queued; look for it by name before anything else."""

    text: str


@dataclass(frozen=True)
class JobView:
    """One job as the scheduler shows it.

    Attributes
    ----------
    alive
        False only when the scheduler itself says that the job has ended, with ``cause``.
    reason
        Why it waits, or how it ended, in the scheduler's words.
    node
        Where it runs or ran; "" before that.
    said
        The scheduler's own word for the state (``PENDING``, ``COMPLETING``), "" when it has none.
    since
        Since when it is in this state (seconds since 1970), as far as the scheduler tells.
    stuck
        It waits for something that will not come by itself (a time limit above the partition's, say).
    memory_mb
        The memory a node that it was given, where the answer has it.
    too_much
        It is stuck because of what it asks for itself.
    comment
        Carries our name, too, where the scheduler has comments: the name itself may have been rewritten by a site's plugin.
    """

    id: str
    name: str
    alive: bool
    running: bool = False
    cause: EndCause = EndCause.UNKNOWN
    reason: str = ""
    node: str = ""
    said: str = ""
    since: float | None = None
    stuck: bool = False
    memory_mb: int | None = None
    comment: str = ""
    too_much: bool = False

    def belongs_to(self, name: str) -> bool:
        """Whether this is the job of that name."""
        return name in (self.name, self.comment)


@dataclass(frozen=True)
class Answer:
    """An answer of the scheduler; a job that is not in ``jobs`` is unknown to it, unless the answer is not complete."""

    jobs: Mapping[str, JobView]
    complete: bool = True


@dataclass(frozen=True)
class NoAnswer:
    """The scheduler did not answer; nothing may be concluded from it."""

    text: str


@dataclass(frozen=True)
class Asks:
    """What an attempt asks of the scheduler beyond its section of resource.json, because of how earlier attempts ended.

    Attributes
    ----------
    memory_mb
        Memory a node, in place of the section's.
    time_s
        Time limit in seconds, in place of the section's.
    exclude
        Nodes that failed under it.
    """

    memory_mb: int | None = None
    time_s: int | None = None
    exclude: tuple[str, ...] = ()


NO_ASKS = Asks()


@dataclass(frozen=True)
class JobRequest:
    """What a scheduler needs to know to write its lines into a job's script."""

    name: str
    section: ResourceSection
    asks: Asks = NO_ASKS


@dataclass(frozen=True)
class Pace:
    """How a scheduler likes to be asked.

    Attributes
    ----------
    poll_s
        Shortest and longest pause between two rounds of questions; it grows while nothing changes.
    grace_s
        How long a job's marker or outputs may come late after the scheduler said that it is over.
    submissions
        How many jobs may be submitted at the same time.
    copies_scripts
        Whether it copies a script when it takes it, so that the file need not survive a power cut.
    """

    poll_s: tuple[float, float] = (0.05, 0.5)
    grace_s: float = 1.0
    submissions: int = 1
    copies_scripts: bool = False


class Scheduler(Protocol):
    """What the dispatcher needs of a scheduler. An empty answer and no answer are different types."""

    name: str

    @property
    def pace(self) -> Pace:
        """How it likes to be asked."""

    def header(self, request: JobRequest) -> tuple[str, ...]:
        """Lines of the job script right after its first one (``#SBATCH …``); a pure function of the request."""

    def submit(self, script: Path, name: str) -> Submitted | Refused | SubmitUnknown:
        """Submit a script under a job name that is unique in the world."""

    def longest_s(self, section: ResourceSection) -> int | None:
        """Longest time limit, in seconds, that a job of this section may have; None when there is none or it is not known."""

    def memory_mb(self, number: str) -> int | None:
        """Memory a node, in MB, that the job with this id was given; None when it is not known."""

    def query(self, ids: Iterable[str]) -> Answer | NoAnswer:
        """Look at these jobs (keys of the answer: ids)."""

    def find(self, *names: str) -> Answer | NoAnswer:
        """Find jobs by their names, finished ones too (keys of the answer: ids); always a complete answer, or none."""

    def look_back(self, jobs: Mapping[str, str]) -> Answer | NoAnswer:
        """Look in the scheduler's long memory (accounting) for jobs that ``query`` no longer knows.

        Parameters
        ----------
        jobs
            Name by id. A scheduler without such a memory gives an empty answer.
        """

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """End these jobs, each only if it still has this name; unknown ones are not an error.

        Parameters
        ----------
        jobs
            Name by id.

        Raises
        ------
        SchedulerError
            When the scheduler does not answer: the jobs may still run.
        """
