"""Options of the embedded labelling engines: which there are, what they mean, and checking them all at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pwact_like.errors import InputError, Problem
from pwact_like.units import MAX_TIME_STEP_PS


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes
    ----------
    kind
        What its value is.
    default
        Taken when it is left out.
    doc
        One line, with the unit.
    above, least, most
        The value must be greater than, at least, or at most this (None: no bound).
    choices
        Allowed words (compared in lower case).
    aliases
        Other names of it.
    """

    kind: Literal["number", "count", "truth", "text", "group"]
    default: Any
    doc: str
    above: float | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


Table = Mapping[str, Option]

RELAX: Table = {
    "fmax": Option("number", 0.01, "the largest force that is left, eV/Å (on the cell too)", above=0.0),
    "cell": Option("truth", True, "relax the cell too, where the structure is periodic in all three directions"),
    "pressure": Option("number", 0.0, "pressure on the cell, bar", aliases=("press",)),
    "max_steps": Option("count", 500, "steps of the optimizer before it counts as not converged", least=1, aliases=("steps",)),
    "optimizer": Option("text", "bfgs", "bfgs, lbfgs or fire", choices=("bfgs", "lbfgs", "fire")),
}

AIMD: Table = {
    "temperature_k": Option("number", None, "temperature in K; required", above=0.0, most=1.0e5, aliases=("temp", "temperature", "temps")),
    "nsteps": Option("count", None, "MD steps; required", least=1),
    "md_dt": Option("number", 0.001, "time step in ps; 1 fs is 0.001", above=0.0, most=MAX_TIME_STEP_PS),
    "ensemble": Option("text", "nvt", "nvt (Bussi's thermostat) or nve", choices=("nvt", "nve")),
    "taut": Option("number", 0.1, "time constant of the thermostat, ps", above=0.0),
    "trj_freq": Option("count", 1, "keep every n-th step as a frame, beginning with step 0", least=1),
    "checkpoint_every": Option("count", 10, "MD steps from one checkpoint to the next", least=1),
}

STAGE_OPTIONS: Mapping[str, Table] = {"scf": {}, "relax": RELAX, "aimd": AIMD}


def _normal(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _find(table: Table, name: str) -> str | None:
    wanted = _normal(name)
    return next((key for key, option in table.items() if wanted == key or wanted in option.aliases), None)


def _value(option: Option, value: Any) -> tuple[Any, str]:
    """The checked value, and what is wrong with it ("" when it is good)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if option.kind in ("number", "count"):
        if isinstance(value, list) and len(value) == 1:  # PWact writes temperatures as lists
            return _value(option, value[0])
        if is_number and not abs(value) < float("inf"):
            return value, f"a finite number is wanted, not {value!r}"
        if not is_number or (option.kind == "count" and value != int(value)):
            return value, f"a {'whole number' if option.kind == 'count' else 'number'} is wanted, not {value!r}"
        number = int(value) if option.kind == "count" else float(value)
        if option.above is not None and not number > option.above:
            return value, f"must be greater than {option.above:g}, not {value!r}"
        if option.least is not None and not number >= option.least:
            return value, f"must be at least {option.least:g}, not {value!r}"
        if option.most is not None and number > option.most:
            return value, f"must be at most {option.most:g}, not {value!r}"
        return number, ""
    if option.kind == "truth":
        return value, "" if isinstance(value, bool) else f"true or false is wanted, not {value!r}"
    if option.kind == "group":
        return value, "" if isinstance(value, dict) else f"an object {{…}} is wanted, not {value!r}"
    if not isinstance(value, str):
        return value, f"text is wanted, not {value!r}"
    if option.choices and value.strip().lower() not in option.choices:
        return value, f"{value!r} is none of {', '.join(option.choices)}"
    return (value.strip().lower() if option.choices else value), ""


def check_options(tables: Mapping[str, Table], given: Mapping[str, Any], where: str) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Sort options into their tables and check them.

    Parameters
    ----------
    tables
        Name of a table → its options; a name stands in one table only.
    given
        What the user wrote; keys in any case, those that begin with ``_`` are comments.
    where
        File and place, for the problems.

    Returns
    -------
    tuple
        For each table what was given (no defaults), and everything wrong.
    """
    sorted_options: dict[str, dict[str, Any]] = {name: {} for name in tables}
    problems = []
    for key, value in given.items():
        if key.startswith("_"):
            continue
        for name, table in tables.items():
            found = _find(table, key)
            if found is None:
                continue
            checked, wrong = _value(table[found], value)
            if wrong:
                problems.append(Problem(f"{where}.{key}", wrong, table[found].doc))
            sorted_options[name][found] = checked  # a wrong one too: it is not missing besides
            break
        else:
            known = [option for table in tables.values() for option in table]
            near = difflib.get_close_matches(_normal(key), known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known) or 'none'}"
            problems.append(Problem(f"{where}.{key}", "there is no such option", cure))
    return sorted_options, problems


def with_defaults(table: Table, given: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Problem]]:
    """Fill in the defaults; a required option that is missing is a problem."""
    filled = {key: given.get(key, option.default) for key, option in table.items()}
    missing = [
        Problem(where, f"{key} is missing", table[key].doc)
        for key, value in filled.items()
        if value is None and "required" in table[key].doc
    ]
    return filled, missing


def options_from_file(path: Path) -> dict[str, Any]:
    """Options from a JSON file.

    Raises
    ------
    InputError
        When it is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(Problem(str(path), f"the file of options cannot be read: {error.strerror or error}")) from error
    except ValueError as error:
        cure = 'this engine reads its options from a JSON file, e.g. {"temperature_k": 600, "nsteps": 100}'
        raise InputError(Problem(str(path), f"not valid JSON: {error}", cure)) from error
    if not isinstance(content, dict):
        raise InputError(Problem(str(path), "an object {…} of options is wanted"))
    return content
