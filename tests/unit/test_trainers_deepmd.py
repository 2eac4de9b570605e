"""What DeePMD-kit is given and what is read of what it leaves; the real program is run by tests/contract/test_trainers_deepmd.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from trainer_contract import copper

from pwact_like.config.common import DataPath
from pwact_like.config.train import DeepmdSettings, Descriptor, Fitting, Optimizer, TrainSettings
from pwact_like.data.formats import write_frames
from pwact_like.data.frames import Frame, Label
from pwact_like.engines.protocols import Compression, TrainRequest
from pwact_like.engines.registry import trainer_for
from pwact_like.engines.trainers import deepmd_job
from pwact_like.engines.trainers.deepmd import DeepmdTrainer
from pwact_like.engines.trainers.deepmd_files import diverged, read_curve, read_test, write_curve
from pwact_like.engines.trainers.deepmd_input import dp_input, with_steps
from pwact_like.errors import DataError, InputError, NotAvailableError
from pwact_like.fsio import read_json
from pwact_like.outcome import Ok, Reject

SETTINGS = TrainSettings(
    atom_type=(14, 3),
    engine="deepmd",
    descriptor=Descriptor(rmax=5.5, rmin=2.0, m2=3, network_size=(5, 7), sel=(20, 30)),
    fitting=Fitting(network_size=(9, 8, 1)),
    optimizer=Optimizer(name="ADAM", explicit=True, epochs=4, batch_size=2, learning_rate=2e-3, stop_lr=1e-6, start_pre_fac_force=500.0),
)


def with_own_input(path: Path, content: dict, **deepmd) -> TrainSettings:
    path.write_text(json.dumps(content))
    return SETTINGS.model_copy(update={"deepmd": DeepmdSettings(input=path, **deepmd)})


OWN = {
    "model": {
        "descriptor": {"type": "se_e2_r", "rcut": 4.0, "rcut_smth": 1.0, "sel": [40, 40, 2], "seed": 1},
        "fitting_net": {"neuron": [10, 10]},
        "type_map": ["Li", "Si", "O"],
    },
    "learning_rate": {"type": "exp", "start_lr": 0.005, "decay_steps": 77},
    "loss": {"type": "ener", "start_pref_f": 10},
    "training": {
        "training_data": {"systems": ["/elsewhere"], "batch_size": "auto:64"},
        "validation_data": {"systems": ["/elsewhere"], "numb_btch": 3},
        "numb_steps": 900,
        "disp_file": "elsewhere.out",
        "save_ckpt": "/elsewhere/ckpt",
        "disp_freq": 40,
        "save_freq": 90,
        "stat_file": "/elsewhere/stat",
    },
}


def test_the_input_has_the_settings_in_deepmd_kit_s_words():
    content = with_steps(dp_input(SETTINGS, 7, has_valid=True), 11, 5, SETTINGS.optimizer.epochs, None)
    descriptor = content["model"]["descriptor"]
    seeds = {descriptor.pop("seed"), content["model"]["fitting_net"].pop("seed"), content["training"].pop("seed")}
    assert len(seeds) == 3
    assert content["model"] == {
        "type_map": ["Si", "Li"],
        "descriptor": {
            "type": "se_e2_a",
            "rcut": 5.5,
            "rcut_smth": 2.0,
            "sel": [20, 30],
            "neuron": [5, 7],
            "axis_neuron": 3,
            "resnet_dt": False,
            "type_one_side": False,
            "precision": "float64",
        },
        "fitting_net": {"type": "ener", "neuron": [9, 8], "resnet_dt": True, "precision": "float64"},
    }
    assert content["loss"] == {
        "type": "ener",
        "start_pref_e": 0.02,
        "limit_pref_e": 1.0,
        "start_pref_f": 500.0,
        "limit_pref_f": 1.0,
        "start_pref_v": 0.0,
        "limit_pref_v": 0.0,
    }
    # 11 frames, two a step: six steps an epoch
    training = content["training"]
    assert training["numb_steps"] == 24 and training["save_freq"] % training["disp_freq"] == 0
    assert content["learning_rate"] == {"type": "exp", "start_lr": 2e-3, "stop_lr": 1e-6, "decay_steps": 1}
    assert training["training_data"] == {"batch_size": 2, "systems": "dp_data/train"}
    assert training["validation_data"] == {"systems": "dp_data/valid", "batch_size": 1, "numb_btch": 5}
    assert "validation_data" not in dp_input(SETTINGS, 7, has_valid=False)["training"]


def test_seeds_follow_the_task_s():
    first, again, other = (dp_input(SETTINGS, seed, has_valid=True) for seed in (7, 7, 8))
    assert first == again
    for part in ("descriptor", "fitting_net"):
        assert first["model"][part]["seed"] != other["model"][part]["seed"]
    assert first["training"]["seed"] != other["training"]["seed"]


def test_virials_weigh_only_if_asked_for():
    optimizer = SETTINGS.optimizer.model_copy(update={"train_virial": True, "train_energy": False, "start_pre_fac_virial": 0.3})
    loss = dp_input(SETTINGS.model_copy(update={"optimizer": optimizer}), 1, has_valid=False)["loss"]
    assert (loss["start_pref_e"], loss["limit_pref_e"], loss["start_pref_v"], loss["limit_pref_v"]) == (0.0, 0.0, 0.3, 1.0)


def test_of_an_own_input_only_what_is_ours_is_replaced(tmp_path):
    settings = with_own_input(tmp_path / "own.json", OWN)
    content = with_steps(dp_input(settings, 7, has_valid=True), 11, 5, 4, None)
    model, training = content["model"], content["training"]
    assert model["type_map"] == ["Li", "Si", "O"] and model["descriptor"]["sel"] == [40, 40, 2]
    assert model["descriptor"]["type"] == "se_e2_r" and model["descriptor"]["seed"] != 1 and model["fitting_net"]["neuron"] == [10, 10]
    assert content["loss"] == OWN["loss"] and content["learning_rate"] == OWN["learning_rate"]
    assert training["training_data"] == {"systems": "dp_data/train", "batch_size": "auto:64"}
    assert training["validation_data"] == {"systems": "dp_data/valid", "numb_btch": 3}
    assert (training["disp_file"], training["save_ckpt"], training["numb_steps"]) == ("lcurve.out", "model.ckpt", 900)
    assert training["disp_freq"] == 40 and training["save_freq"] == 120  # dp saves only where it displays
    assert "elsewhere" not in json.dumps(content)
    assert with_steps(dp_input(settings, 7, has_valid=True), 11, 5, 4, 33)["training"]["numb_steps"] == 33


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda own: own["model"].update(type_map=["Si", "O"]), "Li of train.atom_type"),
        (lambda own: own["model"].pop("descriptor"), "model.descriptor"),
        (lambda own: own.update(model={"model_dict": {}}), "several tasks"),
        (lambda own: own["training"].update(systems=["a"]), "DeePMD-kit 1"),
        (lambda own: own["training"].update(numb_steps=0), "number of steps"),
        (lambda own: own["training"]["training_data"].update(batch_size=[1, 2]), "one value a system"),
        (lambda own: own["training"]["training_data"].update(sys_probs=[0.5, 0.5]), "one value a system"),
    ],
)
def test_an_own_input_that_does_not_fit_is_refused(tmp_path, change, words):
    own = json.loads(json.dumps(OWN))
    change(own)
    with pytest.raises(InputError, match=words):
        dp_input(with_own_input(tmp_path / "own.json", own), 7, has_valid=True)


def test_what_a_route_does_not_have_is_refused():
    kalman = SETTINGS.model_copy(update={"optimizer": Optimizer(name="LKF", explicit=True)})
    with pytest.raises(NotAvailableError, match="tensorflow route has ADAM"):
        dp_input(kalman, 1, has_valid=False)
    by_pytorch = kalman.model_copy(update={"deepmd": DeepmdSettings(backend="PyTorch")})
    assert dp_input(by_pytorch, 1, has_valid=False)["optimizer"]["type"] == "LKF"
    with pytest.raises(NotAvailableError, match="NEP"):
        dp_input(SETTINGS.model_copy(update={"model_type": "NEP"}), 1, has_valid=False)


# ---- the task ------------------------------------------------------------------------------------------------------


def request(folder: Path, settings: TrainSettings = SETTINGS, **more) -> TrainRequest:
    paths = {}
    for name in ("train", "valid", "test"):
        paths[name] = folder / f"{name}.xyz"
        if not paths[name].exists():
            write_frames(paths[name], copper(3, 1))
    return TrainRequest(
        train_data=(DataPath(path=paths["train"]),),
        valid_data=(DataPath(path=paths["valid"], virial_sign=-1),),
        test_data=(DataPath(path=paths["test"]),),
        settings=settings,
        seed=3,
        **more,
    )


def test_commands_of_both_routes(tmp_path):
    wanted = request(tmp_path)
    trainer = trainer_for(SETTINGS)
    lines = trainer.commands("", wanted)
    assert lines[0].endswith("deepmd_job prepare") and lines[-1].endswith("deepmd_job finish")
    assert "OMP_NUM_THREADS" in lines[1]
    assert lines[2:-1] == (
        "dp --tf train input.json $(<start.args) -o used_input.json -l train.log",
        "dp --tf freeze -o model.pb",
        "dp --tf test -m model.pb -s dp_data/test -n 0 -d dp_test",
    )
    by_pytorch = trainer_for(SETTINGS.model_copy(update={"deepmd": DeepmdSettings(backend="pytorch")}))
    compressed = request(tmp_path, compress=Compression(3, 0.02))
    assert by_pytorch.commands("srun dp --pt train", compressed)[2:-1] == (
        "srun dp --pt train input.json $(<start.args) -o used_input.json -l train.log",
        "srun dp --pt freeze -o uncompressed.pth",
        "srun dp --pt compress -i uncompressed.pth -o model.pth -s 0.02",
        "srun dp --pt test -m model.pth -s dp_data/test -n 0 -d dp_test",
    )
    assert by_pytorch.model_file == "model.pth" and DeepmdTrainer().model_file == "model.pb"
    with pytest.raises(InputError, match="pytorch route"):
        trainer.commands("dp --pt", wanted)
    with pytest.raises(InputError, match="does not run DeePMD-kit"):
        trainer.commands("pwact-like train", wanted)
    assert trainer.judging_commands("/opt/dp/bin/dp", wanted)[2] == "/opt/dp/bin/dp --tf test -m model.pb -s dp_data/test -n 0 -d dp_test"


def test_a_warm_start_takes_the_checkpoint_along_or_the_frozen_model_alone(tmp_path):
    before = tmp_path / "before"
    before.mkdir()
    (before / "model.pb").write_bytes(b"frozen")
    trainer = DeepmdTrainer()
    files = trainer.write(tmp_path / "a", request(tmp_path, init_model=before / "model.pb"))
    assert [name for name, _ in files.links if name.startswith("init/")] == ["init/model.pb"]
    assert trainer.taken_over(before / "model.pb") == {"model.pb": before / "model.pb"}
    names = (*deepmd_job.CHECKPOINTS["tensorflow"], "used_input.json")
    for name in names:
        (before / name).write_text("{}")
    assert trainer.taken_over(before / "model.pb") == {name: before / name for name in ("model.pb", *names)}
    files = trainer.write(tmp_path / "b", request(tmp_path, init_model=before / "model.pb"))
    assert {name for name, _ in files.links if name.startswith("init/")} == {f"init/{name}" for name in ("model.pb", *names)}
    with pytest.raises(InputError, match="no model of DeePMD-kit's tensorflow route"):
        trainer.write(tmp_path / "c", request(tmp_path, init_model=before / "model.pth"))


def prepared(folder: Path, wanted: TrainRequest, before: dict | None = None, checkpoint: bool = False) -> Path:
    """An attempt's folder after the first step."""
    files = DeepmdTrainer().write(folder, wanted)
    for name, target in files.links:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    if checkpoint:
        for name in deepmd_job.CHECKPOINTS["tensorflow"]:
            (folder / name).write_text("x")
    deepmd_job.prepare(folder)
    return folder


COPPER = SETTINGS.model_copy(update={"atom_type": (29,), "descriptor": Descriptor(rmax=4.0)})


def test_data_are_in_deepmd_kit_s_format_with_its_units_and_sign(tmp_path):
    """virial.npy: eV, −∂E/∂ε (tr > 0 under compression), as DeePMD-kit's manual has it; EMT's stress is of the other sign over V."""
    (frame,) = copper(1, 5)
    plain = Frame(frame.atoms, Label(frame.label.energy_ev, frame.label.forces_ev_per_ang))
    write_frames(tmp_path / "train.xyz", [frame, plain, *copper(2, 6)])
    write_frames(tmp_path / "valid.xyz", [frame])
    folder = prepared(tmp_path / "task", request(tmp_path, COPPER))
    assert read_json(folder / "dp_data" / "counts.json")["train"] == {"frames": 4, "virials": 3, "elements": ["Cu"]}
    systems = sorted(path.parent.name for path in folder.glob("dp_data/train/*/type.raw"))
    assert systems == ["Cu4", "Cu4_no_virial"]
    part = folder / "dp_data" / "train" / "Cu4" / "set.000"
    np.testing.assert_allclose(np.load(part / "virial.npy")[0].reshape(3, 3), frame.label.virial_ev, rtol=1e-12)
    np.testing.assert_allclose(np.load(part / "force.npy")[0].reshape(-1, 3), frame.label.forces_ev_per_ang, rtol=1e-12)
    assert not (folder / "dp_data/train/Cu4_no_virial/set.000/virial.npy").exists()
    flipped = np.load(folder / "dp_data/valid/Cu4/set.000/virial.npy")[0].reshape(3, 3)  # virial_sign -1
    np.testing.assert_allclose(flipped, -frame.label.virial_ev, rtol=1e-12)


def test_a_compressed_crystal_has_a_positive_trace(tmp_path):
    from ase.build import bulk
    from ase.calculators.emt import EMT

    from pwact_like.units import virial_from_stress

    atoms = bulk("Cu", cubic=True, a=3.4)
    atoms.calc = EMT()
    virial = virial_from_stress(atoms.get_stress(voigt=False), atoms.get_volume())
    energy, forces = atoms.get_potential_energy(force_consistent=True), atoms.get_forces()
    smaller = atoms.copy()
    smaller.set_cell(atoms.cell.array * 0.999, scale_atoms=True)
    smaller.calc = EMT()
    slope = (energy - smaller.get_potential_energy(force_consistent=True)) / 0.001  # ∂E/∂ε summed over the three axes
    atoms.calc = None
    write_frames(tmp_path / "train.xyz", [Frame(atoms, Label(float(energy), forces, virial))])
    folder = prepared(tmp_path / "task", request(tmp_path, COPPER))
    trace = np.trace(np.load(folder / "dp_data/train/Cu4/set.000/virial.npy")[0].reshape(3, 3))
    assert trace > 0 and trace == pytest.approx(-slope, rel=0.02)


def test_how_a_training_starts(tmp_path):
    wanted = request(tmp_path, COPPER)
    assert (prepared(tmp_path / "cold", wanted) / "start.args").read_text() == "\n"
    before = tmp_path / "before"
    before.mkdir()
    (before / "model.pb").write_text("x")
    warm = request(tmp_path, COPPER, init_model=before / "model.pb")
    assert (prepared(tmp_path / "frozen", warm) / "start.args").read_text() == "--init-frz-model init/model.pb --use-pretrain-script\n"
    used = read_json(tmp_path / "cold" / "input.json")
    used["model"]["descriptor"] |= {"sel": [44], "activation_function": "tanh"}
    for name in deepmd_job.CHECKPOINTS["tensorflow"]:
        (before / name).write_text("x")
    (before / "used_input.json").write_text(json.dumps(used))
    folder = prepared(tmp_path / "warm", warm)
    assert (folder / "start.args").read_text() == "--init-model init/model.ckpt\n"
    assert read_json(folder / "input.json")["model"]["descriptor"]["sel"] == [44]
    assert (prepared(tmp_path / "again", warm, checkpoint=True) / "start.args").read_text() == "--restart model.ckpt\n"
    other = COPPER.model_copy(update={"descriptor": Descriptor(rmax=5.0, sel=(50,)), "fitting": Fitting(network_size=(7, 1))})
    with pytest.raises(DataError, match=r"descriptor\.rcut \(4\.0 → 5\.0\), descriptor\.sel \(\[44\] → \[50\]\), fitting_net\.neuron"):
        prepared(tmp_path / "other", request(tmp_path, other, init_model=before / "model.pb"))


def test_elements_that_the_model_does_not_know_are_named(tmp_path):
    with pytest.raises(DataError, match="Cu, which the model does not know"):
        prepared(tmp_path / "task", request(tmp_path))


# ---- what dp leaves --------------------------------------------------------------------------------------------------

CURVE = """\
#  step      rmse_val    rmse_trn    rmse_e_val  rmse_e_trn    rmse_f_val  rmse_f_trn    rmse_v_val  rmse_v_trn         lr
# If there is no available reference data, rmse_*_{val,trn} will print nan
      0      2.87e+01    2.71e+01      1.05e+00    1.04e+00      9.08e-01    8.57e-01           nan    2.00e-01    1.0e-03
    100      2.67e+01    2.31e+01      1.02e+00    1.01e+00      8.45e-01    7.30e-01           nan    1.50e-01    9.9e-04
    200      2.47e+01    2.21e+01      1.00e+00    1.00e+00      8.05e-01    7.00e-01           nan    1.20e-01    9.8e-04
#  step      rmse_val    rmse_trn    rmse_e_val  rmse_e_trn    rmse_f_val  rmse_f_trn    rmse_v_val  rmse_v_trn         lr
# If there is no available reference data, rmse_*_{val,trn} will print nan
    100      2.66e+01    2.30e+01      1.02e+00    1.00e+00      8.40e-01    7.20e-01           nan    1.40e-01    9.9e-04
    150      2.60e+01    2.2
"""


def test_the_learning_curve_in_our_columns(tmp_path):
    (tmp_path / "lcurve.out").write_text(CURVE)
    rows = read_curve(tmp_path / "lcurve.out")
    assert [row["step"] for row in rows] == [0, 100] and rows[1]["rmse_f_val"] == 0.84
    assert diverged(rows) == ""
    write_curve(tmp_path / "lcurve.csv", rows, steps_per_epoch=12)
    lines = (tmp_path / "lcurve.csv").read_text().splitlines()
    assert lines[0].startswith("step,epoch,lr,energy_rmse_ev_per_atom,force_rmse_ev_per_ang,virial_rmse_ev_per_atom,valid_energy")
    assert lines[2] == "100,8,9.900000e-04,1.000000e+00,7.200000e-01,1.400000e-01,1.020000e+00,8.400000e-01,"


def test_a_learning_curve_without_validation_data(tmp_path):
    header = "#  step      rmse_trn    rmse_e_trn    rmse_f_trn         lr\n"
    (tmp_path / "lcurve.out").write_text(header + "      0      2.71e+01      1.04e+00      8.57e-01    1.0e-03\n")
    rows = read_curve(tmp_path / "lcurve.out")
    write_curve(tmp_path / "lcurve.csv", rows, 1)
    assert (tmp_path / "lcurve.csv").read_text().splitlines()[1] == "0,0,1.000000e-03,1.040000e+00,8.570000e-01,,,,"
    (tmp_path / "lcurve.out").write_text(header + "     10           nan           nan           nan    1.0e-03\n")
    assert diverged(read_curve(tmp_path / "lcurve.out")) == "rmse_trn"
    (tmp_path / "lcurve.out").write_text("nothing of the kind\n")
    with pytest.raises(DataError, match="not a learning curve"):
        read_curve(tmp_path / "lcurve.out")


def write_details(folder: Path, virials: int = 1) -> None:
    (folder / "dp_test.e_peratom.out").write_text("# a: data_e pred_e\n-1.0 -1.3\n-2.0 -1.6\n")
    (folder / "dp_test.f.out").write_text("# a: data_fx …\n" + "0 0 0 1 2 2\n" * 4)
    (folder / "dp_test.v_peratom.out").write_text("# a: data_vxx …\n" + ("0 " * 9 + "3 0 0 0 0 0 0 0 0\n") * virials)


def test_errors_on_the_test_set_are_those_of_their_definition(tmp_path):
    write_details(tmp_path)
    assert read_test(tmp_path / "dp_test", 2, 1) == {
        "n_frames": 2,
        "energy_rmse_ev_per_atom": pytest.approx(np.sqrt((0.3**2 + 0.4**2) / 2)),
        "force_rmse_ev_per_ang": pytest.approx(np.sqrt(9 / 3)),
        "virial_rmse_ev_per_atom": pytest.approx(1.0),
    }
    assert read_test(tmp_path / "dp_test", 2, 0)["virial_rmse_ev_per_atom"] is None
    with pytest.raises(DataError, match="2 of the test set have a virial"):
        read_test(tmp_path / "dp_test", 2, 2)
    with pytest.raises(DataError, match="the test set has 3"):
        read_test(tmp_path / "dp_test", 3, 0)


def test_too_few_slots_are_told(tmp_path):
    folder = tmp_path / "attempt"
    folder.mkdir()
    DeepmdTrainer().write(folder, request(tmp_path, COPPER))
    for name in ("model.pb", "used_input.json", "lcurve.csv", "test.json"):
        (folder / name).write_text("{}")
    (folder / "lcurve.out").write_text(CURVE)
    assert DeepmdTrainer().outcome(folder) == Ok()
    (folder / "train.log").write_text(
        "DEEPMD WARNING sel of type 0 is not enough! The expected value is not less than 62, but you set it to 40. The accuracy\n"
    )
    outcome = DeepmdTrainer().outcome(folder)
    assert isinstance(outcome, Ok) and "40 slots where 62 are needed" in outcome.note
    (folder / "model.pb").write_text("")
    assert isinstance(DeepmdTrainer().outcome(folder), Reject)
