"""Relaxation of atoms and cell with an ASE calculator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pwact_like.data.frames import Label
from pwact_like.engines.labelers.calculators import CalculationError, CalculatorFactory, attach, compute_label
from pwact_like.units import BAR_PER_EV_PER_ANG3

if TYPE_CHECKING:
    from ase import Atoms


def relax(atoms: Atoms, make_calculator: CalculatorFactory, options: Mapping[str, Any]) -> tuple[Label | None, int, str]:
    """Relax ``atoms`` in place.

    Parameters
    ----------
    atoms
        The structure; its cell moves too if ``options["cell"]`` and it is periodic in all three directions.
    make_calculator
        Gives the calculator.
    options
        fmax (eV/Å), cell, pressure (bar), max_steps, optimizer.

    Returns
    -------
    tuple
        Label of the relaxed structure (None when it did not converge), steps, and why not.
    """
    from ase.calculators.calculator import CalculatorError
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS, FIRE, LBFGS

    try:
        attach(atoms, make_calculator())
    except CalculationError as error:
        return None, 0, f"relaxation failed in step 0: {error}"
    moves_cell = bool(options["cell"]) and bool(atoms.pbc.all()) and atoms.cell.rank == 3
    target = FrechetCellFilter(atoms, scalar_pressure=options["pressure"] / BAR_PER_EV_PER_ANG3) if moves_cell else atoms
    optimizer = {"bfgs": BFGS, "lbfgs": LBFGS, "fire": FIRE}[options["optimizer"]](target, logfile=None)
    try:
        converged = optimizer.run(fmax=options["fmax"], steps=options["max_steps"])
        label = compute_label(atoms)
    except (CalculationError, CalculatorError, RuntimeError, ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
        return None, optimizer.nsteps, f"relaxation failed in step {optimizer.nsteps}: {error}"
    if not converged:
        force = float(np.linalg.norm(target.get_forces(), axis=1).max())
        return (
            None,
            optimizer.nsteps,
            (
                f"relaxation not converged: after {optimizer.nsteps} steps the largest force is {force:.3g} eV/Å, "
                f"fmax {options['fmax']:g} (raise max_steps or fmax)"
            ),
        )
    return label, optimizer.nsteps, ""
