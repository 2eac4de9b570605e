"""Training a Deep Potential, with a Kalman filter or with Adam."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from pwact_like.config.elements import symbol
from pwact_like.config.train import KPU_FILE, UNCERTAINTY_FILE
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.fsio import delete_with_ledger, write_json
from pwact_like.potentials import checkpoint
from pwact_like.potentials.checkpoint import Progress, parameters_digest, write_checkpoint
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.device import device_of
from pwact_like.potentials.evaluation import errors_of, judge_files, labelled_frames
from pwact_like.potentials.learning_curve import LearningCurve
from pwact_like.potentials.loss import SquaredErrors
from pwact_like.potentials.modelfile import save_model
from pwact_like.potentials.self_knowledge import hold_out, learn_errors
from pwact_like.potentials.start import find_start, new_model, refuse_unbuilt
from pwact_like.potentials.statistics import aligned_atomic_energies, complete
from pwact_like.potentials.steppers import Stepper, new_stepper, stepper_facts
from pwact_like.potentials.training_set import TrainingFrame, TrainingSet, content_hash, prepare_frames
from pwact_like.seeds import derive_seed
from pwact_like.time_limit import TimeLimit, out_of_time

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings

MODEL_NAME, CURVE_NAME, LOG_NAME, TEST_NAME = "model.pt", "lcurve.csv", "train.log", "test.json"
_VALIDATION_SHARE = 0.25  # of a training's visits to frames that validation may add


@dataclass(frozen=True)
class TrainResult:
    """What a training left.

    Attributes
    ----------
    model, learning_curve
        Paths.
    n_steps
        Steps of the whole training.
    valid, test
        Errors on validation and test data (keys of ``pwact-like eval --json``); None without such data.
    seconds_per_step
        Wall time of a step of this process, validation and checkpoints included.
    """

    model: Path
    learning_curve: Path
    n_steps: int
    valid: dict[str, Any] | None
    test: dict[str, Any] | None
    seconds_per_step: float


class TrainLog:
    """train.log: lines with the time of day."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, text: str) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def train(
    settings: TrainSettings,
    folder: Path,
    *,
    init_model: Path | None = None,
    device: str | None = None,
    progress: bool | None = None,
    checkpoint_interval_s: float = 60.0,
    max_steps: int | None = None,
) -> TrainResult:
    """Train on ``settings.train_data``; leave model.pt, lcurve.csv, train.log and, with test data, test.json in ``folder``.

    The training continues from ``folder/checkpoint.pt`` where there is one of the same settings, data and seed, and ends
    with the same bits as without the interruption (on the CPU, with the same number of threads). The checkpoint goes
    when all is written.

    Parameters
    ----------
    settings
        Data paths included; ``seed`` None means 0.
    init_model
        Model to start from: its weights, davg, dstd, energy bias and sel are carried over. An element that its training
        has never met gets davg, dstd, energy bias and the filter's coordinates from the new frames (`statistics.complete`).
    device
        torch device; None: a GPU if there is one.
    progress
        Progress bar on stderr; None: when that is a terminal.
    checkpoint_interval_s
        Seconds between checkpoints; 0: after every step.
    max_steps
        Stop after so many steps of this call, leaving a checkpoint (for tests of resuming).

    Raises
    ------
    NotAvailableError
        For a model type or an optimizer that is not built here.
    InputError, DataError
        Naming file and cure.
    JobError
        When the errors are no longer finite.
    """
    refuse_unbuilt(settings)
    where = device_of(device)
    folder.mkdir(parents=True, exist_ok=True)
    log = TrainLog(folder / LOG_NAME)
    seed = settings.seed or 0

    start = find_start(settings, init_model)
    train_frames = prepare_frames(labelled_frames(settings.train_data, log), start.spec)
    valid_frames = prepare_frames(labelled_frames(settings.valid_data, log), start.spec)
    if not train_frames:
        raise InputError(Problem("train_data", "there is no labelled frame in it", "give at least one"))
    if settings.uncertainty is not None and not valid_frames:
        train_frames, valid_frames = hold_out(train_frames, settings.uncertainty.valid_share, seed)
        log(f"{len(valid_frames)} training frames are held out to calibrate the uncertainty (no valid_data)")
    model = start.model or new_model(start.spec, train_frames, seed)
    spec = model.spec
    new_types = complete(model, train_frames) if start.model is not None else []
    if new_types:
        names = ", ".join(symbol(spec.type_map[kind]) for kind in new_types)
        log(f"{names}: new to {init_model}; davg, dstd and energy bias come from these frames, the other elements' are carried on")
    _log_beginning(log, settings, model, train_frames, valid_frames, seed, init_model, where)

    if settings.optimizer.train_ei:
        train_frames = aligned_atomic_energies(train_frames, model.energy_bias)
    model.to(where)
    training = TrainingSet(train_frames, spec, model.davg, model.dstd, where)
    optimizer = settings.optimizer
    per_epoch = -(-len(training) // min(optimizer.batch_size, len(training)))
    n_steps = optimizer.epochs * per_epoch
    stepper = new_stepper(optimizer, model, training, seed, start.scalings, n_steps, is_fresh=start.model is None, new_types=new_types)
    validation = TrainingSet(valid_frames, spec, model.davg, model.dstd, where) if valid_frames else None
    key = _key(settings, seed, model, train_frames, valid_frames)
    run = _Run(settings, folder, seed, key, model, stepper, training, validation, log, checkpoint_interval_s)
    seconds = run.steps(progress, max_steps)

    result = TrainResult(folder / MODEL_NAME, folder / CURVE_NAME, run.n_steps, None, None, seconds)
    if run.done < run.n_steps:
        return result
    valid = errors_of(model, validation).report(len(valid_frames)) if validation else None
    kept: set[str] = set()
    if settings.uncertainty is not None and validation is not None:
        run.save()  # what follows may take minutes, and would cost the whole training if it were cut off
        kept = {KPU_FILE, UNCERTAINTY_FILE, *learn_errors(model, training, validation, stepper, settings, folder, log).members}
    _remove_stale(folder, kept, log)
    facts = {"seed": seed, "steps": run.n_steps, "train_frames": len(train_frames), "valid": valid, "warm_start": init_model is not None}
    model.to("cpu")
    save_model(folder / MODEL_NAME, model, facts | stepper_facts(stepper), stepper.scalings())
    test = judge_files(model, settings.test_data, log) if settings.test_data else None
    if test is not None:
        write_json(folder / TEST_NAME, test)
    (folder / checkpoint.NAME).unlink(missing_ok=True)
    log(f"done: {seconds * 1e3:.2f} ms a step, {time.process_time():.1f} s of processor time; validation {valid}; test {test}")
    return replace(result, valid=valid, test=test)


def _remove_stale(folder: Path, kept: set[str], log: TrainLog) -> None:
    """Remove what an earlier training in this folder has left beside its model: it would speak of the new one.

    What goes is written to the folder's ledger first. Just before the model itself is replaced: until then it belongs to what lies there.
    """
    names = {KPU_FILE, UNCERTAINTY_FILE, TEST_NAME, *(path.name for path in folder.glob("member.[0-9][0-9][0-9].pt"))}
    stale = sorted(name for name in names - kept if (folder / name).exists())
    if stale:
        log(f"{', '.join(stale)}: left by an earlier training in this folder, removed")
        delete_with_ledger(folder, [folder / name for name in stale], "left by an earlier training in this folder")


def _key(
    settings: TrainSettings, seed: int, model: DeepPotential, train_frames: Sequence[TrainingFrame], valid_frames: Sequence[TrainingFrame]
) -> str:
    """What a checkpoint must agree with: everything that decides the course of the training."""
    parts = [
        settings.optimizer.model_dump(mode="json"),
        seed,
        parameters_digest(model),
        content_hash(train_frames),
        content_hash(valid_frames),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Run:
    """The steps of one training."""

    def __init__(
        self,
        settings: TrainSettings,
        folder: Path,
        seed: int,
        key: str,
        model: DeepPotential,
        stepper: Stepper,
        training: TrainingSet,
        validation: TrainingSet | None,
        log: TrainLog,
        checkpoint_interval_s: float,
    ) -> None:
        self._optimizer_settings = settings.optimizer
        self._path = folder / checkpoint.NAME
        self._order_seed = derive_seed(seed, "order")
        self._key, self._log, self._interval_s = key, log, checkpoint_interval_s
        self._model, self._stepper, self._training, self._validation = model, stepper, training, validation
        batch_size = min(settings.optimizer.batch_size, len(training))
        self._batch_size = batch_size
        self._per_epoch = -(-len(training) // batch_size)
        self.n_steps = settings.optimizer.epochs * self._per_epoch
        self._validate_every = 0 if validation is None else max(1, round(len(validation) / (_VALIDATION_SHARE * len(training))))
        found = checkpoint.resume(self._path, key, stepper)
        self.done = found.step if found else 0
        self._trained = found.trained if found else SquaredErrors()
        self._curve = LearningCurve(folder / CURVE_NAME, found.rows if found else "")
        self._log(f"{self.n_steps} steps of {batch_size} frame(s)" + (f", going on after step {self.done}" if found else ""))

    def steps(self, progress: bool | None, max_steps: int | None) -> float:
        """Do the steps that are left; returns the wall time of one in seconds."""
        last = self.n_steps if max_steps is None else min(self.n_steps, self.done + max_steps)
        first, began = self.done, time.monotonic()
        saved_at = began
        hidden = None if progress is None else not progress  # None: shown on a terminal only
        with tqdm(total=self.n_steps, initial=self.done, unit="step", file=sys.stderr, disable=hidden) as bar:
            limit = TimeLimit()
            while self.done < last:
                self._step(bar)
                if limit.is_near and self.done < self.n_steps:
                    self.save()
                    raise out_of_time(f"stopped after step {self.done} of {self.n_steps}")
                now = time.monotonic()
                if now - saved_at >= self._interval_s and self.done < self.n_steps:
                    self.save()
                    saved_at = now
        if self.done < self.n_steps:
            self.save()
        return (time.monotonic() - began) / max(1, self.done - first)

    def save(self) -> None:
        """Write the checkpoint."""
        write_checkpoint(self._path, self._key, self._stepper, Progress(self.done, self._curve.rows, self._trained))

    def _order(self, epoch: int) -> list[int]:
        return [int(index) for index in np.random.default_rng([self._order_seed, epoch]).permutation(len(self._training))]

    def _step(self, bar: Any) -> None:
        epoch, place = divmod(self.done, self._per_epoch)
        if place == 0 or not hasattr(self, "_epoch_order"):
            self._epoch_order = self._order(epoch)
        batch = self._training.batch(self._epoch_order[place * self._batch_size : (place + 1) * self._batch_size])
        errors = self._stepper.step(batch, self.done)
        self.done += 1
        if self.done == self.n_steps:
            self._stepper.finish()
        self._trained = self._trained + errors
        bar.update()
        self._record(bar, epoch, place)

    def _record(self, bar: Any, epoch: int, place: int) -> None:
        at_end = self.done == self.n_steps
        epoch_ends = place == self._per_epoch - 1
        validate = self._validation is not None and epoch_ends and ((epoch + 1) % self._validate_every == 0 or at_end)
        if not (validate or at_end or self.done % self._optimizer_settings.print_freq == 0):
            return
        valid = errors_of(self._model, self._validation) if validate and self._validation is not None else None
        rate = self._stepper.rate
        self._curve.add(self.done, epoch + 1, rate, self._trained, valid)
        energy, force, _ = self._trained.rmse()
        bar.set_postfix_str(f"E {1e3 * (energy or 0):.2f} meV/atom, F {force or 0:.4f} eV/Å", refresh=False)
        if validate or at_end:
            place_text = f"step {self.done}, epoch {epoch + 1}, {self._stepper.rate_name} {rate:.6g}"
            text = f"{place_text}: training E {energy:.6f} eV/atom, F {force:.6f} eV/Å"
            if valid is not None:
                text += "; validation E {:.6f} eV/atom, F {:.6f} eV/Å".format(*valid.rmse()[:2])
            self._log(text)
        self._trained = SquaredErrors()


def _log_beginning(
    log: TrainLog,
    settings: TrainSettings,
    model: DeepPotential,
    train_frames: Sequence[TrainingFrame],
    valid_frames: Sequence[TrainingFrame],
    seed: int,
    init_model: Path | None,
    device: torch.device,
) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    n_virials = sum(frame.virial_ev is not None for frame in train_frames)
    log(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {device}, seed {seed}")
    log(f"{len(train_frames)} training frames ({n_virials} with a virial), {len(valid_frames)} validation frames")
    log(f"{model.spec}; {count} weights" + (f"; from {init_model}" if init_model else ""))
    log(f"davg {model.davg.tolist()}, dstd {model.dstd.tolist()}, energy bias (eV) {model.energy_bias.tolist()}")
    log(f"{settings.optimizer}")
    if settings.optimizer.train_virial and n_virials == 0:
        raise DataError("train_virial is true, and no training frame has a virial: set it to false, or give data with virials")
    if settings.optimizer.train_ei and not any(frame.atomic_energies_ev is not None for frame in train_frames):
        raise DataError("train_ei is true, and no training frame has atomic energies: set it to false, or give PWmat's MOVEMENT files")
