"""Apply other trust levels to an exploration that was done, and see how its frames would fall.

MD_DIR is an iteration's exploration (iter.NNNN/01.explore, or its md folder). With -s the lists accurate.csv,
candidate.csv, fail.csv and select_summary.txt are written into MD_DIR/filter; the campaign itself is never touched.

Levels are in eV/Angstrom, as the deviation tables are. Where these hold KPU as a variance without unit (kpu_scale
"relative", PWact's own kpu_model_devi.out) both are multiples of each run's own first values, as `status` shows them
(x0.5 x0.75: kpu_lower 0.5, and kpu_upper 1.5 times that); the summary says which it is.

--suggest proposes levels instead, from pairs of predicted uncertainty and true error: those of the iteration's own labels
(its models are asked again, so they must be there), or, with --pairs, those that `eval --uncertainty` has saved. It tells
the error to expect among the frames that would be called accurate. --tolerance is the largest force error in a frame that
you accept; without it the level is where the frames stop being like those of the validation set (of which saved pairs
know nothing). What it proposes is always in eV/Angstrom.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from pwact_like.errors import InputError, Problem


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("-i", "--input", "--md-dir", dest="md_dir", type=Path, required=True, metavar="MD_DIR", help="exploration folder")
    parser.add_argument("-l", "--lower", type=float, help="lower trust level, in the tables' unit (see above)")
    parser.add_argument("-u", "--upper", type=float, help="upper trust level, in the same unit")
    parser.add_argument("--suggest", action="store_true", help="propose levels (and, with -l and -u in eV/Å, say what those are worth)")
    parser.add_argument("--tolerance", type=float, metavar="ERROR", help="--suggest: largest force error to accept, eV/Å")
    parser.add_argument("--pairs", type=Path, metavar="FILE.npz", help="--suggest: pairs that eval --uncertainty saved")
    parser.add_argument("-s", "--save", action="store_true", help="write the csv files and select_summary.txt")


def run(args: argparse.Namespace) -> int:
    """Print the summary, and save it on request."""
    given = [level is not None for level in (args.lower, args.upper)]
    if problems := list(_problems(args, given)):
        raise InputError(problems)
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


def _problems(args: argparse.Namespace, given: Sequence[bool]) -> Iterator[Problem]:
    """What is wrong with the options: none is ignored without a word."""
    if any(given) != all(given) or not (all(given) or args.suggest):
        yield Problem("-l, -u", "both levels are wanted", "give both, or --suggest")
    elif all(given) and not 0.0 < args.lower < args.upper < math.inf:
        yield Problem("-l, -u", f"{args.lower:g} and {args.upper:g}: two finite numbers above 0, the lower one first, are wanted")
    if not args.suggest:
        for name in ("tolerance", "pairs"):
            if getattr(args, name) is not None:
                yield Problem(f"--{name}", "it belongs to --suggest, which is not given", f"add --suggest, or leave --{name} out")
        return
    if args.save:
        yield Problem("-s", "--suggest writes no lists of frames", "give the levels that you take with -l, -u and -s, without --suggest")
    if args.pairs is not None and args.tolerance is None:
        yield Problem(
            "--pairs", "saved pairs do not tell which frames are like the training data", "give the error that you accept: --tolerance"
        )
