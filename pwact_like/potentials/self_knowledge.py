"""What a training learns of its own model's errors: covariance of the weights, draws of it, calibration, committee members.

The scale is fitted to variances of many draws of the weights, and belongs to the covariance itself; what the few draws (or
members) that MD works with need besides is measured with these very draws (see `uncertainty.few_draws`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pwact_like.errors import InputError, Problem
from pwact_like.fsio import write_json
from pwact_like.potentials.block_matrix import BlockMatrix, sample_covariance
from pwact_like.potentials.coordinates import Coordinates, descriptor_scalings
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.drawn_pairs import REFERENCE_DRAWS, DrawnPairs
from pwact_like.potentials.evaluation import labelled_frames
from pwact_like.potentials.kpu import Uncertainty
from pwact_like.potentials.kpu_file import NAME, Knowledge, read_knowledge, save_knowledge
from pwact_like.potentials.linear_committee import centred, linear_committee
from pwact_like.potentials.modelfile import read_model, save_model
from pwact_like.potentials.optimizer import parameter_layout
from pwact_like.potentials.posterior import LastLayer, Noise, laplace_posterior, residual_noise
from pwact_like.potentials.steppers import KalmanStepper, Stepper, parameter_blocks
from pwact_like.potentials.training_set import Batch, TrainingFrame, TrainingSet, prepare_frames
from pwact_like.seeds import derive_seed
from pwact_like.uncertainty.calibration import Calibration, Pairs, calibrate, recalibrate
from pwact_like.uncertainty.few_draws import for_draws
from pwact_like.uncertainty.suggestion import levels_from_calibration

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.config.train import Optimizer, TrainSettings, UncertaintySettings

SUMMARY_NAME = "uncertainty.json"
_LINEARITY_FRAMES = 4  # structures on which a committee's steps must be linear
_LEAST_HELD_OUT = 2

Log = Callable[[str], None]


def member_name(number: int) -> str:
    """File of a committee's member."""
    return f"member.{number:03d}.pt"


def hold_out(frames: Sequence[TrainingFrame], share: float, seed: int) -> tuple[list[TrainingFrame], list[TrainingFrame]]:
    """Training frames and those held out to calibrate the uncertainty, when there is no validation data.

    Raises
    ------
    InputError
        When too few frames are left to train on.
    """
    count = max(_LEAST_HELD_OUT, round(share * len(frames)))
    if len(frames) < 2 * count:
        raise InputError(
            Problem("train_data", f"{len(frames)} frame(s): {count} would be held out to calibrate the uncertainty", "give valid_data")
        )
    held = np.sort(np.random.default_rng(derive_seed(seed, "held out")).permutation(len(frames))[:count])
    out = set(held.tolist())
    return [frame for index, frame in enumerate(frames) if index not in out], [frames[index] for index in held]


def pairs_of(model: DeepPotential, uncertainty: Uncertainty, data: TrainingSet) -> Pairs:
    """Predicted variance and true error of the force on every atom of labelled frames."""
    variances, errors, numbers = [], [], []
    for index in range(len(data)):
        batch = data.batch([index])
        variances.append(uncertainty.variances(batch.geometry).force)
        errors.append(_force_errors(model, batch))
        numbers.append(np.full(len(variances[-1]), index))
    return Pairs(np.concatenate(variances), np.concatenate(errors), np.concatenate(numbers))


@dataclass(frozen=True, eq=False)
class _Covariance:
    """Draws of the weights (S, n) in θ, to be used and to calibrate by, and P with its coordinates when it is to be kept."""

    samples: Tensor
    reference: Tensor
    matrix: BlockMatrix | None = None
    scalings: dict[str, NDArray[np.float64]] | None = None


def learn_errors(
    model: DeepPotential, training: TrainingSet, validation: TrainingSet, stepper: Stepper, settings: TrainSettings, folder: Path, log: Log
) -> Knowledge:
    """Compute and write kpu.pt, uncertainty.json and, for a committee, its members.

    Raises
    ------
    InputError
        When the filter's own covariance is asked for and Adam has trained.
    DataError
        When the covariance is not positive, or no calibration is possible.
    """
    wanted = settings.uncertainty
    assert wanted is not None
    seed, began = settings.seed or 0, time.monotonic()
    found = _covariance(model, training, stepper, settings, wanted, seed)
    samples, factor, facts = found.samples, 1.0, {"tau": wanted.tau, "samples": len(found.samples), "train_frames": len(training)}
    members: tuple[str, ...] = ()
    if wanted.kind == "kpu-committee":
        chosen = np.unique(np.linspace(0, len(validation) - 1, _LINEARITY_FRAMES).astype(int))
        committee = linear_committee(model, samples, [validation.batch([int(index)]).geometry for index in chosen])
        members = tuple(member_name(number) for number in range(len(committee.members)))
        for name, member in zip(members, committee.members, strict=True):
            save_model(folder / name, member, {"seed": seed, "member_of": "model.pt", "epsilon": committee.epsilon})
        # the deviation of the members about their mean, times the factor, is that of the centred draws
        samples, factor = centred(samples), committee.factor
        facts |= {"epsilon": committee.epsilon, "nonlinearity": committee.nonlinearity}
    drawn = _drawn_pairs(model, found.reference, None if samples is found.reference else samples, validation)
    pairs = drawn.pairs()
    own = calibrate(pairs.variance, pairs.error, pairs.frame, scatter=pairs.scatter, seed=seed)
    labelled = [entry for before in wanted.labelled if (entry := labelled_before(before.model, before.kpu, before.data, log)) is not None]
    exact = recalibrate(own, pairs, labelled, seed=seed) if labelled else own
    calibration = for_draws(exact, pairs, drawn.drawn)
    rms = float(np.sqrt(np.mean(np.concatenate([frame.forces_ev_per_ang.ravel() ** 2 for frame in training.frames]))))
    knowledge = Knowledge(
        posterior=wanted.posterior,
        samples=samples,
        calibration=calibration,
        own_calibration=own,
        exact=exact,
        many=None if found.reference is found.samples else found.reference,
        pairs=replace(pairs, variance=drawn.drawn),
        force_rms_ev_per_ang=rms,
        covariance=found.matrix,
        scalings=found.scalings or {},
        members=members,
        factor=factor,
        facts=facts,
    )
    save_knowledge(folder / NAME, model, knowledge)
    write_json(folder / SUMMARY_NAME, summary(knowledge, wanted.kind, len(labelled)))
    log(f"uncertainty ({wanted.kind}, {wanted.posterior}): {calibration}; {time.monotonic() - began:.1f} s")
    return knowledge


def summary(knowledge: Knowledge, kind: str, n_labellings: int) -> dict[str, Any]:
    """What the master reads of kpu.pt, without torch."""
    values = knowledge.frame_values()
    levels = levels_from_calibration(values)
    return {
        "kind": kind,
        "posterior": knowledge.posterior,
        "calibration": knowledge.calibration.to_dict(),
        "own_calibration": knowledge.own_calibration.to_dict(),
        "exact_calibration": knowledge.exact_calibration.to_dict(),
        "labellings": n_labellings,
        "lower_ev_per_ang": levels.lower,
        "upper_ev_per_ang": levels.upper,
        "force_rms_ev_per_ang": knowledge.force_rms_ev_per_ang,
        "median_value_ev_per_ang": float(np.median(values)),
        "validation_frames": len(values),
        "members": list(knowledge.members),
        "factor": knowledge.factor,
        **{name: value for name, value in knowledge.facts.items() if name in ("epsilon", "nonlinearity")},
    }


def labelled_before(model_path: Path, kpu_path: Path, data: Sequence[DataPath], log: Log) -> tuple[Pairs, Calibration] | None:
    """What an earlier model had said of labels that came later (by its reference draws), and its own calibration; None without labels."""
    model, _ = read_model(model_path)
    knowledge = read_knowledge(kpu_path, model)
    frames = prepare_frames(labelled_frames(data, log), model.spec)
    if not frames:
        return None
    labels = TrainingSet(frames, model.spec, model.davg, model.dstd)
    return _drawn_pairs(model, knowledge.reference, None, labels).pairs(), knowledge.own_calibration


def noise_of(model: DeepPotential, training: TrainingSet, optimizer: Optimizer) -> Noise:
    """Noise of the kinds of labels that the model was trained on; a posterior knows of these and no others."""
    kinds = {"energy": optimizer.train_energy, "force": optimizer.train_force, "virial": optimizer.train_virial}
    return residual_noise(model, training, **kinds)


def _drawn_pairs(model: DeepPotential, reference: Tensor, used: Tensor | None, data: TrainingSet) -> DrawnPairs:
    pairs = DrawnPairs(model, reference, used)
    for index in range(len(data)):
        batch = data.batch([index])
        pairs.add(batch.geometry, _force_errors(model, batch))
    return pairs


def _force_errors(model: DeepPotential, batch: Batch) -> NDArray[np.float64]:
    with torch.no_grad():
        forces = model(batch.geometry).forces
    assert forces is not None
    return np.asarray(torch.linalg.vector_norm(forces[0] - batch.forces, dim=1).cpu().numpy())


def _covariance(
    model: DeepPotential, training: TrainingSet, stepper: Stepper, settings: TrainSettings, wanted: UncertaintySettings, seed: int
) -> _Covariance:
    count = wanted.members if wanted.kind == "kpu-committee" else wanted.samples
    # the draws in use are others than those that they are compared with, unless they are as many
    total = count if count >= REFERENCE_DRAWS and wanted.kind == "kpu" else count + REFERENCE_DRAWS

    def divided(samples: Tensor) -> tuple[Tensor, Tensor]:
        return (samples, samples) if total == count else (samples[:count], samples[count:])

    draw_seed = derive_seed(seed, "kpu")
    if wanted.posterior == "last-layer":
        last = LastLayer(model, training, noise_of(model, training, settings.optimizer), tau=wanted.tau)
        few = last.sample(total, draw_seed)
        n_weights = sum(parameter.numel() for parameter in model.parameters())
        samples = few.new_zeros((total, n_weights))
        samples[:, n_weights - few.shape[1] :] = few  # the output layers come last
        return _Covariance(*divided(samples))
    if wanted.posterior == "filter":
        if not isinstance(stepper, KalmanStepper):
            raise InputError(
                Problem("uncertainty.posterior", f"{settings.optimizer.name} trains, which has no covariance", "use LKF, or laplace")
            )
        covariance = stepper.filter.covariance
        samples = stepper.coordinates.step(sample_covariance(covariance, total, draw_seed))
        kept = BlockMatrix.of(covariance) if wanted.keep_covariance else None
        return _Covariance(*divided(samples), kept, stepper.coordinates.arrays())
    if isinstance(stepper, KalmanStepper):
        coordinates, layout = stepper.coordinates, stepper.filter.layout
    else:
        parameters = parameter_layout(model)
        coordinates = Coordinates(descriptor_scalings(model, training), parameters)
        layout = parameter_blocks(parameters, settings.optimizer.block_size)
    noise = noise_of(model, training, settings.optimizer)
    posterior = laplace_posterior(model, training, layout, noise, tau=wanted.tau, seed=seed, coordinates=coordinates)
    samples = posterior.sample(total, draw_seed)
    kept = posterior.covariance() if wanted.keep_covariance else None
    return _Covariance(*divided(samples), kept, coordinates.arrays())
