"""Analytic potentials for the tests of molecular dynamics: pairs under periodic boundaries, fast, exact derivatives."""

from __future__ import annotations

from functools import cache

import numpy as np

from pwact_like.engines.explorers.potential import CommitteePotential


@cache
def _pairs_of(n):
    return np.triu_indices(n, 1)


class LennardJones(CommitteePotential):
    """Lennard-Jones argon, the force shifted to zero at the cutoff; minimum images, so the cell must be wide enough.

    Source of the parameters: A. Rahman, Phys. Rev. 136, A405 (1964): ε/k = 120 K, σ = 3.4 Å.
    """

    def __init__(self, cutoff_ang=5.2, eps=120 * 8.617333262e-5, sigma=3.4):
        CommitteePotential.__init__(self, 1)
        self.cutoff, self.eps, self.sigma = cutoff_ang, eps, sigma
        self.calls = 0

    def _pair(self, r):
        def energy_and_slope(x):
            s6 = (self.sigma / x) ** 6
            return 4 * self.eps * (s6 * s6 - s6), 4 * self.eps * (6 * s6 - 12 * s6 * s6) / x

        energy, slope = energy_and_slope(r)
        energy_c, slope_c = energy_and_slope(self.cutoff)
        inside = r < self.cutoff
        return np.where(inside, energy - energy_c - slope_c * (r - self.cutoff), 0.0), np.where(inside, slope - slope_c, 0.0)

    def evaluate(self, positions, cell, periodic=True):
        """Energy, forces, virial Σ f⊗r."""
        self.calls += 1
        i, j = _pairs_of(len(positions))
        d = positions[j] - positions[i]
        if periodic:
            d -= np.rint(d @ np.linalg.inv(cell)) @ cell
        r = np.sqrt(np.einsum("pi,pi->p", d, d))
        energy, slope = self._pair(r)
        on_j = -(slope / r)[:, None] * d
        forces = np.zeros_like(positions)
        for axis in range(3):
            forces[:, axis] = np.bincount(j, on_j[:, axis], len(positions)) - np.bincount(i, on_j[:, axis], len(positions))
        return float(energy.sum()), forces, on_j.T @ d

    def drive(self, atoms):
        return self.evaluate(atoms.positions, atoms.cell.array, atoms.pbc.any())

    def compare(self, atoms):
        return tuple(np.array([part]) for part in self.drive(atoms))

    def forget(self):
        pass


class ScaledCommittee(LennardJones):
    """Members whose forces are multiples of the first one's: σ_a is std(multiples)·|F_a|."""

    def __init__(self, *scales, **settings):
        super().__init__(**settings)
        self.scales = np.array([1.0, *scales])
        CommitteePotential.__init__(self, len(self.scales))

    def compare(self, atoms):
        energy, forces, virial = self.drive(atoms)
        return self.scales * energy, self.scales[:, None, None] * forces, self.scales[:, None, None] * virial


class Remembering(ScaledCommittee):
    """Sums its pairs in an order that depends on when it last made its list, as a real neighbour list does."""

    def __init__(self, *scales, die_at=None, **settings):
        super().__init__(*scales, **settings)
        self.order, self.age, self.die_at = None, 0, die_at

    def drive(self, atoms):
        if self.die_at is not None and self.calls + 1 >= self.die_at:
            raise KeyboardInterrupt
        if self.order is None or self.age >= 7:
            self.order, self.age = np.argsort(atoms.positions[:, 0] + atoms.positions[:, 1]), 0
        self.age += 1
        energy, forces, virial = self.evaluate(atoms.positions[self.order], atoms.cell.array)
        back = np.empty_like(forces)
        back[self.order] = forces
        return energy, back, virial

    def forget(self):
        self.order = None
