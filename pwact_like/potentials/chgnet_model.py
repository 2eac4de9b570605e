"""CHGNet with our frames: reading and writing its weights, graphs of structures, its word in our units and signs.

CHGNet (https://github.com/CederGroupHub/chgnet) gives the energy an atom in eV, forces in eV/Å and stress in GPa with ASE's sign
(positive in tension). It computes in single precision, and knows crystals and the elements up to Pu only.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pwact_like.config.elements import symbol
from pwact_like.errors import DataError, NotAvailableError
from pwact_like.potentials.committee import CommitteePrediction
from pwact_like.potentials.device import device_of
from pwact_like.potentials.modelfile import CHGNET_FORMAT, read_arrays, write_arrays
from pwact_like.units import GPA_PER_EV_PER_ANG3

if TYPE_CHECKING:
    from ase import Atoms

MAX_ELEMENT = 94


@dataclass(eq=False)
class Answer:
    """What CHGNet says of a batch; differentiable while its graph is kept.

    ``energies`` (B,) eV a cell, ``forces`` (all atoms, 3) eV/Å, ``virials`` (B, 3, 3) eV (−V·σ), None when not asked for.
    """

    energies: Tensor
    forces: Tensor
    virials: Tensor | None


def shipped_model(weights: str) -> Any:
    """CHGNet with the weights of this name, which lie in its wheel.

    Raises
    ------
    NotAvailableError
        When chgnet is not installed, or does not ship these weights.
    """
    try:
        with _quiet():
            return _chgnet().load(model_name=weights, use_device="cpu", verbose=False)
    except ValueError as error:
        raise NotAvailableError(f"CHGNet has no weights {weights!r}: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """CHGNet greets on stdout, where `eval --json` prints JSON."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _chgnet() -> Any:
    try:
        from chgnet.model.model import CHGNet
    except ImportError as error:
        raise NotAvailableError(f"CHGNet cannot be imported ({error}): pip install 'pwact-like[chgnet]'") from error
    return CHGNet


def save_chgnet(path: Path, model: Any, elements: Sequence[int], facts: Mapping[str, Any]) -> None:
    """Write weights and shape as arrays with a JSON header (see `modelfile`): equal models give equal bytes."""
    state = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    arguments = {key: value for key, value in model.model_args.items() if isinstance(value, str | int | float | bool | list | None)}
    header = {"format": CHGNET_FORMAT, "version": 1, "model_args": arguments, "elements": list(elements), "facts": dict(facts)}
    write_arrays(path, header, state)


def load_chgnet(path: Path) -> tuple[Any, dict[str, Any]]:
    """CHGNet from a file of `save_chgnet`, and the file's header.

    Raises
    ------
    DataError
        When the file is none, or does not fit the chgnet that is installed.
    NotAvailableError
        When chgnet is not installed.
    """
    header, arrays = read_arrays(path, CHGNET_FORMAT)
    try:
        with _quiet():
            model = _chgnet()(**header["model_args"])
        model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"{path}: does not fit the CHGNet that is installed: {error}") from error
    return model, header


def graph_of(model: Any, atoms: Atoms) -> Any:
    """The structure as CHGNet takes it.

    Raises
    ------
    DataError
        For open boundaries, elements that CHGNet does not know, or a structure that has no graph.
    """
    from pymatgen.core import Lattice, Structure

    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise DataError("CHGNet takes every structure as periodic, and this one is not: put it into a box with pbc")
    strange = sorted({int(number) for number in atoms.numbers if number > MAX_ELEMENT})
    if strange:
        raise DataError(f"CHGNet does not know {', '.join(symbol(number) for number in strange)} (its elements end with {symbol(94)})")
    structure = Structure(Lattice(atoms.cell.array), atoms.get_chemical_symbols(), atoms.positions, coords_are_cartesian=True)
    model.graph_converter.set_isolated_atom_response("ignore")
    try:
        return model.graph_converter(structure)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"CHGNet finds no graph for the structure: {error}") from error


def answer(model: Any, graphs: Sequence[Any], *, virials: bool) -> Answer:
    """Energies, forces and virials of a batch."""
    for graph in graphs:
        graph.atom_frac_coord.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True", UserWarning)  # its volumes, a value only
        said = model(graphs, task="efs" if virials else "ef")
    counts = torch.tensor([len(graph.atomic_number) for graph in graphs], device=said["e"].device)
    energies = said["e"] * counts if model.is_intensive else said["e"]
    found = None
    if virials:
        volumes = torch.stack([torch.linalg.det(graph.lattice).abs() for graph in graphs])
        found = -torch.stack(list(said["s"])) * volumes[:, None, None] / GPA_PER_EV_PER_ANG3
    return Answer(energies, torch.cat(list(said["f"])), found)


class ChgnetCommittee:
    """K CHGNet models, asked one after the other; the interface of `Committee`."""

    def __init__(self, models: Sequence[Any], elements: Sequence[int], device: str | None = None) -> None:
        self._device = device_of(device)
        self._models = [model.to(self._device).eval() for model in models]
        self.type_map = tuple(elements)
        self.n_models = len(models)
        self.cutoff_ang = float(models[0].graph_converter.atom_graph_cutoff)

    def compute(self, atoms: Atoms) -> CommitteePrediction:
        """Energies, forces and virials of all members; atomic energies are not told apart (NaN)."""
        energies, forces, virials = [], [], []
        for model in self._models:
            said = answer(model, [graph_of(model, atoms).to(self._device)], virials=True)
            assert said.virials is not None
            energies.append(float(said.energies[0].detach()))
            forces.append(said.forces.detach().cpu().numpy().astype(np.float64))
            virials.append(said.virials[0].detach().cpu().numpy().astype(np.float64))
        atomic = np.full((self.n_models, len(atoms)), np.nan)
        return CommitteePrediction(np.array(energies), np.array(forces), np.array(virials), atomic)

    def forget(self) -> None:
        """Nothing is kept from one structure to the next."""


def load_chgnet_committee(paths: Sequence[Path], device: str | None = None) -> ChgnetCommittee:
    """Read several files of `save_chgnet`."""
    found = [load_chgnet(path) for path in paths]
    return ChgnetCommittee([model for model, _ in found], found[0][1]["elements"], device)
