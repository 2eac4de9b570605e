"""A campaign whose settings are edited between two starts, and the status while a stage is under way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import micro
import pytest
from jobs_support import wait_until

pytestmark = pytest.mark.slow


def edit(param, change):
    content = json.loads(param.read_text())
    change(content)
    param.write_text(json.dumps(content))


def test_a_campaign_goes_on_after_edits_as_what_it_was(tmp_path):
    param, _ = micro.write_campaign(tmp_path, entries=2)
    killed = micro.pwact_like(tmp_path, "run", "param.json", "resource.json", kill_at="collecting:5")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # the row of an iteration said "explore", without a count, until its labels were done
    row = micro.status(tmp_path)["iterations"][-1]
    assert (row["stage"], row["frames_planned"], row["selected"], row["labelled"]) == ("label", 11, 4, None)
    assert row["accurate"] + row["candidate"] + row["failed"] == 11
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stderr
    assert [row["entry"] for row in micro.status(tmp_path)["iterations"]] == [0, 1, None]
    before = micro.executions(tmp_path)

    edit(param, lambda content: content["strategy"].update(convergence={"max_repeats": 2}))
    edit(param, lambda content: content["DFT"].update(calculator="ase.calculators.lj.LennardJones"))
    refused = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert refused.returncode == 2 and "level of theory" in refused.stderr
    assert micro.executions(tmp_path) == before and len(micro.status(tmp_path)["iterations"]) == 3

    edit(param, lambda content: content["DFT"].update(calculator="emt"))
    edit(param, lambda content: content["strategy"].update(model_num=4))
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stderr
    # iteration 1 explored entry 1 and is not taken for a repetition of entry 0 because a rule was added
    status = micro.status(tmp_path)
    assert [row["entry"] for row in status["iterations"]] == [0, 1, 1, None] and len(status["models"]) == 4
    after = micro.executions(tmp_path)
    assert {name: after[name] for name in before} == before and set(after.values()) == {1}


def test_a_stage_goes_on_with_what_it_was_begun_with_after_an_edit_and_a_kill(tmp_path):
    """The master had taken the edit ("it counts for what has not begun"), and its successor refused to start because of it."""
    param, resource = micro.write_campaign(tmp_path)
    hold = tmp_path / "hold"
    hold.touch()
    edit(resource, lambda content: content["train"].update(env_list=[f"while [ -e '{hold}' ]; do sleep 0.05; done"]))
    log = tmp_path / "run.log"
    command = [sys.executable, "-m", "pwact_like", "run", "param.json", "resource.json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as master:
        wait_until(lambda: log.exists() and "train: 3 tasks" in log.read_text(), 60)
        edit(param, lambda content: content["train"]["optimizer"].update(epochs=3))
        wait_until(lambda: "train.optimizer.epochs: 4 → 3" in log.read_text(), 30)
        master.kill()
    hold.unlink()
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stderr
    assert "goes on with the param.json that it was begun with" in log.read_text()
    epochs = [
        json.loads((tmp_path / f"iter.000{iteration}/00.train/train.000/train.json").read_text())["optimizer"]["epochs"]
        for iteration in (0, 1)
    ]
    assert epochs == [4, 3] and set(micro.executions(tmp_path).values()) == {1}
    assert not (tmp_path / ".pwact_like/run/inputs/stage").exists()
