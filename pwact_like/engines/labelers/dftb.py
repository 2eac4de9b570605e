"""Labels by DFTB+ (dft_style ``dftb``): the user's dftb_in.hsd with our structure, Slater–Koster files and k-points in it.

DFTB+ was never run here: neither Debian 12 nor PyPI has it. The files are written and read as its manual and ASE have them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pwact_like.data.frames import Frame
from pwact_like.engines.labelers.dftb_hsd import Node, read_input_file
from pwact_like.engines.labelers.dftb_output import NOT_CONVERGED, read_gen, read_label
from pwact_like.engines.labelers.fingerprints import hash_of_file, short_hash
from pwact_like.engines.labelers.kpoints import grid_from_kspacing
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import DataError, InputError, NotAvailableError, Problem
from pwact_like.fsio import write_text
from pwact_like.outcome import Ok, Outcome, Reject, Retry, TaskFiles

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import StageInput
    from pwact_like.config.labelling import LabelSettings

INPUT_FILE = "dftb_in.hsd"
START_FILE = "start.gen"
OUTPUT_FILE = "dftb.out"
TAGS_FILE = "results.tag"
DETAILS_FILE = "detailed.out"
END_FILE = "geo_end.gen"
SKF_FOLDER = "skf"
DEFAULT_COMMAND = "dftb+"
_RELAXING = ("geometryoptimization", "geometryoptimisation", "conjugategradient", "steepestdescent", "gdiis", "lbfgs", "fire")
_BY_ELEMENT = ("MaxAngularMomentum", "HubbardDerivs", "SpinConstants")
_PRINT_FORCES_FROM = 14  # the parser's version in which Analysis/CalculateForces became PrintForces
# blocks of the Hamiltonian that move no converged energy
_NOT_DECISIVE = frozenset({"scctolerance", "maxscciterations", "mixer", "readinitialcharges", "eigensolver", "solver"})


class DftbLabeler(Labeler):
    """DFTB+ with the user's input file; one folder a job. Single points and relaxations."""

    name: ClassVar[str] = "dftb"

    def __init__(self, settings: LabelSettings) -> None:
        self._settings = settings

    @property
    def _source(self) -> str:
        return str(self._settings.source or "param.json")

    def _template(self, entry: StageInput) -> tuple[Node, Path]:
        if entry.input is None:
            raise InputError(
                Problem(self._source, "dftb needs an input file", "name it in `input` (a dftb_in.hsd; its Geometry is replaced)")
            )
        return read_input_file(entry.input), entry.input

    def write(self, folder: Path, request: LabelRequest) -> TaskFiles:
        """Write dftb_in.hsd and start.gen; the folder of Slater–Koster files is linked.

        Raises
        ------
        NotAvailableError
            For aimd.
        """
        if request.kind == "aimd":
            raise NotAvailableError("MD by DFTB+ is not built here: use scf and relax, or dft_style xtb or cp2k for aimd")
        root, path = self._template(request.input)
        atoms = request.atoms
        problems = self._check(root, path, request)
        if problems:
            raise InputError(problems)
        root.block("Geometry", "GenFormat", (f'<<< "{START_FILE}"',))
        _set_driver(root, request.kind, periodic=bool(atoms.pbc.all()))
        hamiltonian = root.ensure("Hamiltonian")
        _choose_elements(hamiltonian, set(atoms.symbols))
        links = ()
        if hamiltonian.value.lower() == "dftb" and self._settings.in_skf is not None:
            names = (f'Prefix = "{SKF_FOLDER}/"', 'Separator = "-"', 'Suffix = ".skf"', "LowerCaseTypeName = No")
            hamiltonian.block("SlaterKosterFiles", "Type2FileNames", names)
            links = ((SKF_FOLDER, str(self._settings.in_skf.resolve())),)
        if not atoms.pbc.all():
            hamiltonian.remove("KPointsAndWeights")
        elif request.input.kspacing is not None:
            grid = grid_from_kspacing(atoms.cell.array, atoms.pbc, request.input.kspacing)
            rows = tuple(" ".join(str(count if row == column else 0) for column in range(3)) for row, count in enumerate(grid))
            hamiltonian.block("KPointsAndWeights", "SupercellFolding", (*rows, "0.0 0.0 0.0"))
        root.ensure("Options").set("WriteResultsTag", "Yes")
        root.ensure("Options").set("WriteDetailedOut", "Yes")
        analysis = root.ensure("Analysis")
        analysis.remove("CalculateForces", "PrintForces")
        analysis.set("PrintForces" if _parser_version(root) >= _PRINT_FORCES_FROM else "CalculateForces", "Yes")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / INPUT_FILE, "\n".join(line for node in root.children for line in node.lines()) + "\n")
        write_text(folder / START_FILE, gen_text(atoms))
        return TaskFiles(
            inputs=(INPUT_FILE, START_FILE),
            links=links,
            outputs=(OUTPUT_FILE,),
            optional_outputs=(TAGS_FILE, DETAILS_FILE, *((END_FILE,) if request.kind == "relax" else ())),
        )

    def _check(self, root: Node, path: Path, request: LabelRequest) -> list[Problem]:
        """What cannot work."""
        problems = []
        atoms = request.atoms
        hamiltonian = root.child("Hamiltonian")
        method = hamiltonian.value.lower() if hamiltonian else ""
        if method not in ("dftb", "xtb"):
            problems.append(Problem(str(path), "Hamiltonian = DFTB { … } or xTB { … } is wanted", "give one"))
        if not _parser_version(root):
            what = "ParserOptions { ParserVersion = … } is missing, and how forces are asked for depends on it"
            problems.append(Problem(str(path), what, "write the version of your input (dftb+ prints the one that it reads)"))
        for block in root.children:
            if block.name.lower() != "geometry" and any("<<" in node.value for node in (block, *block.walk())):
                problems.append(
                    Problem(f"{path}: line {block.number}", "a file is included, which the job would not find", "write it into the input")
                )
        if atoms.pbc.any() and not atoms.pbc.all():
            problems.append(Problem(self._source, "DFTB+ knows no cells that are periodic in one or two directions only", "use pbc in all"))
        if (
            atoms.pbc.all()
            and request.input.kspacing is None
            and hamiltonian is not None
            and hamiltonian.child("KPointsAndWeights") is None
        ):
            problems.append(
                Problem(str(path), "there are no k-points: no KPointsAndWeights, and no kspacing", "give kspacing (1/Å, 2π included)")
            )
        if method == "dftb" and hamiltonian is not None:
            problems += self._check_elements(hamiltonian, path, sorted(set(atoms.symbols)))
        if request.kind == "relax":
            driver = root.child("Driver")
            if driver is None or driver.value.lower() not in _RELAXING:
                problems.append(Problem(f"{path}: Driver", "relax needs one that relaxes", "e.g. Driver = GeometryOptimization { }"))
            for name in ("MovedAtoms", "Constraints", "FixAngles", "FixLengths"):
                if driver is not None and driver.child(name) is not None:
                    problems.append(
                        Problem(f"{path}: Driver/{name}", "it holds something still, and forces there are no label", "take it out")
                    )
        return problems

    def _check_elements(self, hamiltonian: Node, path: Path, elements: Sequence[str]) -> list[Problem]:
        """Every pair of elements has its Slater–Koster file, every element its angular momentum."""
        folder = self._settings.in_skf
        if folder is None:
            return [
                Problem(
                    self._source, "Hamiltonian = DFTB needs Slater–Koster files", "give in_skf (their folder; files are called A-B.skf)"
                )
            ]
        pairs = [f"{first}-{second}.skf" for first in elements for second in elements]
        missing = [name for name in pairs if not (folder / name).is_file()]
        momenta = hamiltonian.child("MaxAngularMomentum")
        without = [element for element in elements if momenta is None or not momenta.text_of(element)]
        problems = []
        if missing:
            problems.append(
                Problem(f"{self._source}: in_skf", f"{folder} has no {', '.join(missing)}", "take a set that covers the elements")
            )
        if without:
            where = f"{path}: Hamiltonian/MaxAngularMomentum"
            problems.append(Problem(where, f"nothing for {', '.join(without)}", f'e.g. {without[0]} = "p"'))
        return problems

    def commands(self, command: str, request: LabelRequest) -> tuple[str, ...]:
        """The user's command with ``> dftb.out``; one thread unless the user says otherwise.

        DFTB+ ends with an error after an SCC that does not converge, and where its input is wrong. Trying again would give the
        same, so that counts as an end, and `outcome` rejects it.
        """
        command = command.strip() or DEFAULT_COMMAND
        written = re.findall(r"(?:^|\s)>\s*(\S*)", command)
        if any(name != OUTPUT_FILE for name in written) or "|" in command.split():
            what = f"{command!r}: the output is called {OUTPUT_FILE} here"
            raise InputError(Problem(f"{self._source}: command of the labelling section", what, "leave > and | out"))
        command += "" if written else f" > {OUTPUT_FILE}"
        threads = 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"'
        ended = f"grep -qsE '{NOT_CONVERGED}|ERROR!' {OUTPUT_FILE} && pwl_dftb=0"
        return (f'pwl_dftb=0; {{ {threads}; {command}; }} || {{ pwl_dftb=$?; {ended}; }}; rm -f charges.bin; (exit "$pwl_dftb")',)

    def outcome(self, folder: Path, kind: LabelKind) -> Outcome:
        """Judge by dftb.out, detailed.out and results.tag."""
        if not (folder / OUTPUT_FILE).is_file():
            return Retry(f"DFTB+ left no {OUTPUT_FILE}")
        try:
            found = self._read(folder, kind)
        except (DataError, ValueError) as error:
            return Retry(str(error))
        return Reject(found) if isinstance(found, str) else Ok()

    def read(self, folder: Path, kind: LabelKind) -> list[Frame]:
        """The frame of results.tag.

        Raises
        ------
        DataError
            When there is no label.
        """
        found = self._read(folder, kind)
        if isinstance(found, str):
            raise DataError(f"{folder / OUTPUT_FILE}: {found}")
        return [found]

    def _read(self, folder: Path, kind: LabelKind) -> Frame | str:
        from pwact_like.data.formats.base import make_atoms

        asked = Frame(make_atoms(*read_gen(folder / START_FILE)))
        relaxed = folder / END_FILE if kind == "relax" else None
        return read_label(folder, folder / OUTPUT_FILE, folder / TAGS_FILE, asked, relaxed=relaxed)

    def level_of_theory(self, entry: StageInput) -> str:
        """E.g. ``dftb-DFTB-1a2b3c4d``; Slater–Koster files count by their content."""
        root, path = self._template(entry)
        hamiltonian = root.child("Hamiltonian")
        if hamiltonian is None:
            raise InputError(Problem(str(path), "there is no Hamiltonian in it", "give one"))
        skipped = {*_NOT_DECISIVE, "slaterkosterfiles", *(("kpointsandweights",) if entry.kspacing is not None else ())}
        decisive = [node.normal() for node in hamiltonian.children if node.name.lower() not in skipped]
        files: list[list[str]] = []
        if hamiltonian.value.lower() == "dftb" and self._settings.in_skf is not None:
            momenta = hamiltonian.child("MaxAngularMomentum")
            elements = sorted(node.name for node in momenta.children) if momenta else []
            pairs = [self._settings.in_skf / f"{first}-{second}.skf" for first in elements for second in elements]
            files = [[file.name, hash_of_file(file)] for file in pairs if file.is_file()]
        name = hamiltonian.text_of("Method") or hamiltonian.value
        return f"dftb-{name}-{short_hash({'input': sorted(decisive, key=repr), 'files': files, 'kspacing': entry.kspacing})}"


def gen_text(atoms: Atoms) -> str:
    """A structure in DFTB+'s GEN format, to the last digit."""
    symbols = list(dict.fromkeys(atoms.symbols))
    lines = [f"{len(atoms)} {'S' if atoms.pbc.all() else 'C'}", " ".join(symbols)]
    for number, (symbol, row) in enumerate(zip(atoms.symbols, atoms.positions.tolist(), strict=True), start=1):
        lines.append(f"{number} {symbols.index(symbol) + 1} {' '.join(map(repr, row))}")
    if atoms.pbc.all():
        lines += ["0.0 0.0 0.0", *(" ".join(map(repr, row)) for row in atoms.cell.array.tolist())]
    return "\n".join(lines) + "\n"


def _parser_version(root: Node) -> int:
    options = root.child("ParserOptions")
    text = options.text_of("ParserVersion") if options else ""
    return int(text) if text.isdigit() else 0


def _set_driver(root: Node, kind: LabelKind, *, periodic: bool) -> None:
    if kind == "scf":
        root.block("Driver")
        return
    driver = root.ensure("Driver")
    driver.is_block = True
    if not periodic:
        driver.remove("LatticeOpt")
    elif not driver.text_of("LatticeOpt"):
        driver.set("LatticeOpt", "Yes")  # cell and atoms, unless the user says No
    driver.set("OutputPrefix", '"geo_end"')
    driver.set("AppendGeometries", "No")


def _choose_elements(hamiltonian: Node, elements: set[str]) -> None:
    """DFTB+ refuses entries for elements that are not there."""
    for name in _BY_ELEMENT:
        block = hamiltonian.child(name)
        if block is not None:
            block.children = [node for node in block.children if not re.fullmatch(r"[A-Z][a-z]?", node.name) or node.name in elements]
