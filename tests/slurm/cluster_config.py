"""The configuration of a Slurm for tests: one machine, three nodes, loopback only, everything in one folder."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("n1", "n2", "n3")
CPUS = 4
MEMORY_MB = 16000
GPUS = 2


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on.

    Below the range from which the kernel takes the near ends of outgoing connections: one of Slurm's own commands could
    otherwise sit on the port of a daemon that is just being started again. Drawn at random, for other test workers look
    at the same time.
    """
    try:
        first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first_outgoing = 32768
    found: list[int] = []
    for port in random.SystemRandom().sample(range(10240, max(first_outgoing, 12288)), 2000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports on 127.0.0.1")


def uses_munge() -> bool:
    """Whether this user's cluster has real authentication; without root it has none, which Slurm allows on one machine."""
    return os.geteuid() == 0 and shutil.which("munged") is not None


def cgroup_problem() -> str:
    """Why jobs cannot be kept within their memory by the kernel (version 1 cgroups); empty if they can."""
    if os.geteuid() != 0:
        return "only root can make cgroups"
    for name in ("memory", "freezer", "cpuset"):
        probe = Path("/sys/fs/cgroup") / name / f"pwact-like-probe-{os.getpid()}"
        try:
            probe.mkdir()
        except OSError as error:
            return f"no cgroup can be made: {error}"
        limit = probe / "memory.limit_in_bytes"
        try:
            if name == "memory":
                limit.write_text(str(64 << 20))
        except OSError as error:
            return f"no memory limit can be set: {error}"
        finally:
            probe.rmdir()
    return ""


@dataclass
class ClusterConfig:
    """What a cluster is made of; `write` puts it into its folder.

    Attributes
    ----------
    ports
        Of slurmctld, of each node's slurmd, and of slurmdbd.
    settings
        Lines of slurm.conf that replace those here or come on top.
    cgroup
        Jobs are kept within their memory by the kernel; otherwise slurmd looks at them once a second.
    """

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(len(NODES) + 2))
    settings: Mapping[str, str | int] = field(default_factory=dict)
    cgroup: bool = False
    user: str = field(default_factory=lambda: pwd.getpwuid(os.geteuid()).pw_name)  # USER may be another's, after su

    @property
    def name(self) -> str:
        """Of the cluster; cgroups and the accounting go by it, and several clusters may run side by side."""
        return f"pwl{self.ports[0]}"

    @property
    def path(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "munge" / "s"

    def auth(self) -> dict[str, str | int]:
        """Lines of slurm.conf and slurmdbd.conf that say how commands and daemons know each other."""
        return {"AuthType": "auth/munge", "AuthInfo": f"socket={self.munge_socket}"} if uses_munge() else {"AuthType": "auth/none"}

    def slurm_conf(self) -> str:
        folder = self.folder
        lines: dict[str, str | int] = {
            "ClusterName": self.name,
            "SlurmctldHost": "localhost(127.0.0.1)",
            "SlurmctldPort": self.ports[0],
            "SlurmUser": self.user,
            "SlurmdUser": self.user,
            **self.auth(),
            "CredType": "cred/munge" if uses_munge() else "cred/none",
            "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
            "SlurmctldPidFile": folder / "slurmctld.pid",
            "SlurmdPidFile": folder / "slurmd.%n.pid",
            "SlurmctldLogFile": folder / "slurmctld.log",
            "SlurmdLogFile": folder / "slurmd.%n.log",
            "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": folder / "spool-%n",
            "MpiDefault": "none",
            "MailProg": "/bin/true",
            "SwitchType": "switch/none",
            "ProctrackType": "proctrack/cgroup" if self.cgroup else "proctrack/linuxproc",
            "TaskPlugin": "task/cgroup" if self.cgroup else "task/none",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": 1,
            "ReturnToService": 2,
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "DefMemPerCPU": 1500,
            "SlurmdParameters": "config_overrides",
            "GresTypes": "gpu",
            # a job starts, and a node is given up, as soon as Slurm can
            "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0",
            # 12 s from the death of a slurmd to NODE_FAIL; (3, 2) give 10 s, (1, 1) 5 s, but then a busy machine looks like a dead one
            "SlurmdTimeout": 5,
            "MessageTimeout": 3,
            "KillWait": 2,
            "MinJobAge": 300,
            "MaxJobCount": 10000,
            "MaxArraySize": 2001,
            "AccountingStorageType": "accounting_storage/none",
        }
        if not self.cgroup:
            lines["JobAcctGatherParams"] = "OverMemoryKill"
        lines |= self.settings
        text = [f"{name}={value}" for name, value in lines.items()]
        for node, port in zip(NODES, self.ports[1:], strict=False):
            gres = f" Gres=gpu:{GPUS}" if node == "n3" else ""
            address = f"NodeHostname={node} NodeAddr=127.0.0.1 Port={port}"
            text.append(f"NodeName={node} {address} CPUs={CPUS} RealMemory={MEMORY_MB}{gres} State=UNKNOWN")
        text += [
            "PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=60 DefaultTime=10 State=UP",
            "PartitionName=gpu Nodes=n3 MaxTime=60 DefaultTime=10 State=UP",
            "PartitionName=short Nodes=n1,n2 MaxTime=1 DefaultTime=1 State=UP",
        ]
        return "\n".join(text) + "\n"

    def write(self) -> None:
        """Write, or write anew, all files."""
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(exist_ok=True)
        devices = [self.folder / f"gpu{index}" for index in range(GPUS)]
        for device in devices:
            if not device.is_symlink():
                device.symlink_to("/dev/null")
        # renamed in whole: a daemon that reads it in this moment must not find it empty
        new = self.path.with_suffix(".new")
        new.write_text(self.slurm_conf())
        new.replace(self.path)
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName=n3 Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")
        if self.cgroup:
            lines = ("CgroupPlugin=cgroup/v1", "CgroupMountpoint=/sys/fs/cgroup", "ConstrainRAMSpace=yes", "AllowedSwapSpace=0")
            (self.folder / "cgroup.conf").write_text("\n".join(lines) + "\n")
