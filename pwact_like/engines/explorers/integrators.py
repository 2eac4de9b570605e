"""Time integration of molecular dynamics: velocity Verlet, Nosé–Hoover chains, Martyna–Tobias–Klein.

Why not ASE's classes: those count 3N degrees of freedom although the centre of mass rests, which makes a cell of 8 atoms
14 % too hot; their states are private, so that a run cannot be continued to the last bit; isotropic and anisotropic cells
are different classes with different constants; and a step asks for forces and stress more than once. The tests hold these
integrators against ASE's for equal numbers of degrees of freedom.

Units: eV, Å, atomic mass units, and therefore a time of Å·√(u/eV) = 10.18 fs (``PS`` of them are a picosecond).

Sources
-------
- M. E. Tuckerman, J. Alejandre, R. López-Rendón, A. L. Jochim, G. J. Martyna, J. Phys. A 39, 5629 (2006): the splitting of
  the Liouville operator for chains and for isotropic and full cells.
- G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994): equations of motion and conserved quantity.
- H. Yoshida, Phys. Lett. A 150, 262 (1990): the fourth-order weights.
- LAMMPS manual, ``fix npt``: relaxation times taut and taup, masses Q₁ = N_f·kT·taut², W = (N + 1)·kT·taup².
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# √(eV/u)/Å in 1/s, from CODATA 2018's atomic mass constant and elementary charge
PS = 1e-12 * 1e10 * math.sqrt(1.602176634e-19 / 1.66053906660e-27)

_CHAIN_LENGTH = 3
_YOSHIDA = (1.0 / (2.0 - 2.0 ** (1 / 3)), -(2.0 ** (1 / 3)) / (2.0 - 2.0 ** (1 / 3)), 1.0 / (2.0 - 2.0 ** (1 / 3)))

Evaluate = Callable[[Array, Array], tuple[float, Array, Array]]
"""(positions (N, 3) in Å, cell (3, 3) in Å) → energy in eV, forces (N, 3) in eV/Å, virial (3, 3) in eV."""


@dataclass
class MdState:
    """Positions (N, 3), momenta (N, 3), cell (3, 3; rows are vectors), and what the potential says of them.

    Momenta are in √(eV·u), masses (N, 1) in u; the total momentum is zero.
    """

    positions: Array
    momenta: Array
    cell: Array
    masses: Array
    energy: float
    forces: Array
    virial: Array

    @property
    def degrees_of_freedom(self) -> int:
        """3N − 3: the centre of mass rests."""
        return 3 * len(self.positions) - 3

    @property
    def kinetic(self) -> float:
        """Kinetic energy in eV."""
        return 0.5 * float(np.einsum("ai,ai,a->", self.momenta, self.momenta, 1.0 / self.masses[:, 0]))

    @property
    def volume(self) -> float:
        """Volume of the cell in Å³."""
        return abs(float(np.linalg.det(self.cell)))

    @property
    def kinetic_tensor(self) -> Array:
        """Σ p⊗p/m in eV, (3, 3)."""
        return np.asarray((self.momenta / self.masses).T @ self.momenta)


class Integrator(ABC):
    """Advances a state by one time step; what it holds besides can be saved and set."""

    @abstractmethod
    def begin(self, state: MdState) -> None:
        """The part of a time step before the one evaluation of the potential: leaves the positions and the cell to evaluate."""

    @abstractmethod
    def finish(self, state: MdState) -> None:
        """The part behind it, with energy, forces and virial of the new positions in ``state``."""

    def step(self, state: MdState, evaluate: Evaluate) -> None:
        """One time step, with one evaluation of the potential."""
        self.begin(state)
        state.energy, state.forces, state.virial = evaluate(state.positions, state.cell)
        self.finish(state)

    @abstractmethod
    def conserved(self, state: MdState) -> float:
        """The conserved quantity in eV."""

    @abstractmethod
    def save(self) -> dict[str, Array]:
        """Arrays that ``load`` takes back, to the last bit."""

    @abstractmethod
    def load(self, arrays: Mapping[str, Array]) -> None:
        """Take back what ``save`` gave."""


def _kick(state: MdState, time: float) -> None:
    state.momenta = state.momenta + time * state.forces


def _drift(state: MdState, time: float) -> None:
    state.positions = state.positions + time * (state.momenta / state.masses)


class VelocityVerlet(Integrator):
    """Constant energy."""

    def __init__(self, timestep: float) -> None:
        self.timestep = timestep

    def begin(self, state: MdState) -> None:
        """See ``Integrator``."""
        _kick(state, 0.5 * self.timestep)
        _drift(state, self.timestep)

    def finish(self, state: MdState) -> None:
        """See ``Integrator``."""
        _kick(state, 0.5 * self.timestep)

    def conserved(self, state: MdState) -> float:
        """Total energy in eV."""
        return state.kinetic + state.energy

    def save(self) -> dict[str, Array]:
        """Nothing but the state itself."""
        return {}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Nothing to take back."""


class Chain:
    """A Nosé–Hoover chain on ``n`` degrees of freedom at ``kt`` eV with relaxation time ``tau``."""

    def __init__(self, n: int, kt: float, tau: float) -> None:
        self.n, self.kt = n, kt
        self.inertia = [n * kt * tau**2] + [kt * tau**2] * (_CHAIN_LENGTH - 1)
        self.place = [0.0] * _CHAIN_LENGTH
        self.momentum = [0.0] * _CHAIN_LENGTH

    def half_step(self, twice_kinetic: float, time: float) -> float:
        """Advance the chain by ``time``; returns the factor for the momenta whose Σp²/m is given (in eV)."""
        q, p = self.inertia, self.momentum
        last = _CHAIN_LENGTH - 1
        factor = 1.0
        for weight in _YOSHIDA:
            delta = weight * time
            for link in range(last, -1, -1):
                self._push(link, twice_kinetic * factor * factor, delta)
            for link in range(_CHAIN_LENGTH):
                self.place[link] += delta * p[link] / q[link]
            factor *= math.exp(-delta * p[0] / q[0])
            for link in range(_CHAIN_LENGTH):
                self._push(link, twice_kinetic * factor * factor, delta)
        return factor

    def _push(self, link: int, twice_kinetic: float, delta: float) -> None:
        q, p = self.inertia, self.momentum
        drag = math.exp(-0.25 * delta * p[link + 1] / q[link + 1]) if link + 1 < _CHAIN_LENGTH else 1.0
        force = twice_kinetic - self.n * self.kt if link == 0 else p[link - 1] ** 2 / q[link - 1] - self.kt
        p[link] = (p[link] * drag + 0.5 * delta * force) * drag

    @property
    def energy(self) -> float:
        """Its share of the conserved quantity, eV."""
        moving = sum(0.5 * p * p / q for p, q in zip(self.momentum, self.inertia, strict=True))
        return moving + self.n * self.kt * self.place[0] + self.kt * sum(self.place[1:])

    def save(self) -> Array:
        """Shape (2, length): places and momenta."""
        return np.array([self.place, self.momentum])

    def load(self, array: Array) -> None:
        """Take back what ``save`` gave."""
        self.place, self.momentum = array[0].tolist(), array[1].tolist()


class NoseHoover(Integrator):
    """Constant temperature: a chain on the 3N − 3 degrees of freedom."""

    def __init__(self, timestep: float, n: int, kt: float, taut: float) -> None:
        self.timestep = timestep
        self.chain = Chain(n, kt, taut)

    def _thermostat(self, state: MdState) -> None:
        state.momenta = state.momenta * self.chain.half_step(2.0 * state.kinetic, 0.5 * self.timestep)

    def begin(self, state: MdState) -> None:
        """See ``Integrator``."""
        self._thermostat(state)
        _kick(state, 0.5 * self.timestep)
        _drift(state, self.timestep)

    def finish(self, state: MdState) -> None:
        """See ``Integrator``."""
        _kick(state, 0.5 * self.timestep)
        self._thermostat(state)

    def conserved(self, state: MdState) -> float:
        """Energy of atoms and chain in eV."""
        return state.kinetic + state.energy + self.chain.energy

    def save(self) -> dict[str, Array]:
        """The chain."""
        return {"chain": self.chain.save()}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Take back what ``save`` gave."""
        self.chain.load(arrays["chain"])


CellShape = Literal["iso", "aniso", "tri"]


class MartynaTobiasKlein(Integrator):
    """Constant temperature and pressure.

    The cell's strain rate v is a symmetric matrix (the cell never turns): a multiple of one (``iso``), diagonal in the
    axes of LAMMPS's box, x along a and y in the plane of a and b (``aniso``), or free (``tri``). With N_f = 3N − 3::

        dr/dt = p/m + v·r          dh/dt = v·h
        dp/dt = F − (v + tr(v)/N_f)·p
        W dv/dt = P(Σ p⊗p/m + virial − p_ext·V + Σp²/(m·N_f)) − chain

    P projects on the allowed matrices. One W = (N_f + 3)/3·kT·taup² serves all three shapes: on multiples of one it
    becomes MTK's W_ε = (N_f + 3)·kT·taup² for the scalar rate.
    """

    def __init__(
        self, timestep: float, n: int, kt: float, taut: float, pressure: float, taup: float, shape: CellShape, cell: Array
    ) -> None:
        """``pressure`` in eV/Å³; ``cell`` is the start cell, which fixes the axes of ``aniso``."""
        self.timestep = timestep
        self.n = n
        self.pressure = pressure
        self.shape = shape
        self.axes = lammps_axes(cell)
        self.inertia = (n + 3) / 3.0 * kt * taup**2
        self.chain = Chain(n, kt, taut)
        self.cell_chain = Chain({"iso": 1, "aniso": 3, "tri": 6}[shape], kt, taup)
        self.rate = np.zeros((3, 3))

    def _allowed(self, matrix: Array) -> Array:
        if self.shape == "iso":
            return np.eye(3) * (np.trace(matrix) / 3.0)
        if self.shape == "aniso":
            diagonal = np.einsum("ij,jk,ik->i", self.axes, matrix, self.axes)
            return np.asarray((self.axes.T * diagonal) @ self.axes)
        return 0.5 * (matrix + matrix.T)

    def _thermostats(self, state: MdState, *, cell_first: bool) -> None:
        half = 0.5 * self.timestep
        if cell_first:
            self.rate = self.rate * self.cell_chain.half_step(self._twice_cell_kinetic, half)
        state.momenta = state.momenta * self.chain.half_step(2.0 * state.kinetic, half)
        if not cell_first:
            self.rate = self.rate * self.cell_chain.half_step(self._twice_cell_kinetic, half)

    @property
    def _twice_cell_kinetic(self) -> float:
        return self.inertia * float((self.rate * self.rate).sum())

    def _kick_cell(self, state: MdState, time: float) -> None:
        tensor = state.kinetic_tensor
        isotropic = np.trace(tensor) / self.n - self.pressure * state.volume
        self.rate = self.rate + time / self.inertia * self._allowed(tensor + state.virial + isotropic * np.eye(3))

    def _kick_atoms(self, state: MdState, time: float) -> None:
        """Solve dp/dt = F − (v + tr(v)/N_f)·p exactly for fixed F and v."""
        rates, vectors = np.linalg.eigh(self.rate)
        decay = -time * (rates + rates.sum() / self.n)
        momenta = (state.momenta @ vectors) * np.exp(decay) + time * (state.forces @ vectors) * _exprel(decay)
        state.momenta = momenta @ vectors.T

    def _drift_all(self, state: MdState, time: float) -> None:
        """Solve dr/dt = p/m + v·r and dh/dt = v·h exactly for fixed p and v."""
        rates, vectors = np.linalg.eigh(self.rate)
        growth = time * rates
        moved = (state.positions @ vectors) * np.exp(growth) + time * (state.momenta / state.masses @ vectors) * _exprel(growth)
        state.positions = moved @ vectors.T
        state.cell = (state.cell @ vectors * np.exp(growth)) @ vectors.T

    def begin(self, state: MdState) -> None:
        """See ``Integrator``."""
        half = 0.5 * self.timestep
        self._thermostats(state, cell_first=True)
        self._kick_cell(state, half)
        self._kick_atoms(state, half)
        self._drift_all(state, self.timestep)

    def finish(self, state: MdState) -> None:
        """See ``Integrator``."""
        half = 0.5 * self.timestep
        self._kick_atoms(state, half)
        self._kick_cell(state, half)
        self._thermostats(state, cell_first=False)

    def conserved(self, state: MdState) -> float:
        """Energy of atoms, cell, chains, and p·V, in eV."""
        cell = 0.5 * self._twice_cell_kinetic + self.pressure * state.volume
        return state.kinetic + state.energy + cell + self.chain.energy + self.cell_chain.energy

    def save(self) -> dict[str, Array]:
        """Chains and strain rate; the axes too, for they come from the start cell."""
        return {"chain": self.chain.save(), "cell_chain": self.cell_chain.save(), "rate": self.rate, "axes": self.axes}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Take back what ``save`` gave."""
        self.chain.load(arrays["chain"])
        self.cell_chain.load(arrays["cell_chain"])
        self.rate, self.axes = arrays["rate"].copy(), arrays["axes"].copy()


def lammps_axes(cell: Array) -> Array:
    """Rows: unit vectors along a, across it in the plane of a and b, and normal to both."""
    first = cell[0] / np.linalg.norm(cell[0])
    third = np.cross(cell[0], cell[1])
    third = third / np.linalg.norm(third)
    return np.stack([first, np.cross(third, first), third])


def _exprel(x: Array) -> Array:
    """(exp(x) − 1)/x, 1 at 0."""
    safe = np.where(x == 0.0, 1.0, x)
    return np.where(x == 0.0, 1.0, np.expm1(safe) / safe)


def thermal_momenta(masses: Array, kt: float, seed: int) -> Array:
    """Momenta of a Maxwell–Boltzmann distribution, the centre of mass at rest, scaled to exactly ``kt`` (eV).

    Parameters
    ----------
    masses
        Shape (N, 1), u; N ≥ 2.
    """
    draw = np.random.default_rng(seed).standard_normal((len(masses), 3))
    momenta = draw * np.sqrt(masses * kt)
    momenta -= masses * (momenta.sum(axis=0) / masses.sum())
    twice_kinetic = float((momenta**2 / masses).sum())
    if twice_kinetic == 0.0:
        return np.zeros_like(momenta)
    return np.asarray(momenta * math.sqrt((3 * len(masses) - 3) * kt / twice_kinetic))
