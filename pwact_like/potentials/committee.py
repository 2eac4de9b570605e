"""Using trained models: one, or a committee whose members share neighbours, environments and one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pwact_like.config.elements import symbol
from pwact_like.errors import DataError
from pwact_like.potentials.deep_potential import DeepPotential, evaluate, stacked
from pwact_like.potentials.device import device_of
from pwact_like.potentials.geometry import Geometry, Layout, build_geometry, build_layout, moved
from pwact_like.potentials.members import refuse_members
from pwact_like.potentials.modelfile import CHGNET_FORMAT, format_of, read_model
from pwact_like.potentials.neighbors import find_pairs, reference_of, still_complete
from pwact_like.potentials.network import Weights
from pwact_like.potentials.spec import DeepPotSpec

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.potentials.chgnet_model import ChgnetCommittee

SKIN_ANG = 0.3  # pairs of an MD run are found this much beyond the cutoff and kept while they stay complete
NEAR_ANG = 1.0  # structures that differ by less look like two steps of one run


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of a structure.

    Attributes
    ----------
    energy_ev
        Energy of the cell, eV.
    forces_ev_per_ang
        (n_atoms, 3), eV/Å.
    virial_ev
        (3, 3), eV, −∂E/∂ε.
    atomic_energies
        (n_atoms,), eV.
    """

    energy_ev: float
    forces_ev_per_ang: NDArray[np.float64]
    virial_ev: NDArray[np.float64]
    atomic_energies: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CommitteePrediction:
    """What K models say of a structure.

    ``energies_ev`` (K,) eV, ``forces`` (K, n_atoms, 3) eV/Å, ``virials`` (K, 3, 3) eV, ``atomic_energies`` (K, n_atoms) eV.
    """

    energies_ev: NDArray[np.float64]
    forces: NDArray[np.float64]
    virials: NDArray[np.float64]
    atomic_energies: NDArray[np.float64]

    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        """Unpacks as energies, forces, virials."""
        return iter((self.energies_ev, self.forces, self.virials))

    def member(self, index: int) -> Prediction:
        """One member's word."""
        return Prediction(float(self.energies_ev[index]), self.forces[index], self.virials[index], self.atomic_energies[index])


@dataclass(eq=False)
class _Group:
    """Members of one shape and one normalisation: they are evaluated at once."""

    members: list[int]
    spec: DeepPotSpec
    davg: torch.Tensor
    dstd: torch.Tensor
    weights: Weights
    layout: Layout | None = None


@dataclass(frozen=True, eq=False)
class _Neighbors:
    """Pairs in a layout's order, ready to give vectors from positions."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    shift: NDArray[np.float64]


class Committee:
    """K models evaluated together.

    Members may differ in shape or normalisation; those that agree are evaluated in one pass. Neighbour lists are kept
    from one call to the next while they are provably complete, so calls that follow an MD run are fast; an instance
    therefore serves one run at a time.

    Parameters
    ----------
    models
        At least one; all for the same elements.
    device
        torch device; None: a GPU if there is one.

    Raises
    ------
    DataError
        Without models, or when they are for different elements.
    InputError
        When the device cannot be used.
    """

    def __init__(self, models: Sequence[DeepPotential], device: str | None = None) -> None:
        if not models:
            raise DataError("a committee needs at least one model")
        self.type_map: tuple[int, ...] = models[0].spec.type_map
        for model in models[1:]:
            if set(model.spec.type_map) != set(self.type_map):
                raise DataError(
                    f"the models of a committee are for different elements: {models[0].spec.symbols()} and {model.spec.symbols()}"
                )
        self.cutoff_ang = max(model.spec.rmax_ang for model in models)
        self.n_models = len(models)
        self.device = device_of(device)
        self.groups = _grouped(models, self.device)
        self._reference: Any = None
        self._skin = 0.0
        self._neighbors: list[_Neighbors] = []

    def compute(self, atoms: Atoms) -> CommitteePrediction:
        """Energies, forces and virials of all members.

        Raises
        ------
        DataError
            For an element that the models do not know, or a structure that has no neighbour list (see `find_pairs`).
        """
        self._update_neighbors(atoms)
        n_atoms = len(atoms)
        energies = np.empty(self.n_models)
        forces = np.empty((self.n_models, n_atoms, 3))
        virials = np.empty((self.n_models, 3, 3))
        atomic = np.empty((self.n_models, n_atoms))
        with torch.no_grad():
            for index, group in enumerate(self.groups):
                geometry = self._geometry(index, atoms)
                result = evaluate(group.spec, group.weights, geometry, forces=True, virials=True)
                assert result.forces is not None and result.virials is not None
                energies[group.members] = result.energies[:, 0].cpu().numpy()
                forces[group.members] = result.forces.cpu().numpy()
                virials[group.members] = result.virials[:, 0].cpu().numpy()
                atomic[group.members] = result.atomic_energies.cpu().numpy()
        return CommitteePrediction(energies, forces, virials, atomic)

    def geometry(self, atoms: Atoms) -> Geometry:
        """The structure as the first member takes it, for `evaluate` or calls of a model."""
        self._update_neighbors(atoms)
        return self._geometry(0, atoms)

    def _geometry(self, index: int, atoms: Atoms) -> Geometry:
        group, neighbors = self.groups[index], self._neighbors[index]
        assert group.layout is not None
        vectors = atoms.positions[neighbors.j] - atoms.positions[neighbors.i] + neighbors.shift @ atoms.cell.array
        return build_geometry(group.layout, torch.from_numpy(vectors).to(self.device), group.spec, group.davg, group.dstd)

    def forget(self) -> None:
        """Drop the neighbour list: the next result then depends on its structure alone, to the last bit.

        (The order of a list's pairs, and with it the rounding of sums, depends on the structure it was made for.)
        """
        self._reference = None

    def _update_neighbors(self, atoms: Atoms) -> None:
        if self._reference is not None and still_complete(atoms, self._reference, self.cutoff_ang, self._skin):
            return
        # a skin pays only where the next structure is near this one, as it is in an MD run
        near = self._reference is not None and still_complete(atoms, self._reference, self.cutoff_ang, 2.0 * NEAR_ANG)
        skin = SKIN_ANG if near else 0.0
        self._reference = None
        pairs = find_pairs(atoms, self.cutoff_ang + skin)
        self._neighbors = []
        for group in self.groups:
            types = types_of(atoms.numbers, group.spec)
            layout = build_layout(types, pairs.i, pairs.j, group.spec.n_types)
            order, swapped = layout.pair_order.numpy(), layout.pair_sign.numpy() < 0
            i, j, shift = pairs.i[order], pairs.j[order], pairs.shift[order].astype(np.float64)
            self._neighbors.append(_Neighbors(np.where(swapped, j, i), np.where(swapped, i, j), np.where(swapped[:, None], -shift, shift)))
            group.layout = moved(layout, self.device)
        self._reference, self._skin = reference_of(atoms), skin


class Potential:
    """One model.

    Attributes
    ----------
    type_map
        Atomic numbers that it knows.
    cutoff_ang
        Its range in Å.
    """

    def __init__(self, model: DeepPotential, device: str | None = None) -> None:
        self.model = model
        self._committee = Committee([model], device)
        self.type_map = self._committee.type_map
        self.cutoff_ang = self._committee.cutoff_ang

    def compute(self, atoms: Atoms) -> Prediction:
        """Energy, forces and virial of a structure; see `Committee.compute`."""
        return self._committee.compute(atoms).member(0)

    def forget(self) -> None:
        """See `Committee.forget`."""
        self._committee.forget()


def types_of(numbers: NDArray[Any], spec: DeepPotSpec) -> NDArray[np.int64]:
    """Place of each atom's element in the type map.

    Raises
    ------
    DataError
        Naming the elements that the model does not know.
    """
    table = np.full(max(int(np.max(numbers, initial=0)), *spec.type_map) + 1, -1, dtype=np.int64)
    table[list(spec.type_map)] = np.arange(spec.n_types)
    types: NDArray[np.int64] = table[np.asarray(numbers, dtype=np.int64)]
    if (types < 0).any():
        unknown = ", ".join(symbol(int(number)) if number else "X" for number in sorted(set(np.asarray(numbers)[types < 0].tolist())))
        raise DataError(
            f"the structure holds {unknown}, which the model does not know (its elements: {spec.symbols()}); train one for them too"
        )
    return types


def _grouped(models: Sequence[DeepPotential], device: torch.device) -> list[_Group]:
    together: list[list[int]] = []
    for index, model in enumerate(models):
        for group in together:
            first = models[group[0]]
            if model.spec == first.spec and torch.equal(model.davg, first.davg) and torch.equal(model.dstd, first.dstd):
                group.append(index)
                break
        else:
            together.append([index])
    groups = []
    for group in together:
        first = models[group[0]]
        weights = stacked([models[index].to(device) for index in group])
        groups.append(_Group(group, first.spec, first.davg, first.dstd, weights))
    return groups


def load_model(path: str | Path, device: str | None = None) -> Potential:
    """Read a model file (see `modelfile`; no pickle is involved).

    Raises
    ------
    DataError
        When it is missing, broken or something else.
    """
    return Potential(read_model(Path(path))[0], device)


def load_committee(paths: Sequence[str | Path], device: str | None = None) -> Committee | ChgnetCommittee:
    """Read several model files as a committee, in the order given: Deep Potentials, or CHGNet models, never both.

    Raises
    ------
    DataError
        See `load_model`.
    InputError
        For several models with a member of a committee from one training among them: see `refuse_members`.
    """
    if paths and format_of(Path(paths[0])) == CHGNET_FORMAT:
        from pwact_like.potentials.chgnet_model import load_chgnet_committee

        return load_chgnet_committee([Path(path) for path in paths], device)
    found = [(Path(path), *read_model(Path(path))) for path in paths]
    if len(found) > 1:
        refuse_members((path, header) for path, _, header in found)
    return Committee([model for _, model, _ in found], device)
