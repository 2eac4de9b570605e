"""squeue."""

from __future__ import annotations

import os
import pwd

from fake.options import Reply, Table
from fake.store import Job, State
from fake.units import UNLIMITED, clock, compress, limit, memory, span

# base states in the order of their numbers, by which squeue sorts
SHORT = {
    "PENDING": "PD",
    "RUNNING": "R",
    "SUSPENDED": "S",
    "COMPLETED": "CD",
    "CANCELLED": "CA",
    "FAILED": "F",
    "TIMEOUT": "TO",
    "NODE_FAIL": "NF",
    "PREEMPTED": "PR",
    "BOOT_FAIL": "BF",
    "DEADLINE": "DL",
    "OUT_OF_MEMORY": "OOM",
    "COMPLETING": "CG",
    "CONFIGURING": "CF",
    "RESIZING": "RS",
    "RESV_DEL_HOLD": "RD",
    "REQUEUED": "RQ",
    "REQUEUE_FED": "RF",
    "REQUEUE_HOLD": "RH",
    "REVOKED": "RV",
    "SIGNALING": "SI",
    "SPECIAL_EXIT": "SE",
    "STAGE_OUT": "SO",
    "STOPPED": "ST",
}
_ORDER = {name: number for number, name in enumerate(SHORT)}
_WITH_REASON = {"PENDING", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "FAILED"}
TABLE = Table(
    "squeue",
    "account=/A all/a array/r noheader/h jobs?/j= me name=/n format=/o partition=/p qos=/q states=/t user=/u nodelist=/w local hide "
    "version/V",
)
_DEFAULT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
_HEADERS = {
    "i": "JOBID",
    "A": "JOBID",
    "F": "ARRAY_JOB_ID",
    "K": "ARRAY_TASK_ID",
    "T": "STATE",
    "t": "ST",
    "j": "NAME",
    "k": "COMMENT",
    "r": "REASON",
    "R": "NODELIST(REASON)",
    "N": "NODELIST",
    "m": "MIN_MEMORY",
    "V": "SUBMIT_TIME",
    "S": "START_TIME",
    "e": "END_TIME",
    "M": "TIME",
    "l": "TIME_LIMIT",
    "L": "TIME_LEFT",
    "u": "USER",
    "U": "UID",
    "P": "PARTITION",
    "D": "NODES",
    "C": "CPUS",
    "a": "ACCOUNT",
    "q": "QOS",
    "B": "EXEC_HOST",
    "b": "TRES_PER_NODE",
    "Z": "WORK_DIR",
    "o": "COMMAND",
    "E": "DEPENDENCY",
    "f": "FEATURES",
    "p": "PRIORITY",
    "Q": "PRIORITY",
    "x": "EXC_NODES",
    "g": "GROUP",
}


def squeue(state: State, argv: list[str]) -> Reply:
    """Print jobs."""
    found, rest = TABLE.parse(argv)
    if rest:
        raise Reply(1, err=f"squeue: error: Unrecognized option: {rest[0]}\n")
    options = {
        name: value
        for name, variable in (("states", "STATES"), ("format", "FORMAT"), ("name", "NAMES"), ("user", "USERS"), ("partition", "PARTITION"))
        if (value := os.environ.get(f"SQUEUE_{variable}")) is not None
    }
    options |= dict(found)
    if "SQUEUE_ARRAY" in os.environ:
        options["array"] = ""
    wanted = _states(options.get("states"))
    err = ""
    jobs = state.all_jobs()
    if "jobs" in options:
        jobs = _by_id(state, options["jobs"])
    users = set(options["user"].split(",")) if "user" in options else None
    if "me" in options:
        users = {str(os.getuid())}
    for user in users or ():
        if user and not user.isdigit() and not _known(user, jobs):
            err += f"squeue: error: Invalid user: {user}\n\n"
    jobs = [
        job
        for job in jobs
        if (job.live if wanted is None else not wanted or job.display in wanted or job.state in wanted)
        and (users is None or str(job.uid) in users or job.user in users)
        and ("name" not in options or job.name in options["name"].split(","))
        and ("partition" not in options or set(job.partition.split(",")) & set(options["partition"].split(",")))
        and ("account" not in options or job.account in options["account"].split(","))
        and ("qos" not in options or job.qos in options["qos"].split(","))
        and ("nodelist" not in options or set(job.nodes) & set(options["nodelist"].split(",")))
    ]
    jobs.sort(key=lambda job: (job.partition, _ORDER.get(job.display, 99), job.id))
    parts = pieces(options.get("format", _DEFAULT))
    lines = [] if "noheader" in options else [render(parts, lambda letter: _HEADERS.get(letter, ""))]
    merged = {} if "array" in options else _pending_arrays(jobs)
    shown: set[int] = set()
    for job in jobs:
        if job.array_id in merged and job.state == "PENDING":
            if job.array_id in shown:
                continue
            shown.add(job.array_id)
        lines.append(render(parts, lambda letter, job=job: field(state, job, letter, merged)))
    return Reply(0, "".join(f"{line}\n" for line in lines), err)


def _known(user: str, jobs: list[Job]) -> bool:
    if any(job.user == user for job in jobs):
        return True
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _by_id(state: State, text: str) -> list[Job]:
    words = [word for word in text.split(",") if word]
    for word in words:
        if not word.replace("_", "", 1).isdigit():
            raise Reply(1, err=f"squeue: error: Invalid job id: {word}\n")
    jobs = [
        job
        for job in state.all_jobs()
        for word in words
        if word in {str(job.id), str(job.array_id or job.id), f"{job.array_id}_{job.array_index}"}
    ]
    if len(words) == 1 and not jobs:
        raise Reply(1, err="slurm_load_jobs error: Invalid job id specified\n")
    return list({job.id: job for job in jobs}.values())


def _states(text: str | None) -> set[str] | None:
    """Full names; empty: all of them; None: only what lives."""
    if text is None:
        return None
    if text.lower() == "all":
        return set()
    chosen = set()
    long = {short: name for name, short in SHORT.items()}
    for word in text.split(","):
        name = long.get(word.upper(), word.upper())
        if name not in SHORT:
            valid = ",".join(SHORT)
            raise Reply(1, err=f"squeue: error: Invalid job state specified: {word}\nsqueue: error: Valid job states include: {valid}\n\n")
        chosen.add(name)
    return chosen


def pieces(pattern: str) -> list[tuple[str, str, int, str]]:
    """(letter, side, width, text after it) of each field; what stands before the first has no letter."""
    head, *rest = pattern.split("%")
    parts = [("", "", 0, head)]
    for piece in rest:
        if not piece:
            continue
        side = "." if piece[0] == "." else ""
        piece = piece[len(side) :]
        digits = piece[: len(piece) - len(piece.lstrip("0123456789"))]
        letter, text = piece[len(digits) : len(digits) + 1], piece[len(digits) + 1 :]
        parts.append((letter, side, int(digits or 0), text))
    return parts


def render(parts: list[tuple[str, str, int, str]], value_of: object) -> str:
    """One line."""
    words = []
    for letter, side, width, text in parts:
        value = value_of(letter) if letter else ""  # type: ignore[operator]
        if width:
            value = value[:width].rjust(width) if side else value[:width].ljust(width)
        words += [value, text]
    return "".join(words)


def _pending_arrays(jobs: list[Job]) -> dict[int, list[int]]:
    merged: dict[int, list[int]] = {}
    for job in jobs:
        if job.array_id and job.state == "PENDING":
            merged.setdefault(job.array_id, []).append(job.array_index)
    return merged


def _tasks(indices: list[int]) -> str:
    text = compress([f"t{index}" for index in indices])
    return text[1:] if text.startswith("t[") else f"[{text[1:]}]"


def field(state: State, job: Job, letter: str, merged: dict[int, list[int]]) -> str:
    """A field of a job as squeue prints it."""
    many = job.array_id in merged and job.state == "PENDING"
    index = _tasks(merged[job.array_id]) if many else str(job.array_index)
    value = _FIELDS.get(letter)
    if letter == "i":
        return f"{job.array_id}_{index}" if job.array_id else str(job.id)
    if letter == "K":
        return index.strip("[]") if job.array_id else "N/A"
    if value is None:
        raise Reply(1, err=f"squeue: error: Invalid job format specification: {letter}\n")
    return str(value(state, job))


def _reason_or_nodes(state: State, job: Job) -> str:
    return f"({job.reason})" if job.display in _WITH_REASON else compress(job.nodes)


def _run_time(state: State, job: Job) -> float:
    return 0.0 if job.start is None or job.state == "PENDING" else (job.end or state.stamp) - job.start


def min_memory(job: Job) -> str:
    """As it was asked for: a node or a CPU."""
    return memory(max(0, job.mem_per_node) or job.mem_per_cpu) if job.mem_per_node >= 0 else "0"


def end_time(job: Job) -> float | None:
    """When it ended or will be ended."""
    if job.end is not None or job.start is None or job.limit_min == UNLIMITED:
        return job.end
    return job.start + 60 * job.limit_min


_FIELDS = {
    "A": lambda state, job: job.id,
    "F": lambda state, job: job.array_id or job.id,
    "T": lambda state, job: job.display,
    "t": lambda state, job: SHORT.get(job.display, job.display),
    "j": lambda state, job: job.name,
    "k": lambda state, job: job.comment or "(null)",
    "r": lambda state, job: job.reason,
    "R": _reason_or_nodes,
    "N": lambda state, job: compress(job.nodes),
    "m": lambda state, job: min_memory(job),
    "V": lambda state, job: clock(job.submit),
    "S": lambda state, job: clock(job.start),
    "e": lambda state, job: clock(end_time(job)),
    "M": lambda state, job: span(_run_time(state, job)),
    "l": lambda state, job: limit(job.limit_min),
    "L": lambda state, job: "UNLIMITED" if job.limit_min == UNLIMITED else span(job.limit_min * 60 - _run_time(state, job)),
    "u": lambda state, job: job.user,
    "U": lambda state, job: job.uid,
    "P": lambda state, job: job.partition,
    "D": lambda state, job: len(job.nodes) or job.min_nodes,
    "C": lambda state, job: (job.cpus or job.cpus_per_node) * (len(job.nodes) or job.min_nodes),
    "a": lambda state, job: job.account or "(null)",
    "q": lambda state, job: job.qos or "(null)",
    "B": lambda state, job: job.nodes[0] if job.nodes else "n/a",
    "b": lambda state, job: f"gres:{job.gres}" if job.gres else "N/A",
    "Z": lambda state, job: job.workdir,
    "o": lambda state, job: job.command,
    "E": lambda state, job: job.dependency or "(null)",
    "f": lambda state, job: job.constraint or "(null)",
    "p": lambda state, job: "0.99998474074527",
    "Q": lambda state, job: 4294901760 - job.id,
    "x": lambda state, job: compress(job.exclude),
    "g": lambda state, job: job.user,
}
