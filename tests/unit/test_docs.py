"""The documents name what there is: every command, every option, every file that they link to."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from support import ROOT

from pwact_like.cli.main import COMMANDS, build_command_parser
from pwact_like.config.engines_known import ENGINES
from pwact_like.engines.registry import EXPLORERS, LABELERS, TRAINERS

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_a_command_names_its_options(command):
    """When this fails: python docs/make_command_pages.py."""
    text = (ROOT / "docs" / "commands" / f"{command}.md").read_text(encoding="utf-8")
    options = [option for action in build_command_parser(command)._actions for option in action.option_strings]
    assert not [option for option in options if option not in text]
    assert COMMANDS[command][1][1:] in text


def test_there_is_no_page_without_a_command():
    assert {path.stem for path in (ROOT / "docs" / "commands").glob("*.md")} == set(COMMANDS)


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_the_tables_hold_every_command_with_its_line(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[`?(\w+)`?\]\([\w/.]+\) \| (.+) \|$", text, re.MULTILINE))
    assert rows == {command: line for command, (_, line) in COMMANDS.items()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (Path(document).parent / target).exists()]
    assert not missing


def engine_tables():
    spec = importlib.util.spec_from_file_location("make_engine_table", ROOT / "docs" / "make_engine_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_engines_is_that_of_their_pages():
    """When this fails: python docs/make_engine_table.py."""
    assert (ROOT / "docs" / "engines.md").read_text(encoding="utf-8") == engine_tables().table()


def test_every_engine_has_one_row():
    tables = engine_tables()
    rows = [tuple(row[:2]) for page in sorted(tables.FOLDER.glob("*.md")) for row in tables.rows_of(page)]
    known_here = [(role, name) for role, known in ENGINES.items() for name in known]
    assert sorted(row for row in rows if row[0] in ENGINES) == sorted(known_here)


def test_the_engines_that_settings_may_name_are_those_that_can_be_made():
    registered = {"train": set(TRAINERS), "explore": set(EXPLORERS), "label": set(LABELERS)}
    assert {role: set(known) for role, known in ENGINES.items()} == registered


def test_the_versions_of_pip_packages_are_those_of_the_constraints():
    """A version in the table that stands as ``name 1.2.3`` was run by the tests, which install by constraints.txt."""
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    tables = engine_tables()
    stated = [
        (page.name, name, version)
        for page in sorted(tables.FOLDER.glob("*.md"))
        for row in tables.rows_of(page)
        for name, version in re.findall(r"(?<![\w.-])([a-z][\w.-]*) (\d+(?:\.\d+)+)", row[3])
        if name in pinned
    ]
    assert stated
    assert not [row for row in stated if pinned[row[1]] != row[2]]
