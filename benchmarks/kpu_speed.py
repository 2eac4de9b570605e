"""KPU of a 64-atom silicon frame: the naive way, exactly, by probes and by samples, for two networks, one thread.

    python benchmarks/kpu_speed.py                     both networks
    python benchmarks/kpu_speed.py --data FRAMES.xyz   the first frame of a file instead of rattled diamond

Naive: after one forward pass, for each of the 192 force components one backward pass (torch's autograd on the model as
it trains) and one product of its gradient with the dense blocks of P; measured for some of the components, spread over the
frame, and scaled to all. Exact: the same 64 numbers by `kpu_exact`, with P as a filter holds it, as dense blocks, and as
the factors of a post-hoc posterior. Sampled: `kpu_sampled`, 16 draws that were made before. All in turns, in one process;
ratios are medians over the rounds. Everything includes the forward pass, and nothing the neighbour list.

A trajectory: 1,000 frames with their neighbour lists, all of them for samples, a part of them (scaled) for exact values.

Networks: small 8-16 / 4 / 32-32 (3,329 weights, one block), large 25-25-25 / 16 / 50-50-50 (26,551, blocks of 5,120),
random weights: times do not depend on them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.potentials import DeepPotential
    from pwact_like.potentials.block_matrix import BlockMatrix
    from pwact_like.potentials.geometry import Geometry

SAMPLES, PROBES = 16, 8


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="frames that ASE or pwdata can read; the first is taken (default: rattled diamond)")
    parser.add_argument("--net", choices=("small", "large"), help="one network only")
    parser.add_argument("--rounds", type=int, default=5, help="of each way, in turns (default: 5)")
    parser.add_argument("--components", type=int, default=48, help="force components of the naive way, scaled to all (default: 48)")
    parser.add_argument("--frames", type=int, default=1000, help="of the trajectory (default: 1000)")
    parser.add_argument("--exact-frames", type=int, default=20, help="of it for exact KPU, scaled (default: 20)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    atoms = first_frame(args.data)
    print(f"{len(atoms)} atoms ({atoms.get_chemical_formula()}), torch {torch.__version__}, one thread, load {os.getloadavg()[0]:.1f}")
    for net in (args.net,) if args.net else ("small", "large"):
        run(net, atoms, args)
    return 0


def first_frame(path: Path | None) -> Atoms:
    """The frame."""
    if path is not None:
        from pwact_like.data.formats import read_frames

        return read_frames(path)[0].atoms
    from ase.build import bulk

    atoms = bulk("Si", cubic=True).repeat(2)
    atoms.rattle(0.1, seed=1)
    return atoms


def new_model(net: str, atoms: Atoms) -> DeepPotential:
    """A model with random weights for the frame's elements; slots as for silicon at ordinary density."""
    from pwact_like.potentials import DeepPotential, DeepPotSpec

    elements = tuple(sorted(set(atoms.numbers.tolist())))
    shape = {"embedding": (8, 16), "m2": 4, "fitting": (32, 32)} if net == "small" else {}
    n = len(elements)
    davg, dstd = torch.full((n,), 0.1, dtype=torch.float64), torch.tensor([[0.1, 0.07]] * n, dtype=torch.float64)
    return DeepPotential(DeepPotSpec(elements, sel=(52,) * n, **shape), 1, davg, dstd)


def naive(model: DeepPotential, geometry: Geometry, matrix: BlockMatrix, components: np.ndarray) -> np.ndarray:
    """KPU of force components, one after the other."""
    parameters = list(model.parameters())
    forces = model(geometry).forces[0].reshape(-1)
    found = []
    for component in components:
        parts = torch.autograd.grad(forces[component], parameters, retain_graph=True, allow_unused=True)
        row = torch.cat([(torch.zeros_like(p) if part is None else part).reshape(-1) for part, p in zip(parts, parameters, strict=True)])
        blocks = zip(matrix.layout.slices(), matrix.blocks, strict=True)
        found.append(sum(float(row[part] @ torch.mv(block, row[part])) for part, block in blocks))
    return np.array(found)


def run(net: str, atoms: Atoms, args: argparse.Namespace) -> None:
    """One network."""
    from pwact_like.potentials import Committee
    from pwact_like.potentials.block_matrix import BlockMatrix
    from pwact_like.potentials.covariance import Covariance, block_layout
    from pwact_like.potentials.jacobian import force_jacobian
    from pwact_like.potentials.kpu import kpu_exact, kpu_hutchinson, kpu_sampled
    from pwact_like.potentials.posterior import Posterior

    model = new_model(net, atoms)
    geometry = Committee([model], "cpu").geometry(atoms)
    sizes = [parameter.numel() for parameter in model.parameters()]
    layout = block_layout(sizes, 5120)
    n = layout.n_weights
    generator = torch.Generator().manual_seed(2)
    covariance = Covariance(layout, torch.rand(n, dtype=torch.float64, generator=generator) + 0.5)
    covariance.push(0.3 * torch.randn((n, 40), dtype=torch.float64, generator=generator) / n**0.5)
    matrix = BlockMatrix.of(covariance)
    posterior = Posterior(BlockMatrix(layout, [block.clone() for block in matrix.blocks]), 1e-4)
    samples = 0.01 * torch.randn((SAMPLES, n), dtype=torch.float64, generator=generator)
    n_components = 3 * len(atoms)
    chosen = np.unique(np.linspace(0, n_components - 1, min(args.components, n_components)).astype(int))

    print(f"\n{net}: {n} weights, {layout.n_blocks} block(s), the largest {max(layout.sizes)}")
    rows = force_jacobian(model, geometry)
    truth, found = naive(model, geometry, matrix, chosen), matrix.quadratic(rows).numpy()[chosen]
    print(f"  the exact way differs from the naive one by {np.abs(found / truth - 1.0).max():.1e} (relative, the worst component)")

    ways: dict[str, Callable[[], object]] = {
        "naive": lambda: naive(model, geometry, matrix, chosen),
        "exact, P of a filter": lambda: kpu_exact(model, geometry, covariance),
        "exact, P in dense blocks": lambda: kpu_exact(model, geometry, matrix),
        "exact, post-hoc posterior": lambda: kpu_exact(model, geometry, posterior),
        "(its Jacobian alone)": lambda: force_jacobian(model, geometry),
        f"mean by {PROBES} probes, dense blocks": lambda: kpu_hutchinson(model, geometry, matrix, PROBES),
        f"sampled, {SAMPLES} draws": lambda: kpu_sampled(model, geometry, samples),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, function in ways.items():
            begin = time.perf_counter()
            function()
            scale = n_components / len(chosen) if way == "naive" else 1.0
            times[way].append(scale * (time.perf_counter() - begin))
    for way, taken in times.items():
        ratio = statistics.median(slow / fast for slow, fast in zip(times["naive"], taken, strict=True))
        note = (
            f"measured for {len(chosen)} of {n_components} components, scaled"
            if way == "naive"
            else f"{ratio:6.1f} times faster than naive"
        )
        print(f"  {way:32s} {1e3 * statistics.median(taken):9.1f} ms   {note}")

    trajectory = list(shaken(atoms, args.frames))
    committee = Committee([model], "cpu")
    begin = time.perf_counter()
    for frame in trajectory:
        kpu_sampled(model, committee.geometry(frame), samples)
    sampled = time.perf_counter() - begin
    begin = time.perf_counter()
    some = trajectory[: args.exact_frames]
    for frame in some:
        kpu_exact(model, committee.geometry(frame), matrix)
    exact = (time.perf_counter() - begin) * len(trajectory) / len(some)
    slow = len(trajectory) * statistics.median(times["naive"])
    print(f"  a trajectory of {len(trajectory)} frames: sampled {sampled:.1f} s (measured), exact {exact:.0f} s", end="")
    print(f" (measured for {len(some)} frames, scaled); naive would take {slow:.0f} s")


def shaken(atoms: Atoms, count: int) -> list[Atoms]:
    """Frames that differ from one another."""
    frames = []
    for seed in range(count):
        frame = atoms.copy()
        frame.rattle(0.05, seed=seed)
        frames.append(frame)
    return frames


if __name__ == "__main__":
    sys.exit(main())
