"""The engine deepmd in param.json: its section, its optimizer, what it cannot do."""

from __future__ import annotations

import json

import pytest
from config_files import run_files, write

from pwact_like.config.load import load_run
from pwact_like.errors import InputError


def load(folder, train=None, command="dp", explore="lmp", **param):
    settings = run_files(folder)
    settings["train"].update(train or {})
    settings.update(param)
    resource = {"scheduler": "local", "train": {"command": command}, "explore": {"command": explore}, "DFT": {"command": "pwact-like"}}
    return load_run(write(folder, "param.json", settings), write(folder, "resource.json", resource), folder)


def notes(loaded, words):
    return [note for note in loaded.notes if words in note]


@pytest.mark.parametrize("command", ["dp", "srun -n 1 /opt/dp/bin/dp --tf", "dp train"])
def test_the_engine_follows_from_the_command_and_adam_is_its_optimizer(tmp_path, command):
    loaded = load(tmp_path, {"optimizer": {"epochs": 3}}, command)
    assert (loaded.param.train.engine, loaded.param.train.optimizer.name, loaded.param.train.optimizer.explicit) == (
        "deepmd",
        "ADAM",
        False,
    )
    assert notes(loaded, "no optimizer is named: Adam") and not notes(loaded, "Kalman filter")


def test_models_may_be_tabulated(tmp_path):
    loaded = load(tmp_path, strategy={"lower_model_deiv_f": 0.1, "upper_model_deiv_f": 0.3, "compress": True})
    assert not notes(loaded, "compression")
    embedded = load(tmp_path, command="pwact-like", strategy={"lower_model_deiv_f": 0.1, "upper_model_deiv_f": 0.3, "compress": True})
    assert notes(embedded, "compression")


def test_what_a_route_does_not_have_is_noted(tmp_path):
    assert notes(load(tmp_path, {"optimizer": "LKF"}), "LKF in DeePMD-kit's tensorflow route")
    assert not notes(load(tmp_path, {"optimizer": "LKF", "deepmd": {"backend": "PyTorch"}}), "LKF")
    assert notes(load(tmp_path, {"optimizer": {"optimizer": "ADAM", "weight_decay": 0.1}}), "weight decay")
    assert notes(load(tmp_path, {"model_type": "NEP"}), "NEP by DeePMD-kit")
    assert notes(load(tmp_path, explore="pwact-like"), "running the models of DeePMD-kit (dp) in the embedded MD")
    assert notes(load(tmp_path, {"optimizer": {"optimizer": "ADAM", "block_size": 3}}), "ADAM does not use block_size")


def test_an_own_input_makes_other_settings_idle(tmp_path):
    own = {"model": {"descriptor": {"type": "se_e2_a"}, "fitting_net": {}}, "training": {"numb_steps": 5}}
    (tmp_path / "own.json").write_text(json.dumps(own))
    train = {"deepmd": {"input": "own.json"}, "Rmax": 5.0, "optimizer": {"optimizer": "LKF", "epochs": 2, "batch_size": 3}}
    loaded = load(tmp_path, train)
    assert loaded.param.train.deepmd.input == tmp_path / "own.json"
    (note,) = notes(loaded, "have no effect")
    assert "rmax, batch_size, optimizer have no effect" in note
    assert not notes(loaded, "LKF in DeePMD-kit")


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("[]", "an object"),
        ("{", "line 1"),
        ('{"model": {"descriptor": {}}, "training": {"numb_steps": true, "systems": []}}', "model.fitting_net"),
        (None, "no such"),
    ],
)
def test_an_own_input_is_looked_into(tmp_path, own, words):
    if own is not None:
        (tmp_path / "own.json").write_text(own)
    with pytest.raises(InputError) as caught:
        load(tmp_path, {"deepmd": {"input": "own.json"}})
    assert words in str(caught.value)


def test_the_section_belongs_to_its_engine(tmp_path):
    assert notes(load(tmp_path, {"deepmd": {"numb_steps": 3}}, command="pwact-like"), "only the engine deepmd uses this")
    with pytest.raises(InputError, match="numb_steps"):
        load(tmp_path, {"deepmd": {"numb_stps": 3}})
