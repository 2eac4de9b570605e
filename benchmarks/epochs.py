"""A training of this package that can be looked at after every epoch; no benchmark by itself.

The steps are those of `pwact_like.potentials.training`, in the same order and with the same seeds: the weights are the same
to the last bit as those of `pwact-like train` with these settings and frames. What a benchmark evaluates in between is
never seen by the training.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings
    from pwact_like.data.frames import Frame
    from pwact_like.potentials.training_set import TrainingSet


class Training:
    """A model, its optimizer and its training frames.

    Attributes
    ----------
    model, stepper, training
        See `pwact_like.potentials`.
    seconds
        Wall time of the steps so far; environments are built at a frame's first visit.
    """

    def __init__(self, settings: TrainSettings, frames: list[Frame]) -> None:
        from pwact_like.potentials.start import find_start, new_model
        from pwact_like.potentials.steppers import new_stepper
        from pwact_like.potentials.training_set import TrainingSet
        from pwact_like.seeds import derive_seed

        self.settings, seed = settings, settings.seed or 0
        self._spec = find_start(settings, None).spec
        began = time.perf_counter()
        prepared = self._prepared(frames)
        self.model = new_model(self._spec, prepared, seed)
        self.training = TrainingSet(prepared, self.model.spec, self.model.davg, self.model.dstd)
        self.per_epoch = -(-len(prepared) // min(settings.optimizer.batch_size, len(prepared)))
        n_steps = settings.optimizer.epochs * self.per_epoch
        self.stepper = new_stepper(settings.optimizer, self.model, self.training, seed, {}, n_steps, is_fresh=True)
        self._order_seed = derive_seed(seed, "order")
        self.seconds = time.perf_counter() - began

    @property
    def n_weights(self) -> int:
        """Of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def epochs(self) -> Iterator[int]:
        """Train; gives the number of each epoch (from 1) that is done."""
        size = min(self.settings.optimizer.batch_size, len(self.training))
        number = 0
        for epoch in range(self.settings.optimizer.epochs):
            began = time.perf_counter()
            order = np.random.default_rng([self._order_seed, epoch]).permutation(len(self.training))
            for first in range(0, len(order), size):
                self.stepper.step(self.training.batch([int(index) for index in order[first : first + size]]), number)
                number += 1
            if epoch + 1 == self.settings.optimizer.epochs:
                self.stepper.finish()
            self.seconds += time.perf_counter() - began
            yield epoch + 1

    def prepared(self, frames: list[Frame]) -> TrainingSet:
        """Other frames, ready to be evaluated by the model."""
        from pwact_like.potentials.training_set import TrainingSet

        return TrainingSet(self._prepared(frames), self.model.spec, self.model.davg, self.model.dstd)

    def _prepared(self, frames: list[Frame]) -> list:
        from pwact_like.potentials.training_set import prepare_frames

        return prepare_frames(((f"frame {index}", frame) for index, frame in enumerate(frames)), self._spec)

    def errors(self, data: TrainingSet) -> tuple[float, float]:
        """RMSE of the energy an atom (meV) and of the force components (eV/Å)."""
        from pwact_like.potentials.evaluation import errors_of

        energy, force, _ = errors_of(self.model, data).rmse()
        return 1e3 * (energy or 0.0), force or 0.0
