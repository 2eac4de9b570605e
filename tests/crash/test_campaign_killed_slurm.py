"""The master of a campaign on Slurm is killed with SIGKILL at every named point, and at random; the next start goes on.

On the fake Slurm at every point, on the real one where the master and Slurm could come to disagree. Several kills a
campaign, in the order in which it passes the points, so that every one lands.
"""

from __future__ import annotations

import random
import signal
import time

import campaigns
import pytest

from pwact_like.crashpoints import NAMES

pytestmark = [pytest.mark.crash, pytest.mark.slurm]

KILLS = (
    ("stage-planned:2", "intent-written:2", "submitted-unrecorded:2", "ended-unjudged:2", "accepting:2", "cleaning:2", "record-written"),
    ("collecting", "submitted:2", "accepted", "manifest-written:2", "intent-written", "record-written:3", "iteration-done"),
)
WHERE_THEY_COULD_DISAGREE = ("intent-written", "submitted-unrecorded", "submitted", "ended-unjudged", "accepting", "accepted")
# in the second training, where much is behind it
LATER = ("submitted-unrecorded:2", "accepted:2")


def test_every_named_point_is_killed_at():
    assert {point.split(":")[0] for kills in KILLS for point in kills} == set(NAMES)


@pytest.mark.parametrize("kills", KILLS, ids="+".join)
def test_killed_at(kills, fake, undisturbed, folder):
    master = campaigns.campaign(folder)
    master.kill_at(*kills)
    master.finish()
    master.check_same_end(undisturbed)
    campaigns.Slurm(fake).check_none_left(folder)


def test_killed_at_on_the_real_one(cluster, undisturbed, folder):
    master = campaigns.campaign(folder)
    master.kill_at(*WHERE_THEY_COULD_DISAGREE)
    master.kill_at("iteration-done", *LATER)
    master.finish()
    master.check_same_end(undisturbed)
    campaigns.Slurm(cluster).check_none_left(folder)


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_on_the_real_one(cluster, seed, undisturbed, folder):
    chance = random.Random(seed)
    master = campaigns.campaign(folder)
    landed = 0
    for _ in range(6):
        process = master.start()
        time.sleep(chance.uniform(0.8, 3.0))
        process.kill()
        status = master.wait()
        assert status in (0, -signal.SIGKILL), master.said
        landed += status != 0
    assert landed >= 4
    master.finish()
    master.check_same_end(undisturbed)
    campaigns.Slurm(cluster).check_none_left(folder)


def test_init_bulk_killed_at(fake, undisturbed_bulk, folder):
    master = campaigns.init_bulk(folder)
    master.kill_at(
        "submitted-unrecorded", "accepting", "stage-planned:2", "submitted", "intent-written", "collecting:2", "manifest-written"
    )
    master.finish()
    master.check_same_end(undisturbed_bulk)
    campaigns.Slurm(fake).check_none_left(folder)
