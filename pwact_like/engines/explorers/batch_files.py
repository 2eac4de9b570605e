"""What an explorer adds that can run several trajectories in one process: a task then holds several runs, each in its own folder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path

from pwact_like.engines.protocols import Explorer, ExploreRequest
from pwact_like.outcome import Ok, Outcome, Reject, TaskFiles

BATCH_CHECKPOINT = "md_batch.checkpoint.npz"


class BatchExplorer(Explorer):
    """An explorer of batches. `outcome`, `read`, `frames` and `thin` of a run take its own folder within the task's."""

    @abstractmethod
    def write_batch(self, folder: Path, requests: Mapping[str, ExploreRequest]) -> TaskFiles:
        """Write every input; the keys of ``requests`` are the names of the runs' folders within ``folder``."""

    @abstractmethod
    def batch_commands(self, command: str, requests: Mapping[str, ExploreRequest]) -> tuple[str, ...]:
        """Shell lines, from the user's command ("" means this engine's default)."""

    def batch_outcome(self, folder: Path, names: Iterable[str]) -> Outcome:
        """Judge an attempt's folder: good with one run that is; the rest are told of."""
        outcomes = {name: self.outcome(folder / name) for name in names}
        notes = [f"{name}: {said.note}" for name, said in outcomes.items() if isinstance(said, Ok) and said.note]
        bad = [f"{name}: {said.reason}" for name, said in outcomes.items() if not isinstance(said, Ok)]
        return Reject("; ".join(bad)) if len(bad) == len(outcomes) else Ok("; ".join(bad + notes))
