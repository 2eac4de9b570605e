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

    def of_run(self, values: NDArray[np.float64]) -> TrustLevels:
        """The levels of one trajectory, from its values in order: the same for all."""
        return self

    def classify(self, values: NDArray[np.float64]) -> NDArray[np.int8]:
        """Class of each value, same shape, as ``FrameClass`` numbers."""
        classes = np.full(values.shape, FrameClass.FAILED, dtype=np.int8)
        # a NaN compares false with everything and so stays FAILED
        with np.errstate(invalid="ignore"):
            classes[values < self.upper] = FrameClass.CANDIDATE
            classes[values < self.lower] = FrameClass.ACCURATE
        classes[~np.isfinite(values)] = FrameClass.FAILED
        return classes


@dataclass(frozen=True)
class RelativeLevels:
    """Levels as multiples of each trajectory's own first values, as PWact takes a KPU, which has no scale.

    With b, the mean over the first 1 % of a trajectory's frames (one at least), the levels are lower·b and lower·upper·b. As long as
    lower·upper ≤ 1 (PWact's defaults are 0.5 and 1.5) the first frames themselves are failed.

    Attributes
    ----------
    lower
        The lower level over b.
    upper
        The upper level over the lower one, above 1.
    """

    lower: float
    upper: float

    def of_run(self, values: NDArray[np.float64]) -> TrustLevels:
        """The levels of one trajectory, from its values in order; without a finite b above zero every frame is failed."""
        first = values[: max(1, len(values) // 100)]
        first = first[np.isfinite(first)]
        base = float(first.mean()) if len(first) else 0.0
        return TrustLevels(self.lower * base, self.lower * self.upper * base)


Levels = TrustLevels | RelativeLevels
