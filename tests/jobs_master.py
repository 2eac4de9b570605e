"""A master for the crash tests: six shell tasks, of which one fails once and one fails always. Usage: jobs_master.py DIR SCHEDULER"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jobs_support import executions, make_task
from support import clean_environment

from pwact_like import fsio
from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.crashpoints import KILL_AT_VARIABLE
from pwact_like.errors import DataError, PwactLikeError
from pwact_like.jobs.dispatcher import Dispatcher
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.slurm import SlurmScheduler
from pwact_like.jobs.types import Scheduler, Task
from pwact_like.outcome import Ok, Outcome, Retry, TaskFiles

COMMANDS = {
    "a": "true",
    "b": "sleep 0.2",
    "flaky": '[ "$AGAIN" = yes ]',
    "d": "true",
    "doomed": "echo so it ends >&2; exit 9",
    "f": "sleep 0.1",
}


def tasks_of(work_dir: Path, plan: bool = False) -> list[Task]:
    files = TaskFiles(inputs=("NAME", "SECRET"), outputs=("out", "log"), secret=("SECRET",))
    hold = 'while [ -e ../../../hold ]; do sleep 0.02; done; cat NAME > out; echo "$PWACT_LIKE_JOB" > log; touch scratch'
    commands = {name: (hold, command) if name != "flaky" else (hold,) for name, command in COMMANDS.items()}
    tasks = []
    for name in COMMANDS:
        tasks.append(make_task(work_dir / name, *commands[name], name=name, files=files, max_attempts=2, seed=1))
        if plan:
            fsio.write_text(work_dir / name / "NAME", f"{name}\n")  # a job of the master before may be copying it
            fsio.write_text(work_dir / name / "SECRET", "licensed\n")
    return tasks


def judge(task: Task, folder: Path) -> Outcome:
    if (folder / "NAME").read_text() != f"{task.name}\n" or (folder / "out").read_text() != f"{task.name}\n":
        raise DataError(f"{folder}: not this task's output")
    return Retry("it was flaky", {"AGAIN": "yes"}) if task.name == "flaky" and folder.name == "1" else Ok()


POINTS = ("intent-written", "submitted-unrecorded", "submitted", "ended-unjudged", "accepting", "cleaning", "accepted")
ENDS = ["a:accepted:1", "b:accepted:1", "flaky:accepted:2", "d:accepted:1", "doomed:failed:2", "f:accepted:1"]


def start(work_dir: Path, kill_at: str = "", scheduler: str = "local") -> subprocess.Popen[str]:
    """Start a master, as a process of its own."""
    changes = {KILL_AT_VARIABLE: kill_at} if kill_at else {}
    command = [sys.executable, __file__, work_dir, scheduler]
    return subprocess.Popen(command, env=clean_environment(**changes), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(work_dir: Path, scheduler: str = "local") -> list[str]:
    """A master that comes to its end, and all tasks with it; ends of the tasks as in ENDS."""
    master = start(work_dir, scheduler=scheduler)
    out, err = master.communicate(timeout=90)
    assert master.returncode == 0, err
    return out.split()


def check(work_dir: Path) -> None:
    """Every task ran exactly once for each attempt, and attempts failed only where they were made to."""
    for task in tasks_of(work_dir):
        numbers = [line[0] for line in executions(task)]
        expected = {"flaky": ["1", "2"], "doomed": ["1", "2"]}.get(task.name, ["1"])
        assert numbers == expected, f"{task.name} ran as attempts {numbers}"
        if task.name == "doomed":
            assert not (task.folder / "out").exists()
        else:
            assert (task.folder / "out").read_text() == f"{task.name}\n" and (task.folder / "log").exists()
            number = numbers[-1]
            assert {path.name for path in (task.folder / ".attempt" / number).iterdir()} == {"claim", "exit", "stdout", "stderr"}
        assert not (task.folder / "SECRET").exists() and not list(task.folder.rglob("SECRET"))
    assert LocalScheduler(work_dir / ".pwact_like" / "run" / "jobs").live() == []


def main() -> int:
    work_dir, kind = Path(sys.argv[1]), sys.argv[2]
    state_dir = work_dir / ".pwact_like" / "run"
    stop = StopFlag()
    try:
        with MasterLock(state_dir) as lock, stop.installed(), Journal(state_dir / "journal.sqlite", lock) as journal:
            section = ResourceSection(group_size=2, parallel_num=1, memory="200M", time="10")
            resource = Resource(scheduler=kind, train=section)
            local = kind == "local"
            scheduler: Scheduler = LocalScheduler(state_dir / "jobs", cores=2, gpus=()) if local else SlurmScheduler(timeout_s=120)
            dispatcher = Dispatcher(
                state_dir, work_dir, journal, scheduler, resource, "killed", stop=stop, poll_s=(0.01, 0.05), grace_s=0.3
            )
            results = dispatcher.run(tasks_of(work_dir, plan=True), judge)
            print(*(f"{name}:{result.state}:{result.attempts}" for name, result in results.items()))
    except PwactLikeError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
