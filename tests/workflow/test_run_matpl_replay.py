"""A campaign with MatPL as its trainer, played by a stand-in that leaves files of MatPL's shape (MatPL itself is not to be had)."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from pathlib import Path

import micro
import pytest
from support import ROOT

from pwact_like.config.train import CURVE_COLUMNS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a campaign's folder")
    matpl = folder / "MatPL"
    matpl.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "tests/matpl_stand_in.py"))} "$@"\n')
    matpl.chmod(0o755)
    section = {"command": "pwact-like", "group_size": -1, "parallel_num": 2}
    resource = {"scheduler": "local", "train": {**section, "command": shlex.quote(str(matpl))}, "explore": section, "DFT": section}
    train = {"model_type": "DP", "atom_type": [29], "optimizer": {"epochs": 3, "batch_size": 4, "train_ei": False, "lambda_2": 0.1}}
    micro.write_campaign(folder, entries=1, resource=resource, train=train, strategy={"compress": True, "compress_order": 5})
    done = micro.pwact_like(folder, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    """The learning curve of a member."""
    with (folder / "lcurve.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_folders_are_pwact_s(finished):
    for iteration in range(2):
        for member in range(3):
            folder = finished / f"iter.000{iteration}/00.train/train.00{member}"
            names = ("train.json", "torch_script_module.pt", "model_record/dp_model.ckpt", "model_record/epoch_train.dat", "train.log")
            assert [name for name in (*names, "std_input.json", "lcurve.csv", "test.json") if not (folder / name).is_file()] == []
            log = (folder / "train.log").read_text()
            assert "MatPL train train.json\n" in log
            assert "MatPL compress model_record/dp_model.ckpt -d 0.01 -o 5 -s cmp_dp_model\n" in log
            assert "MatPL script cmp_dp_model.ckpt torch_script_module.pt\n" in log


def test_every_member_starts_from_itself_with_a_seed_of_its_own(finished):
    seeds = set()
    for member in range(3):
        folders = [finished / f"iter.000{iteration}/00.train/train.00{member}" for iteration in range(2)]
        first, second = (json.loads((folder / "train.json").read_text()) for folder in folders)
        seeds |= {first["seed"], second["seed"]}
        assert "model_load_file" not in first and first["optimizer"]["lambda_2"] == 0.1 and first["optimizer"]["optimizer"] == "LKF"
        assert second["model_load_file"] == "init_model.ckpt" and second["recover_train"] is True
        # (the stand-in fails where the checkpoint that is named is not there)
    assert len(seeds) == 6


def test_results_are_what_eval_says_of_the_same_models(finished):
    model = finished / "iter.0001/00.train/train.000/torch_script_module.pt"
    done = micro.pwact_like(finished, "eval", str(model), "dataset/test.xyz", "--json")
    said = json.loads(done.stdout)
    test = json.loads(model.with_name("test.json").read_text())
    assert test == {name: pytest.approx(said[name], rel=1e-9) for name in test}
    curve = rows(model.parent)
    assert tuple(curve[0]) == CURVE_COLUMNS and [row["epoch"] for row in curve] == ["1", "2", "3"]
    assert micro.status(finished)["iterations"][1]["force_rmse_ev_per_ang"] > 0
