"""`run` with models that know their own errors: kpu, kpu-committee, PWact's scale, and a model to begin with."""

from __future__ import annotations

import json
import signal

import micro
import numpy as np
import pytest

from pwact_like.uncertainty.table import read_table


def write_campaign(folder, *, entries=1, optimizer=None, strategy, **param):
    """A micro-campaign without the levels and the number of models that a committee has."""
    without = {"model_num": None, "lower_model_devi_f": None, "upper_model_devi_f": None}
    path, _ = micro.write_campaign(folder, entries=entries, strategy={**without, **strategy}, **param)
    micro.edit(path, lambda content: content["train"].update(optimizer=optimizer or {"optimizer": "LKF", "epochs": 3}))


def run(folder):
    done = micro.pwact_like(folder, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def facts(folder, product, iteration=0):
    return json.loads((folder / f"iter.{iteration:04d}" / product / "manifest.json").read_text())["facts"]


def tables(folder, iteration=0):
    return [read_table(path) for path in sorted((folder / f"iter.{iteration:04d}/01.explore/md").glob("md.*/md.*/model_devi.out"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A campaign with kpu: one iteration, its labels, and the last training."""
    folder = tmp_path_factory.mktemp("knows its errors")
    write_campaign(folder, strategy={"uncertainty": "KPU", "kpu_lower": 0.001, "kpu_upper": 50.0, "kpu_samples": 8})
    return folder, run(folder)


def test_one_model_is_trained_and_knows_its_errors(finished):
    folder, printed = finished
    status = micro.status(folder)
    assert status["state"] == "finished" and [row["entry"] for row in status["iterations"]] == [0, None]
    row = status["iterations"][0]
    assert (row["uncertainty"], row["lower"], row["upper"], row["relative"]) == ("kpu", 0.001, 50.0, False)
    assert "0.001 50" in printed and "levels eV/Å" in printed
    assert row["selected"] == row["labelled"] == 4 and row["accurate"] + row["candidate"] + row["failed"] == 11
    assert micro.executions(folder) and len(micro.executions(folder)) == 2 + 1 + 4  # trainings, an MD run, labels
    assert [path.rpartition("/")[2] for path in status["models"]] == ["model.pt"]
    (table,) = tables(folder)
    assert (table.kind, table.unit) == ("kpu", "eV/Ang") and np.isfinite(table.value).all() and (table.value > 0).all()
    summary = (folder / "iter.0000/01.explore/select/select_summary.txt").read_text()
    assert "levels: lower 0.001 upper 50 eV/Å (kpu in eV/Ang), from param.json" in summary
    log = (folder / "run.log").read_text()
    assert "levels lower 0.001 upper 50 eV/Å, from param.json" in log and "pairs of 16 atoms only" in log


def test_labels_recalibrate_what_the_model_before_had_said(finished):
    folder, _ = finished
    first, second = (facts(folder, "00.train", iteration) for iteration in (0, 1))
    assert first["uncertainty"]["labellings"] == 0 and second["uncertainty"]["labellings"] == 1
    # 10 % of 12 frames would be one: two are held out, and the labels come with all their frames
    assert first["uncertainty"]["calibration"]["n_frames"] == 2 and second["uncertainty"]["calibration"]["n_frames"] == 2 + 4
    manifest = json.loads((folder / "iter.0001/00.train/manifest.json").read_text())
    assert set(manifest["outputs"]) == {f"train.000/{name}" for name in ("model.pt", "kpu.pt", "uncertainty.json")}
    text = (folder / "iter.0001/00.train/train.000/train.json").read_text()
    assert json.loads(text)["uncertainty"]["labelled"][0]["model"] == "labelled.000/model.pt" and str(folder) not in text


def test_the_validation_set_is_fixed_before_the_first_training(finished):
    # drawn anew at every training, it would hold frames that the model before was trained on
    folder, _ = finished
    made = json.loads((folder / "dataset/manifest.json").read_text())["facts"]["frames"]
    assert made == {"train": 10, "valid": 2, "test": 6}


def test_started_again_it_does_nothing(finished):
    folder, _ = finished
    before = micro.executions(folder), micro.status(folder)["dataset"]
    assert "finished" in run(folder)
    assert (micro.executions(folder), micro.status(folder)["dataset"]) == before


def test_filter_reads_what_it_explored(finished):
    folder, _ = finished
    done = micro.pwact_like(folder, "filter", "-i", "iter.0000/01.explore", "-l", "0.001", "-u", "9")
    assert done.returncode == 0 and "selected 11 rate 100.00%" in done.stdout and "kpu in eV/Ang" in done.stdout


@pytest.mark.slow
def test_a_model_to_begin_with_brings_its_errors_and_its_levels(finished, tmp_path):
    folder, _ = finished
    given = folder / "iter.0001/00.train/train.000"
    # no level is given: the calibration of the model that is taken over says them; all frames are accurate by that
    write_campaign(tmp_path, strategy={"uncertainty": "kpu", "convergence": {}}, init_model_list=[str(given / "model.pt")])
    run(tmp_path)
    taken = facts(tmp_path, "00.train")
    assert not taken["trained"] and taken["uncertainty"] == json.loads((given / "uncertainty.json").read_text())
    selected = facts(tmp_path, "01.explore/select")
    least = 0.1 * taken["uncertainty"]["force_rms_ev_per_ang"]
    assert selected["lower"] == pytest.approx(max(least, taken["uncertainty"]["lower_ev_per_ang"]))
    assert selected["upper"] == pytest.approx(5 * selected["lower"]) and selected["levels_from"].endswith("calibration of iteration 0")
    assert micro.status(tmp_path)["state"] == "converged"


@pytest.mark.slow
def test_kpu_committee(tmp_path):
    strategy = {"uncertainty": "kpu_committee", "model_num": 3, "lower_model_devi_f": 0.01, "upper_model_devi_f": 5.0, "max_select": 2}
    write_campaign(tmp_path, strategy=strategy, optimizer={"optimizer": "ADAM", "epochs": 4})
    run(tmp_path)
    assert [row["uncertainty"] for row in micro.status(tmp_path)["iterations"]] == ["kpu-committee"] * 2
    assert len(micro.executions(tmp_path)) == 2 + 1 + 3
    for iteration, labellings in ((0, 0), (1, 1)):
        trained = facts(tmp_path, "00.train", iteration)
        assert trained["members"] == [f"train.000/member.{number:03d}.pt" for number in range(3)]
        assert trained["uncertainty"]["labellings"] == labellings
    (table,) = tables(tmp_path)
    assert (table.kind, table.unit) == ("kpu-committee", "eV/Ang") and np.isfinite(table.value).all()
    assert facts(tmp_path, "01.explore/select")["levels_from"] == "param.json"
    content = json.loads(next((tmp_path / "iter.0000/01.explore").rglob("md.json")).read_text())
    assert len(content["models"]) == 4 and content["uncertainty"]["kind"] == "kpu-committee"


@pytest.mark.slow
def test_edited_to_a_committee_after_an_exploration(tmp_path):
    """Found by an attack: such an edit between two starts locked the campaign, and `status` lost its iterations."""
    write_campaign(tmp_path, entries=2, strategy={"uncertainty": "kpu", "kpu_lower": 0.001, "kpu_upper": 50.0, "kpu_samples": 8})
    killed = micro.pwact_like(tmp_path, "run", "param.json", "resource.json", kill_at="collecting:4")
    assert killed.returncode == -signal.SIGKILL and micro.status(tmp_path)["iterations"][-1]["stage"] == "select", killed.stderr
    committee = {"uncertainty": "committee", "model_num": 3, "lower_model_devi_f": 1e-4, "upper_model_devi_f": 40.0, "max_select": 3}
    micro.edit(tmp_path / "param.json", lambda content: content.update(strategy=committee))
    run(tmp_path)
    assert [row["uncertainty"] for row in micro.status(tmp_path)["iterations"]] == ["kpu", "committee", "committee"]
    first, second = (facts(tmp_path, "01.explore/select", iteration) for iteration in (0, 1))
    assert (first["lower"], first["upper"], first["levels_from"]) == (0.001, 50.0, "param.json, when it was explored with kpu")
    assert (second["lower"], second["upper"], second["levels_from"]) == (1e-4, 40.0, "param.json")
    assert 'strategy.uncertainty: "kpu" → "committee" (counts from the next training on' in (tmp_path / "run.log").read_text()
    # and back again, with every product finished
    micro.edit(tmp_path / "param.json", lambda content: content.update(strategy={"uncertainty": "kpu"}))
    assert "finished" in run(tmp_path) and len(micro.status(tmp_path)["iterations"]) == 3


@pytest.mark.slow
def test_pwacts_scale(tmp_path):
    strategy = {"uncertainty": "kpu", "kpu_scale": "relative", "kpu_lower": 0.8, "kpu_upper": 4.0, "kpu_posterior": "filter"}
    write_campaign(tmp_path, strategy=strategy)
    assert "×0.8 ×3.2" in run(tmp_path)
    (table,) = tables(tmp_path)
    assert (table.kind, table.unit) == ("kpu", "1")
    selected = facts(tmp_path, "01.explore/select")
    assert (selected["lower"], selected["upper"], selected["relative"]) == pytest.approx((0.8, 3.2, True))
    # 11 frames: the base is the first one's
    base = table.value[0]
    expected = [(table.value < 0.8 * base).sum(), ((table.value >= 0.8 * base) & (table.value < 3.2 * base)).sum()]
    assert [selected["accurate"], selected["candidate"]] == expected
    assert facts(tmp_path, "00.train", 1)["uncertainty"]["posterior"] == "filter"
