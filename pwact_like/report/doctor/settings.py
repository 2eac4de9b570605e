"""The settings that the doctor was given, as far as they can be loaded: what is wrong with them is told, and the rest goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.config.load import Loaded, kind_of, load_init_bulk, load_run
from pwact_like.config.pieces import find_work_dir
from pwact_like.config.read_resource import SECTIONS, read_resource
from pwact_like.config.reader import Reader
from pwact_like.config.resource import Resource
from pwact_like.config.run import RunParam
from pwact_like.config.source import read_json_file
from pwact_like.engines.registry import availability
from pwact_like.errors import InputError, Problem
from pwact_like.report.doctor.findings import Finding, bad, ok, warn

if TYPE_CHECKING:
    from pwact_like.config.init_bulk import InitBulkParam
    from pwact_like.config.resource import ResourceSection

TOPIC = "settings"


@dataclass(frozen=True)
class Given:
    """What was given, and what could be made of it.

    Attributes
    ----------
    resource
        None where no resource.json was given, or it could not be read.
    work_dir
        Where the campaign would live.
    file
        Name of resource.json for headings.
    """

    resource: Resource | None
    work_dir: Path
    file: str = "resource.json"
    findings: tuple[Finding, ...] = ()
    sections: Mapping[str, ResourceSection] = field(default_factory=dict)


def read_given(resource: Path | None, param: Path | None, work_dir: Path | None) -> Given:
    """Load the files by the loader of ``check`` and ``run``; never raises for what is in them."""
    resource, param = _in_order(resource, param)
    findings: list[Finding] = []
    found: Resource | None = None
    folder = Path.cwd() if work_dir is None else Path.cwd() / work_dir.expanduser()
    if param is not None:
        try:
            loaded = _load_param(param, resource, work_dir)
            found, folder = (loaded.resource if resource else None), loaded.param.work_dir
            findings += [ok(TOPIC, f"{param}{f' and {resource}' if resource else ''}: they load")]
            findings += [warn(TOPIC, note) for note in loaded.notes]
            findings += _engines(loaded)
        except InputError as error:
            findings += [_as_finding(problem) for problem in error.problems]
            found, folder = _quietly(resource), _folder_of(param, work_dir) or folder
    elif resource is not None:
        try:
            found, notes = load_resource(resource)
            findings += [ok(TOPIC, f"{resource}: it loads"), *(warn(TOPIC, note) for note in notes)]
        except InputError as error:
            findings += [_as_finding(problem) for problem in error.problems]
            if _is_param(resource):
                findings.append(
                    warn(TOPIC, f"{resource} looks like a param file", "give resource.json first: doctor resource.json param.json")
                )
    sections = {name: section for name in SECTIONS if found is not None and (section := getattr(found, name)) is not None}
    return Given(found, folder, resource.name if resource else "resource.json", tuple(findings), sections)


def load_resource(path: Path) -> tuple[Resource, tuple[str, ...]]:
    """resource.json alone, as ``check`` reads it: (settings, notes).

    Raises
    ------
    InputError
        With every problem.
    """
    reader = Reader(str(path), Path.cwd())
    table = reader.table(read_json_file(path), "")
    found = read_resource(reader, table) if table is not None else None
    if reader.problems or found is None:
        raise InputError(reader.problems)
    return found, tuple(reader.notes)


def shown(name: str) -> str:
    """A section's name as PWact writes it."""
    return "DFT" if name == "dft" else name


def _in_order(resource: Path | None, param: Path | None) -> tuple[Path | None, Path | None]:
    """``check`` takes the param file first: files in that order are taken for what they are."""
    if resource is not None and param is not None and _is_param(resource) and not _is_param(param):
        return param, resource
    return resource, param


def _is_param(path: Path) -> bool:
    try:
        kind_of(path)
    except InputError:
        return False
    return True


def _load_param(param: Path, resource: Path | None, work_dir: Path | None) -> Loaded[RunParam] | Loaded[InitBulkParam]:
    if kind_of(param) == "run":
        return load_run(param, resource, work_dir=work_dir)
    return load_init_bulk(param, resource, work_dir=work_dir)


def _engines(loaded: Loaded[RunParam] | Loaded[InitBulkParam]) -> list[Finding]:
    """Whether this Python has what the engines of these settings import."""
    param = loaded.param
    if isinstance(param, RunParam):
        wanted = [("trainer", param.train.engine), ("explorer", param.explore.engine), ("labeler", param.dft.labelling.engine)]
    else:
        wanted = [("labeler", param.labelling.engine)]
    missing = [text for role, name in wanted if (text := availability(role, name))]
    if missing:
        return [bad("engines", text) for text in missing]
    return [ok("engines", "these settings want " + ", ".join(f"{role} {name}" for role, name in wanted))]


def _quietly(resource: Path | None) -> Resource | None:
    """resource.json, if it can be read at all; its problems are told already."""
    if resource is None:
        return None
    try:
        return load_resource(resource)[0]
    except InputError:
        return None


def _folder_of(param: Path, work_dir: Path | None) -> Path | None:
    reader = Reader(str(param), Path.cwd())
    try:
        table = reader.table(read_json_file(param), "")
    except InputError:
        return None
    return find_work_dir(table, work_dir)[0] if table is not None else None


def _as_finding(problem: Problem) -> Finding:
    return bad(TOPIC, f"{problem.where}: {problem.what}", problem.cure)
