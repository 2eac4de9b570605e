"""Convert labelled data between formats, and split them into training and validation data.

    pwact-like to_pwdata -i MOVEMENT OUTCAR -s PWdata
    pwact-like to_pwdata -i run1/OUTCAR run2/OUTCAR -f vasp/outcar --out-format extxyz -m -o 0.9

SAVEPATH gets a folder for each input (its name, and for names that stand twice its folder's name before it), with
train and valid in it; with --merge SAVEPATH itself has train and valid of all inputs together. Formats npy make one
folder a composition in each; extxyz makes train/train.xyz and valid/valid.xyz.
Frames that are no labels (SCF not converged, no forces) are left out and named. Values keep every digit of the source;
energy is the free energy in eV, the virial is -V*stress in eV (positive under compression).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.data.formats.detect import FORMATS
from pwact_like.errors import DataError, InputError, Problem

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame

_OUT_FORMATS = ("pwmlff/npy", "deepmd/npy", "extxyz")


def _truth(text: str) -> bool:
    """True or False in any of the spellings that people use."""
    lowered = text.strip().lower()
    if lowered in ("true", "t", "yes", "1", "on"):
        return True
    if lowered in ("false", "f", "no", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"True or False is expected, not {text!r}")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    known = "\n".join(f"  {name:<15} {text}" for name, text in FORMATS.items())
    parser.epilog = f"input formats:\n{known}\n  any other name is taken as one of ASE's formats"
    parser.add_argument("-i", "--input", nargs="+", required=True, type=Path, metavar="FILE", help="files or folders to read")
    parser.add_argument("-f", "--format", default=None, help="their format (default: recognised from each file)")
    parser.add_argument("-s", "--savepath", type=Path, default=Path("PWdata"), help="where to write (default: PWdata)")
    parser.add_argument(
        "-o", "--train_ratio", "--train-ratio", type=float, default=0.8, help="share of training data (default: 0.8; 1: no valid)"
    )
    parser.add_argument(
        "-r", "--train_random", "--shuffle", type=_truth, nargs="?", const=True, default=True, metavar="BOOL",
        help="draw training data at random (default: True); False: the first frames train, the last are valid",
    )  # fmt: skip
    parser.add_argument(
        "-m",
        "--merge",
        type=_truth,
        nargs="?",
        const=True,
        default=False,
        metavar="BOOL",
        help="put all inputs into one data set (default: False)",
    )
    parser.add_argument("-g", "--gap", type=int, default=1, help="take every GAP-th frame of each input (default: 1)")
    parser.add_argument("--out-format", choices=_OUT_FORMATS, default="pwmlff/npy", help="what to write (default: pwmlff/npy)")
    parser.add_argument("--seed", type=int, default=2024, help="seed of the random draw (default: 2024)")
    parser.add_argument("--virial-sign", type=int, choices=(1, -1), default=1, help="-1 flips the virial of sources with the opposite sign")
    parser.add_argument("-t", "--atom-types", nargs="+", metavar="ELEMENT", help="elements of LAMMPS's types 1, 2, … where a file has none")
    parser.add_argument("--truncated-ok", action="store_true", help="take files that end too early for what they have")


def _check(args: argparse.Namespace) -> None:
    problems = []
    if not 0.0 < args.train_ratio <= 1.0:
        problems.append(Problem("-o", f"the share of training data must be above 0 and at most 1, not {args.train_ratio}"))
    if args.gap < 1:
        problems.append(Problem("-g", f"the gap must be 1 or more, not {args.gap}"))
    problems += [Problem(str(path), "there is no such file or folder") for path in args.input if not path.exists()]
    if args.savepath.exists() and (not args.savepath.is_dir() or any(args.savepath.iterdir())):
        problems.append(Problem(str(args.savepath), "exists already and is not an empty folder", "name another one with -s, or remove it"))
    if problems:
        raise InputError(problems)


def _names(paths: Sequence[Path]) -> list[str]:
    """A folder name for each input; with their own folder's name, then a number, where they are the same."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}_{path.resolve().name}" for path in paths]
    seen: dict[str, int] = {}
    result = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        result.append(f"{name}_{count}" if count else name)
    return result


def _write(folder: Path, frames: list[Frame], args: argparse.Namespace) -> tuple[int, int]:
    """Split and write one data set; returns the numbers of frames in train and valid."""
    from pwact_like.data.dataset import split
    from pwact_like.data.formats import write_frames

    if args.train_ratio >= 1.0:
        train, valid = frames, []
    elif args.train_random:
        train, valid = split(frames, 1.0 - args.train_ratio, args.seed)
    else:
        count = len(frames) if len(frames) == 1 else min(max(round(len(frames) * args.train_ratio), 1), len(frames) - 1)
        train, valid = frames[:count], frames[count:]
    for name, part in (("train", train), ("valid", valid)):
        if part:
            target = folder / name / f"{name}.xyz" if args.out_format == "extxyz" else folder / name
            write_frames(target, part, args.out_format)
    return len(train), len(valid)


def run(args: argparse.Namespace) -> int:
    """Read every input first, then write: a broken one leaves nothing half-written."""
    from pwact_like.data.checks import virial_sign_warning
    from pwact_like.data.formats import read_labelled

    _check(args)
    groups: list[list[Frame]] = []
    failed: list[str] = []
    for path in args.input:
        try:
            result = read_labelled(
                path, args.format, virial_sign=args.virial_sign, elements=args.atom_types, truncated_ok=args.truncated_ok
            )
        except DataError as error:
            failed.append(str(error))
            continue
        for index, reason in result.rejected:
            print(f"{path}: frame {index} left out: {reason}", file=sys.stderr)
        if not result.frames:
            failed.append(f"{path}: no labelled frame in it")
            continue
        warning = virial_sign_warning(result.frames)
        if warning:
            print(f"{path}: {warning} (here: --virial-sign -1)", file=sys.stderr)
        groups.append(result.frames[:: args.gap])
    if failed:
        raise DataError("\n".join(failed) + "\nnothing was written")
    if args.merge:
        groups, folders = [[frame for group in groups for frame in group]], [args.savepath]
    else:
        folders = [args.savepath / name for name in _names(args.input)]
    for folder, frames in zip(folders, groups, strict=True):
        train, valid = _write(folder, frames, args)
        print(f"{folder}: {train} frames in train, {valid} in valid ({args.out_format})")
    return 0
