"""Molecular dynamics with a potential that may know its errors: one trajectory file, one deviation table, and an honest end.

A run that goes astray (atoms collide, the temperature or the cell explodes, the uncertainty explodes, a number
is no longer finite) stops, keeps the frames it has and says why; that is what exploration is for, and no failure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.engines.explorers.integrators import (
    PS,
    Integrator,
    MartynaTobiasKlein,
    MdState,
    NoseHoover,
    VelocityVerlet,
    thermal_momenta,
)
from pwact_like.engines.explorers.md_files import MdFiles, MdResult, load_checkpoint
from pwact_like.engines.explorers.md_input import MdInput, StopLimits
from pwact_like.engines.explorers.potential import Deviation, Potential
from pwact_like.engines.protocols import MdSettings
from pwact_like.errors import InputError, Problem
from pwact_like.seeds import sha256_file
from pwact_like.time_limit import TimeLimit, out_of_time
from pwact_like.uncertainty.table import EV_PER_ANG
from pwact_like.units import BAR_PER_EV_PER_ANG3, EV_PER_KELVIN

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
Progress = Callable[[int], None]


class _AstrayError(Exception):
    """The run has gone astray; the text says how."""


def build_integrator(md: MdSettings, n_degrees: int, cell: Array) -> Integrator:
    """The integrator of an ensemble, from LAMMPS metal units."""
    timestep = md.md_dt_ps * PS
    kt = EV_PER_KELVIN * md.temp_k
    if md.ensemble == "nve":
        return VelocityVerlet(timestep)
    if md.ensemble == "nvt":
        return NoseHoover(timestep, n_degrees, kt, md.taut_ps * PS)
    shape = {"npt-iso": "iso", "npt-aniso": "aniso", "npt-tri": "tri"}[md.ensemble]
    pressure = (md.press_bar or 0.0) / BAR_PER_EV_PER_ANG3
    return MartynaTobiasKlein(timestep, n_degrees, kt, md.taut_ps * PS, pressure, md.taup_ps * PS, shape, cell)


def run_md(atoms: Atoms, potential: Potential, run: MdInput, folder: Path, progress: Progress | None = None) -> MdResult:
    """Run, or go on from the checkpoint in ``folder``, and leave trajectory, deviation table, log and result there.

    Parameters
    ----------
    atoms
        Start structure: numbers, positions, cell; pbc follows from ``run.md.boundary``.
    potential
        What drives the atoms; without a ``kind`` there is no table.
    run
        Settings.
    folder
        Where the files go.
    progress
        Called with the number of the step after each frame.

    Raises
    ------
    InputError
        For a structure that this ensemble cannot run.
    """
    atoms = _start(atoms, run)
    fingerprint = _fingerprint(atoms, run)
    checkpoint = load_checkpoint(folder, fingerprint)
    loop = _Loop(atoms, potential, run, fingerprint)
    if checkpoint:
        loop.resume(checkpoint.arrays)
    else:
        loop.begin()  # before a file is touched: models and structure may not belong together
    table = (potential.kind, potential.unit) if potential.kind else None
    with MdFiles(folder, table=table, sizes=checkpoint.sizes if checkpoint else None) as files:
        ended = loop.run(files, progress)
        result = MdResult(ended, loop.step, loop.frames, run.md.frames_planned)
    result.write(folder)
    return result


def _start(atoms: Atoms, run: MdInput) -> Atoms:
    where = str(run.structure)
    if len(atoms) < 2:
        raise InputError(Problem(where, f"{len(atoms)} atoms: molecular dynamics needs at least two", "take a supercell"))
    if run.md.boundary and atoms.cell.rank < 3:
        raise InputError(Problem(where, "periodic boundaries need a cell of three vectors", "give the cell, or set boundary to false"))
    bare = atoms.copy()
    bare.calc = None
    bare.set_constraint()
    bare.pbc = run.md.boundary
    return bare


def _fingerprint(atoms: Atoms, run: MdInput) -> str:
    """Hash of all that decides the trajectory but its length; a checkpoint is good for no other run."""
    settings = {**asdict(run.md), "nsteps": None, "seed": run.seed, "every_step": run.deviation_every_step, "each": run.checkpoint_steps}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in (atoms.numbers, atoms.positions, atoms.cell.array):
        digest.update(np.ascontiguousarray(array).tobytes())
    for model in run.models:
        digest.update(sha256_file(model).encode())
    if run.uncertainty is not None:
        digest.update(f"{run.uncertainty.kind} {run.uncertainty.scale} {sha256_file(run.uncertainty.kpu)}".encode())
    return digest.hexdigest()


class _Loop:
    """The time loop of one run."""

    def __init__(self, atoms: Atoms, potential: Potential, run: MdInput, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.atoms = atoms
        self.potential = potential
        self.run_input = run
        self.step = 0
        self.frames = 0
        self.deviation: Deviation | None = None
        self.assess_now = False
        masses = atoms.get_masses()[:, None]
        nothing = np.zeros((len(atoms), 3))
        momenta = thermal_momenta(masses, EV_PER_KELVIN * run.md.temp_k, run.seed)
        self.state = MdState(atoms.get_positions(), momenta, np.array(atoms.cell.array), masses, 0.0, nothing, np.zeros((3, 3)))
        self.integrator = build_integrator(run.md, self.state.degrees_of_freedom, self.state.cell)
        self.first_cell = self.state.cell
        self.astray = ""
        self.is_new = True

    def begin(self) -> None:
        """Evaluate the start structure."""
        self.assess_now = bool(self.potential.kind)
        try:
            self.state.energy, self.state.forces, self.state.virial = self._evaluate(self.state.positions, self.state.cell)
        except _AstrayError as astray:
            self.astray = str(astray)

    def resume(self, arrays: dict[str, Array]) -> None:
        """Take over a checkpoint."""
        self.step, self.frames = int(arrays["step"]), int(arrays["frames"])
        for name in ("positions", "momenta", "cell", "forces", "virial"):
            setattr(self.state, name, arrays[name])
        self.state.energy = float(arrays["energy"])
        self.first_cell = arrays["first_cell"]
        self.integrator.load({name.removeprefix("integrator."): value for name, value in arrays.items() if name.startswith("integrator.")})
        self.is_new = False

    def _save(self, files: MdFiles, insist: bool = False) -> None:
        state = self.state
        arrays = {"positions": state.positions, "momenta": state.momenta, "cell": state.cell, "forces": state.forces}
        arrays |= {"virial": state.virial, "energy": np.float64(state.energy), "first_cell": self.first_cell}
        arrays |= {"step": np.int64(self.step), "frames": np.int64(self.frames)}
        arrays |= {f"integrator.{name}": value for name, value in self.integrator.save().items()}
        files.save_checkpoint(arrays | {"fingerprint": np.str_(self.fingerprint)}, insist)

    def run(self, files: MdFiles, progress: Progress | None) -> str:
        """All steps; returns why the run ended early, or ""."""
        run = self.run_input
        try:
            if self.astray:
                raise _AstrayError(self.astray)
            if self.is_new:
                self._frame(files)
            limit = TimeLimit()
            while self.step < run.md.nsteps:
                self._one_step()
                if self.step % run.md.trj_freq == 0:
                    self._frame(files)
                    if progress is not None:
                        progress(self.step)
                if run.checkpoint_steps and self.step % run.checkpoint_steps == 0:
                    # the neighbour list of a run that goes on must be the one that a resumed run makes anew
                    self.potential.forget()
                    self._save(files, insist=limit.is_near)
                    if limit.is_near and self.step < run.md.nsteps:
                        raise out_of_time(f"stopped after step {self.step} of {run.md.nsteps}")
        except _AstrayError as astray:
            return f"step {self.step}: {astray}"
        return ""

    def _one_step(self) -> None:
        run = self.run_input
        self.step += 1
        is_frame = self.step % run.md.trj_freq == 0
        self.assess_now = bool(self.potential.kind) and (is_frame or run.deviation_every_step)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                self.integrator.step(self.state, self._evaluate)
        except (np.linalg.LinAlgError, OverflowError) as error:
            raise _AstrayError("positions, momenta or cell are no longer finite") from error
        self._check_state(run.stop)

    def _evaluate(self, positions: Array, cell: Array) -> tuple[float, Array, Array]:
        """The potential's word; looks first whether the structure still is one."""
        if not np.isfinite(positions).all():
            raise _AstrayError("positions are no longer finite")
        self.atoms.positions = positions
        if self.run_input.md.ensemble.startswith("npt"):
            self._check_cell(cell)
            self.atoms.set_cell(cell, scale_atoms=False)
        if not self.assess_now:
            energy, forces, virial = self.potential.drive(self.atoms)
        else:
            found = self.potential.assess(self.atoms)
            energy, forces, virial, self.deviation = found.energy, found.forces, found.virial, found.deviation
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise _AstrayError("the model's energy or forces are not finite")
        return energy, forces, virial

    def _check_cell(self, cell: Array) -> None:
        """A cell that has exploded, collapsed or sheared away would also need neighbour lists without end."""
        limit = self.run_input.stop.volume_ratio
        stretches = np.linalg.svd(np.linalg.solve(self.first_cell, cell), compute_uv=False)
        ratio = float(stretches.prod())
        if not 1.0 / limit <= ratio <= limit:
            raise _AstrayError(f"the volume is {ratio:.3g} times that of the start (limit {limit:g} either way)")
        if not (stretches[0] <= limit and stretches[2] >= 1.0 / limit):
            raise _AstrayError(
                f"the cell is stretched {stretches[0]:.3g} times one way and {stretches[2]:.3g} times another (limit {limit:g} either way)"
            )

    def _temperature(self) -> float:
        return 2.0 * self.state.kinetic / (self.state.degrees_of_freedom * EV_PER_KELVIN)

    def _check_state(self, stop: StopLimits) -> None:
        temperature = self._temperature()
        if not temperature <= stop.temp_k:
            raise _AstrayError(f"the temperature is {temperature:.4g} K (limit {stop.temp_k:g} K)")
        if self.run_input.deviation_every_step:
            self._check_deviation(stop)

    def _check_deviation(self, stop: StopLimits) -> None:
        if self.deviation is None:
            return
        value, unit = self.deviation.forces[0], " eV/Å" if self.potential.unit == EV_PER_ANG else ""
        if not np.isfinite(value):
            raise _AstrayError(f"the force deviation is not finite ({value})")
        if stop.deviation is not None and value > stop.deviation:
            raise _AstrayError(f"the force deviation is {value:.4g}{unit} (limit {stop.deviation:g}{unit})")

    def _frame(self, files: MdFiles) -> None:
        """Write a frame, its deviation and a line of the log; a frame with colliding atoms is not written."""
        stop = self.run_input.stop
        distance = least_distance(self.atoms, stop.distance_ang)
        if distance < stop.distance_ang:
            raise _AstrayError(f"two atoms are {distance:.3f} Å apart (limit {stop.distance_ang:g} Å)")
        state = self.state
        deviation = self.deviation if self.potential.kind else None
        pressure = np.nan
        if self.run_input.md.boundary:
            pressure = float(np.trace(state.kinetic_tensor + state.virial)) / (3.0 * state.volume) * BAR_PER_EV_PER_ANG3
        files.add_frame(self.step, self.atoms, (deviation.forces, deviation.virials) if deviation else None)
        files.log(
            self.step,
            self.step * self.run_input.md.md_dt_ps,
            self._temperature(),
            pressure,
            state.energy,
            state.kinetic,
            self.integrator.conserved(state),
            state.volume if self.run_input.md.boundary else np.nan,
        )
        self.frames += 1
        self._check_deviation(stop)


def least_distance(atoms: Atoms, limit_ang: float) -> float:
    """Least distance of two atoms in Å where it is below ``limit_ang``; infinity where it is not."""
    if limit_ang <= 0.0:
        return np.inf
    from pwact_like.potentials.neighbors import find_pairs

    # a search cell much smaller than the atoms' spacing is slower, not faster
    pairs = find_pairs(atoms, max(limit_ang, 1.5))
    if len(pairs.i) == 0:
        return np.inf
    vectors = pairs.vectors(atoms.positions, atoms.cell.array)
    least = float(np.sqrt((vectors**2).sum(axis=1).min()))
    return least if least < limit_ang else np.inf
