"""Which pending job starts where, and what the others wait for."""

from __future__ import annotations

from fake import launch
from fake.store import Folder, Job, Locked, State
from fake.units import UNLIMITED

_NODES_AWAY = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"


def schedule(folder: Folder, locked: Locked) -> None:
    """Start every pending job that fits, in the order of ids; small ones pass big ones, as with backfill."""
    state = locked.state
    jobs = state.all_jobs()
    waiting = [job for job in jobs if job.state == "PENDING"]
    if not waiting:
        return
    free = free_resources(state, jobs)
    blocked = False
    for job in waiting:
        if blocked and job.reason in {"Priority", "Resources"} and not any(node["cpus"] for node in free.values()):
            job.reason = "Priority"  # nothing fits any more, and nothing else hinders it: spare the look
            continue
        hindrance = _hindrance(state, job)
        chosen = hindrance or _choose(state, job, free)
        if chosen is None:
            job.reason = "Priority" if blocked else "Resources"
            blocked = True
        elif isinstance(chosen, str):
            job.reason = chosen
        else:
            launch.begin(folder, locked, job, *chosen)
            for name in job.nodes:
                _take(free[name], job, name)


def free_resources(state: State, jobs: list[Job]) -> dict[str, dict]:
    """Free CPUs, memory and GPUs of each node."""
    free = {
        name: {"cpus": node["cpus"], "memory": node["memory_mb"], "gpus": list(range(int(node["gpus"])))}
        for name, node in state.nodes.items()
    }
    for job in jobs:
        if job.active:
            for name in job.nodes:
                _take(free[name], job, name)
    return free


def _take(node: dict, job: Job, name: str) -> None:
    node["cpus"] -= job.cpus
    node["memory"] -= job.memory_mb
    node["gpus"] = [gpu for gpu in node["gpus"] if gpu not in job.gpus.get(name, [])]


def _hindrance(state: State, job: Job) -> str:
    if job.forced_reason:
        return job.forced_reason
    if job.eligible > state.now:
        return "BeginTime"
    if job.dependency:
        return _dependency(state, job)
    return ""


def _dependency(state: State, job: Job) -> str:
    """What a dependency (``afterok:1:2,afterany:3``) holds the job up with; "" when it is fulfilled. Forgotten jobs count as fulfilled."""
    for part in job.dependency.split(","):
        kind, *ids = part.split(":")
        for word in ids:
            other = state.job(int(word)) if word.isdigit() else None
            if other is None:
                continue
            if other.live and not (kind == "after" and other.state == "RUNNING"):
                return "Dependency"
            if (kind == "afterok" and other.state != "COMPLETED") or (kind == "afternotok" and other.state == "COMPLETED"):
                return "DependencyNeverSatisfied"
    return ""


def may_use(job: Job, name: str, node: dict) -> bool:
    """Whether a node is among those that the job allows, and large enough when it is empty."""
    cpus, memory = launch.needs(job, node)
    return (
        name not in job.exclude
        and (not job.nodelist or name in job.nodelist)
        and all(feature in node["features"] for feature in job.constraint.split("&") if feature)
        and cpus <= node["cpus"]
        and memory <= node["memory_mb"]
        and job.gpus_per_node <= node["gpus"]
    )


def _choose(state: State, job: Job, free: dict[str, dict]) -> tuple[str, list[str], dict[str, dict]] | str | None:
    """Partition and nodes; None when it must wait for room, a text when for something else."""
    obstacle = ""
    for partition in job.partition.split(","):
        facts = state.partitions[partition]
        if facts["state"] != "UP":
            obstacle = obstacle or ("PartitionInactive" if facts["state"] == "INACTIVE" else "PartitionDown")
            continue
        if facts["max_time_min"] != UNLIMITED and (job.limit_min == UNLIMITED or job.limit_min > facts["max_time_min"]):
            obstacle = obstacle or "PartitionTimeLimit"
            continue
        if facts["max_nodes"] and job.min_nodes > facts["max_nodes"]:
            obstacle = obstacle or "PartitionNodeLimit"
            continue
        allowed = [name for name in facts["nodes"] if may_use(job, name, state.nodes[name])]
        up = [name for name in allowed if state.nodes[name]["state"] == "UP"]
        if len(up) < job.min_nodes:
            obstacle = obstacle or (_NODES_AWAY if len(allowed) >= job.min_nodes else "BadConstraints")
            continue
        obstacle = "no room"
        fitting = []
        for name in up:
            cpus, memory = launch.needs(job, state.nodes[name])
            node = free[name]
            if cpus <= node["cpus"] and memory <= node["memory"] and job.gpus_per_node <= len(node["gpus"]):
                fitting.append(name)
        if len(fitting) >= job.min_nodes:
            return partition, fitting[: job.min_nodes], free
    return None if obstacle == "no room" else obstacle
