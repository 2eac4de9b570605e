"""Extended-XYZ trajectories as the embedded MD writes them: appended frame by frame, fetched by their step.

Each frame's comment line has ``step=N``; numbers are the shortest decimals that read back as the same doubles. A
frame that the run had no time to finish (no newline at its end) is left out, and `FrameIndex.dropped` says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.xyz_text import XyzFrame, format_frame, parse_frame
from pwact_like.data.frame_index import FrameIndex
from pwact_like.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_STEP = re.compile(rb"(?:^|\s)step\s*=\s*\"?(-?\d+)")
_CHUNK_BYTES = 1 << 24


class XyzTrajectoryWriter:
    """Appends frames to a trajectory file; each is flushed, so a run that dies leaves what it has.

    Parameters
    ----------
    path
        The file; it goes on where it ends. A half-written last frame is cut off first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and path.stat().st_size > 0:
            index = index_xyz(path)
            whole = int(index.ends[-1]) if len(index) else 0
            if whole < path.stat().st_size:
                with path.open("r+b") as stream:
                    stream.truncate(whole)
        self._stream: TextIO = path.open("a", encoding="utf-8")

    def write(
        self,
        atoms: Atoms,
        step: int,
        energy_ev: float | None = None,
        forces_ev_per_ang: NDArray[np.float64] | None = None,
        **info: float | str,
    ) -> None:
        """Append one frame: structure, step, and if given energy, forces and more pairs for the comment line."""
        pairs: dict[str, object] = {"step": int(step)}
        if energy_ev is not None:
            pairs["energy"] = float(energy_ev)
        self._stream.write(format_frame(atoms, {**pairs, **info}, forces_ev_per_ang))
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> XyzTrajectoryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def index_xyz(path: Path) -> FrameIndex:
    """Find the frames of an extended-XYZ file without parsing atoms; frames without ``step=`` are numbered from 0.

    Raises
    ------
    DataError
        When a line that should hold a number of atoms does not, naming frame and byte.
    """
    begins: list[int] = []
    ends: list[int] = []
    steps: list[int] = []
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    with stream, path.open("rb") as side:  # `side` looks at headers while `stream` goes on in large pieces
        start: int | None = 0  # byte of the frame that is being looked for the end of
        lines_left = _frame_lines(side, path, 0, 0, steps)
        base = 0
        while lines_left is not None and (chunk := stream.read(_CHUNK_BYTES)):
            newlines = np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 10)
            used = 0
            while lines_left is not None and used + lines_left <= len(newlines):
                used += lines_left
                end = base + int(newlines[used - 1]) + 1
                begins.append(start if start is not None else 0)
                ends.append(end)
                start = end
                lines_left = _frame_lines(side, path, end, len(begins), steps)
            if lines_left is not None:
                lines_left -= len(newlines) - used
            base += len(chunk)
    size = path.stat().st_size
    whole = ends[-1] if ends else 0
    dropped = f"the last frame of {path.name} is not whole and was left out ({size - whole} bytes)" if lines_left is not None else ""
    return FrameIndex(
        path, np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64), np.array(steps[: len(begins)], dtype=np.int64), dropped
    )


def _frame_lines(side: BinaryIO, path: Path, offset: int, number: int, steps: list[int]) -> int | None:
    """Lines of the frame at ``offset``, its step appended; None at the end of the file."""
    side.seek(offset)
    head = side.readline()
    if not head.strip():
        return None
    comment = side.readline()
    if not comment.endswith(b"\n"):
        steps.append(-1)
        return 1 << 62  # cut inside its header: never whole
    try:
        n_atoms = int(head)
    except ValueError as error:
        raise DataError(f"{path}: frame {number} (from 0, at byte {offset}): a number of atoms is expected, not {head[:40]!r}") from error
    found = _STEP.search(comment)
    steps.append(int(found[1]) if found else number)
    return n_atoms + 2


def parse_bytes(raw: bytes, path: Path, place: int) -> XyzFrame:
    """One frame from its bytes; ``place`` is its number for messages."""
    lines = raw.decode("utf-8").splitlines()
    try:
        return parse_frame(lines[1], lines[2:], f"{path}: frame {place} (from 0)", 1)
    except IndexError as error:
        raise DataError(f"{path}: frame {place} (from 0) is not whole") from error


def steps(path: Path) -> list[int]:
    """Steps that are in the file, rising, each once."""
    return [int(step) for step in index_xyz(path).unique_steps()]


def fetch_steps(path: Path, wanted: Iterable[int]) -> list[Atoms]:
    """Structures at these steps, in the order asked; of a step that stands there twice the last one.

    Raises
    ------
    DataError
        When a step is not in the file.
    """
    index = index_xyz(path)
    places = index.places(wanted)
    return [parse_bytes(raw, path, place).atoms for place, raw in zip(places, index.read(places), strict=True)]


def keep_steps(path: Path, wanted: Iterable[int]) -> None:
    """Rewrite the file atomically with these steps only."""
    index_xyz(path).keep(wanted)
