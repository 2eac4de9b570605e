"""One step of a training: what a batch does to the weights. Adam's and the Kalman filter's share one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pwact_like.errors import DataError, JobError
from pwact_like.potentials.coordinates import Coordinates, descriptor_scalings, scaling_name, scalings_from, start_in
from pwact_like.potentials.covariance import BlockLayout, block_layout
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.kalman import InnovationNoise, KalmanFilter, Memory
from pwact_like.potentials.loss import Prefactors, SquaredErrors, learning_rate, loss_and_errors, prefactors
from pwact_like.potentials.observations import gradients_of, observe
from pwact_like.potentials.optimizer import Adam, FlatParameters
from pwact_like.potentials.training_set import Batch, TrainingSet

if TYPE_CHECKING:
    from pwact_like.config.train import Optimizer

_SHARES = {"energy": 0.1, "force": 1.0, "virial": 1.0, "atomic": 1.0}
# An energy is one number a frame against many forces, and its error is mostly a shift that all frames share.

_CEILING = 5.0
# Of P over its start, with measured noise: MatPL's λ₀ = 0.98 would make it five million, and the filter follow every frame.


class Stepper(ABC):
    """Owns the optimizer of a model."""

    rate_name: ClassVar[str]

    @abstractmethod
    def step(self, batch: Batch, number: int) -> SquaredErrors:
        """Take step ``number`` (from 0) with a batch; gives the errors before it.

        Raises
        ------
        JobError
            When they are not finite.
        """

    @property
    @abstractmethod
    def rate(self) -> float:
        """What the learning curve shows of the optimizer: the learning rate, or λ."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold to go on with the same bits."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Take a `state` back.

        Raises
        ------
        KeyError, ValueError
            When it is another optimizer's or another model's.
        """

    @abstractmethod
    def finish(self) -> None:
        """Called after the last step (and again when a training goes on from there): settle the weights."""

    def scalings(self) -> dict[str, NDArray[np.float64]]:
        """What the model file keeps of the optimizer's coordinates."""
        return {}


def _insist_finite(errors: SquaredErrors, number: int, cure: str) -> None:
    if not np.isfinite(errors.energy + errors.force + errors.virial):
        raise JobError(
            f"the training diverged at step {number + 1} (its errors are not finite): look for wrong labels or colliding atoms "
            f"in the data, or {cure}"
        )


class AdamStepper(Stepper):
    """Gradient descent on the loss of a batch."""

    rate_name: ClassVar[str] = "lr"

    def __init__(self, model: DeepPotential, settings: Optimizer, n_steps: int) -> None:
        self._model, self._settings, self._n_steps = model, settings, n_steps
        self._adam = Adam(FlatParameters(model), settings.weight_decay)
        self._rate = settings.learning_rate

    @property
    def rate(self) -> float:
        """See `Stepper`."""
        return self._rate

    def step(self, batch: Batch, number: int) -> SquaredErrors:
        """See `Stepper`."""
        self._rate = learning_rate(self._settings, number, self._n_steps)
        result = self._model(batch.geometry, virials=self._settings.train_virial)
        loss, errors = loss_and_errors(result, batch, prefactors(self._settings, self._rate))
        _insist_finite(errors, number, "lower optimizer.learning_rate")
        loss.backward()
        self._adam.step(self._rate)
        return errors

    def finish(self) -> None:
        """See `Stepper`: Adam's rate has decayed, its last weights are its best."""

    def state(self) -> dict[str, Tensor]:
        """See `Stepper`."""
        return self._adam.state() | {"adam_steps": torch.tensor([self._adam.steps])}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """See `Stepper`."""
        _copy(self._adam.state(), arrays)
        self._adam.steps = int(arrays["adam_steps"][0])


class KalmanStepper(Stepper):
    """The filter's updates with the observations of a batch.

    Parameters
    ----------
    coordinates
        What the filter's P refers to (see `coordinates`).
    n_steps
        Steps of the whole training.
    """

    rate_name: ClassVar[str] = "lambda"

    def __init__(
        self,
        model: DeepPotential,
        settings: Optimizer,
        seed: int,
        parameters: FlatParameters,
        coordinates: Coordinates,
        n_steps: int,
    ) -> None:
        self._model, self._settings, self._seed = model, settings, seed
        self._parameters, self.coordinates = parameters, coordinates
        dtype = torch.float32 if settings.p_float32 else torch.float64
        start = torch.full_like(parameters.values, settings.p0_weight, dtype=dtype)
        self._noise = InnovationNoise(noise_shares(settings)) if settings.kalman_noise == "measured" else None
        ceiling = settings.p_ceiling or (_CEILING * settings.p0_weight if self._noise is not None else float("inf"))
        memory = Memory(settings.kalman_lambda, settings.kalman_nue, ceiling)
        self.filter = KalmanFilter(parameter_blocks(parameters.layout, settings.block_size), start, memory)
        # the prior counts once an epoch, as the data do
        per_epoch = max(1, n_steps // settings.epochs)
        self._prior = settings.kalman_prior / (settings.p0_weight * per_epoch) if self._noise is not None else 0.0
        self._way = torch.zeros_like(parameters.values)  # from the weights at the start, in the filter's coordinates
        self._averaged_from = n_steps - int(settings.average_share * n_steps)
        self._sum = torch.zeros_like(parameters.values)
        self._count = torch.zeros(1, dtype=torch.float64)

    @property
    def rate(self) -> float:
        """See `Stepper`."""
        return self.filter.factor

    def step(self, batch: Batch, number: int) -> SquaredErrors:
        """See `Stepper`."""
        settings = self._settings
        result = self._model(batch.geometry, forces=True, virials=settings.train_virial)
        with torch.no_grad():
            errors = loss_and_errors(result, batch, Prefactors(0.0, 0.0, 0.0))[1]
        _insist_finite(errors, number, "lower optimizer.p0_weight")
        observations = observe(result, batch, settings, self._seed, number)
        if not observations:
            return errors
        rows = self.coordinates.gradient(gradients_of(observations, self._parameters.gradient))
        errors_seen = [observation.error for observation in observations]
        noise = self._noise
        if noise is None:
            # RLEKF: H is the sum over the frames and e √B times the mean; the sum's own error, B times the mean, is what R = 1 refers to
            counts = [observation.n_frames for observation in observations]
            sums = [error * count for error, count in zip(errors_seen, counts, strict=True)]
            change = self.filter.update(rows * rows.new_tensor(counts).unsqueeze(1), sums, gains=[count**-0.5 for count in counts])
        else:
            pull = (self._way, self._prior) if self._prior else None

            def measure(place: int, error: float, spread: float) -> float:
                return noise(observations[place].kind, error, spread, observations[place].least)

            change = self.filter.update(rows, errors_seen, measure=measure, pull=pull)
            self._way.add_(change)
        self._parameters.values.add_(self.coordinates.step(change))
        if number >= self._averaged_from:
            self._sum += self._parameters.values
            self._count += 1.0
        return errors

    def finish(self) -> None:
        """The mean of the weights over the last steps: each step follows its own frame, and their mean none too far."""
        if float(self._count) > 0.0:
            self._parameters.values.copy_(self._sum / float(self._count))

    def scalings(self) -> dict[str, NDArray[np.float64]]:
        """See `Stepper`."""
        return self.coordinates.arrays()

    def state(self) -> dict[str, Tensor]:
        """See `Stepper`."""
        # the scalings are not among it: they follow from the training data and the weights at the start
        starts = torch.tensor(self.filter.layout.starts)
        noise = {} if self._noise is None else self._noise.state()
        own = {"values": self._parameters.values, "way": self._way, "sum": self._sum, "count": self._count}
        return {**own, "block_starts": starts, **noise, **self.filter.state()}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """See `Stepper`."""
        if tuple(arrays["block_starts"].tolist()) != self.filter.layout.starts:
            raise ValueError("its covariance has other blocks")
        _copy({"values": self._parameters.values, "way": self._way, "sum": self._sum, "count": self._count}, arrays)
        self.filter.restore(arrays)
        if self._noise is not None:
            self._noise.restore(arrays)


def new_stepper(
    settings: Optimizer,
    model: DeepPotential,
    training: TrainingSet,
    seed: int,
    scalings: Mapping[str, NDArray[np.float64]],
    n_steps: int,
    *,
    is_fresh: bool,
    new_types: Sequence[int] = (),
) -> Stepper:
    """The settings' optimizer for a model on its device.

    Parameters
    ----------
    scalings
        Coordinates that a warm start carries on; those of an element that has none come from the training data.
    is_fresh
        The weights were just drawn: a filter takes them as weights of its coordinates.
    new_types
        Of a model that is trained further: elements that no training has met, whose fitting networks are as they were drawn.
    """
    if settings.name == "ADAM":
        return AdamStepper(model, settings, n_steps)
    found = scalings_from(scalings)
    if any(scaling_name(kind) not in found for kind in range(model.spec.n_types)):
        found = descriptor_scalings(model, training) | found
    parameters = FlatParameters(model)
    where = parameters.values.device
    found = {name: (mean.to(where), spread.to(where)) for name, (mean, spread) in found.items()}
    coordinates = Coordinates(found, parameters.layout)
    if is_fresh:
        start_in(coordinates, parameters)
    elif new_types:
        names = {scaling_name(kind) for kind in new_types}
        start_in(Coordinates({name: pair for name, pair in found.items() if name in names}, parameters.layout), parameters)
    return KalmanStepper(model, settings, seed, parameters, coordinates, n_steps)


def noise_shares(settings: Optimizer) -> dict[str, float]:
    """Share of the measured noise of each kind: the prefactors, beside their usual values, say which to follow more closely."""
    prefactors = {
        "energy": (settings.pre_fac_etot, 1.0),
        "force": (settings.pre_fac_force, 2.0),
        "virial": (settings.pre_fac_virial, 1.0),
        "atomic": (settings.pre_fac_ei, 1.0),
    }
    return {kind: _SHARES[kind] * (usual / value) ** 2 for kind, (value, usual) in prefactors.items() if value > 0.0}


def parameter_blocks(layout: tuple[tuple[str, int, tuple[int, ...]], ...], block_size: int) -> BlockLayout:
    """The filter's blocks for a model's parameters (`optimizer.parameter_layout`)."""
    sizes = [int(np.prod(shape)) for _, _, shape in layout]
    return block_layout(sizes, block_size)


def _copy(targets: Mapping[str, Tensor], arrays: Mapping[str, Tensor]) -> None:
    for name, tensor in targets.items():
        if arrays[name].shape != tensor.shape:
            raise DataError(f"{name} has {arrays[name].numel()} numbers, and the model has {tensor.numel()} parameters")
        tensor.copy_(arrays[name])


def stepper_facts(stepper: Stepper) -> dict[str, Any]:
    """What the model file tells of the optimizer."""
    if isinstance(stepper, KalmanStepper):
        return {"optimizer": "LKF", "observations": stepper.filter.n_observations, "blocks": list(stepper.filter.layout.starts)}
    return {"optimizer": "ADAM"}
