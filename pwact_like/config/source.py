"""From JSON text to tables whose keys are lower-case, with the user's spelling kept for messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pwact_like.errors import InputError, Problem


@dataclass(frozen=True)
class Pairs:
    """A JSON object as its pairs: duplicates are seen, which a dict would hide."""

    items: tuple[tuple[str, Any], ...]


def read_json_file(path: Path) -> Any:
    """Read a settings file; objects come back as `Pairs`.

    Raises
    ------
    InputError
        When the file is missing, unreadable or not JSON, with line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(Problem(str(path), "no such file", "give the path of a JSON file")) from None
    except IsADirectoryError:
        raise InputError(Problem(str(path), "this is a folder", "give the path of a JSON file")) from None
    except UnicodeDecodeError as error:
        raise InputError(Problem(str(path), f"not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}")) from None
    except OSError as error:
        raise InputError(Problem(str(path), f"cannot be read: {error.strerror}")) from None
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: Pairs(tuple(pairs)), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"{path}: line {error.lineno}, column {error.colno}"
        raise InputError(Problem(where, f"not valid JSON: {error.msg}", _syntax_cure(text, error))) from None
    except _ConstantError as error:
        raise InputError(Problem(str(path), f"{error} is no JSON number", "write a finite number")) from None
    except ValueError as error:  # a number of thousands of digits
        raise InputError(Problem(str(path), f"a number cannot be read: {error}")) from None
    except RecursionError:
        raise InputError(Problem(str(path), "nested too deeply to be a settings file")) from None


class _ConstantError(ValueError):
    """NaN or Infinity where JSON has only numbers."""


def _no_constant(name: str) -> NoReturn:
    raise _ConstantError(name)


def _syntax_cure(text: str, error: json.JSONDecodeError) -> str:
    """Guess at the usual slips: a comma too many, single quotes, a comment."""
    before = text[: error.pos].rstrip()
    after = text[error.pos : error.pos + 1]
    if (before.endswith(",") and after in "}]") or (after == "," and text[error.pos + 1 :].lstrip()[:1] in ("}", "]")):
        return "remove the comma before the closing bracket"
    if not after:
        return "the file ends too early: is it whole?" if before else "the file is empty"
    if after == "'":
        return "use double quotes"
    if after in "/#":
        return "JSON has no comments: use a key that begins with _"
    if after in 'tTfFN"{[' and error.msg.startswith("Expecting ',' delimiter"):
        return "a comma is missing before this"
    if text[error.pos : error.pos + 4] in ("True", "None") or text[error.pos : error.pos + 5] == "False":
        return "write true, false or null"
    return ""


def plain(value: Any) -> Any:
    """The value as ordinary dicts and lists, keys as written (of duplicates the last)."""
    if isinstance(value, Pairs):
        return {key: plain(item) for key, item in value.items}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


@dataclass(frozen=True)
class Table:
    """A JSON object: lower-case key → (JSON path in the user's spelling, value); comments are gone."""

    path: str
    entries: Mapping[str, tuple[str, Any]]

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def get(self, key: str, default: Any = None) -> Any:
        """Value of a key (lower-case), or the default; null counts as left out."""
        value = self.entries[key][1] if key in self.entries else None
        return default if value is None else value

    def where(self, key: str) -> str:
        """JSON path of a key, in the user's spelling."""
        return self.entries[key][0] if key in self.entries else join(self.path, key)

    def only(self, keys: Iterable[str]) -> Table:
        """The same object with these keys only."""
        wanted = set(keys)
        return Table(self.path, {key: entry for key, entry in self.entries.items() if key in wanted})


def join(path: str, key: str) -> str:
    """JSON path of a key of the object at ``path``."""
    return f"{path}.{key}" if path else key


def edit_distance(first: str, second: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other.

    The optimal-string-alignment form of the Damerau–Levenshtein distance.
    """
    before: list[int] = []
    previous = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        row = [i]
        for j, b in enumerate(second, start=1):
            cost = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, previous = previous, row
    return previous[-1]


def nearest(key: str, known: Iterable[str], limit: int | None = None) -> str:
    """The known name that is nearest to ``key``, or "" when none is near.

    Without a limit a third of the word may differ; with one, so many edits, but never more than half of the word.
    """
    names = sorted(set(known))
    if not names:
        return ""
    most = max(2, len(key) // 3) if limit is None else limit
    distance, name = min((edit_distance(key, name), name) for name in names)
    return name if distance <= most and 2 * distance <= len(key) else ""
