"""Apply other trust levels to an exploration that was done, and see how its frames would fall.

MD_DIR is an iteration's exploration (iter.NNNN/01.explore, or its md folder). With -s the lists accurate.csv,
candidate.csv, fail.csv and select_summary.txt are written into MD_DIR/filter; the campaign itself is never touched.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("-i", "--input", "--md-dir", dest="md_dir", type=Path, required=True, metavar="MD_DIR", help="exploration folder")
    parser.add_argument("-l", "--lower", type=float, required=True, help="lower trust level, eV/Å")
    parser.add_argument("-u", "--upper", type=float, required=True, help="upper trust level, eV/Å")
    parser.add_argument("-s", "--save", action="store_true", help="write the csv files and select_summary.txt")


def run(args: argparse.Namespace) -> int:
    """Print the summary, and save it on request."""
    from pwact_like.stages.refilter import refilter

    text, saved = refilter(args.md_dir.resolve(), args.lower, args.upper, save=args.save)
    print(text, end="")
    if saved:
        print(f"written to {saved}")
    return 0
