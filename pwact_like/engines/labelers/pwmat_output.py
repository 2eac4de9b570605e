"""What a PWmat run left: labels in OUT.MLMD or MOVEMENT, and in REPORT how every electronic loop ended.

REPORT says ``ending_scf_reason = tol …`` where a tolerance was met, something else (``niter reached``) where not. Of an MD that was cut
off for good the whole frames count of which it says so: it may lag behind MOVEMENT, or be an electronic loop ahead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pwact_like.engines.labelers.atom_order import Asked, read_asked
from pwact_like.engines.labelers.cut_off import cut_off_note
from pwact_like.engines.labelers.pwmat_etot import DEFAULT_FORCE_TOLERANCE, Etot, planned_frames, read_etot
from pwact_like.engines.protocols import LabelKind
from pwact_like.errors import DataError, InputError
from pwact_like.outcome import Ok, Outcome, Reject, Retry, was_cut_off

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame

ETOT = "etot.input"
REPORT = "REPORT"
LABEL_FILES: dict[LabelKind, str] = {"scf": "OUT.MLMD", "relax": "MOVEMENT", "aimd": "MOVEMENT"}
_ENDING = re.compile(r"ending_scf_reason\s*=\s*(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class _Run:
    """Frames in PWmat's order with their place from 0, and rejected ones with their reason."""

    source: Path
    frames: dict[int, Frame]
    rejected: dict[int, str]

    @property
    def steps(self) -> int:
        """Frames that were seen."""
        return len(self.frames) + len(self.rejected)


def scf_endings(report: Path) -> list[str]:
    """Why each electronic loop ended, in the run's order; a last line that is not whole says nothing.

    Raises
    ------
    DataError
        When the file is missing, or no loop has ended in it.
    """
    try:
        text = report.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{report}: cannot be read: {error.strerror or error}") from error
    endings = _ENDING.findall(text[: text.rfind("\n") + 1])
    if not endings:
        raise DataError(f"{report}: no 'ending_scf_reason' in it: the run was killed or is still going")
    return endings


def judge_pwmat(folder: Path, kind: LabelKind) -> Outcome:
    """Judge an attempt's folder.

    Returns
    -------
    Outcome
        Retry for what is not there or not whole; Reject for what a further attempt would give again.
    """
    try:
        asked, etot, run, wrong = _examined(folder, kind)
    except (DataError, InputError) as error:
        return Retry(str(error))
    wrong = wrong or _wrong(run, asked, etot, kind)
    if wrong:
        return Reject(wrong)
    notes = []
    if kind == "aimd" and was_cut_off(folder):
        notes.append(cut_off_note(len(run.frames), run.rejected, planned_frames(etot, kind)))
    elif kind == "aimd":
        if run.rejected:
            places = ", ".join(str(step) for step in sorted(run.rejected)[:10])
            notes.append(f"{len(run.rejected)} of {run.steps} frames dropped (frames {places}): {run.rejected[min(run.rejected)]}")
        planned = planned_frames(etot, kind)
        if planned is not None and run.steps < planned:
            notes.append(f"ended early: {run.steps} of {planned} frames")
    return Ok("; ".join(notes))


def read_pwmat(folder: Path, kind: LabelKind) -> list[Frame]:
    """Frames in the asked order of atoms: one for scf and relax, one a converged step for aimd.

    Raises
    ------
    DataError
        When they are not there.
    """
    asked, etot, run, wrong = _examined(folder, kind)
    wrong = wrong or _wrong(run, asked, etot, kind)
    if wrong:
        raise DataError(wrong)
    if kind == "relax":
        return asked.restored([run.frames[max(run.frames)]])
    return asked.restored((frame for _, frame in sorted(run.frames.items())), exact_start=min(run.frames) == 0)


def _examined(folder: Path, kind: LabelKind) -> tuple[Asked, Etot, _Run, str]:
    """Structure, input, frames, and why no frame can be told converged ("" as a rule)."""
    from pwact_like.data.formats import iter_items, read_cut_off, read_labelled

    asked, etot = read_asked(folder), read_etot(folder / ETOT)
    path = folder / LABEL_FILES[kind]
    format_name = "pwmat/mlmd" if kind == "scf" else "pwmat/movement"
    cut_off = kind == "aimd" and was_cut_off(folder)
    result = read_cut_off(iter_items(path, format_name)) if cut_off else read_labelled(path, format_name)
    rejected = dict(result.rejected)
    count = len(result.frames) + len(rejected)
    places = [place for place in range(count) if place not in rejected]
    frames = dict(zip(places, result.frames, strict=True))
    endings = scf_endings(folder / REPORT)
    unconverged = {
        place: f"SCF not converged ({REPORT}: ending_scf_reason = {text})" for place, text in enumerate(endings) if not _is_good(text)
    }
    if cut_off and len(endings) < count:  # nothing is known of the electrons of the last frames
        count = len(endings)
        frames = {place: frame for place, frame in frames.items() if place < count}
        rejected = {place: reason for place, reason in rejected.items() if place < count}
    if unconverged and len(endings) != count and not (cut_off and len(endings) == count + 1):
        if kind == "aimd" or not _is_good(endings[-1]):
            wrong = (
                f"{folder / REPORT}: {len(unconverged)} of {len(endings)} SCFs not converged, and {count} frames in {path.name}: "
                "whose they are cannot be told"
            )
            return asked, etot, _Run(path, frames, rejected), wrong
        unconverged = {}  # on the way to a relaxed structure, or before a hybrid functional's loop: the last one converged
    unconverged = {place: reason for place, reason in unconverged.items() if place < count}
    for place, reason in unconverged.items():
        frames.pop(place, None)
        rejected.setdefault(place, reason)
    return asked, etot, _Run(path, frames, rejected), ""


def _is_good(ending: str) -> bool:
    return ending.split()[0].lower() == "tol"


def _wrong(run: _Run, asked: Asked, etot: Etot, kind: LabelKind) -> str:
    """Why a run gives no label of this kind; "" when it does."""
    if not run.frames:
        reasons = [run.rejected[place] for place in sorted(run.rejected)]
        return f"{run.source}: {reasons[0] if reasons else 'no label in it'}"
    mismatch = asked.mismatch(next(iter(run.frames.values())))
    if mismatch:
        return f"{run.source}: {mismatch}"
    if kind == "scf" and (len(run.frames) != 1 or run.rejected):
        return f"{run.source}: one frame is expected, {run.steps} are there"
    if kind == "relax":
        return _unrelaxed(run, etot)
    return ""


def _unrelaxed(run: _Run, etot: Etot) -> str:
    """PWmat stops when the largest force is below RELAX_DETAIL's third number, or after its second number of steps."""
    last = run.steps - 1
    if last not in run.frames:
        return f"{run.source}: the last structure of the relaxation: {run.rejected[last]}"
    detail = etot.numbers("RELAX_DETAIL")
    tolerance = detail[2] if len(detail) > 2 else DEFAULT_FORCE_TOLERANCE
    label = run.frames[last].label
    assert label is not None
    largest = float(np.abs(label.forces_ev_per_ang).max())
    planned = planned_frames(etot, "relax")
    moves_cell = len(detail) > 3 and detail[3] > 0
    if largest > tolerance or (moves_cell and planned is not None and run.steps >= planned):
        return (
            f"{run.source}: relaxation not converged after {run.steps} frames (largest force {largest:.4f} eV/Å, {tolerance:g} wanted): "
            "raise the steps of RELAX_DETAIL, or its tolerance"
        )
    return ""
