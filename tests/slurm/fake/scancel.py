"""scancel."""

from __future__ import annotations

import os
import signal
import sys

from fake import actions, controller, processes
from fake.options import Reply, Table
from fake.squeue import SHORT
from fake.store import Folder, Job, State

TABLE = Table(
    "scancel",
    "account=/A batch/b ctld full/f interactive/i me name=/n nodelist=/w partition=/p qos=/q quiet/Q signal=/s state=/t user=/u "
    "hurry/H version/V",
)


def ids_of(argv: list[str]) -> list[str]:
    """The ids in a call, checked; for those who know that the controller is away, too."""
    options, ids = TABLE.parse(argv)
    for word in ids:
        if not word.replace("_", "", 1).isdigit():
            raise Reply(1, err=f"scancel: error: Invalid job id {word}\n")
    if not ids and not {name for name, _ in options} & {"account", "me", "name", "nodelist", "partition", "qos", "state", "user"}:
        raise Reply(1, err="scancel: error: No job identification provided\n")
    return ids


def by_ids_alone(argv: list[str]) -> bool:
    """Whether it can do without asking for the jobs first."""
    options, _ = TABLE.parse(argv)
    return not {name for name, _ in options} & {"account", "me", "name", "nodelist", "partition", "qos", "state", "user"}


def scancel(folder: Folder, state: State, argv: list[str]) -> Reply:
    """End or signal jobs; unknown and ended ones are passed over in silence."""
    ids = ids_of(argv)
    options = dict(TABLE.parse(argv)[0])
    number = signal.SIGKILL
    if "signal" in options:
        word = options["signal"].upper().removeprefix("SIG")
        number = int(word) if word.isdigit() else getattr(signal, f"SIG{word}", 0)
        if not number:
            raise Reply(1, err=f"scancel: error: Unknown job signal: {options['signal']}\n")
    me = {str(os.getuid())}
    users = me if "me" in options else set(options["user"].split(",")) if "user" in options else None
    for job in state.all_jobs():
        if (
            job.live
            and (not ids or {str(job.id), str(job.array_id or job.id), f"{job.array_id}_{job.array_index}"} & set(ids))
            and ("name" not in options or job.name in options["name"].split(","))
            and (users is None or job.user in users or str(job.uid) in users)
            and ("state" not in options or job.state in {options["state"].upper(), _long(options["state"])})
            and ("partition" not in options or job.partition in options["partition"].split(","))
            and ("account" not in options or job.account == options["account"])
            and ("qos" not in options or job.qos == options["qos"])
            and ("nodelist" not in options or set(job.nodes) & set(options["nodelist"].split(",")))
        ):
            if ("interactive" in options or "SCANCEL_INTERACTIVE" in os.environ) and not _confirmed(job):
                continue
            _end(folder, state, job, number, options)
    return Reply(0)


def _long(word: str) -> str:
    return next((name for name, short in SHORT.items() if short == word.upper()), "")


def _confirmed(job: Job) -> bool:
    sys.stdout.write(f"Cancel job_id={job.id} name={job.name} partition={job.partition} [y/n]? ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower().startswith("y")


def _end(folder: Folder, state: State, job: Job, number: int, options: dict[str, str]) -> None:
    if job.uid != os.getuid():
        raise Reply(1, err=f"scancel: error: Kill job error on job id {job.id}: Access/permission denied\n")
    if number == signal.SIGKILL and not {"batch", "full"} & set(options):
        actions.cancel_job(folder, state, job)
    elif job.state == "RUNNING" and not job.completing and {"batch", "full"} & set(options):
        # without --batch or --full a signal is for job steps, and there are none
        processes.signal_run(folder, job.id, job.run, number, controller.spare(state), batch_only="batch" in options)
