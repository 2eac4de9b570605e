"""Members of a committee from one training are models like any other, and no committee like any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pwact_like.errors import InputError, Problem


def refuse_members(models: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
    """Refuse, in a plain committee, members that were drawn from one training (`linear_committee`).

    Parameters
    ----------
    models
        Path and header of each model of the committee.

    Raises
    ------
    InputError
        Naming the first of them, with the cure: they stand so close together that their deviation, unless it is multiplied by a
        factor in kpu.pt, calls every frame accurate.
    """
    found = [(path, header["facts"]) for path, header in models if header.get("facts", {}).get("member_of")]
    if not found:
        return
    path, facts = found[0]
    raise InputError(
        Problem(
            str(path),
            f"drawn from the training of {facts['member_of']}: as an ordinary committee such members (here {len(found)}) deviate only "
            f"{facts.get('epsilon', 0.0):.1g} times as much as they should, and every frame would look accurate",
            "give kpu.pt with them, which holds the factor (md MODEL MEMBERS --kpu KPU.PT; run: strategy.uncertainty kpu-committee); for "
            f"eval give {facts['member_of']} alone: the kpu.pt beside it speaks for its members",
        )
    )
