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
        write_arrays(self.folder / CHECKPOINT, {**arrays, **self.sizes()})

    def sizes(self) -> dict[str, np.int64]:
        """How long the files are, under the names that a checkpoint has for it; they are brought to the disk."""
        names = (TRAJECTORY, LOG, TABLE) if self._table is not None else (TRAJECTORY, LOG)
        return {f"size.{name}": np.int64(_sync(self.folder / name)) for name in names}

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
    content = read_arrays(path)
    if content is None:
        return None
    if str(content.pop("fingerprint", "")) != fingerprint:
        raise strange_checkpoint(path)
    return checkpoint_from(content, folder)


def checkpoint_from(content: dict[str, NDArray[Any]], folder: Path) -> Checkpoint | None:
    """What is stored of one run; None where its files are missing or shorter than they were: there is nothing to go on from."""
    sizes = {name.removeprefix("size."): int(content.pop(name)) for name in list(content) if name.startswith("size.")}
    complete = all((folder / name).is_file() and (folder / name).stat().st_size >= size for name, size in sizes.items())
    return Checkpoint(content, sizes) if complete else None


def strange_checkpoint(path: Path) -> InputError:
    """The error for a checkpoint of another run."""
    return InputError(
        Problem(
            str(path),
            "this checkpoint belongs to a run with other settings, another structure or other models",
            "remove it with the run's files, or write into another folder (-o)",
        )
    )


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """What `write_arrays` wrote; None where there is no such file, or one torn by a full disk or a power cut."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
