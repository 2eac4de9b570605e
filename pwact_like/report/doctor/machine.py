"""The machine that this runs on: limits that end a daemon, and masters that run on the work folder."""

from __future__ import annotations

import os
import re
import resource as limits
from collections.abc import Iterator
from pathlib import Path

from pwact_like.errors import LockedError
from pwact_like.jobs.lock import holder_is_alive, read_lock
from pwact_like.jobs.process import host_name, is_elsewhere
from pwact_like.report.doctor.findings import Finding, amount, bad, ok, warn

TOPIC = "machine"
OPEN_FILES_WARN = 256
PROCESSES_WARN = 64
MEMORY_WARN = 2e9
FILE_WARN = 10e9
_WORKFLOWS = ("init_bulk", "run")
_LOGIND = ("/etc/systemd/logind.conf", "/run/systemd/logind.conf.d", "/etc/systemd/logind.conf.d", "/usr/lib/systemd/logind.conf.d")


def limit_findings(open_files: float, processes: float, address_space: float, cpu_s: float, file_size: float) -> Iterator[Finding]:
    """Soft limits of this shell; infinite where there is none.

    Parameters
    ----------
    address_space, file_size
        Bytes.
    """
    unlimited, before = float("inf"), "before the start"
    checks = (
        (open_files, OPEN_FILES_WARN, f"only {_shown(open_files)} open files are allowed", f"ulimit -n 1024 {before}"),
        (processes, PROCESSES_WARN, f"only {_shown(processes)} processes are allowed", f"ulimit -u 1024 {before}"),
        (address_space, MEMORY_WARN, f"only {_shown(address_space, size=True)} of memory are allowed", f"ulimit -v unlimited {before}"),
        (cpu_s, unlimited, f"a process is ended after {_shown(cpu_s)} s of CPU time (ulimit -t)", "ask where long-lived programs may run"),
        (file_size, FILE_WARN, f"a file may not grow beyond {_shown(file_size, size=True)}", f"ulimit -f unlimited {before}"),
    )
    low = [warn(TOPIC, text, cure) for value, least, text, cure in checks if value < least]
    yield from low
    if not low:
        told = f"open files {_shown(open_files)}, processes {_shown(processes)}, memory {_shown(address_space, size=True)}"
        yield ok(TOPIC, f"limits: {told}")


def memory_findings(meminfo: str) -> Iterator[Finding]:
    """Free memory, of /proc/meminfo."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if not found:
        return
    free = 1024.0 * int(found[1])
    text = f"{len(os.sched_getaffinity(0))} core(s), {amount(free)} of memory free"
    yield warn(TOPIC, text, "a master takes 60 MB, its helpers some hundred MB for a while") if free < 1e9 else ok(TOPIC, text)


def logout_findings(texts: Iterator[str] | list[str]) -> Iterator[Finding]:
    """Whether logging out ends a user's programs, of systemd's logind.conf."""
    values = [found[1].lower() for text in texts for found in re.finditer(r"^\s*KillUserProcesses\s*=\s*(\w+)", text, re.MULTILINE)]
    if values and values[-1] in ("yes", "true", "1", "on"):
        text = "logging out ends every program of a user here (KillUserProcesses in logind.conf), nohup or not"
        yield warn(
            TOPIC,
            text,
            "loginctl enable-linger, then systemd-run --user --scope pwact-like run …; or start the same command again after it",
        )


def master_findings(work_dir: Path) -> Iterator[Finding]:
    """Whether a master holds the work folder, and who."""
    held = False
    for workflow in _WORKFLOWS:
        state_dir = work_dir / ".pwact_like" / workflow
        try:
            record = read_lock(state_dir)
        except LockedError as error:
            yield bad("master", str(error))
            continue
        if record is None:
            continue
        held = True
        who = f"{workflow}: the lock is held by pid {record.process.pid} on {record.process.host}, since {record.age}"
        if holder_is_alive(record):
            yield ok("master", f"{who}, and it runs")
        elif is_elsewhere(record.process):
            cure = f"look on {record.process.host}; if that machine is gone, start with --take-over"
            yield warn("master", f"{who}: whether it runs cannot be told from {host_name()}", cure)
        else:
            yield ok("master", f"{who}, and it is gone: the next start replaces the lock and goes on")
    if not held:
        yield ok("master", f"no master holds {work_dir}")


def examine_machine() -> Iterator[Finding]:
    """Limits, memory, and what a logout does."""
    kinds = (limits.RLIMIT_NOFILE, limits.RLIMIT_NPROC, limits.RLIMIT_AS, limits.RLIMIT_CPU, limits.RLIMIT_FSIZE)
    values = [limits.getrlimit(kind)[0] for kind in kinds]
    yield from limit_findings(*(float("inf") if value == limits.RLIM_INFINITY else float(value) for value in values))
    yield from memory_findings(Path("/proc/meminfo").read_text(encoding="utf-8", errors="replace"))
    yield from logout_findings(_logind_texts())


def _logind_texts() -> Iterator[str]:
    for name in _LOGIND:
        path = Path(name)
        files = sorted(path.glob("*.conf")) if path.is_dir() else [path]
        for file in files:
            try:
                yield file.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue


def _shown(value: float, size: bool = False) -> str:
    if value == float("inf"):
        return "unlimited"
    return amount(value) if size else f"{value:.0f}"
