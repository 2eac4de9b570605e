"""Cheap shell tasks and a campaign folder for the tests of jobs/."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.jobs.dispatcher import Dispatcher
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.script import attempt_folder
from pwact_like.jobs.types import Task
from pwact_like.outcome import Ok, Outcome, TaskFiles

NASTY = ("plain", "two words", "quo'te", 'dou"ble', "ünïcödé ⟨∂E∕∂ε⟩", "new\nline", "$HOME `id` \\", "-rf", "a;b&c|d", "tab\tand*?[x]")


def make_task(folder: Path, *commands: str, name: str = "", **changes: object) -> Task:
    """A task in a folder that is created; it leaves ``out`` unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    name = name or folder.name
    fields: dict[str, object] = {"section": "train", "files": TaskFiles(outputs=("out",)), "max_attempts": 3}
    return Task(**{"key": f"key of {name}", "name": name, "folder": folder, "commands": commands, **fields, **changes})  # type: ignore[arg-type]


def always_ok(task: Task, folder: Path) -> Outcome:
    return Ok()


def executions(task: Task) -> list[list[str]]:
    """Lines of the task's own append-only file, split: attempt, host, pid, time, job."""
    path = task.folder / ".attempt" / "executions.log"
    return [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(
    condition: Callable[[], bool], timeout_s: float = 10.0, every_s: float = 0.01, what: Callable[[], str] | None = None
) -> None:
    """Wait for the condition; past the time-out, fail with what `what` says of the state."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in time: {what() if what else 'no more is known'}"
        time.sleep(every_s)


def run_script(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=60)


@dataclass
class Campaign:
    """A folder with a dispatcher on it."""

    work_dir: Path
    journal: Journal
    scheduler: LocalScheduler
    dispatcher: Dispatcher

    @property
    def state_dir(self) -> Path:
        return self.work_dir / ".pwact_like" / "run"


@contextmanager
def campaign(work_dir: Path, section: ResourceSection | None = None, cores: int = 4, **options: object):
    state_dir = work_dir / ".pwact_like" / "run"
    resource = Resource(scheduler="local", train=section or ResourceSection())
    with MasterLock(state_dir) as lock, Journal(state_dir / "journal.sqlite", lock) as journal:
        scheduler = LocalScheduler(state_dir / "jobs", cores=cores, gpus=())
        options = {"grace_s": 0.2, "poll_s": (0.02, 0.1), **options}
        dispatcher = Dispatcher(state_dir, work_dir, journal, scheduler, resource, "test", **options)  # type: ignore[arg-type]
        yield Campaign(work_dir, journal, scheduler, dispatcher)


def exit_of(task: Task, number: int = 1) -> str:
    return (attempt_folder(task, number) / "exit").read_text().strip()


def sessions_left(scheduler: LocalScheduler) -> Sequence[str]:
    return scheduler.live()
