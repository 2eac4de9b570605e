"""Deviation of a committee's forces, energies and virials: arrays in, arrays out.

Source of the definition: Zhang et al., Comput. Phys. Commun. 253, 107206 (2020), eq. 4, as DeePMD-kit and PWact use it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def force_deviation(forces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviation of the force on every atom, σ_a = sqrt(mean_k |F_ka − mean_k F_ka|²).

    Parameters
    ----------
    forces
        Shape (n_models, ..., n_atoms, 3), eV/Å.

    Returns
    -------
    numpy.ndarray, shape (..., n_atoms)
        eV/Å. A NaN in any member's force gives NaN.
    """
    spread = forces - forces.mean(axis=0)
    return np.asarray(np.sqrt(np.einsum("k...c,k...c->...", spread, spread) / forces.shape[0]))


def energy_deviation(energies: NDArray[np.float64], n_atoms: int) -> NDArray[np.float64]:
    """Standard deviation of the energies an atom over the committee, shape (n_models, ...) → (...), eV/atom."""
    return np.asarray(energies.std(axis=0) / n_atoms)


def virial_deviation(virials: NDArray[np.float64], n_atoms: int) -> NDArray[np.float64]:
    """Standard deviation of each virial component an atom, shape (n_models, ..., 3, 3) → (..., 3, 3), eV/atom."""
    return np.asarray(virials.std(axis=0) / n_atoms)
