"""Single points of several structures in one process: what a big model needs, whose weights take longer to load than a label."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.data.frames import Frame, Origin
from pwact_like.engines.labelers.calculators import CalculationError, attach, calculator_factory, compute_label, program_version
from pwact_like.engines.labelers.frame_file import FrameFile
from pwact_like.engines.labelers.job_files import CHECKPOINT_FILE, LABEL_FILE, PARTIAL_FILE, JobResult, LabelJob
from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_json
from pwact_like.time_limit import TimeLimit, out_of_time

if TYPE_CHECKING:
    from ase import Atoms

CHECKPOINT_EVERY_S = 10.0


def run_batch(job: LabelJob, structures: Sequence[Atoms], folder: Path) -> JobResult:
    """Label every structure; the labelled ones end up in ``folder/label.xyz``, in order.

    An interrupted batch goes on behind its last checkpoint.

    Raises
    ------
    OutOfTimeError
        When the job's time is nearly over and structures are left.
    NotAvailableError
        When the engine's package is not installed.
    """
    make_calculator = calculator_factory(job.engine, job.engine_options, folder)
    frames = FrameFile(folder / PARTIAL_FILE)
    reasons = _resume(folder, frames, len(structures))
    limit = TimeLimit()
    saved = time.monotonic()
    for index in range(len(reasons), len(structures)):
        atoms = structures[index]
        calculator = make_calculator()
        try:
            attach(atoms, calculator)
            label = compute_label(atoms)
        except CalculationError as error:
            reasons.append(f"single point failed: {error}")
        else:
            atoms.calc = None
            frames.append(Frame(atoms, label, Origin(step=index, seed=job.seed), job.level_of_theory))
            reasons.append("")
        is_last = index == len(structures) - 1
        if time.monotonic() - saved > CHECKPOINT_EVERY_S or (limit.is_near and not is_last):
            _save(folder, frames, reasons)
            saved = time.monotonic()
            if limit.is_near and not is_last:
                raise out_of_time(f"{index + 1} of {len(structures)} structures are labelled")
    frames.finish(folder / LABEL_FILE)
    program, version = program_version(job.engine, job.engine_options)
    first = next(filter(None, reasons), "")
    return JobResult(not first, frames.count, len(structures), 0, first, program, version, tuple(reasons))


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
