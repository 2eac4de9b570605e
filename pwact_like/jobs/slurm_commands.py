"""Run Slurm's commands: a time-out for each, no surprises from the environment, and no interpretation of what they say.

What the user's shell (or the job that the master itself is) has set would change what the commands do: SBATCH_REQUEUE or
SBATCH_PARTITION outrank the script's own lines, SQUEUE_STATES hides jobs, SCANCEL_INTERACTIVE waits for an answer, and
SLURM_MEM_PER_NODE of an enclosing job travels into the new one and contradicts what that asks for (sbatch(1), squeue(1)).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pwact_like.crashpoints import KILL_AT_VARIABLE

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")

_PREFIXES = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SRUN_", "SALLOC_")
# where the cluster is, how to reach it, and a user's standing choices that no line of ours contradicts
_KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_WCKEY"})
# an enclosing job's own share of its node
_OF_THE_JOB = frozenset({"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL", "TMPDIR", "ENVIRONMENT"})
_END_S = 2.0


@dataclass(frozen=True)
class CommandResult:
    """What a command left.

    Attributes
    ----------
    status
        Exit status; None when it did not end in time (it was killed), −N when a signal ended it.
    out, err
        What it printed; bytes that are not UTF-8 survive as surrogates.
    """

    argv: tuple[str, ...]
    status: int | None
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Whether it ended with 0."""
        return self.status == 0

    @property
    def words(self) -> str:
        """One line for a message: what it said, or how it ended."""
        said = " ".join((self.err.strip() or self.out.strip()).split())
        said = said.encode("utf-8", "replace").decode()
        if self.status is None:
            return f"{self.argv[0]} did not answer in time" + f" ({said[:300]})" * bool(said)
        return said[:500] or f"{self.argv[0]} ended with status {self.status} and said nothing"


class SlurmCommands:
    """Runs Slurm's commands.

    Parameters
    ----------
    timeout_s
        A command that has not ended by then is killed.
    """

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.timeout_s = timeout_s

    def run(
        self, program: str, *arguments: str, cwd: Path | None = None, timeout_s: float | None = None, without: Iterable[str] = ()
    ) -> CommandResult:
        """Run ``program arguments``; never raises for what the command does.

        Parameters
        ----------
        without
            Variables that this call must not see.
        """
        argv = (program, *arguments)
        environment = clean_environment(os.environ)
        if program != "sbatch":  # sbatch hands its environment on to the job
            # times as seconds since 1970: no time zone, no locale
            environment |= {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
        for name in without:
            environment.pop(name, None)
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=environment,
                start_new_session=True,  # Ctrl-C on the master's terminal must not end an sbatch half-way
            )
        except OSError as error:
            return CommandResult(argv, 127, "", f"{program}: {error.strerror or error}")
        try:
            out, err = process.communicate(timeout=self.timeout_s if timeout_s is None else timeout_s)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            out, err, status = *_end(process), None
        except BaseException:
            _end(process)
            raise
        return CommandResult(argv, status, _text(out), _text(err))


def missing_programs() -> list[str]:
    """Slurm's commands that are needed and not on PATH."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for Slurm's commands, and with it that of the jobs (sbatch exports it)."""
    in_a_job = "SLURM_JOB_ID" in environment
    # a site may have its users name the cluster so; inside a job it is only that job's
    kept = _KEPT if in_a_job else _KEPT | {"SLURM_CLUSTERS"}
    left_out = _OF_THE_JOB if in_a_job else frozenset()
    return {
        name: value
        for name, value in environment.items()
        if (name in kept or not name.startswith(_PREFIXES)) and name != KILL_AT_VARIABLE and name not in left_out
    }


def _end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Kill a command with all that it started; returns what it had printed."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    try:
        return process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:  # somebody else holds its pipes
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        return b"", b""


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
