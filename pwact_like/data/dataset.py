"""Data sets: their hash, seeded splits, reading what the user lists."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats import read_labelled
from pwact_like.data.frames import Frame
from pwact_like.errors import DataError

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath

_log = logging.getLogger(__name__)


class _PathLike(Protocol):
    """What is needed of a `DataPath`."""

    @property
    def path(self) -> Path: ...
    @property
    def format(self) -> str | None: ...
    @property
    def virial_sign(self) -> int: ...


def frame_bytes(frame: Frame) -> bytes:
    """Canonical bytes of a labelled frame: elements, pbc, cell, positions, energy, forces, virial; no origin.

    Doubles in little-endian order, −0 written as 0; a missing virial differs from a zero one.
    """
    label = frame.label
    if label is None:
        raise DataError(f"{frame.origin.source or 'frame'} (step {frame.origin.step}): a frame without label has no place in a data set")

    def doubles(array: object) -> bytes:
        return (np.ascontiguousarray(array, dtype="<f8") + 0.0).tobytes()

    parts = [
        np.ascontiguousarray(frame.atoms.numbers, dtype="<i8").tobytes(),
        np.ascontiguousarray(frame.atoms.pbc, dtype="u1").tobytes(),
        doubles(frame.atoms.cell.array),
        doubles(frame.atoms.positions),
        doubles([label.energy_ev]),
        doubles(label.forces_ev_per_ang),
        b"no virial" if label.virial_ev is None else doubles(label.virial_ev),
    ]
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def dataset_hash(frames: Iterable[Frame]) -> str:
    """Hex SHA-256 of labelled frames in canonical order: the order of the frames and their origin do not matter."""
    digests = sorted(hashlib.sha256(frame_bytes(frame)).digest() for frame in frames)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def choose(count: int, share: float, seed: int) -> NDArray[np.int64]:
    """Indices (rising) of a random share of ``count`` things, at least one and at most ``count − 1`` where possible.

    A share of 0 chooses none, a share of 1 all.
    """
    if not 0.0 <= share <= 1.0:
        raise DataError(f"a share must lie between 0 and 1, not {share}")
    wanted = round(count * share)
    if 0.0 < share < 1.0 and count > 1:
        wanted = min(max(wanted, 1), count - 1)
    elif count == 1 and share < 1.0:
        wanted = 0  # a single frame stays with the rest
    return np.sort(np.random.default_rng(seed).permutation(count)[:wanted])


def split(frames: Sequence[Frame], share: float, seed: int) -> tuple[list[Frame], list[Frame]]:
    """Split off a seeded random share of the frames.

    Parameters
    ----------
    frames
        Two or more are split so that at least one stays on each side (0 < share < 1).
    share
        Between 0 and 1.
    seed
        The same seed gives the same split of the same list.

    Returns
    -------
    (rest, chosen)
        Both in the order of ``frames``.
    """
    chosen = set(choose(len(frames), share, seed).tolist())
    rest = [frame for place, frame in enumerate(frames) if place not in chosen]
    return rest, [frame for place, frame in enumerate(frames) if place in chosen]


def type_counts(frames: Iterable[Frame]) -> dict[int, int]:
    """Atomic number → number of atoms of it in all frames, by rising atomic number."""
    counts = np.zeros(119, dtype=np.int64)
    for frame in frames:
        counts += np.bincount(frame.atoms.numbers, minlength=119)[:119]
    return {int(number): int(counts[number]) for number in np.flatnonzero(counts)}


def merge(*groups: Iterable[Frame]) -> list[Frame]:
    """All frames of several groups in their order; one that stands there twice (same structure and label) is kept once."""
    seen: set[bytes] = set()
    result = []
    for group in groups:
        for frame in group:
            digest = hashlib.sha256(frame_bytes(frame)).digest()
            if digest not in seen:
                seen.add(digest)
                result.append(frame)
    return result


def read_data_paths(paths: Sequence[DataPath] | Sequence[_PathLike]) -> list[Frame]:
    """Labelled frames of the user's list of data (init_data, train_data, …).

    Raises
    ------
    DataError
        When a path cannot be read, or holds no labelled frame (with the first reason).
    """
    frames: list[Frame] = []
    for entry in paths:
        result = read_labelled(entry.path, entry.format, virial_sign=entry.virial_sign)
        if not result.frames:
            reason = f": {result.rejected[0][1]}" if result.rejected else ""
            raise DataError(f"{entry.path}: no labelled frame in it{reason}")
        if result.rejected:
            index, reason = result.rejected[0]
            _log.warning("%s: %d frame(s) left out; the first: %d: %s", entry.path, len(result.rejected), index, reason)
        frames.extend(result.frames)
    return frames
