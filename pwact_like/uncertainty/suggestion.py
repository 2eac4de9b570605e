"""Trust levels from data: what uncertainty is small enough to be called accurate, and from where a frame is not to be trusted.

A frame's value u is max_a σ_a, the quantity that selection compares with the levels; its true error E is max_a e_a (or the
rms over atoms: whatever the tolerance is meant for). Both are in eV/Å.

lower
    With a tolerance: tolerance/κ, κ² the mean of E²/u² over the labelled frames, so that a frame *at* the level has an expected
    error (rms) of the tolerance. A single factor can be had from few frames and reaches beyond them, since σ is calibrated. (Even for
    perfect σ κ is above 1, about 2 for 100 equivalent atoms: the largest of many errors exceeds their scale.) Then a check without
    any model: if the labelled frames below that level have a larger rms error, the level is lowered until they have not.
    Without a tolerance: in-distribution frames are accurate by definition, so lower is the 95th percentile of their values, taken as
    exp(m + 1.645·s) with the median m of ln u and the scatter s from its median absolute deviation, at least 0.1: with ten frames the
    empirical percentile would be the largest value, whatever that is.
upper
    ``UPPER_RATIO`` times lower; or as far as frames have been labelled (the 95th percentile of their values: a frame that
    DFT converged for and whose label passed the checks was sane), between 5 and 10 times lower. The linear response on which
    every uncertainty here rests does not hold far beyond that, and DP-GEN's customary pairs (0.05 and 0.2 eV/Å, say) lie nearby.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError
from pwact_like.uncertainty.levels import TrustLevels

UPPER_RATIO = 5.0
MOST_UPPER_RATIO = 10.0
MIN_FRAMES = 20
_SHARE_ACCURATE = 1.645  # standard normal quantile of 95 %
_LEAST_SCATTER = 0.1  # of ln u: equal values (one frame) still need a margin
_FEW_BELOW = 5  # fewer frames below a level say nothing of its error

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ExpectedError:
    """True error of the labelled frames that a level calls accurate.

    Attributes
    ----------
    rms, percentile_95
        Of the frames' errors, eV/Å; None when there are no such frames.
    n
        Their number: below about 20 the percentile is little more than the largest.
    """

    rms: float | None
    percentile_95: float | None
    n: int


@dataclass(frozen=True)
class SuggestedLevels:
    """Levels with what is known of them.

    Attributes
    ----------
    lower, upper
        Trust levels, 0 < lower < upper, eV/Å.
    expected_error_accurate
        What the labels say of frames below lower.
    candidate_share
        Share of the explored frames (of the labelled ones, when none were given) between the levels.
    note
        What a reader should know before trusting them; "" if nothing.
    """

    lower: float
    upper: float
    expected_error_accurate: ExpectedError
    candidate_share: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @property
    def levels(self) -> TrustLevels:
        """As selection takes them."""
        return TrustLevels(self.lower, self.upper)


def suggest_levels(
    frame_value: Array,
    frame_error: Array,
    *,
    tolerance: float | None = None,
    in_distribution: Array | None = None,
    explored: Array | None = None,
    min_frames: int = MIN_FRAMES,
) -> SuggestedLevels:
    """Suggest trust levels from labelled frames.

    Parameters
    ----------
    frame_value, frame_error
        Shape (n_frames,), eV/Å: max_a σ_a as predicted before the label, and the true error.
    tolerance
        Error that a frame called accurate may be expected to have, eV/Å; None: no worse than the in-distribution frames.
    in_distribution
        Values of frames from where the model was trained (the validation set), for the rule without a tolerance;
        None: the labelled frames are such frames.
    explored
        Values of the exploration's frames, for the share of candidates.
    min_frames
        With fewer labelled frames the note warns.

    Raises
    ------
    DataError
        When no frame has a finite value and error, every value or error is zero, or the tolerance is not above zero.
    """
    if frame_value.shape != frame_error.shape or frame_value.ndim != 1:
        raise DataError(
            f"levels: values and errors must be one-dimensional and of one length, not {frame_value.shape}, {frame_error.shape}"
        )
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0.0):
        raise DataError(f"levels: the tolerance is {tolerance:g} eV/Å; give a positive number")
    with np.errstate(over="ignore"):  # squares are needed
        finite = np.isfinite(np.square(frame_value)) & np.isfinite(np.square(frame_error))
    value, error = np.asarray(frame_value[finite], dtype=np.float64), np.abs(frame_error[finite])
    if len(value) == 0:
        raise DataError("levels: no labelled frame has a finite uncertainty and error; label frames that the model has not seen")
    notes = []
    if len(value) < len(frame_value):
        notes.append(f"{len(frame_value) - len(value)} frames with values that are not finite were left out")
    if tolerance is None:
        known = value if in_distribution is None else in_distribution
        lower, upper = _from_distribution(known)
        if (n_known := int(np.count_nonzero(np.isfinite(known)))) < min_frames:
            notes.append(f"lower comes from {n_known} frames only: give at least {min_frames}")
    else:
        lower, relative_error = _from_tolerance(value, error, tolerance)
        lower, why_lowered = _checked(lower, value, error, tolerance)
        upper = UPPER_RATIO * lower
        if why_lowered:
            notes.append(why_lowered)
        if len(value) < min_frames:
            notes.append(f"{len(value)} labelled frames only (lower is known to about {relative_error:.0%}): label at least {min_frames}")
        if lower < value.min():
            notes.append("no labelled frame is as certain as lower: it is extrapolated")
        elif lower > value.max():
            notes.append("every labelled frame is more certain than lower: it is extrapolated; label hotter frames")
    reach = float(np.quantile(value, 0.95))
    upper = min(max(upper, reach), MOST_UPPER_RATIO * lower)
    pool = value if explored is None or len(explored) == 0 else explored
    with np.errstate(invalid="ignore"):
        share = float(np.mean((pool >= lower) & (pool < upper)))
    return SuggestedLevels(lower, upper, expected_error(value, error, lower), share, "; ".join(notes))


def levels_from_calibration(frame_values_validation: Array) -> TrustLevels:
    """Levels for a campaign that gives none, from the calibrated values of in-distribution validation frames.

    Parameters
    ----------
    frame_values_validation
        Shape (n_frames,), eV/Å: max_a σ_a of each frame, of one frame at least.

    Returns
    -------
    TrustLevels
        lower: robust 95th percentile of the values (see the module); upper: ``UPPER_RATIO`` times that.

    Raises
    ------
    DataError
        When no value is finite and above zero.
    """
    return TrustLevels(*_from_distribution(frame_values_validation))


def expected_error(frame_value: Array, frame_error: Array, lower: float) -> ExpectedError:
    """True error of the labelled frames whose value is below ``lower`` (all in eV/Å, shape (n_frames,))."""
    below = frame_error[frame_value < lower]
    if len(below) == 0:
        return ExpectedError(None, None, 0)
    return ExpectedError(float(np.sqrt(np.mean(np.square(below)))), float(np.quantile(below, 0.95)), len(below))


def _from_distribution(values: Array) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    values = np.log(values[values > 0.0])
    if len(values) == 0:
        raise DataError(
            "levels: no validation frame has a finite uncertainty above zero; calibrate first, or give the levels in param.json"
        )
    middle = float(np.median(values))
    scatter = max(1.4826 * float(np.median(np.abs(values - middle))), _LEAST_SCATTER)
    lower = math.exp(middle + _SHARE_ACCURATE * scatter)
    return lower, UPPER_RATIO * lower


def _from_tolerance(value: Array, error: Array, tolerance: float) -> tuple[float, float]:
    """The level at which the expected error is the tolerance, and its relative standard error."""
    sure = value > 0.0
    if not (sure.any() and error[sure].any()):
        raise DataError("levels: every uncertainty or every error is zero; compare with labels of frames that the model has not seen")
    with np.errstate(over="ignore"):
        ratios = np.square(error[sure] / value[sure])
        kappa2 = float(ratios.mean())
    if kappa2 == 0.0 or not 0.0 < MOST_UPPER_RATIO * tolerance / math.sqrt(kappa2) < math.inf:
        raise DataError("levels: uncertainties and errors are too far apart for any level; calibrate the uncertainty first")
    # of κ, half of that of κ²; for a single frame E²/u² scatters by about its own size
    scatter = float((ratios / kappa2).std(ddof=1)) if len(ratios) > 1 else 1.0
    return tolerance / math.sqrt(kappa2), 0.5 * scatter / math.sqrt(len(ratios))


def _checked(lower: float, value: Array, error: Array, tolerance: float) -> tuple[float, str]:
    """The highest level up to ``lower`` below which the labelled frames' rms error is within the tolerance, and a note."""
    order = np.argsort(value, kind="stable")
    value, mean_square = value[order], np.cumsum(np.square(error[order])) / np.arange(1, len(order) + 1)
    n_below = int(np.searchsorted(value, lower, side="left"))
    if n_below < _FEW_BELOW or mean_square[n_below - 1] <= tolerance**2:
        return lower, ""
    # the level is exclusive, so it can be the value of the first frame that is too much
    good = [n for n in range(_FEW_BELOW, n_below) if mean_square[n - 1] <= tolerance**2 and value[n] > value[n - 1]]
    if good:
        return float(value[good[-1]]), "lower was reduced: labelled frames below the calibrated level had a larger error than tolerated"
    return float(value[value > 0.0][0]), "even the most certain labelled frames have a larger error than tolerated: none is accurate yet"
