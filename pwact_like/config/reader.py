"""Turns tables into settings models and collects every problem and note on the way."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pwact_like.config.base import Settings
from pwact_like.config.source import Pairs, Table, join, nearest
from pwact_like.errors import Problem

Model = TypeVar("Model", bound=Settings)

# pydantic's words → the user's
_WORDS = {
    "missing": "this key is required",
    "bool_parsing": "true or false is wanted here",
    "bool_type": "true or false is wanted here",
    "int_parsing": "a whole number is wanted here",
    "int_type": "a whole number is wanted here",
    "int_from_float": "a whole number is wanted here",
    "float_parsing": "a number is wanted here",
    "float_type": "a number is wanted here",
    "finite_number": "a finite number is wanted here",
    "string_type": "text in quotes is wanted here",
    "path_type": "a path in quotes is wanted here",
    "tuple_type": "a list is wanted here",
    "dict_type": "an object { } is wanted here",
}
TRAIN_EDITS = 2


@dataclass
class Reader:
    """Where one file's problems and notes gather.

    Attributes
    ----------
    file
        The file's name in messages.
    base
        Folder that relative paths resolve against.
    lenient
        Unknown keys are notes, not problems.
    base_exists
        False when the base folder is missing, which is one problem and not one for each relative path.
    """

    file: str
    base: Path
    lenient: bool = False
    base_exists: bool = True
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem(self, path: str, what: str, cure: str = "") -> None:
        """Remember a problem at a JSON path."""
        self.problems.append(Problem(f"{self.file}: {path}" if path else self.file, what, cure))

    def note(self, path: str, text: str) -> None:
        """Remember a note at a JSON path."""
        line = f"{self.file}: {path}: {text}" if path else f"{self.file}: {text}"
        if line not in self.notes:
            self.notes.append(line)

    def table(self, value: Any, path: str) -> Table | None:
        """An object as a table: keys in lower case, comments dropped; keys that differ only by case are a problem."""
        if not isinstance(value, Pairs):
            self.problem(path, f"an object {{ }} is wanted here, not {describe(value)}")
            return None
        entries: dict[str, tuple[str, Any]] = {}
        for key, item in value.items:
            if key.startswith("_"):
                continue
            lower = key.strip().lower()
            if lower in entries:
                other = entries[lower][0].rpartition(".")[2]
                reason = "stands here twice" if other == key else f"and {other!r} are the same key in two spellings (case does not matter)"
                self.problem(join(path, key), f"{key!r} {reason}", "keep one of them")
                continue
            entries[lower] = (join(path, key), item)
        return Table(path, entries)

    def build(
        self,
        model: type[Model],
        table: Table,
        *,
        given: Mapping[str, Any] | None = None,
        failed: Collection[str] = (),
        handled: Collection[str] = (),
        hints: Collection[str] = (),
        train_rule: bool = False,
    ) -> Model | None:
        """Build a model from a table; every problem is remembered.

        Parameters
        ----------
        model
            The model's class.
        table
            The user's keys.
        given
            Fields that the caller has converted itself.
        failed
            Fields whose conversion failed and was reported: the rest is still checked, and the result is None.
        handled
            Keys (lower-case) that the caller deals with itself.
        hints
            Further names that a misspelt key may have meant.
        train_rule
            An unknown key is only a note, unless it is nearly a known one (MatPL has more keys than we know).
        """
        values: dict[str, Any] = dict(given or {})
        spelled: dict[str, str] = {}
        own = {*values, *failed}
        names = {**model.aliases, **{name: name for name in model.model_fields if name not in model.filled_by_loader}}
        for key, (place, value) in table.entries.items():
            if key in handled:
                continue
            name = names.get(key, "")
            if name in spelled:
                self.problem(place, f"says the same as {spelled[name]}", "keep one of them")
            elif name and name not in own:
                spelled[name] = place
                if value is not None:
                    values[name] = _unpaired(value)
            elif not name:
                self.unknown(model, place, key, {*names, *handled, *hints}, train_rule)
        try:
            instance = model(**values)
        except ValidationError as error:
            bad = {str(details["loc"][0]) for details in error.errors() if details["loc"]}
            for details in [*error.errors(include_url=False), *_across(model, values, bad)]:
                if not (details["type"] == "missing" and details["loc"][0] in failed):
                    self._add(details, table.path, spelled, values)
            return None
        return None if failed else instance

    def unknown(self, model: type[Settings], path: str, key: str, known: Collection[str], train_rule: bool) -> None:
        """Deal with a key that the model does not have."""
        if key in model.no_effect:
            self.note(path, "known to PWact or MatPL, without effect here")
            return
        near = nearest(key, {*known, *model.no_effect}, TRAIN_EDITS if train_rule else None)
        if (train_rule and not near) or self.lenient:
            self.note(path, "unknown key, ignored" + (f"; did you mean {near!r}?" if near else ""))
            return
        cure = f"did you mean {near!r}?" if near else "remove it, or begin it with _ to make it a comment; --lenient ignores unknown keys"
        self.problem(path, "unknown key", cure)

    def _add(self, details: ErrorDetails, path: str, spelled: Mapping[str, str], values: Mapping[str, Any]) -> None:
        place = path
        location = details["loc"]
        for depth, part in enumerate(location):
            if isinstance(part, int):
                # a short form ("temps": 300) has become a tuple; the user knows no index
                if not (depth == 1 and not isinstance(values.get(str(location[0])), list | tuple)):
                    place = f"{place}[{part}]"
            elif not part.startswith(("function-", "tuple[", "constrained-")):
                place = spelled.get(part, join(path, part)) if depth == 0 else join(place, part)
        kind = details["type"]
        if kind == "value_error":
            what = str(details["ctx"]["error"])
        elif kind == "missing":
            what = _WORDS[kind]
        else:
            what = f"{_WORDS.get(kind, details['msg'].replace('Input should', 'it should'))}, not {describe(details['input'])}"
        self.problem(place, what)

    # paths

    def resolve(self, text: str) -> Path:
        """Absolute path; relative ones start at the base folder. ``..`` is taken as the file system does."""
        try:
            path = self.base / Path(text).expanduser()
        except RuntimeError:  # ~name of an unknown user
            path = self.base / text
        return path.resolve() if ".." in path.parts else path

    def _no_name(self, found: Path, path: str) -> bool:
        """Whether a path is longer than a file system takes (reported): text that is no path at all."""
        try:
            found.lstat()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                self.problem(path, f"this is no path, it is too long: {describe(str(found))}")
                return True
        except ValueError:
            pass  # a null byte: the file does not exist, which is told as usual
        return False

    def path(self, value: Any, path: str, *, folder: bool = False, what: str = "file") -> Path | None:
        """An existing file (or folder) that the user names; anything else is a problem."""
        if not isinstance(value, str) or not value.strip():
            self.problem(path, f"a path in quotes is wanted here, not {describe(value)}")
            return None
        found = self.resolve(value)
        if self._no_name(found, path):
            return None
        if self._unknowable(value):
            return found
        if folder and not found.is_dir():
            self.problem(path, f"no such folder: {found}", self._path_cure(value))
            return None
        if not folder and not found.is_file():
            reason = "this is a folder" if found.is_dir() else f"no such {what}"
            self.problem(path, f"{reason}: {found}", self._path_cure(value))
            return None
        if not folder and not os.access(found, os.R_OK):
            self.problem(path, f"no permission to read {found}")
            return None
        return found

    def matches(self, text: str, path: str, *, folders: bool = False) -> tuple[Path, ...] | None:
        """Existing files that a path or glob pattern names, sorted; none is a problem.

        A name that exists as it stands is no pattern, whatever brackets it has.
        """
        found = self.resolve(text)
        if self._no_name(found, path):
            return None
        if self._unknowable(text) or found.is_file() or (folders and found.is_dir()):
            return (found,)
        if glob.has_magic(text):
            names = sorted(glob.glob(str(found), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern and matches hidden files)
            files = tuple(Path(name) for name in names if Path(name).is_file() or (folders and Path(name).is_dir()))
            if files:
                return files
            self.problem(path, f"no file matches {found}", self._path_cure(text))
            return None
        reason = "this is a folder" if found.is_dir() else f"no such {'file or folder' if folders else 'file'}"
        self.problem(path, f"{reason}: {found}", self._path_cure(text))
        return None

    def _unknowable(self, text: str) -> bool:
        """Whether a relative path cannot be judged, since the base folder itself is missing (reported once)."""
        return not self.base_exists and not Path(text).is_absolute()

    def _path_cure(self, text: str) -> str:
        return "" if Path(text).is_absolute() else f"relative paths start at work_dir, {self.base}; --work-dir changes it"


def _across(model: type[Settings], values: Mapping[str, Any], bad: Collection[str]) -> list[ErrorDetails]:
    """Problems between fields, which pydantic looks for only once every field is good; those that concern a bad field are left out."""
    if not bad:
        return []
    try:
        model(**{name: value for name, value in values.items() if name not in bad})
    except ValidationError as error:
        return [
            details for details in error.errors(include_url=False) if not details["loc"] and not any(name in details["msg"] for name in bad)
        ]
    return []


def _unpaired(value: Any) -> Any:
    """Objects for fields without a model of their own: dicts with the user's keys, comments dropped."""
    if isinstance(value, Pairs):
        return {key: _unpaired(item) for key, item in value.items if not key.startswith("_")}
    if isinstance(value, list):
        return [_unpaired(item) for item in value]
    return value


def describe(value: Any) -> str:
    """A value as a message shows it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Pairs | dict):
        return "an object { }"
    if isinstance(value, list | tuple):
        return "a list [ ]" if len(value) > 4 else repr(list(value))
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
