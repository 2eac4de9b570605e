"""CP2K's input files as a tree of sections: read, change, write; what is not changed stays as the user wrote it.

A section opens with ``&NAME [parameter]`` and closes with ``&END [NAME]``; ``!`` and ``#`` begin comments; lines of the
preprocessor (``@SET``, ``@INCLUDE``, ``@IF``) are kept as they are. Names are compared without case.
https://manual.cp2k.org/trunk/getting-started/input-file.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pwact_like.errors import InputError, Problem

_OPEN = re.compile(r"&\s*([A-Za-z_][\w\-+]*)\s*(.*)$")
_SEPARATOR = re.compile(r"[\s,:;=]+")  # CP2K takes KEY=VALUE and KEY:VALUE too
_COMMENT = re.compile(r"""((?:[^!#"']|"[^"]*"|'[^']*')*)""")


def without_comment(text: str) -> str:
    """The line without its comment and outer blanks."""
    found = _COMMENT.match(text)
    return (found[1] if found else text).strip()


@dataclass
class Line:
    """A line that opens or closes nothing: a keyword, a comment, a blank, a preprocessor's line."""

    text: str
    number: int = 0

    @property
    def keyword(self) -> str:
        """Its keyword in capitals, or "" for comments, blanks and the preprocessor."""
        bare = without_comment(self.text)
        return "" if not bare or bare.startswith("@") else _SEPARATOR.split(bare, maxsplit=1)[0].upper()

    @property
    def value(self) -> str:
        """What follows the keyword, without a comment."""
        parts = _SEPARATOR.split(without_comment(self.text), maxsplit=1)
        return parts[1] if len(parts) > 1 else ""


@dataclass
class Section:
    """A section with its lines and sections, in their order."""

    name: str
    header: str
    footer: str
    children: list[Line | Section] = field(default_factory=list)
    number: int = 0

    @property
    def parameter(self) -> str:
        """What follows the name, e.g. the element of a KIND."""
        found = _OPEN.match(without_comment(self.header))
        return found[2].strip() if found else ""

    def sections(self, name: str) -> list[Section]:
        """Its direct sections of that name."""
        return [child for child in self.children if isinstance(child, Section) and child.name == name]

    def find(self, *names: str) -> Section | None:
        """The first section along a path of names."""
        here: Section | None = self
        for name in names:
            here = next(iter(here.sections(name)), None) if here is not None else None
        return here

    def lines(self) -> list[Line]:
        """Its direct lines."""
        return [child for child in self.children if isinstance(child, Line)]

    def keyword(self, *names: str) -> Line | None:
        """Its last line with one of these keywords."""
        found = [line for line in self.lines() if line.keyword in names]
        return found[-1] if found else None

    def value(self, *names: str) -> str:
        """Value of a keyword, "" when it is absent."""
        line = self.keyword(*names)
        return line.value if line else ""

    def remove(self, *, keywords: tuple[str, ...] = (), sections: tuple[str, ...] = ()) -> None:
        """Take out direct lines and sections by name."""
        self.children = [
            child for child in self.children if not (child.name in sections if isinstance(child, Section) else child.keyword in keywords)
        ]

    def set(self, name: str, value: str, *aliases: str) -> None:
        """Give a keyword one value: its first line (or an alias's) is replaced, further ones go."""
        names = (name, *aliases)
        places = [place for place, child in enumerate(self.children) if isinstance(child, Line) and child.keyword in names]
        line = Line(f"{self.indentation}{name} {value}")
        if places:
            self.children[places[0]] = line
            for place in reversed(places[1:]):
                del self.children[place]
        else:
            self.children.insert(0, line)

    @property
    def indentation(self) -> str:
        """Blanks before the lines of this section."""
        if not self.header:
            return ""
        return " " * (len(self.header) - len(self.header.lstrip()) + 2)

    def ensure(self, *names: str) -> Section:
        """The section along a path, made where it is missing."""
        here = self
        for name in names:
            below = next(iter(here.sections(name)), None)
            if below is None:
                below = here.add(name)
            here = below
        return here

    def add(self, name: str, parameter: str = "", keywords: tuple[tuple[str, str], ...] = ()) -> Section:
        """Append a section."""
        blanks = self.indentation
        section = Section(name, f"{blanks}&{name} {parameter}".rstrip(), f"{blanks}&END {name}")
        for keyword, value in keywords:
            section.children.append(Line(f"{section.indentation}{keyword} {value}".rstrip()))
        self.children.append(section)
        return section

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Line]]:
        """Every line below, with the names of the sections around it."""
        for child in self.children:
            if isinstance(child, Line):
                yield path, child
            else:
                yield from child.walk((*path, child.name))

    def text(self) -> str:
        """The file's text."""
        pieces = [self.header] if self.header else []
        pieces += [child.text if isinstance(child, Line) else child.text() for child in self.children]
        if self.footer:
            pieces.append(self.footer)
        return "\n".join(pieces)


def parse(text: str, path: Path | str) -> Section:
    """Read an input file.

    Parameters
    ----------
    text
        Its content.
    path
        For messages.

    Raises
    ------
    InputError
        For a section that is not closed, or closed where it is not open, naming file and line.
    """
    root = Section("", "", "")
    stack = [root]
    continued = False
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.rstrip()
        bare = without_comment(line)
        if not continued and bare.startswith("&"):
            found = _OPEN.match(bare)
            if found is None:
                raise InputError(Problem(f"{path}: line {number}", f"{line.strip()!r} is no section", "write &NAME or &END"))
            name = found[1].upper()
            if name == "END":
                _close(stack, found[2].split(), line, path, number)
            else:
                section = Section(name, line, "", number=number)
                stack[-1].children.append(section)
                stack.append(section)
        else:
            stack[-1].children.append(Line(line, number))
        continued = bare.endswith("\\")
    if len(stack) > 1:
        opened = stack[-1]
        raise InputError(Problem(f"{path}: line {opened.number}", f"&{opened.name} is never closed", f"add &END {opened.name}"))
    return root


def _close(stack: list[Section], words: list[str], line: str, path: Path | str, number: int) -> None:
    where = f"{path}: line {number}"
    if len(stack) == 1:
        raise InputError(Problem(where, f"{line.strip()} closes nothing", "a section before it is closed twice, or was never opened"))
    opened = stack.pop()
    if words and words[0].upper() != opened.name:
        raise InputError(
            Problem(
                where,
                f"{line.strip()} closes &{opened.name} of line {opened.number}",
                f"add &END {opened.name} before it, or mend the name",
            )
        )
    opened.footer = line


def read_input_file(path: Path) -> Section:
    """Read and parse an input file.

    Raises
    ------
    InputError
        When it cannot be read, is no text, or its sections do not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(Problem(str(path), f"the CP2K input cannot be read: {error.strerror or error}")) from error
    except UnicodeDecodeError as error:
        raise InputError(Problem(str(path), f"not a text file in UTF-8: {error}", "save it as UTF-8")) from error
    return parse(text, path)
