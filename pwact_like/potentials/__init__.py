"""Embedded potentials: the Deep Potential, its training, its use from ASE. The only room that imports torch.

Importing this package loads no torch; its functions do when they are first asked for::

    potential = potentials.load_model("model.pt")
    prediction = potential.compute(atoms)          # energy_ev, forces_ev_per_ang, virial_ev, atomic_energies
    committee = potentials.load_committee(paths)   # .compute(atoms): energies_ev (K,), forces (K, N, 3), virials (K, 3, 3)
    atoms.calc = potentials.PotentialCalculator(committee)
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Committee": "committee",
    "CommitteePrediction": "committee",
    "DeepPotSpec": "spec",
    "DeepPotential": "deep_potential",
    "Potential": "committee",
    "PotentialCalculator": "calculator",
    "Prediction": "committee",
    "load_committee": "committee",
    "load_model": "committee",
    "predict_files": "evaluation",
    "read_model": "modelfile",
    "save_model": "modelfile",
    "save_predictions": "evaluation",
    "train": "training",
    "train_chgnet": "chgnet_training",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_WHERE[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from pwact_like.errors import NotAvailableError

        raise NotAvailableError("the embedded potentials need PyTorch: pip install 'pwact-like[torch]'") from error
    return getattr(module, name)
