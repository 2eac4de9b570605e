"""Labels by PWmat (dft_style ``pwmat``): the user's etot.input with our structure, potentials and k-points in it.

Ours are JOB, IN.ATOM, IN.PSP*, IN.BASIS*, IN.SKF; MP_N123 where the file has none; for single points OUT.MLMD and OUT.FORCE;
OUT.WG, OUT.RHO and OUT.VR where they are not stated. LDAU_PSP* follow the elements, and ``MAGNETIC = Fe:5 O:0`` becomes the
MAGNETIC block of atom.config. Everything else stays as the user wrote it. Atoms are sorted by atomic number for PWmat.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pwact_like.engines.labelers.atom_order import ASKED_FILE, Asked, asked_of, species_of, write_asked
from pwact_like.engines.labelers.fingerprints import short_hash
from pwact_like.engines.labelers.pwmat_etot import JOBS, Etot, check_stage, decisive_settings, read_etot
from pwact_like.engines.labelers.pwmat_output import ETOT, LABEL_FILES, REPORT, judge_pwmat, read_pwmat
from pwact_like.engines.labelers.pwmat_potentials import PotentialFiles
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import InputError, Problem
from pwact_like.fsio import write_text
from pwact_like.outcome import Outcome, TaskFiles

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import StageInput
    from pwact_like.config.labelling import LabelSettings
    from pwact_like.data.frames import Frame

DEFAULT_COMMAND = "PWmat"
DEFAULT_KSPACING = 0.5  # PWact's, 1/Å
CONFIG = "atom.config"
_FLAG_SYMM: dict[LabelKind, int] = {"scf": 0, "relax": 0, "aimd": 3}  # PWact's manual; its code has them the other way round
_BIG_FILES = ("OUT.WG", "OUT.RHO", "OUT.VR")
_BY_ELEMENT = re.compile(r"([A-Z][a-z]?):(\S+)")


class PwmatLabeler(Labeler):
    """PWmat with the user's etot.input; one folder a job."""

    name: ClassVar[str] = "pwmat"

    def __init__(self, settings: LabelSettings) -> None:
        self._settings = settings
        self._potentials = PotentialFiles(settings, self._source)

    @property
    def _source(self) -> str:
        return str(self._settings.source or "param.json")

    def _etot(self, entry: StageInput) -> Etot:
        if entry.input is None:
            raise InputError(Problem(self._source, "pwmat needs an etot.input", "name it in `input`"))
        return read_etot(entry.input)

    def _kspacing(self, entry: StageInput, etot: Etot) -> float:
        gaussian = self._settings.gaussian_param
        inherited = gaussian.kspacing if gaussian is not None and etot.truth("USE_GAUSSIAN") else None
        return entry.kspacing or inherited or DEFAULT_KSPACING

    def write(self, folder: Path, request: LabelRequest) -> TaskFiles:
        """Write etot.input and atom.config; the potentials are linked."""
        etot = self._etot(request.input)
        asked = asked_of(request.atoms, "number")
        problems = check_stage(etot, request.kind)
        if request.atoms.cell.rank < 3:
            problems.append(Problem(str(folder), "PWmat needs a cell, and this structure has none", "put the molecule into a box"))
        elements, _ = species_of(asked.sorted_atoms)
        lines, links, missing = self._potentials.lines(etot, elements)
        moments, wrong = _moments(etot, asked)
        k_points, clash = self._k_points(etot, request) if request.atoms.cell.rank == 3 else ("", [])
        problems += missing + wrong + clash
        if problems:
            raise InputError(problems)
        owned = {"JOB", "IN.ATOM", "MP_N123", "FLAG_SYMM", "MAGNETIC"}
        ours = [("JOB", JOBS[request.kind]), ("IN.ATOM", CONFIG), *lines, ("MP_N123", k_points)]
        if request.kind == "scf":
            owned |= {"OUT.MLMD", "OUT.FORCE"}  # without OUT.FORCE the forces in OUT.MLMD are zeros
            ours += [("OUT.MLMD", "T"), ("OUT.FORCE", "T")]
        ours += [(key, "F") for key in _BIG_FILES if key not in etot.settings]
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ETOT, etot.text(lambda key: key in owned or self._potentials.is_ours(key), ours))
        write_text(folder / CONFIG, _config_text(asked, moments))
        write_asked(folder, asked)
        return TaskFiles(
            inputs=(ETOT, CONFIG, ASKED_FILE),
            links=tuple(links),
            outputs=(LABEL_FILES[request.kind], REPORT),
            optional_outputs={"scf": (), "relax": ("final.config", "RELAXSTEPS"), "aimd": ("MDSTEPS",)}[request.kind],
            counts_cut_off=request.kind == "aimd",
        )

    def _k_points(self, etot: Etot, request: LabelRequest) -> tuple[str, list[Problem]]:
        """MP_N123: the user's, or n_i = max(1, round(2π|b_i|/kspacing)) with the symmetry flag."""
        entry = request.input
        problems = []
        stated = [int(flag) for flag in etot.numbers("FLAG_SYMM")[:1]]
        if stated and entry.flag_symm is not None and stated != [entry.flag_symm]:
            what = f"{stated[0]}, and flag_symm is {entry.flag_symm} in {Path(self._source).name}"
            problems.append(Problem(f"{etot.path}: FLAG_SYMM", what, "keep one of them"))
        flag = entry.flag_symm if entry.flag_symm is not None else stated[0] if stated else None
        own = etot.value("MP_N123")
        if own:
            if entry.kspacing is not None:
                what = f"kspacing is given and {etot.path.name} has MP_N123: the k-points are set twice"
                problems.append(Problem(f"{etot.path}: MP_N123", what, "remove one of them"))
            words = re.split(r"[\s,]+", own.strip())
            if len(words) == 7 and flag is not None and words[6] != str(flag):
                problems.append(Problem(f"{etot.path}: MP_N123", f"its flag is {words[6]}, and flag_symm is {flag}", "keep one of them"))
            return (f"{own} {flag}" if len(words) == 6 and flag is not None else own), problems
        lengths = 2.0 * math.pi * np.linalg.norm(np.linalg.inv(request.atoms.cell.array).T, axis=1)
        counts = [
            max(1, round(float(length) / self._kspacing(entry, etot))) if periodic else 1
            for length, periodic in zip(lengths, request.atoms.pbc, strict=True)
        ]
        return f"{counts[0]} {counts[1]} {counts[2]} 0 0 0 {_FLAG_SYMM[request.kind] if flag is None else flag}", problems

    def commands(self, command: str, request: LabelRequest) -> tuple[str, ...]:
        """The user's command; one thread a process unless the user says otherwise."""
        return (f'{{ export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}"; {command.strip().rstrip("; ") or DEFAULT_COMMAND}; }}',)

    def outcome(self, folder: Path, kind: LabelKind) -> Outcome:
        """Judge by OUT.MLMD or MOVEMENT and REPORT: whole, every SCF ended by its tolerance, relaxed where that was asked.

        An MD that was cut off for good counts with its whole frames.
        """
        return judge_pwmat(folder, kind)

    def read(self, folder: Path, kind: LabelKind) -> list[Frame]:
        """Frames in the order of atoms that was asked.

        Raises
        ------
        DataError
            When the files do not hold the label that ``kind`` means.
        """
        return read_pwmat(folder, kind)

    def level_of_theory(self, entry: StageInput) -> str:
        """E.g. ``pwmat-PBE-1a2b3c4d``, from the etot.input's decisive settings, the potentials and the k-points."""
        etot = self._etot(entry)
        k_points = etot.numbers("MP_N123")[:6] or self._kspacing(entry, etot)
        decisive = {"etot": decisive_settings(etot), "potentials": self._potentials.fingerprint(etot), "k_points": k_points}
        functional = "DFTB" if etot.truth("USE_DFTB") else etot.value("XCFUNCTIONAL").upper() or "DFT"
        return f"pwmat-{'-'.join(functional.split())}-{short_hash(decisive)}"


def _moments(etot: Etot, asked: Asked) -> tuple[list[str], list[Problem]]:
    """A moment for each atom in PWmat's order, from ``MAGNETIC = Fe:5 O:0``; [] when it is not stated."""
    text = etot.value("MAGNETIC")
    if not text:
        return [], []
    where, example = f"{etot.path}: MAGNETIC", "MAGNETIC = Fe:5 O:0"
    matches = [_BY_ELEMENT.fullmatch(word) for word in text.split()]
    values = {match[1]: match[2] for match in matches if match is not None}
    bad = [value for value in values.values() if not re.fullmatch(r"[-+]?\d*\.?\d+", value)]
    if len(values) != len(matches) or bad:
        return [], [Problem(where, f"ELEMENT:MOMENT is wanted, not {text!r}", example)]
    elements, counts = species_of(asked.sorted_atoms)
    missing = [element for element in elements if element not in values]
    if missing:
        return [], [Problem(where, f"no moment for {', '.join(missing)}", f"add {' '.join(f'{element}:0' for element in missing)}")]
    if etot.numbers("SPIN")[:1] != [2.0]:
        return [], [Problem(where, "moments are for SPIN = 2 only", "set SPIN = 2, or leave MAGNETIC out")]
    return [values[element] for element, count in zip(elements, counts, strict=True) for _ in range(count)], []


def _config_text(asked: Asked, moments: list[str]) -> str:
    """atom.config with fractional coordinates and every digit, and the start moments where they are given."""
    atoms: Atoms = asked.sorted_atoms
    fractional = atoms.cell.scaled_positions(atoms.positions)
    lines = [str(len(atoms)), "LATTICE", *("  " + "  ".join(f"{number:.16f}" for number in row) for row in atoms.cell.array), "POSITION"]
    for number, row in zip(atoms.numbers, fractional, strict=True):
        lines.append(f"{int(number):4d}  " + "  ".join(f"{value:.16f}" for value in row) + "  1 1 1")
    if moments:
        lines += ["MAGNETIC", *(f"{int(number):4d}  {moment}" for number, moment in zip(atoms.numbers, moments, strict=True))]
    return "\n".join(lines) + "\n"
