"""Which programs a shell command starts, as far as its text tells; nothing is run here.

A command is cut into simple commands (at ``;``, ``&&``, ``|``, …), assignments and redirections are left out, and
launchers (mpirun, srun, env, …) are followed to the program that they start. What cannot be told is named, not guessed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath


@dataclass(frozen=True)
class Programs:
    """What a command starts.

    Attributes
    ----------
    words
        Programs in order, each once, as written (quotes and ``$NAME`` in them are for a shell to resolve).
    untold
        Pieces of the command whose program cannot be told from the text.
    """

    words: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


@dataclass(frozen=True)
class Launcher:
    """A program that starts another one, and its options.

    Attributes
    ----------
    values
        Options with so many words after them (``--option=value`` needs no entry).
    flags
        Options without.
    skip
        Words between the options and the program (timeout's duration).
    glued
        Whether a short option may hold its value (``-n4``).
    """

    values: Mapping[str, int] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    skip: int = 0
    glued: bool = False


def _ones(text: str) -> dict[str, int]:
    return dict.fromkeys(text.split(), 1)


_MPIRUN = Launcher(
    values=_ones(
        "-np --np -n --n -c -N -H --host -host -hosts --hostfile -hostfile -machinefile --machinefile -f --map-by -map-by "
        "--bind-to -bind-to "
        "--rank-by -rank-by -x -ppn -perhost -wdir --wdir -wd --npernode -npernode --npersocket -npersocket -bootstrap -launcher -iface "
        "-genvlist -envlist --prefix -prefix --report-events --cpus-per-proc -cpus-per-proc --cpus-per-rank -rr -rmk -pmi-port -configfile "
        "--timeout --output-filename -outfile-pattern -errfile-pattern --cpu-set --cpu-list --pernode"
    )
    | dict.fromkeys(("-genv", "-env", "--mca", "-mca", "--gmca", "-gmca", "--prtemca", "--pmixmca"), 2),
    flags=frozenset(
        "--oversubscribe -oversubscribe --nooversubscribe --allow-run-as-root --use-hwthread-cpus --bind-to-core -bind-to-core "
        "--report-bindings -report-bindings --display-map --tag-output -tag-output -q --quiet -v --verbose -genvall -envall -genvnone "
        "-envnone -print-all-exitcodes -prepend-rank -l -s --bysocket --bycore --bynode --nolocal --display-allocation -pernode "
        "--forward-signals --debug-daemons --leave-session-attached".split()
    ),
    glued=True,
)
_SRUN = Launcher(
    values=_ones(
        "-n --ntasks -N --nodes -c --cpus-per-task -p --partition -t --time -J --job-name -o --output -e --error -i --input -D --chdir "
        "-w --nodelist -x --exclude -A --account -q --qos -G --gpus --mem --mem-per-cpu --gres --mpi --cpu-bind --ntasks-per-node "
        "--gpus-per-node --gpus-per-task --hint -m --distribution -C --constraint --export -d --dependency --jobid -r --relative "
        "-T --threads --threads-per-core --gpu-bind --cpu-freq --time-min -W --wait -B --het-group --reservation -F --nodefile"
    ),
    flags=frozenset(
        "--exclusive --exact --overlap -u --unbuffered -l --label --pty -K --kill-on-bad-exit -k --no-kill -Q --quiet -v --verbose "
        "-s --oversubscribe -O --overcommit -X --disable-status -E --preserve-env -H --hold --multi-prog --contiguous".split()
    ),
    glued=True,
)
_SHELLS = frozenset({"bash", "sh", "dash", "zsh", "ksh"})
LAUNCHERS: Mapping[str, Launcher] = {
    **dict.fromkeys(
        ("mpirun", "mpiexec", "mpiexec.hydra", "mpirun_rsh", "orterun", "prterun", "mpiexec.openmpi", "mpirun.openmpi"), _MPIRUN
    ),
    **dict.fromkeys(("mpiexec.mpich", "mpirun.mpich"), _MPIRUN),
    "srun": _SRUN,
    "aprun": Launcher(values=_ones("-n -N -d -S -cc -r -e -j"), flags=frozenset({"-b", "-q"}), glued=True),
    "jsrun": Launcher(values=_ones("-n -a -c -g -r -p -b -d -l -E"), glued=True),
    "env": Launcher(values=_ones("-u --unset -C --chdir"), flags=frozenset({"-i", "--ignore-environment", "-"})),
    "nohup": Launcher(),
    "setsid": Launcher(flags=frozenset({"-w", "--wait", "-f", "--fork", "-c", "--ctty"})),
    "nice": Launcher(values=_ones("-n --adjustment"), glued=True),
    "ionice": Launcher(values=_ones("-c -n --class --classdata"), flags=frozenset({"-t"}), glued=True),
    "chrt": Launcher(flags=frozenset({"-b", "-i", "-o", "-f", "-r"}), skip=1),
    "timeout": Launcher(
        values=_ones("-k --kill-after -s --signal"), flags=frozenset({"--preserve-status", "--foreground", "-v"}), skip=1, glued=True
    ),
    "stdbuf": Launcher(values=_ones("-i -o -e"), glued=True),
    "numactl": Launcher(
        values=_ones("-C -N -m -i -p --physcpubind --cpunodebind --membind --interleave"), flags=frozenset({"-l"}), glued=True
    ),
    "taskset": Launcher(flags=frozenset({"-c", "--cpu-list", "-a", "--all-tasks"}), skip=1),
    "time": Launcher(values=_ones("-o -f --format --output"), flags=frozenset({"-p", "-v", "-a"})),
    "exec": Launcher(values=_ones("-a"), flags=frozenset({"-c", "-l"})),
    "command": Launcher(flags=frozenset({"-p"})),
    "builtin": Launcher(),
    "catchsegv": Launcher(),
    "strace": Launcher(values=_ones("-o -e -s"), flags=frozenset({"-f", "-ff", "-tt"})),
    "xvfb-run": Launcher(values=_ones("-s -n -e -f"), flags=frozenset({"-a"})),
}
# what they start lies in an image, in another environment, or in their input
_OPAQUE = frozenset(
    {"singularity", "apptainer", "docker", "podman", "shifter", "conda", "mamba", "micromamba", "parallel", "xargs", "ssh", "eval"}
)
# words that shell grammar puts before a command, and words after which no program follows
_BEFORE = frozenset({"if", "then", "else", "elif", "do", "while", "until", "!", "{", "coproc"})
_NOTHING = frozenset({"fi", "done", "esac", "}", "for", "select", "[["})
_GRAMMAR = frozenset({"case", "function"})

_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r]|\\\n)+)
    |(?P<comment>\#[^\n]*)
    |(?P<redirect>\d*(?:<<<|<<-|<<|>>|<&|>&|&>>|&>|>\||<>|<(?!\()|>(?!\()))
    |(?P<end>\|\||&&|;;|\|&|[;|&()\n])
    |(?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|\$\((?:[^()]|\([^()]*\))*\)|\$\{[^}]*\}|`[^`]*`|[<>]\([^()]*\)|[^\s;|&()<>'"\\])+)
    """,
    re.VERBOSE | re.DOTALL,
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(\[[^]]*\])?\+?=")
_EXPANSION = re.compile(r"\$(\w+|\{\w+\})")


def programs_of(command: str) -> Programs:
    """Programs that a command starts.

    Examples
    --------
    >>> programs_of("OMP_NUM_THREADS=1 mpirun -np 4 cp2k.psmp -i cp2k.inp | tee log").words
    ('mpirun', 'cp2k.psmp', 'tee')
    """
    words: dict[str, None] = {}
    untold: dict[str, None] = {}
    for found in _found_in(command):
        words |= dict.fromkeys(found.words)
        untold |= dict.fromkeys(found.untold)
    return Programs(tuple(words), tuple(untold))


def can_be_looked_up(word: str) -> bool:
    """Whether a shell can resolve the word without running anything: names, paths, ``$NAME`` and ``${NAME}`` only."""
    literal = re.sub(r"'[^']*'", "", _EXPANSION.sub("", word))
    return not re.search(r"[$`]|[<>]\(", literal)


def is_relative_path(word: str) -> bool:
    """Whether a program is named by a path that starts at the folder it runs in: each attempt's own."""
    text = unquoted(word)
    return "/" in text and not text.startswith(("/", "~", "$"))


def unquoted(word: str) -> str:
    """The word without its quotes."""
    try:
        return "".join(shlex.split(word)) if word else ""
    except ValueError:
        return word


def _found_in(command: str) -> Iterator[Programs]:
    for words in _simple_commands(command):
        if words is None:
            yield Programs(untold=(command.strip(),))
        else:
            yield _follow(words)


def _simple_commands(command: str) -> Iterator[list[str] | None]:
    """Words of each simple command; None where the text cannot be cut into words."""
    words: list[str] = []
    position, skip_next, after_space = 0, False, True
    while position < len(command):
        match = _TOKEN.match(command, position)
        kind = match.lastgroup if match else None
        if match is None or (kind == "comment" and not after_space):
            yield None
            return
        position = match.end()
        after_space = kind in ("space", "end")
        if kind == "redirect":
            skip_next = True
        elif kind == "word":
            if not skip_next:
                words.append(match[0])
            skip_next = False
        elif kind == "end":
            yield words
            words = []
    yield words


def _follow(words: Sequence[str]) -> Programs:
    """The program of a simple command, and those that it starts in turn."""
    names: list[str] = []
    rest = list(words)
    while rest:
        if _ASSIGNMENT.match(rest[0]) or (not names and unquoted(rest[0]) == rest[0] and rest[0] in _BEFORE):
            rest = rest[1:]
            continue
        word = rest[0]
        if word in _NOTHING:
            break
        if word in _GRAMMAR or not can_be_looked_up(word):
            return Programs(tuple(names), (" ".join(words),))
        names.append(word)
        name = PurePath(unquoted(word)).name
        if name in _SHELLS and len(rest) > 2 and re.fullmatch(r"-\w*c", rest[1]):
            inner = programs_of(unquoted(rest[2]))
            return Programs((*names, *inner.words), inner.untold)
        if name in _OPAQUE and len(rest) > 1:
            return Programs(tuple(names), (" ".join(words),))
        launcher = LAUNCHERS.get(name)
        if launcher is None:
            break
        after = _after_options(rest[1:], launcher)
        if after is None:
            return Programs(tuple(names), (" ".join(words),))
        rest = after
    return Programs(tuple(names))


def _after_options(words: Sequence[str], launcher: Launcher) -> list[str] | None:
    """The words from the started program on; None when an option is not known, so that nobody knows where its value ends."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest[0]
        if option == "--":
            rest = rest[1:]
            break
        if option in launcher.values:
            rest = rest[1 + launcher.values[option] :]
        elif (
            option in launcher.flags
            or (option.startswith("--") and "=" in option)
            or (
                launcher.glued
                and not option.startswith("--")
                and any(option.startswith(short) for short in launcher.values if len(short) == 2)
            )
            or re.fullmatch(r"-\d+", option)
        ):
            rest = rest[1:]
        else:
            return None
    while rest and _ASSIGNMENT.match(rest[0]):  # env A=1 program
        rest = rest[1:]
    return rest[launcher.skip :]
