"""Short ab-initio molecular dynamics with an ASE calculator; an interrupted run continues exactly where it was.

Velocity Verlet, with Bussi, Donadio and Parrinello's stochastic velocity rescaling for nvt (J. Chem. Phys. 126, 014101
(2007), equation A7). Every random number comes from one seeded generator whose state is part of the checkpoint. The
calculator is made anew at every checkpoint, in an undisturbed run too: what it remembers (neighbour lists, say) changes
the last digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.engines.labelers.calculators import CalculationError, CalculatorFactory, attach, compute_label
from pwact_like.engines.labelers.frame_file import FrameFile
from pwact_like.engines.labelers.job_files import CHECKPOINT_FILE, LABEL_FILE, PARTIAL_FILE
from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_json
from pwact_like.time_limit import TimeLimit, out_of_time
from pwact_like.units import EV_PER_KELVIN, FS_PER_PS

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class MdState:
    """Everything that the next step needs, in ASE's units (Å, eV, amu; time in Å·√(amu/eV))."""

    step: int
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    forces: NDArray[np.float64]


def planned_frames(options: Mapping[str, Any]) -> int:
    """Frames at steps 0, trj_freq, 2·trj_freq, … ≤ nsteps."""
    return int(options["nsteps"]) // int(options["trj_freq"]) + 1


def degrees_of_freedom(n_atoms: int) -> int:
    """3N − 3: the total momentum is zero and stays so."""
    return max(3 * n_atoms - 3, 1)


def kinetic_energy(velocities: NDArray[np.float64], masses: NDArray[np.float64]) -> float:
    """Kinetic energy in eV."""
    return 0.5 * float(np.sum(masses[:, None] * velocities**2))


def start_velocities(masses: NDArray[np.float64], temperature_k: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Maxwell's velocities without total momentum, scaled to the temperature exactly; shape (n_atoms, 3)."""
    velocities = random.standard_normal((len(masses), 3)) * np.sqrt(EV_PER_KELVIN * temperature_k / masses)[:, None]
    velocities -= (masses[:, None] * velocities).sum(axis=0) / masses.sum()
    energy = kinetic_energy(velocities, masses)
    if energy == 0.0:  # a single atom
        return velocities
    wanted = 0.5 * degrees_of_freedom(len(masses)) * EV_PER_KELVIN * temperature_k
    return velocities * math.sqrt(wanted / energy)


def bussi_factor(kinetic_ev: float, temperature_k: float, n_dof: int, dt_over_taut: float, random: np.random.Generator) -> float:
    """Factor α on all velocities for one step of stochastic velocity rescaling (equation A7 of the paper)."""
    decay = math.exp(-dt_over_taut)
    noise = random.standard_normal()
    other_noises = 2.0 * random.standard_gamma(0.5 * (n_dof - 1)) if n_dof > 1 else 0.0
    share = (1.0 - decay) * 0.5 * EV_PER_KELVIN * temperature_k / kinetic_ev
    squared = decay + share * (noise**2 + other_noises) + 2.0 * noise * math.sqrt(decay * share)
    return math.copysign(math.sqrt(squared), noise + math.sqrt(decay / share))


def run_aimd(
    folder: Path, atoms: Atoms, make_calculator: CalculatorFactory, options: Mapping[str, Any], seed: int, level_of_theory: str
) -> tuple[int, int, str]:
    """Run (or continue) MD; the frames end up in ``folder/label.xyz``.

    Parameters
    ----------
    folder
        Where label.partial.xyz and the checkpoint grow; with those of an interrupted run it continues.
    atoms
        Start structure; moved in place.
    make_calculator
        Gives a fresh calculator.
    options
        temperature_k, nsteps, md_dt (ps), ensemble, taut (ps), trj_freq, checkpoint_every.
    seed
        Of velocities and thermostat.
    level_of_theory
        Fingerprint for the frames.

    Returns
    -------
    tuple
        Frames written, steps done, and why it ended early ("" when it did not).
    """
    from ase import units

    dt = options["md_dt"] * FS_PER_PS * units.fs
    masses = atoms.get_masses()
    random = np.random.default_rng(seed)
    frames = FrameFile(folder / PARTIAL_FILE)
    reason = ""
    state = _resume(folder, frames, random, len(atoms))
    try:
        if state is None:
            frames.start()
            attach(atoms, make_calculator())
            label = compute_label(atoms)
            velocities = start_velocities(masses, options["temperature_k"], random)
            state = MdState(0, atoms.positions.copy(), velocities, label.forces_ev_per_ang)
            frames.append(_frame(atoms, label, 0, seed, level_of_theory))
            _checkpoint(folder, state, frames, random)
        attach(atoms, make_calculator())
        limit = TimeLimit()
        while state.step < options["nsteps"]:
            state, label = _step(atoms, state, masses, dt, options, random)
            if state.step % options["trj_freq"] == 0:
                frames.append(_frame(atoms, label, state.step, seed, level_of_theory))
            if state.step % options["checkpoint_every"] == 0:
                _checkpoint(folder, state, frames, random)
                if limit.is_near and state.step < options["nsteps"]:
                    raise out_of_time(f"stopped after step {state.step} of {options['nsteps']}")
                attach(atoms, make_calculator())
    except CalculationError as error:
        done = 0 if state is None else state.step
        reason = f"the calculation of step {done + 1 if frames.count else 0} failed: {error}"
    if frames.count:
        frames.finish(folder / LABEL_FILE)
    return frames.count, 0 if state is None else state.step, reason


def _step(
    atoms: Atoms, state: MdState, masses: NDArray[np.float64], dt: float, options: Mapping[str, Any], random: np.random.Generator
) -> tuple[MdState, Label]:
    """One step: the thermostat, then velocity Verlet."""
    velocities = state.velocities
    if options["ensemble"] == "nvt":
        kinetic = kinetic_energy(velocities, masses)
        if kinetic > 0.0:
            dt_over_taut = options["md_dt"] / options["taut"]
            n_dof = degrees_of_freedom(len(masses))
            velocities = velocities * bussi_factor(kinetic, options["temperature_k"], n_dof, dt_over_taut, random)
    velocities = velocities + 0.5 * dt * state.forces / masses[:, None]
    positions = state.positions + dt * velocities
    atoms.set_positions(positions)
    label = compute_label(atoms)
    velocities = velocities + 0.5 * dt * label.forces_ev_per_ang / masses[:, None]
    return MdState(state.step + 1, positions, velocities, label.forces_ev_per_ang), label


def _frame(atoms: Atoms, label: Label, step: int, seed: int, level_of_theory: str) -> Frame:
    bare = atoms.copy()
    bare.calc = None
    return replace(Frame(bare, label, Origin(step=step, seed=seed)), level_of_theory=level_of_theory)


def _checkpoint(folder: Path, state: MdState, frames: FrameFile, random: np.random.Generator) -> None:
    frames.sync()  # before the checkpoint that counts on it
    content = {
        "step": state.step,
        "positions": state.positions.tolist(),
        "velocities": state.velocities.tolist(),
        "forces": state.forces.tolist(),
        "random": random.bit_generator.state,
        "frames": frames.count,
        "size": frames.size,
    }
    write_json(folder / CHECKPOINT_FILE, content)


def _resume(folder: Path, frames: FrameFile, random: np.random.Generator, n_atoms: int) -> MdState | None:
    """The state of an interrupted run, or None when there is none that fits."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        arrays = [np.array(content[key], dtype=np.float64) for key in ("positions", "velocities", "forces")]
        if any(array.shape != (n_atoms, 3) for array in arrays):
            return None
        if not frames.resume(int(content["frames"]), int(content["size"])):
            return None
        random.bit_generator.state = content["random"]
        return MdState(int(content["step"]), *arrays)
    except (DataError, KeyError, TypeError, ValueError):
        return None  # begin anew: a checkpoint is a convenience, never a truth
