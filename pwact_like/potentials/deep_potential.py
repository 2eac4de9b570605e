"""The Deep Potential (se_e2_a): energies, forces and virials from geometries and weights.

The function is DeePMD-kit's: for a centre i of type a, with R̃ the normalised environments (s, s·r/|r|) and G the
embedding network of (a, type of the neighbour) at R̃'s first component,

    Ξ_i = (1/Σ sel) Σ_slots R̃ᵀ G      (4, M),   D_i = Ξ_iᵀ Ξ_i[:, :M2],   E_i = fitting_a(D_i) + bias_a,

the sum running over all Σ sel slots, empty ones included (s = 0). Zhang et al., NeurIPS 2018.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pwact_like.potentials.geometry import Block, Geometry
from pwact_like.potentials.network import Layer, Weights, embed, fit, residual_copies, rows_to_slots
from pwact_like.potentials.spec import DeepPotSpec

_Slots = tuple[Tensor, Tensor] | None  # G and dG/dσ in the slots of a block, or no slots


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What K models say of the frames of a geometry.

    Attributes
    ----------
    atomic_energies
        (K, n_atoms) eV, in the atoms' own order.
    energies
        (K, n_frames) eV.
    forces
        (K, n_atoms, 3) eV/Å, in the atoms' own order; None when not asked for.
    virials
        (K, n_frames, 3, 3) eV, −∂E/∂ε; None when not asked for.
    """

    atomic_energies: Tensor
    energies: Tensor
    forces: Tensor | None
    virials: Tensor | None


def evaluate(
    spec: DeepPotSpec, weights: Weights, geometry: Geometry, *, forces: bool = True, virials: bool = False, plain: bool = False
) -> Evaluation:
    """Energies, forces and virials, differentiable by the weights (see `network`).

    ``plain`` keeps to operations that `torch.func` (jacrev, jvp, vmap) and batched gradients can go through.
    """
    layout = geometry.layout
    count = weights.bias.shape[0]
    energies, gradients = [], []
    embedded: list[list[_Slots]] = []
    first = 0
    for center, n_centers in enumerate(layout.type_counts):
        blocks = geometry.blocks[first : first + spec.n_types] if n_centers else ()
        first += len(blocks)
        if not blocks:
            continue
        xi, slots = _environment_matrix(spec, weights, blocks, plain)
        descriptor = xi.transpose(-1, -2) @ xi[..., : spec.m2]
        energy, gradient = fit(weights.fitting[center], descriptor.reshape(count, n_centers, -1))
        energies.append(energy + weights.bias[:, center : center + 1])
        if forces or virials:
            gradients.append(_by_matrix(spec, xi, gradient.view(count * n_centers, -1, spec.m2)))
            embedded.append(slots)
    sorted_energies = torch.cat(energies, dim=1)
    atomic_energies = sorted_energies.index_select(1, layout.inverse)
    per_frame = _per_frame(sorted_energies, layout.frame, layout.n_frames)
    if not (forces or virials):
        return Evaluation(atomic_energies, per_frame, None, None)

    by_pair = _by_pair(spec, geometry, gradients, embedded)
    by_vector = torch.bmm(by_pair.transpose(0, 1), geometry.jacobian)  # ∂E/∂r of every pair, (n_pairs, K, 3)
    return Evaluation(
        atomic_energies,
        per_frame,
        _forces(geometry, by_vector) if forces else None,
        _virials(geometry, by_vector) if virials else None,
    )


def descriptors(model: DeepPotential, geometry: Geometry) -> dict[int, Tensor]:
    """Descriptor of every atom, by type: (n_atoms of the type, M·M2), what the fitting networks take."""
    spec, weights = model.spec, model.weights()
    found = {}
    first = 0
    for center, n_centers in enumerate(geometry.layout.type_counts):
        if n_centers:
            xi, _ = _environment_matrix(spec, weights, geometry.blocks[first : first + spec.n_types])
            found[center] = (xi.transpose(-1, -2) @ xi[..., : spec.m2]).reshape(n_centers, -1)
            first += spec.n_types
    return found


def _environment_matrix(spec: DeepPotSpec, weights: Weights, blocks: Sequence[Block], plain: bool = False) -> tuple[Tensor, list[_Slots]]:
    """Ξ of all centres of one type, (K·n_centers, 4, M), and G, dG/dσ in the slots of each block."""
    width = spec.embedding[-1]
    total: Tensor | None = None
    empty: Tensor | None = None
    slots: list[_Slots] = []
    for block in blocks:
        layout = block.layout
        rows = embed(weights.embedding[layout.center][layout.neighbor], block.sigma, plain=plain)
        count = weights.bias.shape[0]
        if block.n_missing:
            part = rows[0][:, -1] * (block.n_missing * block.empty)
            empty = part if empty is None else empty + part
        if layout.n_columns == 0:
            slots.append(None)
            continue
        tables = layout.slot_row, layout.row_slots, layout.empty_slots
        shape = count * layout.n_centers, layout.n_columns, width
        value, slope = (rows_to_slots(part, *tables).view(shape) for part in rows)
        slots.append((value, slope))
        product = torch.bmm(_repeated(block.env, count).transpose(1, 2), value)
        total = product if total is None else total + product
    count, n_centers = weights.bias.shape[0], blocks[0].layout.n_centers
    if total is None:
        total = blocks[0].env.new_zeros((count * n_centers, 4, width))
    if empty is not None:
        # an empty slot's environment is (−davg/dstd, 0, 0, 0)
        padded = torch.nn.functional.pad(empty.unsqueeze(1), (0, 0, 0, 3))
        total = (total.view(count, n_centers, 4, width) + padded.unsqueeze(1)).view(count * n_centers, 4, width)
    return total / spec.n_slots, slots


def _repeated(env: Tensor, count: int) -> Tensor:
    return env if count == 1 else env.repeat(count, 1, 1)


def _by_matrix(spec: DeepPotSpec, xi: Tensor, gradient: Tensor) -> Tensor:
    """∂E/∂(Σ R̃ᵀG) from ∂E/∂D: D = ΞᵀΞ[:, :M2], Ξ the sum over Σ sel."""
    left = xi[..., : spec.m2] @ gradient.transpose(1, 2)
    right = xi @ gradient
    return (left + torch.nn.functional.pad(right, (0, left.shape[-1] - spec.m2))) / spec.n_slots


def _by_pair(spec: DeepPotSpec, geometry: Geometry, gradients: list[Tensor], embedded: list[list[_Slots]]) -> Tensor:
    """∂E/∂(s, s·r/|r|) of every pair, both ends' shares together: (K, n_pairs, 4)."""
    shares: dict[tuple[int, int], Tensor] = {}
    n_centered = -1
    place = spec.n_types
    for block in geometry.blocks:
        if place == spec.n_types:
            n_centered, place = n_centered + 1, 0
        slots = embedded[n_centered][place]
        place += 1
        layout = block.layout
        if slots is None or layout.n_pairs == 0:
            continue
        by_matrix = gradients[n_centered].transpose(1, 2)  # (K·n, M, 4)
        count = by_matrix.shape[0] // layout.n_centers
        env = _repeated(block.env, count)
        value, slope = slots
        through_sigma = (torch.bmm(slope, by_matrix) * env).sum(dim=-1, keepdim=True)
        radial, angular = torch.bmm(value, by_matrix).split((1, 3), dim=-1)
        by_env = torch.cat([radial + through_sigma, angular], dim=-1) * block.scale
        by_env = by_env.view(count, -1, 4)
        from_slots = [by_env.index_select(1, index) for index in layout.row_slots]
        reverse = by_env.new_tensor([1.0, -1.0, -1.0, -1.0])
        if layout.center == layout.neighbor:
            share = from_slots[0] + from_slots[1] * reverse
        else:
            share = from_slots[0] if layout.center < layout.neighbor else from_slots[0] * reverse
        key = (min(layout.center, layout.neighbor), max(layout.center, layout.neighbor))
        shares[key] = share if key not in shares else shares[key] + share
    if not shares:
        return geometry.vectors.new_zeros((gradients[0].shape[0] // geometry.blocks[0].layout.n_centers, 0, 4))
    return torch.cat([shares[key] for key in sorted(shares)], dim=1)


def _forces(geometry: Geometry, by_vector: Tensor) -> Tensor:
    """Forces (K, n_atoms, 3) in the atoms' own order from ∂E/∂r of every pair: +∂E/∂r on i, −∂E/∂r on j."""
    layout = geometry.layout
    zeros = by_vector.new_zeros((layout.n_atoms, *by_vector.shape[1:]))
    both = torch.cat([by_vector, -by_vector])
    return zeros.index_add(0, layout.ends.view(-1), both).index_select(0, layout.inverse).transpose(0, 1)


def _virials(geometry: Geometry, by_vector: Tensor) -> Tensor:
    """W = −∂E/∂ε = −Σ ∂E/∂r ⊗ r of each frame, (K, n_frames, 3, 3)."""
    layout = geometry.layout
    if layout.n_frames == 1:
        flat = by_vector.flatten(1).transpose(0, 1) @ geometry.vectors
        return -flat.view(-1, 1, 3, 3)
    outer = by_vector.unsqueeze(-1) * geometry.vectors.view(-1, 1, 1, 3)
    zeros = by_vector.new_zeros((layout.n_frames, by_vector.shape[1], 3, 3))
    return -zeros.index_add(0, layout.pair_frame, outer).transpose(0, 1)


def _per_frame(atomic: Tensor, frame: Tensor, n_frames: int) -> Tensor:
    if n_frames == 1:
        return atomic.sum(dim=1, keepdim=True)
    return atomic.new_zeros((atomic.shape[0], n_frames)).index_add(1, frame, atomic)


class _Dense(nn.Module):
    """Parameters of one layer, drawn as DeePMD-kit draws them."""

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator, time_step: bool = False) -> None:
        super().__init__()
        spread = (n_in + n_out) ** -0.5
        self.weight = nn.Parameter(_normal((n_in, n_out), generator) * spread)
        self.bias = nn.Parameter(_normal((n_out,), generator))
        if time_step and residual_copies(n_in, n_out):
            self.idt = nn.Parameter(_normal((n_out,), generator) * 0.001 + 0.1)
        else:
            self.register_parameter("idt", None)

    def layer(self) -> Layer:
        """These parameters as a single model's layer."""
        return Layer(self.weight.unsqueeze(0), self.bias.view(1, 1, -1), None if self.idt is None else self.idt.view(1, 1, -1))


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _chain(widths: Sequence[int], generator: torch.Generator, time_step: bool = False) -> nn.ModuleList:
    return nn.ModuleList(_Dense(n_in, n_out, generator, time_step) for n_in, n_out in itertools.pairwise(widths))


class DeepPotential(nn.Module):
    """One Deep Potential: parameters in a fixed order, and what was fitted to its training data beforehand.

    ``named_parameters()`` runs through the embedding networks (centre's type first, then neighbour's), then the fitting
    networks, each from input to output, weight, bias, idt: a Kalman filter's blocks may rely on it.

    Parameters
    ----------
    spec
        Shape; ``spec.sel`` must be set.
    seed
        Of the initial weights.
    davg
        (n_types,) mean of s(r) over the slots of a centre of each type.
    dstd
        (n_types, 2) standard deviation of s, and of s·x/r.
    bias
        (n_types,) reference energy of each element in eV.
    """

    davg: Tensor
    dstd: Tensor
    energy_bias: Tensor

    def __init__(
        self, spec: DeepPotSpec, seed: int = 0, davg: Tensor | None = None, dstd: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        n = spec.n_types
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.ModuleList(nn.ModuleList(_chain((1, *spec.embedding), generator) for _ in range(n)) for _ in range(n))
        features = spec.embedding[-1] * spec.m2
        self.fitting = nn.ModuleList(_chain((features, *spec.fitting), generator, spec.resnet_dt) for _ in range(n))
        self.output = nn.ModuleList(_Dense(spec.fitting[-1], 1, generator) for _ in range(n))
        self.register_buffer("davg", torch.zeros(n, dtype=torch.float64) if davg is None else davg.to(torch.float64))
        self.register_buffer("dstd", torch.ones((n, 2), dtype=torch.float64) if dstd is None else dstd.to(torch.float64))
        self.register_buffer("energy_bias", torch.zeros(n, dtype=torch.float64) if bias is None else bias.to(torch.float64))

    def weights(self) -> Weights:
        """The parameters in the shape that `evaluate` takes."""
        embedding = tuple(tuple(_layers(net) for net in row) for row in self.embedding)
        fitting = tuple((*_layers(net), output.layer()) for net, output in zip(self.fitting, self.output, strict=True))
        return Weights(embedding, fitting, self.energy_bias.unsqueeze(0))

    def forward(self, geometry: Geometry, forces: bool = True, virials: bool = False, plain: bool = False) -> Evaluation:
        """See `evaluate`; the leading dimension K is 1."""
        return evaluate(self.spec, self.weights(), geometry, forces=forces, virials=virials, plain=plain)


def _layers(chain: nn.Module) -> tuple[Layer, ...]:
    return tuple(dense.layer() for dense in chain)  # type: ignore[attr-defined]


def stacked(models: Sequence[DeepPotential]) -> Weights:
    """Weights of several models of one shape, for one evaluation of all (detached)."""
    all_weights = [model.weights() for model in models]

    def join(layers: Sequence[Layer]) -> Layer:
        idt = [layer.idt for layer in layers if layer.idt is not None]
        return Layer(
            torch.cat([layer.weight.detach() for layer in layers]).contiguous(),
            torch.cat([layer.bias.detach() for layer in layers]),
            torch.cat([item.detach() for item in idt]) if idt else None,
        )

    first = all_weights[0]
    embedding = tuple(
        tuple(tuple(join([w.embedding[a][b][n] for w in all_weights]) for n in range(len(net))) for b, net in enumerate(row))
        for a, row in enumerate(first.embedding)
    )
    fitting = tuple(tuple(join([w.fitting[a][n] for w in all_weights]) for n in range(len(net))) for a, net in enumerate(first.fitting))
    return Weights(embedding, fitting, torch.cat([w.bias for w in all_weights]))
