"""The master is killed with SIGKILL at every named point; the next start goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import micro
import pytest

from pwact_like.crashpoints import NAMES

pytestmark = pytest.mark.crash


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Data set hash and execution counts of a campaign that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    micro.write_campaign(folder)
    done = micro.pwact_like(folder, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return micro.status(folder)["dataset"], micro.executions(folder)


def check_same_end(folder, undisturbed):
    dataset, counts = undisturbed
    assert micro.status(folder)["dataset"] == dataset
    assert micro.executions(folder) == counts  # every task once: none redone, none twice, none forgotten
    assert set(counts.values()) == {1}


# Three kills a campaign, in the order in which a campaign passes them, so that every one lands.
KILLS = (
    ("stage-planned", "accepting", "cleaning"),
    ("intent-written", "ended-unjudged", "iteration-done"),
    ("submitted-unrecorded", "accepted:2", "record-written:4"),
    ("submitted", "collecting", "manifest-written:3"),
)


def test_every_named_point_is_killed_at():
    assert sorted(point.split(":")[0] for kills in KILLS for point in kills) == sorted(NAMES)


@pytest.mark.parametrize("kills", KILLS, ids="+".join)
def test_killed_at(kills, undisturbed, tmp_path):
    micro.write_campaign(tmp_path)
    for point in kills:
        killed = micro.pwact_like(tmp_path, "run", "param.json", "resource.json", kill_at=point)
        assert killed.returncode == -signal.SIGKILL, f"the kill at {point} did not land:\n{killed.stdout}{killed.stderr}"
    again = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert again.returncode == 0, again.stdout + again.stderr
    check_same_end(tmp_path, undisturbed)


def test_another_seed_gives_another_data_set(undisturbed, tmp_path):
    micro.write_campaign(tmp_path, seed=2)
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stderr
    dataset = micro.status(tmp_path)["dataset"]
    assert dataset["frames"] == undisturbed[0]["frames"] and dataset["sha256"] != undisturbed[0]["sha256"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_master_cleanly_and_the_jobs_stay(signum, undisturbed, tmp_path):
    micro.write_campaign(tmp_path)
    master = subprocess.Popen(
        [sys.executable, "-m", "pwact_like", "run", "param.json", "resource.json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("iter.0000/00.train/*/.attempt/1/claim")):
        assert time.monotonic() < deadline and master.poll() is None
        time.sleep(0.05)
    os.kill(master.pid, signum)
    _, errors = master.communicate(timeout=30)
    assert master.returncode == 128 + signum and "To go on" in errors
    assert micro.status(tmp_path)["state"] == "stopped"
    again = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert again.returncode == 0, again.stderr
    check_same_end(tmp_path, undisturbed)


def test_a_second_master_is_refused(tmp_path):
    micro.write_campaign(tmp_path)
    first = subprocess.Popen(
        [sys.executable, "-m", "pwact_like", "run", "param.json", "resource.json"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / ".pwact_like/run/lock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
        assert second.returncode == 4 and str(first.pid) in second.stderr
    finally:
        ended = micro.pwact_like(tmp_path, "kill", "run")
        first.wait(timeout=30)
    assert ended.returncode == 0
    assert micro.status(tmp_path)["state"] in {"stopped", "interrupted"}
