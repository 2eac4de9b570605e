"""sbatch: options to a job, checks, the script into the spool."""

from __future__ import annotations

import os
import pwd
import signal
import sys

from fake import actions, admission
from fake.controller import tick
from fake.directives import check_script, directives
from fake.options import Reply, Table
from fake.store import Folder, Job, Locked
from fake.units import UNLIMITED, expand, megabytes, minutes

TABLE = Table(
    "sbatch",
    "job-name=/J comment= nodes=/N ntasks=/n ntasks-per-node= cpus-per-task=/c gres= gpus-per-node= partition=/p time=/t mem= mem-per-cpu= "
    "account=/A qos=/q exclude=/x nodelist=/w no-requeue requeue signal= output=/o error=/e chdir=/D array=/a constraint=/C exclusive? "
    "export= parsable open-mode= dependency=/d hold/H begin=/b quiet/Q mail-type= mail-user= nice? wckey= reservation= hint= "
    "get-user-env? kill-on-invalid-dep= wrap= version/V",
    bad_status=255,
    in_order=True,
)
_VARIABLES = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_EXCLUSIVE": "exclusive",
    "SBATCH_EXPORT": "export",
    "SBATCH_GRES": "gres",
    "SBATCH_JOB_NAME": "job-name",
    "SBATCH_MEM_PER_CPU": "mem-per-cpu",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_NO_REQUEUE": "no-requeue",
    "SBATCH_OPEN_MODE": "open-mode",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_REQUEUE": "requeue",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_TIMELIMIT": "time",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_WCKEY": "wckey",
}
_EXCLUSIVE = {"mem": "mem-per-cpu", "mem-per-cpu": "mem", "requeue": "no-requeue", "no-requeue": "requeue"}


class Submission:
    """What a call of sbatch asks for."""

    def __init__(self, argv: list[str]) -> None:
        told, rest = TABLE.parse(argv)
        self.parsable = any(name == "parsable" for name, _ in told)
        if any(name == "wrap" for name, _ in told):
            self.script = f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{dict(told)['wrap']}\n".encode()
            self.name, self.command, self.arguments = "wrap", "(null)", rest
        elif rest:
            self.name, self.command, self.arguments = rest[0].rpartition("/")[2], _absolute(rest[0]), rest[1:]
            try:
                with open(rest[0], "rb") as stream:  # noqa: PTH123
                    self.script = stream.read()
            except OSError:
                raise Reply(1, err=f"sbatch: error: Unable to open file {rest[0]}\n") from None
        else:
            self.script, self.name, self.command, self.arguments = sys.stdin.buffer.read(), "sbatch", "(null)", []
        check_script(self.script)
        text = self.script.decode(errors="surrogateescape")
        in_script, strangers = TABLE.parse(directives(text, self.command))
        if strangers:
            raise Reply(1, err=f"sbatch: error: Invalid directive found in batch script: {strangers[0]}\n")
        from_environment = [(option, os.environ[name]) for name, option in _VARIABLES.items() if name in os.environ]
        self.options: dict[str, str] = {}
        for name, value in [*in_script, *from_environment, *told]:
            self.options.pop(_EXCLUSIVE.get(name, ""), None)  # of two that exclude each other the later one counts
            self.options[name] = value

    def job(self) -> Job:
        """The job that it asks for (of an array: its pattern)."""
        options = self.options
        job = Job(actions.blank())
        user = pwd.getpwuid(os.getuid())
        job.user, job.uid, job.submit_pid = user.pw_name, user.pw_uid, os.getpid()
        job.name = options.get("job-name", self.name)
        job.comment, job.account, job.qos = (options.get(name, "") for name in ("comment", "account", "qos"))
        job.partition, job.constraint, job.dependency = (options.get(name, "") for name in ("partition", "constraint", "dependency"))
        job.command, job.arguments = self.command, self.arguments
        job.workdir = _absolute(options.get("chdir") or ".")
        job.output, job.error = options.get("output", ""), options.get("error", "")
        job.append = options.get("open-mode", "").startswith("a")
        job.requeue = "no-requeue" not in options
        job.exclusive = "exclusive" in options
        job.exclude, job.nodelist = expand(options.get("exclude", "")), expand(options.get("nodelist", ""))
        if "time" in options:
            limit = minutes(options["time"])
            if limit is None:
                raise _invalid("time")
            job.limit_min = limit or UNLIMITED
        self._size(job)
        self._memory(job)
        self._signal(job)
        if "hold" in options:
            job.forced_reason = "JobHeldUser"
        if "begin" in options:
            job.eligible = _begin(options["begin"])
        return job

    def _number(self, name: str, default: int) -> int:
        text = self.options.get(name)
        if text is None:
            return default
        if not text.isdigit() or not int(text):
            raise _invalid(name, text)
        return int(text)

    def _size(self, job: Job) -> None:
        nodes = self.options.get("nodes", "1").partition("-")[0]
        if not nodes.isdigit() or not int(nodes):
            raise _invalid("nodes", self.options["nodes"])
        job.tasks_per_node = self._number("ntasks-per-node", 0)
        job.cpus_per_task = self._number("cpus-per-task", 1)
        job.min_nodes = max(int(nodes), len(job.nodelist))
        job.tasks = self._number("ntasks", job.min_nodes * max(1, job.tasks_per_node))
        if "nodes" not in self.options and job.tasks_per_node:
            job.min_nodes = max(job.min_nodes, -(-job.tasks // job.tasks_per_node))
        job.cpus_per_node = job.cpus_per_task * (job.tasks_per_node or -(-job.tasks // job.min_nodes))
        job.gres = self.options.get("gres", "")
        if "gpus-per-node" in self.options:
            job.gres = f"gpu:{self.options['gpus-per-node']}"

    def _memory(self, job: Job) -> None:
        for name, attribute in (("mem", "mem_per_node"), ("mem-per-cpu", "mem_per_cpu")):
            if name in self.options:
                size = megabytes(self.options[name])
                if size is None:
                    raise _invalid(name)
                setattr(job, attribute, size or -1)

    def _signal(self, job: Job) -> None:
        text = self.options.get("signal")
        if text is None:
            return
        flags, colon, rest = text.rpartition(":")
        word, at, seconds = rest.partition("@")
        number = int(word) if word.isdigit() else getattr(signal, f"SIG{word.upper().removeprefix('SIG')}", 0)
        if not number or (colon and flags.upper().strip("BR")) or (at and not seconds.isdigit()):
            raise _invalid("signal")
        job.warn_signal, job.warn_s, job.warn_batch = int(number), int(seconds) if at else 60, "B" in flags.upper()

    def environment(self) -> bytes:
        """The job's environment before Slurm's own variables."""
        words = self.options.get("export", "ALL").split(",")
        chosen = {}
        if "ALL" in words:
            chosen = dict(os.environ)
        elif "NONE" in words or "NIL" in words:
            chosen = {name: os.environ[name] for name in ("HOME", "PATH", "USER", "SHELL") if name in os.environ}
        for word in words:
            name, equals, value = word.partition("=")
            if equals:
                chosen[name] = value
            elif name in os.environ:
                chosen[name] = os.environ[name]
        chosen |= {"SLURM_SUBMIT_DIR": os.getcwd(), "SLURM_SUBMIT_HOST": os.uname().nodename}  # noqa: PTH109
        return "\0".join(f"{name}={value}" for name, value in chosen.items()).encode(errors="surrogateescape")


def _absolute(path: str) -> str:
    return path if path.startswith("/") else os.path.normpath(os.path.join(os.getcwd(), path))  # noqa: PTH109, PTH118


def _invalid(name: str, value: str = "") -> Reply:
    if name in {"time", "mem", "mem-per-cpu", "signal", "array", "begin"}:
        return Reply(255, err=f"sbatch: error: Invalid --{name} specification\n")
    return Reply(255, err=f'sbatch: error: Invalid numeric value "{value}" for --{name}.\n')


def _begin(text: str) -> float:
    """Only ``now`` and ``now+N[unit]``."""
    units = {"": 1, "seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
    number = text.removeprefix("now").removeprefix("+")
    digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
    if not text.startswith("now") or not (digits.isdigit() or not digits) or number[len(digits) :] not in units:
        raise _invalid("begin")
    return -float(int(digits or 0) * units[number[len(digits) :]])  # negative: from the controller's own now


def indices(text: str) -> list[int]:
    """Indices of ``--array``: ``0-4``, ``1,3,7``, ``0-8:2``, with ``%N`` at the end."""
    chosen: set[int] = set()
    for part in text.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        low, dash, high = span.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()) or (step and not step.isdigit()):
            raise Reply(1, err="sbatch: error: Batch job submission failed: Invalid job array specification\n")
        chosen.update(range(int(low), int(high or low) + 1, int(step or 1)))
    return sorted(chosen)


def submit(folder: Folder, locked: Locked, submission: Submission, refusal: Reply | None = None) -> Reply:
    """Queue the job, unless a test wants it to be refused; the state is written before its id is printed."""
    state = locked.state
    pattern = submission.job()
    array = indices(submission.options["array"]) if "array" in submission.options else []
    admission.check(state, pattern, submission.options, array)
    number = state.next_id
    pattern.submit = state.stamp
    pattern.eligible = state.now - pattern.eligible if pattern.eligible < 0 else state.now
    _spool(folder, number, submission.script, submission.environment())
    for offset, index in enumerate(array or [0]):
        job = Job({**pattern.__dict__, "id": number + offset, "array_id": number if array else 0, "array_index": index})
        state.jobs[job.id] = job.__dict__
    state.next_id = number + max(1, len(array))
    refusal = refusal or admission.refuse(state, pattern)
    if refusal:
        # as a real one does: the record stays, under the name of the job that was refused
        state.jobs[number].update(state="FAILED", reason="BadConstraints", exit_code=1)
        state.jobs[number].update(start=state.stamp, end=state.stamp, ended=state.now)
        return refusal
    tick(folder, locked)
    return Reply(0, f"{number}\n" if submission.parsable else f"Submitted batch job {number}\n")


def _spool(folder: Folder, number: int, script: bytes, environment: bytes) -> None:
    where = folder.job_folder(number)
    os.makedirs(where, exist_ok=True)  # noqa: PTH103
    with open(f"{where}/environment", "wb") as stream:  # noqa: PTH123
        stream.write(environment)
    with open(f"{where}/slurm_script", "wb") as stream:  # noqa: PTH123
        stream.write(script)
    os.chmod(f"{where}/slurm_script", 0o700)  # noqa: PTH101
