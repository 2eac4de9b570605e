"""A symmetric positive matrix in diagonal blocks, made for a Kalman filter: read often, changed seldom.

The filter's time goes into moving its covariance through memory, so

- of every block the lower triangle alone is kept, in square tiles: a product reads each number once, and the matrix is
  symmetric by construction, not by repair;
- the filter's rank-1 updates are collected as columns, P = S(B − U Uᵀ)S with a diagonal S, and merged into B by one
  product of matrices every `MERGE_RANK` of them. That is the same P, to rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 512
MERGE_RANK = 48


@dataclass(frozen=True)
class BlockLayout:
    """Which weights share a block: block i holds the weights ``starts[i] … starts[i + 1] − 1``.

    Attributes
    ----------
    starts
        First weight of each block, and the number of weights.
    """

    starts: tuple[int, ...]

    @property
    def n_weights(self) -> int:
        """Weights of all blocks."""
        return self.starts[-1]

    @property
    def n_blocks(self) -> int:
        """L of the filter's gain."""
        return len(self.starts) - 1

    @property
    def n_numbers(self) -> int:
        """Numbers of the blocks' lower triangles."""
        return sum(size * (size + 1) // 2 for size in self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Weights of each block."""
        return tuple(last - first for first, last in zip(self.starts, self.starts[1:], strict=False))

    def slices(self) -> list[slice]:
        """Place of each block in the vector of weights."""
        return [slice(first, last) for first, last in zip(self.starts, self.starts[1:], strict=False)]

    def digest(self) -> str:
        """What tells two layouts apart."""
        return hashlib.sha256(json.dumps(self.starts).encode()).hexdigest()[:16]


def block_layout(sizes: Sequence[int], block_size: int) -> BlockLayout:
    """Gather parameters in their order while a block stays within ``block_size``; cut what is larger (RLEKF's rule).

    Parameters
    ----------
    sizes
        Numbers of each parameter tensor, in order.
    """
    starts, filled = [0], 0
    for size in sizes:
        if filled and filled + size > block_size:
            starts.append(starts[-1] + filled)
            filled = 0
        while filled + size > block_size:
            starts.append(starts[-1] + block_size)
            size -= block_size
        filled += size
    if filled:
        starts.append(starts[-1] + filled)
    return BlockLayout(tuple(starts))


class _Triangle:
    """Lower triangle of one block in tiles."""

    def __init__(self, diagonal: Tensor) -> None:
        n = len(diagonal)
        self.cuts = [(first, min(first + TILE, n)) for first in range(0, n, TILE)]
        self.tiles: list[list[Tensor]] = []
        for row, (first, last) in enumerate(self.cuts):
            tiles = [diagonal.new_zeros((last - first, end - begin)) for begin, end in self.cuts[:row]]
            self.tiles.append([*tiles, torch.diag(diagonal[first:last])])

    def product(self, x: Tensor, y: Tensor) -> None:
        """Y ← B x, both (n, m); columns that lie together in memory make it twice as fast."""
        for row, (first, last) in enumerate(self.cuts):
            torch.mm(self.tiles[row][row], x[first:last], out=y[first:last])
        for row, (first, last) in enumerate(self.cuts):
            for (begin, end), tile in zip(self.cuts[:row], self.tiles[row], strict=False):
                y[first:last].addmm_(tile, x[begin:end])
                y[begin:end].addmm_(tile.t(), x[first:last])

    def merge(self, u: Tensor, scale: Tensor) -> None:
        """B ← S(B − U Uᵀ)S."""
        # forgetting is the same for all weights while none is at the ceiling: then one pass over the tiles is enough
        uniform = float(scale[0]) if bool((scale == scale[0]).all()) else None
        u = u * scale[:, None]
        for row, (first, last) in enumerate(self.cuts):
            left = u[first:last]
            for (begin, end), tile in zip(self.cuts[: row + 1], self.tiles[row], strict=True):
                if uniform is None:
                    tile.mul_(scale[first:last, None]).mul_(scale[None, begin:end])
                tile.addmm_(left, u[begin:end].t(), beta=1.0 if uniform is None else uniform**2, alpha=-1.0)
            diagonal = self.tiles[row][row]
            diagonal.copy_((diagonal + diagonal.t()).mul_(0.5))  # the product is symmetric to rounding only

    def diagonal(self) -> Tensor:
        return torch.cat([tiles[-1].diagonal() for tiles in self.tiles])

    def dense(self) -> Tensor:
        n = self.cuts[-1][1]
        full = self.tiles[0][0].new_empty((n, n))
        for row, (first, last) in enumerate(self.cuts):
            for (begin, end), tile in zip(self.cuts[: row + 1], self.tiles[row], strict=True):
                full[first:last, begin:end] = tile
                full[begin:end, first:last] = tile.t()
        return full

    def packed(self) -> Tensor:
        return torch.cat([tile.reshape(-1) for tiles in self.tiles for tile in tiles])

    def unpack(self, packed: Tensor) -> None:
        first = 0
        for tiles in self.tiles:
            for tile in tiles:
                tile.copy_(packed[first : first + tile.numel()].view(tile.shape))
                first += tile.numel()


class Covariance:
    """P = S(B − U Uᵀ)S, block-diagonal.

    Parameters
    ----------
    layout
        The blocks.
    diagonal
        (n,) what P starts as; its dtype and device are those of P.
    """

    def __init__(self, layout: BlockLayout, diagonal: Tensor) -> None:
        self.layout = layout
        self._blocks = [_Triangle(diagonal[part]) for part in layout.slices()]
        self._slices = layout.slices()
        self._u = diagonal.new_zeros((MERGE_RANK, layout.n_weights)).t()  # columns lie together in memory
        self._rank = 0
        self._scale = torch.ones_like(diagonal)
        self._is_scaled = False
        self._base_diagonal = diagonal.clone()  # of B − U Uᵀ

    @property
    def dtype(self) -> torch.dtype:
        """Of P."""
        return self._scale.dtype

    def product(self, x: Tensor) -> Tensor:
        """P x for the columns of x, (n, m)."""
        return self.base_product(x * self._scale[:, None]) * self._scale[:, None]

    def scaled(self, x: Tensor) -> Tensor:
        """S x: what `base_product` and `push` work on."""
        return x * self._scale[:, None]

    def base_product(self, x: Tensor) -> Tensor:
        """(B − U Uᵀ) x for the columns of x, (n, m)."""
        y = x.new_empty(x.shape[::-1]).t()
        for part, block in zip(self._slices, self._blocks, strict=True):
            block.product(x[part], y[part])
            if self._rank:
                u = self._u[part, : self._rank]
                y[part].addmm_(u, u.t() @ x[part], alpha=-1.0)
        return y

    def by_block(self, left: Tensor, right: Tensor) -> Tensor:
        """leftᵀ right of each block, (n_blocks, left's columns, right's columns)."""
        return torch.stack([left[part].t() @ right[part] for part in self._slices])

    def push(self, columns: Tensor) -> None:
        """P ← S(B − U Uᵀ − V Vᵀ)S with the columns V, each cut into the blocks."""
        count = columns.shape[1]
        if self._rank + count > MERGE_RANK:
            raise ValueError("merge first")
        self._u[:, self._rank : self._rank + count] = columns
        self._rank += count
        self._base_diagonal.sub_(columns.square().sum(dim=1))

    def has_room(self, count: int) -> bool:
        """Whether so many columns can be pushed before `merge`."""
        return self._rank + count <= MERGE_RANK

    def rescale(self, factor: Tensor | float) -> None:
        """P ← F P F with the diagonal F, (n,) or one number."""
        self._scale.mul_(factor)
        self._is_scaled = True

    def diagonal(self) -> Tensor:
        """Variance of each weight, (n,)."""
        return self._scale.square() * self._base_diagonal

    def merge(self) -> None:
        """Bring all that was collected into B."""
        if not self._rank and not self._is_scaled:
            return
        for part, block in zip(self._slices, self._blocks, strict=True):
            block.merge(self._u[part, : self._rank], self._scale[part])
        self._rank = 0
        self._scale.fill_(1.0)
        self._is_scaled = False
        self._base_diagonal = torch.cat([block.diagonal() for block in self._blocks])

    def dense(self) -> list[Tensor]:
        """Each block in full (merges first)."""
        self.merge()
        return [block.dense() for block in self._blocks]

    def state(self) -> dict[str, Tensor]:
        """Everything, to the bit; see `restore`."""
        arrays = {f"block_{number}": block.packed() for number, block in enumerate(self._blocks)}
        return arrays | {"columns": self._u[:, : self._rank].clone(), "scale": self._scale, "base_diagonal": self._base_diagonal}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Take a `state` back."""
        for number, block in enumerate(self._blocks):
            block.unpack(arrays[f"block_{number}"].to(self._scale))
        self._rank = arrays["columns"].shape[1]
        self._u[:, : self._rank] = arrays["columns"].to(self._scale)
        self._scale.copy_(arrays["scale"])
        self._base_diagonal.copy_(arrays["base_diagonal"])
        self._is_scaled = bool((self._scale != 1.0).any())
