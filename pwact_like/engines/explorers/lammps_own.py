"""The user's own LAMMPS input (``lmps_in``): what is ours in it is replaced, all else stays as it is.

Ours are: units, boundary, atom_style, read_data and read_restart, mass, pair_style and pair_coeff, dump, restart and log,
the variables DUMP_FREQ (trj_freq of md_jobs) and restart (1 in a run that goes on), the seed of ``velocity … create``, and that a
lost atom ends the run (``thermo_modify lost error``). What of this a user may miss is told by `OwnInput.notes`.
A command that acts once on the atoms (velocity, set, displace_atoms, change_box) is done at its own step only, and ``run N``
counts from the beginning, so that the same file serves the first attempt and every later one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pwact_like.config.lammps_switches import OWN_VARIABLES
from pwact_like.engines.explorers.lammps_input import Blocks
from pwact_like.engines.explorers.lammps_left_out import dump_options, notes_on
from pwact_like.engines.explorers.lammps_script import Command, Variables, parse_script
from pwact_like.errors import InputError, Problem

OWNED = frozenset("units boundary atom_style read_data read_restart mass pair_style pair_coeff dump dump_modify undump restart log".split())
ONCE = frozenset({"velocity", "set", "displace_atoms", "change_box"})
_LOOP = "the number of steps could not be told, nor a run be continued"
_ATOMS = "the frames would no longer be of the start structure's atoms"
_REFUSED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("jump", "label", "next"), (f"loops and jumps: {_LOOP}", "write the runs one after the other")),
    "include": ("commands of another file are not seen", "put its lines here"),
    "clear": ("it removes the structure and the potential that are set up for the run", "remove it"),
    "quit": ("the lines after it, which end the run properly, would not be reached", "remove it"),
    **dict.fromkeys(
        (
            "create_box",
            "create_atoms",
            "delete_atoms",
            "replicate",
            "reset_atoms",
            "reset_atom_ids",
            "group2ndx",
            "read_dump",
            "balance_atoms",
        ),
        (_ATOMS, "prepare the structure beforehand, in sys_configs (super_cell of init_bulk)"),
    ),
    "reset_timestep": ("frames, deviations and restarts are known by their step", "remove it"),
    **dict.fromkeys(
        ("minimize", "min_style", "neb", "tad", "prd", "hyper", "temper", "temper/grem", "temper/npt", "rerun"),
        ("it is no MD run, and its steps are no frames of one", "relax structures beforehand (init_bulk's relax)"),
    ),
    "partition": ("one run a task", "remove it"),
}
_COUNT_CHANGES = frozenset({"append/atoms", "charge/regulation", "deposit", "evaporate", "gcmc", "pour", "sgcmc"})  # styles of fix
_DUMP_FREQ, _RESTART = OWN_VARIABLES
# of these styles no definition replaces an index variable of the same name, nor is one passed over
_CLASHES = frozenset({"atom", "equal", "format", "getenv", "internal", "python", "string", "timer", "vector"})


@dataclass(frozen=True)
class _Run:
    """A ``run``: its last step, counted from the beginning, and the words besides the number."""

    begins: int
    ends: int
    more: tuple[str, ...]


@dataclass(frozen=True)
class OwnInput:
    """A user's input that can be run.

    Attributes
    ----------
    path
        The file.
    commands
        All of its commands.
    runs
        Place of each ``run`` among them → what it does.
    dump_options
        Words of the user's dump_modify that hold for our dump.
    boundary
        Whether all three directions are periodic (else none is).
    given
        (name, value, …) of the variables that the command sets.
    """

    path: Path
    commands: tuple[Command, ...]
    runs: dict[int, _Run]
    dump_options: tuple[str, ...]
    boundary: bool
    given: tuple[tuple[str, ...], ...] = ()

    @property
    def nsteps(self) -> int:
        """Last step of the last run."""
        return max(run.ends for run in self.runs.values())

    @classmethod
    def read(cls, path: Path, given: Sequence[tuple[str, ...]] = ()) -> OwnInput:
        """Read and check, with (name, value, …) of the variables that the command sets.

        Raises
        ------
        InputError
            With file, line and cure of everything that cannot be run this way.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(Problem(str(path), f"the LAMMPS input cannot be read: {error}")) from error
        commands = tuple(parse_script(text, str(path)))
        problems = [*_refused(commands, path), *_set_twice(commands, path, given)]
        runs, more = _runs(commands, path, given)
        options, worse = dump_options(commands, path)
        boundary, odd = _conditions(commands, path)
        problems += [*more, *worse, *odd]
        if not any(_is_structure(command) for command in commands):
            problems.append(
                Problem(str(path), "no read_data: it says where the structure comes in", "add read_data lmp.config before the run")
            )
        if not runs and not more:
            problems.append(Problem(str(path), "no run: it makes no step", "add run N"))
        if problems:
            raise InputError(problems)
        return cls(path, commands, runs, options, boundary, tuple(given))

    def notes(self, elements: Sequence[str]) -> list[str]:
        """What is left out or replaced and may be missed; ``elements`` are the symbols of the atom types."""
        return notes_on(self.commands, self.path, elements, Variables(self.given))

    def render(self, ours: Blocks, seed: int, trj_freq: int) -> str:
        """in.lammps: the user's commands with our blocks in their places."""
        lines = [f"# written by pwact-like from the user's {self.path.name}", *ours.top, ""]
        values = {_DUMP_FREQ: str(trj_freq), _RESTART: "${pwl_resumed}"}
        lines += [f"variable {name} equal {values[name]}" for name, *_ in self.given if name in values]
        structure_done = output_done = False
        step = 0  # at which the commands stand
        for place, command in enumerate(self.commands):
            if _is_structure(command):
                lines += [] if structure_done else ours.structure
                structure_done = True
            elif place in self.runs:
                lines += [] if output_done else ours.output
                output_done = True
                lines += _run_lines(self.runs[place], place, single=len(self.runs) == 1)
                step = self.runs[place].ends
            elif command.name == "variable" and command.arguments[:1] and command.arguments[0] in values:
                lines.append(f"variable {command.arguments[0]} equal {values[command.arguments[0]]}")
            elif command.name not in OWNED:
                lines += _kept(command, place, seed, step)
        return "\n".join([*lines, *ours.end]) + "\n"


def _is_structure(command: Command) -> bool:
    """Read_data or read_restart, or an ``if`` that chooses between them."""
    if command.name in ("read_data", "read_restart"):
        return True
    inner = [found for _, found in command.branches()]
    return bool(inner) and all(found.name in ("read_data", "read_restart") for found in inner)


def _kept(command: Command, place: int, seed: int, step: int) -> list[str]:
    """A command of the user's; if it acts once on the atoms, skipped where it was done already, or its step is not reached."""
    for inside, inner in command.branches():
        command = command.with_word(inside, _quoted(_none_lost(_seeded(inner, seed, place)).text))
    command = _none_lost(_seeded(command, seed, place))
    once = command.name in ONCE or any(inner.name in ONCE for _, inner in command.branches())
    if not once:
        return [command.text]
    label = f"pwl_after_{place}"
    # a run that was halted for the job's time ends before its last step, and the commands behind it are still read
    skip = f"$(step) != {step} || ${{pwl_done}} == {step}" if step else "${pwl_resumed} > 0"
    return [f'if "{skip}" then "jump SELF {label}"', command.text, f"label {label}"]


def _seeded(command: Command, seed: int, place: int) -> Command:
    """Velocity create with a seed of ours (another one for each command)."""
    if command.name == "velocity" and len(command.words) > 4 and command.words[2].text == "create":
        return command.with_word(4, str((seed + place - 1) % (2**31 - 2) + 1))
    return command


def _none_lost(command: Command) -> Command:
    """Thermo_modify with ``lost error``: without an atom the frames would be of another composition, and be labelled."""
    for place, word in enumerate(command.words[:-1]):
        if command.name == "thermo_modify" and word.text == "lost":
            command = command.with_word(place + 1, "error")
    return command


def _quoted(text: str) -> str:
    return f'"{text}"' if '"' not in text else f"'{text}'" if "'" not in text else f'"""{text}"""'


def _run_lines(run: _Run, place: int, *, single: bool) -> list[str]:
    text = " ".join(["run", str(run.ends), "upto", *run.more])
    if single:
        return [text]
    label = f"pwl_after_{place}"
    # of several runs some may be behind a run that goes on
    return [f'if "$(step) > {run.ends}" then "jump SELF {label}"', text, f"label {label}"]


def _refused(commands: tuple[Command, ...], path: Path) -> Iterator[Problem]:
    for command in commands:
        inside = [inner for _, inner in command.branches()]
        for one in (command, *inside):
            where = f"{path}: line {one.line}"
            if one.name in _REFUSED:
                what, cure = _REFUSED[one.name]
                yield Problem(where, f"{one.name}: {what}", cure)
            elif "$" in one.name:
                yield Problem(where, f"{one.name}: which command this is cannot be told", "write the command itself")
            elif one.name == "run" and one is not command:
                yield Problem(where, f"a run inside an if: {_LOOP}", "write the run by itself")
            elif one.name == "if":
                if one is not command:
                    yield Problem(where, "an if inside an if", "write them one after the other")
            elif one is not command and one.name in OWNED and not _is_structure(command):
                yield Problem(where, f"{one.name} inside an if: it is replaced, and so cannot depend on a condition", "write it by itself")
            elif one.name.startswith(("thermo_style", "fix")) and any(word.text in ("pwl_stop", "pwl_model") for word in one.words[1:2]):
                yield Problem(where, "names that begin with pwl_ are ours", "rename it")
            elif one.name == "fix" and len(one.words) > 3 and one.words[3].text in _COUNT_CHANGES:
                yield Problem(where, f"fix {one.words[3].text}: {_ATOMS}", "leave it out, and give such structures in sys_configs")


def _set_twice(commands: tuple[Command, ...], path: Path, given: Sequence[tuple[str, ...]]) -> Iterator[Problem]:
    """Variables of the command that the input defines once more, in a way that ends LAMMPS with an error."""
    names = {name for name, *_ in given} - set(OWN_VARIABLES)
    for command in commands:
        words = command.arguments
        if command.name == "variable" and len(words) > 1 and words[0] in names:
            if words[1] == "delete":
                names.remove(words[0])
            elif words[1] in _CLASHES:
                what = f"{command.text!r}: -var {words[0]} of explore.command sets it too, and LAMMPS ends with an error"
                yield Problem(f"{path}: line {command.line}", what, f"write variable {words[0]} index VALUE, which -var replaces")


def _runs(commands: tuple[Command, ...], path: Path, given: Sequence[tuple[str, ...]]) -> tuple[dict[int, _Run], list[Problem]]:
    """Every run, counted from step 0."""
    variables = Variables(given)
    runs: dict[int, _Run] = {}
    problems = []
    step = 0
    for place, command in enumerate(commands):
        if command.name == "variable":
            variables.define(command.arguments)
        if command.name != "run":
            continue
        where = f"{path}: line {command.line}"
        words = list(command.arguments)
        number = variables.number(words[0]) if words else None
        if number is None or number != int(number) or number < 0:
            cure = "write a number, or a variable that is equal to numbers (of the input, or by -var in explore.command)"
            problems.append(Problem(where, f"{command.text!r}: how many steps these are cannot be told", cure))
            continue
        rest = words[1:]
        if "every" in rest:
            problems.append(
                Problem(
                    where, "run … every: commands between steps cannot be continued after an interruption", "use fix print, or leave it out"
                )
            )
            continue
        ends = int(number) if "upto" in rest else step + int(number)
        if ends < step:
            problems.append(Problem(where, f"{command.text!r} ends at step {ends}, and the run before it at {step}", "give a later step"))
            continue
        more = [word for word in rest if word != "upto"]
        # what a fix ramps along the run goes by the run's own first and last step, also in one that goes on
        more += [] if "start" in more else ["start", str(step)]
        more += [] if "stop" in more else ["stop", str(ends)]
        runs[place] = _Run(step, ends, tuple(more))
        step = ends
    return runs, problems


def _conditions(commands: tuple[Command, ...], path: Path) -> tuple[bool, list[Problem]]:
    """Whether the run is periodic; units and atom_style are ours only where the user's are the same."""
    boundary = True
    problems = []
    for command in commands:
        where, words = f"{path}: line {command.line}", command.arguments
        if command.name == "units" and words != ("metal",):
            problems.append(
                Problem(where, f"{command.text!r}: the run is in metal units", "write all numbers in metal units (ps, bar, eV)")
            )
        elif command.name == "atom_style" and words[:1] not in (("atomic",), ()):
            problems.append(Problem(where, f"{command.text!r}: the structure comes as atom_style atomic", "leave it out"))
        elif command.name == "boundary":
            kinds = {word == "p" for word in words}
            if len(words) != 3 or len(kinds) != 1 or not set("".join(words)) <= set("pfsm"):
                what = f"{command.text!r}: all three directions are periodic, or none is"
                problems.append(Problem(where, what, "write p p p (with vacuum in the cell), or f f f"))
            boundary = kinds == {True}
    return boundary, problems
