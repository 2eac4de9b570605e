"""The embedded trainer: ``pwact-like train`` with the embedded potentials."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from zipfile import BadZipFile

from pwact_like.config.elements import symbol
from pwact_like.config.engines_known import EMBEDDED_OPTIMIZERS
from pwact_like.config.matpl_keys import ADAM_ONLY, KALMAN_ONLY
from pwact_like.config.train import KPU_FILE, UNCERTAINTY_FILE
from pwact_like.engines.launcher import own_command
from pwact_like.engines.protocols import KnownErrors, KpuKind, Trainer, TrainReport, TrainRequest
from pwact_like.errors import DataError, InputError, NotAvailableError, Problem
from pwact_like.fsio import read_json, write_json
from pwact_like.outcome import Ok, Outcome, Reject, TaskFiles
from pwact_like.potentials.members import refuse_members
from pwact_like.potentials.spec import FORMAT

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.config.train import TrainSettings, UncertaintySettings

TRAIN_JSON = "train.json"
MODEL = "model.pt"
LEARNING_CURVE = "lcurve.csv"
LOG = "train.log"
TEST = "test.json"
CHECKPOINT = "checkpoint.pt"
INIT_MODEL = "init_model.pt"


class EmbeddedTrainer(Trainer):
    """One member is one call of ``pwact-like train train.json``; data and the model to start from are links."""

    name: ClassVar[str] = "embedded"
    model_file: ClassVar[str] = MODEL
    model_format: ClassVar[str] = FORMAT
    can_judge: ClassVar[bool] = True
    can_kpu: ClassVar[bool] = True

    def write(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """Write train.json in MatPL's keys, with every value that decides the result.

        Raises
        ------
        InputError
            Without training data.
        NotAvailableError
            For a model or an optimizer that is not built.
        """
        self.refuse_unbuilt(request.settings)
        if not request.train_data:
            raise InputError(Problem(str(folder / TRAIN_JSON), "there is no training data", "give init_data"))
        links: list[tuple[str, str]] = []
        content = self.settings_json(request.settings, request.seed)
        for kind, data in (("train", request.train_data), ("valid", request.valid_data), ("test", request.test_data)):
            if data:
                content[f"{kind}_data"] = linked_data(kind, data, links)
        if request.init_model is not None:
            links.append((INIT_MODEL, str(request.init_model.resolve())))
        learned: tuple[str, ...] = ()
        if request.uncertainty is not None:
            content["uncertainty"] = uncertainty_json(request.uncertainty, links)
            learned = (KPU_FILE, UNCERTAINTY_FILE, *_member_names(request.uncertainty))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TRAIN_JSON, content)
        return TaskFiles(
            inputs=(TRAIN_JSON,),
            links=tuple(links),
            outputs=(MODEL, LEARNING_CURVE, *((TEST,) if request.test_data else ()), *learned),
            optional_outputs=(LOG,),
            carry=(CHECKPOINT, LOG),  # the checkpoint holds the learning curve
            checkpoints=(CHECKPOINT,),
        )

    def refuse_unbuilt(self, settings: TrainSettings) -> None:
        """Refuse a model or an optimizer that the trainer has not."""
        if settings.model_type != "DP":
            raise NotAvailableError(f"train.model_type {settings.model_type}: the embedded trainer trains the Deep Potential only (DP)")
        if settings.optimizer.name not in EMBEDDED_OPTIMIZERS:
            raise NotAvailableError(f"train.optimizer {settings.optimizer.name} is not built; the embedded trainer has LKF and ADAM")

    def settings_json(self, settings: TrainSettings, seed: int) -> dict[str, Any]:
        """train.json without data."""
        return train_json(settings, seed)

    def commands(self, command: str, request: TrainRequest) -> tuple[str, ...]:
        """``pwact-like train train.json``, through the user's launcher if resource.json names one."""
        start = f" --init-model {INIT_MODEL}" if request.init_model is not None else ""
        return (f"{own_command(command, 'train')} {TRAIN_JSON} -o .{start}",)

    def write_judging(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """See the protocol.

        Raises
        ------
        InputError
            When the test data are of several formats or signs: ``pwact-like eval`` takes one.
        """
        links: list[tuple[str, str]] = []
        entries = linked_data("test", request.test_data, links)
        if len({(entry.get("format"), entry.get("virial_sign")) for entry in entries}) != 1:
            raise InputError(
                Problem("test_data", "one format and one virial_sign are needed to judge models with", "convert the data with to_pwdata")
            )
        return TaskFiles(inputs=(MODEL,), links=tuple(links), outputs=(TEST,))

    def judging_commands(self, command: str, request: TrainRequest) -> tuple[str, ...]:
        """``pwact-like eval model.pt DATA --json > test.json``."""
        entries = linked_data("test", request.test_data, [])
        options = [entry["path"] for entry in entries] + ["--json"]
        if "format" in entries[0]:
            options += ["--format", shlex.quote(entries[0]["format"])]
        if "virial_sign" in entries[0]:
            options.append(f"--virial-sign={entries[0]['virial_sign']}")
        return (f"{own_command(command, 'eval')} {MODEL} {' '.join(options)} >{TEST}",)

    def outcome(self, folder: Path) -> Outcome:
        """Ok for a whole model of finite numbers, judged on the test set where there is one, with what was asked of its errors."""
        try:
            settings = read_json(folder / TRAIN_JSON)
            wants_test, wanted = bool(settings.get("test_data")), settings.get("uncertainty")
            names = [MODEL, LEARNING_CURVE, *([TEST] if wants_test else []), *([KPU_FILE, UNCERTAINTY_FILE] if wanted else [])]
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                return Reject(f"{', '.join(missing)} missing in {folder}; see {LOG} and stderr there")
            check_model(folder / MODEL)
            if wants_test:
                read_json(folder / TEST)
            if wanted:
                check_model(folder / KPU_FILE)
                for member in self.known_errors(folder, wanted["kind"]).members:
                    check_model(member)
        except DataError as error:
            return Reject(str(error))
        return Ok()

    def read(self, folder: Path) -> TrainReport:
        """Model, learning curve, errors on the test set."""
        if not (folder / MODEL).is_file():
            raise DataError(f"{folder / MODEL} is missing; was the folder cleaned?")
        curve, test = folder / LEARNING_CURVE, folder / TEST
        return TrainReport(folder / MODEL, curve if curve.is_file() else None, read_json(test) if test.is_file() else None)

    def taken_over(self, model: Path) -> dict[str, Path]:
        """The model itself.

        Raises
        ------
        InputError
            For a file that is none of this trainer's, or is damaged.
        """
        try:
            found = check_model(model).get("format")
        except DataError as error:
            raise InputError(Problem(str(model), str(error).removeprefix(f"{model}: "), "give a model.pt of such a training")) from error
        if found != self.model_format:
            what = f"this is a {found!r}, and the trainer {self.name} goes on with a {self.model_format!r}"
            raise InputError(Problem(str(model), what, "give a model of this trainer, or name the other one (engine in train)"))
        return super().taken_over(model)

    def refuse_committee(self, models: Sequence[Path]) -> None:
        """Members that were drawn from one training are none without their factor."""
        refuse_members((path, check_model(path)) for path in models)

    def known_errors(self, folder: Path, kind: KpuKind) -> KnownErrors:
        """See the protocol."""
        cure = f"let it be trained with uncertainty.kind {kind!r}"
        missing = [name for name in (KPU_FILE, UNCERTAINTY_FILE) if not (folder / name).is_file()]
        if missing:
            raise DataError(f"{folder}: no {' and no '.join(missing)}, so nothing is known of this model's errors; {cure}")
        facts = read_json(folder / UNCERTAINTY_FILE)
        members = tuple(folder / name for name in facts["members"]) if kind == "kpu-committee" else ()
        if kind == "kpu-committee" and not members:
            raise DataError(f"{folder / UNCERTAINTY_FILE}: this training drew no committee; {cure}")
        lost = [path.name for path in members if not path.is_file()]
        if lost:
            raise DataError(f"{folder}: {', '.join(lost)} missing; was the folder cleaned?")
        return KnownErrors(folder / KPU_FILE, members, facts, (KPU_FILE, UNCERTAINTY_FILE, *(path.name for path in members)))

    def version(self) -> str:
        """The package's own."""
        from pwact_like import __version__

        return __version__


def train_json(settings: TrainSettings, seed: int) -> dict[str, Any]:
    """Settings as TRAIN.json has them, in MatPL's keys; without data."""
    optimizer = settings.optimizer
    names = ["epochs", "batch_size", "print_freq", "train_energy", "train_force", "train_virial"]
    names += ADAM_ONLY if optimizer.name == "ADAM" else KALMAN_ONLY
    used = {name: getattr(optimizer, name) for name in names}
    descriptor: dict[str, Any] = {
        "Rmax": settings.descriptor.rmax,
        "Rmin": settings.descriptor.rmin,
        "M2": settings.descriptor.m2,
        "network_size": list(settings.descriptor.network_size),
    }
    if settings.descriptor.sel is not None:
        descriptor["sel"] = list(settings.descriptor.sel)
    return {
        "model_type": settings.model_type,
        "atom_type": [symbol(number) for number in settings.atom_type],
        "model": {"descriptor": descriptor, "fitting_net": {"network_size": list(settings.fitting.network_size)}},
        "optimizer": {"optimizer": optimizer.name, **used},
        "seed": seed,
    }


def uncertainty_json(wanted: UncertaintySettings, links: list[tuple[str, str]]) -> dict[str, Any]:
    """The section ``uncertainty`` of TRAIN.json; models and labels of earlier iterations are links."""
    content: dict[str, Any] = {
        "kind": wanted.kind,
        "posterior": wanted.posterior,
        "tau": wanted.tau,
        "keep_covariance": wanted.keep_covariance,
        "valid_share": wanted.valid_share,
        **({"samples": wanted.samples} if wanted.kind == "kpu" else {"members": wanted.members}),
    }
    labelled = []
    for number, before in enumerate(wanted.labelled):
        folder = f"labelled.{number:03d}"
        links += [(f"{folder}/{MODEL}", str(before.model.resolve())), (f"{folder}/{KPU_FILE}", str(before.kpu.resolve()))]
        data = linked_data(folder, before.data, links)
        labelled.append({"model": f"{folder}/{MODEL}", "kpu": f"{folder}/{KPU_FILE}", "data": data})
    return {**content, **({"labelled": labelled} if labelled else {})}


def _member_names(wanted: UncertaintySettings) -> list[str]:
    """Files of the committee's members (as `potentials.self_knowledge` names them)."""
    return [f"member.{number:03d}.pt" for number in range(wanted.members)] if wanted.kind == "kpu-committee" else []


def linked_data(kind: str, data: Sequence[DataPath], links: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Data entries under link names, so that no absolute path is in the input; formats are told by names, which stay."""
    entries = []
    for index, path in enumerate(data):
        name = f"data/{kind}.{index:03d}/{re.sub(r'[^A-Za-z0-9._-]', '_', path.path.name)}"
        links.append((name, str(path.path.resolve())))
        entry: dict[str, Any] = {"path": name}
        if path.format:
            entry["format"] = path.format
        if path.virial_sign != 1:
            entry["virial_sign"] = path.virial_sign
        entries.append(entry)
    return entries


def check_model(path: Path) -> dict[str, Any]:
    """Insist that a file of pwact-like train is whole and its numbers are finite, without torch; returns its header.

    Raises
    ------
    DataError
        Naming the file and what is wrong.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            bad = [name for name in archive.files if archive[name].dtype.kind == "f" and not np.isfinite(archive[name]).all()]
            header: dict[str, Any] = json.loads(archive["header"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError) as error:
        raise DataError(f"{path}: not a whole file of pwact-like train: {error}") from error
    if bad:
        raise DataError(f"{path}: {bad[0]} holds numbers that are not finite: the training has diverged; lower learning_rate")
    return header
