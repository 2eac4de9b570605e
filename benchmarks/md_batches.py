"""Processor time of MD steps: several trajectories evaluated by one call on a joined graph, against one call for each.

Silicon cells of 8, 16 and 64 atoms and zincblende GaAs of 64, the "large" network (embedding 25-25-25, M2 16, fitting 50-50-50, Rmax
6 Å) with random weights, whose cost is that of trained ones. Every atom vibrates about its place (0.11 Å, periods of 50 to 150 fs, 1 fs
a step), so that neighbour lists are made anew as in a run at 300 K. Lone calls and joined calls alternate, round by round; the ratio is
the median of the rounds' own ratios.

With --whole: the command itself, start-up and files and all, for 12 short trajectories (committee of four, deviation at the frames):
one process each, one after the other, against one process for all; wall and processor time. The models' forces are scaled down and the
atoms are cold, so that random weights give sane runs.

    python benchmarks/md_batches.py [--steps 100] [--rounds 3] [--whole]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.outcome import TaskFiles

SIZES = (1, 2, 4, 8, 16)
CELLS = {"Si 8": ("Si", 1, 1, 1), "Si 16": ("Si", 2, 1, 1), "Si 64": ("Si", 2, 2, 2), "GaAs 64": ("GaAs", 2, 2, 2)}


def models_of(numbers: Sequence[int], count: int) -> list[Any]:
    """So many models of one shape with random weights."""
    import torch

    from pwact_like.potentials import DeepPotential, DeepPotSpec

    n = len(numbers)
    spec = DeepPotSpec(tuple(numbers), rmax_ang=6.0, rmin_ang=0.5, embedding=(25, 25, 25), m2=16, fitting=(50, 50, 50), sel=(100,) * n)
    spread = torch.full((n, 2), 0.1, dtype=torch.float64)
    return [DeepPotential(spec, seed, torch.zeros(n), spread, torch.zeros(n)) for seed in range(count)]


class Vibrating:
    """Structures whose atoms vibrate about their places."""

    def __init__(self, cell: str, count: int) -> None:
        import numpy as np
        from ase.build import bulk

        name, *repeat = CELLS[cell]
        one = bulk("Si", "diamond", a=5.43, cubic=True) if name == "Si" else bulk("GaAs", "zincblende", a=5.65, cubic=True)
        random = np.random.default_rng(1)
        self.structures = [one * repeat for _ in range(count)]
        self._places = [atoms.positions.copy() for atoms in self.structures]
        self._phases = [random.uniform(0.0, 2.0 * np.pi, place.shape) for place in self._places]
        self._rates = [2.0 * np.pi / random.uniform(50.0, 150.0, place.shape) for place in self._places]

    def move(self, step: int) -> list[Atoms]:
        """The structures at a step."""
        import numpy as np

        for atoms, place, phase, rate in zip(self.structures, self._places, self._phases, self._rates, strict=True):
            atoms.positions = place + 0.11 * np.sin(phase + rate * step)
        return self.structures


def processor_ms(evaluate: Callable[[list[Atoms]], None], moving: Vibrating, first: int, steps: int) -> float:
    """Milliseconds a step of all structures together, the motion itself left out."""
    spent = 0.0
    for step in range(first, first + steps):
        structures = moving.move(step)
        begin = time.process_time()
        evaluate(structures)
        spent += time.process_time() - begin
    return spent / steps * 1e3


def compare(cell: str, size: int, n_models: int, steps: int, rounds: int) -> tuple[float, float, float]:
    """(lone, joined) processor milliseconds a step and trajectory, and the median ratio."""
    from pwact_like.potentials.committee import Committee
    from pwact_like.potentials.joined import JoinedCommittee

    moving = Vibrating(cell, size)
    numbers = sorted(set(moving.structures[0].numbers.tolist()))
    lone: list[Committee] = [Committee(models_of(numbers, n_models)) for _ in range(size)]
    joined = JoinedCommittee(Committee(models_of(numbers, n_models)))

    def one_by_one(structures: list[Atoms]) -> None:
        for committee, atoms in zip(lone, structures, strict=True):
            committee.compute(atoms)

    def together(structures: list[Atoms]) -> None:
        joined.compute(dict(enumerate(structures)))

    for evaluate in (one_by_one, together):
        processor_ms(evaluate, moving, 0, 10)  # warm up
    times = []
    for turn in range(rounds):
        first = 10 + turn * steps
        pair = {evaluate: processor_ms(evaluate, moving, first, steps) for evaluate in (one_by_one, together)[:: 1 if turn % 2 else -1]}
        times.append((pair[one_by_one] / size, pair[together] / size))
    lone_ms, joined_ms = (statistics.median(column) for column in zip(*times, strict=True))
    return lone_ms, joined_ms, statistics.median(a / b for a, b in times)


def whole(cell: str, count: int, steps: int, folder: Path) -> dict[str, tuple[float, float]]:
    """(wall, processor) seconds of ``count`` trajectories by the command, one process each and one for all."""
    import torch

    from pwact_like.engines.explorers.embedded import EmbeddedExplorer
    from pwact_like.engines.explorers.md_files import MdResult
    from pwact_like.engines.protocols import ExploreRequest, MdSettings
    from pwact_like.potentials import save_model

    moving = Vibrating(cell, count)
    paths = []
    for number, model in enumerate(models_of(sorted(set(moving.structures[0].numbers.tolist())), 4)):
        with torch.no_grad():
            for output in model.output:
                output.weight *= 0.01
        paths.append(folder / f"model.{number}.pt")
        save_model(paths[-1], model)
    md = MdSettings("nvt", steps, 10, 0.001, 20.0)
    structures = moving.move(0)
    requests = {f"run.{n:02d}": ExploreRequest(atoms, tuple(paths), md, n, None) for n, atoms in enumerate(structures)}
    explorer = EmbeddedExplorer()
    for name, request in requests.items():
        link(explorer.write(folder / "lone" / name, request), folder / "lone" / name)
    link(explorer.write_batch(folder / "batch", requests), folder / "batch")
    program = [sys.executable, "-m", "pwact_like", "md"]
    found = {}
    for case, calls in (("one process each", [[name] for name in requests]), ("one for all", [list(requests)])):
        place = folder / ("batch" if case == "one for all" else "lone")
        wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        for names in calls:
            subprocess.run([*program, *(str(place / name / "md.json") for name in names)], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found[case] = time.perf_counter() - wall, cpu
        for name in requests:
            ended = MdResult.read(place / name)
            if ended.ended or ended.step != steps:
                raise SystemExit(f"{place / name}: {ended}")
    return found


def link(files: TaskFiles, folder: Path) -> None:
    """The links that a job's script makes."""
    for name, target in files.links:
        (folder / name).symlink_to(target)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--whole", action="store_true", help="the command itself with trajectories of 300 steps, instead of steps")
    parser.add_argument("--trajectories", type=int, default=12, help="with --whole: so many")
    args = parser.parse_args()
    if args.whole:
        print(f"{args.trajectories} trajectories of 300 steps, committee of four, one thread; seconds (wall, processor)")
        for cell in args.cells:
            with tempfile.TemporaryDirectory() as name:
                for case, (wall, cpu) in whole(cell, args.trajectories, 300, Path(name)).items():
                    print(f"{cell:10s}{case:20s}{wall:9.1f}{cpu:9.1f}", flush=True)
        return
    print(f"processor ms a step and trajectory, one thread, {args.rounds} rounds of {args.steps} steps; Python {sys.version.split()[0]}")
    print(f"{'cell':10s}{'models':>8s}{'joined':>8s}{'lone call':>11s}{'joined call':>13s}{'ratio':>8s}")
    for n_models in (1, 4):
        for cell in args.cells:
            for size in SIZES:
                lone, joined, ratio = compare(cell, size, n_models, args.steps, args.rounds)
                print(f"{cell:10s}{n_models:8d}{size:8d}{lone:11.2f}{joined:13.2f}{ratio:8.2f}", flush=True)


if __name__ == "__main__":
    main()
