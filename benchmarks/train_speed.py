"""Training a Deep Potential: time a step and errors, beside DeePMD-kit in the same invocation, one thread.

    python benchmarks/train_speed.py --dp PATH/TO/dp                 a few epochs of each, in turns: ms a step
    python benchmarks/train_speed.py --dp PATH/TO/dp --accuracy      15,960 steps of each: validation errors

Data: Si64 (210 frames of 64 atoms, PWmat), 168 frames train and 42 validate, split by numpy's default_rng(0). Network
25-25-25, M2 16, 50-50-50, Rmax 6, Rmin 0.5 (26,551 weights), float64, batch 1, Adam 1e-3 → 3.5e-6, prefactors energy
0.02 → 1, force 1000 → 1. Our time is that of `pwact-like train` with everything that comes with a step (environments
built at the first visit, learning curve, checkpoints), validation left out as DeePMD-kit's figure leaves it out
("average training time", its first hundred steps excluded).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "Si64_aimd_pwmat.xyz"
LINES_A_FRAME = 66
EPOCHS_OF_ACCURACY = 95  # 15,960 steps


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dp", default=os.environ.get("PWACT_LIKE_BENCH_DP"), help="DeePMD-kit's dp (or PWACT_LIKE_BENCH_DP)")
    parser.add_argument("--data", type=Path, default=DATA, help="Si64_aimd_pwmat.xyz")
    parser.add_argument("--epochs", type=int, default=4, help="of each run for speed, 168 steps each (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns (default: 3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--accuracy", action="store_true", help=f"{EPOCHS_OF_ACCURACY} epochs of each, and their errors on the validation frames"
    )
    args = parser.parse_args()
    if not args.data.is_file():
        parser.error(f"{args.data} is missing: give --data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split(args.data, folder)
        if args.accuracy:
            accuracy(args, folder)
        else:
            speed(args, folder)
    return 0


def split(source: Path, folder: Path) -> None:
    """train.xyz and valid.xyz from the lines as they are."""
    lines = source.read_text().splitlines()
    frames = ["\n".join(lines[first : first + LINES_A_FRAME]) for first in range(0, len(lines), LINES_A_FRAME)]
    order = np.random.default_rng(0).permutation(210)
    for name, chosen in (("train", sorted(order[:168])), ("valid", sorted(order[168:]))):
        (folder / f"{name}.xyz").write_text("\n".join(frames[index] for index in chosen) + "\n")


def one_thread() -> dict[str, str]:
    """Environment of both programs."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS")
    return {**os.environ, **dict.fromkeys(names, "1")}


def train_ours(folder: Path, epochs: int, seed: int, validate: bool) -> str:
    """`pwact-like train`; what it prints."""
    settings = {
        "atom_type": ["Si"],
        "train_data": [{"path": "train.xyz", "virial_sign": -1}],
        "optimizer": {"optimizer": "ADAM", "epochs": epochs, "print_freq": 100},
        "seed": seed,
    }
    if validate:
        settings["valid_data"] = [{"path": "valid.xyz", "virial_sign": -1}]
    (folder / "train.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pwact_like", "train", str(folder / "train.json"), "-o", str(folder / "ours"), "--device", "cpu"]
    return subprocess.run(command, env=one_thread(), cwd=ROOT, capture_output=True, text=True, check=True).stdout


def train_peer(dp: str, folder: Path, steps: int, seed: int) -> float:
    """DeePMD-kit; its own figure of seconds a step."""
    from pwact_like.data.formats import read_frames

    for name in ("train", "valid"):
        frames = read_frames(folder / f"{name}.xyz", "extxyz")
        target = folder / name / "set.000"
        target.mkdir(parents=True, exist_ok=True)
        np.save(target / "coord.npy", np.array([frame.atoms.positions.ravel() for frame in frames]))
        np.save(target / "box.npy", np.array([frame.atoms.cell.array.ravel() for frame in frames]))
        np.save(target / "energy.npy", np.array([frame.label.energy_ev for frame in frames]))
        np.save(target / "force.npy", np.array([frame.label.forces_ev_per_ang.ravel() for frame in frames]))
        (folder / name / "type.raw").write_text("0\n" * 64)
        (folder / name / "type_map.raw").write_text("Si\n")
    descriptor = {"type": "se_e2_a", "rcut": 6.0, "rcut_smth": 0.5, "sel": "auto", "neuron": [25, 25, 25], "axis_neuron": 16}
    descriptor |= {"type_one_side": False, "resnet_dt": False, "seed": seed}
    settings = {
        "model": {"type_map": ["Si"], "descriptor": descriptor, "fitting_net": {"neuron": [50, 50, 50], "resnet_dt": False, "seed": seed}},
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 3.5e-6, "decay_steps": max(1, steps // 200)},
        "loss": {
            "type": "ener",
            "start_pref_e": 0.02,
            "limit_pref_e": 1,
            "start_pref_f": 1000,
            "limit_pref_f": 1,
            "start_pref_v": 0,
            "limit_pref_v": 0,
        },
        "training": {
            "training_data": {"systems": [str(folder / "train")], "batch_size": 1},
            "numb_steps": steps,
            "seed": seed,
            "disp_freq": 100,
            "save_freq": steps,
        },
    }
    (folder / "input.json").write_text(json.dumps(settings))
    done = subprocess.run([dp, "--pt", "train", "input.json"], cwd=folder, env=one_thread(), capture_output=True, text=True, check=True)
    found = re.search(r"average training time: ([\d.]+) s/batch", done.stdout + done.stderr)
    if found is None:
        raise SystemExit(f"DeePMD-kit told no training time:\n{done.stderr[-2000:]}")
    return float(found.group(1))


def speed(args: argparse.Namespace, folder: Path) -> None:
    """Milliseconds a step, in turns."""
    ours, peer = [], []
    for turn in range(args.rounds):
        printed = train_ours(folder, args.epochs, args.seed, validate=False)
        ours.append(float(re.search(r"([\d.]+) ms each", printed).group(1)))
        if args.dp:
            peer.append(1e3 * train_peer(args.dp, folder, 168 * args.epochs, args.seed))
        print(f"round {turn + 1}: pwact-like {ours[-1]:.1f} ms a step" + (f", DeePMD-kit {peer[-1]:.1f} ms" if peer else ""), flush=True)
    print(f"median: pwact-like {statistics.median(ours):.1f} ms a step", end="")
    if peer:
        ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, peer, strict=True))
        print(f", DeePMD-kit {statistics.median(peer):.1f} ms; ratio {ratio:.2f}", end="")
    print()


def accuracy(args: argparse.Namespace, folder: Path) -> None:
    """Errors on the validation frames after 15,960 steps."""
    print("pwact-like:", train_ours(folder, EPOCHS_OF_ACCURACY, args.seed, validate=True), flush=True)
    if not args.dp:
        return
    seconds = train_peer(args.dp, folder, 168 * EPOCHS_OF_ACCURACY, args.seed)
    test = [args.dp, "--pt", "test", "-m", "model.ckpt.pt", "-s", "valid", "-n", "42"]
    done = subprocess.run(test, cwd=folder, env=one_thread(), capture_output=True, text=True, check=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if re.search(r"(Energy|Force)\s+RMSE", line)]
    print(f"DeePMD-kit, {1e3 * seconds:.1f} ms a step:\n" + "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
