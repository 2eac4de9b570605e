"""The parts of a pw.x input that belong to us, and what the level of theory hashes of the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.engines.labelers.dynamics import start_velocities
from pwact_like.engines.labelers.kpoints import grid_from_kspacing
from pwact_like.engines.labelers.qe_input import PwInput
from pwact_like.engines.labelers.qe_species import SPECIES_INDEX, Species, by_label, read_head
from pwact_like.engines.protocols import LabelKind
from pwact_like.errors import Problem
from pwact_like.units import EV_PER_RYDBERG

if TYPE_CHECKING:
    from ase import Atoms

PREFIX = "label"
OUTDIR = "out"
_STRUCTURE = ("ibrav", "celldm", "a", "b", "c", "cosab", "cosac", "cosbc", "nat", "ntyp")
_SPACE_GROUP = ("space_group", "uniqueb", "origin_choice", "rhombohedral")
# symmetry is a means, and further empty bands move no energy
_NOT_DECISIVE = (*_STRUCTURE, *_SPACE_GROUP, "nosym", "nosym_evc", "noinv", "no_t_rev", "force_symmorphic", "use_all_frac", "nbnd")
# the only variables of the other namelists that energies hang on
_DECISIVE = {
    "CONTROL": ("tefield", "dipfield", "lelfield", "gate", "lfcp", "lfcpopt", "trism", "nberrycyc", "twochem"),
    "ELECTRONS": ("efield", "efield_cart", "real_space", "tqr"),
}
_RELAXING = {"vc-relax": ("bfgs", "damp"), "relax": ("bfgs", "damp", "fire")}
_MOVING = ("verlet", "velocity-verlet")
_FUNCTIONALS = {"SLA PZ NOGX NOGC": "PZ", "SLA PW PBX PBC": "PBE", "SLA PW PBE PBE": "PBE", "SLA PW PSX PSC": "PBESOL"}
_RYDBERG_MASSES_PER_AMU = 1.66053906660e-27 / (2.0 * 9.1093837015e-31)  # in Rydberg units the electron's mass is 1/2 (CODATA 2018)


def calculation_of(root: PwInput, kind: LabelKind) -> str:
    """pw.x's word for a kind; a relaxation moves the cell unless the user's input says ``relax``."""
    if kind == "relax":
        return "relax" if root.value("CONTROL", "calculation").lower() == "relax" else "vc-relax"
    return {"scf": "scf", "aimd": "md"}[kind]


def planned_md_steps(root: PwInput) -> int | None:
    """Evaluations that an MD input asks for (``nstep``), None when it is no plain number."""
    text = root.value("CONTROL", "nstep")
    return int(text) if text.isdigit() else None


def check_template(root: PwInput, path: Path, kind: LabelKind, kspacing_per_ang: float | None) -> list[Problem]:
    """What in the user's input cannot work here."""
    problems = []
    calculation = calculation_of(root, kind)

    def wrong(name: str, what: str, cure: str) -> None:
        problems.append(Problem(f"{path}: {name}", what, cure))

    if kspacing_per_ang is None and root.card("K_POINTS") is None:
        wrong("K_POINTS", "there are no k-points: no K_POINTS, and no kspacing", "give kspacing (1/Å, 2π included), or K_POINTS")
    for card in ("CONSTRAINTS", "ATOMIC_FORCES"):
        if root.card(card) is not None:
            wrong(card, "it counts atoms, and its forces would get into the labels", "take it out")
    if root.value("SYSTEM", "occupations").lower().startswith("tetrahedra"):
        wrong("&SYSTEM", "with tetrahedra the forces are not those of the energy", "use smearing, or fixed for an insulator")
    if not root.value("SYSTEM", "ecutwfc"):
        wrong("&SYSTEM", "ecutwfc is missing", "give the cutoff in Ry")
    dynamics = root.value("IONS", "ion_dynamics").lower()
    if kind == "relax" and dynamics and dynamics not in _RELAXING[calculation]:
        wrong("&IONS", f"ion_dynamics = {dynamics!r} relaxes nothing ({calculation})", f"use {', '.join(_RELAXING[calculation])}")
    if kind == "aimd":
        if dynamics and dynamics not in _MOVING:
            # langevin moves without velocities, with the same random numbers in every run (6.7)
            wrong("&IONS", f"ion_dynamics = {dynamics!r} is no MD that could be seeded", "use verlet, or leave it out")
        if root.value("CONTROL", "calculation").lower() == "vc-md":
            wrong(
                "&CONTROL",
                "MD with a moving cell (vc-md) is not built here",
                "use md; strained cells come from scale and cell_pert_fraction",
            )
        if planned_md_steps(root) is None:
            wrong("&CONTROL", "aimd needs nstep", "say how many MD steps are wanted")
        if _number(root.value("IONS", "tempw")) is None:
            wrong("&IONS", "aimd needs tempw", "give the temperature in K: start velocities are drawn for it")
    return problems


def _number(text: str) -> float | None:
    """A Fortran number (``1.0d3``), None when it is none."""
    try:
        return float(re.sub(r"[dD]", "e", text))
    except ValueError:
        return None


def set_task(root: PwInput, kind: LabelKind) -> None:
    """What is calculated, where its files lie, and what must come out."""
    control = root.namelist("CONTROL")
    control.remove("restart_mode", "wfcdir")
    if control.value("disk_io").lower() == "none":
        control.remove("disk_io")  # it may keep the XML file from being written
    for name, value in (
        ("tstress", ".true."),
        ("tprnfor", ".true."),
        ("pseudo_dir", "'./'"),
        ("outdir", f"'./{OUTDIR}'"),
        ("prefix", f"'{PREFIX}'"),
        ("calculation", f"'{calculation_of(root, kind)}'"),
    ):
        control.set(name, value)
    root.namelist("SYSTEM")
    electrons = root.namelist("ELECTRONS")
    electrons.remove(*(name for name in ("startingpot", "startingwfc") if electrons.value(name).lower() == "file"))  # there is none
    calculation = control.value("calculation")
    # pw.x reads &IONS and &CELL for these only, and takes them for cards elsewhere
    if calculation == "scf":
        root.namelists.pop("IONS", None)
    else:
        ions = root.namelist("IONS")
        ions.remove("ion_positions", "ion_velocities")
    if calculation == "vc-relax":
        root.namelist("CELL")
    else:
        root.namelists.pop("CELL", None)


def set_structure(root: PwInput, atoms: Atoms, species: Sequence[Species]) -> None:
    """Cell, atoms and species, to the last digit."""
    from ase.data import atomic_masses, atomic_numbers

    system = root.namelist("SYSTEM")
    system.remove(*_STRUCTURE, *_SPACE_GROUP)
    for name, value in (("ntyp", len(species)), ("nat", len(atoms)), ("ibrav", 0)):
        system.set(name, str(value))
    label = {one.element: one.label for one in species}
    rows = [f"  {one.label} {one.mass or repr(float(atomic_masses[atomic_numbers[one.element]]))} {one.link}" for one in species]
    root.remove_cards("ATOMIC_VELOCITIES", "CELL_PARAMETERS", "ATOMIC_POSITIONS")
    root.add_card("ATOMIC_SPECIES", "", rows)
    root.add_card("CELL_PARAMETERS", "angstrom", ["  " + " ".join(map(repr, row)) for row in atoms.cell.array.tolist()])
    positions = zip(atoms.symbols, atoms.positions.tolist(), strict=True)
    root.add_card("ATOMIC_POSITIONS", "angstrom", [f"  {label[symbol]} {' '.join(map(repr, row))}" for symbol, row in positions])


def set_velocities(root: PwInput, atoms: Atoms, species: Sequence[Species], seed: int) -> None:
    """Start velocities for ``tempw`` by our seed (pw.x's own are the same in every run), and no symmetry, which they break."""
    root.namelist("SYSTEM").set("nosym", ".true.")
    root.namelist("IONS").set("ion_velocities", "'from_input'")
    temperature_k = _number(root.value("IONS", "tempw")) or 0.0
    own = {one.element: _number(one.mass) for one in species}
    masses = np.array([own[symbol] or mass for symbol, mass in zip(atoms.symbols, atoms.get_masses(), strict=True)])
    velocities = rydberg_velocities(masses, temperature_k, seed)
    label = {one.element: one.label for one in species}
    rows = [f"  {label[symbol]} {' '.join(map(repr, row))}" for symbol, row in zip(atoms.symbols, velocities.tolist(), strict=True)]
    root.add_card("ATOMIC_VELOCITIES", "a.u", rows)


def rydberg_velocities(masses_amu: NDArray[np.float64], temperature_k: float, seed: int) -> NDArray[np.float64]:
    """Start velocities in pw.x's unit (bohr per ħ/Ry), shape (n_atoms, 3): no momentum, the temperature exact."""
    velocities = start_velocities(masses_amu, temperature_k, np.random.default_rng(seed))  # in √(eV/amu)
    return velocities / math.sqrt(EV_PER_RYDBERG * _RYDBERG_MASSES_PER_AMU)


def set_kpoints(root: PwInput, atoms: Atoms, kspacing_per_ang: float | None) -> None:
    """Γ-centred grid from a spacing; without one the user's own K_POINTS stay. Γ alone takes pw.x's quicker way where it can."""
    if kspacing_per_ang is None:
        return
    root.remove_cards("ADDITIONAL_K_POINTS")
    grid = grid_from_kspacing(atoms.cell.array, atoms.pbc, kspacing_per_ang)
    if grid == (1, 1, 1) and not any(root.namelist("SYSTEM").is_true(name) for name in ("noncolin", "lspinorb")):
        root.add_card("K_POINTS", "gamma", [])
    else:
        root.add_card("K_POINTS", "automatic", ["  " + " ".join(map(str, (*grid, 0, 0, 0)))])


def decisive_lines(root: PwInput, path: Path, *, own_kpoints: bool) -> list[str]:
    """What of an input decides energies, normalised: names and values in lower case, strings without quotes.

    That is &SYSTEM without structure, symmetry and nbnd, what counts species by its element, a few variables of the other
    namelists, and the cards OCCUPATIONS, HUBBARD, SOLVENTS and (without kspacing) K_POINTS.
    """
    lines = [f"{name} {_normal(value)}" for name, value in by_label(root, path).items()]
    for name, namelist in root.namelists.items():
        final = {f"{item.name}({item.index})": item for item in namelist.assignments}  # the last one counts
        for item in final.values():
            if item.name in SPECIES_INDEX or (item.name in _NOT_DECISIVE if name == "SYSTEM" else item.name not in _DECISIVE.get(name, ())):
                continue
            lines.append(f"{item.name}({item.index}) {_normal(item.plain)}")
    wanted = {"OCCUPATIONS", "HUBBARD", "SOLVENTS", "ADDITIONAL_K_POINTS", "K_POINTS"} - (
        {"K_POINTS", "ADDITIONAL_K_POINTS"} if own_kpoints else set()
    )
    for card in root.cards:
        if card.name in wanted:
            lines += [f"{card.name} {card.option}".lower(), *(f"{card.name} {' '.join(row.split())}".lower() for row in card.rows)]
    return sorted(lines)


def _normal(value: str) -> str:
    """``.TRUE.``, ``30``, ``3.0d1`` and the like in one spelling."""
    lowered = " ".join(value.lower().split())
    if re.fullmatch(r"\.?(t|true|f|false)\.?", lowered):
        return lowered.strip(".")[0]
    number = _number(lowered)
    return repr(number) if number is not None else lowered


def functional_name(root: PwInput, species: Sequence[Species]) -> str:
    """Short name for people: input_dft, or the pseudopotentials' functional, with a van der Waals correction's name."""
    name = root.value("SYSTEM", "input_dft").upper()
    if not name:
        named = [read_head(one.file)[1] for one in species]
        # the old format writes the name behind the four parts
        name = next((_FUNCTIONALS.get(" ".join(each.split()[:4]), each) for each in named if each), "DFT")
    correction = root.value("SYSTEM", "vdw_corr").upper()
    return "+".join([*name.split(), *([correction] if correction and correction != "NONE" else [])])
