"""Basis sets and potentials of CP2K: which file, which entry, and whether it is there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.engines.labelers.fingerprints import short_hash
from pwact_like.errors import Problem

if TYPE_CHECKING:
    from pwact_like.config.common import GaussianParam

_ENTRY = re.compile(r"^\s*([A-Za-z]{1,2})\s+(\S.*)$")


def data_folders() -> list[Path]:
    """Where CP2K's own data may lie on this machine: $CP2K_DATA_DIR, beside the program, the usual places."""
    places = [Path(os.environ["CP2K_DATA_DIR"])] if os.environ.get("CP2K_DATA_DIR") else []
    for name in ("cp2k.psmp", "cp2k.popt", "cp2k"):
        program = shutil.which(name)
        if program:
            prefix = Path(program).resolve().parents[1]
            places += [prefix / "share" / "cp2k" / "data", prefix / "share" / "cp2k", prefix / "data"]
    places += [Path("/usr/share/cp2k"), Path("/usr/local/share/cp2k/data")]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


@dataclass(frozen=True)
class DataFile:
    """A file of basis sets or potentials.

    Attributes
    ----------
    name
        What the input file says: the name of a link in the task's folder, or a name that CP2K finds in its own data.
    path
        Where it lies here; None when it is only known to the machine that runs CP2K.
    linked
        Whether the task's folder needs a link to it.
    """

    name: str
    path: Path | None
    linked: bool


def locate(asked: Path, key: str, where: str) -> DataFile | Problem:
    """Find a file that gaussian_param names: the user's own, else CP2K's by its name."""
    if asked.is_file():
        return DataFile(asked.name, asked.resolve(), True)
    folders = data_folders()
    for folder in folders:
        if (folder / asked.name).is_file():
            return DataFile(asked.name, folder / asked.name, False)
    if folders:
        return Problem(
            f"{where}: {key}", f"there is no file {asked}, and {asked.name} is not in CP2K's data ({folders[0]}) either", "mend the path"
        )
    return DataFile(asked.name, None, False)  # CP2K looks in its own data folder, which this machine does not have


@lru_cache(maxsize=16)
def _entries(path: Path, size: int, mtime_ns: int) -> dict[tuple[str, str], str]:
    """(element, name) → normalised text of the entry."""
    found: dict[tuple[str, str], list[str]] = {}
    current: list[str] = []
    for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
        text = raw.split("#")[0].split("!")[0].rstrip()
        if not text.strip():
            continue
        head = _ENTRY.match(text)
        if head:
            current = []
            for name in head[2].split():
                found[(head[1].capitalize(), name.upper())] = current
        else:
            current.append(" ".join(text.split()))
    return {key: "\n".join(lines) for key, lines in found.items()}


def entry_of(path: Path, element: str, name: str) -> str | None:
    """Text of an element's basis set or potential in a file, None when it is not there."""
    status = path.stat()
    return _entries(path, status.st_size, status.st_mtime_ns).get((element, name.split()[-1].upper()))


def names_for(path: Path, element: str) -> list[str]:
    """Every name that the file has for an element."""
    status = path.stat()
    return sorted(name for symbol, name in _entries(path, status.st_size, status.st_mtime_ns) if symbol == element)


@dataclass(frozen=True)
class Kinds:
    """Basis sets and potentials of a campaign.

    Attributes
    ----------
    names
        Element → (basis set, potential).
    basis_set_file, potential_file
        Their files.
    """

    names: Mapping[str, tuple[str, str]]
    basis_set_file: DataFile
    potential_file: DataFile

    def links(self) -> tuple[tuple[str, str], ...]:
        """(name, absolute path) of the files that a task's folder needs."""
        files = dict.fromkeys((self.basis_set_file, self.potential_file))
        return tuple((file.name, str(file.path)) for file in files if file.linked)

    def fingerprint(self) -> list[list[str]]:
        """Element, names, and hashes of the entries' content."""
        result = []
        for element, (basis, potential) in sorted(self.names.items()):
            row = [element, basis.upper(), potential.upper()]
            for file, name in ((self.basis_set_file, basis), (self.potential_file, potential)):
                content = entry_of(file.path, element, name) if file.path else None
                row.append(short_hash(content) if content is not None else "")
            result.append(row)
        return result


def kinds_of(settings: GaussianParam, where: str) -> tuple[Kinds | None, list[Problem]]:
    """Basis sets and potentials from gaussian_param, and everything wrong with it."""
    lists = {"atom_list": settings.atom_list, "basis_set_list": settings.basis_set_list, "potential_list": settings.potential_list}
    problems = []
    if len({len(values) for values in lists.values()}) != 1:
        counts = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
        problems.append(Problem(f"{where}: gaussian_param", f"its lists differ in length: {counts}", "give one of each for every element"))
    files = {}
    for key, asked in (("basis_set_file", settings.basis_set_file), ("potential_file", settings.potential_file)):
        located = locate(Path(asked), f"gaussian_param.{key}", where)
        if isinstance(located, Problem):
            problems.append(located)
        else:
            files[key] = located
    if problems:
        return None, problems
    basis_file, potential_file = files["basis_set_file"], files["potential_file"]
    if basis_file.linked and potential_file.linked and basis_file.name == potential_file.name and basis_file.path != potential_file.path:
        basis_file = DataFile(f"basis_{basis_file.name}", basis_file.path, True)
    names = {}
    for element, basis, potential in zip(settings.atom_list, settings.basis_set_list, settings.potential_list, strict=True):
        symbol = element.capitalize()
        names[symbol] = (basis, potential)
        for key, file, name in (("basis_set_list", basis_file, basis), ("potential_list", potential_file, potential)):
            if file.path is not None and entry_of(file.path, symbol, name) is None:
                there = ", ".join(names_for(file.path, symbol)[:12]) or "nothing"
                problems.append(Problem(f"{where}: gaussian_param.{key}", f"{file.path} has no {name} for {symbol}", f"it has {there}"))
    return (None, problems) if problems else (Kinds(names, basis_file, potential_file), [])
