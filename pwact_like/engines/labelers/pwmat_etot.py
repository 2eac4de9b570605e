"""PWmat's etot.input: its settings, and the user's text without those that are ours and with ours at the end.

The first line holds the numbers of nodes (``node1 node2``), then ``KEY = value``, keys in any case; # begins a comment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pwact_like.engines.protocols import LabelKind
from pwact_like.errors import InputError, Problem

JOBS: dict[LabelKind, str] = {"scf": "SCF", "relax": "RELAX", "aimd": "MD"}
DEFAULT_FORCE_TOLERANCE = 0.02  # eV/Å, where RELAX_DETAIL does not say
_NODES = re.compile(r"\s*\d+\s+\d+\s*")
# Left out of the level of theory: files that are ours or only begin the SCF, the job and how it moves atoms, how tightly the
# SCF converges, printing. Other IN.* add a field, a solvent, forces, occupations, own k-points: they count unless they are F.
_INDIFFERENT = re.compile(
    r"IN\.(ATOM|PSP\w*|BASIS\w*|SKF|WG\w*|RHO\w*|VR\w*)|OUT\.\w+|JOB|MD_\w+|RELAX_\w+|ENERGY_DECOMP\w*|[ERW]\w*_ERROR|SCF_ITER\w+|MP_N123|"
    r"FLAG_SYMM|CONVERGENCE|NUM_KPT|N123L?|MIX\w*|PULAY\w*"
)
_OFF = re.compile(r"\.?F(ALSE)?\.?")
_PLUS_U = re.compile(r"LDAU_PSP(\d+)")


@dataclass(frozen=True)
class Etot:
    """An etot.input.

    Attributes
    ----------
    nodes
        Its first line.
    lines
        The other lines: (upper-case key or "", value without comment, text as written).
    """

    path: Path
    nodes: str
    lines: tuple[tuple[str, str, str], ...]

    @property
    def settings(self) -> dict[str, str]:
        """Upper-case key → value, the first one where a key stands twice."""
        found: dict[str, str] = {}
        for key, value, _ in self.lines:
            if key:
                found.setdefault(key, value)
        return found

    def value(self, key: str) -> str:
        """The value as written, "" when it is not there."""
        return self.settings.get(key, "")

    def truth(self, key: str) -> bool:
        """A switch: T or F."""
        return self.value(key).lower().strip(".").startswith("t")

    def numbers(self, key: str) -> list[float]:
        """Numbers of a value, up to the first word that is none; Fortran's exponents are understood."""
        found = []
        for word in re.split(r"[\s,]+", self.value(key)):
            try:
                found.append(float(word.lower().replace("d", "e")))
            except ValueError:
                break
        return found

    def text(self, is_ours: Callable[[str], bool], ours: Sequence[tuple[str, str]]) -> str:
        """The user's text without the lines whose key is ours, and ours after it."""
        kept = [text for key, _, text in self.lines if not (key and is_ours(key))]
        while kept and not kept[-1].strip():
            kept.pop()
        added = [f"{key} = {value}" for key, value in ours]
        return "\n".join([self.nodes, *kept, *added]) + "\n"


def read_etot(path: Path) -> Etot:
    """Read an etot.input.

    Raises
    ------
    InputError
        When it cannot be read, or its first line is not the numbers of nodes.
    """
    try:
        raw = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(Problem(str(path), f"the etot.input cannot be read: {error.strerror or error}")) from error
    while raw and not raw[0].strip():
        del raw[0]
    if not raw or not _NODES.fullmatch(raw[0].partition("#")[0]):
        found = raw[0].strip()[:40] if raw else "nothing"
        raise InputError(
            Problem(f"{path}: first line", f"node1 and node2, two numbers, are expected: {found!r}", "begin the file with 4 1, say")
        )
    lines = []
    for text in raw[1:]:
        key, equals, value = text.partition("#")[0].partition("=")
        lines.append((key.strip().upper() if equals else "", " ".join(value.split()), text))
    return Etot(path, raw[0].strip(), tuple(lines))


def check_stage(etot: Etot, kind: LabelKind) -> list[Problem]:
    """What of an etot.input contradicts the stage. JOB itself is ours, as long as it is one of the three."""
    problems = []
    job = etot.value("JOB").upper()
    if job and job not in JOBS.values():
        problems.append(
            Problem(f"{etot.path}: JOB", f"{job} gives no labels", f"this stage runs JOB = {JOBS[kind]}: name an input file for that")
        )
    if kind == "aimd" and len(etot.numbers("MD_DETAIL")) < 5:
        problems.append(
            Problem(
                f"{etot.path}: MD_DETAIL",
                "an MD run needs it: method, steps, time step in fs, first and last temperature",
                "MD_DETAIL = 2, 100, 1.0, 300, 300 for example",
            )
        )
    return problems


def planned_frames(etot: Etot, kind: LabelKind) -> int | None:
    """Steps of MD_DETAIL or RELAX_DETAIL; None when they are not stated."""
    found = etot.numbers("MD_DETAIL" if kind == "aimd" else "RELAX_DETAIL")
    return int(found[1]) if len(found) > 1 else None


def named_element(etot: Etot, number: str) -> str:
    """What the user's IN.PSP of that number begins with: ``Fe.SG15.PBE.UPF``, or with Gaussians ``Fe GTH-PBE-q16 POTENTIAL``; or ""."""
    words = etot.value(f"IN.PSP{number}").split()
    return Path(words[0]).name.partition(".")[0] if words else ""


def decisive_settings(etot: Etot) -> dict[str, str]:
    """What decides energies: key → value, upper-case, blanks squeezed; of the SCF's lines the smearing only."""
    found = {}
    for key, value in etot.settings.items():
        plain = re.sub(r"[\s,]+", " ", value.upper()).strip()
        if _INDIFFERENT.fullmatch(key) or (key.startswith("IN.") and _OFF.fullmatch(plain)):
            continue
        numbered = _PLUS_U.fullmatch(key)  # the number means an element, that of the user's own IN.PSP
        found[f"LDAU_PSP {named_element(etot, numbered[1])}" if numbered else key] = plain
    for key in etot.settings:
        if key.startswith("SCF_ITER"):
            numbers = etot.numbers(key)
            if len(numbers) >= 6:  # count, CG steps, method, self-consistent or not, width in eV, kind of smearing
                found["SMEARING"] = " ".join(f"{number:g}" for number in numbers[4:6])
    return dict(sorted(found.items()))
