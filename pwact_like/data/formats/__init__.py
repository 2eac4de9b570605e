"""Reading and writing labelled frames and structures, whatever program made them.

Everything comes back in the project's units and signs (see `pwact_like.units`). Readers never lose a frame silently: a
broken or truncated file is a `DataError` that names file and place, a frame that is no label (SCF not converged, no
forces) is named in `ReadResult.rejected`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.data.formats.base import Item, ReadResult, Rejected, TruncatedError
from pwact_like.data.formats.detect import FORMATS, canonical, detect_format
from pwact_like.data.frames import Frame
from pwact_like.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "FORMATS",
    "WRITABLE",
    "ReadResult",
    "Rejected",
    "TruncatedError",
    "detect_format",
    "iter_frames",
    "iter_items",
    "read_cut_off",
    "read_frames",
    "read_labelled",
    "read_structure",
    "write_frames",
]

WRITABLE = ("extxyz", "pwmlff/npy", "deepmd/npy")

_log = logging.getLogger(__name__)


def _source(path: Path, format_name: str, elements: Sequence[str] | None) -> Iterator[Item]:
    """Items of a path in a format; imports the reader only."""
    from pwact_like.data.formats import ase_io, extxyz, npy, pwmat, vasp

    if format_name in ("pwmat/movement", "pwmat/mlmd"):
        return pwmat.iter_movement(path)
    if format_name == "vasp/outcar":
        return vasp.iter_outcar(path)
    if format_name == "vasp/xml":
        from pwact_like.data.formats.vasprun import iter_vasprun

        return iter_vasprun(path)
    if format_name == "vasp/xdatcar":
        from pwact_like.data.formats.xdatcar import iter_xdatcar

        return iter_xdatcar(path)
    if format_name in ("cp2k/scf", "cp2k/md"):
        from pwact_like.data.cp2k_output import iter_cp2k_output

        return iter_cp2k_output(path)
    if format_name == "extxyz":
        return extxyz.iter_extxyz(path)
    if format_name == "pwmlff/npy":
        return npy.iter_pwmlff(path)
    if format_name == "deepmd/npy":
        return npy.iter_deepmd(path)
    if format_name == "lammps/dump":
        from pwact_like.data.lammps_dump import iter_dump

        return iter_dump(path, elements)
    if format_name == "pwmat/config":
        return iter([Frame(pwmat.read_atom_config(path))])
    if format_name == "vasp/poscar":
        return iter([Frame(ase_io.read_poscar(path))])
    if format_name == "lammps/lmp":
        return iter([Frame(ase_io.read_lammps_data(path, elements))])
    return ase_io.iter_ase(path, None if format_name == "ase" else format_name)


def _resolve(path: Path, format_name: str | None) -> str:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if format_name is None:
        return detect_format(path)
    name = canonical(format_name)
    if name not in FORMATS and name != "ase":
        from ase.io.formats import ioformats

        if name not in ioformats:
            raise DataError(f"{path}: unknown format {format_name!r}; known: {', '.join(FORMATS)}, and ASE's names")
    return name


def iter_items(
    path: Path, format: str | None = None, *, virial_sign: int = 1, elements: Sequence[str] | None = None, truncated_ok: bool = False
) -> Iterator[Item]:
    """Frames and rejected frames of a file or folder, in its order.

    Parameters
    ----------
    path
        File or folder.
    format
        One of `FORMATS`, a format name of ASE, or None: look at name and content.
    virial_sign
        −1 flips the virial: for data sets written with the opposite sign.
    elements
        Symbols of LAMMPS's types 1, 2, …, where the file has none.
    truncated_ok
        Take a file that ends too early for what it has; the broken end then is a `Rejected`.

    Raises
    ------
    DataError
        Naming file and place.
    """
    if virial_sign not in (1, -1):
        raise DataError(f"{path}: virial_sign must be 1 or -1, not {virial_sign}")
    name = _resolve(path, format)
    count = 0
    try:
        for item in _source(path, name, elements):
            count += 1
            if virial_sign == -1 and isinstance(item, Frame) and item.label is not None and item.label.virial_ev is not None:
                item = replace(item, label=replace(item.label, virial_ev=-item.label.virial_ev))
            yield item
    except TruncatedError as error:
        if not truncated_ok or count == 0:
            raise
        yield Rejected(count, str(error))


def iter_frames(path: Path, format: str | None = None, *, virial_sign: int = 1, elements: Sequence[str] | None = None) -> Iterator[Frame]:
    """Frames of a file or folder; unconverged ones are left out with a warning in the log. See `iter_items`."""
    rejected = []
    for item in iter_items(path, format, virial_sign=virial_sign, elements=elements):
        if isinstance(item, Frame):
            yield item
        else:
            rejected.append(item)
    if rejected:
        _log.warning("%s: %d frame(s) left out; the first: %d: %s", path, len(rejected), rejected[0].index, rejected[0].reason)


def read_frames(path: Path, format: str | None = None, *, virial_sign: int = 1, elements: Sequence[str] | None = None) -> list[Frame]:
    """All frames of a file or folder, labelled or not. See `iter_items`."""
    return list(iter_frames(path, format, virial_sign=virial_sign, elements=elements))


def read_labelled(
    path: Path, format: str | None = None, *, virial_sign: int = 1, elements: Sequence[str] | None = None, truncated_ok: bool = False
) -> ReadResult:
    """Labelled frames of finite numbers, and every other frame with the reason why it is none. See `iter_items`."""
    result = ReadResult([], [])
    _sort(iter_items(path, format, virial_sign=virial_sign, elements=elements, truncated_ok=truncated_ok), result)
    return result


def read_cut_off(items: Iterable[Item]) -> ReadResult:
    """What a file holds up to where it was cut off: its whole frames, as `read_labelled` has them. It may be none.

    Parameters
    ----------
    items
        From a reader that raises `TruncatedError` behind the last whole frame.

    Raises
    ------
    DataError
        For anything else that is wrong with the file.
    """
    result = ReadResult([], [])
    # where it was cut off is no news to the caller
    with suppress(TruncatedError):
        _sort(items, result)
    return result


def _sort(items: Iterable[Item], result: ReadResult) -> None:
    """Add labelled frames of finite numbers to a result, and every other frame with the reason."""
    from pwact_like.data.checks import not_finite

    for index, item in enumerate(items):
        if isinstance(item, Rejected):
            result.rejected.append((item.index, item.reason))
        elif item.label is None:
            result.rejected.append((index, "no energy or no forces"))
        elif (reason := not_finite(item)) is not None:
            result.rejected.append((index, reason))
        else:
            result.frames.append(item)


def read_structure(path: Path, format: str | None = None, *, elements: Sequence[str] | None = None) -> Atoms:
    """One structure: atom.config, POSCAR, cif, extxyz, LAMMPS data, whatever ASE reads.

    Raises
    ------
    DataError
        When the file holds none, or more than one.
    """
    items = iter_items(path, format, elements=elements)
    structures: list[Atoms] = []
    for item in items:
        if isinstance(item, Frame):
            structures.append(item.atoms)
        if len(structures) > 1:
            raise DataError(f"{path}: one structure is expected, and this file holds several: cut out the one you mean")
    if not structures:
        raise DataError(f"{path}: no structure in it")
    return structures[0]


def write_frames(path: Path, frames: Iterable[Frame], format: str = "extxyz") -> None:
    """Write frames in one of `WRITABLE`; a file appears whole or not at all.

    extxyz is one file; pwmlff/npy and deepmd/npy make one folder a composition below ``path``.

    Raises
    ------
    DataError
        For a format that is not written, a label that is not finite, frames without label in the npy formats.
    """
    name = canonical(format)
    if name == "extxyz":
        from pwact_like.data.formats.extxyz import write_extxyz

        write_extxyz(path, frames)
    elif name == "pwmlff/npy":
        from pwact_like.data.formats.npy import write_pwmlff

        write_pwmlff(path, frames)
    elif name == "deepmd/npy":
        from pwact_like.data.formats.npy import write_deepmd

        write_deepmd(path, frames)
    else:
        raise DataError(f"{path}: format {format!r} cannot be written; these can: {', '.join(WRITABLE)}")
