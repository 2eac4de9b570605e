"""SOAP power spectra of atoms: what their surroundings look like, as numbers that no rotation changes.

With g_n Gaussians of the distance times a smooth cutoff, and real spherical harmonics Y_lm, the neighbours j of element s give

    c_{s n lm} = Σ_j g_n(r_ij) Y_lm(r̂_ij),   p_{(s n)(s' n') l} = √(8π² / (2l+1)) Σ_m c_{s n lm} c_{s' n' lm}

(Bartók, Kondor and Csányi, Phys. Rev. B 87, 184115 (2013), with the radial functions of this module and without the
smearing of neighbours over the sphere). Pairs (s n) ≤ (s' n') only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

CUTOFF_ANG = 5.0
N_RADIAL = 6
L_MAX = 4
_INNER_ANG = 1.0  # centre of the first radial function


def real_harmonics(directions: NDArray[np.float64], l_max: int) -> NDArray[np.float64]:
    """Real spherical harmonics, l = 0 … l_max and m = −l … l.

    Parameters
    ----------
    directions
        Unit vectors, shape (n, 3).

    Returns
    -------
    array
        Shape (n, (l_max + 1)²), (l, m) at column l² + l + m.
    """
    x, y, z = directions.T
    # r^m sin^m(θ) cos(mφ) and sin(mφ), and the associated Legendre functions without their sin^m(θ), by recursion
    cosines, sines = [np.ones_like(x)], [np.zeros_like(x)]
    for _ in range(l_max):
        cosines.append(x * cosines[-1] - y * sines[-1])
        sines.append(x * sines[-1] + y * cosines[-2])
    legendre: dict[tuple[int, int], NDArray[np.float64]] = {}
    for m in range(l_max + 1):
        legendre[m, m] = np.full_like(z, math.prod(range(1, 2 * m, 2)))
        if m < l_max:
            legendre[m + 1, m] = (2 * m + 1) * z * legendre[m, m]
        for degree in range(m + 2, l_max + 1):
            higher = (2 * degree - 1) * z * legendre[degree - 1, m] - (degree + m - 1) * legendre[degree - 2, m]
            legendre[degree, m] = higher / (degree - m)
    found = np.empty((len(directions), (l_max + 1) ** 2))
    for degree in range(l_max + 1):
        for m in range(degree + 1):
            norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m))
            value = norm * legendre[degree, m] * (math.sqrt(2.0) if m else 1.0)
            found[:, degree**2 + degree + m] = value * cosines[m]
            if m:
                found[:, degree**2 + degree - m] = value * sines[m]
    return found


def power_spectrum(atoms: Atoms, elements: Sequence[int], cutoff_ang: float = CUTOFF_ANG) -> NDArray[np.float64]:
    """Power spectrum of every atom, shape (n_atoms, n_features).

    Parameters
    ----------
    elements
        Atomic numbers that neighbours may have, in the order of the features; others are left out.
    cutoff_ang
        Neighbours farther away than this do not count, Å.
    """
    first, second, vectors = _neighbors(atoms, cutoff_ang)
    distances = np.linalg.norm(vectors, axis=1)
    centers = np.linspace(_INNER_ANG, cutoff_ang, N_RADIAL, endpoint=False)
    width = centers[1] - centers[0]
    smooth = 0.5 * (1.0 + np.cos(np.pi * distances / cutoff_ang))
    radial = np.exp(-0.5 * ((distances[:, None] - centers) / width) ** 2) * smooth[:, None]
    angular = real_harmonics(vectors / np.maximum(distances, 1e-12)[:, None], L_MAX)
    terms = (radial[:, :, None] * angular[:, None, :]).reshape(len(distances), N_RADIAL * angular.shape[1])
    coefficients = np.zeros((len(atoms), len(elements), terms.shape[1]))
    for place, number in enumerate(elements):
        chosen = atoms.numbers[second] == number
        np.add.at(coefficients[:, place], first[chosen], terms[chosen])
    coefficients = coefficients.reshape(len(atoms), len(elements) * N_RADIAL, angular.shape[1])
    pairs = np.triu_indices(len(elements) * N_RADIAL)
    parts = []
    for degree in range(L_MAX + 1):
        part = coefficients[:, :, degree**2 : (degree + 1) ** 2]
        product = np.einsum("iam,ibm->iab", part, part) * math.sqrt(8.0 * math.pi**2 / (2 * degree + 1))
        parts.append(product[:, pairs[0], pairs[1]])
    return np.concatenate(parts, axis=1)


def _neighbors(atoms: Atoms, cutoff_ang: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Centre, neighbour and the vector between them (Å) of every pair, both ways round."""
    try:
        from vesin import ase_neighbor_list as neighbor_list  # the same pairs, in a small part of the time
    except ImportError:
        from ase.neighborlist import neighbor_list
    first, second, vectors = neighbor_list("ijD", atoms, cutoff_ang)
    return first.astype(np.int64), second.astype(np.int64), np.asarray(vectors, dtype=np.float64)
