"""How structures are labelled: the program and what it needs besides a stage's input."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from pwact_like.config.base import Paths, Settings
from pwact_like.config.common import GaussianParam


class LabelSettings(Settings):
    """The labelling program and everything it needs besides the stage's input."""

    filled_by_loader: ClassVar[frozenset[str]] = frozenset({"source", "options"})

    dft_style: str = Field(
        default="pwmat",
        description="pwmat, vasp, cp2k, qe (Quantum ESPRESSO), dftb (DFTB+), bigmodel, xtb (tblite) or ase (any ASE calculator); any case.",
    )
    engine: str = Field(default="", description="Name of the labelling engine; follows from dft_style when left out.")
    pseudo: Paths = Field(
        default=(),
        description="Pseudopotential files. PWmat: the element is the file name before its first dot; "
        "VASP: the second word of the first line, cut at `_`; Quantum ESPRESSO: as the file says.",
    )
    in_skf: Path | None = Field(default=None, description="Folder of the Slater–Koster files (DFTB+, and DFTB in PWmat).")
    gaussian_param: GaussianParam | None = Field(default=None, description="Basis sets and potentials for CP2K or PWmat with Gaussians.")
    bigmodel_script: Path | None = Field(default=None, description="dft_style bigmodel: script that reads select.xyz and leaves train.xyz.")
    options: dict[str, Any] = Field(default_factory=dict, description="Settings of an embedded labelling engine, e.g. method, calculator.")
    source: Path | None = Field(default=None, description="The settings file that this came from.")

    @field_validator("dft_style", "engine", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    def model_post_init(self, context: Any, /) -> None:
        """An engine that is not named follows from dft_style."""
        if not self.engine:
            object.__setattr__(self, "engine", self.dft_style)
