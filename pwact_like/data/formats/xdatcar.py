"""VASP's XDATCAR: positions along a run, no labels.

A head like a POSCAR's (title, scale, three vectors, symbols, counts), then for each frame a line "Direct configuration= N" and
fractional positions. Where the cell changes, VASP writes the head anew before each frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import Item, LineReader, make_atoms, numbers, open_lines, symbols_to_numbers
from pwact_like.data.frames import Frame, Origin

CONFIGURATION = re.compile(r"^\s*direct\s+configuration\s*=\s*(\d+)", re.IGNORECASE)
_HEAD_LINES = 6  # after the title


def iter_xdatcar(path: Path) -> Iterator[Item]:
    """Frames of an XDATCAR with VASP's own numbers as their steps; atoms are not wrapped into the cell.

    Raises
    ------
    TruncatedError
        After the last whole frame, when the file ends inside one.
    DataError
        Naming the line that cannot be read.
    """
    with open_lines(path) as reader:
        cell, kinds = np.zeros((3, 3)), np.empty(0, dtype=np.int64)
        found = 0
        while (text := reader.line()) is not None:
            match = CONFIGURATION.match(text)
            if match is None:
                if not text.strip() and found:
                    continue  # VASP ends some files with empty lines
                cell, kinds = _read_head(reader)
                continue
            if not len(kinds):
                raise reader.wrong("a configuration before the lattice and the elements")
            scaled = numbers(reader, reader.block(len(kinds), f"configuration {match[1]}"), slice(0, 3), 3)
            found += 1
            yield Frame(make_atoms(kinds, scaled @ cell, cell), None, Origin(source=str(path), step=int(match[1])))
        if not found:
            raise reader.truncated("there is no configuration in it")


def _read_head(reader: LineReader) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cell and atomic numbers from the lines after the title."""
    first = reader.number + 1
    lines = reader.block(_HEAD_LINES, "the head (scale, three vectors, symbols, counts)")
    try:
        scale = float(lines[0])
        cell = np.array([text.split() for text in lines[1:4]], dtype=np.str_).astype(np.float64).reshape(3, 3)
        counts = [int(word) for word in lines[5].split()]
    except ValueError:
        raise reader.wrong("no head of an XDATCAR follows here: scale, three vectors, symbols, counts", first) from None
    if scale < 0.0:  # VASP: the volume
        scale = float((-scale / abs(np.linalg.det(cell))) ** (1.0 / 3.0))
    symbols = [re.split(r"[/_]", word)[0] for word in lines[4].split()]  # Si/3f2a…, Si_pv
    if len(symbols) != len(counts) or not sum(counts) > 0:
        raise reader.wrong(f"{len(symbols)} elements and {len(counts)} counts", first + 4)
    return scale * cell, np.repeat(symbols_to_numbers(symbols, f"{reader.path}: line {first + 4}"), counts)
