"""Trust levels: every frame falls in exactly one class."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class FrameClass(IntEnum):
    """What the trust levels say of a frame."""

    ACCURATE = 0
    CANDIDATE = 1
    FAILED = 2


@dataclass(frozen=True)
class TrustLevels:
    """accurate: value < lower; candidate: lower ≤ value < upper; failed: value ≥ upper or not finite (eV/Å)."""

    lower: float
    upper: float

    def classify(self, values: NDArray[np.float64]) -> NDArray[np.int8]:
        """Class of each value, same shape, as ``FrameClass`` numbers."""
        classes = np.full(values.shape, FrameClass.FAILED, dtype=np.int8)
        # a NaN compares false with everything and so stays FAILED
        with np.errstate(invalid="ignore"):
            classes[values < self.upper] = FrameClass.CANDIDATE
            classes[values < self.lower] = FrameClass.ACCURATE
        classes[~np.isfinite(values)] = FrameClass.FAILED
        return classes
