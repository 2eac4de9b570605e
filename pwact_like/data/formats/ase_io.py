"""Formats that ASE reads right, turned into our frames and signs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pwact_like.data.formats.base import Item, Rejected, contains, labelled_frame, make_atoms, symbols_to_numbers, volume_ang3
from pwact_like.data.frames import Frame, Origin
from pwact_like.errors import DataError
from pwact_like.units import virial_from_stress

if TYPE_CHECKING:
    from ase import Atoms


def _bare(atoms: Atoms) -> Atoms:
    """Numbers, positions, cell and pbc only."""
    bare = make_atoms(atoms.numbers, atoms.positions, atoms.cell.array if atoms.cell.rank else None, atoms.pbc)
    return bare


def iter_ase(path: Path, ase_format: str | None = None) -> Iterator[Item]:
    """Frames that ASE reads; the free energy before the energy, forces as computed (constraints do not blank them)."""
    from ase.io import iread
    from ase.io.formats import UnknownFileTypeError

    unconverged = path.is_file() and contains(path, b"convergence NOT achieved")  # Quantum ESPRESSO
    index = 0
    try:
        for atoms in iread(str(path), index=":", format=ase_format):
            results: dict[str, Any] = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
            energy_ev = results.get("free_energy", results.get("energy"))
            forces = results.get("forces")
            if unconverged:
                yield Rejected(index, "SCF not converged somewhere in this file ('convergence NOT achieved')")
            elif energy_ev is None or forces is None:
                yield Frame(_bare(atoms), None, Origin(source=str(path), step=index))
            else:
                stress = results.get("stress")
                virial = None if stress is None or atoms.cell.rank < 3 else virial_from_stress(stress, volume_ang3(atoms))
                yield labelled_frame(_bare(atoms), energy_ev, forces, virial, path, index)
            index += 1
    except DataError:
        raise
    except UnknownFileTypeError as error:
        raise DataError(f"{path}: the format is not recognised: name it (see to_pwdata -h): {error}") from error
    except (OSError, ValueError, KeyError, IndexError, AssertionError, StopIteration, RuntimeError, TypeError, ImportError) as error:
        raise DataError(f"{path}: ASE cannot read it, at frame {index} (from 0): {type(error).__name__}: {error}") from error
    if index == 0:
        raise DataError(f"{path}: no structure in it")


def read_poscar(path: Path) -> Atoms:
    """A POSCAR or CONTCAR."""
    from ase.io import read

    try:
        atoms = cast("Atoms", read(str(path), format="vasp"))
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, TypeError) as error:
        raise DataError(f"{path}: not a readable POSCAR: {type(error).__name__}: {error}") from error
    return _bare(atoms)


def read_lammps_data(path: Path, elements: Sequence[str] | None = None) -> Atoms:
    """A LAMMPS data file of style atomic or charge; elements from ``elements`` (type 1, 2, …), else from its masses.

    Raises
    ------
    DataError
        When the file is broken, or its types cannot be told (neither elements nor masses).
    """
    from ase.io import read

    text = path.read_text(encoding="utf-8", errors="replace")
    style = re.search(r"^\s*Atoms\s*#\s*(\w+)", text, re.MULTILINE)
    options: dict[str, Any] = {"units": "metal", "atom_style": style[1] if style else "atomic", "sort_by_id": True}
    if elements:
        options["Z_of_type"] = {place + 1: int(number) for place, number in enumerate(symbols_to_numbers(list(elements), "elements"))}
    elif not re.search(r"^\s*Masses", text, re.MULTILINE):
        raise DataError(f"{path}: no Masses, so the elements of its types are unknown: name them in order (atom types)")
    try:
        atoms = cast("Atoms", read(str(path), format="lammps-data", **options))
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, TypeError) as error:
        raise DataError(f"{path}: not a readable LAMMPS data file: {type(error).__name__}: {error}") from error
    atoms.pbc = np.ones(3, dtype=bool)
    return _bare(atoms)
