"""Which scheduler a campaign uses: decided once, remembered, never switched."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pwact_like.errors import InputError, NotAvailableError, Problem, SchedulerError
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.types import Scheduler

_PING_TIMEOUT_S = 20.0
_META = "scheduler"


def choose_scheduler(resource_scheduler: str, journal: Journal, state_dir: Path) -> Scheduler:
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

    Raises
    ------
    NotAvailableError
        For slurm, which this version does not drive.
    SchedulerError
        When sbatch is there and its controller does not answer: nobody can tell whether a cluster is meant.
    InputError
        When the campaign was begun with another scheduler: its jobs may still run there.
    """
    before = journal.meta(_META)
    if before is not None and resource_scheduler not in ("auto", before):
        raise InputError(
            Problem(
                "resource.json: scheduler",
                f"this campaign was begun with {before!r} and cannot change to {resource_scheduler!r}: its jobs may still run there",
                f'write "scheduler": "{before}", or begin a campaign in another work_dir',
            )
        )
    name = before or (_detect() if resource_scheduler == "auto" else resource_scheduler)
    if name == "slurm":
        raise NotAvailableError(
            'Slurm is not driven by this version of pwact_like; write "scheduler": "local" into resource.json to run on this machine'
        )
    if name != "local":
        raise InputError(Problem("resource.json: scheduler", f"{name!r} is not known", "write auto, local or slurm"))
    if before is None:
        with journal.transaction() as writer:
            writer.set_meta(_META, name)
            writer.event("scheduler", f"{name}, from {resource_scheduler!r} in resource.json")
    return LocalScheduler(state_dir / "jobs")


def _detect() -> str:
    if shutil.which("sbatch") is None:
        return "local"
    try:
        ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=_PING_TIMEOUT_S, check=False)
        answers, said = ping.returncode == 0 and " is UP" in ping.stdout, (ping.stdout + ping.stderr).strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        answers, said = False, str(error)
    if answers:
        return "slurm"
    raise SchedulerError(
        f'sbatch is on PATH, but "scontrol ping" says that its controller does not answer ({said}): start again when it does, or write '
        f'"scheduler": "local" into resource.json to run on this machine'
    )
