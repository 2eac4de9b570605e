"""What ``dp train`` and ``dp test`` leave, in the forms that all engines share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.config.train import CURVE_COLUMNS
from pwact_like.errors import DataError
from pwact_like.fsio import write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OF_COLUMN = {  # lcurve.csv's → lcurve.out's, without and with _trn or _val
    "energy_rmse_ev_per_atom": "rmse_e",
    "force_rmse_ev_per_ang": "rmse_f",
    "virial_rmse_ev_per_atom": "rmse_v",
}


def read_curve(path: Path) -> list[dict[str, float]]:
    """Rows of lcurve.out by its own column names, in rising steps.

    A training that goes on from a checkpoint appends its rows, with a header of its own: rows of an earlier attempt at or after the
    first new one are dropped. A line that a kill has cut short is left out.

    Raises
    ------
    DataError
        When the file is missing or has no header.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    names: list[str] = []
    rows: list[dict[str, float]] = []
    for line in lines:
        words = line.replace("#", " ").split()
        if line.lstrip().startswith("#"):
            if "step" in words and "lr" in words:
                names = words
            continue
        if not names or len(words) != len(names):
            continue
        try:
            row = dict(zip(names, map(float, words), strict=True))
        except ValueError:
            continue
        while rows and rows[-1]["step"] >= row["step"]:
            rows.pop()
        rows.append(row)
    if not names:
        raise DataError(f"{path}: no header with step and lr in it: not a learning curve of dp train")
    return rows


def write_curve(path: Path, rows: list[dict[str, float]], steps_per_epoch: float) -> None:
    """Write lcurve.csv (columns: `CURVE_COLUMNS`). Empty: not computed (dp writes nan), or no such labels.

    dp's errors are of the step's own frames (training) and of the batches of ``numb_btch`` (validation).
    """
    text = ",".join(CURVE_COLUMNS) + "\n"
    for row in rows:
        cells = [f"{row['step']:.0f}", f"{int(row['step'] / steps_per_epoch)}", f"{row['lr']:.6e}"]
        for suffix in ("trn", "val"):
            for name in _OF_COLUMN.values():
                value = row.get(f"{name}_{suffix}", row.get(name) if suffix == "trn" else None)
                cells.append("" if value is None or math.isnan(value) else f"{value:.6e}")
        text += ",".join(cells) + "\n"
    write_text(path, text)


def diverged(rows: list[dict[str, float]]) -> str:
    """The first column of the last row that is infinite, or all of whose errors are no numbers; "" for a sound training."""
    if not rows:
        return ""
    last = rows[-1]
    errors = {name: value for name, value in last.items() if name.startswith("rmse")}
    infinite = [name for name, value in errors.items() if math.isinf(value)]
    if infinite:
        return infinite[0]
    total = [name for name in errors if name in ("rmse", "rmse_trn")]
    return total[0] if total and math.isnan(errors[total[0]]) else ""


def read_test(prefix: Path, n_frames: int, n_virials: int) -> dict[str, Any]:
    """Errors from the detail files of ``dp test -d PREFIX``, under the names of ``pwact-like eval --json``.

    Parameters
    ----------
    n_frames, n_virials
        Frames of the test set, and those of them that have a virial.

    Raises
    ------
    DataError
        When a file is missing, or holds another number of frames.
    """
    energies = _table(prefix.with_name(f"{prefix.name}.e_peratom.out"), 2)
    forces = _table(prefix.with_name(f"{prefix.name}.f.out"), 6)
    if len(energies) != n_frames:
        raise DataError(f"{prefix}.e_peratom.out: {len(energies)} frames, and the test set has {n_frames}; see the log of dp test")
    virial = None
    if n_virials:
        rows = _table(prefix.with_name(f"{prefix.name}.v_peratom.out"), 18)
        if len(rows) != n_virials:
            raise DataError(f"{prefix}.v_peratom.out: {len(rows)} frames, and {n_virials} of the test set have a virial")
        virial = _rmse(rows)
    return {
        "n_frames": n_frames,
        "energy_rmse_ev_per_atom": _rmse(energies),
        "force_rmse_ev_per_ang": _rmse(forces),
        "virial_rmse_ev_per_atom": virial,
    }


def _table(path: Path, columns: int) -> NDArray[np.float64]:
    import numpy as np

    try:
        table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if table.shape[1] != columns:
        raise DataError(f"{path}: {columns} columns are expected, and there are {table.shape[1]}")
    return table


def _rmse(table: NDArray[np.float64]) -> float:
    """Labels are the first half of the columns, predictions the second."""
    import numpy as np

    half = table.shape[1] // 2
    value = float(np.sqrt(np.mean((table[:, :half] - table[:, half:]) ** 2)))
    if not math.isfinite(value):
        raise DataError("dp test: an error is not finite: the training has diverged; lower learning_rate")
    return value
