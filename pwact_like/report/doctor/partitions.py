"""A section of resource.json against the partitions it names: what would be refused, and what would wait for ever."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pwact_like.config.sbatch import megabytes, seconds, value_of
from pwact_like.report.doctor.cluster import Cluster, NodeKind, Partition, gpus_of
from pwact_like.report.doctor.findings import Finding, Level, bad, ok, warn

if TYPE_CHECKING:
    from pwact_like.config.resource import ResourceSection

SHORT_DEFAULT_S = 3600  # a partition's default below this ends most DFT runs


@dataclass(frozen=True)
class Wish:
    """What a job of a section asks of Slurm; None: not said."""

    partitions: tuple[str, ...]
    nodes: int
    cpus: int
    gpus: int
    memory_mb: int | None
    time_s: int | None
    account: str | None
    qos: str | None


def wish_of(section: ResourceSection, default_partition: str) -> Wish:
    """What the section's script will ask for; its own flags outrank its keys, as in the script."""
    flags = section.custom_flags
    named = value_of(flags, "--partition", "-p") or section.queue_name or default_partition
    memory = value_of(flags, "--mem") or section.memory
    return Wish(
        partitions=tuple(name for name in named.split(",") if name),
        nodes=_lowest(value_of(flags, "--nodes", "-N")) or section.number_node,
        cpus=_lowest(value_of(flags, "--ntasks-per-node")) or section.cpu_per_node,
        gpus=gpus_of(value_of(flags, "--gres") or "") or section.gpu_per_node,
        memory_mb=megabytes(memory) if memory and memory != "0" else None,
        time_s=seconds(value_of(flags, "--time", "-t") or section.time or ""),
        account=value_of(flags, "--account", "-A"),
        qos=value_of(flags, "--qos", "-q"),
    )


def section_findings(topic: str, section: ResourceSection, cluster: Cluster) -> Iterator[Finding]:
    """Compare a section with the partitions that its jobs go to."""
    wish = wish_of(section, cluster.default_partition)
    if not cluster.partitions:
        return
    if not wish.partitions:
        yield bad(topic, "no queue_name is given, and this cluster has no default partition", f"queue_name: {_names(cluster)}")
        return
    fitting, found = 0, []
    for name in wish.partitions:
        partition = cluster.partitions.get(name)
        if partition is None:
            found.append(bad(topic, f"there is no partition {name!r} here: sbatch refuses the job", f"queue_name: {_names(cluster)}"))
            continue
        problems = [*_partition_problems(topic, partition, wish), *_node_problems(topic, partition, wish, cluster.nodes)]
        fitting += not any(problem.level is Level.BAD for problem in problems)
        found += problems
    unknown = any(name not in cluster.partitions for name in wish.partitions)
    # with several partitions it is enough that one of them can
    yield from found if unknown or not fitting else [warn(item.topic, item.text, item.cure) for item in found]
    if fitting and not unknown:
        yield ok(topic, _summary(wish, cluster))
        yield from _defaults(topic, section, wish, cluster)
    yield from _account(topic, wish, cluster)


def _partition_problems(topic: str, partition: Partition, wish: Wish) -> Iterator[Finding]:
    name = partition.name
    if partition.state != "UP":
        yield bad(
            topic, f"partition {name} is {partition.state}: no job starts there", "take another queue_name, or wait for the administrators"
        )
    if wish.time_s is not None and partition.max_time_s is not None and wish.time_s > partition.max_time_s:
        limit = _duration(partition.max_time_s)
        text = f"time {_duration(wish.time_s)} is above the {limit} of partition {name}: refused, or pending for ever"
        yield bad(topic, text, f'"time": "{limit}" or less')
    if partition.max_nodes is not None and wish.nodes > partition.max_nodes:
        yield bad(
            topic, f"number_node {wish.nodes} is above the {partition.max_nodes} of partition {name}", f"number_node: {partition.max_nodes}"
        )
    if partition.max_cpus_per_node is not None and wish.cpus > partition.max_cpus_per_node:
        most = partition.max_cpus_per_node
        yield bad(topic, f"cpu_per_node {wish.cpus} is above the {most} that partition {name} gives on a node", f"cpu_per_node: {most}")
    if wish.memory_mb is not None and partition.max_memory_mb is not None and wish.memory_mb > partition.max_memory_mb:
        most = partition.max_memory_mb
        yield bad(topic, f"memory {wish.memory_mb} MB is above the {most} MB that partition {name} gives on a node", f'"memory": "{most}M"')
    if partition.accounts and wish.account is not None and wish.account not in partition.accounts:
        text = f"account {wish.account} may not use partition {name}"
        yield bad(topic, text, f"accounts of it: {', '.join(partition.accounts[:10])}")


def _node_problems(topic: str, partition: Partition, wish: Wish, kinds: Sequence[NodeKind]) -> Iterator[Finding]:
    nodes = [kind for kind in kinds if kind.partition == partition.name]
    if not nodes:
        return
    wants = (
        ("cpu_per_node", wish.cpus, max(kind.cpus for kind in nodes), "CPUs"),
        ("gpu_per_node", wish.gpus, max(kind.gpus for kind in nodes), "GPUs"),
        ("memory", wish.memory_mb or 0, max(kind.memory_mb for kind in nodes), "MB of memory"),
    )
    too_much = False
    for key, wanted, most, what in wants:
        if wanted > most:
            too_much = True
            text = f"no node of partition {partition.name} has {wanted} {what}: the most is {most}"
            yield bad(topic, text, f"{key}: {most} or less" if most else "take a partition that has them (sinfo -o '%P %G' lists them)")
    if too_much:
        return
    count, usable = _fitting(wish, nodes)
    if count < wish.nodes:
        text = f"{wish.nodes} node(s) with {_size(wish)} are asked for, and partition {partition.name} has {count}"
        yield bad(topic, text, "ask for less on each node, or for fewer nodes")
    elif usable < wish.nodes:
        states = ", ".join(sorted({kind.state for kind in nodes if not kind.usable}))
        text = (
            f"of the {count} nodes of partition {partition.name} that fit, {usable} can be used now ({states}), and {wish.nodes} are wanted"
        )
        yield warn(topic, text, "jobs wait until nodes come back: sinfo -R says why they are away")


def nodes_are_away(section: ResourceSection, cluster: Cluster) -> bool:
    """Whether the section's partitions have the nodes, and too few of them can be used now."""
    wish = wish_of(section, cluster.default_partition)
    count, usable = _fitting(wish, [kind for kind in cluster.nodes if kind.partition in wish.partitions])
    return count >= wish.nodes > usable


def _fitting(wish: Wish, kinds: Iterable[NodeKind]) -> tuple[int, int]:
    """How many nodes fit, and how many of them can be used now."""
    fit = [kind for kind in kinds if kind.cpus >= wish.cpus and kind.gpus >= wish.gpus and kind.memory_mb >= (wish.memory_mb or 0)]
    return sum(kind.count for kind in fit), sum(kind.count for kind in fit if kind.usable)


def _defaults(topic: str, section: ResourceSection, wish: Wish, cluster: Cluster) -> Iterator[Finding]:
    """What Slurm takes for what the section leaves out."""
    partitions = [cluster.partitions[name] for name in wish.partitions]
    limits = [partition.default_time_s for partition in partitions if partition.default_time_s is not None]
    if wish.time_s is None and limits and value_of(section.custom_flags, "--time", "-t") is None:
        text = f"no time is given: jobs get the partition's default, {_duration(min(limits))}"
        cure = 'give "time", e.g. "12:00:00"'
        yield warn(topic, text, cure) if min(limits) < SHORT_DEFAULT_S else ok(topic, text)
    if wish.memory_mb is None and value_of(section.custom_flags, "--mem", "--mem-per-cpu", "--mem-per-gpu") is None:
        by_cpu = [partition.memory_per_cpu_mb for partition in partitions if partition.memory_per_cpu_mb]
        by_node = [partition.memory_per_node_mb for partition in partitions if partition.memory_per_node_mb]
        if by_cpu:
            yield ok(topic, f"no memory is given: jobs get {min(by_cpu) * wish.cpus} MB a node ({min(by_cpu)} MB a CPU)")
        elif by_node:
            yield ok(topic, f"no memory is given: jobs get {min(by_node)} MB a node")


def _account(topic: str, wish: Wish, cluster: Cluster) -> Iterator[Finding]:
    enforced = cluster.config.get("AccountingStorageEnforce", "none").lower()
    named = [f"{key} {value}" for key, value in (("account", wish.account), ("QOS", wish.qos)) if value]
    if named and enforced in ("none", "(null)", ""):
        text = f"{' and '.join(named)}: this cluster enforces no accounting, so that a misspelt name is not noticed, or has no effect"
        yield warn(topic, text, "leave it out of custom_flags, unless the administrators ask for it")


def _summary(wish: Wish, cluster: Cluster) -> str:
    count, usable = _fitting(wish, [kind for kind in cluster.nodes if kind.partition in wish.partitions])
    time = f", {_duration(wish.time_s)}" if wish.time_s is not None else ""
    where = ",".join(wish.partitions)
    return f"{wish.nodes} node(s) with {_size(wish)}{time} in {where}: {count} node(s) fit, {usable} of them can be used now"


def _size(wish: Wish) -> str:
    parts = [f"{wish.cpus} CPU(s)", f"{wish.gpus} GPU(s)" * bool(wish.gpus), f"{wish.memory_mb} MB" if wish.memory_mb else ""]
    return ", ".join(part for part in parts if part)


def _names(cluster: Cluster) -> str:
    return ", ".join(list(cluster.partitions)[:20])


def _lowest(text: str | None) -> int | None:
    """Lowest number of ``2`` or ``2-4``."""
    first = (text or "").split("-")[0]
    return int(first) if first.isdigit() else None


def _duration(time_s: int) -> str:
    days, rest = divmod(time_s, 86400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock
