"""Adam on one flat vector: a model's parameters become views of it, in the order of ``named_parameters``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EMBEDDING_FACTOR = 10.0
"""How much longer the steps of the embedding networks are than the learning rate says.

Their inputs are few and of order one, and everything else waits for them: with equal steps the forces of Si64 (batch 1)
stay near 0.43 eV/Å for the first 170 steps and reach 0.1 after 3,000; with ten times longer ones they reach 0.1 after
170. (Factors 3, 5 and 20 lie between, 40 is too much. Steps of the fitting networks are better left alone.)
"""

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def parameter_layout(model: nn.Module) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
    """Name, first place in the flat vector, and shape of each parameter, in the order of ``named_parameters``."""
    layout, first = [], 0
    for name, parameter in model.named_parameters():
        layout.append((name, first, tuple(parameter.shape)))
        first += parameter.numel()
    return tuple(layout)


class FlatParameters:
    """A model's parameters and gradients as two vectors.

    Attributes
    ----------
    values, gradient
        (n_parameters,); the model's parameters and their ``grad`` are views of them.
    layout
        (name, first place, shape) of each parameter, in order: what a filter's blocks refer to.
    """

    def __init__(self, model: nn.Module) -> None:
        named = list(model.named_parameters())
        self.values = torch.cat([parameter.detach().reshape(-1) for _, parameter in named])
        self.gradient = torch.zeros_like(self.values)
        self.layout = parameter_layout(model)
        for (_, parameter), (_, first, shape) in zip(named, self.layout, strict=True):
            last = first + parameter.numel()
            parameter.data = self.values[first:last].view(shape)
            parameter.grad = self.gradient[first:last].view(shape)


class Adam:
    """Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019); its state is three arrays and a count."""

    def __init__(self, parameters: FlatParameters, weight_decay: float = 0.0, embedding_factor: float = EMBEDDING_FACTOR) -> None:
        self.parameters = parameters
        self._factors = torch.ones_like(parameters.values)
        for name, first, shape in parameters.layout:
            if name.startswith("embedding."):
                self._factors[first : first + math.prod(shape)] = embedding_factor
        self.weight_decay = weight_decay
        self.first = torch.zeros_like(parameters.values)
        self.second = torch.zeros_like(parameters.values)
        self.steps = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Use the gradient, then set it to zero."""
        gradient, values = self.parameters.gradient, self.parameters.values
        self.steps += 1
        self.first.mul_(_BETA1).add_(gradient, alpha=1.0 - _BETA1)
        self.second.mul_(_BETA2).addcmul_(gradient, gradient, value=1.0 - _BETA2)
        if self.weight_decay:
            values.mul_(1.0 - rate * self.weight_decay)
        root = (self.second / (1.0 - _BETA2**self.steps)).sqrt_().add_(_EPSILON)
        values.addcdiv_(self.first * self._factors, root, value=-rate / (1.0 - _BETA1**self.steps))
        gradient.zero_()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold, beside ``steps``."""
        return {"values": self.parameters.values, "adam_first": self.first, "adam_second": self.second}
