"""Unit constants and sign conventions, once for the whole project.

Inside pwact_like: energy in eV (the *free* energy, consistent with the forces), length in Å, force in eV/Å,
virial in eV, time in ps where LAMMPS's metal units say so and fs inside ASE, pressure in bar (LAMMPS metal).

The virial is W = −∂E/∂ε = −V·σ, σ being ASE's stress (eV/Å³, positive in tension), without the kinetic part:
tr W > 0 under compression. It is what DeePMD-kit calls ``virial`` and VASP prints as "FORCE on cell".

Constants: CODATA 2018, https://physics.nist.gov/cuu/Constants/
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

EV_PER_HARTREE = 27.211386245988
EV_PER_RYDBERG = EV_PER_HARTREE / 2.0
ANG_PER_BOHR = 0.529177210903
EV_PER_ANG_PER_HARTREE_PER_BOHR = EV_PER_HARTREE / ANG_PER_BOHR
EV_PER_KELVIN = 8.617333262e-5  # Boltzmann's constant
BAR_PER_EV_PER_ANG3 = 1.602176634e6
GPA_PER_EV_PER_ANG3 = 160.2176634
FS_PER_PS = 1000.0
MAX_TIME_STEP_PS = 0.05  # no atoms can be followed at longer MD steps: what exceeds it was meant in fs


def time_step_problem(time_step_ps: float) -> str:
    """What is wrong with an MD step, "" when it may be: femtoseconds where picoseconds are wanted."""
    if time_step_ps <= MAX_TIME_STEP_PS:
        return ""
    return f"it is in ps, and {time_step_ps:g} ps are {time_step_ps * FS_PER_PS:g} fs (at most {MAX_TIME_STEP_PS:g}; 1 fs is 0.001)"


def virial_from_stress(stress_ev_per_ang3: ArrayLike, volume_ang3: float) -> NDArray[np.float64]:
    """Virial W = −V·σ in eV from ASE's stress.

    Parameters
    ----------
    stress_ev_per_ang3
        Either a (3, 3) matrix or Voigt's six components (xx, yy, zz, yz, xz, xy), eV/Å³, positive in tension.
    volume_ang3
        Volume of the cell in Å³.

    Returns
    -------
    numpy.ndarray, shape (3, 3)
        The virial in eV, tr W > 0 under compression.
    """
    stress = np.asarray(stress_ev_per_ang3, dtype=np.float64)
    if stress.shape == (6,):
        xx, yy, zz, yz, xz, xy = stress
        stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return -volume_ang3 * stress


def stress_from_virial(virial_ev: ArrayLike, volume_ang3: float) -> NDArray[np.float64]:
    """Voigt stress (xx, yy, zz, yz, xz, xy) in eV/Å³, ASE's sign, from a virial in eV; the inverse of the above."""
    stress = -np.asarray(virial_ev, dtype=np.float64).reshape(3, 3) / volume_ang3
    stress = 0.5 * (stress + stress.T)
    return np.array([stress[0, 0], stress[1, 1], stress[2, 2], stress[1, 2], stress[0, 2], stress[0, 1]])
