"""The master of a handful of shell tasks, killed at every named point of jobs/, and at random, and started again.

What ran is counted from the tasks' own append-only files, never from the journal.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs_master import ENDS, POINTS, check, finish, start
from jobs_support import wait_until
from support import clean_environment

from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.lock import MasterLock


def test_undisturbed(tmp_path):
    assert finish(tmp_path) == ENDS
    check(tmp_path)


@pytest.mark.crash
@pytest.mark.parametrize("passage", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(tmp_path, point, passage):
    master = start(tmp_path, f"{point}:{passage}")
    master.communicate(timeout=90)
    assert master.returncode == -signal.SIGKILL, "the kill did not land"
    assert finish(tmp_path) == ENDS
    check(tmp_path)


@pytest.mark.crash
@pytest.mark.parametrize("point", ["intent-written", "submitted-unrecorded", "submitted", "accepting", "accepted"])
def test_killed_there_again_and_again(tmp_path, point):
    """A master that dies at the first passage of such a point every time still gets one step further each time."""
    for _ in range(40):
        master = start(tmp_path, point)
        _, err = master.communicate(timeout=90)
        if master.returncode == 0:
            break
        assert master.returncode == -signal.SIGKILL, err
    else:
        pytest.fail("it never came to its end")
    check(tmp_path)


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random(tmp_path, seed):
    chance = random.Random(seed)
    landed = 0
    (tmp_path / "hold").touch()  # on a fast machine all would be done before the first kill
    for _ in range(12):
        if landed == 3:
            (tmp_path / "hold").unlink(missing_ok=True)
        master = start(tmp_path)
        time.sleep(chance.uniform(0.12, 0.7))
        master.kill()
        _, err = master.communicate(timeout=90)
        if master.returncode == 0:
            break
        assert master.returncode == -signal.SIGKILL, err
        landed += 1
    assert landed >= 3
    finish(tmp_path)
    check(tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_master_in_order(tmp_path, signum):
    (tmp_path / "hold").touch()
    master = start(tmp_path)
    wait_until(lambda: (tmp_path / "a" / ".attempt" / "executions.log").exists(), 30)
    master.send_signal(signum)
    _, err = master.communicate(timeout=30)
    assert master.returncode == 128 + signum, err
    assert not (tmp_path / ".pwact_like" / "run" / "lock").exists()
    assert len(LocalScheduler(tmp_path / ".pwact_like" / "run" / "jobs").live()) > 0, "the jobs stay"
    (tmp_path / "hold").unlink()
    finish(tmp_path)
    check(tmp_path)


def test_a_second_master_is_refused_while_the_first_goes_on(tmp_path):
    (tmp_path / "hold").touch()
    first = start(tmp_path)
    wait_until(lambda: (tmp_path / "a" / ".attempt" / "executions.log").exists(), 30)
    second = start(tmp_path)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 4 and f"pid {first.pid}" in err
    (tmp_path / "hold").unlink()
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    check(tmp_path)


def test_an_old_master_that_wakes_is_fenced_off(tmp_path):
    """Stopped while another machine's master took its lock: when it wakes it writes and submits nothing."""
    (tmp_path / "hold").touch()
    old = start(tmp_path)
    wait_until(lambda: (tmp_path / "a" / ".attempt" / "executions.log").exists(), 30)
    old.send_signal(signal.SIGSTOP)
    lock_file = tmp_path / ".pwact_like" / "run" / "lock"
    lock_file.write_text(lock_file.read_text().replace('"boot": "', '"boot": "another ').replace('"host": "', '"host": "another '))
    with MasterLock(lock_file.parent, take_over=True):
        old.send_signal(signal.SIGCONT)
        (tmp_path / "hold").unlink()
        _, err = old.communicate(timeout=30)
        assert old.returncode == 4 and "lost its lock" in err
        assert lock_file.exists()
    finish(tmp_path)
    check(tmp_path)


def kill_command(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "pwact_like", "kill", *arguments, "--work-dir", str(tmp_path)]
    return subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=60)


def test_kill_ends_this_folders_master_and_jobs_and_nothing_else(tmp_path):
    here, other = tmp_path / "here", tmp_path / "here and there"
    masters = []
    for work_dir in (here, other):
        work_dir.mkdir()
        (work_dir / "hold").touch()
        masters.append(start(work_dir))
        wait_until((work_dir / "a" / ".attempt" / "executions.log").exists, 30)
    result = kill_command(here, "RUN")
    assert result.returncode == 0 and f"pid {masters[0].pid}" in result.stdout and "pwl-killed-" in result.stdout, result.stderr
    masters[0].communicate(timeout=30)
    assert masters[0].returncode == 143 and masters[1].poll() is None
    assert LocalScheduler(here / ".pwact_like" / "run" / "jobs").live() == []
    assert LocalScheduler(other / ".pwact_like" / "run" / "jobs").live() != []
    again = kill_command(here, "run")
    assert again.returncode == 0 and "no master of run runs" in again.stdout and "ended 0 jobs" in again.stdout
    (other / "hold").unlink()
    _, err = masters[1].communicate(timeout=60)
    assert masters[1].returncode == 0, err
    check(other)
    (here / "hold").unlink()
    finish(here)


def test_kill_where_nothing_was_ever_started(tmp_path):
    result = kill_command(tmp_path, "init_bulk")
    assert result.returncode == 0 and "nothing to end" in result.stdout and not list(tmp_path.iterdir())


def test_kill_spares_a_stranger_with_the_masters_pid(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as stranger:
        with MasterLock(tmp_path / ".pwact_like" / "run") as lock:
            content = lock.path.read_text()
        lock.path.write_text(content.replace(f'"pid": {os.getpid()}', f'"pid": {stranger.pid}'))
        result = kill_command(tmp_path, "run")
        assert "no master" in result.stdout and stranger.poll() is None
        stranger.kill()


def test_kill_in_a_copy_spares_the_original(tmp_path):
    """The copy has the lock, the journal and the process records of the original."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    (original / "hold").touch()
    master = start(original)
    wait_until(lambda: len(list(original.glob(".pwact_like/run/jobs/*/queued"))) == 3, 30)
    wait_until((original / "flaky" / ".attempt" / "executions.log").exists, 30)
    time.sleep(0.5)  # now it only waits
    shutil.copytree(original, copy)
    result = kill_command(copy, "run")
    assert result.returncode == 0 and "no master" in result.stdout, result.stderr
    assert "ended 1 job:" in result.stdout, "the copy's own entry in the queue, and none of the two that run"
    assert master.poll() is None
    (original / "hold").unlink()
    _, err = master.communicate(timeout=60)
    assert master.returncode == 0, err
    check(original)
