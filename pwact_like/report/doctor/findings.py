"""One line of the doctor's report, and what becomes of a check that fails itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pwact_like import __version__
from pwact_like.errors import InputError, PwactLikeError


class Level(StrEnum):
    """How much a finding matters: BAD will not work, WARN may surprise."""

    OK = "OK"
    WARN = "WARN"
    BAD = "BAD"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    topic
        Heading it stands under: ``slurm``, ``disk``, ``resource.json: train``, …
    text
        What was found, in a sentence.
    cure
        What to do about it; may be empty when all is well.
    """

    topic: str
    level: Level
    text: str
    cure: str = ""


def ok(topic: str, text: str, cure: str = "") -> Finding:
    """Something that works."""
    return Finding(topic, Level.OK, text, cure)


def warn(topic: str, text: str, cure: str = "") -> Finding:
    """Something that may surprise."""
    return Finding(topic, Level.WARN, text, cure)


def bad(topic: str, text: str, cure: str = "") -> Finding:
    """Something that will not work."""
    return Finding(topic, Level.BAD, text, cure)


def softened(findings: Iterable[Finding], soft: bool) -> list[Finding]:
    """The findings, BAD ones as WARN when ``soft``: a cluster that nobody has asked for need not work."""
    return [Finding(item.topic, Level.WARN, item.text, item.cure) if soft and item.level is Level.BAD else item for item in findings]


def guarded(topic: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; what it raises becomes a finding, and the checks after it go on."""
    try:
        yield from check()
    except InputError as error:
        for problem in error.problems:
            yield bad(topic, f"{problem.where}: {problem.what}", problem.cure)
    except Exception as error:
        yield failed_check(topic, error)


def failed_check(topic: str, error: Exception) -> Finding:
    """A check that raised: something is wrong here, or the check itself is."""
    if isinstance(error, PwactLikeError | OSError):
        return bad(topic, str(error))
    fault = f"this check of pwact_like {__version__} failed itself ({type(error).__name__}: {error})"
    return bad(topic, fault, "please report this line")


def amount(size_bytes: float) -> str:
    """Bytes for people: ``12.3 GB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes:.0f} bytes"


def one_line(text: str, length: int = 300) -> str:
    """Printable text in one line, shortened."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= length else line[: length - 1] + "…"
