"""The contract of training engines, for NEP by torchnep in an environment of its own; calorine there says what a potential predicts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trainer_contract import TrainerContract, copper, predict_by_ase

from pwact_like.config.train import NepSettings, Optimizer, TrainSettings
from pwact_like.data.formats import write_frames
from pwact_like.engines.trainers.nep import NepTrainer, nep_in
from pwact_like.engines.trainers.nep_job import curve_rows, read_test
from pwact_like.errors import DataError, InputError, NotAvailableError
from pwact_like.outcome import Reject

BIN = os.environ.get("PWACT_LIKE_NEP_BIN", "")
PYTHON = f"{BIN}/python"
NEP = NepSettings(cutoff=(4.5, 3.5), n_max=(4, 4), basis_size=(6, 6), l_max=(4, 2, 0), neuron=10, precision="float64")


def settings(epochs: int = 30, **optimizer) -> TrainSettings:
    """Small and quick."""
    given = Optimizer(name="ADAM", epochs=epochs, batch_size=4, learning_rate=0.01, **optimizer)
    return TrainSettings(engine="nep", atom_type=(29,), optimizer=given, nep=NEP)


@pytest.mark.engines
@pytest.mark.skipif(
    not BIN, reason="needs program torchnep: pip install torch torchnep calorine in a new environment, its bin folder in PWACT_LIKE_NEP_BIN"
)
class TestNepTrainer(TrainerContract):
    command = PYTHON

    def trainer(self):
        return NepTrainer()

    def settings(self, epochs=30):
        return settings(epochs)

    def predict(self, model, *structures):
        return predict_by_ase(PYTHON, "from calorine.calculators import CPUNEP; calculator = CPUNEP(sys.argv[1])", model, structures)


def test_nep_in_says_what_the_settings_say():
    assert nep_in(settings(train_virial=True)).splitlines() == [
        "version 4",
        "type 1 Cu",
        "cutoff 4.5 3.5",
        "n_max 4 4",
        "basis_size 6 6",
        "l_max 4 2 0",
        "neuron 10",
        "lambda_e 0.01",
        "lambda_f 1",
        "lambda_v 0.01",
        "epoch 30",
        "batch 4",
        "lr 0.01",
    ]
    own = TrainSettings(engine="nep", atom_type=(8, 72), optimizer=Optimizer(name="ADAM"), nep=NepSettings(zbl=1.5, lines=("stage2 1",)))
    lines = nep_in(own).splitlines()
    assert lines[1] == "type 2 O Hf" and lines[-1] == "stage2 1" and "zbl 1.5" in lines and "lambda_v 0" in lines
    # what the user leaves open is torchnep's own
    assert not [line for line in lines if line.split()[0] in ("epoch", "batch", "lr")]


def test_loss_out_as_torchnep_wrote_it(tmp_path):
    (tmp_path / "loss.out").write_text(
        "# epoch  loss  rmse_e(eV/atom)  rmse_f(eV/A)  rmse_v(eV/atom)  rmse_stress(GPa)  rmse_e_test(eV/atom)  rmse_f_test(eV/A)\n"
        "1 2.433954e+00 0.401833 0.998623 0.000000 0.0000 0.352899 1.559714 0.000000 0.0000\n"
    )
    (row,) = curve_rows(tmp_path / "loss.out", 3, has_virial=False)
    assert {key: value for key, value in row.items() if value is not None} == {
        "step": 3,
        "epoch": 1,
        "energy_rmse_ev_per_atom": 0.401833,
        "force_rmse_ev_per_ang": 0.998623,
        "valid_energy_rmse_ev_per_atom": 0.352899,
        "valid_force_rmse_ev_per_ang": 1.559714,
    }
    (tmp_path / "loss.out").write_text("1 2 3\n")
    with pytest.raises(DataError, match="line 1"):
        curve_rows(tmp_path / "loss.out", 3, has_virial=False)


def test_predictions_come_back_as_errors_of_whole_frames(tmp_path):
    frames = copper(2, 4)
    write_frames(tmp_path / "test.xyz", frames)
    place = tmp_path / "tested"
    place.mkdir()
    energy = [[frame.label.energy_ev / 4 + 0.2, frame.label.energy_ev / 4] for frame in frames]
    np.savetxt(place / "energy_train.out", energy)
    forces = np.concatenate([frame.label.forces_ev_per_ang for frame in frames])
    np.savetxt(place / "force_train.out", np.hstack([forces + 0.1, forces]))
    six = [frame.label.virial_ev[[0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]] / 4 for frame in frames]
    six[1] = np.full(6, -1e6)  # no label
    np.savetxt(place / "virial_train.out", np.hstack([np.array(six) * [[1.0], [0.0]] + 0.3, six]))
    report = read_test(tmp_path)
    assert report == {
        "n_frames": 2,
        "energy_rmse_ev_per_atom": pytest.approx(0.2),
        "force_rmse_ev_per_ang": pytest.approx(0.1),
        "virial_rmse_ev_per_atom": pytest.approx(0.3),
    }
    np.savetxt(place / "energy_train.out", energy[:1])
    with pytest.raises(DataError, match="1 frames were judged"):
        read_test(tmp_path)


def test_what_is_refused(tmp_path):
    from pwact_like.config.common import DataPath
    from pwact_like.engines.protocols import TrainRequest

    write_frames(tmp_path / "train.xyz", copper(1, 1))
    request = TrainRequest((DataPath(path=tmp_path / "train.xyz"),), (), (), settings(), 3)
    with pytest.raises(InputError, match="NEP in text"):
        NepTrainer().write(tmp_path / "task", replace(request, init_model=Path("model.pt")))
    lkf = request.settings.model_copy(update={"optimizer": Optimizer(name="LKF")})
    with pytest.raises(NotAvailableError, match="ADAM"):
        NepTrainer().write(tmp_path / "task", replace(request, settings=lkf))
    files = NepTrainer().write(tmp_path / "task", replace(request, init_model=tmp_path / "nep.txt"))
    assert json.loads((tmp_path / "task/run.json").read_text())["train"]["finetune_from"] == "init_model.txt"
    assert ("init_model.txt", str(tmp_path / "nep.txt")) in files.links
    assert isinstance(NepTrainer().outcome(tmp_path / "task"), Reject)
