"""Seeds and keys: everything random derives from the root seed and the place of the task.

An interrupted campaign then draws the same numbers as an undisturbed one, and another root seed gives another campaign.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def derive_seed(root_seed: int, *place: int | str) -> int:
    """Return a seed in [1, 2³¹ − 2] from the root seed and a place, e.g. ``derive_seed(1, 3, "explore", 7)``.

    LAMMPS wants a positive 32-bit integer; numpy, torch and ASE take it too.
    """
    text = json.dumps([root_seed, *place], separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") % (2**31 - 2) + 1


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def task_key(engine: str, settings: Mapping[str, Any], input_hashes: Mapping[str, str], seed: int) -> str:
    """Key of a task: H(engine, settings, contents of the inputs, seed); no absolute paths, no versions."""
    text = json.dumps([engine, settings, dict(sorted(input_hashes.items())), seed], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
