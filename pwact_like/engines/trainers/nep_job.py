"""Steps of a NEP training's job: ``prepare`` merges the data before, ``finish`` puts torchnep's results into our form after.

Run in the attempt's folder: ``python -m pwact_like.engines.trainers.nep_job prepare|finish``. Energies are in eV, forces in eV/Å,
virials in eV with our sign, which is GPUMD's and torchnep's (−V·σ).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.engines.trainers.data_files import LEARNING_CURVE, TEST, errors_report, frames_in, merge_sets, sizes_in, write_curve
from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_json

_NO_VIRIAL_EV = -9e5  # GPUMD's mark of a missing label is −10⁶
_NINE = (0, 3, 5, 3, 1, 4, 5, 4, 2)  # of xx yy zz xy yz zx


def prepare(folder: Path) -> None:
    """Merge each set into one extended-XYZ file."""
    from pwact_like.data.formats.extxyz import frame_text

    merge_sets(folder, frame_text, read_json(folder / "run.json")["atom_type"])


def finish(folder: Path) -> None:
    """Name the model, and write learning curve and test errors."""
    if not (folder / "nep_best.txt").is_file():
        raise DataError(f"{folder}: torchnep left no nep_best.txt; see train.log")
    shutil.copyfile(folder / "nep_best.txt", folder / "nep.txt")
    words = {line.split()[0]: line.split()[1:] for line in (folder / "nep.in").read_text(encoding="utf-8").splitlines() if line.split()}
    batch = int(float(words.get("batch", ["32"])[0]))
    steps = -(-frames_in(folder / "train.xyz") // batch)
    write_curve(folder / LEARNING_CURVE, curve_rows(folder / "loss.out", steps, has_virial=float(words["lambda_v"][0]) != 0.0))
    if (folder / "test.xyz").is_file():
        write_json(folder / TEST, read_test(folder))


def curve_rows(path: Path, steps_an_epoch: int, *, has_virial: bool) -> list[dict[str, float | int | None]]:
    """Rows of lcurve.csv from loss.out: epoch, loss, RMSE of energy an atom, force, virial an atom, stress; again for validation.

    Raises
    ------
    DataError
        When the file is missing, or a row is none.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: torchnep's learning curve cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            values = [float(word) for word in line.split()]
        except ValueError as error:
            raise DataError(f"{path}: line {number}: {error}") from error
        if len(values) not in (6, 10):
            raise DataError(f"{path}: line {number}: 6 or 10 numbers are wanted, {len(values)} are there")
        row: dict[str, float | int | None] = {"step": int(values[0]) * steps_an_epoch, "epoch": int(values[0])}
        for prefix, first in (("", 2), ("valid_", 6)):
            if first < len(values):
                row[f"{prefix}energy_rmse_ev_per_atom"] = values[first]
                row[f"{prefix}force_rmse_ev_per_ang"] = values[first + 1]
                row[f"{prefix}virial_rmse_ev_per_atom"] = values[first + 2] if has_virial else None
        rows.append(row)
    return rows


def read_test(folder: Path) -> dict[str, Any]:
    """The test set's errors from tested/{energy,force,virial}_train.out (predictions, then labels; energy and virial an atom)."""
    n_atoms = np.array(sizes_in(folder / "test.xyz"))
    energy, force, virial = (_table(folder / f"tested/{what}_train.out") for what in ("energy", "force", "virial"))
    label = virial[:, 6:]
    label[(label <= _NO_VIRIAL_EV).all(axis=1)] = np.nan
    pair = tuple(part[:, _NINE].reshape(-1, 3, 3) * n_atoms[: len(part), None, None] for part in (virial[:, :6], label))
    if len(energy) != len(n_atoms):
        raise DataError(f"{folder / 'tested'}: {len(energy)} frames were judged, and the test set has {len(n_atoms)}")
    energies = energy[:, 0] * n_atoms, energy[:, 1] * n_atoms
    return errors_report(n_atoms, energies, (force[:, :3], force[:, 3:]), (pair[0], pair[1]))


def _table(path: Path) -> NDArray[np.float64]:
    try:
        return np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: torchnep's predictions cannot be read: {error}") from error


if __name__ == "__main__":
    {"prepare": prepare, "finish": finish}[sys.argv[1]](Path.cwd())
