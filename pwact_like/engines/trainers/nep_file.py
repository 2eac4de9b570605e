"""A potential in NEP's text form (nep.txt of GPUMD and torchnep, nep5.txt of MatPL): whether it is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pwact_like.errors import DataError

_HEAD_KEYS = ("zbl", "cutoff", "n_max", "basis_size", "l_max", "ANN")


def check_nep(path: Path) -> int:
    """Insist that the file's head is one, and that as many finite numbers follow as it says; returns their number.

    The head: ``nep4 2 O Hf``, perhaps ``zbl …``, ``cutoff``, ``n_max``, ``basis_size``, ``l_max``, ``ANN``. The numbers: of each
    element a network from the descriptor through one hidden layer, its biases, the two kinds of expansion coefficients of each
    pair of elements, a scale of each component of the descriptor (https://gpumd.org/potentials/nep.html; MatPL's manual for nep5).

    Raises
    ------
    DataError
        Naming the file and what is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the potential cannot be read: {error}") from error
    first = lines[0].split() if lines else []
    if len(first) < 3 or not first[0].startswith("nep") or not first[1].isdigit() or len(first) != 2 + int(first[1]):
        raise DataError(f"{path}: not a NEP potential: its first line must be like 'nep4 1 Si'")
    head: dict[str, list[float]] = {}
    at = 1
    try:
        while at < len(lines) and (words := lines[at].split()) and words[0] in _HEAD_KEYS:
            head[words[0]] = [float(word) for word in words[1:]]
            at += 1
        values = np.array([float(word) for line in lines[at:] for word in line.split()])
        radial, angular = (int(value) for value in head["n_max"])
        basis_radial, basis_angular = (int(value) for value in head["basis_size"])
        orders, neurons = [int(value) for value in head["l_max"]], int(head["ANN"][0])
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: line {at + 1}: not a NEP potential: {error}") from error
    types = int(first[1])
    dim = radial + 1 + (angular + 1) * (orders[0] + sum(order > 0 for order in orders[1:]))
    coefficients = types**2 * ((radial + 1) * (basis_radial + 1) + (angular + 1) * (basis_angular + 1))
    least = types * neurons * (dim + 2) + coefficients + dim
    # one output bias for all elements (nep4), one for each (nep5), or both; a flexible ZBL potential may follow
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds numbers that are not finite: the training has diverged")
    if len(values) <= least:
        raise DataError(f"{path}: {len(values)} numbers follow its head, and {least + 1} at least are wanted: it is cut off")
    return len(values)
