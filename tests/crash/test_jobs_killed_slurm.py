"""The master of a handful of shell tasks on Slurm, killed at every named point of jobs/, and at random, and started again."""

from __future__ import annotations

import random
import shlex
import signal
import subprocess
import sys
import time

import campaigns
import jobs_master
import pytest
from jobs_master import ENDS, POINTS, check, finish, start
from jobs_support import wait_until
from support import clean_environment

from pwact_like.jobs.lock import MasterLock

pytestmark = [pytest.mark.crash, pytest.mark.slurm]


def kill_at(work_dir, point):
    """Whether the kill landed; if not, the master has come to its end."""
    master = start(work_dir, point, "slurm")
    _, err = master.communicate(timeout=90)
    assert master.returncode in (-signal.SIGKILL, 0), err
    return master.returncode == -signal.SIGKILL


def come_to_the_end(slurm, work_dir):
    assert finish(work_dir, "slurm") == ENDS
    check(work_dir)
    slurm.check_none_left(work_dir)


@pytest.mark.parametrize("passage", [1, 2])
def test_killed_at_every_point(slurm, folder, passage):
    """One after the other; where a slow machine has left too little to do for a second passage, in a folder of its own."""
    for point in POINTS:
        where = point if point == "accepted" else f"{point}:{passage}"
        if not kill_at(folder, where):
            come_to_the_end(slurm, folder)
            folder = folder.with_name(f"for {point}")
            folder.mkdir()
            assert kill_at(folder, where), f"the kill at {where} did not land"
    come_to_the_end(slurm, folder)


@pytest.mark.parametrize("point", ["submitted-unrecorded", "accepting"])
def test_killed_there_again_and_again(slurm, folder, point):
    """A master that dies at the first passage of such a point every time still gets one step further each time."""
    for _ in range(40):
        master = start(folder, point, "slurm")
        _, err = master.communicate(timeout=90)
        if master.returncode == 0:
            break
        assert master.returncode == -signal.SIGKILL, err
    else:
        pytest.fail("it never came to its end")
    come_to_the_end(slurm, folder)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random(slurm, folder, seed):
    chance = random.Random(seed)
    landed = 0
    (folder / "hold").touch()  # on a fast machine all would be done before the first kill
    for _ in range(10):
        if landed == 4:
            (folder / "hold").unlink(missing_ok=True)
        master = start(folder, scheduler="slurm")
        time.sleep(chance.uniform(0.2, 0.9))
        master.kill()
        _, err = master.communicate(timeout=90)
        if master.returncode == 0:
            break
        assert master.returncode == -signal.SIGKILL, err
        landed += 1
    assert landed >= 4
    come_to_the_end(slurm, folder)


def test_an_old_master_that_wakes_is_fenced_off(slurm, folder):
    """Stopped while another machine's master took its lock: when it wakes it submits nothing."""
    (folder / "hold").touch()
    old = start(folder, scheduler="slurm")
    wait_until(lambda: len(slurm.alive()) == 3, 30)
    wait_until((folder / "flaky" / ".attempt" / "executions.log").exists, 30)
    old.send_signal(signal.SIGSTOP)
    lock_file = folder / ".pwact_like" / "run" / "lock"
    lock_file.write_text(lock_file.read_text().replace('"boot": "', '"boot": "another ').replace('"host": "', '"host": "another '))
    with MasterLock(lock_file.parent, take_over=True):
        (folder / "hold").unlink()
        # two tasks have failed by then, and would be submitted again
        wait_until(lambda: not slurm.alive(), 30)
        before = [name for name, _ in slurm.jobs()]
        old.send_signal(signal.SIGCONT)
        _, err = old.communicate(timeout=30)
        assert old.returncode == 4 and "lost its lock" in err
        assert lock_file.exists() and [name for name, _ in slurm.jobs()] == before
    come_to_the_end(slurm, folder)


def test_the_masters_own_job_comes_to_its_time_limit(fake, folder):
    """The master is a job itself, of a minute; those that it has submitted may take ten."""
    (folder / "hold").touch()
    script = folder / "master.sh"
    script.write_text("#!/bin/bash\nexec " + shlex.join([sys.executable, jobs_master.__file__, str(folder), "slurm"]) + "\n")
    arguments = ["sbatch", "--parsable", "-J", "the-master", "-t", "1", "-o", "said", script.name]
    done = subprocess.run(arguments, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=True)
    wait_until(lambda: len(campaigns.Slurm(fake).alive()) == 3, 30)
    fake.advance(150)
    assert fake.wait(done.stdout.strip(), "TIMEOUT").name == "the-master"
    assert len(campaigns.Slurm(fake).alive()) == 3 and not (folder / ".pwact_like" / "run" / "lock").exists()
    (folder / "hold").unlink()
    come_to_the_end(campaigns.Slurm(fake), folder)


def test_an_sbatch_that_outlives_its_master(fake, folder):
    """It submits its job after the next master has looked, and before that one's own sbatch does: two jobs of one name, one works."""
    (folder / "hold").touch()
    outlives, goes_on = folder / "the first sbatch goes on", folder / "the second sbatch goes on"
    fake.fault("sbatch", f"until:{outlives}", times=3)
    fake.fault("sbatch", f"until:{goes_on}", times=3)
    master = start(folder, scheduler="slurm")
    wait_until(lambda: len(fake.calls("sbatch")) == 3, 120)
    master.kill()
    assert master.communicate(timeout=30) and master.returncode == -signal.SIGKILL
    master = start(folder, scheduler="slurm")
    wait_until(lambda: len(fake.calls("sbatch")) == 4, 120)  # it has looked, has seen no job, and submits them again one by one
    outlives.touch()
    wait_until(lambda: len(fake.jobs()) == 3, 100)
    goes_on.touch()
    wait_until(lambda: [job.display for job in fake.jobs()].count("COMPLETED") == 3, 120)
    # longer than its grace period, in which it looks again and again
    ended, looked = time.monotonic(), len(fake.calls("squeue"))
    wait_until(lambda: time.monotonic() - ended > 1.5 and len(fake.calls("squeue")) >= looked + 10, 120)
    assert len(fake.jobs()) == 6 and len(campaigns.Slurm(fake).alive()) == 3
    (folder / "hold").unlink()
    out, err = master.communicate(timeout=60)
    assert master.returncode == 0, err
    assert out.split() == ENDS
    check(folder)
    wait_until(lambda: not campaigns.Slurm(fake).alive(), 30)
