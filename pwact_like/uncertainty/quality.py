"""How good an uncertainty is: whether it ranks the errors, and whether its scale is right.

Throughout, σ_a is the uncertainty of atom a's force vector and e_a = |F_pred − F_label| its true error, both in eV/Å. The
calibrated ideal is a Gaussian error whose three components have variance σ_a²/3 each, so that 3·e²/σ² follows χ² with three
degrees of freedom and the mean of e²/σ² is 1. A figure that the data do not determine (all values equal, no bad frame) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError

_MOST_POINTS = 1500  # of the ceiling's double sum; its error falls with the square of it

Array = NDArray[np.float64]


def spearman(x: Array, y: Array) -> float:
    """Rank correlation: Pearson's correlation of the ranks, ties at their mean rank (Spearman, Am. J. Psychol. 15, 72 (1904)).

    Parameters
    ----------
    x, y
        Shape (n,), any unit; infinity counts as largest, NaN is not allowed.

    Returns
    -------
    float
        NaN when fewer than two values are given or all x or all y are equal.
    """
    _check(x, y)
    return _correlation(_ranks(x), _ranks(y))


def calibrated_ceiling(sigma: Array) -> float:
    """Expected Spearman correlation of σ with e if the errors were perfectly calibrated and Gaussian.

    Even an ideal uncertainty gives the width of the error's distribution, not the error; with σ nearly the same for all atoms it
    cannot rank them. (A ρ above its ceiling says that σ varies too little, e.g. for a constant in it.)
    The expected rank of e_i is 1 + Σ_j P(e_j < e_i), and e_i²/e_j² · σ_j²/σ_i² follows Fisher's F(3, 3), so
    with y = σ_i²/(σ_i² + σ_j²)

        P(e_j < e_i) = I_y(3/2, 3/2) = (2/π)·[asin √y − √(y(1 − y))·(1 − 2y)],

    I the regularised incomplete beta function. The sum is exact; of more than 1500 values, quantiles stand for all.

    Parameters
    ----------
    sigma
        Shape (n,), any unit: only the ratios count.
    """
    _check(sigma)
    sigma = np.sort(np.abs(sigma))
    if len(sigma) > _MOST_POINTS:
        sigma = sigma[((np.arange(_MOST_POINTS) + 0.5) / _MOST_POINTS * len(sigma)).astype(np.int64)]
    n = len(sigma)
    if n < 2 or sigma[0] == sigma[-1]:
        return math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        y = 1.0 / (1.0 + np.square(sigma[None, :] / sigma[:, None]))
    y[np.isnan(y)] = 0.5  # two zeros, or two infinities
    below = (2.0 / math.pi) * (np.arcsin(np.sqrt(y)) - np.sqrt(y * (1.0 - y)) * (1.0 - 2.0 * y))
    expected = below.sum(axis=1) + 0.5
    ranks = _ranks(sigma)
    # the errors' own ranks are 1 … n, but for zeros, which are tied
    zeros = float(np.count_nonzero(sigma == 0.0))
    variance = (n**2 - 1 - (zeros**3 - zeros) / n) / 12.0
    return float(np.mean((ranks - ranks.mean()) * expected) / (ranks.std() * math.sqrt(variance)))


def ceiling_of_maxima(sigma: Array, frame: NDArray[np.integer[Any]], *, n_draws: int = 200, seed: int = 0) -> float:
    """As ``calibrated_ceiling`` for structures: max_a σ_a against max_a e_a, the errors drawn for every atom independently.

    Monte Carlo; its standard error is at most 1/√(n_draws · n_frames).

    Parameters
    ----------
    sigma, frame
        Shape (n_atoms,): uncertainties and the frame of each atom.
    n_draws, seed
        Sets of errors that are drawn, and their seed.
    """
    _check(sigma, frame)
    order, starts = _by_frame(frame)
    if len(starts) < 2:
        return math.nan
    sigma = sigma[order]
    largest = _ranks(np.maximum.reduceat(sigma, starts))
    generator = np.random.default_rng(seed)
    found = [
        _correlation(largest, _ranks(np.maximum.reduceat(sigma * np.sqrt(generator.standard_gamma(1.5, sigma.size) / 1.5), starts)))
        for _ in range(n_draws)
    ]
    return float(np.mean(found))


def auroc(score: Array, bad: NDArray[np.bool_]) -> float:
    """Probability that a bad case has the higher score than a good one, ties counting half.

    This is the area under the receiver operating characteristic, U/(n_bad·n_good) with Mann and Whitney's U: 1 is perfect, ½ is
    chance (Hanley & McNeil, Radiology 143, 29 (1982)).

    Parameters
    ----------
    score
        Shape (n,).
    bad
        Shape (n,), bool.

    Returns
    -------
    float
        NaN when all cases are bad or all are good.
    """
    _check(score, bad)
    n_bad = int(np.count_nonzero(bad))
    n_good = len(bad) - n_bad
    if n_bad == 0 or n_good == 0:
        return math.nan
    return float((_ranks(score)[bad].sum() - n_bad * (n_bad + 1) / 2.0) / n_bad / n_good)


def nll(sigma: Array, error: Array) -> float:
    """Mean negative log likelihood of a force component, ½·[ln(2π·σ²/3) + e²/σ²], σ²/3 being a component's variance.

    Infinite when a σ of zero meets an error; atoms with neither are left out. A proper score: the lower the better, in
    ln(eV/Å), for comparing uncertainties on the same frames.
    """
    _check(sigma, error)
    counts = (sigma != 0.0) | (error != 0.0)
    if not counts.any():
        return math.nan
    with np.errstate(divide="ignore", over="ignore"):
        variance = np.square(sigma[counts])
        if not variance.all():
            return math.inf
        return float(np.mean(0.5 * (np.log(2.0 * math.pi * variance / 3.0) + np.square(error[counts]) / variance)))


def z_variance(sigma: Array, error: Array) -> float:
    """Mean of z² = e²/σ², ideally 1; above 1 the uncertainty promises too much. Atoms with neither are left out."""
    _check(sigma, error)
    counts = (sigma != 0.0) | (error != 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        return float(np.mean(np.square(error[counts] / sigma[counts]))) if counts.any() else math.nan


def confidence(sigma: Array, error: Array) -> Array:
    """Level of the confidence ball on whose surface the error lies, P(χ²₃ ≤ 3·e²/σ²), in [0, 1], sorted.

    For a calibrated uncertainty these are uniform: the curve of (level, share of atoms at or below it) is the diagonal.
    """
    from scipy.special import gammainc

    _check(sigma, error)
    counts = (sigma != 0.0) | (error != 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        z2 = np.square(error[counts] / sigma[counts])
    return np.sort(np.asarray(gammainc(1.5, 1.5 * z2)))


def miscalibration_area(sigma: Array, error: Array) -> float:
    """Area between the expected and the observed share of errors inside their confidence balls, over all levels.

    ∫₀¹ |share of atoms with ``confidence`` ≤ p  −  p| dp: 0 when calibrated, ½ when every error is far too large or too small
    (Kuleshov et al., ICML 2018; Tran et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020), for scalars). The steps are integrated
    exactly; n calibrated and independent errors give 0.3/√n on average.
    """
    levels = confidence(sigma, error)
    n = len(levels)
    if n == 0:
        return math.nan
    edges = np.concatenate([[0.0], levels, [1.0]])
    shares = np.arange(n + 1) / n  # on [edges[k], edges[k + 1]]
    high, low = edges[1:] - shares, edges[:-1] - shares
    return float(np.sum(high * np.abs(high) - low * np.abs(low)) / 2.0)


@dataclass(frozen=True)
class Quality:
    """How good an uncertainty was on labelled frames. NaN stands for what the data do not determine.

    Attributes
    ----------
    n_atoms, n_frames, n_left_out
        What was judged, and how many frames were not because a value in them was not finite.
    rms_error, rms_sigma
        Root mean squares over atoms of e and σ, eV/Å.
    spearman_atoms, ceiling_atoms
        Rank correlation of σ_a with e_a, and what a perfectly calibrated uncertainty of this spread would reach.
    spearman_frames, ceiling_frames
        The same for max_a σ_a and max_a e_a of each frame: what selection goes by.
    tau
        A frame is bad when max_a e_a > tau, an atom when e_a > tau, eV/Å.
    auroc_atoms, auroc_frames
        Probability that the uncertainty ranks a bad one above a good one.
    nll, miscalibration_area, z_variance
        Over atoms: see the functions of these names.
    """

    n_atoms: int
    n_frames: int
    n_left_out: int
    rms_error: float
    rms_sigma: float
    spearman_atoms: float
    ceiling_atoms: float
    spearman_frames: float
    ceiling_frames: float
    tau: float
    auroc_atoms: float
    auroc_frames: float
    nll: float
    miscalibration_area: float
    z_variance: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: what is not finite becomes None."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def judge(
    sigma_atoms: Array,
    error_atoms: Array,
    frame_of_atom: NDArray[np.integer[Any]],
    *,
    tau: float | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> Quality:
    """Judge an uncertainty by the true errors of labelled frames.

    Parameters
    ----------
    sigma_atoms, error_atoms
        Shape (n_atoms,), eV/Å; σ calibrated (ranks do not mind, likelihood and z do).
    frame_of_atom
        Shape (n_atoms,): any integers that tell the frames apart.
    tau
        Error from which on a frame is bad, eV/Å. By default the upper quartile of the frames' largest errors: then a quarter of the
        frames is bad on every set, but figures of different models are of different questions; give tau to compare models.
    n_draws, seed
        For ``ceiling_of_maxima``.

    Raises
    ------
    DataError
        When the shapes differ, or no frame is finite.
    """
    _check(frame_of_atom, sigma_atoms, error_atoms, finite=False)
    with np.errstate(over="ignore"):  # a diverged model's 1e200 eV/Å is as good as infinite: its square is needed
        lost = np.unique(frame_of_atom[~(np.isfinite(np.square(sigma_atoms)) & np.isfinite(np.square(error_atoms)))])
    keep = ~np.isin(frame_of_atom, lost)
    if not keep.any():
        raise DataError("quality: no frame has finite uncertainties and errors throughout; look at the model and its labels")
    sigma, error, frame = np.abs(sigma_atoms[keep]), np.abs(error_atoms[keep]), frame_of_atom[keep]
    order, starts = _by_frame(frame)
    frame_sigma, frame_error = np.maximum.reduceat(sigma[order], starts), np.maximum.reduceat(error[order], starts)
    tau = float(np.quantile(frame_error, 0.75)) if tau is None else tau
    return Quality(
        n_atoms=len(sigma),
        n_frames=len(starts),
        n_left_out=len(lost),
        rms_error=float(np.sqrt(np.mean(np.square(error)))),
        rms_sigma=float(np.sqrt(np.mean(np.square(sigma)))),
        spearman_atoms=spearman(sigma, error),
        ceiling_atoms=calibrated_ceiling(sigma),
        spearman_frames=spearman(frame_sigma, frame_error),
        ceiling_frames=ceiling_of_maxima(sigma, frame, n_draws=n_draws, seed=seed),
        tau=tau,
        auroc_atoms=auroc(sigma, error > tau),
        auroc_frames=auroc(frame_sigma, frame_error > tau),
        nll=nll(sigma, error),
        miscalibration_area=miscalibration_area(sigma, error),
        z_variance=z_variance(sigma, error),
    )


def quality_table(results: Mapping[str, Quality]) -> str:
    """A table for people, one line a method; ρ is followed by its ceiling."""
    heads = (
        "atoms",
        "frames",
        "rms error",
        "rms sigma",
        "rho atoms (max)",
        "rho frames (max)",
        "AUROC frames",
        "NLL",
        "miscal.",
        "mean z2",
    )
    rows = [("", *heads)]
    for name, q in results.items():
        atoms, frames = f"{q.spearman_atoms:.2f} ({q.ceiling_atoms:.2f})", f"{q.spearman_frames:.2f} ({q.ceiling_frames:.2f})"
        figures = (f"{q.rms_error:.4f}", f"{q.rms_sigma:.4f}", atoms, frames, f"{q.auroc_frames:.2f}")
        rows.append(
            (name, str(q.n_atoms), str(q.n_frames), *figures, f"{q.nll:.2f}", f"{q.miscalibration_area:.3f}", f"{q.z_variance:.2f}")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)) for row in rows
    ]
    taus = ", ".join(dict.fromkeys(f"{q.tau:.3g}" for q in results.values()))
    left_out = sum(q.n_left_out for q in results.values())
    notes = f"errors in eV/Å; a frame is bad when its largest error is above {taus} eV/Å" if results else "nothing to show"
    return "\n".join([*lines, notes + f"; {left_out} frames with values that are not finite were left out" * bool(left_out)])


def _ranks(values: Array) -> Array:
    """Ranks from 1 on; tied values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[inverse], dtype=np.float64)


def _correlation(x: Array, y: Array) -> float:
    """Pearson's correlation."""
    if len(x) < 2:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(np.clip(float(x @ y) / norm, -1.0, 1.0)) if norm > 0.0 else math.nan


def _by_frame(frame: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order that sorts atoms by frame, and where each frame starts in it."""
    order = np.argsort(frame, kind="stable")
    starts = np.flatnonzero(np.diff(frame[order], prepend=frame[order[:1]] - 1))
    return order, starts


def _check(*arrays: NDArray[Any], finite: bool = True) -> None:
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
        raise DataError(f"quality: one-dimensional arrays of one length are needed, not {', '.join(str(array.shape) for array in arrays)}")
    if finite and any(np.isnan(array).any() for array in arrays):
        raise DataError("quality: NaN among the uncertainties or errors; leave those atoms out, or use judge, which counts them")
