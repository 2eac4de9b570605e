"""Cells as LAMMPS wants them, the data file, and the way back.

LAMMPS's cell has its first vector along x and its second in the xy plane, with positive diagonal elements: any cell is
such a one times an orthogonal matrix (a rotation, and for a left-handed cell a reflection, under which an interatomic
potential is the same). https://docs.lammps.org/Howto_triclinic.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

Array = NDArray[np.float64]

FREE_MARGIN_ANG = 100.0
"""Room around a structure with free boundaries: an atom that leaves the box is lost and ends the run."""


def to_lower(cell: Array) -> tuple[Array, Array]:
    """(L, Q) with cell = L·Q: L lower triangular with a positive diagonal, Q orthogonal; shapes (3, 3), rows are vectors.

    A cell that has this form already keeps every bit, and Q is the unit matrix.
    """
    if not np.triu(cell, 1).any() and (np.diag(cell) > 0.0).all():
        return np.array(cell), np.eye(3)
    q, r = np.linalg.qr(cell.T)
    signs = np.where(np.diag(r) < 0.0, -1.0, 1.0)
    return np.tril(r.T * signs), signs[:, None] * q.T


def lammps_frame(atoms: Atoms, boundary: bool) -> tuple[Array, Array, Array, Array]:
    """(L, origin, positions, Q) in Å: what LAMMPS gets, and the matrix that leads back (a row vector times Q).

    With free boundaries the box is a large one around the atoms and nothing is turned.
    """
    positions = np.array(atoms.positions, dtype=np.float64)
    if boundary:
        lower, rotation = to_lower(np.asarray(atoms.cell.array, dtype=np.float64))
        # turned only if need be, so that positions keep every bit
        return lower, np.zeros(3), positions if (rotation == np.eye(3)).all() else positions @ rotation.T, rotation
    low = np.floor(positions.min(axis=0) - FREE_MARGIN_ANG)
    high = np.ceil(positions.max(axis=0) + FREE_MARGIN_ANG)
    return np.diag(high - low), low, positions, np.eye(3)


def data_file(atoms: Atoms, elements: Sequence[str], boundary: bool) -> str:
    """Text of LAMMPS's data file: ids in the order of the atoms, types in the order of ``elements``, nothing rounded."""
    lower, origin, positions, _ = lammps_frame(atoms, boundary)
    types = {symbol: number for number, symbol in enumerate(elements, start=1)}
    ends = origin + np.diag(lower)
    lines = [f"start structure, written by pwact-like: {atoms.get_chemical_formula()}", "", f"{len(atoms)} atoms"]
    lines += [f"{len(elements)} atom types", ""]
    lines += [f"{float(origin[axis])!r} {float(ends[axis])!r} {name}lo {name}hi" for axis, name in enumerate("xyz")]
    if boundary:
        lines.append(" ".join(repr(float(lower[row, column])) for row, column in ((1, 0), (2, 0), (2, 1))) + " xy xz yz")
    lines += ["", "Masses", "", *(f"{number} {mass!r} # {symbol}" for number, symbol, mass in _masses(elements)), "", "Atoms # atomic", ""]
    for number, (symbol, place) in enumerate(zip(atoms.get_chemical_symbols(), positions, strict=True), start=1):
        lines.append(f"{number} {types[symbol]} " + " ".join(repr(float(value)) for value in place))
    return "\n".join(lines) + "\n"


def standard_masses(elements: Sequence[str]) -> list[float]:
    """The mass of every type, in g/mol."""
    return [mass for _, _, mass in _masses(elements)]


def all_masses() -> list[float]:
    """The standard mass of every element, in g/mol."""
    from ase.data import atomic_masses

    return [float(mass) for mass in atomic_masses[1:]]


def _masses(elements: Sequence[str]) -> list[tuple[int, str, float]]:
    from ase.data import atomic_masses, atomic_numbers

    return [(number, symbol, float(atomic_masses[atomic_numbers[symbol]])) for number, symbol in enumerate(elements, start=1)]


def mass_lines(elements: Sequence[str]) -> list[str]:
    """The command ``mass`` for every type (a restart file of another origin must not bring its own)."""
    return [f"mass {number} {mass!r}" for number, _, mass in _masses(elements)]


def turn_back(atoms: Atoms, rotation: Array, boundary: bool, cell: Array) -> Atoms:
    """A frame of LAMMPS in the orientation of the start structure; without boundaries with the start structure's cell."""
    turned = not (rotation == np.eye(3)).all()
    frame = atoms.copy()
    if boundary:
        if turned:
            frame.set_cell(atoms.cell.array @ rotation, scale_atoms=False)
    else:
        frame.set_cell(cell, scale_atoms=False)
    if turned:
        frame.positions = atoms.positions @ rotation
    frame.pbc = boundary
    return frame
