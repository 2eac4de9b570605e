"""Deviation tables: one a trajectory, the only thing that selection reads of an exploration.

Four forms are read:

- our own: a comment that names kind and unit, then DeePMD's columns, so that DeePMD users' tools read it too;
- DeePMD-kit's ``model_devi.out`` (LAMMPS and Python; more columns may follow): the value is ``max_devi_f``;
- MatPL's and PWact's ``model_devi.out``: its ``avg_devi_f`` is max_a σ_a, the value here, and its ``max_devi_f`` is
  max_{k,a} |F_ka − mean_k F_a|, on which PWact selects since 0.4.2 but which is not the deviation that its manual
  defines. Its minimum runs over models and atoms and it has no mean over atoms: both are NaN here;
- PWact's KPU file, ``# step etot_kpu f_kpu_mean f_kpu_max f_kpu_min``: the value is ``f_kpu_max``, a variance.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError

COMMITTEE = "committee"
KPU = "kpu"
KPU_COMMITTEE = "kpu-committee"
EV_PER_ANG = "eV/Ang"
DIMENSIONLESS = "1"

_BLOCK_BYTES = 1 << 23
_POWERS_OF_TEN = 10.0 ** np.arange(23)  # all exact in float64
_MOST_BAD_LINES = 5  # a restart leaves one torn line; a table with more is not to be trusted
_DEEPMD_COLUMNS = ("max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f")
_OWN_HEADER = re.compile(r"deviation table: kind=(\S+) unit=(\S+)")


@dataclass(frozen=True, eq=False)
class DeviationTable:
    """Uncertainty along one trajectory, sorted by step, each step once.

    Attributes
    ----------
    steps
        Shape (n,), int64: MD steps.
    value, minimum, mean
        Shape (n,), float64: the criterion of selection (max_a σ_a; a variance where the unit is 1), and the least and the mean over atoms
        (NaN where the file has none). NaN and infinity are kept: such a frame is a failed one.
    kind
        ``committee``, ``kpu`` or ``kpu-committee`` (members drawn from one training's covariance; calibrated).
    unit
        ``eV/Ang``, or ``1`` for a variance without dimension (kpu before its calibration).
    note
        What was odd about the file and mended (lines dropped, steps met twice); "" if nothing was.
    """

    steps: NDArray[np.int64]
    value: NDArray[np.float64]
    minimum: NDArray[np.float64]
    mean: NDArray[np.float64]
    kind: str
    unit: str
    note: str = ""

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class _Form:
    """Which columns hold step, value, minimum and mean (None: the file has no such figure)."""

    columns: tuple[int, int, int | None, int | None]
    kind: str
    unit: str
    n_columns: int

    @property
    def wanted(self) -> list[int]:
        return [column for column in self.columns if column is not None]


class TableWriter:
    """Writes a table row by row; each row is on disk (handed to the system) when ``append`` returns.

    Parameters
    ----------
    path
        The file; replaced unless ``extend``.
    kind, unit
        As in ``DeviationTable``.
    extend
        Go on behind what is there (a run that resumes).
    """

    def __init__(self, path: Path, kind: str = COMMITTEE, unit: str = EV_PER_ANG, *, extend: bool = False) -> None:
        self._stream: IO[str] = path.open("a" if extend else "w", encoding="ascii", newline="\n")
        if not extend:
            names = "".join(f"{name:>19s}" for name in _DEEPMD_COLUMNS)
            self._stream.write(f"# deviation table: kind={kind} unit={unit}\n#{'step':>11s}{names}\n")
            self._stream.flush()

    def append(self, step: int, values: Sequence[float], virials: Sequence[float] = (np.nan, np.nan, np.nan)) -> None:
        """Write one row: (max, min, mean) of the criterion, and of the virial's deviation in eV/atom where there is one."""
        self._stream.write(f"{step:12d}" + "".join(f"{number:19.6e}" for number in (*virials, *values)) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_table(path: Path) -> DeviationTable:
    """Read a deviation table of any of the four forms.

    A last line that was cut off is dropped, and of a step met twice (a restart) the last row wins; ``note`` tells.

    Raises
    ------
    DataError
        When the file is missing, has no header to tell its columns by, or has more than a few lines that are not numbers.
    """
    try:
        with path.open("rb") as stream:
            return _read(path, stream)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the deviation table is missing; did the MD run write one?") from error


def _read(path: Path, stream: IO[bytes]) -> DeviationTable:
    form: _Form | None = None
    pieces: list[NDArray[np.float64]] = []
    notes: list[str] = []
    n_bytes = 0
    n_bad = 0
    for block, complete in _blocks(stream):
        if form is None:
            form = _form_of(path, block)
        body, n_comments = _without_comments(block)
        if not complete:
            body, dropped = _without_torn_end(body, form)
            notes += dropped
        if not pieces:
            form = replace(form, n_columns=_usual_length(body, form.n_columns))
        rows, bad = _parse(body, form)
        if bad:
            first_line = _count_lines(path, n_bytes) + n_comments + 1
            n_bad += len(bad)
            if n_bad > _MOST_BAD_LINES:
                raise DataError(
                    f"{path}: line {first_line + bad[0]} and {n_bad - 1} others are not rows of numbers like the rest; "
                    "is this a deviation table, and whole?"
                )
            notes += [f"line {first_line + index} is not a row of numbers like the rest: dropped" for index in bad]
        n_bytes += len(block)
        pieces.append(rows)
    if form is None:
        raise DataError(f"{path}: the deviation table is empty, without even a header")
    return _table(np.concatenate(pieces), form, notes)


def _blocks(stream: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Pieces of whole lines, and whether the piece ends with a newline (only the last may not)."""
    rest = b""
    while piece := stream.read(_BLOCK_BYTES):
        cut = piece.rfind(b"\n") + 1
        if cut == 0:
            rest += piece
            continue
        yield rest + piece[:cut], True
        rest = piece[cut:]
    if rest:
        yield rest, False


def _count_lines(path: Path, n_bytes: int) -> int:
    """Lines in the first bytes of a file; only asked when a line is to be named."""
    with path.open("rb") as stream:
        return sum(stream.read(min(_BLOCK_BYTES, n_bytes - start)).count(b"\n") for start in range(0, n_bytes, _BLOCK_BYTES))


def _form_of(path: Path, block: bytes) -> _Form:
    """Tell the form by the comments above the first row."""
    kind, unit = COMMITTEE, EV_PER_ANG
    names: list[str] = []
    end = 0
    while end < len(block):
        start, end = end, (block.find(b"\n", end) + 1) or len(block)
        line = block[start:end].strip()
        if line and not line.startswith(b"#"):
            break
        text = line.decode("utf-8", "replace").lstrip("#").strip()
        if own := _OWN_HEADER.search(text):
            kind, unit = own.groups()
        words = text.split()
        if words and words[0] == "step":
            names = words
    place = {name: index for index, name in enumerate(names)}
    if "f_kpu_max" in place:
        return _Form((0, place["f_kpu_max"], place.get("f_kpu_min"), place.get("f_kpu_mean")), KPU, DIMENSIONLESS, len(names))
    if names[1:2] == ["avg_devi_f"]:
        return _Form((0, 1, None, None), COMMITTEE, EV_PER_ANG, len(names))
    if "max_devi_f" in place:
        return _Form((0, place["max_devi_f"], place.get("min_devi_f"), place.get("avg_devi_f")), kind, unit, len(names))
    raise DataError(
        f"{path}: no header tells the columns (expected '# step …' with max_devi_f, avg_devi_f or f_kpu_max); "
        "is this a deviation table of DeePMD-kit, MatPL or PWact?"
    )


def _without_comments(block: bytes) -> tuple[bytes, int]:
    """Drop comment lines; second, how many stood above the first row (to count lines by)."""
    leading = start = 0
    while start < len(block) and block[start : start + 80].lstrip(b" \t\r")[:1] in (b"#", b"\n"):
        start = (block.find(b"\n", start) + 1) or len(block)
        leading += 1
    block = block[start:]
    if b"#" in block:  # a restart wrote its header again; an empty line keeps the count of lines
        block = b"\n".join(b"" if line.lstrip().startswith(b"#") else line for line in block.split(b"\n"))
    return block, leading


def _without_torn_end(body: bytes, form: _Form) -> tuple[bytes, list[str]]:
    """Drop a last line without newline, unless it is plainly whole (a table made by hand may lack the last newline)."""
    head, _, last = body.rpartition(b"\n")
    words = last.split()
    if not words:
        return body, []
    # the last number of a row printed with a format is as long as the one before it; a shorter one was cut
    whole = len(words) >= form.n_columns and len(words[-1].lstrip(b"-")) >= len(words[-2].lstrip(b"-"))
    if whole:
        return body + b"\n", []
    return (head + b"\n" if head else b""), ["the last line was cut off: dropped"]


def _usual_length(body: bytes, n_named: int) -> int:
    """Columns of a row: those that the header names, or more (DeePMD-kit's atomic deviations have one name for all)."""
    lengths = [len(line.split()) for line in body[: 1 << 16].split(b"\n")]
    return min((length for length in lengths if length >= n_named), default=n_named)


def _parse(body: bytes, form: _Form) -> tuple[NDArray[np.float64], list[int]]:
    """Rows of the wanted columns, shape (n, len(form.wanted)), and the lines of the body (from 0) that are none."""
    if not body or body.isspace():
        return np.empty((0, len(form.wanted))), []
    rows = _parse_fixed(body, form)
    if rows is None:
        rows = _parse_free(body, form)
    if rows is not None and np.isfinite(rows[:, 0]).all() and (rows[:, 0] == np.floor(rows[:, 0])).all():
        return rows, []
    return _parse_lines(body, form)


def _parse_fixed(body: bytes, form: _Form) -> NDArray[np.float64] | None:
    """Rows printed with %12d and %19.6e (ours and DeePMD-kit's) decoded as arrays of digits; None if they are not such.

    d.dddddde±dd is an integer below 10⁷ times a power of ten, so that up to 10²² one multiplication or division gives
    the correctly rounded number (W. D. Clinger, PLDI 1990); other rows are converted one by one.
    """
    width = body.find(b"\n") + 1
    if width < 2 or len(body) % width:
        return None
    table = np.frombuffer(body, dtype=np.uint8).reshape(-1, width)
    first = body[:width]
    ends = [match.end() for match in re.finditer(rb"\S+", first)]
    if len(ends) != form.n_columns or not (table[:, -1] == 10).all() or b"\n" in first[:-1]:
        return None
    steps = _fixed_integers(table[:, : ends[0]])
    if steps is None or not (table[:, ends[0]] == 32).all():
        return None
    columns = [steps]
    for column in form.wanted[1:]:
        end = ends[column]
        if end - ends[column - 1] < 14:
            return None
        numbers, odd = _fixed_floats(table[:, end - 14 : end])
        if len(odd) > 0.1 * len(table) + 3:
            return None
        for row in odd:
            try:
                numbers[row] = float(table[row, ends[column - 1] : end].tobytes())
            except ValueError:
                return None
        columns.append(numbers)
    return np.stack(columns, axis=1)


def _fixed_integers(field: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Right-justified digits, shape (n, width) of characters; None if anything else stands there."""
    characters = np.ascontiguousarray(field.T)  # one character of all rows side by side: the loops below are fast
    blank = characters == 32
    digits = np.where(blank, np.uint8(0), characters - np.uint8(48))
    leading_only = bool((blank[1:] <= blank[:-1]).all())
    if len(digits) > 15 or digits.max() > 9 or blank[-1].any() or not leading_only:
        return None
    number = np.zeros(digits.shape[1])
    for digit in digits:
        number *= 10.0
        number += digit
    return number


def _fixed_floats(field: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Numbers from shape (n, 14) of characters ``␣±d.dddddde±dd``, and the rows that are not so written."""
    characters = np.ascontiguousarray(field.T)
    digits = characters - np.uint8(48)
    negative, small = characters[1] == 45, characters[11] == 45
    good = (characters[0] == 32) & (negative | (characters[1] == 32)) & (characters[3] == 46) & (characters[10] == 101)
    good &= (small | (characters[11] == 43)) & (np.maximum(digits[12], digits[13]) <= 9)
    mantissa = np.zeros(digits.shape[1], dtype=np.int32)
    for place in (2, 4, 5, 6, 7, 8, 9):
        good &= digits[place] <= 9
        mantissa *= 10
        mantissa += digits[place]
    exponent = (digits[12] * np.uint8(10) + digits[13]).astype(np.int16)
    power = np.where(small, -exponent, exponent) - np.int16(6)
    good &= np.abs(power) <= 22
    size = _POWERS_OF_TEN[np.minimum(np.abs(power), 22)]
    numbers = np.where(power < 0, mantissa / size, mantissa * size)
    return np.where(negative, -numbers, numbers), np.flatnonzero(~good)


def _parse_free(body: bytes, form: _Form) -> NDArray[np.float64] | None:
    """Any layout of whole rows; None if a row is no row of numbers, or too short or too long."""
    # a line merged of two rows would pass by its first columns, hence the count
    if any(len(words) not in (0, form.n_columns) for words in map(bytes.split, body.split(b"\n"))):
        return None
    try:
        return np.loadtxt(io.BytesIO(body), usecols=form.wanted, ndmin=2, dtype=np.float64)
    except ValueError:
        return None


def _parse_lines(body: bytes, form: _Form) -> tuple[NDArray[np.float64], list[int]]:
    """Row by row, leaving out what is no row; second, those lines (from 0)."""
    rows, bad = [], []
    for number, line in enumerate(body.split(b"\n")):
        words = line.split()
        if not words:
            continue
        try:
            row = [float(words[column]) for column in form.wanted]
            if len(words) != form.n_columns or row[0] != int(row[0]):
                bad.append(number)
                continue
            rows.append(row)
        except (ValueError, IndexError, OverflowError):
            bad.append(number)
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(form.wanted)), bad


def _table(rows: NDArray[np.float64], form: _Form, notes: list[str]) -> DeviationTable:
    steps = rows[:, 0].astype(np.int64)
    if len(steps) > 1 and not (np.diff(steps) > 0).all():
        # the last row of each step: the first one seen from the end
        _, from_end = np.unique(steps[::-1], return_index=True)
        keep = len(steps) - 1 - from_end
        if len(keep) < len(steps):
            notes.append(f"{len(steps) - len(keep)} rows belong to steps that come again (a restart): the later row counts")
        rows, steps = rows[keep], steps[keep]
    figures = []
    place = 1
    for column in form.columns[1:]:
        if column is None:
            figures.append(np.full(len(steps), np.nan))
        else:
            figures.append(np.ascontiguousarray(rows[:, place]))
            place += 1
    return DeviationTable(steps, figures[0], figures[1], figures[2], form.kind, form.unit, "; ".join(notes))
