"""Reads a campaign's status snapshot, and tells a running master from one that died."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pwact_like.errors import DataError
from pwact_like.fsio import read_json
from pwact_like.jobs.lock import holder_is_alive, read_lock
from pwact_like.jobs.process import is_elsewhere

STATE_DIR = ".pwact_like"
WORKFLOWS = ("init_bulk", "run")
SHOWN_JOBS = 30


def read_status(work_dir: Path, workflow: str | None = None) -> dict[str, Any]:
    """The snapshot of a workflow (the latest one when not named), its state corrected when the master is gone.

    Raises
    ------
    DataError
        When nothing was ever started in this folder.
    """
    names = (workflow,) if workflow else WORKFLOWS
    found = [read_json(path) for name in names if (path := work_dir / STATE_DIR / name / "status.json").is_file()]
    if not found:
        what = workflow or "init_bulk or run"
        raise DataError(f"{work_dir}: no {what} was started here (there is no {STATE_DIR}/*/status.json); give the folder with --work-dir")
    status: dict[str, Any] = max(found, key=lambda snapshot: snapshot["heartbeat"])
    if status["state"] == "running" and not _master_may_live(work_dir / STATE_DIR / status["workflow"]):
        status["state"] = "interrupted"
        status["reason"] = "the master is gone without a word (killed, or the machine went down); the same command goes on where it was"
    return status


def _master_may_live(state_dir: Path) -> bool:
    """Whether a master holds the lock and runs; of another machine's nothing can be told, so it may."""
    record = read_lock(state_dir)
    return record is not None and (is_elsewhere(record.process) or holder_is_alive(record))


def status_json(status: dict[str, Any]) -> str:
    """The status as printed by ``status --json``."""
    return json.dumps(status, indent=2, ensure_ascii=False)


def status_text(status: dict[str, Any], now: float | None = None) -> str:
    """The status for people: one line on the state, a table of the iterations, the jobs, the data set."""
    age = (time.time() if now is None else now) - status["heartbeat"]
    lines = [f"{status['workflow']} ({status['campaign']}): {status['state']}" + (f": {status['reason']}" if status["reason"] else "")]
    if status["state"] == "running":
        lines.append(f"stage {status['stage'] or '-'}, master {status['pid']} on {status['host']}, heartbeat {age:.0f} s ago")
        jobs = status["jobs"]
        lines.append("tasks: " + ", ".join(f"{jobs.get(name, 0)} {name}" for name in ("planned", "queued", "running", "ended", "failed")))
    if status["state"] in ("running", "waiting", "stopped", "interrupted"):
        lines += job_lines(status, time.time() if now is None else now)
    if status["iterations"]:
        lines += ["", *iteration_table(status["iterations"])]
    if status["dataset"]["frames"]:
        lines += ["", f"data set: {status['dataset']['frames']} labelled frames, sha256 {status['dataset']['sha256'][:16]}…"]
    if status["models"]:
        lines += ["", "models:", *(f"  {path}" for path in status["models"])]
    lines += [f"note: {note}" for note in status["notes"]]
    return "\n".join(lines)


def job_lines(status: dict[str, Any], now: float) -> list[str]:
    """Lines on the jobs in flight: id, state, the scheduler's word and reason, node, since when."""
    rows = status.get("jobs_in_flight", [])
    lines = []
    if status.get("scheduler_silent"):
        lines.append(f"{status['scheduler']} does not answer at present: nothing is concluded from that, it is asked again")
    if status.get("scheduler_refuses"):
        lines.append(f"{status['scheduler']} takes no more jobs for now: {status['scheduler_refuses']}")
    if not rows:
        return lines
    left_out = status.get("jobs_left_out", 0) + max(0, len(rows) - SHOWN_JOBS)
    as_of = "" if status["state"] == "running" else ", as the master last saw them"
    cells = [["id", "state", "since", "node", "tasks", "section", "name", "reason"]]
    for row in rows[:SHOWN_JOBS]:
        state = row["said"] or row["state"]
        since = "-" if row["since"] is None else duration(now - row["since"])
        reason = row["reason"] + "  <- will not begin by itself" * row["stuck"]
        number = "?" if row["id"] is None else "-" if row["id"] == row["name"] else row["id"]
        cells.append([number, state, since, row["node"] or "-", str(row["tasks"]), row["section"], row["name"], reason])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]) - 1)]
    lines.append(f"jobs ({status.get('scheduler') or 'local'}{as_of}):")
    for line in cells:
        start = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        lines.append(f"  {start}  {line[-1]}".rstrip())
    if left_out:
        lines.append(f"  … and {left_out} more")
    return lines


def duration(seconds: float) -> str:
    """A time in words: 12 s, 34 min, 5.6 h, 7.8 d."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


_COLUMNS = (
    ("iter", "index", "d"),
    ("entry", "entry", "d"),
    ("stage", "stage", "s"),
    ("MD runs", "trajectories", "d"),
    ("levels eV/Å", "lower", "levels"),
    ("planned", "frames_planned", "d"),
    ("accurate", "accurate", "d"),
    ("candidate", "candidate", "d"),
    ("failed", "failed", "d"),
    ("selected", "selected", "d"),
    ("labels", "labelled", "d"),
    ("rejected", "rejected", "d"),
    ("E RMSE meV/atom", "energy_rmse_ev_per_atom", "meV"),
    ("F RMSE eV/Å", "force_rmse_ev_per_ang", ".4f"),
)


def iteration_table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of the table of iterations; the errors are those of the models that the iteration trained, on the test set."""
    cells = [[title for title, _, _ in _COLUMNS]]
    # a status that an older version has written lacks what newer ones show
    cells += [[_levels(row) if style == "levels" else _cell(row.get(key), style) for _, key, style in _COLUMNS] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]


def _levels(row: dict[str, Any]) -> str:
    """The trust levels; with an × where they are multiples of each run's own first values."""
    if row.get("lower") is None or row.get("upper") is None:
        return "-"
    times = "×" if row.get("relative") else ""
    return f"{times}{row['lower']:.3g} {times}{row['upper']:.3g}"


def _cell(value: Any, style: str) -> str:
    if value is None:
        return "-"
    if style == "meV":
        return f"{1000.0 * value:.2f}"
    return format(value, style)
