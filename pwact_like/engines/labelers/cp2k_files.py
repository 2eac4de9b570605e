"""Files that a CP2K input refers to: they stay reachable from the folder where the job runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pwact_like.engines.labelers.cp2k_input import Line, Section, without_comment
from pwact_like.engines.labelers.fingerprints import hash_of_file
from pwact_like.errors import Problem

_READ_KEYWORD = re.compile(r".*(FILE_NAME|FILENAME|_FILE|PARAMETER_FILE)$")
_INCLUDE = re.compile(r"@INCLUDE\s+(.+)$", re.IGNORECASE)
_OURS = re.compile(r"^\s*&(FORCE_EVAL|SUBSYS|GLOBAL|MOTION|COORD|CELL)\b", re.IGNORECASE | re.MULTILINE)


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def referred_files(root: Section, path: Path) -> list[tuple[Line, str, Path]]:
    """(line, name as written, absolute path) of every file beside the input that it reads.

    Names that exist nowhere beside the input are CP2K's own data, or files that the run writes: they stay as they are.
    """
    found = []
    for names, line in root.walk():
        text = without_comment(line.text)
        include = _INCLUDE.match(text)
        if include:
            name = _unquoted(include[1])
        elif "PRINT" not in names and _READ_KEYWORD.match(line.keyword):
            name = _unquoted(line.value)
        else:
            continue
        target = Path(os.path.normpath(path.parent / name))
        if name and target.is_file():
            found.append((line, name, target))
    return found


def make_reachable(root: Section, path: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Link what lies below the input's folder under the same name; write other names out absolutely.

    Returns
    -------
    tuple
        Name in the task's folder → file, and what is wrong.
    """
    links: dict[str, Path] = {}
    problems = []
    for line, name, target in referred_files(root, path):
        if line.text.lstrip().startswith("@"):
            ours = _OURS.search(target.read_text(encoding="utf-8", errors="replace"))
            if ours:
                where = f"{path}: line {line.number}"
                problems.append(
                    Problem(
                        where,
                        f"{name} holds &{ours[1].upper()}, parts of which must be written for each structure",
                        "write it into the input",
                    )
                )
        normal = os.path.normpath(name)
        if Path(name).is_absolute():
            continue
        if normal.startswith(".."):
            line.text = line.text.replace(name, str(target), 1)
        else:
            links[normal] = target
    return links, problems


def file_hashes(root: Section, path: Path, skip: tuple[str, ...]) -> list[str]:
    """Hashes of the files that the input reads, for the level of theory; basis files of gaussian_param are hashed apart."""
    lines = referred_files(root, path)
    return sorted({hash_of_file(target) for line, _, target in lines if line.keyword not in skip})
