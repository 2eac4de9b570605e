"""The contract of training engines, for DeePMD-kit (bin/setup-deepmd), and what only it does."""

from __future__ import annotations

import csv
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deepmd_support import dp_command, evaluate, run_until_killed
from labeler_contract import accept, start_attempt
from support import require_deepmd
from trainer_contract import TrainerContract, copper

from pwact_like.config.train import CURVE_COLUMNS, DeepmdSettings, Descriptor, Fitting, Optimizer, TrainSettings
from pwact_like.engines.protocols import Compression
from pwact_like.engines.trainers.deepmd import DeepmdTrainer
from pwact_like.engines.trainers.deepmd_files import read_curve
from pwact_like.outcome import Ok, Reject

pytestmark = pytest.mark.engines
BIN = require_deepmd()


class TestDeepmdTrainer(TrainerContract):
    @property
    def command(self) -> str:
        return dp_command()

    def trainer(self):
        return DeepmdTrainer()

    def settings(self, epochs=30):
        return TrainSettings(
            atom_type=(29,),
            engine="deepmd",
            descriptor=Descriptor(rmax=4.5, rmin=1.0, m2=4, network_size=(4, 8)),
            fitting=Fitting(network_size=(12, 12, 1)),
            optimizer=Optimizer(name="ADAM", epochs=epochs, learning_rate=1e-2),
        )

    def predict(self, model: Path, *structures):
        (said,) = evaluate(model.parent, {"one": (model, structures)}).values()
        return [(float(one["energy"]), one["forces"]) for one in said]

    def test_the_learning_curve_is_in_the_columns_of_all_engines(self, trained):
        with trained.learning_curve.open() as stream:
            rows = list(csv.DictReader(stream))
        assert tuple(rows[0]) == CURVE_COLUMNS
        assert int(rows[-1]["step"]) == 360 and int(rows[-1]["epoch"]) == 30  # 12 frames, one a step
        assert float(rows[-1]["valid_force_rmse_ev_per_ang"]) < 0.5 * float(rows[0]["valid_force_rmse_ev_per_ang"])
        used = json.loads((trained.model.parent / "used_input.json").read_text())
        assert used["model"]["descriptor"]["sel"] == [44]  # ASE counts 38 at most; dp takes a tenth more, by fours

    def test_a_frozen_model_alone_is_gone_on_from_with_its_own_shape(self, tmp_path, data, trained):
        """As a user gives one in init_model_list; the slots are read from the model, not counted anew from other data."""
        (tmp_path / "theirs.pb").write_bytes(trained.model.read_bytes())
        request = replace(self.request(data, epochs=1, init_model=tmp_path / "theirs.pb"), train_data=self.request(data).train_data[1:])
        warm = self.train(tmp_path / "warm", request)
        assert "--init-frz-model init/theirs.pb" in (tmp_path / "warm" / ".attempt" / "1" / "start.args").read_text()
        assert json.loads((tmp_path / "warm" / "used_input.json").read_text())["model"]["descriptor"]["sel"] == [44]
        assert warm.test["force_rmse_ev_per_ang"] < 1.5 * trained.test["force_rmse_ev_per_ang"]

    def test_a_killed_training_goes_on_from_its_checkpoint(self, tmp_path, data):
        """By dp itself, killed without warning: the steps of both attempts together are those of one."""
        trainer = self.trainer()
        settings = self.settings().model_copy(update={"deepmd": DeepmdSettings(numb_steps=1500)})
        request = replace(self.request(data), settings=settings, valid_data=())
        task = tmp_path / "a 'task' $HOME"
        files = trainer.write(task, request)
        first = start_attempt(task, files, 1)
        commands = trainer.commands(shlex.quote(str(BIN / "dp")), request)
        run_until_killed(first, commands, first / "model.ckpt-160.index")  # every 80 steps; the five newest are kept
        assert isinstance(trainer.outcome(first), Reject)
        steps = [row["step"] for row in read_curve(first / "lcurve.out")]
        assert steps[-1] < 1500
        second = start_attempt(task, files, 2)
        assert self.execute(second, trainer.commands(self.command, request)) == 0, (second / "stdout").read_text()[-3000:]
        assert (second / "start.args").read_text() == "--restart model.ckpt\n"
        restarted = re.search(r"restart from model", (second / "stdout").read_text() + (second / "train.log").read_text())
        assert restarted
        assert trainer.outcome(second) == Ok()
        accept(task, second, files)
        rows = read_curve(task / "lcurve.out")
        assert [row["step"] for row in rows] == list(range(0, 1501, 10))
        # the first rows are those of the attempt that was killed
        assert rows[:8] == read_curve(first / "lcurve.out")[:8]
        kept = trainer.taken_over(task / "model.pb")
        assert len(kept) == 5 and all(path.is_file() and not path.is_symlink() for path in kept.values())

    def test_an_own_input_compressed_with_virials(self, tmp_path, data):
        own = {
            "model": {
                "descriptor": {"type": "se_e2_a", "rcut": 4.5, "rcut_smth": 1.0, "sel": [64], "neuron": [4, 8], "axis_neuron": 4},
                "fitting_net": {"neuron": [12, 12]},
            },
            "learning_rate": {"type": "exp", "start_lr": 0.01, "stop_lr": 1e-5},
            "loss": {"start_pref_v": 0.1, "limit_pref_v": 1.0},
            "training": {"training_data": {"batch_size": 2}, "numb_steps": 60, "disp_freq": 20},
        }
        (tmp_path / "own.json").write_text(json.dumps(own))
        settings = self.settings().model_copy(update={"deepmd": DeepmdSettings(input=tmp_path / "own.json")})
        request = replace(self.request(data), settings=settings, compress=Compression(3, 0.01))
        report = self.train(tmp_path / "task", request)
        with report.learning_curve.open() as stream:
            rows = list(csv.DictReader(stream))
        assert [int(row["step"]) for row in rows] == [0, 20, 40, 60]
        assert rows[-1]["virial_rmse_ev_per_atom"] and rows[-1]["valid_virial_rmse_ev_per_atom"]
        frames = copper(5, 4)
        said = evaluate(tmp_path, {"one": (report.model, [frame.atoms for frame in frames])})["one"]
        wrong = [(one["virial"] - frame.label.virial_ev) / 4 for one, frame in zip(said, frames, strict=True)]
        assert report.test["virial_rmse_ev_per_atom"] == pytest.approx(float(np.sqrt(np.mean(np.square(wrong)))), rel=1e-6)
        # the table is another function than the network, if only a little
        used = json.loads((tmp_path / "task" / "used_input.json").read_text())
        assert used["model"]["descriptor"]["sel"] == [64]
        # a compressed model cannot be trained on: its checkpoint can
        warm = self.train(tmp_path / "warm", replace(request, init_model=report.model))
        assert (tmp_path / "warm" / ".attempt" / "1" / "start.args").read_text() == "--init-model init/model.ckpt\n"
        assert warm.test["force_rmse_ev_per_ang"] < 1.2 * report.test["force_rmse_ev_per_ang"]
