"""MatPL's inputs and outputs, held against what PWact and MatPL ship: MatPL itself was never run here.

Raw lines come from PWact's example si_dftb (iter.0001/train/train.003, iter.0000/train/train.000) and from MatPL's quick test AuAg.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from config_files import write
from micro import copper_frames
from support import require_shared

from pwact_like.config.common import DataPath
from pwact_like.config.load import load_run
from pwact_like.config.read_train import read_train
from pwact_like.config.reader import Reader
from pwact_like.config.source import read_json_file
from pwact_like.config.train import CURVE_COLUMNS, TrainSettings
from pwact_like.data.formats import read_frames, write_frames
from pwact_like.data.frames import Frame, Label
from pwact_like.engines.protocols import Compression, TrainRequest
from pwact_like.engines.registry import trainer_for
from pwact_like.engines.trainers import matpl_job
from pwact_like.engines.trainers.data_files import frames_in
from pwact_like.engines.trainers.matpl import MatplNepTrainer, MatplTrainer, matpl_command
from pwact_like.engines.trainers.matpl_results import read_epochs, read_test
from pwact_like.engines.trainers.matpl_settings import train_json
from pwact_like.engines.trainers.nep_file import check_nep
from pwact_like.errors import DataError, InputError, NotAvailableError
from pwact_like.outcome import Ok, Reject

# the sections of the train.json that PWact wrote for a member of its example si_dftb
SHIPPED = {
    "model_type": "DP",
    "atom_type": [14],
    "model": {
        "descriptor": {"Rmax": 6.0, "Rmin": 0.5, "M2": 16, "network_size": [25, 25, 25]},
        "fitting_net": {"network_size": [50, 50, 50, 1]},
    },
    "optimizer": {
        "optimizer": "LKF",
        "epochs": 30,
        "batch_size": 4,
        "print_freq": 10,
        "block_size": 5120,
        "kalman_lambda": 0.98,
        "kalman_nue": 0.9987,
        "train_energy": True,
        "train_force": True,
        "train_ei": False,
        "train_virial": False,
        "train_egroup": False,
        "pre_fac_force": 2.0,
        "pre_fac_etot": 1.0,
        "pre_fac_ei": 1.0,
        "pre_fac_virial": 1.0,
        "pre_fac_egroup": 0.1,
    },
}
OLD_TRAIN = """epoch              loss   RMSE_Etot_per_atom            RMSE_F      time
    1  5.0988608449e+02     4.4100797617e-02  2.1764627025e-01   49.9514
    2  2.0633639647e+00     2.8036183155e-03  5.3290358140e-02   47.9625
"""
OLD_VALID = """epoch              loss   RMSE_Etot_per_atom            RMSE_F
    1  1.3772874485e+01     7.2455381713e-03  1.0433153887e-01
    2  1.9003585052e-01     8.4944252977e-04  2.9751684952e-02
"""
NEW_TRAIN = """# epoch              loss   RMSE_Etot(eV/atom)         RMSE_F(eV/Å)   RMSE_virial(eV/atom)      optimizer_lr        time(s)
    1    3.3445822489e+02     4.2700242389e-01     1.7861971529e+00       3.3132560137e+00  5.0001755000e-04        13.4005
    2    4.9353693727e+01     2.8147330648e-01     6.6635236996e-01       1.7273806507e+00  1.0000000000e-03         9.2139
"""


def settings_of(folder: Path, **content) -> TrainSettings:
    """Read a train section as a campaign does."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = Reader("train.json", folder)
    settings = read_train(reader, reader.table(read_json_file(write(folder, "t.json", {"engine": "matpl", **content})), ""))
    assert settings is not None and not reader.problems, reader.problems
    return settings


def without_seed(content):
    return {key: value for key, value in content.items() if key != "seed"}


def test_pwact_s_defaults_are_what_pwact_wrote(tmp_path):
    shortest = settings_of(tmp_path, model_type="DP", atom_type=[14], optimizer={"batch_size": 4})
    assert without_seed(train_json(shortest, 6551)) == SHIPPED
    assert train_json(shortest, 6551)["seed"] == 6551


def test_the_whole_of_pwact_s_file_comes_back(tmp_path):
    content = json.loads(json.dumps(SHIPPED))
    assert without_seed(train_json(settings_of(tmp_path, **content), 1)) == SHIPPED


@pytest.mark.parametrize(
    ("content", "section", "expected"),
    [
        ({"rmax": 5.5, "RMIN": 1.0}, ("model", "descriptor"), {"Rmax": 5.5, "Rmin": 1.0, "M2": 16, "network_size": [25, 25, 25]}),
        ({"model": {"Descriptor": {"m2": 4}}}, ("model", "descriptor"), {"Rmax": 6.0, "Rmin": 0.5, "M2": 4, "network_size": [25, 25, 25]}),
        ({"fitting_net": {"network_size": [30, 1]}}, ("model", "fitting_net"), {"network_size": [30, 1]}),
    ],
)
def test_values_of_the_user_are_kept_wherever_they_stand_and_however_they_are_spelt(tmp_path, content, section, expected):
    found = train_json(settings_of(tmp_path, atom_type=[14], **content), 1)
    assert found[section[0]][section[1]] == expected


def test_matpl_s_own_keys_pass_and_comments_do_not(tmp_path):
    optimizer = {"optimizer": "adam", "lr": 2e-3, "max_norm": 0.5, "norm_type": 2, "t_0": 2, "t_mult": 2, "_note": "mine"}
    model = {"descriptor": {"cutoff": [6.0, 4.0], "n_max": [4, 4], "l_max": [4, 2, 1], "zbl": 2.0}, "fitting_net": {"network_size": 40}}
    found = train_json(settings_of(tmp_path, model_type="nep", atom_type="Si", optimizer=optimizer, model=model, precision="float32"), 1)
    assert found["model"] == model and found["precision"] == "float32" and found["model_type"] == "NEP" and found["atom_type"] == [14]
    assert {key: found["optimizer"][key] for key in ("optimizer", "learning_rate", "max_norm", "t_mult")} == {
        "optimizer": "ADAM",
        "learning_rate": 2e-3,
        "max_norm": 0.5,
        "t_mult": 2,
    }
    assert "_note" not in found["optimizer"] and "kalman_lambda" not in found["optimizer"] and "lr" not in found["optimizer"]


def test_keys_that_matpl_would_ignore_are_refused(tmp_path):
    with pytest.raises(InputError, match="kalman_noise, sel"):
        train_json(settings_of(tmp_path, atom_type=[14], sel=[40], optimizer={"kalman_noise": "fixed"}), 1)
    with pytest.raises(NotAvailableError, match="LINEAR"):
        train_json(settings_of(tmp_path, atom_type=[14], model_type="LINEAR"), 1)


@pytest.mark.parametrize(
    ("example", "kind", "name"),
    [
        ("auag_pwmat/run_iter_lmps", MatplNepTrainer, "LKF"),
        ("si_pwmat_bigmodel_direct/run_iter_direct_pwmat", MatplNepTrainer, "ADAM"),
    ],
)
def test_pwact_s_examples_are_rendered_key_by_key(tmp_path, example, kind, name):
    folder = require_shared(f"pwact-inputs/{example}")
    param = load_run(folder / "param.json", folder / "resource.json", work_dir=folder).param
    trainer = trainer_for(param.train)
    assert type(trainer) is kind
    files = trainer.write(tmp_path, TrainRequest(param.init_data, (), (), param.train, 5))
    content = json.loads((tmp_path / "train.json").read_text())
    given = json.loads((folder / "param.json").read_text())["train"]
    for key, value in given.items():
        if key == "optimizer":
            assert {inner: content["optimizer"][inner] for inner in value} == value
        else:
            assert content[key] == value
    assert content["optimizer"]["optimizer"] == name
    assert (content["format"], content["train_data"]) == ("extxyz", ["train.xyz"])
    assert [Path(target) for _, target in files.links] == [path.path.resolve() for path in param.init_data]
    commands = trainer.commands("MatPL", TrainRequest(param.init_data, (), (), param.train, 5))
    assert commands[1] == "MatPL train train.json >>train.log"


def request_of(tmp_path: Path, **changes) -> TrainRequest:
    for name, count, seed in (("train", 5, 1), ("valid", 2, 2), ("test", 3, 3)):
        write_frames(tmp_path / f"{name}_set.xyz", [frame_of(atoms) for atoms in copper_frames(count, seed)])
    settings = settings_of(tmp_path / "settings", atom_type=[29], optimizer={"batch_size": 2})
    paths = [(DataPath(path=tmp_path / f"{name}_set.xyz"),) for name in ("train", "valid", "test")]
    return replace(TrainRequest(*paths, settings, 77), **changes)


def frame_of(atoms, virial: bool = True) -> Frame:
    label = Label(atoms.info.pop("energy"), atoms.arrays.pop("forces"), atoms.info.pop("virial") if virial else None)
    return Frame(atoms, label)


def attempt_of(task: Path, files) -> Path:
    """The task's folder with its links, as an attempt has them."""
    for name, target in files.links:
        (task / name).parent.mkdir(parents=True, exist_ok=True)
        (task / name).symlink_to(target)
    return task


def test_commands_for_a_deep_potential(tmp_path):
    request = request_of(tmp_path, compress=Compression(5, 0.02))
    lines = MatplTrainer().commands("srun MatPL train", request)
    assert lines[1:-1] == (
        "srun MatPL train train.json >>train.log",
        "srun MatPL compress model_record/dp_model.ckpt -d 0.02 -o 5 -s cmp_dp_model >>train.log",
        "srun MatPL script cmp_dp_model.ckpt torch_script_module.pt >>train.log",
        "test -f torch_script_module.pt || mv jit_*.pt torch_script_module.pt",
        "srun MatPL test matpl_test.json >>train.log",
    )
    assert lines[0].endswith("-m pwact_like.engines.trainers.matpl_job prepare") and lines[-1].endswith("matpl_job finish")
    assert matpl_command("") == "MatPL" and matpl_command("PWMLFF") == "PWMLFF"
    plain = MatplTrainer().commands("MatPL", replace(request, compress=None))
    assert "MatPL script model_record/dp_model.ckpt torch_script_module.pt >>train.log" in plain
    with pytest.raises(InputError, match="not NEP"):
        MatplNepTrainer().write(tmp_path / "nep", request)


def test_the_data_are_merged_in_the_job_with_one_sign(tmp_path):
    request = request_of(tmp_path)
    flipped = read_frames(tmp_path / "train_set.xyz")
    flipped = [replace(frame, label=replace(frame.label, virial_ev=-frame.label.virial_ev)) for frame in flipped]
    write_frames(tmp_path / "other.xyz", flipped[:2])
    data = (*request.train_data, DataPath(path=tmp_path / "other.xyz", virial_sign=-1))
    files = MatplTrainer().write(tmp_path / "task", replace(request, train_data=data))
    task = attempt_of(tmp_path / "task", files)
    matpl_job.prepare(task)
    assert [frames_in(task / f"{name}.xyz") for name in ("train", "valid", "test", "none")] == [7, 2, 3, 0]
    frames = read_frames(task / "train.xyz")
    assert (frames[5].label.virial_ev == frames[0].label.virial_ev).all()
    # pwdata, by which MatPL reads, sees the same numbers
    from pwdata import Config

    images = Config("extxyz", str(task / "train.xyz")).images
    assert len(images) == 7
    for image, frame in zip(images, frames, strict=True):
        assert image.Ep == frame.label.energy_ev
        np.testing.assert_array_equal(np.asarray(image.virial), frame.label.virial_ev)
        np.testing.assert_array_equal(np.asarray(image.force), frame.label.forces_ev_per_ang)


def test_an_element_that_the_model_does_not_know_is_told(tmp_path):
    request = request_of(tmp_path)
    files = MatplTrainer().write(tmp_path / "task", replace(request, settings=settings_of(tmp_path / "s", atom_type=[14])))
    with pytest.raises(DataError, match=r"\[29\].*atom_type"):
        matpl_job.prepare(attempt_of(tmp_path / "task", files))


def test_learning_curves_of_both_ages(tmp_path):
    (tmp_path / "old.dat").write_text(OLD_TRAIN)
    (tmp_path / "new.dat").write_text(NEW_TRAIN)
    assert read_epochs(tmp_path / "old.dat")[2] == {"energy": 2.8036183155e-3, "force": 5.3290358140e-2}
    new = read_epochs(tmp_path / "new.dat")[1]
    assert new == {"energy": 0.42700242389, "force": 1.7861971529, "virial": 3.3132560137, "lr": 5.0001755e-4}
    (tmp_path / "cut.dat").write_text(NEW_TRAIN[:-60])
    with pytest.raises(DataError, match="line 3"):
        read_epochs(tmp_path / "cut.dat")
    (tmp_path / "other.dat").write_text("step loss\n1 2\n")
    with pytest.raises(DataError, match="RMSE_Etot"):
        read_epochs(tmp_path / "other.dat")


def leave_results(task: Path, frames: list[Frame], *, error_ev: float = 0.0) -> None:
    """What MatPL leaves, for a model that is wrong by ``error_ev`` in each energy, force component and virial component."""
    (task / "model_record").mkdir()
    (task / "model_record/epoch_train.dat").write_text(OLD_TRAIN)
    (task / "model_record/epoch_valid.dat").write_text(OLD_VALID)
    for name in ("model_record/dp_model.ckpt", "torch_script_module.pt"):
        with zipfile.ZipFile(task / name, "w") as archive:
            archive.writestr("data.pkl", b"x")
    result = task / "test_result"
    result.mkdir()
    np.savetxt(result / "image_atom_nums.txt", [len(frame.atoms) for frame in frames], fmt="%d")
    for who, wrong in (("dft", 0.0), ("inference", error_ev)):
        np.savetxt(result / f"{who}_total_energy.txt", [frame.label.energy_ev + wrong for frame in frames], fmt="%.15f")
        np.savetxt(result / f"{who}_force.txt", np.concatenate([frame.label.forces_ev_per_ang for frame in frames]) + wrong, fmt="%.15f")
        rows = [np.full(9, -1e6) if frame.label.virial_ev is None else frame.label.virial_ev.ravel() + wrong for frame in frames]
        np.savetxt(result / f"{who}_virial.txt", rows if who == "dft" else [np.where(row < -1e5, 0.0, row) for row in rows], fmt="%.12f")


def test_results_come_into_our_form(tmp_path):
    request = request_of(tmp_path)
    files = MatplTrainer().write(tmp_path / "task", request)
    task = attempt_of(tmp_path / "task", files)
    matpl_job.prepare(task)
    frames = read_frames(tmp_path / "test_set.xyz")
    frames[1] = replace(frames[1], label=replace(frames[1].label, virial_ev=None))
    leave_results(task, frames, error_ev=0.3)
    matpl_job.finish(task)
    assert MatplTrainer().outcome(task) == Ok()
    report = MatplTrainer().read(task)
    assert report.model == task / "torch_script_module.pt"
    n_atoms = len(frames[0].atoms)
    assert report.test == {
        "n_frames": 3,
        "energy_rmse_ev_per_atom": pytest.approx(0.3 / n_atoms),
        "force_rmse_ev_per_ang": pytest.approx(0.3),
        "virial_rmse_ev_per_atom": pytest.approx(0.3 / n_atoms),
    }
    lines = report.learning_curve.read_text().splitlines()
    assert lines[0] == ",".join(CURVE_COLUMNS)
    # five frames in batches of two: two steps an epoch, for the rest of a batch is dropped
    assert lines[2] == "4,2,,2.803618e-03,5.329036e-02,,8.494425e-04,2.975168e-02,"
    with pytest.raises(DataError, match="judged 3 frames, and the test set has 4"):
        read_test(task, 4)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda task: (task / "model_record/dp_model.ckpt").write_bytes(b"PK\x03\x04 cut"), "not a whole file"),
        (lambda task: (task / "torch_script_module.pt").unlink(), "torch_script_module.pt missing"),
        (lambda task: (task / "lcurve.csv").write_text(",".join(CURVE_COLUMNS) + "\n1,1,,nan,0.1,,,,\n"), "diverged"),
        (lambda task: (task / "test.json").write_text("{}"), "force_rmse_ev_per_ang"),
    ],
)
def test_spoilt_results_are_rejected(tmp_path, spoil, words):
    request = request_of(tmp_path)
    task = attempt_of(tmp_path / "task", MatplTrainer().write(tmp_path / "task", request))
    matpl_job.prepare(task)
    leave_results(task, read_frames(tmp_path / "test_set.xyz"))
    matpl_job.finish(task)
    spoil(task)
    outcome = MatplTrainer().outcome(task)
    assert isinstance(outcome, Reject) and words in outcome.reason


def test_a_warm_start_takes_the_checkpoint_beside_the_model(tmp_path):
    request = request_of(tmp_path)
    before = tmp_path / "before"
    (before / "model_record").mkdir(parents=True)
    for name in ("torch_script_module.pt", "model_record/dp_model.ckpt"):
        (before / name).write_bytes(b"x")
    trainer = MatplTrainer()
    files = trainer.write(tmp_path / "task", replace(request, init_model=before / "torch_script_module.pt"))
    content = json.loads((tmp_path / "task/train.json").read_text())
    assert (content["model_load_file"], content["recover_train"], content["optimizer"]["reset_epoch"]) == ("init_model.ckpt", True, True)
    assert dict(files.links)["init_model.ckpt"] == str(before / "model_record/dp_model.ckpt")
    assert trainer.taken_over(before / "torch_script_module.pt") == {
        "torch_script_module.pt": before / "torch_script_module.pt",
        "model_record/dp_model.ckpt": before / "model_record/dp_model.ckpt",
    }
    with pytest.raises(InputError, match="cannot be explored with"):
        trainer.taken_over(before / "model_record/dp_model.ckpt")
    (before / "model_record/dp_model.ckpt").unlink()
    with pytest.raises(InputError, match="use_pre_model"):
        trainer.write(tmp_path / "task", replace(request, init_model=before / "torch_script_module.pt"))
    MatplNepTrainer().write(tmp_path / "nep", replace(request, init_model=before / "nep5.txt"))
    assert json.loads((tmp_path / "nep/train.json").read_text())["nep_txt_file"] == "init_model.txt"


def nep_text(version: str = "nep5", numbers: int | None = None) -> str:
    """A potential for two elements: 2·30·(9 + 10) network, coefficients and scales as its head says."""
    dim = (4 + 1) + (2 + 1) * (4 + 1)
    count = 2 * 30 * (dim + 2) + 4 * ((4 + 1) * (8 + 1) + (2 + 1) * (6 + 1)) + dim + (2 if version == "nep5" else 1)
    head = f"{version} 2 O Hf\ncutoff 6 4 100 80\nn_max 4 2\nbasis_size 8 6\nl_max 4 2 0\nANN 30 0\n"
    return head + "0.5\n" * (count if numbers is None else numbers)


def test_a_nep_potential_is_whole_or_told(tmp_path):
    path = tmp_path / "nep5.txt"
    for version in ("nep4", "nep5"):
        path.write_text(nep_text(version))
        assert check_nep(path) > 0
    path.write_text(nep_text(numbers=500))
    with pytest.raises(DataError, match="cut off"):
        check_nep(path)
    path.write_text(nep_text().replace("0.5\n", "nan\n", 1))
    with pytest.raises(DataError, match="not finite"):
        check_nep(path)
    path.write_text("hello\n")
    with pytest.raises(DataError, match="first line"):
        check_nep(path)
