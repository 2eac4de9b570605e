"""Going on after an interruption: which restart file is whole, and what of the earlier attempts' frames and deviations counts.

A restart file begins and ends with LAMMPS's mark, so that one that was torn by a kill is told from a whole one; its
header holds the step (LAMMPS's src/write_restart.cpp).
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np

from pwact_like.data.lammps_dump import index_dump
from pwact_like.engines.explorers.lammps_task import BEGIN, EARLIER, RAW, RESTARTS, STEP, TRAJECTORY, LmpTask, begin_text
from pwact_like.errors import DataError
from pwact_like.fsio import write_text
from pwact_like.uncertainty.table import TableWriter, read_table

_MAGIC = b"LammpS RestartT\0"
_ORDER = 1  # the endian word as its own machine reads it
# header entries before the step, by their flags: text or a 32-bit number; then the step, 64 bits
_TEXT_FLAGS, _INTEGER_FLAGS, _STEP_FLAG = (0, 4), (1, 2, 3, 48), 5
_MOST_ENTRIES = 16

Triple = tuple[float, float, float]
Rows = dict[int, tuple[Triple, Triple]]
"""Step → (max, min, mean) of the forces' deviation and of the virial's."""

_NONE: Triple = (np.nan, np.nan, np.nan)


def restart_step(path: Path) -> int | None:
    """Step of a whole restart file; None for anything else."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
            stream.seek(-min(len(_MAGIC), path.stat().st_size), os.SEEK_END)
            tail = stream.read()
    except OSError:
        return None
    if not head.startswith(_MAGIC) or tail != _MAGIC or len(head) <= len(_MAGIC):
        return None
    try:
        return _step_in(head)
    except struct.error:
        return None


def _step_in(head: bytes) -> int | None:
    place = len(_MAGIC)
    order, _revision = struct.unpack_from("=ii", head, place)
    if order != _ORDER:
        return None
    place += 8
    for _ in range(_MOST_ENTRIES):
        (flag,) = struct.unpack_from("=i", head, place)
        place += 4
        if flag == _STEP_FLAG:
            (step,) = struct.unpack_from("=q", head, place)
            return int(step) if step >= 0 else None
        if flag in _TEXT_FLAGS:
            (length,) = struct.unpack_from("=i", head, place)
            place += 4 + max(length, 0)
        elif flag in _INTEGER_FLAGS:
            place += 4
        else:
            return None
    return None


def newest_restart(folder: Path) -> tuple[str, int] | None:
    """Name and step of the restart file that is furthest on."""
    found = [(step, name) for name in RESTARTS if (step := restart_step(folder / name)) is not None]
    if not found:
        return None
    step, name = max(found)
    return name, step


def begin(folder: Path, task: LmpTask) -> int | None:
    """Make an attempt's folder ready: begin.lammps, and the files of earlier attempts cut to where this one begins.

    Returns
    -------
    int or None
        The step that the run goes on from; None when it begins anew.
    """
    (folder / STEP).unlink(missing_ok=True)
    restart = newest_restart(folder)
    if restart is not None and not _cut_trajectory(folder, restart[1], task.trj_freq):
        restart = None  # the frames before it are gone: without them it is of no use
    if restart is None:
        for name in (*RESTARTS, TRAJECTORY, RAW, EARLIER):
            (folder / name).unlink(missing_ok=True)
        write_text(folder / BEGIN, begin_text())
        return None
    name, step = restart
    rows = joined_rows(folder)
    if rows is not None:
        kind, unit, found = rows
        write_rows(folder / EARLIER, kind, unit, {number: row for number, row in found.items() if number < step})
    (folder / RAW).unlink(missing_ok=True)
    write_text(folder / BEGIN, begin_text(name, step))
    return step


def _cut_trajectory(folder: Path, step: int, trj_freq: int) -> bool:
    """Leave the frames before a step, which LAMMPS writes again itself; False when they are not all there."""
    path = folder / TRAJECTORY
    wanted = list(range(0, step, trj_freq))
    if not wanted:
        path.unlink(missing_ok=True)
        return True
    try:
        index = index_dump(path)
        index.keep(wanted)
    except DataError:
        return False
    return True


def joined_rows(folder: Path) -> tuple[str, str, Rows] | None:
    """(kind, unit, rows) of the earlier attempts and this one, each step once, the later one counts; None without any."""
    found: Rows = {}
    form = None
    for name in (EARLIER, RAW):
        path = folder / name
        if not path.is_file() or path.stat().st_size == 0:
            continue
        table = read_table(path)
        form = (table.kind, table.unit)
        virials = _virials(path)
        for place, step in enumerate(table.steps.tolist()):
            row = (float(table.value[place]), float(table.minimum[place]), float(table.mean[place]))
            found[step] = (row, virials.get(step, _NONE))
    return None if form is None else (*form, dict(sorted(found.items())))


def _virials(path: Path) -> dict[int, Triple]:
    """The virial's deviation of each step, from DeePMD-kit's columns 1 to 3; empty for a file of another form."""
    found: dict[int, Triple] = {}
    is_deepmd = False
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            words = line.split()
            if line.lstrip().startswith("#"):
                is_deepmd = is_deepmd or bool(re.search(r"\bmax_devi_v\s+min_devi_v\s+avg_devi_v\b", line))
            elif is_deepmd and len(words) >= 7:
                try:
                    found[int(words[0])] = (float(words[1]), float(words[2]), float(words[3]))
                except ValueError:
                    continue  # a torn line: `read_table` has judged it
    return found


def write_rows(path: Path, kind: str, unit: str, rows: Rows) -> None:
    """Write a deviation table in our form."""
    with TableWriter(path, kind, unit) as table:
        for step, (forces, virials) in rows.items():
            table.append(step, forces, virials)
