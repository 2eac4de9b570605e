"""From a variance without scale to an uncertainty in eV/Å: σ_a² = α²·v_a + s².

``v_a`` is what a model says of atom a: the sum over the three components of its KPU (dimensionless), or a committee's σ_a².
Its scale is arbitrary (a filter's P shrinks with every pass over the data, a committee has too little spread), so α² is fitted
to labels that the model has not seen. ``s²`` is the part of the error that no model can know of: the noise of the labels and
what the functional form cannot follow. Both are variances of the whole force vector, (eV/Å)²; each component has a third.

With e_a = |F_pred − F_label| and Gaussian components, −ln L = Σ_a w_a·(3/2)·[ln σ_a² + e_a²/σ_a²] + const. For a fixed
ratio r = s²/α² the best α² is the weighted mean of e²/(v + r), so the fit has one dimension left, and at its optimum the
mean of z² = e²/σ² is exactly 1. Source: a scale by maximum likelihood is Musil et al., J. Chem. Theory Comput. 15, 906 (2019),
for a committee and Bigi et al., arXiv 2403.02251, for hᵀPh; the noise term and the search are our own.

A variance from n draws of the weights is itself an estimate, v = u·χ²_ν/ν with 1 to 3 degrees of freedom ν a draw. Fitted as it
is, α² comes out too small (errors in a regressor attenuate its slope: 0.15 to 0.9 of the truth for four draws), and hot errors
are understated. So α² is always that of u: it is fitted to variances of many draws, brought together by as much as they still
scatter (``scatter``), and `few_draws.for_draws` says by what few draws must be multiplied when they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError
from pwact_like.uncertainty.scale_fit import BROKEN_Z2, FEW_PAIRS, MOST_NOISE, best_ratio, bootstrap, brought_together, grid_of, screen
from pwact_like.uncertainty.table import COMMITTEE, KPU

LEAST_NOISE_EV_PER_ANG = 1e-6
"""s is never below it: programs write forces with six to eight decimals."""

_ROUNDED_EV_PER_ANG = 1e-8  # errors up to here are those of labels with eight decimals: they tell nothing of a model
HELD_VARIANCE = 1e-8  # of the median, and
_HELD_ERROR = 1e-3  # of the median: far below on both counts, a force that symmetry forbids
_ROUNDS = 30  # of recalibrate; each is closer by a factor of some ten

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
    scatter
        Variance of ln(variance) about what infinitely many draws would give, as far as it differs between atoms; 0: exact.
    """

    variance: Array
    error: Array
    frame: NDArray[np.integer[Any]]
    scatter: float = 0.0

    def __post_init__(self) -> None:
        _same_shape(self.variance, self.error, self.frame)


def calibrate(
    variance: Array,
    error: Array,
    frame: NDArray[np.integer[Any]] | None = None,
    *,
    scatter: float = 0.0,
    kind: str = KPU,
    most_outliers: float = 0.05,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> Calibration:
    """Maximum-likelihood calibration on labels that the model has not been trained on.

    Parameters
    ----------
    variance, error, frame, scatter
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
        When no pair can be used: all are non-finite, all variances are zero, or all errors are those of rounded labels (1e-8 eV/Å).

    Notes
    -----
    Atoms whose force symmetry forbids (in perfect crystals) have neither variance nor error, but for rounding; the likelihood of
    σ → 0 there knows no bounds, and would deny the noise everywhere. Pairs with a variance below 1e-8 *and* an error below 1e-3 of
    the medians (over pairs with errors above 1e-6 eV/Å) are left out, and s is at least ``LEAST_NOISE_EV_PER_ANG``.

    Two choices where the likelihood alone is no guide: (i) no noise is taken when it explains the pairs as well to within one
    standard error (Δ ln L ≤ ½; for instance when all variances are equal), for the error that grows with the variance is the
    careful guess on hotter frames; (ii) the noise takes at most ``MOST_NOISE`` of the mean squared error, or σ would tell
    no frame from another; the note says when this limit was met.
    """
    _same_shape(variance, error, *(() if frame is None else (frame,)))
    pairs = Pairs(variance, error, np.zeros(variance.size, dtype=np.int64) if frame is None else frame, scatter)
    return _fit([(pairs, 1.0)], frame is not None, kind, most_outliers, n_bootstrap, seed)


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
        by how much its predecessor's calibrated prediction was off: see the notes.
    labelled_share
        Share of the whole weight that the labelled pairs get. The decision is taken between the two sets: one half each.
    most_gain
        A labelled pair weighs at most this many times a validation pair, so that two or three frames do not outvote a set.
    most_outliers, n_bootstrap, seed
        As for ``calibrate``; outliers are sought in each set by itself, so that a set which is off as a whole keeps its say.

    Notes
    -----
    With v' = v·α²(then)/α²(own), own the ``calibration``, the predecessor had said σ² = α²(own)·v' + s²(then) of a labelled atom. If its
    errors outgrow that on hot frames, the present model's will: its labels are taken for draws of σ² = A·v' + s²(then), while the
    validation pairs are those of A·v + s², with A and s² to be found. The predecessor's noise stays its own: taken for the present
    model's, a change of s² from one training to the next would be put down to A. Since z² = e²/σ² is all that counts, a labelled
    error enters as e²·(A·v' + s²)/(A·v' + s²(then)), and A, s² are iterated to the fixed point, where the mean of z² is 1.

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
    found, own = calibration, calibration
    for _ in range(_ROUNDS):
        before = found
        sets = [(validation, 1.0), *((_carried(pairs, then, own, before), weight) for pairs, then in labelled)]
        found = _fit(sets, True, own.kind, most_outliers, 0, seed)
        if math.isclose(found.alpha2, before.alpha2, rel_tol=1e-6) and math.isclose(found.noise2, before.noise2, rel_tol=1e-6):
            break
    return _fit(sets, True, own.kind, most_outliers, n_bootstrap, seed)


def _carried(pairs: Pairs, then: Calibration, own: Calibration, found: Calibration) -> Pairs:
    """A predecessor's pairs as if they were the present model's: the same z², with the present scale of variances and noise."""
    variance = pairs.variance * (then.alpha2 / own.alpha2)
    known = found.alpha2 * np.abs(variance)
    ratio = (known + max(found.noise2, LEAST_NOISE_EV_PER_ANG**2)) / (known + max(then.noise2, LEAST_NOISE_EV_PER_ANG**2))
    return replace(pairs, variance=variance, error=pairs.error * np.sqrt(ratio))


def _fit(
    sets: Sequence[tuple[Pairs, float]], frames_known: bool, kind: str, most_outliers: float, n_bootstrap: int, seed: int
) -> Calibration:
    notes, parts, n_frames = [], [], 0
    scale_v, scale_e2 = _scales([pairs for pairs, _ in sets])
    for pairs, weight in sets:
        usable = _usable(pairs, scale_v, scale_e2)
        v = brought_together(np.abs(pairs.variance[usable]) / scale_v, pairs.scatter)
        e2 = pairs.error[usable] ** 2 / scale_e2
        if lost := int((~_finite(pairs)).sum()):
            notes.append(f"{lost} pairs that are not finite were left out")
        keep = screen(v, e2, most_outliers)
        if lost := int(keep.size - keep.sum()):
            notes.append(
                f"{lost} of {keep.size} pairs with an error over {math.sqrt(BROKEN_Z2):g} sigma were left out: look at their labels"
            )
        numbers = np.unique(pairs.frame[usable][keep], return_inverse=True)[1] + n_frames
        parts.append((v[keep], e2[keep], numbers, np.full(len(numbers), weight)))
        n_frames = int(numbers.max(initial=n_frames - 1)) + 1
    v, e2, numbers, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not (v.any() and e2.any()):
        raise DataError("calibration: no pair has both a variance and an error above zero; give more labels of unseen frames")
    weights = weights / weights.mean()  # ln L then counts pairs
    grid = grid_of(v, weights)
    ratio, at_limit = best_ratio(v, e2, weights, grid)
    alpha2 = float(np.average(e2 / (v + ratio), weights=weights))
    if alpha2 * ratio < (least := LEAST_NOISE_EV_PER_ANG**2 / scale_e2):
        ratio = least / alpha2
        alpha2 = float(np.average(e2 / (v + ratio), weights=weights))
    if at_limit:
        notes.append(
            f"noise was limited to {MOST_NOISE:.0%} of the mean squared error: on these pairs the variance hardly tells the errors apart"
        )
    if len(v) < FEW_PAIRS:
        notes.append(f"pairs of {len(v)} atoms only: label at least {FEW_PAIRS} that the model has not seen")
    unit = scale_e2 / scale_v
    noise2 = max(alpha2 * ratio * scale_e2, LEAST_NOISE_EV_PER_ANG**2)
    calibration = Calibration(alpha2 * unit, noise2, len(v), kind=kind, note="; ".join(notes))
    if not (_is_number(calibration.alpha2) and calibration.alpha2 > 0 and _is_number(calibration.noise2)):
        raise DataError("calibration: variances and errors are too far apart for any scale; look at the model's P and at the labels' unit")
    if not frames_known:
        return calibration
    centre = ratio or 0.03 * grid[-1]
    fine = np.geomspace(0.03 * centre, min(30.0 * centre, grid[-1]), 100)  # between its points α² moves by less than its error
    spread = bootstrap(v, e2, numbers, weights, np.union1d(grid, fine), n_bootstrap, seed)
    return replace(calibration, n_frames=n_frames, alpha2_error=None if spread is None else spread * unit)


def _scales(sets: Sequence[Pairs]) -> tuple[float, float]:
    """Medians of the variances and of the squared errors, where symmetry allows either; refuses when there is nothing to fit."""
    finite = [_finite(pairs) for pairs in sets]
    variance = np.abs(np.concatenate([pairs.variance[some] for pairs, some in zip(sets, finite, strict=True)]))
    error = np.abs(np.concatenate([pairs.error[some] for pairs, some in zip(sets, finite, strict=True)]))
    if not len(variance):
        raise DataError("calibration: no pair has a finite variance and a finite error; give labels of frames that the model has not seen")
    if not variance.any():
        raise DataError("calibration: the variance is zero for every pair: identical models, or a P that was never trained; train again")
    if not error.max() > _ROUNDED_EV_PER_ANG:
        raise DataError(
            "calibration: every error is zero, to the labels' rounding: frames that the model was trained on, or perfect crystals, "
            "whose forces symmetry forbids; compare with labels of other frames"
        )
    free = (error > LEAST_NOISE_EV_PER_ANG) & (variance > 0.0)
    if not free.any():
        free = (error > 0.0) & (variance > 0.0)
    if not free.any():  # an error here, a variance there
        free = np.ones(error.shape, dtype=bool)
    return float(np.median(variance[free])) or float(variance.max()), (float(np.median(error[free])) or float(error.max())) ** 2


def _finite(pairs: Pairs) -> NDArray[np.bool_]:
    with np.errstate(over="ignore"):
        return np.isfinite(pairs.variance) & np.isfinite(np.square(pairs.error))


def _usable(pairs: Pairs, scale_v: float, scale_e2: float) -> NDArray[np.bool_]:
    """Finite pairs, without atoms whose force symmetry forbids (see `calibrate`)."""
    with np.errstate(invalid="ignore"):
        small = np.abs(pairs.error) <= max(_HELD_ERROR * math.sqrt(scale_e2), _ROUNDED_EV_PER_ANG)
        held = (np.abs(pairs.variance) <= HELD_VARIANCE * scale_v) & small
    return _finite(pairs) & ~held


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _same_shape(*arrays: NDArray[Any]) -> None:
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise DataError(f"calibration: variance, error and frame must be one-dimensional and of one length, not {shapes}")
