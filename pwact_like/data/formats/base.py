"""What every reader shares: a line reader that knows its place, results with rejects, and frames from arrays."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms


class TruncatedError(DataError):
    """A file ends in the middle of a frame, or a program's output has no end."""


@dataclass(frozen=True)
class Rejected:
    """A frame of a file that must not be used as a label.

    Attributes
    ----------
    index
        Place of the frame in its file, from 0, rejected ones counted.
    reason
        Why, in a sentence.
    """

    index: int
    reason: str


@dataclass(frozen=True)
class ReadResult:
    """Labelled frames of a file, in its order, and what was left out: (index in the file, reason)."""

    frames: list[Frame]
    rejected: list[tuple[int, str]]


Item = Frame | Rejected


class LineReader:
    """Lines of a text file, with the number of the last one read (from 1)."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        self.path = path
        self.number = 0
        self._stream = stream

    def line(self) -> str | None:
        """Next line with its newline, or None at the end of the file."""
        text = self._stream.readline()
        if not text:
            return None
        self.number += 1
        return text

    def block(self, count: int, what: str) -> list[str]:
        """The next ``count`` lines.

        Raises
        ------
        TruncatedError
            When the file ends before them, or inside the last of them (no newline: digits may be missing).
        """
        lines: list[str] = []
        for _ in range(count):
            text = self.line()
            if text is None or not text.endswith("\n"):
                raise self.truncated(f"{len(lines)} of {count} lines of {what} are there")
            lines.append(text)
        return lines

    def truncated(self, what: str) -> TruncatedError:
        """The error for a file that ends too early."""
        return TruncatedError(
            f"{self.path}: the file ends too early, at line {self.number}: {what} (copy it again, or cut it at its last whole frame)"
        )

    def wrong(self, what: str, number: int | None = None) -> DataError:
        """The error for a line that cannot be read."""
        return DataError(f"{self.path}: line {self.number if number is None else number}: {what}")


@contextmanager
def open_lines(path: Path) -> Iterator[LineReader]:
    """Open a text file for a `LineReader`; a missing file is a DataError."""
    try:
        stream = path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    with stream:
        yield LineReader(path, stream)


def contains(path: Path, needle: bytes) -> bool:
    """Whether a file contains some bytes (mapped, not read into memory)."""
    with path.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(needle) >= 0


def numbers(reader: LineReader, lines: Sequence[str], columns: slice, count: int) -> NDArray[np.float64]:
    """Floats in some columns of a block of lines, shape (n_lines, count), converted to the nearest double.

    Raises
    ------
    DataError
        Naming the line, where a column is missing or is not a number (Fortran's asterisks, say).
    """
    rows = [text.split()[columns] for text in lines]
    try:
        table = np.array(rows, dtype=np.str_).astype(np.float64)
        if table.shape == (len(lines), count):
            return table
    except ValueError:
        pass
    first = reader.number - len(lines) + 1
    for offset, row in enumerate(rows):
        try:
            good = len([float(text) for text in row]) == count
        except ValueError:
            good = False
        if not good:
            raise reader.wrong(f"{count} numbers expected, this is there: {lines[offset].strip()!r}", first + offset)
    raise reader.wrong(f"a block of {count} columns cannot be read")


def make_atoms(
    atomic_numbers: ArrayLike, positions_ang: ArrayLike, cell_ang: ArrayLike | None, pbc: bool | Sequence[bool] | NDArray[np.bool_] = True
) -> Atoms:
    """A structure without calculator; no cell means no periodicity."""
    from ase import Atoms

    periodic = pbc if cell_ang is not None else False
    return Atoms(numbers=np.asarray(atomic_numbers, dtype=int), positions=positions_ang, cell=cell_ang, pbc=periodic)


def volume_ang3(atoms: Atoms) -> float:
    """Volume of the cell in Å³, positive for left-handed cells too."""
    return abs(float(np.linalg.det(atoms.cell.array)))


def labelled_frame(
    atoms: Atoms,
    energy_ev: float,
    forces_ev_per_ang: ArrayLike,
    virial_ev: ArrayLike | None,
    path: Path,
    step: int,
    level_of_theory: str = "",
    atomic_energies_ev: NDArray[np.float64] | None = None,
) -> Frame:
    """A frame with its label and its place in a file."""
    virial = None if virial_ev is None else np.array(virial_ev, dtype=np.float64).reshape(3, 3)
    label = Label(float(energy_ev), np.array(forces_ev_per_ang, dtype=np.float64).reshape(-1, 3), virial, atomic_energies_ev)
    return Frame(atoms, label, Origin(source=str(path), step=step), level_of_theory)


def symbols_to_numbers(symbols: Sequence[str], where: str) -> NDArray[np.int64]:
    """Atomic numbers from chemical symbols (any case) or digits.

    Raises
    ------
    DataError
        For something that is no element, naming ``where``.
    """
    from ase.data import atomic_numbers as known

    cache: dict[str, int] = {}
    result = np.empty(len(symbols), dtype=np.int64)
    for place, symbol in enumerate(symbols):
        number = cache.get(symbol)
        if number is None:
            number = int(symbol) if symbol.isdigit() else known.get(symbol.capitalize(), -1)
            if not 0 < number < 119:
                raise DataError(f"{where}: {symbol!r} is not a chemical element")
            cache[symbol] = number
        result[place] = number
    return result
