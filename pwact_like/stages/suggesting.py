"""Trust levels from what an iteration's labels have shown: predicted uncertainty against true error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import is_finished, read_manifest
from pwact_like.uncertainty.levels import TrustLevels
from pwact_like.uncertainty.suggestion import ExpectedError, expected_error, suggest_levels
from pwact_like.uncertainty.table import EV_PER_ANG, read_table

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame

Array = NDArray[np.float64]


def suggest(md_dir: Path, tolerance: float | None, pairs: Path | None, levels: tuple[float, float] | None) -> str:
    """Text with suggested levels, and what given ones are worth.

    Parameters
    ----------
    md_dir
        An iteration's exploration.
    tolerance
        Largest force error in a frame that is accepted, eV/Å.
    pairs
        File of ``eval --uncertainty``; None: the labels of this iteration are compared with its models.
    levels
        Levels to judge, eV/Å.

    Raises
    ------
    InputError, DataError
        When there are no pairs, naming what is missing.
    """
    folder = next((place for place in (md_dir, md_dir / "md") if is_finished(place)), None)
    explored, notes = _explored(folder) if folder is not None else (None, [])
    found = _saved_pairs(pairs) if pairs is not None else _own_pairs(md_dir if folder is None else folder)
    texts = []
    for name, (value, error, in_distribution) in found.items():
        suggestion = suggest_levels(value, error, tolerance=tolerance, in_distribution=in_distribution, explored=explored)
        lines = [
            f"{name}: {len(value)} labelled frames; largest force error {error.max():.3f}, median {np.median(error):.3f} eV/Å",
            f"  suggested: lower {suggestion.lower:.4f}, upper {suggestion.upper:.4f} eV/Å",
            f"  candidates: {100 * suggestion.candidate_share:.1f} % of the {'labelled' if explored is None else 'explored'} frames",
            f"  expected among the accurate ones: {_said(suggestion.expected_error_accurate)}",
        ]
        if suggestion.note:
            lines.append(f"  note: {suggestion.note}")
        if levels is not None:
            lines.append(f"  with lower {levels[0]:g}: {_said(expected_error(value, error, levels[0]))}")
            if explored is not None:
                lines.append(f"  with lower {levels[0]:g} and upper {levels[1]:g}: {_shares(explored, TrustLevels(*levels))}")
        texts.append("\n".join(lines))
    texts += [f"note: {note}" for note in notes]
    return "\n".join(texts)


def _said(expected: ExpectedError) -> str:
    if expected.rms is None:
        return "no labelled frame is below this level"
    return f"largest force error rms {expected.rms:.3f}, 95 % below {expected.percentile_95:.3f} eV/Å ({expected.n} labelled frames)"


def _shares(explored: Array, levels: TrustLevels) -> str:
    """How the explored frames fall."""
    found = np.bincount(levels.classify(explored), minlength=3) / max(1, len(explored))
    return f"of the explored frames {100 * found[0]:.1f} % accurate, {100 * found[1]:.1f} % candidates, {100 * found[2]:.1f} % failed"


def _explored(md_folder: Path) -> tuple[Array | None, list[str]]:
    """The uncertainty of every explored frame in eV/Å, None where it has no such unit; and notes."""
    work_dir = md_folder.parents[2]
    tables = [read_table(work_dir / row["table"]) for row in read_manifest(md_folder)["facts"]["trajectories"] if row["table"]]
    if any(table.unit != EV_PER_ANG for table in tables):
        note = (
            "this iteration was explored with kpu_scale relative, a variance without unit: these levels are in eV/Å, for the calibrated one"
        )
        return None, [note]
    return (np.concatenate([table.value for table in tables]) if tables else np.empty(0)), []


def _by_frame(sigma: Array, error: Array, frame: NDArray[Any]) -> tuple[Array, Array]:
    """Largest uncertainty and largest error of each frame."""
    numbers = np.unique(frame)
    return (
        np.array([sigma[frame == number].max() for number in numbers]),
        np.array([error[frame == number].max() for number in numbers]),
    )


def _saved_pairs(path: Path) -> dict[str, tuple[Array, Array, Array | None]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = sorted({name.rpartition(".")[0] for name in archive.files})
            return {
                name: (*_by_frame(archive[f"{name}.sigma"], archive[f"{name}.error"], archive[f"{name}.frame"]), None) for name in names
            }
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a file that eval --uncertainty wrote ({error})") from error


def _own_pairs(md_folder: Path) -> dict[str, tuple[Array, Array, Array | None]]:
    iteration = md_folder.parents[1]
    training, labels = iteration / "00.train", iteration / "02.label" / "result"
    for place, what in ((training, "models"), (labels, "labels")):
        if not is_finished(place):
            raise InputError(
                Problem(str(md_folder), f"this iteration's {what} are not there ({place})", "wait for them, or give pairs with --pairs")
            )
    from pwact_like.data.formats import iter_frames
    from pwact_like.potentials.judging import methods_of, pairs_of_frames

    facts = read_manifest(labels)["facts"]
    if not facts["train_frames"]:
        raise InputError(Problem(str(labels), "this iteration has no accepted label", "take another iteration, or give --pairs"))

    def frames() -> Iterator[tuple[str, Frame]]:
        for name, form in ((facts["data"], facts["data_format"]), (facts.get("test_data"), "extxyz")):
            if name and (labels / name).exists():
                for index, frame in enumerate(iter_frames(labels / name, form)):
                    yield f"{labels / name}: frame {index}", frame

    models = [training / name for name in read_manifest(training)["facts"]["models"]]
    found: dict[str, tuple[Array, Array, Array | None]] = {}
    for method in methods_of(models):
        pairs = pairs_of_frames(method, frames())
        sigma = method.calibration.sigma(pairs.variance)
        known = None if method.aware is None else method.aware.knowledge.frame_values()
        found[method.name] = (*_by_frame(sigma, pairs.error, pairs.frame), known)
    return found
