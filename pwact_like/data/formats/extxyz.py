"""Labelled frames in extended XYZ: reading what is found in the wild, writing our own with full precision.

Read: ``force`` or ``forces``; ``free_energy`` before ``energy`` (any case), for it is the one the forces belong to;
``virial``/``virials`` (our sign, W = −V·σ; ``virial_sign`` flips others) or ``stress`` (ASE's: eV/Å³, positive in tension).
Written: ``energy`` (the free energy), ``forces``, ``virial`` as nine numbers, the origin and ``level_of_theory``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import Item, LineReader, TruncatedError, open_lines, volume_ang3
from pwact_like.data.formats.xyz_text import XyzFrame, format_frame, parse_frame, vector
from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.errors import DataError
from pwact_like.units import virial_from_stress

_ATOMIC = "atomic_energies"  # a list of numbers in the comment line, ours alone


def iter_extxyz(path: Path) -> Iterator[Item]:
    """Frames of a file, or of every .xyz file below a folder (pwdata's writer makes a folder with train.xyz in it)."""
    files = [path]
    if path.is_dir():
        files = sorted([*path.glob("*.xyz"), *path.glob("*.extxyz")])
        if not files:
            raise DataError(f"{path}: no .xyz file in this folder")
    for file in files:
        with open_lines(file) as reader:
            index = 0
            while (raw := next_frame(reader)) is not None:
                yield to_frame(raw, file, index, reader)
                index += 1
            if index == 0:
                raise reader.wrong("the file is empty")


def next_frame(reader: LineReader) -> XyzFrame | None:
    """The next frame of an open file; None at its end."""
    text = reader.line()
    while text is not None and not text.strip():
        text = reader.line()  # blank lines between frames or at the end
    if text is None:
        return None
    first = reader.number
    try:
        n_atoms = int(text)
    except ValueError as error:
        raise reader.wrong(f"the number of atoms is expected, this is there: {text.strip()[:60]!r}") from error
    if n_atoms < 1:
        raise reader.wrong(f"the number of atoms must be positive, not {n_atoms}")
    comment = reader.block(1, "the comment")[0]
    lines: list[str] = []
    for _ in range(n_atoms):
        line = reader.line()
        if line is None:
            raise reader.truncated(f"{len(lines)} of {n_atoms} atoms of a frame are there")
        lines.append(line)
    if not lines[-1].endswith("\n"):
        raise TruncatedError(
            f"{reader.path}: the file ends inside line {reader.number}: digits may be missing (if it is whole, end it with a newline)"
        )
    return parse_frame(comment, lines, reader.path, first)


def _number(pairs: Mapping[str, str], keys: Iterable[str], where: str) -> float | None:
    for key in keys:
        if key in pairs:
            return float(vector(pairs[key], 1, f"{where}: {key}")[0])
    return None


def _whole(text: str | None, default: int) -> int:
    """A whole number with every digit (seeds have more than a double holds); what is none was somebody else's key."""
    try:
        return default if text is None else int(text)
    except ValueError:
        return default


def _virial(raw: XyzFrame, where: str) -> NDArray[np.float64] | None:
    for key in ("virial", "virials"):
        if key in raw.pairs:
            return vector(raw.pairs[key], 9, f"{where}: {key}").reshape(3, 3)
    if "stress" in raw.pairs:
        values = raw.pairs["stress"]
        count = len(values.replace(",", " ").split())
        if raw.atoms.cell.rank < 3:
            raise DataError(f"{where}: a stress needs a Lattice")
        stress = vector(values, 6 if count == 6 else 9, f"{where}: stress")
        return virial_from_stress(stress if count == 6 else stress.reshape(3, 3), volume_ang3(raw.atoms))
    return None


def to_frame(raw: XyzFrame, path: Path, index: int, reader: LineReader) -> Frame:
    """A frame from what stands in the file; without energy or forces it carries no label."""
    where = f"{path}: frame {index} (from 0, ends at line {reader.number})"
    pairs = raw.pairs
    origin = Origin(
        source=pairs.get("source", str(path)),
        iteration=_whole(pairs.get("iteration"), -1),
        task=pairs.get("task", ""),
        step=_whole(pairs.get("step"), index),
        seed=_whole(pairs.get("seed"), 0),
    )
    energy_ev = _number(pairs, ("free_energy", "energy"), where)
    label = None
    if energy_ev is not None and raw.forces is not None:
        atomic = vector(pairs[_ATOMIC], len(raw.atoms), f"{where}: {_ATOMIC}") if _ATOMIC in pairs else None
        label = Label(energy_ev, raw.forces, _virial(raw, where), atomic)
    return Frame(raw.atoms, label, origin, pairs.get("level_of_theory", ""))


def frame_text(frame: Frame) -> str:
    """Our own text of a frame.

    Raises
    ------
    DataError
        When the label is not finite: such a label must never be stored.
    """
    pairs: dict[str, object] = {}
    forces = None
    if frame.label is not None:
        label = frame.label
        forces = label.forces_ev_per_ang
        finite = np.isfinite(label.energy_ev) and np.isfinite(forces).all()
        if not finite or (label.virial_ev is not None and not np.isfinite(label.virial_ev).all()):
            raise DataError(f"{frame.origin.source or 'frame'} (step {frame.origin.step}): the label is not finite and cannot be written")
        pairs["energy"] = float(label.energy_ev)
        if label.virial_ev is not None:
            pairs["virial"] = np.asarray(label.virial_ev, dtype=np.float64)
        if label.atomic_energies_ev is not None:
            pairs[_ATOMIC] = np.asarray(label.atomic_energies_ev, dtype=np.float64)
    origin = frame.origin
    if frame.level_of_theory:
        pairs["level_of_theory"] = frame.level_of_theory
    if origin.iteration != -1:
        pairs["iteration"] = origin.iteration
    if origin.task:
        pairs["task"] = origin.task
    if origin.step != -1:
        pairs["step"] = origin.step
    if origin.seed:
        pairs["seed"] = origin.seed
    if origin.source:
        pairs["source"] = origin.source
    return format_frame(frame.atoms, pairs, forces)


def write_extxyz(path: Path, frames: Iterable[Frame]) -> None:
    """Write frames atomically: the file has all of them or does not change."""
    from pwact_like.fsio import write_through

    def fill(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as stream:
            for frame in frames:
                stream.write(frame_text(frame))

    write_through(path, fill)
