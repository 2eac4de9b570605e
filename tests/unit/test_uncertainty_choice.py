"""Trust levels and the choice of frames."""

import numpy as np
import pytest

from pwact_like.uncertainty.choice import choose
from pwact_like.uncertainty.committee import energy_deviation, force_deviation
from pwact_like.uncertainty.levels import FrameClass, TrustLevels


def test_every_value_falls_in_exactly_one_class():
    # PWact's defect: a frame exactly at the upper bound, or NaN, fell in no class
    values = np.array([0.0, 0.0999, 0.1, 0.2, 0.2999, 0.3, 5.0, np.nan, np.inf, -np.inf])
    classes = TrustLevels(0.1, 0.3).classify(values)
    accurate, candidate, failed = FrameClass.ACCURATE, FrameClass.CANDIDATE, FrameClass.FAILED
    assert classes.tolist() == [accurate, accurate, candidate, candidate, candidate, failed, failed, failed, failed, failed]


def test_force_deviation_bounds_hold():
    # σ_a ≤ max_k |d| ≤ sqrt(K − 1) σ_a, with equality for K = 2 (the Kalman brief's test 9)
    generator = np.random.default_rng(3)
    for n_models in (2, 3, 5):
        forces = generator.normal(size=(n_models, 7, 3))
        sigma = force_deviation(forces)
        largest = np.linalg.norm(forces - forces.mean(axis=0), axis=-1).max(axis=0)
        assert np.all(sigma <= largest + 1e-12)
        assert np.all(largest <= np.sqrt(n_models - 1) * sigma + 1e-12)
    pair = generator.normal(size=(2, 7, 3))
    np.testing.assert_allclose(force_deviation(pair), np.linalg.norm(pair[0] - pair[1], axis=-1) / 2)


def test_identical_models_deviate_by_nothing_and_a_nan_shows():
    forces = np.ones((4, 2, 3))
    assert force_deviation(forces).tolist() == [0.0, 0.0]
    forces[2, 1, 0] = np.nan
    assert np.isnan(force_deviation(forces)[1])
    assert energy_deviation(np.array([1.0, 3.0]), 2) == 0.5


def _pool(n_groups: int, n_frames: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.0, 0.4, size=n_groups * n_frames)
    return TrustLevels(0.1, 0.3).classify(values), values, np.repeat(np.arange(n_groups, dtype=np.int32), n_frames)


def test_quota_holds_for_each_group_and_the_random_share_is_apart():
    classes, values, groups = _pool(3, 200)
    choice = choose(classes, values, groups, [5, 7, 0], random_share=0.25, root_seed=1, iteration=2)
    chosen_groups = groups[choice.candidates]
    assert [int((chosen_groups == group).sum()) for group in range(3)] == [5, 7, 0]
    assert np.all(classes[choice.candidates] == FrameClass.CANDIDATE)
    assert len(choice.random) == 4  # 12 candidates are three quarters of 16
    assert not set(choice.random) & set(choice.candidates)
    assert np.all(classes[choice.random] != FrameClass.FAILED)
    assert len(choice.rescued) == 0


def test_losing_a_trajectory_does_not_shift_the_other_groups_draw():
    # PWact's defect: select_sys was counted by surviving systems
    classes, values, groups = _pool(3, 200)
    whole = choose(classes, values, groups, [5, 7, 6], random_share=0.0, root_seed=1)
    left = groups != 1
    without = choose(classes[left], values[left], groups[left], [5, 7, 6], random_share=0.0, root_seed=1)
    original = np.flatnonzero(left)[without.candidates]
    for group in (0, 2):
        assert whole.candidates[groups[whole.candidates] == group].tolist() == original[groups[original] == group].tolist()


def test_seed_decides_the_draw():
    classes, values, groups = _pool(2, 300)
    first, again, other = (choose(classes, values, groups, [9, 9], root_seed=seed) for seed in (1, 1, 2))
    assert first.candidates.tolist() == again.candidates.tolist() and first.random.tolist() == again.random.tolist()
    assert first.candidates.tolist() != other.candidates.tolist()


def test_no_candidates_and_nothing_failed_chooses_nothing():
    # the converged case must not crash (PWact's ZeroDivisionError) and asks for no labels
    values = np.full(20, 0.01)
    choice = choose(TrustLevels(0.1, 0.3).classify(values), values, np.zeros(20, dtype=np.int32), [10])
    assert len(choice.candidates) == len(choice.random) == len(choice.rescued) == 0


def test_all_failed_rescues_the_least_bad():
    values = np.array([0.9, 0.5, np.nan, 0.7, 0.4, np.inf])
    choice = choose(TrustLevels(0.1, 0.3).classify(values), values, np.zeros(6, dtype=np.int32), [3])
    assert choice.rescued.tolist() == [1, 3, 4]
    assert len(choice.random) == 0


def test_empty_pool():
    empty = np.empty(0)
    choice = choose(empty.astype(np.int8), empty, empty.astype(np.int32), [4])
    assert len(choice.candidates) == len(choice.random) == len(choice.rescued) == 0


@pytest.mark.parametrize("share", [0.99, 1.0])
def test_a_random_share_of_everything_is_bounded_by_the_pool(share):
    classes, values, groups = _pool(1, 50)
    choice = choose(classes, values, groups, [2], random_share=share)
    assert len(choice.random) == int((classes != FrameClass.FAILED).sum()) - 2


def test_ineligible_frames_are_never_chosen():
    classes, values, groups = _pool(1, 100)
    eligible = np.zeros(100, dtype=bool)
    eligible[:10] = True
    choice = choose(classes, values, groups, [100], eligible=eligible)
    assert max(choice.candidates) < 10
