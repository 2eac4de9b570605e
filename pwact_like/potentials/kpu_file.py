"""kpu.pt: what a model knows of its own errors, beside the model.

It holds draws of the weights' covariance (KPU by sampling needs no more), more draws to calibrate by, on request the
covariance itself (for exact KPU), the calibrations that make an uncertainty in eV/Å of them, and the pairs of predicted
variance and true error on held-out labels that these were fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pwact_like.errors import DataError, InputError, Problem
from pwact_like.potentials.block_matrix import BlockMatrix
from pwact_like.potentials.checkpoint import parameters_digest
from pwact_like.potentials.coordinates import Coordinates, scalings_from
from pwact_like.potentials.covariance import BlockLayout
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.geometry import Geometry
from pwact_like.potentials.kpu import ExactKpu, SampledKpu, Variances
from pwact_like.potentials.modelfile import SCALING, VERSION, read_arrays, read_model, write_arrays
from pwact_like.potentials.optimizer import parameter_layout
from pwact_like.uncertainty.calibration import Calibration, Pairs

FORMAT = "pwact_like kpu"
NAME = "kpu.pt"


class AnotherModelsError(DataError):
    """The kpu.pt belongs to another model."""


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What kpu.pt holds.

    Attributes
    ----------
    posterior
        laplace, filter or last-layer.
    samples
        (S, n_weights) draws of N(0, P) as changes of the weights.
    calibration
        What is in force for the draws in use: σ² = α²·v + s², v the variance of an atom's force by ``samples`` (or by the members).
    own_calibration
        Of the validation frames alone, for exact variances: the scale of this model's covariance.
    pairs
        Of the validation frames, the variances by the draws in use.
    force_rms_ev_per_ang
        Of the training labels' force components.
    covariance, scalings
        P by blocks and the coordinates that it refers to; None and empty when it was not kept.
    members, factor
        Files of a committee's members beside this one, and what their deviations must be multiplied by.
    member_digests
        Of the members' weights, in the same order: written by `save_knowledge`, filled in by `read_knowledge`.
    facts
        More, for people: prior, frames, seconds.
    exact
        What is in force for exact variances; None (files of older versions, which knew the draws in use only): ``calibration``.
    many
        (64, n_weights) other draws of N(0, P), to compare labels with; None: ``samples``.
    """

    posterior: str
    samples: Tensor
    calibration: Calibration
    own_calibration: Calibration
    pairs: Pairs
    force_rms_ev_per_ang: float
    covariance: BlockMatrix | None = None
    scalings: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    factor: float = 1.0
    member_digests: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    exact: Calibration | None = None
    many: Tensor | None = None

    @property
    def exact_calibration(self) -> Calibration:
        """For exact variances, and for those of many draws."""
        return self.calibration if self.exact is None else self.exact

    @property
    def reference(self) -> Tensor:
        """Draws (S, n_weights) by which labels are compared with what was predicted."""
        return self.samples if self.many is None else self.many

    def frame_values(self) -> NDArray[np.float64]:
        """max_a σ_a of each validation frame, eV/Å: what the model thinks of structures like those it was trained on."""
        sigma = self.calibration.sigma(self.pairs.variance)
        return np.array([sigma[self.pairs.frame == frame].max() for frame in np.unique(self.pairs.frame)])


def save_knowledge(path: Path, model: DeepPotential, knowledge: Knowledge) -> None:
    """Write kpu.pt for a model; its members must lie beside it already: they are tied to it by digests of their weights."""
    digests = [parameters_digest(read_model(path.parent / name)[0]) for name in knowledge.members]
    header = {
        "format": FORMAT,
        "version": VERSION,
        "model": parameters_digest(model),
        "posterior": knowledge.posterior,
        "calibration": knowledge.calibration.to_dict(),
        "own_calibration": knowledge.own_calibration.to_dict(),
        "exact_calibration": knowledge.exact_calibration.to_dict(),
        "force_rms_ev_per_ang": knowledge.force_rms_ev_per_ang,
        "starts": None if knowledge.covariance is None else list(knowledge.covariance.layout.starts),
        "members": list(knowledge.members),
        "member_digests": digests,
        "factor": knowledge.factor,
        "facts": dict(knowledge.facts),
    }
    arrays: dict[str, NDArray[Any]] = {
        "samples": knowledge.samples.cpu().numpy(),
        **({} if knowledge.many is None else {"reference": knowledge.many.cpu().numpy()}),
        "pairs.variance": knowledge.pairs.variance,
        "pairs.error": knowledge.pairs.error,
        "pairs.frame": knowledge.pairs.frame,
        **knowledge.scalings,
    }
    if knowledge.covariance is not None:
        for number, block in enumerate(knowledge.covariance.blocks):
            arrays[f"block.{number}"] = block[torch.tril_indices(*block.shape).unbind()].cpu().numpy()
    write_arrays(path, header, arrays)


def read_knowledge(path: Path, model: DeepPotential) -> Knowledge:
    """Read the kpu.pt of a model.

    Raises
    ------
    AnotherModelsError
        When it is another model's.
    DataError
        When it is missing or broken.
    """
    header, arrays = read_arrays(path, FORMAT)
    try:
        if header["model"] != parameters_digest(model):
            raise AnotherModelsError(f"{path}: this is another model's uncertainty; give the kpu.pt that the model's own training left")
        return Knowledge(
            posterior=header["posterior"],
            samples=torch.from_numpy(arrays["samples"]),
            calibration=Calibration.from_dict(header["calibration"]),
            own_calibration=Calibration.from_dict(header["own_calibration"]),
            pairs=Pairs(arrays["pairs.variance"], arrays["pairs.error"], arrays["pairs.frame"]),
            force_rms_ev_per_ang=float(header["force_rms_ev_per_ang"]),
            covariance=_covariance(header["starts"], arrays),
            scalings={name: array for name, array in arrays.items() if name.startswith(SCALING)},
            members=tuple(header["members"]),
            factor=float(header["factor"]),
            member_digests=tuple(header.get("member_digests", ())),
            facts=header["facts"],
            exact=Calibration.from_dict(header["exact_calibration"]) if "exact_calibration" in header else None,
            many=torch.from_numpy(arrays["reference"]) if "reference" in arrays else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: header and arrays do not fit each other: {error}") from error


def _covariance(starts: list[int] | None, arrays: Mapping[str, NDArray[Any]]) -> BlockMatrix | None:
    if starts is None:
        return None
    layout = BlockLayout(tuple(starts))
    blocks = []
    for number, size in enumerate(layout.sizes):
        block = torch.zeros((size, size), dtype=torch.float64)
        lower = torch.tril_indices(size, size).unbind()
        block[lower] = torch.from_numpy(arrays[f"block.{number}"])
        block.t()[lower] = block[lower]
        blocks.append(block)
    return BlockMatrix(layout, blocks)


def refuse_strange_members(knowledge: Knowledge, members: Sequence[tuple[Path, DeepPotential]], where: Path) -> None:
    """Refuse models that are not all the members of this training, each once: the factor holds for these alone.

    Parameters
    ----------
    members
        Path (for messages) and model of each, in any order.
    where
        The kpu.pt.

    Raises
    ------
    InputError
        Naming every one that is strange, given twice or missing.
    """
    cure = f"give the model and then every member of its own training: {', '.join(knowledge.members) or 'it drew none'}"
    if len(members) != len(knowledge.members):
        what = f"{len(members)} members are given besides the model, and its training drew {len(knowledge.members)}"
        raise InputError(Problem(str(where), what, cure))
    left = dict(zip(knowledge.member_digests, knowledge.members, strict=False))
    problems = []
    for path, model in members:
        digest = parameters_digest(model)
        if digest not in knowledge.member_digests:
            problems.append(Problem(str(path), f"this is no member of the training that {where} is of", cure))
        elif left.pop(digest, None) is None:
            problems.append(Problem(str(path), "this member is given twice", cure))
    if problems:
        raise InputError(problems)


class SelfAware:
    """A model and its kpu.pt: calibrated uncertainties of structures.

    Parameters
    ----------
    exact
        Use the covariance, which kpu.pt must hold; else its draws.
    """

    def __init__(self, model: DeepPotential, knowledge: Knowledge, *, exact: bool = False, where: str = NAME) -> None:
        self.model, self.knowledge = model, knowledge
        if exact and knowledge.covariance is None:
            raise DataError(
                f"{where}: it holds draws of the covariance and not the covariance itself, so KPU can be sampled only; "
                "train with uncertainty.keep_covariance true for exact KPU"
            )
        if exact and knowledge.exact is None:
            raise DataError(f"{where}: written by an older pwact_like, which calibrated its draws only; train again for exact KPU")
        self._exact = None
        if exact and knowledge.covariance is not None:
            coordinates = Coordinates(scalings_from(knowledge.scalings), parameter_layout(model)) if knowledge.scalings else None
            self._exact = ExactKpu(model, knowledge.covariance, coordinates)
        self._sampled = SampledKpu(model, knowledge.samples)

    @property
    def is_exact(self) -> bool:
        """Whether the covariance itself is used."""
        return self._exact is not None

    @property
    def calibration(self) -> Calibration:
        """Of what `variances` gives."""
        return self.knowledge.exact_calibration if self.is_exact else self.knowledge.calibration

    def variances(self, geometry: Geometry) -> Variances:
        """KPU as such, without scale."""
        return self._exact.variances(geometry) if self._exact is not None else self._sampled.variances(geometry)

    def sigma(self, geometry: Geometry) -> NDArray[np.float64]:
        """σ of each atom's force, (N,), eV/Å."""
        return self.calibration.sigma(self.variances(geometry).force)
