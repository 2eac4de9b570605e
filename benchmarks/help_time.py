"""Seconds of ``pwact-like --help`` and of every ``CMD -h``, each in a process of its own: the goal is 0.3 s.

Call it as ``python benchmarks/help_time.py [--repeat N]``.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import time
from pathlib import Path

from pwact_like.cli.main import COMMANDS

LAUNCHER = Path(__file__).resolve().parents[1] / "bin" / "pwact-like"


def measure(arguments: list[str], repeat: int) -> tuple[float, float, float]:
    """Least and median wall time, and median time of the processor, in seconds."""
    wall, processor = [], []
    for _ in range(repeat):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run([LAUNCHER, *arguments], check=True, stdout=subprocess.DEVNULL)
        wall.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(wall), statistics.median(wall), statistics.median(processor)


def main() -> None:
    """Print a line for each help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15, help="runs of each (default: 15)")
    args = parser.parse_args()
    print("| help of | least wall, s | median wall, s | median processor, s |\n|---|---|---|---|")
    for arguments in [["--help"], *([name, "-h"] for name in COMMANDS)]:
        least, median, processor = measure(arguments, args.repeat)
        print(f"| {' '.join(arguments)} | {least:.3f} | {median:.3f} | {processor:.3f} |")


if __name__ == "__main__":
    main()
