"""Stands in for VASP: reads INCAR, POSCAR, POTCAR and prints OUTCAR, vasprun.xml and CONTCAR as VASP 6 does, with EMT's numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import stand_in
from ase import Atoms
from ase.io import read, write

from pwact_like.config.input_files import settings_of

RULE = "-" * 38
NELM = 60


def number(settings: dict[str, str], key: str, default: float) -> float:
    """A setting."""
    return float(settings.get(key, str(default)).split()[0])


def main(folder: Path) -> int:
    """Run in a folder; returns the exit status."""
    stand_in.note_call(folder)
    settings = settings_of(folder / "INCAR")
    atoms = read(folder / "POSCAR", format="vasp")
    titles = re.findall(r"TITEL\s*=\s*(.+?)\s*$", (folder / "POTCAR").read_text(), re.MULTILINE)
    steps, relaxed = _steps(atoms, settings)
    (folder / "OUTCAR").write_text(_outcar(steps, titles, relaxed))
    (folder / "vasprun.xml").write_text(_vasprun(steps))
    write(folder / "CONTCAR", steps[-1].atoms, format="vasp", direct=True)
    (folder / "WAVECAR").write_text("large")
    return 0


def _steps(atoms: Atoms, settings: dict[str, str]) -> tuple[list[stand_in.Step], bool]:
    count = int(number(settings, "NSW", 0))
    if count == 0:
        return [stand_in.evaluated(atoms)], False
    if int(number(settings, "IBRION", 0)) == 0:
        seed = int(number(settings, "RANDOM_SEED", 0))
        return stand_in.moved(atoms, count, number(settings, "POTIM", 0), number(settings, "TEBEG", 0), seed), False
    return stand_in.relaxed(atoms, count, -number(settings, "EDIFFG", -0.02))


def _outcar(steps: list[stand_in.Step], titles: list[str], relaxed: bool) -> str:
    symbols = steps[0].atoms.get_chemical_symbols()
    counts = [symbols.count(symbol) for symbol in dict.fromkeys(symbols)]
    lines = [" vasp.0.0.0 stand-in", *(f"   TITEL  = {title}" for title in titles)]
    lines += [
        f"   ions per type =    {'   '.join(map(str, counts))}",
        f"   NELM   =     {NELM};   NELMIN=  2; NELMDL=  0     # of ELM steps",
    ]
    for ionic, step in enumerate(steps, start=1):
        lines += _ionic_step(ionic, step)
    if relaxed:
        lines.append(" reached required accuracy - stopping structural energy minimisation")
    lines.append(" General timing and accounting informations for this job:")
    return "\n".join(lines) + "\n"


def _ionic_step(ionic: int, step: stand_in.Step) -> list[str]:
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = step.virial_ev
    wrapped = step.atoms.copy()
    wrapped.wrap()
    lines = [
        f"{RULE} Iteration {ionic:6d}({1:4d})  {RULE}",
        f"  free energy    TOTEN  = {step.energy_ev + 0.5:19.8f} eV",
        f"{RULE} Iteration {ionic:6d}({2:4d})  {RULE}",
        f"  free energy    TOTEN  = {step.energy_ev:19.8f} eV",
        "------------------------ aborting loop because EDIFF is reached ----------------------------------------",
        "  FORCE on cell =-STRESS in cart. coord.  units (eV):",
        "  Direction    XX          YY          ZZ          XY          YZ          ZX",
        "  " + RULE,
        "  Total  " + "".join(f"{value:12.5f}" for value in (xx, yy, zz, xy, yz, xz)),
        "",
        " VOLUME and BASIS-vectors are now :",
        f"  volume of cell : {step.atoms.get_volume():12.2f}",
        "      direct lattice vectors                 reciprocal lattice vectors",
        *("   " + "".join(f"{value:13.9f}" for value in (*row, 0.0, 0.0, 0.0)) for row in step.atoms.cell.array),
        "",
        " POSITION                                       TOTAL-FORCE (eV/Angst)",
        " " + RULE,
    ]
    for position, force in zip(wrapped.positions, step.forces, strict=True):
        lines.append("".join(f"{value:13.5f}" for value in position) + "   " + "".join(f"{value:14.6f}" for value in force))
    lines += [" " + RULE, "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)", f"  free  energy   TOTEN  = {step.energy_ev:19.8f} eV", ""]
    return lines


def _array(name: str, rows: np.ndarray) -> str:
    inside = "".join(f"<v>{' '.join(f'{value:16.8f}' for value in row)}</v>" for row in rows)
    return f'<varray name="{name}" >{inside}</varray>'


def _vasprun(steps: list[stand_in.Step]) -> str:
    atoms = "".join(f"<rc><c>{symbol:2}</c><c>1</c></rc>" for symbol in steps[0].atoms.get_chemical_symbols())
    lines = ['<?xml version="1.0" encoding="ISO-8859-1"?>', "<modeling>", f'<parameters><i type="int" name="NELM">{NELM}</i></parameters>']
    lines.append(f'<atominfo><array name="atoms" ><set>{atoms}</set></array></atominfo>')
    for step in steps:
        kbar = step.virial_ev / step.atoms.get_volume() * 1602.176634
        lines += [
            "<calculation><scstep></scstep><scstep></scstep>",
            f"<structure><crystal>{_array('basis', step.atoms.cell.array)}</crystal>",
            f"{_array('positions', step.atoms.get_scaled_positions())}</structure>",
            _array("forces", step.forces),
            _array("stress", kbar),
            f'<energy><i name="e_fr_energy">{step.energy_ev:16.8f}</i></energy></calculation>',
        ]
    return "\n".join([*lines, "</modeling>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
