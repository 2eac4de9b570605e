"""Render one job script: the same for bash, for sbatch, and by hand.

What comes from resource.json and the engines' commands is shell by design and goes in verbatim, in blocks that are
exempt from shellcheck; all else (folders, names, values) is data and is quoted.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pwact_like
from pwact_like.errors import InputError, Problem
from pwact_like.jobs.types import NO_ASKS, Asks, Task

if TYPE_CHECKING:
    from jinja2 import Template

    from pwact_like.config.resource import ResourceSection

TEMPLATES = Path(pwact_like.__file__).parent / "templates"
_NEEDS = re.compile(r"^# pwact-like needs: cores=(\d+) gpus=(\d+)$", re.MULTILINE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_PROGRAM = re.compile(r"(?<![\w-])pwact[-_]like(?![\w-])")


@dataclass(frozen=True)
class Work:
    """One attempt in a job: its task, its number, and what earlier attempts asked for: variables, and more of the scheduler."""

    task: Task
    number: int
    env: Mapping[str, str] = field(default_factory=dict)
    asks: Asks = NO_ASKS


@dataclass(frozen=True)
class Needs:
    """What a job asks of the machine; the local scheduler reads it from the script."""

    cores: int
    gpus: int


def attempt_folder(task: Task, number: int) -> Path:
    """Where attempt ``number`` of a task works."""
    return task.folder / ".attempt" / str(number)


def render_job(name: str, folder: Path, work: Sequence[Work], section: ResourceSection, header: Sequence[str] = ()) -> str:
    """Text of the script of one job.

    Parameters
    ----------
    name
        The job's name, unique in the world.
    folder
        The job's folder: the script claims it and leaves ``exit`` there.
    work
        The attempts in it; parallel_num of them run at a time, each slot taking the next as soon as it is free.
    section
        The section of resource.json that says how this machine runs them.
    header
        Lines right after the first one (``#SBATCH …``).

    Notes
    -----
    OMP_NUM_THREADS: the user's value (environment or env_list) if there is one; else cpu_per_node // parallel_num for
    commands of pwact-like itself, and 1 for everything else (MPI programs).
    """
    cores = max(1, section.number_node * section.cpu_per_node)
    slots = max(1, section.parallel_num)
    tasks = [_task_fields(item) for item in work]
    return _template().render(
        header=list(header),
        name=name,
        version=pwact_like.__version__,
        cores=cores,
        gpus=section.gpu_per_node,
        gpu_list=",".join(str(number) for number in range(section.gpu_per_node)),
        cpu_per_node=max(1, section.cpu_per_node),
        folder=str(folder),
        shell_lines=shell_lines(section),
        path=own_programs(),
        slots=slots,
        workers=min(slots, len(tasks)),
        tasks=tasks,
        any_env=any(task["env"] for task in tasks),
        any_inputs=any(task["inputs"] for task in tasks),
        any_digests=any(task["digest"] for task in tasks),
        any_links=any(task["links"] for task in tasks),
        any_carry=any(task["carry"] and task["attempt"] > 1 for task in tasks),
        any_threads=any(task["threads"] for task in tasks),
    )


def shell_lines(section: ResourceSection) -> list[str]:
    """The user's own lines, in PWact's order: source, module, env."""
    lines = [text if text.lstrip().startswith(("source ", ". ")) else f"source {text}" for text in section.source_list]
    lines += [text if text.lstrip().startswith("module ") else f"module load {text}" for text in section.module_list]
    return lines + list(section.env_list)


def read_needs(script: Path) -> Needs:
    """What a rendered script asks of the machine (nothing said: one core)."""
    found = _NEEDS.search(script.read_text(encoding="utf-8", errors="surrogateescape"))
    return Needs(int(found[1]), int(found[2])) if found else Needs(1, 0)


@lru_cache(maxsize=1)
def own_programs() -> tuple[str, ...]:
    """Folders behind the user's PATH in which ``pwact-like`` is found."""
    folder = Path(sys.executable).parent
    source_tree = Path(pwact_like.__file__).resolve().parents[1] / "bin"
    if not (folder / "pwact-like").exists() and (source_tree / "pwact-like").exists():
        return str(folder), str(source_tree)
    return (str(folder),)


def is_variable(name: str) -> bool:
    """Whether a shell variable can have this name."""
    return _VARIABLE.fullmatch(name) is not None


def check_shell(work: Sequence[Work], section: ResourceSection) -> None:
    """Insist that bash can parse the user's lines: one bad quote would spoil the job of every task.

    Raises
    ------
    InputError
        Naming the text and bash's own words.
    """
    distinct = {command: f"command of {item.task.name}" for item in reversed(work) for command in item.task.commands}
    distinct["\n".join(shell_lines(section))] = "source_list, module_list and env_list"
    problems = []
    for text, where in distinct.items():
        complaint = _syntax_error(text)
        if complaint:
            section_name = work[0].task.section if work else ""
            problems.append(
                Problem(f"resource.json: {section_name}", f"{where}: bash cannot parse {text!r}: {complaint}", "correct the line")
            )
    if problems:
        raise InputError(problems)


@lru_cache(maxsize=4096)
def _syntax_error(text: str) -> str:
    if not text.strip():
        return ""
    snippet = "{\n" + text + "\n}\n"
    # in a session of its own: Ctrl-C on the master's terminal is no complaint about the shell
    result = subprocess.run(
        ["bash", "-n"],
        input=snippet.encode("utf-8", "surrogateescape"),
        capture_output=True,
        check=False,
        timeout=30,
        start_new_session=True,
    )
    return "" if result.returncode == 0 else result.stderr.decode("utf-8", "replace").strip().replace("\n", "; ")


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - shell, not HTML: the filter `quoted` does the escaping
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        comment_start_string="<##",  # bash writes ${#array[@]}
        comment_end_string="##>",
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = shlex.quote
    return environment.get_template("job.sh.j2")


def _digest(paths: Sequence[Path]) -> str:
    """Hex SHA-256 of files one after the other, as ``cat … | sha256sum`` has it; "" where one is no file."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError:
            return ""  # a folder; or it is missing, which copying it tells
    return digest.hexdigest() if paths else ""


def _task_fields(item: Work) -> dict[str, Any]:
    task, files = item.task, item.task.files
    for name in item.env:
        if not is_variable(name):
            raise InputError(Problem(task.name, f"{name!r} is not the name of an environment variable"))
    return {
        "title": json.dumps(task.name)[1:-1],  # one line of ASCII, whatever is in the name
        "folder": str(task.folder),
        "attempt": item.number,
        "inputs": files.inputs,
        "digest": _digest([task.folder / name for name in files.inputs]),
        "links": files.links,
        "carry": files.carry,
        "env": sorted(item.env.items()),
        "commands": [command for command in task.commands if command.strip()],
        "threads": any(_OWN_PROGRAM.search(command) for command in task.commands),
    }
