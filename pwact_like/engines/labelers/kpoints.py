"""Γ-centred k-point grids from a spacing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def grid_from_kspacing(cell_ang: NDArray[np.float64], pbc: NDArray[np.bool_], kspacing_per_ang: float) -> tuple[int, int, int]:
    """Divisions of the reciprocal vectors: n_i = max(1, ⌈2π|b_i| / kspacing⌉), as VASP's KSPACING.

    Parameters
    ----------
    cell_ang
        Shape (3, 3), rows are the cell's vectors in Å.
    pbc
        Shape (3,); a direction that is not periodic gets one point.
    kspacing_per_ang
        In 1/Å, 2π included.

    Returns
    -------
    tuple
        Three divisions.
    """
    lengths = 2.0 * math.pi * np.linalg.norm(np.linalg.inv(cell_ang).T, axis=1)
    # a spacing that divides the length evenly must not gain a point by rounding
    counts = [max(1, math.ceil(length / kspacing_per_ang - 1e-9)) if periodic else 1 for length, periodic in zip(lengths, pbc, strict=True)]
    return counts[0], counts[1], counts[2]
