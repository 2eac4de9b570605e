"""The sections of a CP2K input that belong to us, and what the level of theory hashes of the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pwact_like.engines.labelers.cp2k_basis import Kinds
from pwact_like.engines.labelers.cp2k_input import Line, Section, without_comment
from pwact_like.engines.labelers.kpoints import grid_from_kspacing
from pwact_like.engines.protocols import LabelKind
from pwact_like.errors import Problem

if TYPE_CHECKING:
    from ase import Atoms

PROJECT = "label"
# methods of &DFT/&QS that take no Gaussian basis sets from KIND
_PARAMETRISED = ("XTB", "DFTB", "PM6", "PM6-FM", "PM3", "AM1", "MNDO", "MNDOD", "PDG", "RM1", "PNNL")
_SET = re.compile(r"@SET\s+(\w+)\s+(.+)$", re.IGNORECASE)
_USE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# coordinates come from us: what would bring others, or several copies, is refused
_REFUSED = {
    ("EXT_RESTART",): "takes the structure from a restart file, so every label would be of that one",
    ("MULTIPLE_FORCE_EVALS",): "mixes several force evaluations, and only one can be labelled",
    ("FARMING",): "runs other inputs",
}


def check_template(root: Section, path: Path, kind: LabelKind) -> list[Problem]:
    """What in the user's input cannot work here."""
    problems = []
    for names, why in _REFUSED.items():
        section = root.find(*names)
        if section is not None:
            problems.append(Problem(f"{path}: line {section.number}", f"&{'/'.join(names)} {why}", "take it out"))
    count = len(root.sections("FORCE_EVAL"))
    if count != 1:
        problems.append(Problem(str(path), f"one &FORCE_EVAL is needed, and there are {count}", "keep the one that gives the labels"))
    for section_names in (("SUBSYS", "CELL"), ("SUBSYS", "TOPOLOGY")):
        section = root.find("FORCE_EVAL", *section_names)
        line = section.keyword("MULTIPLE_UNIT_CELL") if section else None
        if line is not None:
            cure = "take it out; super cells are made by super_cell of param.json"
            problems.append(Problem(f"{path}: line {line.number}", "MULTIPLE_UNIT_CELL would change the number of atoms", cure))
    if kind == "aimd":
        if root.find("MOTION", "MD") is None:
            problems.append(Problem(str(path), "aimd needs a &MOTION/&MD section", "give ENSEMBLE, STEPS, TIMESTEP and TEMPERATURE there"))
        elif not root.ensure("MOTION", "MD").value("STEPS"):
            problems.append(Problem(str(path), "&MOTION/&MD has no STEPS", "say how many MD steps are wanted"))
    return problems


def planned_md_steps(root: Section) -> int | None:
    """STEPS of &MOTION/&MD, None when they are no plain number (a variable)."""
    section = root.find("MOTION", "MD")
    text = section.value("STEPS") if section else ""
    return int(text) if text.isdigit() else None


def set_task(root: Section, kind: LabelKind, seed: int) -> None:
    """Project, run type, and what must be printed."""
    general = root.ensure("GLOBAL")
    run_type = {"scf": "ENERGY_FORCE", "relax": "CELL_OPT", "aimd": "MD"}[kind]
    if kind == "relax" and general.value("RUN_TYPE").upper() in ("GEO_OPT", "GEOMETRY_OPTIMIZATION"):
        run_type = "GEO_OPT"  # the user wants to keep the cell
    general.set("RUN_TYPE", run_type, "PROGRAM")
    general.set("PROJECT_NAME", PROJECT, "PROJECT")
    if general.value("PRINT_LEVEL", "IOLEVEL").upper() == "SILENT":
        general.set("PRINT_LEVEL", "LOW", "IOLEVEL")  # SILENT prints no energies
    if kind == "aimd":
        general.set("SEED", str(seed))
    if kind != "scf":
        _print_trajectory(root.ensure("MOTION", "PRINT"), run_type)


def _print_trajectory(printing: Section, run_type: str) -> None:
    """Every step, with the cell; the names that CP2K derives from the project."""
    printing.remove(sections=("TRAJECTORY", "FORCES", "CELL", "STRESS"))
    keywords: dict[str, tuple[tuple[str, str], ...]] = {
        "TRAJECTORY": (("FORMAT", "XYZ"), ("UNIT", "angstrom")),
        "FORCES": (),
        "CELL": (),
        "STRESS": (),
    }
    if run_type != "MD":  # the relaxed structure is read from the restart file
        printing.remove(sections=("RESTART", "RESTART_HISTORY"))
        keywords["RESTART"] = (("BACKUP_COPIES", "0"),)
        printing.add("RESTART_HISTORY", "OFF")
    for name, lines in keywords.items():
        printing.add(name, "ON", lines).add("EACH", keywords=((run_type, "1"),))


def set_output(force_eval: Section, atoms: Atoms) -> None:
    """Forces with twelve decimals, and the analytical stress of a crystal."""
    printing = force_eval.ensure("PRINT")
    printing.remove(sections=("FORCES", "STRESS_TENSOR"))
    printing.add("FORCES", "ON", (("NDIGITS", "12"),))
    if bool(np.all(atoms.pbc)):
        if force_eval.value("STRESS_TENSOR").upper() != "NUMERICAL":
            force_eval.set("STRESS_TENSOR", "ANALYTICAL")
        printing.add("STRESS_TENSOR", "ON")


def set_structure(force_eval: Section, atoms: Atoms) -> None:
    """CELL and COORD to the last digit; what else would bring coordinates or velocities goes."""
    subsys = force_eval.ensure("SUBSYS")
    subsys.remove(sections=("CELL", "COORD", "VELOCITY", "CORE_COORD", "CORE_VELOCITY", "SHELL_COORD", "SHELL_VELOCITY"))
    topology = subsys.find("TOPOLOGY")
    if topology is not None:
        topology.remove(keywords=("COORD_FILE_NAME", "COORD_FILE_FORMAT", "COORDINATE", "NUMBER_OF_ATOMS"))
    vectors = [" ".join(map(repr, row)) for row in atoms.cell.array.tolist()]
    periodic = "".join(axis for axis, flag in zip("XYZ", atoms.pbc, strict=True) if flag) or "NONE"
    subsys.add("CELL", keywords=(*zip("ABC", vectors, strict=True), ("PERIODIC", periodic)))
    rows = zip(atoms.symbols, atoms.positions.tolist(), strict=True)
    subsys.add("COORD", keywords=tuple((symbol, " ".join(map(repr, row))) for symbol, row in rows))


def set_kinds(force_eval: Section, atoms: Atoms, kinds: Kinds | None, path: Path, source: str) -> list[Problem]:
    """Give every element its basis set and potential; the user's other keywords of a KIND stay."""
    subsys = force_eval.ensure("SUBSYS")
    present = {section.parameter.split()[0].capitalize(): section for section in subsys.sections("KIND") if section.parameter}
    default = present.get("Default") or present.get("_default_")
    method = (force_eval.find("DFT", "QS") or Section("", "", "")).value("METHOD").upper()
    needs_basis = force_eval.value("METHOD").upper() in ("", "QS", "QUICKSTEP") and method not in _PARAMETRISED
    problems = []
    for element in dict.fromkeys(atoms.symbols):
        section = present.get(element)
        if kinds is not None and element in kinds.names:
            section = section or subsys.add("KIND", element)
            section.remove(keywords=("BASIS_SET", "POTENTIAL", "POT"))
            section.set("POTENTIAL", kinds.names[element][1])
            section.set("BASIS_SET", kinds.names[element][0])
        elif needs_basis and not any(found and found.value("BASIS_SET") for found in (section, default)):
            where = f"{source}: gaussian_param.atom_list" if kinds is not None else str(path)
            cure = f"add {element} to gaussian_param (atom_list, basis_set_list, potential_list), or a &KIND {element} to {path.name}"
            problems.append(Problem(where, f"{element} has no basis set and potential", cure))
    if kinds is not None:
        dft = force_eval.ensure("DFT")
        dft.set("POTENTIAL_FILE_NAME", kinds.potential_file.name, "POTENTIAL_FILE")
        dft.set("BASIS_SET_FILE_NAME", kinds.basis_set_file.name)
    return problems


def set_kpoints(force_eval: Section, atoms: Atoms, kspacing_per_ang: float | None) -> None:
    """Γ-centred grid from a spacing; without one the user's own KPOINTS stay.

    CP2K's MONKHORST-PACK has Γ only where every division is odd; MACDONALD with a shift of 1/(2n) along the even ones
    is the same grid with Γ in it. A single point is no KPOINTS section at all.
    """
    if kspacing_per_ang is None:
        return
    dft = force_eval.ensure("DFT")
    grid = grid_from_kspacing(atoms.cell.array, atoms.pbc, kspacing_per_ang)
    if grid == (1, 1, 1):
        dft.remove(sections=("KPOINTS",))
        return
    section = dft.ensure("KPOINTS")
    section.remove(keywords=("SCHEME", "KPOINT", "KPOINTS", "UNITS"))
    divisions = " ".join(map(str, grid))
    if all(count % 2 for count in grid):
        section.set("SCHEME", f"MONKHORST-PACK {divisions}")
    else:
        section.set("SCHEME", f"MACDONALD {divisions} {' '.join(repr(0.0 if count % 2 else 0.5 / count) for count in grid)}")


def decisive_lines(root: Section, *, own_kpoints: bool, own_kinds: bool) -> list[str]:
    """What of an input decides energies, normalised: names and values in capitals, comments and blanks gone.

    Left out is what does not move a converged energy: GLOBAL, MOTION, everything printed, how the SCF gets there (all of
    &SCF but the smearing), extrapolation, and what is ours (structure, and K-points or basis sets where they are).
    """
    force_eval = root.find("FORCE_EVAL")
    if force_eval is None:
        return []
    lines = []
    for names, line in force_eval.walk():
        bare = " ".join(without_comment(line.text).split())
        if (
            not bare
            or "PRINT" in names
            or line.keyword in ("STRESS_TENSOR", "EXTRAPOLATION", "EXTRAPOLATION_ORDER", "WFN_RESTART_FILE_NAME")
        ):
            continue
        if names[:1] == ("SUBSYS",) and (names[1:2] != ("KIND",) or (own_kinds and line.keyword in ("BASIS_SET", "POTENTIAL", "POT"))):
            continue
        if names[:2] == ("DFT", "SCF") and "SMEAR" not in names:
            continue
        if names[:2] == ("DFT", "KPOINTS") and own_kpoints:
            continue
        if own_kinds and names == ("DFT",) and line.keyword in ("BASIS_SET_FILE_NAME", "POTENTIAL_FILE_NAME", "POTENTIAL_FILE"):
            continue
        lines.append(f"{'/'.join(names)}: {bare}".upper())
    lines += [f"{'/'.join(names)} {value}".upper() for names, value in _parameters(force_eval)]
    return sorted(_substituted(lines, _variables(root)))


def _variables(root: Section) -> dict[str, str]:
    """Values of the preprocessor's ``@SET NAME VALUE``, names and values in capitals."""
    found = (_SET.match(without_comment(line.text)) for _, line in root.walk())
    return {match[1].upper(): match[2].strip().upper() for match in found if match}


def _substituted(lines: list[str], variables: dict[str, str]) -> list[str]:
    """Lines with ``$NAME`` and ``${NAME}`` replaced: a cutoff in a variable decides energies as a written one does."""
    for _ in range(len(variables) + 1):  # values may name variables
        before = lines
        lines = [_USE.sub(lambda match: variables.get(match[1] or match[2], match[0]), line) for line in lines]
        if lines == before:
            break
    return lines


def _parameters(section: Section, names: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    """Sections that carry a parameter, e.g. XC_FUNCTIONAL PBE; structure and printing left out."""
    found = []
    for child in section.children:
        if isinstance(child, Line) or child.name in ("PRINT", "CELL", "COORD", "TOPOLOGY", "SCF"):
            continue
        path = (*names, child.name)
        if child.parameter and child.name != "KIND":
            found.append((path, " ".join(child.parameter.split())))
        elif not child.children:
            found.append((path, ""))  # an empty section switches something on, e.g. &PBE
        found += _parameters(child, path)
    return found


def functional_name(root: Section) -> str:
    """Short name for people: the functional, or the method where there is none."""
    force_eval = root.find("FORCE_EVAL") or Section("", "", "")
    functional = force_eval.find("DFT", "XC", "XC_FUNCTIONAL")
    if functional is not None:
        name = functional.parameter or "+".join(child.name for child in functional.children if isinstance(child, Section))
        if name and name.upper() != "NO_SHORTCUT":
            return "+".join(name.upper().split())
    method = force_eval.find("DFT", "QS")
    return (method.value("METHOD").upper() if method else "") or force_eval.value("METHOD").upper() or "DFT"
