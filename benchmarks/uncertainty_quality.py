"""How good the uncertainties are that this package offers: ranks, scale and cost, on frames that no model has seen, one thread.

    python benchmarks/uncertainty_quality.py                   Cu72: trained at 300 K, judged at 300 K and at 500 K
    python benchmarks/uncertainty_quality.py --data si64       Si64: judged on held-out frames of the same run
    python benchmarks/uncertainty_quality.py --net large       the 25-25-25 / 16 / 50-50-50 network

The frames of Cu72_300K (or Si64) are cut by numpy's default_rng(0): 60 % train, 20 % calibrate, 20 % are judged ("held-out"); for
Cu all of Cu72_500K is judged too. Models are trained with the Kalman filter and the package's defaults. Every method predicts
the error of the same model, the first one, is calibrated on the same frames in the same way, and sees neither
labels nor statistics of the judged ones:

    committee           deviation of four models trained from different seeds, the judged one among them
    KPU laplace         exact KPU with a posterior made after the training
    KPU laplace, draws  the same from 16 draws, as MD computes it
    KPU filter          exact KPU with the filter's own covariance
    last layer          the posterior of the output layers' weights alone (LLPR)
    kpu-committee       deviation of four models drawn from the posterior, in the linear range
    |F|                 the size of the predicted force: what costs nothing

Printed and saved (JSON, and a picture a judged set): Spearman's ρ per atom and per structure, each with the ceiling of
perfectly calibrated errors, AUROC, negative log likelihood of a component, miscalibration area, mean z² with and without the
calibration, seconds to get the method beyond the first model's training, and milliseconds an evaluation of a frame.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_sets import NETWORKS, ROOT, SETS, add_folder, machine, read, shares, shown, train_settings
from epochs import Training

from pwact_like.potentials.block_matrix import BlockMatrix
from pwact_like.potentials.deep_potential import DeepPotential, evaluate, stacked
from pwact_like.potentials.geometry import Geometry
from pwact_like.potentials.kpu import ExactKpu, SampledKpu, Uncertainty, Variances
from pwact_like.potentials.linear_committee import linear_committee
from pwact_like.potentials.posterior import TAU, LastLayer, laplace_posterior
from pwact_like.potentials.self_knowledge import pairs_of
from pwact_like.potentials.training_set import TrainingSet
from pwact_like.report.uncertainty_plot import plot
from pwact_like.uncertainty.calibration import Calibration, Pairs, calibrate
from pwact_like.uncertainty.committee import energy_deviation, force_deviation
from pwact_like.uncertainty.few_draws import for_draws
from pwact_like.uncertainty.quality import Quality, judge, quality_table, z_variance
from pwact_like.uncertainty.table import COMMITTEE, KPU

SHARES = (0.6, 0.2, 0.2)
DRAWS = 16
DRAWN, DRAWN_FROM = ("KPU laplace, draws", "kpu-committee"), "KPU laplace"  # which comes before them


@dataclass(frozen=True, eq=False)
class Spread:
    """Deviation of models of one shape and one normalisation, times a factor."""

    models: list[DeepPotential]
    factor: float = 1.0

    def variances(self, geometry: Geometry) -> Variances:
        """See `pwact_like.potentials.kpu.Uncertainty`."""
        with torch.no_grad():
            found = evaluate(self.models[0].spec, stacked(self.models), geometry, forces=True)
        force = self.factor * force_deviation(found.forces.numpy())
        energy = self.factor * energy_deviation(found.energies[:, 0].numpy(), force.shape[-1])
        return Variances(force**2, float(energy**2))


@dataclass(frozen=True, eq=False)
class ForceSize:
    """|F|² as if it were a variance."""

    model: DeepPotential

    def variances(self, geometry: Geometry) -> Variances:
        """See `pwact_like.potentials.kpu.Uncertainty`."""
        with torch.no_grad():
            forces = self.model(geometry).forces[0]
        return Variances(forces.square().sum(dim=1).numpy(), 0.0)


@dataclass(eq=False)
class Method:
    """A way to an uncertainty: what it is, what it costs, and what it says."""

    uncertainty: Uncertainty
    kind: str
    seconds: float
    calibration: Calibration | None = None
    ms_a_frame: float = 0.0


def main() -> int:
    """Run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("cu", "si64"), default="cu", help="data set (default: cu)")
    parser.add_argument("--net", choices=tuple(NETWORKS), default="small", help="network (default: small)")
    parser.add_argument("--epochs", type=int, default=30, help="of each training (default: 30)")
    parser.add_argument("--members", type=int, default=4, help="of both committees (default: 4)")
    parser.add_argument("--tau", type=float, default=TAU, help="prior of the posteriors (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first model; the members have the next ones")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "build" / "uncertainty_quality", help="folder (default: %(default)s)")
    parser.add_argument("--most-frames", type=int, help="of each file, to try the script")
    add_folder(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, held, judged = shares(read(args.data, args.data_folder)[: args.most_frames], *SHARES)
    sets = {"held-out": judged}
    if args.data == "cu":
        sets["500K"] = read("cu-hot", args.data_folder)[: args.most_frames]
    print(machine())
    print(f"{SETS[args.data].file}: {len(train)} frames train, {len(held)} calibrate; judged: ", end="")
    print(", ".join(f"{len(frames)} frames {name}" for name, frames in sets.items()), flush=True)

    trainings = [trained(train, args, args.seed + number) for number in range(args.members)]
    first = trainings[0]
    calibration = first.prepared(held)
    judging = {name: first.prepared(frames) for name, frames in sets.items()}
    for name, data in judging.items():
        print("the first model on {} frames: {:.3f} meV/atom, {:.4f} eV/Å".format(name, *first.errors(data)), flush=True)
    methods = all_methods(trainings, calibration, args)
    known: dict[str, Pairs] = {}
    for name, method in methods.items():
        pairs = timed_pairs(first.model, method, calibration)
        known[name] = pairs
        if name in DRAWN:  # their scale is that of the covariance, as in a training
            scale = methods[DRAWN_FROM].calibration
            assert scale is not None
            method.calibration = replace(for_draws(scale, known[DRAWN_FROM], pairs.variance), kind=method.kind)
        else:
            method.calibration = calibrate(pairs.variance, pairs.error, pairs.frame, kind=method.kind, seed=args.seed)
        note = f" ({method.calibration.note})" if method.calibration.note else ""
        print(f"{name}: α² {method.calibration.alpha2:.3g}, s² {method.calibration.noise2:.2g} (eV/Å)²{note}", flush=True)
    report = {
        "machine": machine(),
        "data": {"file": SETS[args.data].file, "train": len(train), "calibrate": len(held)},
        "network": str(NETWORKS[args.net]),
        "optimizer": shown(first.settings.optimizer),
        "training_s": [training.seconds for training in trainings],
        "judged": {name: judged_set(name, data, first.model, methods, args) for name, data in judging.items()},
        "methods": {
            name: {"calibration": method.calibration.to_dict(), "seconds": method.seconds, "ms_a_frame": method.ms_a_frame}
            for name, method in methods.items()
        },
    }
    print(f"\n{'':20s} {'s beyond the first training':>28s} {'ms a frame':>11s}   (that training: {first.seconds:.1f} s)")
    for name, method in methods.items():
        print(f"{name:20s} {method.seconds:28.1f} {method.ms_a_frame:11.1f}")
    place = args.output / f"{args.data}_{args.net}.json"
    place.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"saved: {place} and pictures beside it")
    return 0


def trained(train: list, args: argparse.Namespace, seed: int) -> Training:
    """A model."""
    settings = train_settings(SETS[args.data].elements, NETWORKS[args.net], {"name": "LKF", "epochs": args.epochs}, seed)
    training = Training(settings, train)
    list(training.epochs())
    energy, force = training.errors(training.training)
    print(f"seed {seed}: {training.seconds:.1f} s, training frames {energy:.3f} meV/atom, {force:.4f} eV/Å", flush=True)
    return training


def all_methods(trainings: list[Training], calibration: TrainingSet, args: argparse.Namespace) -> dict[str, Method]:
    """Every method; its seconds are those beyond the first model's training."""
    first = trainings[0]
    model, stepper = first.model, first.stepper
    methods = {"committee": Method(Spread([t.model for t in trainings]), COMMITTEE, sum(t.seconds for t in trainings[1:]))}

    def add(name: str, kind: str, before: float, make: Callable[[], Uncertainty]) -> None:
        began = time.perf_counter()
        uncertainty = make()
        methods[name] = Method(uncertainty, kind, before + time.perf_counter() - began)

    def make_laplace() -> ExactKpu:
        layout, coordinates = stepper.filter.layout, stepper.coordinates
        posterior = laplace_posterior(model, first.training, layout, tau=args.tau, seed=args.seed, coordinates=coordinates)
        return ExactKpu(model, posterior, posterior.coordinates)

    add("KPU laplace", KPU, 0.0, make_laplace)
    posterior, made = methods["KPU laplace"].uncertainty.covariance, methods["KPU laplace"].seconds
    add("KPU laplace, draws", KPU, made, lambda: SampledKpu(model, posterior.sample(DRAWS, args.seed)))
    add("KPU filter", KPU, 0.0, lambda: ExactKpu(model, BlockMatrix.of(stepper.filter.covariance), stepper.coordinates))
    add("last layer", KPU, 0.0, lambda: LastLayer(model, first.training, tau=args.tau))

    def make_committee() -> Spread:
        # as a training chooses them: structures on which the steps must be linear, spread over the calibration frames
        places = np.unique(np.linspace(0, len(calibration) - 1, 4).astype(int))
        geometries = [calibration.batch([int(place)]).geometry for place in places]
        found = linear_committee(model, posterior.sample(args.members, args.seed + 1), geometries)
        print(f"kpu-committee: steps of {found.epsilon:.3g} of a draw, {found.nonlinearity:.1%} from linear", flush=True)
        return Spread(found.members, found.factor)

    add("kpu-committee", COMMITTEE, made, make_committee)
    add("|F|", KPU, 0.0, lambda: ForceSize(model))
    return methods


def timed_pairs(model: DeepPotential, method: Method, data: TrainingSet) -> Pairs:
    """Variances and true errors; the time of a frame without the model's own forces goes to the method."""
    taken = []

    class Timed:
        def variances(self, geometry: Geometry) -> Variances:
            began = time.perf_counter()
            found = method.uncertainty.variances(geometry)
            taken.append(time.perf_counter() - began)
            return found

    pairs = pairs_of(model, Timed(), data)
    method.ms_a_frame = 1e3 * float(np.median(taken))
    return pairs


def judged_set(name: str, data: TrainingSet, model: DeepPotential, methods: dict[str, Method], args: argparse.Namespace) -> dict[str, Any]:
    """Print, draw and return what the methods are worth on a set."""
    qualities: dict[str, Quality] = {}
    drawn, report = {}, {}
    for title, method in methods.items():
        pairs = pairs_of(model, method.uncertainty, data)
        sigma = method.calibration.sigma(pairs.variance)
        qualities[title] = judge(sigma, pairs.error, pairs.frame, seed=args.seed)
        raw = z_variance(np.sqrt(np.abs(pairs.variance)), pairs.error)
        report[title] = qualities[title].to_dict() | {"z_variance_uncalibrated": raw if np.isfinite(raw) else None}
        drawn[title] = (sigma, pairs.error, qualities[title])
    print(f"\n{name}:\n{quality_table(qualities)}")
    print("mean z2 without the calibration: " + ", ".join(f"{title} {row['z_variance_uncalibrated']:.3g}" for title, row in report.items()))
    args.output.mkdir(parents=True, exist_ok=True)
    del drawn["KPU laplace, draws"]  # six colours are told apart; it looks like the exact one
    plot(args.output / f"{args.data}_{args.net}_{name}.png", drawn)
    sys.stdout.flush()
    return report


if __name__ == "__main__":
    sys.exit(main())
