"""Write embedded Deep Potentials as DeePMD-kit's backend-independent model files (.dp), for LAMMPS and everything else that reads those.

  pwact-like export model.pt -o model.dp
  dp convert-backend model.dp model.pb        # TensorFlow route; model.pth: PyTorch route (DeePMD-kit 3 or newer)

  pwact-like export iter.0003/00.train -o potentials/      # the committee of an iteration: a file a model

A folder stands for the models in it: model.pt and the members of a kpu-committee (member.000.pt, ...), or all of its
train.000, train.001, ... Energies, forces and virials are those of `pwact-like eval` and `md`, in eV and Angstrom (LAMMPS:
units metal), as long as no atom has more neighbours than the model has slots (printed): DeePMD-kit leaves out the farthest
of them, pwact-like none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pwact_like.errors import InputError, Problem

_MEMBERS, _TRAININGS = "member.*.pt", "train.*"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="model files of pwact-like train, or folders with such files")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="file of the only model (default: beside it); a folder for several models"
    )


def run(args: argparse.Namespace) -> int:
    """Convert."""
    sources = _expanded(args.models)
    targets = _targets(sources, args.output)
    from pwact_like.potentials.dp_file import lammps_lines, refuse_other_forms, write_dp
    from pwact_like.potentials.modelfile import read_model

    models = [read_model(path)[0] for path in sources]
    for model in models:
        refuse_other_forms(model.spec)
    for source, target, model in zip(sources, targets, models, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_dp(target, model)
        slots = ", ".join(f"{count} {name}" for name, count in zip(model.spec.symbols().split(), model.spec.sel, strict=True))
        print(f"{source} -> {target}: {model.spec.symbols()}, cutoff {model.spec.rmax_ang:g} Å, slots for neighbours: {slots}")
    if len({model.spec.symbols() for model in models}) > 1:
        print("note: the order of the elements differs between these models: pair_coeff cannot be one for all", file=sys.stderr)
    if any(path.match(_MEMBERS) for path in sources):
        print(
            "note: the members of a kpu-committee deviate by less than their errors: `factor` of uncertainty.json times their deviation, "
            "calibrated, is what pwact-like md writes",
            file=sys.stderr,
        )
    converted = [str(target.with_suffix(".pb")) for target in targets]
    print("\nNext:\n" + "\n".join(f"  dp convert-backend {old} {new}" for old, new in zip(targets, converted, strict=True)))
    print("In LAMMPS (units metal):\n  " + lammps_lines(models[0].spec, converted).replace("\n", "\n  "))
    return 0


def _expanded(paths: list[Path]) -> list[Path]:
    """Model files; a folder stands for those in it."""
    found: list[Path] = []
    problems = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            folders = [path, *sorted(folder for folder in path.glob(_TRAININGS) if folder.is_dir())]
            inside = [file for folder in folders for file in (folder / "model.pt", *sorted(folder.glob(_MEMBERS))) if file.is_file()]
        if not inside:
            problems.append(Problem(str(path), "no model.pt in this folder, nor in a train.* of it", "give model files"))
        found += [file for file in inside if file not in found]
    if problems:
        raise InputError(problems)
    return found


def _targets(sources: list[Path], output: Path | None) -> list[Path]:
    """Where each model goes; names of several are their own, with their folder's where those are the same."""
    if len(sources) == 1:
        target = output or sources[0].with_suffix(".dp")
        if target.is_dir():
            target = target / f"{sources[0].stem}.dp"
        if target.suffix != ".dp":
            raise InputError(Problem(str(target), "DeePMD-kit tells a model's format by its suffix", f"name it {target.name}.dp"))
        return [target]
    if output is None or output.suffix == ".dp" or (output.exists() and not output.is_dir()):
        raise InputError(Problem("-o", f"{len(sources)} models need a folder", "give -o FOLDER"))
    names = [path.stem for path in sources]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}.{path.stem}" for path in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(Problem(" ".join(map(str, sources)), f"several models would be named {twice[0]}.dp", "export them one by one"))
    return [output / f"{name}.dp" for name in names]
