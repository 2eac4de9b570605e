"""PWmat's MOVEMENT, OUT.MLMD and atom.config.

MOVEMENT and OUT.MLMD share one grammar. PWmat prints the *negative* force and the negative virial there:

* the block called ``Force (-force, eV/Angstrom)``, and ``Force (eV/Angstrom)`` alike (single points, OUT.MLMD and the
  first frame of a trajectory), is +dE/dx: along real trajectories Σ block·dx is the rise of Ep;
* the matrix called ``stress (eV)`` beside the lattice is −W (its trace falls with growing pressure).

Both are negated here. The energy is Ep, not Etot, which contains the ions' kinetic energy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import Item, LineReader, labelled_frame, make_atoms, numbers, open_lines
from pwact_like.data.frames import Frame, Origin

if TYPE_CHECKING:
    from ase import Atoms

FRAME_HEADER = re.compile(r"^\s*(\d+)\s+atoms\s*,\s*Iteration", re.IGNORECASE)
_ATOM = re.compile(r"\s*\d{1,3}(?:\s+[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?){3}\b")
_ENERGIES = re.compile(r"Etot,\s*Ep,\s*Ek\s*(?:\(eV\))?\s*=\s*(\S+)\s+(\S+)\s+(\S+?)(?:,|\s|$)")


def iter_movement(path: Path) -> Iterator[Item]:
    """Frames of a MOVEMENT or OUT.MLMD file, one at a time; frames without a force block carry no label."""
    with open_lines(path) as reader:
        index = 0
        text = reader.line()
        while text is not None:
            match = FRAME_HEADER.match(text)
            if match is None:
                if text.strip() and not text.endswith("\n"):
                    raise reader.truncated(f"{index} frames are whole")
                if text.strip():
                    raise reader.wrong(f"a frame's first line ('N atoms,Iteration …') is expected, this is there: {text.strip()[:60]!r}")
            else:
                yield _movement_frame(reader, text, int(match[1]), index)
                index += 1
            text = reader.line()
        if index == 0:
            raise reader.wrong("no frame was found ('N atoms,Iteration …')")


def _movement_frame(reader: LineReader, header: str, n_atoms: int, index: int) -> Frame:
    if not header.endswith("\n"):
        raise reader.truncated(f"the first line of frame {index} (from 0) is not whole")
    energies = _ENERGIES.search(header)
    if energies is None:
        raise reader.wrong("Etot,Ep,Ek are missing in the frame's first line")
    try:
        energy_ev = float(energies[2])
    except ValueError as error:
        raise reader.wrong(f"Ep is no number: {energies[2]!r}") from error
    found: dict[str, Any] = {}  # negated as 0 − x, which makes no −0
    while True:
        text = reader.line()
        if text is None or not text.endswith("\n"):
            raise reader.truncated(f"frame {index} (from 0) has no closing line of dashes")
        name = text.strip().lower()
        if name.startswith("----------"):
            break
        if FRAME_HEADER.match(text):
            raise reader.wrong(f"the next frame begins before frame {index} (from 0) has ended")
        if name.startswith("lattice"):
            lines = reader.block(3, "the lattice")
            found["cell"] = numbers(reader, lines, slice(0, 3), 3)
            if all("stress" in line for line in lines):
                tails = [line.split(":", 1)[-1] for line in lines]
                found["virial"] = 0.0 - numbers(reader, tails, slice(0, 3), 3)
        elif name.startswith("position"):
            found["numbers"], found["scaled"] = _position_block(reader, n_atoms)
        elif name.startswith("force"):
            found["forces"] = 0.0 - numbers(reader, reader.block(n_atoms, "forces"), slice(1, 4), 3)
        elif name.startswith("atomic-energy"):
            found["atomic"] = numbers(reader, reader.block(n_atoms, "atomic energies"), slice(1, 2), 1).ravel()
    missing = [block for block in ("cell", "scaled") if block not in found]
    if missing:
        raise reader.wrong(f"frame {index} (from 0) has no {'lattice' if missing[0] == 'cell' else 'positions'}")
    atoms = make_atoms(found["numbers"], found["scaled"] @ found["cell"], found["cell"])
    if "forces" not in found:
        return Frame(atoms, None, Origin(source=str(reader.path), step=index))
    virial = found.get("virial")
    if virial is not None and not virial.any():
        virial = None  # nine exact zeros: PWmat did not compute it, and a missing virial is never taken as zero
    atomic = found.get("atomic")
    if atomic is not None:
        # the block's sum and the dE of its header make up Ep; dE belongs to no atom, so all share it
        atomic = atomic + (energy_ev - atomic.sum()) / n_atoms
    return labelled_frame(atoms, energy_ev, found["forces"], virial, reader.path, index, atomic_energies_ev=atomic)


def _position_block(reader: LineReader, n_atoms: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return _elements_and_positions(reader, reader.block(n_atoms, "positions"))


def _elements_and_positions(reader: LineReader, lines: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    table = numbers(reader, [" ".join(line.split()[:4]) for line in lines], slice(0, 4), 4)
    wrong = np.flatnonzero(~((table[:, 0] >= 1) & (table[:, 0] <= 118) & (table[:, 0] == np.round(table[:, 0]))))
    if len(wrong):
        raise reader.wrong("a position's first column must be an atomic number", reader.number - len(lines) + 1 + int(wrong[0]))
    return table[:, 0].astype(np.int64), table[:, 1:]


def read_atom_config(path: Path) -> Atoms:
    """One structure from PWmat's atom.config: number of atoms, LATTICE, POSITION (fractional)."""
    with open_lines(path) as reader:
        first = reader.line()
        if first is None:
            raise reader.wrong("the file is empty")
        try:
            n_atoms = int(first.replace(",", " ").split()[0])
        except (ValueError, IndexError) as error:
            raise reader.wrong(f"the number of atoms is expected, this is there: {first.strip()[:60]!r}") from error
        if n_atoms < 1:
            raise reader.wrong(f"the number of atoms must be positive, not {n_atoms}")
        cell = scaled = atomic_numbers = None
        text = reader.line()
        while (cell is None or scaled is None) and text is not None:
            name = text.strip().lower()
            if name.startswith("position"):
                atomic_numbers, scaled, text = _config_positions(reader, n_atoms)
                continue
            if name.startswith("lattice"):
                cell = numbers(reader, reader.block(3, "the lattice"), slice(0, 3), 3)
            text = reader.line()
        if cell is None or scaled is None or atomic_numbers is None:
            raise reader.truncated("LATTICE or POSITION is missing")
    return make_atoms(atomic_numbers, scaled @ cell, cell)


def _config_positions(reader: LineReader, n_atoms: int) -> tuple[NDArray[np.int64], NDArray[np.float64], str | None]:
    """As in MOVEMENT, but people edit these files by hand: the last line may lack its newline, and the count may be wrong.

    Returns elements, positions and the line behind them.
    """
    lines: list[str] = []
    for _ in range(n_atoms):
        text = reader.line()
        if text is None:
            raise reader.truncated(f"{len(lines)} of {n_atoms} lines of positions are there")
        lines.append(text)
    atomic_numbers, scaled = _elements_and_positions(reader, lines)
    after = reader.line()
    if _ATOM.match(after or ""):
        raise reader.wrong(f"one position more than the {n_atoms} atoms of the first line: which is right?")
    return atomic_numbers, scaled, after
