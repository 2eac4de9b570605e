"""Go back to an earlier stage of a campaign: its results and all later ones are moved aside, and `run` makes them anew.

Stages: train, explore, select, label. With `--to 2:explore` the exploration of iteration 2 and everything after it move
into WORK_DIR/rewound/TIME/, with their paths below the campaign's folder; nothing is deleted, and dataset/ stays. Jobs in
flight of these stages are ended. What will be moved is shown first, and you are asked (without a terminal: --yes).

An interrupted rewind is completed by giving the same command again; until then `run` refuses to start. A running
master must be ended first, with Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pwact_like.workflows.rewind import Rewind


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--to", required=True, metavar="ITER:STAGE", help="the first stage to make anew; a number alone means its training")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--work-dir", type=Path, default=Path(), metavar="DIR", help="folder of the campaign (default: this folder)")


def run(args: argparse.Namespace) -> int:
    """Show what will be moved, ask, and move it."""
    from pwact_like.errors import InputError, Problem
    from pwact_like.workflows.rewind import open_rewind

    work_dir = args.work_dir.resolve()
    with open_rewind(work_dir, args.to) as rewind:
        _show(rewind)
        if not args.yes and not rewind.is_half_done:
            if not sys.stdin.isatty():
                raise InputError(Problem("--yes", "there is no terminal to ask on, so nothing was moved", "give --yes to move it unasked"))
            if not _agrees():
                print("nothing was moved")
                return 0
        rewind.carry_out()
    print(f"moved to {work_dir / rewind.plan.aside}; `run`, the same command as before, goes on with {rewind.plan.target}")
    if (work_dir / "final_pwdata").is_dir():
        print("final_pwdata stays as it was gathered: gather again once new labels are there")
    return 0


def _show(rewind: Rewind) -> None:
    if rewind.is_half_done:
        print(f"{rewind.work_dir}: completing the rewind to {rewind.plan.target} that was interrupted; still to be moved:")
    else:
        print(f"{rewind.work_dir}: back to {rewind.plan.target}; to be moved into {rewind.plan.aside}:")
    contents = rewind.contents()
    width = max((len(content.path) for content in contents), default=0)
    for content in contents:
        print(f"  {content.path:<{width}}  {_size(content.size_bytes):>9}  {content.files} files")
    if not contents:
        print("  (nothing more)")
    if rewind.jobs:
        print(f"jobs in flight that are ended: {len(rewind.jobs)}")
        for name in rewind.jobs:
            print(f"  {name}")


def _agrees() -> bool:
    try:
        return input("Go on? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        print()
        return False


def _size(size_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
