"""Trust levels from data."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwact_like.errors import DataError
from pwact_like.uncertainty.levels import FrameClass
from pwact_like.uncertainty.suggestion import ExpectedError, expected_error, levels_from_calibration, suggest_levels


def frames(seed, n, low=0.01, high=1.0, n_atoms=30, factor=1.0):
    """Largest σ and largest error of frames of calibrated atoms (``factor``: by how much the errors exceed σ)."""
    generator = np.random.default_rng(seed)
    scale = np.exp(generator.uniform(math.log(low), math.log(high), size=n))
    sigma = scale[:, None] * np.exp(0.3 * generator.normal(size=(n, n_atoms)))
    error = factor * sigma * np.linalg.norm(generator.normal(size=(n, n_atoms, 3)), axis=2) / math.sqrt(3.0)
    return sigma.max(axis=1), error.max(axis=1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_frames_at_the_level_err_by_the_tolerance(factor):
    found = suggest_levels(*frames(1, 60, factor=factor), tolerance=0.1)
    value, error = frames(2, 40_000, factor=factor)  # the truth
    near = np.abs(value / found.lower - 1.0) < 0.05
    assert np.sqrt(np.mean(error[near] ** 2)) == pytest.approx(0.1, rel=0.15)
    below = value < found.lower
    assert np.sqrt(np.mean(error[below] ** 2)) < 0.1
    assert found.note == ""


def test_expected_error_is_told_with_its_number():
    value, error = frames(3, 200)
    found = suggest_levels(value, error, tolerance=0.2)
    below = error[value < found.lower]
    assert found.expected_error_accurate.n == len(below) > 20
    assert found.expected_error_accurate.rms == pytest.approx(np.sqrt(np.mean(below**2))) and found.expected_error_accurate.rms < 0.2
    assert found.expected_error_accurate.percentile_95 == np.quantile(below, 0.95)
    assert expected_error(value, error, 1e-9) == ExpectedError(None, None, 0)


def test_twice_the_tolerance_is_twice_the_level():
    pairs = frames(4, 50)
    assert suggest_levels(*pairs, tolerance=0.2).lower == pytest.approx(2.0 * suggest_levels(*pairs, tolerance=0.1).lower)


def test_the_level_is_lowered_until_the_labels_agree():
    # one factor does not fit: the certain frames err three times their value, the many hot ones a tenth of it
    value = np.linspace(0.01, 1.0, 200)
    error = np.where(value < 0.2, 3.0, 0.1) * value
    found = suggest_levels(value, error, tolerance=0.2)
    assert "lower was reduced" in found.note
    assert found.expected_error_accurate.rms <= 0.2 and found.expected_error_accurate.n > 10
    # one frame more would have been too much
    assert expected_error(value, error, float(value[value > found.lower][0])).rms > 0.2


def test_a_model_that_is_nowhere_good_enough_has_no_accurate_frame():
    value = np.concatenate([np.linspace(0.05, 0.06, 10), np.ones(200)])
    error = np.concatenate([np.full(10, 0.12), np.full(200, 0.5)])
    found = suggest_levels(value, error, tolerance=0.1)
    assert "none is accurate yet" in found.note
    assert found.expected_error_accurate == ExpectedError(None, None, 0) and found.lower == 0.05


def test_without_a_tolerance_in_distribution_frames_are_accurate():
    generator = np.random.default_rng(5)
    validation = 0.05 * np.exp(0.3 * generator.normal(size=400))
    levels = levels_from_calibration(validation)
    share = np.mean(levels.classify(validation) == FrameClass.ACCURATE)
    assert 0.92 < share < 0.98
    assert levels.upper == pytest.approx(5.0 * levels.lower)
    found = suggest_levels(*frames(6, 30), in_distribution=validation)
    assert found.lower == levels.lower and found.note == ""


@pytest.mark.parametrize("n", [1, 3, 8])
def test_one_odd_validation_frame_does_not_set_the_level(n):
    validation = np.append(np.full(n, 0.05), np.full(n // 3, 9.0))
    levels = levels_from_calibration(validation)
    assert 0.05 < levels.lower < 0.07


def test_upper_reaches_as_far_as_labels_do_between_bounds():
    low = suggest_levels(*frames(7, 60, 0.01, 0.02), tolerance=0.1)
    assert low.upper == pytest.approx(5.0 * low.lower) and "label hotter frames" in low.note
    far = suggest_levels(*frames(7, 60, 1.0, 50.0), tolerance=0.1)
    assert far.upper == pytest.approx(10.0 * far.lower) and "no labelled frame is as certain" in far.note
    value, error = frames(8, 400, 0.02, 0.35)
    middle = suggest_levels(value, error, tolerance=0.1)
    assert 5.0 * middle.lower < middle.upper < 10.0 * middle.lower
    assert middle.upper == np.quantile(value, 0.95)


def test_candidate_share_is_that_of_the_exploration():
    value, error = frames(9, 100)
    found = suggest_levels(value, error, tolerance=0.1)
    assert found.candidate_share == np.mean(found.levels.classify(value) == FrameClass.CANDIDATE)
    explored = np.array([0.5 * found.lower, found.lower, found.upper, np.nan, 1.1 * found.lower])
    assert suggest_levels(value, error, tolerance=0.1, explored=explored).candidate_share == pytest.approx(0.4)


def test_few_frames_are_told():
    assert "7 labelled frames only" in suggest_levels(*frames(10, 7), tolerance=0.1).note
    assert "1 labelled frames only" in suggest_levels(*frames(10, 1), tolerance=0.1).note
    assert "from 7 frames only" in suggest_levels(*frames(10, 7)).note
    assert "left out" in suggest_levels(np.array([0.1, np.nan]), np.array([0.1, 0.1]), tolerance=0.1).note


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 1e12), st.floats(0.0, 1e12)), min_size=1, max_size=60),
    st.one_of(st.none(), st.floats(1e-6, 1e3)),
    st.integers(0, 2**32 - 1),
)
def test_levels_are_always_levels(pairs, tolerance, seed):
    value, error = np.array(pairs).T
    try:
        found = suggest_levels(value, error, tolerance=tolerance)
    except DataError:
        assert not value.any() or not (value * error).any() or value[value > 0].min() < 1e-100 or error[error > 0].min() < 1e-100
        return
    assert 0.0 < found.lower < found.upper < math.inf
    assert 0.0 <= found.candidate_share <= 1.0
    json.dumps(found.to_dict(), allow_nan=False)
    order = np.random.default_rng(seed).permutation(len(value))
    again = suggest_levels(value[order], error[order], tolerance=tolerance)
    assert (again.lower, again.upper) == pytest.approx((found.lower, found.upper), rel=1e-6)


@pytest.mark.parametrize(
    ("value", "error", "tolerance", "what"),
    [
        ([], [], None, "no labelled frame"),
        ([np.nan], [1.0], 0.1, "no labelled frame"),
        ([0.0, 0.0], [1.0, 2.0], 0.1, "is zero"),
        ([1.0, 2.0], [0.0, 0.0], 0.1, "is zero"),
        ([0.0, 0.0], [1.0, 2.0], None, "above zero"),
        ([1.0], [1.0], 0.0, "positive"),
        ([1.0], [1.0], math.nan, "positive"),
        ([1.0], [1.0, 2.0], 0.1, "one length"),
    ],
)
def test_what_gives_no_levels_is_refused(value, error, tolerance, what):
    with pytest.raises(DataError, match=what):
        suggest_levels(np.array(value), np.array(error), tolerance=tolerance)


def test_validation_without_any_value_is_refused():
    with pytest.raises(DataError, match=r"param\.json"):
        levels_from_calibration(np.array([0.0, np.nan]))
