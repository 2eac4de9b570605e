"""Train a Deep Potential from TRAIN.json (MatPL's keys) and leave model.pt, lcurve.csv and train.log in DIR.

TRAIN.json in its shortest form; everything else has a default:

  {"atom_type": ["Si"], "train_data": ["train.xyz"], "optimizer": {"epochs": 30}}

More keys: valid_data, test_data (evaluated at the end only, into test.json), format, seed, init_model (a model to start
from), model.descriptor {Rmax, Rmin, M2, network_size, sel}, model.fitting_net {network_size}, optimizer {optimizer:
"LKF" or "ADAM", batch_size, train_virial, ...}, uncertainty {kind, posterior, ...} (leaves kpu.pt: how
wrong the model is). Data in any format that to_pwdata reads, found by itself.
Relative paths start at the folder of TRAIN.json.
With "engine": "chgnet", CHGNet's shipped weights are fine-tuned instead (see docs/engines/chgnet.md).

A training that was cut off goes on from DIR/checkpoint.pt when it is started again, and ends with the same model.
Energies in eV, forces in eV/Angstrom, virials in eV.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.errors import InputError, Problem

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("settings", type=Path, metavar="TRAIN.json", help="training settings")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", default=Path(), help="where the files go (default: the current folder)")
    parser.add_argument("--init-model", type=Path, metavar="MODEL", help="model to start from (overrides init_model of TRAIN.json)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--lenient", action="store_true", help="keys of TRAIN.json that nobody knows are notes, not errors")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Train."""
    from pwact_like.config.load import load_train

    base = args.settings.resolve().parent
    settings, notes = load_train(args.settings, base, args.lenient)
    init_model = args.init_model or _init_model(settings, args.settings, base)
    for note in notes:
        if not (note.startswith("init_model") or ": init_model" in note):  # it has its effect, though only here
            print(f"note: {note}", file=sys.stderr)
    from pwact_like.potentials import train, train_chgnet

    trained = train_chgnet if settings.engine == "chgnet" else train
    result = trained(settings, args.output, init_model=init_model, device=args.device, progress=False if args.quiet else None)
    print(f"{result.model}: {result.n_steps} steps, {1e3 * result.seconds_per_step:.1f} ms each")
    for name, errors in (("validation", result.valid), ("test", result.test)):
        if errors is not None:
            print(f"{name}: {describe(errors)}")
    return 0


def describe(errors: dict[str, float | int | None]) -> str:
    """One line of errors."""
    energy, force, virial = (errors[f"{name}"] for name in ("energy_rmse_ev_per_atom", "force_rmse_ev_per_ang", "virial_rmse_ev_per_atom"))
    parts = [f"energy {1e3 * (energy or 0.0):.3f} meV/atom", f"force {force or 0.0:.4f} eV/Å"]
    if virial is not None:
        parts.append(f"virial {1e3 * virial:.3f} meV/atom")
    return f"{errors['n_frames']} frames, RMSE {', '.join(parts)}"


def _init_model(settings: TrainSettings, source: Path, base: Path) -> Path | None:
    """Init_model of TRAIN.json, in any case of letters."""
    value = next((value for key, value in settings.raw.items() if key.lower() == "init_model"), None)
    if value is None:
        return None
    path = base / value if isinstance(value, str) else None
    if path is None or not path.is_file():
        raise InputError(Problem(f"{source}: init_model", f"{value!r} is no model file", "give the path of a model.pt, or leave it out"))
    return path
