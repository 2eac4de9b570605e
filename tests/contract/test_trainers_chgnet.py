"""The contract of training engines, for CHGNet fine-tuned; its word in our units, and the embedded MD with its models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from trainer_contract import TrainerContract, copper, run_in_process

from pwact_like.cli.main import main
from pwact_like.config.common import DataPath
from pwact_like.config.load import load_train
from pwact_like.config.train import ChgnetSettings, Optimizer, TrainSettings
from pwact_like.data.formats import write_frames
from pwact_like.engines.explorers.kpu_potential import potential_for
from pwact_like.engines.trainers.chgnet import ChgnetTrainer
from pwact_like.errors import DataError, NotAvailableError, OutOfTimeError

torch = pytest.importorskip("torch")
pytest.importorskip("chgnet", reason="could not import chgnet: pip install 'pwact-like[torch,chgnet]'")
pytestmark = pytest.mark.engines


class TestChgnetTrainer(TrainerContract):
    def trainer(self):
        return ChgnetTrainer()

    def settings(self, epochs=30):
        optimizer = Optimizer(name="ADAM", epochs=min(epochs, 4), batch_size=4, learning_rate=2e-3, stop_lr=2e-5)
        # far from the shipped weights at the start, so that a single epoch does not do
        return TrainSettings(engine="chgnet", atom_type=(29,), optimizer=optimizer, chgnet=ChgnetSettings(spread=0.02))

    def predict(self, model, *structures):
        from chgnet.model.dynamics import CHGNetCalculator

        from pwact_like.potentials.chgnet_model import load_chgnet

        calculator, said = CHGNetCalculator(load_chgnet(model)[0], use_device="cpu"), []
        for structure in structures:
            atoms = structure.copy()
            atoms.calc = calculator
            said.append((atoms.get_potential_energy(), atoms.get_forces().astype(np.float64)))
        return said

    def execute(self, attempt: Path, commands):
        return run_in_process(attempt, commands)

    def test_train_json_reads_back(self, tmp_path, data):
        request = self.request(data, seed=77)
        self.trainer().write(tmp_path, request)
        for name, target in self.trainer().write(tmp_path, request).links:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).symlink_to(target)
        read, notes = load_train(tmp_path / "train.json", tmp_path)
        assert notes == () and read.seed == 77 and read.engine == "chgnet"
        assert (read.optimizer.model_copy(update={"explicit": False}), read.chgnet) == (request.settings.optimizer, request.settings.chgnet)
        with pytest.raises(NotAvailableError, match="ADAM"):
            self.trainer().write(tmp_path, replace(request, settings=request.settings.model_copy(update={"optimizer": Optimizer()})))

    def test_the_embedded_md_explores_with_a_committee_of_its_models(self, tmp_path, trained):
        other = tmp_path / "other.pt"
        other.write_bytes(trained.model.read_bytes())
        frames = copper(1, 9)
        potential = potential_for((trained.model, other), None)
        word = potential.assess(frames[0].atoms)
        ((energy, forces),) = self.predict(trained.model, frames[0].atoms)
        assert word.energy == pytest.approx(energy, rel=1e-6)
        np.testing.assert_allclose(word.forces, forces, atol=1e-4)
        assert word.deviation.forces == (0.0, 0.0, 0.0)  # two equal models
        write_frames(tmp_path / "start.xyz", frames)
        words = [str(trained.model), str(other), "-s", str(tmp_path / "start.xyz"), "--temp", "300", "--nsteps", "2", "--trj-freq", "1"]
        assert main(["md", *words, "-o", str(tmp_path / "run")]) == 0
        assert json.loads((tmp_path / "run/md_result.json").read_text())["frames"] == 3


@pytest.fixture(scope="module")
def shipped():
    from pwact_like.potentials.chgnet_model import ChgnetCommittee, shipped_model

    return ChgnetCommittee([shipped_model("0.3.0")], (14,))


def strained_silicon():
    atoms = bulk("Si")
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.03, 0.01, 0.0], [0.01, -0.02, 0.02], [0.0, 0.02, 0.04]])), scale_atoms=True)
    atoms.positions[1] += [0.1, -0.05, 0.07]
    return atoms


def test_forces_and_virial_are_finite_differences_of_the_energy(shipped):
    atoms = strained_silicon()
    said = shipped.compute(atoms)

    def energy(moved) -> float:
        return float(shipped.compute(moved).energies_ev[0])

    for axis in range(3):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[1, axis] += sign * 0.01
            energies.append(energy(moved))
        assert said.forces[0, 1, axis] == pytest.approx(-(energies[0] - energies[1]) / 0.02, abs=0.01)
    strain = 0.004
    for i, j in ((0, 0), (1, 2), (2, 2)):
        energies = []
        for sign in (1, -1):
            change = np.eye(3)
            change[i, j] += sign * strain / (1 if i == j else 2)
            change[j, i] = change[i, j] if i != j else change[i, i]
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ change, scale_atoms=True)
            energies.append(energy(moved))
        assert said.virials[0, i, j] == pytest.approx(-(energies[0] - energies[1]) / (2 * strain), rel=0.02, abs=0.02)


def test_what_chgnet_cannot_take_is_told(shipped):
    atoms = strained_silicon()
    atoms.pbc = (True, True, False)
    with pytest.raises(DataError, match="box with pbc"):
        shipped.compute(atoms)
    atoms = strained_silicon()
    atoms.numbers[0] = 95
    with pytest.raises(DataError, match="Am"):
        shipped.compute(atoms)


def test_a_training_that_is_cut_off_ends_with_the_same_bits(tmp_path, monkeypatch):
    from pwact_like.potentials import chgnet_training

    write_frames(tmp_path / "train.xyz", copper(2, 1))
    optimizer = Optimizer(name="ADAM", epochs=2, batch_size=1, train_virial=True)
    data = (DataPath(path=tmp_path / "train.xyz"),)
    settings = TrainSettings(engine="chgnet", atom_type=(29,), optimizer=optimizer, seed=4, train_data=data)
    chgnet_training.train_chgnet(settings, tmp_path / "whole", device="cpu", progress=False)

    class Near:
        looks = 0

        @property
        def is_near(self):
            self.looks += 1
            return self.looks > 3  # in the second epoch

    monkeypatch.setattr(chgnet_training, "TimeLimit", Near)
    with pytest.raises(OutOfTimeError):
        chgnet_training.train_chgnet(settings, tmp_path / "cut", device="cpu", progress=False)
    monkeypatch.undo()
    chgnet_training.train_chgnet(settings, tmp_path / "cut", device="cpu", progress=False)
    for name in ("model.pt", "lcurve.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "cut/checkpoint.pt").exists()
