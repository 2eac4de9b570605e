"""Errors of models on labelled data: RMSE of energy an atom, of force components, of virial components an atom.

  pwact-like eval model.pt test.xyz
  pwact-like eval train.*/model.pt OUTCAR MOVEMENT --json --save predictions.npz

With several models, each is judged, and so is the mean of their predictions. --json prints n_frames,
energy_rmse_ev_per_atom, force_rmse_ev_per_ang, virial_rmse_ev_per_atom (null without virials) of the one model or of the
mean, and under "models" those of each with its path.

--save writes an npz file: energies_ev (K, n_frames), forces_ev_per_ang (K, n_atoms of all frames, 3), virials_ev
(K, n_frames, 3, 3), the labels under the same names after label_ and without K (NaN where there is no virial), n_atoms
(n_frames), numbers (n_atoms of all frames), models, sources (file and frame).
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from pathlib import Path

from pwact_like.cli.train import describe
from pwact_like.errors import InputError, Problem


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="MODEL|DATA", help="one or more models, then labelled data of any format")
    parser.add_argument("--format", help="format of the data, as to_pwdata knows it (default: found out)")
    parser.add_argument("--virial-sign", type=int, choices=(1, -1), default=1, help="-1 for data that hold +V*stress (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="save predictions and labels")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """Judge the models."""
    models = [path for path in args.paths if is_model(path)]
    data = [path for path in args.paths if path not in models]
    if not models or not data:
        what = "no model among the arguments" if not models else "no data among the arguments"
        raise InputError(Problem(" ".join(map(str, args.paths)), what, "give model files (model.pt) first, then labelled data"))
    from pwact_like.config.common import DataPath
    from pwact_like.potentials import load_committee, predict_files, save_predictions

    entries = [DataPath(path=path, format=args.format, virial_sign=args.virial_sign) for path in data]
    committee = load_committee(models, args.device)
    predictions = predict_files(committee, [str(path) for path in models], entries, lambda text: print(f"note: {text}", file=sys.stderr))
    each = [{"model": str(path), **predictions.report(member)} for member, path in enumerate(models)]
    overall = predictions.report()
    if args.save is not None:
        save_predictions(args.save, predictions)
    if args.json:
        print(json.dumps({**overall, "models": each}, indent=2))
        return 0
    for errors in each:
        print(f"{errors['model']}: {describe(errors)}")
    if len(models) > 1:
        print(f"mean of the {len(models)} models: {describe(overall)}")
    return 0


def is_model(path: Path) -> bool:
    """Whether a file is a model file, without loading torch: a zip archive with a header."""
    if path.suffix == ".pt" or not path.is_file() or not zipfile.is_zipfile(path):
        return path.suffix == ".pt"
    with zipfile.ZipFile(path) as archive:
        return "header.npy" in archive.namelist()
