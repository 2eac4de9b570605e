"""Files of VASP and PWmat that tests write: potentials without content (the real ones are licensed), inputs, cut pieces of real outputs."""

from __future__ import annotations

from pathlib import Path

INCAR = """\
SYSTEM = any ! the user's own comment
ENCUT = 300; PREC = Accurate
EDIFF = 1E-7   # tight
ISMEAR = 1 ; SIGMA = 0.1
LWAVE = .FALSE. ; LCHARG = .FALSE.
"""
RELAX = INCAR + "IBRION = 2\nNSW = 60\nISIF = 3\nEDIFFG = -0.01\n"


def aimd(steps: int, temperature_k: float = 600.0) -> str:
    """An INCAR of MD."""
    return INCAR + f"IBRION = 0\nNSW = {steps}\nISIF = 2\nPOTIM = 2.0\nTEBEG = {temperature_k:g}\nMDALGO = 0\nSMASS = -3\n"


def potcar(element: str, enmax_ev: float = 245.0, functional: str = "PE", title: str = "") -> str:
    """The lines of a POTCAR that are read, and none of its data."""
    title = title or f"PAW_PBE {element} 01Jan2000"
    return (
        f"  PAW_PBE {element} 01Jan2000\n   4.00000000000000\n parameters from PSCTR are:\n"
        f"   VRHFIN ={element.partition('_')[0]}: s2p2\n   LEXCH  = {functional}\n   EATOM  =   103.0669 eV,    7.5752 Ry\n\n"
        f"   TITEL  = {title}\n   LULTRA =        F    use ultrasoft PP ?\n   IUNSCR =        1    unscreen: 0-lin 1-nonlin 2-no\n"
        f"   RPACOR =    1.500    partial core radius\n   POMASS =   28.085; ZVAL   =    4.000    mass and valenz\n"
        f"   ENMAX  =  {enmax_ev:.3f}; ENMIN  =  184.009 eV\n   EAUG   =  322.069\n\n END of PSCTR-controll parameters\n"
        " local part\n  98.1\n End of Dataset\n"
    )


def write_potcars(folder: Path, **enmax_ev: float) -> list[str]:
    """One POTCAR_EL a keyword; returns their names."""
    names = []
    for element, cutoff in enmax_ev.items():
        (folder / f"POTCAR_{element}").write_text(potcar(element, cutoff))
        names.append(f"POTCAR_{element}")
    return names


def first_ionic_step(outcar: str) -> str:
    """A real OUTCAR cut to its first ionic step, with its own end."""
    lines = outcar.splitlines(keepends=True)
    second = next(place for place, line in enumerate(lines) if "Iteration      2(   1)" in line)
    end = next(place for place, line in enumerate(lines) if "General timing and accounting" in line)
    return "".join([*lines[:second], *lines[end:]])


ETOT = """\
4 1
in.atom = old.config
IN.PSP1 = Old.UPF
Ecut = 50   # Ry
Ecut2 = 200
job = scf
XCFUNCTIONAL = PBE
E_error = 0
Rho_error = 1E-5
OUT.STRESS = T
"""
ETOT_RELAX = ETOT.replace("job = scf", "job = RELAX") + "relax_detail = 1 60 0.01 1 0.01\n"
REPORT = """\
 *********** end of etot.input report ********
 iter=  18   ave_lin=  1.0  iCGmth=   3
 E_tot(eV)            = -.84636070470000E+03    -.5326E-05
 -------------------------------------------
 ending_scf_reason = {reason}
 E_tot(eV)    = -.84636070470000E+03    -.1204E-04
"""
CONVERGED = "tol Rho_err  1.000000000000000E-005"
UNCONVERGED = "niter reached  100"


def etot_aimd(steps: int, temperature_k: float = 600.0) -> str:
    """An etot.input of MD."""
    return ETOT.replace("job = scf", "job = md") + f"md_detail = 1, {steps}, 2.0, {temperature_k:g}, {temperature_k:g}\n"
