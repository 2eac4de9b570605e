"""Hashes of single frames, and the data set's hash from them, without reading a frame twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame


def frame_hash(frame: Frame) -> str:
    """Hex SHA-256 of a labelled frame's canonical bytes (structure and label, not origin)."""
    from pwact_like.data.dataset import frame_bytes

    return hashlib.sha256(frame_bytes(frame)).hexdigest()


def combine_hashes(hashes: Iterable[str]) -> str:
    """Hash of the data set of these frames: what ``dataset.dataset_hash`` gives for the frames themselves."""
    return hashlib.sha256(b"".join(sorted(bytes.fromhex(text) for text in hashes))).hexdigest()
