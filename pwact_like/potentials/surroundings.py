"""What a Deep Potential sees of every atom: the descriptors that its fitting networks take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pwact_like.potentials.committee import Committee
from pwact_like.potentials.deep_potential import descriptors
from pwact_like.potentials.modelfile import read_model

if TYPE_CHECKING:
    from ase import Atoms


def model_descriptors(path: Path, structures: Iterable[Atoms]) -> Iterator[NDArray[np.float64]]:
    """Descriptors of each structure's atoms, in their own order: (n_atoms, M·M2).

    Raises
    ------
    DataError
        When the file is no model, or an element is none of the model's.
    """
    model, _ = read_model(path)
    committee = Committee([model], "cpu")
    for atoms in structures:
        committee.forget()
        geometry = committee.geometry(atoms)
        with torch.no_grad():
            by_type = torch.cat(list(descriptors(model, geometry).values()))
        yield by_type.index_select(0, geometry.layout.inverse).numpy()
