"""MACE by ``mace_run_train``, in an environment of its own (mace-torch pins another e3nn than others want)."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pwact_like.engines.launcher import own_step
from pwact_like.engines.protocols import TrainRequest
from pwact_like.engines.trainers.data_files import DATA_JSON, LEARNING_CURVE, TEST, write_data_json
from pwact_like.engines.trainers.external import LOG, ExternalTrainer
from pwact_like.errors import DataError, InputError, NotAvailableError, Problem
from pwact_like.fsio import write_json
from pwact_like.outcome import TaskFiles

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings

CONFIG = "mace.yaml"
RUN_JSON = "run.json"
NAME = "mace"
CHECKPOINT = f"{NAME}.model"
MODEL = f"{CHECKPOINT}-lammps.pt"  # the name that mace_create_lammps_model gives
TESTED = "tested.xyz"
INIT_MODEL = "init_model.model"
TRAIN, EVALUATE, CONVERT = "mace_run_train", "mace_eval_configs", "mace_create_lammps_model"
_JOB = "pwact_like.engines.trainers.mace_job"


class MaceTrainer(ExternalTrainer):
    """Leaves mace.model, which MACE's calculator reads and trainings go on from, and beside it the file that LAMMPS reads."""

    name: ClassVar[str] = "mace"
    model_file: ClassVar[str] = MODEL
    beside: ClassVar[tuple[str, ...]] = (CHECKPOINT,)

    def write(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """Write mace.yaml (JSON, which YAML includes), run.json and data.json.

        Raises
        ------
        InputError
            Without training data, or with a model to start from that is none of MACE's.
        NotAvailableError
            For another optimizer than Adam.
        """
        settings = request.settings
        if settings.optimizer.name != "ADAM":
            raise NotAvailableError(f"train.optimizer {settings.optimizer.name}: MACE is trained with ADAM; name that, or none")
        links: list[tuple[str, str]] = []
        write_data_json(folder, request, links)
        content = mace_config(settings, request.seed)
        if request.valid_data:
            content["valid_file"] = "valid.xyz"
        start = request.init_model or settings.mace.foundation_model
        if start is not None:
            start = start_of(start)
            links.append((INIT_MODEL, str(start.resolve())))
            content |= {"foundation_model": INIT_MODEL, "multiheads_finetuning": False}
        write_json(folder / CONFIG, content)
        numbers = list(settings.atom_type)
        # finish wants to know where the curve lies
        write_json(folder / RUN_JSON, {"atom_type": numbers, "curve": f"results/{NAME}_run-{request.seed}_train.txt"})
        return TaskFiles(
            inputs=(CONFIG, RUN_JSON, DATA_JSON),
            links=tuple(links),
            outputs=(MODEL, CHECKPOINT, LEARNING_CURVE, *((TEST,) if request.test_data else ())),
            optional_outputs=(LOG,),
        )

    def commands(self, command: str, request: TrainRequest) -> tuple[str, ...]:
        """Merge the data, train, predict the test set, put the results into our form.

        Raises
        ------
        InputError
            When the command does not name mace_run_train, beside which mace_eval_configs must lie.
        """
        program = command.strip() or TRAIN
        if TRAIN not in program:
            raise InputError(Problem("train.command", f"{program!r} does not name {TRAIN}", f"give its path, e.g. /opt/mace/bin/{TRAIN}"))
        lines = [own_step(_JOB, "prepare"), f"{program} --config {CONFIG} >>{LOG}"]
        if request.test_data:
            mace = request.settings.mace
            options = f"--configs test.xyz --model {CHECKPOINT} --output {TESTED} --info_prefix MACE_ --compute_stress"
            lines.append(
                f"{program.replace(TRAIN, EVALUATE)} {options} --device {mace.device} --default_dtype {mace.default_dtype} >>{LOG}"
            )
        lines.append(f"{program.replace(TRAIN, CONVERT)} {CHECKPOINT} >>{LOG}")
        return (*lines, own_step(_JOB, "finish"))

    def taken_over(self, model: Path) -> dict[str, Path]:
        """LAMMPS's file, and the model beside it from which later trainings start.

        Raises
        ------
        InputError
            For a model as MACE saves it: LAMMPS cannot read it.
        """
        if model.suffix == ".model":
            raise InputError(Problem(str(model), "LAMMPS cannot read it", f"give what {CONVERT} makes of it, in the same folder"))
        if model.suffix != ".pt":
            raise InputError(Problem(str(model), "no model of MACE for LAMMPS, whose name ends in .pt", f"give what {CONVERT} makes"))
        before = model.parent / CHECKPOINT
        return {MODEL: model} | ({CHECKPOINT: before} if before.is_file() else {})

    def check_model(self, folder: Path) -> None:
        """Insist that torch wrote both files to their ends (they are zip archives)."""
        for name in (CHECKPOINT, MODEL):
            if not zipfile.is_zipfile(folder / name):
                raise DataError(f"{folder / name}: not a whole file of torch; see {LOG}")


def start_of(model: Path) -> Path:
    """What MACE can train on from: a .model itself, or the one beside LAMMPS's file.

    Raises
    ------
    InputError
        When there is none.
    """
    if model.suffix == ".model":
        return model
    if (model.parent / CHECKPOINT).is_file():
        return model.parent / CHECKPOINT
    raise InputError(
        Problem(str(model), f"MACE cannot train on from it: no {CHECKPOINT} beside it", "give a .model, or set use_pre_model to false")
    )


def mace_config(settings: TrainSettings, seed: int) -> dict[str, Any]:
    """Options of mace_run_train; of the optimizer only what the user gave, for MACE's own defaults are others."""
    optimizer, mace = settings.optimizer, settings.mace
    content: dict[str, Any] = {
        "name": NAME,
        "seed": seed,
        "model": "MACE",
        "train_file": "train.xyz",
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "stress_key": "REF_stress",
        "E0s": mace.e0s,
        "r_max": mace.r_max,
        "num_channels": mace.num_channels,
        "max_L": mace.max_l,
        "num_interactions": mace.num_interactions,
        "correlation": mace.correlation,
        "default_dtype": mace.default_dtype,
        "device": mace.device,
        "energy_weight": mace.energy_weight if optimizer.train_energy else 0.0,
        "forces_weight": mace.forces_weight if optimizer.train_force else 0.0,
        "loss": "weighted",
        "error_table": "PerAtomRMSE",
        "model_dir": ".",
        "log_dir": "logs",
        "checkpoints_dir": "checkpoints",
        "results_dir": "results",
    }
    if optimizer.train_virial:
        content |= {
            "loss": "stress",
            "stress_weight": mace.stress_weight,
            "compute_stress": True,
            "error_table": "PerAtomRMSEstressvirials",
        }
    names = {"epochs": "max_num_epochs", "learning_rate": "lr", "weight_decay": "weight_decay"}
    content |= {key: getattr(optimizer, name) for name, key in names.items() if name in optimizer.model_fields_set}
    if "batch_size" in optimizer.model_fields_set:
        content |= {"batch_size": optimizer.batch_size, "valid_batch_size": optimizer.batch_size}
    return {**content, **mace.keywords}
