"""Elements of a pw.x input: their labels, masses and pseudopotentials, and the variables that count them.

pw.x numbers the species of ATOMIC_SPECIES, and starting_magnetization(i), Hubbard_U(i), … mean the i-th of them. A structure
of other composition has other numbers: species that it lacks are left out, and the numbers follow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.engines.labelers.fingerprints import hash_of_file
from pwact_like.engines.labelers.qe_input import Assignment, Card, PwInput
from pwact_like.errors import Problem

if TYPE_CHECKING:
    from pwact_like.config.labelling import LabelSettings

# variable of &SYSTEM → which of its indices is the species (INPUT_PW of 6.7 and 7.x)
SPECIES_INDEX: Mapping[str, int] = {
    "starting_charge": 0,
    "starting_magnetization": 0,
    "angle1": 0,
    "angle2": 0,
    "hubbard_u": 0,
    "hubbard_u_back": 0,
    "hubbard_j0": 0,
    "hubbard_alpha": 0,
    "hubbard_alpha_back": 0,
    "hubbard_beta": 0,
    "hubbard_occ": 0,
    "hubbard_j": 1,
    "starting_ns_eigenvalue": 2,
    "london_c6": 0,
    "london_rvdw": 0,
    "backall": 0,
    "lback": 0,
    "l1back": 0,
}
_HUBBARD = ("hubbard_u", "hubbard_j0", "hubbard_j", "hubbard_alpha", "hubbard_beta", "hubbard_u_back", "hubbard_alpha_back")
_HUBBARD_ROWS = ("U", "J0", "J", "B", "E2", "E3", "ALPHA", "ALPHA_M")
_SYMBOL = re.compile(r"^([A-Za-z]{1,2})(?![a-z])")
_HEAD_BYTES = 1 << 16
_UPF2 = re.compile(r"\belement\s*=\s*[\"']\s*([A-Za-z]{1,2})\s*[\"']")
_UPF1 = re.compile(r"^\s*([A-Za-z]{1,2})\s+Element\s*$", re.MULTILINE)
_FUNCTIONAL = re.compile(r"\bfunctional\s*=\s*[\"']([^\"']*)[\"']|^\s*(\S.*?)\s+Exchange-Correlation functional", re.MULTILINE)
_SYSTEM_FOLDER = Path("/usr/share/espresso/pseudo")  # Debian's quantum-espresso-data


@dataclass(frozen=True)
class Species:
    """One species.

    Attributes
    ----------
    label
        As the input calls it, e.g. ``Fe`` or ``Fe1``.
    element
        Its symbol.
    mass
        In atomic mass units, as written; "" where only a pseudopotential was given.
    file
        Its pseudopotential.
    """

    label: str
    element: str
    mass: str
    file: Path

    @property
    def link(self) -> str:
        """The file's name in the task's folder, where pw.x wants no blanks in it."""
        return re.sub(r"[^\w.+\-]", "_", self.file.name)


def element_of_label(label: str) -> str:
    """Symbol in a label (``Fe1``, ``fe_up``, ``Fe-a``), "" when there is none."""
    from ase.data import atomic_numbers

    head = re.split(r"[\d_\-.+]", label, maxsplit=1)[0].capitalize()
    return head if head in atomic_numbers and head != "X" else ""


@lru_cache(maxsize=64)
def _head(path: Path, size: int, mtime_ns: int) -> tuple[str, str]:
    """(element, functional) that a pseudopotential file names, "" where it does not."""
    with path.open("rb") as stream:
        text = stream.read(_HEAD_BYTES).decode("utf-8", errors="replace")
    at = text.find("<PP_HEADER")  # PP_INFO before it holds other elements' and functionals' names
    text = text[at:] if at >= 0 else text
    element = _UPF2.search(text) or _UPF1.search(text)
    functional = _FUNCTIONAL.search(text)
    return (
        element[1].capitalize() if element else "",
        " ".join((functional[1] or functional[2] or "").split()).upper() if functional else "",
    )


def read_head(path: Path) -> tuple[str, str]:
    """(element, functional) of a pseudopotential file; the element by its name where the file does not say."""
    status = path.stat()
    element, functional = _head(path, status.st_size, status.st_mtime_ns)
    if not element:
        found = _SYMBOL.match(path.name)
        element = element_of_label(found[1]) if found else ""
    return element, functional


def _folders(root: PwInput, path: Path) -> list[Path]:
    """Where the input's pseudopotentials may lie."""
    named = root.value("CONTROL", "pseudo_dir")
    places = [path.parent / Path(named).expanduser()] if named else []
    places.append(path.parent)
    if os.environ.get("ESPRESSO_PSEUDO"):
        places.append(Path(os.environ["ESPRESSO_PSEUDO"]))
    return list(dict.fromkeys(Path(os.path.normpath(place)) for place in (*places, _SYSTEM_FOLDER)))


def all_species(root: PwInput, path: Path, settings: LabelSettings) -> tuple[list[Species], list[Problem]]:
    """Every species that the input and ``pseudo`` of param.json name, and everything wrong with them.

    The order is that of ATOMIC_SPECIES, then that of ``pseudo``. A file of ``pseudo`` goes before the input's for its element.
    """
    source = str(settings.source or "param.json")
    problems: list[Problem] = []
    given: dict[str, Path] = {}
    for file in settings.pseudo:
        element = read_head(file)[0] if file.is_file() else ""
        if not element:
            problems.append(Problem(f"{source}: pseudo", f"{file} is no file that names an element", "give pseudopotentials of pw.x (UPF)"))
        elif element in given:
            problems.append(Problem(f"{source}: pseudo", f"two files for {element}: {given[element]} and {file}", "keep one of them"))
        else:
            given[element] = file
    found: dict[str, Species] = {}
    card = root.card("ATOMIC_SPECIES")
    for row in card.rows if card else ():
        species, problem = _of_row(row, root, path, given)
        if species is not None and species.element in found:
            problem = Problem(
                f"{path}: ATOMIC_SPECIES",
                f"two species of {species.element}: {found[species.element].label} and {species.label}",
                "structures do not say which atom is which; keep one of them",
            )
        if problem is not None:
            problems.append(problem)
        elif species is not None:
            found[species.element] = species
    for element, file in given.items():
        found.setdefault(element, Species(element, element, "", file))
    return list(found.values()), problems


def _of_row(row: str, root: PwInput, path: Path, given: Mapping[str, Path]) -> tuple[Species | None, Problem | None]:
    where = f"{path}: ATOMIC_SPECIES"
    words = row.split()
    element = element_of_label(words[0])
    if not element:
        return None, Problem(where, f"{words[0]!r} names no element", "begin the label with the element's symbol")
    if len(words) < 3:
        return None, Problem(where, f"{row!r}: label, mass and pseudopotential file are wanted", "mend the line")
    if element in given:
        return Species(words[0], element, words[1], given[element]), None
    name = words[2].strip("'\"")
    folders = _folders(root, path)
    file = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if file is None:
        looked = ", ".join(map(str, folders))
        return None, Problem(
            where, f"the pseudopotential {name} of {element} is not in {looked}", "mend pseudo_dir, or list it in `pseudo`"
        )
    inside = read_head(file)[0]
    if inside and inside != element:
        return None, Problem(where, f"{file} is for {inside}, and {words[0]} is {element}", "name the right file")
    return Species(words[0], element, words[1], file), None


def choose(species: Sequence[Species], elements: Sequence[str], path: Path, source: str) -> tuple[list[Species], list[Problem]]:
    """The species of a structure, in their order, and a problem for each element that has none."""
    wanted = set(elements)
    have = {one.element for one in species}
    listed = ", ".join(sorted(have)) or "none"
    cure = f"add its file to `pseudo` in {Path(source).name}, or a line to ATOMIC_SPECIES of {path.name}"
    missing = [
        Problem(str(path), f"{element} has no pseudopotential; there are: {listed}", cure)
        for element in dict.fromkeys(elements)
        if element not in have
    ]
    return [one for one in species if one.element in wanted], missing


def renumber(root: PwInput, path: Path, chosen: Sequence[Species]) -> list[Problem]:
    """Let the variables that count species follow a structure's; those of absent species go.

    Returns
    -------
    list
        What cannot be renumbered.
    """
    problems = []
    system = root.namelist("SYSTEM")
    labels = labels_of(root)
    new = {one.label: number for number, one in enumerate(chosen, start=1)}
    for assignment in system.assignments:
        if assignment.name == "hubbard_v":
            problems.append(_atom_numbers(f"{path}: line {assignment.number}", "Hubbard_V"))
        if assignment.name not in SPECIES_INDEX:
            continue
        label, problem = _label_of(assignment, labels, path)
        if problem is not None:
            problems.append(problem)
        elif label not in new:
            system.drop(assignment)
        else:
            _set_species(assignment, new[label])
    if system.is_true("lda_plus_u") and not any(assignment.name in _HUBBARD for assignment in system.assignments):
        system.remove("lda_plus_u", "lda_plus_u_kind")  # pw.x refuses DFT+U without an atom that has a U
    card = root.card("HUBBARD")
    if card is not None:
        problems += _choose_rows(root, card, set(new), path)
    no_moment = not any(assignment.name == "starting_magnetization" for assignment in system.assignments)
    if chosen and system.value("nspin") == "2" and no_moment and not system.value("tot_magnetization"):
        names = ", ".join(one.label for one in chosen)
        cure = "give starting_magnetization for each species that may be magnetic, a small one for the others"
        problems.append(Problem(f"{path}: &SYSTEM", f"nspin = 2, and none of {names} has a starting_magnetization", cure))
    return problems


def labels_of(root: PwInput) -> list[str]:
    """Labels of ATOMIC_SPECIES in the user's order."""
    card = root.card("ATOMIC_SPECIES")
    return [row.split()[0] for row in card.rows] if card else []


def _label_of(assignment: Assignment, labels: Sequence[str], path: Path) -> tuple[str, Problem | None]:
    """Which species of the user's a variable is for."""
    where = f"{path}: line {assignment.number}"
    place = SPECIES_INDEX[assignment.name]
    numbers = assignment.indices
    # Fortran fills a list into the following species too
    if len(re.split(r"[\s,]+", assignment.plain)) > 1 or "*" in assignment.plain:
        return "", Problem(
            where, f"{assignment.name}: {assignment.value!r} is a list", f"write {assignment.name}(1) = …, one for each species"
        )
    if not assignment.index and not place:
        numbers = (1,)
    if len(numbers) <= place or not labels:
        cure = "list the species in ATOMIC_SPECIES" if not labels else "write the numbers of the species"
        return "", Problem(where, f"{assignment.name}({assignment.index}): which species is this?", cure)
    if not 1 <= numbers[place] <= len(labels):
        return "", Problem(where, f"{assignment.name}({assignment.index}): ATOMIC_SPECIES has {len(labels)} species", "mend the number")
    return labels[numbers[place] - 1], None


def _set_species(assignment: Assignment, number: int) -> None:
    numbers = list(assignment.indices) or [0]
    numbers[SPECIES_INDEX[assignment.name]] = number
    assignment.index = ",".join(map(str, numbers))
    assignment.text = f"{assignment.text.split('=')[0].split('(')[0].strip()}({assignment.index}) = {assignment.value}"


def _atom_numbers(where: str, what: str) -> Problem:
    return Problem(where, f"{what} counts atoms, whose numbers change from structure to structure", "use U without V")


def _choose_rows(root: PwInput, card: Card, labels: set[str], path: Path) -> list[Problem]:
    """Rows of a HUBBARD card (from 7.1 on: ``U Fe-3d 5.0``) whose species is there; without any the card goes."""
    problems = []
    kept = []
    for row in card.rows:
        words = row.split()
        kind = words[0].upper()
        if kind == "V":
            problems.append(_atom_numbers(f"{path}: HUBBARD", "V"))
        elif kind not in _HUBBARD_ROWS or len(words) < 3:
            problems.append(
                Problem(f"{path}: HUBBARD", f"{row!r} is not understood", f"write one of {', '.join(_HUBBARD_ROWS)} and LABEL-nl VALUE")
            )
        elif words[1].rpartition("-")[0] in labels:
            kept.append(row)
    card.lines = kept
    if not kept:
        root.remove_cards("HUBBARD")
    return problems


def by_label(root: PwInput, path: Path) -> dict[str, str]:
    """``variable label`` → value of everything that counts species, for the level of theory."""
    labels = labels_of(root)
    found = {}
    for assignment in root.namelist("SYSTEM").assignments:
        if assignment.name in SPECIES_INDEX:
            label, _ = _label_of(assignment, labels, path)
            others = [str(number) for place, number in enumerate(assignment.indices) if place != SPECIES_INDEX[assignment.name]]
            found[" ".join([assignment.name, element_of_label(label), *others])] = assignment.plain.lower()
    return found


def hashes(species: Sequence[Species]) -> list[list[str]]:
    """Element and hash of its pseudopotential's content, sorted."""
    return sorted([one.element, hash_of_file(one.file)] for one in species)
