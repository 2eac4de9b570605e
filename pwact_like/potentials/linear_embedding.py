"""A Deep Potential to first order in its weights and a geometry, first part: where weights sit, blocks and embedding networks.

Notation, for the centres i of one type (n_i of them): Ξ (n_i, 4, M) the environment matrix, D its descriptor, E the
atomic energy, A = ∂E/∂Ξ. A dot is a derivative along some direction: of the pairs' vectors or of the weights. All of V
directions are carried at once in a dimension after the centre's (or row's), so that products with weights are one
product of matrices: (n_i, V, ·), (n_rows, V, ·), and Ξ̇, Ȧ as (n_i, 4, V, M).

The environments are divided by Σ sel here, so that Ξ = Σ_slots R̃ᵀ G without further factors; the empty slots that a
block's table does not hold are one more column of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.geometry import Block
from pwact_like.potentials.network import residual_copies


@dataclass(frozen=True)
class Place:
    """Where a layer sits in the flat vector of weights: weight, bias, idt one after the other."""

    first: int
    n_in: int
    n_out: int
    has_idt: bool

    def weight(self, flat: Tensor) -> Tensor:
        """View (…, n_in, n_out) of (…, n)."""
        return flat.narrow(-1, self.first, self.n_in * self.n_out).view(*flat.shape[:-1], self.n_in, self.n_out)

    def bias(self, flat: Tensor) -> Tensor:
        """View (…, n_out)."""
        return flat.narrow(-1, self.first + self.n_in * self.n_out, self.n_out)

    def idt(self, flat: Tensor) -> Tensor:
        """View (…, n_out)."""
        return flat.narrow(-1, self.first + (self.n_in + 1) * self.n_out, self.n_out)


@dataclass(frozen=True, eq=False)
class Places:
    """`Place` of every layer, by network as in `Weights`; ``n`` weights in all, ``flat`` (n,) their values."""

    embedding: tuple[tuple[tuple[Place, ...], ...], ...]
    fitting: tuple[tuple[Place, ...], ...]
    output: tuple[Place, ...]
    flat: Tensor

    @property
    def n(self) -> int:
        """Number of weights."""
        return len(self.flat)


def places_of(model: DeepPotential) -> Places:
    """Flat vector and layout in the order of ``named_parameters`` (that of `FlatParameters`)."""
    first, values = 0, []
    found: dict[str, tuple[int, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        found[name] = first, parameter.shape
        first += parameter.numel()
        values.append(parameter.detach().reshape(-1))

    def place(name: str) -> Place:
        begin, (n_in, n_out) = found[f"{name}.weight"]
        return Place(begin, n_in, n_out, f"{name}.idt" in found)

    types, spec = range(model.spec.n_types), model.spec
    embedding = tuple(tuple(tuple(place(f"embedding.{a}.{b}.{n}") for n in range(len(spec.embedding))) for b in types) for a in types)
    fitting = tuple(tuple(place(f"fitting.{a}.{n}") for n in range(len(spec.fitting))) for a in types)
    output = tuple(place(f"output.{a}") for a in types)
    return Places(embedding, fitting, output, torch.cat(values))


def tanh(z: Tensor) -> Tensor:
    """As `network` has it: twice as fast as torch.tanh in float64, and the same numbers as the model's."""
    return torch.sigmoid(2.0 * z) * 2.0 - 1.0


def residual(x: Tensor, copies: int) -> Tensor | float:
    """What a layer adds of its input."""
    return 0.0 if not copies else x if copies == 1 else torch.cat([x, x], dim=-1)


def residual_back(gradient: Tensor, copies: int) -> Tensor | float:
    """What of a layer's output gradient goes to its input past the weights."""
    if copies == 2:
        half = gradient.shape[-1] // 2
        return gradient[..., :half] + gradient[..., half:]
    return gradient if copies else 0.0


def product(x: Tensor, weight: Tensor) -> Tensor:
    """(…, a) @ (a, b) as one product of matrices."""
    return torch.mm(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[-1])


def directed(x: Tensor, delta: Tensor) -> Tensor:
    """Products x (rows, a) @ δW (S, a, b) of every direction: (rows, S, b)."""
    joined = delta.transpose(0, 1).reshape(delta.shape[1], -1)
    return torch.mm(x, joined).view(len(x), delta.shape[0], delta.shape[2])


@dataclass(frozen=True, eq=False)
class EmbeddingLayer:
    """State of one layer: inputs ``x``, ``xs`` (value and dx/dσ, (n_rows, n_in)), ``t`` = tanh, ``d`` = 1 − t², ``dz`` = dz/dσ."""

    place: Place
    weight: Tensor
    x: Tensor
    xs: Tensor
    t: Tensor
    d: Tensor
    dz: Tensor

    @property
    def copies(self) -> int:
        """Copies of the input in the output."""
        return residual_copies(self.place.n_in, self.place.n_out)


class BlockState:
    """One block (a, b) with its embedding network.

    Attributes
    ----------
    env
        (n_i, C, 4) environments over Σ sel; column C − 1 stands for all slots that the table does not hold.
    value, slope
        (n_i, C, M): G and dG/dσ in the slots.
    slot_row, signs
        (n_i·C,) row of each slot; (n_i, C): −1 where a slot sees its pair from j.
    row_value, row_slope
        The same for rows, (n_rows, M); the last row is the empty slot's.
    """

    def __init__(self, places: Places, block: Block, n_slots: int) -> None:
        layout = block.layout
        self.block, self.layout = block, layout
        n_i, columns = layout.n_centers, layout.n_columns
        missing = block.env.new_zeros((n_i, 1, 4))
        missing[:, :, 0] = block.n_missing * block.empty
        self.env = torch.cat([block.env, missing], dim=1) / n_slots
        self.slot_row = torch.nn.functional.pad(layout.slot_row.view(n_i, columns), (0, 1), value=layout.n_pairs).view(-1)
        width = max(columns, 1)
        self._row_slots = layout.row_slots + layout.row_slots // width
        beyond = torch.arange(n_i, device=self.slot_row.device) * (columns + 1) + columns
        self._empty_slots = torch.cat([layout.empty_slots + layout.empty_slots // width, beyond])
        # a block with both ends of one type sees its pairs from i and from j; the others from one end only
        if layout.center == layout.neighbor:
            reversed_ = (layout.slot_env >= layout.n_pairs).view(n_i, columns, 1)
        else:
            reversed_ = torch.full((n_i, columns, 1), layout.center > layout.neighbor, device=self.slot_row.device)
        self.signs = torch.where(torch.nn.functional.pad(reversed_, (0, 0, 0, 1)), -1.0, 1.0).to(self.env.dtype).squeeze(2)
        turned = self.signs.unsqueeze(2).expand(-1, -1, 3)
        self._scale = torch.cat([torch.ones_like(turned[..., :1]), turned], dim=-1) * block.scale / n_slots

        self.layers: list[EmbeddingLayer] = []
        x, xs = block.sigma, torch.ones_like(block.sigma)
        for place in places.embedding[layout.center][layout.neighbor]:
            weight = place.weight(places.flat)
            t = tanh(torch.addmm(place.bias(places.flat), x, weight))
            dz, d = torch.mm(xs, weight), 1.0 - t * t
            layer = EmbeddingLayer(place, weight, x, xs, t, d, dz)
            self.layers.append(layer)
            x, xs = t + residual(x, layer.copies), d * dz + residual(xs, layer.copies)
        self.row_value, self.row_slope = x, xs
        self.value, self.slope = self.to_slots(x), self.to_slots(xs)
        self._beta: list[tuple[Tensor, Tensor]] = []

    def to_slots(self, rows: Tensor) -> Tensor:
        """(n_rows, …) → (n_i, C, …)."""
        return rows.index_select(0, self.slot_row).view(*self.env.shape[:2], *rows.shape[1:])

    def to_rows(self, slots: Tensor) -> Tensor:
        """Sum over the slots of each row: (n_i, C, …) → (n_rows, …)."""
        flat = slots.reshape(-1, *slots.shape[2:])
        rows = flat.index_select(0, self._row_slots[0])
        if len(self._row_slots) == 2:
            rows += flat.index_select(0, self._row_slots[1])
        return torch.cat([rows, flat.index_select(0, self._empty_slots).sum(dim=0, keepdim=True)])

    def pair_tangents(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Environments' tangents (n_i, C, 4, V) and σ̇ (n_rows, V), from those of all pairs' (s, s·r/|r|), (n_pairs, 4, V)."""
        mine = raw[self.layout.first : self.layout.first + self.layout.n_pairs]
        mine = torch.cat([mine, mine.new_zeros((1, *mine.shape[1:]))])
        return self.to_slots(mine) * self._scale.unsqueeze(-1), mine[:, 0] * self.block.scale[0]

    def pair_cotangents(self, by_env: Tensor, by_sigma: Tensor, into: Tensor) -> None:
        """The transpose of `pair_tangents`: adds to ``into`` (n_pairs, 4, V) from (n_i, C, 4, V) and (n_rows, V)."""
        rows = self.to_rows(by_env * self._scale.unsqueeze(-1))
        rows[:, 0] += by_sigma * self.block.scale[0]
        into[self.layout.first : self.layout.first + self.layout.n_pairs] += rows[:-1]

    def set_gradient(self, by_matrix: Tensor) -> None:
        """Take A (n_i, 4, M): the cotangents of every row's G, and what of them any σ̇ meets."""
        self.row_gradient = self.to_rows(torch.bmm(self.env, by_matrix))  # Ḡ, (n_rows, M)

    def _beta_cotangents(self) -> list[tuple[Tensor, Tensor]]:
        """Cotangents (z̄, z̄') of each layer, last first, for <Ḡ, dG/dσ>; any direction's are σ̇ times these."""
        if not self._beta:
            alpha, beta = torch.zeros_like(self.row_gradient), self.row_gradient
            for layer in reversed(self.layers):
                # y = t(z) and y' = d·z' with d = 1 − t²:  z̄' = d ȳ',  z̄ = d (ȳ − 2 t z' ȳ')
                by_slope = beta * layer.d
                by_value = torch.addcmul(alpha, beta * layer.dz, layer.t, value=-2.0) * layer.d
                self._beta.append((by_value, by_slope))
                if layer.place.n_in > 1:
                    alpha = product(by_value, layer.weight.t()) + residual_back(alpha, layer.copies)
                    beta = product(by_slope, layer.weight.t()) + residual_back(beta, layer.copies)
        return self._beta

    def cotangents(self, alpha: Tensor, sigma_dot: Tensor | None) -> Iterator[tuple[EmbeddingLayer, Tensor, Tensor | None]]:
        """Cotangents z̄, z̄' (n_rows, V, n_out) of each layer, last first, of Σ <α, G> + σ̇ <Ḡ, dG/dσ>.

        ``alpha`` (n_rows, V, M), ``sigma_dot`` (n_rows, V) or None for no such term (z̄' is None then).
        """
        shared = self._beta_cotangents() if sigma_dot is not None else []
        for number, layer in enumerate(reversed(self.layers)):
            by_value = alpha * layer.d.unsqueeze(1)
            if sigma_dot is None:
                yield layer, by_value, None
            else:
                shared_value, shared_slope = (part.unsqueeze(1) for part in shared[number])
                spread = sigma_dot.unsqueeze(2)
                yield layer, torch.addcmul(by_value, spread, shared_value), spread * shared_slope
            if layer.place.n_in > 1:
                alpha = product(by_value, layer.weight.t()) + residual_back(alpha, layer.copies)

    def weight_tangents(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Tangents of G and dG/dσ of the rows, (n_rows, S, M), along directions (S, n) of the weights."""
        x: Tensor | None = None
        xs: Tensor | None = None
        for layer in self.layers:
            delta, copies = layer.place.weight(directions), layer.copies
            z, zs = directed(layer.x, delta) + layer.place.bias(directions), directed(layer.xs, delta)
            if x is not None and xs is not None:
                z, zs = z + product(x, layer.weight), zs + product(xs, layer.weight)
            t, d = layer.t.unsqueeze(1), layer.d.unsqueeze(1)
            value = z.mul_(d)
            slope = zs.mul_(d).addcmul_(value, t * layer.dz.unsqueeze(1), value=-2.0)
            if x is not None and xs is not None:
                value, slope = value + residual(x, copies), slope + residual(xs, copies)
            x, xs = value, slope
        assert x is not None and xs is not None
        return x, xs
