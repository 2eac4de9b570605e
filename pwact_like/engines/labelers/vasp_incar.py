"""VASP's INCAR: its settings, and the user's text with some of them replaced.

``KEY = value``; comments begin with # or !, several settings in a line are set apart by ;, a backslash at its end goes on
with a line, text in double quotes may span lines. Where a key stands twice VASP takes the first (VASP wiki, "INCAR").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pwact_like.errors import InputError, Problem

_TRUE = re.compile(r"\.?[tT]")


@dataclass(frozen=True)
class _Entry:
    """A logical line: its text as written, and the settings in it."""

    text: str
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Incar:
    """An INCAR file."""

    path: Path
    entries: tuple[_Entry, ...]

    @property
    def settings(self) -> dict[str, str]:
        """Upper-case key → value, in the file's order."""
        found: dict[str, str] = {}
        for entry in self.entries:
            for key, value in entry.settings:
                found.setdefault(key, value)
        return found

    def value(self, key: str, default: str = "") -> str:
        """The value as written."""
        return self.settings.get(key, default)

    def truth(self, key: str, default: bool = False) -> bool:
        """A switch, .TRUE. or T, .FALSE. or F."""
        text = self.value(key)
        return bool(_TRUE.match(text)) if text else default

    def number(self, key: str, default: float) -> float:
        """The first number of a value.

        Raises
        ------
        InputError
            When it is none.
        """
        words = self.value(key).split()
        if not words:
            return default
        try:
            return float(words[0].lower().replace("d", "e"))
        except ValueError as error:
            raise InputError(Problem(f"{self.path}: {key}", f"a number is wanted, not {words[0]!r}")) from error

    def integer(self, key: str, default: int) -> int:
        """The first number of a value, which must be whole.

        Raises
        ------
        InputError
            When it is none.
        """
        number = self.number(key, default)
        if number != int(number):
            raise InputError(Problem(f"{self.path}: {key}", f"a whole number is wanted, not {number:g}"))
        return int(number)

    def replaced(self, changes: Mapping[str, str]) -> str:
        """The text with these settings changed in place, or put at the end; everything else as the user wrote it."""
        lines = []
        open_changes = dict(changes)
        for entry in self.entries:
            if not any(key in changes for key, _ in entry.settings):
                lines.append(entry.text)
                continue
            kept = []
            for key, value in entry.settings:
                if key not in changes:
                    kept.append(f"{key} = {value}")
                elif key in open_changes:
                    kept.append(f"{key} = {open_changes.pop(key)}")
            lines.append("; ".join(kept))
        lines += [f"{key} = {value}" for key, value in open_changes.items()]
        return "\n".join(lines).rstrip("\n") + "\n"


def _without_comment(line: str) -> str:
    quoted = False
    for place, character in enumerate(line):
        if character == '"':
            quoted = not quoted
        elif character in "#!" and not quoted:
            return line[:place]
    return line


def _settings_of(text: str) -> tuple[tuple[str, str], ...]:
    pieces = re.split(r';(?=(?:[^"]*"[^"]*")*[^"]*$)', text)
    found = []
    for piece in pieces:
        key, equals, value = piece.partition("=")
        words = key.split()
        if equals and words:
            found.append((words[-1].upper(), " ".join(value.split())))
    return tuple(found)


def parse_incar(text: str, path: Path) -> Incar:
    """Settings of an INCAR's text."""
    entries = []
    raw = text.splitlines()
    place = 0
    while place < len(raw):
        first = place
        joined = _without_comment(raw[place])
        while place + 1 < len(raw) and (joined.rstrip().endswith("\\") or joined.count('"') % 2):
            place += 1
            joined = f"{joined.rstrip().removesuffix(chr(92))} {_without_comment(raw[place])}"
        place += 1
        entries.append(_Entry("\n".join(raw[first:place]), _settings_of(joined)))
    return Incar(path, tuple(entries))


def read_incar(path: Path) -> Incar:
    """Read an INCAR.

    Raises
    ------
    InputError
        When it cannot be read or holds no setting.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(Problem(str(path), f"the INCAR cannot be read: {error.strerror or error}")) from error
    incar = parse_incar(text, path)
    if not incar.settings:
        raise InputError(Problem(str(path), "there is no KEY = value in it", "an INCAR is wanted"))
    return incar
