"""What happened to a task, attempt by attempt, with the paths to look at; read from a copy of the journal."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pwact_like.errors import DataError, InputError, Problem
from pwact_like.jobs.journal import JOURNAL_NAME
from pwact_like.jobs.journal_read import JournalReader, read_copy
from pwact_like.jobs.rows import AttemptRow, JobRow, TaskRow
from pwact_like.jobs.types import AttemptState, TaskState
from pwact_like.report.status import STATE_DIR, WORKFLOWS, read_status
from pwact_like.workflows.retry import BULK_CURE, finished_product, named_task, stage_of

STDERR_LINES = 5
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Explained:
    """A task, its attempts and the jobs in which they were."""

    work_dir: Path
    state_dir: Path
    task: TaskRow
    attempts: tuple[AttemptRow, ...]
    jobs: dict[str, JobRow]

    @property
    def folder(self) -> Path:
        """The task's folder."""
        return self.work_dir / self.task.folder

    def attempt_folder(self, number: int) -> Path:
        """Where an attempt worked."""
        return self.folder / ".attempt" / str(number)


def find_task(work_dir: Path, wanted: str, workflow: str | None = None) -> Explained:
    """Find a task by its name, a part of it, or a path in its folder.

    Parameters
    ----------
    wanted
        Name, unique part of a name, or path.
    workflow
        ``run`` or ``init_bulk``; None: wherever it is.

    Raises
    ------
    InputError
        When no task, or more than one, is meant; near-misses are named.
    DataError
        When nothing was ever started in the folder.
    """
    names = [workflow] if workflow else [name for name in WORKFLOWS if (work_dir / STATE_DIR / name / JOURNAL_NAME).exists()]
    found: dict[str, TaskRow] = {}
    owner: dict[str, str] = {}
    for name in names or ["run"]:
        with read_copy(work_dir / STATE_DIR / name / JOURNAL_NAME) as journal:
            rows = journal.tasks()
        found |= rows
        owner |= dict.fromkeys(rows, name)
    task = named_task(work_dir, wanted, Path.cwd(), found)
    if isinstance(task, Problem):
        raise InputError(task)
    state_dir = work_dir / STATE_DIR / owner[task]
    with read_copy(state_dir / JOURNAL_NAME) as journal:
        return _collect(journal, work_dir, state_dir, found[task])


def _collect(journal: JournalReader, work_dir: Path, state_dir: Path, task: TaskRow) -> Explained:
    attempts = tuple(journal.attempts(task.name))
    jobs = journal.jobs()
    return Explained(work_dir, state_dir, task, attempts, {row.job: jobs[row.job] for row in attempts if row.job in jobs})


def explain_json(found: Explained) -> str:
    """Everything, for programs."""
    content: dict[str, Any] = asdict(found.task) | {"folder": str(found.folder), "now": _outlook(found), "attempts": []}
    for row in found.attempts:
        folder = found.attempt_folder(row.number)
        job = found.jobs.get(row.job)
        content["attempts"].append(
            {
                **asdict(row),
                "folder": str(folder),
                "exit_marker": _content(folder / "exit"),
                "job_folder": str(found.state_dir / "jobs" / row.job) if row.job else None,
                "job_record": asdict(job) if job else None,
            }
        )
    return json.dumps(content, indent=2, ensure_ascii=False, default=str)


def explain_text(found: Explained) -> str:
    """The story for people."""
    task = found.task
    lines = [f"{task.name}: {_state(found)}", f"  folder: {found.folder}", f"  section of resource.json: {task.section}"]
    if task.reason:
        lines.append(f"  reason: {task.reason}")
    if task.note:
        lines.append(f"  note: {task.note}")
    for row in found.attempts:
        lines += ["", *_attempt_lines(found, row)]
    lines += ["", f"now: {_outlook(found)}"]
    return "\n".join(lines)


def _state(found: Explained) -> str:
    if found.task.state is not None:
        return f"{found.task.state} after {len(found.attempts)} attempt{'s' * (len(found.attempts) != 1)}"
    return f"attempt {found.attempts[-1].number} is {found.attempts[-1].state}" if found.attempts else "not begun"


def _attempt_lines(found: Explained, row: AttemptRow) -> list[str]:
    folder = found.attempt_folder(row.number)
    verdict = str(row.state)
    if row.state is AttemptState.REJECTED:
        verdict += f", {row.cause}" + (" (counts as a failed attempt)" if row.strike else " (does not count as a failed attempt)")
    lines = [f"attempt {row.number}: {verdict}"]
    if row.reason:
        lines.append(f"  why: {row.reason}")
    lines.append(f"  when: planned {_when(row.planned)}, submitted {_when(row.submitted)}, ended {_when(row.ended)}")
    wishes = [f"{row.asks.memory_mb} MB" * bool(row.asks.memory_mb), f"{(row.asks.time_s or 0) // 60} minutes" * bool(row.asks.time_s)]
    wishes.append(f"without the nodes {', '.join(row.asks.exclude)}" * bool(row.asks.exclude))
    wishes += [f"{name}={value}" for name, value in row.env.items()]
    if any(wishes):
        lines.append(f"  asked for: {', '.join(filter(None, wishes))}")
    if row.job:
        lines += _job_lines(found, row)
    marker = _content(folder / "exit")
    claimed = _content(folder / "claim")
    if claimed is not None:
        lines.append(f"  begun by (host, pid, job): {claimed}; exit marker: {marker if marker is not None else 'none'}")
    elif folder.exists():
        lines.append(f"  never begun; exit marker: {marker if marker is not None else 'none'}")
    lines.append(f"  files: {folder}" if folder.exists() else f"  files: none yet ({folder})")
    tail = _tail(folder / "stderr")
    if tail and row.state is not AttemptState.ACCEPTED:
        lines += ["  end of its stderr:", *(f"    | {line}" for line in tail)]
    return lines


def _job_lines(found: Explained, row: AttemptRow) -> list[str]:
    job = found.jobs.get(row.job)
    place = found.state_dir / "jobs" / row.job
    if job is None:
        return [f"  job: {row.job} (withdrawn)"]
    number = f", id {job.scheduler_id}" if job.scheduler_id and job.scheduler_id != job.name else ""
    words = job.reason if job.said in job.reason else " ".join(filter(None, [job.said, job.reason]))
    lines = [
        f"  job: {job.name}{number}, {job.state}"
        + f" ({words})" * bool(words)
        + f", node {row.node or job.node}" * bool(row.node or job.node)
    ]
    lines.append(f"  its script, stdout and stderr: {place}")
    tail = _tail(place / "stderr")
    if tail and row.state is not AttemptState.ACCEPTED:
        lines += ["  end of the job's stderr:", *(f"    | {line}" for line in tail)]
    return lines


def _outlook(found: Explained) -> str:
    task, last = found.task, found.attempts[-1] if found.attempts else None
    if task.state is TaskState.ACCEPTED:
        return "done; its outputs are in its folder"
    if task.state is TaskState.FAILED:
        return f"set aside. What to do: mend the cause, end the master if it runs (Ctrl-C, its jobs stay), then {_cure(found)}"
    return _next_step(last) + _who_drives_it(found, last)


def _cure(found: Explained) -> str:
    """How a failed task comes to another attempt; that of a finished stage only with its whole stage."""
    workflow, name = found.state_dir.name, found.task.name
    stage = stage_of(workflow, name)
    if stage is None or finished_product(found.work_dir, workflow, name) is None:
        return f"`pwact-like retry {name}` and start again"
    if workflow == "init_bulk":
        return f"make its stage anew, which is finished without it: {BULK_CURE}"
    return f"`pwact-like rewind --to {stage[0]}` and start again: its stage is finished without it, and takes it in only as a whole"


def _next_step(last: AttemptRow | None) -> str:
    if last is None or last.state is AttemptState.PLANNED:
        return "it waits for a job: for its turn (max_jobs), for a scheduler that takes no more for now, or for the master to be started"
    if last.state is AttemptState.SUBMITTING:
        return "its job was about to be submitted; whether it was taken is looked up by name"
    if last.state is AttemptState.UNKNOWN:
        return "the scheduler does not show its job at present; it is asked again before anything is concluded"
    return f"its job is {last.state}"


def _who_drives_it(found: Explained, last: AttemptRow | None) -> str:
    """What the master's snapshot adds: that none runs, that the scheduler is silent, that the job waits for ever."""
    try:
        status = read_status(found.work_dir, found.state_dir.name)
    except DataError:
        return ""  # no snapshot: a master that has only just begun
    if status["state"] != "running":
        return f"; no master runs ({status['state']}): the same command as before goes on"
    notes = ["; the scheduler does not answer at present, and is asked again"] if status.get("scheduler_silent") else []
    for row in status.get("jobs_in_flight", []):
        if last is not None and row["name"] == last.job and row["stuck"]:
            notes.append(f"; it will not begin by itself ({row['reason']}): see to resource.json or the partition, or cancel the job")
    return "".join(notes)


def _when(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _content(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _tail(path: Path) -> list[str]:
    """Last lines of a text file that say something."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = ["".join(letter if letter.isprintable() else " " for letter in line).rstrip() for line in text.splitlines()]
    return [line[:300] for line in lines if line.strip()][-STDERR_LINES:]
