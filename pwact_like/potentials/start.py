"""What a training starts from: a fresh model of the settings' shape, or a given one that must have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.config.engines_known import EMBEDDED_OPTIMIZERS
from pwact_like.errors import InputError, NotAvailableError, Problem
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.modelfile import read_model, read_scalings
from pwact_like.potentials.spec import DeepPotSpec
from pwact_like.potentials.statistics import count_sel, environment_spread, reference_energies
from pwact_like.potentials.training_set import TrainingFrame
from pwact_like.seeds import derive_seed

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings

_NAMES = {
    "rmax_ang": "Rmax",
    "rmin_ang": "Rmin",
    "embedding": "network_size of the descriptor",
    "m2": "M2",
    "fitting": "network_size of the fitting network",
    "sel": "sel",
}


@dataclass(frozen=True)
class Start:
    """Shape (``sel`` may still have to be counted), and the model to go on from, if any, with its Kalman coordinates."""

    spec: DeepPotSpec
    model: DeepPotential | None
    scalings: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def refuse_unbuilt(settings: TrainSettings) -> None:
    """Refuse what the settings may say and this package cannot do; nothing is replaced by something else.

    Raises
    ------
    NotAvailableError
        Naming the cure.
    """
    if settings.model_type != "DP":
        raise NotAvailableError(
            f'model_type {settings.model_type} is not built into pwact_like: set "model_type": "DP", '
            "or train it with MatPL (as the command of resource.json's train section)"
        )
    if settings.optimizer.name not in EMBEDDED_OPTIMIZERS:
        raise NotAvailableError(
            f'optimizer {settings.optimizer.name} is not built into pwact_like: set "optimizer": "LKF" or "ADAM", or leave it out'
        )


def find_start(settings: TrainSettings, init_model: Path | None) -> Start:
    """The shape that the settings want, and the model to start from.

    Raises
    ------
    InputError
        When the model is for other elements or has another shape, naming every difference.
    """
    wanted = _wanted(settings)
    if init_model is None:
        return Start(wanted, None)
    model, _ = read_model(init_model)
    spec = model.spec
    if set(spec.type_map) != set(wanted.type_map):
        what = f"this model is for {spec.symbols()}, and atom_type says {wanted.symbols()}"
        raise InputError(Problem(str(init_model), what, "set atom_type to the model's elements, or train from scratch"))
    # the elements' order is the model's; sel is the model's where the settings leave it open
    sel = tuple(wanted.sel[wanted.type_map.index(number)] for number in spec.type_map) if wanted.sel else spec.sel
    wanted = replace(wanted, type_map=spec.type_map, sel=sel)
    problems = [
        Problem(
            str(init_model),
            f"{name} of this model is {getattr(spec, field)}, and the settings say {getattr(wanted, field)}",
            "make them equal, or train from scratch",
        )
        for field, name in _NAMES.items()
        if getattr(spec, field) != getattr(wanted, field)
    ]
    if problems:
        raise InputError(problems)
    return Start(spec, model, read_scalings(init_model))


def _wanted(settings: TrainSettings) -> DeepPotSpec:
    descriptor = settings.descriptor
    sel = descriptor.sel or ()
    return DeepPotSpec(
        type_map=settings.atom_type,
        rmax_ang=descriptor.rmax,
        rmin_ang=descriptor.rmin,
        embedding=descriptor.network_size,
        m2=descriptor.m2,
        fitting=settings.fitting.network_size[:-1],
        sel=sel * len(settings.atom_type) if len(sel) == 1 else sel,
    )


def new_model(spec: DeepPotSpec, frames: Sequence[TrainingFrame], seed: int) -> DeepPotential:
    """A model with random weights; slots, davg, dstd and reference energies from the frames."""
    spec = spec if spec.sel else spec.with_sel(count_sel(frames, spec.n_types))
    davg, dstd = environment_spread(frames, spec)
    return DeepPotential(spec, derive_seed(seed, "weights"), davg, dstd, reference_energies(frames, spec.n_types))
