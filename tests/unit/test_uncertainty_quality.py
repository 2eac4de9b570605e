"""How good an uncertainty is: every figure against an independent truth."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pwact_like.errors import DataError
from pwact_like.report.uncertainty_plot import plot
from pwact_like.uncertainty.quality import (
    auroc,
    calibrated_ceiling,
    ceiling_of_maxima,
    confidence,
    judge,
    miscalibration_area,
    nll,
    quality_table,
    spearman,
    z_variance,
)

tied_values = st.lists(st.integers(-3, 3).map(float), min_size=3, max_size=40)


def errors_of(sigma, generator):
    """Norms of Gaussian force vectors, drawn component by component."""
    return np.linalg.norm(generator.normal(size=(len(sigma), 3)), axis=1) * sigma / math.sqrt(3.0)


# --- ranks


@settings(max_examples=60, deadline=None)
@given(tied_values, st.integers(0, 2**32 - 1))
def test_spearman_is_scipy_s(x, seed):
    generator = np.random.default_rng(seed)
    x = np.array(x)
    y = x + generator.integers(-3, 4, size=len(x))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(spearman(x, y))
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        order = generator.permutation(len(x))
        assert spearman(x[order], y[order]) == pytest.approx(spearman(x, y), abs=1e-12)
        assert spearman(np.exp(x), y**3) == pytest.approx(spearman(x, y), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(tied_values, st.integers(0, 2**32 - 1))
def test_auroc_is_the_share_of_ordered_pairs(score, seed):
    score = np.array(score)
    bad = np.random.default_rng(seed).random(len(score)) < 0.4
    pairs = [(high > low) + 0.5 * (high == low) for high in score[bad] for low in score[~bad]]
    if pairs:
        assert auroc(score, bad) == pytest.approx(np.mean(pairs), abs=1e-12)
        assert auroc(-score, bad) == pytest.approx(1.0 - np.mean(pairs), abs=1e-12)
    else:
        assert math.isnan(auroc(score, bad))


def test_too_little_to_rank_is_nan_and_nan_is_refused():
    assert math.isnan(spearman(np.array([1.0]), np.array([1.0])))
    assert math.isnan(spearman(np.array([]), np.array([])))
    assert spearman(np.array([1.0, np.inf]), np.array([0.0, 3.0])) == pytest.approx(1.0)
    with pytest.raises(DataError, match="NaN"):
        spearman(np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    with pytest.raises(DataError, match="one length"):
        auroc(np.ones(3), np.ones(2, dtype=bool))


# --- ceilings


@pytest.mark.parametrize(("spread", "rho"), [(0.25, 0.47), (0.5, 0.72), (1.0, 0.89)])
def test_ceiling_of_log_normal_spreads(spread, rho):
    # the Kalman brief's figures, section 4
    sigma = 0.05 * np.exp(spread * np.random.default_rng(1).normal(size=50_000))
    assert calibrated_ceiling(sigma) == pytest.approx(rho, abs=0.006)
    simulated = spearman(sigma, errors_of(sigma, np.random.default_rng(2)))
    assert calibrated_ceiling(sigma) == pytest.approx(simulated, abs=0.01)


def test_ceiling_is_exact_for_a_handful_of_atoms():
    sigma = np.array([0.5, 1.0, 1.0, 2.0, 7.0])
    generator = np.random.default_rng(3)
    simulated = [spearman(sigma, errors_of(sigma, generator)) for _ in range(4000)]
    assert calibrated_ceiling(sigma) == pytest.approx(np.mean(simulated), abs=4 * np.std(simulated) / math.sqrt(4000))


def test_ceiling_at_its_ends():
    assert math.isnan(calibrated_ceiling(np.ones(10)))
    assert calibrated_ceiling(10.0 ** np.arange(0, 60, 6)) == pytest.approx(1.0, abs=1e-4)
    assert calibrated_ceiling(np.array([0.0, 1.0])) == pytest.approx(1.0)
    # zeros are tied among each other: no loss
    assert calibrated_ceiling(np.array([0.0, 0.0, 0.0, 1.0])) == pytest.approx(1.0)
    generator = np.random.default_rng(4)
    sigma = np.exp(generator.normal(size=4000))
    assert calibrated_ceiling(1e-200 * sigma) == pytest.approx(calibrated_ceiling(sigma))
    assert calibrated_ceiling(generator.permutation(sigma)) == calibrated_ceiling(sigma)


def test_ceiling_of_maxima_with_one_atom_a_frame_is_the_atoms_ceiling():
    sigma = np.exp(0.5 * np.random.default_rng(5).normal(size=300))
    found = ceiling_of_maxima(sigma, np.arange(300), n_draws=200)
    assert found == pytest.approx(calibrated_ceiling(sigma), abs=0.012)
    assert found == ceiling_of_maxima(sigma, np.arange(300) * 5 - 9, n_draws=200)
    assert found != ceiling_of_maxima(sigma, np.arange(300), n_draws=200, seed=1)


def test_ceiling_of_maxima_is_what_a_simulation_gives():
    generator = np.random.default_rng(6)
    frame = generator.permutation(np.repeat(np.arange(60), 20))  # atoms in any order
    sigma = np.exp(0.3 * generator.normal(size=60))[frame] * np.exp(0.3 * generator.normal(size=1200))
    simulated = []
    for _ in range(150):
        error = errors_of(sigma, generator)
        tops = [(sigma[frame == number].max(), error[frame == number].max()) for number in range(60)]
        simulated.append(stats.spearmanr(*zip(*tops, strict=True)).statistic)
    assert ceiling_of_maxima(sigma, frame) == pytest.approx(np.mean(simulated), abs=0.02)


# --- scale


def test_nll_is_that_of_the_gaussian_components():
    generator = np.random.default_rng(7)
    sigma = np.exp(generator.normal(size=50))
    delta = generator.normal(size=(50, 3))
    truth = -stats.norm.logpdf(delta, scale=(sigma / math.sqrt(3.0))[:, None]).mean()
    assert nll(sigma, np.linalg.norm(delta, axis=1)) == pytest.approx(truth)


def test_nll_and_z_are_best_and_one_at_the_true_scale():
    generator = np.random.default_rng(8)
    sigma = np.exp(0.4 * generator.normal(size=20_000))
    error = errors_of(sigma, generator)
    assert z_variance(sigma, error) == pytest.approx(1.0, abs=0.03)
    assert z_variance(2.0 * sigma, error) == pytest.approx(0.25 * z_variance(sigma, error))
    assert nll(sigma, error) < min(nll(0.8 * sigma, error), nll(1.25 * sigma, error))


def test_a_zero_uncertainty_that_errs_is_infinitely_wrong():
    zero, one = np.array([0.0, 1.0]), np.array([1.0, 1.0])
    assert nll(zero, one) == math.inf and z_variance(zero, one) == math.inf
    assert nll(zero, zero) == nll(one[:1], one[:1])  # the atom without error and uncertainty says nothing
    assert math.isnan(nll(np.zeros(2), np.zeros(2))) and math.isnan(miscalibration_area(np.zeros(2), np.zeros(2)))


def test_confidence_is_that_of_chi_with_three_components():
    sigma, error = np.array([1.0, 2.0, 1.0]), np.array([2.0, 1.0, 0.7])
    truth = np.sort(stats.chi(3).cdf(math.sqrt(3.0) * error / sigma))
    np.testing.assert_allclose(confidence(sigma, error), truth, rtol=1e-12)


def test_miscalibration_area_against_a_fine_grid():
    generator = np.random.default_rng(9)
    sigma = np.exp(0.4 * generator.normal(size=37))
    for factor in (0.3, 1.0, 2.5):
        error = factor * errors_of(sigma, generator)
        grid = (np.arange(100_000) + 0.5) / 100_000
        observed = np.searchsorted(confidence(sigma, error), grid, side="right") / 37
        assert miscalibration_area(sigma, error) == pytest.approx(np.mean(np.abs(observed - grid)), abs=1e-4)


def test_miscalibration_area_at_its_ends():
    generator = np.random.default_rng(10)
    sigma = np.exp(0.4 * generator.normal(size=40_000))
    assert miscalibration_area(sigma, errors_of(sigma, generator)) < 0.01
    exact = stats.chi(3).ppf((np.arange(1000) + 0.5) / 1000) / math.sqrt(3.0)
    assert miscalibration_area(np.ones(1000), exact) == pytest.approx(0.25e-3, rel=1e-3)
    assert miscalibration_area(np.ones(10), np.full(10, 1e9)) == pytest.approx(0.5)
    assert miscalibration_area(np.ones(10), np.full(10, 1e-9)) == pytest.approx(0.5)
    assert miscalibration_area(np.zeros(1), np.ones(1)) == pytest.approx(0.5)


# --- all together


def judged(seed=11, n_frames=80, n_atoms=20):
    generator = np.random.default_rng(seed)
    frame = np.repeat(np.arange(n_frames), n_atoms)
    sigma = 0.05 * np.exp(0.3 * generator.normal(size=n_frames))[frame] * np.exp(0.3 * generator.normal(size=len(frame)))
    return sigma, errors_of(sigma, generator), frame


def test_judge_gathers_the_figures():
    sigma, error, frame = judged()
    quality = judge(sigma, error, frame)
    tops = sigma.reshape(80, 20).max(axis=1), error.reshape(80, 20).max(axis=1)
    assert (quality.n_atoms, quality.n_frames, quality.n_left_out) == (1600, 80, 0)
    assert quality.spearman_frames == pytest.approx(stats.spearmanr(*tops).statistic)
    assert quality.tau == np.quantile(tops[1], 0.75)
    assert quality.auroc_frames == auroc(tops[0], tops[1] > quality.tau)
    assert quality.auroc_atoms == auroc(sigma, error > quality.tau)
    assert quality.spearman_atoms == pytest.approx(quality.ceiling_atoms, abs=0.05)
    assert quality.spearman_frames == pytest.approx(quality.ceiling_frames, abs=0.12)
    assert quality.z_variance == pytest.approx(1.0, abs=0.1) and quality.miscalibration_area < 0.03
    assert judge(sigma, error, frame, tau=0.1).tau == 0.1


def test_judge_does_not_mind_the_order_of_atoms_or_the_numbers_of_frames():
    sigma, error, frame = judged()
    first = judge(sigma, error, frame).to_dict()
    order = np.random.default_rng(0).permutation(len(sigma))
    again = judge(sigma[order], error[order], 100 - 3 * frame[order]).to_dict()
    assert again.pop("ceiling_frames") == pytest.approx(first.pop("ceiling_frames"), abs=0.02)  # another draw
    assert again == pytest.approx(first)


def test_judge_leaves_out_whole_frames_that_are_not_finite_and_counts_them():
    sigma, error, frame = judged()
    plain = judge(sigma[40:], error[40:], frame[40:])
    sigma[3], error[25] = np.nan, np.inf
    found = judge(sigma, error, frame)
    assert (found.n_left_out, found.n_frames) == (2, 78)
    assert found.spearman_frames == plain.spearman_frames
    assert "2 frames with values that are not finite" in quality_table({"KPU": found})
    with pytest.raises(DataError, match="no frame"):
        judge(np.full(3, np.nan), np.ones(3), np.arange(3))
    with pytest.raises(DataError, match="no frame"):
        judge(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))


def test_judge_of_a_single_frame_says_what_it_can_and_json_has_no_nan():
    sigma, error, _ = judged(n_frames=1)
    quality = judge(sigma, error, np.zeros(20, dtype=np.int64))
    assert math.isnan(quality.spearman_frames) and math.isnan(quality.auroc_frames) and math.isfinite(quality.spearman_atoms)
    value = json.loads(json.dumps(quality.to_dict(), allow_nan=False))
    assert value["spearman_frames"] is None and value["n_atoms"] == 20


def test_the_table_has_a_line_for_each_method():
    sigma, error, frame = judged()
    text = quality_table({"KPU": judge(sigma, error, frame), "committee": judge(0.5 * sigma, error, frame)})
    lines = text.splitlines()
    assert len(lines) == 4 and lines[1].startswith("KPU ") and lines[2].startswith("committee")
    assert len({len(line) for line in lines[:3]}) == 1
    assert quality_table({}).splitlines()[-1] == "nothing to show"


def test_the_picture_is_a_file_and_leaves_no_global_state(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    sigma, error, frame = judged(n_frames=10)
    error[0], sigma[1], sigma[2] = 0.0, 0.0, np.nan
    before = dict(matplotlib.rcParams)
    path = tmp_path / "new" / "quality.png"
    plot(path, {"KPU $x": (sigma, error, judge(sigma, error, frame))})
    assert path.read_bytes().startswith(b"\x89PNG") and [file.name for file in path.parent.iterdir()] == ["quality.png"]
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(DataError, match="nothing to draw"):
        plot(path, {})
