"""What a section's shell lines and command come to: modules that load, programs that are there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like import __version__
from pwact_like.jobs.slurm_commands import clean_environment
from pwact_like.report.doctor.findings import Finding, bad, ok, one_line, warn
from pwact_like.report.doctor.shell import Place, Shell, look_up
from pwact_like.report.doctor.words import Programs, can_be_looked_up, is_relative_path, programs_of, unquoted

if TYPE_CHECKING:
    from pwact_like.config.resource import ResourceSection

# programs of engines, for the survey of what this machine has without any module
ENGINE_PROGRAMS = ("MatPL", "dp", "mace_run_train", "lmp", "cp2k.psmp", "pw.x", "vasp_std", "PWmat", "dftb+", "mpirun", "srun")
_OWN = frozenset({"pwact-like", "pwact_like", "pwact"})
# Tcl's modules end with 0 whatever happened, and say so on stderr
MODULE_FAULT = re.compile(
    r"\berror\b|unable to locate|not found|unknown module|are unknown|cannot be loaded|cannot be read|no such|conflict|failed",
    re.IGNORECASE,
)


def job_environment(slurm: bool) -> dict[str, str]:
    """What a job inherits of this process."""
    return clean_environment(os.environ) if slurm else dict(os.environ)


def own_command(section: ResourceSection) -> str:
    """The shell text by which the section's own commands call pwact-like, "" when they call another program."""
    if not section.command.strip():
        return f"{shlex.quote(sys.executable)} -m pwact_like"
    own = [word for word in programs_of(section.command).words if Path(unquoted(word)).name in _OWN]
    return own[0] if own else ""


def examine_section(topic: str, section: ResourceSection, slurm: bool, nodes_tell: bool = False) -> Iterator[Finding]:
    """Execute a section's lines in a child and look up its programs there (``nodes_tell``: the nodes are asked, too)."""
    programs = programs_of(section.command) if section.command.strip() else Programs((shlex.quote(sys.executable),))
    own = own_command(section)
    version = [f"{own} --version"] if own and can_be_looked_up(own.removesuffix(" -m pwact_like")) else []
    shell = look_up(section, programs.words, job_environment(slurm), version)
    yield from lines_findings(topic, shell)
    if shell.reached:
        yield from program_findings(topic, programs, shell.places, slurm and not nodes_tell)
        for command in version:
            yield version_finding(topic, command, shell.said.get(command), shell.failed.get(command, ""))


def lines_findings(topic: str, shell: Shell) -> Iterator[Finding]:
    """What source_list, module_list and env_list did."""
    if not shell.lines:
        return
    said = one_line(shell.stderr)
    last = next((line for line, status in shell.lines if status is None), shell.lines[-1][0])
    if shell.timed_out:
        text = f"source_list, module_list and env_list did not end in time; it hangs at, or after, {last!r}" + f": {said}" * bool(said)
        yield bad(topic, text, "give these lines by hand in a new bash with </dev/null: they must ask for nothing")
        return
    if not shell.reached:
        text = f"the shell ends at {last!r}, and a job would end there" + f": {said}" * bool(said)
        yield bad(topic, text, "no line of source_list, module_list or env_list may exit; `set -e` and a syntax error end it, too")
        return
    failed = [(line, status) for line, status in shell.lines if status]
    for line, status in failed:
        text = f"{line!r} ended with status {status}" + f": {said}" * bool(said)
        loads = line.lstrip().startswith(("module ", "ml ", "source ", ". "))
        yield bad(topic, text, _line_cure(line)) if loads else warn(topic, text, "correct the line, if its failing is not meant")
    loads_modules = any(line.lstrip().startswith(("module ", "ml ")) for line, _ in shell.lines)
    if not failed and loads_modules and MODULE_FAULT.search(shell.stderr):
        yield bad(topic, f"the modules were not all loaded: {said}", _line_cure("module "))
    elif not failed:
        yield ok(
            topic, f"the {len(shell.lines)} line(s) of source_list, module_list and env_list work here" + f"; they say: {said}" * bool(said)
        )


def _line_cure(line: str) -> str:
    if line.lstrip().startswith(("module ", "ml ")):
        return "`module avail` names the modules; where `module` itself is not found, source its init file in source_list"
    return "correct the path in source_list"


def program_findings(topic: str, programs: Programs, places: Iterable[Place], may_differ: bool) -> Iterator[Finding]:
    """Which of the command's programs are there; on a cluster the compute nodes may have others."""
    nodes = " (the compute nodes may differ: --submit tells)" if may_differ else ""
    found = [place for place in places if place.found and place.kind == "file"]
    if found:
        yield ok(topic, "found " + ", ".join(_shown(place) for place in found) + nodes)
    for place in places:
        if is_relative_path(place.word):
            text = f"{place.word} is a relative path, which starts at each task's own folder"
            yield warn(topic, text, "give the full path, or the name alone with a line in env_list that extends PATH")
        elif not place.found:
            cure = "load the module that brings it, or extend PATH in env_list, or give its full path"
            yield bad(topic, f"{place.word} is not found, with this section's lines executed{nodes}", cure)
    for text in programs.untold:
        yield warn(
            topic, f"which program {one_line(text, 120)!r} starts cannot be told from its text", "look yourself; --submit does not tell"
        )


def version_finding(topic: str, command: str, said: str | None, failed: str) -> Finding:
    """Whether pwact-like runs under the section's lines, and is this one."""
    if said is None:
        cure = "a module changes PYTHONPATH, LD_LIBRARY_PATH or the like: unset it in env_list, or give the full path of pwact-like"
        return bad(topic, f"{command} fails with this section's lines: {one_line(failed) or 'it said nothing'}", cure)
    found = said.split()[-1] if said.split() else ""
    if found != __version__:
        return warn(
            topic,
            f"{command} is {one_line(said, 80)!r}, and this is {__version__}: the jobs would run another version",
            f"install this version there, or leave the command empty: then {sys.executable} is used",
        )
    return ok(topic, f"pwact-like {found} runs under this section's lines")


def survey(environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Which engines' programs are on PATH here, before any module is loaded; tells, and judges nothing."""
    path = (os.environ if environment is None else environment).get("PATH", "")
    there = {name: where for name in ENGINE_PROGRAMS if (where := shutil.which(name, path=path))}
    missing = [name for name in ENGINE_PROGRAMS if name not in there]
    text = "on PATH: " + (", ".join(f"{name} ({where})" for name, where in there.items()) or "none")
    yield ok("programs", text + (f"; not on PATH (modules may bring them): {', '.join(missing)}" if missing else ""))


def _shown(place: Place) -> str:
    word = unquoted(place.word)
    return place.path if word == place.path or "/" in word else f"{word} ({place.path})"
