"""What DFTB+ leaves: energy, forces, stress and structure from results.tag, convergence from its output. Never run here.

results.tag has entries ``name :type:rank:shape`` with the numbers below in Fortran's order, in atomic units. Taken are
``mermin_energy`` (the free energy, −TS in it: the one that the forces belong to), ``forces`` (3 × n_atoms), ``stress`` (3 × 3,
positive under compression: the opposite of ASE's, as ASE's own reader has it, so W = +stress·V) and, of a relaxation,
``end_coords``. The relaxed cell and structure stand in geo_end.gen.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import labelled_frame, make_atoms, symbols_to_numbers, volume_ang3
from pwact_like.data.frames import Frame
from pwact_like.errors import DataError
from pwact_like.units import ANG_PER_BOHR, EV_PER_ANG_PER_HARTREE_PER_BOHR, EV_PER_HARTREE

NOT_CONVERGED = "SCC is NOT converged"
_RELAXED = "Geometry converged"
_HEAD = re.compile(r"^(\w+)\s*:(\w+):(\d+):([\d,]*)\s*$")
_SAME_PLACE_ANG = 1e-5  # geo_end.gen has ten decimals; end_coords may be folded into the cell no more than it is


def read_tags(path: Path) -> dict[str, NDArray[np.float64]]:
    """Real entries of results.tag; arrays as DFTB+'s, the first index fastest, transposed to the last index fastest.

    Raises
    ------
    DataError
        When the file is missing, or an entry has not as many numbers as it says.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    heads = [place for place, line in enumerate(lines) if _HEAD.match(line)]
    found = {}
    for place, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        head = _HEAD.match(lines[place])
        if head is None or head[2] != "real":
            continue
        shape = [int(word) for word in head[4].split(",") if word]
        words = " ".join(lines[place + 1 : end]).split()
        try:
            found[head[1]] = np.array(words, dtype=np.str_).astype(np.float64).reshape(shape[::-1])
        except ValueError as error:
            raise DataError(f"{path}: line {place + 1}: {head[1]} cannot be read: {error}") from error
    return found


def read_gen(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Atomic numbers, positions (Å) and cell (Å; None for a cluster) of a structure in DFTB+'s GEN format.

    Raises
    ------
    DataError
        When it cannot be read.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.lstrip().startswith("#")]
        count, kind = int(lines[0].split()[0]), lines[0].split()[1].upper()
        symbols = lines[1].split()
        rows = [line.split() for line in lines[2 : 2 + count]]
        numbers = symbols_to_numbers([symbols[int(row[1]) - 1] for row in rows], str(path))
        positions = np.array([[float(word) for word in row[2:5]] for row in rows]).reshape(count, 3)
        if kind == "C":
            return numbers, positions, None
        cell = np.array([[float(word) for word in line.split()[:3]] for line in lines[3 + count : 6 + count]]).reshape(3, 3)
        return numbers, positions @ cell if kind == "F" else positions, cell
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path}: the structure cannot be read: {error}") from error


def read_label(folder: Path, output: Path, tags: Path, asked: Frame, *, relaxed: Path | None) -> Frame | str:
    """The structure with its label, or why there is none.

    Parameters
    ----------
    folder
        Where detailed.out may lie, which tells of the SCC too.
    output, tags
        DFTB+'s standard output, and results.tag.
    asked
        The structure that was asked.
    relaxed
        geo_end.gen of a relaxation; None for a single point.

    Raises
    ------
    DataError
        When the run was cut short or a file cannot be read: it may be tried again.
    """
    text = output.read_text(encoding="utf-8", errors="replace")
    detailed = folder / "detailed.out"
    more = detailed.read_text(encoding="utf-8", errors="replace") if detailed.is_file() else ""
    if NOT_CONVERGED in text or NOT_CONVERGED in more:
        return f"SCC not converged ('{NOT_CONVERGED}'): raise MaxSCCIterations, or mend Mixer and Filling"
    if "ERROR!" in text:
        after = text.split("ERROR!", 1)[1].split()
        return f"DFTB+ stopped: {' '.join(after[:40])}"
    if relaxed is not None and _RELAXED not in text:
        return "relaxation not converged: raise MaxSteps, or loosen Convergence"
    found = read_tags(tags)
    missing = [name for name in ("mermin_energy", "forces") if name not in found]
    if missing:
        raise DataError(f"{tags}: there is no {' and no '.join(missing)} in it")
    atoms = asked.atoms.copy()
    if relaxed is not None:
        numbers, positions, cell = read_gen(relaxed)
        if list(numbers) != list(atoms.numbers) or (cell is None) == bool(atoms.pbc.all()):
            raise DataError(f"{relaxed}: other atoms, or another kind of cell, than were asked for")
        end = found.get("end_coords")
        if end is not None and np.abs(end * ANG_PER_BOHR - positions).max() > _SAME_PLACE_ANG:
            raise DataError(f"{relaxed}: not the structure of {tags.name}")
        atoms = make_atoms(numbers, positions, cell, atoms.pbc)
    if found["forces"].shape != (len(atoms), 3):
        raise DataError(f"{tags}: forces of {len(found['forces'])} atoms where {len(atoms)} were asked for")
    stress = found.get("stress") if bool(atoms.pbc.all()) else None
    virial = stress * EV_PER_HARTREE / ANG_PER_BOHR**3 * volume_ang3(atoms) if stress is not None else None
    energy = float(found["mermin_energy"].reshape(-1)[0]) * EV_PER_HARTREE
    return labelled_frame(atoms, energy, found["forces"] * EV_PER_ANG_PER_HARTREE_PER_BOHR, virial, tags, 0)
