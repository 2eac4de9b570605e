"""What CP2K prints: energies, forces and stresses with every digit, and which SCF did not converge.

Checked against CP2K 2023.1 and by finite differences of its own energies (tests/unit/test_data_cp2k.py):

* ``ENERGY| Total FORCE_EVAL`` contains the electronic entropy term: it is the free energy that the forces belong to;
* the printed "analytical stress tensor" is positive under compression and has no kinetic part: W = +stress·V. The
  trajectory file ``PROJECT-1.stress`` does contain the ions' kinetic part in MD: it is not used;
* the cell is printed with three decimals and positions with six, so both are taken from elsewhere: the structure that
  the caller knows, the run's trajectory files (PROJECT-pos-1.xyz, PROJECT-1.cell), or the input file;
* after an SCF that did not converge CP2K (before 2024) goes on and prints energies as if nothing had happened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import Item, LineReader, ReadResult, Rejected, TruncatedError, labelled_frame, open_lines, volume_ang3
from pwact_like.data.frames import Frame, Origin
from pwact_like.errors import DataError
from pwact_like.units import ANG_PER_BOHR, BAR_PER_EV_PER_ANG3, EV_PER_ANG_PER_HARTREE_PER_BOHR, EV_PER_HARTREE, GPA_PER_EV_PER_ANG3

if TYPE_CHECKING:
    from ase import Atoms

_ENERGY = re.compile(r"ENERGY\|\s*Total FORCE_EVAL.*energy\s*[\[(].*?[\])]:?\s*(\S+)")
_FORCES_OLD = re.compile(r"ATOMIC FORCES in \[(.+?)\]")  # to 2023; "FORCES|" from 2024 on
_FORCES_NEW = re.compile(r"FORCES\|\s*Atomic forces\s*\[(.+?)\]")
_STRESS_NEW = re.compile(r"STRESS\|\s*(?:Analytical|Numerical)?\s*stress tensor\s*\[(.+?)\]", re.IGNORECASE)  # from 8.1 on
_STRESS_OLD = re.compile(r"STRESS TENSOR\s*\[(.+?)\]")  # to 7.1
_CELL = re.compile(r"CELL\|\s*Vector ([abc])\s*\[angstrom\]:?\s+(\S+)\s+(\S+)\s+(\S+)", re.IGNORECASE)
_ENSEMBLE = re.compile(r"MD(?:_PAR)?\|\s*Ensemble type\s+(\S+)", re.IGNORECASE)
_NOT_CONVERGED = "SCF run NOT converged"
_ENDED = "PROGRAM ENDED AT"
_ABORTED = "[ABORT]"
_FORCE_UNITS = {
    "a.u.": EV_PER_ANG_PER_HARTREE_PER_BOHR,
    "hartree/bohr": EV_PER_ANG_PER_HARTREE_PER_BOHR,
    "ev/angstrom": 1.0,
    "ev*angstrom^-1": 1.0,
}
_STRESS_UNITS = {
    "gpa": 1.0 / GPA_PER_EV_PER_ANG3,
    "bar": 1.0 / BAR_PER_EV_PER_ANG3,
    "kbar": 1000.0 / BAR_PER_EV_PER_ANG3,
    "a.u.": EV_PER_HARTREE / ANG_PER_BOHR**3,
}


@dataclass
class Evaluation:
    """One energy that CP2K printed, and what came with it.

    Attributes
    ----------
    energy_ev
        Free energy in eV; None when the run stopped before it.
    energy_text
        As printed, in Hartree: pairs the evaluation with a frame of the trajectory file.
    forces
        Shape (n_atoms, 3), eV/Å.
    stress
        Shape (3, 3), eV/Å³, CP2K's sign: positive under compression.
    cell_ang
        The cell printed before it (three decimals), for comparison only.
    converged
        False after "SCF run NOT converged".
    reevaluated
        Whether CP2K said that it computes the last structure of a relaxation once more.
    line
        Where it ended in the file.
    """

    energy_ev: float | None = None
    energy_text: str = ""
    forces: NDArray[np.float64] | None = None
    stress: NDArray[np.float64] | None = None
    cell_ang: NDArray[np.float64] | None = None
    converged: bool = True
    reevaluated: bool = False
    line: int = 0


@dataclass(frozen=True)
class Printed:
    """Everything of use in CP2K's standard output; ``ended`` and ``aborted``: its last line is there, or its banner for an error."""

    project: str
    run_type: str
    input_name: str
    ensemble: str
    ended: bool
    aborted: bool
    lines: int
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def cell_changes(self) -> bool:
        """Whether the run changes its cell."""
        return self.run_type.upper() == "CELL_OPT" or self.ensemble.upper().startswith(("NPT", "NPE"))

    @property
    def cut_off(self) -> bool:
        """Whether the run was killed or is still going."""
        return not self.ended and not self.aborted

    def is_whole(self, index: int) -> bool:
        """Whether all that belongs to an evaluation was printed: of a run that was cut off the last one may lack forces or stress.

        It must have what the first one has, and where it is the first one itself, both.
        """
        last, first = self.evaluations[index], self.evaluations[0]
        if not self.cut_off or index + 1 < len(self.evaluations) or last.energy_ev is None:
            return True
        alone = index == 0
        return all(
            mine is not None or (not alone and its is None) for mine, its in ((last.forces, first.forces), (last.stress, first.stress))
        )


def _unit(table: dict[str, float], text: str, reader: LineReader) -> float:
    factor = table.get(text.strip().lower())
    if factor is None:
        raise reader.wrong(f"unknown unit [{text}]; known: {', '.join(table)}")
    return factor


def _floats(words: list[str], reader: LineReader) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise reader.wrong(f"numbers expected, this is there: {' '.join(words)}") from error


def _forces(reader: LineReader, factor: float, new: bool) -> NDArray[np.float64]:
    """The rows of a force table; it ends with its sum."""
    rows: list[list[float]] = []
    while True:
        words = reader.block(1, "the forces")[0].replace("FORCES|", " ").split()
        if words and (words[0] == "SUM" or words[0] == "Sum"):
            return np.array(rows).reshape(-1, 3) * factor
        if words and words[0].isdigit():
            # number, kind, element, x, y, z — or number, x, y, z, norm
            rows.append(_floats(words[1:4] if new else words[3:6], reader))
            if len(rows[-1]) != 3 or int(words[0]) != len(rows):
                raise reader.wrong("a row of the force table cannot be read")


def _stress(reader: LineReader, factor: float) -> NDArray[np.float64]:
    rows: list[list[float]] = []
    for _ in range(12):
        words = reader.block(1, "the stress tensor")[0].replace("STRESS|", " ").split()
        if len(words) == 4 and words[0].lower() == "xyz"[len(rows)]:
            rows.append(_floats(words[1:], reader))
            if len(rows) == 3:
                return np.array(rows) * factor
    raise reader.wrong("the stress tensor has no rows x, y, z")


def scan_output(path: Path) -> Printed:
    """Read the standard output of a run; nothing is judged yet.

    Raises
    ------
    DataError
        When the file is not CP2K's, or a number in it cannot be read.
    """
    evaluations: list[Evaluation] = []
    facts = {"Project name": "", "Run type": "", "Input file name": ""}
    ensemble = ""
    ended = aborted = seen = False
    current = Evaluation()
    cell = np.zeros((3, 3))
    with open_lines(path) as reader, suppress(TruncatedError):  # in a table: what is there of its evaluation ends before it
        while (text := reader.line()) is not None:
            if not text.endswith("\n") and _ENDED not in text:
                break  # digits may be missing
            if "|" in text:
                if "GLOBAL|" in text or "CP2K|" in text:
                    seen = True
                    for name in facts:
                        if name in text:
                            facts[name] = text.split(name, 1)[1].strip()
                elif found := _ENERGY.search(text):
                    if current.energy_ev is not None:
                        evaluations.append(current)
                        current = Evaluation(cell_ang=current.cell_ang)
                    current.energy_text = found[1]
                    current.energy_ev = _floats([found[1]], reader)[0] * EV_PER_HARTREE
                    current.line = reader.number
                    continue
                elif found := _CELL.search(text):
                    if current.energy_ev is not None:
                        evaluations.append(current)
                        current = Evaluation()
                    cell["abc".index(found[1].lower())] = _floats([found[2], found[3], found[4]], reader)
                    current.cell_ang = cell.copy()
                elif found := _STRESS_NEW.search(text):
                    current.stress = _stress(reader, _unit(_STRESS_UNITS, found[1], reader))
                elif found := _FORCES_NEW.search(text):
                    current.forces = _forces(reader, _unit(_FORCE_UNITS, found[1], reader), new=True)
                elif found := _ENSEMBLE.search(text):
                    ensemble = found[1]
            elif _NOT_CONVERGED in text:
                if current.energy_ev is not None:
                    evaluations.append(current)
                    current = Evaluation(cell_ang=current.cell_ang)
                current.converged = False
            elif found := _FORCES_OLD.search(text):
                current.forces = _forces(reader, _unit(_FORCE_UNITS, found[1], reader), new=False)
            elif "STRESS TENSOR" in text and (found := _STRESS_OLD.search(text)):
                current.stress = _stress(reader, _unit(_STRESS_UNITS, found[1], reader))
            elif "Reevaluating energy at the minimum" in text:
                if current.energy_ev is not None:
                    evaluations.append(current)
                    current = Evaluation(cell_ang=current.cell_ang)
                current.reevaluated = True
            elif _ENDED in text:
                ended = True
            elif _ABORTED in text:
                aborted = True
    if current.energy_ev is not None or not current.converged:
        current.line = current.line or reader.number
        evaluations.append(current)
    if not seen:
        raise reader.wrong("this is not what CP2K prints (no 'CP2K|' or 'GLOBAL|' line)")
    names = (facts["Project name"], facts["Run type"], facts["Input file name"])
    return Printed(*names, ensemble, ended, aborted, reader.number, evaluations)


def iter_cp2k_output(path: Path, atoms: Atoms | None = None, *, cut_off: bool = False) -> Iterator[Item]:
    """Evaluations of a run as frames, in the order of the output. See `read_cp2k_output`.

    Of a run that was cut off, as the caller knows or the output shows, the whole ones for which the trajectory files, which may lag
    behind, have the structure; then TruncatedError where the output has no end.
    """
    from pwact_like.data.cp2k_geometry import Geometry

    printed = scan_output(path)
    geometry = Geometry(path, printed, atoms, cut_off=cut_off or printed.cut_off)
    for index, evaluation in enumerate(printed.evaluations):
        if not printed.is_whole(index):
            break
        if not evaluation.converged:
            yield Rejected(index, f"SCF not converged ('{_NOT_CONVERGED}'; its output ends at line {evaluation.line})")
            continue
        if evaluation.energy_ev is None:
            continue
        structure = geometry.structure(evaluation, index)
        if isinstance(structure, str):
            yield Rejected(index, structure)
            continue
        forces = evaluation.forces if evaluation.forces is not None else geometry.forces(evaluation)
        if forces is None:
            yield Frame(structure, None, Origin(source=str(path), step=index))
            continue
        if len(forces) != len(structure):
            raise DataError(f"{path}: line {evaluation.line}: forces of {len(forces)} atoms, but the structure has {len(structure)}")
        # a stress in a box that is open somewhere means nothing
        virial = None if evaluation.stress is None or not structure.pbc.all() else evaluation.stress * volume_ang3(structure)
        yield labelled_frame(structure, evaluation.energy_ev, forces, virial, path, index)
    if not printed.ended:
        aborted = bool(printed.evaluations) and not printed.evaluations[-1].converged and printed.evaluations[-1].energy_ev is None
        if not aborted:  # from 2024 on CP2K stops at an SCF that does not converge: that is a rejected frame, not a lost one
            raise_truncated(path, printed)


def raise_truncated(path: Path, printed: Printed) -> None:
    """Raise the error for a run without end."""
    complete = sum(evaluation.energy_ev is not None for evaluation in printed.evaluations)
    raise TruncatedError(
        f"{path}: the output ends at line {printed.lines} after {complete} energies, without '{_ENDED}': "
        "the run was killed or is still going (run it again, or read what is there as truncated)"
    )


def read_cp2k_output(path: Path, atoms: Atoms | None = None, *, truncated_ok: bool = False) -> ReadResult:
    """Labelled frames of a CP2K run, and the evaluations that are no labels.

    Parameters
    ----------
    path
        CP2K's standard output. Trajectory files of the run (PROJECT-pos-1.xyz, PROJECT-1.cell, PROJECT-frc-1.xyz) and
        its input file are looked for in the same folder.
    atoms
        The structure that was computed, with all its digits; the first one for MD and relaxations.
    truncated_ok
        Take what a run that was killed has printed; the broken end is a reject.

    Returns
    -------
    ReadResult
        ``frames`` in the order of the output: one for a single point, one an evaluation for MD and relaxations;
        ``rejected``: (index of the evaluation, reason).

    Raises
    ------
    DataError
        When the output is truncated (no PROGRAM ENDED), cannot be read, or no structure is to be had.
    """
    frames: list[Frame] = []
    rejected: list[tuple[int, str]] = []
    count = 0
    try:
        for item in iter_cp2k_output(path, atoms):
            count += 1
            if isinstance(item, Rejected):
                rejected.append((item.index, item.reason))
            elif item.label is None:
                rejected.append((item.origin.step, "no forces were printed (&FORCE_EVAL/&PRINT/&FORCES ON)"))
            else:
                frames.append(item)
    except TruncatedError as error:
        if not truncated_ok or count == 0:
            raise
        rejected.append((count, str(error)))
    if not frames and not rejected:
        raise DataError(f"{path}: there is no energy in this output (it has {count} evaluations): look for CP2K's message at its end")
    return ReadResult(frames, rejected)
