"""Say what happened to a task, attempt by attempt: jobs and their ids, nodes, causes, and the paths to look at.

TASK is its name (iter.0000/02.label/scf/…), a part of it that no other has, or a path of its folder or anything in it.
The master is not disturbed.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("task", metavar="TASK", help="name, part of a name, or path")
    parser.add_argument(
        "workflow",
        nargs="?",
        type=lambda text: text.lower().replace("-", "_"),
        choices=["init_bulk", "run"],
        help="which workflow (default: wherever the task is)",
    )
    parser.add_argument("--work-dir", type=Path, default=Path(), help="folder of the campaign (default: the current folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the story."""
    from pwact_like.report.explain import explain_json, explain_text, find_task

    found = find_task(args.work_dir.resolve(), args.task, args.workflow)
    print(explain_json(found) if args.json else explain_text(found))
    return 0
