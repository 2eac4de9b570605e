"""The laws of the house (docs/architecture.md): imports go one way, the master stays light, files stay short, only cli prints."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, clean_environment

PACKAGE = ROOT / "pwact_like"
MODULES = sorted(PACKAGE.rglob("*.py"))

# docs/architecture.md, "Rooms": a room imports only from the rooms before it, and from itself
ROOMS = (
    ("errors", "units", "outcome", "seeds", "crashpoints", "time_limit", "fsio"),
    ("config",),
    ("data",),
    ("uncertainty",),
    ("potentials",),
    ("jobs",),
    ("engines",),
    ("stages",),
    ("workflows",),
    ("report",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
STRANGERS = {("jobs", "engines"), ("engines", "jobs")}
MASTER_ROOMS = ("jobs", "engines", "stages", "workflows", "cli")
NEVER_IN_MASTER = ("torch", "matplotlib")
NEVER_IN_HELP = ("torch", "matplotlib", "pandas", "pymatgen", "pwdata", "ase", "scipy", "vesin", "tblite")
MAX_LINES = 400


def module_name(path: Path) -> str:
    """``pwact_like/jobs/types.py`` → ``pwact_like.jobs.types``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str | None:
    """Room of a module of the package; None for the package itself and its launcher ``__main__``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else None


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below this one, without what stands under ``if TYPE_CHECKING:`` (that is never run)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for other in child.orelse:
                yield other
                yield from runtime_nodes(other)
        else:
            yield child
            yield from runtime_nodes(child)


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of each module that a file imports when it runs, at any depth."""
    here = module_name(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            # ``from pwact_like import jobs`` names the room only in the alias
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if base == "pwact_like" else base


def is_constant_of_package(name: str) -> bool:
    """``from pwact_like import __version__`` imports no room."""
    return name.split(".")[1:2] == ["__version__"] or name == "pwact_like"


def test_every_module_has_a_room_of_the_table():
    for path in MODULES:
        room = room_of(module_name(path))
        assert room is None or room in FLOOR, f"{path}: {room} is not a room of docs/architecture.md"


def test_the_table_of_the_document_is_the_table_of_this_test():
    rows = re.findall(r"^\| \d \| `([a-z_ ]+)` \|", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE)
    # "report cli" share a row in the document; report comes first
    assert [room for row in rows for room in row.split()] == [room for rooms in ROOMS for room in rooms]


def test_rooms_import_only_from_rooms_above_them():
    faults = []
    for path in MODULES:
        own = room_of(module_name(path))
        if own is None:
            continue
        for line, name in imported_modules(path):
            if name.split(".")[0] != "pwact_like" or is_constant_of_package(name):
                continue
            other = room_of(name)
            if other is None or other == own:
                continue
            if other not in FLOOR or FLOOR[other] > FLOOR[own] or (own, other) in STRANGERS:
                faults.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {name}")
    assert not faults, "\n".join(faults)


def test_the_import_reader_sees_what_it_must(tmp_path, monkeypatch):
    """The law above is only as good as its reader: absolute, relative, aliased and nested imports, not guarded ones."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "pwact_like" / "jobs" / "bad.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import pwact_like.engines.protocols as p\nfrom pwact_like import stages\nfrom ..cli import main\nfrom . import types\n"
        "def f():\n    from pwact_like.engines import protocols\n"
        "if TYPE_CHECKING:\n    from pwact_like.report import table\n"
    )
    found = [(line, room_of(name)) for line, name in imported_modules(path)]
    assert found == [(1, "engines"), (2, "stages"), (3, "cli"), (4, "jobs"), (6, "engines")]


def run_python(code: str) -> str:
    """Run code in a fresh process that sees the source tree only."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], env=clean_environment(), capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_master_s_rooms_load_neither_torch_nor_matplotlib():
    names = [module_name(path) for path in MODULES if room_of(module_name(path)) in MASTER_ROOMS]
    code = f"""
import importlib, json, sys
loaded = {{}}
for name in {names!r}:
    importlib.import_module(name)
    for heavy in {NEVER_IN_MASTER!r}:
        if heavy in sys.modules:
            loaded.setdefault(heavy, name)
print(json.dumps(loaded))
"""
    assert json.loads(run_python(code)) == {}


def help_loads(arguments: list[str]) -> list[str]:
    """Heavy packages that are loaded once the launcher has printed its help."""
    code = f"""
import contextlib, io, json, sys
from pwact_like.cli.main import main
text = io.StringIO()
status = None
with contextlib.redirect_stdout(text):
    try:
        status = main({arguments!r})
    except SystemExit as end:
        status = end.code
assert status == 0 and "usage: pwact-like" in text.getvalue(), (status, text.getvalue())
print(json.dumps([name for name in {NEVER_IN_HELP!r} if name in sys.modules]))
"""
    return json.loads(run_python(code))


def commands() -> list[str]:
    """Names of all commands."""
    from pwact_like.cli.main import COMMANDS

    return list(COMMANDS)


def test_help_loads_nothing_heavy():
    assert help_loads(["-h"]) == []


@pytest.mark.parametrize("command", commands())
def test_help_of_a_command_loads_nothing_heavy(command):
    assert help_loads([command, "-h"]) == []


def test_files_are_short():
    counts = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    long = {name: count for name, count in counts.items() if count > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines: {long}"


def calls(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    """Line, dotted name and node of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def test_only_the_command_line_prints_or_exits():
    faults = []
    for path in MODULES:
        if room_of(module_name(path)) in (None, "cli"):
            continue
        for line, name, _ in calls(path):
            if name in {"print", "sys.exit", "exit", "quit", "sys.stdout.write"}:
                faults.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not faults, "\n".join(faults)


def test_nobody_changes_the_folder_or_asks_a_shell_to_parse():
    """``os.chdir`` breaks every relative path of a long-lived process; ``shell=True`` runs what stands in a file name."""
    faults = []
    for path in MODULES:
        for line, name, node in calls(path):
            shell = any(keyword.arg == "shell" and ast.unparse(keyword.value) != "False" for keyword in node.keywords)
            if name in {"os.chdir", "os.system", "os.popen", "contextlib.chdir", "chdir"} or shell:
                faults.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not faults, "\n".join(faults)


def test_no_bare_exception_is_raised():
    faults = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None and re.match(r"(Base)?Exception\b", ast.unparse(node.exc)):
                faults.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not faults, "\n".join(faults)


def test_nothing_is_left_for_later():
    faults = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"\b(TODO|FIXME|XXX)\b", line)
    ]
    assert not faults, "\n".join(faults)
