"""What pw.x leaves: energies, forces and structures from its XML file (16 digits), convergence and stresses from its output.

Seen in 6.7, and checked by finite differences of its own energies (tests/contract/test_labelers_qe.py):

* ``etot`` contains the smearing's −TS: it is the free energy that the forces belong to;
* the printed stress is positive under compression and has no kinetic part, in MD neither ("Ions kinetic stress" is printed
  apart): W = +stress·V. The XML file holds the last stress only, so those of an MD are read from the output (eight
  decimals in Ry/bohr³, 5e-5 eV for 64 atoms);
* with scf_must_converge = .false. pw.x says "convergence has been achieved" of an SCF that ran out of steps: the accuracy
  is compared with the threshold;
* a vc-relax ends with a new SCF at the relaxed structure, with the basis of the new cell: that one is the label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.checks import same_structure
from pwact_like.data.formats.base import ReadResult, labelled_frame, make_atoms, volume_ang3
from pwact_like.errors import DataError
from pwact_like.units import ANG_PER_BOHR, EV_PER_ANG_PER_HARTREE_PER_BOHR, EV_PER_HARTREE, EV_PER_RYDBERG

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame

DONE = "JOB DONE"
OUT_OF_TIME = "Maximum CPU time exceeded"
_NOT_CONVERGED = "convergence NOT achieved"
_ERROR = re.compile(r"^\s*Error in routine\s+(\S.*?)\s*\((-?\d+)\):\s*$")
_THRESHOLD = re.compile(r"scf convergence threshold\s*=\s*(\S+)")
_ACCURACY = re.compile(r"estimated scf accuracy\s*<\s*(\S+)\s*Ry")
_STRESS = re.compile(r"total\s+stress\s+\(Ry/bohr\*\*3\)")
_RELAXED = re.compile(r"bfgs converged in|convergence achieved in\s+\d+\s+(?:steps|iterations)|Damped Dynamics: convergence achieved")
_ENERGY = re.compile(r"^!+\s+total energy\s*=\s*(\S+)\s*Ry")
_SAME_ENERGY_RY = 1e-7  # it is printed with eight decimals
_PRINTED_DIGITS = 1.1  # the accuracy is printed with two digits
_EV_PER_ANG3_PER_RY_PER_BOHR3 = EV_PER_RYDBERG / ANG_PER_BOHR**3
_NAMED_NOT_CONVERGED = f"SCF not converged ('{_NOT_CONVERGED}'): raise electron_maxstep, or mend mixing_beta and smearing"


@dataclass
class Evaluation:
    """One structure for which pw.x printed forces.

    Attributes
    ----------
    reason
        Why it is no label; "" when its SCF converged.
    stress
        Shape (3, 3), eV/Å³, positive under compression; None when none was printed.
    energy_ry
        As printed, with eight decimals; None where it cannot be read.
    """

    reason: str = ""
    stress: NDArray[np.float64] | None = None
    energy_ry: float | None = None


@dataclass
class Printed:
    """What stands in pw.x's standard output.

    Attributes
    ----------
    evaluations
        In their order.
    ended
        Whether JOB DONE is there.
    error
        (routine, message) of the box that pw.x prints before it stops, or None.
    unfinished
        Why the SCF after the last evaluation gave none: not converged, out of time.
    relaxed
        Whether a relaxation converged.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    ended: bool = False
    error: tuple[str, str] | None = None
    unfinished: str = ""
    relaxed: bool = False


def scan(path: Path) -> Printed:
    """Read pw.x's standard output.

    Raises
    ------
    DataError
        When a stress cannot be read.
    """
    found = Printed()
    threshold = accuracy = energy_ry = None
    content = path.read_text(encoding="utf-8", errors="replace")
    # of a last line without its newline digits may be missing
    lines = content[: content.rfind("\n") + 1].splitlines()
    for place, text in enumerate(lines):
        if (match := _ACCURACY.search(text)) is not None:
            accuracy = _float(match[1])
        elif threshold is None and (match := _THRESHOLD.search(text)) is not None:
            threshold = _float(match[1])
        elif (match := _ENERGY.match(text)) is not None:
            energy_ry = _float(match[1])
        elif _NOT_CONVERGED in text:
            found.unfinished = _NAMED_NOT_CONVERGED
        elif "Forces acting on atoms" in text:
            reason = found.unfinished
            if threshold is not None and accuracy is not None and accuracy > _PRINTED_DIGITS * threshold:
                reason = f"SCF not converged (accuracy {accuracy:.2g} Ry, conv_thr {threshold:.2g} Ry): raise electron_maxstep"
            found.evaluations.append(Evaluation(reason, energy_ry=energy_ry))
            found.unfinished = ""
        elif _STRESS.search(text) and found.evaluations and place + 4 <= len(lines):
            found.evaluations[-1].stress = _stress(path, lines, place + 1)
        elif OUT_OF_TIME in text:
            found.unfinished = f"pw.x stopped at max_seconds ('{OUT_OF_TIME}'): raise it, or leave it out"
        elif _RELAXED.search(text):
            found.relaxed = True
        elif DONE in text:
            found.ended = True
        elif found.error is None and (match := _ERROR.match(text)) is not None:
            words = " ".join(line.strip() for line in lines[place + 1 : place + 6])
            found.error = (match[1].strip(), words.split("%%%%")[0].strip())
    return found


def _float(text: str) -> float | None:
    try:
        return float(text.replace("D", "E").replace("d", "e"))
    except ValueError:
        return None  # asterisks


def _stress(path: Path, lines: list[str], first: int) -> NDArray[np.float64]:
    try:
        rows = [[float(word) for word in line.split()[:3]] for line in lines[first : first + 3]]
        return np.array(rows, dtype=np.float64).reshape(3, 3) * _EV_PER_ANG3_PER_RY_PER_BOHR3
    except ValueError as error:
        raise DataError(f"{path}: line {first + 1}: three rows of the stress are expected: {error}") from error


def _read_xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()  # noqa: S314 - written by the program that we ran
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: pw.x's XML file cannot be read: {error}") from error


def _numbers(element: ElementTree.Element | None, path: Path, what: str) -> NDArray[np.float64]:
    if element is None:
        raise DataError(f"{path}: there is no {what} in it")
    try:
        return np.array((element.text or "").split(), dtype=np.str_).astype(np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {what} cannot be read: {error}") from error


def _frame(part: ElementTree.Element, stress: NDArray[np.float64] | None, asked: Frame, path: Path, step: int) -> Frame:
    """Frame of ``<output>`` or of a ``<step>``; elements and periodicity from what was asked.

    Raises
    ------
    DataError
        When something is missing, or there are other atoms than were asked for.
    """
    structure = part.find("atomic_structure")
    if structure is None:
        raise DataError(f"{path}: there is no atomic_structure in it")
    cell = np.array([_numbers(structure.find(f"cell/{name}"), path, f"cell vector {name}") for name in ("a1", "a2", "a3")]) * ANG_PER_BOHR
    atoms = [_numbers(atom, path, "an atom's position") for atom in structure.iterfind("atomic_positions/atom")]
    forces = _numbers(part.find("forces"), path, "forces")
    count = len(asked.atoms)
    if len(atoms) != count or forces.size != 3 * count:
        raise DataError(f"{path}: {len(atoms)} atoms and {forces.size / 3:g} forces where {count} were asked for")
    energy = _numbers(part.find("total_energy/etot"), path, "etot")
    result = make_atoms(asked.atoms.numbers, np.array(atoms) * ANG_PER_BOHR, cell, asked.atoms.pbc)
    own = part.find("stress")
    if own is not None and own.text:
        stress = _numbers(own, path, "stress").reshape(3, 3) * EV_PER_HARTREE / ANG_PER_BOHR**3
    virial = stress * volume_ang3(result) if stress is not None and bool(result.pbc.all()) else None
    forces_ev = forces.reshape(count, 3) * EV_PER_ANG_PER_HARTREE_PER_BOHR
    return labelled_frame(result, float(energy[0]) * EV_PER_HARTREE, forces_ev, virial, path, step)


def read_last(output: Path, xml: Path, asked: Frame, *, relaxation: bool) -> Frame | str:
    """The structure at the end with its label (a single point, or a relaxation), or why there is none.

    Raises
    ------
    DataError
        When the run was cut short or a file cannot be read: it may be tried again.
    """
    printed = scan(output)
    require_end(printed, output)
    if printed.unfinished:
        return printed.unfinished
    if not printed.evaluations:
        raise DataError(f"{output}: there are no forces in it")
    if printed.evaluations[-1].reason:
        return printed.evaluations[-1].reason
    part = _read_xml(xml).find("output")
    if part is None:
        raise DataError(f"{xml}: there is no <output> in it")
    if relaxation and not (printed.relaxed and _is_true(part, "convergence_info/opt_conv/convergence_achieved")):
        steps = len(printed.evaluations)
        return f"relaxation not converged after {steps} evaluations: raise nstep, or loosen forc_conv_thr, etot_conv_thr, press_conv_thr"
    if not _is_true(part, "convergence_info/scf_conv/convergence_achieved"):
        return "SCF not converged (pw.x's XML file says so)"
    frame = _frame(part, printed.evaluations[-1].stress, asked, xml, len(printed.evaluations) - 1 if relaxation else 0)
    if not relaxation:  # to the last digit: pw.x's own has gone to bohr and back
        _require_same(frame, asked, xml)
        frame.atoms.positions, frame.atoms.cell = asked.atoms.positions.copy(), asked.atoms.cell.copy()
    return frame


def _require_same(frame: Frame, asked: Frame, xml: Path) -> None:
    """Refuse the label of another structure than was asked for.

    Raises
    ------
    DataError
        When it is one.
    """
    difference = same_structure(frame.atoms, asked.atoms)
    if difference is not None:
        raise DataError(f"{xml}: not the structure that was asked for: {difference}; it is of another run")


def _is_true(part: ElementTree.Element, name: str) -> bool:
    return (part.findtext(name) or "").strip().lower() == "true"


def read_md(output: Path, xml: Path, asked: Frame) -> ReadResult:
    """Frames of an MD, one an evaluation, and those that are no label: (index, reason).

    A run that pw.x ended with its box of errors counts with the frames before: they are whole in the XML file, which pw.x writes
    anew after every step (6.7).

    Raises
    ------
    DataError
        When the run was cut short, a file cannot be read, or output and XML file have not the same steps.
    """
    printed = scan(output)
    if printed.error is None:
        require_end(printed, output)
    root = _read_xml(xml)
    steps = root.findall("step")
    unwritten = printed.evaluations[len(steps) :]
    if len(steps) > len(printed.evaluations) or len(unwritten) > (printed.error is not None):
        raise DataError(f"{xml}: {len(steps)} steps in it, and forces of {len(printed.evaluations)} structures in {output.name}")
    result = _md_frames(steps, printed.evaluations, asked, xml)
    result.rejected.extend([(len(steps), "pw.x stopped before it wrote this step")] * len(unwritten))
    if printed.unfinished:
        result.rejected.append((len(printed.evaluations), printed.unfinished))
    return result


def read_cut_off_md(output: Path, xml: Path, asked: Frame) -> ReadResult:
    """Whole frames of an MD that was killed, and those that are no label; it may be none.

    A frame counts that is whole in both files: what was printed may lag behind, and the XML file end anywhere while it is written anew.

    Raises
    ------
    DataError
        When a file cannot be read, or they are not of one run.
    """
    evaluations = scan(output).evaluations
    # all that belongs to the last one may not be printed yet: it must have a stress as the first one has, as the first one itself
    if evaluations and evaluations[-1].stress is None and (len(evaluations) == 1 or evaluations[0].stress is not None):
        del evaluations[-1]
    steps = _whole_steps(xml)
    for index, (part, evaluation) in enumerate(zip(steps, evaluations, strict=False)):
        number = part.get("n_step")
        energy = _numbers(part.find("total_energy/etot"), xml, "etot")[0] * EV_PER_HARTREE / EV_PER_RYDBERG
        other = evaluation.energy_ry is not None and abs(evaluation.energy_ry - energy) > _SAME_ENERGY_RY
        if other or (number is not None and number.strip() != str(index + 1)):
            told = f"step {number}, {energy:.8f} Ry"
            raise DataError(f"{xml}: {told}, is not evaluation {index + 1} of {output.name}, {evaluation.energy_ry} Ry: not of one run")
    return _md_frames(steps, evaluations, asked, xml)


def _whole_steps(xml: Path) -> list[ElementTree.Element]:
    """The steps in an XML file that may end anywhere."""
    steps: list[ElementTree.Element] = []
    try:
        for _, element in ElementTree.iterparse(xml):  # noqa: S314 - see _read_xml
            if element.tag == "step":
                steps.append(element)
    except ElementTree.ParseError:
        return steps  # behind the last whole one
    except OSError as error:
        raise DataError(f"{xml}: pw.x's XML file cannot be read: {error}") from error
    return steps


def _md_frames(steps: Sequence[ElementTree.Element], evaluations: Sequence[Evaluation], asked: Frame, xml: Path) -> ReadResult:
    """One frame a step that is there in both, and those that are no label."""
    frames: list[Frame] = []
    rejected: list[tuple[int, str]] = []
    for index, (part, evaluation) in enumerate(zip(steps, evaluations, strict=False)):
        if evaluation.reason or not _is_true(part, "scf_conv/convergence_achieved"):
            rejected.append((index, evaluation.reason or "SCF not converged (pw.x's XML file says so)"))
        else:
            frames.append(_frame(part, evaluation.stress, asked, xml, index))
            if index == 0:
                _require_same(frames[0], asked, xml)
    return ReadResult(frames, rejected)


def require_end(printed: Printed, output: Path) -> None:
    """Refuse the output of a run that was cut short.

    Raises
    ------
    DataError
        When there is no JOB DONE.
    """
    if not printed.ended:
        raise DataError(f"{output}: there is no '{DONE}' in it: the run was killed or is still going")
