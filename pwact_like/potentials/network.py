"""The networks of a Deep Potential with their derivatives written out.

A training needs the gradient of forces by the weights. Instead of differentiating twice, every pass here returns
values and first derivatives together, in plain differentiable operations: the embedding carries dG/dσ along (its
input is one number), the fitting network is followed by its own backward pass. One ordinary backward pass through
them then gives the gradient of any loss of energies, forces and virials; `torch.func` sees nothing special either.

A leading dimension K counts models: a committee is one evaluation with stacked weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of K networks: ``weight`` (K, n_in, n_out), ``bias`` (K, 1, n_out), ``idt`` (K, 1, n_out) or None."""

    weight: Tensor
    bias: Tensor
    idt: Tensor | None = None

    @property
    def copies(self) -> int:
        """How often the input is added to the output: a residual where the widths are equal or 1 to 2."""
        return residual_copies(self.weight.shape[-2], self.weight.shape[-1])


@dataclass(frozen=True, eq=False)
class Weights:
    """All weights of K models of one shape.

    ``embedding[a][b]`` are the layers for centres of type a and neighbours of type b, ``fitting[a]`` the hidden layers
    and then the output layer for centres of type a; ``bias`` (K, n_types) are the elements' reference energies in eV.
    """

    embedding: tuple[tuple[tuple[Layer, ...], ...], ...]
    fitting: tuple[tuple[Layer, ...], ...]
    bias: Tensor


def residual_copies(n_in: int, n_out: int) -> int:
    """1 where the output is as wide as the input, 2 where it is twice as wide (DeePMD-kit repeats the input), else 0."""
    return {n_in: 1, 2 * n_in: 2}.get(n_out, 0)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """(K, n, a) @ (K, a, b); plain matrix products are about twice as fast as batched ones of this shape."""
    if x.shape[0] == 1:
        return torch.mm(x[0], weight[0]).unsqueeze(0)
    return torch.stack([torch.mm(x[k], weight[k]) for k in range(x.shape[0])])


def _tanh(z: Tensor) -> Tensor:
    # 2.5 times as fast as torch.tanh in float64 (torch 2.13, AVX2); the absolute error stays at 2e-16
    return torch.sigmoid(2.0 * z) * 2.0 - 1.0


def embed(layers: tuple[Layer, ...], sigma: Tensor, *, plain: bool = False) -> tuple[Tensor, Tensor]:
    """Embedding G(σ) and dG/dσ, both (K, n_rows, M).

    Parameters
    ----------
    sigma
        (n_rows, 1), shared by the K models.
    plain
        Elementary operations only, which `torch.func` and batched gradients can go through (a third slower in training).
    """
    count = layers[0].weight.shape[0]
    if not plain and all(layer.idt is None for layer in layers):
        found = [_Embedding.apply(sigma, *(tensor[k] for layer in layers for tensor in (layer.weight, layer.bias))) for k in range(count)]
        if count == 1:
            return found[0][0].unsqueeze(0), found[0][1].unsqueeze(0)
        return torch.stack([value for value, _ in found]), torch.stack([slope for _, slope in found])
    value = sigma.unsqueeze(0).expand(count, -1, -1)
    slope = torch.ones_like(value)
    for layer in layers:
        z = value * layer.weight if value.shape[-1] == 1 else _product(value, layer.weight)
        dz = slope * layer.weight if value.shape[-1] == 1 else _product(slope, layer.weight)
        t = _tanh(z + layer.bias)
        dt = (1.0 - t * t) * dz
        if layer.idt is not None:
            t, dt = t * layer.idt, dt * layer.idt
        if layer.copies:
            t = t + (value if layer.copies == 1 else torch.cat([value, value], dim=-1))
            dt = dt + (slope if layer.copies == 1 else torch.cat([slope, slope], dim=-1))
        value, slope = t, dt
    return value, slope


class _Embedding(torch.autograd.Function):
    """`embed` of one model with its backward pass by hand: G and dG/dσ go through each product together, in place."""

    @staticmethod
    def forward(ctx: Any, sigma: Tensor, *flat: Tensor) -> tuple[Tensor, Tensor]:
        n_rows = len(sigma)
        one = torch.ones((), dtype=sigma.dtype, device=sigma.device)
        x = torch.stack([sigma, torch.ones_like(sigma)])
        kept = []
        for weight, bias in zip(flat[0::2], flat[1::2], strict=True):
            n_in, n_out = weight.shape
            z = torch.mm(x.view(2 * n_rows, n_in), weight).view(2, n_rows, n_out)
            t, dz = z[0], z[1]
            t.add_(bias).mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)  # tanh, see _tanh
            d = torch.addcmul(one, t, t, value=-1.0)
            y = torch.empty_like(z)
            copies = residual_copies(n_in, n_out)
            if copies == 1:
                torch.add(t, x[0], out=y[0])
                torch.addcmul(x[1], d, dz, out=y[1])
            else:
                y[0].copy_(t)
                torch.mul(d, dz, out=y[1])
                if copies == 2:
                    y.view(2, n_rows, 2, n_in).add_(x.unsqueeze(2))
            kept.append((weight, x, t, d, dz))
            x = y
        ctx.kept = kept
        return x[0], x[1]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, by_value: Tensor, by_slope: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = []
        for weight, x, t, d, dz in reversed(ctx.kept):
            n_in, n_out = weight.shape
            n_rows = len(t)
            # with y = t(z), y' = d·z', d = 1 − t²:  z̄' = d ȳ',  z̄ = d (ȳ − 2 t z' ȳ')
            back = t.new_empty((2, n_rows, n_out))
            torch.mul(by_slope, d, out=back[1])
            cross = (by_slope * dz).mul_(t)
            torch.add(by_value, cross, alpha=-2.0, out=back[0])
            back[0].mul_(d)
            both = back.view(2 * n_rows, n_out)
            gradients += [back[0].sum(dim=0, keepdim=True), torch.mm(x.view(2 * n_rows, n_in).t(), both)]
            through = torch.mm(both, weight.t()).view(2, n_rows, n_in)
            copies = residual_copies(n_in, n_out)
            for part, gradient in zip(through, (by_value, by_slope), strict=True):
                if copies:
                    part += gradient if copies == 1 else gradient.reshape(n_rows, 2, n_in).sum(dim=1)
            by_value, by_slope = through[0], through[1]
        gradients.append(by_value if ctx.needs_input_grad[0] else None)
        return tuple(reversed(gradients))


def fit(layers: tuple[Layer, ...], descriptor: Tensor) -> tuple[Tensor, Tensor]:
    """Atomic energies without their reference, and their derivatives by the descriptor.

    Parameters
    ----------
    descriptor
        (K, n_atoms, n_features).

    Returns
    -------
    energies
        (K, n_atoms) in eV.
    gradient
        (K, n_atoms, n_features).
    """
    *hidden, output = layers
    value = descriptor
    slopes = []
    for layer in hidden:
        t = _tanh(_product(value, layer.weight) + layer.bias)
        slope = 1.0 - t * t
        if layer.idt is not None:
            t, slope = t * layer.idt, slope * layer.idt
        if layer.copies:
            t = t + (value if layer.copies == 1 else torch.cat([value, value], dim=-1))
        value = t
        slopes.append(slope)
    energies = (_product(value, output.weight) + output.bias).squeeze(-1)
    gradient = output.weight.transpose(1, 2)
    for layer, slope in zip(reversed(hidden), reversed(slopes), strict=True):
        back = _product(gradient * slope, layer.weight.transpose(1, 2))
        if layer.copies == 1:
            back = back + gradient
        elif layer.copies == 2:
            half = gradient.shape[-1] // 2
            back = back + gradient[..., :half] + gradient[..., half:]
        gradient = back
    return energies, gradient.expand_as(descriptor)


class _RowsToSlots(torch.autograd.Function):
    """Fetch rows into slots. Every row sits in one or two known slots, so the backward pass fetches too: no scattering."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, slot_row: Tensor, row_slots: Tensor, empty_slots: Tensor) -> Tensor:
        return rows.index_select(1, slot_row)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, slot_row, row_slots, empty_slots = inputs
        ctx.save_for_backward(row_slots, empty_slots)
        ctx.save_for_forward(slot_row)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        row_slots, empty_slots = ctx.saved_tensors
        rows = grad.index_select(1, row_slots[0])
        if row_slots.shape[0] == 2:
            rows = rows + grad.index_select(1, row_slots[1])
        if len(empty_slots):
            empty = grad.index_select(1, empty_slots).sum(dim=1, keepdim=True)
        else:
            empty = grad.new_zeros((grad.shape[0], 1, grad.shape[2]))
        return torch.cat([rows, empty], dim=1), None, None, None

    @staticmethod
    def jvp(ctx: Any, rows: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        (slot_row,) = ctx.saved_tensors
        return rows.index_select(1, slot_row)


def rows_to_slots(rows: Tensor, slot_row: Tensor, row_slots: Tensor, empty_slots: Tensor) -> Tensor:
    """Rows (K, n_rows, c) in slots (K, n_slots, c)."""
    result: Tensor = _RowsToSlots.apply(rows, slot_row, row_slots, empty_slots)
    return result
