"""Kalman prediction uncertainty: what a covariance of the weights says of energies and forces.

With h = ∂o/∂θ at the trained weights, KPU(o) = hᵀ P h (ALKPU: Li et al., arXiv 2411.13850) is the variance that o has
when the weights have the covariance P. Of forces it is given per atom as the sum over x, y, z: single components depend
on how the structure is turned, their sum does not. P may be a filter's `Covariance`, a post-hoc `Posterior`, or a
`BlockMatrix`; where it lives in other coordinates φ, θ = T φ, gradients are taken there first.

Three ways to the same number, for N atoms and n weights:

- exact: all 3N gradients, and their quadratic forms as products of matrices;
- by probes (Hutchinson): the mean over components only, (1/3N) E[(Jᵀv)ᵀ P (Jᵀv)] with v = ±1;
- by samples: u² ≈ mean_s |J δ_s|² with δ_s ~ N(0, P), relative error √(2/S) of each component's variance. P is not needed
  any more once the δ_s are drawn, and a structure costs little more than S evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.geometry import Geometry
from pwact_like.potentials.jacobian import Linearization
from pwact_like.seeds import derive_seed

ROWS_AT_ONCE = 1 << 24
"""Numbers of a part of the Jacobian: a large cell's atoms are taken in turns."""


class WeightCovariance(Protocol):
    """P."""

    def product(self, x: Tensor) -> Tensor:
        """P x for the columns of x, (n, m)."""


@runtime_checkable
class QuadraticForm(Protocol):
    """A P that knows a shorter way to hᵀ P h than its product."""

    def quadratic(self, rows: Tensor) -> Tensor:
        """Quadratic form of each row, (m, n) → (m,)."""


class WeightCoordinates(Protocol):
    """θ = T φ, with P = cov(φ)."""

    def gradient(self, gradient: Tensor) -> Tensor:
        """Tᵀ of the rows, (…, n) → (…, n)."""

    def step(self, step: Tensor) -> Tensor:
        """T of directions in φ, (…, n) → (…, n)."""


@dataclass(frozen=True, eq=False)
class Variances:
    """What an uncertainty says of a structure.

    Attributes
    ----------
    force
        (N,) variance of each atom's force, summed over x, y, z; (eV/Å)² where P is a covariance in earnest, else in
        arbitrary units (a filter's own P: calibrate it).
    energy
        Variance of the energy an atom, (eV/atom)².
    """

    force: NDArray[np.float64]
    energy: float


class Uncertainty(Protocol):
    """Anything that gives `Variances` for a structure."""

    def variances(self, geometry: Geometry) -> Variances:
        """Variances of the forces of each atom and of the energy an atom, of one frame."""


def quadratic(covariance: WeightCovariance, rows: Tensor, coordinates: WeightCoordinates | None = None) -> Tensor:
    """Quadratic form hᵀ P h of each gradient by the weights, (m, n) → (m,), in double precision."""
    rows = rows if coordinates is None else coordinates.gradient(rows)
    if isinstance(covariance, QuadraticForm):
        return covariance.quadratic(rows)
    columns = rows.t().to(getattr(covariance, "dtype", rows.dtype))
    return (columns.to(rows.dtype) * covariance.product(columns).to(rows.dtype)).sum(dim=0)


def kpu_exact(
    model: DeepPotential, geometry: Geometry, covariance: WeightCovariance, coordinates: WeightCoordinates | None = None
) -> Variances:
    """Force variance of every atom and energy variance, exactly."""
    linear = Linearization(model, geometry)
    at_once = max(1, ROWS_AT_ONCE // (3 * linear.n_weights))
    atoms = torch.arange(linear.n_atoms)
    parts = [quadratic(covariance, linear.force_jacobian(some), coordinates) for some in torch.split(atoms, at_once)]
    by_atom = torch.cat(parts).view(-1, 3).sum(dim=1)
    energy = quadratic(covariance, linear.energy_gradient().unsqueeze(0) / linear.n_atoms, coordinates)
    return Variances(by_atom.cpu().numpy(), float(energy))


def kpu_hutchinson(
    model: DeepPotential,
    geometry: Geometry,
    covariance: WeightCovariance,
    n_probes: int = 8,
    seed: int = 0,
    coordinates: WeightCoordinates | None = None,
) -> float:
    """Mean over all force components of hᵀ P h, estimated without bias from ±1 probes (Hutchinson 1989).

    The relative error is √(2 Σλ²/n_probes)/Σλ with λ the eigenvalues of J P Jᵀ: at most √(2/n_probes), half of the value
    for eight, and less where many directions share the uncertainty.
    """
    linear = Linearization(model, geometry)
    rows = linear.force_vjp(random_signs(n_probes, linear.n_atoms, seed))
    return float(quadratic(covariance, rows, coordinates).mean()) / (3 * linear.n_atoms)


def random_signs(count: int, n_atoms: int, seed: int) -> Tensor:
    """Probes (count, n_atoms, 3) of ±1; a seed's first probes do not depend on their count."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "probes"))
    return torch.randint(0, 2, (count, n_atoms, 3), generator=generator).to(torch.float64) * 2.0 - 1.0


def kpu_sampled(model: DeepPotential, geometry: Geometry, samples: Tensor) -> Variances:
    """Variances from draws δ ~ N(0, P), (S, n), in the weights' own coordinates θ."""
    linear = Linearization(model, geometry)
    energies, forces = linear.jvp(samples)
    by_atom = forces.square().sum(dim=2).mean(dim=0)
    return Variances(by_atom.cpu().numpy(), float(energies.square().mean()) / linear.n_atoms**2)


@dataclass(frozen=True, eq=False)
class ExactKpu:
    """`kpu_exact` as an `Uncertainty`: of a filter's own P, or of a post-hoc `Posterior`."""

    model: DeepPotential
    covariance: WeightCovariance
    coordinates: WeightCoordinates | None = None

    def variances(self, geometry: Geometry) -> Variances:
        """See `Uncertainty`."""
        return kpu_exact(self.model, geometry, self.covariance, self.coordinates)


@dataclass(frozen=True, eq=False)
class SampledKpu:
    """`kpu_sampled` as an `Uncertainty`."""

    model: DeepPotential
    samples: Tensor

    def variances(self, geometry: Geometry) -> Variances:
        """See `Uncertainty`."""
        return kpu_sampled(self.model, geometry, self.samples)
