"""What Slurm's commands print, as data: pure functions, nothing is run here.

Sources: squeue(1), sacct(1), scontrol(1), sbatch(1), and outputs of Slurm 22.05 recorded by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from pwact_like.config.sbatch import megabytes, seconds
from pwact_like.jobs.types import EndCause, JobView, Refused, SubmitUnknown

# the job's name comes last: it is the only field in which others' jobs may have anything, our separator included
SQUEUE_FORMAT = "%i|%T|%r|%N|%V|%S|%e|%k|%j"
SACCT_FORMAT = "JobID,State,ExitCode,NodeList,Start,End,AllocTRES,JobName"
_SQUEUE_FIELDS = 9
_SACCT_FIELDS = 8
_JOB_ID = re.compile(r"\d+(_\d+)?(\+\d+)?")  # of an array's task, of a part of a heterogeneous job

_ENDED = {
    "COMPLETED": EndCause.COMPLETED,
    "FAILED": EndCause.FAILED,
    "TIMEOUT": EndCause.TIMEOUT,
    "OUT_OF_MEMORY": EndCause.OUT_OF_MEMORY,
    "CANCELLED": EndCause.CANCELLED,
    "NODE_FAIL": EndCause.NODE_FAIL,
    "BOOT_FAIL": EndCause.NODE_FAIL,
    "PREEMPTED": EndCause.PREEMPTED,
    "DEADLINE": EndCause.FAILED,  # the user's own --deadline: the next attempt would meet it, too
}
# in every other state, those of future versions too, it may be on a node or have been there (REVOKED: it runs on another
# cluster of a federation)
_WAITING = frozenset({"PENDING", "CONFIGURING", "RESV_DEL_HOLD"})

# what a job waits for by one of these comes by nobody's waiting: somebody must change the job, the nodes or the limits
_STUCK = (
    "DependencyNeverSatisfied",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "PartitionConfig",
    "PartitionDown",
    "PartitionInactive",
    "AccountNotAllowed",
    "InvalidAccount",
    "InvalidQOS",
    "QOSNotAllowed",
    "BadConstraints",
    "JobHeldAdmin",
    "JobHeldUser",
    "JobHoldMaxRequeue",
    "launch_failed_requeued_held",
    "ReqNodeNotAvail",
    "AssocMaxWallDurationPerJobLimit",
    "QOSMaxWallDurationPerJobLimit",
    "QOSMaxCpuPerJobLimit",
    "QOSMaxNodePerJobLimit",
    "QOSMaxMemoryPerJob",
    "QOSMaxGRESPerJob",
    "AssocMaxCpuPerJobLimit",
    "AssocMaxNodePerJobLimit",
    "AssocMaxMemPerJob",
    "MaxMemPerLimit",
    "QOSMinCpuNotSatisfied",
    "QOSMinGRES",
    "QOSMinMemory",
    "QOSUsageThreshold",
)
# of these the job's own size or time is the reason
_TOO_MUCH = re.compile(r"Partition(Node|Time)Limit|BadConstraints|MaxMemPerLimit|(QOS|Assoc)Max\w+PerJob")
_MAY_BE_TAKEN = re.compile(
    r"unable to contact|socket timed out|zero bytes were transmitted|transport endpoint|connection (refused|reset|timed out)"
    r"|unexpected message|protocol authentication|authentication credential|munge|communication (connection|shutdown)"
    r"|insane message|header lengths are longer|standby mode|backup controller|name or service not known"
    r"|temporary failure in name resolution|no route to host|network is unreachable|resource temporarily unavailable",
    re.IGNORECASE,
)
_WAIT = re.compile(
    r"max_?submit|submit_?jobs?limit|maxjobs.*submit|maxjobcount|temporarily unable|i/o error writing script|no space left"
    r"|job submit(ted)? limit reached|too many jobs|slurmctld.*(busy|rate)|rate limit|reservation.*(not active|inactive)|node.*maintenance"
    r"|system (is )?(currently )?(in |under )?maintenance|node count specification.*unavailable|disk full|inactive or drain"
    r"|partition.*(not available|is down|inactive)|nodes are busy|configuration source|unspecified error|incompatible versions"
    r"|stale file handle|text file busy|cannot allocate memory|too many open files|fork",
    re.IGNORECASE,
)
_POLICY = re.compile(r"violates accounting/qos policy", re.IGNORECASE)
_NAMED_LIMIT = re.compile(r"\b(?:QOS|Assoc|Grp)\w*(?:Limit|Min|Max|Per)\w*", re.IGNORECASE)
# waiting cures none of these
_SIZE = re.compile(
    r"node configuration is not available|time limit is invalid|more processors requested|memory specification"
    r"|(node|cpu|task) count|generic resource",
    re.IGNORECASE,
)
_FOR_GOOD = re.compile(
    r"invalid (partition|account|qos|user|reservation|feature|wckey|license|job|argument|dependency|gres|constraint|\w+ specification)"
    r"|invalid \S+ (name )?specified|unrecognized option|invalid option|requires an argument|unknown option|access/permission denied"
    r"|not permitted|this does not look like a batch script|batch script is empty|script size|unable to open file",
    re.IGNORECASE,
)


def view_of(line: str) -> JobView | None:
    """Read one line of squeue in `SQUEUE_FORMAT`; None when it is none (cut off, a warning, another program's noise)."""
    fields = line.rstrip("\n").split("|", _SQUEUE_FIELDS - 1)
    if len(fields) != _SQUEUE_FIELDS or not _JOB_ID.fullmatch(fields[0]):
        return None
    number, state, reason, nodes, submitted, started, ended, comment, name = fields
    said = state.strip()
    alive = said not in _ENDED
    running = alive and said not in _WAITING
    since = _time(started) if running else _time(submitted) if alive else _time(ended)
    return JobView(
        id=number,
        name=name,
        alive=alive,
        running=running,
        cause=_ENDED.get(said, EndCause.UNKNOWN),
        reason=_reason(said, reason, alive),
        node="" if nodes in ("", "(null)", "None assigned", "n/a") else nodes,
        said=said,
        since=since,
        stuck=alive and not running and is_stuck(reason),
        comment=comment,
        too_much=alive and not running and asks_too_much(reason),
    )


def is_stuck(reason: str) -> bool:
    """Whether a job that waits for this reason waits for ever, unless somebody does something."""
    word = reason.strip().strip("()").split(",")[0].split(" ")[0].split(":")[0]
    return word in _STUCK


def read_squeue(text: str, wanted: Container[str] | None = None, known: dict[str, JobView] | None = None) -> dict[str, JobView]:
    """Views by id of squeue's output; lines that are none are left out (a job that is missing so is asked for again).

    Parameters
    ----------
    wanted
        Only these ids are looked at: thousands of finished jobs may stand beside them.
    known
        Views by line of an earlier answer, used and brought up to date: most lines say the same as a minute ago.
    """
    lines = text.splitlines()
    if wanted is not None:
        lines = [line for line in lines if line.partition("|")[0] in wanted]
    before = {} if known is None else known
    views = {line: view for line in lines if (view := before.get(line) or view_of(line)) is not None}
    if known is not None:
        known.clear()
        known.update(views)
    by_id: dict[str, JobView] = {}
    for view in views.values():
        # an id can stand there twice (federations): the one that lives counts
        if view.id not in by_id or view.alive:
            by_id[view.id] = view
    return by_id


def asks_too_much(reason: str) -> bool:
    """Whether a job waits for ever because of what it asks for itself."""
    return _TOO_MUCH.match(reason.strip().strip("()")) is not None


def read_sacct(text: str) -> dict[str, JobView]:
    """Views by id of ``sacct -n -P -X -o`` `SACCT_FORMAT`; of a repeated id the last one counts."""
    views = {}
    for line in text.splitlines():
        fields = line.split("|", _SACCT_FIELDS - 1)
        if len(fields) != _SACCT_FIELDS or not re.fullmatch(r"\d+(_\d+)?", fields[0]):
            continue
        number, state, exit_code, nodes, started, ended, tres, name = fields
        word = state.split(" ")[0].rstrip("+")  # CANCELLED by 1000
        alive = word not in _ENDED
        views[number] = JobView(
            id=number,
            name=name,
            alive=alive,
            running=alive and word not in _WAITING,
            cause=_ENDED.get(word, EndCause.UNKNOWN),
            reason=f"{state}, exit code {exit_code}" if not alive else "",
            node="" if nodes in ("", "None assigned") else nodes,
            said=word,
            since=_time(started) if alive else _time(ended),
            memory_mb=memory_of_tres(tres),
        )
    return views


def read_pairs(text: str) -> dict[str, str]:
    """``Key=Value`` pairs of one record of ``scontrol show … -o``; a value goes on until the next key."""
    found = re.split(r"(?:^|\s)([A-Za-z][\w:/.]*)=", text.strip())
    return {found[index]: found[index + 1].strip() for index in range(1, len(found) - 1, 2)}


def read_config(text: str) -> dict[str, str]:
    """Values of ``scontrol show config`` by key."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def seconds_of(value: str) -> float | None:
    """Seconds of a value of the configuration (``300 sec``)."""
    found = re.match(r"(\d+(?:\.\d+)?)\s*(sec|s)?\b", value.strip())
    return float(found[1]) if found else None


def memory_of_tres(tres: str) -> int | None:
    """MB a node of a list of trackable resources (``cpu=4,mem=3000M,node=2``)."""
    amounts = dict(part.partition("=")[::2] for part in tres.split(","))
    total = megabytes(amounts.get("mem", ""))
    nodes = amounts.get("node", "1")
    return None if total is None else total // max(1, int(nodes) if nodes.isdigit() else 1)


def limit_of_partitions(text: str, wanted: str) -> int | None:
    """Longest MaxTime, in seconds, among the partitions named in ``wanted`` (commas; "": the default one); None: no limit, or unknown."""
    names = [name for name in wanted.split(",") if name]
    limits: list[int | None] = []
    for line in text.splitlines():
        record = read_pairs(line)
        name = record.get("PartitionName")
        if name in names or (not names and name is not None and record.get("Default") == "YES"):
            limits.append(seconds(record.get("MaxTime", "")))
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def job_id(text: str) -> str | None:
    """Id in what ``sbatch --parsable`` printed (``4711`` or ``4711;cluster``), whatever a site's wrapper printed before it."""
    for line in reversed(text.splitlines()):
        found = re.fullmatch(r"(\d+)(;\S*)?", line.strip())
        if found:
            return found[1]
    return None


def refusal(text: str) -> Refused | SubmitUnknown:
    """What it means that sbatch failed with this text: wait, never, or nobody knows whether the job was taken."""
    said = " ".join(text.split())[:500]
    if _MAY_BE_TAKEN.search(text):
        return SubmitUnknown(said)
    if _WAIT.search(text):
        return Refused(said, wait=True)
    if _POLICY.search(text):
        # Slurm names the limit in a line of its own; without that line it may be the number of jobs: that passes
        named = _NAMED_LIMIT.search(text) is not None
        return Refused(said, wait=not named, about_size=named)
    if _SIZE.search(text):
        return Refused(said, wait=False, about_size=True)
    if _FOR_GOOD.search(text):
        return Refused(said, wait=False)
    if "error:" in text or "sbatch:" in text:
        return Refused(said, wait=False, sure=False)
    return SubmitUnknown(said or "sbatch failed without a word")


def _reason(said: str, reason: str, alive: bool) -> str:
    reason = "" if reason in ("None", "(null)") else reason
    if alive:
        return reason
    return f"{said}, {reason}" if reason and reason != said else said


def _time(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:  # N/A, Unknown
        return None
    return value if value > 0 else None


@dataclass(frozen=True)
class ClusterFacts:
    """What the dispatcher wants to know of a cluster's configuration; None where it did not say."""

    version: str = ""
    min_job_age_s: float | None = None
    accounting: bool = True

    @staticmethod
    def of(config: Mapping[str, str]) -> ClusterFacts:
        """Read them from ``scontrol show config``."""
        number: Callable[[str], float | None] = lambda key: seconds_of(config.get(key, ""))  # noqa: E731
        return ClusterFacts(
            version=config.get("SLURM_VERSION", ""),
            min_job_age_s=number("MinJobAge"),
            accounting="slurmdbd" in config.get("AccountingStorageType", "slurmdbd"),
        )
