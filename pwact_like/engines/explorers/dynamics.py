"""Molecular dynamics with a potential that may know its errors: one trajectory file, one deviation table, and an honest end.

A run that goes astray (atoms collide, the temperature or the cell explodes, the uncertainty explodes, a number
is no longer finite) stops, keeps the frames it has and says why; that is what exploration is for, and no failure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from pwact_like.engines.explorers.potential import Assessment, Deviation, Driven, Potential
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


class AstrayError(Exception):
    """The run has gone astray; the text says how."""


@contextmanager
def finite_numbers() -> Iterator[None]:
    """Within a time step: numbers that overflow end the run, and nobody is warned of them."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except (np.linalg.LinAlgError, OverflowError) as error:
        raise AstrayError("positions, momenta or cell are no longer finite") from error


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
    atoms = start_structure(atoms, run)
    fingerprint = fingerprint_of(atoms, run)
    checkpoint = load_checkpoint(folder, fingerprint)
    loop = MdLoop(atoms, potential, run, fingerprint)
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


def start_structure(atoms: Atoms, run: MdInput) -> Atoms:
    """A bare copy with the boundaries of the run.

    Raises
    ------
    InputError
        For a structure that this ensemble cannot run.
    """
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


def fingerprint_of(atoms: Atoms, run: MdInput, hash_of: Callable[[Path], str] = sha256_file) -> str:
    """Hash of all that decides the trajectory but its length; a checkpoint is good for no other run."""
    settings = {**asdict(run.md), "nsteps": None, "seed": run.seed, "every_step": run.deviation_every_step, "each": run.checkpoint_steps}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in (atoms.numbers, atoms.positions, atoms.cell.array):
        digest.update(np.ascontiguousarray(array).tobytes())
    for model in run.models:
        digest.update(hash_of(model).encode())
    if run.uncertainty is not None:
        digest.update(f"{run.uncertainty.kind} {run.uncertainty.scale} {hash_of(run.uncertainty.kpu)}".encode())
    return digest.hexdigest()


class MdLoop:
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
        try:
            self.start()
            self.take(self._ask())
        except AstrayError as astray:
            self.astray = str(astray)

    def start(self) -> None:
        """Set the start structure for its evaluation."""
        self.assess_now = bool(self.potential.kind)
        self._prepare()

    def resume(self, arrays: dict[str, Array]) -> None:
        """Take over a checkpoint."""
        self.step, self.frames = int(arrays["step"]), int(arrays["frames"])
        for name in ("positions", "momenta", "cell", "forces", "virial"):
            setattr(self.state, name, arrays[name])
        self.state.energy = float(arrays["energy"])
        self.first_cell = arrays["first_cell"]
        self.integrator.load({name.removeprefix("integrator."): value for name, value in arrays.items() if name.startswith("integrator.")})
        self.is_new = False

    def snapshot(self) -> dict[str, Any]:
        """All that `resume` needs, and whose it is."""
        state = self.state
        arrays = {"positions": state.positions, "momenta": state.momenta, "cell": state.cell, "forces": state.forces}
        arrays |= {"virial": state.virial, "energy": np.float64(state.energy), "first_cell": self.first_cell}
        arrays |= {"step": np.int64(self.step), "frames": np.int64(self.frames)}
        arrays |= {f"integrator.{name}": value for name, value in self.integrator.save().items()}
        return {**arrays, "fingerprint": np.str_(self.fingerprint)}

    def run(self, files: MdFiles, progress: Progress | None) -> str:
        """All steps; returns why the run ended early, or ""."""
        run = self.run_input
        try:
            if self.astray:
                raise AstrayError(self.astray)
            if self.is_new:
                self.add_frame(files)
            limit = TimeLimit()
            while self.step < run.md.nsteps:
                with finite_numbers():
                    self.begin_step()
                    self.finish_step(self._ask())
                if self.is_frame:
                    self.add_frame(files)
                    if progress is not None:
                        progress(self.step)
                if run.checkpoint_steps and self.step % run.checkpoint_steps == 0:
                    # the neighbour list of a run that goes on must be the one that a resumed run makes anew
                    self.potential.forget()
                    files.save_checkpoint(self.snapshot(), insist=limit.is_near)
                    if limit.is_near and self.step < run.md.nsteps:
                        raise out_of_time(f"stopped after step {self.step} of {run.md.nsteps}")
        except AstrayError as astray:
            return f"step {self.step}: {astray}"
        return ""

    @property
    def is_frame(self) -> bool:
        """Whether the trajectory has a frame at this step."""
        return self.step % self.run_input.md.trj_freq == 0

    def begin_step(self) -> None:
        """Move the atoms and set their structure for its evaluation; within `finite_numbers`, as the rest of the step."""
        self.step += 1
        self.assess_now = bool(self.potential.kind) and (self.is_frame or self.run_input.deviation_every_step)
        self.integrator.begin(self.state)
        self._prepare()

    def finish_step(self, found: Driven | Assessment) -> None:
        """Take what the potential says of the structure, and see whether the run is still in its limits."""
        self.take(found)
        self.integrator.finish(self.state)
        self._check_state(self.run_input.stop)

    def _prepare(self) -> None:
        """Set the structure, if it still is one."""
        if not np.isfinite(self.state.positions).all():
            raise AstrayError("positions are no longer finite")
        self.atoms.positions = self.state.positions
        if self.run_input.md.ensemble.startswith("npt"):
            self._check_cell(self.state.cell)
            self.atoms.set_cell(self.state.cell, scale_atoms=False)

    def _ask(self) -> Driven | Assessment:
        return self.potential.assess(self.atoms) if self.assess_now else self.potential.drive(self.atoms)

    def take(self, found: Driven | Assessment) -> None:
        """What the potential says of the structure set last."""
        if isinstance(found, Assessment):
            self.deviation = found.deviation
            found = found.energy, found.forces, found.virial
        energy, forces, virial = found
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise AstrayError("the model's energy or forces are not finite")
        self.state.energy, self.state.forces, self.state.virial = energy, forces, virial

    def _check_cell(self, cell: Array) -> None:
        """A cell that has exploded, collapsed or sheared away would also need neighbour lists without end."""
        limit = self.run_input.stop.volume_ratio
        stretches = np.linalg.svd(np.linalg.solve(self.first_cell, cell), compute_uv=False)
        ratio = float(stretches.prod())
        if not 1.0 / limit <= ratio <= limit:
            raise AstrayError(f"the volume is {ratio:.3g} times that of the start (limit {limit:g} either way)")
        if not (stretches[0] <= limit and stretches[2] >= 1.0 / limit):
            raise AstrayError(
                f"the cell is stretched {stretches[0]:.3g} times one way and {stretches[2]:.3g} times another (limit {limit:g} either way)"
            )

    def _temperature(self) -> float:
        return 2.0 * self.state.kinetic / (self.state.degrees_of_freedom * EV_PER_KELVIN)

    def _check_state(self, stop: StopLimits) -> None:
        temperature = self._temperature()
        if not temperature <= stop.temp_k:
            raise AstrayError(f"the temperature is {temperature:.4g} K (limit {stop.temp_k:g} K)")
        if self.run_input.deviation_every_step:
            self._check_deviation(stop)

    def _check_deviation(self, stop: StopLimits) -> None:
        if self.deviation is None:
            return
        value, unit = self.deviation.forces[0], " eV/Å" if self.potential.unit == EV_PER_ANG else ""
        if not np.isfinite(value):
            raise AstrayError(f"the force deviation is not finite ({value})")
        if stop.deviation is not None and value > stop.deviation:
            raise AstrayError(f"the force deviation is {value:.4g}{unit} (limit {stop.deviation:g}{unit})")

    def add_frame(self, files: MdFiles) -> None:
        """Write a frame, its deviation and a line of the log; a frame with colliding atoms is not written."""
        stop = self.run_input.stop
        distance = least_distance(self.atoms, stop.distance_ang)
        if distance < stop.distance_ang:
            raise AstrayError(f"two atoms are {distance:.3f} Å apart (limit {stop.distance_ang:g} Å)")
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
