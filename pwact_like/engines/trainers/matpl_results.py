"""What MatPL leaves: model_record/epoch_train.dat and epoch_valid.dat, and test_result/ of ``MatPL test``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.engines.trainers.data_files import errors_report
from pwact_like.errors import DataError

RECORD = "model_record"
EPOCH_TRAIN, EPOCH_VALID = f"{RECORD}/epoch_train.dat", f"{RECORD}/epoch_valid.dat"
TEST_RESULT = "test_result"
# MatPL's mark of a label without virial is −10⁵ or −10⁶, in every component
_NO_VIRIAL_EV = -9.9e4


def read_epochs(path: Path) -> dict[int, dict[str, float]]:
    """Epoch → what epoch_train.dat or epoch_valid.dat says of it.

    Older versions head their columns ``RMSE_Etot_per_atom`` and ``RMSE_F``, newer ones ``RMSE_Etot(eV/atom)`` and ``RMSE_F(eV/Å)``.

    Returns
    -------
    dict
        Keys ``energy`` (eV/atom), ``force`` (eV/Å), ``virial`` (eV/atom), ``lr``: those that have a column.

    Raises
    ------
    DataError
        When the file is missing, has no such columns, or a row that does not fit them.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: MatPL's learning curve cannot be read: {error}") from error
    names = lines[0].lstrip("# ").split() if lines else []
    columns = {kind: index for index, name in enumerate(names) if (kind := _kind(name.lower()))}
    if "force" not in columns and "energy" not in columns:
        raise DataError(f"{path}: no column of RMSE_Etot (an atom) or RMSE_F in its first line")
    epochs: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split()
        if not cells or line.lstrip().startswith("#"):
            continue
        try:
            values = [float(cell) for cell in cells]
            epochs[int(values[0])] = {kind: values[index] for kind, index in columns.items()}
        except (ValueError, IndexError) as error:
            raise DataError(f"{path}: line {number} is no row of numbers under {' '.join(names)}") from error
    return epochs


def _kind(name: str) -> str:
    if name.startswith("rmse_etot"):
        return "energy" if "atom" in name else ""
    if name.startswith("rmse_f"):
        return "force"
    if name.startswith("rmse_virial"):
        return "virial" if "atom" in name else ""
    return "lr" if name in ("real_lr", "optimizer_lr", "lr") else ""


def curve_rows(folder: Path, steps_an_epoch: int) -> list[dict[str, float | int | None]]:
    """Rows of lcurve.csv, one an epoch."""
    trained = read_epochs(folder / EPOCH_TRAIN)
    valid = read_epochs(folder / EPOCH_VALID) if (folder / EPOCH_VALID).is_file() else {}
    rows = []
    for epoch, errors in sorted(trained.items()):
        row: dict[str, float | int | None] = {"step": epoch * steps_an_epoch, "epoch": epoch, "lr": errors.get("lr")}
        for prefix, found in (("", errors), ("valid_", valid.get(epoch, {}))):
            row[f"{prefix}energy_rmse_ev_per_atom"] = found.get("energy")
            row[f"{prefix}force_rmse_ev_per_ang"] = found.get("force")
            row[f"{prefix}virial_rmse_ev_per_atom"] = found.get("virial")
        rows.append(row)
    return rows


def read_test(folder: Path, n_frames: int) -> dict[str, Any]:
    """The test set's errors, computed again from the numbers in ``folder``/test_result (its summary has no units).

    Raises
    ------
    DataError
        When a file is missing, or frames are.
    """
    place = folder / TEST_RESULT
    n_atoms = _numbers(place / "image_atom_nums.txt").astype(np.int64)
    if len(n_atoms) != n_frames:
        raise DataError(f"{place}: MatPL judged {len(n_atoms)} frames, and the test set has {n_frames}")
    energies = tuple(_numbers(place / f"{who}_total_energy.txt") for who in ("inference", "dft"))
    forces = tuple(_rows(place / f"{who}_force.txt", 3) for who in ("inference", "dft"))
    virials = None
    if all((place / f"{who}_virial.txt").is_file() for who in ("inference", "dft")):
        said, true = (_rows(place / f"{who}_virial.txt", 9).reshape(-1, 3, 3) for who in ("inference", "dft"))
        true[(true <= _NO_VIRIAL_EV).all(axis=(1, 2))] = np.nan
        virials = said, true
    return errors_report(n_atoms, (energies[0], energies[1]), (forces[0], forces[1]), virials)


def _numbers(path: Path) -> NDArray[np.float64]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: MatPL's test left no such file: {error}") from error
    try:
        return np.array([float(word) for word in re.sub(r"[\[\],]", " ", text).split()])
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _rows(path: Path, width: int) -> NDArray[np.float64]:
    values = _numbers(path)
    if values.size % width:
        raise DataError(f"{path}: {values.size} numbers do not make rows of {width}")
    return values.reshape(-1, width)
