"""DeePMD-kit's PyTorch route (``dp --pt``), which alone has the Kalman filter; see test_trainers_deepmd for the contract.

Pip's DeePMD-kit brings operators that are compiled for another torch than pip's; se_e2_a does not need them. So the tests
run a view of its package that lacks this one library, with the torch of the tests' own environment.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deepmd_support import ONE_THREAD, run_until_killed
from labeler_contract import accept, run_commands, start_attempt
from support import require_deepmd
from trainer_contract import TrainerContract, copper, errors, write_data

from pwact_like.config.train import CURVE_COLUMNS, DeepmdSettings, Descriptor, Fitting, Optimizer, TrainSettings
from pwact_like.engines.protocols import TrainRequest
from pwact_like.engines.trainers.deepmd import DeepmdTrainer
from pwact_like.engines.trainers.deepmd_files import read_curve
from pwact_like.outcome import Ok

pytest.importorskip("torch")
pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]
BIN = require_deepmd()

PREDICT = """
import sys
import numpy as np
from ase.io import read
from deepmd.calculator import DP
said = []
for atoms in read(sys.argv[2], index=":"):
    atoms.calc = DP(sys.argv[1])
    said.append([atoms.get_potential_energy(), *atoms.get_forces().ravel()])
np.save(sys.argv[3], np.array(said))
"""
FRAMES = copper(5, 4)  # the contract's test set


def settings(**optimizer) -> TrainSettings:
    given = {"name": "ADAM", "epochs": 30, "learning_rate": 1e-2, **optimizer}
    return TrainSettings(
        atom_type=(29,),
        engine="deepmd",
        descriptor=Descriptor(rmax=4.5, rmin=1.0, m2=4, network_size=(4, 8)),
        fitting=Fitting(network_size=(12, 12, 1)),
        optimizer=Optimizer(**given),
        deepmd=DeepmdSettings(backend="pytorch"),
    )


class Pytorch(TrainerContract):
    """What the tests take of the contract: its requests."""

    def settings(self, epochs=30):
        return settings(epochs=epochs)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """In which DeePMD-kit's Python finds the view of its package, and behind everything of its own the tests' torch."""
    view = tmp_path_factory.mktemp("view")
    asked = "import importlib.util as u; print(u.find_spec('deepmd').submodule_search_locations[0])"
    package = Path(subprocess.run([BIN / "python", "-c", asked], check=True, capture_output=True, text=True).stdout.strip())
    (view / "deepmd" / "lib").mkdir(parents=True)
    for source, target in ((package, view / "deepmd"), (package / "lib", view / "deepmd" / "lib")):
        for path in source.iterdir():
            if path.name not in ("lib", "libdeepmd_op_pt.so"):
                (target / path.name).symlink_to(path)
    (view / "sitecustomize.py").write_text(f"import sys\nsys.path.append({sysconfig.get_path('purelib')!r})\n")
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": str(view)}


@pytest.fixture(scope="module")
def dp(environment, tmp_path_factory) -> str:
    """What a user on such a machine would name as the command: dp in that environment."""
    script = tmp_path_factory.mktemp("bin") / "dp"
    view = shlex.quote(environment["PYTHONPATH"])
    script.write_text(f'#!/bin/sh\nPYTHONPATH={view} exec {shlex.quote(str(BIN / "python"))} {shlex.quote(str(BIN / "dp"))} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    return write_data(tmp_path_factory.mktemp("data"))


def request(data, epochs: int = 30, init_model: Path | None = None, **optimizer) -> TrainRequest:
    asked = Pytorch().request(data, epochs=epochs, init_model=init_model)
    return replace(asked, settings=settings(epochs=epochs, **optimizer))


def train(task: Path, asked, dp: str):
    """Write, run, judge, accept, read."""
    trainer = DeepmdTrainer.of(asked.settings)
    files = trainer.write(task, asked)
    attempt = start_attempt(task, files, 1)
    assert run_commands(attempt, trainer.commands(dp, asked)) == 0, (attempt / "stdout").read_text()[-4000:]
    assert trainer.outcome(attempt) == Ok()
    accept(task, attempt, files)
    return trainer.read(task)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, dp):
    return train(tmp_path_factory.mktemp("trained") / "a task", request(data), dp)


def test_a_training_learns_and_tells_its_errors(trained, data, environment, tmp_path):
    assert trained.model.name == "model.pth"
    words = [BIN / "python", "-c", PREDICT, trained.model, data["test"], tmp_path / "said.npy"]
    subprocess.run(words, check=True, env=environment, capture_output=True, timeout=200)
    said = np.load(tmp_path / "said.npy")
    energy, force = errors(FRAMES, [(float(row[0]), row[1:].reshape(-1, 3)) for row in said])
    assert trained.test["n_frames"] == 5
    assert trained.test["energy_rmse_ev_per_atom"] == pytest.approx(energy, rel=1e-3)
    assert trained.test["force_rmse_ev_per_ang"] == pytest.approx(force, rel=1e-3)
    assert force < 0.5 * errors(FRAMES, [(0.0, np.zeros((4, 3)))] * 5)[1]
    with trained.learning_curve.open() as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == CURVE_COLUMNS and int(rows[-1]["step"]) == 360
    assert float(rows[-1]["valid_force_rmse_ev_per_ang"]) < 0.5 * float(rows[0]["valid_force_rmse_ev_per_ang"])


def test_a_warm_start_goes_on_from_the_model_given(tmp_path, data, trained, dp):
    warm = train(tmp_path / "warm", request(data, epochs=1, init_model=trained.model, learning_rate=1e-4), dp)
    assert warm.test["force_rmse_ev_per_ang"] < 1.2 * trained.test["force_rmse_ev_per_ang"]  # from scratch: no forces, 1.5 eV/Å


def test_a_killed_training_by_the_kalman_filter_goes_on_from_its_checkpoint(tmp_path, data, dp):
    """DeePMD-kit's own LKF, killed without warning: both attempts together have the steps of one."""
    asked = request(data, name="LKF")
    asked = replace(asked, settings=asked.settings.model_copy(update={"deepmd": DeepmdSettings(backend="pytorch", numb_steps=200)}))
    trainer = DeepmdTrainer.of(asked.settings)
    task = tmp_path / "a 'task'"
    files = trainer.write(task, asked)
    first = start_attempt(task, files, 1)
    commands = trainer.commands(shlex.quote(dp), asked)
    run_until_killed(first, commands, first / "model.ckpt.pt")
    before = [row["step"] for row in read_curve(first / "lcurve.out")]
    assert before[-1] < 200 and trainer.outcome(first) != Ok()
    second = start_attempt(task, files, 2)
    assert run_commands(second, commands) == 0, (second / "stdout").read_text()[-4000:]
    assert re.match(r"--restart model\.ckpt", (second / "start.args").read_text())
    assert trainer.outcome(second) == Ok()
    accept(task, second, files)
    steps = [row["step"] for row in read_curve(task / "lcurve.out")]
    assert steps == sorted(set(steps)) and steps[-1] == 200 and set(before) - set(steps) <= {before[-1]}
    report = trainer.read(task)
    assert report.test["force_rmse_ev_per_ang"] < 0.5 * errors(FRAMES, [(0.0, np.zeros((4, 3)))] * 5)[1]
