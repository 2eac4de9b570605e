"""What several tests need: real programs, the sample data outside the project, and clean subprocesses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# In CI a skip for one of these reasons is a failure (tests/conftest.py): there everything that can be installed is.
NEEDS_PROGRAM = "needs program "
INSTALL_WORDS = (NEEDS_PROGRAM, "apt-get install", "pip install", "could not import")


def in_ci() -> bool:
    """Whether this is a CI run, where nothing that can be installed may be missing."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def require_program(name: str, install_line: str) -> str:
    """Path of a program on PATH; without it the test is skipped (in CI: fails) and says how to get it.

    Parameters
    ----------
    name
        Name of the program as on PATH, e.g. ``cp2k.psmp``.
    install_line
        How a person gets it, e.g. ``apt-get install cp2k cp2k-data``.
    """
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{NEEDS_PROGRAM}{name}: {install_line}", allow_module_level=True)
    return path


def require_shared(name: str) -> Path:
    """Path of a sample data file that lives beside the project and not in it; skips where it is absent."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"the sample data {name} is not beside the project")
    return path


def clean_environment(**changes: str) -> dict[str, str]:
    """The environment for a subprocess that uses this source tree: one thread, no kill point, and ``changes``."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PWACT_LIKE_")}
    environment["OMP_NUM_THREADS"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
    return environment | changes


def run_cli(
    *arguments: str | Path, cwd: Path | None = None, timeout_s: float = 120, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``pwact-like ARGUMENTS`` in a process of its own, as a user would."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "pwact_like", *map(str, arguments)],
        cwd=cwd,
        env=dict(environment) if environment is not None else clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


DEEPMD_VARIABLE = "PWACT_LIKE_DEEPMD_BIN"
DEEPMD_INSTALL = (
    f"bin/setup-deepmd (pip install 'deepmd-kit[cpu,lmp]' into .deepmd), then {DEEPMD_VARIABLE}=$PWD/.deepmd/bin; bin/test sets it"
)


def require_deepmd(program: str = "dp") -> Path:
    """Folder of DeePMD-kit's programs (dp, lmp, python), which have an environment of their own; see `require_program`."""
    folder = os.environ.get(DEEPMD_VARIABLE, "")
    if not folder or not (Path(folder) / program).is_file():
        pytest.skip(f"{NEEDS_PROGRAM}{program} of DeePMD-kit: {DEEPMD_INSTALL}", allow_module_level=True)
    return Path(folder)
