"""Labels by CP2K (dft_style ``cp2k``): the user's input file with our structure, kinds and K-points in it.

Ours are: GLOBAL's RUN_TYPE and PROJECT_NAME (and SEED for MD), FORCE_EVAL's STRESS_TENSOR and what it prints, SUBSYS's
CELL and COORD, BASIS_SET and POTENTIAL of every KIND that gaussian_param names with the two file names, KPOINTS where a
kspacing is given, and for relaxations and MD what MOTION prints. Everything else stays as the user wrote it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from pwact_like.engines.labelers.cp2k_basis import Kinds, kinds_of
from pwact_like.engines.labelers.cp2k_files import file_hashes, make_reachable
from pwact_like.engines.labelers.cp2k_input import Section, read_input_file
from pwact_like.engines.labelers.cp2k_relaxed import read_relaxed, require_end, structure_of
from pwact_like.engines.labelers.cp2k_sections import (
    PROJECT,
    check_template,
    decisive_lines,
    functional_name,
    planned_md_steps,
    set_kinds,
    set_kpoints,
    set_output,
    set_structure,
    set_task,
)
from pwact_like.engines.labelers.cut_off import cut_off_note
from pwact_like.engines.labelers.fingerprints import short_hash
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import write_text
from pwact_like.outcome import KILLED, Ok, Outcome, Reject, Retry, TaskFiles, was_cut_off

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import StageInput
    from pwact_like.config.labelling import LabelSettings
    from pwact_like.data.formats.base import ReadResult
    from pwact_like.data.frames import Frame

INPUT_FILE = "cp2k.inp"
OUTPUT_FILE = "cp2k.out"
RESTART_FILE = f"{PROJECT}-1.restart"
DEFAULT_COMMAND = "cp2k.psmp"  # the name in Debian and in CP2K's own builds
_NOT_CONVERGED = "SCF run NOT converged"
_BASIS_KEYWORDS = ("BASIS_SET_FILE_NAME", "POTENTIAL_FILE_NAME", "POTENTIAL_FILE")


class Cp2kLabeler(Labeler):
    """CP2K with the user's input file; one folder a job."""

    name: ClassVar[str] = "cp2k"

    def __init__(self, settings: LabelSettings) -> None:
        self._settings = settings
        self._kinds: Kinds | None = None
        if settings.gaussian_param is not None:
            self._kinds, problems = kinds_of(settings.gaussian_param, self._source)
            if problems:
                raise InputError(problems)

    @property
    def _source(self) -> str:
        return str(self._settings.source or "param.json")

    def _template(self, entry: StageInput) -> tuple[Section, Path]:
        if entry.input is None:
            raise InputError(
                Problem(self._source, "cp2k needs an input file", "name it in `input` (a complete CP2K input; its structure is replaced)")
            )
        return read_input_file(entry.input), entry.input

    def _kspacing(self, entry: StageInput) -> float | None:
        if entry.kspacing is not None:
            return entry.kspacing
        return self._settings.gaussian_param.kspacing if self._settings.gaussian_param is not None else None

    def write(self, folder: Path, request: LabelRequest) -> TaskFiles:
        """Write cp2k.inp; files that it reads are linked."""
        root, path = self._template(request.input)
        atoms = request.atoms
        problems = check_template(root, path, request.kind)
        if atoms.cell.rank < 3:
            problems.append(Problem(str(folder), "CP2K needs a cell, and this structure has none", "put the molecule into a box"))
        if problems:
            raise InputError(problems)
        links, problems = make_reachable(root, path)
        force_eval = root.ensure("FORCE_EVAL")
        set_task(root, request.kind, request.seed)
        set_output(force_eval, atoms)
        set_structure(force_eval, atoms)
        problems += set_kinds(force_eval, atoms, self._kinds, path, self._source)
        if problems:
            raise InputError(problems)
        set_kpoints(force_eval, atoms, self._kspacing(request.input))
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / INPUT_FILE, root.text() + "\n")
        all_links = {name: str(target) for name, target in links.items()} | dict(self._kinds.links() if self._kinds else ())
        moving = (
            f"{PROJECT}-pos-1.xyz",
            f"{PROJECT}-1.cell",
            f"{PROJECT}-frc-1.xyz",
            f"{PROJECT}-1.stress",
            f"{PROJECT}-1.ener",
            RESTART_FILE,
        )
        return TaskFiles(
            inputs=(INPUT_FILE,),
            links=tuple(sorted(all_links.items())),
            outputs=(OUTPUT_FILE,),
            optional_outputs=moving if request.kind != "scf" else (),
            counts_cut_off=request.kind == "aimd",
        )

    def commands(self, command: str, request: LabelRequest) -> tuple[str, ...]:
        """The user's command with ``-i cp2k.inp -o cp2k.out``; one thread a process unless the user says otherwise.

        CP2K from 2024 on ends with an error after an SCF that does not converge: trying again would give the same, so
        that ending counts as an end, and `outcome` rejects it. Any other failure keeps its status, and so does a CP2K that was killed:
        the scheduler is then asked why, and one of the many SCFs of an MD may well not have converged.
        """
        command = command.strip() or DEFAULT_COMMAND
        words = command.split()
        for flag, file in (("-i", INPUT_FILE), ("-o", OUTPUT_FILE)):
            if flag in words:
                given = words[words.index(flag) + 1 : words.index(flag) + 2]
                if given != [file]:
                    raise InputError(
                        Problem(
                            f"{self._source}: command of the labelling section",
                            f"{flag} {' '.join(given)} in {command!r}: the file is called {file} here",
                            f"write {flag} {file}, or leave it out",
                        )
                    )
            else:
                command += f" {flag} {file}"
        threads = 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"'
        ended = f"grep -qs '{_NOT_CONVERGED}' {OUTPUT_FILE} && pwl_cp2k=0"
        judged = f'case $pwl_cp2k in {" | ".join(map(str, sorted(KILLED)))}) ;; *) {ended} ;; esac; (exit "$pwl_cp2k")'
        return (f"{{ {threads}; {command}; }} || {{ pwl_cp2k=$?; {judged}; }}",)

    def outcome(self, folder: Path, kind: LabelKind) -> Outcome:
        """Judge by cp2k.out: it must have its end, but for an MD that was cut off for good; unconverged SCFs are rejected."""
        path = folder / OUTPUT_FILE
        if not path.is_file():
            return Retry(f"CP2K left no {OUTPUT_FILE}")
        try:
            if kind == "relax":
                relaxed = self._relaxed(folder)
                return Reject(relaxed) if isinstance(relaxed, str) else Ok()
            result = self._read_all(folder, kind)
        except (DataError, InputError, ValueError) as error:
            return Retry(str(error))
        reasons = [f"{reason} (evaluation {index})" for index, reason in result.rejected]
        if not result.frames:
            return Reject(reasons[0] if reasons else f"{path}: no label in it")
        if kind == "scf":
            if len(result.frames) == 1 and not reasons:
                return Ok()
            return Reject(f"{path}: one label is expected: {'; '.join(reasons) or len(result.frames)}")
        return Ok("; ".join(self._md_notes(folder, result)))

    def _md_notes(self, folder: Path, result: ReadResult) -> list[str]:
        planned = planned_md_steps(read_input_file(folder / INPUT_FILE))
        if was_cut_off(folder):
            return [cut_off_note(len(result.frames), dict(result.rejected), None if planned is None else planned + 1)]
        seen = len(result.frames) + len(result.rejected)
        notes = []
        if result.rejected:
            places = ", ".join(str(index) for index, _ in result.rejected[:10])
            notes.append(f"{len(result.rejected)} of {seen} frames dropped (evaluations {places}): {result.rejected[0][1]}")
        if planned is not None and seen < planned + 1:
            notes.append(f"ended early: {seen} of {planned + 1} frames")
        return notes

    def read(self, folder: Path, kind: LabelKind) -> list[Frame]:
        """Frames of cp2k.out; structures from our input, and from CP2K's trajectory files.

        Raises
        ------
        DataError
            When the output is truncated (of an MD that was cut off for good: before its first whole frame), or holds no label.
        """
        if kind == "relax":
            relaxed = self._relaxed(folder)
            if isinstance(relaxed, str):
                raise DataError(f"{folder / OUTPUT_FILE}: {relaxed}")
            return [relaxed]
        result = self._read_all(folder, kind)
        if not result.frames:
            reason = result.rejected[0][1] if result.rejected else "no energy with forces"
            raise DataError(f"{folder / OUTPUT_FILE}: no label: {reason}")
        return [_with_pbc(frame, self._asked(folder).pbc) for frame in result.frames]

    def _asked(self, folder: Path) -> Atoms:
        return structure_of(read_input_file(folder / INPUT_FILE), folder / INPUT_FILE)

    def _relaxed(self, folder: Path) -> Frame | str:
        return read_relaxed(folder / OUTPUT_FILE, folder / RESTART_FILE, self._asked(folder))

    def _read_all(self, folder: Path, kind: LabelKind) -> ReadResult:
        from pwact_like.data.cp2k_output import iter_cp2k_output, read_cp2k_output
        from pwact_like.data.formats import read_cut_off

        path = folder / OUTPUT_FILE
        if not path.is_file():
            raise DataError(f"{path}: the file is missing")
        if kind == "aimd" and was_cut_off(folder):
            return read_cut_off(iter_cp2k_output(path, self._asked(folder), cut_off=True))
        require_end(path)
        return read_cp2k_output(path, self._asked(folder))

    def level_of_theory(self, entry: StageInput) -> str:
        """E.g. ``cp2k-PBE-1a2b3c4d``: the same for scf, relax and aimd inputs that differ in their MOTION only."""
        root, path = self._template(entry)
        kspacing = self._kspacing(entry)
        decisive = {
            "input": decisive_lines(copy.deepcopy(root), own_kpoints=kspacing is not None, own_kinds=self._kinds is not None),
            "files": file_hashes(root, path, _BASIS_KEYWORDS if self._kinds is not None else ()),
            "kinds": self._kinds.fingerprint() if self._kinds is not None else [],
            "kspacing": kspacing,
        }
        return f"cp2k-{functional_name(root)}-{short_hash(decisive)}"


def _with_pbc(frame: Frame, pbc: NDArray[np.bool_]) -> Frame:
    """Readers take every CP2K cell as periodic; a stress in a box means nothing."""
    if np.all(pbc):
        return frame
    atoms: Atoms = frame.atoms.copy()
    atoms.pbc = pbc
    label = replace(frame.label, virial_ev=None) if frame.label is not None else None
    return replace(frame, atoms=atoms, label=label)
