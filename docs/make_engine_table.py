"""Writes docs/engines.md: the table of all engines, from the table that each page in docs/engines/ begins with.

    python docs/make_engine_table.py

`tests/unit/test_docs.py` fails when the table is out of date, or when an engine has no row or two.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "engines"
TARGET = FOLDER.with_suffix(".md")
HEADER = "| role | engine | program | versions run | how to get it | state |"
_ROLES = ("train", "explore", "label", "choose", "export")
_TOP = """# Engines

What trains, explores and labels: each with the versions that were really run, how to get it, and what is not shown. The engine's name
links to its page. "Never run" means what it says: the program was not to be had, so the files that it reads and writes were only compared
with real ones.

"""


def rows_of(page: Path) -> list[list[str]]:
    """The cells of the table that a page begins with, a list a row.

    Raises
    ------
    ValueError
        When the page does not begin with a title and this table.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    if len(lines) < 5 or not lines[0].startswith("# ") or lines[2] != HEADER:
        raise ValueError(f"{page}: the page must begin with '# TITLE', an empty line, and the line {HEADER!r}")
    found = []
    for line in lines[4:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def table() -> str:
    """The whole document."""
    rows = [(page, row) for page in sorted(FOLDER.glob("*.md")) for row in rows_of(page)]
    rows.sort(key=lambda found: (_ROLES.index(found[1][0]), found[0].stem != "embedded", found[1][1]))
    lines = [HEADER, "|---|---|---|---|---|---|"]
    for page, (role, engine, *rest) in rows:
        lines.append("| " + " | ".join([role, f"[{engine}](engines/{page.name})", *rest]) + " |")
    return _TOP + "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(table(), encoding="utf-8")
