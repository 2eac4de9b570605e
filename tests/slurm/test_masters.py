"""How a master lives and ends: each signal in each phase, nohup, cron, a job of Slurm itself, two machines."""

from __future__ import annotations

import os
import shlex
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import campaigns
import micro
import pytest
from fake.fake_slurm import FakeSlurm
from support import clean_environment

pytestmark = pytest.mark.slurm

TRAINING = "iter.0000/00.train/*"
LABELS = "iter.0000/02.label/scf/*/*/*"
# a tick is over within seconds, whatever it does; starting Python on a busy machine is most of this
SOON_S = 15.0


@pytest.fixture
def fake(tmp_path, monkeypatch):
    with FakeSlurm(tmp_path / "slurm") as slurm:
        slurm.install(monkeypatch)
        yield slurm


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    return campaigns.undisturbed_once(tmp_path_factory, "campaign")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "it's a campaign"
    path.mkdir()
    return path


def children(pid: int) -> list[int]:
    """Child processes that run Python (not those that a command of Slurm is)."""
    found = []
    for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            command = Path(f"/proc/{text}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.append(int(text))
    return found


def stop(master, signum, whole_group=False):
    """Send the signal, and see the master end as it should."""
    begun = time.monotonic()
    if whole_group:
        os.killpg(master.process.pid, signum)
    else:
        master.process.send_signal(signum)
    status = master.wait(60)
    took_s = time.monotonic() - begun
    assert status == 128 + signum, master.said
    assert took_s < SOON_S and "To go on: " in master.said and not master.lock().exists(), master.said


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_each_phase(signum, fake, undisturbed, folder):
    """One campaign; the same command goes on after each."""
    slurm, master = campaigns.Slurm(fake), campaigns.campaign(folder)

    fake.fault("sbatch", "slow:1.5", times=3)
    master.start()
    master.until(lambda: fake.calls("sbatch"))
    stop(master, signum)  # while sbatch is under way: what was begun is recorded
    assert len(slurm.alive()) == len(fake.calls("sbatch")) and "found again" not in master.log

    master.start()
    master.until(lambda: "train: 3 tasks" in master.new_log and master.begun(TRAINING)())
    stop(master, signum)  # while trainings run

    master.start()
    master.until(lambda: "select begun" in master.new_log and children(master.process.pid))
    # the whole terminal: the child goes on to its end, for the master alone decides
    stop(master, signum, whole_group=True)
    assert "select finished" in master.new_log

    master.start()
    master.until(master.begun(LABELS))
    stop(master, signum)  # while labels run

    micro.edit(folder / "resource.json", lambda content: content.update(poll_s=40))
    master.start()
    master.until(lambda: "train: 3 tasks" in master.new_log and len(slurm.alive()) == 3)
    time.sleep(1.0)
    stop(master, signum)  # in the pause between two questions
    micro.edit(folder / "resource.json", lambda content: content.update(poll_s=0.1))

    master.check_jobs_stayed(slurm)
    master.finish()
    master.check_same_end(undisturbed)
    slurm.check_none_left(folder)


def test_nohup_and_signals_on_the_real_one(cluster, undisturbed, folder):
    master = campaigns.campaign(folder)
    master.start(before=("nohup",))
    master.until(master.begun(TRAINING))
    master.process.send_signal(signal.SIGHUP)  # the terminal was closed
    master.until(master.begun(LABELS))
    stop(master, signal.SIGTERM)
    master.start()
    master.until(master.begun("iter.0001/00.train/*"))
    stop(master, signal.SIGINT)
    master.check_jobs_stayed(campaigns.Slurm(cluster))
    master.finish()
    master.check_same_end(undisturbed)
    campaigns.Slurm(cluster).check_none_left(folder)


def test_cron(fake, undisturbed, folder):
    """`run --once`, again and again."""
    slurm, master = campaigns.Slurm(fake), campaigns.campaign(folder)
    calls = 0
    while calls == 0 or "give the same command again later" in master.said:
        calls += 1
        assert calls < 40
        assert master.run("--once") == 0 and not master.lock().exists(), master.said
        if calls == 1:
            assert "3 jobs under way" in master.said and len(slurm.alive()) == 3
            refuse_overlap(master)
        time.sleep(0.5)
    assert "finished: " in master.said and "final models" in master.said and calls > 3
    master.check_same_end(undisturbed)
    slurm.check_none_left(folder)


def refuse_overlap(master):
    """A call that comes before the last one's end says who is at work, since when, and touches nothing."""
    first = master.start("--once")
    master.until(lambda: "train: 3 tasks" in master.new_log)
    first.send_signal(signal.SIGSTOP)
    second = campaigns.Master(master.folder)
    assert second.run("--once") == 4
    assert f"pid {first.pid} on {os.uname().nodename}, started" in second.said and "seconds ago" in second.said
    first.send_signal(signal.SIGCONT)
    assert first.wait(30) == 0, master.said


def freeze(master):
    """SIGSTOP, but not while it writes to the journal: nobody else could (a machine that is gone holds no file locks)."""
    for _ in range(100):
        time.sleep(0.1)
        master.process.send_signal(signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(master.lock().with_name("journal.sqlite"), timeout=0)) as journal:
                journal.execute("BEGIN IMMEDIATE")
                return
        except sqlite3.OperationalError:
            master.process.send_signal(signal.SIGCONT)
    pytest.fail("it writes all the time")


def test_another_machine_takes_over(fake, undisturbed, folder):
    """The old master was stopped meanwhile; when it wakes it submits nothing and ends."""
    (folder / "hold").touch()
    line = f"while [ -e {shlex.quote(str(folder / 'hold'))} ]; do sleep 0.05; done"
    old = campaigns.campaign(folder, **micro.on_slurm(env_list=[line]))
    old.start()
    old.until(lambda: len(campaigns.Slurm(fake).alive()) == 3)
    freeze(old)
    text = old.lock().read_text()
    old.lock().write_text(text.replace('"boot": "', '"boot": "another ').replace('"host": "', '"host": "another '))
    new = campaigns.Master(folder)
    assert new.run() == 4 and "--take-over" in new.said
    (folder / "hold").unlink()
    new.start("--take-over")
    new.until(lambda: "explore: 1 tasks" in new.log)
    submitted = len(fake.calls("sbatch"))
    old.process.send_signal(signal.SIGCONT)
    assert old.process.wait(30) == 4
    assert new.wait() == 0, new.said
    new.check_same_end(undisturbed)
    slurm = campaigns.Slurm(fake)
    slurm.check_none_left(folder)
    # whatever was submitted after the old one woke, and no job is there twice, was the new one's
    assert len(fake.calls("sbatch")) == len(slurm.jobs()) >= submitted


def test_the_master_is_a_job_itself(cluster, undisturbed, folder):
    """Cancelled once; nothing of its own job shows in those that it submits."""
    line = f'env | grep ^SLURM_ >{shlex.quote(str(folder))}/"env.$SLURM_JOB_ID"'
    master = campaigns.campaign(folder, **micro.on_slurm(env_list=[line]))
    script = folder / "master.sh"
    command = shlex.join([sys.executable, "-P", "-m", "pwact_like", *campaigns.RUN])
    script.write_text(f"#!/bin/bash\nexec {command}\n")
    slurm = campaigns.Slurm(cluster)

    def submit(number):
        options = ["-J", "the-master", "--mem=777M", "-c", "1", "-n", "1", "-t", "10", "-o", f"master.{number}", "--open-mode=append"]
        done = cluster.run(
            "env", *(f"{name}={value}" for name, value in ours.items()), "sbatch", "--parsable", *options, script, cwd=folder
        )
        return done.stdout.strip()

    ours = {name: value for name, value in clean_environment().items() if name in ("PYTHONPATH", "OMP_NUM_THREADS", "PATH")}
    first = submit(1)
    master.until(master.begun(TRAINING))
    cluster.run("scancel", first)
    cluster.wait_state(first, "CANCELLED")
    master.check_jobs_stayed(slurm)
    second = submit(2)
    cluster.wait_state(second, "COMPLETED", "FAILED", timeout_s=120)
    said = (folder / "master.2").read_text()
    assert cluster.state(second) == "COMPLETED" and "final models" in said, said
    master.check_same_end(undisturbed)
    slurm.check_none_left(folder)
    environments = {path.suffix[1:]: path.read_text() for path in folder.glob("env.*")}
    assert len(environments) == len(slurm.jobs_of(folder)) and not {first, second} & set(environments)
    for number, text in environments.items():
        variables = dict(row.split("=", 1) for row in text.splitlines())
        assert variables["SLURM_JOB_ID"] == number and variables["SLURM_JOB_NAME"].startswith("pwl-")
        assert variables["SLURM_MEM_PER_NODE"] == "1500" and "SLURM_CPUS_PER_TASK" not in variables
        assert not {"the-master", "777"} & set(variables.values())
