"""Let tasks that failed for good begin anew at the next start, their cause mended.

Without TASK: every failed task of a stage that is not finished, those that their engine rejected too. Each gets its
full number of attempts again; the folders of its earlier attempts stay. A stage that was finished without a task
(within the failure budget) is never rewritten: that takes `rewind`.

Nothing is started: give the same command as before (run, init_bulk) afterwards. A running master must be ended first,
with Ctrl-C or SIGTERM; its jobs stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", help="name of a task, a part of it that no other has, or a path of its folder (default: all)"
    )
    parser.add_argument(
        "--workflow",
        type=lambda text: text.lower().replace("-", "_"),
        choices=["init_bulk", "run"],
        help="which workflow (default: the one that moved last)",
    )
    parser.add_argument("--work-dir", type=Path, default=Path(), metavar="DIR", help="folder of the campaign (default: this folder)")


def run(args: argparse.Namespace) -> int:
    """Note the tasks, and say which."""
    from pwact_like.report.status import read_status
    from pwact_like.workflows.retry import retry

    work_dir = args.work_dir.resolve()
    workflow = args.workflow or read_status(work_dir)["workflow"]
    retried = retry(work_dir, workflow, args.tasks, Path.cwd())
    if retried.tasks:
        what = "1 task begins" if len(retried.tasks) == 1 else f"{len(retried.tasks)} tasks begin"
        print(f"{what} anew at the next start of {workflow} (the same command as before):")
    else:
        print(f"{work_dir}: nothing to try again: no task of an unfinished stage of {workflow} has failed")
    for task in retried.tasks:
        print(f"  {task.name}: attempt {task.attempts} failed: {task.reason}")
    if retried.out_of_reach:
        print(f"left alone, their stages were finished without them (name one to see the cure): {len(retried.out_of_reach)} failed tasks")
    return 0
