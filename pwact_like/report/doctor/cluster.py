"""A cluster as Slurm's commands describe it: their text in, data out.

Sources: scontrol(1), sinfo(1); outputs of Slurm 22.05.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pwact_like.config.sbatch import seconds
from pwact_like.jobs.slurm_text import read_config, read_pairs

# %T with what follows a state (*, ~, #, …); -e: nodes are put together only where all of this is equal
SINFO_ARGUMENTS = ("-h", "-a", "-e", "-o", "%R|%a|%T|%D|%c|%m|%G")
_SINFO_FIELDS = 7
_UNUSABLE = frozenset({"down", "drained", "draining", "drain", "fail", "failing", "error", "unknown", "inval", "future", "down*"})


@dataclass(frozen=True)
class Partition:
    """One partition; None: no limit, or not told.

    ``accounts`` is empty when every account may use it.
    """

    name: str
    default: bool = False
    state: str = "UP"
    max_time_s: int | None = None
    default_time_s: int | None = None
    max_nodes: int | None = None
    max_cpus_per_node: int | None = None
    max_memory_mb: int | None = None
    memory_per_cpu_mb: int | None = None
    memory_per_node_mb: int | None = None
    accounts: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeKind:
    """Nodes of one partition that are equal in what matters; ``state`` is sinfo's word."""

    partition: str
    state: str
    count: int
    cpus: int
    memory_mb: int
    gpus: int

    @property
    def usable(self) -> bool:
        """Whether jobs can start there, now or when others end."""
        return not self.state.endswith("*") and self.state.rstrip("~#!%$@^-+") not in _UNUSABLE


@dataclass(frozen=True)
class Cluster:
    """Everything that the checks of sections want to know; empty tables where Slurm did not say."""

    config: Mapping[str, str] = field(default_factory=dict)
    partitions: Mapping[str, Partition] = field(default_factory=dict)
    nodes: tuple[NodeKind, ...] = ()

    @property
    def default_partition(self) -> str:
        """Name of the default partition, "" when there is none."""
        return next((name for name, partition in self.partitions.items() if partition.default), "")


def read_cluster(config: str, partitions: str, sinfo: str) -> Cluster:
    """From the texts of ``scontrol show config``, ``scontrol show partition -o`` and ``sinfo`` with `SINFO_ARGUMENTS`."""
    return Cluster(read_config(config), read_partitions(partitions), tuple(read_nodes(sinfo)))


def read_partitions(text: str) -> dict[str, Partition]:
    """Partitions by name, of ``scontrol show partition -o``."""
    found = {}
    for line in text.splitlines():
        record = read_pairs(line)
        name = record.get("PartitionName")
        if not name:
            continue
        accounts = record.get("AllowAccounts", "ALL")
        found[name] = Partition(
            name=name,
            default=record.get("Default") == "YES",
            state=record.get("State", "UP").split("+")[0],
            max_time_s=seconds(record.get("MaxTime", "")),
            default_time_s=seconds(record.get("DefaultTime", "")),
            max_nodes=_number(record.get("MaxNodes", "")),
            max_cpus_per_node=_number(record.get("MaxCPUsPerNode", "")),
            max_memory_mb=_number(record.get("MaxMemPerNode", "")),
            memory_per_cpu_mb=_number(record.get("DefMemPerCPU", "")),
            memory_per_node_mb=_number(record.get("DefMemPerNode", "")),
            accounts=() if accounts == "ALL" else tuple(accounts.split(",")),
        )
    return found


def read_nodes(text: str) -> list[NodeKind]:
    """Kinds of nodes, of ``sinfo`` with `SINFO_ARGUMENTS`; lines that are none are left out."""
    kinds = []
    for line in text.splitlines():
        fields = line.strip().split("|", _SINFO_FIELDS - 1)
        numbers = [_number(value) for value in fields[3:6]]
        if len(fields) != _SINFO_FIELDS or any(number is None for number in numbers):
            continue
        count, cpus, memory_mb = (number or 0 for number in numbers)
        kinds.append(NodeKind(fields[0], fields[2].lower(), count, cpus, memory_mb, gpus_of(fields[6])))
    return kinds


def gpus_of(gres: str) -> int:
    """GPUs of a list of generic resources: ``gpu:a100:4(S:0-1),gpu:2,nvme:1`` has six."""
    total = 0
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        words = part.strip().split(":")
        if words[0] == "gpu":
            total += int(words[-1]) if len(words) > 1 and words[-1].isdigit() else 1
    return total


def controller_answers(ping: str) -> bool:
    """Whether ``scontrol ping`` found a controller (primary or backup) that is up."""
    return re.search(r"\bUP\b", ping) is not None


def controller_time(config: str) -> float | None:
    """The controller's clock, in seconds since 1970: first line of ``scontrol show config`` under SLURM_TIME_FORMAT=%s."""
    found = re.search(r"^Configuration data as of (\d{9,11})\s*$", config, re.MULTILINE)
    return float(found[1]) if found else None


def _number(text: str) -> int | None:
    """A plain number (``4+`` counts as 4); None for UNLIMITED and the like."""
    found = re.fullmatch(r"(\d+)\+?", text.strip())
    return int(found[1]) if found else None
