"""Milliseconds of one MD step: one model, a committee of four at every step, and DeePMD-kit's ASE calculator beside it.

64 atoms of silicon, the "large" network (embedding 25-25-25, M2 16, fitting 50-50-50, Rmax 6 Å), 300 K, 1 fs, a frame
every 10 steps, one thread. All models are trained for a few hundred steps first, so that the runs are sane. The peer
trains and freezes its own model of the same shape, and runs ASE's velocity Verlet with it; its committee is four
calculators asked at every step. Rounds of both alternate, because the machine is shared; the median counts.

    python benchmarks/md_speed.py --data ../shared/data/Si64_aimd_pwmat.xyz [--dp-python DEEPMD/bin/python]

Goals: at most 10 ms a step for one model, at most twice that for four at every step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

N_MODELS = 4

PEER = """
import json, sys, time
from ase import units
from ase.io import read
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
import numpy as np, torch
from deepmd.calculator import DP
torch.set_num_threads(1)
model, structure, steps, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
atoms = read(structure)
atoms.calc = DP(model=model)
others = [DP(model=model) for _ in range(count - 1)]
MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.RandomState(1))
dynamics = VelocityVerlet(atoms, 1 * units.fs)
if others:
    def ask():
        for other in others:
            other.calculate(atoms, ["energy", "forces", "stress"])
    dynamics.attach(ask, interval=1)
dynamics.attach(lambda: atoms.copy().write("peer.xyz", append=True), interval=10)
dynamics.run(30)
wall, cpu = time.perf_counter(), time.process_time()
dynamics.run(steps)
print(json.dumps([(time.perf_counter() - wall) / steps * 1e3, (time.process_time() - cpu) / steps * 1e3]))
"""


def our_models(data: Path, folder: Path, epochs: int) -> list[Path]:
    """Train four members."""
    from pwact_like.config.common import DataPath
    from pwact_like.config.train import Optimizer, TrainSettings
    from pwact_like.potentials import train

    paths = []
    for seed in range(N_MODELS):
        settings = TrainSettings(atom_type=(14,), train_data=(DataPath(path=data),), optimizer=Optimizer(epochs=epochs), seed=seed)
        paths.append(train(settings, folder / f"ours.{seed}", progress=False).model)
    return paths


def our_step(models: list[Path], data: Path, folder: Path, steps: int, every_step: bool) -> tuple[float, float]:
    """(wall, processor) milliseconds of one step."""
    from pwact_like.data.formats import read_frames
    from pwact_like.engines.explorers.dynamics import run_md
    from pwact_like.engines.explorers.md_input import MdInput, StopLimits
    from pwact_like.engines.explorers.potential import ModelPotential
    from pwact_like.engines.protocols import MdSettings

    atoms = read_frames(data)[0].atoms
    potential = ModelPotential(tuple(models))
    times = []
    for n in (30, steps):  # the first run warms up
        shutil.rmtree(folder, ignore_errors=True)
        md = MdSettings("nve", n, 10, 0.001, 300.0)
        run = MdInput(data, (), md, 1, StopLimits(), deviation_every_step=every_step, checkpoint_steps=200)
        wall, cpu = time.perf_counter(), time.process_time()
        result = run_md(atoms, potential, run, folder)
        times = [(time.perf_counter() - wall) / n * 1e3, (time.process_time() - cpu) / n * 1e3]
        if result.ended:
            raise SystemExit(f"the run ended early: {result.ended}")
    return times[0], times[1]


def peer_model(dp: Path, data: Path, folder: Path, steps: int) -> Path:
    """Train and freeze DeePMD-kit's model of the same shape."""
    from pwact_like.data.formats import read_frames, write_frames

    systems = folder / "peer.npy"
    write_frames(systems, read_frames(data), "deepmd/npy")
    system = next(path.parent for path in systems.rglob("type.raw"))
    network = {
        "type_map": ["Si"],
        "descriptor": {
            **{"type": "se_e2_a", "sel": [100], "rcut": 6.0, "rcut_smth": 0.5, "neuron": [25, 25, 25], "axis_neuron": 16},
            **{"resnet_dt": False, "type_one_side": False, "precision": "float64", "seed": 1},
        },
        "fitting_net": {"neuron": [50, 50, 50], "resnet_dt": False, "precision": "float64", "seed": 1},
    }
    training = {
        **{"training_data": {"systems": [str(system)], "batch_size": 1}, "numb_steps": steps, "seed": 1, "disp_freq": 100},
        **{"save_freq": steps, "save_ckpt": "ckpt"},
    }
    rate = {"type": "exp", "decay_steps": max(1, steps // 10), "start_lr": 1e-3, "stop_lr": 3.5e-6}
    loss = {
        **{"type": "ener", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
        **{"start_pref_v": 0, "limit_pref_v": 0},
    }
    text = json.dumps({"model": network, "learning_rate": rate, "loss": loss, "training": training})
    (folder / "input.json").write_text(text)
    for arguments in (["train", "input.json"], ["freeze", "-o", "peer.pth"]):
        subprocess.run([dp, "--pt", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return folder / "peer.pth"


def peer_step(python: Path, model: Path, structure: Path, folder: Path, steps: int, count: int) -> tuple[float, float]:
    """(wall, processor) milliseconds of one step."""
    command = [python, "-c", PEER, model, structure, str(steps), str(count)]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    wall, cpu = json.loads(done.stdout.strip().splitlines()[-1])
    return wall, cpu


def main() -> None:
    """Train, run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="labelled frames of silicon to train on")
    parser.add_argument("--dp-python", type=Path, help="Python that has deepmd-kit (PyTorch) and ASE")
    parser.add_argument("--steps", type=int, default=500, help="MD steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="epochs of the training beforehand")
    args = parser.parse_args()
    from pwact_like.data.formats import read_frames
    from pwact_like.data.xyz_trajectory import XyzTrajectoryWriter

    data = args.data.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = our_models(data, folder, args.epochs)
        frames = read_frames(data)
        cases = {
            "one model": lambda: our_step(models[:1], data, folder / "run", args.steps, False),
            "four, every step": lambda: our_step(models, data, folder / "run", args.steps, True),
            "four, at frames": lambda: our_step(models, data, folder / "run", args.steps, False),
        }
        if args.dp_python:
            start = folder / "start.xyz"
            with XyzTrajectoryWriter(start) as writer:
                writer.write(frames[0].atoms, 0)
            peer = peer_model(args.dp_python.parent / "dp", data, folder, args.epochs * len(frames))
            cases["DeePMD-kit, one model"] = lambda: peer_step(args.dp_python, peer, start, folder, args.steps, 1)
            cases["DeePMD-kit, four, every step"] = lambda: peer_step(args.dp_python, peer, start, folder, args.steps, N_MODELS)
        times: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
        for _ in range(args.rounds):
            for case, measure in cases.items():
                times[case].append(measure())
    print(
        f"{len(frames[0].atoms)} atoms, ms a step, one thread, {args.rounds} rounds of {args.steps} steps; Python {sys.version.split()[0]}"
    )
    print(f"{'':32s}{'median':>9s}{'least':>9s}{'processor':>11s}")
    for case, pairs in times.items():
        walls = [pair[0] for pair in pairs]
        print(f"{case:32s}{statistics.median(walls):9.2f}{min(walls):9.2f}{statistics.median(pair[1] for pair in pairs):11.2f}")


if __name__ == "__main__":
    main()
