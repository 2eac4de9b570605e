"""The documents name what there is: every command, every option, every file that they link to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

from pwact_like.cli.main import COMMANDS, build_command_parser

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
