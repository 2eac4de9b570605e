"""Which frames are labelled: caps per explored structure, a random share, and a rescue when every frame failed.

Arrays in, arrays out. Frames are numbered through the whole iteration; ``group`` says from which explored structure
(and md dict) each came, and a quota belongs to each group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pwact_like.seeds import derive_seed
from pwact_like.uncertainty.levels import FrameClass


@dataclass(frozen=True)
class Choice:
    """Indices of the chosen frames, each sorted and disjoint from the others.

    Attributes
    ----------
    candidates
        Chosen by their deviation.
    random
        Drawn at random from all sane frames, accurate ones too: the sample that is not biased by the criterion.
    rescued
        The least deviating failed frames, only when there is no candidate at all and frames failed.
    """

    candidates: NDArray[np.int64]
    random: NDArray[np.int64]
    rescued: NDArray[np.int64]


def choose(
    classes: NDArray[np.int8],
    values: NDArray[np.float64],
    groups: NDArray[np.int32],
    quotas: Sequence[int],
    *,
    eligible: NDArray[np.bool_] | None = None,
    chosen: NDArray[np.int64] | None = None,
    random_share: float = 0.1,
    root_seed: int = 0,
    iteration: int = 0,
) -> Choice:
    """Choose frames for labelling.

    Parameters
    ----------
    classes, values, groups
        Shape (n_frames,): ``FrameClass`` numbers, deviations in eV/Å, group numbers.
    quotas
        Largest number of candidates of each group. A group's surplus is left out at random, with a seed of its own, so
        that a group that lost a trajectory does not shift the others' draw.
    eligible
        False for frames that must not be labelled (duplicates of a start structure); all by default.
    chosen
        Candidates that were chosen by other means than a draw; they take its place, the quotas still hold.
    random_share
        Share of the whole batch that is drawn at random.
    root_seed, iteration
        Place of the draw.
    """
    eligible = np.ones(len(classes), dtype=bool) if eligible is None else eligible
    is_candidate = (classes == FrameClass.CANDIDATE) & eligible
    candidates = capped(
        np.flatnonzero(is_candidate) if chosen is None else chosen[is_candidate[chosen]], groups, quotas, root_seed, iteration
    )
    random = _random_sample(classes, eligible, candidates, random_share, root_seed, iteration)
    rescued = np.empty(0, dtype=np.int64)
    if not is_candidate.any():
        failed = np.flatnonzero((classes == FrameClass.FAILED) & eligible & np.isfinite(values))
        rescued = _least(failed, values, groups, quotas)
        if len(rescued) == 0:
            random = np.empty(0, dtype=np.int64)  # nothing to learn: no batch, so no share of it
    return Choice(candidates, random, rescued)


def capped(
    indices: NDArray[np.int64], groups: NDArray[np.int32], quotas: Sequence[int], root_seed: int, iteration: int
) -> NDArray[np.int64]:
    """At most ``quotas[g]`` of the frames of each group g, sorted; a group's surplus is left out at random."""
    chosen = []
    for group, quota in enumerate(quotas):
        members = indices[groups[indices] == group]
        if len(members) > quota:
            generator = np.random.default_rng(derive_seed(root_seed, iteration, "select", group))
            members = np.sort(generator.choice(members, size=quota, replace=False))
        chosen.append(members)
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def _random_sample(
    classes: NDArray[np.int8],
    eligible: NDArray[np.bool_],
    candidates: NDArray[np.int64],
    share: float,
    root_seed: int,
    iteration: int,
) -> NDArray[np.int64]:
    if share <= 0.0:
        return np.empty(0, dtype=np.int64)
    share = min(share, 0.99)  # at 1 the batch would have no end
    wanted = max(1, round(share / (1.0 - share) * len(candidates)))
    # failed frames may be unphysical, and a label of one would say nothing about the region that the MD visits
    pool = (classes != FrameClass.FAILED) & eligible
    pool[candidates] = False
    indices = np.flatnonzero(pool)
    generator = np.random.default_rng(derive_seed(root_seed, iteration, "random share"))
    return np.sort(generator.choice(indices, size=min(wanted, len(indices)), replace=False))


def _least(indices: NDArray[np.int64], values: NDArray[np.float64], groups: NDArray[np.int32], quotas: Sequence[int]) -> NDArray[np.int64]:
    chosen = []
    for group, quota in enumerate(quotas):
        members = indices[groups[indices] == group]
        chosen.append(members[np.argsort(values[members], kind="stable")[:quota]])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)
