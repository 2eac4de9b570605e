"""Process identity, the lock and its fencing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pwact_like.errors import FencedError, LockedError
from pwact_like.jobs.lock import MasterLock, holder_is_alive, read_lock
from pwact_like.jobs.process import is_alive, is_elsewhere, job_members, read_stat, send_signal, this_process

HOLD = """
import sys, time
from pathlib import Path
from pwact_like.jobs.lock import MasterLock
with MasterLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float = 60) -> subprocess.Popen:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    return child


def rewrite(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "lock").read_text())
    content["process"].update(changes)
    (folder / "lock").write_text(json.dumps(content))


def test_a_process_is_its_pid_its_start_and_its_boot():
    me = this_process()
    assert is_alive(me)
    assert not is_alive(replace(me, start=me.start + 1)), "another process got this pid"
    assert not is_alive(replace(me, boot="another boot"))
    assert not is_elsewhere(replace(me, boot="another boot")), "the same machine, started anew"
    assert is_elsewhere(replace(me, boot="another boot", host="another machine"))


def test_a_zombie_is_dead():
    child = subprocess.Popen(["true"])
    process = replace(this_process(), pid=child.pid, start=0)
    deadline = time.monotonic() + 10
    while (stat := read_stat(child.pid)) is not None and stat.state != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stat is not None and stat.state == "Z"
    assert not is_alive(replace(process, start=stat.start))
    child.wait()


def test_a_program_with_parentheses_in_its_name(tmp_path):
    program = tmp_path / "a) R (b"
    shutil.copy(shutil.which("sleep"), program)
    with subprocess.Popen([program, "60"], start_new_session=True) as child:
        stat = read_stat(child.pid)
        assert stat is not None and (stat.parent, stat.session) == (os.getpid(), child.pid)
        child.kill()


def test_a_signal_goes_to_this_very_process_only():
    with subprocess.Popen(["sleep", "60"]) as child:
        stat = read_stat(child.pid)
        assert stat is not None
        stranger = replace(this_process(), pid=child.pid, start=stat.start - 1)
        assert not send_signal(stranger, 15)
        assert child.poll() is None
        assert send_signal(replace(stranger, start=stat.start), 15)
        assert child.wait(10) == -15


def test_members_of_a_job_whose_leader_is_gone_are_known_by_their_variable():
    environment = {**os.environ, "PWL_TEST_JOB": "the job"}
    script = "setsid sleep 60 & sleep 60 & echo ready; wait"
    child = subprocess.Popen(["bash", "-c", script], start_new_session=True, stdout=subprocess.PIPE, env=environment)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    stat = read_stat(child.pid)
    assert stat is not None
    leader = replace(this_process(), pid=child.pid, start=stat.start)
    try:
        assert len(job_members(leader, "PWL_TEST_JOB", "the job")) == 3, "the shell, its child, and the one in another session"
        child.kill()
        child.wait()
        left = job_members(leader, "PWL_TEST_JOB", "the job")
        assert len(left) == 2
        assert job_members(leader, "PWL_TEST_JOB", "another job") == []
    finally:
        for member in job_members(leader, "PWL_TEST_JOB", "the job"):
            send_signal(member, 9)


def test_a_second_master_is_refused_with_machine_pid_and_age(tmp_path):
    with hold(tmp_path) as child:
        with pytest.raises(LockedError, match=rf"pid {child.pid} on .*started \d+ seconds ago") as caught, MasterLock(tmp_path):
            pass
        assert caught.value.exit_status == 4
        record = read_lock(tmp_path)
        assert record is not None and holder_is_alive(record)
        child.kill()


def test_a_master_of_the_same_process_is_refused_too(tmp_path):
    with MasterLock(tmp_path), pytest.raises(LockedError), MasterLock(tmp_path):
        pass


def test_a_dead_masters_lock_is_taken_over(tmp_path):
    child = hold(tmp_path)
    child.kill()
    child.wait()
    record = read_lock(tmp_path)
    assert record is not None and not holder_is_alive(record)
    with MasterLock(tmp_path) as lock:
        assert lock.epoch == record.epoch + 1


@pytest.mark.parametrize("change", [{"start": 1}, {"boot": "the boot before"}])
def test_a_recycled_pid_is_no_master(tmp_path, change):
    with hold(tmp_path) as child:
        rewrite(tmp_path, **change)
        with MasterLock(tmp_path) as lock:
            assert lock.epoch == 2
        child.kill()


def test_another_machines_lock_needs_take_over(tmp_path):
    with MasterLock(tmp_path) as old:
        rewrite(tmp_path, host="node-7", boot="its boot")
        with pytest.raises(LockedError, match=r"node-7.*--take-over"), MasterLock(tmp_path):
            pass
        with MasterLock(tmp_path, take_over=True) as new:
            new.check()
            with pytest.raises(FencedError):
                old.check()
            old.release()
            new.check()


def test_the_epoch_grows_when_a_lock_was_given_back(tmp_path):
    epochs = []
    for _ in range(3):
        with MasterLock(tmp_path) as lock:
            epochs.append(lock.epoch)
    assert epochs == [1, 2, 3]
    assert read_lock(tmp_path) is None


def test_a_removed_lock_fences(tmp_path):
    with MasterLock(tmp_path) as lock:
        (tmp_path / "lock").unlink()
        with pytest.raises(FencedError):
            lock.check()


def test_a_lock_that_is_none_is_named(tmp_path):
    (tmp_path / "lock").write_text("{}")
    with pytest.raises(LockedError, match="lock: not a lock"), MasterLock(tmp_path):
        pass


def test_a_forked_child_does_not_give_the_lock_back(tmp_path):
    with MasterLock(tmp_path) as lock:
        child = os.fork()
        if child == 0:
            lock.release()
            os._exit(0)
        os.waitpid(child, 0)
        lock.check()


def test_of_many_masters_at_once_one_wins(tmp_path):
    stale = hold(tmp_path)
    stale.kill()
    stale.wait()
    script = (
        "import sys\nfrom pathlib import Path\nfrom pwact_like.jobs.lock import MasterLock\nfrom pwact_like.errors import LockedError\n"
        "import time\ntime.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "try:\n    MasterLock(Path(sys.argv[1])).acquire()\nexcept LockedError:\n    sys.exit(4)\ntime.sleep(1.5)\n"
    )
    start = time.time() + 0.7
    children = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(start)]) for _ in range(8)]
    statuses = sorted(child.wait(30) for child in children)
    assert statuses == [0] + [4] * 7
