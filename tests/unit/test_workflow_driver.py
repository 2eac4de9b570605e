"""Child processes of the master: they end when it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from jobs_support import wait_until

from pwact_like.jobs.process import read_stat

BEGUN = "import os, pathlib; pathlib.Path('begun').write_text(str(os.getpid()))"
WORK = {
    "asleep": f"{BEGUN}; import time; time.sleep(300)",
    # no thread of Python's runs while this searches: the system must end it
    "busy": f"{BEGUN}; import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    # as where the system knows no such signal: a thread sees the end of a pipe
    "elsewhere": f"import ctypes; ctypes.CDLL(None).prctl(1, 0); {BEGUN}; import time; time.sleep(300)",
}


@pytest.mark.parametrize("work", WORK)
def test_a_child_ends_with_its_master_though_that_is_killed(tmp_path, work):
    """Found by an attack: it slept for ever with the master's stdout open, and a pipe on the output never closed."""
    code = f"from pwact_like.workflows.driver import fork; fork(exec, {WORK[work]!r})"
    command = [sys.executable, "-c", code]
    master = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    begun = tmp_path / "begun"
    wait_until(lambda: begun.exists() and begun.read_text() != "", 60)
    child = int(begun.read_text())
    master.kill()
    try:
        master.communicate(timeout=20)  # reads until the last process has closed the pipe
        wait_until(lambda: (stat := read_stat(child)) is None or stat.dead, 10)
    finally:
        if (stat := read_stat(child)) is not None and not stat.dead:
            os.kill(child, signal.SIGKILL)
    assert master.returncode == -signal.SIGKILL
