"""The result of a CP2K relaxation: the structure from its restart file (16 digits), the label from its last evaluation.

CP2K computes the relaxed structure once more at the end ("Reevaluating energy at the minimum"), and writes that frame
into PROJECT-pos-1.xyz but its cell not into PROJECT-1.cell (seen in 2023.1); the restart file has both. For a cell
optimisation CP2K turns the cell (a along x, b in the xy plane): structure, forces and stress are in the turned frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pwact_like.data.cp2k_output import scan_output
from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.engines.labelers.cp2k_input import Section, read_input_file
from pwact_like.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_OPTIMISED = "GEOMETRY OPTIMIZATION COMPLETED"
_PRINTED_CELL_TOLERANCE_ANG = 2e-3  # the output has three decimals


def structure_of(root: Section, path: Path) -> Atoms:
    """Structure that an input (or restart) file holds: CELL's A, B, C and COORD, in Å, as we and CP2K write them.

    Raises
    ------
    DataError
        When they are not there.
    """
    from ase import Atoms

    cell = root.find("FORCE_EVAL", "SUBSYS", "CELL") or Section("", "", "")
    coordinates = root.find("FORCE_EVAL", "SUBSYS", "COORD") or Section("", "", "")
    rows = [line.text.split() for line in coordinates.lines() if line.keyword not in ("", "UNIT", "SCALED")]
    periodic = cell.value("PERIODIC").upper() or "XYZ"
    try:
        vectors = [[float(word) for word in cell.value(axis).split()] for axis in "ABC"]
        positions = [[float(word) for word in row[1:4]] for row in rows]
        return Atoms([row[0] for row in rows], positions, cell=vectors, pbc=[axis in periodic and periodic != "NONE" for axis in "XYZ"])
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: its &CELL and &COORD cannot be read: {error}") from error


def read_relaxed(output: Path, restart: Path, started: Atoms) -> Frame | str:
    """The relaxed structure with its label, or why there is none.

    Parameters
    ----------
    output, restart
        CP2K's standard output and restart file.
    started
        The structure that was asked: elements and their order must have stayed.

    Raises
    ------
    DataError
        When the run was cut short or a file cannot be read: it may be tried again.
    """
    printed = scan_output(output)
    last = printed.evaluations[-1] if printed.evaluations else None
    if last is not None and not last.converged and (printed.ended or last.energy_ev is None):
        return "the last structure of the relaxation: SCF not converged ('SCF run NOT converged')"
    if not printed.ended or last is None:
        raise DataError(
            f"{output}: the output ends at line {printed.lines} without 'PROGRAM ENDED AT': the run was killed or is still going"
        )
    if _OPTIMISED not in output.read_text(encoding="utf-8", errors="replace"):
        return f"relaxation not converged after {len(printed.evaluations)} evaluations: raise MAX_ITER, or loosen MAX_FORCE"
    if last.energy_ev is None or last.forces is None:
        raise DataError(f"{output}: the relaxed structure has no energy or no forces")
    atoms = structure_of(read_input_file(restart), restart)
    if list(atoms.numbers) != list(started.numbers) or len(last.forces) != len(atoms):
        raise DataError(f"{restart}: other atoms than in the input, or not as many as there are forces")
    if last.cell_ang is not None and np.abs(last.cell_ang - atoms.cell.array).max() > _PRINTED_CELL_TOLERANCE_ANG:
        raise DataError(f"{restart}: another cell than that of the last evaluation in {output.name}")
    virial = last.stress * abs(float(np.linalg.det(atoms.cell.array))) if last.stress is not None and atoms.pbc.all() else None
    return Frame(atoms, Label(last.energy_ev, last.forces, virial), Origin(source=str(output), step=len(printed.evaluations) - 1))
