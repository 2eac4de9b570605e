"""VASP's OUTCAR: one frame an ionic step, and only where the electronic loop reached EDIFF.

Energy: ``free  energy   TOTEN`` (consistent with the forces). Virial: the line ``Total`` of the table "FORCE on cell
=-STRESS in cart. coord. units (eV)", which has our sign (positive under compression) and no kinetic part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import (
    Item,
    LineReader,
    Rejected,
    contains,
    labelled_frame,
    make_atoms,
    numbers,
    open_lines,
    symbols_to_numbers,
)

_NUMBER = re.compile(r"[-+]?\d+\.\d*(?:[eE][-+]?\d+)?")  # columns of Fortran may touch: split() is not enough
_ITERATION = re.compile(r"-\s+Iteration\s+(\d+)\s*\(\s*(\d+)\s*\)")
_TOTEN = re.compile(r"free {2}energy\s+TOTEN\s*=\s*(\S+)")
_REACHED = "aborting loop because EDIFF is reached"
_FOOTER = "General timing and accounting"


@dataclass
class _Step:
    """What was read of one ionic step."""

    ionic: int
    electronic: int = 0
    reached: bool = False
    cell: NDArray[np.float64] | None = None
    positions: NDArray[np.float64] | None = None
    forces: NDArray[np.float64] | None = None
    virial: NDArray[np.float64] | None = None
    energy_ev: float | None = None

    @property
    def complete(self) -> bool:
        """Whether energy, cell, positions and forces are all there."""
        return self.energy_ev is not None and self.forces is not None and self.cell is not None


@dataclass
class _Head:
    """What stands at the head of an OUTCAR."""

    titles: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    nelm: int | None = None
    atomic_numbers: NDArray[np.int64] | None = None


def iter_outcar(path: Path) -> Iterator[Item]:
    """Ionic steps of an OUTCAR; unconverged ones come as `Rejected`.

    Raises
    ------
    TruncatedError
        After the last whole step, when the run did not reach its end (no "General timing and accounting").
    DataError
        When elements, their counts or a number cannot be read.
    """
    with open_lines(path) as reader:
        # every VASP says how the electronic loop ended; only a file that never does is judged by NELM
        says_reached = contains(path, b"aborting loop")
        head = _Head()
        step: _Step | None = None
        index = 0
        ended = False
        # of a last line without its newline digits may be missing
        while (text := reader.line()) is not None and text.endswith("\n"):
            match = _ITERATION.search(text) if "Iteration" in text else None
            if match:
                ionic, electronic = int(match[1]), int(match[2])
                if step is None or ionic != step.ionic:
                    if step is not None:
                        yield _judge(reader, head, step, index, says_reached)
                        index += 1
                    # an unchanged cell need not be printed again
                    step = _Step(ionic, cell=step.cell if step else None)
                step.electronic = electronic
            elif step is None:
                _read_head(text, head)
            elif _FOOTER in text:
                ended = True
            else:
                _read_step_line(reader, head, step, text)
        if step is None:
            raise reader.truncated("there is no ionic step in it")
        if not step.complete:
            raise reader.truncated(f"ionic step {step.ionic} has no energy or no forces")
        yield _judge(reader, head, step, index, says_reached)
        if not ended:
            raise reader.truncated(f"the run stopped after ionic step {step.ionic} ('{_FOOTER}' is missing)")


def _read_head(text: str, head: _Head) -> None:
    if "TITEL" in text and "=" in text:
        head.titles.append(text.split("=", 1)[1].strip())
    elif "ions per type" in text and not head.counts:
        head.counts = [int(count) for count in text.split("=", 1)[1].split()]
    elif "NELM " in text and head.nelm is None:
        found = re.search(r"NELM\s*=\s*(\d+)", text)
        head.nelm = int(found[1]) if found else None


def _elements(reader: LineReader, head: _Head) -> NDArray[np.int64]:
    if head.atomic_numbers is None:
        symbols = []
        for title in head.titles:  # "PAW_PBE Si_sv 05Jan2001", "PAW H.5 …"
            words = title.split()
            found = re.match(r"[A-Z][a-z]?", words[1] if len(words) > 1 else words[0])
            symbols.append(found[0] if found else title)
        if not symbols or len(symbols) != len(head.counts):
            raise reader.wrong(f"elements (TITEL: {symbols}) and 'ions per type' ({head.counts}) do not fit")
        of_type = symbols_to_numbers(symbols, f"{reader.path}: TITEL")
        head.atomic_numbers = np.repeat(of_type, head.counts)
    return head.atomic_numbers


def _read_step_line(reader: LineReader, head: _Head, step: _Step, text: str) -> None:
    if _REACHED in text:
        step.reached = True
    elif "VOLUME and BASIS-vectors are now" in text:
        while "direct lattice vectors" not in text:
            text = reader.block(1, "the lattice")[0]
        rows = [_NUMBER.findall(line)[:3] for line in reader.block(3, "the lattice")]
        if any(len(row) != 3 for row in rows):
            raise reader.wrong("three lattice vectors are expected")
        step.cell = np.array(rows, dtype=np.str_).astype(np.float64)
    elif "FORCE on cell" in text:
        step.virial = _virial_table(reader)
    elif "TOTAL-FORCE (eV/Angst)" in text and "ML" not in text:
        n_atoms = len(_elements(reader, head))
        reader.block(1, "forces")
        table = numbers(reader, reader.block(n_atoms, "positions and forces"), slice(0, 6), 6)
        step.positions, step.forces = table[:, :3], table[:, 3:]
    elif "TOTEN" in text and (found := _TOTEN.search(text)):
        try:
            step.energy_ev = float(found[1])
        except ValueError as error:
            raise reader.wrong(f"TOTEN is no number: {found[1]!r}") from error


def _virial_table(reader: LineReader) -> NDArray[np.float64] | None:
    for _ in range(40):
        words = reader.block(1, "the stress")[0]
        if words.split()[:1] == ["Total"]:
            values = [float(number) for number in _NUMBER.findall(words)]
            if len(values) != 6:
                raise reader.wrong(f"six stress components are expected, this is there: {words.strip()!r}")
            xx, yy, zz, xy, yz, zx = values
            return np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
    return None  # ISIF = 0 or 1 print a shorter table


def _judge(reader: LineReader, head: _Head, step: _Step, index: int, says_reached: bool) -> Item:
    if not step.complete or step.energy_ev is None or step.positions is None or step.forces is None:
        return Rejected(index, f"ionic step {step.ionic}: no energy or no forces were printed")
    converged = step.reached if says_reached else head.nelm is not None and step.electronic < head.nelm
    if not converged:
        return Rejected(index, f"ionic step {step.ionic}: SCF not converged in {step.electronic} electronic steps (NELM = {head.nelm})")
    atoms = make_atoms(_elements(reader, head), step.positions, step.cell)
    return labelled_frame(atoms, step.energy_ev, step.forces, step.virial, reader.path, step.ionic)
