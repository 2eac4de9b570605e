"""Selection among 10⁶ frames: time and memory of reading 1,000 deviation tables, classifying, choosing, writing the lists.

    python benchmarks/selection.py [--trajectories 1000] [--frames 1000]

The peer, in the same invocation, is numpy.loadtxt on the same tables, which is how DP-GEN reads them (reading only).
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HEADER = "#       step         max_devi_v         min_devi_v         avg_devi_v         max_devi_f         min_devi_f         avg_devi_f\n"


def make_tables(folder: Path, trajectories: int, frames: int) -> None:
    """Write tables in DeePMD-kit's form, as LAMMPS leaves them."""
    generator = np.random.default_rng(1)
    for index in range(trajectories):
        values = generator.uniform(0.0, 0.4, size=(frames, 6))
        steps = np.arange(frames) * 10
        rows = [f"{step:12d}" + "".join(f"{value:19.6e}" for value in row) for step, row in zip(steps, values.tolist(), strict=True)]
        (folder / f"{index:04d}.out").write_text(HEADER + "\n".join(rows) + "\n")


def select_all(folder: Path, trajectories: int, frames: int) -> None:
    """The part of the selection that grows with the number of frames; prints seconds and peak memory."""
    from pwact_like.stages.frame_pool import read_pool, write_csvs
    from pwact_like.uncertainty.choice import choose
    from pwact_like.uncertainty.levels import TrustLevels

    rows = [
        {
            "leaf": f"{index:04d}",
            "group": index // 10,
            "quota": 10,
            "structure": None,
            "frames_planned": frames,
            "trajectory": f"{index:04d}.xyz",
            "table": f"{index:04d}.out",
            "ended": "",
        }
        for index in range(trajectories)
    ]
    begin = time.perf_counter()
    pool = read_pool(rows, folder)
    read = time.perf_counter()
    classes = pool.classify(TrustLevels(0.1, 0.3))
    choice = choose(classes, pool.values, pool.groups, pool.quotas)
    chosen = time.perf_counter()
    write_csvs(folder, pool, classes, choice)
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parts = f"read {read - begin:.2f}, choose {chosen - read:.2f}, write {end - chosen:.2f}"
    print(f"ours: {len(pool.values)} frames in {end - begin:.2f} s ({parts})")
    print(f"peak memory of the whole process {peak:.0f} MB")


def read_with_loadtxt(folder: Path) -> float:
    """Seconds that numpy.loadtxt needs for the same tables."""
    begin = time.perf_counter()
    for path in sorted(folder.glob("*.out")):
        np.loadtxt(path)
    return time.perf_counter() - begin


def main() -> None:
    """Make the tables, run ours in a process of its own, then the peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        select_all(args.worker, args.trajectories, args.frames)
        return
    with tempfile.TemporaryDirectory() as name:
        make_tables(Path(name), args.trajectories, args.frames)
        sizes = ["--trajectories", str(args.trajectories), "--frames", str(args.frames)]
        for _ in range(3):
            subprocess.run([sys.executable, __file__, "--worker", name, *sizes], check=True)
        print(f"peer: numpy.loadtxt reads the same tables in {read_with_loadtxt(Path(name)):.2f} s (reading only)")


if __name__ == "__main__":
    main()
