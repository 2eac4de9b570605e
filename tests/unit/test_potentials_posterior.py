"""The posterior after a training: Bayesian regression where the model is linear, its limits, the last layer, linear committees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

torch = pytest.importorskip("torch")

from kpu_support import autograd_rows, geometry_of, rough_cell, rough_model, training_set  # noqa: E402

from pwact_like.config.train import Optimizer  # noqa: E402
from pwact_like.errors import DataError  # noqa: E402
from pwact_like.potentials import posterior as module  # noqa: E402
from pwact_like.potentials.block_matrix import BlockMatrix  # noqa: E402
from pwact_like.potentials.covariance import BlockLayout, block_layout  # noqa: E402
from pwact_like.potentials.kpu import ExactKpu, SampledKpu, kpu_exact  # noqa: E402
from pwact_like.potentials.linear_committee import linear_committee, moved_model, nonlinearity  # noqa: E402
from pwact_like.potentials.posterior import (  # noqa: E402
    LastLayer,
    Noise,
    Posterior,
    choose_probes,
    information,
    laplace_posterior,
    residual_noise,
)
from pwact_like.potentials.self_knowledge import noise_of  # noqa: E402
from pwact_like.potentials.training_set import TrainingSet  # noqa: E402

MODEL = rough_model()
SIZES = [parameter.numel() for parameter in MODEL.parameters()]
N = sum(SIZES)
LAYOUT = block_layout(SIZES, 200)
WHOLE = BlockLayout((0, N))
LAST = N - sum(parameter.numel() for parameter in MODEL.output.parameters())  # first weight of the output layers
NOISE = Noise(0.002, 0.05, 0.01)
STRUCTURES = [rough_cell(seed) for seed in range(20, 24)]
OTHER = rough_cell(99)


def data_of(structures: Sequence[Atoms] = STRUCTURES, *, virials: bool = False) -> TrainingSet:
    return training_set(MODEL, list(structures), virials=virials)


def naive_information(structures: Sequence[Atoms], noise: Noise) -> torch.Tensor:
    total = torch.zeros((N, N), dtype=torch.float64)
    for atoms in structures:
        energy, forces, virial = autograd_rows(MODEL, geometry_of(MODEL, atoms))
        if noise.energy is not None:
            total += torch.outer(energy, energy) / (len(atoms) * noise.energy) ** 2
        if noise.force is not None:
            total += forces.t() @ forces / noise.force**2
        if noise.virial is not None:
            for row, times in zip(virial, (1, 1, 1, 2, 2, 2), strict=True):
                total += times * torch.outer(row, row) / (len(atoms) * noise.virial) ** 2
    return total


def lower(matrix: BlockMatrix) -> list[torch.Tensor]:
    return [torch.tril(block) for block in matrix.blocks]


@pytest.mark.parametrize("noise", [NOISE, Noise(0.002, None), Noise(None, 0.05)], ids=["all", "energies", "forces"])
def test_information_is_the_sum_over_all_observations(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = naive_information(STRUCTURES, noise)
    for together in (1, 1 << 23):  # frame by frame, or all in one product
        monkeypatch.setattr(module, "_ROWS_TOGETHER", together)
        found = lower(information(MODEL, data_of(virials=True), LAYOUT, noise))
        for part, block in zip(LAYOUT.slices(), found, strict=True):
            torch.testing.assert_close(block, torch.tril(truth[part, part]), rtol=1e-10, atol=1e-12 * float(truth.abs().max()))


def test_a_frame_without_a_virial_adds_none() -> None:
    with_none = information(MODEL, data_of(), WHOLE, NOISE)
    torch.testing.assert_close(lower(with_none), lower(information(MODEL, data_of(), WHOLE, Noise(0.002, 0.05))), rtol=0.0, atol=0.0)


def test_kpu_of_the_posterior_is_h_inverse_h() -> None:
    truth = naive_information(STRUCTURES, Noise(0.002, 0.05))
    tau = 1e-3 * float(truth.diagonal().mean())
    found = laplace_posterior(MODEL, data_of(), LAYOUT, Noise(0.002, 0.05), tau=1e-3)
    assert found.tau == pytest.approx(tau, rel=1e-10)
    energy, forces, _ = autograd_rows(MODEL, geometry_of(MODEL, OTHER))
    rows = torch.cat([forces, energy.unsqueeze(0) / len(OTHER)])
    expected = torch.zeros(len(rows), dtype=torch.float64)
    for part in LAYOUT.slices():
        block = truth[part, part] + tau * torch.eye(part.stop - part.start, dtype=torch.float64)
        expected += (rows[:, part] * torch.linalg.solve(block, rows[:, part].t()).t()).sum(dim=1)
    variances = ExactKpu(MODEL, found, found.coordinates).variances(geometry_of(MODEL, OTHER))
    np.testing.assert_allclose(variances.force, expected[:-1].view(-1, 3).sum(dim=1).numpy(), rtol=1e-8)
    assert variances.energy == pytest.approx(float(expected[-1]), rel=1e-8)
    torch.testing.assert_close(found.quadratic(rows), (rows * found.product(rows.t()).t()).sum(dim=1))
    torch.testing.assert_close(found.quadratic(rows), found.covariance().quadratic(rows), rtol=1e-6, atol=0.0)


def test_linear_gaussian_model_gives_the_exact_bayesian_variance() -> None:
    """In its output layers the model is linear: there Bayesian regression with a Gaussian prior is exact, and is written out."""

    def words(atoms: Atoms) -> np.ndarray:
        """Design matrix: what the model says with one output weight 1 and the others 0, of energy an atom and forces."""
        columns = []
        for index in range(LAST, N):
            model = moved_model(MODEL, torch.zeros(N, dtype=torch.float64))
            with torch.no_grad():
                for number, parameter in enumerate(model.output.parameters()):
                    parameter.zero_()
                    begin = LAST + sum(p.numel() for p in list(MODEL.output.parameters())[:number])
                    if begin <= index < begin + parameter.numel():
                        parameter.view(-1)[index - begin] = 1.0
                model.energy_bias.zero_()
                said = model(geometry_of(model, atoms))
            columns.append(np.append(said.energies[0, 0] / len(atoms), said.forces[0].reshape(-1)))
        return np.array(columns).T

    precision = np.zeros((N - LAST, N - LAST))
    for atoms in STRUCTURES:
        design = words(atoms) / np.array([0.002] + [0.05] * 18)[:, None]
        precision += design.T @ design
    precision += 0.01 * np.trace(precision) / (N - LAST) * np.eye(N - LAST)
    design = words(OTHER)
    expected = np.einsum("oi,ij,oj->o", design, np.linalg.inv(precision), design)
    found = LastLayer(MODEL, data_of(), Noise(0.002, 0.05), tau=0.01).variances(geometry_of(MODEL, OTHER))
    np.testing.assert_allclose(found.force, expected[1:].reshape(-1, 3).sum(axis=1), rtol=1e-12)
    assert found.energy == pytest.approx(expected[0], rel=1e-12)


@pytest.mark.parametrize("noise", [Noise(0.002, 0.05), NOISE, Noise(None, None, 0.01)], ids=["plain", "virials too", "virials alone"])
def test_last_layer_is_the_posterior_of_its_weights(noise: Noise) -> None:
    geometry, data = geometry_of(MODEL, OTHER), data_of(virials=True)
    whole = information(MODEL, data, WHOLE, noise).blocks[0]
    part = BlockMatrix(BlockLayout((0, N - LAST)), [whole[LAST:, LAST:].clone()])

    class Restricted:
        """P of the last weights, for gradients by all of them."""

        posterior = Posterior(part, 0.01)

        def product(self, x: torch.Tensor) -> torch.Tensor:
            result = torch.zeros_like(x)
            result[LAST:] = self.posterior.product(x[LAST:].contiguous())
            return result

    expected = kpu_exact(MODEL, geometry, Restricted())
    found = LastLayer(MODEL, data, noise, tau=0.01, alpha=3.0).variances(geometry)
    np.testing.assert_allclose(found.force, 9.0 * expected.force, rtol=1e-9)
    assert found.energy == pytest.approx(9.0 * expected.energy, rel=1e-9)
    drawn = LastLayer(MODEL, data, noise, tau=0.01).sample(1000, 1)  # the output layers come last among the weights
    samples = torch.cat([torch.zeros((1000, LAST), dtype=torch.float64), drawn], dim=1)
    np.testing.assert_allclose(SampledKpu(MODEL, samples).variances(geometry).force, expected.force, rtol=4 * (2 / 1000) ** 0.5)
    energies_only = LastLayer(MODEL, data_of(), Noise(1.0, None)).variances(geometry)
    assert (energies_only.force > 0.0).all() and energies_only.energy > 0.0


def test_more_data_never_raises_kpu_and_order_does_not_matter() -> None:
    geometry, noise = geometry_of(MODEL, OTHER), Noise(0.002, 0.05)

    def variances(structures: Sequence[Atoms], tau: float) -> np.ndarray:
        total = information(MODEL, data_of(structures), LAYOUT, noise)
        found = kpu_exact(MODEL, geometry, Posterior(total, tau / total.mean_diagonal))
        return np.append(found.force, found.energy)

    few, all_of_them = variances(STRUCTURES[:2], 1.0), variances(STRUCTURES, 1.0)
    assert (all_of_them <= few * (1.0 + 1e-9)).all() and (all_of_them < 0.999 * few).any()
    np.testing.assert_allclose(variances(STRUCTURES[::-1], 1.0), all_of_them, rtol=1e-7)


def test_scaled_noise_scales_kpu() -> None:
    geometry = geometry_of(MODEL, OTHER)
    one = kpu_exact(MODEL, geometry, laplace_posterior(MODEL, data_of(), LAYOUT, Noise(0.002, 0.05)))
    four = kpu_exact(MODEL, geometry, laplace_posterior(MODEL, data_of(), LAYOUT, Noise(0.004, 0.1)))
    np.testing.assert_allclose(four.force, 4.0 * one.force, rtol=1e-8)
    assert four.energy == pytest.approx(4.0 * one.energy, rel=1e-8)


def whole(matrix: BlockMatrix) -> torch.Tensor:
    """The only block in full (of what lies off its tiles the lower half alone is filled)."""
    lower = matrix.blocks[0].tril()
    return lower + lower.tril(-1).t()


def test_probes_stand_for_all_components() -> None:
    data, noise = data_of(), Noise(None, 0.05)
    truth = whole(information(MODEL, data, WHOLE, noise))
    drawn = [whole(information(MODEL, data, WHOLE, noise, probes=6, seed=seed)) for seed in range(60)]
    assert torch.linalg.matrix_rank(drawn[0]) <= 24
    mean = torch.stack(drawn).mean(dim=0)
    spread = torch.stack(drawn).std(dim=0) / 60**0.5
    strong = spread > 1e-6 * truth.diagonal().max()
    assert float((((mean - truth)[strong] / spread[strong]).square().mean()) ** 0.5) == pytest.approx(1.0, abs=0.3)
    again = whole(information(MODEL, data_of(STRUCTURES), WHOLE, noise, probes=6, seed=5))
    torch.testing.assert_close(again, drawn[5], rtol=0.0, atol=0.0)
    # a frame's probes are its own, wherever it stands
    shuffled = TrainingSet([data.frames[index] for index in (2, 0, 3, 1)], MODEL.spec, MODEL.davg, MODEL.dstd)
    moved = whole(information(MODEL, shuffled, WHOLE, noise, probes=6, seed=5))
    torch.testing.assert_close(moved, drawn[5], rtol=1e-10, atol=1e-12 * float(truth.abs().max()))


def test_choice_of_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of()  # 4 frames of 18 components
    assert choose_probes(data, LAYOUT) == 0  # cheap enough
    monkeypatch.setattr(module, "EXACT_PRODUCTS", 0.0)
    assert choose_probes(data, LAYOUT) == 0  # 4 × 200 rows are more than there are components
    assert choose_probes(data, BlockLayout((0, 8, 16))) == 8  # four rows a weight in four frames
    assert choose_probes(data, BlockLayout((0, 16))) == 16
    assert choose_probes(data, BlockLayout((0, 2, 3))) == 8  # never fewer


def test_samples_of_the_posterior() -> None:
    geometry = geometry_of(MODEL, OTHER)
    found = laplace_posterior(MODEL, data_of(), LAYOUT, NOISE, tau=1e-2)
    samples = found.sample(1000, 1)
    assert samples.shape == (1000, N)
    torch.testing.assert_close(samples, found.sample(1000, 1), rtol=0.0, atol=0.0)
    assert not torch.equal(samples, found.sample(1000, 2))
    exact, sampled = kpu_exact(MODEL, geometry, found), SampledKpu(MODEL, samples).variances(geometry)
    np.testing.assert_allclose(sampled.force, exact.force, rtol=4 * (2 / 1000) ** 0.5)
    assert sampled.energy == pytest.approx(exact.energy, rel=4 * (2 / 1000) ** 0.5)


class Scaled:
    """θ = T φ, diagonal."""

    factors = torch.linspace(0.2, 3.0, N, dtype=torch.float64)

    def gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * self.factors

    def step(self, step: torch.Tensor) -> torch.Tensor:
        return step * self.factors


def test_a_posterior_in_other_coordinates_has_its_prior_there() -> None:
    geometry, noise, coordinates = geometry_of(MODEL, OTHER), Noise(0.002, 0.05), Scaled()
    found = laplace_posterior(MODEL, data_of(), WHOLE, noise, tau=1e-2, coordinates=coordinates)
    own = naive_information(STRUCTURES, noise) + found.tau * torch.diag(Scaled.factors**-2)
    _, forces, _ = autograd_rows(MODEL, geometry)
    expected = (forces * torch.linalg.solve(own, forces.t()).t()).sum(dim=1).view(-1, 3).sum(dim=1)
    exact = ExactKpu(MODEL, found, found.coordinates).variances(geometry)
    np.testing.assert_allclose(exact.force, expected.numpy(), rtol=1e-8)
    sampled = SampledKpu(MODEL, found.sample(1000, 1)).variances(geometry)  # samples are changes of θ
    np.testing.assert_allclose(sampled.force, exact.force, rtol=4 * (2 / 1000) ** 0.5)


def test_residuals_are_the_noise() -> None:
    found = residual_noise(MODEL, data_of([rough_cell(seed) for seed in range(30)], virials=True), virial=True)
    assert found.energy == pytest.approx(0.002, rel=0.5)
    assert found.force == pytest.approx(0.05, rel=0.15)
    assert found.virial == pytest.approx(0.01, rel=0.2)
    assert residual_noise(MODEL, data_of()).virial is None


def test_the_noise_is_that_of_the_labels_that_were_trained_on() -> None:
    """Found by an attack: virials were trained, and neither posterior knew of them."""
    data = data_of(virials=True)
    full = residual_noise(MODEL, data, virial=True)
    for wanted in ({"train_virial": True}, {}, {"train_energy": False}, {"train_force": False, "train_virial": True}):
        settings = Optimizer(**wanted)
        expected = Noise(
            full.energy if settings.train_energy else None,
            full.force if settings.train_force else None,
            full.virial if settings.train_virial else None,
        )
        assert noise_of(MODEL, data, settings) == expected


def test_a_perfect_fit_is_not_a_perfect_label() -> None:
    exact = []
    for frame in data_of(virials=True).frames:
        said = MODEL(data_of().batch([len(exact)]).geometry, virials=True)
        labels = float(said.energies[0, 0].detach()), said.forces[0].detach().numpy(), said.virials[0, 0].detach().numpy()
        exact.append(replace(frame, energy_ev=labels[0], forces_ev_per_ang=labels[1], virial_ev=labels[2]))
    assert residual_noise(MODEL, TrainingSet(exact, MODEL.spec, MODEL.davg, MODEL.dstd), virial=True) == Noise(1e-4, 1e-3, 1e-3)


def test_faults_are_named() -> None:
    with pytest.raises(DataError, match="no frame tells anything"):
        laplace_posterior(MODEL, data_of([]), LAYOUT, NOISE)
    with pytest.raises(DataError, match="the prior must be positive"):
        laplace_posterior(MODEL, data_of(), LAYOUT, NOISE, tau=0.0)
    with pytest.raises(DataError, match="no frames, or no noise"):
        LastLayer(MODEL, data_of([]), NOISE)
    with pytest.raises(DataError, match="no frames, or no noise"):
        LastLayer(MODEL, data_of(), Noise(None, None))
    broken = moved_model(MODEL, torch.full((N,), float("nan"), dtype=torch.float64))
    with pytest.raises(DataError, match="training frame 0: its gradient by the weights is not finite"):
        laplace_posterior(broken, data_of(), LAYOUT, NOISE)
    with pytest.raises(DataError, match="is not finite; is the model itself"):
        LastLayer(broken, data_of(), NOISE)


def test_a_linear_committee_deviates_as_kpu_says() -> None:
    found = laplace_posterior(MODEL, data_of(), LAYOUT, NOISE, tau=1e-4)
    judged = [geometry_of(MODEL, atoms) for atoms in (OTHER, Atoms("SiLi", positions=[[0, 0, 0], [9, 0, 0]]))]
    n_members = 24
    samples = found.sample(n_members, 4)
    committee = linear_committee(MODEL, samples, judged)
    assert len(committee.members) == n_members and committee.factor == 1.0 / committee.epsilon
    assert committee.nonlinearity <= 0.05
    geometry = judged[0]
    with torch.no_grad():
        forces = np.array([member(geometry).forces[0].numpy() for member in committee.members])
        own = MODEL(geometry).forces[0].numpy()
    deviation = committee.factor**2 * np.square(forces - forces.mean(axis=0)).sum(axis=2).mean(axis=0)
    exact = kpu_exact(MODEL, geometry, found).force
    assert np.abs(deviation / exact - 1.0).max() < 3 * (2 / n_members) ** 0.5 + 0.05
    # the members' mean is the trained model, up to what is not linear
    assert np.abs(forces.mean(axis=0) - own).max() < 0.05 * committee.epsilon * exact.max() ** 0.5


def test_the_largest_linear_step_is_taken() -> None:
    found = laplace_posterior(MODEL, data_of(), LAYOUT, NOISE, tau=1e-8)  # weak: far outside the linear range
    geometries, samples = [geometry_of(MODEL, OTHER)], found.sample(4, 4)
    committee = linear_committee(MODEL, samples, geometries)
    assert committee.epsilon < 1.0
    steps = (samples - samples.mean(dim=0)) * (4 / 3) ** 0.5
    by_scale = [nonlinearity(MODEL, steps, geometries, scale * committee.epsilon) for scale in (2.0, 1.0, 0.5)]
    assert by_scale[1] == committee.nonlinearity <= 0.05 < by_scale[0]
    assert by_scale[2] == pytest.approx(0.5 * by_scale[1], rel=0.2)  # second order
    close = linear_committee(MODEL, 1e-6 * samples, geometries)
    assert close.epsilon == 1.0 and len(close.members) == 4
    with pytest.raises(DataError, match="too wide"):
        linear_committee(MODEL, 1e15 * samples, geometries)
    with pytest.raises(ValueError, match="two members"):
        linear_committee(MODEL, samples[:1], geometries)
