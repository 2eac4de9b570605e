"""Campaigns on a Slurm, fake or real, whose masters are killed, stopped and started again; what the tests of that share.

The campaign is that of tests/micro.py. What it must come to is what it comes to on this machine, alone and undisturbed.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bulk_micro
import micro
import pytest
from cluster import Cluster
from fake.fake_slurm import FakeSlurm
from support import clean_environment

from pwact_like.crashpoints import KILL_AT_VARIABLE

RUN = ("run", "param.json", "resource.json")
INIT_BULK = ("init_bulk", "init_param.json", "resource.json")
STRATEGY = {"max_select": 2}
BULK = {"data_shuffle": True, "interval": 2, "scf_max_num": 2, "reserve_work": True}
_AT_REST = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "COMPLETING")
_END_S = 120.0


class Slurm:
    """What there is to see of a Slurm's jobs, whether it is the fake one or a real one."""

    def __init__(self, of: FakeSlurm | Cluster) -> None:
        self.of = of

    def jobs(self) -> list[tuple[str, str]]:
        """Name and state of every job of ours that it remembers."""
        if isinstance(self.of, FakeSlurm):
            found = [(job.name, job.display) for job in self.of.jobs(forgotten=True)]
        else:
            # other tests' jobs have any name
            found = [("|".join(name), state) for state, *name in self.of.squeue("-t", "all", columns="%T|%j")]
        return [(name, state) for name, state in found if name.startswith("pwl-")]

    def alive(self) -> list[str]:
        """Names of our jobs that wait or run."""
        return [name for name, state in self.jobs() if state not in _AT_REST]

    def jobs_of(self, folder: Path) -> list[tuple[str, str]]:
        """The same, of the masters of a folder alone (their scripts lie there): a cluster serves several tests."""
        ours = {path.name for path in folder.glob(".pwact_like/*/jobs/*")}
        return [(name, state) for name, state in self.jobs() if name in ours]

    def check_none_left(self, folder: Path) -> None:
        """No job of ours lives on, and none of this folder's was submitted twice."""
        wait_until(lambda: not self.alive(), lambda: f"orphans: {self.alive()}", 20)
        names = [name for name, _ in self.jobs_of(folder)]
        assert names and len(names) == len(set(names)), f"a job was submitted twice: {names}"


class Master:
    """A campaign's folder, and one master after the other in it, each a process of its own."""

    def __init__(self, folder: Path, command: tuple[str, ...] = RUN) -> None:
        self.folder = folder
        self.command = command
        self.process: subprocess.Popen[str] | None = None
        self._log_before = 0
        self._terminal = Path(tempfile.mkdtemp(prefix="terminal.", dir=folder)) / "terminal"

    def start(self, *options: str, kill_at: str = "", before: tuple[str, ...] = (), **changes: str) -> subprocess.Popen[str]:
        """Start a master, in a session of its own.

        ``before`` stands in front of its command (nohup), ``changes`` are variables.
        """
        changes |= {KILL_AT_VARIABLE: kill_at} if kill_at else {}
        self._log_before = len(self.log)
        with self._terminal.open("w") as terminal:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-P", "-m", "pwact_like", *self.command, *options],
                cwd=self.folder,
                env=clean_environment(**changes),
                stdout=terminal,
                stderr=terminal,
                stdin=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        return self.process

    def wait(self, timeout_s: float = _END_S) -> int:
        """Exit status of the master."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def run(self, *options: str, kill_at: str = "") -> int:
        """Start, and wait for the end."""
        self.start(*options, kill_at=kill_at)
        return self.wait()

    def close(self) -> None:
        """End the master if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        """What the last master has said so far."""
        return self._terminal.read_text()

    @property
    def log(self) -> str:
        """The log of all masters."""
        path = self.folder / "run.log"
        return path.read_text() if path.exists() else ""

    @property
    def new_log(self) -> str:
        """What was logged since the last start."""
        return self.log[self._log_before :]

    def until(self, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Wait for something while the master runs."""
        process = self.process

        def come() -> bool:
            assert process is None or process.poll() is None, f"the master ended with {process.poll()}:\n{self.said}"
            return bool(condition())

        wait_until(come, lambda: self.said, timeout_s)

    def begun(self, pattern: str) -> Callable[[], bool]:
        """Whether a task whose folder matches has begun, by the task's own file."""
        return lambda: any(self.folder.glob(f"{pattern}/.attempt/executions.log"))

    def kill_at(self, *points: str) -> None:
        """One master after the other, each killed at a point."""
        for point in points:
            status = self.run(kill_at=point)
            assert status == -signal.SIGKILL, f"the kill at {point} did not land:\n{self.said}"

    def finish(self, *options: str) -> None:
        """A master that comes to the end."""
        status = self.run(*options)
        assert status == 0, self.said

    def lock(self) -> Path:
        return self.folder / ".pwact_like" / "run" / "lock"

    def product(self) -> object:
        """What the campaign has come to: the data set."""
        if self.command[0] == "run":
            return micro.status(self.folder)["dataset"]
        manifest = json.loads((self.folder / "collection" / "manifest.json").read_text())
        # datapath.txt holds absolute paths
        files = {name: digest for name, digest in manifest["outputs"].items() if name != "datapath.txt"}
        return {"sha256": manifest["facts"]["sha256"], "files": files}

    def check_jobs_stayed(self, slurm: Slurm) -> None:
        """When a master ends its jobs go on."""
        states = [state for _, state in slurm.jobs_of(self.folder)]
        assert states and "CANCELLED" not in states, states

    def check_same_end(self, undisturbed: dict) -> None:
        """The same data set, and every task once: none redone, none twice, none forgotten."""
        assert self.product() == undisturbed["product"]
        counts = micro.executions(self.folder)
        assert counts == undisturbed["executions"] and set(counts.values()) == {1}
        for task in counts:
            attempts = self.folder / task / ".attempt"
            left = {path.name for path in attempts.iterdir() if path.is_dir()}
            assert left == {"1"} and (attempts / "1" / "exit").read_text() == "0\n", f"{task}: attempts {left}"


def wait_until(condition: Callable[[], bool], otherwise: Callable[[], str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in time: {otherwise()}"
        time.sleep(0.02)


def campaign(folder: Path, **resource: object) -> Master:
    """The inputs of the campaign, on Slurm unless told otherwise, and masters for it."""
    content = {**micro.on_slurm(), **resource}
    micro.write_campaign(folder, strategy=STRATEGY, resource=content)
    return Master(folder)


def init_bulk(folder: Path, scheduler: str = "slurm") -> Master:
    """The inputs of an init_bulk, and masters for it."""
    bulk_micro.write_inputs(folder, bulk_micro.SHORT, resource=None if scheduler == "local" else micro.on_slurm(), **BULK)
    return Master(folder, INIT_BULK)


def undisturbed_once(factory: pytest.TempPathFactory, what: str) -> dict:
    """What ``campaign`` or ``init_bulk`` comes to on this machine, undisturbed: run once for all test workers."""
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder = shared / f"undisturbed-{what}"
    result = shared / f"undisturbed-{what}.json"
    with (shared / f"undisturbed-{what}.lock").open("w") as guard:
        fcntl.lockf(guard, fcntl.LOCK_EX)
        if not result.exists():
            if what == "campaign":
                micro.write_campaign(folder, strategy=STRATEGY)
                master = Master(folder)
            else:
                master = init_bulk(folder, "local")
            master.finish()
            result.write_text(json.dumps({"product": master.product(), "executions": micro.executions(folder)}))
    return json.loads(result.read_text())
