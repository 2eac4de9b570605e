"""Settings of ``init_bulk``: init_param.json as frozen models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pwact_like.config.base import CampaignName, Int, NonNegativeFloat, NonNegativeInt, Paths, PositiveFloats, PositiveInt, Settings
from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings

_LEAST_SCALE, _LARGEST_SCALE = 0.5, 2.0
_LARGEST_SUPERCELL = 1000
Matrix3 = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]


class BulkSystem(Settings):
    """One starting structure and what is done with it."""

    filled_by_loader: ClassVar[frozenset[str]] = frozenset({"file"})

    config: str = Field(
        description="Path of the structure, below sys_config_prefix if that is given; a glob pattern makes one system a file."
    )
    format: str | None = Field(default=None, description="Format, e.g. `pwmat/config`, `vasp/poscar`; guessed when left out.")
    file: Path = Field(default=Path(), description="The structure's file.")
    pbc: tuple[bool, bool, bool] = Field(default=(True, True, True), description="Periodic directions.")
    relax: bool = Field(default=False, description="Relax first.")
    aimd: bool = Field(default=False, description="Ab-initio MD at the end; every step is a label.")
    scf: bool = Field(default=False, description="Label the frames of the big model's MD with single points.")
    bigmodel: bool = Field(default=False, description="MD with a big model instead of AIMD.")
    direct: bool = Field(default=False, description="Choose among the big model's frames, by direct_input.")
    relax_input_idx: NonNegativeInt = Field(default=0, description="Entry of relax_input.")
    aimd_input_idx: NonNegativeInt = Field(default=0, description="Entry of aimd_input.")
    bigmodel_input_idx: NonNegativeInt = Field(default=0, description="Entry of bigmodel_input.")
    direct_input_idx: NonNegativeInt = Field(default=0, description="Entry of direct_input.")
    scf_input_idx: NonNegativeInt = Field(default=0, description="Entry of scf_input.")
    super_cell: Matrix3 | None = Field(default=None, description="Supercell: [a, b, c], nine numbers, or a 3×3 matrix of integers.")
    scale: PositiveFloats = Field(default=(), description="Factors of the lattice vectors, one or a list.")
    perturb: NonNegativeInt = Field(default=0, le=100_000, description="Randomly perturbed copies of each structure.")
    cell_pert_fraction: NonNegativeFloat = Field(default=0.03, description="Largest relative change of the cell.")
    atom_pert_distance: NonNegativeFloat = Field(default=0.01, le=10.0, description="Largest displacement of an atom in Å.")

    @field_validator("pbc", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return (value, value, value) if isinstance(value, bool | int) else value

    @field_validator("perturb", mode="before")
    @classmethod
    def _no_perturb(cls, value: Any) -> Any:
        return 0 if value is None or value is False else value

    @field_validator("scale")
    @classmethod
    def _factors(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        strange = [factor for factor in value if not _LEAST_SCALE <= factor <= _LARGEST_SCALE]
        if strange:
            raise ValueError(f"{strange[0]:g} is no factor of lattice vectors ({_LEAST_SCALE:g} to {_LARGEST_SCALE:g}; 2 % more is 1.02)")
        return value

    @field_validator("cell_pert_fraction")
    @classmethod
    def _fraction(cls, value: float) -> float:
        if value >= 1.0:
            raise ValueError(f"{value:g} is no fraction of the cell: 3 % is 0.03")
        return value

    @field_validator("super_cell", mode="before")
    @classmethod
    def _matrix(cls, value: Any) -> Any:
        if value is None:
            return None
        flat = (
            [number for row in value for number in (row if isinstance(row, list | tuple) else [row])]
            if isinstance(value, list | tuple)
            else []
        )
        if len(flat) == 3 and not any(isinstance(row, list | tuple) for row in value):
            flat = [flat[0], 0, 0, 0, flat[1], 0, 0, 0, flat[2]]
        if len(flat) != 9 or not all(
            isinstance(number, int | float) and not isinstance(number, bool) and float(number).is_integer() for number in flat
        ):
            raise ValueError("give [a, b, c], nine integers, or a 3×3 matrix of integers")
        rows = tuple(tuple(int(number) for number in flat[3 * row : 3 * row + 3]) for row in range(3))
        (a, b, c), (d, e, f), (g, h, i) = rows
        if a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) <= 0:
            raise ValueError(f"the determinant of {rows} is not positive: this is no supercell")
        if max(abs(number) for row in rows for number in row) > _LARGEST_SUPERCELL:
            raise ValueError(f"a supercell of {rows} is too large to be labelled (at most {_LARGEST_SUPERCELL} cells along a vector)")
        return rows

    @model_validator(mode="after")
    def _one_md(self) -> BulkSystem:
        if self.aimd and self.bigmodel:
            raise ValueError("aimd and bigmodel exclude each other")
        return self


class InitBulkParam(Settings):
    """init_param.json of ``init_bulk``."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"scf_style", "reserve_pwmat_files"})

    filled_by_loader: ClassVar[frozenset[str]] = frozenset({"source", "labelling"})

    work_dir: Path = Field(description="Folder to work in; left out: the current folder.")
    campaign: CampaignName = Field(default="init", description="Name in job names; left out: made from the folder's name.")
    data_format: Literal["extxyz", "pwmlff/npy"] = Field(default="extxyz", description="Format of the labelled data: extxyz or pwmlff/npy.")
    data_shuffle: bool = Field(default=False, description="Shuffle the collected frames (seeded).")
    interval: PositiveInt = Field(default=1, description="Take every n-th frame of a trajectory.")
    reserve_work: bool = Field(default=False, description="Keep temp_init_bulk_work.")
    seed: Int = Field(default=1, description="Root of every random number.")
    sys_config_prefix: str = Field(default="", description="Folder before the paths of sys_configs.")
    sys_configs: tuple[BulkSystem, ...] = Field(description="Structures: one or a list.")
    relax_input: tuple[StageInput, ...] = Field(
        default=(), description="Inputs of the relaxations: a file, {input, kspacing, flag_symm}, or a list of either."
    )
    aimd_input: tuple[StageInput, ...] = Field(default=(), description="Inputs of the ab-initio MD.")
    scf_input: tuple[StageInput, ...] = Field(default=(), description="Inputs of the single points.")
    bigmodel_input: tuple[StageInput, ...] = Field(
        default=(),
        description="The big model's MD: a script that reads POSCAR and leaves traj.xyz, or a model with its MD, e.g. "
        '`{"model": "chgnet", "temperature_k": 600, "nsteps": 500}`, here or in a .json file.',
    )
    direct_input: Paths = Field(
        default=(),
        description="Scripts that choose: they read candidate.xyz and leave select_idx.dat and select.xyz. Without one, scf_max_num frames "
        "are chosen as `pwact-like choose --method direct` does.",
    )
    scf_max_num: PositiveInt | None = Field(default=None, description="At most so many frames are labelled by single points.")
    labelling: LabelSettings = Field(
        default_factory=LabelSettings, description="The program: dft_style, pseudo, in_skf, gaussian_param at this level."
    )
    source: Path | None = Field(default=None, description="The file that this was read from.")

    @field_validator("data_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("sys_configs")
    @classmethod
    def _some(cls, value: tuple[BulkSystem, ...]) -> tuple[BulkSystem, ...]:
        if not value:
            raise ValueError("no structure is named")
        return value
