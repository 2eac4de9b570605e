"""End a campaign: its master and its jobs, those of this folder and no others.

What was done stays; the same command as before goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

WORKFLOWS = ("init_bulk", "run")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("workflow", type=lambda text: text.lower().replace("-", "_"), choices=WORKFLOWS, help="which workflow to end")
    parser.add_argument(
        "--work-dir", type=Path, default=Path(), metavar="DIR", help="the campaign's folder (work_dir of param.json; default: this folder)"
    )


def run(args: argparse.Namespace) -> int:
    """End it, and say what was ended."""
    from pwact_like.jobs.kill import kill_campaign

    work_dir = args.work_dir.resolve()
    state_dir = work_dir / ".pwact_like" / args.workflow
    if not state_dir.is_dir():
        print(f"{work_dir}: no {args.workflow} was ever started here (nothing to end)")
        return 0
    killed = kill_campaign(state_dir, master_job=_master_job(state_dir))
    if killed.master is None:
        print(f"{work_dir}: no master of {args.workflow} runs")
    else:
        print(f"{work_dir}: ended the master of {args.workflow}, pid {killed.master}" + " (by force)" * killed.forced)
    print(f"ended {len(killed.jobs)} job{'s' * (len(killed.jobs) != 1)}" + ":" * bool(killed.jobs))
    for number, name in killed.jobs:
        print(f"  {name}" if number == name else f"  {number}  {name}")
    if killed.failure:
        print(killed.failure, file=sys.stderr)
        return 1
    return 0


def _master_job(state_dir: Path) -> str:
    """Slurm's id of the job that the master is, as its status says."""
    from pwact_like.errors import DataError
    from pwact_like.fsio import read_json

    try:
        return str(read_json(state_dir / "status.json").get("slurm_job") or "")
    except (DataError, OSError, AttributeError):
        return ""  # a hint, no more: without it jobs are ended all the same
