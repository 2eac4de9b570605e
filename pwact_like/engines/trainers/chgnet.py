"""CHGNet, fine-tuned from the weights in its wheel: ``pwact-like train`` with ``"engine": "chgnet"``."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any, ClassVar

from pwact_like.engines.protocols import KnownErrors, KpuKind, Trainer
from pwact_like.engines.trainers.embedded import EmbeddedTrainer
from pwact_like.errors import NotAvailableError
from pwact_like.potentials.spec import CHGNET_FORMAT

if TYPE_CHECKING:
    from pathlib import Path

    from pwact_like.config.train import TrainSettings

_OPTIMIZER = "epochs batch_size print_freq train_energy train_force train_virial learning_rate stop_lr weight_decay".split()
_OPTIMIZER += [f"{end}_pre_fac_{what}" for end in ("start", "end") for what in ("etot", "force", "virial")]


class ChgnetTrainer(EmbeddedTrainer):
    """Files, command and model file as the embedded trainer's; the embedded MD explores with the models."""

    name: ClassVar[str] = "chgnet"
    model_format: ClassVar[str] = CHGNET_FORMAT
    can_kpu: ClassVar[bool] = False

    def refuse_unbuilt(self, settings: TrainSettings) -> None:
        """Adam is the only optimizer."""
        if settings.optimizer.name != "ADAM":
            raise NotAvailableError(f"train.optimizer {settings.optimizer.name}: CHGNet is fine-tuned with ADAM; name that, or none")

    def settings_json(self, settings: TrainSettings, seed: int) -> dict[str, Any]:
        """Every value that decides the result."""
        from pwact_like.config.elements import symbol

        return {
            "engine": self.name,
            "atom_type": [symbol(number) for number in settings.atom_type],
            "chgnet": settings.chgnet.model_dump(mode="json"),
            "optimizer": {"optimizer": "ADAM", **{name: getattr(settings.optimizer, name) for name in _OPTIMIZER}},
            "seed": seed,
        }

    def known_errors(self, folder: Path, kind: KpuKind) -> KnownErrors:
        """It knows nothing of them."""
        return Trainer.known_errors(self, folder, kind)

    def version(self) -> str:
        """Of the package chgnet where the master runs, if it is there."""
        try:
            return importlib.metadata.version("chgnet")
        except importlib.metadata.PackageNotFoundError:
            return ""
