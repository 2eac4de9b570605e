"""The fake's memory: one file, read and replaced whole under a lock, so that a command killed at any moment leaves it whole.

The commands are started thousands of times, so nothing here imports what takes milliseconds (json, re, typing, pathlib).
"""

from __future__ import annotations

import fcntl
import marshal
import os
import time

FOLDER_VARIABLE = "FAKE_SLURM_DIR"
JOB_VARIABLE = "FAKE_SLURM_JOB"  # marks every process of a job


class Job:
    """One job; its attributes are the values of a dict that is stored."""

    id: int
    array_id: int  # 0: not of an array
    array_index: int
    name: str
    user: str
    uid: int
    account: str
    qos: str
    partition: str  # as asked for (a list); where it runs once it runs
    comment: str
    dependency: str
    constraint: str
    state: str  # base state
    completing: bool  # ended, and processes are left
    shown: str  # state that a test wants to be shown instead
    reason: str
    forced_reason: str  # a test keeps the job pending with this reason
    exit_code: int
    exit_signal: int
    submit: float  # these three are shown
    start: float | None
    end: float | None
    eligible: float  # these three count
    began: float
    ended: float
    limit_min: int
    min_nodes: int
    tasks: int
    tasks_per_node: int  # 0: not given
    cpus_per_task: int
    cpus_per_node: int
    mem_per_cpu: int  # 0: not given
    mem_per_node: int  # 0: not given
    gpus_per_node: int
    gres: str
    exclusive: bool
    exclude: list[str]
    nodelist: list[str]
    nodes: list[str]  # where it runs or ran
    gpus: dict[str, list[int]]
    memory_mb: int  # a node, once it runs
    cpus: int  # a node, once it runs
    requeue: bool
    restarts: int
    command: str
    arguments: list[str]
    workdir: str
    output: str
    error: str
    append: bool
    warn_signal: int
    warn_s: int
    warn_batch: bool
    warned: bool
    kill_at: float | None  # SIGKILL comes then, or by the real clock:
    kill_at_real: float
    run: int  # number of its present or last run; 0: never begun
    submit_pid: int
    purged: bool
    accounting_end: str  # a test wants the accounting to say this instead

    def __init__(self, values: dict) -> None:
        self.__dict__ = values

    @property
    def live(self) -> bool:
        """Pending, running, or its processes are still being ended."""
        return self.completing or self.state in {"PENDING", "RUNNING", "SUSPENDED", "CONFIGURING"}

    @property
    def display(self) -> str:
        """State as squeue's %T shows it."""
        return self.shown or ("COMPLETING" if self.completing else self.state)

    @property
    def active(self) -> bool:
        """Has processes and resources."""
        return self.completing or self.state in {"RUNNING", "SUSPENDED", "CONFIGURING"}


class State:
    """Everything, as one dict of plain values."""

    offset: float  # what the virtual clock was moved by
    next_id: int
    controller_up: bool
    controller_delay_s: float
    quiet_until: float  # ends are noticed from then on
    config: dict
    nodes: dict[str, dict]
    partitions: dict[str, dict]
    jobs: dict[int, dict]
    runs: list[tuple[int, int, int, int]]  # job, run, pid and start time of its shepherd
    timers: list[tuple[float, str, tuple]]

    def __init__(self, values: dict) -> None:
        self.__dict__ = values

    @property
    def now(self) -> float:
        """The virtual clock, which stands still between two steps: limits, ages and timers go by it."""
        return self.offset

    @property
    def stamp(self) -> float:
        """The moment as it is shown: real time and what the clock was moved by."""
        return time.time() + self.offset

    def all_jobs(self) -> list[Job]:
        """Every job that the controller remembers."""
        return [Job(values) for values in self.jobs.values() if not values["purged"]]

    def job(self, number: int) -> Job | None:
        """A job that the controller remembers."""
        values = self.jobs.get(number)
        return None if values is None or values["purged"] else Job(values)


class Folder:
    """The folder of one fake Slurm."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.spool = f"{path}/spool"

    def job_folder(self, number: int) -> str:
        """Where the script of a job is kept."""
        return f"{self.spool}/{number}"

    def run_folder(self, number: int, run: int) -> str:
        """Where one run of a job leaves its marks."""
        return f"{self.spool}/{number}/run.{run}"

    def token(self, number: int, run: int) -> str:
        """Value of `JOB_VARIABLE` in the processes of a run."""
        return f"{self.path}:{number}:{run}"

    def peek(self) -> State:
        """A snapshot."""
        with open(f"{self.path}/state", "rb") as stream:  # noqa: PTH123 (pathlib takes milliseconds)
            return State(marshal.load(stream))

    def create(self, state: State) -> None:
        """Begin with this state."""
        os.makedirs(self.spool)  # noqa: PTH103
        with Locked(self) as locked:
            locked.replace(state)

    def write(self, name: str, content: bytes) -> None:
        """Replace a file, whole or not at all; under the lock."""
        with open(f"{self.path}/{name}.new", "wb") as stream:  # noqa: PTH123
            stream.write(content)
        os.rename(f"{self.path}/{name}.new", f"{self.path}/{name}")  # noqa: PTH104

    def log_call(self, command: str, argv: list[str], started: int) -> None:
        """Note a call; one line in one write, so that calls at the same time do not mix."""
        line = ascii((command, argv, os.getpid(), started, os.getcwd(), time.time())) + "\n"  # noqa: PTH109
        descriptor = os.open(f"{self.path}/calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line.encode())
        os.close(descriptor)


class Locked:
    """``with Locked(folder) as locked:`` gives ``locked.state``; what has changed is written at the end, unless something broke.

    Shepherds of jobs that were started meanwhile wait for a word that comes after the state is written.
    """

    state: State

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.gates: list[int] = []

    def __enter__(self) -> Locked:
        self._lock = os.open(f"{self.folder.path}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            with open(f"{self.folder.path}/state", "rb") as stream:  # noqa: PTH123
                self._before = stream.read()
            self.state = State(marshal.loads(self._before))
        except FileNotFoundError:
            self._before = b""
            self.state = State({})
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None or getattr(kind, "keeps_state", False):
                self.save()
        finally:
            for gate in self.gates:
                os.close(gate)
            os.close(self._lock)

    def replace(self, state: State) -> None:
        """Take another state."""
        self.state = state

    def save(self) -> None:
        """Write what has changed, then let the jobs run that were started."""
        after = marshal.dumps(self.state.__dict__)
        if after != self._before:
            self.folder.write("state", after)
            self._before = after
        while self.gates:
            gate = self.gates.pop()
            os.write(gate, b"g")
            os.close(gate)
