"""Asks Slurm: its commands, its controller, its configuration, and what sbatch thinks of each section."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.config.sbatch import value_of
from pwact_like.jobs.group import SCRIPT_NAME, write_script
from pwact_like.jobs.slurm_commands import SlurmCommands
from pwact_like.jobs.types import JobRequest
from pwact_like.report.doctor.cluster import SINFO_ARGUMENTS, Cluster, controller_answers, read_cluster
from pwact_like.report.doctor.findings import Finding, warn
from pwact_like.report.doctor.partitions import nodes_are_away
from pwact_like.report.doctor.slurm_findings import (
    TOPIC,
    association_findings,
    command_findings,
    config_findings,
    partition_findings,
    ping_finding,
    verdict_finding,
)

if TYPE_CHECKING:
    from pwact_like.config.resource import Resource, ResourceSection

_STANDING_CHOICES = {"SBATCH_ACCOUNT": ("--account", "-A"), "SBATCH_QOS": ("--qos", "-q"), "SBATCH_RESERVATION": ("--reservation",)}


class Asked:
    """What Slurm was asked once, for all checks.

    Attributes
    ----------
    answers
        Whether its controller did.
    """

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.commands = SlurmCommands(timeout_s)
        self.answers = False
        self.cluster = Cluster()

    def examine(self, resource: Resource | None) -> Iterator[Finding]:
        """Commands, controller, configuration, the user's limits; fills ``answers`` and ``cluster``."""
        run = self.commands.run
        found = list(command_findings(run))
        yield from found
        if shutil.which("scontrol") is None:
            return
        begun = time.monotonic()
        ping = run("scontrol", "ping")
        finding = ping_finding(ping, time.monotonic() - begun)
        yield finding
        self.answers = controller_answers(ping.out)
        if not self.answers:
            return
        config, now = run("scontrol", "show", "config"), time.time()
        partitions = run("scontrol", "show", "partition", "-o")
        nodes = run("sinfo", *SINFO_ARGUMENTS)
        for result in (config, partitions, nodes):
            if not result.ok:
                yield warn(
                    TOPIC,
                    f"{' '.join(result.argv[:3])}: {result.words}",
                    "try again; without it sections cannot be compared with the cluster",
                )
        self.cluster = read_cluster(config.out * config.ok, partitions.out * partitions.ok, nodes.out * nodes.ok)
        if config.ok:
            yield from config_findings(config.out, now, resource)
        yield from partition_findings(self.cluster)
        yield from self._associations()

    def _associations(self) -> Iterator[Finding]:
        if shutil.which("sacctmgr") is None or "slurmdbd" not in self.cluster.config.get("AccountingStorageType", ""):
            return
        user = _user()
        wanted = "format=account,partition,maxjobs,maxsubmit,grpjobs,qos"
        result = self.commands.run("sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", wanted)
        if result.ok:
            yield from association_findings(result.out, user)

    def try_section(self, topic: str, section: ResourceSection) -> Iterator[Finding]:
        """Let sbatch judge the section's script without submitting it."""
        from pwact_like.jobs.choose import open_scheduler

        with tempfile.TemporaryDirectory(prefix="pwact_like_doctor_") as name:
            folder = Path(name)
            scheduler = open_scheduler("slurm", folder, self.commands.timeout_s)
            lines = ["#!/bin/bash", *scheduler.header(JobRequest("pwl-doctor-test-1", section)), "exit 0", ""]
            write_script(folder / SCRIPT_NAME, "\n".join(lines))
            result = self.commands.run("sbatch", "--test-only", SCRIPT_NAME, cwd=folder, without=contradicted(section.custom_flags))
        yield verdict_finding(topic, result, away=nodes_are_away(section, self.cluster))


def contradicted(flags: Iterable[str]) -> list[str]:
    """Variables of the user's environment that would outrank these flags."""
    given = tuple(flags)
    return [name for name, options in _STANDING_CHOICES.items() if value_of(given, *options) is not None]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
