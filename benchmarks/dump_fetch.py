"""Fetch selected frames of a LAMMPS dump, against ASE and pwdata reading it in the same invocation.

    python benchmarks/dump_fetch.py --size-mb 200 --fetch 100 --peer-mb 10

A dump of that size is written (512 atoms, triclinic, columns id type x y z fx fy fz). Ours: index of the whole file
and the chosen frames, from a fresh process with nothing indexed before. The peers cannot skip frames, so they read the
file from its beginning; as that takes minutes, they read a part of it and the time is scaled with the size (both are
linear in it: --peer-mb 0 makes them read all).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pwact_like.data.lammps_dump import DumpIndex

N_ATOMS = 512
STEPS_BETWEEN = 10


def write_dump(path: Path, size_bytes: int) -> int:
    """Write frames until the file has the size; returns their number."""
    rng = np.random.default_rng(0)
    written = frames = 0
    positions = rng.random((N_ATOMS, 3)) * 20.0
    with path.open("w") as stream:
        while written < size_bytes:
            positions += rng.normal(size=(N_ATOMS, 3)) * 0.01
            forces = rng.normal(size=(N_ATOMS, 3))
            rows = np.hstack([positions, forces])
            body = "\n".join(f"{i + 1} 1 " + " ".join([f"{value:.10f}" for value in row]) for i, row in enumerate(rows.tolist()))
            written += stream.write(
                f"ITEM: TIMESTEP\n{frames * STEPS_BETWEEN}\nITEM: NUMBER OF ATOMS\n{N_ATOMS}\nITEM: BOX BOUNDS xy xz yz pp pp pp\n"
                f"0.0 20.5 0.5\n0.0 20.25 0.0\n0.0 20.0 0.25\nITEM: ATOMS id type x y z fx fy fz\n{body}\n"
            )
            frames += 1
    return frames


def cut(source: Path, target: Path, size_bytes: int) -> int:
    """Whole frames of ``source`` up to a size; returns the bytes written."""
    index = DumpIndex.build(source).index
    end = int(index.ends[min(int(np.searchsorted(index.ends, size_bytes)), len(index) - 1)])
    with source.open("rb") as stream, target.open("wb") as out:
        out.write(stream.read(end))
    return end


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, its printing and progress bars swallowed."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        work()
    return time.perf_counter() - start


def read_with_ase(path: Path) -> int:
    """Every frame through ASE."""
    from ase.io import read

    return len(read(path, index=":", format="lammps-dump-text", units="metal", specorder=["Si"]))


def read_with_pwdata(path: Path) -> int:
    """Every frame through pwdata."""
    from pwdata import Config

    return len(Config("lammps/dump", str(path), atom_names=["Si"]).images)


def main() -> None:
    """Write, measure, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=200, help="size of the dump (default: 200)")
    parser.add_argument("--fetch", type=int, default=100, help="frames to fetch (default: 100)")
    parser.add_argument("--peer-mb", type=int, default=10, help="part that the peers read (default: 10; 0: all)")
    parser.add_argument("--folder", type=Path, default=None, help="where to write the dump (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        path = Path(name) / "all.lammpstrj"
        frames = write_dump(path, args.size_mb * 10**6)
        size = path.stat().st_size
        chosen = np.sort(np.random.default_rng(1).permutation(frames)[: min(args.fetch, frames)]) * STEPS_BETWEEN
        index_s = seconds(lambda: DumpIndex.build(path))
        ours_s = seconds(lambda: DumpIndex.build(path).fetch(chosen.tolist(), ["Si"]))
        part = Path(name) / "part.lammpstrj"
        part_size = cut(path, part, args.peer_mb * 10**6 if args.peer_mb else size)
        print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        told = f"{len(chosen)} frames fetched; peers read {part_size / 1e6:.0f} MB"
        print(f"dump: {size / 1e6:.0f} MB, {frames} frames of {N_ATOMS} atoms; {told}\n")
        print("| reader | seconds for the whole dump | ours is faster by |\n|---|---|---|")
        print(f"| pwact_like: index and {len(chosen)} frames (index alone {index_s:.2f} s) | {ours_s:.2f} | |")
        for peer, work in (("ASE", read_with_ase), ("pwdata", read_with_pwdata)):
            peer_s = seconds(lambda work=work: work(part)) * size / part_size  # type: ignore[misc]
            print(f"| {peer}: every frame | {peer_s:.1f} | {peer_s / ours_s:.0f} × |")


if __name__ == "__main__":
    main()
