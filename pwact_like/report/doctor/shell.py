"""A section's own shell lines, executed for real, and what a program's name means after them.

The child is the shell that a job would be: bash, not a login shell, with this environment (sbatch hands it on), the lines of
source_list, module_list and env_list, and pwact-like's own folder at the end of PATH.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.jobs.script import own_programs, shell_lines

if TYPE_CHECKING:
    from pwact_like.config.resource import ResourceSection

LINES_TIMEOUT_S = 60.0
_TAIL_BYTES = 4096
_END_S = 2.0


@dataclass(frozen=True)
class Place:
    """What a program's name means in a shell.

    Attributes
    ----------
    word
        The name as the command has it.
    kind
        bash's ``type -t``: ``file``, ``builtin``, ``function``, ``alias``, ``keyword``; "" when it is not found.
    path
        Full path of a file, else the name.
    """

    word: str
    kind: str
    path: str

    @property
    def found(self) -> bool:
        """Whether the shell would start something."""
        return bool(self.kind)


@dataclass(frozen=True)
class Shell:
    """What a section's lines did, and where programs are after them.

    Attributes
    ----------
    lines
        The section's lines, with the exit status of each (None: not told, or not reached).
    reached
        Whether the shell was still there after the last line.
    timed_out
        Whether it was ended because it took too long.
    stderr
        The end of what the lines said on stderr.
    places
        In the order asked for.
    said
        What each extra command printed, by its text; None when it failed, with its words in ``failed``.
    """

    lines: tuple[tuple[str, int | None], ...]
    reached: bool
    timed_out: bool
    stderr: str
    places: tuple[Place, ...]
    said: Mapping[str, str]
    failed: Mapping[str, str]


def look_up(
    section: ResourceSection,
    words: Sequence[str],
    environment: Mapping[str, str],
    commands: Sequence[str] = (),
    timeout_s: float = LINES_TIMEOUT_S,
) -> Shell:
    """Run a section's lines in a child and look up programs there.

    Parameters
    ----------
    words
        Programs, as `words.programs_of` gives them.
    environment
        What the job would inherit.
    commands
        Shell lines to run afterwards whose output is wanted (``pwact-like --version``).
    """
    lines = shell_lines(section)
    with tempfile.TemporaryDirectory(prefix="pwact_like_doctor_") as name:
        folder = Path(name)
        timed_out = _run(_script(lines, words, commands, folder), folder, environment, timeout_s)
        stderr = _tail(folder / "stderr").replace(f"{folder}/script: ", "")
        record = [line.split("\t") for line in _text(folder / "record").splitlines()]
        statuses = {int(fields[1]): int(fields[2]) for fields in record if fields[0] == "line" and len(fields) == 3}
        found = {int(fields[1]): fields for fields in record if fields[0] == "program" and len(fields) == 4}
        ended = {int(fields[1]): int(fields[2]) for fields in record if fields[0] == "command" and len(fields) == 3}
        texts = {number: _tail(folder / f"command.{number}").strip() for number in range(len(commands))}
    places = [Place(word, *(found[number][2:] if number in found else ("", ""))) for number, word in enumerate(words)]
    return Shell(
        lines=tuple((line, statuses.get(number)) for number, line in enumerate(lines)),
        reached=["reached"] in record,
        timed_out=timed_out,
        stderr=stderr,
        places=tuple(places),
        said={text: texts[number] for number, text in enumerate(commands) if ended.get(number) == 0},
        failed={text: texts[number] for number, text in enumerate(commands) if ended.get(number) != 0},
    )


def look_up_lines(words: Sequence[str], record: str) -> list[str]:
    """Shell lines that write ``program⇥number⇥kind⇥path`` for each word; ``record`` is shell text for the file."""
    lines = []
    for number, word in enumerate(words):
        # each in a subshell of its own: the word is the user's text, and an unset variable in it must end nothing else
        kind = f"$(builtin type -t -- {word} 2>/dev/null | head -n 1)"
        path = f"$(builtin command -v -- {word} 2>/dev/null | head -n 1)"
        lines.append(f'builtin printf \'program\\t%s\\t%s\\t%s\\n\' {number} "{kind}" "{path}" >>{record}')
    return lines


def _script(lines: Sequence[str], words: Sequence[str], commands: Sequence[str], folder: Path) -> str:
    record = shlex.quote(str(folder / "record"))
    text = []
    # what spans several entries of a list (if … fi) is one piece; then only its end has a status
    alone = all(_parses(line) for line in lines)
    for number, line in enumerate(lines):
        text.append(line)
        if alone:
            text.append(f"builtin printf 'line\\t%s\\t%s\\n' {number} \"$?\" >>{record}")
    text += ["set +eu +o noclobber", 'export PATH="$PATH"' + "".join(f":{shlex.quote(path)}" for path in own_programs())]
    text.append(f"builtin printf 'reached\\n' >>{record}")
    # what the lines have left on stderr is theirs, not the look-ups'
    text += [f"exec 2>{shlex.quote(str(folder / 'later'))}", *look_up_lines(words, record)]
    for number, command in enumerate(commands):
        text.append(f"( {command} ) >{shlex.quote(str(folder / f'command.{number}'))} 2>&1")
        text.append(f"builtin printf 'command\\t%s\\t%s\\n' {number} \"$?\" >>{record}")
    return "\n".join(text) + "\n"


def _parses(line: str) -> bool:
    result = subprocess.run(
        ["bash", "-n"], input=f"{line}\n".encode("utf-8", "surrogateescape"), capture_output=True, check=False, timeout=30
    )
    return result.returncode == 0


def _run(script: str, folder: Path, environment: Mapping[str, str], timeout_s: float) -> bool:
    """Run the script, its output in ``folder``; True when it had to be ended."""
    path = folder / "script"
    path.write_bytes(script.encode("utf-8", "surrogateescape"))
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            ["bash", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=folder,
            env=dict(environment),
            start_new_session=True,  # so that all that it started can be ended together
        )
        try:
            process.wait(timeout_s)
            return False
        except subprocess.TimeoutExpired:
            return True
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # what the lines may have left in the background, too
            except (ProcessLookupError, PermissionError):
                pass
            process.wait(_END_S)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
