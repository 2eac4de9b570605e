"""Which format a path has: by its name where the program fixes it, else by its first lines."""

from __future__ import annotations

import re
from pathlib import Path

from pwact_like.data.formats.pwmat import FRAME_HEADER
from pwact_like.data.formats.xdatcar import CONFIGURATION
from pwact_like.errors import DataError

# format → what it is; the names are PWact's and pwdata's
FORMATS: dict[str, str] = {
    "pwmat/movement": "PWmat's MOVEMENT",
    "pwmat/mlmd": "PWmat's OUT.MLMD",
    "pwmat/config": "PWmat's atom.config (a structure)",
    "vasp/outcar": "VASP's OUTCAR",
    "vasp/xml": "VASP's vasprun.xml",
    "vasp/xdatcar": "VASP's XDATCAR (a trajectory without labels)",
    "vasp/poscar": "VASP's POSCAR or CONTCAR (a structure)",
    "cp2k/scf": "what CP2K prints in a single-point run",
    "cp2k/md": "what CP2K prints in an MD run or a relaxation",
    "extxyz": "extended XYZ",
    "lammps/dump": "LAMMPS dump",
    "lammps/lmp": "LAMMPS data file (a structure)",
    "pwmlff/npy": "PWMLFF's folder of .npy files",
    "deepmd/npy": "DeePMD-kit's folder of .npy files",
}
STRUCTURE_FORMATS = ("pwmat/config", "vasp/poscar", "lammps/lmp")
_ALIASES = {
    "movement": "pwmat/movement",
    "mlmd": "pwmat/mlmd",
    "config": "pwmat/config",
    "outcar": "vasp/outcar",
    "poscar": "vasp/poscar",
    "contcar": "vasp/poscar",
    "vasprun": "vasp/xml",
    "xdatcar": "vasp/xdatcar",
    "cp2k": "cp2k/md",
    "xyz": "extxyz",
    "dump": "lammps/dump",
    "lmp": "lammps/lmp",
    "pwdata": "pwmlff/npy",
}
_HEAD_BYTES = 1 << 16
_FLOATS = r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?"


def canonical(name: str) -> str:
    """The name of a format in its usual spelling; one that is not ours (ASE's, say) comes back as it is."""
    lowered = name.strip().lower()
    return lowered if lowered in FORMATS else _ALIASES.get(lowered, name.strip())


def detect_format(path: Path) -> str:
    """One of `FORMATS`, or ``ase`` when the path is left to ASE's own guess.

    Raises
    ------
    DataError
        When there is nothing at the path, or a folder holds no data that is known.
    """
    if path.is_dir():
        return _detect_folder(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _by_name(path.name) or _by_content(head) or "ase"


def _detect_folder(path: Path) -> str:
    if next(path.rglob("type.raw"), None):
        return "deepmd/npy"
    if next(path.rglob("position.npy"), None):
        return "pwmlff/npy"
    if next(path.glob("*.xyz"), None) or next(path.glob("*.extxyz"), None):
        return "extxyz"
    raise DataError(f"{path}: this folder holds none of position.npy (pwmlff/npy), type.raw (deepmd/npy), *.xyz (extxyz)")


def _by_name(name: str) -> str | None:
    upper = name.upper()
    if "MOVEMENT" in upper:
        return "pwmat/movement"
    if "OUT.MLMD" in upper:
        return "pwmat/mlmd"
    if "OUTCAR" in upper:
        return "vasp/outcar"
    if upper == "XDATCAR":  # by its content otherwise: many convert them to XDATCAR.xyz
        return "vasp/xdatcar"
    if upper.endswith(".XML") and "VASPRUN" in upper:
        return "vasp/xml"
    if upper.endswith(".CONFIG"):
        return "pwmat/config"
    return None


def _by_content(head: str) -> str | None:
    lines = head.splitlines()
    if not lines:
        return None
    first, second = lines[0].strip(), lines[1].strip() if len(lines) > 1 else ""
    if FRAME_HEADER.match(first):  # PWmat's final structures carry the header of a MOVEMENT, but not its closing dashes
        return "pwmat/movement" if "-----" in head or len(head) >= _HEAD_BYTES else "pwmat/config"
    if first.startswith("ITEM:"):
        return "lammps/dump"
    if "<modeling>" in head:
        return "vasp/xml"
    if re.match(r"vasp\.\d", first):
        return "vasp/outcar"
    if "CP2K|" in head or "DBCSR|" in head:
        return "cp2k/md"
    if re.match(r"\d+\b", first) and second.lower().startswith("lattice") and "=" not in second:
        return "pwmat/config"
    if first.isdigit() and re.search(r"(Lattice|Properties)\s*=", second, re.IGNORECASE):
        return "extxyz"
    if "xlo xhi" in head and re.search(r"^\s*\d+\s+atoms\b", head, re.MULTILINE):
        return "lammps/lmp"
    if any(CONFIGURATION.match(line) for line in lines):  # before POSCAR: its head is one
        return "vasp/xdatcar"
    vectors = len(lines) > 6 and all(re.match(rf"{_FLOATS}(?:\s+{_FLOATS}){{2}}\s*$", line) for line in lines[2:5])
    if vectors and re.match(rf"{_FLOATS}(?:\s+{_FLOATS}){{0,2}}\s*(?:!.*)?$", second):
        return "vasp/poscar"
    return None
