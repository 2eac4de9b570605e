"""From tasks to jobs: which attempts share a job, what the job is called, where its script lies."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.errors import InputError, Problem
from pwact_like.jobs.script import Work, check_shell, render_job
from pwact_like.jobs.types import Asks, JobRequest, Scheduler, Task

if TYPE_CHECKING:
    from pwact_like.config.resource import Resource, ResourceSection

SCRIPT_NAME = "job.sh"
DRY_RUN_FOLDER = "dry-run"


def section_of(resource: Resource, task: Task) -> ResourceSection:
    """The section of resource.json that runs this task; one core where it was left out."""
    from pwact_like.config.resource import ResourceSection

    section: ResourceSection | None = getattr(resource, task.section.lower())
    return section if section is not None else ResourceSection()


def groups(work: Sequence[Work], resource: Resource) -> list[list[Work]]:
    """Share attempts out to jobs, group_size to a job (−1: all in one); a job has tasks of one section that ask for the same."""
    alike: dict[tuple[str, Asks], list[Work]] = {}
    for item in work:
        alike.setdefault((item.task.section, item.asks), []).append(item)
    shared = []
    for items in alike.values():
        size = section_of(resource, items[0].task).group_size
        size = len(items) if size < 1 else size
        shared += [items[start : start + size] for start in range(0, len(items), size)]
    return shared


def job_name(campaign: str, work: Sequence[Work], uid: str = "") -> str:
    """``pwl-<campaign>-<job>-<attempt>``: a hash of the journal's uid and of what is in the job; the highest attempt in it.

    Two folders with one campaign (a copy, an example run twice) have the same tasks: without the uid their jobs would
    have the same names, and one folder's master would take up, or end, the other one's jobs.
    """
    content = json.dumps([uid, [[item.task.key, item.number] for item in work]])
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", campaign).strip("-.") or "campaign"
    return f"pwl-{readable[:40]}-{digest}-{max(item.number for item in work)}"


def script_content(name: str, folder: Path, work: Sequence[Work], resource: Resource, scheduler: Scheduler) -> bytes:
    """A job's script; names of files that are not UTF-8 keep their bytes."""
    section = section_of(resource, work[0].task)
    header = scheduler.header(JobRequest(name, section, work[0].asks))
    return render_job(name, folder, work, section, header).encode("utf-8", "surrogateescape")


def digest_of(content: bytes) -> str:
    """SHA-256 of a script."""
    return hashlib.sha256(content).hexdigest()


def write_script(path: Path, content: bytes | str, flush: bool = True) -> None:
    """Write a script, unless it is there already."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    try:
        path.parent.mkdir()
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
    except FileExistsError:
        if path.is_file() and path.read_bytes() == content:
            return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o755)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        if flush:
            os.fsync(handle)  # the folder's entry comes to the disk with the journal's next flush
    temporary.replace(path)


def check_work(work: Sequence[Work], resource: Resource) -> None:
    """Insist that bash can parse what the user wrote, in every section; all problems at once."""
    problems: list[Problem] = []
    by_section: dict[str, list[Work]] = {}
    for item in work:
        by_section.setdefault(item.task.section, []).append(item)
    for items in by_section.values():
        try:
            check_shell(items, section_of(resource, items[0].task))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def dry_run(tasks: Sequence[Task], resource: Resource, state_dir: Path, campaign: str, scheduler: Scheduler) -> list[Path]:
    """Write the script of every job that a first run would submit to ``state_dir/dry-run/NAME/job.sh``; submit nothing.

    The scripts are complete: started by hand under bash, one does the work of its job.
    """
    work = [Work(task, 1) for task in tasks]
    check_work(work, resource)
    paths = []
    for items in groups(work, resource):
        name = job_name(campaign, items)
        folder = state_dir / DRY_RUN_FOLDER / name
        write_script(folder / SCRIPT_NAME, script_content(name, folder, items, resource, scheduler), flush=False)
        paths.append(folder / SCRIPT_NAME)
    return paths
