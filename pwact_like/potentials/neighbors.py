"""Pairs of atoms within a distance, each once, and their reuse from one MD step to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError, NotAvailableError

if TYPE_CHECKING:
    from ase import Atoms


_WIDEST_ANG = 1e5  # vesin's search boxes overflow somewhere beyond, and a division by zero ends the process


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs (i, j) with the vector r = x_j − x_i + shift·cell, each unordered pair once, an atom's own images too.

    ``i``, ``j`` have shape (n_pairs,), ``shift`` (n_pairs, 3) counts lattice vectors.
    """

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    shift: NDArray[np.int64]

    def vectors(self, positions_ang: NDArray[np.float64], cell_ang: NDArray[np.float64]) -> NDArray[np.float64]:
        """Vectors r of every pair in Å, shape (n_pairs, 3)."""
        return positions_ang[self.j] - positions_ang[self.i] + self.shift @ cell_ang


def find_pairs(atoms: Atoms, cutoff_ang: float) -> Pairs:
    """All pairs closer than ``cutoff_ang`` under the structure's own periodicity.

    Raises
    ------
    DataError
        For a periodic direction without a cell vector, or positions that are not finite.
    NotAvailableError
        When vesin is not installed.
    """
    try:
        from vesin import NeighborList
    except ImportError as error:
        raise NotAvailableError("the embedded potentials need vesin for their neighbour lists: pip install 'pwact-like[torch]'") from error
    positions = np.ascontiguousarray(atoms.get_positions(), dtype=np.float64)
    cell = np.ascontiguousarray(atoms.cell.array, dtype=np.float64)
    pbc = np.asarray(atoms.pbc, dtype=bool)
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise DataError("a position or the cell is not finite: the atoms have flown apart, or the file is broken")
    box = _box(cell, pbc)
    if len(positions) == 0:
        empty = np.zeros(0, dtype=np.int64)
        return Pairs(empty, empty, np.zeros((0, 3), dtype=np.int64))
    if not pbc.any() and np.ptp(positions, axis=0).max() > _WIDEST_ANG:
        raise DataError(f"without periodic boundaries the atoms are spread over more than {_WIDEST_ANG:g} Å: they have flown apart")
    search = NeighborList(cutoff=float(cutoff_ang), full_list=False, n_threads=1)
    i, j, shift = search.compute(points=positions, box=box, periodic=pbc, quantities="ijS")
    return Pairs(i.astype(np.int64), j.astype(np.int64), shift.astype(np.int64).reshape(-1, 3))


def _box(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell, with made-up vectors in free directions where it has none (vesin wants a box that can be inverted)."""
    if not pbc.any():
        return np.eye(3)
    lengths = np.linalg.norm(cell, axis=1)
    if (lengths[pbc] < 1e-8).any():
        raise DataError("a direction is periodic and has no cell vector: set pbc to false there, or give the cell")
    if (lengths > 1e-8).all() and abs(np.linalg.det(cell)) > 1e-8:
        return cell
    box = cell.copy()
    for axis in np.flatnonzero(~pbc):
        # orthogonal to the two others, so that the periodic ones keep their meaning
        others = [box[k] for k in range(3) if k != axis]
        normal = np.cross(*others)
        if np.linalg.norm(normal) < 1e-8:
            known = next((vector for vector in others if np.linalg.norm(vector) > 1e-8), np.array([1.0, 0.0, 0.0]))
            normal = np.cross(known, np.eye(3)[np.argmin(np.abs(known))])
        box[axis] = normal / np.linalg.norm(normal)
    if abs(np.linalg.det(box)) < 1e-8:
        raise DataError("the cell vectors lie in one plane: the cell has no volume")
    return box


@dataclass(frozen=True, eq=False)
class _Reference:
    numbers: NDArray[np.int64]
    pbc: NDArray[np.bool_]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]


def still_complete(atoms: Atoms, reference: _Reference, cutoff_ang: float, skin_ang: float) -> bool:
    """Whether pairs found at ``reference`` within cutoff + skin still hold every pair within the cutoff.

    With the deformation F of the cell and the positions mapped back by it, no missing pair was closer than
    cutoff + skin − 2d there (d: largest displacement), so none is closer than σ_min(F)·(cutoff + skin − 2d) now.
    """
    if not (
        len(atoms) == len(reference.numbers)
        and np.array_equal(atoms.numbers, reference.numbers)
        and np.array_equal(atoms.pbc, reference.pbc)
    ):
        return False
    positions, cell = atoms.positions, atoms.cell.array
    smallest = 1.0
    if not np.array_equal(cell, reference.cell):
        try:
            deformation = np.linalg.solve(reference.cell, cell)  # rows are lattice vectors: cell = reference·F
            positions = np.linalg.solve(deformation.T, positions.T).T
        except np.linalg.LinAlgError:
            return False
        smallest = float(np.linalg.svd(deformation, compute_uv=False)[-1])
    moved = positions - reference.positions
    farthest = float(np.sqrt(np.max(np.einsum("ij,ij->i", moved, moved), initial=0.0)))
    # written so that NaN says no
    return smallest * (cutoff_ang + skin_ang - 2.0 * farthest) >= cutoff_ang


def reference_of(atoms: Atoms) -> _Reference:
    """What `still_complete` compares with."""
    return _Reference(atoms.numbers.copy(), atoms.pbc.copy(), atoms.positions.copy(), atoms.cell.array.copy())
