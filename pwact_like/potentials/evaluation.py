"""Errors of models on labelled data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pwact_like.data.frames import Frame
from pwact_like.errors import DataError
from pwact_like.potentials.committee import Committee
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.loss import Prefactors, SquaredErrors, loss_and_errors
from pwact_like.potentials.training_set import TrainingSet

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath

Log = Callable[[str], None]


def errors_of(model: DeepPotential, data: TrainingSet) -> SquaredErrors:
    """Errors of a model on prepared frames."""
    total = SquaredErrors()
    weights = Prefactors(0.0, 0.0, 0.0)
    with torch.no_grad():
        for index in range(len(data)):
            batch = data.batch([index])
            result = model(batch.geometry, virials=bool(data.frames[index].virial_ev is not None))
            total = total + loss_and_errors(result, batch, weights)[1]
    return total


def labelled_frames(paths: Sequence[DataPath], log: Log) -> Iterator[tuple[str, Frame]]:
    """Labelled frames of data paths, each with its place; what a reader leaves out is logged."""
    from pwact_like.data.formats import read_labelled

    for data in paths:
        found = read_labelled(data.path, data.format, virial_sign=data.virial_sign)
        if found.rejected:
            index, reason = found.rejected[0]
            log(f"{data.path}: {len(found.rejected)} frame(s) left out; the first: frame {index}: {reason}")
        left_out = {index for index, _ in found.rejected}
        places = (index for index in range(len(found.frames) + len(left_out)) if index not in left_out)
        for index, frame in zip(places, found.frames, strict=True):
            yield f"{data.path}: frame {index}", frame


@dataclass(eq=False)
class Predictions:
    """What K models say of labelled frames; see `arrays` for names and shapes."""

    names: list[str]
    sources: list[str] = field(default_factory=list)
    numbers: list[NDArray[np.int64]] = field(default_factory=list)
    energies: list[NDArray[np.float64]] = field(default_factory=list)
    forces: list[NDArray[np.float64]] = field(default_factory=list)
    virials: list[NDArray[np.float64]] = field(default_factory=list)
    label_energies: list[float] = field(default_factory=list)
    label_forces: list[NDArray[np.float64]] = field(default_factory=list)
    label_virials: list[NDArray[np.float64]] = field(default_factory=list)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays as they are saved.

        ``energies_ev`` (K, n_frames), ``forces_ev_per_ang`` (K, n_atoms of all frames, 3), ``virials_ev``
        (K, n_frames, 3, 3); the labels under the same names after ``label_``, without K (virials NaN where there is
        none); ``n_atoms`` (n_frames,), ``numbers`` (n_atoms of all frames,), ``models`` and ``sources`` (file and frame).
        """
        return {
            "energies_ev": np.stack(self.energies, axis=1),
            "forces_ev_per_ang": np.concatenate(self.forces, axis=1),
            "virials_ev": np.stack(self.virials, axis=1),
            "label_energies_ev": np.array(self.label_energies),
            "label_forces_ev_per_ang": np.concatenate(self.label_forces),
            "label_virials_ev": np.stack(self.label_virials),
            "n_atoms": np.array([len(numbers) for numbers in self.numbers]),
            "numbers": np.concatenate(self.numbers),
            "models": np.array(self.names),
            "sources": np.array(self.sources),
        }

    def report(self, member: int | None = None) -> dict[str, Any]:
        """RMSEs of one model, or of the mean of all."""
        arrays = self.arrays()

        def of(name: str) -> NDArray[np.float64]:
            values: NDArray[np.float64] = arrays[name]
            return values.mean(axis=0) if member is None else values[member]

        n_atoms = arrays["n_atoms"]
        d_virial = (of("virials_ev") - arrays["label_virials_ev"]) / n_atoms[:, None, None]
        d_virial = d_virial[np.isfinite(arrays["label_virials_ev"]).all(axis=(1, 2))]
        return {
            "n_frames": len(n_atoms),
            "energy_rmse_ev_per_atom": _rms((of("energies_ev") - arrays["label_energies_ev"]) / n_atoms),
            "force_rmse_ev_per_ang": _rms(of("forces_ev_per_ang") - arrays["label_forces_ev_per_ang"]),
            "virial_rmse_ev_per_atom": _rms(d_virial) if d_virial.size else None,
        }


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def predict_files(committee: Committee, names: Sequence[str], paths: Sequence[DataPath], log: Log) -> Predictions:
    """Predictions of a committee for every labelled frame.

    Raises
    ------
    DataError
        When there is no labelled frame, or a structure that the models cannot take; naming file and frame.
    """
    predictions = Predictions(list(names))
    for where, frame in labelled_frames(paths, log):
        assert frame.label is not None
        try:
            said = committee.compute(frame.atoms)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        predictions.sources.append(where)
        predictions.numbers.append(np.asarray(frame.atoms.numbers))
        predictions.energies.append(said.energies_ev)
        predictions.forces.append(said.forces)
        predictions.virials.append(said.virials)
        predictions.label_energies.append(frame.label.energy_ev)
        predictions.label_forces.append(frame.label.forces_ev_per_ang)
        virial = frame.label.virial_ev
        predictions.label_virials.append(np.full((3, 3), np.nan) if virial is None else np.asarray(virial))
    if not predictions.sources:
        listed = ", ".join(str(data.path) for data in paths)
        raise DataError(f"{listed}: no labelled frame to judge a model by")
    return predictions


def judge_files(model: DeepPotential, paths: Sequence[DataPath], log: Log) -> dict[str, Any]:
    """RMSEs of one model on labelled data, under the names of ``pwact-like eval --json``."""
    return predict_files(Committee([model]), ["model"], paths, log).report(0)


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions and labels as an npz file (atomically)."""
    from pwact_like.fsio import write_through

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **predictions.arrays())

    write_through(path, write)
