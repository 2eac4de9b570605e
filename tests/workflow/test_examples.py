"""The examples: their inputs are good as they lie there; and, slowly, they run from end to end and keep what they promise."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import micro
import pytest
from support import ROOT, clean_environment, require_program, run_cli

EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/init_param.json"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_inputs_pass_check_but_for_data_that_init_bulk_has_yet_to_make(name, tmp_path):
    if name == "si_qe":  # `check` looks for the pseudopotential
        require_program("pw.x", "apt-get install --no-install-recommends quantum-espresso quantum-espresso-data")
    folder = tmp_path / name
    shutil.copytree(ROOT / "examples" / name, folder)
    first = run_cli("check", "init_param.json", "resource.json", cwd=folder)
    assert first.returncode == 0, first.stderr
    second = run_cli("check", "param.json", "resource.json", cwd=folder)
    assert second.returncode == 2
    problems = [line for line in second.stderr.splitlines() if "param.json:" in line]
    assert problems and all(f"{folder}/collection/" in line for line in problems), second.stderr


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_stays_on_this_machine_and_has_a_page(name):
    resource = json.loads((ROOT / "examples" / name / "resource.json").read_text())
    assert resource["scheduler"] == "local"
    assert (ROOT / "examples" / name / "README.md").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_copper_runs_from_end_to_end(tmp_path):
    folder = tmp_path / "copper"
    shutil.copytree(ROOT / "examples" / "cu_emt", folder)
    for command in (("init_bulk", "init_param.json", "resource.json"), ("run", "param.json", "resource.json")):
        done = run_cli(*command, cwd=folder, timeout_s=600)
        assert done.returncode == 0, done.stdout + done.stderr
    status = micro.status(folder)
    rows = status["iterations"]
    assert status["state"] == "finished"
    assert [row["entry"] for row in rows] == [0, 1, None]
    assert any(row["candidate"] and row["selected"] for row in rows[:-1])
    assert all(row["selected"] == row["labelled"] + row["rejected"] for row in rows[:-1])
    assert rows[-1]["force_rmse_ev_per_ang"] < rows[0]["force_rmse_ev_per_ang"]
    assert all((folder / path).is_file() for path in status["models"])


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Folder and printed text of bin/quickstart, run in a folder whose name has a space."""
    if not (ROOT / ".venv" / "pwact-like-setup.sha256").exists():
        pytest.skip("bin/setup-env has not made .venv: run bin/test slow")
    folder = tmp_path_factory.mktemp("quick start") / "run it"
    return folder, call_quickstart(folder)


def call_quickstart(folder) -> str:
    """Run bin/quickstart as a user would; returns what it prints."""
    done = subprocess.run(
        [ROOT / "bin" / "quickstart", folder],
        capture_output=True,
        text=True,
        timeout=1500,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_quickstart_prints_seconds_table_and_models(quickstart):
    folder, printed = quickstart
    assert re.search(r"installation \d+ s, campaign \d+ s", printed)
    assert "final models" in printed and "atoms.calc = " in printed
    status = json.loads((folder / "status.json").read_text())
    for row in status["iterations"][:-1]:
        for key in ("frames_planned", "accurate", "candidate", "failed", "labelled"):
            assert re.search(rf"\b{row[key]}\b", printed), key
    assert all((folder / path).is_file() for path in status["models"])


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_the_campaign_selects_and_lowers_the_error_on_the_test_set(quickstart):
    rows = json.loads((quickstart[0] / "status.json").read_text())["iterations"]
    assert any(row["candidate"] and row["labelled"] for row in rows if row["candidate"] is not None)
    assert rows[-1]["force_rmse_ev_per_ang"] <= 0.85 * rows[0]["force_rmse_ev_per_ang"]


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_the_campaign_beats_as_many_steps_on_the_initial_data_alone(quickstart, tmp_path):
    """Member 0's steps of all its trainings, spent in one training on the first data: the labels are what helped, not the steps."""
    folder, _ = quickstart
    trainings = sorted(folder.glob("iter.*/00.train/train.000"))
    steps = sum(int((task / "lcurve.csv").read_text().splitlines()[-1].split(",")[0]) for task in trainings)
    content = json.loads((trainings[0] / "train.json").read_text())
    n_frames = json.loads((folder / "dataset" / "manifest.json").read_text())["facts"]["frames"]["train"]
    content["optimizer"]["epochs"] = -(-steps // n_frames)
    for name in ("uncertainty", "valid_data"):
        content.pop(name, None)
    content["train_data"] = [str(folder / "dataset" / "train.xyz")]
    content["test_data"] = [str(folder / "dataset" / "test.xyz")]
    (tmp_path / "train.json").write_text(json.dumps(content))
    done = run_cli("train", "train.json", "-q", cwd=tmp_path, timeout_s=1200)
    assert done.returncode == 0, done.stderr
    alone = json.loads((tmp_path / "test.json").read_text())["force_rmse_ev_per_ang"]
    campaign = json.loads((trainings[-1] / "test.json").read_text())["force_rmse_ev_per_ang"]
    print(f"{steps} steps on the {n_frames} initial frames: {alone:.4f} eV/Å; in the campaign: {campaign:.4f} eV/Å")
    assert campaign < alone


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_a_finished_quickstart_is_shown_again_not_repeated(quickstart):
    folder, _ = quickstart
    before = micro.executions(folder)
    printed = call_quickstart(folder)
    assert "finished" in printed or "converged" in printed
    assert "final models" in printed
    assert micro.executions(folder) == before


@pytest.mark.parametrize("stranger", ["notes.txt", "param.json"])
def test_quickstart_refuses_a_folder_that_is_not_its_own(tmp_path, stranger):
    (tmp_path / stranger).write_text("{}")
    done = subprocess.run([ROOT / "bin" / "quickstart", tmp_path], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "another" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [stranger]


def test_quickstart_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run([ROOT / "bin" / "quickstart", tmp_path / "file"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "is a file" in done.stderr) == (2, True)
