"""The coordinates in which a filter sees the weights.

A filter that starts from P = p₀·1 takes every weight for equally uncertain, whatever its input is like. The descriptor's
outputs are small, with means far above their spread; so most of a step goes into what they have in common, and training
sits on its start value until P has grown by orders of magnitude. So the first layer of every fitting network is seen as
acting on shifted and scaled inputs,

    W x + b = W' (x − μ)/σ + b',   W = W'/σ,   b = b' − (μ/σ) W',

with μ the mean of every output over the training data and σ *one* number for all outputs of an element, the root mean
square length of the descriptor: p₀ then is the prior variance of what reaches the layer, however many outputs there are.
θ = T φ is linear, so it only says what P = p₀·1 means: the function, its weights and its files know nothing of it, and a
residual connection does not mind.

One σ for each output (its own spread) starts faster and must not be used: outputs that hardly vary in the training data
are blown up to the size of the others, and there the model goes astray on hotter structures (Cu, trained at 300 K:
0.20 eV/Å at 500 K, against 0.02). The length is also better than the outputs' mean size where the data are few (16 atoms
of Si, 32 frames at 300 K, judged at 900 K: 0.32 against 0.51 eV/Å).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pwact_like.potentials.deep_potential import DeepPotential, descriptors
from pwact_like.potentials.optimizer import FlatParameters
from pwact_like.potentials.training_set import TrainingSet


@dataclass(frozen=True, eq=False)
class _Layer:
    """Place of one scaled layer in the vector of weights, and its scaling (n_in,)."""

    first: int
    n_in: int
    n_out: int
    bias: int
    mean: Tensor
    spread: Tensor


class Coordinates:
    """θ = T φ for the first fitting layers; the other weights are themselves.

    Parameters
    ----------
    scalings
        (mean, spread) of the inputs of each layer, by the layer's name (``fitting.0.0``).
    layout
        `FlatParameters.layout`: name, first place, shape.
    """

    def __init__(self, scalings: Mapping[str, tuple[Tensor, Tensor]], layout: tuple[tuple[str, int, tuple[int, ...]], ...]) -> None:
        self.scalings = dict(scalings)
        places = {name: (first, shape) for name, first, shape in layout}
        self._layers = []
        for name, (mean, spread) in sorted(self.scalings.items()):
            first, (n_in, n_out) = places[f"{name}.weight"]
            self._layers.append(_Layer(first, n_in, n_out, places[f"{name}.bias"][0], mean, spread))

    def gradient(self, gradient: Tensor) -> Tensor:
        """∂/∂φ = Tᵀ ∂/∂θ of the rows, (…, n) → (…, n)."""
        result = gradient.clone()
        for layer in self._layers:
            weight = gradient[..., layer.first : layer.first + layer.n_in * layer.n_out]
            weight = weight.reshape(*gradient.shape[:-1], layer.n_in, layer.n_out)
            bias = gradient[..., layer.bias : layer.bias + layer.n_out].unsqueeze(-2)
            seen = (weight - layer.mean[:, None] * bias) / layer.spread[:, None]
            result[..., layer.first : layer.first + layer.n_in * layer.n_out] = seen.flatten(-2)
        return result

    def step(self, step: Tensor) -> Tensor:
        """T of directions in φ, (…, n) → (…, n)."""
        result = step.clone()
        for layer in self._layers:
            weight = step[..., layer.first : layer.first + layer.n_in * layer.n_out]
            weight = weight.reshape(*step.shape[:-1], layer.n_in, layer.n_out) / layer.spread[:, None]
            result[..., layer.first : layer.first + layer.n_in * layer.n_out] = weight.flatten(-2)
            result[..., layer.bias : layer.bias + layer.n_out] -= (layer.mean[:, None] * weight).sum(dim=-2)
        return result

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """What a file must hold."""
        return {
            f"scaling.{name}.{what}": tensor.cpu().numpy()
            for name, pair in self.scalings.items()
            for what, tensor in zip(("mean", "spread"), pair, strict=True)
        }


def scaling_name(kind: int) -> str:
    """Name of the layer that takes the descriptor of the atoms of a type."""
    return f"fitting.{kind}.0"


def scalings_from(arrays: Mapping[str, NDArray[np.float64]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Scalings of `Coordinates.arrays`; empty where there are none."""
    names = sorted(name[len("scaling.") : -len(".mean")] for name in arrays if name.startswith("scaling.") and name.endswith(".mean"))
    return {name: tuple(torch.from_numpy(np.array(arrays[f"scaling.{name}.{what}"])) for what in ("mean", "spread")) for name in names}  # type: ignore[misc]


def descriptor_scalings(model: DeepPotential, data: TrainingSet, most_atoms: int = 20_000) -> dict[str, tuple[Tensor, Tensor]]:
    """Means of the descriptor's outputs over the training data, and its root mean square length, by the network that takes it.

    Frames evenly spread over the data are taken until ``most_atoms`` were seen. An element that no frame holds keeps
    its inputs as they are.
    """
    n_features = model.spec.embedding[-1] * model.spec.m2
    where = model.davg.device
    counts = [0] * model.spec.n_types
    sums = [torch.zeros(n_features, dtype=torch.float64, device=where) for _ in counts]
    squares = [torch.zeros((), dtype=torch.float64, device=where) for _ in counts]
    n_atoms = sum(frame.n_atoms for frame in data.frames)
    every = max(1, math.ceil(n_atoms / most_atoms))
    with torch.no_grad():
        for index in range(0, len(data), every):
            for kind, found in descriptors(model, data.batch([index]).geometry).items():
                counts[kind] += len(found)
                sums[kind] += found.sum(dim=0)
                squares[kind] += found.square().sum()
    scalings = {}
    for kind, (count, total, square) in enumerate(zip(counts, sums, squares, strict=True)):
        if not count:
            continue
        size = (square / count).sqrt()
        # isolated atoms alone may have a descriptor of zeros
        scalings[scaling_name(kind)] = (total / count, torch.full((n_features,), float(size) or 1.0, dtype=torch.float64, device=where))
    return scalings


@torch.no_grad()
def start_in(coordinates: Coordinates, parameters: FlatParameters) -> None:
    """Take the weights of a fresh model for weights φ: they were drawn for inputs of mean 0 and spread 1."""
    parameters.values.copy_(coordinates.step(parameters.values))
