"""Labelled frames as a training takes them: neighbours found once, environments kept as far as memory allows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pwact_like.data.frames import Frame
from pwact_like.errors import DataError
from pwact_like.potentials.committee import types_of
from pwact_like.potentials.geometry import Geometry, build_geometry, build_layout, moved, pair_vectors
from pwact_like.potentials.neighbors import find_pairs
from pwact_like.potentials.spec import DeepPotSpec

CACHE_BYTES = 2 << 30  # environments beyond this are made anew at each visit; results do not depend on it


@dataclass(frozen=True, eq=False)
class TrainingFrame:
    """One labelled structure with its pairs.

    Attributes
    ----------
    types
        (n_atoms,) place of each atom's element in the type map.
    pair_i, pair_j, vectors
        Pairs within Rmax, each once, and x_j − x_i in Å.
    energy_ev, forces_ev_per_ang, virial_ev, atomic_energies_ev
        The label; None where there is none of a kind.
    """

    types: NDArray[np.int64]
    pair_i: NDArray[np.int64]
    pair_j: NDArray[np.int64]
    vectors: NDArray[np.float64]
    energy_ev: float
    forces_ev_per_ang: NDArray[np.float64]
    virial_ev: NDArray[np.float64] | None
    atomic_energies_ev: NDArray[np.float64] | None = None

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.types)


@dataclass(frozen=True, eq=False)
class Batch:
    """Frames for one step.

    Attributes
    ----------
    geometry
        Of all frames together.
    n_atoms
        (n_frames,) atoms of each frame.
    energies, forces
        (n_frames,) eV and (n_atoms of all, 3) eV/Å.
    atom_frame
        (n_atoms of all,) frame of each atom.
    virials, has_virial
        (n_frames, 3, 3) eV, zero where ``has_virial`` (n_frames,) is 0.
    atomic_energies
        (n_atoms of all,) eV, NaN where a frame has none.
    """

    geometry: Geometry
    n_atoms: Tensor
    energies: Tensor
    forces: Tensor
    atom_frame: Tensor
    virials: Tensor
    has_virial: Tensor
    atomic_energies: Tensor

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.energies)


def prepare_frame(frame: Frame, spec: DeepPotSpec, where: str) -> TrainingFrame:
    """Find the pairs of a labelled frame.

    Raises
    ------
    DataError
        Naming ``where``: no label, a label that is not finite or does not fit, an unknown element, an empty structure.
    """
    label, atoms = frame.label, frame.atoms
    if label is None:
        raise DataError(f"{where}: no energy and forces; leave this frame out, or label it")
    forces = np.asarray(label.forces_ev_per_ang, dtype=np.float64)
    if len(atoms) == 0 or forces.shape != (len(atoms), 3):
        raise DataError(f"{where}: forces of shape {forces.shape} for {len(atoms)} atoms")
    if not (np.isfinite(label.energy_ev) and np.isfinite(forces).all()):
        raise DataError(f"{where}: its energy or a force is not a finite number")
    virial = None if label.virial_ev is None else np.asarray(label.virial_ev, dtype=np.float64).reshape(3, 3)
    if virial is not None and not np.isfinite(virial).all():
        raise DataError(f"{where}: its virial is not finite (leave a missing virial out)")
    try:
        types = types_of(atoms.numbers, spec)
        pairs = find_pairs(atoms, spec.rmax_ang)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    vectors = pairs.vectors(atoms.positions, atoms.cell.array)
    atomic = None if label.atomic_energies_ev is None else np.asarray(label.atomic_energies_ev, dtype=np.float64)
    if atomic is not None and not (atomic.shape == (len(atoms),) and np.isfinite(atomic).all()):
        raise DataError(f"{where}: its atomic energies are not {len(atoms)} finite numbers (leave them out)")
    return TrainingFrame(types, pairs.i, pairs.j, vectors, float(label.energy_ev), forces, virial, atomic)


def prepare_frames(frames: Iterable[tuple[str, Frame]], spec: DeepPotSpec) -> list[TrainingFrame]:
    """`prepare_frame` for frames with their places; every bad frame is named at once.

    Raises
    ------
    DataError
        Naming the bad frames (the first ten).
    """
    prepared, problems = [], []
    for where, frame in frames:
        try:
            prepared.append(prepare_frame(frame, spec, where))
        except DataError as error:
            problems.append(str(error))
    if problems:
        more = f"\n… and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError("\n".join(problems[:10]) + more)
    return prepared


def content_hash(frames: Sequence[TrainingFrame]) -> str:
    """Hash of types, pairs and labels in order: a checkpoint belongs to its data."""
    digest = hashlib.sha256()
    for frame in frames:
        for array in (frame.types, frame.vectors, frame.forces_ev_per_ang, np.array([frame.energy_ev])):
            digest.update(np.ascontiguousarray(array).tobytes())
        if frame.atomic_energies_ev is not None:
            digest.update(np.ascontiguousarray(frame.atomic_energies_ev).tobytes())
        digest.update(b"-" if frame.virial_ev is None else np.ascontiguousarray(frame.virial_ev).tobytes())
    return digest.hexdigest()


def _atomic(frame: TrainingFrame) -> NDArray[np.float64]:
    return np.full(frame.n_atoms, np.nan) if frame.atomic_energies_ev is None else frame.atomic_energies_ev


class TrainingSet:
    """Frames with their environments for given davg, dstd.

    Parameters
    ----------
    davg, dstd
        See `build_geometry`.
    cache_bytes
        Memory for environments of single frames; the rest is built at each visit.
    """

    def __init__(
        self,
        frames: Sequence[TrainingFrame],
        spec: DeepPotSpec,
        davg: Tensor,
        dstd: Tensor,
        device: torch.device | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.frames = list(frames)
        self._spec, self._davg, self._dstd = spec, davg.cpu(), dstd.cpu()
        self._device = device or torch.device("cpu")
        self._free_bytes = cache_bytes
        self._cache: dict[int, Batch] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Some frames as a batch; single frames are kept."""
        if len(indices) > 1:
            return self._build(indices)
        index = int(indices[0])
        if index in self._cache:
            return self._cache[index]
        batch = self._build(indices)
        size = batch.geometry.n_bytes()
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._cache[index] = batch
        return batch

    def _build(self, indices: Sequence[int]) -> Batch:
        frames = [self.frames[index] for index in indices]
        counts = np.array([frame.n_atoms for frame in frames])
        starts = np.cumsum(counts) - counts
        atom_frame = np.repeat(np.arange(len(frames)), counts)
        layout = build_layout(
            np.concatenate([frame.types for frame in frames]),
            np.concatenate([frame.pair_i + start for frame, start in zip(frames, starts, strict=True)]),
            np.concatenate([frame.pair_j + start for frame, start in zip(frames, starts, strict=True)]),
            self._spec.n_types,
            atom_frame,
            len(frames),
        )
        vectors = torch.from_numpy(np.concatenate([frame.vectors for frame in frames]))
        geometry = build_geometry(layout, pair_vectors(layout, vectors), self._spec, self._davg, self._dstd)
        virials = [np.zeros((3, 3)) if frame.virial_ev is None else frame.virial_ev for frame in frames]
        batch = Batch(
            geometry=geometry,
            n_atoms=torch.from_numpy(counts.astype(np.float64)),
            energies=torch.tensor([frame.energy_ev for frame in frames], dtype=torch.float64),
            forces=torch.from_numpy(np.concatenate([frame.forces_ev_per_ang for frame in frames])),
            atom_frame=torch.from_numpy(atom_frame),
            virials=torch.from_numpy(np.stack(virials)),
            has_virial=torch.tensor([frame.virial_ev is not None for frame in frames], dtype=torch.float64),
            atomic_energies=torch.from_numpy(np.concatenate([_atomic(frame) for frame in frames])),
        )
        return batch if self._device.type == "cpu" else moved(batch, self._device)
