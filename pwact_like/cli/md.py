"""Molecular dynamics with a model, or a committee and its deviation along the way.

Two ways to call it:

  pwact-like md md.json [md.json ...]
      does the work of a campaign's task folder, there; a run that was cut off goes on where it was. Several runs with the same
      models share one process and are evaluated together, which pays for small cells; each leaves its files beside its md.json.

  pwact-like md MODEL [MODEL ...] -s STRUCTURE --temp 300 --nsteps 1000
      by hand. The first model drives the atoms; with several, model_devi.out holds their deviation. With --kpu it holds what
      the training of one model has learned of its errors: by itself, or through all its members (kpu-committee).

It leaves traj.xyz (extended XYZ, every frame with its step), model_devi.out (DeePMD-kit's columns), md.log
(temperature, pressure, energies, volume) and md_result.json. A run that goes astray (atoms collide, temperature, cell
or deviation explode) stops and keeps what it has; that is told, and is no error.

Units: K, bar, ps, Angstrom, eV (LAMMPS metal). For instance:
  pwact-like md model.pt -s POSCAR --ensemble nvt --temp 600 --nsteps 5000 -o run600
  pwact-like md iter.0003/00.train/train.*/model.pt -s POSCAR --ensemble npt --press 1 --temp 300 --nsteps 20000
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.errors import InputError, Problem

if TYPE_CHECKING:
    from pwact_like.engines.explorers.md_input import MdInput

# option → key of md.json
_OPTIONS = {
    "ensemble": "ensemble",
    "temp": "temp",
    "nsteps": "nsteps",
    "press": "press",
    "dt": "md_dt",
    "trj_freq": "trj_freq",
    "taut": "taut",
    "taup": "taup",
    "seed": "seed",
    "format": "format",
    "stop_deviation": "stop_deviation",
    "stop_distance": "stop_distance",
    "stop_temp": "stop_temp",
    "stop_volume": "stop_volume",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", nargs="+", metavar="MD.json|MODEL", help="a task's md.json or several, or one or more models")
    parser.add_argument("-s", "--structure", help="start structure, any format (with models; required)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="where the files go (default: the current folder)")
    run = parser.add_argument_group("the run (with models)")
    run.add_argument("--ensemble", help="nve, nvt, npt (= npt-iso), npt-aniso, npt-tri (default: nvt)")
    run.add_argument("--temp", type=float, metavar="K", help="temperature; also of the start velocities (required)")
    run.add_argument("--nsteps", type=int, metavar="N", help="steps (required)")
    run.add_argument("--press", type=float, metavar="BAR", help="pressure, for npt")
    run.add_argument("--dt", type=float, metavar="PS", help="time step (default: 0.001)")
    run.add_argument("--trj-freq", type=int, metavar="N", help="a frame every N steps (default: 10)")
    run.add_argument("--taut", type=float, metavar="PS", help="relaxation time of the thermostat (default: 0.1)")
    run.add_argument("--taup", type=float, metavar="PS", help="relaxation time of the barostat (default: 0.5)")
    run.add_argument("--seed", type=int, metavar="N", help="seed of the start velocities (default: 1)")
    run.add_argument("--free", action="store_true", help="free boundaries instead of periodic ones")
    run.add_argument("--kpu", metavar="FILE", help="kpu.pt of the model's training: the deviation is the calibrated uncertainty")
    run.add_argument("--format", metavar="NAME", help="format of the structure (default: guessed)")
    stop = parser.add_argument_group("when to stop (with models)")
    stop.add_argument("--stop-deviation", type=float, metavar="EV_PER_ANG", help="greatest force deviation (default: never)")
    stop.add_argument("--stop-distance", type=float, metavar="ANG", help="least distance of two atoms (default: 0.5)")
    stop.add_argument("--stop-temp", type=float, metavar="K", help="greatest temperature (default: 10 times --temp, at least 5000)")
    stop.add_argument("--stop-volume", type=float, metavar="RATIO", help="greatest change of the volume, either way (default: 4)")
    stop.add_argument("--every-step", action="store_true", help="compute the committee's deviation at every step, not only at the frames")


def run(args: argparse.Namespace) -> int:
    """Run it."""
    from pwact_like.data.formats import read_structure
    from pwact_like.engines.explorers.dynamics import run_md
    from pwact_like.engines.explorers.kpu_potential import potential_for
    from pwact_like.fsio import writing_problems

    by_hand = not all(name.lower().endswith(".json") for name in args.source)
    if not by_hand and len(args.source) > 1:
        return _several(args)
    if by_hand:
        settings, folder = _by_hand(args), args.output or Path.cwd()
        _refuse_overwriting(folder)
    else:
        settings, folder = _from_file(args), args.output or Path(args.source[0]).resolve().parent
    if problems := writing_problems(folder, "-o", folder=True):
        raise InputError(problems)
    atoms = read_structure(settings.structure, settings.format)
    if by_hand and settings.md.boundary and not atoms.pbc.all():
        print(f"note: {settings.structure} has open directions, and the run takes all three as periodic (--free: none)", file=sys.stderr)
    potential = potential_for(settings.models, settings.uncertainty)
    begin = time.monotonic()
    with _Bar(settings.md.nsteps) as bar:
        result = run_md(atoms, potential, settings, folder, bar.show)
    seconds = time.monotonic() - begin
    print(f"{folder / 'traj.xyz'}: {result.frames} of {result.frames_planned} frames, {result.step} steps, {seconds:.1f} s")
    if potential.kind and result.frames:
        print(_deviation_line(folder))
    if result.ended:
        print(f"ended early, {result.ended}")
    return 0


def _from_file(args: argparse.Namespace) -> MdInput:
    from pwact_like.engines.explorers.md_input import read_md_json

    _refuse_options(args)
    return read_md_json(Path(args.source[0]))


def _several(args: argparse.Namespace) -> int:
    """A batch: every md.json in its own folder, the checkpoint in the one that holds them all."""
    from pwact_like.data.formats import read_structure
    from pwact_like.engines.explorers.batch import BatchRun, refuse_mixed, run_batch
    from pwact_like.engines.explorers.batch_files import BATCH_CHECKPOINT
    from pwact_like.engines.explorers.kpu_potential import potential_for
    from pwact_like.engines.explorers.md_input import read_md_json
    from pwact_like.fsio import writing_problems

    _refuse_options(args)
    if args.output is not None:
        raise InputError(Problem("-o", "several md.json leave their files each in its own folder", "leave -o out"))
    paths = [Path(name).resolve() for name in args.source]
    settings, problems = [], []
    for path in paths:
        try:
            settings.append(read_md_json(path))
        except InputError as error:
            problems += error.problems
    for folder in dict.fromkeys(path.parent for path in paths):
        problems += writing_problems(folder, "md", folder=True)
    if problems:
        raise InputError(problems)
    runs = [BatchRun(path.parent, read_structure(run.structure, run.format), run) for path, run in zip(paths, settings, strict=True)]
    refuse_mixed(runs)
    top = Path(os.path.commonpath([path.parent for path in paths]))
    potential = potential_for(settings[0].models, settings[0].uncertainty)
    begin = time.monotonic()
    with _Bar(max(run.md.nsteps for run in settings)) as bar:
        results = run_batch(runs, potential, top / BATCH_CHECKPOINT, bar.show)
    for run, result in zip(runs, results, strict=True):
        ended = f"; ended early, {result.ended}" if result.ended else ""
        print(f"{run.folder / 'traj.xyz'}: {result.frames} of {result.frames_planned} frames, {result.step} steps{ended}")
    print(f"{len(runs)} runs in one process, {time.monotonic() - begin:.1f} s")
    return 0


def _refuse_options(args: argparse.Namespace) -> None:
    given = [f"--{name.replace('_', '-')}" for name in (*_OPTIONS, "structure") if getattr(args, name) is not None]
    given += [name for name, value in (("--free", args.free), ("--every-step", args.every_step), ("--kpu", args.kpu)) if value]
    if given:
        raise InputError(Problem(args.source[0], f"md.json says everything itself: {', '.join(given)} cannot be given with it"))


def _by_hand(args: argparse.Namespace) -> MdInput:
    from pwact_like.engines.explorers.md_input import from_settings

    settings: dict[str, Any] = {key: getattr(args, name) for name, key in _OPTIONS.items() if getattr(args, name) is not None}
    settings = {"ensemble": "nvt", "seed": 1} | settings
    settings |= {"models": args.source, "boundary": not args.free, "deviation_every_step": args.every_step}
    if args.structure is not None:
        settings["structure"] = args.structure
    if args.kpu is not None:
        settings["uncertainty"] = {"kind": "kpu" if len(args.source) == 1 else "kpu-committee", "kpu": args.kpu}
    return from_settings(settings, Path.cwd(), "pwact-like md")


def _refuse_overwriting(folder: Path) -> None:
    """A finished run by hand is not overwritten; one with its checkpoint goes on, one that died before its first begins anew."""
    from pwact_like.engines.explorers.md_files import CHECKPOINT, LOG, RESULT, TRAJECTORY

    died_early = (folder / LOG).exists() and not (folder / RESULT).exists()
    if (folder / TRAJECTORY).exists() and not (folder / CHECKPOINT).exists() and not died_early:
        raise InputError(
            Problem(str(folder / TRAJECTORY), "a trajectory is here already", "write into another folder (-o), or remove that run's files")
        )


def _deviation_line(folder: Path) -> str:
    import numpy as np

    from pwact_like.uncertainty.table import EV_PER_ANG, read_table

    table = read_table(folder / "model_devi.out")
    if not np.isfinite(table.value).any():
        return "force deviation along the run: not finite"
    most, middle = np.nanmax(table.value), np.nanmedian(table.value)
    if table.unit != EV_PER_ANG:
        return f"greatest variance of a force along the run ({table.kind}, without unit): {most:.4g}, at the frames' median {middle:.4g}"
    return f"greatest force deviation along the run: {most:.4f} eV/Å, at the frames' median {middle:.4f} eV/Å"


class _Bar:
    """A progress bar on a terminal, nothing in a job."""

    def __init__(self, nsteps: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=nsteps, unit="step", disable=not sys.stderr.isatty(), leave=False)

    def show(self, step: int) -> None:
        """Go to a step."""
        self._bar.update(step - self._bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
