"""VASP's potentials: which file is of which element, whether it is whole, and the POTCAR of a structure.

POTCAR files are licensed. Their text goes into the folder of a live task and nowhere else; what is kept are titles and hashes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.config.elements import SYMBOLS
from pwact_like.errors import Problem

if TYPE_CHECKING:
    from pwact_like.config.labelling import LabelSettings

_TITLE = re.compile(r"^\s*TITEL\s*=\s*(.+?)\s*$", re.MULTILINE)
_VALENCE = re.compile(r"^\s*VRHFIN\s*=\s*([A-Za-z]+)", re.MULTILINE)
_FUNCTIONAL = re.compile(r"^\s*LEXCH\s*=\s*(\w+)", re.MULTILINE)
_CUTOFF = re.compile(r"ENMAX\s*=\s*([\d.]+)")
_END = "End of Dataset"


@dataclass(frozen=True)
class Potential:
    """One element's potential.

    Attributes
    ----------
    title
        The TITEL line's text, e.g. ``PAW_PBE Si 05Jan2001``.
    functional
        LEXCH, e.g. ``PE``; "" when it is not said.
    enmax_ev
        The cutoff that it asks for, eV; 0 when it is not said.
    """

    path: Path
    element: str
    title: str
    functional: str
    enmax_ev: float
    sha256: str


def potentials_of(settings: LabelSettings, where: str) -> tuple[dict[str, Potential], list[Problem]]:
    """Element → potential of the files in ``pseudo``, and everything wrong with them."""
    found: dict[str, Potential] = {}
    problems = []
    for path in settings.pseudo:
        read = _read(path)
        if isinstance(read, Problem):
            problems.append(read)
        elif read.element in found:
            other = found[read.element].path
            problems.append(Problem(f"{where}: pseudo", f"two potentials for {read.element}: {other} and {path}", "keep one of them"))
        else:
            found[read.element] = read
    functionals = {potential.functional for potential in found.values() if potential.functional}
    if len(functionals) > 1:
        listed = "; ".join(f"{potential.title} ({potential.functional})" for potential in found.values())
        cure = "take all of them from one set, potpaw_PBE for example"
        problems.append(Problem(f"{where}: pseudo", f"potentials of different functionals (LEXCH): {listed}", cure))
    return found, problems


def _read(path: Path) -> Potential | Problem:
    try:
        status = path.stat()
        return _parsed(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        return Problem(str(path), f"the POTCAR cannot be read: {error.strerror or error}", "mend the path in pseudo")


@lru_cache(maxsize=128)
def _parsed(path: Path, size: int, mtime_ns: int) -> Potential | Problem:
    text = _text(path)
    words = text.partition("\n")[0].split()
    element = words[1].partition("_")[0] if len(words) > 1 else ""
    if element not in SYMBOLS:
        what = f"the second word of its first line, cut at _, is {element!r}: no element"
        return Problem(str(path), what, "give the POTCAR of one element (unpacked, not .Z)")
    titles = _TITLE.findall(text)
    if len(titles) != 1 or text.count(_END) > 1:
        what = f"{len(titles)} potentials (TITEL) in it: {', '.join(titles) or 'none'}"
        return Problem(str(path), what, "give one file an element; they are put together for every structure")
    if _END not in text:
        return Problem(str(path), f"the file ends too early: there is no {_END!r}", "copy it again")
    words = titles[0].split()
    named = words[1].partition("_")[0] if len(words) > 1 else words[0]
    valence = _VALENCE.search(text)
    if named != element or (valence is not None and valence[1] != element):
        said = f"TITEL says {named}" + (f", VRHFIN {valence[1]}" if valence else "")
        return Problem(str(path), f"its first line says {element}, {said}", "it was put together wrongly: take the original file")
    functional, cutoff = _FUNCTIONAL.search(text), _CUTOFF.search(text)
    return Potential(
        path=path,
        element=element,
        title=titles[0],
        functional=functional[1].upper() if functional else "",
        enmax_ev=float(cutoff[1]) if cutoff else 0.0,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="latin-1")


def potcar_text(potentials: Sequence[Potential]) -> str:
    """The potentials' texts one after the other, in the order of the POSCAR's elements."""
    texts = [_text(potential.path) for potential in potentials]
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts)
