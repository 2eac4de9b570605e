"""Structures made from structures: supercell, scaled cell, random strain and displacements; and their files.

Pure functions of their arguments: everything random comes from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.fsio import write_text, write_through

if TYPE_CHECKING:
    from ase import Atoms

Matrix3 = Sequence[Sequence[int]]

# what PWact calls the structure files of a program; .xyz is extended XYZ with every digit
SUFFIX_OF_ENGINE = {"pwmat": ".config", "vasp": ".poscar"}
DEFAULT_SUFFIX = ".xyz"


def bare(atoms: Atoms, pbc: Sequence[bool] | None = None) -> Atoms:
    """Numbers, positions, cell and pbc only: no calculator, velocities, constraints or charges."""
    from ase import Atoms as AtomsClass

    return AtomsClass(
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        pbc=atoms.pbc if pbc is None else pbc,
    )


def super_cell(atoms: Atoms, matrix: Matrix3) -> Atoms:
    """Supercell whose lattice vectors are ``matrix @ cell`` (rows are vectors); the determinant must be positive.

    Copies follow one another whole; along directions that are not periodic nothing is wrapped.
    """
    from ase.build import make_supercell

    return bare(make_supercell(atoms, np.array(matrix, dtype=int)))


def scaled(atoms: Atoms, factor: float) -> Atoms:
    """Lattice vectors and positions times ``factor``: the volume changes by its cube, fractional coordinates stay."""
    result = bare(atoms)
    result.set_cell(factor * atoms.cell.array, scale_atoms=False)
    result.positions = factor * atoms.positions
    return result


def random_strain(rng: np.random.Generator, fraction: float) -> NDArray[np.float64]:
    """Deformation I + ε with the six components of a lower triangle ε, each uniform in [−fraction, fraction].

    Six numbers are all that a strain has; a triangle holds no rotation, so nothing is drawn in vain. PWact's samples
    have the same shape. It is applied from the right: new lattice vectors are ``cell @ (I + ε)``.
    """
    strain = np.zeros((3, 3))
    strain[np.tril_indices(3)] = rng.uniform(-fraction, fraction, 6)
    return np.eye(3) + strain


def random_displacements(rng: np.random.Generator, n_atoms: int, distance_ang: float) -> NDArray[np.float64]:
    """Vectors uniform in the ball of radius ``distance_ang``, shape (n_atoms, 3), Å."""
    directions = rng.normal(size=(n_atoms, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # the volume inside r grows as r³
    lengths = distance_ang * np.cbrt(rng.uniform(size=(n_atoms, 1)))
    return directions * lengths


def perturbed(atoms: Atoms, cell_pert_fraction: float, atom_pert_distance_ang: float, seed: int) -> Atoms:
    """Strain cell and atoms at random, then displace every atom at random.

    Parameters
    ----------
    atoms
        The structure to start from.
    cell_pert_fraction
        Largest component of the strain (see `random_strain`), below 1.
    atom_pert_distance_ang
        Largest displacement of an atom, Å.
    seed
        Decides everything.
    """
    rng = np.random.default_rng(seed)
    deformation = random_strain(rng, cell_pert_fraction)
    result = bare(atoms)
    result.set_cell(atoms.cell.array @ deformation, scale_atoms=False)
    result.positions = atoms.positions @ deformation + random_displacements(rng, len(atoms), atom_pert_distance_ang)
    return result


def structure_suffix(engine: str) -> str:
    """``.config`` for PWmat, ``.poscar`` for VASP, ``.xyz`` for every other labelling engine."""
    return SUFFIX_OF_ENGINE.get(engine, DEFAULT_SUFFIX)


def write_structure(path: Path, atoms: Atoms) -> None:
    """Write one structure in the format that its suffix names, with full precision, atomically."""
    if path.suffix == ".config":
        write_text(path, _atom_config_text(atoms))
    elif path.suffix == ".poscar":
        write_through(path, lambda temporary: _write_poscar(temporary, atoms))
    else:
        from pwact_like.data.formats import write_frames
        from pwact_like.data.frames import Frame

        write_frames(path, [Frame(atoms)], "extxyz")


def _atom_config_text(atoms: Atoms) -> str:
    """PWmat's atom.config; atoms of one element stand together, as PWmat wants them."""
    order = np.argsort(atoms.numbers, kind="stable")
    fractional = atoms.cell.scaled_positions(atoms.positions)[order]
    lines = [f"{len(atoms)}", "LATTICE"]
    lines += ["  " + "  ".join(f"{number:.16f}" for number in row) for row in atoms.cell.array]
    lines.append("POSITION")
    for number, row in zip(atoms.numbers[order], fractional, strict=True):
        lines.append(f"{int(number):4d}  " + "  ".join(f"{value:.16f}" for value in row) + "  1 1 1")
    return "\n".join(lines) + "\n"


def _write_poscar(path: Path, atoms: Atoms) -> None:
    """POSCAR with fractional coordinates; atoms of one element stand together, as the POTCAR will."""
    from ase.io import write

    options: dict[str, Any] = {"direct": True, "sort": True, "vasp5": True}
    write(str(path), atoms, format="vasp", **options)
