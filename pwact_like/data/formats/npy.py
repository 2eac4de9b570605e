"""Folders of NumPy files: PWMLFF's ``pwmlff/npy`` and DeePMD-kit's ``deepmd/npy``, both in float64.

pwmlff/npy, one folder a composition (Si64, Li32Si44, …), as pwdata 0.5 lays it out: atom_type (the elements),
image_type (1, n_atoms), lattice (n, 9), position (n, 3·n_atoms; fractional), energies (n, 1), forces (n, 3·n_atoms), ei
(n, n_atoms), virials (n, 9). Atoms are sorted by atomic number. pwdata marks a missing virial by −10⁵ in every component;
here frames without virial go into a folder of their own that has no virials.npy. The format knows crystals only: where
a direction is open, our own pbc.npy (n, 3) beside the others says so (other programs take every direction as periodic).
Our own level_of_theory.npy (n,), in both formats, keeps what forbids to mix data of different levels.

deepmd/npy: type.raw, type_map.raw, set.000/{box, coord, energy, force, virial}.npy; real_atom_types.npy (mixed type)
is read too. https://docs.deepmodeling.com/projects/deepmd/en/stable/data/system.html
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.formats.base import Item, make_atoms, symbols_to_numbers
from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.errors import DataError
from pwact_like.fsio import write_bytes, write_text

MISSING_VIRIAL = -1.0e5  # pwdata's mark in virials.npy
LEVEL_FILE = "level_of_theory.npy"


def _load(path: Path) -> NDArray[np.float64]:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file is missing") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a whole .npy file: {error}") from error
    return np.asarray(array)


def _shaped(path: Path, *shape: int) -> NDArray[np.float64]:
    array = _load(path).astype(np.float64)
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise DataError(f"{path}: its shape {array.shape} does not fit {shape} (−1: any number of frames)") from error


def _systems(root: Path, marker: str) -> list[Path]:
    """Folders below ``root`` that hold ``marker``; train beside valid is ambiguous and refused."""
    if not root.is_dir():
        raise DataError(f"{root}: this format is a folder, and there is none")
    found = sorted(path.parent for path in root.rglob(marker))
    if not found:
        raise DataError(f"{root}: no {marker} in this folder or below it")
    parts = [set(path.relative_to(root).parts) for path in found]
    if any("train" in part for part in parts) and any("valid" in part for part in parts):
        raise DataError(f"{root}: holds train and valid data: name one of the two folders, so that they are not mixed")
    return found


def _same_length(folder: Path, **arrays: NDArray[Any] | None) -> int:
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) != 1:
        raise DataError(f"{folder}: the files hold different numbers of frames: {lengths}")
    return next(iter(lengths.values()))


def _levels(folder: Path, count: int) -> list[str]:
    """Level of theory of each frame, "" where the folder does not say."""
    path = folder / LEVEL_FILE
    if not path.exists():
        return [""] * count
    levels = [str(level) for level in _load(path).ravel()]
    if len(levels) != count:
        raise DataError(f"{path}: {len(levels)} levels of theory for {count} frames")
    return levels


def _save_levels(folder: Path, group: Sequence[tuple[Frame, NDArray[np.int64]]]) -> None:
    levels = [frame.level_of_theory for frame, _ in group]
    if any(levels):
        _save(folder / LEVEL_FILE, np.array(levels))


def iter_pwmlff(root: Path) -> Iterator[Item]:
    """Frames of a pwmlff/npy folder or of several below one."""
    index = 0
    for folder in _systems(root, "position.npy"):
        atomic_numbers = _load(folder / "image_type.npy").astype(np.int64).ravel()
        n_atoms = len(atomic_numbers)
        if n_atoms == 0 or (atomic_numbers < 1).any() or (atomic_numbers > 118).any():
            raise DataError(f"{folder / 'image_type.npy'}: atomic numbers are expected")
        cells = _shaped(folder / "lattice.npy", -1, 3, 3)
        scaled = _shaped(folder / "position.npy", -1, n_atoms, 3)
        labelled = (folder / "energies.npy").exists() and (folder / "forces.npy").exists()
        energies = _shaped(folder / "energies.npy", -1) if labelled else None
        forces = _shaped(folder / "forces.npy", -1, n_atoms, 3) if labelled else None
        virials = _shaped(folder / "virials.npy", -1, 3, 3) if (folder / "virials.npy").exists() else None
        periodic = _load(folder / "pbc.npy").astype(bool).reshape(-1, 3) if (folder / "pbc.npy").exists() else None
        _same_length(folder, lattice=cells, position=scaled, energies=energies, forces=forces, virials=virials, pbc=periodic)
        levels = _levels(folder, len(cells))
        for place in range(len(cells)):
            label = None
            if energies is not None and forces is not None:
                virial = None if virials is None or (virials[place] <= MISSING_VIRIAL).all() else virials[place].copy()
                label = Label(float(energies[place]), forces[place].copy(), virial)
            pbc = True if periodic is None else periodic[place]
            atoms = make_atoms(atomic_numbers, scaled[place] @ cells[place], cells[place], pbc)
            yield Frame(atoms, label, Origin(source=str(folder), step=place), levels[place])
            index += 1
    if index == 0:
        raise DataError(f"{root}: the files hold no frame")


def _deepmd_types(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    try:
        indices = np.array((folder / "type.raw").read_text(encoding="utf-8").split(), dtype=np.int64)
        names = (folder / "type_map.raw").read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: type.raw and type_map.raw (the elements' names) are needed: {error}") from error
    elements = symbols_to_numbers(names, str(folder / "type_map.raw"))
    if (indices < 0).any() or (indices >= len(elements)).any():
        raise DataError(f"{folder / 'type.raw'}: a type has no name in type_map.raw ({len(elements)} names)")
    return indices, elements


def iter_deepmd(root: Path) -> Iterator[Item]:
    """Frames of a deepmd/npy folder or of several below one."""
    index = 0
    for folder in _systems(root, "type.raw"):
        types, elements = _deepmd_types(folder)
        n_atoms = len(types)
        periodic = not (folder / "nopbc").exists()
        sets = sorted(folder.glob("set.*"))
        if not sets:
            raise DataError(f"{folder}: no set.000 in it")
        step = 0
        for part in sets:
            positions = _shaped(part / "coord.npy", -1, n_atoms, 3)
            cells = _shaped(part / "box.npy", -1, 3, 3) if periodic else None
            labelled = (part / "energy.npy").exists() and (part / "force.npy").exists()
            energies = _shaped(part / "energy.npy", -1) if labelled else None
            forces = _shaped(part / "force.npy", -1, n_atoms, 3) if labelled else None
            virials = _shaped(part / "virial.npy", -1, 3, 3) if (part / "virial.npy").exists() else None
            mixed = _shaped(part / "real_atom_types.npy", -1, n_atoms).astype(np.int64) if (part / "real_atom_types.npy").exists() else None
            _same_length(part, coord=positions, box=cells, energy=energies, force=forces, virial=virials, real_atom_types=mixed)
            levels = _levels(part, len(positions))
            for place in range(len(positions)):
                of_frame = types if mixed is None else mixed[place]
                real = of_frame >= 0  # −1 pads frames of fewer atoms
                label = None
                if energies is not None and forces is not None:
                    virial = None if virials is None else virials[place].copy()
                    label = Label(float(energies[place]), forces[place][real], virial)
                atoms = make_atoms(elements[of_frame[real]], positions[place][real], None if cells is None else cells[place])
                yield Frame(atoms, label, Origin(source=str(folder), step=step), levels[place])
                index += 1
                step += 1
    if index == 0:
        raise DataError(f"{root}: the files hold no frame")


def _save(path: Path, array: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def _by_composition(frames: Iterable[Frame]) -> dict[tuple[str, bool], list[tuple[Frame, NDArray[np.int64]]]]:
    """Frames with the permutation that sorts their atoms, by formula and presence of a virial."""
    groups: dict[tuple[str, bool], list[tuple[Frame, NDArray[np.int64]]]] = {}
    for frame in frames:
        if frame.label is None:
            raise DataError(
                f"{frame.origin.source or 'frame'} (step {frame.origin.step}): a frame without label cannot be written in this format"
            )
        if frame.atoms.cell.rank < 3:
            raise DataError(
                f"{frame.origin.source or 'frame'} (step {frame.origin.step}): a structure without cell cannot be written in this format"
            )
        order = np.argsort(frame.atoms.numbers, kind="stable")
        groups.setdefault((_formula(frame), frame.label.virial_ev is not None), []).append((frame, order))
    return groups


def _formula(frame: Frame) -> str:
    """Elements by rising atomic number, each with its count, as pwdata names its folders: Li32Si44, Cu72."""
    from ase.data import chemical_symbols

    elements, counts = np.unique(frame.atoms.numbers, return_counts=True)
    return "".join(f"{chemical_symbols[element]}{count}" for element, count in zip(elements, counts, strict=True))


def _write_groups(
    root: Path, frames: Iterable[Frame], marker: str, write: Callable[[Path, Sequence[tuple[Frame, NDArray[np.int64]]]], None]
) -> list[Path]:
    """Write a folder a group. Folders of these names are replaced (a killed writer starts again); others are not tolerated."""
    groups = _by_composition(frames)
    folders = {}
    for formula, has_virial in sorted(groups):
        both = (formula, not has_virial) in groups
        folders[root / (formula if has_virial or not both else f"{formula}_no_virial")] = groups[formula, has_virial]
    strange = sorted({path.parent for path in root.rglob(marker)} - folders.keys()) if root.is_dir() else []
    if strange:
        raise DataError(f"{strange[0]}: other data are there already, and data are never mixed (name another folder, or remove {root})")
    for folder, group in folders.items():
        if folder.is_dir():
            (folder / marker).unlink(missing_ok=True)  # from here on until it is written again readers see no data set
            for old in [*folder.glob("*.npy"), *folder.glob("set.*/*.npy")]:
                old.unlink()
        write(folder, group)
    return list(folders)


def _stack(group: Sequence[tuple[Frame, NDArray[np.int64]]]) -> dict[str, NDArray[np.float64]]:
    labels = [(frame.label, order) for frame, order in group]
    arrays = {
        "cells": np.array([frame.atoms.cell.array.ravel() for frame, _ in group]),
        "positions": np.array([frame.atoms.positions[order] for frame, order in group]),
        "energies": np.array([label.energy_ev for label, _ in labels if label]),
        "forces": np.array([label.forces_ev_per_ang[order].ravel() for label, order in labels if label]),
    }
    virials = [label.virial_ev.ravel() for label, _ in labels if label and label.virial_ev is not None]
    if virials:
        arrays["virials"] = np.array(virials)
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise DataError(f"{group[0][0].origin.source or 'frames'}: a label is not finite and cannot be written")
    return arrays


def write_pwmlff(root: Path, frames: Iterable[Frame]) -> list[Path]:
    """Write frames below ``root``, a folder a composition; returns the folders."""

    def write(folder: Path, group: Sequence[tuple[Frame, NDArray[np.int64]]]) -> None:
        arrays = _stack(group)
        n_frames, n_atoms = arrays["positions"].shape[:2]
        first, order = group[0]
        atomic_numbers = first.atoms.numbers[order].astype(np.int64)
        elements, counts = np.unique(atomic_numbers, return_counts=True)
        cells = arrays["cells"].reshape(-1, 3, 3)
        # solved, not multiplied by an inverse: the fractional coordinates keep their last digit
        scaled = np.linalg.solve(cells.transpose(0, 2, 1), arrays["positions"].transpose(0, 2, 1)).transpose(0, 2, 1)
        # pwdata's atomic energies where the program gave none: the least-norm solution of Σ n_t·e_t = E
        share = np.repeat(counts / float((counts**2).sum()), counts)
        _save(folder / "atom_type.npy", elements.astype(np.int64))
        _save(folder / "image_type.npy", atomic_numbers.reshape(1, -1))
        _save(folder / "lattice.npy", arrays["cells"])
        _save(folder / "energies.npy", arrays["energies"].reshape(-1, 1))
        _save(folder / "forces.npy", arrays["forces"])
        _save(folder / "ei.npy", arrays["energies"].reshape(-1, 1) * share)
        if "virials" in arrays:
            _save(folder / "virials.npy", arrays["virials"])
        _save_levels(folder, group)
        periodic = np.array([frame.atoms.pbc for frame, _ in group])
        if not periodic.all():
            _save(folder / "pbc.npy", periodic)
        _save(folder / "position.npy", scaled.reshape(n_frames, 3 * n_atoms))  # last: readers look for this one

    return _write_groups(root, frames, "position.npy", write)


def write_deepmd(root: Path, frames: Iterable[Frame]) -> list[Path]:
    """Write frames below ``root``, a folder a composition; returns the folders.

    Raises
    ------
    DataError
        For open boundaries too: DeePMD-kit would take them as periodic.
    """
    from ase.data import chemical_symbols

    frames = list(frames)
    for frame in frames:
        if not frame.atoms.pbc.all():
            place = f"{frame.origin.source or 'frame'} (step {frame.origin.step})"
            raise DataError(f"{place}: open boundaries have no place in deepmd/npy (write extxyz, or take a periodic box)")

    def write(folder: Path, group: Sequence[tuple[Frame, NDArray[np.int64]]]) -> None:
        arrays = _stack(group)
        first, order = group[0]
        elements, types = np.unique(first.atoms.numbers[order], return_inverse=True)
        part = folder / "set.000"
        _save(part / "box.npy", arrays["cells"])
        _save(part / "coord.npy", arrays["positions"].reshape(len(group), -1))
        _save(part / "energy.npy", arrays["energies"])
        _save(part / "force.npy", arrays["forces"])
        if "virials" in arrays:
            _save(part / "virial.npy", arrays["virials"])
        _save_levels(part, group)
        write_text(folder / "type_map.raw", "".join(f"{chemical_symbols[element]}\n" for element in elements))
        write_text(folder / "type.raw", "".join(f"{index}\n" for index in types))  # last: readers look for this one

    return _write_groups(root, frames, "type.raw", write)
