"""Labels by Quantum ESPRESSO's pw.x (dft_style ``qe``): the user's input file with our structure, species and k-points in it.

Ours are: calculation, prefix, outdir, pseudo_dir, tprnfor and tstress of &CONTROL, ibrav (0), nat and ntyp, ATOMIC_SPECIES,
CELL_PARAMETERS, ATOMIC_POSITIONS, K_POINTS where a kspacing is given, and for MD the start velocities and nosym. What counts
species (starting_magnetization, Hubbard_U, …) follows the structure's composition. Everything else stays as the user wrote it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pwact_like.data.frames import Frame
from pwact_like.engines.labelers.cut_off import cut_off_note
from pwact_like.engines.labelers.fingerprints import short_hash
from pwact_like.engines.labelers.qe_input import PwInput, read_input_file
from pwact_like.engines.labelers.qe_output import DONE, read_cut_off_md, read_last, read_md, scan
from pwact_like.engines.labelers.qe_sections import (
    OUTDIR,
    PREFIX,
    check_template,
    decisive_lines,
    functional_name,
    planned_md_steps,
    set_kpoints,
    set_structure,
    set_task,
    set_velocities,
)
from pwact_like.engines.labelers.qe_species import all_species, choose, element_of_label, hashes, renumber
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import write_text
from pwact_like.outcome import Ok, Outcome, Reject, Retry, TaskFiles, was_cut_off

if TYPE_CHECKING:
    from pwact_like.config.common import StageInput
    from pwact_like.config.labelling import LabelSettings
    from pwact_like.data.formats.base import ReadResult

INPUT_FILE = "pw.in"
OUTPUT_FILE = "pw.out"
XML_FILE = "pw.xml"
PBC_MARK = "! pwact_like: periodic along"
DEFAULT_COMMAND = "pw.x"
_XML_OF_PW = f"{OUTDIR}/{PREFIX}.save/data-file-schema.xml"
_PROGRAM = re.compile(r"(^|/)pw[\w.\-]*[\"']?$")
_INPUT_FLAGS = ("-in", "-i", "-inp", "-input", "--input")
# routines that fail for the machine's sake; all others would fail again
_MACHINE = re.compile(r"davcio|diropn|seqopn|buffer|create_directory|check_tempdir|open|write|mp_|allocate|memory", re.IGNORECASE)
_CURES = (
    ("symm", "set nosym = .true. in &SYSTEM"),
    ("charge is wrong: smearing is needed", "this is a metal: set occupations = 'smearing', smearing, degauss"),
    ("too few bands", "raise nbnd, or leave it out"),
    ("overlap", "two atoms are at one place"),
    ("smooth grid", "set cell_factor in &CELL higher"),
    ("Not enough space allocated for radial FFT", "set cell_factor in &CELL higher"),
)


class QeLabeler(Labeler):
    """pw.x with the user's input file; one folder a job."""

    name: ClassVar[str] = "qe"

    def __init__(self, settings: LabelSettings) -> None:
        self._settings = settings

    @property
    def _source(self) -> str:
        return str(self._settings.source or "param.json")

    def _template(self, entry: StageInput) -> tuple[PwInput, Path]:
        if entry.input is None:
            cure = "name it in `input` (a complete pw.x input; its structure is replaced)"
            raise InputError(Problem(self._source, "qe needs an input file", cure))
        return read_input_file(entry.input), entry.input

    def write(self, folder: Path, request: LabelRequest) -> TaskFiles:
        """Write pw.in; the pseudopotentials are linked."""
        root, path = self._template(request.input)
        atoms = request.atoms
        kspacing = request.input.kspacing
        problems = check_template(root, path, request.kind, kspacing)
        if atoms.cell.rank < 3:
            problems.append(Problem(str(folder), "pw.x needs a cell, and this structure has none", "put the molecule into a box"))
        if request.kind == "aimd" and len(atoms) < 2:
            problems.append(Problem(str(folder), "MD of a single atom has nothing that moves", "use a larger cell (super_cell)"))
        known, wrong = all_species(root, path, self._settings)
        chosen, missing = choose(known, list(atoms.symbols), path, self._source)
        # an element whose file is wrong has been told already
        problems += wrong or missing
        problems += renumber(root, path, chosen)
        names = {one.link: one.file.resolve() for one in chosen}
        if len(names) < len(chosen):
            problems.append(Problem(f"{path}: ATOMIC_SPECIES", "two pseudopotentials have one file name", "rename one of them"))
        if problems:
            raise InputError(problems)
        set_task(root, request.kind)
        set_structure(root, atoms, chosen)
        set_kpoints(root, atoms, kspacing)
        if request.kind == "aimd":
            set_velocities(root, atoms, chosen, request.seed)
        periodic = "".join(axis for axis, flag in zip("xyz", atoms.pbc, strict=True) if flag)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / INPUT_FILE, f"{PBC_MARK} {periodic or 'none'}\n{root.text()}")
        return TaskFiles(
            inputs=(INPUT_FILE,),
            links=tuple(sorted((name, str(file)) for name, file in names.items())),
            outputs=(OUTPUT_FILE,),
            # pw.x leaves none when it stops early; then `outcome` rejects the attempt for what pw.out says. Where the commands were
            # killed with it, it lies where pw.x had it
            optional_outputs=(XML_FILE, _XML_OF_PW) if request.kind == "aimd" else (XML_FILE,),
            counts_cut_off=request.kind == "aimd",
        )

    def commands(self, command: str, request: LabelRequest) -> tuple[str, ...]:
        """The user's command with ``-in pw.in > pw.out``; one thread a process unless the user says otherwise.

        pw.x ends with a status of its own after an SCF or a relaxation that does not converge, and with an error where its
        input is wrong. Trying again would give the same, so that counts as an end, and `outcome` rejects it. Of what it leaves
        (wave functions, densities) the XML file is kept.
        """
        command = command.strip() or DEFAULT_COMMAND
        words = command.split()
        # a launcher before it may have flags of the same names (srun -i)
        program = next((place for place, word in enumerate(words) if _PROGRAM.search(word)), -1)
        named = [words[place + 1 : place + 2] for place, word in enumerate(words) if place > program and word in _INPUT_FLAGS]
        read = [*(name for found in named for name in found or [""]), *re.findall(r"(?:^|\s)<\s*(\S*)", command)]
        written = re.findall(r"(?:^|\s)>\s*(\S*)", command)
        if any(name != INPUT_FILE for name in read) or any(name != OUTPUT_FILE for name in written) or "|" in words:
            what = f"{command!r}: the input is called {INPUT_FILE} and the output {OUTPUT_FILE} here"
            cure = f"leave -in, <, > and | out: `-in {INPUT_FILE} > {OUTPUT_FILE}` is added"
            raise InputError(Problem(f"{self._source}: command of the labelling section", what, cure))
        command += "" if read else f" -in {INPUT_FILE}"
        command += "" if written else f" > {OUTPUT_FILE}"
        threads = 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"'
        ended = f"grep -qsE '{DONE}|Error in routine' {OUTPUT_FILE} && pwl_pw=0"
        keep = f"mv -f {_XML_OF_PW} {XML_FILE} 2>/dev/null; rm -rf {OUTDIR}"
        return (f'pwl_pw=0; {{ {threads}; {command}; }} || {{ pwl_pw=$?; {ended}; }}; {keep}; (exit "$pwl_pw")',)

    def outcome(self, folder: Path, kind: LabelKind) -> Outcome:
        """Judge by pw.out: JOB DONE must be there; unconverged SCFs, and what pw.x refuses, are rejected.

        An MD that pw.x ended itself (an SCF, its box of errors, max_seconds), or that was cut off for good, counts with the frames before.
        """
        path = folder / OUTPUT_FILE
        if not path.is_file():
            return Retry(f"pw.x left no {OUTPUT_FILE}")
        try:
            if kind == "aimd" and was_cut_off(folder):
                return self._before_the_cut(folder)
            printed = scan(path)
            if printed.error is not None:
                stopped = _of_error(path, *printed.error)
                return self._until(folder, stopped) if kind == "aimd" and isinstance(stopped, Reject) else stopped
            if kind != "aimd":
                last = self._last(folder, kind)
                return Reject(last) if isinstance(last, str) else Ok()
            result = self._md(folder)
        except (DataError, InputError, ValueError) as error:
            return Retry(str(error))
        if not result.frames:
            return Reject(result.rejected[0][1] if result.rejected else f"{path}: no label in it")
        return Ok("; ".join(self._md_notes(folder, result)))

    def _until(self, folder: Path, stopped: Reject) -> Outcome:
        """What becomes of an MD that ended with a box of errors: another attempt would come no further."""
        try:
            result = self._md(folder)
        except (DataError, InputError, ValueError):
            return stopped
        return Ok("; ".join([*self._md_notes(folder, result), stopped.reason])) if result.frames else stopped

    def _before_the_cut(self, folder: Path) -> Outcome:
        result = self._md(folder)
        if not result.frames:
            return Reject(result.rejected[0][1] if result.rejected else f"{folder / OUTPUT_FILE}: no whole frame in it")
        planned = planned_md_steps(read_input_file(folder / INPUT_FILE))
        return Ok(cut_off_note(len(result.frames), dict(result.rejected), planned))

    def _md_notes(self, folder: Path, result: ReadResult) -> list[str]:
        planned = planned_md_steps(read_input_file(folder / INPUT_FILE))
        seen = len(result.frames) + len(result.rejected)
        notes = []
        if result.rejected:
            places = ", ".join(str(index) for index, _ in result.rejected[:10])
            notes.append(f"{len(result.rejected)} of {seen} frames dropped (evaluations {places}): {result.rejected[0][1]}")
        if planned is not None and seen < planned:
            notes.append(f"ended early: {seen} of {planned} frames")
        return notes

    def read(self, folder: Path, kind: LabelKind) -> list[Frame]:
        """Frames of pw.xml and pw.out.

        Raises
        ------
        DataError
            When the output is truncated (of an MD that was cut off for good: before its first whole frame), or holds no label.
        """
        if kind == "aimd":
            result = self._md(folder)
            if not result.frames:
                raise DataError(f"{folder / OUTPUT_FILE}: no label: {result.rejected[0][1] if result.rejected else 'no forces'}")
            return result.frames
        last = self._last(folder, kind)
        if isinstance(last, str):
            raise DataError(f"{folder / OUTPUT_FILE}: {last}")
        return [last]

    def _last(self, folder: Path, kind: LabelKind) -> Frame | str:
        return read_last(folder / OUTPUT_FILE, folder / XML_FILE, asked_frame(folder / INPUT_FILE), relaxation=kind == "relax")

    def _md(self, folder: Path) -> ReadResult:
        if was_cut_off(folder):
            xml = next((folder / name for name in (XML_FILE, _XML_OF_PW) if (folder / name).is_file()), folder / XML_FILE)
            return read_cut_off_md(folder / OUTPUT_FILE, xml, asked_frame(folder / INPUT_FILE))
        return read_md(folder / OUTPUT_FILE, folder / XML_FILE, asked_frame(folder / INPUT_FILE))

    def level_of_theory(self, entry: StageInput) -> str:
        """E.g. ``qe-PBE-1a2b3c4d``: the same for scf, relax and aimd inputs that differ in what moves the atoms only."""
        root, path = self._template(entry)
        species, problems = all_species(root, path, self._settings)
        if problems:
            raise InputError(problems)
        decisive = {
            "input": decisive_lines(root, path, own_kpoints=entry.kspacing is not None),
            "pseudopotentials": hashes(species),
            "kspacing": entry.kspacing,
        }
        return f"qe-{functional_name(root, species)}-{short_hash(decisive)}"


def asked_frame(path: Path) -> Frame:
    """The structure in an input file that we wrote.

    Raises
    ------
    DataError
        When it cannot be read.
    """
    from ase import Atoms

    root = read_input_file(path)
    cards = [root.card(name) for name in ("CELL_PARAMETERS", "ATOMIC_POSITIONS")]
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    periodic = first.removeprefix(PBC_MARK).strip()
    try:
        vectors, rows = ([row.split() for row in card.rows] if card else [] for card in cards)
        symbols = [element_of_label(row[0]) for row in rows]
        positions = [[float(word) for word in row[1:4]] for row in rows]
        cell = [[float(word) for word in row] for row in vectors]
        return Frame(Atoms(symbols, positions, cell=cell, pbc=[axis in periodic for axis in "xyz"]))
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path}: its cell and atoms cannot be read: {error}") from error


def _of_error(path: Path, routine: str, message: str) -> Outcome:
    """What becomes of an attempt whose pw.x printed its box of errors."""
    text = f"pw.x stopped in {routine}: {message}"
    if _MACHINE.search(routine):
        return Retry(f"{text} ({path})")
    cure = next((cure for words, cure in _CURES if words.lower() in f"{routine} {message}".lower()), "")
    return Reject(f"{text} ({cure})" if cure else text)
