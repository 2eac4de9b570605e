"""What can go on from a checkpoint ends when its job's time is nearly up, and the next attempt ends with the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch")

from jobs_support import make_task, run_script, wait_until
from test_explorers_dynamics import FILES, an_input, argon
from test_potentials_training import emt_frames, settings_for
from toy_potentials import ScaledCommittee

from pwact_like.config.resource import ResourceSection
from pwact_like.engines.explorers.dynamics import run_md
from pwact_like.errors import OutOfTimeError
from pwact_like.jobs import group
from pwact_like.jobs.attempt import exit_status, was_warned
from pwact_like.jobs.script import Work, attempt_folder, render_job
from pwact_like.potentials.training import train
from pwact_like.time_limit import STOP_FILE_VARIABLE, TimeLimit


@pytest.fixture
def time_is_up(tmp_path, monkeypatch):
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(tmp_path / "time_limit"))
    return tmp_path / "time_limit"


def test_a_training_ends_with_a_checkpoint_and_goes_on_to_the_same_bits(tmp_path, time_is_up):
    settings = settings_for(tmp_path, emt_frames(5, 1), emt_frames(2, 2), batch_size=2)
    train(settings, tmp_path / "whole", progress=False)
    time_is_up.touch()
    for _ in range(3):
        with pytest.raises(OutOfTimeError, match="the next attempt goes on") as caught:
            train(settings, tmp_path / "parts", progress=False)
        assert caught.value.exit_status == 75
    assert "step 3 of 9" in str(caught.value) and not (tmp_path / "parts" / "model.pt").exists()
    time_is_up.unlink()
    train(settings, tmp_path / "parts", progress=False)
    for name in ("model.pt", "lcurve.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("ensemble", ["nvt", "npt-iso"])
def test_an_md_ends_with_a_checkpoint_and_goes_on_to_the_same_bits(tmp_path, time_is_up, ensemble):
    run = an_input(ensemble=ensemble, press_bar=2000.0 if ensemble == "npt-iso" else None)
    run_md(argon(), ScaledCommittee(1.1), run, tmp_path / "whole")
    time_is_up.touch()
    for step in (20, 40):
        with pytest.raises(OutOfTimeError, match=f"step {step} of 60"):
            run_md(argon(), ScaledCommittee(1.1), run, tmp_path / "cut")
        assert not (tmp_path / "cut" / "md_result.json").exists()
    # the last step is a checkpoint's, too: it is done rather than done again
    assert run_md(argon(), ScaledCommittee(1.1), run, tmp_path / "cut").ended == ""
    for file in FILES:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_it_is_looked_for_now_and_then(time_is_up, monkeypatch):
    limit = TimeLimit()
    assert not limit.is_near
    time_is_up.touch()
    assert not limit.is_near, "not at every step of a training"
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 10)
    assert limit.is_near
    monkeypatch.delenv(STOP_FILE_VARIABLE)
    assert not TimeLimit().is_near


def test_the_script_passes_the_warning_on_and_begins_nothing_more(tmp_path):
    """USR1 reaches the script alone; a program that looks at the file ends with 75, the next task is left for another job."""
    wait = 'while [ ! -e "$PWACT_LIKE_STOP_FILE" ]; do sleep 0.02; done; echo saved >checkpoint; exit 75'
    tasks = [make_task(tmp_path / "a", wait), make_task(tmp_path / "b", "touch out")]
    text = render_job("job", tmp_path / "job", [Work(task, 1) for task in tasks], ResourceSection())
    group.write_script(tmp_path / "job" / "job.sh", text)
    process = subprocess.Popen(["bash", str(tmp_path / "job" / "job.sh")], start_new_session=True)
    wait_until((attempt_folder(tasks[0], 1) / "claim").exists)
    time.sleep(0.1)
    os.kill(process.pid, 10)  # SIGUSR1
    assert process.wait(20) == 1
    assert exit_status(tasks[0], 1) == 75 and was_warned(tasks[0], 1)
    assert (attempt_folder(tasks[0], 1) / "checkpoint").exists() and not attempt_folder(tasks[1], 1).exists()


def test_a_program_that_ends_well_after_the_warning_has_succeeded(tmp_path):
    task = make_task(tmp_path / "a", 'touch "$PWACT_LIKE_STOP_FILE"; touch out')
    text = render_job("job", tmp_path / "job", [Work(task, 1)], ResourceSection())
    group.write_script(tmp_path / "job" / "job.sh", text)
    assert run_script(tmp_path / "job" / "job.sh").returncode == 0
    assert exit_status(task, 1) == 0 and not was_warned(task, 1)


def test_the_command_line_ends_with_75(tmp_path, time_is_up):
    import json

    frames = settings_for(tmp_path, emt_frames(3, 1))
    time_is_up.touch()
    text = {
        "train_data": [str(frames.train_data[0].path)],
        "atom_type": [29, 79],
        "model_type": "DP",
        "optimizer": {"optimizer": "ADAM", "epochs": 2},
    }
    (tmp_path / "train.json").write_text(json.dumps(text))
    command = [sys.executable, "-m", "pwact_like", "train", "train.json", "-o", "out", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 75 and "time limit is near" in done.stderr, done.stderr
