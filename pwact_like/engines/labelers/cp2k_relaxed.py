"""The result of a CP2K relaxation: the structure from its restart file (16 digits), the label from its last forces.

CP2K computes the energy of the relaxed structure once more at the end ("Reevaluating energy at the minimum"), without
forces or stress, and writes that frame into PROJECT-pos-1.xyz but its cell not into PROJECT-1.cell (seen in 2023.1).
The label therefore is the evaluation before it, which must be of the same structure: the same energy and cell. For a cell
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
_SAME_ENERGY_EV_PER_ATOM = 2e-4  # the grids may be set up anew in between; another structure of a line search differs more
_PRINTED_CELL_TOLERANCE_ANG = 2e-3  # the output has three decimals


def require_end(output: Path) -> str:
    """The output's text, which must have its end.

    CP2K from 2024 on stops at an SCF that does not converge, with its "[ABORT]" banner: that is an end too.

    Raises
    ------
    DataError
        When the run was cut short.
    """
    text = output.read_text(encoding="utf-8", errors="replace")
    aborted = "[ABORT]" in text and "SCF run NOT converged" in text
    if "PROGRAM ENDED AT" not in text and not aborted:
        raise DataError(f"{output}: there is no 'PROGRAM ENDED AT' in it: the run was killed or is still going")
    return text


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
    text = require_end(output)
    printed = scan_output(output)
    if not printed.evaluations:
        raise DataError(f"{output}: there is no energy in it")
    last = printed.evaluations[-1]
    if not last.converged:
        return "the last structure of the relaxation: SCF not converged ('SCF run NOT converged')"
    if _OPTIMISED not in text:
        return f"relaxation not converged after {len(printed.evaluations)} evaluations: raise MAX_ITER, or loosen MAX_FORCE"
    final = next((evaluation for evaluation in reversed(printed.evaluations) if evaluation.forces is not None), None)
    if last.energy_ev is None or final is None or final.energy_ev is None or final.forces is None:
        raise DataError(f"{output}: the relaxed structure has no energy or no forces")
    if abs(final.energy_ev - last.energy_ev) > _SAME_ENERGY_EV_PER_ATOM * len(started):
        return (
            f"the last printed forces are not those of the relaxed structure (energies {final.energy_ev:.6f} and {last.energy_ev:.6f} eV): "
            "OPTIMIZER BFGS prints them"
        )
    if not final.converged:
        return "the relaxed structure: SCF not converged ('SCF run NOT converged')"
    atoms = structure_of(read_input_file(restart), restart)
    if list(atoms.numbers) != list(started.numbers) or len(final.forces) != len(atoms):
        raise DataError(f"{restart}: other atoms than in the input, or not as many as there are forces")
    if final.cell_ang is not None and np.abs(final.cell_ang - atoms.cell.array).max() > _PRINTED_CELL_TOLERANCE_ANG:
        raise DataError(f"{restart}: another cell than that of the last evaluation in {output.name}")
    virial = final.stress * abs(float(np.linalg.det(atoms.cell.array))) if final.stress is not None and atoms.pbc.all() else None
    return Frame(atoms, Label(final.energy_ev, final.forces, virial), Origin(source=str(output), step=len(printed.evaluations) - 1))
