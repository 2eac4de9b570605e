"""What of the user's own LAMMPS input is left out or replaced, and how the user is told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from pwact_like.engines.explorers.lammps_cell import all_masses, standard_masses
from pwact_like.engines.explorers.lammps_script import Command, Variables
from pwact_like.errors import Problem

# words of dump_modify that begin an option, of all styles of dump (https://docs.lammps.org/dump_modify.html)
_DUMP_WORDS = frozenset(
    "append at balance buffer colname delay element every every/time fileper first flush format header image label maxfiles nfile pad "
    "pbc precision refresh region scale sfactor skip sort tfactor thermo thresh time triclinic/general types units unwrap "
    "acolor adiam amap atom backcolor bcolor bdiam bitrate boxcolor color compression_level checksum framerate gmap".split()
)
_FEWER_FRAMES = frozenset({"delay", "every", "every/time", "maxfiles", "region", "skip", "thresh"})
_KEPT = frozenset({"buffer", "flush"})  # how the file is written; all that is in it, and where, is ours
_SAME_MASS = 0.01  # relative: tables of standard masses differ by less, isotopes by more (but for heavy elements)


def dump_options(commands: Sequence[Command], path: Path) -> tuple[tuple[str, ...], list[Problem]]:
    """Words of the first dump's dump_modify that hold for ours, and what is refused of it."""
    kept: list[str] = []
    problems = []
    for command, options in _modifications(commands):
        bad = sorted({option[0] for option in options} & _FEWER_FRAMES)
        if bad:
            what = f"dump_modify {', '.join(bad)}: every frame is needed, of all atoms"
            problems.append(Problem(f"{path}: line {command.line}", what, "leave it out; trj_freq of md_jobs says how often"))
        kept += [word for option in options if option[0] in _KEPT for word in option]
    return tuple(kept), problems


def notes_on(commands: Sequence[Command], path: Path, elements: Sequence[str], variables: Variables) -> list[str]:
    """Notes on an input, each with its line; ``elements`` are the symbols of the atom types."""
    found = [*_dumps(commands), *_masses(commands, elements, variables), *_lost(commands)]
    return [f"{path}: line {command.line}: {note}" for command, note in found]


def _first_dump(commands: Sequence[Command]) -> str | None:
    return next((command.arguments[0] for command in commands if command.name == "dump" and command.arguments), None)


def _modifications(commands: Sequence[Command]) -> Iterator[tuple[Command, list[tuple[str, ...]]]]:
    """Each dump_modify of the first dump, with its options."""
    first = _first_dump(commands)
    for command in commands:
        if command.name == "dump_modify" and command.arguments[:1] == (first,):
            options: list[list[str]] = []
            for word in command.arguments[1:]:
                if word in _DUMP_WORDS or not options:
                    options.append([])
                options[-1].append(word)
            yield command, [tuple(option) for option in options]


def _dumps(commands: Sequence[Command]) -> Iterator[tuple[Command, str]]:
    first = _first_dump(commands)
    for command in commands:
        if command.name == "dump" and command.arguments and command.arguments[0] != first:
            yield (
                command,
                f"dump {command.arguments[0]} is left out: ours takes the place of the first one (positions and forces), no other is kept",
            )
    for command, options in _modifications(commands):
        left_out = [" ".join(option) for option in options if option[0] not in _KEPT]
        if left_out:
            yield command, f"dump_modify {', '.join(left_out)}: left out, what the dump holds is ours"


def _masses(commands: Sequence[Command], elements: Sequence[str], variables: Variables) -> Iterator[tuple[Command, str]]:
    ours = standard_masses(elements)
    for command in commands:
        if command.name == "variable":
            variables.define(command.arguments)
        if command.name != "mass" or len(command.arguments) < 2:
            continue
        number, mass = (variables.number(word) for word in command.arguments[:2])
        if number is None or mass is None or not 1 <= number <= len(ours) or _is_near(mass, ours[int(number) - 1]):
            continue
        place = int(number) - 1
        given, symbol = f"mass {command.arguments[0]} {mass:g}", elements[place]
        others = [other for other, standard in zip(elements, ours, strict=True) if _is_near(mass, standard)]
        if not others and any(_is_near(mass, standard) for standard in all_masses()):
            continue  # of an element that is not in the run: a line that was copied on, as in PWact's own examples
        if others:
            note = (
                f"{given} is that of {others[0]}, and type {place + 1} is {symbol} here (the order of train.atom_type): "
                "commands of this input that name a type mean another element"
            )
        else:
            note = f"{given} is replaced by {ours[place]:g}, the standard mass of {symbol}: no isotope is run"
        yield command, note


def _is_near(mass: float, standard: float) -> bool:
    return abs(mass / standard - 1.0) <= _SAME_MASS


def _lost(commands: Sequence[Command]) -> Iterator[tuple[Command, str]]:
    for command in commands:
        for one in (command, *(inner for _, inner in command.branches())):
            words = [word.text for word in one.words]
            values = {after for word, after in itertools.pairwise(words) if word == "lost"}
            if one.name == "thermo_modify" and values - {"error"}:
                yield command, "thermo_modify lost is set to error: frames without the lost atoms would be of another composition"
