"""Small models and structures of two elements for the tests of derivatives by weights, KPU and posteriors."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from pwact_like.data.frames import Frame, Label
from pwact_like.potentials import Committee, DeepPotential, DeepPotSpec
from pwact_like.potentials.geometry import Geometry
from pwact_like.potentials.training_set import TrainingSet, prepare_frames

SMALL = DeepPotSpec((3, 14), rmax_ang=4.4, rmin_ang=1.0, embedding=(4, 8), m2=3, fitting=(6, 6), sel=(14, 20))


def rough_model(spec: DeepPotSpec = SMALL, seed: int = 3) -> DeepPotential:
    """Random weights, and statistics that make empty slots count (davg is not zero)."""
    n = spec.n_types
    davg = torch.linspace(0.05, 0.09, n, dtype=torch.float64)
    dstd = torch.linspace(0.07, 0.13, 2 * n, dtype=torch.float64).view(n, 2)
    return DeepPotential(spec, seed, davg, dstd, torch.linspace(-3.0, -2.0, n, dtype=torch.float64))


def rough_cell(seed: int = 5, n_atoms: int = 6) -> Atoms:
    """A few atoms of lithium and silicon in a skewed cell smaller than twice the cutoff."""
    rng = np.random.default_rng(seed)
    cell = np.array([[5.2, 0, 0], [0.4, 5.6, 0], [-0.3, 0.5, 4.9]])
    scaled = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.25, 0.25, 0.3], [0.75, 0.7, 0.25]])[:n_atoms]
    numbers = np.array([14, 3, 14, 14, 3, 14])[:n_atoms]
    return Atoms(numbers=numbers, positions=scaled @ cell + rng.normal(scale=0.15, size=scaled.shape), cell=cell, pbc=True)


def geometry_of(model: DeepPotential, atoms: Atoms) -> Geometry:
    return Committee([model], "cpu").geometry(atoms)


def training_set(model: DeepPotential, structures: list[Atoms], seed: int = 0, *, virials: bool = False) -> TrainingSet:
    """Structures with labels that scatter about the model's own word: 2 meV/atom, 0.05 eV/Å, 10 meV/atom."""
    rng = np.random.default_rng(seed)
    frames = []
    for number, atoms in enumerate(structures):
        with torch.no_grad():
            said = model(geometry_of(model, atoms), virials=True)
        energy = float(said.energies[0, 0]) + 0.002 * len(atoms) * rng.normal()
        forces = said.forces[0].numpy() + 0.05 * rng.normal(size=(len(atoms), 3))
        virial = said.virials[0, 0].numpy() + 0.01 * len(atoms) * rng.normal(size=(3, 3)) if virials else None
        frames.append((f"frame {number}", Frame(atoms, Label(energy, forces, virial))))
    return TrainingSet(prepare_frames(frames, model.spec), model.spec, model.davg, model.dstd)


def autograd_rows(model: DeepPotential, geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The naive way: one backward pass for each scalar. ∂E/∂θ (n,), ∂F/∂θ (3N, n), ∂W/∂θ (6, n) for xx, yy, zz, xy, xz, yz."""
    parameters = list(model.parameters())
    said = model(geometry, virials=True, plain=True)

    def row(value: torch.Tensor) -> torch.Tensor:
        if not value.requires_grad:  # isolated atoms: forces do not depend on anything
            return torch.cat([torch.zeros_like(parameter).reshape(-1) for parameter in parameters])
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        parts = zip(found, parameters, strict=True)
        return torch.cat([(torch.zeros_like(parameter) if part is None else part).reshape(-1) for part, parameter in parts])

    virial = said.virials[0, 0]
    components = [virial[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    return (
        row(said.energies[0, 0]),
        torch.stack([row(value) for value in said.forces[0].reshape(-1)]),
        torch.stack([row(value) for value in components]),
    )


def random_covariance(n: int, seed: int, rank: int = 30) -> torch.Tensor:
    """A dense positive definite matrix."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(n, rank))
    return torch.from_numpy(columns @ columns.T / rank + np.diag(rng.uniform(0.1, 0.3, size=n)))
