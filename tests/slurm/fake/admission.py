"""What slurmctld says of a submission: refused, refused with a record left behind, or taken."""

from __future__ import annotations

import time

from fake.options import Reply
from fake.schedule import may_use
from fake.store import Job, State

UNABLE = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"


def failed(reason: str, *lines: str) -> Reply:
    """sbatch's words for a refusal."""
    return Reply(1, err="".join(f"sbatch: error: {line}\n" for line in [*lines, f"Batch job submission failed: {reason}"]))


def submit_limit() -> Reply:
    """Too many jobs of this user."""
    return failed("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "AssocMaxSubmitJobLimit")


def bad_partition(name: str) -> Reply:
    """No such partition."""
    return failed("Invalid partition name specified", f"invalid partition specified: {name}")


def bad_account() -> Reply:
    """No such account."""
    return failed("Invalid account or account/partition combination specified")


def node_configuration(*lines: str) -> Reply:
    """More than any node has."""
    return failed("Requested node configuration is not available", *lines)


class Full(Exception):
    """No room for another job (MaxJobCount): sbatch waits."""


def check(state: State, job: Job, options: dict[str, str], array: list[int]) -> None:
    """Refuse what leaves no record, and fill in the defaults."""
    config = state.config
    live = [other for other in state.all_jobs() if other.live]
    if len(state.all_jobs()) + max(1, len(array)) > config["max_job_count"]:
        raise Full
    if config["max_submit"] is not None and len(live) + max(1, len(array)) > config["max_submit"]:
        raise submit_limit()
    if array and array[-1] >= config["max_array_size"]:
        raise failed("Invalid job array specification")
    if not job.partition:
        job.partition = next((name for name, facts in state.partitions.items() if facts["default"]), "")
        if not job.partition:
            raise failed("No partition specified or system default partition")
    for name in job.partition.split(","):
        if name not in state.partitions:
            raise bad_partition(name)
    if job.account and config["accounts"] is not None and job.account not in config["accounts"]:
        raise bad_account()
    if job.qos and config["qos"] is not None and job.qos not in config["qos"]:
        raise failed("Invalid qos specification")
    if options.get("reservation"):
        raise failed("Requested reservation is invalid")
    if any(name not in state.nodes for name in [*job.exclude, *job.nodelist]):
        raise failed("Invalid node name specified")
    features = {feature for node in state.nodes.values() for feature in node["features"]}
    if any(feature not in features for feature in job.constraint.split("&") if feature):
        raise failed("Invalid feature specification")
    for part in job.gres.split(","):
        words = part.split(":")
        if part and (words[0] != "gpu" or (len(words) > 1 and not words[-1].isdigit())):
            raise failed("Invalid generic resource (gres) specification")
        if part:
            job.gpus_per_node = int(words[-1]) if len(words) > 1 else 1
    if job.mem_per_cpu <= 0 and not job.mem_per_node:
        job.mem_per_cpu = config["def_mem_per_cpu"]
    job.limit_min = job.limit_min or state.partitions[job.partition.split(",")[0]]["default_time_min"]


def refuse(state: State, job: Job) -> Reply | None:
    """Refusal of what no nodes of its partitions could ever run; the record of the job stays."""
    complaints: list[str] = []
    for partition in job.partition.split(","):
        nodes = state.partitions[partition]["nodes"]
        if sum(may_use(job, name, state.nodes[name]) for name in nodes) >= job.min_nodes:
            return None
        if all(job.cpus_per_node > state.nodes[name]["cpus"] for name in nodes):
            complaints.append("CPU count per node can not be satisfied")
        elif all(max(job.mem_per_node, job.mem_per_cpu * job.cpus_per_node) > state.nodes[name]["memory_mb"] for name in nodes):
            complaints.append("Memory specification can not be satisfied")
    return node_configuration(*complaints[:1])


def wait_for_room() -> None:
    """Between two tries."""
    time.sleep(0.1)
