"""MatPL, PWact's own trainer: ``MatPL train train.json``, for a Deep Potential or NEP. It was never run here.

What MatPL reads and leaves is known from its manual and from the files that PWact ships (docs/engines/matpl.md).
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pwact_like.engines.launcher import own_step
from pwact_like.engines.protocols import Trainer, TrainRequest
from pwact_like.engines.trainers.data_files import DATA_JSON, LEARNING_CURVE, TEST, write_data_json
from pwact_like.engines.trainers.external import LOG, ExternalTrainer
from pwact_like.engines.trainers.matpl_results import EPOCH_TRAIN, EPOCH_VALID, RECORD
from pwact_like.engines.trainers.matpl_settings import start_from, train_json
from pwact_like.engines.trainers.nep_file import check_nep
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import write_json
from pwact_like.outcome import TaskFiles

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings

TRAIN_JSON = "train.json"
TEST_INPUT = "matpl_test.json"
COMPRESSED = "cmp_dp_model"
TORCH_SCRIPT = "torch_script_module.pt"
NEP_TEXT = "nep5.txt"
_JOB = "pwact_like.engines.trainers.matpl_job"


class MatplTrainer(ExternalTrainer):
    """What both models share; `of` gives the class of the model that is wanted.

    The task's folder is PWact's: train.json, model_record/ with the checkpoint, beside it the file that LAMMPS reads.
    """

    name: ClassVar[str] = "matpl"
    model_file: ClassVar[str] = TORCH_SCRIPT
    checkpoint: ClassVar[str] = f"{RECORD}/dp_model.ckpt"
    beside: ClassVar[tuple[str, ...]] = (f"{RECORD}/dp_model.ckpt",)

    @classmethod
    def of(cls, settings: TrainSettings) -> Trainer:
        """For NEP the model file is another one."""
        return MatplNepTrainer() if settings.model_type == "NEP" else MatplTrainer()

    def write(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """Write train.json, data.json and, with test data, the input of ``MatPL test``.

        Raises
        ------
        InputError
            Without training data, for keys that MatPL has not, or a model to start from that is none.
        NotAvailableError
            For a model that is neither DP nor NEP.
        """
        content = train_json(request.settings, request.seed)
        links: list[tuple[str, str]] = []
        write_data_json(folder, request, links)
        content |= {"format": "extxyz", "train_data": ["train.xyz"]}
        if request.valid_data:
            content["valid_data"] = ["valid.xyz"]
        if request.init_model is not None:
            start = self.start_of(request.init_model)
            name = f"init_model{start.suffix}"
            links.append((name, str(start.resolve())))
            start_from(content, name)
        write_json(folder / TRAIN_JSON, content)
        inputs = [TRAIN_JSON, DATA_JSON]
        if request.test_data:
            judged = {"model_type": content["model_type"], "atom_type": content["atom_type"], "format": "extxyz"}
            write_json(folder / TEST_INPUT, {**judged, "model_load_file": self.checkpoint, "test_data": ["test.xyz"]})
            inputs.append(TEST_INPUT)
        return TaskFiles(
            inputs=tuple(inputs),
            links=tuple(links),
            outputs=(self.model_file, self.checkpoint, LEARNING_CURVE, *((TEST,) if request.test_data else ())),
            optional_outputs=(EPOCH_TRAIN, EPOCH_VALID, f"{RECORD}/nep*.txt", "std_input.json", LOG),
        )

    def start_of(self, model: Path) -> Path:
        """What MatPL can train on from: a checkpoint itself, or the one in model_record beside a model file.

        Raises
        ------
        InputError
            When there is none.
        """
        if model.suffix == ".ckpt":
            return model
        beside = model.parent / self.checkpoint
        if beside.is_file():
            return beside
        raise InputError(
            Problem(
                str(model),
                f"MatPL cannot train on from it: {self.checkpoint} is not beside it",
                "give the checkpoint (.ckpt), or set use_pre_model to false",
            )
        )

    def commands(self, command: str, request: TrainRequest) -> tuple[str, ...]:
        """Merge the data, train, make the file that LAMMPS reads, judge on the test set, put the results into our form."""
        program = matpl_command(command)
        lines = [own_step(_JOB, "prepare"), f"{program} train {TRAIN_JSON} >>{LOG}", *self.model_lines(program, request)]
        if request.test_data:
            lines.append(f"{program} test {TEST_INPUT} >>{LOG}")
        return (*lines, own_step(_JOB, "finish"))

    def model_lines(self, program: str, request: TrainRequest) -> tuple[str, ...]:
        """From the checkpoint to the torch script; newer versions of MatPL name it jit_*.pt themselves."""
        checkpoint, lines = self.checkpoint, []
        if request.compress is not None:
            order, dx = request.compress.order, request.compress.dx
            lines.append(f"{program} compress {checkpoint} -d {dx:g} -o {order} -s {COMPRESSED} >>{LOG}")
            checkpoint = f"{COMPRESSED}.ckpt"
        lines.append(f"{program} script {checkpoint} {TORCH_SCRIPT} >>{LOG}")
        lines.append(f"test -f {TORCH_SCRIPT} || mv jit_*.pt {TORCH_SCRIPT}")
        return tuple(lines)

    def check_model(self, folder: Path) -> None:
        """Insist that torch wrote the checkpoint and the script to their ends (both are zip archives)."""
        for name in (self.checkpoint, self.model_file):
            if not zipfile.is_zipfile(folder / name):
                raise DataError(f"{folder / name}: not a whole file of torch; see {LOG}")

    def taken_over(self, model: Path) -> dict[str, Path]:
        """The model file, and the checkpoint beside it, from which later trainings start.

        Raises
        ------
        InputError
            For a checkpoint: LAMMPS cannot read it.
        """
        if model.suffix == ".ckpt":
            cure = f"turn it into one (MatPL {'totxt' if self.model_file == NEP_TEXT else 'script'} {model.name}) and give that"
            raise InputError(Problem(str(model), f"a checkpoint cannot be explored with; LAMMPS wants a {self.model_file}", cure))
        if model.suffix != Path(self.model_file).suffix:
            what = f"this is no model of MatPL's {'NEP' if self.model_file == NEP_TEXT else 'DP'}"
            raise InputError(Problem(str(model), what, f"LAMMPS wants a file like {self.model_file}; give such a one"))
        beside = model.parent / self.checkpoint
        return {self.model_file: model} | ({self.checkpoint: beside} if beside.is_file() else {})


class MatplNepTrainer(MatplTrainer):
    """NEP: LAMMPS reads the potential in text."""

    model_file: ClassVar[str] = NEP_TEXT
    checkpoint: ClassVar[str] = f"{RECORD}/nep_model.ckpt"
    beside: ClassVar[tuple[str, ...]] = (f"{RECORD}/nep_model.ckpt",)

    def write(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """As for DP.

        Raises
        ------
        InputError
            As for DP, and when compression is asked for: only a Deep Potential has something to compress.
        """
        if request.compress is not None:
            raise InputError(Problem("strategy.compress", "MatPL compresses Deep Potentials only, not NEP", "set it to false"))
        return super().write(folder, request)

    def start_of(self, model: Path) -> Path:
        """A potential in text will do where there is no checkpoint."""
        return model if model.suffix == ".txt" and not (model.parent / self.checkpoint).is_file() else super().start_of(model)

    def model_lines(self, program: str, request: TrainRequest) -> tuple[str, ...]:
        """Newer versions of MatPL leave nep5.txt in model_record, older ones nep_to_lmps.txt."""
        older = f"{RECORD}/nep_to_lmps.txt"
        return (
            f"if test -f {RECORD}/{NEP_TEXT}; then cp {RECORD}/{NEP_TEXT} {NEP_TEXT}; "
            f"elif test -f {older}; then cp {older} {NEP_TEXT}; else {program} totxt {self.checkpoint} >>{LOG}; fi",
        )

    def check_model(self, folder: Path) -> None:
        """Insist that the checkpoint and the potential are whole."""
        if not zipfile.is_zipfile(folder / self.checkpoint):
            raise DataError(f"{folder / self.checkpoint}: not a whole file of torch; see {LOG}")
        check_nep(folder / self.model_file)


def matpl_command(command: str) -> str:
    """The user's command without a verb at its end; ``MatPL`` when none is given."""
    words = command.split()
    if len(words) > 1 and words[-1].lower() == "train":
        return command.strip().rsplit(None, 1)[0]
    return command.strip() or "MatPL"
