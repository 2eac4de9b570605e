"""What is counted and fitted before a training: neighbour slots, the spread of environments, reference energies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pwact_like.config.elements import symbol
from pwact_like.errors import InputError, Problem
from pwact_like.potentials.geometry import switched_inverse
from pwact_like.potentials.spec import DeepPotSpec
from pwact_like.potentials.training_set import TrainingFrame

if TYPE_CHECKING:
    from pwact_like.potentials.deep_potential import DeepPotential

_DEFAULT_STD = 0.1  # for an element that no frame holds
_SMALLEST_STD = 0.01


def neighbor_counts(frame: TrainingFrame, n_types: int) -> NDArray[np.int64]:
    """Neighbours of each type within Rmax of each atom, (n_atoms, n_types)."""
    counts = np.zeros((len(frame.types), n_types), dtype=np.int64)
    np.add.at(counts, (frame.pair_i, frame.types[frame.pair_j]), 1)
    np.add.at(counts, (frame.pair_j, frame.types[frame.pair_i]), 1)
    return counts


def count_sel(frames: Sequence[TrainingFrame], n_types: int) -> tuple[int, ...]:
    """Neighbour slots of each type: the most that any atom has, a tenth more, rounded up to a multiple of four.

    DeePMD-kit's "auto"; at least four, so that isolated atoms alone do not make a divisor of zero.
    """
    most = np.zeros(n_types, dtype=np.int64)
    for frame in frames:
        most = np.maximum(most, neighbor_counts(frame, n_types).max(axis=0, initial=0))
    return tuple(max(4, 4 * ((int(1.1 * int(count)) + 3) // 4)) for count in most)


def environment_spread(frames: Sequence[TrainingFrame], spec: DeepPotSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of s and standard deviations of s and of s·x/r over all slots (empty ones count as zeros), by centre's type.

    Returns
    -------
    davg
        (n_types,).
    dstd
        (n_types, 2).
    """
    sums = np.zeros((spec.n_types, 2))  # Σ s, Σ s²
    atoms = np.zeros(spec.n_types)
    for frame in frames:
        distance = torch.from_numpy(np.linalg.norm(frame.vectors, axis=1))
        s = switched_inverse(distance, spec.rmin_ang, spec.rmax_ang)[0].numpy()
        atoms += np.bincount(frame.types, minlength=spec.n_types)
        for end in (frame.pair_i, frame.pair_j):
            types = frame.types[end]
            sums[:, 0] += np.bincount(types, weights=s, minlength=spec.n_types)
            sums[:, 1] += np.bincount(types, weights=s * s, minlength=spec.n_types)
    slots = np.maximum(atoms * spec.n_slots, 1.0)
    mean = sums[:, 0] / slots
    radial = np.sqrt(np.maximum(sums[:, 1] / slots - mean**2, 0.0))
    angular = np.sqrt(sums[:, 1] / slots / 3.0)  # |s r̂|² = s², a third of it along each axis
    spread = np.maximum(np.stack([radial, angular], axis=1), _SMALLEST_STD)
    spread[atoms == 0] = _DEFAULT_STD
    return torch.from_numpy(mean), torch.from_numpy(spread)


def reference_energies(frames: Sequence[TrainingFrame], n_types: int) -> torch.Tensor:
    """Energy of each element, eV: least squares of the frames' energies over their compositions (smallest norm if degenerate)."""
    counts = np.array([np.bincount(frame.types, minlength=n_types) for frame in frames], dtype=np.float64)
    energies = np.array([frame.energy_ev for frame in frames])
    return torch.from_numpy(np.linalg.lstsq(counts, energies, rcond=None)[0])


def unseen_types(davg: torch.Tensor, dstd: torch.Tensor) -> list[int]:
    """Types that no frame held when `environment_spread` made these: an element that one did hold has another davg or dstd."""
    return [kind for kind in range(len(davg)) if float(davg[kind]) == 0.0 and bool((dstd[kind] == _DEFAULT_STD).all())]


@torch.no_grad()
def complete(model: DeepPotential, frames: Sequence[TrainingFrame]) -> list[int]:
    """Give a model that is trained further davg, dstd and reference energies of the elements that it has never met.

    What its first training saw is left as it is, to the bit. The new elements' reference energies are the least squares of
    the frames' energies less those of the known elements; an element that these frames do not hold either stays open.

    Returns
    -------
    list of int
        Types that were completed.

    Raises
    ------
    InputError
        When the frames do not tell the new elements' reference energies apart.
    """
    counts = np.array([np.bincount(frame.types, minlength=model.spec.n_types) for frame in frames], dtype=np.float64)
    new = [kind for kind in unseen_types(model.davg, model.dstd) if counts[:, kind].any()]
    if not new:
        return []
    known = [kind for kind in range(model.spec.n_types) if kind not in new]
    bias = model.energy_bias.cpu().numpy()
    left = np.array([frame.energy_ev for frame in frames]) - counts[:, known] @ bias[known]
    found, _, rank, _ = np.linalg.lstsq(counts[:, new], left, rcond=None)
    if rank < len(new):
        names = " and ".join(symbol(model.spec.type_map[kind]) for kind in new)
        raise InputError(
            Problem(
                "train_data",
                f"{names} are new to the model, and these frames hold them in one proportion only: their energies cannot be told apart",
                "add a frame of another proportion (one of a lone atom is enough), or train from scratch",
            )
        )
    davg, dstd = environment_spread(frames, model.spec)
    model.davg[new], model.dstd[new] = davg[new].to(model.davg), dstd[new].to(model.dstd)
    model.energy_bias[new] = torch.from_numpy(found).to(model.energy_bias)
    return new


def aligned_atomic_energies(frames: Sequence[TrainingFrame], bias: torch.Tensor) -> list[TrainingFrame]:
    """The frames with atomic energies whose mean for each element is the model's reference energy (n_types,), eV.

    A program shares the energy out among elements in its own way; forces and energies cannot tell how, so only what
    differs between atoms of one element is trained on.
    """
    known = [frame for frame in frames if frame.atomic_energies_ev is not None]
    if not known:
        return list(frames)
    types = np.concatenate([frame.types for frame in known])
    values = np.concatenate([frame.atomic_energies_ev for frame in known if frame.atomic_energies_ev is not None])
    counts = np.maximum(np.bincount(types, minlength=len(bias)), 1)
    shift = bias.cpu().numpy() - np.bincount(types, weights=values, minlength=len(bias)) / counts
    return [
        frame if frame.atomic_energies_ev is None else replace(frame, atomic_energies_ev=frame.atomic_energies_ev + shift[frame.types])
        for frame in frames
    ]
