"""Shell lines of a LAMMPS task."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from pwact_like.config.engines_known import engine_of_command
from pwact_like.config.lammps_switches import OWN_VARIABLES, variables_of, without_own_variables
from pwact_like.engines.explorers.lammps_task import EXIT, INPUT, LOG, RESTARTS, STOP_LINK, TRAJECTORY, rerun_name
from pwact_like.errors import InputError, Problem
from pwact_like.time_limit import STOP_FILE_VARIABLE

DEFAULT_COMMAND = "lmp"
# given by us: a whole argument and the one after it
_OWN_FLAGS = frozenset({"-in", "-i", "-input", "--in", "-log", "-l", "--log"})
_PLUMED_CURE = "explore.lmps_plumed: this LAMMPS (its -h) has no fix plumed; build one with the package PLUMED, or leave the key out"


def own_program() -> str:
    """``pwact-like lammps`` of this installation."""
    return f"{shlex.quote(sys.executable)} -m pwact_like lammps"


def without_own_flags(command: str) -> str:
    """The user's command without LAMMPS's ``-in FILE``, ``-log FILE`` and the variables that are ours; all else verbatim.

    What stands before LAMMPS is its launcher's: srun's ``-l`` labels lines.
    """
    given = command.split()
    words = without_own_variables(given)
    place = next((number for number, word in enumerate(words) if engine_of_command("explore", word) == "lammps"), 0)
    kept = words[:place]
    while place < len(words):
        if words[place] in _OWN_FLAGS:
            place += 2
            continue
        kept.append(words[place])
        place += 1
    return command.strip() if len(kept) == len(given) else " ".join(kept)


def driver_command(command: str) -> str:
    """The user's launcher (``srun -n 1``) with our driver in LAMMPS's place.

    Of LAMMPS's own arguments it is told the variables, by lmp.json; the others would mean nothing to it.

    Raises
    ------
    InputError
        When no word of the command is LAMMPS, or the value of a variable is the shell's to tell.
    """
    words = command.split()
    if not words:
        return own_program()
    places = [place for place, word in enumerate(words) if engine_of_command("explore", word) == "lammps"]
    if not places:
        raise InputError(
            Problem(
                "resource.json: explore.command",
                f"no word of {command!r} is LAMMPS, in whose place the embedded potential's driver is called",
                'write "lmp", or a launcher and then lmp ("srun -n 1 lmp")',
            )
        )
    of_shell = [name for name, *values in variables_of(command) if name not in OWN_VARIABLES and set("$`") & set("".join(values))]
    if of_shell:
        raise InputError(
            Problem(
                "resource.json: explore.command",
                f"-var {', '.join(of_shell)}: a value of the shell's, which the embedded potential's driver is not told",
                "write the value itself",
            )
        )
    return " ".join([*words[: places[0]], own_program()])


def lammps_word(command: str) -> str:
    """The word of the user's command that is LAMMPS, as it stands there; "" when none can be told."""
    return next((word for word in command.split() if engine_of_command("explore", word) == "lammps"), "")


def convert_command(command: str, shared: Path | None) -> str:
    """Our step that converts the models, with LAMMPS's place in the user's command (the shell puts its variables in)."""
    word = lammps_word(command)
    plain = "/" in word and not set(word) & set("\"'`\\")
    place = f' --lmp "{word}"' if plain else ""
    return f"{own_program()} convert{place}" + (f" --shared {shlex.quote(str(shared))}" if shared is not None else "")


def commands_of(
    command: str, *, is_embedded: bool, n_reruns: int, plumed: bool, exported: bool = False, shared: Path | None = None
) -> tuple[str, ...]:
    """All lines of a task; converted models are kept in ``shared`` for the others.

    LAMMPS's own failure does not end it: ``pwact-like lammps end`` looks at what there is, and fails where the run is to be
    tried again. The end of the job's time is seen through a link to the file that the script makes then.
    """
    link = f'ln -sfn "${{{STOP_FILE_VARIABLE}:-no.time.limit}}" {STOP_LINK}'
    if is_embedded:
        return (link, f"{driver_command(command)} run")
    program = without_own_flags(command) or DEFAULT_COMMAND
    lines = [link]
    if plumed:
        lines.append(f"{{ {program} -h </dev/null | grep -qw plumed; }} || {{ printf '%s\\n' {shlex.quote(_PLUMED_CURE)} >&2; exit 2; }}")
    if exported:
        lines.append(convert_command(command, shared))
    there = " || ".join(f"[ -e {name} ]" for name in RESTARTS)
    lines += [
        f"if {there}; then {own_program()} begin; fi",
        f"{{ {program} -in {INPUT} -log {LOG}; }}; printf '%s\\n' \"$?\" >{EXIT}",
    ]
    if n_reruns:
        lines.append(f'read -r pwl_status <{EXIT}; [ "$pwl_status" -eq 0 ] || {own_program()} trim')
    for index in range(n_reruns):
        name = rerun_name(index)
        again = f"{program} -in {name} -log {name.removesuffix('.lammps')}.log"
        # with the end of the job's time near they would not be finished: the next attempt makes them
        lines.append(f"if [ -s {TRAJECTORY} ] && ! [ -e {STOP_LINK} ]; then {{ {again}; }} || :; fi")
    return (*lines, f"{own_program()} end")
