"""What an INCAR must and must not say for a single point, a relaxation and an MD run; what of it decides energies."""

from __future__ import annotations

import re

from pwact_like.engines.labelers.vasp_incar import Incar
from pwact_like.engines.protocols import LabelKind
from pwact_like.errors import Problem

# Left out of the level of theory: how ions move, how the electronic loop gets there (as tightly as EDIFF says), what is
# printed and kept, how the work is spread. Every key that is not named here counts.
_INDIFFERENT = re.compile(
    r"SYSTEM|NSW|IBRION|ISIF|POTIM|NFREE|EDIFFG?|MDALGO|SMASS|TEBEG|TEEND|LANGEVIN_\w+|ANDERSEN_PROB|PMASS|NHC_\w+|CSVR_PERIOD|PSTRESS|LATTICE_CONSTRAINTS|"
    r"NBLOCK|KBLOCK|RANDOM_SEED|NCORE(_IN_IMAGE1)?|NPAR|KPAR|NSIM|LPLANE|LSCALU|NELM|NELMIN|NELMDL|NELMGW|ALGO|IALGO|LDIAG|LSUBROT|"
    r"A(MIX|MIX_MAG|MIN)|BMIX(_MAG)?|IMIX|INIMIX|MIXPRE|MAXMIX|LMAXMIX|WC|TIME|ISTART|ICHARG|INIWAV|ISYM|SYMPREC|IWAVPR|"
    r"LWAVE|LCHARG|LAECHG|LVTOT|LVHAR|LELF|LORBIT|NWRITE|NEDOS|EMIN|EMAX|LH5|LASYNC|KGAMMA_ONLY|NTHREADS\w*|LOPTICS"
)
_FUNCTIONALS = {"PE": "PBE", "PS": "PBEsol", "RP": "RPBE", "91": "PW91", "CA": "LDA", "PZ": "LDA", "AM": "AM05"}


def check_stage(incar: Incar, kind: LabelKind) -> list[Problem]:
    """Everything in an INCAR that contradicts the stage, or makes its labels worthless.

    Raises
    ------
    InputError
        For a value that is no number.
    """
    problems: list[Problem] = []

    def wrong(key: str, what: str, cure: str) -> None:
        problems.append(Problem(f"{incar.path}: {key}", what, cure))

    nsw = incar.integer("NSW", 0)
    ibrion = incar.integer("IBRION", 0 if nsw > 0 else -1)  # VASP's default: MD as soon as there are steps
    isif = incar.integer("ISIF", 2)
    if kind == "scf":
        if nsw > 0:
            wrong("NSW", f"a single point must not move the atoms, and NSW = {nsw}", "set NSW = 0 in the INCAR of the single points")
    elif nsw < 1:
        wrong("NSW", f"NSW = {nsw} makes no steps, and this is the INCAR of {_NAMES[kind]}", "set NSW to the number of steps")
    elif kind == "relax":
        if ibrion not in (1, 2, 3):
            said = f"IBRION = {ibrion}" if "IBRION" in incar.settings else "IBRION is missing, which means 0"
            meaning = "MD" if ibrion == 0 else "no relaxation"
            wrong("IBRION", f"{said}: that is {meaning}, and this is the INCAR of a relaxation", "set IBRION = 2 (or 1, 3)")
    else:
        if ibrion != 0:
            wrong("IBRION", f"IBRION = {ibrion} is no MD, and this is the INCAR of an MD run", "set IBRION = 0")
        if "POTIM" not in incar.settings:
            wrong("POTIM", "the time step is missing, without which VASP ends at once", "set POTIM in fs")
        if isif > 3 or (isif == 3 and incar.integer("MDALGO", 0) != 3):
            cure = "set ISIF = 2; the cell moves in MD with ISIF = 3 and MDALGO = 3 only"
            wrong("ISIF", f"ISIF = {isif} relaxes the cell, and this is the INCAR of an MD run at constant volume", cure)
    if kind != "scf" and incar.integer("NWRITE", 2) < 1:
        wrong("NWRITE", "0 prints the forces of the first and the last step only", "leave NWRITE out (2), or set 1")
    if incar.integer("ICHARG", 0) >= 10:
        wrong("ICHARG", "from 10 on the density is not made self-consistent", "leave ICHARG out")
    if incar.truth("ML_LMLFF"):
        wrong("ML_LMLFF", "forces would be those of VASP's own machine-learned potential", "set ML_LMLFF = .FALSE.")
    if "IMAGES" in incar.settings:
        wrong("IMAGES", "a chain of images is no label", "remove IMAGES")
    return problems


_NAMES = {"scf": "a single point", "relax": "a relaxation", "aimd": "an MD run"}


def decisive_settings(incar: Incar, *, own_kpoints: bool) -> dict[str, str]:
    """What decides energies: key → value, upper-case, blanks squeezed; k-points only where they are not ours."""
    return {
        key: " ".join(value.upper().split())
        for key, value in sorted(incar.settings.items())
        if not _INDIFFERENT.fullmatch(key) and not (own_kpoints and key in ("KSPACING", "KGAMMA"))
    }


def functional_name(incar: Incar, potential: str) -> str:
    """Short name for people: METAGGA, GGA or hybrid of the INCAR, else the potentials' own functional (LEXCH)."""
    meta = incar.value("METAGGA").upper()
    name = meta if meta and meta != "NONE" else ""
    if not name:
        tag = incar.value("GGA").upper() or potential
        name = _FUNCTIONALS.get(tag, tag or "DFT")
    return f"{name}+HF" if incar.truth("LHFCALC") else name
