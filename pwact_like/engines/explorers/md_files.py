"""What an MD run leaves: trajectory, deviation table, log, result, and the checkpoint to go on from."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.xyz_trajectory import XyzTrajectoryWriter
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import read_json, write_bytes, write_json
from pwact_like.uncertainty.table import TableWriter

if TYPE_CHECKING:
    from ase import Atoms

TRAJECTORY = "traj.xyz"
TABLE = "model_devi.out"
LOG = "md.log"
RESULT = "md_result.json"
CHECKPOINT = "md.checkpoint.npz"

CHECKPOINT_SECONDS = 5.0  # a checkpoint on a network disk costs more than a step: not more often than this

_LOG_COLUMNS = ("time_ps", "temp_K", "press_bar", "potential_eV", "kinetic_eV", "conserved_eV", "volume_ang3")

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class MdResult:
    """How a run ended: "" or why early, the last step, frames written and planned; and what else is to be known of it."""

    ended: str
    step: int
    frames: int
    frames_planned: int
    note: str = ""

    def write(self, folder: Path) -> None:
        """Write md_result.json."""
        write_json(folder / RESULT, {name: getattr(self, name) for name in ("ended", "step", "frames", "frames_planned", "note")})

    @classmethod
    def read(cls, folder: Path) -> MdResult:
        """Read md_result.json.

        Raises
        ------
        DataError
            When it is missing or not ours.
        """
        content = read_json(folder / RESULT)
        try:
            numbers = (int(content[name]) for name in ("step", "frames", "frames_planned"))
            return cls(str(content["ended"]), *numbers, str(content.get("note", "")))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder / RESULT}: not the result of an MD run: {error!r} ") from error


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State of a run at a step, and how long the files were then."""

    arrays: dict[str, NDArray[Any]]
    sizes: dict[str, int]


class MdFiles:
    """The open files of a run; every frame is handed to the system before the next step.

    Parameters
    ----------
    folder
        Where they lie.
    table
        Kind and unit of the deviation table; None: the potential does not know its errors, and there is none.
    sizes
        Of a checkpoint: the files are cut back to what they held then, and written on.
    """

    def __init__(self, folder: Path, *, table: tuple[str, str] | None, sizes: Mapping[str, int] | None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).unlink(missing_ok=True)  # an old result must not speak for this run
        for name, size in (sizes or {}).items():
            os.truncate(folder / name, size)
        mode = "w" if sizes is None else "a"
        if sizes is None:
            (folder / TRAJECTORY).unlink(missing_ok=True)
        self._trajectory = XyzTrajectoryWriter(folder / TRAJECTORY)
        self._log = (folder / LOG).open(mode, encoding="utf-8", newline="\n")
        self._table = None if table is None else TableWriter(folder / TABLE, *table, extend=sizes is not None)
        if sizes is None:
            (folder / CHECKPOINT).unlink(missing_ok=True)
            self._log.write(f"#{'step':>11s}" + "".join(f"{name:>20s}" for name in _LOG_COLUMNS) + "\n")
        self._saved_at = time.monotonic()

    def add_frame(self, step: int, atoms: Atoms, deviation: tuple[Triple, Triple] | None) -> None:
        """Append a frame, and its row of the table: (max, min, mean) of forces and virials."""
        # the frame first: a row without its frame could be selected and not be found
        self._trajectory.write(atoms, step)
        if self._table is not None and deviation is not None:
            self._table.append(step, deviation[0], deviation[1])

    def log(self, step: int, *values: float) -> None:
        """Append a line to md.log."""
        self._log.write(f"{step:12d}" + "".join(f"{value:20.8f}" for value in values) + "\n")
        self._log.flush()

    def save_checkpoint(self, arrays: Mapping[str, Any], insist: bool = False) -> None:
        """Write a checkpoint atomically, unless the last one is fresh (and nobody insists)."""
        now = time.monotonic()
        if now - self._saved_at < CHECKPOINT_SECONDS and not insist:
            return
        self._saved_at = now
        names = (TRAJECTORY, LOG, TABLE) if self._table is not None else (TRAJECTORY, LOG)
        sizes = {name: _sync(self.folder / name) for name in names}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays, **{f"size.{name}": np.int64(size) for name, size in sizes.items()})
        write_bytes(self.folder / CHECKPOINT, buffer.getvalue())

    def close(self) -> None:
        """Close all files."""
        self._trajectory.close()
        self._log.close()
        if self._table is not None:
            self._table.close()

    def __enter__(self) -> MdFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _sync(path: Path) -> int:
    """Bring a file whose writer has flushed it to the disk; returns its size."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return os.fstat(stream.fileno()).st_size


def load_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint in ``folder``; None where there is none that can be used.

    Raises
    ------
    InputError
        When it belongs to a run with another input.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            content = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # torn by a full disk or a power cut: the run starts again
    if str(content.pop("fingerprint", "")) != fingerprint:
        raise InputError(
            Problem(
                str(path),
                "this checkpoint belongs to a run with other settings, another structure or other models",
                "remove it with the run's files, or write into another folder (-o)",
            )
        )
    sizes = {name.removeprefix("size."): int(content.pop(name)) for name in list(content) if name.startswith("size.")}
    # the files may be missing or shorter than they were: then there is nothing to go on from
    complete = all((folder / name).is_file() and (folder / name).stat().st_size >= size for name, size in sizes.items())
    return Checkpoint(content, sizes) if complete else None
