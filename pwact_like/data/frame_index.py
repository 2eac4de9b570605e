"""Where the frames of a trajectory file begin and end, so that single ones are fetched without reading the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pwact_like.errors import DataError
from pwact_like.fsio import write_through


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Frames of one file.

    Attributes
    ----------
    path
        The file.
    begins, ends
        Byte ranges of the frames, shape (n_frames,).
    steps
        MD step of each frame, shape (n_frames,). A restarted run may write a step twice: the last one counts.
    dropped
        "" or what was left out at the end of the file (a frame that the run had no time to finish).
    """

    path: Path
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    steps: NDArray[np.int64]
    dropped: str = ""

    def __len__(self) -> int:
        return len(self.begins)

    def unique_steps(self) -> NDArray[np.int64]:
        """Steps that can be fetched, rising."""
        return np.unique(self.steps)

    def places(self, steps: Iterable[int]) -> list[int]:
        """Index of the frame of each step, in the order asked.

        Raises
        ------
        DataError
            When a step is not in the file, naming some of those that are missing.
        """
        last = {int(step): place for place, step in enumerate(self.steps)}
        wanted = [int(step) for step in steps]
        missing = sorted({step for step in wanted if step not in last})
        if missing:
            listed = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            there = f"{min(last)} to {max(last)} in {len(last)} frames" if last else "no frame at all"
            note = f" ({self.dropped})" if self.dropped else ""
            raise DataError(f"{self.path}: no frame at step {listed}; there are steps {there}{note}")
        return [last[step] for step in wanted]

    def read(self, places: Sequence[int]) -> list[bytes]:
        """Raw bytes of some frames."""
        result: dict[int, bytes] = {}
        with self.path.open("rb") as stream:
            for place in sorted(set(places)):  # one pass forwards, which disks like
                stream.seek(int(self.begins[place]))
                result[place] = stream.read(int(self.ends[place] - self.begins[place]))
        return [result[place] for place in places]

    def keep(self, steps: Iterable[int]) -> None:
        """Rewrite the file atomically with these steps only, in the order of the file, byte for byte."""
        places = sorted(set(self.places(steps)))

        def fill(temporary: Path) -> None:
            with temporary.open("wb") as out, self.path.open("rb") as stream:
                for place in places:
                    stream.seek(int(self.begins[place]))
                    out.write(stream.read(int(self.ends[place] - self.begins[place])))

        write_through(self.path, fill)
