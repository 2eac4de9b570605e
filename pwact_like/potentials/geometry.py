"""Environments of atoms as tensors: what of a structure the networks see, and how its forces follow from them.

Everything here is independent of the weights, so a training computes it once a frame. Atoms are sorted by type, pairs
by the types of their ends; a *block* (a, b) holds the neighbours of type b around centres of type a, in slots: a
rectangular table with as many columns as the most crowded centre needs. The networks run on *rows* (pairs), since
s(r) is the same seen from both ends; slots fetch their rows. The last row of a block is an empty slot's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pwact_like.potentials.spec import DeepPotSpec

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """Index tables of one block (a, b).

    Attributes
    ----------
    center, neighbor
        Types a and b.
    first, n_pairs
        The block's pairs are ``first … first + n_pairs − 1``; blocks (a, b) and (b, a) share them.
    n_centers, n_columns
        Shape of the slot table.
    slot_row
        (n_centers·n_columns,): row of each slot; n_pairs for an empty one.
    slot_env
        The same for directed rows: i→j, then j→i (only where a = b), then the empty one.
    row_slots
        (1 or 2, n_pairs): the slots that hold each row: the first seen from i, the second from j, where a = b.
    empty_slots
        Slots that are empty.
    """

    center: int
    neighbor: int
    first: int
    n_pairs: int
    n_centers: int
    n_columns: int
    slot_row: Tensor
    slot_env: Tensor
    row_slots: Tensor
    empty_slots: Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Who neighbours whom, for one frame or several at once.

    Attributes
    ----------
    order, inverse
        (n_atoms,): original index of each sorted atom, and the other way round.
    type_counts
        Atoms of each type.
    frame, n_frames
        Frame of each sorted atom.
    pair_order, pair_sign
        (n_pairs,): place of each pair in the list given, and −1 where its ends were swapped.
    ends
        (2, n_pairs): sorted atoms i and j.
    pair_frame
        Frame of each pair.
    """

    order: Tensor
    inverse: Tensor
    type_counts: tuple[int, ...]
    frame: Tensor
    n_frames: int
    pair_order: Tensor
    pair_sign: Tensor
    ends: Tensor
    pair_frame: Tensor
    blocks: tuple[BlockLayout, ...]

    @property
    def n_atoms(self) -> int:
        """Atoms of all frames together."""
        return len(self.order)


@dataclass(frozen=True, eq=False)
class Block:
    """Numbers of one block: normalised environments.

    Attributes
    ----------
    sigma
        (n_pairs + 1, 1): (s − davg)/dstd of each row; the last is an empty slot's.
    env
        (n_centers, n_columns, 4): (s − davg, s·x/r, s·y/r, s·z/r)/dstd of each slot.
    n_missing
        Empty slots that the table does not hold: sel − n_columns (negative where a centre has more neighbours than sel).
    scale
        (4,): 1/dstd.
    """

    layout: BlockLayout
    sigma: Tensor
    env: Tensor
    n_missing: float
    empty: float
    scale: Tensor


@dataclass(frozen=True, eq=False)
class Geometry:
    """A structure (or several) as the model takes it.

    Attributes
    ----------
    vectors
        (n_pairs, 3): r = x_j − x_i in Å.
    jacobian
        (n_pairs, 4, 3): derivatives of (s, s·r/|r|) by r.
    """

    layout: Layout
    blocks: tuple[Block, ...]
    vectors: Tensor
    jacobian: Tensor

    def n_bytes(self) -> int:
        """Memory of its tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(self))

    def to(self, device: torch.device) -> Geometry:
        """A copy on a device."""
        return moved(self, device)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    if isinstance(value, Geometry | Layout | Block):
        return [tensor for field in fields(value) for tensor in _tensors(getattr(value, field.name))]
    if isinstance(value, BlockLayout):
        return [value.slot_row, value.slot_env, value.row_slots, value.empty_slots]
    return []


def moved(value: _T, device: torch.device) -> _T:
    """A dataclass of tensors on a device."""
    changes: dict[str, Any] = {}
    for field in fields(value):  # type: ignore[arg-type]
        item = getattr(value, field.name)
        if isinstance(item, Tensor):
            changes[field.name] = item.to(device)
        elif isinstance(item, Geometry | Layout | BlockLayout | Block):
            changes[field.name] = moved(item, device)
        elif isinstance(item, tuple) and item and not isinstance(item[0], int):
            changes[field.name] = tuple(moved(part, device) for part in item)
    return replace(value, **changes)  # type: ignore[type-var]


def build_layout(
    types: NDArray[np.int64],
    pair_i: NDArray[np.int64],
    pair_j: NDArray[np.int64],
    n_types: int,
    frame: NDArray[np.int64] | None = None,
    n_frames: int = 1,
) -> Layout:
    """Index tables from types and pairs (each once).

    Parameters
    ----------
    types
        (n_atoms,) place of each atom's element in the type map.
    pair_i, pair_j
        (n_pairs,) ends, in the atoms' own order.
    frame
        (n_atoms,) frame of each atom; None: one frame.
    """
    order = np.argsort(types, kind="stable")
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    counts = np.bincount(types, minlength=n_types)
    starts = np.concatenate([[0], np.cumsum(counts)])
    sorted_frame = np.zeros(len(order), dtype=np.int64) if frame is None else frame[order]

    swap = types[pair_i] > types[pair_j]
    low, high = np.where(swap, pair_j, pair_i), np.where(swap, pair_i, pair_j)
    group = types[low] * n_types + types[high]
    pair_order = np.argsort(group, kind="stable")
    group = group[pair_order]
    ends = inverse[np.stack([low[pair_order], high[pair_order]])]
    sign = np.where(swap[pair_order], -1.0, 1.0)

    blocks = []
    for a in range(n_types):
        for b in range(n_types):
            if counts[a] == 0:
                continue
            code = min(a, b) * n_types + max(a, b)
            first, last = np.searchsorted(group, [code, code + 1])
            here = ends[:, first:last]
            centers = here.reshape(-1) if a == b else here[0 if a < b else 1]
            blocks.append(_block_layout(a, b, int(first), int(last - first), centers - starts[a], int(counts[a])))
    return Layout(
        order=torch.from_numpy(order),
        inverse=torch.from_numpy(inverse),
        type_counts=tuple(int(count) for count in counts),
        frame=torch.from_numpy(sorted_frame),
        n_frames=n_frames,
        pair_order=torch.from_numpy(pair_order),
        pair_sign=torch.from_numpy(sign),
        ends=torch.from_numpy(ends),
        pair_frame=torch.from_numpy(sorted_frame[ends[0]]),
        blocks=tuple(blocks),
    )


def _block_layout(a: int, b: int, first: int, n_pairs: int, centers: NDArray[np.int64], n_centers: int) -> BlockLayout:
    n_directed = len(centers)
    per_center = np.bincount(centers, minlength=n_centers)
    n_columns = int(per_center.max(initial=0))
    by_center = np.argsort(centers, kind="stable")
    begins = np.cumsum(per_center) - per_center
    column = np.arange(n_directed) - np.repeat(begins, per_center)
    slots = np.empty(n_directed, dtype=np.int64)
    slots[by_center] = centers[by_center] * n_columns + column
    slot_env = np.full(n_centers * n_columns, n_directed, dtype=np.int64)
    slot_env[slots] = np.arange(n_directed)
    slot_row = np.where(slot_env == n_directed, n_pairs, slot_env % max(n_pairs, 1))
    return BlockLayout(
        center=a,
        neighbor=b,
        first=first,
        n_pairs=n_pairs,
        n_centers=n_centers,
        n_columns=n_columns,
        slot_row=torch.from_numpy(slot_row),
        slot_env=torch.from_numpy(slot_env),
        row_slots=torch.from_numpy(slots.reshape(-1, n_pairs) if n_pairs else slots.reshape(1, 0)),
        empty_slots=torch.from_numpy(np.flatnonzero(slot_env == n_directed)),
    )


def switched_inverse(distance: Tensor, rmin: float, rmax: float) -> tuple[Tensor, Tensor]:
    """s(r) = w(u)/r with u = (r − rmin)/(rmax − rmin) in [0, 1], w = 1 − 10u³ + 15u⁴ − 6u⁵; and ds/dr.

    The quintic switch of the smooth Deep Potential (Zhang et al., NeurIPS 2018, in DeePMD-kit's se_e2_a form).
    """
    u = ((distance - rmin) / (rmax - rmin)).clamp(0.0, 1.0)
    w = u * u * u * (u * (15.0 - 6.0 * u) - 10.0) + 1.0
    slope = (u * (1.0 - u)).square() * (-30.0 / (rmax - rmin))
    s = w / distance
    return s, (slope - s) / distance


def build_geometry(layout: Layout, vectors: Tensor, spec: DeepPotSpec, davg: Tensor, dstd: Tensor) -> Geometry:
    """Environments from the pairs' vectors.

    Parameters
    ----------
    vectors
        (n_pairs, 3) in the order of ``layout`` (see `pair_vectors`), Å.
    davg, dstd
        (n_types,) mean of s, and (n_types, 2) standard deviations of s and of s·x/r, by the centre's type.
    """
    distance = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    unit = vectors / distance
    s, slope = switched_inverse(distance, spec.rmin_ang, spec.rmax_ang)
    over_r = s / distance
    jacobian = torch.empty((len(vectors), 4, 3), dtype=vectors.dtype, device=vectors.device)
    jacobian[:, 0] = slope * unit
    # d(s·û)/dr = (ds/dr − s/r) û ûᵀ + s/r
    torch.mul(((slope - over_r) * unit).unsqueeze(2), unit.unsqueeze(1), out=jacobian[:, 1:])
    jacobian[:, 1:].diagonal(dim1=1, dim2=2).add_(over_r)
    raw = torch.cat([s, s * unit], dim=1)

    blocks = []
    davg_list, dstd_list = davg.tolist(), dstd.tolist()
    for block in layout.blocks:
        mean, (radial, angular) = davg_list[block.center], dstd_list[block.center]
        scale = torch.tensor([1.0 / radial] + [1.0 / angular] * 3, dtype=vectors.dtype, device=vectors.device)
        shift = torch.tensor([mean / radial, 0.0, 0.0, 0.0], dtype=vectors.dtype, device=vectors.device)
        empty = -shift.unsqueeze(0)
        seen_from_i = raw[block.first : block.first + block.n_pairs] * scale - shift
        sigma = torch.cat([seen_from_i[:, :1], empty[:, :1]])
        directed = seen_from_i * _reversal(seen_from_i) if block.center > block.neighbor else seen_from_i
        parts = [directed, empty]
        if block.center == block.neighbor:
            parts.insert(1, directed * _reversal(directed))
        env = torch.cat(parts).index_select(0, block.slot_env).view(block.n_centers, block.n_columns, 4)
        blocks.append(Block(block, sigma, env, float(spec.sel[block.neighbor] - block.n_columns), -mean / radial, scale))
    return Geometry(layout, tuple(blocks), vectors, jacobian)


def _reversal(like: Tensor) -> Tensor:
    """What seeing a pair from its other end does to (s, s·r/|r|)."""
    return torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=like.dtype, device=like.device)


def pair_vectors(layout: Layout, vectors: Tensor) -> Tensor:
    """Vectors given in the pair list's order, in the layout's order and direction."""
    return vectors.index_select(0, layout.pair_order) * layout.pair_sign.unsqueeze(1)
