"""Lines of an etot.input that name potentials: pseudopotentials, Gaussian basis sets, Slater–Koster files; and LDA+U, which counts them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.config.elements import SYMBOLS
from pwact_like.engines.labelers.cp2k_basis import Kinds, kinds_of
from pwact_like.engines.labelers.fingerprints import hash_of_file
from pwact_like.engines.labelers.pwmat_etot import Etot, named_element
from pwact_like.errors import InputError, Problem

if TYPE_CHECKING:
    from pwact_like.config.labelling import LabelSettings

SKF_FOLDER = "in_skf"
_PLUS_U = re.compile(r"LDAU_PSP(\d+)")
_OURS = re.compile(r"IN\.(SKF|PSP\w*|BASIS\w*)|LDAU_PSP\d+")
_CHARGES_ONLY = 3  # DFTB_DETAIL's first number: a model without Slater–Koster files

Lines = list[tuple[str, str]]
Links = list[tuple[str, str]]


class PotentialFiles:
    """What the settings give PWmat to describe the elements.

    Raises
    ------
    InputError
        For pseudopotential files that name no element or the same one, and everything wrong with gaussian_param.
    """

    def __init__(self, settings: LabelSettings, source: str) -> None:
        self._source = source
        self._skf = settings.in_skf
        self._pseudo: dict[str, Path] = {}
        self._kinds: Kinds | None = None
        problems = []
        for path in settings.pseudo:
            element = path.name.partition(".")[0]
            if element not in SYMBOLS:
                what = f"{path.name} names no element: its name before the first dot is {element!r}"
                problems.append(Problem(f"{source}: pseudo", what, "rename it, Si.SG15.PBE.UPF for example"))
            elif element in self._pseudo:
                what = f"two pseudopotentials for {element}: {self._pseudo[element]} and {path}"
                problems.append(Problem(f"{source}: pseudo", what, "keep one of them"))
            else:
                self._pseudo[element] = path.absolute()
        if settings.gaussian_param is not None:
            self._kinds, wrong = kinds_of(settings.gaussian_param, source)
            problems += wrong
        if problems:
            raise InputError(problems)

    @staticmethod
    def is_ours(key: str) -> bool:
        """Whether a key of an etot.input is written here."""
        return bool(_OURS.fullmatch(key))

    def lines(self, etot: Etot, elements: tuple[str, ...]) -> tuple[Lines, Links, list[Problem]]:
        """Lines for these elements, links in the task's folder, and what is missing."""
        if etot.truth("USE_DFTB"):
            return self._dftb(etot)
        lines, links, problems = self._gaussian(etot, elements) if etot.truth("USE_GAUSSIAN") else self._plane_waves(elements)
        plus_u, wrong = _plus_u(etot, elements)
        return lines + plus_u, links, problems + wrong

    def _plane_waves(self, elements: tuple[str, ...]) -> tuple[Lines, Links, list[Problem]]:
        have = ", ".join(sorted(self._pseudo)) or "none"
        problems = [
            Problem(f"{self._source}: pseudo", f"no pseudopotential for {element}; there are: {have}", f"add the file for {element}")
            for element in elements
            if element not in self._pseudo
        ]
        files = [self._pseudo[element] for element in elements if element in self._pseudo]
        return [(f"IN.PSP{k}", file.name) for k, file in enumerate(files, 1)], [(file.name, str(file)) for file in files], problems

    def _gaussian(self, etot: Etot, elements: tuple[str, ...]) -> tuple[Lines, Links, list[Problem]]:
        if self._kinds is None:
            what, cure = "USE_GAUSSIAN = T, and gaussian_param is missing", "give gaussian_param with its files and lists"
            return [], [], [Problem(f"{etot.path}: USE_GAUSSIAN", what, cure)]
        kinds = self._kinds
        problems = [
            Problem(f"{self._source}: gaussian_param.atom_list", f"{element} has no basis set and potential", f"add {element} to its lists")
            for element in elements
            if element not in kinds.names
        ]
        links = []
        for file in dict.fromkeys((kinds.potential_file, kinds.basis_set_file)):
            if file.path is None:
                problems.append(Problem(f"{self._source}: gaussian_param", f"there is no file {file.name}", "give its path"))
            else:
                links.append((file.name, str(Path(file.path).absolute())))
        known = [element for element in elements if element in kinds.names]
        lines = [(f"IN.PSP{k}", f"{element} {kinds.names[element][1]} {kinds.potential_file.name}") for k, element in enumerate(known, 1)]
        lines += [
            (f"IN.BASIS{k}", f"{element} {kinds.names[element][0]} {kinds.basis_set_file.name}") for k, element in enumerate(known, 1)
        ]
        return lines, links, problems

    def _dftb(self, etot: Etot) -> tuple[Lines, Links, list[Problem]]:
        detail = etot.numbers("DFTB_DETAIL")
        if detail and int(detail[0]) == _CHARGES_ONLY:
            return [], [], []
        if self._skf is None:
            what = "USE_DFTB = T, and in_skf (the folder of the Slater–Koster files) is missing"
            return [], [], [Problem(f"{etot.path}: USE_DFTB", what, "give in_skf")]
        if not self._skf.is_dir():
            return [], [], [Problem(f"{self._source}: in_skf", f"{self._skf} is no folder", "give the folder of the Slater–Koster files")]
        return [("IN.SKF", f"./{SKF_FOLDER}/")], [(SKF_FOLDER, str(self._skf.absolute()))], []

    def fingerprint(self, etot: Etot) -> list[list[str]]:
        """Names and hashes of the contents that decide energies."""
        if etot.truth("USE_DFTB"):
            folder = self._skf if self._skf is not None and self._skf.is_dir() else None
            files = sorted(path for path in folder.iterdir() if path.is_file()) if folder else []
            return [[path.name, hash_of_file(path)] for path in files]
        if etot.truth("USE_GAUSSIAN"):
            return self._kinds.fingerprint() if self._kinds is not None else []
        return [[element, hash_of_file(path)] for element, path in sorted(self._pseudo.items())]


def _plus_u(etot: Etot, elements: tuple[str, ...]) -> tuple[Lines, list[Problem]]:
    """LDAU_PSPk of the user, which belong to the elements of the user's IN.PSPk, with the numbers that those have here."""
    given = {int(match[1]): value for key, value in etot.settings.items() if (match := _PLUS_U.fullmatch(key))}
    lines: Lines = []
    problems = []
    for number, value in sorted(given.items()):
        element = named_element(etot, str(number))
        if element not in SYMBOLS:
            what = f"which element is meant? There is no IN.PSP{number} beside it that names one"
            problems.append(Problem(f"{etot.path}: LDAU_PSP{number}", what, f"add IN.PSP{number} = Fe.…UPF to {etot.path.name}"))
        elif element in elements:
            lines.append((f"LDAU_PSP{elements.index(element) + 1}", value))
    return lines, problems
