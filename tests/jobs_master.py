"""A master for the crash tests: six shell tasks, of which one fails once and one fails always. Usage: jobs_master.py DIR"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs_support import make_task

from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.errors import DataError, PwactLikeError
from pwact_like.jobs.dispatcher import Dispatcher
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.types import Task
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
            (work_dir / name / "NAME").write_text(f"{name}\n")
            (work_dir / name / "SECRET").write_text("licensed\n")
    return tasks


def judge(task: Task, folder: Path) -> Outcome:
    if (folder / "NAME").read_text() != f"{task.name}\n" or (folder / "out").read_text() != f"{task.name}\n":
        raise DataError(f"{folder}: not this task's output")
    return Retry("it was flaky", {"AGAIN": "yes"}) if task.name == "flaky" and folder.name == "1" else Ok()


def main() -> int:
    work_dir = Path(sys.argv[1])
    state_dir = work_dir / ".pwact_like" / "run"
    stop = StopFlag()
    try:
        with MasterLock(state_dir) as lock, stop.installed(), Journal(state_dir / "journal.sqlite", lock) as journal:
            resource = Resource(scheduler="local", train=ResourceSection(group_size=2, parallel_num=1))
            scheduler = LocalScheduler(state_dir / "jobs", cores=2, gpus=())
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
