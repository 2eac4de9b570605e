"""ASE calculators for the embedded labelling engines, and a label from one of them."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pwact_like.data.frames import Label
from pwact_like.errors import InputError, NotAvailableError, Problem
from pwact_like.units import virial_from_stress

if TYPE_CHECKING:
    from ase import Atoms

CalculatorFactory = Callable[[], Any]
"""Makes a fresh calculator, without any memory of earlier structures."""


class CalculationError(Exception):
    """The calculator gave no usable result for this structure; the message is its own."""


def calculator_factory(engine: str, options: Mapping[str, Any], folder: Path) -> CalculatorFactory:
    """How to make this engine's calculator; files that the options name lie in ``folder``, the task's.

    Raises
    ------
    NotAvailableError
        When its package is not installed, or the engine is no embedded one.
    InputError
        When the calculator refuses its arguments.
    """
    if engine == "xtb":
        return lambda: _tblite(options)
    if engine == "ase":
        return lambda: named_calculator(str(options["calculator"]), options.get("calculator_args") or {}, folder)
    if engine == "bigmodel":
        from pwact_like.engines.labelers.bigmodel_calculators import bigmodel_factory

        return bigmodel_factory(options, folder)
    raise NotAvailableError(f"engine {engine!r} is not one that `pwact-like label` runs itself: xtb, ase, bigmodel")


def _tblite(options: Mapping[str, Any]) -> Any:
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise NotAvailableError(
            f"the engine xtb needs tblite, which cannot be imported ({error}): pip install 'pwact-like[xtb]'"
        ) from error
    # cache_api=False: every SCF starts from scratch, so that a label depends on its structure alone and not on the
    # structures before it (a warm start moves forces by 1e-4 eV/Å at accuracy 1, and saves next to nothing)
    return TBLite(
        method=options["method"],
        accuracy=options["accuracy"],
        electronic_temperature=options["electronic_temperature"],
        max_iterations=options["max_iterations"],
        charge=options["charge"],
        multiplicity=options["multiplicity"],
        cache_api=False,
        verbosity=0,
    )


def named_calculator(name: str, arguments: Mapping[str, Any], folder: Path) -> Any:
    """EMT, or the calculator of a dotted name; arguments that name files of ``folder`` become their paths.

    Raises
    ------
    NotAvailableError
        When its module cannot be imported.
    InputError
        When there is no such class, or it refuses its arguments.
    """
    dotted = "ase.calculators.emt.EMT" if name.lower() == "emt" else name
    module_name, _, class_name = dotted.rpartition(".")
    if not module_name:
        raise InputError(
            Problem(
                "options.calculator", f"{name!r} is neither emt nor a dotted name", "write module.Class, e.g. mypackage.calculators.MyModel"
            )
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise NotAvailableError(
            f"the calculator {name} cannot be imported ({error}): install its package where the labelling runs"
        ) from error
    calculator = getattr(module, class_name, None)
    if calculator is None:
        raise InputError(Problem("options.calculator", f"{module_name} has no {class_name}", "mend the name"))
    in_place = {
        key: str(folder / value) if isinstance(value, str) and value and (folder / value).is_file() else value
        for key, value in arguments.items()
    }
    try:
        return calculator(**in_place)
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError, OSError) as error:
        raise InputError(Problem("options.calculator_args", f"{name} refuses its arguments: {error}")) from error


def program_version(engine: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """Name and version of the package that computes ("" when it does not say)."""
    if engine == "bigmodel":
        from pwact_like.engines.labelers.bigmodel_weights import installed_version

        return str(options["model"]), installed_version(str(options["model"]))
    name = "tblite" if engine == "xtb" else str(options.get("calculator", "")).split(".")[0]
    package = "ase" if name.lower() == "emt" else name
    try:
        return name, importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return name, ""


def attach(atoms: Atoms, calculator: Any) -> None:
    """Give a structure its calculator; some (SevenNet's) look at its elements already here.

    Raises
    ------
    CalculationError
        When the calculator refuses the structure.
    """
    try:
        atoms.calc = calculator
    except ValueError as error:
        raise CalculationError(" ".join(str(error).split())) from error


def compute_label(atoms: Atoms) -> Label:
    """Free energy, forces and virial from the calculator of ``atoms``.

    The virial is given where the structure is periodic in all three directions and the calculator has a stress; ASE's
    stress has no kinetic part as long as it is asked for without one.

    Raises
    ------
    CalculationError
        When the calculator fails (SCF not converged, say) or a number is not finite.
    """
    from ase.calculators.calculator import CalculatorError, PropertyNotImplementedError

    try:
        forces = np.array(atoms.get_forces(), dtype=np.float64)
        energy = float(atoms.get_potential_energy())
        # some calculators have a free energy without offering it by name (tblite): the one that the forces belong to
        energy = float(getattr(atoms.calc, "results", {}).get("free_energy", energy))
        virial = None
        if atoms.pbc.all() and atoms.cell.rank == 3:
            try:
                virial = virial_from_stress(atoms.get_stress(voigt=False), abs(float(atoms.get_volume())))
            except (PropertyNotImplementedError, NotImplementedError):
                virial = None
    except (CalculatorError, RuntimeError, ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
        raise CalculationError(" ".join(str(error).split()) or type(error).__name__) from error
    if not (np.isfinite(energy) and np.isfinite(forces).all() and (virial is None or np.isfinite(virial).all())):
        raise CalculationError("energy, forces or stress are not finite")
    return Label(energy, forces, virial)
