"""A committee from one training: members drawn from a posterior, close enough that the model is linear between them.

Members θ + δ_s with δ_s ~ N(0, P) deviate from each other as KPU says only where the model is linear over such distances,
and with a weak prior it is not: their deviation then is many times the error, and says little (Cu72: 9 to 29 times). But
the linear range can be entered: members θ + ε δ_s deviate ε times as much, and 1/ε brings it back. Any program that takes
a committee of ordinary models can so compute KPU.

The draws are centred (and widened by √(S/(S−1)) for it): to first order the members' mean is the trained model, and their
deviation, σ_a² = mean_s |F_sa − mean F_a|², times 1/ε² is an unbiased estimate of KPU with relative error about √(2/S).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pwact_like.errors import DataError
from pwact_like.potentials.deep_potential import DeepPotential, evaluate, stacked
from pwact_like.potentials.geometry import Geometry
from pwact_like.potentials.jacobian import Linearization

TOLERANCE = 0.05
_NEGLIGIBLE = 1e-6  # of the forces' changes in the structure where they are largest
_RUNGS = 40  # ε from 1 to 2⁻³⁹, far below which rounding would take over


@dataclass(frozen=True, eq=False)
class LinearCommittee:
    """Members and what makes their deviation a KPU.

    Attributes
    ----------
    members
        Ordinary models.
    epsilon, factor
        Length of the members' steps, and 1/ε: what their deviations must be multiplied by.
    nonlinearity
        What the forces' changes differ from the linear ones, relative to these (RMS over members and force components of
        the worst frame), at ε.
    """

    members: list[DeepPotential]
    epsilon: float
    nonlinearity: float

    @property
    def factor(self) -> float:
        """What the members' deviations must be multiplied by."""
        return 1.0 / self.epsilon


def moved_model(model: DeepPotential, step: Tensor) -> DeepPotential:
    """A copy of a model with a step (n,) added to its weights."""
    moved = copy.deepcopy(model)
    first = 0
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(step[first : first + parameter.numel()].view(parameter.shape).to(parameter))
            first += parameter.numel()
    return moved


def centred(samples: Tensor) -> Tensor:
    """Draws (S, n) with their mean taken out and their covariance kept."""
    count = len(samples)
    if count < 2:
        raise ValueError("a committee needs at least two members")
    return (samples - samples.mean(dim=0)) * (count / (count - 1)) ** 0.5


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def nonlinearity(model: DeepPotential, steps: Tensor, geometries: Sequence[Geometry], epsilon: float) -> float:
    """|(F(θ + εδ) − F(θ))/ε − J δ| over |J δ|, RMS over steps (S, n) and force components, of the worst structure.

    Rounding, which grows as 1/ε, is in it too.
    """
    return _nonlinearity(model, steps, _linear(model, steps, geometries), epsilon)


def _linear(model: DeepPotential, steps: Tensor, geometries: Sequence[Geometry]) -> list[tuple[Geometry, Tensor, Tensor]]:
    """J δ (S, N, 3) and F(θ) (N, 3) of each structure."""
    with torch.no_grad():
        return [(geometry, Linearization(model, geometry).jvp(steps)[1], model(geometry).forces[0]) for geometry in geometries]


def _nonlinearity(model: DeepPotential, steps: Tensor, known: list[tuple[Geometry, Tensor, Tensor]], epsilon: float) -> float:
    members = stacked([moved_model(model, epsilon * step) for step in steps])
    # where symmetry forbids forces nothing moves to first order, and a ratio would be one of roundings
    least = _NEGLIGIBLE * max(_rms(linear) for _, linear, _ in known)
    if least == 0.0:
        return 0.0
    worst = 0.0
    for geometry, linear, start in known:
        with torch.no_grad():
            forces = evaluate(model.spec, members, geometry).forces
        assert forces is not None
        found = _rms((forces - start) / epsilon - linear) / max(_rms(linear), least)
        worst = max(worst, found if math.isfinite(found) else math.inf)
    return worst


def linear_committee(
    model: DeepPotential, samples: Tensor, geometries: Sequence[Geometry], *, tolerance: float = TOLERANCE
) -> LinearCommittee:
    """Members θ + ε δ_s with the largest ε that is linear enough on given structures.

    Parameters
    ----------
    samples
        (S, n) draws of N(0, P) as changes of the weights, from `Posterior.sample`.
    geometries
        Structures to judge by; those the committee is for (hot ones too), a few are enough.
    tolerance
        Nonlinearity that is allowed, on the worst of these structures, at ε and at ε/2: by chance it may be small once.

    Raises
    ------
    DataError
        When no ε in 1, 1/2, 1/4 … is good: then P is so wide that rounding sets in before linearity.
    """
    if not geometries:
        raise ValueError("structures are needed to judge linearity by")
    steps = centred(samples)
    known = _linear(model, steps, geometries)

    def worst(epsilon: float) -> float:
        return _nonlinearity(model, steps, known, epsilon)

    epsilon, here = 1.0, worst(1.0)
    for _ in range(_RUNGS):
        below = worst(epsilon / 2.0)
        if here <= tolerance and below <= tolerance:
            return LinearCommittee([moved_model(model, epsilon * step) for step in steps], epsilon, here)
        epsilon, here = epsilon / 2.0, below
    raise DataError(
        f"no scale makes the sampled models linear to {tolerance:.0%} (at {epsilon:.1e} still {here:.1%}): "
        "the posterior is too wide; take a stronger prior (tau)"
    )
