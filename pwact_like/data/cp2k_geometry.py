"""Which structure an energy of a CP2K output belongs to.

The output itself has too few digits, so the structure comes from the caller, from the input file beside the output
(single points), or from the run's trajectory files (MD, relaxations). A frame of a trajectory is found by its energy,
which CP2K prints with ten decimals in both places: restarted runs, skipped steps and line searches cannot shift the
pairing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import TruncatedError, make_atoms, numbers, open_lines, symbols_to_numbers
from pwact_like.errors import DataError
from pwact_like.units import ANG_PER_BOHR, EV_PER_ANG_PER_HARTREE_PER_BOHR

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.data.cp2k_output import Evaluation, Printed

_STEP = re.compile(r"\bi\s*=\s*(\d+).*?\bE\s*=\s*([-+\d.Ee]+)")
_SECTION = re.compile(r"^\s*&(\w+)\s*(.*?)\s*$")
_PRINTED_CELL_TOLERANCE_ANG = 2e-3  # the output has three decimals
_SINGLE_POINTS = ("ENERGY", "ENERGY_FORCE", "")


@dataclass(frozen=True)
class _Snapshot:
    step: int
    energy_key: int  # Hartree in units of 1e-10
    atomic_numbers: NDArray[np.int64]
    values: NDArray[np.float64]


def _snapshots(path: Path, *, cut_off: bool) -> list[_Snapshot]:
    """Frames of PROJECT-pos-1.xyz or PROJECT-frc-1.xyz; of a run that was cut off the whole ones."""
    result: list[_Snapshot] = []
    with open_lines(path) as reader, suppress(TruncatedError) if cut_off else nullcontext():
        while (text := reader.line()) is not None:
            if not text.strip():
                continue
            if not text.endswith("\n"):
                raise reader.truncated(f"{len(result)} frames are whole")
            if not text.strip().isdigit():
                raise reader.wrong(f"the number of atoms is expected, this is there: {text.strip()[:60]!r}")
            n_atoms = int(text)
            comment = reader.block(1, "the comment")[0]
            found = _STEP.search(comment)
            if found is None:
                raise reader.wrong(f"step and energy are expected ('i = …, E = …'), this is there: {comment.strip()!r}")
            lines = reader.block(n_atoms, "atoms")
            symbols = [re.sub(r"[^A-Za-z].*", "", line.split()[0]) for line in lines]
            atomic_numbers = symbols_to_numbers(symbols, f"{path}: line {reader.number}")
            key = round(float(found[2]) * 1e10)
            result.append(_Snapshot(int(found[1]), key, atomic_numbers, numbers(reader, lines, slice(1, 4), 3)))
    return result


def _cells(path: Path, *, cut_off: bool) -> dict[int, NDArray[np.float64]]:
    """Step → cell of PROJECT-1.cell; of a run that was cut off those of whole lines."""
    result: dict[int, NDArray[np.float64]] = {}
    with open_lines(path) as reader, suppress(TruncatedError) if cut_off else nullcontext():
        while (text := reader.line()) is not None:
            words = text.split()
            if words and not words[0].startswith("#"):
                if not text.endswith("\n"):
                    raise reader.truncated(f"{len(result)} cells are whole")
                row = numbers(reader, [text], slice(0, 11), 11)[0]
                result[int(row[0])] = row[2:].reshape(3, 3)
    return result


def standard_orientation(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cell of the same lengths and angles with a along x and b in the xy plane, as CP2K turns it to optimise cells.

    It is always right-handed: a left-handed cell comes back mirrored, and with it the atoms (fractional coordinates
    stay) and the printed forces.
    """
    return np.asarray(np.linalg.cholesky(cell @ cell.T), dtype=np.float64)


def read_input(path: Path) -> Atoms:
    """Structure of a CP2K input file: &CELL (A, B, C or ABC) and &COORD.

    Raises
    ------
    DataError
        When cell or coordinates are not written out there (an external coordinate file, variables).
    """
    from ase.geometry import cellpar_to_cell

    cell_of: Callable[[list[float]], NDArray[np.float64]] = cellpar_to_cell

    sections: list[str] = []
    vectors: dict[str, list[float]] = {}
    symbols: list[str] = []
    rows: list[list[float]] = []
    scaled = False
    unit = 1.0
    periodic = "XYZ"
    with open_lines(path) as reader:
        while (text := reader.line()) is not None:
            text = re.split(r"[!#]", text, maxsplit=1)[0]
            words = text.split()
            if not words:
                continue
            if (found := _SECTION.match(text)) is not None:
                if found[1].upper().startswith("END"):
                    sections = sections[:-1]
                else:
                    sections.append(found[1].upper())
                continue
            key = words[0].upper()
            if sections[-2:] == ["SUBSYS", "CELL"] and key in ("A", "B", "C", "ABC", "ALPHA_BETA_GAMMA"):
                factor = ANG_PER_BOHR if "[bohr]" in text.lower() else 1.0
                try:
                    vectors[key] = [factor * float(word) for word in words[1:] if not word.startswith("[")]
                except ValueError as error:
                    raise reader.wrong(f"a cell vector is no number: {text.strip()!r} (variables are not understood)") from error
            elif sections[-2:] == ["SUBSYS", "CELL"] and key == "PERIODIC" and len(words) > 1:
                periodic = "" if words[1].upper() == "NONE" else words[1].upper()
            elif sections[-1:] == ["COORD"]:
                if key == "SCALED":
                    scaled = len(words) < 2 or words[1].upper() not in ("F", ".FALSE.", "FALSE", "NO")
                elif key == "UNIT":
                    unit = ANG_PER_BOHR if "bohr" in text.lower() else 1.0
                else:
                    symbols.append(re.sub(r"[^A-Za-z].*", "", words[0]))
                    try:
                        rows.append([float(word) for word in words[1:4]])
                    except ValueError as error:
                        raise reader.wrong(f"a coordinate is no number: {text.strip()!r}") from error
    if "ABC" in vectors:
        cell = np.asarray(cell_of([*vectors["ABC"], *vectors.get("ALPHA_BETA_GAMMA", [90.0, 90.0, 90.0])]))
    elif {"A", "B", "C"} <= vectors.keys():
        cell = np.array([vectors["A"], vectors["B"], vectors["C"]])
    else:
        raise DataError(f"{path}: no A, B, C or ABC in &SUBSYS/&CELL: the cell is unknown")
    if not rows:
        raise DataError(f"{path}: no atoms in &COORD: the structure is unknown")
    positions = np.array(rows)
    pbc = [axis in periodic for axis in "XYZ"]
    return make_atoms(symbols_to_numbers(symbols, str(path)), positions @ cell if scaled else positions * unit, cell, pbc)


class Geometry:
    """Structures of a run.

    Parameters
    ----------
    path
        CP2K's standard output; other files are looked for beside it.
    printed
        What stands in it.
    atoms
        The structure that was computed (the first one of a trajectory), if the caller knows it.
    cut_off
        The run was killed: trajectory files may end anywhere.
    """

    def __init__(self, path: Path, printed: Printed, atoms: Atoms | None, *, cut_off: bool) -> None:
        self._path = path
        self._printed = printed
        self._folder = path.parent
        self._single = printed.run_type.upper() in _SINGLE_POINTS
        self._snapshots: list[_Snapshot] = []
        self._cells: dict[int, NDArray[np.float64]] = {}
        self._cut_off = cut_off
        self._lags = False  # there may be cells that the file has not yet
        self._next = 0
        self._forces: list[_Snapshot] | None = None
        if not self._single:
            trajectory = self._beside("pos-1.xyz")
            self._snapshots = _snapshots(trajectory, cut_off=cut_off) if trajectory else []
            cell_file = self._beside("1.cell")
            self._cells = _cells(cell_file, cut_off=cut_off) if cell_file else {}
            self._lags = cut_off and cell_file is not None
        self._start = atoms if atoms is not None else self._from_input()

    def _beside(self, ending: str) -> Path | None:
        path = self._folder / f"{self._printed.project}-{ending}"
        return path if self._printed.project and path.is_file() else None

    def _from_input(self) -> Atoms:
        name = Path(self._printed.input_name).name
        for candidate in (name, "cp2k.inp", f"{self._printed.project}.inp"):
            if candidate and (self._folder / candidate).is_file():
                return read_input(self._folder / candidate)
        raise DataError(
            f"{self._path}: CP2K prints the cell with three decimals only, so its input file ({name or 'cp2k.inp'}) "
            f"is needed in {self._folder}"
        )

    def structure(self, evaluation: Evaluation, index: int) -> Atoms | str:
        """The structure of an evaluation, or why it is unknown."""
        snapshot = self._find(evaluation)
        if snapshot is not None:
            cell = self._cell_of(snapshot, evaluation)
            if isinstance(cell, str):
                return cell
            return make_atoms(snapshot.atomic_numbers, snapshot.values, cell, self._start.pbc)
        # where the file of a run without end lags behind, the first structure is left out, too: there it has other last digits
        if self._single or (index == 0 and not self._cut_off):
            return self._first(evaluation)
        return f"evaluation {index}: no frame with its energy {evaluation.energy_text} Hartree in {self._printed.project}-pos-1.xyz"

    def _find(self, evaluation: Evaluation) -> _Snapshot | None:
        key = round(float(evaluation.energy_text) * 1e10)
        for place in range(self._next, len(self._snapshots)):
            if abs(self._snapshots[place].energy_key - key) <= 1:
                self._next = place + 1
                return self._snapshots[place]
        # "Reevaluating energy at the minimum": the last structure of a relaxation once more
        if self._snapshots and self._next >= len(self._snapshots) and evaluation.reevaluated:
            return self._snapshots[-1]
        return None

    def _cell_of(self, snapshot: _Snapshot, evaluation: Evaluation) -> NDArray[np.float64] | str:
        if self._cells or self._lags:
            cell = self._cells.get(snapshot.step)
            return cell if cell is not None else f"step {snapshot.step}: its cell is missing in {self._printed.project}-1.cell"
        if self._printed.cell_changes:
            return f"the cell changes in this run and {self._printed.project}-1.cell is missing (&MOTION/&PRINT/&CELL ON)"
        return np.asarray(self._first(evaluation).cell.array)

    def _first(self, evaluation: Evaluation) -> Atoms:
        printed = evaluation.cell_ang
        start = self._start
        if printed is None or np.abs(printed - start.cell.array).max() < _PRINTED_CELL_TOLERANCE_ANG:
            return start
        turned = standard_orientation(start.cell.array)
        if np.abs(printed - turned).max() < _PRINTED_CELL_TOLERANCE_ANG:
            # fractional coordinates stay; positions, forces and stress are in the turned frame
            return make_atoms(start.numbers, np.linalg.solve(start.cell.array.T, start.positions.T).T @ turned, turned, start.pbc)
        texts = [np.array2string(cell.ravel(), precision=3) for cell in (printed, start.cell.array)]
        raise DataError(f"{self._path}: CP2K computed the cell {texts[0]} Å, not that of the structure that was given: {texts[1]} Å")

    def forces(self, evaluation: Evaluation) -> NDArray[np.float64] | None:
        """Forces from PROJECT-frc-1.xyz, in eV/Å, where the output has none."""
        if self._forces is None:
            path = self._beside("frc-1.xyz")
            self._forces = _snapshots(path, cut_off=self._cut_off) if path else []
        key = round(float(evaluation.energy_text) * 1e10)
        for snapshot in self._forces:
            if abs(snapshot.energy_key - key) <= 1:
                return snapshot.values * EV_PER_ANG_PER_HARTREE_PER_BOHR
        return None
