"""Active learning side by side: random choice, a committee of four, KPU, a committee from one training.

    python benchmarks/campaigns.py --folder DIR                    one seed
    python benchmarks/campaigns.py --folder DIR --seeds 3          three, with their spread

Every strategy starts from the same labelled frames (MgO of 16 atoms, rattled and strained a little), explores the same
conditions with `pwact-like run` in every iteration (1000 to 4500 K, liquid included, three densities), labels the same number
of frames an iteration by GFN1-xTB (tblite), and is judged on the same test set, which is hotter than the initial data and
enters nothing: frames of GFN1-xTB's own MD under these conditions. Printed are the force RMSE on the test set against the number
of labels, the processor time of all trainings, and how many labels random choice needs for the others' final error, and they for
that of random choice. A deviation is smaller than the error, by a factor that nobody knows beforehand: "committee-5" is the committee
with an upper level of 5 instead of 30 eV/Å, and what is "gated" has strategy.max_force 30. "random" is KPU's campaign with
levels that call every frame a candidate, so that the quota is drawn at random; "random-sane" leaves out the frames above the upper
level, which a model of cold data runs into when it is driven hot: forces of tens of eV/Å, which no one would want labelled.

The labelled frames are those of benchmarks/data/mgo, so that figures of several machines compare; --new-truth makes others
(about 1,700 labels). A campaign that is there is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COMMITTEES = ("committee", "committee-5", "committee-gated")
OURS = ("kpu", "kpu-committee", "kpu-gated", "kpu-committee-gated")
STRATEGIES = ("random", "random-sane", "random-gated", *OURS, *COMMITTEES)
SCALES = (0.98, 1.01, 1.05)
TEMPERATURES = (1000, 2000, 3000, 4500)
ENTRIES = 4
QUOTA = 7  # labels an iteration of each of the three densities
METHOD = {"method": "GFN1-xTB", "electronic_temperature": 1000}


def main() -> int:
    """Run what is missing and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--epochs", type=int, default=12, help="of every training (default: 12)")
    parser.add_argument("--new-truth", action="store_true", help="label the initial data and run the truth's MD anew")
    parser.add_argument("--entries", type=int, default=ENTRIES, help="iterations with an exploration (default: %(default)s)")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not args.new_truth and not (folder / "truth").exists():
        shutil.copytree(ROOT / "benchmarks" / "data" / "mgo", folder / "truth")
    truth = make_truth(folder / "truth")
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, args.seeds + 1):
        for strategy in args.strategies:
            place = folder / f"{strategy}.{seed}"
            results.setdefault(strategy, []).append(campaign(place, strategy, seed, truth, args.epochs, args.entries))
            show(results)
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    return 0


def cell(scale: float) -> Any:
    """MgO, 16 atoms."""
    from ase.build import bulk

    return bulk("MgO", "rocksalt", a=4.21 * scale, cubic=True).repeat((2, 1, 1))


def labelled(atoms: Any) -> Any:
    """A frame with GFN1-xTB's label."""
    from ase import Atoms

    from pwact_like.data.frames import Frame, Label
    from pwact_like.units import virial_from_stress

    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    label = Label(float(atoms.get_potential_energy()), forces.copy(), virial_from_stress(stress, atoms.get_volume()))
    return Frame(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True), label)


def calculator() -> Any:
    """GFN1-xTB as the campaigns label with it."""
    from tblite.ase import TBLite

    return TBLite(method=METHOD["method"], electronic_temperature=METHOD["electronic_temperature"], verbosity=0)


def hot_frames(job: tuple[float, int, int]) -> list[Any]:
    """Eight frames of one MD run of the truth, ten steps of 2 fs apart, after sixty.

    It starts from a small rattle and heats up by itself: one frame of a random large rattle, which no MD ever comes to, has forces
    that would make up half of the test set's whole error.
    """
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    scale, temperature, seed = job
    atoms = cell(scale)
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    atoms.calc = calculator()
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(atoms, 2.0 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng, fixcm=False)
    dynamics.run(60)
    frames = []
    for _ in range(8):
        dynamics.run(10)
        frames.append(labelled(atoms))
    return frames


def cold_frames(seed: int) -> list[Any]:
    """Initial data: rattled by 0.04 Å, strained by up to 2 %."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(24):
        atoms = cell(float(rng.uniform(0.98, 1.02)))
        atoms.positions += rng.normal(scale=0.04, size=atoms.positions.shape)
        atoms.calc = calculator()
        frames.append(labelled(atoms))
    return frames


def make_truth(folder: Path) -> Path:
    """Initial data, test set and start structures, labelled once."""
    from pwact_like.data.formats import write_frames

    if (folder / "test.xyz").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(scale, temperature, 10 * a + b) for a, scale in enumerate(SCALES) for b, temperature in enumerate(TEMPERATURES)]
    began = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"  # a process a core: threads besides would spin for half of the time
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        frames = [frame for found in pool.map(hot_frames, jobs) for frame in found]
    from pwact_like.data.frames import Frame

    initial = cold_frames(1)
    write_frames(folder / "initial.xyz", initial[:20])
    write_frames(folder / "valid.xyz", initial[20:])
    for number, scale in enumerate(SCALES):
        write_frames(folder / f"start.{number}.xyz", [Frame(cell(scale))])
    write_frames(folder / "test.xyz", frames)
    rms = float(np.sqrt(np.mean(np.concatenate([frame.label.forces_ev_per_ang.ravel() for frame in frames]) ** 2)))
    print(f"truth: {len(frames)} test frames, force RMS {rms:.2f} eV/Å, {time.monotonic() - began:.0f} s", flush=True)
    return folder


def campaign(folder: Path, strategy: str, seed: int, truth: Path, epochs: int, entries: int) -> dict[str, Any]:
    """Run one campaign (or go on) and read its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "param.json").write_text(json.dumps(param(strategy, seed, truth, epochs, entries), indent=1))
    section = {"group_size": -1, "parallel_num": 2, "cpu_per_node": 2}
    commands = (("train", "pwact-like train"), ("explore", "pwact-like md"), ("DFT", "pwact-like label"))
    resource = {
        "scheduler": "local",
        **{name: {"command": f"{sys.executable} -m {command.replace('-', '_', 1)}", **section} for name, command in commands},
    }
    (folder / "resource.json").write_text(json.dumps(resource, indent=1))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pwact_like", "run", "param.json", "resource.json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{folder}: run ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return figures(folder)


def param(strategy: str, seed: int, truth: Path, epochs: int, entries: int) -> dict[str, Any]:
    """param.json of one strategy."""
    # Upper levels let in all but trajectories about to end (at 50 eV/Å). Lower ones: an error of the worst atom at 1000 K once that
    # is learnt; a committee's deviation is smaller than its error.
    levels = {"lower_model_devi_f": 0.8, "upper_model_devi_f": 30.0}
    kpu = {"kpu_lower": 0.8, "kpu_upper": 30.0}
    gate = {"max_force": 30.0}
    low = {"uncertainty": "committee", "model_num": 4, "lower_model_devi_f": 0.5, "upper_model_devi_f": 5.0}
    settings: dict[str, dict[str, Any]] = {
        "random": {"uncertainty": "kpu", "kpu_lower": 1e-9, "kpu_upper": 1e9, "random_share": 0.0},
        "random-sane": {"uncertainty": "kpu", **kpu, "kpu_lower": 1e-9, "random_share": 0.0},
        "kpu": {"uncertainty": "kpu", **kpu},
        "kpu-committee": {"uncertainty": "kpu-committee", "model_num": 4, **levels},
        "committee": {"uncertainty": "committee", "model_num": 4, **levels, "lower_model_devi_f": 0.5},
        "committee-5": low,
        "random-gated": {"uncertainty": "kpu", **kpu, "kpu_lower": 1e-9, "random_share": 0.0, **gate},
        "kpu-gated": {"uncertainty": "kpu", **kpu, **gate},
        "kpu-committee-gated": {"uncertainty": "kpu-committee", "model_num": 4, **levels, **gate},
        "committee-gated": {**low, **gate},
    }
    return {
        "seed": seed,
        "init_data": [str(truth / "initial.xyz")],
        "valid_data": [str(truth / "valid.xyz")],
        "test_data": [str(truth / "test.xyz")],
        "train": {
            "atom_type": ["Mg", "O"],
            "model": {
                "descriptor": {"Rmax": 5.0, "Rmin": 0.5, "M2": 4, "network_size": [8, 16]},
                "fitting_net": {"network_size": [20, 20, 1]},
            },
            "optimizer": {"optimizer": "LKF", "epochs": epochs},
        },
        "strategy": {"max_select": QUOTA, "allow_mixed_theory": True, **settings[strategy]},
        "explore": {
            "sys_configs": [{"config": str(truth / f"start.{number}.xyz"), "format": "extxyz"} for number in range(len(SCALES))],
            "md_batch": 6,  # two processes
            "md_jobs": [
                {
                    "sys_idx": [0, 1, 2],
                    "ensemble": "nvt",
                    "nsteps": 300,
                    "md_dt": 0.002,
                    "trj_freq": 10,
                    "taut": 0.1,
                    "temps": list(TEMPERATURES),
                }
            ]
            * entries,
        },
        "DFT": {"dft_style": "xtb", **METHOD},
    }


def figures(folder: Path) -> dict[str, Any]:
    """Labels before each training, errors of its models on the test set, time of all trainings."""
    labels, rmse, energies, seconds = [], [], [], 0.0
    count = 20
    for iteration in sorted(folder.glob("iter.*")):
        facts = json.loads((iteration / "00.train" / "manifest.json").read_text())["facts"]
        labels.append(count)
        rmse.append(facts["force_rmse_ev_per_ang"])
        energies.append(facts["energy_rmse_ev_per_atom"])
        seconds += sum(training_time(path) for path in iteration.glob("00.train/train.*/train.log"))
        result = iteration / "02.label" / "result" / "manifest.json"
        if result.is_file():
            count += json.loads(result.read_text())["facts"]["train_frames"]
    return {"labels": labels, "force_rmse": rmse, "energy_rmse": energies, "training_s": seconds}


def training_time(log: Path) -> float:
    """Processor time of a training (posterior and judging included), seconds."""
    return float(re.findall(r"([\d.]+) s of processor time", log.read_text())[-1])


def labels_for(result: dict[str, Any], error: float) -> float:
    """Labels at which a curve first falls to an error (interpolated); infinity when it never does."""
    curve = list(zip(result["labels"], result["force_rmse"], strict=True))
    for (n0, e0), (n1, e1) in itertools.pairwise(curve):
        if e1 <= error:
            return n0 + (n1 - n0) * min(1.0, max(0.0, (e0 - error) / (e0 - e1))) if e0 > e1 else float(n1)
    return float("inf")


def share_of_labels(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Labels beyond the first ones that ``one`` needs for the final error of ``other``, over all of ``other``."""
    needed = labels_for(one, other["force_rmse"][-1]) - one["labels"][0]
    return "more than all" if np.isinf(needed) else f"{needed / (other['labels'][-1] - other['labels'][0]):.2f}"


def show(results: dict[str, list[dict[str, Any]]]) -> None:
    """Curves and comparisons."""
    print("\nforce RMSE on the test set, eV/Å, against labels (mean over seeds, ± spread)")
    for strategy, runs in results.items():
        steps = []
        for number in range(min(len(run["labels"]) for run in runs)):
            values = [run["force_rmse"][number] for run in runs]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            steps.append(f"{statistics.mean(run['labels'][number] for run in runs):.0f}: {statistics.mean(values):.3f}{spread}")
        print(f"{strategy:13s} {'   '.join(steps)}   trainings {statistics.mean(run['training_s'] for run in runs):.0f} s")
    for name in (*OURS, *COMMITTEES):
        if name not in results:
            continue
        for other in [other for other in COMMITTEES if other in results and name.startswith("kpu")]:
            pairs = list(zip(results[name], results[other], strict=False))
            cost = statistics.mean(one["training_s"] / four["training_s"] for one, four in pairs)
            final = statistics.mean(one["force_rmse"][-1] / four["force_rmse"][-1] for one, four in pairs)
            print(f"{name}: training {cost:.2f} of {other}'s, final force RMSE {final:.2f} of {other}'s")
        for drawn in [drawn for drawn in ("random", "random-sane", "random-gated") if drawn in results]:
            pairs = list(zip(results[name], results[drawn], strict=False))
            text = ", ".join(share_of_labels(random, one) for one, random in pairs)
            print(f"{name}: labels that {drawn} needs for its final error, over its own: {text}")
            text = ", ".join(share_of_labels(one, random) for one, random in pairs)
            print(f"{name}: labels that it needs for the final error of {drawn}, over all of {drawn}: {text}")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
