"""The ``#SBATCH`` lines of a job script: a section of resource.json and what earlier failures asked for, as sbatch options."""

from __future__ import annotations

from collections.abc import Sequence

from pwact_like.config.sbatch import seconds, time_text, value_of
from pwact_like.jobs.types import JobRequest

# the script's own lines in its job folder, into which sbatch is called: no path is written out, so that none need be escaped
OUTPUT, ERROR = "stdout", "stderr"

# Slurm sends the warning up to a minute earlier than asked for (sbatch(1), --signal)
WARNING_S = (60, 300)
_WARNED_FROM_S = 600

_MEMORY = ("--mem", "--mem-per-cpu", "--mem-per-gpu")
_TIME = ("--time", "-t")
_EXCLUDE = ("--exclude", "-x")


def header(request: JobRequest) -> tuple[str, ...]:
    """Lines right after the script's first one.

    The user's own flags come last but for what they must not set, so that they outrank ours; memory and time that a
    retry asks for replace theirs.
    """
    section, asks = request.section, request.asks
    flags = list(section.custom_flags)
    options = [f"--job-name={request.name}", f"--comment={request.name}", f"--output={OUTPUT}", f"--error={ERROR}"]
    # a job that was submitted twice must not empty the first one's output
    options += ["--open-mode=append", "--no-requeue"]
    options += [f"--nodes={section.number_node}", f"--ntasks-per-node={section.cpu_per_node}"]
    if section.gpu_per_node:
        options.append(f"--gres=gpu:{section.gpu_per_node}")
    if section.queue_name:
        options.append(f"--partition={section.queue_name}")
    limit_s = asks.time_s
    if limit_s is not None:
        options.append(f"--time={time_text(limit_s)}")
        flags = _without(flags, _TIME)
    else:
        if section.time is not None:
            options.append(f"--time={section.time}")
        limit_s = seconds(section.time or value_of(flags, *_TIME) or "")
    if asks.memory_mb is not None:
        options.append(f"--mem={asks.memory_mb}M")
        flags = _without(flags, _MEMORY)
    elif section.memory is not None:
        options.append(f"--mem={section.memory}")
    if asks.exclude:
        others = value_of(flags, *_EXCLUDE)
        flags = _without(flags, _EXCLUDE)
        options.append(f"--exclude={','.join([*([others] if others else []), *asks.exclude])}")
    warning_s = _warning(limit_s)
    if warning_s is not None:
        options.append(f"--signal=B:USR1@{warning_s}")
    return tuple(f"#SBATCH {option}" for option in [*options, *flags])


def _warning(limit_s: int | None) -> int | None:
    """How long before the limit the script is warned; None when the limit is so short that the warning would come at the start."""
    if limit_s is None:
        return 2 * WARNING_S[0]
    if limit_s < _WARNED_FROM_S:
        return None
    return min(max(limit_s // 20, WARNING_S[0]), WARNING_S[1])


def _without(flags: Sequence[str], options: Sequence[str]) -> list[str]:
    return [flag for flag in flags if value_of([flag], *options) is None]
