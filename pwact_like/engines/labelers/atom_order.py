"""The structure that was asked, and the order in which a program that wants atoms sorted by element gets them.

VASP and PWmat want the atoms of one element together. What they print comes back in their order; forces belong to atoms
by their place, so the permutation is written down beside the input and undone on reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_json

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.data.frames import Frame

ASKED_FILE = "asked.json"
_SAME_ANG = 1.0e-3  # what a program prints of a structure is rounded; further off it is another one


@dataclass(frozen=True)
class Asked:
    """A structure and the order that a program has it in.

    Attributes
    ----------
    atoms
        As it was asked.
    order
        Place in ``atoms`` of the program's first, second, … atom; shape (n_atoms,).
    """

    atoms: Atoms
    order: NDArray[np.int64]

    @property
    def sorted_atoms(self) -> Atoms:
        """The structure in the program's order."""
        return self.atoms[self.order]

    def mismatch(self, frame: Frame) -> str:
        """Why a frame in the program's order has other atoms than were asked; "" when it has the same."""
        wanted, found = self.atoms.numbers[self.order], frame.atoms.numbers
        if len(wanted) == len(found) and (wanted == found).all():
            return ""
        return (
            f"the output has the atoms {_formula(found)}, and {_formula(wanted)} were asked, in this order: "
            "is it of another run, or another potential file?"
        )

    def restored(self, frames: Iterable[Frame], exact_start: bool = False) -> list[Frame]:
        """Frames in the order that was asked, periodic as that is; atoms do not jump from one image to another.

        Parameters
        ----------
        frames
            In the program's order, one after the other in time.
        exact_start
            Put the asked structure with all its digits into the first frame where the printed one is the same but for rounding.

        Raises
        ------
        DataError
            When it has other atoms.
        """
        from pwact_like.data.checks import same_structure

        found: list[Frame] = []
        before = self.atoms
        for frame in frames:
            wrong = self.mismatch(frame)
            if wrong:
                raise DataError(wrong)
            atoms: Atoms = frame.atoms[np.argsort(self.order)]
            atoms.pbc = self.atoms.pbc
            if exact_start and not found and same_structure(atoms, self.atoms, _SAME_ANG) is None:
                atoms = self.atoms.copy()
            jumps = np.round(atoms.cell.scaled_positions(atoms.positions - before.positions))
            atoms.positions -= jumps @ atoms.cell.array
            found.append(self._with_label(frame, atoms))
            before = atoms
        return found

    def _with_label(self, frame: Frame, atoms: Atoms) -> Frame:
        back = np.argsort(self.order)
        label = frame.label
        if label is not None:
            label = replace(
                label,
                forces_ev_per_ang=label.forces_ev_per_ang[back],
                # the stress of a box with vacuum means nothing
                virial_ev=label.virial_ev if self.atoms.pbc.all() else None,
                atomic_energies_ev=None if label.atomic_energies_ev is None else label.atomic_energies_ev[back],
            )
        return replace(frame, atoms=atoms, label=label)


def asked_of(atoms: Atoms, by: Literal["symbol", "number"]) -> Asked:
    """The structure with its atoms sorted by chemical symbol or atomic number; those of one element keep their order."""
    keys = np.array(atoms.get_chemical_symbols()) if by == "symbol" else atoms.numbers
    return Asked(atoms, np.argsort(keys, kind="stable"))


def write_asked(folder: Path, asked: Asked) -> None:
    """Write structure and order with every digit."""
    atoms = asked.atoms
    content = {
        "numbers": atoms.numbers.tolist(),
        "positions_ang": atoms.positions.tolist(),
        "cell_ang": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "order": asked.order.tolist(),
    }
    write_json(folder / ASKED_FILE, content)


def read_asked(folder: Path) -> Asked:
    """What `write_asked` wrote.

    Raises
    ------
    DataError
        When it is missing or not whole.
    """
    from ase import Atoms

    path = folder / ASKED_FILE
    content = read_json(path)
    try:
        atoms = Atoms(numbers=content["numbers"], positions=content["positions_ang"], cell=content["cell_ang"], pbc=content["pbc"])
        order = np.array(content["order"], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: no structure with an order of its atoms: {error}") from error
    if sorted(order.tolist()) != list(range(len(atoms))):
        raise DataError(f"{path}: its order is no permutation of {len(atoms)} atoms")
    return Asked(atoms, order)


def species_of(atoms: Atoms) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Symbols and counts of the runs of equal atoms, in the structure's order."""
    symbols: list[str] = []
    counts: list[int] = []
    for symbol in atoms.get_chemical_symbols():
        if symbols and symbols[-1] == symbol:
            counts[-1] += 1
        else:
            symbols.append(symbol)
            counts.append(1)
    return tuple(symbols), tuple(counts)


def _formula(numbers: NDArray[np.int64]) -> str:
    from ase import Atoms

    symbols, counts = species_of(Atoms(numbers=numbers))
    return " ".join(f"{symbol}{count}" for symbol, count in zip(symbols, counts, strict=True))
