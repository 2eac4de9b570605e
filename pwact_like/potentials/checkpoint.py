"""checkpoint.pt: everything that a training needs to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pwact_like.errors import DataError, InputError, Problem
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.loss import SquaredErrors
from pwact_like.potentials.modelfile import VERSION, read_arrays, write_arrays
from pwact_like.potentials.steppers import Stepper

FORMAT = "pwact_like training checkpoint"
NAME = "checkpoint.pt"


@dataclass(frozen=True)
class Progress:
    """Where a training stands besides its weights: steps done, rows written, errors since the last row."""

    step: int
    rows: str
    trained: SquaredErrors


def write_checkpoint(path: Path, key: str, stepper: Stepper, progress: Progress) -> None:
    """Write atomically. The order of frames needs no state: it follows from seed and epoch."""
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "key": key,
        "step": progress.step,
        "trained": asdict(progress.trained),
    }
    arrays = {name: tensor.cpu().numpy() for name, tensor in stepper.state().items()}
    arrays["rows"] = np.frombuffer(progress.rows.encode(), dtype=np.uint8)
    write_arrays(path, header, arrays)


def resume(path: Path, key: str, stepper: Stepper) -> Progress | None:
    """Put a checkpoint's state back; None when there is none.

    Raises
    ------
    InputError
        When the checkpoint belongs to another training (settings, data or seed differ).
    DataError
        When it cannot be read.
    """
    if not path.exists():
        return None
    header, arrays = read_arrays(path, FORMAT)
    if header["key"] != key:
        raise InputError(
            Problem(
                str(path),
                "this checkpoint is of a training with other settings, data or seed",
                "remove it to start anew, or choose another folder with -o",
            )
        )
    try:
        stepper.restore({name: torch.from_numpy(array) for name, array in arrays.items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: this checkpoint does not fit the model: {error}") from error
    return Progress(int(header["step"]), arrays["rows"].tobytes().decode(), SquaredErrors(**header["trained"]))


def parameters_digest(model: DeepPotential) -> str:
    """Hash of a model's parameters and buffers."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
