"""LAMMPS dump files: an index in one pass over the bytes, and single frames on demand.

Text dumps of style custom or atom, orthogonal, triclinic or general triclinic boxes, columns x, xu, xs or xsu. Format:
https://docs.lammps.org/dump.html, boxes: https://docs.lammps.org/Howto_triclinic.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import Item, TruncatedError, make_atoms, symbols_to_numbers
from pwact_like.data.frame_index import FrameIndex
from pwact_like.data.frames import Frame, Origin
from pwact_like.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_MARK = b"ITEM: TIMESTEP"
_CHUNK_BYTES = 1 << 23
_TAIL_BYTES = 64  # enough for the line after the mark
_POSITIONS = (("x", "y", "z"), ("xu", "yu", "zu"))
_SCALED = (("xs", "ys", "zs"), ("xsu", "ysu", "zsu"))


@dataclass(frozen=True)
class DumpFrame:
    """One frame of a dump.

    Attributes
    ----------
    step
        MD step.
    atoms
        Sorted by id where there is one. Positions are the file's own (the box may not begin at the origin).
    forces
        Columns fx fy fz, shape (n_atoms, 3), in the dump's units; None where they are missing.
    """

    step: int
    atoms: Atoms
    forces: NDArray[np.float64] | None


def index_dump(path: Path) -> FrameIndex:
    """Find the frames of a dump.

    The last frame is left out when it is not whole (`FrameIndex.dropped` says so).

    Raises
    ------
    DataError
        When the file is no dump, or a time step cannot be read.
    """
    begins: list[int] = []
    steps: list[int] = []
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    broken = ""
    with stream:
        base, kept = 0, b""
        while True:
            chunk = stream.read(_CHUNK_BYTES)
            text = kept + chunk
            # a mark in the last bytes is left to the next round, which sees the line after it too
            limit = len(text) - _TAIL_BYTES if chunk else len(text)
            place = text.find(_MARK)
            while 0 <= place < limit:
                words = text[place + len(_MARK) : place + len(_MARK) + _TAIL_BYTES].split(b"\n", 2)
                try:
                    if len(words) < 3:
                        raise ValueError
                    steps.append(int(words[1]))
                    begins.append(base + place)
                except ValueError:
                    if chunk or text.find(_MARK, place + len(_MARK)) >= 0:
                        raise DataError(f"{path}: no time step at byte {base + place + len(_MARK)}") from None
                    broken = "the last frame has no time step"
                place = text.find(_MARK, place + len(_MARK))
            if not chunk:
                size = base + len(text)
                break
            cut = max(limit, 0)
            base, kept = base + cut, text[cut:]
    if not begins and not broken:
        raise DataError(f"{path}: not a LAMMPS dump ('ITEM: TIMESTEP' is nowhere in it)")
    ends = [*begins[1:], size]
    if begins:
        with path.open("rb") as stream:
            stream.seek(begins[-1])
            raw = stream.read(ends[-1] - begins[-1])
        reason, end = _last_frame(raw)
        if reason:
            broken = f"the frame at step {steps[-1]} is not whole ({reason})"
            begins, ends, steps = begins[:-1], ends[:-1], steps[:-1]
        else:
            ends[-1] = begins[-1] + end
            if raw[end:].strip() and not broken:
                broken = f"the frame after step {steps[-1]} was only begun"
    dropped = f"{path.name}: {broken} and was left out" if broken else ""
    return FrameIndex(path, np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64), np.array(steps, dtype=np.int64), dropped)


def _header(raw: bytes) -> tuple[dict[bytes, list[bytes]], bytes, int]:
    """Items before the atoms (title → lines), the title of the atoms' item, and where their lines begin."""
    start = raw.find(b"ITEM: ATOMS")
    if start < 0:
        raise ValueError("'ITEM: ATOMS' is missing")
    end = raw.find(b"\n", start)
    if end < 0:
        raise ValueError("the line 'ITEM: ATOMS' is cut")
    items: dict[bytes, list[bytes]] = {}
    lines: list[bytes] = []
    for line in raw[:start].splitlines():
        if line.startswith(b"ITEM:"):
            lines = items.setdefault(line[5:].strip(), [])
        else:
            lines.append(line)
    return items, raw[start + len(b"ITEM: ATOMS") : end], end + 1


def _n_atoms(items: dict[bytes, list[bytes]]) -> int:
    try:
        return int(items[b"NUMBER OF ATOMS"][0])
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError("'ITEM: NUMBER OF ATOMS' cannot be read") from error


def _last_frame(raw: bytes) -> tuple[str, int]:
    """Why the last frame of a file is not whole ("" when it is), and where its atoms end."""
    try:
        items, _, start = _header(raw)
        n_atoms = _n_atoms(items)
    except ValueError as error:
        return str(error), len(raw)
    newlines = np.flatnonzero(np.frombuffer(raw, dtype=np.uint8, offset=start) == 10) if start < len(raw) else np.empty(0, dtype=np.int64)
    if len(newlines) < n_atoms:
        return f"{len(newlines)} of {n_atoms} atoms", len(raw)
    return "", start + (int(newlines[n_atoms - 1]) + 1 if n_atoms else 0)


def _box(items: dict[bytes, list[bytes]]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[bool]]:
    """Cell (rows), origin, pbc."""
    title, lines = next(((key, value) for key, value in items.items() if key.startswith(b"BOX BOUNDS")), (b"", []))
    rows = np.array([line.split() for line in lines[:3]], dtype=np.str_).astype(np.float64)
    words = title.decode().split()[2:]
    if rows.shape not in ((3, 2), (3, 3), (3, 4)):
        raise ValueError("'ITEM: BOX BOUNDS' cannot be read")
    flags = [word for word in words if len(word) == 2 and set(word) <= set("pfsm")]
    pbc = [flag == "pp" for flag in flags] if len(flags) == 3 else [True] * 3
    if rows.shape == (3, 4):  # "abc origin": the cell's own vectors
        return rows[:, :3], rows[:, 3], pbc
    low, high = rows[:, 0].copy(), rows[:, 1].copy()
    xy, xz, yz = rows[:, 2] if rows.shape == (3, 3) else np.zeros(3)
    low -= [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]  # the bounds of a tilted box enclose it
    high -= [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
    lengths = high - low
    return np.array([[lengths[0], 0.0, 0.0], [xy, lengths[1], 0.0], [xz, yz, lengths[2]]]), low, pbc


def parse_dump_frame(raw: bytes, where: str, elements: Sequence[str] | None = None) -> DumpFrame:
    """Parse the bytes of one frame.

    Parameters
    ----------
    raw
        From ``ITEM: TIMESTEP`` to the end of the last atom's line.
    where
        File and frame, for messages.
    elements
        Symbols of types 1, 2, …, for dumps without a column ``element``.

    Raises
    ------
    DataError
        When the frame is broken or its elements are unknown.
    """
    try:
        items, title, start = _header(raw)
        n_atoms = _n_atoms(items)
        cell, origin, pbc = _box(items)
        columns = {name: place for place, name in enumerate(title.decode().split())}
        body = raw[start:]
        trailing = body.find(b"ITEM:")  # ITEM: UNITS and ITEM: TIME of the next frame stand before its TIMESTEP
        words = (body if trailing < 0 else body[:trailing]).split()
        if len(words) != n_atoms * len(columns):
            raise ValueError(f"{n_atoms} atoms with {len(columns)} columns are expected, {len(words)} words are there")
        table = np.array(words, dtype=np.bytes_).reshape(n_atoms, len(columns))
        step = int(items[b"TIMESTEP"][0])

        def floats(names: Sequence[str]) -> NDArray[np.float64]:
            return table[:, [columns[name] for name in names]].astype(np.float64)

        positions = None
        for names in _POSITIONS:
            if positions is None and all(name in columns for name in names):
                positions = floats(names)
        for names in _SCALED:
            if positions is None and all(name in columns for name in names):
                positions = floats(names) @ cell + origin
        if positions is None:
            raise ValueError("no columns x y z, xu yu zu, xs ys zs or xsu ysu zsu")
        forces = floats(("fx", "fy", "fz")) if all(name in columns for name in ("fx", "fy", "fz")) else None
        order = np.argsort(table[:, columns["id"]].astype(np.int64), kind="stable") if "id" in columns else np.arange(n_atoms)
        atomic_numbers = _elements(table, columns, elements, where)
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(f"{where}: {error}") from error
    atoms = make_atoms(atomic_numbers[order], positions[order], cell, pbc)
    return DumpFrame(step, atoms, None if forces is None else forces[order])


def _elements(table: NDArray[np.bytes_], columns: dict[str, int], elements: Sequence[str] | None, where: str) -> NDArray[np.int64]:
    if "element" in columns:
        return symbols_to_numbers([word.decode() for word in table[:, columns["element"]]], where)
    if "type" not in columns:
        raise ValueError("neither a column element nor type")
    if not elements:
        raise DataError(f"{where}: no column element: name the elements of types 1, 2, … in order")
    types = table[:, columns["type"]].astype(np.int64)
    if types.min() < 1 or types.max() > len(elements):
        raise DataError(f"{where}: type {int(types.max())} has no element: only {len(elements)} were named ({' '.join(elements)})")
    return symbols_to_numbers(list(elements), "elements")[types - 1]


class DumpIndex:
    """A dump file whose frames can be fetched by step.

    Attributes
    ----------
    index
        Byte ranges and steps.
    """

    def __init__(self, index: FrameIndex) -> None:
        self.index = index

    @classmethod
    def build(cls, path: Path) -> DumpIndex:
        """Scan a dump once. See `index_dump`."""
        return cls(index_dump(path))

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps that are there, rising, each once."""
        return self.index.unique_steps()

    @property
    def dropped(self) -> str:
        """What was left out at the end, or ""."""
        return self.index.dropped

    def fetch_frames(self, steps: Iterable[int], elements: Sequence[str] | None = None) -> list[DumpFrame]:
        """Frames at these steps in the order asked; of a step that stands there twice the last one."""
        places = self.index.places(steps)
        raws = self.index.read(places)
        return [
            parse_dump_frame(raw, f"{self.index.path}: step {int(self.index.steps[place])}", elements)
            for place, raw in zip(places, raws, strict=True)
        ]

    def fetch(self, steps: Iterable[int], elements: Sequence[str] | None = None) -> list[Atoms]:
        """Structures at these steps in the order asked."""
        return [frame.atoms for frame in self.fetch_frames(steps, elements)]

    def keep(self, steps: Iterable[int]) -> None:
        """Rewrite the dump atomically with these steps only."""
        self.index.keep(steps)


def iter_dump(path: Path, elements: Sequence[str] | None = None) -> Iterator[Item]:
    """All frames of a dump in its order, unlabelled: the forces in it are the potential's that drove the run."""
    index = index_dump(path)
    for place in range(len(index)):
        frame = parse_dump_frame(index.read([place])[0], f"{path}: step {int(index.steps[place])}", elements)
        yield Frame(frame.atoms, None, Origin(source=str(path), step=frame.step))
    if index.dropped:
        raise TruncatedError(f"{path}: {index.dropped}: {len(index)} whole frames are there")
