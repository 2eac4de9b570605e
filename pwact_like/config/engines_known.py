"""Which engines exist, which of them are built here, and how one is recognised in a command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

Role = Literal["train", "explore", "label"]


@dataclass(frozen=True)
class KnownEngine:
    """An engine that PWact knows or that is ours.

    Attributes
    ----------
    name
        Canonical name, lower-case.
    what
        What it is, for messages.
    built
        Whether it is built here; if not, ``check`` says so and ``run`` refuses.
    needs_command
        Whether it has no default command.
    """

    name: str
    what: str
    built: bool
    needs_command: bool = True


ENGINES: dict[Role, dict[str, KnownEngine]] = {
    "train": {
        engine.name: engine
        for engine in (
            KnownEngine("embedded", "the embedded trainer (pwact-like train)", built=True, needs_command=False),
            KnownEngine("matpl", "MatPL", built=False),
            KnownEngine("deepmd", "DeePMD-kit", built=False),
        )
    },
    "explore": {
        engine.name: engine
        for engine in (
            KnownEngine("embedded", "the embedded MD (pwact-like md)", built=True, needs_command=False),
            KnownEngine("lammps", "LAMMPS", built=False),
        )
    },
    "label": {
        engine.name: engine
        for engine in (
            KnownEngine("xtb", "GFN-xTB through tblite", built=True, needs_command=False),
            KnownEngine("ase", "an ASE calculator", built=True, needs_command=False),
            KnownEngine("cp2k", "CP2K", built=True, needs_command=False),
            KnownEngine("pwmat", "PWmat", built=False),
            KnownEngine("vasp", "VASP", built=False),
            KnownEngine("bigmodel", "a large model behind a user's script", built=False),
        )
    },
}

# other names of the same engines, lower-case
ENGINE_ALIASES: dict[Role, dict[str, str]] = {
    "train": {"dp": "deepmd", "pwact-like": "embedded", "pwact_like": "embedded", "internal": "embedded"},
    "explore": {"lmp": "lammps", "pwact-like": "embedded", "pwact_like": "embedded"},
    "label": {"tblite": "xtb", "gfn1-xtb": "xtb"},
}

# name of a program → engine
_PROGRAMS: dict[Role, tuple[tuple[str, str], ...]] = {
    "train": ((r"matpl|pwmlff", "matpl"), (r"dp", "deepmd"), (r"pwact[-_]like|pwact", "embedded")),
    "explore": ((r"lmp([-_.].*)?|lammps.*", "lammps"), (r"pwact[-_]like|pwact", "embedded")),
    "label": (),
}


def canonical(role: Role, name: str) -> str:
    """Canonical name of an engine, or "" when it is unknown."""
    key = name.strip().lower()
    key = ENGINE_ALIASES[role].get(key, key)
    return key if key in ENGINES[role] else ""


def engine_of_command(role: Role, command: str) -> str:
    """Engine that a command runs: embedded for an empty one, "" when no word tells.

    A word counts by its last path component: ``/opt/bin/lmp_mpi`` is LAMMPS.
    """
    if not command.strip():
        return "embedded"
    for word in command.split():
        program = PurePath(word.strip("\"'")).name.lower()
        for pattern, engine in _PROGRAMS[role]:
            if re.fullmatch(pattern, program):
                return engine
    return ""
