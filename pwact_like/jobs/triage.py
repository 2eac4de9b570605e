"""What follows a failed attempt, by the cause of its failure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pwact_like.config.sbatch import megabytes, seconds, value_of
from pwact_like.jobs import attempt as folder_of
from pwact_like.jobs.script import Work
from pwact_like.jobs.types import Asks, EndCause
from pwact_like.jobs.verdict import Bad

if TYPE_CHECKING:
    from pwact_like.config.resource import ResourceSection

# nobody's fault: tried again without a strike, up to so many times
NO_STRIKE = frozenset({EndCause.NODE_FAIL, EndCause.PREEMPTED, EndCause.CANCELLED, EndCause.NOT_BEGUN})
MISFORTUNES = 10
# an attempt that began so much later than its job (and by this share of the time limit) was cut short by the others before it
_LATE_S, _LATE_SHARE = 5.0, 0.1


@dataclass(frozen=True)
class JobFacts:
    """What the triage needs to know of the job in which an attempt failed.

    Attributes
    ----------
    node
        Where it ran; "" when unknown.
    memory_mb
        The memory a node that it was given, as far as known.
    longest_s
        The longest time limit that the partition allows; None when unknown.
    worked
        It began some attempt.
    late_s
        So much later than the job did the attempt begin.
    """

    node: str = ""
    memory_mb: int | None = None
    longest_s: int | None = None
    worked: bool = True
    late_s: float = 0.0


def triage(work: Work, bad: Bad, job: JobFacts, section: ResourceSection) -> tuple[Bad, Asks]:
    """Judge a failure by its cause.

    Returns
    -------
    bad, asks
        The verdict, with ``strike`` and ``final`` set by the cause, and what the next attempt asks of the scheduler.
    """
    asks = work.asks
    if bad.final:
        return bad, asks
    if bad.cause is EndCause.OUT_OF_MEMORY:
        return _spared(work, *_more_memory(work, bad, job, section))
    if bad.cause is EndCause.TIMEOUT:
        return _more_time(work, bad, job, section)
    # a node on which jobs die in their first lines is always free, and would take every attempt
    broken = bad.cause is EndCause.NODE_FAIL or (bad.cause is EndCause.LOST and bad.strike and not job.worked)
    if broken and section.retry.exclude_nodes and job.node and "[" not in job.node:
        asks = replace(asks, exclude=tuple(dict.fromkeys([*asks.exclude, *job.node.split(",")])))
    if bad.cause in NO_STRIKE:
        went_on = folder_of.has_progressed(work.task, work.number)
        return replace(bad, strike=False, harmless=bad.harmless or went_on), asks
    return _spared(work, bad, asks)


def _spared(work: Work, bad: Bad, asks: Asks) -> tuple[Bad, Asks]:
    """The verdict on a task that passes over what it died at: no strike where it has come further, nor its end for want of memory."""
    if not work.task.files.passes_over:
        return bad, asks
    return replace(bad, final=False, strike=bad.strike and not folder_of.has_progressed(work.task, work.number)), asks


def memory_mb(section: ResourceSection, asks: Asks) -> int | None:
    """Memory a node, in MB, that a job asks for; None: the partition's default."""
    text = section.memory or value_of(section.custom_flags, "--mem")
    return asks.memory_mb or (megabytes(text) if text else None) or None


def time_s(section: ResourceSection, asks: Asks) -> int | None:
    """Time limit, in seconds, that a job asks for; None: the partition's default."""
    text = section.time or value_of(section.custom_flags, "--time", "-t")
    return asks.time_s or (seconds(text) if text else None)


def _more_memory(work: Work, bad: Bad, job: JobFacts, section: ResourceSection) -> tuple[Bad, Asks]:
    retry = section.retry
    base = memory_mb(section, work.asks) or job.memory_mb
    if base is None:
        return replace(bad, final=True, reason=f"{bad.reason}; how much it had is not known: give `memory` in resource.json"), work.asks
    wanted = math.ceil(base * retry.memory_factor)
    most = megabytes(retry.memory_max) if retry.memory_max else None
    wanted = wanted if most is None else min(wanted, most)
    if wanted <= base:
        return replace(bad, final=True, reason=f"{bad.reason}; it had {base} MB, and `retry` of resource.json allows no more"), work.asks
    return replace(bad, reason=f"{bad.reason}; it had {base} MB", sequel=f"it gets {wanted} MB"), replace(work.asks, memory_mb=wanted)


def _more_time(work: Work, bad: Bad, job: JobFacts, section: ResourceSection) -> tuple[Bad, Asks]:
    if folder_of.has_progressed(work.task, work.number):
        return replace(bad, strike=False, harmless=True, sequel="it goes on from its checkpoint"), work.asks
    base = time_s(section, work.asks)
    if job.late_s > max(_LATE_S, _LATE_SHARE * (base or 0)):
        # others had used up the job's time before it began: it is to have the whole of the next one
        sequel = f"it had begun {job.late_s:.0f} s after its job, and comes first in the next one"
        return replace(bad, strike=False, harmless=True, first=True, sequel=sequel), work.asks
    # with a checkpoint the next attempt may yet get on where this one has only begun; more time can but help it
    may_get_on = bool(work.task.files.checkpoints)
    if base is None and may_get_on:
        return bad, work.asks
    if base is None:
        return replace(bad, final=True, reason=f"{bad.reason}; unchanged it would again: give `time` in resource.json"), work.asks
    wanted = math.ceil(base * section.retry.time_factor)
    wanted = wanted if job.longest_s is None else min(wanted, job.longest_s)
    if wanted <= base and may_get_on:
        return bad, work.asks
    if wanted <= base:
        return replace(bad, final=True, reason=f"{bad.reason}; it had {base // 60} minutes, and more are not allowed"), work.asks
    reason, sequel = f"{bad.reason}; it had {base // 60} minutes", f"it gets {wanted // 60}"
    return replace(bad, reason=reason, sequel=sequel), replace(work.asks, time_s=wanted)
