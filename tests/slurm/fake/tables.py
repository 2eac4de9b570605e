"""sinfo and sacct."""

from __future__ import annotations

import os
import time

from fake.options import Reply, Table
from fake.schedule import free_resources
from fake.scontrol import node_state, tres
from fake.squeue import SHORT, pieces, render
from fake.store import Job, State
from fake.units import UNLIMITED, clock, compress, limit, memory, span

SINFO = Table("sinfo", "Node/N noheader/h format=/o partition=/p nodes=/n states=/t all/a local version/V")
_SINFO_HEADERS = {
    "P": "PARTITION",
    "R": "PARTITION",
    "a": "AVAIL",
    "l": "TIMELIMIT",
    "D": "NODES",
    "T": "STATE",
    "t": "STATE",
    "N": "NODELIST",
    "c": "CPUS",
    "m": "MEMORY",
    "G": "GRES",
    "f": "AVAIL_FEATURES",
    "C": "CPUS(A/I/O/T)",
    "n": "HOSTNAMES",
    "L": "DEFAULTTIME",
}
_COMPACT = {"IDLE": "idle", "MIXED": "mix", "ALLOCATED": "alloc", "DOWN*": "down*", "DRAINED": "drain", "DRAINING": "drng"}


def sinfo(state: State, argv: list[str]) -> Reply:
    """Partitions and nodes; nodes that look alike in the asked fields share a line."""
    found, rest = SINFO.parse(argv)
    if rest:
        raise Reply(1, err=f"sinfo: error: Unrecognized option: {rest[0]}\n")
    options = dict(found)
    by_node = "Node" in options
    default = "%.10N %.6D %.9P %6t" if by_node else "%9P %.5a %.10l %.6D %.6t %N"
    parts = pieces(options.get("format", default))
    letters = [letter for letter, _, _, _ in parts if letter]
    for letter in letters:
        if letter not in _SINFO_HEADERS:
            raise Reply(1, err=f"sinfo: error: Invalid node format specification: {letter}\n")
    free = free_resources(state, state.all_jobs())
    groups: dict[tuple, list[dict[str, str]]] = {}
    for partition, facts in state.partitions.items():
        if "partition" in options and partition not in options["partition"].split(","):
            continue
        for name in facts["nodes"]:
            row = _node_row(state, partition, name, free[name])
            wanted = options.get("states", row["T"]).lower().split(",")
            if ("nodes" in options and name not in options["nodes"].split(",")) or not {
                "all",
                row["T"],
                row["t"],
                row["T"].strip("*"),
            } & set(wanted):
                continue
            key = (partition, name) if by_node else (partition, *(row[letter] for letter in letters if letter not in "NnDC"), row["t"])
            groups.setdefault(key, []).append(row)
    lines = [] if "noheader" in options else [render(parts, lambda letter: _SINFO_HEADERS[letter])]
    for rows in groups.values():
        merged = rows[0] | {"D": str(len(rows)), "N": compress([row["N"] for row in rows])}
        sums = [sum(int(row["C"].split("/")[index]) for row in rows) for index in range(4)]
        merged["C"] = "/".join(str(number) for number in sums)
        lines.append(render(parts, lambda letter, merged=merged: merged[letter]))
    return Reply(0, "".join(f"{line}\n" for line in lines))


def _node_row(state: State, partition: str, name: str, free: dict) -> dict[str, str]:
    facts, node = state.partitions[partition], state.nodes[name]
    used = node["cpus"] - free["cpus"]
    word = node_state(state, name, used)
    away = node["cpus"] if word.startswith(("DOWN", "DRAINED")) else 0
    return {
        "P": partition + "*" * facts["default"],
        "R": partition,
        "a": "up" if facts["state"] == "UP" else {"INACTIVE": "inact"}.get(facts["state"], facts["state"].lower()),
        "l": "infinite" if facts["max_time_min"] == UNLIMITED else limit(facts["max_time_min"]),
        "L": "infinite" if facts["default_time_min"] == UNLIMITED else limit(facts["default_time_min"]),
        "D": "1",
        "T": word.lower(),
        "t": _COMPACT[word],
        "N": name,
        "n": name,
        "c": str(node["cpus"]),
        "m": str(node["memory_mb"]),
        "G": f"gpu:{node['gpus']}" if node["gpus"] else "(null)",
        "f": ",".join(node["features"]) or "(null)",
        "C": f"{used}/{node['cpus'] - used - away}/{away}/{node['cpus']}",
    }


# ------------------------------------------------------------------ sacct

SACCT = Table(
    "sacct",
    "noheader/n parsable2/P parsable/p allocations/X jobs=/j name= starttime=/S endtime=/E state=/s user=/u format=/o allusers/a "
    "delimiter= duplicates/D version/V",
    hint=False,
)
_DEFAULT = "jobid,jobname,partition,account,alloccpus,state,exitcode"


def sacct(state: State, argv: list[str]) -> Reply:
    """Jobs that have ended (the accounting hears of a job late), ended long ago, too."""
    found, _ = SACCT.parse(argv)
    if not state.config["accounting"]:
        raise Reply(1, err="Slurm accounting storage is disabled\n")
    options = dict(found)
    fields = []
    for word in options.get("format", _DEFAULT).lower().split(","):
        name, _, width = word.partition("%")
        if name and name not in _SACCT:
            raise Reply(1, err=f'sacct: fatal: Invalid field requested: "{name}"\n')
        if name:
            fields.append((name, width))
    since = _moment(options["starttime"], state.stamp) if "starttime" in options else 0.0 if "jobs" in options else _midnight(state.stamp)
    until = _moment(options["endtime"], state.stamp) if "endtime" in options else state.stamp
    users = set(options["user"].split(",")) if "user" in options else None if "allusers" in options else {str(os.getuid())}
    states = {word.upper() for word in options["state"].split(",")} if "state" in options else None
    lines = []
    if "noheader" not in options:
        lines.append([_SACCT[name][0] for name, _ in fields])
        if not {"parsable2", "parsable"} & set(options):
            lines.append(["-" * abs(_width(name, width)) for name, width in fields])
    for values in state.jobs.values():
        job = Job(values)
        ids = {str(job.id), str(job.array_id), f"{job.array_id}_{job.array_index}"}
        if (
            _known(state, job)
            and ("jobs" not in options or ids & set(options["jobs"].replace(".batch", "").split(",")))
            and ("name" not in options or job.name in options["name"].split(","))
            and (users is None or users & {job.user, str(job.uid)})
            and (states is None or states & {_state(job), SHORT.get(_state(job), "")})
            and (job.end is None or job.end >= since)
            and job.submit <= until
        ):
            for step in ("",) if "allocations" in options or job.run == 0 else ("", ".batch"):
                lines.append([str(_SACCT[name][2](job, step)) for name, _ in fields])
    return Reply(0, "".join(_line(cells, fields, options) for cells in lines))


def _line(cells: list[str], fields: list[tuple[str, str]], options: dict[str, str]) -> str:
    if {"parsable2", "parsable"} & set(options):
        mark = options.get("delimiter", "|")
        return mark.join(cells) + (mark if "parsable" in options else "") + "\n"
    texts = []
    for cell, (name, width) in zip(cells, fields, strict=True):
        size = _width(name, width)
        text = cell if len(cell) <= abs(size) else cell[: abs(size) - 1] + "+"
        texts.append(text.ljust(-size) if size < 0 else text.rjust(size))
    return " ".join(texts) + " \n"


def _width(name: str, width: str) -> int:
    return int(width) if width else _SACCT[name][1]


def _known(state: State, job: Job) -> bool:
    if job.accounting_end:
        return job.accounting_end != "absent"
    return job.end is not None and not job.live and job.ended + state.config["accounting_lag_s"] <= state.now


def _midnight(moment: float) -> float:
    now = time.localtime(moment)
    return time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, 0, 0, -1))


def _moment(text: str, now: float) -> float:
    if text.startswith("now"):
        number = text.removeprefix("now").removeprefix("-") or "0"
        digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = {"": 1, "seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 604800}[number[len(digits) :]]
        return now - int(digits) * unit
    for pattern in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"):
        try:
            return time.mktime(time.strptime(text, pattern))
        except ValueError:
            continue
    raise Reply(1, err=f"sacct: error: Invalid time specification (pos=0): {text}\n")


def _state(job: Job) -> str:
    return job.accounting_end or job.state


def _shown_state(job: Job, step: str) -> str:
    word = _state(job)
    return f"CANCELLED by {job.uid}" if word == "CANCELLED" and not step else word


def _exit(job: Job, step: str) -> str:
    # a cancelled job's own exit code is zero here, that of its batch step is not
    return "0:0" if job.state in {"CANCELLED", "TIMEOUT"} and not step else f"{job.exit_code}:{job.exit_signal}"


def _name(job: Job, step: str) -> str:
    return (f"{job.array_id}_{job.array_index}" if job.array_id else str(job.id)) + step


def _end(job: Job) -> str:
    return "Unknown" if job.end is None or job.accounting_end in {"RUNNING", "PENDING"} else clock(job.end)


def _requested_memory(job: Job) -> str:
    return memory((max(0, job.mem_per_node) or job.mem_per_cpu * job.cpus_per_node) * job.min_nodes)


_SACCT = {  # title, width (negative: to the left), value
    "jobid": ("JobID", -12, _name),
    "jobidraw": ("JobIDRaw", -12, lambda job, step: f"{job.id}{step}"),
    "jobname": ("JobName", 10, lambda job, step: "batch" if step else job.name),
    "partition": ("Partition", 10, lambda job, step: "" if step else job.partition),
    "account": ("Account", 10, lambda job, step: job.account),
    "user": ("User", 9, lambda job, step: "" if step else job.user),
    "alloccpus": ("AllocCPUS", 10, lambda job, step: job.cpus * len(job.nodes)),
    "state": ("State", 10, _shown_state),
    "exitcode": ("ExitCode", 8, _exit),
    "derivedexitcode": ("DerivedExitCode", 15, lambda job, step: "" if step else "0:0"),
    "nodelist": ("NodeList", 15, lambda job, step: compress(job.nodes) or "None assigned"),
    "nnodes": ("NNodes", 8, lambda job, step: len(job.nodes)),
    "ntasks": ("NTasks", 8, lambda job, step: 1 if step else ""),
    "reqmem": ("ReqMem", 10, lambda job, step: "" if step else _requested_memory(job)),
    "alloctres": ("AllocTRES", 10, lambda job, step: "" if not job.run else tres(job, memory_first=True)),
    "reqtres": ("ReqTRES", 10, lambda job, step: "" if step else tres(job, memory_first=True)),
    "submit": ("Submit", 19, lambda job, step: clock(job.submit)),
    "start": ("Start", 19, lambda job, step: "None" if not job.run else clock(job.start)),
    "end": ("End", 19, lambda job, step: _end(job)),
    "elapsed": ("Elapsed", 10, lambda job, step: span((job.end or 0) - (job.start or 0), full=True)),
    "timelimit": ("Timelimit", 10, lambda job, step: "" if step else limit(job.limit_min, full=True)),
    "reason": ("Reason", 22, lambda job, step: job.reason),
    "comment": ("Comment", 14, lambda job, step: "" if step else job.comment),
    "workdir": ("WorkDir", 20, lambda job, step: "" if step else job.workdir),
    "maxrss": ("MaxRSS", 10, lambda job, step: "1024K" if step else ""),
}
