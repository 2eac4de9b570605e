"""A daemon as a child of the tests: its process id cannot be anybody else's, and it does not outlive them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_END_S = 10.0

# The kernel ties a child's life to the thread that started it: all daemons are started by one that lives as long as Python.
_STARTER = ThreadPoolExecutor(1, "daemons")


class DaemonError(RuntimeError):
    """A daemon did not do as it was told; the message has the end of its log."""


class Daemon:
    """One daemon, which can be started, killed and started again.

    Parameters
    ----------
    argv
        Its command, with whatever keeps it in the foreground.
    logs
        Files that it writes; what it prints goes to the first one's name with ``.out``.
    """

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], logs: Sequence[Path]) -> None:
        self.name = name
        self.argv = list(argv)
        self.environment = dict(environment)
        self.printed = logs[0].with_suffix(".out")
        self.logs = [*logs, self.printed]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self.running else None

    @property
    def running(self) -> bool:
        """Whether it runs; an ended one is reaped by asking."""
        return self._process is not None and self._process.poll() is None

    def start(self, *more: str) -> None:
        """Start it; nothing happens if it runs."""
        if self.running:
            return
        # if the tests are killed the kernel ends the daemon too (setpriv is part of util-linux, as /bin/mount is)
        leash = [setpriv, "--pdeathsig", "KILL"] if (setpriv := shutil.which("setpriv")) else []
        with self.printed.open("ab") as out:
            # a session of its own: Ctrl-C on the terminal is for pytest, which then stops the daemons in order
            start = _STARTER.submit(
                subprocess.Popen,
                [*leash, *self.argv, *more],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                cwd=self.printed.parent,
                start_new_session=True,
            )
            self._process = start.result()

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_END_S)

    def tail(self, lines: int = 15) -> str:
        """The end of all that it wrote."""
        text = ""
        for path in self.logs:
            if path.exists() and (content := path.read_text(errors="replace").splitlines()):
                text += "\n".join(["", f"--- {path}", *content[-lines:]])
        return text

    def error(self, what: str) -> DaemonError:
        """The error to raise: what happened, and the end of the log."""
        state = "runs" if self.running else f"ended with status {self._process.returncode}" if self._process else "is not running"
        return DaemonError(f"{self.name} {what} ({state}): {' '.join(self.argv)}{self.tail()}")


def environment_of(pid: int) -> dict[str, str]:
    """Environment with which a process was started; empty for one that has ended or is not ours."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    return dict(item.split("=", 1) for item in content.decode("utf-8", "surrogateescape").split("\0") if "=" in item)


def comm_of(pid: int) -> str:
    """Name of a process; empty for one that has ended, be it a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    name, _, rest = text[text.index("(") + 1 :].rpartition(")")
    return "" if rest.split()[0] in "ZX" else name


def processes_with(**variables: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Live processes that were started with these variables, each with its whole environment."""
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        found = environment_of(pid)
        if pid != os.getpid() and found and variables.items() <= found.items() and comm_of(pid):
            yield pid, found


def wait_for(condition: Callable[[], bool], timeout_s: float, pause_s: float = 0.05) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
