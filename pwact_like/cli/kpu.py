"""Kalman prediction uncertainty (KPU) of every frame of trajectories, in PWact's format.

  pwact-like kpu -m model.pt -c traj.lammpstrj -s kpu_model_devi.out
  pwact-like kpu -m model.pt -c md.xyz --calibrated -s sigma.out

The model's kpu.pt must lie beside it (`pwact-like train` leaves it when TRAIN.json has "uncertainty"), or be given with
--kpu. Columns: step, KPU of the energy an atom, and of the forces the mean, largest and smallest over the atoms of the mean
over x, y, z. These are variances without a scale. --calibrated writes the uncertainty of the forces in eV/Angstrom instead
(a deviation table: the largest over the atoms is what `run` compares with its levels).

Several trajectories are written one after the other; steps then count the frames of all. KPU comes from the draws in
kpu.pt, as in MD; --exact takes the covariance, if the training kept it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.errors import DataError, InputError, Problem

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-m", "--model", type=Path, required=True, metavar="MODEL", help="model file")
    parser.add_argument("-c", "--config", type=Path, nargs="+", required=True, metavar="TRAJ", help="trajectories or structures")
    parser.add_argument("-f", "--format", help="their format, as to_pwdata knows it (default: found out)")
    parser.add_argument("-a", "--atom-types", nargs="+", metavar="EL", help="elements of LAMMPS types 1, 2, … of a dump that names none")
    parser.add_argument("-s", "--save", type=Path, default=Path("kpu_model_devi.out"), metavar="OUT", help="default: %(default)s")
    parser.add_argument("--kpu", type=Path, metavar="FILE", help="the model's kpu.pt (default: the one beside it)")
    parser.add_argument("--exact", action="store_true", help="exact, from the covariance in kpu.pt")
    parser.add_argument("--calibrated", action="store_true", help="uncertainty of the forces in eV/Å instead of the variances")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """Compute and write."""
    if not args.model.is_file():
        raise InputError(Problem("-m", f"{args.model} is no file", "give a model.pt"))
    from pwact_like.fsio import write_through, writing_problems

    problems = [Problem("-c", f"{path} is not there") for path in args.config if not path.exists()]
    problems += writing_problems(args.save, "-s")
    if problems:
        raise InputError(problems)
    from pwact_like.potentials.committee import Committee
    from pwact_like.potentials.judging import methods_of

    (method,) = methods_of([args.model], args.kpu or args.model.parent / "kpu.pt", exact=args.exact)
    committee, aware = Committee(method.models, args.device), method.aware
    assert aware is not None
    count = 0

    def rows() -> Iterator[tuple[int, str, Frame]]:
        for path in args.config:
            for index, (step, frame) in enumerate(_frames(path, args)):
                yield step, f"{path}: frame {index}", frame

    def write(temporary: Path) -> None:
        nonlocal count
        from pwact_like.uncertainty.table import TableWriter

        with TableWriter(temporary, kind="kpu") if args.calibrated else temporary.open("w", encoding="ascii") as out:
            if not isinstance(out, TableWriter):
                out.write("# step etot_kpu f_kpu_mean f_kpu_max f_kpu_min\n")
            for step, where, frame in rows():
                number = count if len(args.config) > 1 else step
                count += 1
                try:
                    found = aware.variances(committee.geometry(frame.atoms))
                except DataError as error:
                    raise DataError(f"{where}: {error}") from error
                if isinstance(out, TableWriter):
                    sigma = aware.calibration.sigma(found.force)
                    out.append(number, (float(sigma.max()), float(sigma.min()), float(sigma.mean())))
                else:
                    force = found.force / 3.0
                    out.write(f"{number:d} {found.energy:.6e} {force.mean():.6e} {force.max():.6e} {force.min():.6e}\n")

    write_through(args.save, write)
    print(f"{args.save}: {count} frames")
    if not count:
        print("pwact-like kpu: no frame was found", file=sys.stderr)
    return 0


def _frames(path: Path, args: argparse.Namespace) -> Iterator[tuple[int, Frame]]:
    """Frames with their MD steps where the file tells them, else their numbers."""
    from pwact_like.data.formats import iter_frames

    for index, frame in enumerate(iter_frames(path, args.format, elements=args.atom_types)):
        step = frame.origin.step if frame.origin is not None and frame.origin.step is not None and frame.origin.step >= 0 else index
        yield int(step), frame
