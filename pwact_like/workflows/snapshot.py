"""The status snapshot: written by the master by rename, read by anybody; nobody but the master opens the journal."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pwact_like import __version__
from pwact_like.fsio import write_json
from pwact_like.jobs.rows import JobShown

SNAPSHOT_NAME = "status.json"
HEARTBEAT_S = 2.0
MOST_JOBS = 200


@dataclass
class Snapshot:
    """What ``status`` shows; ``publish`` writes it when something changed, ``beat`` at most every two seconds.

    Attributes
    ----------
    workflow
        ``run`` or ``init_bulk``.
    job_counts
        Gives planned, queued, running, ended, failed tasks of the stage under way.
    job_rows
        Gives the jobs in flight; running ones and those that wait for ever are shown first, at most `MOST_JOBS` of them.
    scheduler, silent
        Who runs the jobs, and whether it leaves questions unanswered at present.
    refusal
        Its words while it takes no more jobs for now.
    """

    state_dir: Path
    workflow: str
    campaign: str
    job_counts: Callable[[], Mapping[str, int]]
    job_rows: Callable[[], Sequence[JobShown]] = tuple
    scheduler: str = ""
    silent: Callable[[], bool] = bool
    refusal: Callable[[], str] = str
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
    _beaten: float = float("-inf")

    def beat(self) -> None:
        """Refresh the heartbeat if it is old enough."""
        # monotonic: a clock that is put back must not silence the heartbeat
        if time.monotonic() - self._beaten >= HEARTBEAT_S:
            self.publish()

    def publish(self) -> None:
        """Write the snapshot now."""
        self._written, self._beaten = self.clock(), time.monotonic()
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
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "scheduler": self.scheduler,
            "scheduler_silent": self.silent(),
            "scheduler_refuses": self.refusal(),
            "version": __version__,
            "iterations": self.iterations,
            "jobs": dict(self.job_counts()),
            **self._jobs_in_flight(),
            "dataset": self.dataset,
            "models": self.models,
            "notes": self.notes,
        }

    def _jobs_in_flight(self) -> dict[str, Any]:
        """The jobs, the most telling first, and how many are left out."""
        rows = sorted(self.job_rows(), key=lambda row: (not row.stuck, row.state != "running"))
        return {"jobs_in_flight": [asdict(row) for row in rows[:MOST_JOBS]], "jobs_left_out": max(0, len(rows) - MOST_JOBS)}
