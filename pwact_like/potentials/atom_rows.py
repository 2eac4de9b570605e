"""The embedding networks' share of all forces' derivatives, by what the force components have in common.

A force component is F_v = Σ_i <A_i, Ξ̇_i(v)> with Ξ̇ for the displacement v, and its derivative by an embedding weight

    ∂F_v/∂ψ = Σ_i <Ȧ_i(v), ∂Ξ_i/∂ψ>  +  Σ_pairs of the atom ± (T of the pair)

The first factor of the first sum is different for each component, ∂Ξ_i/∂ψ is not: it is made once a frame, and the sum
over centres becomes one product of matrices. T, the derivative of <A, Ξ̇> through Ξ̇ at fixed A, belongs to a pair and a
direction x, y, z; each force component then sums a few dozen of them. A backward pass for each component would visit all
pairs each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pwact_like.potentials.geometry import Layout
from pwact_like.potentials.linear_embedding import BlockState, EmbeddingLayer, product, residual_back


@dataclass(frozen=True, eq=False)
class _PairRows:
    """Cotangents of one layer for every pair (last row: none) and direction, see `BlockState.cotangents`."""

    layer: EmbeddingLayer
    by_value: Tensor
    by_slope: Tensor


def _with_one(x: Tensor) -> Tensor:
    """Inputs with a 1 for the bias."""
    return torch.nn.functional.pad(x, (0, 1), value=1.0)


class AtomRows:
    """One block's tables.

    Parameters
    ----------
    state
        The block.
    by_matrix
        A (n_i, 4, M).
    jacobian
        (n_pairs, 4, 3) of the geometry.
    """

    def __init__(self, state: BlockState, by_matrix: Tensor, layout: Layout, jacobian: Tensor) -> None:
        self.state, self._n_atoms = state, layout.n_atoms
        self._pairs, self._signs = _pairs_of_atoms(layout, state)
        env_dot, sigma_dot = state.pair_tangents(jacobian)
        by_env = torch.bmm(env_dot.transpose(2, 3).reshape(len(by_matrix), -1, 4), by_matrix)
        alpha = state.to_rows(by_env.view(*env_dot.shape[:2], 3, -1))
        # dΞ_i when a slot's atom moves along x, y, z (the environments' change, and G's through σ), negated as forces are
        moved = env_dot.unsqueeze(4) * state.value[:, :, None, None]
        moved += (state.env.unsqueeze(3) * state.to_slots(sigma_dot).unsqueeze(2)).unsqueeze(4) * state.slope[:, :, None, None]
        self._neighbors, signs = _neighbors_of_slots(layout, state)
        self._moved = moved.mul_(-signs[..., None, None, None])
        self._first = sum(layout.type_counts[: state.layout.center])
        self._rows = [_PairRows(*parts) for parts in state.cotangents(alpha, sigma_dot)]  # type: ignore[arg-type]
        self._tables = [self._last_table(), *self._tables_below()]

    def _last_table(self) -> Tensor:
        """∂Ξ/∂(weight, bias) of the last layer, (M, 4·n_i, n_in + 1): its neuron q moves column q alone."""
        layer = self.state.layers[-1]
        moved = layer.d.unsqueeze(2) * _with_one(layer.x).unsqueeze(1)  # (n_rows, M, n_in + 1)
        slots = self.state.to_slots(moved.flatten(1))
        table = torch.bmm(self.state.env.transpose(1, 2), slots).view(len(slots), 4, *moved.shape[1:])
        return table.permute(2, 1, 0, 3).reshape(moved.shape[1], -1, moved.shape[2])

    def _tables_below(self) -> list[Tensor]:
        """∂Ξ/∂(weight, bias) of the layers below, last first: (4·n_i·M, n_out·(n_in + 1))."""
        state = self.state
        tables = []
        n_rows, width = state.row_value.shape
        below = torch.eye(width, dtype=state.env.dtype, device=state.env.device).expand(n_rows, -1, -1)  # ∂G/∂(layer's output)
        for upper, layer in zip(reversed(state.layers[1:]), reversed(state.layers[:-1]), strict=True):
            below = product(below * upper.d.unsqueeze(1), upper.weight.t()) + residual_back(below, upper.copies)
            by_z = below * layer.d.unsqueeze(1)  # (n_rows, M, n_out)
            slots = state.to_slots(by_z.flatten(1)).transpose(1, 2)
            inputs = state.to_slots(_with_one(layer.x))
            table = slots.new_empty((4, state.layout.n_centers, by_z[0].numel(), inputs.shape[2]))
            for axis in range(4):
                torch.bmm(slots, state.env[..., axis : axis + 1] * inputs, out=table[axis])
            tables.append(table.view(-1, layer.place.n_out * inputs.shape[2]))
        return tables

    def add_matrix_tangents(self, atoms: Tensor, into: Tensor) -> None:
        """Add Ξ̇ of the block for the force components of sorted atoms (n_sel,), to (n_i, n_sel, 4, 3, M)."""
        n_i, n_columns = self._neighbors.shape
        place = torch.full((self._n_atoms + 1,), -1, device=atoms.device)
        place[atoms] = torch.arange(len(atoms), device=atoms.device)
        column = place[self._neighbors.view(-1)]
        slots = torch.nonzero(column >= 0).squeeze(1)
        target = torch.div(slots, n_columns, rounding_mode="floor") * len(atoms) + column[slots]
        into.view(-1, *into.shape[2:]).index_add_(0, target, self._moved.view(-1, *into.shape[2:]).index_select(0, slots))
        # a centre that moves is all its neighbours moving the other way
        own = place[self._first : self._first + n_i]
        centers = torch.nonzero(own >= 0).squeeze(1)
        into[centers, own[centers]] -= self._moved[centers].sum(dim=1)

    def write(self, matrix_dot: Tensor, atoms: Tensor, out: Tensor) -> None:
        """Put this block's share into rows of the Jacobian.

        Parameters
        ----------
        matrix_dot
            Ȧ (n_i, 4, n_sel·3, M) of the components.
        atoms
            (n_sel,) sorted atoms.
        out
            (n_sel·3, n).
        """
        pairs, signs = self._pairs.index_select(0, atoms), self._signs.index_select(0, atoms).unsqueeze(2)
        by_atom = out.view(len(atoms), 3, -1)
        by_component = matrix_dot.permute(2, 1, 0, 3).reshape(len(out), -1)
        for number, (rows, table) in enumerate(zip(self._rows, self._tables, strict=True)):
            place = rows.layer.place
            if number == 0:
                by_neuron = by_component.view(len(out), -1, len(table)).permute(2, 0, 1)
                moved = torch.bmm(by_neuron, table).transpose(0, 1)
            else:
                moved = torch.mm(by_component, table)
            moved = moved.reshape(len(atoms), 3, place.n_out, place.n_in + 1)
            value = _gathered(rows.by_value, pairs) * signs
            slope = _gathered(rows.by_slope, pairs) * signs
            inputs, slopes = (_gathered(part, pairs).transpose(1, 2) for part in (rows.layer.x, rows.layer.xs))
            weight = torch.bmm(inputs, value).baddbmm_(slopes, slope).view(len(atoms), place.n_in, 3, place.n_out)
            by_weight = place.weight(by_atom)
            torch.add(weight.transpose(1, 2), moved[..., :-1].transpose(2, 3), out=by_weight)
            bias = value.sum(dim=1).view(len(atoms), 3, place.n_out)
            torch.add(bias, moved[..., -1], out=place.bias(by_atom))


def _gathered(rows: Tensor, pairs: Tensor) -> Tensor:
    """Rows (n_rows, …) of each atom's pairs, (n_sel, n_most, all the rest)."""
    flat = rows.flatten(1)
    return flat.index_select(0, pairs.reshape(-1)).view(*pairs.shape, flat.shape[1])


def _pairs_of_atoms(layout: Layout, state: BlockState) -> tuple[Tensor, Tensor]:
    """The block's pairs of each sorted atom, (n_atoms, n_most), and +1 where it is the pair's i, −1 where its j, 0 where there is none.

    A displacement of i shortens r = x_j − x_i and raises F = −∂E/∂x: hence these signs.
    """
    first, n_pairs = state.layout.first, state.layout.n_pairs
    atoms = layout.ends[:, first : first + n_pairs].reshape(-1)
    by_atom = torch.argsort(atoms, stable=True)
    counts = torch.bincount(atoms, minlength=layout.n_atoms)
    column = torch.arange(len(atoms), device=atoms.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    shape = layout.n_atoms, int(counts.max()) if n_pairs else 0
    pairs = torch.full(shape, n_pairs, device=atoms.device)
    signs = torch.zeros(shape, dtype=state.env.dtype, device=atoms.device)
    pairs[atoms[by_atom], column] = by_atom % max(n_pairs, 1)
    signs[atoms[by_atom], column] = torch.where(by_atom < n_pairs, 1.0, -1.0).to(signs.dtype)
    return pairs, signs


def _neighbors_of_slots(layout: Layout, state: BlockState) -> tuple[Tensor, Tensor]:
    """Sorted atom in each slot (n_i, C), n_atoms where there is none; and +1 where its pair points to it, −1 where away from it."""
    i, j = layout.ends[:, state.layout.first : state.layout.first + state.layout.n_pairs]
    beyond = i.new_full((1,), layout.n_atoms)
    signs = state.signs
    rows = state.slot_row.view(signs.shape)
    return torch.where(signs > 0, torch.cat([j, beyond])[rows], torch.cat([i, beyond])[rows]), signs
