"""Choosing frames that differ: against brute force, and on points whose answer is plain."""

from __future__ import annotations

import numpy as np
import pytest

from pwact_like.uncertainty import diversity
from pwact_like.uncertainty.diversity import METHODS, Surroundings, choose_diverse, frame_vectors


def one_atom_frames(points) -> Surroundings:
    """Frames of one atom whose descriptors are these points."""
    points = np.asarray(points, dtype=np.float64).reshape(len(points), -1)
    return Surroundings(points, np.arange(len(points)), np.full(len(points), 14))


def random_frames(n_frames: int, n_atoms: int, seed: int, n_features: int = 3) -> Surroundings:
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(n_frames * n_atoms, n_features)) + generator.normal(size=(n_frames, n_features)).repeat(n_atoms, axis=0)
    return Surroundings(points, np.arange(n_frames).repeat(n_atoms), np.tile(np.resize([8, 14], n_atoms), n_frames))


def test_the_farthest_points_of_a_line():
    # 3 is nearest to the mean (3.2); then the ends
    assert list(choose_diverse("fps", one_atom_frames([0.0, 1.0, 2.0, 3.0, 10.0]), 3)) == [3, 4, 0]


def test_what_is_known_is_not_chosen_again():
    candidates = one_atom_frames([0.0, 1.0, 5.0, 9.0, 10.0])
    known = one_atom_frames([0.1, 9.9])
    assert choose_diverse("fps", candidates, 1, known=known)[0] == 2
    assert choose_diverse("entropy", candidates, 1, known=known)[0] == 2


def test_direct_takes_one_of_each_cluster():
    generator = np.random.default_rng(3)
    sizes, centers = (60, 25, 5, 1), ((0, 0), (20, 0), (0, 20), (20, 20))
    points = np.concatenate([generator.normal(size=(n, 2)) + center for n, center in zip(sizes, centers, strict=True)])
    cluster = np.arange(4).repeat(sizes)
    chosen = choose_diverse("direct", one_atom_frames(points), 4)
    assert list(cluster[chosen]) == [0, 1, 2, 3]  # the largest first
    # 40 at random hit the last frame in 4 of 9 cases only; here always
    assert 90 in choose_diverse("direct", one_atom_frames(points), 8)


def test_farthest_points_are_those_of_brute_force():
    frames = random_frames(30, 4, 1)
    vectors = frame_vectors(frames)
    chosen = list(choose_diverse("fps", frames, 6))
    # nearly all of the variance is kept, so distances between whole vectors tell the same order
    for step in range(1, 6):
        nearest = np.linalg.norm(vectors[:, None] - vectors[chosen[:step]], axis=2).min(axis=1)
        assert nearest[chosen[step]] > 0.98 * nearest.max()


def test_entropy_is_the_formula(monkeypatch):
    frames = random_frames(12, 3, 5)
    monkeypatch.setattr(diversity, "_bandwidth", lambda atoms: 0.5)
    chosen = list(choose_diverse("entropy", frames, 5))
    axes = diversity._Axes(frames.atoms)
    points = axes(frames.atoms)
    for step in range(1, 5):
        scores = []
        for frame in range(12):
            score = []
            for atom in np.flatnonzero(frames.frame == frame):
                total = 0.0
                for other in np.flatnonzero(np.isin(frames.frame, chosen[:step]) & (frames.elements == frames.elements[atom])):
                    total += np.exp(-(np.linalg.norm(points[atom] - points[other]) ** 2) / (2 * 0.5**2))
                score.append(-np.log(total))
            scores.append(-np.inf if frame in chosen[:step] else np.mean(score))
        assert int(np.argmax(scores)) == chosen[step]


@pytest.mark.parametrize("method", METHODS)
def test_quotas_hold_and_nothing_is_chosen_twice(method):
    frames = random_frames(40, 3, 7)
    groups = np.arange(40) % 3
    chosen = choose_diverse(method, frames, 100, groups=groups, quotas=[4, 0, 50])
    assert len(set(chosen)) == len(chosen)
    assert list(np.bincount(groups[chosen], minlength=3)) == [4, 0, 13]
    assert len(choose_diverse(method, frames, 5, groups=groups, quotas=[4, 0, 50])) == 5
    assert list(chosen) == list(choose_diverse(method, frames, 100, groups=groups, quotas=[4, 0, 50]))


@pytest.mark.parametrize("method", METHODS)
def test_few_or_equal_frames_are_no_trouble(method):
    assert len(choose_diverse(method, one_atom_frames([1.0]), 3)) == 1
    assert len(choose_diverse(method, one_atom_frames([2.0] * 5), 3)) == 3
    assert len(choose_diverse(method, one_atom_frames([1.0, 2.0]), 0)) == 0


def test_a_frames_vector_is_mean_and_spread_by_element():
    frames = Surroundings(np.array([[1.0], [3.0], [5.0], [7.0]]), np.array([0, 0, 0, 1]), np.array([8, 8, 14, 8]))
    assert frame_vectors(frames).tolist() == [[2.0, 1.0, 5.0, 0.0], [7.0, 0.0, 0.0, 0.0]]
