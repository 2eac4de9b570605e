"""Integrators: against ASE's own classes, conservation laws, mean temperature, mean pressure."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, MaskedMTKNPT, NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet as AseVerlet
from toy_potentials import LennardJones

from pwact_like.engines.explorers.integrators import PS, MartynaTobiasKlein, MdState, NoseHoover, VelocityVerlet, thermal_momenta
from pwact_like.units import BAR_PER_EV_PER_ANG3, EV_PER_KELVIN

KT = EV_PER_KELVIN * 40.0
DT = 0.004 * PS


class AseLennardJones(Calculator):
    """The toy as an ASE calculator."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy, forces, virial = LennardJones().evaluate(atoms.positions, atoms.cell.array)
        stress = -virial / atoms.get_volume()
        voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        self.results = {"energy": energy, "free_energy": energy, "forces": forces, "stress": voigt}


def argon() -> Atoms:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    return atoms


def state_of(atoms: Atoms, kt: float = KT, seed: int = 3) -> MdState:
    masses = atoms.get_masses()[:, None]
    cell = np.array(atoms.cell.array)
    energy, forces, virial = LennardJones().evaluate(atoms.positions, cell)
    return MdState(atoms.get_positions(), thermal_momenta(masses, kt, seed), cell, masses, energy, forces, virial)


def twin(state: MdState, atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = AseLennardJones()
    atoms.set_momenta(state.momenta)
    return atoms


def agree(state: MdState, atoms: Atoms) -> None:
    np.testing.assert_allclose(state.positions, atoms.positions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.momenta, atoms.get_momenta(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.cell, atoms.cell.array, rtol=0, atol=1e-10)


def test_a_picosecond_is_ases():
    assert pytest.approx(1000 * units.fs, rel=1e-7) == PS


def test_toy_forces_and_virial_are_derivatives():
    atoms, toy, h = argon(), LennardJones(), 1e-4
    _, forces, virial = toy.evaluate(atoms.positions, atoms.cell.array)
    move = np.zeros_like(atoms.positions)
    move[4, 1] = h
    up, down = (toy.evaluate(atoms.positions + sign * move, atoms.cell.array)[0] for sign in (1, -1))
    assert (down - up) / (2 * h) == pytest.approx(forces[4, 1], abs=1e-8)
    strains = [np.diag([1 + sign * h, 1, 1]) for sign in (1, -1)]
    up, down = (toy.evaluate(atoms.positions @ strain, atoms.cell.array @ strain)[0] for strain in strains)
    assert (down - up) / (2 * h) == pytest.approx(virial[0, 0], abs=1e-5)


def test_velocity_verlet_equals_ases():
    atoms = argon()
    state = state_of(atoms)
    other = twin(state, atoms)
    integrator = VelocityVerlet(DT)
    for _ in range(40):
        integrator.step(state, LennardJones().evaluate)
    AseVerlet(other, DT).run(40)
    agree(state, other)


def test_nose_hoover_chain_equals_ases_for_equal_degrees_of_freedom():
    atoms = argon()
    state = state_of(atoms)
    other = twin(state, atoms)
    n = 3 * len(atoms)
    integrator = NoseHoover(DT, n, KT, 0.1 * PS)
    reference = NoseHooverChainNVT(other, DT, KT / units.kB, 0.1 * PS)
    for _ in range(40):
        integrator.step(state, LennardJones().evaluate)
    reference.run(40)
    agree(state, other)
    assert integrator.conserved(state) == pytest.approx(reference.get_conserved_energy(), abs=1e-9)


@pytest.mark.parametrize("shape", ["iso", "aniso", "tri"])
def test_martyna_tobias_klein_equals_ases_for_equal_degrees_of_freedom(shape):
    atoms = argon()
    state = state_of(atoms)
    other = twin(state, atoms)
    n, pressure = 3 * len(atoms), 3000.0 / BAR_PER_EV_PER_ANG3
    integrator = MartynaTobiasKlein(DT, n, KT, 0.1 * PS, pressure, 0.3 * PS, shape, state.cell)
    arguments = (other, DT, KT / units.kB, pressure, 0.1 * PS, 0.3 * PS)
    if shape == "iso":
        reference = IsotropicMTKNPT(*arguments)
    elif shape == "tri":
        reference = MTKNPT(*arguments)
        reference._barostat._cell_dof = 6  # ASE counts the turning of the cell, which never happens
    else:
        reference = MaskedMTKNPT(*arguments, mask=(True, True, True))
    reference._barostat._R[0] = integrator.cell_chain.inertia[0]
    for _ in range(40):
        integrator.step(state, LennardJones().evaluate)
    reference.run(40)
    agree(state, other)
    assert abs(state.cell - atoms.cell.array).max() > 1e-3
    assert integrator.conserved(state) == pytest.approx(reference.get_conserved_energy(), abs=1e-9)


def test_aniso_acts_along_the_cell_however_it_is_turned():
    """A turned sample goes the same way (ASE's and a naive Cartesian version do not)."""
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    atoms = argon()
    atoms.set_cell(atoms.cell.array @ np.diag([1.0, 1.03, 0.98]), scale_atoms=True)
    ends = []
    for rotation in (np.eye(3), turn * np.sign(np.linalg.det(turn))):
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ rotation, scale_atoms=True)
        state = state_of(turned)
        state.momenta = state_of(atoms).momenta @ rotation
        integrator = MartynaTobiasKlein(DT, state.degrees_of_freedom, KT, 0.1 * PS, 0.002, 0.3 * PS, "aniso", state.cell)
        for _ in range(50):
            integrator.step(state, LennardJones().evaluate)
        ends.append((state.positions @ rotation.T, state.cell @ rotation.T))
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-9)
    np.testing.assert_allclose(ends[0][1], ends[1][1], atol=1e-9)
    off_diagonal = ends[0][1] - np.diag(np.diag(ends[0][1]))
    assert abs(off_diagonal).max() < 1e-12


def build(ensemble: str, timestep: float, state: MdState, taup_ps: float = 1.0):
    n, pressure = state.degrees_of_freedom, 2000.0 / BAR_PER_EV_PER_ANG3
    if ensemble == "nve":
        return VelocityVerlet(timestep)
    if ensemble == "nvt":
        return NoseHoover(timestep, n, KT, 0.2 * PS)
    return MartynaTobiasKlein(timestep, n, KT, 0.2 * PS, pressure, taup_ps * PS, ensemble, state.cell)


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "iso", "aniso", "tri"])
def test_the_conserved_quantity_is_conserved_to_second_order(ensemble):
    spreads = []
    for refine in (1, 2):
        state = state_of(argon())
        integrator = build(ensemble, 0.008 * PS / refine, state)
        values = []
        for _ in range(150 * refine):
            integrator.step(state, LennardJones().evaluate)
            values.append(integrator.conserved(state))
        spreads.append(np.ptp(values))
    assert spreads[0] < 2e-3  # eV, of a kinetic energy of 0.16 eV
    assert 3.0 < spreads[0] / spreads[1] < 5.5


def mean_and_error(values, blocks: int = 10) -> tuple[float, float]:
    means = np.array([block.mean() for block in np.array_split(np.asarray(values), blocks)])
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(blocks))


@pytest.mark.parametrize("repeats", [(2, 2, 2), (3, 1, 1)])
def test_the_mean_temperature_is_the_set_one_in_small_cells_too(repeats):
    """With 3N degrees of freedom counted, as in ASE, the mean would be 3N/(3N − 3) times the set temperature."""
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * repeats
    atoms = atoms[:8] if repeats == (3, 1, 1) else atoms
    atoms.set_cell(np.diag([16.0, 16.0, 16.0])) if len(atoms) == 8 else None  # a droplet
    atoms.rattle(0.05, seed=2)
    state = state_of(atoms, seed=11)
    integrator = build("nvt", DT, state)
    temperatures = []
    for step in range(3500):
        integrator.step(state, LennardJones().evaluate)
        if step >= 500:
            temperatures.append(2 * state.kinetic / (state.degrees_of_freedom * EV_PER_KELVIN))
    mean, error = mean_and_error(temperatures)
    assert error < 1.6
    assert abs(mean - 40.0) < 4 * error


@pytest.mark.parametrize("shape", ["iso", "aniso", "tri"])
def test_the_mean_pressure_is_the_set_one(shape):
    atoms = argon()
    state = state_of(atoms, seed=7)
    integrator = build(shape, DT, state, taup_ps=0.5)
    tensors = []
    for step in range(3400):
        integrator.step(state, LennardJones().evaluate)
        if step >= 400:
            tensors.append((state.kinetic_tensor + state.virial) / state.volume * BAR_PER_EV_PER_ANG3)
    tensors = np.array(tensors)
    mean, error = mean_and_error(np.trace(tensors, axis1=1, axis2=2) / 3)
    assert error < 80.0
    assert abs(mean - 2000.0) < 4 * error
    if shape == "iso":
        # one factor for the whole cell
        scale = state.cell[0, 0] / atoms.cell.array[0, 0]
        np.testing.assert_allclose(state.cell, scale * atoms.cell.array, atol=1e-9)
        return
    for axis in range(3):
        mean, error = mean_and_error(tensors[:, axis, axis])
        assert abs(mean - 2000.0) < 4.5 * error
    if shape == "tri":
        for row, column in ((0, 1), (0, 2), (1, 2)):
            mean, error = mean_and_error(tensors[:, row, column])
            assert abs(mean) < 4.5 * error


def test_start_momenta():
    masses = np.array([1.0, 16.0, 100.0, 28.0])[:, None]
    momenta = thermal_momenta(masses, KT, 5)
    np.testing.assert_allclose(momenta.sum(axis=0), 0.0, atol=1e-12)
    assert (momenta**2 / masses).sum() == pytest.approx(9 * KT, rel=1e-12)
    assert (thermal_momenta(masses, KT, 5) == momenta).all()
    assert not np.allclose(thermal_momenta(masses, KT, 6), momenta)
    assert (thermal_momenta(masses, 0.0, 5) == 0.0).all()
    # Maxwell–Boltzmann: the mean kinetic energy of a light atom is that of a heavy one
    many = np.tile([[1.0], [100.0]], (4000, 1))
    kinetic = (thermal_momenta(many, KT, 1) ** 2 / many).sum(axis=1) / 2
    assert kinetic[::2].mean() == pytest.approx(1.5 * KT, rel=0.05)
    assert kinetic[1::2].mean() == pytest.approx(1.5 * KT, rel=0.05)
