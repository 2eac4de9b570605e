"""VASP's vasprun.xml: one frame a calculation.

Energy: ``e_fr_energy`` of the calculation (the free energy TOTEN). Stress: in kB, positive under compression, so
W = +V·stress. vasprun.xml does not say whether EDIFF was reached: a calculation that used all NELM electronic steps is
taken as not converged (the OUTCAR says it outright and is the better source).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree  # reads a file of the user's own VASP

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import Item, Rejected, TruncatedError, labelled_frame, make_atoms, symbols_to_numbers, volume_ang3
from pwact_like.data.frames import Frame, Origin
from pwact_like.errors import DataError
from pwact_like.units import BAR_PER_EV_PER_ANG3

_EV_PER_ANG3_PER_KBAR = 1000.0 / BAR_PER_EV_PER_ANG3


def _rows(parent: ElementTree.Element, name: str) -> NDArray[np.float64] | None:
    array = parent.find(f".//varray[@name='{name}']")
    if array is None:
        return None
    return np.array([(row.text or "").split() for row in array.findall("v")], dtype=np.str_).astype(np.float64)


def iter_vasprun(path: Path) -> Iterator[Item]:
    """Calculations of a vasprun.xml.

    Raises
    ------
    TruncatedError
        When the file has no end (the run was killed), after the last whole calculation.
    """
    symbols: list[str] = []
    nelm: int | None = None
    index = 0
    try:
        for _, element in ElementTree.iterparse(str(path)):  # noqa: S314 - see the import
            if element.tag == "atominfo":
                cells = element.findall("./array[@name='atoms']/set/rc/c[1]")
                symbols = [(cell.text or "").strip() for cell in cells]
            elif element.tag == "i" and element.get("name") == "NELM":
                nelm = int(element.text or 0)
            elif element.tag == "calculation":
                yield _calculation(element, path, symbols, nelm, index)
                index += 1
                element.clear()  # a long AIMD would fill the memory
    except ElementTree.ParseError as error:
        raise TruncatedError(f"{path}: the file ends too early or is broken after {index} calculations: {error}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read, at calculation {index} (from 0): {error}") from error
    if index == 0:
        raise DataError(f"{path}: no calculation in it")


def _calculation(element: ElementTree.Element, path: Path, symbols: list[str], nelm: int | None, index: int) -> Item:
    cell = _rows(element, "basis")
    scaled = _rows(element, "positions")
    forces = _rows(element, "forces")
    stress_kbar = _rows(element, "stress")
    energy = element.find("./energy/i[@name='e_fr_energy']")
    if cell is None or scaled is None or len(scaled) != len(symbols):
        return Rejected(index, "no structure in this calculation")
    atoms = make_atoms(symbols_to_numbers(symbols, str(path)), scaled @ cell, cell)
    if forces is None or energy is None:
        return Frame(atoms, None, Origin(source=str(path), step=index))
    electronic = len(element.findall("scstep"))
    if nelm is not None and electronic >= nelm:
        return Rejected(index, f"SCF not converged: all {electronic} electronic steps were used (NELM = {nelm})")
    virial = None if stress_kbar is None else stress_kbar * _EV_PER_ANG3_PER_KBAR * volume_ang3(atoms)
    return labelled_frame(atoms, float(energy.text or "nan"), forces, virial, path, index)
