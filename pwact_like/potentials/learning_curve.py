"""lcurve.csv: the errors along a training."""

from __future__ import annotations

from pathlib import Path

from pwact_like.config.train import CURVE_COLUMNS
from pwact_like.fsio import write_text
from pwact_like.potentials.loss import SquaredErrors


class LearningCurve:
    """Rows are appended as they come; a resumed training first puts back those of its checkpoint.

    Errors of training frames are of the frames visited since the row before, each at its visit; those of validation
    frames are of all of them, in the rows where they were computed. Empty: not computed, or no labels.
    """

    def __init__(self, path: Path, rows: str = "") -> None:
        self._path = path
        self.rows = rows or ",".join(CURVE_COLUMNS) + "\n"
        write_text(path, self.rows)

    def add(self, step: int, epoch: int, rate: float, trained: SquaredErrors, valid: SquaredErrors | None) -> None:
        """Append a row."""
        errors = (*trained.rmse(), *(valid.rmse() if valid else (None, None, None)))
        cells = [str(step), str(epoch), f"{rate:.6e}", *("" if error is None else f"{error:.6e}" for error in errors)]
        row = ",".join(cells) + "\n"
        self.rows += row
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(row)
