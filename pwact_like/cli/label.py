"""Label structures with an embedded labelling engine: energy, forces and virial (eV, eV/Å).

Two ways to call it:

  pwact-like label label.json
      does the job of a campaign's task folder, there: label.xyz and result.json appear.

  pwact-like label STRUCTURE --engine xtb -o OUT.xyz
      by hand; STRUCTURE is any file with structures (POSCAR, atom.config, cif, extxyz, ...). For single points
      every structure of the file is labelled.

For instance:
  pwact-like label POSCAR --engine xtb -o label.xyz
  pwact-like label POSCAR --engine xtb --kind relax --set fmax=0.005 -o relaxed.xyz
  pwact-like label frames.xyz --engine bigmodel --set model=chgnet -o label.xyz
  pwact-like label cu.cif --engine ase --set calculator=emt --kind aimd --set temperature_k=600 --set nsteps=200 -o md.xyz
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.errors import InputError, JobError, Problem

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame
    from pwact_like.engines.labelers.embedded import EmbeddedLabeler
    from pwact_like.engines.labelers.job_files import JobResult


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", metavar="LABEL.json|STRUCTURE", help="a job file, or a file with structures")
    parser.add_argument("--engine", choices=("xtb", "ase", "bigmodel"), help="labelling engine (with a structure)")
    parser.add_argument("--kind", choices=("scf", "relax", "aimd"), default="scf", help="what to do (default: scf, a single point)")
    parser.add_argument("--format", help="format of STRUCTURE, as to_pwdata knows it (default: guessed)")
    parser.add_argument("--options", type=Path, metavar="FILE.json", help="options of engine and stage")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one option, e.g. method=GFN2-xTB (repeatable)")
    parser.add_argument("--seed", type=int, default=1, help="seed of MD (default: 1)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.xyz", help="labelled frames, extxyz (with a structure; required)")


def run(args: argparse.Namespace) -> int:
    """Do a job file's work, or label a file of structures."""
    source = Path(args.source)
    if source.suffix.lower() == ".json":
        given = [
            name
            for name, value in (("--engine", args.engine), ("-o", args.output), ("--options", args.options), ("--set", args.set))
            if value
        ]
        if given:
            raise InputError(Problem(str(source), f"a job file says everything itself: {', '.join(given)} cannot be given with it"))
        from pwact_like.engines.labelers.label_run import run_job_file

        result = run_job_file(source)
        _report(result, str(source))
        return 0  # a refused structure is a result, told in result.json
    return _by_hand(source, args)


def _report(result: JobResult, what: str) -> None:
    text = f"{what}: {result.frames} of {result.frames_planned} labels, {result.steps} steps, {result.program} {result.version}".rstrip()
    print(f"{text}; {result.reason}" if result.reason else text, file=sys.stderr if result.reason else sys.stdout)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {}
    problems = []
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            problems.append(Problem(f"--set {text}", "NAME=VALUE is wanted"))
            continue
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    if problems:
        raise InputError(problems)
    return options


def _by_hand(source: Path, args: argparse.Namespace) -> int:
    missing = [name for name, value in (("--engine", args.engine), ("-o OUT.xyz", args.output)) if value is None]
    if missing:
        raise InputError(Problem("pwact-like label", f"{' and '.join(missing)} missing", "see pwact-like label -h"))
    if args.output.exists() and source.exists() and args.output.samefile(source):
        raise InputError(Problem(str(args.output), "the labels would replace the structures themselves", "name another file with -o"))
    from pwact_like.config.common import StageInput
    from pwact_like.config.labelling import LabelSettings
    from pwact_like.data.formats import read_frames, read_structure, write_frames
    from pwact_like.data.frames import Frame
    from pwact_like.engines.registry import labeler_for

    labeler = labeler_for(LabelSettings(dft_style=args.engine))
    entry = StageInput(input=args.options, options=_options(args))
    if args.kind == "scf":
        asked = read_frames(source, args.format)
    else:
        asked = [Frame(read_structure(source, args.format))]
    labelled: list[Frame] = []
    refused = []
    results: Iterable[tuple[list[Frame], str]]
    if args.kind == "scf" and labeler.frames_a_task(entry) > 1:
        results = _label_batch(labeler, asked, entry, args)  # type: ignore[arg-type]
    else:
        results = (_label_one(labeler, frame, entry, args) for frame in asked)  # type: ignore[arg-type]
    for index, (frames, reason) in enumerate(results):
        labelled += frames
        if reason:
            refused.append(f"structure {index}: {reason}")
    if labelled:
        write_frames(args.output, labelled, "extxyz")
        print(f"{args.output}: {len(labelled)} labelled frame{'s' if len(labelled) > 1 else ''} ({labelled[-1].level_of_theory})")
        last = labelled[-1].label
        assert last is not None
        print(f"last frame: free energy {last.energy_ev:.6f} eV, largest force component {abs(last.forces_ev_per_ang).max():.4f} eV/Å")
    if refused:
        raise JobError("\n".join([f"{source}: {len(refused)} of {len(asked)} could not be labelled wholly", *refused]))
    return 0


def _label_one(labeler: EmbeddedLabeler, frame: Frame, entry: Any, args: argparse.Namespace) -> tuple[list[Frame], str]:
    """Label one structure in a folder of its own that goes away; the frames and what went wrong."""
    import tempfile

    from pwact_like.engines.labelers.job_files import JOB_FILE
    from pwact_like.engines.labelers.label_run import run_job_file
    from pwact_like.engines.protocols import LabelRequest

    with tempfile.TemporaryDirectory(prefix="pwact-like-label-") as name:
        folder = Path(name)
        files = labeler.write(folder, LabelRequest(args.kind, frame.atoms, entry, args.seed))
        for link, target in files.links:
            (folder / link).symlink_to(target)
        result = run_job_file(folder / JOB_FILE)
        frames = labeler.read(folder, args.kind) if result.frames else []
        return [_from_source(labelled, args) for labelled in frames], result.reason


def _label_batch(labeler: EmbeddedLabeler, asked: Sequence[Frame], entry: Any, args: argparse.Namespace) -> list[tuple[list[Frame], str]]:
    """Label all structures with one loading of the model; for each its frame, or what went wrong."""
    import tempfile

    from pwact_like.engines.labelers.job_files import JOB_FILE
    from pwact_like.engines.labelers.label_run import run_job_file
    from pwact_like.engines.protocols import LabelRequest

    with tempfile.TemporaryDirectory(prefix="pwact-like-label-") as name:
        folder = Path(name)
        files = labeler.write_batch(folder, [LabelRequest("scf", frame.atoms, entry, args.seed) for frame in asked])
        for link, target in files.links:
            (folder / link).symlink_to(target)
        run_job_file(folder / JOB_FILE)
        return [([], found) if isinstance(found, str) else ([_from_source(found, args)], "") for found in labeler.read_batch(folder)]


def _from_source(frame: Frame, args: argparse.Namespace) -> Frame:
    """The temporary folder's name says nothing: the frames come from the user's file."""
    return replace(frame, origin=replace(frame.origin, source=str(args.source)))
