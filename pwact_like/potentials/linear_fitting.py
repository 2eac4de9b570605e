"""A Deep Potential to first order, second part: the centres of one type, their environment matrices and fitting network.

See `linear_embedding` for the notation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.geometry import Geometry
from pwact_like.potentials.linear_embedding import BlockState, Place, Places, directed, product, residual, residual_back, tanh
from pwact_like.potentials.network import residual_copies


@dataclass(frozen=True, eq=False)
class FittingLayer:
    """State of a hidden layer: input ``x`` (n_i, n_in), ``t``, ``d``, ``idt`` (n_out,) or None, g = ∂E/∂output, b = ∂E/∂z."""

    place: Place
    weight: Tensor
    idt: Tensor | None
    x: Tensor
    t: Tensor
    d: Tensor
    g: Tensor
    b: Tensor

    @property
    def copies(self) -> int:
        """Copies of the input in the output."""
        return residual_copies(self.place.n_in, self.place.n_out)


@dataclass(frozen=True, eq=False)
class FitTangents:
    """Tangents of one type's fitting network: ẋ (n_i, V, ·) of each hidden layer's input and last output, ḃ and ġ of each layer.

    ``gradient`` (n_i, V, M, M2) is that of ∂E/∂D, ``energy`` (n_i, V) that of E.
    """

    x: list[Tensor]
    b: list[Tensor]
    g: list[Tensor]
    gradient: Tensor
    energy: Tensor


class CenterState:
    """All of the centres of one type: blocks, environment matrix, fitting network.

    Attributes
    ----------
    xi, by_matrix
        Ξ and A = ∂E/∂Ξ, (n_i, 4, M).
    gradient
        ∂E/∂D, (n_i, M, M2).
    features
        (n_i, width) input of the output layer.
    energies
        (n_i,) eV, without the elements' reference energies.
    """

    def __init__(self, places: Places, center: int, blocks: Sequence[BlockState], m2: int) -> None:
        self.center, self.blocks, self.m2 = center, list(blocks), m2
        self.n_i = self.blocks[0].layout.n_centers
        self.xi = torch.stack([torch.bmm(state.env.transpose(1, 2), state.value) for state in self.blocks]).sum(dim=0)
        self.width = self.xi.shape[-1]
        x = torch.bmm(self.xi.transpose(1, 2), self.xi[..., :m2]).view(self.n_i, -1)
        forward = []
        for place in places.fitting[center]:
            weight = place.weight(places.flat)
            t = tanh(torch.addmm(place.bias(places.flat), x, weight))
            idt = place.idt(places.flat) if place.has_idt else None
            forward.append((place, weight, idt, x, t, 1.0 - t * t))
            x = (t if idt is None else t * idt) + residual(x, residual_copies(place.n_in, place.n_out))
        self.features = x
        self.output = places.output[center]
        self.output_weight = self.output.weight(places.flat)
        self.energies = (torch.mm(x, self.output_weight) + self.output.bias(places.flat)).squeeze(-1)
        self.layers: list[FittingLayer] = []
        g = self.output_weight.t().expand(self.n_i, -1)
        for place, weight, idt, x, t, d in reversed(forward):
            b = g * d if idt is None else g * d * idt
            layer = FittingLayer(place, weight, idt, x, t, d, g, b)
            self.layers.insert(0, layer)
            g = torch.mm(b, weight.t()) + residual_back(g, layer.copies)
        self.gradient = g.reshape(self.n_i, self.width, m2)
        left = torch.bmm(self.xi[..., :m2], self.gradient.transpose(1, 2))
        left[..., :m2] += torch.bmm(self.xi, self.gradient)
        self.by_matrix = left
        for state in self.blocks:
            state.set_gradient(left)

    def descriptor_tangents(self, xi_dot: Tensor) -> Tensor:
        """Ḋ (n_i, V, M·M2) from Ξ̇ (n_i, 4, V, M)."""
        n_v = xi_dot.shape[2]
        small, small_dot = self.xi[..., : self.m2], xi_dot[..., : self.m2].reshape(self.n_i, 4, -1)
        result = torch.bmm(xi_dot.reshape(self.n_i, 4, -1).transpose(1, 2), small).view(self.n_i, n_v, self.width, self.m2)
        result += torch.bmm(self.xi.transpose(1, 2), small_dot).view(self.n_i, self.width, n_v, self.m2).transpose(1, 2)
        return result.view(self.n_i, n_v, -1)

    def matrix_tangents(self, gradient_dot: Tensor, xi_dot: Tensor | None) -> Tensor:
        """Ȧ (n_i, 4, V, M) from the tangents of ∂E/∂D (n_i, V, M, M2) and Ξ̇ (n_i, 4, V, M); None: Ξ does not move."""
        n_v, m2 = gradient_dot.shape[1], self.m2
        by_feature = gradient_dot.reshape(self.n_i, -1, m2).transpose(1, 2)
        result = torch.bmm(self.xi[..., :m2], by_feature).view(self.n_i, 4, n_v, self.width)
        across = gradient_dot.transpose(1, 2).reshape(self.n_i, self.width, -1)
        small = torch.bmm(self.xi, across).view(self.n_i, 4, n_v, m2)
        if xi_dot is not None:
            flat = xi_dot.reshape(self.n_i, -1, self.width)
            result.view(self.n_i, -1, self.width).baddbmm_(flat[..., :m2], self.gradient.transpose(1, 2))
            small.view(self.n_i, -1, m2).baddbmm_(flat, self.gradient)
        result[..., :m2] += small
        return result

    def fit_tangents(self, x: Tensor, directions: Tensor | None = None) -> FitTangents:
        """Tangents of the fitting network along Ḋ = ``x`` (n_i, V, M·M2), and along directions (V, n) of the weights."""
        xs, slopes = [x], []
        for layer in self.layers:
            z = product(x, layer.weight)
            if directions is not None:
                z += directed(layer.x, layer.place.weight(directions)) + layer.place.bias(directions)
            d, t = layer.d.unsqueeze(1), layer.t.unsqueeze(1)
            t_dot = z * d
            slopes.append(t_dot * t * -2.0)
            y = t_dot if layer.idt is None else t_dot * layer.idt
            if directions is not None and layer.idt is not None:
                y = y + t * layer.place.idt(directions)
            x = y + residual(x, layer.copies)
            xs.append(x)
        energy = product(x, self.output_weight).squeeze(-1)
        g = torch.zeros_like(x)
        if directions is not None:
            energy = energy + directed(self.features, self.output.weight(directions)).squeeze(-1) + self.output.bias(directions).view(1, -1)
            g = self.output.weight(directions).squeeze(-1).expand_as(x)
        return self._back(xs, slopes, g, energy, directions)

    def _back(self, xs: list[Tensor], slopes: list[Tensor], g: Tensor, energy: Tensor, directions: Tensor | None) -> FitTangents:
        bs: list[Tensor] = []
        gs: list[Tensor] = []
        for layer, slope in zip(reversed(self.layers), reversed(slopes), strict=True):
            gs.insert(0, g)
            b = torch.addcmul(g * layer.d.unsqueeze(1), layer.g.unsqueeze(1), slope)
            b = b if layer.idt is None else b * layer.idt
            if directions is not None and layer.idt is not None:
                b = b + (layer.g * layer.d).unsqueeze(1) * layer.place.idt(directions)
            bs.insert(0, b)
            back = product(b, layer.weight.t())
            if directions is not None:
                back += directed(layer.b, layer.place.weight(directions).transpose(1, 2))
            g = back + residual_back(g, layer.copies)
        return FitTangents(xs, bs, gs, g.view(*g.shape[:2], self.width, self.m2), energy)

    def feature_gradients(self) -> Tensor:
        """∂(feature of the output layer)/∂D for every feature at once, (n_i, width, M, M2)."""
        n_features = self.features.shape[1]
        g = torch.eye(n_features, dtype=self.features.dtype, device=self.features.device).expand(self.n_i, -1, -1)
        for layer in reversed(self.layers):
            scale = layer.d if layer.idt is None else layer.d * layer.idt
            g = product(g * scale.unsqueeze(1), layer.weight.t()) + residual_back(g, layer.copies)
        return g.view(self.n_i, n_features, self.width, self.m2)


def center_states(model: DeepPotential, geometry: Geometry, places: Places) -> list[CenterState]:
    """`CenterState` of every type that has atoms in the geometry."""
    spec, states, first = model.spec, [], 0
    for center, count in enumerate(geometry.layout.type_counts):
        if count:
            blocks = [BlockState(places, block, spec.n_slots) for block in geometry.blocks[first : first + spec.n_types]]
            first += spec.n_types
            states.append(CenterState(places, center, blocks, spec.m2))
    return states
