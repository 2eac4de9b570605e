"""The contract of training engines, for DeePMD-kit (bin/setup-deepmd), and what only it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from deepmd_support import dp_command, evaluate
from support import require_deepmd
from trainer_contract import TrainerContract

from pwact_like.config.train import Descriptor, Fitting, Optimizer, TrainSettings
from pwact_like.engines.trainers.deepmd import DeepmdTrainer

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

    def predict(self, model: Path, atoms):
        ((said,),) = evaluate(model.parent, {"one": (model, [atoms])}).values()
        return float(said["energy"]), said["forces"]
