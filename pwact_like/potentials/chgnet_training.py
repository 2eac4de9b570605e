"""Fine-tuning CHGNet's shipped weights on our labels, with Adam; leaves the files of the embedded trainer.

The loss is that of the Deep Potential's training: mean over the frames of p_E·ΔE²/N + p_F·mean(ΔF²) + p_V·mean(ΔW²)/N, the
prefactors and the learning rate going from start to end. Before the first step the energies of the elements are fitted to
the training data (least squares): labels of another program have other zeros, and learning those by gradient would spoil the rest.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pwact_like.errors import DataError, InputError, JobError, NotAvailableError, Problem
from pwact_like.fsio import write_json, write_through
from pwact_like.potentials.chgnet_model import answer, graph_of, load_chgnet, save_chgnet, shipped_model
from pwact_like.potentials.device import device_of
from pwact_like.potentials.evaluation import labelled_frames
from pwact_like.potentials.learning_curve import LearningCurve
from pwact_like.potentials.loss import Prefactors, SquaredErrors, learning_rate, prefactors
from pwact_like.potentials.training import CURVE_NAME, LOG_NAME, MODEL_NAME, TEST_NAME, TrainLog, TrainResult
from pwact_like.seeds import derive_seed
from pwact_like.time_limit import TimeLimit, out_of_time

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings

CHECKPOINT = "checkpoint.pt"


@dataclass(eq=False)
class Sample:
    """A labelled frame: energy eV, forces (n, 3) eV/Å, virial (3, 3) eV or None."""

    graph: Any
    numbers: tuple[int, ...]
    energy: float
    forces: Tensor
    virial: Tensor | None


def train_chgnet(
    settings: TrainSettings, folder: Path, *, init_model: Path | None = None, device: str | None = None, progress: bool | None = None
) -> TrainResult:
    """Fine-tune on ``settings.train_data``; leave model.pt, lcurve.csv, train.log and, with test data, test.json in ``folder``.

    A training that was cut off goes on after its last whole epoch, and ends with the same bits (on the CPU, with the same number
    of threads).

    Parameters
    ----------
    init_model
        A fine-tuned model to go on from, instead of the shipped weights.
    device
        torch device; None: a GPU if there is one.

    Raises
    ------
    NotAvailableError
        Without chgnet, or for another optimizer than Adam.
    InputError, DataError
        Naming file and cure.
    JobError
        When the errors are no longer finite.
    """
    if settings.optimizer.name != "ADAM":
        raise NotAvailableError(f"train.optimizer {settings.optimizer.name}: CHGNet is fine-tuned with ADAM; leave it out, or name that")
    folder.mkdir(parents=True, exist_ok=True)
    log = TrainLog(folder / LOG_NAME)
    where = device_of(device)
    seed = settings.seed or 0
    model = load_chgnet(init_model)[0] if init_model is not None else shipped_model(settings.chgnet.weights)
    train, valid, test = (
        _samples(model, paths, settings.atom_type, log, where) for paths in (settings.train_data, settings.valid_data, settings.test_data)
    )
    if not train:
        raise InputError(Problem("train_data", "there is no labelled frame in it", "give at least one"))
    if settings.optimizer.train_virial and not any(sample.virial is not None for sample in train):
        raise DataError("train_virial is true, and no training frame has a virial: set it to false, or give data with virials")
    if init_model is None and settings.chgnet.spread:
        _spread(model, settings.chgnet.spread, seed)
    model.to(where)
    _fit_references(model, train, log)
    for parameter in model.composition_model.parameters():
        parameter.requires_grad_(False)
    log(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {where}, seed {seed}")
    log(f"{len(train)} training, {len(valid)} validation, {len(test)} test frames; from {init_model or settings.chgnet.weights}")
    run = _Run(settings, folder, seed, model, train, valid, log)
    seconds = run.epochs(progress)
    model.eval()
    judged = {name: errors_on(model, sets).report(len(sets)) if sets else None for name, sets in (("valid", valid), ("test", test))}
    facts = {"seed": seed, "steps": run.n_steps, "train_frames": len(train), "valid": judged["valid"], "warm_start": init_model is not None}
    save_chgnet(folder / MODEL_NAME, model, settings.atom_type, facts | {"weights": settings.chgnet.weights})
    if judged["test"] is not None:
        write_json(folder / TEST_NAME, judged["test"])
    (folder / CHECKPOINT).unlink(missing_ok=True)
    log(f"done: {seconds * 1e3:.0f} ms a step; validation {judged['valid']}; test {judged['test']}")
    return TrainResult(folder / MODEL_NAME, folder / CURVE_NAME, run.n_steps, judged["valid"], judged["test"], seconds)


def _samples(model: Any, paths: Sequence[Any], elements: Sequence[int], log: TrainLog, where: torch.device) -> list[Sample]:
    found = []
    for place, frame in labelled_frames(paths, log):
        assert frame.label is not None
        numbers = tuple(int(number) for number in frame.atoms.numbers)
        if set(numbers) - set(elements):
            raise DataError(f"{place}: holds the elements {sorted(set(numbers) - set(elements))}, which atom_type does not name")
        try:
            graph = graph_of(model, frame.atoms).to(where)
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
        virial = None if frame.label.virial_ev is None else torch.tensor(frame.label.virial_ev, dtype=torch.float32, device=where)
        forces = torch.tensor(frame.label.forces_ev_per_ang, dtype=torch.float32, device=where)
        found.append(Sample(graph, numbers, float(frame.label.energy_ev), forces, virial))
    return found


def _spread(model: Any, share: float, seed: int) -> None:
    """Move every weight at random, by this share of its array's spread: members of a committee must not begin as one."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "spread"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.numel() > 1 and not name.startswith("composition_model."):
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(noise * (share * float(parameter.std())))


def _fit_references(model: Any, train: Sequence[Sample], log: TrainLog) -> None:
    """Shift the elements' energies so that the mean errors of the training energies vanish (the shortest shift that does)."""
    reference = getattr(model.composition_model, "fc", None)
    if reference is None:
        raise DataError("these weights of CHGNet have no energies of the elements that could be fitted")
    model.eval()
    elements = sorted({number for sample in train for number in sample.numbers})
    counts = np.array([[sample.numbers.count(number) for number in elements] for sample in train], dtype=np.float64)
    missing = np.array([sample.energy - float(answer(model, [sample.graph], virials=False).energies[0].detach()) for sample in train])
    n_atoms = counts.sum(axis=1)
    shift = np.linalg.lstsq(counts / n_atoms[:, None], missing / n_atoms, rcond=1e-6)[0]
    with torch.no_grad():
        for number, value in zip(elements, shift.tolist(), strict=True):
            reference.weight[0, number - 1] += value
    log(f"energies of the elements {elements} shifted by {np.round(shift, 4).tolist()} eV")


def loss_of(model: Any, batch: Sequence[Sample], weights: Prefactors) -> tuple[Tensor, SquaredErrors]:
    """Loss of a batch (see above) and its squared errors."""
    wants_virial = any(sample.virial is not None for sample in batch)
    said = answer(model, [sample.graph for sample in batch], virials=wants_virial)
    terms, total, first = [], SquaredErrors(), 0
    for index, sample in enumerate(batch):
        n_atoms = len(sample.numbers)
        energy = (said.energies[index] - sample.energy).square()
        force = (said.forces[first : first + n_atoms] - sample.forces).square().sum()
        first += n_atoms
        term = weights.energy * energy / n_atoms + weights.force * force / (3 * n_atoms)
        virial = None
        if sample.virial is not None and said.virials is not None:
            virial = (said.virials[index] - sample.virial).square().sum()
            term = term + weights.virial * virial / (9 * n_atoms)
        terms.append(term)
        total = total + SquaredErrors(
            float(energy.detach()) / n_atoms**2,
            float(force.detach()),
            0.0 if virial is None else float(virial.detach()) / n_atoms**2,
            1,
            3 * n_atoms,
            0 if virial is None else 9,
        )
    return torch.stack(terms).mean(), total


def errors_on(model: Any, samples: Sequence[Sample]) -> SquaredErrors:
    """Squared errors on frames, one at a time."""
    total = SquaredErrors()
    for sample in samples:
        total = total + loss_of(model, [sample], Prefactors(0.0, 0.0, 0.0))[1]
    return total


class _Run:
    """The epochs of one training."""

    def __init__(
        self, settings: TrainSettings, folder: Path, seed: int, model: Any, train: list[Sample], valid: list[Sample], log: TrainLog
    ) -> None:
        self._settings, self._folder, self._model, self._log = settings.optimizer, folder, model, log
        self._train, self._valid = train, valid
        self._order_seed = derive_seed(seed, "order")
        self._batch_size = min(settings.optimizer.batch_size, len(train))
        self._per_epoch = -(-len(train) // self._batch_size)
        self.n_steps = settings.optimizer.epochs * self._per_epoch
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        decay = settings.optimizer.weight_decay
        self._adam = torch.optim.AdamW(trained, lr=settings.optimizer.learning_rate, weight_decay=decay)
        digest = hashlib.sha256(json.dumps([settings.optimizer.model_dump(mode="json"), seed, len(train)]).encode())
        for tensor in model.state_dict().values():
            digest.update(tensor.detach().cpu().numpy().tobytes())
        self._key = digest.hexdigest()
        self._done, rows = self._resume()
        self._curve = LearningCurve(folder / CURVE_NAME, rows)

    def _resume(self) -> tuple[int, str]:
        """Whole epochs that were done, and the curve's rows."""
        path = self._folder / CHECKPOINT
        if not path.is_file():
            return 0, ""
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            self._log(f"{path} cannot be read ({error}): the training begins anew")
            return 0, ""
        if found.get("key") != self._key:
            self._log(f"{path} is of another training: this one begins anew")
            return 0, ""
        self._model.load_state_dict(found["model"])
        self._adam.load_state_dict(found["adam"])
        self._log(f"going on after epoch {found['epochs']}")
        return int(found["epochs"]), str(found["rows"])

    def _save(self) -> None:
        content = {"key": self._key, "epochs": self._done, "rows": self._curve.rows}
        content |= {"model": self._model.state_dict(), "adam": self._adam.state_dict()}
        write_through(self._folder / CHECKPOINT, lambda path: torch.save(content, path))

    def epochs(self, progress: bool | None) -> float:
        """Train the epochs that are left; returns the wall time of a step in seconds."""
        began, first = time.monotonic(), self._done * self._per_epoch
        limit = TimeLimit()
        hidden = None if progress is None else not progress
        with tqdm(total=self.n_steps, initial=first, unit="step", file=sys.stderr, disable=hidden) as bar:
            while self._done < self._settings.epochs:
                self._epoch(bar, limit)
        return (time.monotonic() - began) / max(1, self.n_steps - first)

    def _epoch(self, bar: Any, limit: TimeLimit) -> None:
        order = np.random.default_rng([self._order_seed, self._done]).permutation(len(self._train))
        self._model.train()
        trained, rate = SquaredErrors(), 0.0
        for place in range(self._per_epoch):
            if limit.is_near:
                raise out_of_time(f"stopped in epoch {self._done + 1} of {self._settings.epochs}")
            step = self._done * self._per_epoch + place
            rate = learning_rate(self._settings, step, self.n_steps)
            for group in self._adam.param_groups:
                group["lr"] = rate
            batch = [self._train[index] for index in order[place * self._batch_size : (place + 1) * self._batch_size]]
            loss, errors = loss_of(self._model, batch, prefactors(self._settings, rate))
            if not bool(torch.isfinite(loss)):
                raise JobError(f"the errors are not finite in epoch {self._done + 1}: lower learning_rate")
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()
            trained = trained + errors
            bar.update()
        self._done += 1
        valid = None
        if self._valid:
            self._model.eval()
            valid = errors_on(self._model, self._valid)
        self._curve.add(self._done * self._per_epoch, self._done, rate, trained, valid)
        self._log(f"epoch {self._done}: training {trained.rmse()}; validation {valid.rmse() if valid else None}")
        if self._done < self._settings.epochs:
            self._save()
