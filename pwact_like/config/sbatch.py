"""Options of sbatch: which are ours, and what the user's say of time and memory."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

# what the dispatcher finds its jobs by, where a job's files lie, and when it ends
OWNED_OPTIONS = (
    "job-name",
    "comment",
    "output",
    "error",
    "chdir",
    "open-mode",
    "array",
    "requeue",
    "no-requeue",
    "parsable",
    "signal",
    "wait",
    "wrap",
    "test-only",
    "clusters",
)
_WITHOUT_VALUE = "HIOQVhksuvW"  # short options of sbatch that take none
_OWNED_SHORT = {"-J": "job-name", "-o": "output", "-e": "error", "-D": "chdir", "-a": "array", "-W": "wait", "-M": "clusters"}

TIME = re.compile(r"(\d+|\d+:\d+(:\d+)?|\d+-\d+(:\d+(:\d+)?)?)")
MEMORY = re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)
_UNITS_MB = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0 * 1024.0}


def owned_option(flag: str) -> str:
    """Long name of the option that a flag sets if pwact_like owns it, else "" (sbatch accepts unique prefixes of long names)."""
    word = re.split(r"[=\s]", flag, maxsplit=1)[0]
    if word.startswith("--"):
        name = word[2:].lower()
        return next((owned for owned in OWNED_OPTIONS if len(name) >= 2 and owned.startswith(name)), "")
    return _OWNED_SHORT.get(word[:2], "")


def single_options(text: str) -> list[str]:
    """The options of a line of flags, each by itself (sbatch takes several in a line; everything behind a ``#`` is a comment).

    Raises
    ------
    ValueError
        For quotes that do not close, and for short options that are written as one word (``-HJname``).
    """
    words = shlex.split(text, comments=True)
    options: list[list[str]] = []
    for word in words:
        if word.startswith("-") and not re.fullmatch(r"-\d.*", word):
            if re.match(rf"-[{_WITHOUT_VALUE}][A-Za-z]", word):
                raise ValueError(f"{word!r} is several options in one word: write them one by one")
            options.append([word])
        elif options:
            options[-1].append(word)
        else:
            raise ValueError(f'{text!r} is no sbatch option: e.g. "--qos=long"')
    return [text.strip()] if len(options) == 1 and "#" not in text else [shlex.join(option) for option in options]


def value_of(flags: Sequence[str], *options: str) -> str | None:
    """Value that the last of these flags gives to an option (``--time`` or ``-t``, say); None when none does."""
    found = None
    for flag in flags:
        for option in options:
            rest = flag[len(option) :]
            if option.startswith("--"):
                matched = flag == option or flag.startswith((f"{option}=", f"{option} "))
            else:
                matched = flag.startswith(option) and not flag.startswith("--")
            if matched:
                found = rest.lstrip("= ").strip()
    return found


def seconds(text: str) -> int | None:
    """Seconds of a time limit in one of Slurm's forms: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S; None for UNLIMITED and the like.

    Source: sbatch(1), ``--time``.
    """
    if not TIME.fullmatch(text.strip()):
        return None
    days, dash, rest = text.strip().rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, secs = [*parts, 0, 0][:3]
        return int(days) * 86400 + hours * 3600 + minutes * 60 + secs
    if len(parts) == 1:
        return parts[0] * 60
    if len(parts) == 2:
        return parts[0] * 60 + parts[1]
    return parts[0] * 3600 + parts[1] * 60 + parts[2]


def megabytes(text: str) -> int | None:
    """MB (2²⁰ bytes, as Slurm counts) of an amount of memory: ``8G``, ``1500``, ``1.50G``; None when it is none; 0: all of a node's."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if not found:
        return None
    amount = float(found[1]) * _UNITS_MB[found[2].upper()]
    return 0 if amount == 0.0 else max(1, round(amount))


def time_text(time_s: int) -> str:
    """A time limit as Slurm reads it, rounded up to minutes."""
    minutes = max(1, -(-time_s // 60))
    return f"{minutes // 60}:{minutes % 60:02d}:00"
