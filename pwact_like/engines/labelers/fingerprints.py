"""Hashes for levels of theory."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pwact_like.seeds import sha256_file


def short_hash(value: Any) -> str:
    """Eight hex digits of anything that is JSON, the same for equal values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def hash_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, which is read once as long as its size and time stay: every frame asks for the same files."""
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)
