"""The Kalman filter against exact linear algebra."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwact_like.potentials import covariance as covariance_module
from pwact_like.potentials.covariance import BlockLayout, Covariance, block_layout
from pwact_like.potentials.kalman import InnovationNoise, KalmanFilter, Memory

FOREVER = Memory(1.0, 1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles to a block and several merges in a few updates."""
    monkeypatch.setattr(covariance_module, "TILE", 4)


def variance(filter_: KalmanFilter, h: torch.Tensor) -> torch.Tensor:
    """KPU of the rows of h."""
    return (h.t() * filter_.covariance.product(h.t().contiguous())).sum(dim=0)


def full(filter_: KalmanFilter) -> torch.Tensor:
    return torch.block_diag(*filter_.covariance.dense())


def plain_rlekf(p_blocks, theta, rows, targets, factor, rate):
    """The recursion as it is printed in the paper, dense blocks, observation by observation, for a linear model."""
    slices = np.cumsum([0, *(len(p) for p in p_blocks)])
    for h, y in zip(rows, targets, strict=True):
        parts = [h[a:b] for a, b in itertools.pairwise(slices)]
        gain = 1.0 / (len(p_blocks) * factor + sum(part @ p @ part for part, p in zip(parts, p_blocks, strict=True)))
        error = y - h @ theta
        for number, (part, (a, b)) in enumerate(zip(parts, itertools.pairwise(slices), strict=True)):
            k = p_blocks[number] @ part
            theta[a:b] += gain * error * k
            p_blocks[number] = (p_blocks[number] - gain * np.outer(k, k)) / factor
        factor = rate * factor + 1.0 - rate
    return theta, p_blocks, factor


@pytest.mark.parametrize("group", [1, 3, 60])
def test_equals_the_printed_recursion_in_groups_of_any_size(group):
    """Taking a linear model's observations together changes nothing, through merges, blocks and forgetting."""
    n, starts = 23, (0, 9, 14, 23)
    rows, targets = normal(150, n, seed=1).numpy(), normal(150, seed=2).numpy()
    theta, blocks, factor = plain_rlekf(
        [0.7 * np.eye(b - a) for a, b in itertools.pairwise(starts)], np.zeros(n), rows, targets, 0.98, 0.9987
    )
    ours = KalmanFilter(BlockLayout(starts), torch.full((n,), 0.7, dtype=torch.float64), Memory(0.98, 0.9987))
    weights = torch.zeros(n, dtype=torch.float64)
    for first in range(0, 150, group):
        h, y = torch.from_numpy(rows[first : first + group]), torch.from_numpy(targets[first : first + group])
        weights += ours.update(h, (y - h @ weights).tolist())
    assert np.allclose(weights, theta, rtol=1e-9, atol=1e-11)
    assert ours.factor == pytest.approx(factor, abs=1e-14)
    for block, expected in zip(ours.covariance.dense(), blocks, strict=True):
        assert np.allclose(block, expected, rtol=1e-9, atol=1e-12)


def test_is_exact_bayesian_regression():
    """One block, λ = 1, R = 1: mean and variance of the posterior N(Λ⁻¹Hᵀy, Λ⁻¹), Λ = HᵀH + P₀⁻¹."""
    n = 13
    h, y, start = normal(40, n, seed=3), normal(40, seed=4), normal(n, seed=5).square() + 0.1
    ours = KalmanFilter(BlockLayout((0, n)), start, FOREVER)
    weights = torch.zeros(n, dtype=torch.float64)
    for first in range(0, 40, 7):
        rows = h[first : first + 7]
        weights += ours.update(rows, (y[first : first + 7] - rows @ weights).tolist())
    precision = h.t() @ h + torch.diag(1.0 / start)
    posterior = torch.linalg.inv(precision)
    assert torch.allclose(weights, posterior @ (h.t() @ y), atol=1e-12)
    probe = normal(6, n, seed=6)
    assert torch.allclose(variance(ours, probe), ((probe @ posterior) * probe).sum(dim=1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("starts", [(0, 11), (0, 4, 11)])
def test_information_form(starts):
    """Dense: P⁻¹ ← λP⁻¹ + HHᵀ/L. In blocks the shared gain adds the other blocks' spread to each block's noise."""
    n, memory = starts[-1], Memory(0.97, 0.99)
    ours = KalmanFilter(BlockLayout(starts), torch.ones(n, dtype=torch.float64), memory)
    parts = ours.layout.slices()
    expected = [torch.eye(part.stop - part.start, dtype=torch.float64) for part in parts]
    for number in range(30):
        h, factor = normal(1, n, seed=number), ours.factor
        spread = [float(h[0, part] @ torch.linalg.inv(info) @ h[0, part]) for part, info in zip(parts, expected, strict=True)]
        for index, part in enumerate(parts):
            noise = len(parts) * factor + sum(spread) - spread[index]
            expected[index] = factor * (expected[index] + torch.outer(h[0, part], h[0, part]) / noise)
        ours.update(h, [0.3])
    for block, information in zip(ours.covariance.dense(), expected, strict=True):
        assert torch.allclose(torch.linalg.inv(block), information, rtol=1e-10, atol=1e-10)


def test_variance_after_an_update():
    """Dense: hᵀP⁺h = q L/(L λ + q)."""
    ours = KalmanFilter(BlockLayout((0, 9)), torch.full((9,), 2.0, dtype=torch.float64), Memory(0.96, 0.999))
    h = normal(1, 9, seed=1)
    for _ in range(4):
        q, factor = float(variance(ours, h)[0]), ours.factor
        ours.update(h, [1.0])
        assert float(variance(ours, h)[0]) == pytest.approx(q / (factor + q), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(0, 10), (0, 3, 10)]), st.integers(1, 8))
def test_without_forgetting_data_never_raise_a_variance(seed, starts, count):
    ours = KalmanFilter(BlockLayout(starts), torch.ones(10, dtype=torch.float64), FOREVER)
    probe = normal(20, 10, seed=seed)
    before = variance(ours, probe)
    for number in range(4):
        ours.update(normal(count, 10, seed=seed + number), [0.0] * count)
        after = variance(ours, probe)
        assert bool((after <= before * (1 + 1e-12)).all())
        before = after


def test_order_of_the_data_does_not_matter_in_the_linear_case():
    h, y = normal(30, 8, seed=1), normal(30, seed=2)
    found = []
    for order in (torch.arange(30), torch.randperm(30, generator=generator(3))):
        ours = KalmanFilter(BlockLayout((0, 8)), torch.ones(8, dtype=torch.float64), FOREVER)
        weights = torch.zeros(8, dtype=torch.float64)
        for index in order:
            weights += ours.update(h[index : index + 1], [float(y[index] - h[index] @ weights)])
        found.append((weights, full(ours)))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-12) and torch.allclose(found[0][1], found[1][1], atol=1e-12)


def test_scale_of_prior_and_noise():
    """c·P₀ with c·R gives c·KPU and the same weights."""
    h = normal(20, 7, seed=1)
    plain = KalmanFilter(BlockLayout((0, 3, 7)), torch.ones(7, dtype=torch.float64), Memory(0.98, 0.99))
    scaled = KalmanFilter(BlockLayout((0, 3, 7)), torch.full((7,), 9.0, dtype=torch.float64), Memory(0.98, 0.99))
    steps = plain.update(h, [1.0] * 20), scaled.update(h, [1.0] * 20, noise=[9.0] * 20)
    assert torch.allclose(*steps, rtol=1e-10)
    assert torch.allclose(9.0 * variance(plain, h), variance(scaled, h), rtol=1e-10)


def test_wind_up_is_bounded():
    """40,000 updates that never excite one direction; without the ceiling its variance grows five-million-fold."""
    n, ceiling = 5, 30.0
    directions = normal(40_000, n, seed=1)
    directions[:, 2] = 0.0
    bounded = KalmanFilter(BlockLayout((0, n)), torch.ones(n, dtype=torch.float64), Memory(0.98, 0.9987, ceiling))
    free = KalmanFilter(BlockLayout((0, n)), torch.ones(n, dtype=torch.float64), Memory(0.98, 0.9987))
    for first in range(0, 40_000, 40):
        for each in (bounded, free):
            each.update(directions[first : first + 40], [0.1] * 40)
    assert float(free.covariance.diagonal()[2]) == pytest.approx(5.2e6, rel=0.02)
    diagonal = bounded.covariance.diagonal()
    assert float(diagonal[2]) == pytest.approx(ceiling, rel=1e-9) and float(diagonal.max()) <= ceiling * (1 + 1e-9)
    assert float(torch.linalg.eigvalsh(full(bounded))[0]) > 0.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.5, 100.0), st.integers(1, 9))
def test_stays_symmetric_and_positive(seed, ceiling, count):
    ours = KalmanFilter(BlockLayout((0, 6, 17)), torch.ones(17, dtype=torch.float64), Memory(0.9, 0.99, ceiling))
    for number in range(40):
        ours.update(normal(count, 17, seed=seed + number) * 10.0 ** (number % 5 - 2), [1.0] * count)
    p = full(ours)
    assert torch.equal(p, p.t())
    assert float(torch.linalg.eigvalsh(p)[0]) > -1e-12 * float(p.abs().max())
    assert torch.allclose(p.diagonal(), ours.covariance.diagonal(), rtol=1e-8, atol=1e-12)


def test_state_is_exact_between_merges():
    """Saved and restored at any place, the filter goes on with the same bits."""
    memory = Memory(0.98, 0.999, 3.0)
    layout = BlockLayout((0, 6, 17))

    def fresh() -> KalmanFilter:
        return KalmanFilter(layout, torch.ones(17, dtype=torch.float64), memory)

    straight, cut = fresh(), fresh()
    for number in range(25):
        rows = normal(5, 17, seed=number)
        steps = straight.update(rows, [0.1] * 5), cut.update(rows, [0.1] * 5)
        assert torch.equal(*steps)
        saved = {name: tensor.clone() for name, tensor in cut.state().items()}
        cut = fresh()
        cut.restore(saved)
    for name, tensor in straight.state().items():
        assert torch.equal(tensor, cut.state()[name]), name


def test_layout_gathers_and_cuts():
    """RLEKF's rule: in order, gathered while the sum stays within the block, cut when one is larger."""
    assert block_layout([3, 3, 3], 6).starts == (0, 6, 9)
    assert block_layout([2, 15, 2], 6).starts == (0, 2, 8, 14, 19)
    assert block_layout([6, 6], 6).starts == (0, 6, 12)
    usual = [25, 25, 625, 25, 625, 25, 20000, 50, 2500, 50, 2500, 50, 50, 1]
    assert block_layout(usual, 5120).sizes == (1350, 5120, 5120, 5120, 4690, 5100, 51) and sum(usual) == 26551
    assert block_layout(usual, 10240).digest() != block_layout(usual, 5120).digest()


def test_product_and_dense_agree():
    start = normal(17, seed=1).square() + 0.5
    covariance = Covariance(BlockLayout((0, 6, 17)), start)
    covariance.push(normal(17, 2, seed=2) * 0.05)
    covariance.rescale(normal(17, seed=3).abs() + 0.5)
    x = normal(17, 3, seed=4)
    product = covariance.product(x)
    assert torch.allclose(torch.block_diag(*covariance.dense()) @ x, product, atol=1e-13)
    assert torch.allclose(covariance.product(x), product, atol=1e-13)


def test_measured_noise_is_the_running_mean_square_or_the_error_s_own():
    noise = InnovationNoise({"energy": 0.1, "force": 1.0}, window=4.0)
    seen = [noise("force", error) for error in (2.0, 2.0, 4.0, 1.0)]
    assert seen == pytest.approx([4.0, 4.0, 16.0, (4.0 + 4.0 + 16.0 + 1.0) / 4.0])
    assert noise("energy", 3.0) == pytest.approx(0.9), "kinds do not mix"
    # from the window on old errors fade: 6.25 + (0 − 6.25)/4
    assert noise("force", 0.0) == pytest.approx(6.25 * 0.75)
    copy = InnovationNoise({"energy": 0.1, "force": 1.0}, window=4.0)
    copy.restore({name: tensor.clone() for name, tensor in noise.state().items()})
    assert copy("force", 1.5) == noise("force", 1.5)


def test_measured_noise_makes_the_steps_independent_of_units():
    """Observations in other units give the same steps: fixed noise does not, and has to wind P up by as much."""
    h, y = normal(60, 7, seed=1), normal(60, seed=2)
    found = []
    for unit in (1.0, 1000.0):
        noise = InnovationNoise({"force": 1.0})
        ours = KalmanFilter(BlockLayout((0, 3, 7)), torch.ones(7, dtype=torch.float64), FOREVER)
        weights = torch.zeros(7, dtype=torch.float64)
        for first in range(0, 60, 6):
            rows, targets = unit * h[first : first + 6], unit * y[first : first + 6]
            weights += ours.update(
                rows, (targets - rows @ weights).tolist(), measure=lambda _, error, __, noise=noise: noise("force", error)
            )
        found.append(weights)
    assert torch.allclose(*found, rtol=1e-9)


def test_measured_noise_never_goes_below_what_labels_are_good_for():
    noise = InnovationNoise({"energy": 0.1, "force": 1.0})
    assert [noise("force", 1e-9, least=1e-3) for _ in range(30)] == [pytest.approx(1e-6)] * 30
    assert [noise("energy", 1e-9, least=1e-3) for _ in range(30)] == [pytest.approx(1e-7)] * 30
    assert noise("force", 0.1, least=1e-3) == pytest.approx(0.01), "large errors are their own noise"


@pytest.mark.parametrize("first", [3, 200])
def test_one_broken_energy_does_not_make_the_noise_of_all(first):
    """Found by an attack: one energy of 40 that is 50 eV off, and R of every energy grew a thousandfold."""
    generator = np.random.default_rng(1)
    errors = 0.01 * np.abs(generator.normal(size=600))
    plain, broken = InnovationNoise({"energy": 0.1}), InnovationNoise({"energy": 0.1})
    for place, error in enumerate(errors):
        expected = plain("energy", error)
        hit = place % 40 == first % 40 and place >= first
        found = broken("energy", 6.0 if hit else error)
        if hit:
            assert found == pytest.approx(0.1 * 36.0), "its own noise is as large as it is"
        elif place > 25:
            assert found == pytest.approx(expected, rel=0.35)
    # forces have no gate: those of perfect crystals are zero, and the others are no outliers for that
    forces = InnovationNoise({"force": 1.0})
    for error in [0.0] * 30 + [1.0]:
        forces("force", error)
    assert forces("force", 0.0) == pytest.approx(1.0 / 32.0)


def test_an_error_that_p_expects_is_no_outlier():
    """A frame from where the data have not been yet: P predicts a large variance for it, and it counts as any other."""
    for spread, counted in ((0.0, False), (1.0, True)):
        noise = InnovationNoise({"energy": 1.0})
        for _ in range(30):
            noise("energy", 0.01)
        noise("energy", 3.0, spread)
        assert (noise("energy", 0.01) > 0.1) == counted


@pytest.mark.parametrize("starts", [(0, 9), (0, 4, 9)])
@pytest.mark.parametrize("ceiling", [2.0, float("inf")])
def test_the_pull_goes_back_as_the_prior_s_precision_says(starts, ceiling):
    """It takes (1 + τP)⁻¹τP of the way, P before the step (τP where that is short), and changes nothing else."""
    memory, precision = Memory(1.0, 1.0, ceiling), 0.05
    plain, pulled = (KalmanFilter(BlockLayout(starts), torch.full((9,), 2.0, dtype=torch.float64), memory) for _ in range(2))
    unit = torch.eye(9, dtype=torch.float64)
    for number in range(3):
        rows, way = normal(4, 9, seed=number), normal(9, seed=10 + number)
        p = full(plain)
        back = precision * (p @ way) if ceiling == 2.0 else torch.linalg.solve(unit + precision * p, precision * (p @ way))
        steps = plain.update(rows, [0.3] * 4), pulled.update(rows, [0.3] * 4, pull=(way, precision))
        assert torch.allclose(steps[1], steps[0] - back, atol=1e-7 if ceiling > 2.0 else 1e-13)
        assert torch.allclose(full(plain), full(pulled), atol=1e-14)
    never_seen = torch.zeros((3, 9), dtype=torch.float64)
    away = torch.zeros(9, dtype=torch.float64)
    away[5] = 1.0
    fresh = KalmanFilter(BlockLayout(starts), torch.full((9,), 2.0, dtype=torch.float64), memory)
    share = 0.1 if ceiling == 2.0 else 0.1 / 1.1
    assert torch.allclose(fresh.update(never_seen, [0.0] * 3, pull=(away, precision)), -share * away)


@pytest.mark.parametrize("per_epoch", [1, 2, 4])
@pytest.mark.parametrize("prior", [0.1, 3.0])
def test_many_passes_over_few_data_end_at_the_documented_prior(per_epoch, prior):
    """Linear, four observations of six weights: the minimum of Σ(y − hθ)²/R + τ|θ − θ₀|², however short an epoch is.

    Found by an attack: for epochs of few steps the pull was cut to a fifth of the way.
    """
    h, y, start = normal(4, 6, seed=1), normal(4, seed=2), normal(6, seed=3)
    expected = start + torch.linalg.solve(h.t() @ h / 0.5 + prior * torch.eye(6, dtype=torch.float64), h.t() @ (y - h @ start) / 0.5)
    ours = KalmanFilter(BlockLayout((0, 6)), torch.full((6,), 1.0, dtype=torch.float64), Memory(1.0, 1.0, 5.0))
    weights, size = start.clone(), 4 // per_epoch
    for _ in range(300):
        for first in range(0, 4, size):
            rows = h[first : first + size]
            errors = (y[first : first + size] - rows @ weights).tolist()
            weights += ours.update(rows, errors, noise=[0.5] * size, pull=(weights - start, prior / per_epoch))
    assert float((weights - expected).norm()) < 0.05 * float((expected - start).norm())
