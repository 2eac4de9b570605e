"""Pairs of predicted uncertainty and true error on labelled frames: of committees, KPU and committees from one training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.frames import Frame
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.potentials.committee import Committee
from pwact_like.potentials.drawn_pairs import DrawnPairs
from pwact_like.potentials.evaluation import Log, labelled_frames
from pwact_like.potentials.kpu_file import NAME, AnotherModelsError, SelfAware, read_knowledge
from pwact_like.potentials.members import refuse_members
from pwact_like.potentials.modelfile import read_model
from pwact_like.uncertainty.calibration import IDENTITY, Calibration, Pairs, calibrate
from pwact_like.uncertainty.committee import force_deviation
from pwact_like.uncertainty.few_draws import for_draws
from pwact_like.uncertainty.table import COMMITTEE, KPU

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.potentials.deep_potential import DeepPotential


@dataclass(frozen=True, eq=False)
class Method:
    """One way to an uncertainty.

    Attributes
    ----------
    name
        For people: committee, kpu or kpu-committee, with the model's path where there are several.
    models
        The models whose mean is judged; one for KPU.
    aware
        What a KPU comes from; None for a committee.
    calibration
        In force: that of kpu.pt; a committee's deviation counts as it is, unless it was calibrated here.
    """

    name: str
    models: tuple[DeepPotential, ...]
    aware: SelfAware | None
    calibration: Calibration


def methods_of(paths: Sequence[Path], kpu: Path | None = None, *, exact: bool = False) -> list[Method]:
    """What can be judged of some models: their deviation when there are several, and the KPU of each that has a kpu.pt of its own.

    Parameters
    ----------
    kpu
        The kpu.pt of the only model; None: the one beside each model.

    Raises
    ------
    InputError
        When there is neither a committee nor a kpu.pt, or a committee would hold members that are none without their factor.
    """
    read = [(path, *read_model(path)) for path in paths]
    models = [model for _, model, _ in read]
    found = []
    if len(models) > 1:
        refuse_members((path, header) for path, _, header in read)
        found.append(Method(COMMITTEE, tuple(models), None, IDENTITY))
    for path, model in zip(paths, models, strict=True):
        place = kpu if kpu is not None and len(paths) == 1 else path.parent / NAME
        if not place.is_file() and kpu is None:
            continue
        try:
            knowledge = read_knowledge(place, model)
        except AnotherModelsError:
            if kpu is not None or len(paths) == 1:
                raise
            continue  # copied beside another model's
        kind = "kpu-committee" if knowledge.members else f"kpu ({knowledge.posterior})"
        name = kind if len(paths) == 1 else f"{kind} {path}"
        aware = SelfAware(model, knowledge, exact=exact, where=str(place))
        found.append(Method(name, (model,), aware, aware.calibration))
    if not found:
        raise InputError(
            Problem(
                " ".join(map(str, paths)),
                f"one model without a {NAME} beside it knows nothing of its errors",
                'give several models, or train with "uncertainty" in TRAIN.json',
            )
        )
    return found


def judged_pairs(method: Method, paths: Sequence[DataPath], log: Log, device: str | None = None) -> Pairs:
    """Predicted variance (before calibration) and true error of the force on every atom of labelled frames.

    A committee's error is that of its first model, which drives the MD.
    """
    return pairs_of_frames(method, labelled_frames(paths, log), device)


def pairs_of_frames(method: Method, frames: Iterator[tuple[str, Frame]], device: str | None = None) -> Pairs:
    """`judged_pairs` for frames with their places."""
    committee = Committee(method.models, device)
    variances, errors, numbers = [], [], []
    for index, (where, frame) in enumerate(frames):
        assert frame.label is not None
        try:
            said = committee.compute(frame.atoms)
            variance = force_deviation(said.forces) ** 2 if method.aware is None else _kpu(committee, method.aware, frame)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        variances.append(variance)
        errors.append(np.linalg.norm(said.forces[0] - frame.label.forces_ev_per_ang, axis=1))
        numbers.append(np.full(len(variance), index))
    if not variances:
        raise DataError("no labelled frame to judge an uncertainty by")
    return Pairs(np.concatenate(variances), np.concatenate(errors), np.concatenate(numbers))


def _kpu(committee: Committee, aware: SelfAware, frame: Frame) -> NDArray[np.float64]:
    return aware.variances(committee.geometry(frame.atoms)).force


def calibrated(method: Method, paths: Sequence[DataPath], log: Log, device: str | None = None) -> Method:
    """The method with a calibration on other labelled data (which its models must not have been trained on)."""
    if method.aware is not None and not method.aware.is_exact:
        return _calibrated_draws(method, method.aware, paths, log, device)
    pairs = judged_pairs(method, paths, log, device)
    kind = COMMITTEE if method.aware is None else KPU
    return Method(method.name, method.models, method.aware, calibrate(pairs.variance, pairs.error, pairs.frame, kind=kind))


def _calibrated_draws(method: Method, aware: SelfAware, paths: Sequence[DataPath], log: Log, device: str | None) -> Method:
    committee, collected = Committee(method.models, device), DrawnPairs(aware.model, aware.knowledge.reference, aware.knowledge.samples)
    for where, frame in labelled_frames(paths, log):
        assert frame.label is not None
        try:
            forces = committee.compute(frame.atoms).forces[0]
            collected.add(committee.geometry(frame.atoms), np.linalg.norm(forces - frame.label.forces_ev_per_ang, axis=1))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    if not collected.n_frames:
        raise DataError("no labelled frame to judge an uncertainty by")
    pairs = collected.pairs()
    exact = calibrate(pairs.variance, pairs.error, pairs.frame, scatter=pairs.scatter, kind=KPU)
    return Method(method.name, method.models, aware, for_draws(exact, pairs, collected.drawn))
