"""NEP by torchnep, in an environment of its own: torchnep is under the GPL, so it is only called as another program.

The command is that environment's Python; it runs a small script that lies in the task's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pwact_like.config.elements import symbol
from pwact_like.engines.launcher import own_step
from pwact_like.engines.protocols import TrainRequest
from pwact_like.engines.trainers.data_files import DATA_JSON, LEARNING_CURVE, TEST, write_data_json
from pwact_like.engines.trainers.external import LOG, ExternalTrainer
from pwact_like.engines.trainers.nep_file import check_nep
from pwact_like.errors import InputError, NotAvailableError, Problem
from pwact_like.fsio import write_json, write_text
from pwact_like.outcome import TaskFiles

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings

NEP_IN = "nep.in"
RUN_JSON = "run.json"
SCRIPT = "run_torchnep.py"
MODEL = "nep.txt"
BEST = "nep_best.txt"
CURVE = "loss.out"
TESTED = "tested"
INIT_MODEL = "init_model.txt"
_JOB = "pwact_like.engines.trainers.nep_job"
_RUN = '''"""Trains with torchnep what run.json says, and predicts the test set; written by pwact_like."""

import json

from torchnep import train_nep
from torchnep.predict import predict_dataset

if __name__ == "__main__":
    with open("run.json") as stream:
        wanted = json.load(stream)
    train_nep("nep.in", "train.xyz", output_dir=".", prediction_interval=0, **wanted["train"])
    if wanted["test"]:
        predict_dataset("nep_best.txt", "test.xyz", output_dir="tested", dtype="float64")
'''


class NepTrainer(ExternalTrainer):
    """Leaves nep.txt, which GPUMD, LAMMPS and calorine read."""

    name: ClassVar[str] = "nep"
    model_file: ClassVar[str] = MODEL

    def write(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """Write nep.in, run.json, the script and data.json.

        Raises
        ------
        InputError
            Without training data, or with a model to start from that is no NEP in text.
        NotAvailableError
            For another optimizer than Adam.
        """
        if request.settings.optimizer.name != "ADAM":
            raise NotAvailableError(f"train.optimizer {request.settings.optimizer.name}: torchnep trains with ADAM; name that, or none")
        links: list[tuple[str, str]] = []
        write_data_json(folder, request, links)
        wanted: dict[str, object] = {"run_seed": request.seed, "precision": request.settings.nep.precision, "checkpoint_interval": 20}
        if request.valid_data:
            wanted["valid_file"] = "valid.xyz"
        if request.init_model is not None:
            if request.init_model.suffix != ".txt":
                raise InputError(Problem(str(request.init_model), "a NEP in text is wanted to start from", f"give a {MODEL}"))
            links.append((INIT_MODEL, str(request.init_model.resolve())))
            wanted["finetune_from"] = INIT_MODEL
        write_text(folder / NEP_IN, nep_in(request.settings))
        numbers = list(request.settings.atom_type)
        write_json(folder / RUN_JSON, {"train": wanted, "test": bool(request.test_data), "atom_type": numbers})
        write_text(folder / SCRIPT, _RUN)
        return TaskFiles(
            inputs=(DATA_JSON, NEP_IN, RUN_JSON, SCRIPT),
            links=tuple(links),
            outputs=(MODEL, LEARNING_CURVE, *((TEST,) if request.test_data else ())),
            optional_outputs=(CURVE, "output.log", LOG),
            carry=("checkpoint.pt", CURVE, BEST),
        )

    def commands(self, command: str, request: TrainRequest) -> tuple[str, ...]:
        """Merge the data, train in torchnep's environment, put the results into our form."""
        return own_step(_JOB, "prepare"), f"{command.strip() or 'python'} {SCRIPT} >>{LOG}", own_step(_JOB, "finish")

    def taken_over(self, model: Path) -> dict[str, Path]:
        """The potential itself.

        Raises
        ------
        InputError
            For a model of another kind.
        """
        if model.suffix != ".txt":
            raise InputError(Problem(str(model), "a NEP in text is wanted", f"give a {MODEL}"))
        return super().taken_over(model)

    def check_model(self, folder: Path) -> None:
        """Insist on as many finite numbers as the file's head says."""
        check_nep(folder / MODEL)


def nep_in(settings: TrainSettings) -> str:
    """Settings as nep.in has them; of the optimizer only what the user gave, for NEP's own defaults are others."""
    optimizer, nep = settings.optimizer, settings.nep
    lines = ["version 4", f"type {len(settings.atom_type)} {' '.join(map(symbol, settings.atom_type))}"]
    for name in ("cutoff", "n_max", "basis_size", "l_max"):
        lines.append(f"{name} {' '.join(f'{value:g}' for value in getattr(nep, name))}")
    lines.append(f"neuron {nep.neuron}")
    if nep.zbl is not None:
        lines.append(f"zbl {nep.zbl:g}")
    for key, wanted in (("e", optimizer.train_energy), ("f", optimizer.train_force), ("v", optimizer.train_virial)):
        lines.append(f"lambda_{key} {getattr(nep, f'lambda_{key}') if wanted else 0.0:g}")
    names = {"epochs": "epoch", "batch_size": "batch", "learning_rate": "lr", "stop_lr": "stop_lr", "weight_decay": "weight_decay"}
    lines += [f"{key} {getattr(optimizer, name):g}" for name, key in names.items() if name in optimizer.model_fields_set]
    return "\n".join([*lines, *nep.lines]) + "\n"
