"""The contract of training engines, for MACE in an environment of its own; MACE's ASE calculator says what a model predicts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from trainer_contract import TrainerContract, copper, predict_by_ase

from pwact_like.config.common import DataPath
from pwact_like.config.read_train import read_train
from pwact_like.config.reader import Reader
from pwact_like.config.source import read_json_file
from pwact_like.config.train import MaceSettings, Optimizer, TrainSettings
from pwact_like.data.formats import write_frames
from pwact_like.engines.protocols import TrainRequest
from pwact_like.engines.trainers.mace import MaceTrainer, mace_config
from pwact_like.engines.trainers.mace_job import curve_rows, frame_text, read_test
from pwact_like.errors import DataError, InputError, NotAvailableError
from pwact_like.outcome import Reject

BIN = os.environ.get("PWACT_LIKE_MACE_BIN", "")
MACE = MaceSettings(r_max=4.0, num_channels=8, max_l=0, correlation=2)


def settings(epochs: int = 30, **optimizer) -> TrainSettings:
    """Small and quick."""
    given = Optimizer(name="ADAM", epochs=min(epochs, 12), batch_size=4, learning_rate=0.01, **optimizer)
    return TrainSettings(engine="mace", atom_type=(29,), optimizer=given, mace=MACE)


@pytest.mark.slow  # two minutes: MACE starts and compiles for ten seconds each time
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not BIN, reason="needs program mace_run_train: pip install torch mace-torch in a new environment, its bin folder in PWACT_LIKE_MACE_BIN"
)
class TestMaceTrainer(TrainerContract):
    command = f"{BIN}/mace_run_train"

    def trainer(self):
        return MaceTrainer()

    def settings(self, epochs=30):
        return settings(epochs)

    def test_equal_seeds_give_equal_models_and_others_do_not(self, tmp_path, data, cold):
        atoms = copper(1, 9)[0].atoms
        requests = [replace(self.request(data, epochs=1, seed=seed), test_data=()) for seed in (8, 6)]
        models = [cold.model, *(self.train(tmp_path / str(place), request).model for place, request in enumerate(requests))]
        forces = [self.predict(model, atoms)[0][1] for model in models]
        assert (forces[0] == forces[1]).all()
        assert abs(forces[0] - forces[2]).max() > 1e-6

    def predict(self, model, *structures):
        code = (
            "from mace.calculators import MACECalculator; "
            "calculator = MACECalculator(model_paths=sys.argv[1], device='cpu', default_dtype='float64')"
        )
        return predict_by_ase(f"{BIN}/python", code, model.parent / "mace.model", structures)


def test_mace_reads_the_labels_under_names_of_their_own_with_ase_s_stress(tmp_path):
    frame = copper(1, 3)[0]
    (tmp_path / "one.xyz").write_text(frame_text(frame))
    atoms = read(tmp_path / "one.xyz")
    assert atoms.info["REF_energy"] == frame.label.energy_ev and atoms.calc is None
    np.testing.assert_array_equal(atoms.arrays["REF_forces"], frame.label.forces_ev_per_ang)
    from ase.calculators.emt import EMT

    atoms.calc = EMT()
    np.testing.assert_allclose(atoms.info["REF_stress"].reshape(3, 3), atoms.get_stress(voigt=False), atol=1e-12)
    assert "REF_stress" not in frame_text(replace(frame, label=replace(frame.label, virial_ev=None)))


def test_the_options_say_what_the_settings_say(tmp_path):
    content = mace_config(settings(train_virial=True), 7)
    assert {key: content[key] for key in ("seed", "r_max", "max_L", "max_num_epochs", "batch_size", "valid_batch_size", "lr", "loss")} == {
        "seed": 7,
        "r_max": 4.0,
        "max_L": 0,
        "max_num_epochs": 12,
        "batch_size": 4,
        "valid_batch_size": 4,
        "lr": 0.01,
        "loss": "stress",
    }
    (tmp_path / "big.model").write_bytes(b"x")
    text = {"engine": "mace", "atom_type": "Cu", "mace": {"foundation_model": "big.model", "keywords": {"ema": True, "E0s": "{29: -1.0}"}}}
    (tmp_path / "t.json").write_text(json.dumps(text))
    reader = Reader("t.json", tmp_path)
    own = read_train(reader, reader.table(read_json_file(tmp_path / "t.json"), ""))
    assert not reader.problems and own.mace.foundation_model == tmp_path / "big.model" and own.optimizer.name == "ADAM"
    content = mace_config(own, 7)
    assert content["ema"] is True and content["E0s"] == "{29: -1.0}" and "max_num_epochs" not in content and content["loss"] == "weighted"


def test_results_as_mace_wrote_them(tmp_path):
    (tmp_path / "train.txt").write_text(
        '{"loss": 24.0, "rmse_e_per_atom": 0.0463, "rmse_f": 0.98, "mode": "eval", "epoch": null, "head": "Default"}\n'
        '{"loss": 72.9, "time": 4.4, "mode": "opt", "epoch": 0}\n'
        '{"loss": 1.9, "rmse_e_per_atom": 0.7237, "rmse_f": 0.2663, "mode": "eval", "epoch": 0, "head": "Default"}\n'
    )
    (row,) = curve_rows(tmp_path / "train.txt", 3)
    assert (row["step"], row["epoch"], row["valid_energy_rmse_ev_per_atom"], row["valid_force_rmse_ev_per_ang"]) == (3, 1, 0.7237, 0.2663)
    (tmp_path / "train.txt").write_text("{cut\n")
    with pytest.raises(DataError, match="line 1"):
        curve_rows(tmp_path / "train.txt", 3)


def test_predictions_come_back_as_errors(tmp_path):
    frames = copper(2, 4)
    (tmp_path / "test.xyz").write_text("".join(map(frame_text, frames)))
    from ase.io import write

    said = read(tmp_path / "test.xyz", index=":")
    for atoms in said:
        atoms.info["MACE_energy"] = atoms.info["REF_energy"] + 0.8
        atoms.info["MACE_stress"] = atoms.info["REF_stress"].reshape(3, 3) + 0.4 / atoms.get_volume()
        atoms.arrays["MACE_forces"] = atoms.arrays["REF_forces"] - 0.1
    write(tmp_path / "tested.xyz", said, format="extxyz")
    assert read_test(tmp_path) == {
        "n_frames": 2,
        "energy_rmse_ev_per_atom": pytest.approx(0.2),
        "force_rmse_ev_per_ang": pytest.approx(0.1, rel=1e-6),
        "virial_rmse_ev_per_atom": pytest.approx(0.1, rel=1e-6),
    }
    write(tmp_path / "tested.xyz", said[:1], format="extxyz")
    with pytest.raises(DataError, match="judged 1 frames"):
        read_test(tmp_path)


def test_what_is_refused(tmp_path):
    write_frames(tmp_path / "train.xyz", copper(1, 1))
    path = (DataPath(path=tmp_path / "train.xyz"),)
    request = TrainRequest(path, (), path, settings(), 3)
    with pytest.raises(InputError, match=r"\.model"):
        MaceTrainer().write(tmp_path / "task", replace(request, init_model=Path("model.pt")))
    with pytest.raises(NotAvailableError, match="ADAM"):
        MaceTrainer().write(tmp_path / "task", replace(request, settings=request.settings.model_copy(update={"optimizer": Optimizer()})))
    with pytest.raises(InputError, match="mace_run_train"):
        MaceTrainer().commands("python", request)
    files = MaceTrainer().write(tmp_path / "task", replace(request, init_model=tmp_path / "m.model"))
    content = json.loads((tmp_path / "task/mace.yaml").read_text())
    assert (content["foundation_model"], content["multiheads_finetuning"]) == ("init_model.model", False)
    assert ("init_model.model", str(tmp_path / "m.model")) in files.links
    (tmp_path / "mace.model").write_bytes(b"x")
    files = MaceTrainer().write(tmp_path / "warm", replace(request, init_model=tmp_path / "mace.model-lammps.pt"))
    assert ("init_model.model", str(tmp_path / "mace.model")) in files.links
    taken = MaceTrainer().taken_over(tmp_path / "mace.model-lammps.pt")
    assert taken == {"mace.model-lammps.pt": tmp_path / "mace.model-lammps.pt", "mace.model": tmp_path / "mace.model"}
    with pytest.raises(InputError, match="LAMMPS cannot read it"):
        MaceTrainer().taken_over(tmp_path / "mace.model")
    lines = MaceTrainer().commands("srun /opt/mace/bin/mace_run_train", request)
    assert lines[3] == "srun /opt/mace/bin/mace_create_lammps_model mace.model >>train.log"
    line = lines[2]
    assert line.startswith("srun /opt/mace/bin/mace_eval_configs --configs test.xyz --model mace.model")
    assert isinstance(MaceTrainer().outcome(tmp_path / "task"), Reject)
