"""What a VASP run left: OUTCAR, checked against vasprun.xml where both are there, vasprun.xml alone where the OUTCAR cannot be read.

Of an MD that was cut off for good the steps count that are whole in both; where vasprun.xml has not even the last but one, it is no
measure, and the OUTCAR's steps count with its own structures.

The OUTCAR says outright whether each electronic loop reached EDIFF, and prints positions with five decimals only; vasprun.xml
has eight (fractional), the CONTCAR of a relaxation sixteen. Numbers of the label come from one file, never mixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pwact_like.data.formats.base import ReadResult, contains
from pwact_like.engines.labelers.atom_order import Asked, read_asked
from pwact_like.engines.labelers.cut_off import cut_off_note
from pwact_like.engines.labelers.vasp_incar import read_incar
from pwact_like.engines.protocols import LabelKind
from pwact_like.errors import DataError, InputError
from pwact_like.outcome import Ok, Outcome, Reject, Retry, was_cut_off

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame

OUTCAR = "OUTCAR"
VASPRUN = "vasprun.xml"
_RELAXED = b"reached required accuracy - stopping structural energy minimisation"
# both files are written with fixed decimals: beyond these they are not of one calculation
_FORCE_TOLERANCE_EV_PER_ANG = 1e-4
_POSITION_TOLERANCE_ANG = 2e-4
_ENERGY_TOLERANCE_EV = 1e-5


@dataclass(frozen=True)
class _Run:
    """Frames in VASP's order with their ionic step from 1, rejected steps with their reason, and remarks."""

    source: Path
    frames: dict[int, Frame]
    rejected: dict[int, str]
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Ionic steps that were seen."""
        return len(self.frames) + len(self.rejected)

    def first(self, steps: int) -> _Run:
        """So many steps of it."""
        frames = {step: frame for step, frame in self.frames.items() if step <= steps}
        return replace(self, frames=frames, rejected={step: text for step, text in self.rejected.items() if step <= steps})


def judge_vasp(folder: Path, kind: LabelKind) -> Outcome:
    """Judge an attempt's folder.

    Returns
    -------
    Outcome
        Retry for what is not there, not whole, or not of one run; Reject for what a further attempt would give again.
    """
    if not (folder / OUTCAR).is_file() and not (folder / VASPRUN).is_file():
        return Retry(f"VASP left no {OUTCAR}")
    try:
        asked = read_asked(folder)
        cut_off = kind == "aimd" and was_cut_off(folder)
        run = _read_cut_off(folder) if cut_off else _read_run(folder)
        planned = read_incar(folder / "INCAR").integer("NSW", 0)
    except (DataError, InputError) as error:
        return Retry(str(error))
    wrong = _wrong(run, folder, asked, kind)
    if wrong:
        return Reject(wrong)
    notes = list(run.notes)
    if cut_off:
        notes.insert(0, cut_off_note(len(run.frames), run.rejected, planned))
    elif kind == "aimd":
        if run.rejected:
            places = ", ".join(str(step) for step in sorted(run.rejected)[:10])
            first = run.rejected[min(run.rejected)]
            notes.append(f"{len(run.rejected)} of {run.steps} frames dropped (ionic steps {places}): {first}")
        if run.steps < planned:
            notes.append(f"ended early: {run.steps} of {planned} frames")
    return Ok("; ".join(notes))


def read_vasp(folder: Path, kind: LabelKind) -> list[Frame]:
    """Frames in the asked order of atoms: one for scf and relax, one a converged step for aimd.

    Raises
    ------
    DataError
        When they are not there.
    """
    asked = read_asked(folder)
    run = _read_cut_off(folder) if kind == "aimd" and was_cut_off(folder) else _read_run(folder)
    wrong = _wrong(run, folder, asked, kind)
    if wrong:
        raise DataError(wrong)
    if kind == "relax":
        last = run.frames[max(run.frames)]
        return asked.restored([_with_contcar(last, folder / "CONTCAR")])
    return asked.restored((frame for _, frame in sorted(run.frames.items())), exact_start=min(run.frames) == 1)


def _wrong(run: _Run, folder: Path, asked: Asked, kind: LabelKind) -> str:
    """Why a run gives no label of this kind; "" when it does."""
    if not run.frames:
        reasons = [run.rejected[step] for step in sorted(run.rejected)]
        return f"{run.source}: {reasons[0] if reasons else 'no label in it'}"
    mismatch = asked.mismatch(next(iter(run.frames.values())))
    if mismatch:
        return f"{run.source}: {mismatch}"
    if kind == "scf" and (len(run.frames) != 1 or run.rejected):
        return f"{run.source}: one ionic step is expected, {run.steps} are there" + "".join(f"; {text}" for text in run.rejected.values())
    if kind == "relax":
        if max(run.frames) < run.steps:
            return f"{run.source}: the last structure of the relaxation: {run.rejected[run.steps]}"
        if not (folder / OUTCAR).is_file() or not contains(folder / OUTCAR, _RELAXED):
            return f"{run.source}: relaxation not converged after {run.steps} ionic steps: raise NSW, or loosen EDIFFG"
    return ""


def _read_run(folder: Path) -> _Run:
    """Read what there is.

    Raises
    ------
    DataError
        When neither file is whole, or they are not of one run.
    """
    outcar, trouble = _try(folder / OUTCAR, "vasp/outcar")
    vasprun, _ = _try(folder / VASPRUN, "vasp/xml")
    if outcar is None:
        if vasprun is None:
            raise DataError(trouble)
        return replace(vasprun, notes=(f"read from {VASPRUN}, for the {OUTCAR} cannot be read: {trouble}",))
    return outcar if vasprun is None else _compared(outcar, vasprun)


def _read_cut_off(folder: Path) -> _Run:
    """Whole steps of an MD that was killed.

    Raises
    ------
    DataError
        When the OUTCAR cannot be read up to its end, or has no whole step in it, or the files are not of one run.
    """
    from pwact_like.data.formats import iter_items, read_cut_off

    outcar = _run_of(folder / OUTCAR, read_cut_off(iter_items(folder / OUTCAR, "vasp/outcar")))
    if not (folder / VASPRUN).is_file():
        return outcar
    try:
        vasprun = _run_of(folder / VASPRUN, read_cut_off(iter_items(folder / VASPRUN, "vasp/xml")))
    except (DataError, ValueError) as error:
        return replace(outcar, notes=(f"structures from the {OUTCAR}, for {VASPRUN} cannot be read: {error}",))
    if vasprun.steps < outcar.steps - 1:  # it is written step by step, too
        return replace(outcar, notes=(f"structures from the {OUTCAR}, for {VASPRUN} has {vasprun.steps} whole steps only",))
    steps = min(outcar.steps, vasprun.steps)
    return _compared(outcar.first(steps), vasprun.first(steps))


def _try(path: Path, format_name: str) -> tuple[_Run | None, str]:
    from pwact_like.data.formats import read_labelled

    if not path.is_file():
        return None, f"{path}: the file is missing"
    try:
        return _run_of(path, read_labelled(path, format_name)), ""
    except (DataError, ValueError) as error:
        return None, str(error)


def _run_of(path: Path, result: ReadResult) -> _Run:
    rejected = {index + 1: reason for index, reason in result.rejected}
    count = len(result.frames) + len(rejected)
    places = (step for step in range(1, count + 1) if step not in rejected)
    frames = {step: replace(frame, origin=replace(frame.origin, step=step)) for step, frame in zip(places, result.frames, strict=True)}
    return _Run(path, frames, rejected)


def _compared(outcar: _Run, vasprun: _Run) -> _Run:
    """The OUTCAR's run with vasprun.xml's structures, which have more digits.

    Raises
    ------
    DataError
        When the files are of two runs.
    """
    where = f"{outcar.source} and {vasprun.source.name}"
    if outcar.steps != vasprun.steps:
        raise DataError(f"{where} are not of one run: {outcar.steps} and {vasprun.steps} ionic steps")
    frames = {}
    notes = []
    for step, frame in outcar.frames.items():
        other = vasprun.frames.get(step)
        if other is None:  # all NELM steps were used, the last of which reached EDIFF: vasprun.xml does not say so
            frames[step] = frame
            continue
        assert frame.label is not None and other.label is not None
        same_atoms = list(frame.atoms.numbers) == list(other.atoms.numbers)
        difference = np.abs(frame.label.forces_ev_per_ang - other.label.forces_ev_per_ang).max() if same_atoms else np.inf
        if not difference <= _FORCE_TOLERANCE_EV_PER_ANG or _apart(frame, other) > _POSITION_TOLERANCE_ANG:
            raise DataError(f"{where} are not of one run: they differ at ionic step {step} (forces by {difference:.3g} eV/Å)")
        if abs(frame.label.energy_ev - other.label.energy_ev) > _ENERGY_TOLERANCE_EV and not notes:
            notes.append(
                f"ionic step {step}: {frame.label.energy_ev:.6f} eV in the {OUTCAR}, {other.label.energy_ev:.6f} eV in {VASPRUN}; "
                "the former is taken"
            )
        frames[step] = replace(frame, atoms=other.atoms)
    return replace(outcar, frames=frames, notes=tuple(notes))


def _apart(frame: Frame, other: Frame) -> float:
    """Largest difference of cells, or of positions modulo lattice vectors, Å."""
    cells = float(np.abs(frame.atoms.cell.array - other.atoms.cell.array).max())
    scaled = frame.atoms.cell.scaled_positions(frame.atoms.positions - other.atoms.positions)
    shift = (scaled - np.round(scaled)) @ frame.atoms.cell.array
    return max(cells, float(np.abs(shift).max()))


def _with_contcar(frame: Frame, contcar: Path) -> Frame:
    """The frame with the CONTCAR's structure, which has every digit, where that is the same one."""
    from pwact_like.data.formats import read_structure

    if not contcar.is_file():
        return frame
    try:
        atoms = read_structure(contcar, "vasp/poscar")
    except DataError:
        return frame
    if list(atoms.numbers) != list(frame.atoms.numbers) or _apart(frame, replace(frame, atoms=atoms)) > _POSITION_TOLERANCE_ANG:
        return frame
    return replace(frame, atoms=atoms)
