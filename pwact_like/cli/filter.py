"""Apply other trust levels to an exploration that was done, and see how its frames would fall.

MD_DIR is an iteration's exploration (iter.NNNN/01.explore, or its md folder). With -s the lists accurate.csv,
candidate.csv, fail.csv and select_summary.txt are written into MD_DIR/filter; the campaign itself is never touched.

--suggest proposes levels instead, from pairs of predicted uncertainty and true error: those of the iteration's own labels
(its models are asked again, so they must be there), or, with --pairs, those that `eval --uncertainty` has saved. It tells
the error to expect among the frames that would be called accurate. --tolerance is the largest force error in a frame that
you accept; without it the level is where the frames stop being like those of the validation set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pwact_like.errors import InputError, Problem


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("-i", "--input", "--md-dir", dest="md_dir", type=Path, required=True, metavar="MD_DIR", help="exploration folder")
    parser.add_argument("-l", "--lower", type=float, help="lower trust level, eV/Å")
    parser.add_argument("-u", "--upper", type=float, help="upper trust level, eV/Å")
    parser.add_argument("--suggest", action="store_true", help="propose levels (and, with -l and -u, say what those are worth)")
    parser.add_argument("--tolerance", type=float, metavar="ERROR", help="--suggest: largest force error to accept, eV/Å")
    parser.add_argument("--pairs", type=Path, metavar="FILE.npz", help="--suggest: pairs that eval --uncertainty saved")
    parser.add_argument("-s", "--save", action="store_true", help="write the csv files and select_summary.txt")


def run(args: argparse.Namespace) -> int:
    """Print the summary, and save it on request."""
    given = [level is not None for level in (args.lower, args.upper)]
    if any(given) != all(given) or not (all(given) or args.suggest):
        raise InputError(Problem("-l, -u", "both levels are wanted", "give both, or --suggest"))
    if args.suggest:
        from pwact_like.stages.suggesting import suggest

        print(suggest(args.md_dir.resolve(), args.tolerance, args.pairs, (args.lower, args.upper) if all(given) else None))
        return 0
    from pwact_like.stages.refilter import refilter

    text, saved = refilter(args.md_dir.resolve(), args.lower, args.upper, save=args.save)
    print(text, end="")
    if saved:
        print(f"written to {saved}")
    return 0
