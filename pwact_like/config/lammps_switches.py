"""Variables that the user's LAMMPS command sets: ``-var NAME VALUE…`` or ``-v``.

https://docs.lammps.org/Run_options.html: such a variable is of style index, and the first definition of one holds.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pwact_like.config.engines_known import engine_of_command

OWN_VARIABLES = ("DUMP_FREQ", "restart")
"""PWact's names in a user's input: their values are ours to give."""

_SWITCHES = ("-var", "-v")
_SHELL = ("<", ">", "|", "&", ";", "1>", "2>")


def variables_of(command: str) -> tuple[tuple[str, ...], ...]:
    """(name, value, …) of every switch behind the word that is LAMMPS, quotes removed; a shell's ``$`` stays as it stands."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is never closed: the shell will say so
        words = command.split()
    return tuple(tuple(words[begin + 1 : end]) for begin, end in _places(words))


def without_own_variables(words: Sequence[str]) -> list[str]:
    """The words of a command without the switches that set `OWN_VARIABLES`."""
    dropped = {place for begin, end in _places(words) if words[begin + 1] in OWN_VARIABLES for place in range(begin, end)}
    return [word for place, word in enumerate(words) if place not in dropped]


def _places(words: Sequence[str]) -> list[tuple[int, int]]:
    """Where each switch begins and its values end, as LAMMPS sees it: the first value may begin with a minus, no later one."""
    lammps = [place for place, word in enumerate(words) if engine_of_command("explore", word) == "lammps"]
    place = lammps[0] + 1 if lammps else 0
    found = []
    while place < len(words):
        end = place + 1
        if words[place] in _SWITCHES and place + 2 < len(words):
            end = place + 3
            while end < len(words) and not words[end].startswith(("-", *_SHELL)):
                end += 1
            found.append((place, end))
        place = end
    return found
