"""What ``pwact-like choose`` does: descriptors of all atoms, and the frames that differ most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.engines.choosers.files import INDEX_FILE, SELECT_FILE
from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_text
from pwact_like.uncertainty.diversity import METHODS, Method, Surroundings, choose_diverse

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.data.frames import Frame


def run_choice_file(path: Path) -> list[int]:
    """Choose as a choose.json asks, in its folder; select.xyz and select_idx.dat appear there. Returns the frames' numbers.

    Raises
    ------
    DataError
        When the file or a file that it names cannot be read.
    """
    from pwact_like.data.formats import read_frames, write_frames

    content = read_json(path)
    try:
        method, count = content["method"], int(content["count"])
        groups, quotas = list(content["groups"]), list(content["quotas"])
        candidates, known_files = path.parent / content["candidates"], list(content.get("known", []))
        model = path.parent / content["model"] if content.get("model") else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not the file of a choice ({error!r}); a campaign's stage writes it") from error
    if method not in METHODS:
        raise DataError(f"{path}: method: {method!r} is none of {', '.join(METHODS)}")
    frames = read_frames(candidates, "extxyz")
    if len(groups) != len(frames):
        raise DataError(f"{path}: {len(groups)} groups for {len(frames)} frames of {candidates.name}")
    known = [frame for entry in known_files for frame in read_frames(path.parent / entry["path"], entry.get("format"))]
    chosen = choose_frames(method, frames, count, known=known, model=model, groups=groups, quotas=quotas)
    write_frames(path.parent / SELECT_FILE, [frames[index] for index in chosen], "extxyz")
    write_text(path.parent / INDEX_FILE, "".join(f"{index}\n" for index in chosen))
    return chosen


def choose_frames(
    method: Method,
    frames: Sequence[Frame],
    count: int,
    *,
    known: Sequence[Frame] = (),
    model: Path | None = None,
    groups: Sequence[int] | None = None,
    quotas: Sequence[int] | None = None,
) -> list[int]:
    """Numbers of at most ``count`` frames, in the order of their choice.

    Parameters
    ----------
    known
        What is known already: fps and entropy choose what differs from it.
    model
        Embedded model whose descriptors are taken; None: SOAP power spectra.
    groups, quotas
        See `choose_diverse`.
    """
    structures, others = [frame.atoms for frame in frames], [frame.atoms for frame in known]
    if not structures:
        return []
    candidates = surroundings(structures, structures + others, model)
    chosen = choose_diverse(
        method,
        candidates,
        count,
        groups=None if groups is None else np.array(groups, dtype=np.int64),
        quotas=quotas,
        known=surroundings(others, structures + others, model) if others and method != "direct" else None,
    )
    return [int(index) for index in chosen]


def surroundings(structures: Sequence[Atoms], everything: Iterable[Atoms], model: Path | None) -> Surroundings:
    """Descriptors of the atoms of ``structures``; ``everything`` tells which elements there are."""
    descriptors: Iterable[NDArray[np.float64]]
    if model is not None:
        from pwact_like.potentials.surroundings import model_descriptors

        descriptors = model_descriptors(model, structures)
    else:
        from pwact_like.data.power_spectrum import power_spectrum

        elements = sorted({int(number) for atoms in everything for number in atoms.numbers})
        descriptors = (power_spectrum(atoms, elements) for atoms in structures)
    return Surroundings(
        np.concatenate(list(descriptors)),
        np.repeat(np.arange(len(structures)), [len(atoms) for atoms in structures]),
        np.concatenate([atoms.numbers for atoms in structures]).astype(np.int64),
    )
