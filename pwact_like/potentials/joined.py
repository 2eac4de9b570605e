"""Several structures in one pass of a committee: small cells cost less together than one after the other.

A step of a small cell is mostly the fixed cost of torch's operations. The structures' pair lists are joined with shifted indices, as a
training joins the frames of a batch; cells, species and numbers of atoms may differ. Sums and products then run over other lengths than
for one structure alone, so a result agrees with `Committee.compute` to rounding and not to the last bit; the same structures in the
same company, with lists of the same age, give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pwact_like.potentials.committee import NEAR_ANG, SKIN_ANG, Committee, CommitteePrediction, types_of
from pwact_like.potentials.deep_potential import evaluate
from pwact_like.potentials.geometry import Geometry, Layout, build_geometry, build_layout, moved
from pwact_like.potentials.neighbors import Pairs, find_pairs, reference_of, still_complete

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]


class _Table:
    """The joined pairs of all structures in the order of one group's layout."""

    def __init__(self, layout: Layout, pairs: Pairs, device: torch.device) -> None:
        order, swapped = layout.pair_order.numpy(), layout.pair_sign.numpy() < 0
        i, j, shift = pairs.i[order], pairs.j[order], pairs.shift[order].astype(np.float64)
        self.i, self.j = np.where(swapped, j, i), np.where(swapped, i, j)
        self._shift = np.where(swapped[:, None], -shift, shift)
        self._frame = layout.pair_frame.numpy()
        self._cells: Array | None = None
        self._offsets: Array = np.zeros(0)
        self.layout = moved(layout, device)

    def vectors(self, positions: Array, cells: Array) -> Array:
        """x_j − x_i + shift·cell of every pair; cells that rest (all but npt's) are asked for once."""
        if self._cells is None or not np.array_equal(cells, self._cells):
            self._cells = cells.copy()
            self._offsets = np.einsum("pi,pij->pj", self._shift, cells[self._frame])
        found: Array = positions[self.j] - positions[self.i] + self._offsets
        return found


class JoinedCommittee:
    """A committee evaluated on several structures at once, each under a number that stays its own from call to call.

    Neighbour lists are kept as in `Committee`, and made anew for all as soon as one of them is no longer complete or the company changes.
    """

    def __init__(self, committee: Committee) -> None:
        self._committee = committee
        self._numbers: tuple[int, ...] = ()
        self._references: dict[int, Any] = {}
        self._skins: dict[int, float] = {}
        self._tables: list[_Table] = []

    def compute(self, structures: Mapping[int, Atoms]) -> dict[int, CommitteePrediction]:
        """What all members say of every structure, under its number.

        Raises
        ------
        DataError
            For an element that the models do not know, or a structure that has no neighbour list (see `find_pairs`).
        """
        if not structures:
            return {}
        self._update_neighbors(structures)
        counts = np.array([len(atoms) for atoms in structures.values()])
        n_models, n_atoms = self._committee.n_models, int(counts.sum())
        positions = np.concatenate([atoms.positions for atoms in structures.values()])
        cells = np.stack([atoms.cell.array for atoms in structures.values()])
        energies = np.empty((n_models, len(counts)))
        forces = np.empty((n_models, n_atoms, 3))
        virials = np.empty((n_models, len(counts), 3, 3))
        atomic = np.empty((n_models, n_atoms))
        with torch.no_grad():
            for group, table in zip(self._committee.groups, self._tables, strict=True):
                geometry = self._geometry(group, table, positions, cells)
                result = evaluate(group.spec, group.weights, geometry, forces=True, virials=True)
                assert result.forces is not None and result.virials is not None
                energies[group.members] = result.energies.cpu().numpy()
                forces[group.members] = result.forces.cpu().numpy()
                virials[group.members] = result.virials.cpu().numpy()
                atomic[group.members] = result.atomic_energies.cpu().numpy()
        ends = np.cumsum(counts)
        found = {}
        for place, (number, end, count) in enumerate(zip(structures, ends, counts, strict=True)):
            own = slice(end - count, end)
            found[number] = CommitteePrediction(energies[:, place], forces[:, own], virials[:, place], atomic[:, own])
        return found

    def _geometry(self, group: Any, table: _Table, positions: Array, cells: Array) -> Geometry:
        vectors = torch.from_numpy(table.vectors(positions, cells)).to(self._committee.device)
        return build_geometry(table.layout, vectors, group.spec, group.davg, group.dstd)

    def forget(self) -> None:
        """Drop the neighbour lists: the next results then depend on their structures alone."""
        self._numbers = ()
        self._references.clear()

    def _update_neighbors(self, structures: Mapping[int, Atoms]) -> None:
        cutoff = self._committee.cutoff_ang
        known = self._references
        numbers = tuple(structures)
        if numbers == self._numbers and all(
            still_complete(atoms, known[number], cutoff, self._skins[number]) for number, atoms in structures.items()
        ):
            return
        self._numbers = ()
        lists, frame, first = [], [], 0
        for place, (number, atoms) in enumerate(structures.items()):
            near = number in known and still_complete(atoms, known[number], cutoff, 2.0 * NEAR_ANG)
            self._skins[number] = SKIN_ANG if near else 0.0
            known.pop(number, None)
            pairs = find_pairs(atoms, cutoff + self._skins[number])
            lists.append(Pairs(pairs.i + first, pairs.j + first, pairs.shift))
            frame.append(np.full(len(atoms), place))
            first += len(atoms)
        joined = Pairs(*(np.concatenate([getattr(pairs, name) for pairs in lists]) for name in ("i", "j", "shift")))
        elements = np.concatenate([atoms.numbers for atoms in structures.values()])
        self._tables = []
        for group in self._committee.groups:
            types = types_of(elements, group.spec)
            layout = build_layout(types, joined.i, joined.j, group.spec.n_types, np.concatenate(frame), len(lists))
            self._tables.append(_Table(layout, joined, self._committee.device))
        for number, atoms in structures.items():
            known[number] = reference_of(atoms)
        self._numbers = numbers
