"""A file of labelled frames that grows while a task runs, and is cut back to its last checkpoint when the task continues."""

from __future__ import annotations

import os
from pathlib import Path

from pwact_like.data.frames import Frame
from pwact_like.fsio import fsync_folder


class FrameFile:
    """A growing file of frames; what stands behind the last checkpoint is cut off when a run continues."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.size = 0

    def start(self) -> None:
        """Begin with nothing."""
        self.path.write_bytes(b"")
        self.count = self.size = 0

    def resume(self, count: int, size: int) -> bool:
        """Go on behind the first ``count`` frames; False when they are not all there."""
        if not self.path.is_file() or self.path.stat().st_size < size:
            return False
        os.truncate(self.path, size)
        self.count, self.size = count, size
        return True

    def append(self, frame: Frame) -> None:
        """Add a frame."""
        from pwact_like.data.formats.extxyz import frame_text

        content = frame_text(frame).encode()
        with self.path.open("ab") as stream:
            stream.write(content)
        self.count += 1
        self.size += len(content)

    def sync(self) -> None:
        """Make what was written last."""
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())

    def finish(self, target: Path) -> None:
        """Give the whole file its final name."""
        self.sync()
        self.path.replace(target)
        fsync_folder(target.parent)
