"""The status snapshot: written by the master by rename, read by anybody; nobody but the master opens the journal."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwact_like import __version__
from pwact_like.fsio import write_json

SNAPSHOT_NAME = "status.json"
HEARTBEAT_S = 2.0


@dataclass
class Snapshot:
    """What ``status`` shows; ``publish`` writes it when something changed, ``beat`` at most every two seconds.

    Attributes
    ----------
    workflow
        ``run`` or ``init_bulk``.
    job_counts
        Gives planned, queued, running, ended, failed tasks of the stage under way.
    """

    state_dir: Path
    workflow: str
    campaign: str
    job_counts: Callable[[], Mapping[str, int]]
    clock: Callable[[], float] = time.time
    state: str = "running"
    reason: str = ""
    stage: str = ""
    iterations: list[dict[str, Any]] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=lambda: {"frames": 0, "sha256": None})
    models: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    _written: float = 0.0

    def beat(self) -> None:
        """Refresh the heartbeat if it is old enough."""
        if self.clock() - self._written >= HEARTBEAT_S:
            self.publish()

    def publish(self) -> None:
        """Write the snapshot now."""
        self._written = self.clock()
        write_json(self.state_dir / SNAPSHOT_NAME, self.content())

    def content(self) -> dict[str, Any]:
        """The snapshot as JSON."""
        return {
            "workflow": self.workflow,
            "campaign": self.campaign,
            "state": self.state,
            "reason": self.reason,
            "stage": self.stage,
            "heartbeat": self._written,
            "started": self.started,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
            "iterations": self.iterations,
            "jobs": dict(self.job_counts()),
            "dataset": self.dataset,
            "models": self.models,
            "notes": self.notes,
        }
