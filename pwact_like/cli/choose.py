"""Choose frames that differ from each other, and from what is known, out of trajectories.

Two ways to call it:

  pwact-like choose choose.json
      does the job of a campaign's task folder, there: select.xyz and select_idx.dat appear.

  pwact-like choose TRAJ... -n 50 -o select.xyz
      by hand; TRAJ is any file with structures. The frames of all files are numbered from 0, one file after the other.

For instance:
  pwact-like choose md.xyz -n 50 --method direct -o select.xyz
  pwact-like choose md.xyz more.xyz -n 50 --method entropy --known train.xyz -o select.xyz
  pwact-like choose md.xyz -n 50 --model model.pt --known train.xyz -o select.xyz

Nothing in it is random: the same input gives the same frames.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pwact_like.errors import InputError, Problem


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", type=Path, nargs="+", metavar="CHOOSE.json|TRAJ", help="a job file, or files with structures")
    parser.add_argument("-n", "--count", type=int, metavar="N", help="how many frames (with trajectories; required)")
    parser.add_argument(
        "--method", choices=("direct", "fps", "entropy"), default="fps", help="clusters, farthest points, or entropy (default: fps)"
    )
    parser.add_argument("--model", type=Path, metavar="MODEL", help="take this embedded model's descriptors (default: SOAP)")
    parser.add_argument("--known", type=Path, nargs="+", default=[], metavar="DATA", help="choose what differs from these (fps, entropy)")
    parser.add_argument("--format", help="format of TRAJ, as to_pwdata knows it (default: guessed)")
    parser.add_argument("--every", type=int, default=1, metavar="M", help="look at every M-th frame only (default: 1)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.xyz", help="chosen frames, extxyz (with trajectories; required)")
    parser.add_argument("--indices", type=Path, metavar="FILE", help="write the frames' numbers too, one a line")


def run(args: argparse.Namespace) -> int:
    """Do a job file's work, or choose from files."""
    from pwact_like.engines.choosers.choose_run import run_choice_file

    if len(args.source) == 1 and args.source[0].suffix.lower() == ".json":
        if args.count is not None or args.output is not None:
            raise InputError(Problem(str(args.source[0]), "a job file says everything itself: -n and -o cannot be given with it"))
        print(f"{args.source[0]}: {len(run_choice_file(args.source[0]))} frames chosen")
        return 0
    return _by_hand(args)


def _by_hand(args: argparse.Namespace) -> int:
    problems = [
        Problem("pwact-like choose", f"{name} missing", "see pwact-like choose -h")
        for name, value in (("-n N", args.count), ("-o OUT.xyz", args.output))
        if value is None
    ]
    problems += [Problem(f"{name}", "a number above 0 is wanted") for name in ("count", "every") if (getattr(args, name) or 1) < 1]
    problems += [Problem(str(path), "there is no such file") for path in [*args.source, *args.known] if not path.exists()]
    if args.model is not None and not args.model.is_file():
        problems.append(Problem("--model", f"{args.model} is no file", "give a model.pt"))
    if args.known and args.method == "direct":
        problems.append(Problem("--known", "DIRECT does not look at what is known", "use --method fps or entropy"))
    if args.output is not None and args.output.exists() and any(args.output.samefile(path) for path in args.source if path.exists()):
        problems.append(Problem(str(args.output), "the choice would replace what it is made from", "name another file with -o"))
    if problems:
        raise InputError(problems)
    from pwact_like.data.formats import read_frames, write_frames
    from pwact_like.engines.choosers.choose_run import choose_frames
    from pwact_like.fsio import write_text

    frames = [frame for path in args.source for frame in read_frames(path, args.format)]
    known = [frame for path in args.known for frame in read_frames(path)]
    places = range(0, len(frames), args.every)
    chosen = choose_frames(args.method, [frames[place] for place in places], args.count, known=known, model=args.model)
    numbers = [places[index] for index in chosen]
    write_frames(args.output, [frames[number] for number in numbers], "extxyz")
    if args.indices is not None:
        write_text(args.indices, "".join(f"{number}\n" for number in numbers))
    print(f"{args.output}: {len(numbers)} of {len(frames)} frames, in the order of their choice")
    return 0
