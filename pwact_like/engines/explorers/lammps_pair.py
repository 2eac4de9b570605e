"""The pair style of a LAMMPS run: the field's potentials by name, or the user's own lines.

In own lines ``{models}`` stands for the files of all models, ``{model}`` for that of one (then LAMMPS runs over the finished
trajectory once for each model, and the deviation is computed from those forces), ``{elements}`` for the symbols of the atom
types and ``{numbers}`` for their atomic numbers, ``{out_freq}`` and ``{out_file}`` for where a style that knows its
deviation writes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pwact_like.config.lammps_styles import EMBEDDED, PAIR_STYLES
from pwact_like.engines.explorers.lammps_task import MARKER, RAW
from pwact_like.errors import InputError, Problem

_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")
_NAMES = ("models", "model", "elements", "numbers", "out_freq", "out_file")
# these must stand before the box is created
_EARLY = frozenset({"atom_modify", "newton", "package", "plugin", "processors", "suffix"})
# enough for a list to be built: the driver has its own
_ZERO_CUTOFF_ANG = 2.0


@dataclass(frozen=True)
class PairStyle:
    """Commands of a potential.

    Attributes
    ----------
    early, late
        Before and after the box is created.
    deviations
        See ``LmpTask.deviations``.
    """

    early: tuple[str, ...]
    late: tuple[str, ...]
    deviations: str

    def lines(self, models: Sequence[str], elements: Sequence[str], out_freq: int) -> tuple[list[str], list[str]]:
        """(early, late) lines for these models (the first drives), ready for LAMMPS."""
        from ase.data import atomic_numbers

        values = {
            "models": " ".join(models),
            "model": models[0],
            "elements": " ".join(elements),
            "numbers": " ".join(str(atomic_numbers[symbol]) for symbol in elements),
            "out_freq": str(out_freq),
            "out_file": RAW,
        }

        def fill(line: str) -> str:
            return _PLACEHOLDER.sub(lambda found: values[found.group(1)], line)

        return [fill(line) for line in self.early], [fill(line) for line in self.late]


def exported_kpu_style() -> PairStyle:
    """DeePMD-kit's with the one model that drives; its uncertainty is ours, over the trajectory after the run."""
    return PairStyle(("atom_modify map yes",), ("pair_style deepmd {model}", "pair_coeff * * {elements}"), "replay")


def pair_style(given: Sequence[str], where: str) -> PairStyle:
    """The style of a name, or of the user's own lines.

    Raises
    ------
    InputError
        For an unknown name, unknown placeholders, or lines that give no deviation.
    """
    if len(given) == 1 and given[0].strip().lower() in PAIR_STYLES:
        name = given[0].strip().lower()
        if name == EMBEDDED:
            return PairStyle((), (f"pair_style zero {_ZERO_CUTOFF_ANG}", "pair_coeff * *", MARKER), "driver")
        lines: Sequence[str] = PAIR_STYLES[name]
    else:
        lines = given
    lines = [line.strip() for line in lines if line.strip()]
    problems = [Problem(where, what, cure) for what, cure in _faults(lines)]
    if problems:
        raise InputError(problems)
    used = {name for line in lines for name in _PLACEHOLDER.findall(line)}
    early = tuple(line for line in lines if line.split()[0] in _EARLY)
    late = tuple(line for line in lines if line.split()[0] not in _EARLY)
    return PairStyle(early, late, "file" if "models" in used else "rerun")


def _faults(lines: Sequence[str]) -> list[tuple[str, str]]:
    """What is wrong, and the cure."""
    words = [line.split()[0] for line in lines]
    used = {name for line in lines for name in _PLACEHOLDER.findall(line)}
    faults = []
    if "pair_style" not in words:
        known = ", ".join(PAIR_STYLES)
        faults.append((f"{' / '.join(lines) or 'nothing'}: neither a known name nor lines with pair_style", f"known: {known}"))
        return faults
    faults += [
        (f"{{{name}}}: no such placeholder", f"known: {', '.join(f'{{{known}}}' for known in _NAMES)}")
        for name in sorted(used - set(_NAMES))
    ]
    faults += [
        (f"{word!r} belongs to the run, not to the potential", "leave it out here")
        for word in words
        if word in ("run", "dump", "read_data", "clear", "units", "include")
    ]
    if "models" in used and "out_file" not in used:
        faults.append(
            (
                "all models at once ({models}), and no {out_file} for their deviation",
                "add what this style calls it, e.g. out_freq {out_freq} out_file {out_file}, or write {model} for one at a time",
            )
        )
    if "models" not in used and "model" not in used:
        faults.append(("the models appear nowhere", "write {model} where the file of one model stands, or {models} for all"))
    if "models" in used and "model" in used:
        faults.append(("{models} and {model} exclude each other", "{models}: the style knows its deviation; {model}: one model at a time"))
    return faults
