"""Stands in for PWmat: reads etot.input and atom.config and prints OUT.MLMD or MOVEMENT, and REPORT, with EMT's numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import stand_in
from ase import Atoms

from pwact_like.config.input_files import settings_of

DASHES = " " + "-" * 49


def read_config(path: Path) -> Atoms:
    """Structure of an atom.config, read apart from the project's reader."""
    lines = path.read_text().splitlines()
    count, lattice, position = int(lines[0].split()[0]), lines.index("LATTICE"), lines.index("POSITION")
    cell = np.array([line.split()[:3] for line in lines[lattice + 1 : lattice + 4]], dtype=float)
    rows = [line.split() for line in lines[position + 1 : position + 1 + count]]
    return Atoms(
        numbers=[int(row[0]) for row in rows],
        scaled_positions=np.array([row[1:4] for row in rows], dtype=float),
        cell=cell,
        pbc=True,
    )


def main(folder: Path) -> int:
    """Run in a folder; returns the exit status."""
    stand_in.note_call(folder)
    settings = settings_of(folder / "etot.input")
    atoms = read_config(folder / settings["IN.ATOM"])
    job = settings["JOB"].upper()
    missing = [value for key, value in settings.items() if key.startswith("IN.PSP") and not (folder / value).is_file()]
    if missing:
        sys.stderr.write(f"there is no {missing[0]}\n")
        return 1
    if job == "MD":
        detail = [float(word) for word in settings["MD_DETAIL"].replace(",", " ").split()]
        steps = stand_in.moved(atoms, int(detail[1]), detail[2], detail[3], seed=0)
    elif job == "RELAX":
        detail = [float(word) for word in settings["RELAX_DETAIL"].replace(",", " ").split()]
        steps, _ = stand_in.relaxed(atoms, int(detail[1]), detail[2])
    else:
        steps = [stand_in.evaluated(atoms)]
    name = "OUT.MLMD" if job == "SCF" else "MOVEMENT"
    (folder / name).write_text("".join(_frame(index, step) for index, step in enumerate(steps)))
    (folder / "REPORT").write_text("".join(" ending_scf_reason = tol Rho_err  1.000000000000000E-005\n" for _ in steps))
    return 0


def _frame(index: int, step: stand_in.Step) -> str:
    """Forces and stress are printed negated, as PWmat does."""
    energies = "  ".join(f"{value:.10E}" for value in (step.energy_ev + 0.1, step.energy_ev, 0.1))
    lines = [f"  {len(step.atoms)} atoms,Iteration (fs) = {index:.10E}, Etot,Ep,Ek (eV) = {energies}, SCF =    14"]
    lines.append(" Lattice vector (Angstrom)")
    for row, stress in zip(step.atoms.cell.array, -step.virial_ev, strict=True):
        lines.append(" ".join(f"{value:.10E}" for value in row) + "     stress (eV): " + " ".join(f"{value:.6E}" for value in stress))
    lines.append(" Position (normalized), move_x, move_y, move_z")
    for number, row in zip(step.atoms.numbers, step.atoms.get_scaled_positions(wrap=False), strict=True):
        lines.append(f"{number:4d} " + " ".join(f"{value:21.15f}" for value in row) + "     1  1  1")
    lines.append(" Force (-force, eV/Angstrom)")
    for number, row in zip(step.atoms.numbers, -step.forces, strict=True):
        lines.append(f"{number:4d} " + " ".join(f"{value:21.15f}" for value in row))
    return "\n".join([*lines, DASHES]) + "\n"


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
