"""The fit behind a calibration: σ² = α²·(v + r) with the likeliest α² and ratio r, for variances and errors scaled to order one.

For a fixed r the best α² is the weighted mean of e²/(v + r); what is left is a search in one dimension. See `calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MOST_NOISE = 0.9  # share of the mean squared error that s² may take: without a limit σ could be the same for every frame
FEW_PAIRS = 30  # below that the note says so
BROKEN_Z2 = 400.0  # an error over 20 σ is no error of a model: the label or the pairing is broken
_PER_DECADE = 4  # grid points of the search in r: the likelihood's features are no narrower than a decade
_ONE_ERROR = 0.5  # in ln L: as far as one standard error goes
_MEDIAN_Z2 = 0.788658  # median of χ²₃/3

Array = NDArray[np.float64]


def brought_together(v: Array, scatter: float) -> Array:
    """Variances that scatter, as near to their (geometric) mean as those that do not would be, with the same (arithmetic) mean.

    The best guess of u from ln v = ln u + noise, for ln u normally distributed: regression calibration (Carroll et al., Measurement
    Error in Nonlinear Models, 2006, chapter 4). It is right for the population that is fitted to, and for no other.
    """
    there = v > 0.0
    if scatter == 0.0 or there.sum() < 2:
        return v
    logs = np.log(v[there])
    spread = float(logs.var())
    share = max(1.0 - scatter / spread, 0.0) if spread > 0.0 else 1.0
    guess = np.exp(logs.mean() + share * (logs - logs.mean()))
    result = v.copy()
    result[there] = guess * (v[there].mean() / guess.mean())
    return result


def _profile(v: Array, e2: Array, weights: Array, ratio: float) -> float:
    """−ln L a pair, divided by 3/2, at the best scale for this ratio."""
    sums = v + ratio
    if sums.min() == 0.0:
        return math.inf
    return float(np.average(np.log(sums), weights=weights) + math.log(np.average(e2 / sums, weights=weights)))


def grid_of(v: Array, weights: Array) -> Array:
    """Ratios to try: 0 where no variance is zero, then from far below the least variance up to the limit of the noise."""
    highest = MOST_NOISE / (1.0 - MOST_NOISE) * float(np.average(v, weights=weights))
    lowest = 1e-3 * float(v[v > 0.0].min(initial=highest))
    if not v.all():
        lowest = min(lowest, 1e-12)
    n_points = max(2, math.ceil(_PER_DECADE * math.log10(highest / lowest)) + 1)
    return np.concatenate([[0.0] if v.all() else [], np.geomspace(lowest, highest, n_points)])


def best_ratio(v: Array, e2: Array, weights: Array, grid: Array) -> tuple[float, bool]:
    """The likeliest ratio s²/α², and whether the limit of the noise was met."""
    costs = [_profile(v, e2, weights, ratio) for ratio in grid]
    best = int(np.argmin(costs))
    # ln L = −(3/2)·n·cost; equal variances make every cost equal, and then there is no noise
    if 1.5 * len(v) * (costs[0] - costs[best]) <= _ONE_ERROR and grid[0] == 0.0:
        return 0.0, False
    low, high = grid[max(best - 1, 0)] or 0.1 * grid[best], grid[min(best + 1, len(grid) - 1)]
    ratio = math.exp(_golden(lambda x: _profile(v, e2, weights, math.exp(x)), math.log(low), math.log(high)))
    return ratio, ratio > (1.0 - 1e-6) * grid[-1]


def _golden(cost: Callable[[float], float], low: float, high: float) -> float:
    """Golden-section search for a minimum between ``low`` and ``high``, to 1e-9 of the interval."""
    shrink = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = high - shrink * (high - low), low + shrink * (high - low)
    cost_left, cost_right = cost(left), cost(right)
    for _ in range(44):
        if cost_left <= cost_right:
            high, right, cost_right = right, left, cost_left
            left = high - shrink * (high - low)
            cost_left = cost(left)
        else:
            low, left, cost_left = left, right, cost_right
            right = low + shrink * (high - low)
            cost_right = cost(right)
    return 0.5 * (low + high)


def screen(v: Array, e2: Array, most_outliers: float) -> NDArray[np.bool_]:
    """False for pairs whose error is beyond 20 σ.

    The scale comes from medians: the ratio is the one that makes ln e² − ln(v + r) scatter least around its median.
    """
    everything = np.ones(v.shape, dtype=bool)
    if len(v) < FEW_PAIRS or most_outliers <= 0.0 or np.median(e2) == 0.0:
        return everything
    best_scatter, best_z2 = math.inf, e2
    for ratio in grid_of(v, np.ones(v.shape))[::_PER_DECADE]:
        sums = v + ratio
        relative = e2 / sums
        middle = float(np.median(relative))
        with np.errstate(divide="ignore"):
            scatter = float(np.median(np.abs(np.log(relative) - math.log(middle))))
        if scatter < best_scatter:
            best_scatter, best_z2 = scatter, relative * (_MEDIAN_Z2 / middle)
    broken = best_z2 > BROKEN_Z2
    return everything if broken.mean() > most_outliers else ~broken


def bootstrap(v: Array, e2: Array, frame: NDArray[np.int64], weights: Array, grid: Array, n_draws: int, seed: int) -> float | None:
    """Standard error of α² over draws of whole frames: half the distance of the 16th and 84th percentiles."""
    n_frames = int(frame.max()) + 1
    if n_frames < 3 or n_draws < 2:
        return None
    # sums a frame for every ratio of the grid: a draw is then one product
    logs, scaled = np.empty((n_frames, len(grid))), np.empty((n_frames, len(grid)))
    for column, ratio in enumerate(grid):
        logs[:, column] = np.bincount(frame, weights * np.log(v + ratio), n_frames)
        scaled[:, column] = np.bincount(frame, weights * e2 / (v + ratio), n_frames)
    counts = np.random.default_rng(seed).multinomial(n_frames, np.full(n_frames, 1.0 / n_frames), size=n_draws)
    total = counts @ np.bincount(frame, weights, n_frames)
    possible = total > 0.0
    total, mean_logs, mean_scaled = total[possible, None], counts[possible] @ logs, counts[possible] @ scaled
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw may have no error at all
        costs = mean_logs / total + np.log(mean_scaled / total)
        best = np.nanargmin(costs, axis=1)
        if grid[0] == 0.0:
            best[1.5 * total[:, 0] * (costs[:, 0] - costs[np.arange(len(best)), best]) <= _ONE_ERROR] = 0
    alpha2 = (mean_scaled / total)[np.arange(len(best)), best]
    low, high = np.percentile(alpha2, [15.865, 84.135])
    return float(0.5 * (high - low))
