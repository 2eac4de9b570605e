"""Slurm, through its commands: sbatch, squeue, scancel, scontrol, and sacct where there is accounting.

Each oddity that the code minds was seen on a real cluster; the tests play them on a real one and on a fake one.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.errors import SchedulerError
from pwact_like.jobs import slurm_header
from pwact_like.jobs.slurm_commands import CommandResult, SlurmCommands
from pwact_like.jobs.slurm_text import (
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    ClusterFacts,
    job_id,
    limit_of_partitions,
    memory_of_tres,
    read_config,
    read_pairs,
    read_sacct,
    read_squeue,
    refusal,
)
from pwact_like.jobs.types import Answer, JobRequest, JobView, NoAnswer, Pace, Refused, Submitted, SubmitUnknown

if TYPE_CHECKING:
    from pwact_like.config.resource import ResourceSection

log = logging.getLogger(__name__)

POLL_S = (10.0, 60.0)
GRACE_S = 60.0
# four at a time bring most of what a controller can do (129 a second in sequence, 334 with four threads), and spare it
SUBMISSIONS = 4
_TRY_AGAIN_S = 60.0
_IDS_A_COMMAND = 1000  # an argument list has its limit, and so has a message to the controller
# sbatch's variables that outrank the script's own lines, by the options that the user may have given there
_STANDING_CHOICES = {"SBATCH_ACCOUNT": ("--account", "-A"), "SBATCH_QOS": ("--qos", "-q"), "SBATCH_RESERVATION": ("--reservation",)}


class SlurmScheduler:
    """The cluster's scheduler, as its commands on PATH show it.

    Parameters
    ----------
    timeout_s
        After so many seconds a command is given up.
    """

    name = "slurm"

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.commands = SlurmCommands(timeout_s)
        self._user = str(os.getuid())
        self._partitions: str | None = None
        self._facts = ClusterFacts()
        self._knows_facts = False
        self._lines: dict[str, JobView] = {}
        self._next_try = 0.0
        self._facts_lock = threading.Lock()

    @property
    def pace(self) -> Pace:
        """Seconds between two questions: well below the time for which the controller remembers finished jobs."""
        remembered = self.facts.min_job_age_s
        longest = POLL_S[1] if not remembered else max(1.0, min(POLL_S[1], remembered / 2))
        return Pace(poll_s=(min(POLL_S[0], longest), longest), grace_s=GRACE_S, submissions=SUBMISSIONS, copies_scripts=True)

    @property
    def facts(self) -> ClusterFacts:
        """What the configuration says; asked for now and then until it is known (in vain that takes up to 18 s)."""
        with self._facts_lock:
            if not self._knows_facts and time.monotonic() >= self._next_try:
                result = self.commands.run("scontrol", "show", "config")
                if result.ok:
                    self._facts, self._knows_facts = ClusterFacts.of(read_config(result.out)), True
                self._next_try = time.monotonic() + _TRY_AGAIN_S
            return self._facts

    def header(self, request: JobRequest) -> tuple[str, ...]:
        """``#SBATCH`` lines."""
        return slurm_header.header(request)

    def submit(self, script: Path, name: str) -> Submitted | Refused | SubmitUnknown:
        """Hand a script to sbatch, inside its own folder: its output goes there.

        sbatch blocks for as long as the controller has no room (MaxJobCount), so it is given up after a time; it may
        have been taken all the same, as in every other case without a clear word.
        """
        unprintable = re.search(r"[%\\]", os.fspath(script.parent)) is not None
        # Slurm expands these two characters in the folder's name, too, and the job fails to launch: better without its output
        nowhere = ("--output=/dev/null", "--error=/dev/null") if unprintable else ()
        result = self.commands.run("sbatch", "--parsable", *nowhere, script.name, cwd=script.parent, without=_contradicted(script))
        said = result.err + result.out
        if result.status is None:
            return SubmitUnknown(result.words)
        if result.ok:
            number = job_id(result.out)
            return SubmitUnknown(f"sbatch gave no job id: {result.words}") if number is None else Submitted(number)
        if result.status < 0:
            return SubmitUnknown(result.words)
        if result.status in (126, 127):  # it was there at the start: an upgrade, a file system that stumbles, no process to be had
            return Refused(result.words, wait=True)
        return refusal(said)

    def query(self, ids: Iterable[str]) -> Answer | NoAnswer:
        """One squeue for all jobs of this user; ended ones are shown as long as the controller remembers them."""
        wanted = set(ids)
        if not wanted:
            return Answer({})
        result = self._squeue()
        return result if isinstance(result, NoAnswer) else Answer(read_squeue(result.out, wanted, self._lines), _is_whole(result))

    def find(self, *names: str) -> Answer | NoAnswer:
        """Find jobs by their names: among those that the controller knows, then in the accounting.

        All of the user's jobs are looked at: where a site's plugin rewrites names, the comment still has ours.
        """
        wanted = set(names)
        result = self._squeue()
        if isinstance(result, NoAnswer):
            return result
        if not _is_whole(result):
            return NoAnswer(result.words)
        found = {number: view for number, view in read_squeue(result.out).items() if wanted & {view.name, view.comment}}
        missing = wanted - {view.name for view in found.values()} - {view.comment for view in found.values()}
        if missing and self.facts.accounting:
            for some in _chunks(sorted(missing)):
                accounted = self._run_sacct("--name", ",".join(some))
                if not accounted.ok and not _has_no_accounting(accounted):
                    return NoAnswer(accounted.words)
                views = read_sacct(accounted.out) if accounted.ok else {}
                found |= {number: view for number, view in views.items() if view.name in missing and not view.alive}
        return Answer(found)

    def look_back(self, jobs: Mapping[str, str]) -> Answer | NoAnswer:
        """Ask the controller for these very ids, then the accounting; only an end is believed, and only under the right name.

        The accounting lags, and shows jobs as running for ever whose end it has missed; an id that was given out anew
        belongs to another name.
        """
        found: dict[str, JobView] = {}
        for ids in _chunks(list(jobs)):
            result = self.commands.run("squeue", "-h", "-a", "-r", "-t", "all", "-j", ",".join(ids), "-o", SQUEUE_FORMAT)
            if not result.ok and "invalid job id" not in result.err.lower():
                return NoAnswer(result.words)
            found |= {n: view for n, view in read_squeue(result.out).items() if n in jobs and view.belongs_to(jobs[n])}
        missing = [number for number in jobs if number not in found]
        if not self.facts.accounting:
            return Answer(found)
        for ids in _chunks(missing):
            result = self._run_sacct("-j", ",".join(ids))
            if not result.ok:
                return Answer(found) if _has_no_accounting(result) else NoAnswer(result.words)
            found |= {n: view for n, view in read_sacct(result.out).items() if jobs.get(n) == view.name and not view.alive}
        return Answer(found)

    def longest_s(self, section: ResourceSection) -> int | None:
        """Longest time limit of the section's partitions."""
        if self._partitions is None:
            result = self.commands.run("scontrol", "show", "partition", "-o")
            if not result.ok:
                return None
            self._partitions = result.out
        return limit_of_partitions(self._partitions, section.queue_name)

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """End these jobs, each only if it still has this name, and any second job of the same name; ended ones are left alone."""
        if not jobs:
            return
        result = self._squeue()
        if isinstance(result, NoAnswer):
            raise SchedulerError(f"no job was cancelled: {result.text}; they may still run: try again when Slurm answers")
        views = read_squeue(result.out)
        names = {name for number, name in jobs.items() if number in views and views[number].belongs_to(name)}
        doomed = [view.id for view in views.values() if view.alive and names & {view.name, view.comment}]
        for ids in _chunks(doomed):
            ended = self.commands.run("scancel", *ids)
            if not ended.ok and not re.search("invalid job id|already completing|already completed", ended.err, re.IGNORECASE):
                raise SchedulerError(f"scancel failed: {ended.words}; these jobs may still run: {', '.join(ids[:20])}")

    # ------------------------------------------------------------------ commands

    def _squeue(self) -> CommandResult | NoAnswer:
        # -u with this user alone: the controller hands out nobody else's jobs, as with --me, which old versions lack
        result = self.commands.run("squeue", "-h", "-a", "-r", "-t", "all", "-u", self._user, "-o", SQUEUE_FORMAT)
        return result if result.ok else NoAnswer(result.words)

    def _run_sacct(self, *arguments: str) -> CommandResult:
        # without -S it looks at today only; sites limit the range that may be asked for (MaxQueryTimeRange)
        return self.commands.run("sacct", "-n", "-P", "-X", "-S", "now-30days", "-u", self._user, *arguments, "-o", SACCT_FORMAT)

    def memory_mb(self, number: str) -> int | None:
        """Memory a node that a job was given, as far as the controller, or else the accounting, remembers."""
        result = self.commands.run("scontrol", "show", "job", "-o", number)
        record = read_pairs(result.out) if result.ok else {}
        memory = memory_of_tres(record.get("AllocTRES") or record.get("TRES") or record.get("ReqTRES") or "")
        if memory is None and self.facts.accounting:
            result = self._run_sacct("-j", number)
            views = read_sacct(result.out) if result.ok else {}
            memory = views[number].memory_mb if number in views else None
        return memory


def _is_whole(result: CommandResult) -> bool:
    """Whether squeue's list has no holes: it can complain and still end with 0."""
    return re.search("error", result.err, re.IGNORECASE) is None


def _has_no_accounting(result: CommandResult) -> bool:
    return "accounting storage is disabled" in result.err or result.status == 127


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _IDS_A_COMMAND):
        yield ids[start : start + _IDS_A_COMMAND]


def _contradicted(script: Path) -> Sequence[str]:
    """Variables of the user's environment that would outrank an option of the script."""
    names = [name for name in _STANDING_CHOICES if name in os.environ]
    if not names:
        return ()
    with script.open(encoding="utf-8", errors="surrogateescape") as stream:
        flags = [line[len("#SBATCH ") :].strip() for line in stream if line.startswith("#SBATCH ")]
    return [name for name in names if any(flag.startswith(option) for flag in flags for option in _STANDING_CHOICES[name])]
