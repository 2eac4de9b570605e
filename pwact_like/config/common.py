"""Pieces that several settings files share: data paths, the input of a stage, structures, Gaussian basis sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pwact_like.config.base import Int, PositiveFloat, Settings, Strings


class DataPath(Settings):
    """Labelled data: a file or a folder, with its format and the sign of its virial."""

    path: Path = Field(description="File or folder; glob patterns are allowed in JSON (each match becomes one entry).")
    format: str | None = Field(
        default=None, description="Format as to_pwdata knows it, e.g. `extxyz`, `pwmlff/npy`, `vasp/outcar`; guessed when left out."
    )
    virial_sign: Literal[1, -1] = Field(
        default=1, description="−1 flips the virial on reading: for files that hold +V·σ instead of −V·σ (eV)."
    )


class StageInput(Settings):
    """Input of one labelling stage (relax, aimd, scf): a program's input file, or inline settings of an embedded engine."""

    input: Path | None = Field(default=None, description="The program's input file (etot.input, INCAR, a CP2K input, a script).")
    kspacing: PositiveFloat | None = Field(default=None, description="Spacing of the k-points in 1/Å, 2π included.")
    flag_symm: Int | None = Field(default=None, description="PWmat's symmetry flag; when left out 0 for relax and scf, 3 for aimd.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Inline settings of an embedded engine (dft_style xtb, ase or bigmodel)."
    )


class SysConfig(Settings):
    """A starting structure of the exploration: one entry of sys_configs, with every file that its pattern matches."""

    filled_by_loader: ClassVar[frozenset[str]] = frozenset({"files"})

    config: str = Field(description="Path or glob pattern of the structure(s), below sys_config_prefix if that is given.")
    format: str | None = Field(
        default=None, description="Format of the structure, e.g. `pwmat/config`, `vasp/poscar`; guessed when left out."
    )
    files: tuple[Path, ...] = Field(default=(), description="The matching files, sorted.")


class GaussianParam(Settings):
    """Gaussian basis sets and potentials for CP2K, or for PWmat with Gaussians."""

    basis_set_file: Path = Field(description="File with the basis sets; a bare name may be one in CP2K's data folder.")
    potential_file: Path = Field(description="File with the pseudopotentials; a bare name may be one in CP2K's data folder.")
    atom_list: Strings = Field(default=(), description="Element symbols, one for each basis set.")
    basis_set_list: Strings = Field(default=(), description="Name of the basis set of each element.")
    potential_list: Strings = Field(default=(), description="Name of the potential of each element.")
    kspacing: PositiveFloat | None = Field(default=None, description="Spacing of the k-points in 1/Å, 2π included.")
