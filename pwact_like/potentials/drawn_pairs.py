"""Pairs of predicted variance and true error from draws of the weights: many, to calibrate by, and few, as they are used."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.geometry import Geometry
from pwact_like.potentials.jacobian import Linearization
from pwact_like.uncertainty.calibration import HELD_VARIANCE, Pairs

REFERENCE_DRAWS = 64
"""Draws that a calibration is fitted to, besides those that are used: their variances scatter by 10 to 18 %."""


class DrawnPairs:
    """Collects the atoms of labelled frames.

    Parameters
    ----------
    model
        The trained model.
    reference, used
        (S, n_weights) many draws, and those in use; None: the reference itself is.
    """

    def __init__(self, model: DeepPotential, reference: Tensor, used: Tensor | None = None) -> None:
        self._model, self._reference = model, reference
        self._draws = reference if used is None else torch.cat([reference, used])
        self._halves: list[NDArray[np.float64]] = []
        self._used: list[NDArray[np.float64]] = []
        self._errors: list[NDArray[np.float64]] = []

    def add(self, geometry: Geometry, error: NDArray[np.float64]) -> None:
        """A frame, and the error |F_pred − F_label| (n_atoms,) of each of its forces, eV/Å."""
        squares = Linearization(self._model, geometry).jvp(self._draws)[1].square().sum(dim=2).cpu().numpy()
        count = len(self._reference)
        self._halves.append(np.stack([squares[first:count:2].mean(axis=0) for first in (0, 1)]))
        self._used.append(squares[count:].mean(axis=0) if len(squares) > count else squares.mean(axis=0))
        self._errors.append(error)

    @property
    def n_frames(self) -> int:
        """Frames that were added."""
        return len(self._errors)

    @property
    def drawn(self) -> NDArray[np.float64]:
        """(n,) variances by the draws in use."""
        return np.concatenate(self._used)

    def pairs(self) -> Pairs:
        """Variances by the reference draws. How much they scatter, the difference of two halves of the draws tells."""
        halves = np.concatenate(self._halves, axis=1)
        variance = halves.mean(axis=0)
        frame = np.repeat(np.arange(len(self._errors)), [len(error) for error in self._errors])
        there = (halves > 0.0).all(axis=0)
        there &= variance > HELD_VARIANCE * (np.median(variance[there]) if there.any() else 0.0)
        scatter = float(np.var(np.log(halves[0, there] / halves[1, there]))) / 4.0 if there.any() else 0.0
        return Pairs(variance, np.concatenate(self._errors), frame, scatter)
