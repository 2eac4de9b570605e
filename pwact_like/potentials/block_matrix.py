"""Symmetric matrices in dense diagonal blocks, for what is read whole: quadratic forms, factors, samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pwact_like.errors import DataError
from pwact_like.potentials.covariance import TILE, BlockLayout, Covariance

_JITTERS = (0.0, 1e-14, 1e-12, 1e-10, 1e-8)  # of the mean diagonal element


class BlockMatrix:
    """A symmetric matrix, block by block.

    Attributes
    ----------
    layout
        Which weights share a block.
    blocks
        (n_i, n_i) each; of what lies off the diagonal's tiles only the lower half is kept and read.
    """

    def __init__(self, layout: BlockLayout, blocks: Sequence[Tensor]) -> None:
        self.layout, self.blocks = layout, list(blocks)

    @classmethod
    def zeros(cls, layout: BlockLayout, like: Tensor) -> BlockMatrix:
        """All zeros."""
        return cls(layout, [like.new_zeros((size, size)) for size in layout.sizes])

    @classmethod
    def of(cls, covariance: Covariance) -> BlockMatrix:
        """A copy of a filter's P, in double precision."""
        return cls(covariance.layout, [block.to(torch.float64) for block in covariance.dense()])

    @property
    def mean_diagonal(self) -> float:
        """Trace over n, which is the mean eigenvalue."""
        return sum(float(block.diagonal().sum()) for block in self.blocks) / self.layout.n_weights

    def add_squares(self, rows: Tensor) -> None:
        """Add Σ h hᵀ over the rows h (m, n), within the blocks; half of the products are spared by symmetry."""
        for part, block in zip(self.layout.slices(), self.blocks, strict=True):
            h = rows[:, part]
            for first, last in _tiles(len(block)):
                block[first:last, :last].addmm_(h[:, first:last].t(), h[:, :last])

    def add_diagonal(self, value: float) -> None:
        """Add a multiple of the unit matrix."""
        for block in self.blocks:
            block.diagonal().add_(value)

    def product(self, x: Tensor) -> Tensor:
        """The matrix times the columns of x, (n, m)."""
        y = torch.empty_like(x)
        for part, block in zip(self.layout.slices(), self.blocks, strict=True):
            mine, into = x[part], y[part]
            for first, last in _tiles(len(block)):
                torch.mm(block[first:last, :last], mine[:last], out=into[first:last])
                into[:first].addmm_(block[first:last, :first].t(), mine[first:last])
        return y

    def quadratic(self, rows: Tensor) -> Tensor:
        """Quadratic form h·(this)·h of each row, (m, n) → (m,): what lies off the diagonal's tiles is met once and counted twice."""
        total = rows.new_zeros(len(rows))
        for part, block in zip(self.layout.slices(), self.blocks, strict=True):
            h = rows[:, part]
            for first, last in _tiles(len(block)):
                row = h[:, first:last]
                product = row @ block[first:last, first:last]
                if first:
                    product.addmm_(h[:, :first], block[first:last, :first].t(), alpha=2.0)
                total += (product * row).sum(dim=1)
        return total

    def factorize(self, what: str) -> Factors:
        """Cholesky factors; the blocks are used up.

        Raises
        ------
        DataError
            Naming ``what``, when a block is not positive definite or not finite.
        """
        factors, scale = [], self.mean_diagonal
        for number, part in enumerate(self.layout.slices()):
            block = self.blocks[number]
            for jitter in _JITTERS:
                moved = block if jitter == 0.0 else block + torch.eye(len(block), dtype=block.dtype, device=block.device) * (jitter * scale)
                factor, failed = torch.linalg.cholesky_ex(moved)
                if not failed and bool(torch.isfinite(factor.diagonal()).all()):
                    break
            else:
                raise DataError(
                    f"{what}: the block of the weights {part.start} to {part.stop - 1} is not positive definite "
                    f"(mean diagonal element {scale:.3g}); a larger prior (tau) or finite gradients are needed"
                )
            factors.append(factor)
            self.blocks[number] = block.new_zeros((0, 0))  # two copies of a gigabyte would not help
        return Factors(self.layout, factors)


class Factors:
    """Lower Cholesky factors C of the blocks of a matrix C Cᵀ."""

    def __init__(self, layout: BlockLayout, factors: Sequence[Tensor]) -> None:
        self.layout, self.factors = layout, list(factors)

    def solve(self, x: Tensor) -> Tensor:
        """(C Cᵀ)⁻¹ x for the columns of x, (n, m)."""
        parts = zip(self.layout.slices(), self.factors, strict=True)
        return torch.cat([torch.cholesky_solve(x[part], factor) for part, factor in parts])

    def inverse_quadratic(self, rows: Tensor) -> Tensor:
        """Quadratic form hᵀ(C Cᵀ)⁻¹h = |C⁻¹h|² of each row, (m, n) → (m,)."""
        total = rows.new_zeros(len(rows))
        for part, factor in zip(self.layout.slices(), self.factors, strict=True):
            total += torch.linalg.solve_triangular(factor, rows[:, part].t(), upper=False).square().sum(dim=0)
        return total

    def times(self, x: Tensor) -> Tensor:
        """C x for the columns of x: with x ~ N(0, 1), a sample of covariance C Cᵀ."""
        return torch.cat([factor @ x[part] for part, factor in zip(self.layout.slices(), self.factors, strict=True)])

    def solve_transposed(self, x: Tensor) -> Tensor:
        """C⁻ᵀ x for the columns of x: with x ~ N(0, 1), a sample of covariance (C Cᵀ)⁻¹."""
        parts = zip(self.layout.slices(), self.factors, strict=True)
        return torch.cat([torch.linalg.solve_triangular(factor.t(), x[part], upper=True) for part, factor in parts])


def _tiles(n: int) -> list[tuple[int, int]]:
    return [(first, min(first + TILE, n)) for first in range(0, n, TILE)]


def normal_columns(layout: BlockLayout, count: int, seed: int, like: Tensor) -> Tensor:
    """Standard normal numbers (n, count): a seed's first columns do not depend on the count."""
    generator = torch.Generator().manual_seed(seed)
    # one by one: torch draws the last sixteen numbers of an array in another way
    columns = [torch.randn(layout.n_weights, dtype=torch.float64, generator=generator) for _ in range(count)]
    return torch.stack(columns, dim=1).to(like)


def sample_covariance(covariance: Covariance | BlockMatrix, count: int, seed: int) -> Tensor:
    """Draws of N(0, P), (count, n), in the coordinates of P.

    Raises
    ------
    DataError
        When P is not positive definite.
    """
    matrix = BlockMatrix.of(covariance) if isinstance(covariance, Covariance) else BlockMatrix(covariance.layout, covariance.blocks)
    factors = matrix.factorize("the covariance of the weights")
    return factors.times(normal_columns(factors.layout, count, seed, factors.factors[0])).t()
