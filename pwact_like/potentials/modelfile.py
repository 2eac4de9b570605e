"""Model files: arrays with a JSON header in a zip archive (numpy's npz), read without pickle.

``header`` is UTF-8 JSON: format, version, spec (see `DeepPotSpec`), parameters (their names in order) and facts (what
the trainer wants to tell: seed, data, errors). Every parameter and davg, dstd, energy_bias is an array of its own name;
``scaling.*`` are the coordinates of a Kalman training (see `coordinates`), which a warm start carries on.
Equal contents give equal bytes: nothing in the file depends on time or place.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pwact_like.errors import DataError
from pwact_like.fsio import write_bytes
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.spec import CHGNET_FORMAT, FORMAT, DeepPotSpec

VERSION = 1
SCALING = "scaling."

__all__ = [
    "CHGNET_FORMAT",
    "FORMAT",
    "SCALING",
    "VERSION",
    "fill_model",
    "format_of",
    "model_arrays",
    "read_arrays",
    "read_model",
    "read_scalings",
    "save_model",
    "write_arrays",
]


def write_arrays(path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a header and arrays atomically."""
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=text, **arrays)
    write_bytes(path, buffer.getvalue())


def format_of(path: Path) -> str:
    """The header's format, "" for a file that is none of ours."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return str(json.loads(archive["header"].tobytes())["format"])
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, UnicodeDecodeError, AttributeError):
        return ""


def read_arrays(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of a file that `write_arrays` made; ``kind`` is the header's format.

    Raises
    ------
    DataError
        When the file is missing, is something else, is broken, or is of a newer version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes())
        found, version = header["format"], int(header["version"])
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a file that pwact-like train wrote, or a damaged one ({error})") from error
    if found != kind:
        raise DataError(f"{path}: this file holds a {found!r}, and a {kind!r} is wanted")
    if version > VERSION:
        raise DataError(f"{path}: written by a newer pwact_like (version {version} of the format, known here: {VERSION}); update it")
    return header, arrays


def model_arrays(model: DeepPotential) -> dict[str, NDArray[np.float64]]:
    """Parameters and buffers of a model, in order."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def save_model(
    path: Path, model: DeepPotential, facts: Mapping[str, Any] | None = None, scalings: Mapping[str, NDArray[np.float64]] | None = None
) -> None:
    """Write a model file; ``scalings`` are `Coordinates.arrays`."""
    names = [name for name, _ in model.named_parameters()]
    header = {"format": FORMAT, "version": VERSION, "spec": model.spec.to_dict(), "parameters": names, "facts": dict(facts or {})}
    write_arrays(path, header, {**model_arrays(model), **(scalings or {})})


def read_model(path: Path) -> tuple[DeepPotential, dict[str, Any]]:
    """A model and its header.

    Raises
    ------
    DataError
        See `read_arrays`; also when arrays are missing or have another shape than the spec says.
    """
    header, arrays = read_arrays(path, FORMAT)
    try:
        model = DeepPotential(DeepPotSpec.from_dict(header["spec"]))
        fill_model(model, {name: array for name, array in arrays.items() if not name.startswith(SCALING)})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: header and arrays do not fit each other: {error}") from error
    return model, header


def read_scalings(path: Path) -> dict[str, NDArray[np.float64]]:
    """The ``scaling.*`` arrays of a model file; empty for one that Adam trained from scratch."""
    return {name: array for name, array in read_arrays(path, FORMAT)[1].items() if name.startswith(SCALING)}


def fill_model(model: DeepPotential, arrays: Mapping[str, NDArray[np.float64]]) -> None:
    """Put arrays into a model.

    Raises
    ------
    ValueError, RuntimeError
        When a name is missing, is unknown or has another shape.
    """
    model.load_state_dict({name: torch.from_numpy(np.array(array, dtype=np.float64)) for name, array in arrays.items()})
