"""What ``pwact-like label`` does: a single point, a relaxation or MD with an ASE calculator, as label.json asks.

This runs once a label: nothing here imports more than it must (about 0.3 s with tblite).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.engines.labelers.calculators import (
    CalculationError,
    CalculatorFactory,
    attach,
    calculator_factory,
    compute_label,
    program_version,
)
from pwact_like.engines.labelers.job_files import LABEL_FILE, RESULT_FILE, JobResult, LabelJob, read_job
from pwact_like.errors import DataError
from pwact_like.fsio import write_json

if TYPE_CHECKING:
    from ase import Atoms


def run_job_file(path: Path) -> JobResult:
    """Compute what a label.json asks, in its folder; label.xyz and result.json appear whole.

    A structure that cannot be labelled is a result too (``frames`` is 0 and ``reason`` says why), no error.

    Raises
    ------
    DataError
        When the job or its structure cannot be read.
    NotAvailableError
        When the engine's package is not installed.
    """
    from pwact_like.data.formats.extxyz import iter_extxyz

    job, structure = read_job(path)
    items = list(iter_extxyz(structure))
    if job.batch:
        from pwact_like.engines.labelers.batch_run import run_batch

        result = run_batch(job, [item.atoms for item in items if isinstance(item, Frame)], path.parent)
    elif len(items) != 1 or not isinstance(items[0], Frame):
        raise DataError(f"{structure}: one structure is expected, {len(items)} are there")
    else:
        result = run_job(job, items[0].atoms, path.parent)
    write_json(path.parent / RESULT_FILE, dataclasses.asdict(result))
    return result


def run_job(job: LabelJob, atoms: Atoms, folder: Path) -> JobResult:
    """Compute one job; its frames go to ``folder/label.xyz``. See `run_job_file`."""
    make_calculator = calculator_factory(job.engine, job.engine_options, folder)
    program, version = program_version(job.engine, job.engine_options)
    if job.kind == "aimd":
        from pwact_like.engines.labelers.dynamics import planned_frames, run_aimd

        frames, steps, reason = run_aimd(folder, atoms, make_calculator, job.options, job.seed, job.level_of_theory)
        return JobResult(not reason, frames, planned_frames(job.options), steps, reason, program, version)
    label: Label | None = None
    steps, reason = 0, ""
    if job.kind == "relax":
        from pwact_like.engines.labelers.relaxation import relax

        label, steps, reason = relax(atoms, make_calculator, job.options)
    else:
        label, reason = single_point(atoms, make_calculator)
    if label is not None:
        from pwact_like.data.formats.extxyz import write_extxyz

        bare = atoms.copy()
        bare.calc = None
        write_extxyz(folder / LABEL_FILE, [Frame(bare, label, Origin(step=steps, seed=job.seed), job.level_of_theory)])
    return JobResult(label is not None, int(label is not None), 1, steps, reason, program, version)


def single_point(atoms: Atoms, make_calculator: CalculatorFactory) -> tuple[Label | None, str]:
    """Label of one structure, or None and why not."""
    calculator = make_calculator()
    try:
        attach(atoms, calculator)
        return compute_label(atoms), ""
    except CalculationError as error:
        return None, f"single point failed: {error}"
