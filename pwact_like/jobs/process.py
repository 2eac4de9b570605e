"""Who a process is: a pid alone is recycled, a pid with its start time and the machine's boot id is not.

Linux only: everything comes from ``/proc`` (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessId:
    """One process of one boot of one machine.

    ``start`` is field 22 of ``/proc/PID/stat`` (clock ticks since boot), ``boot`` the kernel's random boot id.
    """

    host: str
    pid: int
    start: int
    boot: str


@dataclass(frozen=True)
class ProcessStat:
    """The fields of ``/proc/PID/stat`` that matter here."""

    pid: int
    state: str
    parent: int
    session: int
    start: int

    @property
    def dead(self) -> bool:
        """A zombie has ended; only its parent has not asked for the status yet."""
        return self.state in "ZXx"


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Id of this boot of this machine's kernel."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def host_name() -> str:
    """Name of this machine."""
    return socket.gethostname()


def read_stat(pid: int) -> ProcessStat | None:
    """Look at a process; None when there is none with this pid."""
    try:
        content = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the second field is the program's name in parentheses and may itself hold blanks and parentheses
    fields = content[content.rindex(b")") + 2 :].split()
    return ProcessStat(pid=pid, state=fields[0].decode(), parent=int(fields[1]), session=int(fields[3]), start=int(fields[19]))


def this_process() -> ProcessId:
    """Identity of the calling process."""
    stat = read_stat(os.getpid())
    if stat is None:  # a /proc of another pid namespace: nothing could be told apart
        raise ProcessLookupError(f"/proc/{os.getpid()}/stat is missing: /proc must be mounted for this machine's processes")
    return ProcessId(host=host_name(), pid=stat.pid, start=stat.start, boot=boot_id())


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs here (another boot, another start time, a zombie: it does not)."""
    if process.boot != boot_id():
        return False
    stat = read_stat(process.pid)
    return stat is not None and stat.start == process.start and not stat.dead


def is_elsewhere(process: ProcessId) -> bool:
    """Whether it belongs to another machine, of which nothing can be told from here."""
    return process.boot != boot_id() and process.host != host_name()


def all_processes() -> Iterator[ProcessStat]:
    """Every living process that can be seen."""
    for entry in os.scandir(_PROC):
        if entry.name.isdigit() and (stat := read_stat(int(entry.name))) is not None and not stat.dead:
            yield stat


def _has_variable(pid: int, assignment: bytes) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:  # another user's, or gone
        return False
    return assignment in environment.split(b"\0")


def has_open(process: ProcessId, path: Path) -> bool:
    """Whether a process has a file open, by whatever name it knows it."""
    try:
        wanted = path.stat()
        handles = list((_PROC / str(process.pid) / "fd").iterdir())
    except OSError:
        return False
    for handle in handles:
        try:
            found = handle.stat()
        except OSError:
            continue  # closed in between
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return is_alive(process)
    return False


def job_members(leader: ProcessId, variable: str, value: str) -> list[ProcessId]:
    """Living processes of a job: its leader, its session, and those that inherited ``variable=value`` from it.

    A session whose leader is gone is recognised by the variable alone, so that a recycled pid harms no stranger.
    """
    if leader.boot != boot_id():
        return []
    assignment = f"{variable}={value}".encode("utf-8", "surrogateescape")
    leader_lives = is_alive(leader)
    members = []
    for stat in all_processes():
        in_session = leader_lives and stat.session == leader.pid
        if in_session or (stat.start >= leader.start and _has_variable(stat.pid, assignment)):
            members.append(ProcessId(host=leader.host, pid=stat.pid, start=stat.start, boot=leader.boot))
    return members


def send_signal(process: ProcessId, signum: signal.Signals) -> bool:
    """Send a signal to this very process; False when it is gone (or never was ours to signal)."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:  # kernel before 5.3
        return _send_signal_by_pid(process, signum)
    try:
        # the handle pins the process: what is checked now is what is signalled
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(handle, signum)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(handle)
    return True


def _send_signal_by_pid(process: ProcessId, signum: signal.Signals) -> bool:
    if not is_alive(process):
        return False
    try:
        os.kill(process.pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True
