"""Files of a choice in PWact's names, and reading what was chosen."""

from __future__ import annotations

import re
from pathlib import Path

from pwact_like.errors import DataError
from pwact_like.outcome import Ok, Outcome, Reject, Retry

CANDIDATE_FILE = "candidate.xyz"
INDEX_FILE = "select_idx.dat"
SELECT_FILE = "select.xyz"

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")


def read_indices(path: Path) -> list[int]:
    """Whole numbers of a select_idx.dat, however they are set (one a line, with commas, as floats), in their order.

    Raises
    ------
    DataError
        For a number that is not whole, is negative, or stands there twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    lines = [line.partition("#")[0] for line in text.splitlines()]
    words = [word for line in lines for word in re.split(r"[\s,;\[\]()]+", line) if word]
    strange = [word for word in words if not _NUMBER.fullmatch(word) or float(word) != int(float(word)) or float(word) < 0]
    if strange:
        raise DataError(f"{path}: {strange[0]!r} is no number of a frame (counted from 0)")
    found = [int(float(word)) for word in words]
    if len(set(found)) != len(found):
        raise DataError(f"{path}: a frame is named twice")
    return found


def count_frames(path: Path) -> int:
    """Frames of an extxyz file, by its lines alone.

    Raises
    ------
    DataError
        When the file is none.
    """
    count = 0
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                for _ in range(int(line) + 1):
                    next(stream)
                count += 1
    except (OSError, ValueError, StopIteration) as error:
        raise DataError(f"{path}: no extxyz file: {error!r}") from error
    return count


def chosen_frames(folder: Path) -> list[int]:
    """What select_idx.dat names, checked against candidate.xyz.

    Raises
    ------
    DataError
        When there is no such frame.
    """
    found = read_indices(folder / INDEX_FILE)
    count = count_frames(folder / CANDIDATE_FILE)
    if any(index >= count for index in found):
        raise DataError(f"{folder / INDEX_FILE}: frame {max(found)} is named, and {CANDIDATE_FILE} has {count}, counted from 0")
    return found


def judge(folder: Path, program: str) -> Outcome:
    """Ok for a readable choice of at least one frame."""
    if not (folder / INDEX_FILE).is_file():
        return Retry(f"{program} left no {INDEX_FILE}; see stdout and stderr in {folder}")
    try:
        found = chosen_frames(folder)
    except DataError as error:
        return Reject(str(error))
    return Ok() if found else Reject(f"{program} chose no frame")
