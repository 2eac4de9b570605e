"""Training settings, nested as MatPL has them or flat, and TRAIN.json."""

import json

import pytest
from config_files import XYZ_SI, run_files, write

from pwact_like.config.elements import SYMBOLS, atomic_number
from pwact_like.config.load import load_run, load_train
from pwact_like.config.train import Descriptor, Fitting, Optimizer, TrainSettings
from pwact_like.errors import InputError


def load(folder, lenient=False, **content):
    (folder / "train.xyz").write_text(XYZ_SI)
    content = {"model_type": "dp", "atom_type": [14], "train_data": ["train.xyz"], **content}
    return load_train(write(folder, "TRAIN.json", content), folder, lenient)


def problems(folder, **content):
    with pytest.raises(InputError) as caught:
        load(folder, **content)
    return {problem.where.partition("TRAIN.json: ")[2]: f"{problem.what} | {problem.cure}" for problem in caught.value.problems}


NESTED = {
    "model": {
        "descriptor": {"Rmax": 4.25, "Rmin": 1, "M2": 4, "network_size": [8, 16], "sel": 40},
        "fitting_net": {"network_size": [32, 32, 1]},
    },
    "optimizer": {"optimizer": "adam", "epochs": 7, "batch_size": 2, "learning_rate": 0.01, "stop_lr": 1e-5, "train_virial": True},
}


@pytest.mark.parametrize(
    "content",
    [
        NESTED,
        {**NESTED["model"], "optimizer": NESTED["optimizer"]},
        {
            "model": {
                "rmax": 4.25,
                "RMIN": 1.0,
                "m2": 4,
                "SEL": [40],
                "descriptor": {"network_size": [8, 16]},
                "fitting_net": {"network_size": [32, 32]},
            },
            "Optimizer": "ADAM",
            "epochs": 7,
            "batch_size": 2,
            "start_lr": 0.01,
            "lr_stop": 1e-5,
            "train_virial": "true",
        },
    ],
)
def test_nested_and_flat_mean_the_same(tmp_path, content):
    settings, notes = load(tmp_path, **content)
    assert settings.descriptor == Descriptor(rmax=4.25, rmin=1, m2=4, network_size=(8, 16), sel=(40,))
    assert settings.fitting == Fitting(network_size=(32, 32, 1))
    assert settings.optimizer == Optimizer(
        name="ADAM", explicit=True, epochs=7, batch_size=2, learning_rate=0.01, stop_lr=1e-5, train_virial=True
    )
    assert settings.model_type == "DP" and settings.engine == "embedded"
    assert notes == ()


def test_a_key_given_nested_and_flat_is_refused(tmp_path):
    found = problems(tmp_path, Rmax=4, **NESTED)
    assert "says the same as Rmax" in found["model.descriptor.Rmax"]


def test_the_optimizer_left_out_is_the_kalman_filter_with_a_note(tmp_path):
    settings, notes = load(tmp_path)
    assert (settings.optimizer.name, settings.optimizer.explicit) == ("LKF", False)
    assert any("optimizer: no optimizer is named: the Kalman filter LKF" in note for note in notes)
    settings, notes = load(tmp_path, optimizer={"epochs": 3})
    assert not settings.optimizer.explicit and settings.optimizer.epochs == 3 and notes
    settings, notes = load(tmp_path, optimizer="LKF")
    assert (settings.optimizer.name, settings.optimizer.explicit) == ("LKF", True) and not notes


def test_keys_of_the_other_optimizer_are_named(tmp_path):
    _, notes = load(tmp_path, optimizer={"optimizer": "ADAM", "block_size": 5120, "Pre_Fac_Force": 2.0, "p0_weight": 0.01})
    (note,) = notes
    assert "ADAM does not use block_size, Pre_Fac_Force, p0_weight" in note
    _, notes = load(tmp_path, optimizer={"optimizer": "LKF", "start_pre_fac_force": 100})
    assert "LKF does not use start_pre_fac_force" in notes[0]


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        ({"optimizer": {"optimizer": "ADAM", "learning_rate": 1e-6}}, "optimizer", "stop_lr"),
        ({"optimizer": {"train_energy": False, "train_force": False}}, "optimizer", "nothing to train on"),
        # found by an attack: such a training ran to its end and had learned nothing
        ({"optimizer": {"optimizer": "LKF", "pre_fac_etot": 0, "pre_fac_force": 0}}, "optimizer", "every prefactor"),
        (
            {
                "optimizer": {
                    "optimizer": "ADAM",
                    "train_energy": False,
                    "start_pre_fac_force": 0,
                    "end_pre_fac_force": 0,
                    "pre_fac_force": 1,
                    "end_pre_fac_etot": 1,
                }
            },
            "optimizer",
            "every prefactor",
        ),
        # and this one was refused after the whole training
        ({"optimizer": "ADAM", "uncertainty": {"posterior": "filter"}}, "uncertainty.posterior", "not of ADAM | use laplace"),
        ({"model": {"descriptor": {"Rmin": 6}}}, "model.descriptor", "smaller than Rmax"),
        ({"model": {"descriptor": {"network_size": [4, 8]}}}, "model.descriptor", "M2 (16)"),
        ({"model": {"descriptor": {"Rmax": -1}}}, "model.descriptor.Rmax", "greater than 0"),
        ({"model": {"descriptor": {"network_size": []}}}, "model.descriptor.network_size", "at least"),
        ({"model": {"fitting_net": {"network_size": [0, 1]}}}, "model.fitting_net.network_size[0]", "greater than or equal to 1"),
        ({"atom_type": []}, "atom_type", "at least one"),
        ({"atom_type": [14, "Si"]}, "atom_type", "twice"),
        ({"atom_type": [14, 32], "sel": [1, 2, 3]}, "", "3 numbers for 2"),
        ({"model_type": "PAINN"}, "model_type", "'DP'"),
        ({"train_data": ["gone.xyz"]}, "train_data[0]", "no such file"),
        ({"train_data": None}, "train_data", "required"),
        ({"model": []}, "model", "an object"),
        ({"engine": "matpi"}, "engine", "matpl"),
    ],
)
def test_wrong_values(tmp_path, content, where, words):
    found = problems(tmp_path, **content)
    assert list(found) == [where] and words in found[where]


def test_data_for_a_training_by_hand(tmp_path):
    for name in ("b.xyz", "valid.xyz", "test.xyz"):
        (tmp_path / name).write_text(XYZ_SI)
    settings, _ = load(
        tmp_path,
        train_data=["train.xyz", {"path": "b.xyz", "format": "extxyz"}],
        valid_data="valid.xyz",
        test_data=["test.xyz"],
        format="ase",
    )
    assert [(item.path.name, item.format) for item in settings.train_data] == [("train.xyz", "ase"), ("b.xyz", "extxyz")]
    assert [item.path for item in settings.valid_data + settings.test_data] == [tmp_path / "valid.xyz", tmp_path / "test.xyz"]
    settings, _ = load(tmp_path, train_data=None, datasets_path=["train.xyz"], raw_files=["b.xyz"])
    assert [item.path.name for item in settings.train_data] == ["train.xyz", "b.xyz"]


def test_several_elements(tmp_path):
    settings, _ = load(tmp_path, atom_type=["Au", 47, "79"][:2], sel=[50, 60])
    assert settings.atom_type == (79, 47) and settings.descriptor.sel == (50, 60)


def test_train_input_file(tmp_path):
    settings = run_files(tmp_path)
    inner = {"Model_Type": "DP", "atom_type": [14], "model": {"descriptor": {"Rmax": 5.5}}, "optimizer": {"optimizer": "ADAM", "epochs": 9}}
    write(tmp_path, "inner.json", inner)
    for train in ({"train": {"train_input_file": "inner.json"}}, {"train_input_file": "inner.json", "train": None}):
        loaded = load_run(write(tmp_path, "param.json", {**settings, **train}), work_dir=tmp_path)
        assert (loaded.param.train.descriptor.rmax, loaded.param.train.optimizer.epochs) == (5.5, 9)
    both = {**settings, "train": {"train_input_file": "inner.json", "optimizer": {"optimizer": "ADAM", "epochs": 2}}}
    loaded = load_run(write(tmp_path, "param.json", both), work_dir=tmp_path)
    assert loaded.param.train.optimizer.epochs == 2 and any("give way" in note for note in loaded.notes)
    write(tmp_path, "inner.json", "{")
    with pytest.raises(InputError, match=r"inner\.json: line 1"):
        load_run(write(tmp_path, "param.json", both), work_dir=tmp_path)


def test_matpls_keys_are_not_without_effect_where_matpl_trains(tmp_path):
    settings = run_files(tmp_path)
    settings["train"] = {
        "model_type": "NEP",
        "atom_type": ["Si"],
        "model": {"descriptor": {"cutoff": [6, 6], "n_max": [4, 4]}},
        "max_neigh_num": 200,
    }
    param = write(tmp_path, "param.json", settings)
    resource = write(tmp_path, "resource.json", {"train": {"command": "MatPL"}})
    loaded = load_run(param, resource, tmp_path)
    assert loaded.param.train.raw == settings["train"]
    assert not any("max_neigh_num" in note or "cutoff" in note for note in loaded.notes)
    notes = load_run(param, None, tmp_path).notes
    assert any("max_neigh_num" in note for note in notes) and any("NEP in the embedded trainer" in note for note in notes)


def test_models_survive_json(tmp_path):
    settings, _ = load(tmp_path, **NESTED)
    assert TrainSettings.model_validate(json.loads(settings.model_dump_json())) == settings


def test_elements():
    assert len(SYMBOLS) == 118 and SYMBOLS[0] == "H" and SYMBOLS[13] == "Si" and SYMBOLS[78] == "Au" and SYMBOLS[117] == "Og"
    assert [atomic_number(value) for value in (14, "14", "si", "SI", 14.0)] == [14] * 5
    for wrong in (0, 119, "Xx", 1.5, True, None, []):
        with pytest.raises(ValueError, match=r"element|atomic"):
            atomic_number(wrong)
    ase = pytest.importorskip("ase.data")
    assert tuple(ase.chemical_symbols[1:]) == SYMBOLS


@pytest.mark.parametrize("engine", ["chgnet", "nep", "mace"])
def test_engines_with_a_model_of_their_own_have_adam_and_say_what_is_idle(tmp_path, engine):
    settings, notes = load(tmp_path, engine=engine, atom_type="Si", Rmax=5.0, optimizer={"epochs": 3, "block_size": 100})
    assert settings.engine == engine and settings.optimizer.name == "ADAM"
    assert any(f"rmax: the engine {engine} has a model of its own" in note for note in notes)
    assert any("ADAM does not use block_size" in note for note in notes)


def test_the_section_of_another_engine_is_named(tmp_path):
    settings, notes = load(tmp_path, engine="nep", atom_type="Si", nep={"cutoff": [6, 4]}, chgnet={"spread": 0.0})
    assert settings.nep.cutoff == (6.0, 4.0)
    assert any("only the engine chgnet uses this; the training engine is nep" in note for note in notes)
    assert "lambda_e" in " ".join(problems(tmp_path, engine="nep", atom_type="Si", nep={"lambda_e": -1.0}))


@pytest.mark.parametrize(
    ("engine", "explore", "words"),
    [
        ("mace", "pwact-like", "running the models of MACE (mace_run_train) in the embedded MD"),
        ("nep", "pwact-like", "running the models of NEP by torchnep in the embedded MD"),
        ("chgnet", "pwact-like", ""),
    ],
)
def test_an_explorer_that_cannot_run_the_models_is_told_before_the_training(tmp_path, engine, explore, words):
    settings = run_files(tmp_path)
    settings["train"] = {"engine": engine, "atom_type": ["Si"]}
    param = write(tmp_path, "param.json", settings)
    resource = write(tmp_path, "resource.json", {"train": {"command": "mace_run_train"}, "explore": {"command": explore}})
    notes = [note for note in load_run(param, resource, tmp_path).notes if "explore: running" in note]
    assert (words in notes[0] if words else not notes) and (not words or "run refuses it" in notes[0])
