"""DeePMD-kit's trainer: ``dp train``, ``freeze``, ``compress`` and ``test``, by the TensorFlow or the PyTorch route."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pwact_like.config.engines_known import engine_of_command
from pwact_like.engines.protocols import Compression, Trainer, TrainReport, TrainRequest
from pwact_like.engines.trainers.deepmd_files import diverged, read_curve
from pwact_like.engines.trainers.deepmd_input import CURVE, TEST_FOLDER, dp_input
from pwact_like.engines.trainers.deepmd_job import (
    CHECKPOINTS,
    DETAILS,
    INIT,
    INPUT,
    LEARNING_CURVE,
    START,
    TASK,
    TEST,
    USED_INPUT,
)
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import read_json, write_json
from pwact_like.outcome import Ok, Outcome, Reject, TaskFiles

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.config.train import TrainSettings

MODELS = {"tensorflow": "model.pb", "pytorch": "model.pth"}
LOG = "train.log"
JUDGE = "judge.json"
_FLAGS = {"tensorflow": ("--tf", "--tensorflow"), "pytorch": ("--pt", "--pytorch")}
_VERBS = frozenset({"train", "freeze", "compress", "test"})
_FROZEN = "uncompressed"
_FEW_SLOTS = re.compile(r"sel of type \d+ is not enough! The expected value is not less than (\d+), but you set it to (\d+)")
# threads as the job gives them; sums of several threads differ in their last digits from run to run
_THREADS = (
    'export DP_INTRA_OP_PARALLELISM_THREADS="${DP_INTRA_OP_PARALLELISM_THREADS:-${OMP_NUM_THREADS:-1}}" '
    'DP_INTER_OP_PARALLELISM_THREADS="${DP_INTER_OP_PARALLELISM_THREADS:-1}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"'
)


class DeepmdTrainer(Trainer):
    """One member is one ``dp train``; the data are links, and become DeePMD-kit's own format in the task's folder.

    Beside the model stay its last checkpoint and the input as dp has completed it (`taken_over`): a later training starts from them.
    """

    name: ClassVar[str] = "deepmd"
    model_file = MODELS["tensorflow"]
    can_judge: ClassVar[bool] = True

    def __init__(self, backend: str = "tensorflow") -> None:
        self.backend = backend
        self.model_file = MODELS[backend]

    @classmethod
    def of(cls, settings: TrainSettings) -> DeepmdTrainer:
        """With the backend of ``deepmd.backend``."""
        return cls(settings.deepmd.backend)

    def write(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """Write train.json: data entries, and the input of ``dp train`` but for what depends on the number of frames.

        Raises
        ------
        InputError
            Without training data; for an input or a model of the user's that does not fit.
        NotAvailableError
            For a model or an optimizer that DeePMD-kit does not have.
        """
        if not request.train_data:
            raise InputError(Problem(str(folder / TASK), "there is no training data", "give init_data"))
        settings = request.settings
        links: list[tuple[str, str]] = []
        data = _linked(request, ("train", "valid", "test"), links)
        init_model = self._link_start(request.init_model, links)
        content = {
            "engine": self.name,
            "backend": self.backend,
            "data": data,
            "epochs": settings.optimizer.epochs,
            "numb_steps": settings.deepmd.numb_steps,
            "init_model": init_model,
            "compress": None if request.compress is None else request.compress.dx,
            "input": dp_input(settings, request.seed, has_valid=bool(request.valid_data)),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TASK, content)
        return TaskFiles(
            inputs=(TASK,),
            links=tuple(links),
            outputs=(self.model_file, LEARNING_CURVE, USED_INPUT, *((TEST,) if request.test_data else ())),
            optional_outputs=(*CHECKPOINTS[self.backend], INPUT, CURVE, LOG),
            carry=(*CHECKPOINTS[self.backend], CURVE, *((USED_INPUT,) if _is_alone(links) else ())),
        )

    def _link_start(self, init_model: Path | None, links: list[tuple[str, str]]) -> str:
        """Link the model to start from with what lies beside it; its name for ``--init-frz-model``, "" from scratch.

        Raises
        ------
        InputError
            For a model of another backend.
        """
        if init_model is None:
            return ""
        for path in self.taken_over(init_model).values():
            links.append((f"{INIT}/{path.name}", str(path.resolve())))
        return init_model.name

    def taken_over(self, model: Path) -> dict[str, Path]:
        """The model, with its checkpoint and input where both are whole: of a frozen model alone a compressed one cannot go on.

        Raises
        ------
        InputError
            For a model of another backend or program.
        """
        suffix = Path(self.model_file).suffix
        if model.suffix != suffix:
            what = f"this is no model of DeePMD-kit's {self.backend} route, whose models end in {suffix}"
            raise InputError(Problem(str(model), what, "convert it (dp convert-backend), or set train.deepmd.backend"))
        beside = {name: model.with_name(name) for name in (*CHECKPOINTS[self.backend], USED_INPUT)}
        return {self.model_file: model, **(beside if all(path.is_file() for path in beside.values()) else {})}

    def commands(self, command: str, request: TrainRequest) -> tuple[str, ...]:
        """Prepare, train, freeze, compress if wanted, test if there is a test set, finish.

        Raises
        ------
        InputError
            When the command is another engine's, or names another backend than the settings.
        """
        dp = self._dp(command)
        frozen = _FROZEN + Path(self.model_file).suffix if request.compress else self.model_file
        lines = [
            _own("prepare"),
            _THREADS,
            f"{dp} train {INPUT} $(<{START}) -o {USED_INPUT} -l {LOG}",
            f"{dp} freeze -o {frozen}",
        ]
        if request.compress:
            lines.append(f"{dp} compress -i {frozen} -o {self.model_file} {_table(request.compress)}")
        if request.test_data:
            lines.append(self._test(dp))
        return (*lines, _own("finish"))

    def write_judging(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """See the protocol."""
        links: list[tuple[str, str]] = []
        data = _linked(request, ("test",), links)
        write_json(folder / TASK, {"engine": self.name, "backend": self.backend, "data": data})
        return TaskFiles(inputs=(TASK, self.model_file), links=tuple(links), outputs=(TEST,))

    def judging_commands(self, command: str, request: TrainRequest) -> tuple[str, ...]:
        """``dp test``."""
        return (_own("prepare"), _THREADS, self._test(self._dp(command)), _own("finish"))

    def _test(self, dp: str) -> str:
        return f"{dp} test -m {self.model_file} -s {TEST_FOLDER} -n 0 -d {DETAILS}"

    def _dp(self, command: str) -> str:
        """The user's command, without a verb of its own, for this backend."""
        words = command.split()
        if words and engine_of_command("train", command) not in ("deepmd", ""):
            raise InputError(
                Problem("resource.json: train.command", f"{command!r} does not run DeePMD-kit", 'give the command of dp: "command": "dp"')
            )
        if len(words) > 1 and words[-1] in _VERBS:
            command = command.strip().rsplit(None, 1)[0]
        command = command.strip() or "dp"
        for backend, flags in _FLAGS.items():
            if set(words) & set(flags):
                if backend != self.backend:
                    raise InputError(
                        Problem(
                            "resource.json: train.command",
                            f"{command!r} names DeePMD-kit's {backend} route, and train.deepmd.backend is {self.backend}",
                            "make them agree",
                        )
                    )
                return command
        return f"{command} {_FLAGS[self.backend][0]}"

    def outcome(self, folder: Path) -> Outcome:
        """Ok for a model with sound errors; a note where atoms have more neighbours than the model has slots."""
        try:
            wants_test = "test" in read_json(folder / TASK)["data"]
            names = [self.model_file, LEARNING_CURVE, USED_INPUT, *([TEST] if wants_test else [])]
            missing = [name for name in names if not (folder / name).is_file() or not (folder / name).stat().st_size]
            if missing:
                return Reject(f"{', '.join(missing)} missing in {folder}; see {LOG} and stderr there")
            bad = diverged(read_curve(folder / CURVE))
            if bad:
                return Reject(f"{folder / CURVE}: {bad} is no finite number: the training has diverged; lower learning_rate")
            if wants_test:
                read_json(folder / TEST)
        except DataError as error:
            return Reject(str(error))
        return Ok(_few_slots(folder / LOG))

    def read(self, folder: Path) -> TrainReport:
        """Model, learning curve, errors on the test set."""
        model, curve, test = folder / self.model_file, folder / LEARNING_CURVE, folder / TEST
        if not model.is_file():
            raise DataError(f"{model} is missing; was the folder cleaned?")
        return TrainReport(model, curve if curve.is_file() else None, read_json(test) if test.is_file() else None)


def _linked(request: TrainRequest, kinds: Sequence[str], links: list[tuple[str, str]]) -> dict[str, list[dict[str, Any]]]:
    """Data entries of each kind that there is, under link names: no path outside the folder is in the input."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds:
        data: Sequence[DataPath] = getattr(request, f"{kind}_data")
        for index, path in enumerate(data):
            name = f"data/{kind}.{index:03d}/{re.sub(r'[^A-Za-z0-9._-]', '_', path.path.name)}"
            links.append((name, str(path.path.resolve())))
            sign = {"virial_sign": path.virial_sign} if path.virial_sign != 1 else {}
            found.setdefault(kind, []).append({"path": name, **({"format": path.format} if path.format else {}), **sign})
    return found


def _is_alone(links: Sequence[tuple[str, str]]) -> bool:
    """Whether the training starts from a frozen model that has no checkpoint beside it."""
    return sum(name.startswith(f"{INIT}/") for name, _ in links) == 1


def _own(step: str) -> str:
    """Our part before and after dp: this very Python, whatever environment dp has."""
    return f"{shlex.quote(sys.executable)} -m pwact_like.engines.trainers.deepmd_job {step}"


def _table(compress: Compression) -> str:
    """Options of ``dp compress``: its polynomials are always of the fifth order."""
    return f"-s {compress.dx:g}"


def _few_slots(log: Path) -> str:
    """What dp says of too few slots, "" when it says nothing."""
    try:
        found = _FEW_SLOTS.findall(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    if not found:
        return ""
    told = ", ".join(f"{have} slots where {needed} are needed" for needed, have in dict.fromkeys(found))
    return f"{log.name}: {told}: DeePMD-kit leaves out the farthest neighbours, and energies jump; give a larger sel and train from scratch"
