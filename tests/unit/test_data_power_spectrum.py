"""Power spectra against sums over pairs of neighbours with Legendre polynomials, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from numpy.polynomial import legendre
from scipy.spatial.transform import Rotation

from pwact_like.data import power_spectrum as module
from pwact_like.data.power_spectrum import L_MAX, N_RADIAL, power_spectrum, real_harmonics


def test_the_harmonics_obey_the_addition_theorem():
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(20, 3))
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    harmonics = real_harmonics(vectors, 6)
    for degree in range(7):
        part = harmonics[:, degree**2 : (degree + 1) ** 2]
        expected = (2 * degree + 1) / (4 * np.pi) * legendre.legval(vectors @ vectors.T, [0.0] * degree + [1.0])
        np.testing.assert_allclose(part @ part.T, expected, atol=1e-12)


def molecule() -> Atoms:
    generator = np.random.default_rng(2)
    return Atoms("CuAgCuAgCu", positions=generator.uniform(0.0, 3.5, size=(5, 3)))


def test_it_is_the_sum_over_pairs_of_neighbours():
    atoms, cutoff = molecule(), 5.0
    found = power_spectrum(atoms, [29, 47], cutoff)
    centers = np.linspace(1.0, cutoff, N_RADIAL, endpoint=False)
    width = centers[1] - centers[0]
    atom = 3
    channels = []  # (distance functions, unit vectors) of each (element, n)
    for number in (29, 47):
        others = [index for index in range(5) if index != atom and atoms.numbers[index] == number]
        vectors = atoms.positions[others] - atoms.positions[atom]
        distance = np.linalg.norm(vectors, axis=1)
        cut = 0.5 * (1 + np.cos(np.pi * distance / cutoff))
        for center in centers:
            channels.append((np.exp(-((distance - center) ** 2) / (2 * width**2)) * cut, vectors / distance[:, None]))
    expected = []
    for degree in range(L_MAX + 1):
        for first in range(len(channels)):
            for second in range(first, len(channels)):
                (g, u), (h, v) = channels[first], channels[second]
                angles = legendre.legval(u @ v.T, [0.0] * degree + [1.0]) * (2 * degree + 1) / (4 * np.pi)
                expected.append(np.sqrt(8 * np.pi**2 / (2 * degree + 1)) * g @ angles @ h)
    np.testing.assert_allclose(found[atom], expected, rtol=1e-10, atol=1e-12)


def test_rotation_translation_and_order_change_nothing():
    atoms = molecule()
    before = power_spectrum(atoms, [29, 47])
    moved = atoms.copy()
    moved.positions = Rotation.random(random_state=4).apply(atoms.positions)
    moved.positions += [1.0, -7.0, 3.0]
    np.testing.assert_allclose(power_spectrum(moved, [29, 47]), before, atol=1e-10)
    order = [4, 2, 0, 3, 1]
    np.testing.assert_allclose(power_spectrum(atoms[order], [29, 47]), before[order], atol=1e-12)


def test_a_supercell_has_the_same_atoms():
    cell = bulk("Si", a=5.43)
    cell.rattle(0.1, seed=1)
    np.testing.assert_allclose(power_spectrum(cell.repeat((2, 1, 3)), [14]), np.tile(power_spectrum(cell, [14]), (6, 1)), atol=1e-9)


@pytest.mark.parametrize("pbc", [True, [True, True, False]])
def test_without_vesin_it_is_the_same(monkeypatch, pbc):
    import sys

    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.pbc = pbc
    fast = power_spectrum(atoms, [29])
    monkeypatch.setitem(sys.modules, "vesin", None)
    np.testing.assert_allclose(module.power_spectrum(atoms, [29]), fast, rtol=1e-9, atol=1e-12)


def test_an_atom_alone_has_none():
    assert not power_spectrum(Atoms("Cu"), [29]).any()
