"""Variances that a few draws of the weights give, and what they must be multiplied by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError
from pwact_like.uncertainty.calibration import HELD_VARIANCE, Calibration, Pairs

_MOST_SCATTER = 2.0 / 3.0  # of draws that leave at least three degrees of freedom

Array = NDArray[np.float64]


def for_draws(calibration: Calibration, reference: Pairs, drawn: Array) -> Calibration:
    """The calibration of variances that come from few draws, for σ² = alpha2·v + noise2 with such v.

    With v = m·u·χ²_ν/ν (m: what these few draws have too much of everywhere, since all atoms share them), the mean of u/v is
    ν/((ν − 2)·m): by that α² grows, and the mean of e²/σ² is 1 whatever u is, on hot frames too. m and ν come from the mean and the
    relative variance 2/ν of v/u on frames where u is known; ν counts as three at least.

    Parameters
    ----------
    calibration
        Of exact variances, or those of many draws.
    reference
        Pairs with such variances.
    drawn
        Shape (n,): of the same atoms, the variances that the few draws give.
    """
    u = np.abs(reference.variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(drawn) / u
    counts = np.isfinite(ratio) & (u > HELD_VARIANCE * np.median(u[u > 0.0])) if u.any() else np.zeros(u.shape, dtype=bool)
    if not ratio[counts].any():
        raise DataError("calibration: the draws of the weights do not move any force; train again")
    mean = float(ratio[counts].mean())
    scatter = min(max(float(ratio[counts].var()) / mean**2 - reference.scatter, 0.0), _MOST_SCATTER)
    factor = 1.0 / (mean * (1.0 - scatter))
    error = calibration.alpha2_error
    return replace(calibration, alpha2=calibration.alpha2 * factor, alpha2_error=None if error is None else error * factor)
