"""Single points of several structures in one process: what a big model needs, whose weights take longer to load than a label.

What goes wrong at one structure costs that structure: an exception is its reason, and so is the second death of the process at it.
Memory that runs out says nothing of a structure, for the GPU may be shared: the attempt fails, and the next one begins with that
structure in a fresh process; only when it runs out there again the structure is refused.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.engines.labelers.begun_note import DEATHS_ALLOWED, BegunNote
from pwact_like.engines.labelers.calculators import (
    CalculationError,
    CalculatorFactory,
    attach,
    calculator_factory,
    compute_label,
    program_version,
)
from pwact_like.engines.labelers.frame_file import FrameFile
from pwact_like.engines.labelers.job_files import CHECKPOINT_FILE, LABEL_FILE, PARTIAL_FILE, JobResult, LabelJob
from pwact_like.errors import DataError, JobError
from pwact_like.fsio import read_json, write_json
from pwact_like.time_limit import TimeLimit, out_of_time

if TYPE_CHECKING:
    from ase import Atoms

CHECKPOINT_EVERY_S = 10.0
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE})  # the machine's, not a structure's
_UNEXPECTED = re.compile(r"single point failed with an unexpected (\w+)")


class _MemoryShortError(Exception):
    """Memory ran out at a structure; the message is the calculator's own."""


def run_batch(job: LabelJob, structures: Sequence[Atoms], folder: Path) -> JobResult:
    """Label every structure; the labelled ones end up in ``folder/label.xyz``, in order.

    An interrupted batch goes on behind its last checkpoint.

    Raises
    ------
    OutOfTimeError
        When the job's time is nearly over and structures are left.
    JobError
        When memory ran out at a structure for the first time, or every structure failed with the same unexpected exception.
    NotAvailableError
        When the engine's package is not installed.
    """
    make_calculator = calculator_factory(job.engine, job.engine_options, folder)
    frames = FrameFile(folder / PARTIAL_FILE)
    reasons = _resume(folder, frames, len(structures))
    first = len(reasons)
    limit = TimeLimit()
    saved = time.monotonic()
    with BegunNote(folder) as note:
        for index in range(first, len(structures)):
            found = _fatal(note, index)
            is_passed = bool(found)
            if not is_passed:
                if note.deaths[index]:
                    _save(folder, frames, reasons)  # should the process die here again, it will have come as far as this
                note.begin(index)
                try:
                    found = _single_point(structures[index], make_calculator)
                except _MemoryShortError as error:
                    if index != first or note.short_of_memory != index:
                        _save(folder, frames, reasons)
                        note.ran_out_of_memory(index)
                        raise JobError(
                            f"memory ran out at structure {index + 1} of {len(structures)} ({error}): the next attempt begins with it; "
                            "where this recurs, give the job more memory or a GPU of its own"
                        ) from error
                    found = f"memory ran out at this structure, the first one of a fresh process too: {error}"
            if isinstance(found, Label):
                frames.append(Frame(structures[index], found, Origin(step=index, seed=job.seed), job.level_of_theory))
            reasons.append("" if isinstance(found, Label) else found)
            is_last = index == len(structures) - 1
            if is_passed or time.monotonic() - saved > CHECKPOINT_EVERY_S or (limit.is_near and not is_last):
                _save(folder, frames, reasons)
                saved = time.monotonic()
                if limit.is_near and not is_last:
                    raise out_of_time(f"{index + 1} of {len(structures)} structures are labelled")
    _refuse_one_fault(folder, frames, reasons)
    frames.finish(folder / LABEL_FILE)
    program, version = program_version(job.engine, job.engine_options)
    first_reason = next(filter(None, reasons), "")
    return JobResult(not first_reason, frames.count, len(structures), 0, first_reason, program, version, tuple(reasons))


def _fatal(note: BegunNote, index: int) -> str:
    """Why a structure is passed over, "" when it is not."""
    if note.deaths[index] <= DEATHS_ALLOWED:
        return ""
    return (
        f"the process died at this structure in {note.deaths[index]} attempts and said nothing: a crash of the program, or it was killed "
        "(for memory, most often)"
    )


def _single_point(atoms: Atoms, make_calculator: CalculatorFactory) -> Label | str:
    """Label, or why there is none.

    Raises
    ------
    _MemoryShortError
        When memory ran out.
    """
    calculator = make_calculator()  # what fails here fails for all
    try:
        attach(atoms, calculator)
        label = compute_label(atoms)
    except CalculationError as error:
        if error.__cause__ is not None and _is_memory(error.__cause__):
            raise _MemoryShortError(str(error)) from None  # the traceback would hold the memory
        return f"single point failed: {error}"
    except Exception as error:  # calculators are other people's code: whatever they raise is about this structure
        if _is_memory(error):
            raise _MemoryShortError(_words(error)) from None
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        return f"single point failed with an unexpected {_words(error)}"
    atoms.calc = None
    return label


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _is_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own, or a GPU's (torch.cuda.OutOfMemoryError is a RuntimeError)."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "out of memory" in str(error).lower())


def _refuse_one_fault(folder: Path, frames: FrameFile, reasons: Sequence[str]) -> None:
    """Fail the attempt where every structure met the same unexpected exception: that is the installation's fault.

    Raises
    ------
    JobError
        With the exception's text.
    """
    faults = {match[1] if (match := _UNEXPECTED.match(reason)) else "" for reason in reasons}
    if frames.count or len(reasons) < 2 or len(faults) != 1 or "" in faults:
        return
    frames.start()
    _save(folder, frames, [])  # the next attempt, perhaps on another node, begins anew
    raise JobError(
        f"none of {len(reasons)} structures could be labelled, all for one reason, most likely the program's or its installation's: "
        f"{reasons[0]}"
    )


def _save(folder: Path, frames: FrameFile, reasons: list[str]) -> None:
    frames.sync()
    write_json(folder / CHECKPOINT_FILE, {"reasons": reasons, "frames": frames.count, "size": frames.size})


def _resume(folder: Path, frames: FrameFile, n_structures: int) -> list[str]:
    """Reasons of the structures that are done; empty when there is no checkpoint that fits."""
    try:
        content = read_json(folder / CHECKPOINT_FILE)
        reasons = [str(reason) for reason in content["reasons"]]
        fits = len(reasons) <= n_structures and sum(not reason for reason in reasons) == int(content["frames"])
        if fits and frames.resume(int(content["frames"]), int(content["size"])):
            return reasons
    except (DataError, KeyError, TypeError, ValueError):
        pass  # a checkpoint is a convenience, never a truth
    frames.start()
    return []
