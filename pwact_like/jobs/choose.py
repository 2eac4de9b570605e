"""Which scheduler a campaign uses: decided once, remembered, never switched."""

from __future__ import annotations

import shutil
from pathlib import Path

from pwact_like.errors import InputError, NotAvailableError, Problem, SchedulerError
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.slurm import SlurmScheduler
from pwact_like.jobs.slurm_commands import SlurmCommands, missing_programs
from pwact_like.jobs.types import Scheduler

_PING_TIMEOUT_S = 20.0
SCHEDULER_META = "scheduler"


def choose_scheduler(resource_scheduler: str, journal: Journal, state_dir: Path, slurm_timeout_s: float = 60.0) -> Scheduler:
    """Return the campaign's scheduler.

    Parameters
    ----------
    resource_scheduler
        ``scheduler`` of resource.json: ``local``, ``slurm`` or ``auto`` (slurm where sbatch is on PATH and its
        controller answers, local where there is no sbatch).
    journal
        Remembers the decision.
    state_dir
        Holds the folder of the jobs.
    slurm_timeout_s
        After so many seconds a command of Slurm is given up.

    Raises
    ------
    SchedulerError
        When sbatch is there and its controller does not answer: nobody can tell whether a cluster is meant.
    NotAvailableError
        For slurm, when its commands are not on PATH.
    InputError
        When the campaign was begun with another scheduler: its jobs may still run there.
    """
    before = journal.meta(SCHEDULER_META)
    if before is not None and resource_scheduler not in ("auto", before):
        raise InputError(
            Problem(
                "resource.json: scheduler",
                f"this campaign was begun with {before!r} and cannot change to {resource_scheduler!r}: its jobs may still run there",
                f'write "scheduler": "{before}", or begin a campaign in another work_dir',
            )
        )
    name = before or detect(resource_scheduler)
    scheduler = open_scheduler(name, state_dir, slurm_timeout_s)
    if name == "slurm":
        journal.settle()  # local jobs know their folder themselves
    if before is None:
        with journal.transaction() as writer:
            writer.set_meta(SCHEDULER_META, name)
            writer.event("scheduler", f"{name}, from {resource_scheduler!r} in resource.json")
    return scheduler


def open_scheduler(name: str, state_dir: Path, slurm_timeout_s: float = 60.0) -> Scheduler:
    """The scheduler of this name, for the jobs of a state folder.

    Raises
    ------
    NotAvailableError
        For slurm, when its commands are not on PATH.
    InputError
        For a name that is not known.
    """
    if name == "local":
        return LocalScheduler(state_dir / "jobs")
    if name == "slurm":
        missing = missing_programs()
        if missing:
            raise NotAvailableError(
                f"Slurm's {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on PATH: start on a machine from which jobs "
                'are submitted (a login node), or write "scheduler": "local" into resource.json to run on this machine'
            )
        return SlurmScheduler(slurm_timeout_s)
    raise InputError(Problem("resource.json: scheduler", f"{name!r} is not known", "write auto, local or slurm"))


def detect(resource_scheduler: str) -> str:
    """``local`` or ``slurm``: what ``auto`` means here; other names stay as they are.

    Raises
    ------
    SchedulerError
        When sbatch is there and its controller does not answer.
    """
    return _detect() if resource_scheduler == "auto" else resource_scheduler


def _detect() -> str:
    if shutil.which("sbatch") is None:
        return "local"
    ping = SlurmCommands(_PING_TIMEOUT_S).run("scontrol", "ping")
    if ping.ok and " is UP" in ping.out:
        return "slurm"
    raise SchedulerError(
        f'sbatch is on PATH, but "scontrol ping" says that its controller does not answer ({ping.words}): start again when it does, or '
        f'write "scheduler": "local" into resource.json to run on this machine'
    )
