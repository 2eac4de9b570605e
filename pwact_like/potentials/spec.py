"""Shape of a Deep Potential: everything but its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pwact_like.config.elements import symbol

FORMAT = "pwact_like deep potential"
CHGNET_FORMAT = "pwact_like chgnet"
"""What a model file's header calls itself."""


@dataclass(frozen=True)
class DeepPotSpec:
    """Shape of a Deep Potential of the se_e2_a kind (tanh, one embedding network for each ordered pair of elements).

    Attributes
    ----------
    type_map
        Atomic numbers; an atom's type is its place here.
    rmax_ang, rmin_ang
        Cutoff, and where the quintic switch begins, in Å.
    embedding
        Widths of the embedding networks (input: one number).
    m2
        Columns of the second, smaller embedding matrix.
    fitting
        Widths of the hidden layers of the fitting networks; the output layer of width 1 is not counted.
    resnet_dt
        Whether the fitting networks' residual layers carry a trainable time step (DeePMD-kit's ``resnet_dt``).
    sel
        Neighbour slots of each element. Their sum divides the descriptor, and slots without a neighbour contribute
        what an atom at Rmax would. An atom with more neighbours than slots loses none of them: the number of empty
        slots then is negative, so the energy stays smooth (DeePMD-kit drops the farthest ones instead). Empty
        until it was counted from the training data.
    """

    type_map: tuple[int, ...]
    rmax_ang: float = 6.0
    rmin_ang: float = 0.5
    embedding: tuple[int, ...] = (25, 25, 25)
    m2: int = 16
    fitting: tuple[int, ...] = (50, 50, 50)
    resnet_dt: bool = False
    sel: tuple[int, ...] = ()

    @property
    def n_types(self) -> int:
        """Number of elements."""
        return len(self.type_map)

    @property
    def n_slots(self) -> int:
        """Σ sel, the divisor of the descriptor."""
        return sum(self.sel)

    def with_sel(self, sel: tuple[int, ...]) -> DeepPotSpec:
        """Return this shape with its neighbour slots."""
        return replace(self, sel=sel)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DeepPotSpec:
        """The inverse of `to_dict` (JSON has lists for tuples)."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def symbols(self) -> str:
        """Element symbols, for messages."""
        return " ".join(symbol(number) for number in self.type_map)
