"""A Deep Potential as DeePMD-kit's backend-independent model file (.dp, known to DeePMD-kit 3).

The file is HDF5: datasets with the arrays, and an attribute ``json`` of the root with a tree of objects that say what each of them
is. `dp convert-backend` makes model.pb (TensorFlow), model.pth (PyTorch) and others of it.
https://docs.deepmodeling.com/projects/deepmd/en/stable/model/dpmodel.html
"""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pwact_like import __version__
from pwact_like.config.elements import symbol
from pwact_like.errors import DataError
from pwact_like.fsio import write_bytes
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.network import Layer, residual_copies
from pwact_like.potentials.spec import DeepPotSpec

_Array = NDArray[np.float64]
_FORM = {"activation_function": "tanh", "precision": "float64"}


def write_dp(path: Path, model: DeepPotential) -> None:
    """Write a model as a .dp file; equal models give equal bytes.

    Raises
    ------
    DataError
        When DeePMD-kit's form cannot hold the model (see `refuse_other_forms`).
    """
    import h5py

    tree = dp_tree(model)
    buffer = io.BytesIO()
    # the attribute of a model of many elements is longer than older versions of HDF5's format allow
    with h5py.File(buffer, "w", libver=("v110", "v110")) as file:
        count = 0

        def stored(value: Any, inside: bool = False) -> Any:
            nonlocal count
            if isinstance(value, dict):
                return {key: stored(item, inside or key == "@variables") for key, item in value.items()}
            if isinstance(value, list):
                return [stored(item, inside) for item in value]
            if value is None or not inside:
                return value
            name = f"/variable_{count:04d}"
            count += 1
            file.create_dataset(name, data=value)
            return name

        file.attrs["json"] = json.dumps(stored(tree), separators=(",", ":"))
    write_bytes(path, buffer.getvalue())


def refuse_other_forms(spec: DeepPotSpec) -> None:
    """Refuse a model whose function DeePMD-kit has no form for, or not the same one in all its backends.

    Its fitting network of the TensorFlow route has a residual connection where a hidden layer is as wide as the one before it, and
    nowhere else; the embedded potential, like DeePMD-kit's PyTorch route, has one at the first layer and at a doubled width, too.

    Raises
    ------
    DataError
        Naming the layer.
    """
    widths = (spec.embedding[-1] * spec.m2, *spec.fitting)
    for number, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        copies = residual_copies(n_in, n_out)
        if copies == 2 or (copies and number == 0):
            raise DataError(
                f"layer {number + 1} of the fitting network ({n_in} → {n_out}) has a residual connection that DeePMD-kit's TensorFlow "
                "route does not know: such a model cannot be exported. Train one whose fitting widths are equal or do not double "
                f"(fitting_net.network_size is {list(spec.fitting)}; the descriptor has {widths[0]} components)"
            )


def dp_tree(model: DeepPotential) -> dict[str, Any]:
    """The tree with its arrays in place; raises as `write_dp`."""
    spec, weights = model.spec, model.weights()
    refuse_other_forms(spec)
    n, symbols = spec.n_types, spec.symbols().split()
    bias = _array(model.energy_bias)
    descriptor = {
        "@class": "Descriptor",
        "type": "se_e2_a",
        "@version": 2,
        "rcut": spec.rmax_ang,
        "rcut_smth": spec.rmin_ang,
        "sel": list(spec.sel),
        "neuron": list(spec.embedding),
        "axis_neuron": spec.m2,
        "resnet_dt": False,
        "trainable": True,
        "type_one_side": False,
        "exclude_types": [],
        "env_protection": 0.0,
        "set_davg_zero": False,
        **_FORM,
        # networks are numbered by centre + n·neighbour
        "embeddings": _collection(2, n, "embedding_network", [_embedding(spec, weights.embedding[i % n][i // n]) for i in range(n * n)]),
        "env_mat": {"rcut": spec.rmax_ang, "rcut_smth": spec.rmin_ang, "protection": 0.0, "use_exp_switch": False},
        "@variables": _statistics(model),
        "type_map": symbols,
        "spin": None,
    }
    fitting = {
        "@class": "Fitting",
        "type": "ener",
        "@version": 4,
        "var_name": "energy",
        "ntypes": n,
        "dim_descrpt": spec.embedding[-1] * spec.m2,
        "mixed_types": False,
        "dim_out": 1,
        "neuron": list(spec.fitting),
        "resnet_dt": spec.resnet_dt,
        "numb_fparam": 0,
        "numb_aparam": 0,
        "dim_case_embd": 0,
        "default_fparam": None,
        "rcond": None,
        "tot_ener_zero": False,
        "trainable": [True] * (len(spec.fitting) + 1),
        "atom_ener": None,
        **_FORM,
        "layer_name": None,
        "use_aparam_as_mask": False,
        "spin": None,
        "exclude_types": [],
        "nets": _collection(1, n, "fitting_network", [_fitting(spec, layers) for layers in weights.fitting]),
        "@variables": {
            "bias_atom_e": bias.reshape(n, 1),
            **dict.fromkeys(("fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std", "case_embd")),
        },
        "type_map": symbols,
    }
    return {
        "software": "pwact_like",
        "version": __version__,
        "backend": "pwact_like",
        "model": {
            "@class": "Model",
            "type": "standard",
            "@version": 2,
            "type_map": symbols,
            "descriptor": descriptor,
            "fitting": fitting,
            "atom_exclude_types": [],
            "pair_exclude_types": [],
            "rcond": None,
            "preset_out_bias": None,
            "@variables": {"out_bias": np.zeros((1, n, 1)), "out_std": np.ones((1, n, 1))},
        },
        "model_def_script": _definition(spec, symbols),
    }


def _definition(spec: DeepPotSpec, symbols: list[str]) -> dict[str, Any]:
    """The section ``model`` of the input of `dp train` that has this model's shape."""
    return {
        "type_map": symbols,
        "descriptor": {
            "type": "se_e2_a",
            "rcut": spec.rmax_ang,
            "rcut_smth": spec.rmin_ang,
            "sel": list(spec.sel),
            "neuron": list(spec.embedding),
            "axis_neuron": spec.m2,
            "resnet_dt": False,
            "type_one_side": False,
            **_FORM,
        },
        "fitting_net": {"type": "ener", "neuron": list(spec.fitting), "resnet_dt": spec.resnet_dt, **_FORM},
    }


def _statistics(model: DeepPotential) -> dict[str, _Array]:
    """Davg and dstd of every slot, (n_types, Σ sel, 4)."""
    n, slots = model.spec.n_types, model.spec.n_slots
    davg, dstd = np.zeros((n, slots, 4)), np.empty((n, slots, 4))
    davg[:, :, 0] = _array(model.davg)[:, None]
    dstd[:, :, 0], dstd[:, :, 1:] = _array(model.dstd)[:, :1], _array(model.dstd)[:, 1:, None]
    return {"davg": davg, "dstd": dstd}


def _collection(ndim: int, n_types: int, kind: str, networks: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@class": "NetworkCollection",
        "@version": 1,
        "ndim": ndim,
        "ntypes": n_types,
        "network_type": kind,
        "networks": networks,
    }


def _embedding(spec: DeepPotSpec, layers: tuple[Layer, ...]) -> dict[str, Any]:
    return {
        "@class": "EmbeddingNetwork",
        "@version": 2,
        "in_dim": 1,
        "neuron": list(spec.embedding),
        **_FORM,
        "resnet_dt": False,
        "bias": True,
        "layers": [_layer(layer) for layer in layers],
    }


def _fitting(spec: DeepPotSpec, layers: tuple[Layer, ...]) -> dict[str, Any]:
    *hidden, output = layers
    return {
        "@class": "FittingNetwork",
        "@version": 1,
        "in_dim": spec.embedding[-1] * spec.m2,
        "out_dim": 1,
        "neuron": list(spec.fitting),
        **_FORM,
        "resnet_dt": spec.resnet_dt,
        "bias_out": True,
        "layers": [*(_layer(layer) for layer in hidden), _layer(output, output=True)],
    }


def _layer(layer: Layer, *, output: bool = False) -> dict[str, Any]:
    return {
        "@class": "Layer",
        "@version": 2,
        "bias": True,
        "use_timestep": layer.idt is not None,
        "activation_function": "linear" if output else _FORM["activation_function"],
        "resnet": not output,
        "precision": _FORM["precision"],
        "trainable": True,
        "@variables": {
            "w": _array(layer.weight[0]),
            "b": _array(layer.bias[0, 0]),
            "idt": None if layer.idt is None else _array(layer.idt[0, 0]),
        },
    }


def _array(tensor: Tensor) -> _Array:
    found: _Array = tensor.detach().cpu().numpy()
    return found


def lammps_lines(spec: DeepPotSpec, files: list[str]) -> str:
    """What a LAMMPS input needs to use the (converted) files, in units metal."""
    names = " ".join(symbol(number) for number in spec.type_map)
    devi = " out_freq 100 out_file model_devi.out" if len(files) > 1 else ""
    return f"pair_style deepmd {' '.join(files)}{devi}\npair_coeff * * {names}"
