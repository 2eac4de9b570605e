"""Choosing frames that differ from each other: DIRECT, farthest points, entropy. Arrays in, arrays out; no random number.

Frames are numbered as they come in; ``groups`` and ``quotas`` cap how many may be chosen of each group, as in `choice`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Method = Literal["direct", "fps", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
KEPT_VARIANCE = 0.999
MOST_COMPONENTS = 32
MOST_KNOWN_ATOMS = 5000
_FEW_ATOMS = 2000
_APART = 10.0  # all of the points have a mean square of 1


@dataclass(frozen=True)
class Surroundings:
    """Descriptors of the atoms of several frames.

    Attributes
    ----------
    atoms
        Shape (n_atoms of all frames, n_features).
    frame
        Number of the frame of every atom, rising from 0, shape (n_atoms of all frames,).
    elements
        Atomic number of every atom.
    """

    atoms: NDArray[np.float64]
    frame: NDArray[np.int64]
    elements: NDArray[np.int64]

    @property
    def n_frames(self) -> int:
        """How many frames there are."""
        return int(self.frame[-1]) + 1 if len(self.frame) else 0


def choose_diverse(
    method: Method,
    candidates: Surroundings,
    count: int,
    *,
    groups: NDArray[np.int64] | None = None,
    quotas: Sequence[int] | None = None,
    known: Surroundings | None = None,
) -> NDArray[np.int64]:
    """Choose at most ``count`` frames, in the order of their choice.

    Parameters
    ----------
    method
        ``direct``: as many clusters as frames are wanted, and the frame nearest to the centre of each (Qi et al., npj Comput.
        Mater. 10, 43 (2024), with Ward's clusters in place of BIRCH's). ``fps``: always the frame farthest from all chosen
        ones. ``entropy``: always the frame whose atoms the chosen ones describe least (Schwalbe-Koda et al., Nat. Commun. 16,
        4014 (2025)).
    candidates, known
        What is chosen from, and what is known already (training data): fps and entropy begin from it, DIRECT does not look at it.
    groups, quotas
        Group of each candidate, and how many may be chosen of each; without them there is one group and no cap.
    """
    groups = np.zeros(candidates.n_frames, dtype=np.int64) if groups is None else groups
    room = _Room(groups, [count] * (int(groups.max(initial=0)) + 1) if quotas is None else quotas, count)
    # frames and known ones on the same axes
    both = candidates if known is None else _joined(candidates, known)
    if method == "entropy":
        axes = _Axes(both.atoms)
        points = _apart(axes(both.atoms), both.elements)
        n_atoms = len(candidates.atoms)
        chosen = _entropy(points[:n_atoms], candidates.frame, room, points[n_atoms:])
    else:
        vectors = frame_vectors(both)
        vectors = _Axes(vectors)(vectors)
        points, old = vectors[: candidates.n_frames], vectors[candidates.n_frames :]
        chosen = _clusters(points, room) if method == "direct" else _farthest(points, room, old)
    return np.array(chosen, dtype=np.int64)


def frame_vectors(surroundings: Surroundings) -> NDArray[np.float64]:
    """One vector a frame: mean and standard deviation of its atoms' descriptors, element by element; shape (n_frames, n)."""
    parts = []
    for number in np.unique(surroundings.elements):
        chosen = surroundings.elements == number
        frame, values = surroundings.frame[chosen], surroundings.atoms[chosen]
        count = np.bincount(frame, minlength=surroundings.n_frames)[:, None]
        total = np.zeros((surroundings.n_frames, values.shape[1]))
        squares = np.zeros_like(total)
        np.add.at(total, frame, values)
        mean = total / np.maximum(count, 1)
        np.add.at(squares, frame, (values - mean[frame]) ** 2)
        parts += [mean, np.sqrt(squares / np.maximum(count, 1))]
    return np.concatenate(parts, axis=1)


class _Axes:
    """Principal axes of data, as many as hold nearly all of the variance; calling it gives coordinates of mean square 1 in all."""

    def __init__(self, data: NDArray[np.float64]) -> None:
        self.mean = data.mean(axis=0)
        covariance = np.cov((data - self.mean).T, ddof=0).reshape(data.shape[1], data.shape[1])
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = values[::-1].clip(min=0.0), vectors[:, ::-1]
        total = float(values.sum())
        share = np.cumsum(values) / (total or 1.0)
        keep = min(int(np.searchsorted(share, KEPT_VARIANCE)) + 1, MOST_COMPONENTS, len(values))
        vectors = vectors[:, :keep]
        # eigenvectors come with either sign: the largest element is made positive, so that every machine agrees
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(keep)])
        self.vectors = vectors * np.where(signs == 0.0, 1.0, signs) / np.sqrt(total or 1.0)

    def __call__(self, data: NDArray[np.float64]) -> NDArray[np.float64]:
        coordinates: NDArray[np.float64] = (data - self.mean) @ self.vectors
        return coordinates


class _Room:
    """Which frames may still be chosen."""

    def __init__(self, groups: NDArray[np.int64], quotas: Sequence[int], count: int) -> None:
        self.groups = groups
        self.left = np.array(quotas, dtype=np.int64)
        self.count = count
        self.open = self.left[groups] > 0 if len(groups) else np.zeros(0, dtype=bool)

    @property
    def is_full(self) -> bool:
        return self.count <= 0 or not self.open.any()

    def take(self, index: int) -> None:
        group = self.groups[index]
        self.left[group] -= 1
        self.count -= 1
        self.open[index] = False
        if self.left[group] <= 0:
            self.open[self.groups == group] = False


def _apart(points: NDArray[np.float64], elements: NDArray[np.int64]) -> NDArray[np.float64]:
    """Points of different elements so far from each other that none counts for the other."""
    return np.concatenate([points, _APART * (elements[:, None] == np.unique(elements)).astype(np.float64)], axis=1)


def _joined(first: Surroundings, second: Surroundings) -> Surroundings:
    return Surroundings(
        np.concatenate([first.atoms, second.atoms]),
        np.concatenate([first.frame, second.frame + first.n_frames]),
        np.concatenate([first.elements, second.elements]),
    )


def _farthest(points: NDArray[np.float64], room: _Room, known: NDArray[np.float64]) -> list[int]:
    chosen: list[int] = []
    if room.is_full:
        return chosen
    distance = np.full(len(points), np.inf)
    for point in known:
        distance = np.minimum(distance, ((points - point) ** 2).sum(axis=1))
    if not len(known):  # the first one is the frame nearest to the middle, which no outlier decides
        middle = ((points - points.mean(axis=0)) ** 2).sum(axis=1)
        distance = -np.where(room.open, middle, np.inf)
    while not room.is_full:
        index = int(np.argmax(np.where(room.open, distance, -np.inf)))
        if not len(known) and not chosen:
            distance = np.full(len(points), np.inf)
        chosen.append(index)
        room.take(index)
        distance = np.minimum(distance, ((points - points[index]) ** 2).sum(axis=1))
    return chosen


def _clusters(points: NDArray[np.float64], room: _Room) -> list[int]:
    """One frame of each cluster in turn, the largest cluster first, until the room is full."""
    from scipy.cluster.hierarchy import fcluster, ward

    wanted = min(room.count, int(room.open.sum()))
    if wanted <= 0:
        return []
    if wanted == 1 or len(points) == 1:
        labels = np.ones(len(points), dtype=np.int64)
    else:
        labels = fcluster(ward(points), t=wanted, criterion="maxclust")
    queues = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.argsort(((points[members] - points[members].mean(axis=0)) ** 2).sum(axis=1), kind="stable")
        queues.append(list(members[order]))
    queues.sort(key=lambda queue: (-len(queue), queue[0]))
    chosen: list[int] = []
    while not room.is_full:
        for queue in queues:
            while queue and not room.open[queue[0]]:
                queue.pop(0)
            if queue and not room.is_full:
                index = int(queue.pop(0))
                chosen.append(index)
                room.take(index)
    return chosen


def _entropy(atoms: NDArray[np.float64], frame: NDArray[np.int64], room: _Room, known: NDArray[np.float64]) -> list[int]:
    """Greedy: the frame with the largest mean over its atoms of −ln Σ_j exp(−d²/2h²), j the atoms of the chosen frames."""
    chosen: list[int] = []
    if room.is_full:
        return chosen
    n_frames = int(frame[-1]) + 1
    per_frame = np.bincount(frame, minlength=n_frames)
    bandwidth = _bandwidth(atoms)
    density = np.full(len(atoms), 1e-300)
    if len(known):
        # an even sample of a large training set tells the same
        density += _kernel_sums(atoms, known[:: max(1, len(known) // MOST_KNOWN_ATOMS)], bandwidth)
    else:  # begin in the middle of the candidates themselves
        score = np.bincount(frame, ((atoms - atoms.mean(axis=0)) ** 2).sum(axis=1), minlength=n_frames) / per_frame
        first = int(np.argmin(np.where(room.open, score, np.inf)))
        chosen.append(first)
        room.take(first)
        density += _kernel_sums(atoms, atoms[frame == first], bandwidth)
    while not room.is_full:
        score = np.bincount(frame, -np.log(density), minlength=n_frames) / per_frame
        index = int(np.argmax(np.where(room.open, score, -np.inf)))
        chosen.append(index)
        room.take(index)
        density += _kernel_sums(atoms, atoms[frame == index], bandwidth)
    return chosen


def _bandwidth(atoms: NDArray[np.float64]) -> float:
    """Median distance of an atom to its nearest other one, over an even sample: descriptors have no scale of their own."""
    sample = atoms[:: max(1, len(atoms) // _FEW_ATOMS)]
    if len(sample) < 2:
        return 1.0
    from scipy.spatial import cKDTree

    distances = cKDTree(sample).query(sample, k=2)[0][:, 1]
    positive = distances[distances > 0.0]
    return float(np.median(positive)) if len(positive) else 1.0


def _kernel_sums(atoms: NDArray[np.float64], others: NDArray[np.float64], bandwidth: float) -> NDArray[np.float64]:
    """Σ_j exp(−d²/2h²) over ``others`` for every atom, in slices that fit into memory."""
    found = np.empty(len(atoms))
    squares = (others**2).sum(axis=1)
    step = max(1, 4_000_000 // max(1, len(others)))
    for start in range(0, len(atoms), step):
        part = atoms[start : start + step]
        distance = (part**2).sum(axis=1)[:, None] + squares - 2.0 * part @ others.T
        found[start : start + step] = np.exp(-0.5 * distance.clip(min=0.0) / bandwidth**2).sum(axis=1)
    return found
