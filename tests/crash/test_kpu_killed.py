"""A campaign whose model knows its errors, killed: what recalibrates, the levels and the draws are the same after it."""

from __future__ import annotations

import json
import signal

import micro
import pytest

pytestmark = pytest.mark.crash

STRATEGY = {"uncertainty": "kpu", "model_num": None, "kpu_lower": 0.001, "kpu_upper": 50.0, "kpu_samples": 6}


def write_campaign(folder):
    param, _ = micro.write_campaign(folder, strategy=STRATEGY)
    micro.edit(param, lambda content: content["strategy"].pop("lower_model_devi_f"))
    micro.edit(param, lambda content: content["train"].update(optimizer={"optimizer": "LKF", "epochs": 2}))


def outcome(folder):
    hashes = [json.loads((folder / f"iter.000{number}/00.train/manifest.json").read_text())["outputs"] for number in (0, 1)]
    selected = json.loads((folder / "iter.0000/01.explore/select/manifest.json").read_text())["facts"]
    return micro.status(folder)["dataset"], micro.executions(folder), hashes, selected


def test_killed_after_its_labels_and_between_the_others(tmp_path):
    write_campaign(tmp_path / "undisturbed")
    done = micro.pwact_like(tmp_path / "undisturbed", "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    write_campaign(tmp_path / "killed")
    # the last one: the training that recalibrates is written, and not submitted
    for point in ("accepted:2", "collecting", "stage-planned:4"):
        killed = micro.pwact_like(tmp_path / "killed", "run", "param.json", "resource.json", kill_at=point)
        assert killed.returncode == -signal.SIGKILL, f"the kill at {point} did not land:\n{killed.stdout}{killed.stderr}"
    again = micro.pwact_like(tmp_path / "killed", "run", "param.json", "resource.json")
    assert again.returncode == 0, again.stdout + again.stderr
    # model, draws, calibration and levels to the last bit; every task once
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "undisturbed")
