"""Where tensors live: the device that the user names, or a GPU if there is one."""

from __future__ import annotations

import torch

from pwact_like.errors import InputError, Problem


def device_of(name: str | None) -> torch.device:
    """The torch device of a name; None: a GPU if there is one.

    Raises
    ------
    InputError
        When torch cannot compute there in double precision, with the devices that can be had.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, dtype=torch.float64, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        known = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        why = said if torch.cuda.is_available() else f"{said}; torch sees no GPU here"
        raise InputError(Problem("--device", f"nothing can be computed on {name!r}: {why}", f"here: {', '.join(known)}")) from error
    return device
