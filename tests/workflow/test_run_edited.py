"""A campaign whose settings are edited between two starts, and the status while a stage is under way."""

from __future__ import annotations

import json
import signal

import micro
import pytest

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
