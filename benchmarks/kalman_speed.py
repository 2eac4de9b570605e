"""A step of the Kalman filter: seconds, beside DeePMD-kit's LKF in the same invocation, one thread.

    python benchmarks/kalman_speed.py --dp PATH/TO/dp      both networks, P in double and in single precision, in turns
    python benchmarks/kalman_speed.py --net large          one network only, without the peer
    python benchmarks/kalman_speed.py --profile            where a step's time goes

A step takes one structure: one energy and four force updates. Data: Si64 (64 atoms, PWmat), Rmax 6, Rmin 0.5, blocks of 5,120.
Networks: large 25-25-25, M2 16, 50-50-50 (26,551 weights) and small 8-16, M2 4, 32-32 (3,329 weights). Our time is that
of `pwact-like train`, one epoch of as many frames as a run has steps. What comes before the first step (environments and the
filter's coordinates) is no part of it, nor are checkpoints (one a minute): --profile tells what these cost. DeePMD-kit's
figure is its own "average training time", whose first third of the steps is left out. DeePMD-kit is run for a few steps
only: a step with the large network takes some ten seconds. The ratio is the median over the rounds of peer/ours.
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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_sets import NETWORKS, ROOT, SETS, add_folder, machine, one_thread, read, train_json, train_settings
from epochs import Training
from peer_deepmd import BLOCK, DeepmdLkf

FOUR_GROUPS = {"nselect": 24, "groupsize": 6}  # one energy and four force updates, as the peer does


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dp", default=os.environ.get("PWACT_LIKE_BENCH_DP"), help="DeePMD-kit's dp (or PWACT_LIKE_BENCH_DP)")
    parser.add_argument("--net", choices=tuple(NETWORKS), help="one network only")
    parser.add_argument("--steps", type=int, default=100, help="of our runs, 210 at most (default: 100)")
    parser.add_argument("--dp-steps", type=int, default=6, help="of DeePMD-kit's with the large network; five times as many with the small")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns (default: 3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="where the time goes instead, within one process")
    add_folder(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    frames = read("si64", args.data_folder)
    print(machine(), flush=True)
    for net in (args.net,) if args.net else ("large", "small"):
        if args.profile:
            for single in (False, True):
                profile(net, frames, args, single)
        else:
            speed(net, frames, args)
    return 0


def speed(net: str, frames: list, args: argparse.Namespace) -> None:
    """Seconds a step, in turns."""
    from pwact_like.data.formats import write_frames

    dp_steps = args.dp_steps * (5 if net == "small" else 1)
    times: dict[str, list[float]] = {"P float64": [], "P float32": []}
    if args.dp:
        times["DeePMD-kit"] = []
    print(f"{net}, {NETWORKS[net]}:", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder / "train.xyz", frames[: args.steps])
        for turn in range(args.rounds):
            for way, taken in times.items():
                if way == "DeePMD-kit":
                    peer = DeepmdLkf(args.dp, folder / f"peer.{turn}", frames[: args.steps], SETS["si64"].elements, NETWORKS[net])
                    taken.append(peer.train(dp_steps, args.seed))
                else:
                    taken.append(ours(folder, f"{turn}.{way.split()[-1]}", net, args.seed, single=way == "P float32"))
            found = ", ".join(f"{way} {taken[-1]:.4f} s" for way, taken in times.items())
            print(f"  round {turn + 1}: {found} a step, load {os.getloadavg()[0]:.1f}", flush=True)
    for way, taken in times.items():
        note = ""
        if args.dp and way != "DeePMD-kit":
            ratio = statistics.median(peer / mine for peer, mine in zip(times["DeePMD-kit"], taken, strict=True))
            note = f"; DeePMD-kit takes {ratio:.1f} times as long"
        print(f"  median {way}: {statistics.median(taken):.4f} s a step{note}", flush=True)


def ours(folder: Path, name: str, net: str, seed: int, *, single: bool) -> float:
    """`pwact-like train` for one epoch; the figure that it prints, in seconds."""
    optimizer = {"optimizer": "LKF", "epochs": 1, "block_size": BLOCK, "p_float32": single, **FOUR_GROUPS}
    settings = train_json(SETS["si64"].elements, NETWORKS[net], optimizer, seed) | {"train_data": [{"path": "train.xyz"}]}
    source = folder / f"{name}.json"
    source.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pwact_like", "train", str(source), "-o", str(folder / name), "--device", "cpu"]
    done = subprocess.run(command, env=one_thread(), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pwact-like train failed:\n{done.stderr[-2000:]}")
    return 1e-3 * float(re.search(r"([\d.]+) ms each", done.stdout).group(1))


class Watch:
    """Wall time of functions that are replaced by timed ones."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def put(self, what: str, owner: Any, name: str) -> None:
        """Time a function or a bound method, under a name."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began

        setattr(owner, name, timed)


def profile(net: str, frames: list, args: argparse.Namespace, single: bool) -> None:
    """One epoch in this process, its parts timed, and a checkpoint."""
    from pwact_like.potentials import steppers
    from pwact_like.potentials.checkpoint import Progress, write_checkpoint
    from pwact_like.potentials.loss import SquaredErrors

    optimizer = {"name": "LKF", "epochs": 1, "block_size": BLOCK, "p_float32": single, **FOUR_GROUPS}
    training = Training(train_settings(SETS["si64"].elements, NETWORKS[net], optimizer, args.seed), frames[: args.steps])
    stepper, kept = training.stepper, (steppers.observe, steppers.gradients_of)
    covariance = stepper.filter.covariance
    watch = Watch()
    watch.put("forward: energies and forces", training.model, "forward")
    watch.put("observations", steppers, "observe")
    watch.put("gradients: five backward passes", steppers, "gradients_of")
    watch.put("coordinates of the filter", stepper.coordinates, "gradient")
    watch.put("coordinates of the filter", stepper.coordinates, "step")
    watch.put("product with P", covariance, "base_product")
    watch.put("merge of the rank-1 updates into P", covariance, "merge")
    watch.put("other of the filter", covariance, "by_block")
    watch.put("other of the filter", covariance, "push")
    watch.put("other of the filter", covariance, "scaled")
    watch.put("other of the filter", stepper.filter, "_forget")
    before, training.seconds = training.seconds, 0.0
    began = time.process_time()
    list(training.epochs())
    processor = time.process_time() - began
    steppers.observe, steppers.gradients_of = kept
    n_steps, layout = len(training.training), stepper.filter.layout
    size = layout.n_numbers * (4 if single else 8)
    print(
        f"{net}, {NETWORKS[net]}: {layout.n_weights} weights, {layout.n_blocks} block(s), P in {'single' if single else 'double'} precision"
    )
    print(f"  {n_steps} steps: {1e3 * training.seconds / n_steps:.1f} ms a step (processor {1e3 * processor / n_steps:.1f} ms), of these")
    parts = watch.seconds | {"the rest": training.seconds - sum(watch.seconds.values())}
    for what, taken in sorted(parts.items(), key=lambda part: -part[1]):
        print(f"  {1e3 * taken / n_steps:9.2f} ms  {taken / training.seconds:5.1%}  {what}")
    reading = n_steps * size / watch.seconds["product with P"] * 1e-9
    print(f"  P is {size / 1e6:.0f} MB (half of it is kept) and read at {reading:.1f} GB/s; a plain copy moves {copying():.1f} GB/s")
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        write_checkpoint(Path(name) / "checkpoint.pt", "key", stepper, Progress(0, "", SquaredErrors()))
        print(f"  a checkpoint, one a minute: {time.perf_counter() - began:.2f} s; before the first step: {before:.2f} s", flush=True)


def copying(size: int = 1 << 28) -> float:
    """Bytes read and written by numpy's copy in a second, in 10⁹."""
    source, target = np.ones(size // 8), np.empty(size // 8)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        np.copyto(target, source)
        taken.append(time.perf_counter() - began)
    return 2e-9 * size / min(taken)


if __name__ == "__main__":
    sys.exit(main())
