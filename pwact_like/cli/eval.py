"""Errors of models on labelled data: RMSE of energy an atom, of force components, of virial components an atom.

  pwact-like eval model.pt test.xyz
  pwact-like eval train.*/model.pt OUTCAR MOVEMENT --json --save predictions.npz

With several models, each is judged, and so is the mean of their predictions. --json prints n_frames,
energy_rmse_ev_per_atom, force_rmse_ev_per_ang, virial_rmse_ev_per_atom (null without virials) of the one model or of the
mean, and under "models" those of each with its path.

--save writes an npz file: energies_ev (K, n_frames), forces_ev_per_ang (K, n_atoms of all frames, 3), virials_ev
(K, n_frames, 3, 3), the labels under the same names after label_ and without K (NaN where there is no virial), n_atoms
(n_frames), numbers (n_atoms of all frames), models, sources (file and frame).

--uncertainty judges what the models think of their errors: the deviation of several models, and the KPU of each model with
a kpu.pt beside it. It prints Spearman per atom and per structure, each beside the ceiling that perfectly calibrated errors
would reach for the same spread of the uncertainty, AUROC, NLL, miscalibration area and z-variance (ideal: 1), and saves
PREFIX.json, PREFIX.npz (sigma, error and frame of every atom; for `filter --pairs`) and PREFIX.png. A committee's
deviation is judged as it is; --calibrate-on DATA scales every method to other labelled data first, which the models must
not have seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.cli.train import describe
from pwact_like.errors import InputError, Problem

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.uncertainty.quality import Quality


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="MODEL|DATA", help="one or more models, then labelled data of any format")
    parser.add_argument("--format", help="format of the data, as to_pwdata knows it (default: found out)")
    parser.add_argument("--virial-sign", type=int, choices=(1, -1), default=1, help="-1 for data that hold +V*stress (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="save predictions and labels")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument(
        "--uncertainty", type=Path, nargs="?", const=Path("uncertainty"), metavar="PREFIX", help="judge the uncertainty too (see above)"
    )
    parser.add_argument("--kpu", type=Path, metavar="FILE", help="kpu.pt of the only model (default: the one beside it)")
    parser.add_argument("--exact", action="store_true", help="exact KPU, from the covariance in kpu.pt")
    parser.add_argument("--calibrate-on", type=Path, nargs="+", metavar="DATA", help="labelled data to scale the uncertainties to")
    parser.add_argument("--tau", type=float, metavar="ERROR", help="AUROC: force errors above this are bad, eV/Å (default: upper quartile)")


def run(args: argparse.Namespace) -> int:
    """Judge the models."""
    models = [path for path in args.paths if is_model(path)]
    data = [path for path in args.paths if path not in models]
    if not models or not data:
        what = "no model among the arguments" if not models else "no data among the arguments"
        raise InputError(Problem(" ".join(map(str, args.paths)), what, "give model files (model.pt) first, then labelled data"))
    if problems := list(_problems(args, models)):
        raise InputError(problems)
    from pwact_like.config.common import DataPath
    from pwact_like.potentials import load_committee, predict_files, save_predictions

    entries = [DataPath(path=path, format=args.format, virial_sign=args.virial_sign) for path in data]
    committee = load_committee(models, args.device)
    predictions = predict_files(committee, [str(path) for path in models], entries, lambda text: print(f"note: {text}", file=sys.stderr))
    each = [{"model": str(path), **predictions.report(member)} for member, path in enumerate(models)]
    overall = predictions.report()
    if args.save is not None:
        save_predictions(args.save, predictions)
    judged = _judge_uncertainty(args, models, entries) if args.uncertainty is not None else {}
    if args.json:
        qualities = {name: quality.to_dict() for name, (_, _, quality) in judged.items()}
        print(json.dumps({**overall, "models": each, **({"uncertainty": qualities} if judged else {})}, indent=2))
        return 0
    for errors in each:
        print(f"{errors['model']}: {describe(errors)}")
    if len(models) > 1:
        print(f"mean of the {len(models)} models: {describe(overall)}")
    if judged:
        from pwact_like.uncertainty.quality import quality_table

        print(quality_table({name: quality for name, (_, _, quality) in judged.items()}))
    return 0


def _problems(args: argparse.Namespace, models: list[Path]) -> Iterator[Problem]:
    """What is wrong with the options, and which outputs cannot be written; all before the first model is read."""
    from pwact_like.fsio import writing_problems

    if args.save is not None:
        yield from writing_problems(args.save, "--save")
    prefix = args.uncertainty
    if prefix is not None and not prefix.name:
        yield Problem("--uncertainty", f"{str(prefix)!r} is no beginning of file names", "give one, such as uncertainty")
    elif prefix is not None:
        for ending in ("json", "npz", "png"):
            yield from writing_problems(prefix.with_name(f"{prefix.name}.{ending}"), "--uncertainty")
    else:
        for name in ("kpu", "exact", "calibrate_on", "tau"):
            if getattr(args, name) not in (None, False):
                yield Problem(f"--{name.replace('_', '-')}", "it belongs to --uncertainty, which is not given", "add --uncertainty")
    if args.kpu is not None and len(models) > 1:
        yield Problem(
            "--kpu", f"it is of one model, and there are {len(models)}", "leave it out: each model's own kpu.pt beside it is read"
        )


def _judge_uncertainty(args: argparse.Namespace, models: list[Path], data: list[DataPath]) -> dict[str, tuple[Any, Any, Quality]]:
    """σ, error and quality of every method; written to PREFIX.json, .npz and .png."""
    import numpy as np

    from pwact_like.config.common import DataPath
    from pwact_like.fsio import write_json, write_through
    from pwact_like.potentials.judging import calibrated, judged_pairs, methods_of
    from pwact_like.uncertainty.quality import judge

    def log(text: str) -> None:
        print(f"note: {text}", file=sys.stderr)

    judged: dict[str, tuple[Any, Any, Quality]] = {}
    arrays: dict[str, Any] = {}
    calibrations = {}
    for method in methods_of(models, args.kpu, exact=args.exact):
        if args.calibrate_on:
            others = [DataPath(path=path, format=args.format, virial_sign=args.virial_sign) for path in args.calibrate_on]
            method = calibrated(method, others, log, args.device)
        pairs = judged_pairs(method, data, log, args.device)
        sigma = method.calibration.sigma(pairs.variance)
        judged[method.name] = sigma, pairs.error, judge(sigma, pairs.error, pairs.frame, tau=args.tau)
        calibrations[method.name] = method.calibration.to_dict()
        place = method.name.replace("/", "_")
        arrays |= {f"{place}.{what}": array for what, array in (("sigma", sigma), ("error", pairs.error), ("frame", pairs.frame))}
    prefix = args.uncertainty
    prefix.parent.mkdir(parents=True, exist_ok=True)
    saved = {name: {**quality.to_dict(), "calibration": calibrations[name]} for name, (_, _, quality) in judged.items()}
    write_json(prefix.with_name(f"{prefix.name}.json"), saved)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    write_through(prefix.with_name(f"{prefix.name}.npz"), write)
    try:
        from pwact_like.report.uncertainty_plot import plot

        plot(prefix.with_name(f"{prefix.name}.png"), judged)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        log("no picture: matplotlib is not installed (pip install 'pwact-like[report]')")
    return judged


def is_model(path: Path) -> bool:
    """Whether a file is a model file, without loading torch: a zip archive with a header."""
    if path.suffix == ".pt" or not path.is_file() or not zipfile.is_zipfile(path):
        return path.suffix == ".pt"
    with zipfile.ZipFile(path) as archive:
        return "header.npy" in archive.namelist()
