"""The data of a program that wants each set in one file: data.json says where the sets lie, and a step of the job merges them.

Merging is the job's work and not the master's: a login node must not read large data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.config.train import CURVE_COLUMNS
from pwact_like.engines.trainers.embedded import linked_data
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import read_json, write_json, write_text, write_through

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame
    from pwact_like.engines.protocols import TrainRequest

DATA_JSON = "data.json"
SETS = ("train", "valid", "test")
TEST = "test.json"
LEARNING_CURVE = "lcurve.csv"
FrameText = Callable[["Frame"], str]


def write_data_json(folder: Path, request: TrainRequest, links: list[tuple[str, str]]) -> None:
    """Write data.json; the data themselves are added to ``links``.

    Raises
    ------
    InputError
        Without training data.
    """
    if not request.train_data:
        raise InputError(Problem(str(folder / DATA_JSON), "there is no training data", "give init_data"))
    given = {"train": request.train_data, "valid": request.valid_data, "test": request.test_data}
    content = {kind: linked_data(kind, data, links) for kind, data in given.items() if data}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / DATA_JSON, content)


def merge_sets(folder: Path, text: FrameText, elements: Iterable[int], *, needs_cell: bool = True) -> dict[str, int]:
    """Write train.xyz, valid.xyz and test.xyz (those that data.json names) into ``folder``.

    Parameters
    ----------
    text
        A frame as the program wants it.
    elements
        Atomic numbers that the model knows.
    needs_cell
        The program knows crystals only.

    Returns
    -------
    dict
        Set → number of frames.

    Raises
    ------
    DataError
        For data that cannot be read, a frame without cell, or one with an element that the model does not know.
    """
    from pwact_like.config.common import DataPath
    from pwact_like.data.dataset import read_data_paths

    known = set(elements)
    counts = {}
    for kind, entries in read_json(folder / DATA_JSON).items():
        paths = [DataPath(**{**entry, "path": folder / entry["path"]}) for entry in entries]
        frames = read_data_paths(paths)
        for number, frame in enumerate(frames):
            strange = sorted(set(frame.atoms.numbers.tolist()) - known)
            if strange:
                raise DataError(f"{kind} data: frame {number} holds the elements {strange}, which atom_type does not name")
            if needs_cell and frame.atoms.cell.rank < 3:
                raise DataError(f"{kind} data: frame {number} has no cell, and the program takes crystals only; put it into a box")
        write_through(folder / f"{kind}.xyz", lambda target, frames=frames: _fill(target, frames, text))  # type: ignore[misc]
        counts[kind] = len(frames)
    return counts


def _fill(target: Path, frames: Iterable[Frame], text: FrameText) -> None:
    with target.open("w", encoding="utf-8") as stream:
        for frame in frames:
            stream.write(text(frame))


def write_curve(path: Path, rows: Iterable[Mapping[str, float | int | None]]) -> None:
    """Write lcurve.csv; what a row does not know stays empty (not computed, or no labels).

    Parameters
    ----------
    rows
        Column (`CURVE_COLUMNS`) → number; step and epoch are whole numbers.
    """
    lines = [",".join(CURVE_COLUMNS)]
    for row in rows:
        values = [(name, row.get(name)) for name in CURVE_COLUMNS]
        lines.append(
            ",".join("" if value is None else str(int(value)) if name in ("step", "epoch") else f"{value:.6e}" for name, value in values)
        )
    write_text(path, "\n".join(lines) + "\n")


def check_curve(path: Path) -> None:
    """Insist that a learning curve ends in finite numbers.

    Raises
    ------
    DataError
        When the last row's errors are not finite, or there is no row.
    """
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    if not rows:
        raise DataError(f"{path}: no epoch is in it")
    last = [float(cell) for cell in rows[-1].split(",")[3:] if cell]
    if not last or not np.isfinite(last).all():
        raise DataError(f"{path}: the last errors are not finite: the training has diverged; lower the learning rate")


def sizes_in(path: Path) -> list[int]:
    """Atoms of each frame of an extended-XYZ file that `merge_sets` wrote; empty when there is none."""
    if not path.is_file():
        return []
    sizes = []
    with path.open(encoding="utf-8") as stream:
        while line := stream.readline():
            sizes.append(int(line))
            for _ in range(int(line) + 1):
                stream.readline()
    return sizes


def frames_in(path: Path) -> int:
    """Frames of such a file."""
    return len(sizes_in(path))


def errors_report(
    n_atoms: NDArray[np.int64],
    energies: tuple[NDArray[np.float64], NDArray[np.float64]],
    forces: tuple[NDArray[np.float64], NDArray[np.float64]],
    virials: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
) -> dict[str, Any]:
    """The test set's errors under the names of ``pwact-like eval --json``.

    Parameters
    ----------
    n_atoms
        Atoms of each frame, shape (n,).
    energies
        Predicted and true, shape (n,), eV a frame.
    forces
        Predicted and true, shape (n_atoms of all frames, 3), eV/Å.
    virials
        Predicted and true, shape (n, 3, 3), eV; a label that is not finite is left out. None: the program gives none.

    Raises
    ------
    DataError
        When the shapes do not belong together, or a prediction is not finite.
    """
    pairs = [("energies", energies, (len(n_atoms),)), ("forces", forces, (int(n_atoms.sum()), 3))]
    if virials is not None:
        pairs.append(("virials", virials, (len(n_atoms), 3, 3)))
    for name, pair, shape in pairs:
        for array in pair:
            if array.shape != shape:
                raise DataError(f"the {name} of the test set have the shape {array.shape}, not {shape}: its frames are not all there")
        if not np.isfinite(pair[0]).all():
            raise DataError(f"the {name} predicted for the test set are not finite: the training has diverged")
    virial_error = None
    if virials is not None:
        known = np.isfinite(virials[1]).all(axis=(1, 2))
        if known.any():
            virial_error = _rms(((virials[0] - virials[1]) / n_atoms[:, None, None])[known])
    return {
        "n_frames": len(n_atoms),
        "energy_rmse_ev_per_atom": _rms((energies[0] - energies[1]) / n_atoms),
        "force_rmse_ev_per_ang": _rms(forces[0] - forces[1]),
        "virial_rmse_ev_per_atom": virial_error,
    }


def check_test(content: Any, where: Path) -> Mapping[str, Any]:
    """Insist that a test.json has its figures.

    Raises
    ------
    DataError
        When it has not.
    """
    wanted = ("n_frames", "energy_rmse_ev_per_atom", "force_rmse_ev_per_ang")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), int | float) for name in wanted):
        raise DataError(f"{where}: {', '.join(wanted)} are wanted in it")
    return content


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
