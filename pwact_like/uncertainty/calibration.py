"""From a variance without scale to an uncertainty in eV/Å: σ_a² = α²·v_a + s².

``v_a`` is what a model says of atom a: the sum over the three components of its KPU (dimensionless), or a committee's σ_a².
Its scale is arbitrary (a filter's P shrinks with every pass over the data, a committee has too little spread), so α² is fitted
to labels that the model has not seen. ``s²`` is the part of the error that no model can know of: the noise of the labels and
what the functional form cannot follow. Both are variances of the whole force vector, (eV/Å)²; each component has a third.

With e_a = |F_pred − F_label| and Gaussian components, −ln L = Σ_a w_a·(3/2)·[ln σ_a² + e_a²/σ_a²] + const. For a fixed
ratio r = s²/α² the best α² is the weighted mean of e²/(v + r), so the fit has one dimension left, and at its optimum the
mean of z² = e²/σ² is exactly 1. Source: a scale by maximum likelihood is Musil et al., J. Chem. Theory Comput. 15, 906 (2019),
for a committee and Bigi et al., arXiv 2403.02251, for hᵀPh; the noise term and the search are our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError
from pwact_like.uncertainty.table import COMMITTEE, KPU

MOST_NOISE = 0.9  # share of the mean squared error that s² may take: without a limit σ could be the same for every frame
FEW_PAIRS = 30  # below that the note says so
_PER_DECADE = 4  # grid points of the search in r: the likelihood's features are no narrower than a decade
_ONE_ERROR = 0.5  # in ln L: as far as one standard error goes
_MEDIAN_Z2 = 0.788658  # median of χ²₃/3
_BROKEN_Z2 = 400.0  # an error over 20 σ is no error of a model: the label or the pairing is broken
_ROUND_OFF_EV_PER_ANG = 1e-9
_ROUND_OFF_VARIANCE = 1e-24  # of the median: (1e-12)², a derivative that is zero but for rounding

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """How a variance becomes an uncertainty: σ² = alpha2·v + noise2.

    Attributes
    ----------
    alpha2
        Scale of the variance, (eV/Å)² for a KPU, dimensionless for a committee; above 0.
    noise2
        Variance of a force vector that the model's variance does not know of, (eV/Å)².
    n_pairs, n_frames
        What it was fitted to; n_frames is None when the pairs did not say from which frames they were.
    alpha2_error
        Standard error of alpha2 (bootstrap over frames), None where it could not be estimated.
    kind
        ``kpu`` or ``committee``: the two are not interchangeable.
    note
        What a reader should know before trusting it; "" if nothing.
    """

    alpha2: float
    noise2: float
    n_pairs: int
    n_frames: int | None = None
    alpha2_error: float | None = None
    kind: str = KPU
    note: str = ""

    def sigma(self, variance: Array) -> Array:
        """Uncertainty of each force vector, same shape, eV/Å. NaN and infinity stay what they are.

        A negative variance (round-off, or a P that is no longer positive) counts by its size: zero would call that atom certain.
        """
        return np.asarray(np.sqrt(self.alpha2 * np.abs(variance) + self.noise2))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Calibration:
        """Inverse of ``to_dict``.

        Raises
        ------
        DataError
            When a key is missing or unknown, or a number is not finite or out of its range.
        """
        names = [field.name for field in fields(cls)]
        if sorted(value) != sorted(names):
            odd = ", ".join(sorted(set(names) ^ set(value)))
            raise DataError(f"calibration: missing or unknown keys: {odd}; it was written by another version: calibrate again")
        for name, least, may_be_none in (("alpha2", 0.0, False), ("noise2", 0.0, False), ("alpha2_error", 0.0, True)):
            number = value[name]
            if not (may_be_none and number is None) and not (_is_number(number) and number >= least):
                raise DataError(f"calibration: {name} is {number!r}, not a finite number from {least:g} on; calibrate again")
        for name, may_be_none in (("n_pairs", False), ("n_frames", True)):
            number = value[name]
            if not (may_be_none and number is None) and not (type(number) is int and number >= 0):
                raise DataError(f"calibration: {name} is {number!r}, not a count; calibrate again")
        if value["alpha2"] == 0 or value["kind"] not in (KPU, COMMITTEE) or not isinstance(value["note"], str):
            raise DataError("calibration: alpha2 must be above 0, kind kpu or committee, and note a text; calibrate again")
        return cls(**{**value, "alpha2": float(value["alpha2"]), "noise2": float(value["noise2"])})


IDENTITY = Calibration(alpha2=1.0, noise2=0.0, n_pairs=0)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Predicted variance and true error of atoms, one entry an atom.

    Attributes
    ----------
    variance
        Shape (n,): what the model said before it saw the label.
    error
        Shape (n,), eV/Å: |F_pred − F_label|.
    frame
        Shape (n,): any integers that tell the frames apart. Frames, not atoms, are independent of each other.
    """

    variance: Array
    error: Array
    frame: NDArray[np.integer[Any]]

    def __post_init__(self) -> None:
        _same_shape(self.variance, self.error, self.frame)


def calibrate(
    variance: Array,
    error: Array,
    frame: NDArray[np.integer[Any]] | None = None,
    *,
    kind: str = KPU,
    most_outliers: float = 0.05,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> Calibration:
    """Maximum-likelihood calibration on labels that the model has not been trained on.

    Parameters
    ----------
    variance, error, frame
        As in ``Pairs``; without ``frame`` there is no ``alpha2_error``.
    kind
        ``kpu`` or ``committee``.
    most_outliers
        Pairs whose error is more than 20 σ (by a scale that outliers do not move) are left out and counted in the note,
        up to this share; when there are more, it is the variance that is bad, and all pairs count. 0 leaves none out.
    n_bootstrap, seed
        Draws of frames for ``alpha2_error``, and their seed.

    Returns
    -------
    Calibration
        The mean of z² over the pairs that count is 1.

    Raises
    ------
    DataError
        When no pair can be used: all are non-finite, all variances are zero, or all errors are zero.

    Notes
    -----
    Two choices where the likelihood alone is no guide: (i) no noise is taken when it explains the pairs as well to within one
    standard error (Δ ln L ≤ ½; for instance when all variances are equal), for the error that grows with the variance is the
    careful guess on hotter frames; (ii) the noise takes at most ``MOST_NOISE`` of the mean squared error, or σ would tell
    no frame from another; the note says when this limit was met.
    """
    _same_shape(variance, error, *(() if frame is None else (frame,)))
    sets = [(variance, error, np.zeros(variance.size, dtype=np.int64) if frame is None else frame, 1.0)]
    return _fit(sets, frame is not None, kind, most_outliers, n_bootstrap, seed)


def recalibrate(
    calibration: Calibration,
    validation: Pairs,
    labelled: Sequence[tuple[Pairs, Calibration]],
    *,
    labelled_share: float = 0.5,
    most_gain: float = 10.0,
    most_outliers: float = 0.05,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> Calibration:
    """Calibrate on the validation set and on what the last labellings have taught of hotter frames.

    Parameters
    ----------
    calibration
        The present model's calibration on ``validation`` alone (from ``calibrate``).
    validation
        The present model's pairs on frames that it has not been trained on.
    labelled
        For each labelling the pairs of its frames, as predicted by the model that chose them, and *that* model's calibration
        on its validation set alone. Labels that the present model has been trained on cannot test it, so what is carried over is
        by how much its predecessor's calibrated prediction was off: each variance is multiplied by α²(then)/α²(now).
    labelled_share
        Share of the whole weight that the labelled pairs get. The decision is taken between the two sets: one half each.
    most_gain
        A labelled pair weighs at most this many times a validation pair, so that two or three frames do not outvote a set.
    most_outliers, n_bootstrap, seed
        As for ``calibrate``; outliers are sought in each set by itself, so that a set which is off as a whole keeps its say.

    Notes
    -----
    Frames are chosen for their predicted variance, never for their error, and the fit is of errors *given* predicted variances:
    this choice does not bias it. (What does: labels that failed to converge. And a committee's σ² is itself an estimate; of frames
    chosen for a high one, some only seemed uncertain.)
    """
    if not 0.0 < labelled_share < 1.0:
        raise DataError(f"recalibrate: labelled_share is {labelled_share:g}; it must lie between 0 and 1")
    if odd := sorted({then.kind for _, then in labelled} - {calibration.kind}):
        raise DataError(f"recalibrate: pairs of kind {', '.join(odd)} cannot calibrate {calibration.kind}; leave them out")
    n_labelled = sum(pairs.variance.size for pairs, _ in labelled)
    weight = labelled_share / (1.0 - labelled_share) * validation.variance.size / max(n_labelled, 1)
    weight = min(weight, most_gain) if validation.variance.size else 1.0
    sets = [(validation.variance, validation.error, validation.frame, 1.0)]
    for pairs, then in labelled:
        sets.append((pairs.variance * (then.alpha2 / calibration.alpha2), pairs.error, pairs.frame, weight))
    return _fit(sets, True, calibration.kind, most_outliers, n_bootstrap, seed)


def _fit(
    sets: Sequence[tuple[Array, Array, NDArray[np.integer[Any]], float]],
    frames_known: bool,
    kind: str,
    most_outliers: float,
    n_bootstrap: int,
    seed: int,
) -> Calibration:
    notes, parts, n_frames = [], [], 0
    scale_v, scale_e2 = _scales(sets)
    for variance, error, frame, weight in sets:
        usable = _usable(variance, error, scale_v)
        v, e2 = np.abs(variance[usable]) / scale_v, error[usable] ** 2 / scale_e2
        if lost := int((~_finite(variance, error)).sum()):
            notes.append(f"{lost} pairs that are not finite were left out")
        keep = _screen(v, e2, most_outliers)
        if lost := int(keep.size - keep.sum()):
            notes.append(
                f"{lost} of {keep.size} pairs with an error over {math.sqrt(_BROKEN_Z2):g} sigma were left out: look at their labels"
            )
        numbers = np.unique(frame[usable][keep], return_inverse=True)[1] + n_frames
        parts.append((v[keep], e2[keep], numbers, np.full(len(numbers), weight)))
        n_frames = int(numbers.max(initial=n_frames - 1)) + 1
    v, e2, numbers, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not (v.any() and e2.any()):
        raise DataError("calibration: no pair has both a variance and an error above zero; give more labels of unseen frames")
    weights = weights / weights.mean()  # ln L then counts pairs
    grid = _grid(v, weights)
    ratio, at_limit = _best_ratio(v, e2, weights, grid)
    alpha2 = float(np.average(e2 / (v + ratio), weights=weights))
    if at_limit:
        notes.append(
            f"noise was limited to {MOST_NOISE:.0%} of the mean squared error: on these pairs the variance hardly tells the errors apart"
        )
    if len(v) < FEW_PAIRS:
        notes.append(f"pairs of {len(v)} atoms only: label at least {FEW_PAIRS} that the model has not seen")
    unit = scale_e2 / scale_v
    calibration = Calibration(alpha2 * unit, alpha2 * ratio * scale_e2, len(v), kind=kind, note="; ".join(notes))
    if not (_is_number(calibration.alpha2) and calibration.alpha2 > 0 and _is_number(calibration.noise2)):
        raise DataError("calibration: variances and errors are too far apart for any scale; look at the model's P and at the labels' unit")
    if not frames_known:
        return calibration
    centre = ratio or 0.03 * grid[-1]
    fine = np.geomspace(0.03 * centre, min(30.0 * centre, grid[-1]), 100)  # between its points α² moves by less than its error
    spread = _bootstrap(v, e2, numbers, weights, np.union1d(grid, fine), n_bootstrap, seed)
    return replace(calibration, n_frames=n_frames, alpha2_error=None if spread is None else spread * unit)


def _scales(sets: Sequence[tuple[Array, Array, NDArray[np.integer[Any]], float]]) -> tuple[float, float]:
    """Medians of the positive variances and of the positive squared errors; refuses when there is nothing to fit."""
    variance, error = (np.concatenate([np.asarray(part[column], dtype=np.float64) for part in sets]) for column in (0, 1))
    finite = _finite(variance, error)
    if not finite.any():
        raise DataError("calibration: no pair has a finite variance and a finite error; give labels of frames that the model has not seen")
    variance, error = np.abs(variance[finite]), np.abs(error[finite])
    if not variance.any():
        raise DataError("calibration: the variance is zero for every pair: identical models, or a P that was never trained; train again")
    if not error.any():
        raise DataError("calibration: every error is zero; compare with labels of frames that the model has not been trained on")
    return float(np.median(variance[variance > 0.0])), float(np.median(error[error > 0.0])) ** 2


def _finite(variance: Array, error: Array) -> NDArray[np.bool_]:
    with np.errstate(over="ignore"):
        return np.isfinite(variance) & np.isfinite(np.square(error))


def _usable(variance: Array, error: Array, scale_v: float) -> NDArray[np.bool_]:
    """Finite pairs, without atoms whose force is zero by symmetry: there model and label agree to round-off and teach nothing."""
    with np.errstate(invalid="ignore"):
        symmetric = (np.abs(variance) <= _ROUND_OFF_VARIANCE * scale_v) & (np.abs(error) <= _ROUND_OFF_EV_PER_ANG)
    return _finite(variance, error) & ~symmetric


def _profile(v: Array, e2: Array, weights: Array, ratio: float) -> float:
    """−ln L a pair, divided by 3/2, at the best scale for this ratio."""
    sums = v + ratio
    if sums.min() == 0.0:
        return math.inf
    return float(np.average(np.log(sums), weights=weights) + math.log(np.average(e2 / sums, weights=weights)))


def _grid(v: Array, weights: Array) -> Array:
    """Ratios to try: 0 where no variance is zero, then from far below the least variance up to the limit of the noise."""
    highest = MOST_NOISE / (1.0 - MOST_NOISE) * float(np.average(v, weights=weights))
    lowest = 1e-3 * float(v[v > 0.0].min(initial=highest))
    if not v.all():
        lowest = min(lowest, 1e-12)
    n_points = max(2, math.ceil(_PER_DECADE * math.log10(highest / lowest)) + 1)
    return np.concatenate([[0.0] if v.all() else [], np.geomspace(lowest, highest, n_points)])


def _best_ratio(v: Array, e2: Array, weights: Array, grid: Array) -> tuple[float, bool]:
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


def _screen(v: Array, e2: Array, most_outliers: float) -> NDArray[np.bool_]:
    """False for pairs whose error is beyond 20 σ.

    The scale comes from medians: the ratio is the one that makes ln e² − ln(v + r) scatter least around its median.
    """
    everything = np.ones(v.shape, dtype=bool)
    if len(v) < FEW_PAIRS or most_outliers <= 0.0 or np.median(e2) == 0.0:
        return everything
    best_scatter, best_z2 = math.inf, e2
    for ratio in _grid(v, np.ones(v.shape))[::_PER_DECADE]:
        sums = v + ratio
        relative = e2 / sums
        middle = float(np.median(relative))
        with np.errstate(divide="ignore"):
            scatter = float(np.median(np.abs(np.log(relative) - math.log(middle))))
        if scatter < best_scatter:
            best_scatter, best_z2 = scatter, relative * (_MEDIAN_Z2 / middle)
    broken = best_z2 > _BROKEN_Z2
    return everything if broken.mean() > most_outliers else ~broken


def _bootstrap(v: Array, e2: Array, frame: NDArray[np.int64], weights: Array, grid: Array, n_draws: int, seed: int) -> float | None:
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _same_shape(*arrays: NDArray[Any]) -> None:
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise DataError(f"calibration: variance, error and frame must be one-dimensional and of one length, not {shapes}")
