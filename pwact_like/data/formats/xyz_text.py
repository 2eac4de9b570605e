"""The text of one extended-XYZ frame: parsing and printing, every number to its last digit.

The format: https://github.com/libAtoms/extxyz. Numbers are printed as the shortest decimals that read back as the
same double.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import make_atoms, symbols_to_numbers
from pwact_like.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_PAIR = re.compile(r"""([^\s="']+)\s*=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^{}]*\}|[^\s"']+)""")
_DEFAULT_PROPERTIES = "species:S:1:pos:R:3"
_SPECIES = ("species", "symbols", "symbol", "element", "elements")
_NUMBERS = ("z", "numbers", "atomic_numbers")
_POSITIONS = ("pos", "positions", "position")
_FORCES = ("forces", "force")


@dataclass(frozen=True)
class XyzFrame:
    """A frame as it stands in the file: structure, the comment line's pairs (keys in lower case), forces if there.

    Attributes
    ----------
    atoms
        Numbers, positions (Å), cell (Å), pbc.
    pairs
        Key (lower case) → text of the value, quotes removed.
    forces
        Shape (n_atoms, 3), or None.
    """

    atoms: Atoms
    pairs: Mapping[str, str]
    forces: NDArray[np.float64] | None


def parse_comment(comment: str) -> dict[str, str]:
    """Key (lower case) → value (text, unquoted) of a comment line."""
    pairs = {}
    for key, value in _PAIR.findall(comment):
        if value[0] in "\"'":
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        elif value[0] == "{":
            value = value[1:-1]
        pairs[key.lower()] = value
    return pairs


def vector(text: str, count: int, where: str) -> NDArray[np.float64]:
    """``count`` numbers from a value such as ``1 0 0``, ``[1, 0, 0]`` or ``[[1,0,0],…]``."""
    words = re.sub(r"[\[\](),]", " ", text).split()
    try:
        values = np.array(words, dtype=np.str_).astype(np.float64)
    except ValueError as error:
        raise DataError(f"{where}: not numbers: {text!r}") from error
    if len(values) != count:
        raise DataError(f"{where}: {count} numbers expected, {len(values)} found in {text!r}")
    return values


def logicals(text: str, where: str) -> list[bool]:
    """Three truth values, as in ``T T F`` or ``[True, True, False]``."""
    words = re.sub(r"[\[\](),]", " ", text).split()
    if len(words) != 3 or any(word[0].upper() not in "TF10" for word in words):
        raise DataError(f"{where}: pbc needs three truth values, this is there: {text!r}")
    return [word[0].upper() in "T1" for word in words]


def _columns(properties: str, where: str) -> dict[str, tuple[int, int]]:
    words = properties.split(":")
    if len(words) % 3 or not all(count.isdigit() for count in words[2::3]):
        raise DataError(f"{where}: Properties cannot be understood: {properties!r}")
    columns, start = {}, 0
    for name, count in zip(words[0::3], words[2::3], strict=True):
        columns[name.lower()] = (start, start + int(count))
        start += int(count)
    columns[""] = (0, start)
    return columns


def _first(columns: Mapping[str, tuple[int, int]], names: Sequence[str]) -> tuple[int, int] | None:
    return next((columns[name] for name in names if name in columns), None)


def parse_frame(comment: str, lines: Sequence[str], path: object, first_line: int) -> XyzFrame:
    """Parse one frame.

    Parameters
    ----------
    comment
        The comment line.
    lines
        One line an atom.
    path, first_line
        File and number of the line that holds the atom count, for messages.

    Raises
    ------
    DataError
        Naming file and line.
    """
    where = f"{path}: line {first_line + 1}"
    pairs = parse_comment(comment)
    columns = _columns(pairs.get("properties", _DEFAULT_PROPERTIES), where)
    width = columns[""][1]
    n_atoms = len(lines)
    words = " ".join(lines).split()
    if len(words) != n_atoms * width:
        bare = "properties" not in pairs  # plain XYZ may have more columns: only the first four mean something
        for offset, line in enumerate(lines):
            found = len(line.split())
            if found != width and not (bare and found > width):
                raise DataError(f"{path}: line {first_line + 2 + offset}: {width} columns expected, {found} found: {line.strip()[:80]!r}")
        words = " ".join(" ".join(line.split()[:width]) for line in lines).split()
    table = np.array(words, dtype=np.str_).reshape(n_atoms, width)

    def floats(span: tuple[int, int], what: str) -> NDArray[np.float64]:
        if span[1] - span[0] != 3:
            raise DataError(f"{where}: {what} must have three columns")
        try:
            return table[:, slice(*span)].astype(np.float64)
        except ValueError:
            for offset, row in enumerate(table[:, slice(*span)]):
                try:
                    row.astype(np.float64)
                except ValueError as error:
                    raise DataError(f"{path}: line {first_line + 2 + offset}: {what} are not numbers: {' '.join(row)}") from error
            raise

    positions = _first(columns, _POSITIONS)
    if positions is None:
        raise DataError(f"{where}: Properties has no positions (pos)")
    species, charges = _first(columns, _SPECIES), _first(columns, _NUMBERS)
    if species is None and charges is None:
        raise DataError(f"{where}: Properties has no elements (species or Z)")
    elements = table[:, (species or charges or (0, 1))[0]]
    atomic_numbers = symbols_to_numbers(
        [str(element) for element in elements], f"{path}: lines {first_line + 2}–{first_line + 1 + n_atoms}"
    )
    cell = vector(pairs["lattice"], 9, f"{where}: Lattice").reshape(3, 3) if "lattice" in pairs else None
    pbc = logicals(pairs["pbc"], where) if "pbc" in pairs else [True] * 3
    atoms = make_atoms(atomic_numbers, floats(positions, "positions"), cell, pbc)
    forces = _first(columns, _FORCES)
    return XyzFrame(atoms, pairs, None if forces is None else floats(forces, "forces"))


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def format_frame(atoms: Atoms, pairs: Mapping[str, object], forces: NDArray[np.float64] | None = None) -> str:
    """Print one frame: the shortest decimals that read back as the same doubles.

    Parameters
    ----------
    atoms
        The structure; without a cell no Lattice is written.
    pairs
        What else goes into the comment line: numbers, text, arrays (printed row by row).
    forces
        Shape (n_atoms, 3), eV/Å.
    """
    properties = "species:S:1:pos:R:3" + (":forces:R:3" if forces is not None else "")
    head = []
    if atoms.cell.rank > 0:
        head.append(f'Lattice="{" ".join(map(repr, atoms.cell.array.ravel().tolist()))}"')
    head.append(f"Properties={properties}")
    for key, value in pairs.items():
        if isinstance(value, np.ndarray):
            head.append(f'{key}="{" ".join(map(repr, value.ravel().tolist()))}"')
        elif isinstance(value, str):
            head.append(f"{key}={_quoted(' '.join(value.split()))}")
        elif isinstance(value, float | np.floating):
            head.append(f"{key}={float(value)!r}")
        else:
            head.append(f"{key}={value}")
    head.append('pbc="' + " ".join("T" if periodic else "F" for periodic in atoms.pbc) + '"')
    rows = atoms.positions if forces is None else np.hstack([atoms.positions, forces])
    body = [f"{symbol} {' '.join(map(repr, row))}" for symbol, row in zip(atoms.symbols, rows.tolist(), strict=True)]
    return "\n".join([str(len(atoms)), " ".join(head), *body]) + "\n"
