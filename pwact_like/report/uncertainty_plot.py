"""A picture of how good uncertainties are: predicted against true, calibration curves, rank correlations with their ceilings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError
from pwact_like.fsio import write_through
from pwact_like.uncertainty.quality import Quality, confidence, miscalibration_area

Array = NDArray[np.float64]
Result = tuple[Array, Array, Quality]

# Okabe and Ito's colours: told apart by every kind of colour vision
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MOST_DECADES = 8.0  # round-off zeros must not squeeze the rest into a corner
_DPI = 130


def plot(path: Path, results: Mapping[str, Result]) -> None:
    """Draw the picture as a PNG file (renamed in whole).

    Parameters
    ----------
    path
        The file.
    results
        Name of the uncertainty → (σ of each atom, true error of each atom, both eV/Å of shape (n_atoms,), ``judge``'s result).

    Raises
    ------
    DataError
        When there is nothing to draw.
    """
    # a Figure with a canvas of its own: pyplot would choose a backend for the whole process and remember every figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = {name.replace("$", r"\$"): result for name, result in results.items()}  # a dollar would begin a formula
    drawable = {name: (*_positive(sigma, error), quality) for name, (sigma, error, quality) in results.items()}
    if not drawable or all(len(sigma) == 0 for sigma, _, _ in drawable.values()):
        raise DataError(f"{path}: no atom has both an uncertainty and an error above zero; there is nothing to draw")
    low, high = _limits([values for sigma, error, _ in drawable.values() for values in (sigma, error)])
    n_columns = {2: 2, 4: 2}.get(len(drawable), 3)
    n_rows = -(-len(drawable) // n_columns)
    alone = len(drawable) == 1  # then everything stands in one row
    figure = Figure(figsize=(4.6 * n_columns, 4.4 * (n_rows + (not alone))), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(n_rows + (not alone), 2 * n_columns)
    for index, (name, (sigma, error, quality)) in enumerate(drawable.items()):
        row, column = divmod(index, n_columns)
        axes = figure.add_subplot(grid[row, 2 * column : 2 * column + 2])
        _density(axes, name, sigma, error, quality, (low, high))
    left, middle, right = (2, 4, 6) if alone else (0, n_columns, 2 * n_columns)
    _curves(figure.add_subplot(grid[-1, left:middle]), results)
    _bars(figure.add_subplot(grid[-1, middle:right]), results)
    write_through(path, lambda temporary: figure.savefig(temporary, dpi=_DPI, format="png"))


def _positive(sigma: Array, error: Array) -> tuple[Array, Array]:
    """Atoms that have a place on logarithmic axes."""
    with np.errstate(invalid="ignore"):
        shown = np.isfinite(sigma) & np.isfinite(error) & (sigma > 0.0) & (error > 0.0)
    return sigma[shown], error[shown]


def _limits(values: list[Array]) -> tuple[float, float]:
    everything = np.log10(np.concatenate(values))
    # a vector's small errors reach far down; one atom in a thousand may lie outside
    low, high = float(np.quantile(everything, 0.001)), float(everything.max())
    low = max(low, high - _MOST_DECADES)
    margin = 0.05 * max(high - low, 0.5)
    return 10.0 ** (low - margin), 10.0 ** (high + margin)


def _density(axes: Any, name: str, sigma: Array, error: Array, quality: Quality, limits: tuple[float, float]) -> None:
    from scipy.special import gammaincinv

    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal", title=name)
    axes.set(xlabel="predicted uncertainty σ of the force (eV/Å)", ylabel="true error |ΔF| (eV/Å)")
    inside = (sigma >= limits[0]) & (error >= limits[0])
    if inside.any():
        extent = tuple(np.log10([*limits, *limits]))
        axes.hexbin(
            sigma[inside],
            error[inside],
            xscale="log",
            yscale="log",
            bins="log",
            gridsize=55,
            extent=extent,
            cmap="viridis",
            mincnt=1,
            linewidths=0,
        )
    line = np.array(limits)
    axes.plot(line, line, color="black", linewidth=1.0, label="y = x")
    for share, style in ((0.6827, "--"), (0.9545, ":")):
        # |ΔF|/σ of calibrated errors: sqrt(χ²₃/3), the central share of it
        for quantile in (0.5 - share / 2.0, 0.5 + share / 2.0):
            factor = float(np.sqrt(gammaincinv(1.5, quantile) / 1.5))
            label = f"{share:.0%} of calibrated errors" if quantile > 0.5 else None
            axes.plot(line, factor * line, color=_COLOURS[1], linewidth=1.1, linestyle=style, label=label)
    hidden = quality.n_atoms - int(inside.sum())
    text = f"rms error {quality.rms_error:.3g} eV/Å\nrms σ {quality.rms_sigma:.3g} eV/Å\nmean z² {quality.z_variance:.3g}"
    text += f"\n{quality.n_atoms} atoms, {quality.n_frames} frames" + f"\n{hidden} atoms outside" * (hidden > 0)
    axes.text(
        0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=8, bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
    )
    axes.legend(loc="lower right", fontsize=7, framealpha=0.8)


def _curves(axes: Any, results: Mapping[str, Result]) -> None:
    axes.plot([0, 1], [0, 1], color="black", linewidth=1.0, label="calibrated")
    for index, (name, (sigma, error, _)) in enumerate(results.items()):
        finite = np.isfinite(sigma) & np.isfinite(error)
        levels = confidence(sigma[finite], error[finite])
        if len(levels) == 0:
            continue
        shares = np.linspace(0.0, 1.0, 201)
        observed = np.searchsorted(levels, shares, side="right") / len(levels)
        area = miscalibration_area(sigma[finite], error[finite])
        axes.plot(shares, observed, color=_COLOURS[index % len(_COLOURS)], linewidth=1.6, label=f"{name} (area {area:.3f})")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title="Calibration (above the line: σ too large)")
    axes.set(xlabel="expected share of errors inside the ball", ylabel="observed share")
    axes.legend(loc="lower right", fontsize=7, framealpha=0.8)


def _bars(axes: Any, results: Mapping[str, Result]) -> None:
    names = list(results)
    places = np.arange(len(names), dtype=float)
    width = 0.36
    for offset, colour, label, value, ceiling in (
        (-0.5, _COLOURS[0], "atoms", "spearman_atoms", "ceiling_atoms"),
        (0.5, _COLOURS[5], "frames (largest atom)", "spearman_frames", "ceiling_frames"),
    ):
        heights = np.array([getattr(results[name][2], value) for name in names], dtype=float)
        tops = np.array([getattr(results[name][2], ceiling) for name in names], dtype=float)
        where = places + offset * width
        axes.bar(where, np.nan_to_num(heights), width * 0.94, color=colour, label=label)
        axes.hlines(
            tops, where - width / 2, where + width / 2, color="black", linewidth=2.0, label="calibrated ceiling" if offset > 0 else None
        )
        for x, height in zip(where, heights, strict=True):
            text = f"{height:.2f}" if np.isfinite(height) else "n/a"
            white = colour == _COLOURS[0] and height > 0.1
            axes.text(x, 0.02, text, ha="center", va="bottom", fontsize=8, color="white" if white else "black")
    axes.axhline(0.0, color="black", linewidth=0.8)
    lowest = float(
        np.nanmin([0.0, *(rho for _, _, quality in results.values() for rho in (quality.spearman_atoms, quality.spearman_frames))])
    )
    axes.set(ylim=(1.05 * lowest, 1.2), xlim=(-0.6, len(names) - 0.4), ylabel="Spearman ρ(σ, |ΔF|)", title="Ranking")
    axes.set_yticks([tick for tick in np.linspace(-1.0, 1.0, 11) if tick >= 1.05 * lowest])
    axes.set_xticks(places, [fill(name, 16) for name in names], fontsize=9 if len(names) < 5 else 7)
    axes.legend(loc="upper center", fontsize=7, ncols=3, columnspacing=1.0, handlelength=1.3)
