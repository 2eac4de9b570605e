"""Our own uncertainty along a trajectory that LAMMPS's pair_style deepmd has made with an embedded model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pwact_like.config.train import KPU_FILE
from pwact_like.data.lammps_dump import DumpIndex
from pwact_like.engines.explorers.dynamics import least_distance
from pwact_like.engines.explorers.kpu_potential import potential_for
from pwact_like.engines.explorers.lammps_cell import turn_back
from pwact_like.engines.explorers.lammps_restart import joined_rows
from pwact_like.engines.explorers.lammps_task import RAW, TRAJECTORY, LmpTask
from pwact_like.engines.explorers.md_input import STOP_DISTANCE_ANG
from pwact_like.engines.protocols import ExploreUncertainty
from pwact_like.errors import DataError
from pwact_like.time_limit import TimeLimit, out_of_time
from pwact_like.uncertainty.table import EV_PER_ANG, TableWriter

FRAMES_LOOKED_AT = 20


def uncertainty_of(folder: Path, task: LmpTask) -> ExploreUncertainty | None:
    """What the run's model knows of its errors, from the files of its folder; None for a committee."""
    if task.uncertainty is None:
        return None
    return ExploreUncertainty(task.uncertainty["kind"], folder / KPU_FILE, task.uncertainty["scale"])  # type: ignore[arg-type]


def slots_note(folder: Path, task: LmpTask) -> str:
    """What DeePMD-kit has left out where an atom has more neighbours than the model has slots; "" when there is no such atom.

    A few frames along the trajectory are looked at, the last one among them.
    """
    from pwact_like.potentials.modelfile import read_model
    from pwact_like.potentials.neighbors import find_pairs

    try:
        frames = DumpIndex.build(folder / TRAJECTORY)
    except DataError:
        return ""
    spec = read_model(folder / task.models[0])[0].spec
    places = np.unique(np.linspace(0, len(frames.steps) - 1, FRAMES_LOOKED_AT).astype(int))
    rotation, cell = np.array(task.rotation), np.array(task.cell)
    crowded = {}
    for step in frames.steps[places].tolist():
        atoms = turn_back(frames.fetch([step])[0], rotation, task.boundary, cell)
        try:
            pairs = find_pairs(atoms, spec.rmax_ang)
        except DataError:
            continue  # positions that are not finite
        for kind, (number, slots) in enumerate(zip(spec.type_map, spec.sel, strict=True)):
            counts = np.zeros(len(atoms), dtype=np.int64)
            for here, there in ((pairs.i, pairs.j), (pairs.j, pairs.i)):
                counts += np.bincount(here[atoms.numbers[there] == number], minlength=len(atoms))
            if counts.max() > slots:
                crowded[step] = f"{counts.max()} {spec.symbols().split()[kind]} around an atom at step {step}, and slots for {slots}"
    if not crowded:
        return ""
    return (
        f"DeePMD-kit has left out the farthest neighbours in {len(crowded)} of {len(places)} frames looked at "
        f"({list(crowded.values())[-1]}): train with a larger sel, or explore with lmps_pair embedded"
    )


def replay(folder: Path, task: LmpTask) -> str:
    """Write a row for every frame that has none from an earlier attempt; why the trajectory counts only up to a frame, or "".

    It ends where a run with our own driver would: at atoms on top of each other, or at a deviation that is out of all bounds. The
    frames behind have no row, so they are dropped, and count as failed.

    Raises
    ------
    OutOfTimeError
        When the job's end is near; the next attempt goes on.
    DataError
        When a model or kpu.pt cannot be read.
    """
    (folder / RAW).unlink(missing_ok=True)  # rows of a trajectory that was begun anew; those that hold were moved to earlier attempts'
    try:
        frames = DumpIndex.build(folder / TRAJECTORY)
    except DataError:
        return ""  # not a frame: the end of the run tells why
    earlier = joined_rows(folder)
    done = set() if earlier is None else set(earlier[2])
    steps = [step for step in frames.steps.tolist() if step not in done and step % task.trj_freq == 0 and step <= task.nsteps]
    potential = potential_for(tuple(folder / name for name in task.models), uncertainty_of(folder, task))
    rotation, cell = np.array(task.rotation), np.array(task.cell)
    unit = " eV/Å" if potential.unit == EV_PER_ANG else ""
    limit = TimeLimit()
    with TableWriter(folder / RAW, potential.kind, potential.unit) as table:
        for step in steps:
            if limit.is_near:
                raise out_of_time(f"the frames before step {step} of {task.nsteps} have their {potential.kind}")
            atoms = turn_back(frames.fetch([step])[0], rotation, task.boundary, cell)
            distance = least_distance(atoms, STOP_DISTANCE_ANG)
            if distance < STOP_DISTANCE_ANG:
                return f"step {step}: two atoms are {distance:.3f} Å apart (limit {STOP_DISTANCE_ANG:g} Å)"
            deviation = potential.assess(atoms).deviation
            table.append(step, deviation.forces, deviation.virials)
            value = deviation.forces[0]
            if not np.isfinite(value):
                return f"step {step}: the force deviation is not finite ({value})"
            if task.stop_deviation is not None and value > task.stop_deviation:
                return f"step {step}: the force deviation is {value:.4g}{unit} (limit {task.stop_deviation:g}{unit})"
    return ""
