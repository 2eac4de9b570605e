"""The end of a LAMMPS run: how it ended, its deviation table, and one trajectory with each step once."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np

from pwact_like.data.lammps_dump import DumpIndex
from pwact_like.engines.explorers.lammps_restart import Rows, joined_rows, write_rows
from pwact_like.engines.explorers.lammps_task import LOG, RAW, STEP, TABLE, TRAJECTORY, LmpTask, forces_name, rerun_name
from pwact_like.engines.explorers.md_files import MdResult
from pwact_like.errors import DataError, JobError
from pwact_like.time_limit import STOP_FILE_VARIABLE, out_of_time
from pwact_like.uncertainty.committee import force_deviation
from pwact_like.uncertainty.table import COMMITTEE, EV_PER_ANG

_ERROR = re.compile(r"^ERROR.*$", re.MULTILINE)
_LOG_TAIL_BYTES = 1 << 16
# a program that dies of its atoms' positions may die of these; anything else (killed, no memory) is no word on the atoms
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS})


def how_it_ended(folder: Path, task: LmpTask, status: int) -> str:
    """Why LAMMPS ended early ("" when it did not), from its exit status, its log and the step that it reached.

    Raises
    ------
    OutOfTimeError
        When it was stopped for the job's time limit, with a restart file.
    JobError
        When it was killed, or failed for a reason that it does not tell: the run can be tried again.
    """
    step = _last_step(folder)
    if status == 0 and step is not None:
        is_near = os.path.exists(os.environ.get(STOP_FILE_VARIABLE, ""))  # noqa: PTH110 - an empty name is no path
        reruns = range(len(task.models) if task.deviations == "rerun" else 0)
        if is_near and (step < task.nsteps or not all((folder / forces_name(index)).exists() for index in reruns)):
            raise out_of_time(f"LAMMPS stopped after step {step} of {task.nsteps}")
        if step >= task.nsteps:
            return ""
        return f"step {step}: the input ended the run before step {task.nsteps}"
    error = error_of_log(folder / LOG)
    if error:
        return error
    crash = status - 128 if status > 128 else -status
    if crash in _CRASHES:
        return f"LAMMPS crashed ({signal.Signals(crash).name})"
    raise JobError(
        f"{folder / LOG}: LAMMPS ended with exit status {status} and tells no error: killed, or out of memory; the next attempt goes on"
        if status
        else f"{folder / LOG}: LAMMPS ended without reaching the end of its input; did the input stop it (quit)?"
    )


def _last_step(folder: Path) -> int | None:
    try:
        return int(float((folder / STEP).read_text().split()[0]))
    except (OSError, ValueError, IndexError):
        return None


def error_of_log(path: Path) -> str:
    """LAMMPS's own error in a log, "" when it tells none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    found = _ERROR.findall(text)
    return found[-1].strip() if found else ""


def finish(folder: Path, task: LmpTask, ended: str, note: str = "") -> MdResult:
    """Write the deviation table and md_result.json; frames without a deviation, or without all atoms, are taken out of the trajectory.

    Raises
    ------
    JobError
        When not a single frame is there.
    DataError
        When the deviations cannot be read.
    """
    frames = _frames(folder, ended)
    kind, unit, rows = _deviations(folder, task, frames)
    wanted = [step for step in frames.steps.tolist() if step in rows and step % task.trj_freq == 0 and step <= task.nsteps]
    if ended:
        wanted = _before_loss(frames, wanted)
    if not wanted:
        raise JobError(f"{folder}: no frame with its deviation was written{f': {ended}' if ended else ''}")
    if wanted != frames.index.steps.tolist() or frames.dropped:
        frames.keep(wanted)
    write_rows(folder / TABLE, kind, unit, {step: rows[step] for step in wanted})
    planned = task.frames_planned
    if not ended and len(wanted) < planned:
        ended = f"{planned - len(wanted)} of {planned} frames are missing: the input wrote fewer"
    result = MdResult(ended, wanted[-1], len(wanted), planned, note)
    result.write(folder)
    return result


def _before_loss(frames: DumpIndex, steps: list[int]) -> list[int]:
    """The steps before an atom was lost: LAMMPS looks for that only where it prints, and dumps may lie between."""
    last = len(steps)
    while last > 1 and len(frames.fetch([steps[last - 1]])[0]) < len(frames.fetch([steps[0]])[0]):
        last -= 1
    return steps[:last]


def _frames(folder: Path, ended: str) -> DumpIndex:
    try:
        return DumpIndex.build(folder / TRAJECTORY)
    except DataError as error:
        raise JobError(f"LAMMPS wrote no frame: {ended}" if ended else str(error)) from error


def _deviations(folder: Path, task: LmpTask, frames: DumpIndex) -> tuple[str, str, Rows]:
    if task.deviations == "rerun":
        return COMMITTEE, EV_PER_ANG, _of_forces(folder, task, frames)
    found = joined_rows(folder)
    if found is None:
        raise DataError(f"{folder / RAW}: no deviations: does this pair style write them (out_freq, out_file)?")
    return found


def _of_forces(folder: Path, task: LmpTask, frames: DumpIndex) -> Rows:
    """Deviations from the dumps of all models' forces along the trajectory.

    A frame at which a model's run fails (atoms on top of each other, say) has none.
    """
    dumps = [_forces(folder, index) for index in range(len(task.models))]
    common = set(frames.steps.tolist()).intersection(*(dump.steps.tolist() for dump in dumps))
    if len(common) < len(frames.steps):
        logs = [error_of_log((folder / rerun_name(index)).with_suffix(".log")) for index in range(len(task.models))]
        if not any(logs):
            raise JobError(f"{folder}: the runs over the trajectory ended early and tell no error; they can be tried again")
    rows: Rows = {}
    for step in sorted(common):
        forces = [dump.fetch_frames([step])[0].forces for dump in dumps]
        sigma = force_deviation(np.array(forces, dtype=np.float64))
        rows[step] = ((float(sigma.max()), float(sigma.min()), float(sigma.mean())), (np.nan, np.nan, np.nan))
    return rows


def _forces(folder: Path, index: int) -> DumpIndex:
    try:
        return DumpIndex.build(folder / forces_name(index))
    except DataError as error:
        said = error_of_log((folder / rerun_name(index)).with_suffix(".log"))
        raise JobError(f"model {index}: LAMMPS gave no forces along the trajectory: {said or error}") from error


def trim(folder: Path) -> None:
    """Cut off a frame that LAMMPS had no time to finish, before it reads the trajectory again."""
    try:
        frames = DumpIndex.build(folder / TRAJECTORY)
    except DataError:
        return  # not a frame: `finish` tells
    if frames.dropped:
        frames.keep(frames.steps.tolist())
