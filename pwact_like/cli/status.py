"""Show where a campaign stands: its state, every iteration's counts and errors, the jobs, the data set."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "workflow",
        nargs="?",
        type=lambda text: text.lower().replace("-", "_"),
        choices=["init_bulk", "run"],
        help="which workflow (default: the one that moved last)",
    )
    parser.add_argument("--work-dir", type=Path, default=Path(), help="folder of the campaign (default: the current folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the status."""
    from pwact_like.report.status import read_status, status_json, status_text

    status = read_status(args.work_dir.resolve(), args.workflow)
    print(status_json(status) if args.json else status_text(status))
    return 0
