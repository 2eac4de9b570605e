"""Labels by VASP (dft_style ``vasp``): the user's INCAR, our POSCAR, POTCAR and, where the INCAR has no KSPACING, KPOINTS.

The INCAR stays as the user wrote it but for MAGMOM and LDAU settings by element, which follow the composition, and a
RANDOM_SEED for MD where there is none. Atoms are sorted by chemical symbol for VASP and come back in the order that was
asked. The POTCAR lies in the folder of a live task only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pwact_like.engines.labelers.atom_order import ASKED_FILE, Asked, asked_of, species_of, write_asked
from pwact_like.engines.labelers.fingerprints import short_hash
from pwact_like.engines.labelers.kpoints import grid_from_kspacing
from pwact_like.engines.labelers.vasp_incar import Incar, read_incar
from pwact_like.engines.labelers.vasp_output import OUTCAR, VASPRUN, judge_vasp, read_vasp
from pwact_like.engines.labelers.vasp_potcar import Potential, potcar_text, potentials_of
from pwact_like.engines.labelers.vasp_species import follow_composition
from pwact_like.engines.labelers.vasp_stage import check_stage, decisive_settings, functional_name
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import InputError, Problem
from pwact_like.fsio import write_text
from pwact_like.outcome import Outcome, TaskFiles

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import StageInput
    from pwact_like.config.labelling import LabelSettings
    from pwact_like.data.frames import Frame

DEFAULT_COMMAND = "vasp_std"
DEFAULT_KSPACING = 0.5  # VASP's own, 1/Å
_LARGEST_SEED = 900_000_000  # of RANDOM_SEED
_VDW_KERNEL = "vdw_kernel.bindat"


class VaspLabeler(Labeler):
    """VASP with the user's INCAR; one folder a job."""

    name: ClassVar[str] = "vasp"

    def __init__(self, settings: LabelSettings) -> None:
        self._settings = settings
        self._potentials, problems = potentials_of(settings, self._source)
        if problems:
            raise InputError(problems)

    @property
    def _source(self) -> str:
        return str(self._settings.source or "param.json")

    def _incar(self, entry: StageInput) -> Incar:
        if entry.input is None:
            raise InputError(Problem(self._source, "vasp needs an INCAR", "name it in `input`"))
        return read_incar(entry.input)

    def write(self, folder: Path, request: LabelRequest) -> TaskFiles:
        """Write INCAR, POSCAR, POTCAR and, where the INCAR has no KSPACING, KPOINTS."""
        incar = self._incar(request.input)
        asked = asked_of(request.atoms, "symbol")
        problems = check_stage(incar, request.kind) + _check_cell(request.atoms, folder)
        elements, _ = species_of(asked.sorted_atoms)
        potentials, missing = self._needed(elements, folder)
        problems += missing + self._check_cutoff(incar, potentials)
        changes, wrong = follow_composition(incar, asked, self._potentials)
        problems += wrong
        if problems:
            raise InputError(problems)
        if request.kind == "aimd" and "RANDOM_SEED" not in incar.settings:
            changes["RANDOM_SEED"] = f"{request.seed % _LARGEST_SEED} 0 0"
        folder.mkdir(parents=True, exist_ok=True)
        inputs = ["INCAR", "POSCAR", "POTCAR", ASKED_FILE]
        write_text(folder / "INCAR", incar.replaced(changes))
        write_text(folder / "POSCAR", _poscar_text(asked))
        write_text(folder / "POTCAR", potcar_text(potentials))
        write_asked(folder, asked)
        if "KSPACING" not in incar.settings:
            kspacing = request.input.kspacing or DEFAULT_KSPACING
            write_text(folder / "KPOINTS", _kpoints_text(request.atoms, kspacing))
            inputs.append("KPOINTS")
        kernel = incar.path.parent / _VDW_KERNEL
        return TaskFiles(
            inputs=tuple(inputs),
            links=((_VDW_KERNEL, str(kernel.resolve())),) if incar.truth("LUSE_VDW") and kernel.is_file() else (),
            outputs=(OUTCAR,),
            optional_outputs=(VASPRUN, "OSZICAR", "CONTCAR"),
            secret=("POTCAR",),
            counts_cut_off=request.kind == "aimd",
        )

    def _needed(self, elements: tuple[str, ...], folder: Path) -> tuple[list[Potential], list[Problem]]:
        """The potentials in the POSCAR's order, and the elements that lack one."""
        have = ", ".join(sorted(self._potentials)) or "none"
        missing = [
            Problem(f"{self._source}: pseudo", f"no POTCAR for {element} of {folder}; there are: {have}", f"add the file for {element}")
            for element in elements
            if element not in self._potentials
        ]
        return [self._potentials[element] for element in elements if element in self._potentials], missing

    def _check_cutoff(self, incar: Incar, potentials: list[Potential]) -> list[Problem]:
        """Without ENCUT the cutoff is that of the structure's hardest potential: labels of other elements would not belong to them."""
        if "ENCUT" in incar.settings or not potentials:
            return []
        here = max(potential.enmax_ev for potential in potentials)
        hardest = max(self._potentials.values(), key=lambda potential: potential.enmax_ev)
        if here >= hardest.enmax_ev:
            return []
        what = (
            f"it is missing: the cutoff would be {here:g} eV for {' '.join(potential.element for potential in potentials)} "
            f"and {hardest.enmax_ev:g} eV with {hardest.element}"
        )
        return [
            Problem(f"{incar.path}: ENCUT", what, f"set ENCUT = {hardest.enmax_ev:g} or more, or leave {hardest.path.name} out of pseudo")
        ]

    def commands(self, command: str, request: LabelRequest) -> tuple[str, ...]:
        """The user's command; one thread a process unless the user says otherwise."""
        return (f'{{ export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}"; {command.strip().rstrip("; ") or DEFAULT_COMMAND}; }}',)

    def outcome(self, folder: Path, kind: LabelKind) -> Outcome:
        """Judge by OUTCAR and vasprun.xml: whole, every electronic loop converged, relaxed where that was asked.

        An MD that was cut off for good counts with its whole steps.
        """
        return judge_vasp(folder, kind)

    def read(self, folder: Path, kind: LabelKind) -> list[Frame]:
        """Frames in the order of atoms that was asked.

        Raises
        ------
        DataError
            When neither OUTCAR nor vasprun.xml holds the label that ``kind`` means.
        """
        return read_vasp(folder, kind)

    def level_of_theory(self, entry: StageInput) -> str:
        """E.g. ``vasp-PBE-1a2b3c4d``, from the INCAR's decisive settings, the potentials and the k-spacing."""
        incar = self._incar(entry)
        own_kpoints = "KSPACING" not in incar.settings
        potentials = sorted(self._potentials.values(), key=lambda potential: potential.element)
        decisive = {
            "incar": decisive_settings(incar, own_kpoints=own_kpoints),
            "potentials": [[potential.title, potential.sha256] for potential in potentials],
            "kspacing": (entry.kspacing or DEFAULT_KSPACING) if own_kpoints else None,
        }
        functional = next((potential.functional for potential in potentials if potential.functional), "")
        return f"vasp-{functional_name(incar, functional)}-{short_hash(decisive)}"


def _check_cell(atoms: Atoms, folder: Path) -> list[Problem]:
    if atoms.cell.rank < 3:
        return [Problem(str(folder), "VASP needs a cell, and this structure has none", "put the molecule into a box")]
    if np.linalg.det(atoms.cell.array) < 0:
        return [Problem(str(folder), "VASP wants a right-handed cell, and this one is left-handed", "exchange two lattice vectors")]
    return []


def _poscar_text(asked: Asked) -> str:
    """POSCAR with fractional coordinates and every digit that VASP reads."""
    atoms = asked.sorted_atoms
    symbols, counts = species_of(atoms)
    fractional = atoms.cell.scaled_positions(atoms.positions)
    lines = [f"{atoms.get_chemical_formula()}, written by pwact_like", "1.0"]
    lines += [" ".join(f"{number:22.16f}" for number in row) for row in atoms.cell.array]
    lines += [" ".join(symbols), " ".join(map(str, counts)), "Direct"]
    lines += [" ".join(f"{number:20.16f}" for number in row) for row in fractional]
    return "\n".join(lines) + "\n"


def _kpoints_text(atoms: Atoms, kspacing_per_ang: float) -> str:
    """A Γ-centred grid."""
    divisions = " ".join(map(str, grid_from_kspacing(atoms.cell.array, atoms.pbc, kspacing_per_ang)))
    return f"kspacing {kspacing_per_ang:g} 1/Ang with 2 pi\n0\nGamma\n{divisions}\n0 0 0\n"
