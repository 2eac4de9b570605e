"""Train stages with MatPL through the local scheduler, played by a stand-in that leaves files of MatPL's shape (it is not to be had)."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import sys
from pathlib import Path

import micro
import pytest
from jobs_support import campaign
from support import ROOT, require_shared

from pwact_like.config.common import DataPath
from pwact_like.config.read_train import read_train
from pwact_like.config.reader import Reader
from pwact_like.config.resource import ResourceSection
from pwact_like.config.source import read_json_file
from pwact_like.config.train import CURVE_COLUMNS
from pwact_like.engines.protocols import Compression
from pwact_like.engines.registry import trainer_for
from pwact_like.stages.base import Place
from pwact_like.stages.training import TrainingStage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MEMBERS = 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Two iterations, the second one warm-started from the first."""
    folder = tmp_path_factory.mktemp("a campaign's folder")
    matpl = folder / "MatPL"
    matpl.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "tests/matpl_stand_in.py"))} "$@"\n')
    matpl.chmod(0o755)
    micro.write_campaign(folder)
    train = {"engine": "matpl", "atom_type": [29], "optimizer": {"epochs": 3, "batch_size": 4, "train_ei": False, "lambda_2": 0.1}}
    (folder / "train.json").write_text(json.dumps(train))
    reader = Reader("train.json", folder)
    settings = read_train(reader, reader.table(read_json_file(folder / "train.json"), ""))
    assert settings is not None and not reader.problems
    models: tuple[Path, ...] = ()
    with campaign(folder, ResourceSection(group_size=-1, parallel_num=2)) as running:
        for iteration in range(2):
            stage = TrainingStage(
                place=Place(folder, 1, iteration),
                trainer=trainer_for(settings),
                settings=settings,
                command=shlex.quote(str(matpl)),
                n_members=MEMBERS,
                train_data=(DataPath(path=folder / "init.xyz"),),
                valid_data=(),
                test_data=(DataPath(path=folder / "test.xyz"),),
                init_models=models,
                compress=Compression(5, 0.01),
            )
            stage.collect(running.dispatcher.run(stage.plan(), stage.judge))
            models = stage.models
            assert stage.facts["engine"] == "matpl" and stage.facts["force_rmse_ev_per_ang"] > 0
            assert stage.facts["warm_start"] is (iteration == 1)
    return folder


def member(folder: Path, iteration: int, number: int) -> Path:
    return folder / f"iter.000{iteration}/00.train/train.00{number}"


def test_the_folders_are_pwact_s(finished):
    names = ("train.json", "torch_script_module.pt", "model_record/dp_model.ckpt", "model_record/epoch_train.dat", "train.log")
    for iteration in range(2):
        for number in range(MEMBERS):
            folder = member(finished, iteration, number)
            assert [name for name in (*names, "std_input.json", "lcurve.csv", "test.json") if not (folder / name).is_file()] == []
            log = (folder / "train.log").read_text()
            assert "MatPL train train.json\n" in log
            assert "MatPL compress model_record/dp_model.ckpt -d 0.01 -o 5 -s cmp_dp_model\n" in log
            assert "MatPL script cmp_dp_model.ckpt torch_script_module.pt\n" in log


def test_every_member_starts_from_itself_with_a_seed_of_its_own(finished):
    seeds = set()
    for number in range(MEMBERS):
        first, second = (json.loads((member(finished, iteration, number) / "train.json").read_text()) for iteration in range(2))
        seeds |= {first["seed"], second["seed"]}
        assert "model_load_file" not in first and first["optimizer"]["lambda_2"] == 0.1 and first["optimizer"]["optimizer"] == "LKF"
        assert second["model_load_file"] == "init_model.ckpt" and second["recover_train"] is True
        # (the stand-in fails where the checkpoint that is named is not there)
    assert len(seeds) == 2 * MEMBERS


def test_results_are_what_eval_says_of_the_same_models(finished):
    model = member(finished, 1, 0) / "torch_script_module.pt"
    done = micro.pwact_like(finished, "eval", str(model), "test.xyz", "--json")
    said = json.loads(done.stdout)
    test = json.loads(model.with_name("test.json").read_text())
    assert test == {name: pytest.approx(said[name], rel=1e-9) for name in test}
    with model.with_name("lcurve.csv").open(newline="") as stream:
        curve = list(csv.DictReader(stream))
    assert tuple(curve[0]) == CURVE_COLUMNS and [row["epoch"] for row in curve] == ["1", "2", "3"]


def test_pwact_s_own_example_is_rendered_by_a_dry_run(tmp_path):
    shutil.copytree(require_shared("pwact-inputs"), tmp_path / "inputs")
    folder = tmp_path / "inputs/auag_pwmat/run_iter_lmps"
    micro.edit(folder / "resource.json", lambda content: content.update(scheduler="local"))
    done = micro.pwact_like(folder, "run", "param.json", "resource.json", "--work-dir", ".", "--dry-run", timeout_s=600)
    assert done.returncode == 0, done.stderr
    contents = [json.loads((member(folder, 0, number) / "train.json").read_text()) for number in range(4)]
    assert len({content["seed"] for content in contents}) == 4
    assert {(content["model_type"], tuple(content["atom_type"]), content["optimizer"]["optimizer"]) for content in contents} == {
        ("NEP", (47, 79), "LKF")
    }
    (script, *_) = [path.read_text() for path in folder.rglob("job.sh")]
    lines = script.splitlines()
    assert "source /share/app/MATPL/MatPL-2025.3/env.sh" in lines and "MatPL train train.json >>train.log" in lines
