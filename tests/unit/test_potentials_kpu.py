"""KPU of forces and energies from a covariance of the weights: exact, by probes, by samples; its symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell

torch = pytest.importorskip("torch")

from kpu_support import autograd_rows, geometry_of, random_covariance, rough_cell, rough_model  # noqa: E402

from pwact_like.errors import DataError  # noqa: E402
from pwact_like.potentials import block_matrix, kpu  # noqa: E402
from pwact_like.potentials.block_matrix import BlockMatrix, sample_covariance  # noqa: E402
from pwact_like.potentials.covariance import BlockLayout, Covariance, block_layout  # noqa: E402
from pwact_like.potentials.kpu import ExactKpu, SampledKpu, Variances, kpu_exact, kpu_hutchinson, kpu_sampled  # noqa: E402

MODEL = rough_model()
N = sum(parameter.numel() for parameter in MODEL.parameters())
LAYOUT = block_layout([parameter.numel() for parameter in MODEL.parameters()], 200)


def blocks_of(dense: torch.Tensor, layout: BlockLayout = LAYOUT) -> BlockMatrix:
    return BlockMatrix(layout, [dense[part, part].contiguous() for part in layout.slices()])


COVARIANCE = blocks_of(random_covariance(N, 1))


def variances(atoms: Atoms) -> Variances:
    return kpu_exact(MODEL, geometry_of(MODEL, atoms), COVARIANCE)


def filtered_covariance() -> Covariance:
    """A filter's P amid its work: columns not merged, a pending scale."""
    torch.manual_seed(2)
    covariance = Covariance(LAYOUT, torch.linspace(0.5, 2.0, N, dtype=torch.float64))
    covariance.push(0.01 * torch.randn((N, 5), dtype=torch.float64))
    covariance.rescale(1.2)
    return covariance


def test_exact_equals_one_backward_pass_for_each_component() -> None:
    geometry = geometry_of(MODEL, rough_cell())
    energy, forces, _ = autograd_rows(MODEL, geometry)
    n_atoms = geometry.layout.n_atoms

    def naive(row: torch.Tensor) -> float:
        return float(sum(row[part] @ block @ row[part] for part, block in zip(LAYOUT.slices(), COVARIANCE.blocks, strict=True)))

    found = kpu_exact(MODEL, geometry, COVARIANCE)
    by_component = np.array([naive(row) for row in forces])
    np.testing.assert_allclose(found.force, by_component.reshape(n_atoms, 3).sum(axis=1), rtol=1e-12)
    assert found.energy == pytest.approx(naive(energy / n_atoms), rel=1e-12)


def test_a_filters_own_covariance_as_it_is() -> None:
    geometry, covariance = geometry_of(MODEL, rough_cell()), filtered_covariance()
    by_product = ExactKpu(MODEL, covariance).variances(geometry)
    by_blocks = ExactKpu(MODEL, BlockMatrix.of(covariance)).variances(geometry)
    np.testing.assert_allclose(by_product.force, by_blocks.force, rtol=1e-12)
    assert by_product.energy == pytest.approx(by_blocks.energy, rel=1e-12)


def test_single_precision_covariance() -> None:
    geometry = geometry_of(MODEL, rough_cell())
    diagonal = torch.linspace(0.5, 2.0, N, dtype=torch.float64)
    double, single = Covariance(LAYOUT, diagonal), Covariance(LAYOUT, diagonal.float())
    np.testing.assert_allclose(kpu_exact(MODEL, geometry, single).force, kpu_exact(MODEL, geometry, double).force, rtol=1e-5)


def test_tiles_of_a_block_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = random_covariance(N, 3)
    rows = torch.from_numpy(np.random.default_rng(4).normal(size=(7, N)))
    truth = blocks_of(dense)
    monkeypatch.setattr(block_matrix, "TILE", 32)
    matrix = BlockMatrix.zeros(LAYOUT, dense)
    for some in (rows[:3], rows[3:]):
        matrix.add_squares(some)
    matrix.add_diagonal(0.5)
    whole = blocks_of(rows.t() @ rows + 0.5 * torch.eye(N, dtype=torch.float64))
    for part, block, full in zip(LAYOUT.slices(), matrix.blocks, whole.blocks, strict=True):
        torch.testing.assert_close(torch.tril(block), torch.tril(full))
        truth_product = truth.blocks[LAYOUT.slices().index(part)] @ rows.t()[part]
        torch.testing.assert_close(truth.product(rows.t())[part], truth_product)
    torch.testing.assert_close(matrix.quadratic(rows), whole.quadratic(rows))
    assert matrix.mean_diagonal == pytest.approx(float(rows.square().sum()) / N + 0.5)
    factors = matrix.factorize("a test")
    torch.testing.assert_close(factors.inverse_quadratic(rows), (rows * factors.solve(rows.t()).t()).sum(dim=1))
    truth = torch.cat([full @ rows.t()[part] for part, full in zip(LAYOUT.slices(), whole.blocks, strict=True)])
    torch.testing.assert_close(factors.solve(truth), rows.t().contiguous(), atol=1e-9, rtol=1e-9)


def test_rotation_translation_relabelling() -> None:
    atoms = rough_cell()
    before = variances(atoms)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation)
    turned.positions = atoms.positions @ rotation
    shifted = atoms.copy()
    shifted.positions += [3.3, -7.7, 21.0]
    order = np.random.default_rng(4).permutation(len(atoms))
    for moved, expected in ((turned, before.force), (shifted, before.force), (atoms[order], before.force[order])):
        found = variances(moved)
        np.testing.assert_allclose(found.force, expected, rtol=1e-9)
        assert found.energy == pytest.approx(before.energy, rel=1e-9)
    assert np.ptp(before.force) > 0.1 * before.force.max()  # and atoms do differ


def test_a_supercell_has_the_same_uncertainties() -> None:
    atoms = rough_cell()
    one, three = variances(atoms), variances(make_supercell(atoms, np.diag([1, 3, 1])))
    assert three.energy == pytest.approx(one.energy, rel=1e-10)
    np.testing.assert_allclose(three.force, np.tile(one.force, 3), rtol=1e-9)


def test_scaled_covariance_and_equal_frames() -> None:
    geometry = geometry_of(MODEL, rough_cell())
    scaled = BlockMatrix(LAYOUT, [3.7 * block for block in COVARIANCE.blocks])
    one, other = kpu_exact(MODEL, geometry, COVARIANCE), kpu_exact(MODEL, geometry, scaled)
    np.testing.assert_allclose(other.force, 3.7 * one.force, rtol=1e-12)
    assert other.energy == pytest.approx(3.7 * one.energy, rel=1e-12)
    again = variances(rough_cell())
    np.testing.assert_array_equal(again.force, one.force)
    assert again.energy == one.energy


def test_isolated_and_symmetric_atoms_have_no_force_variance() -> None:
    apart, alone = variances(Atoms("SiLi", positions=[[0, 0, 0], [9, 0, 0]])), variances(Atoms("Si", cell=[2.9, 3.1, 3.2], pbc=True))
    np.testing.assert_array_equal(apart.force, 0.0)
    np.testing.assert_allclose(alone.force, 0.0, atol=1e-20)
    assert apart.energy > 0.0 and alone.energy > 0.0


def test_large_cells_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = variances(rough_cell())
    monkeypatch.setattr(kpu, "ROWS_AT_ONCE", 7 * N)  # two atoms
    np.testing.assert_allclose(variances(rough_cell()).force, whole.force, rtol=1e-12)


def test_probes_agree_with_the_exact_mean() -> None:
    geometry = geometry_of(MODEL, rough_cell())
    exact = kpu_exact(MODEL, geometry, COVARIANCE).force.sum() / 18
    estimates = [kpu_hutchinson(MODEL, geometry, COVARIANCE, 8, seed) for seed in range(40)]
    # the estimate's variance is at most 2/8 |JPJᵀ|²_F over the squared trace, below 2/8
    assert np.mean(estimates) == pytest.approx(exact, rel=4 * np.std(estimates) / exact / 40**0.5)
    assert np.std(estimates) < exact * (2 / 8) ** 0.5
    assert kpu_hutchinson(MODEL, geometry, COVARIANCE, 8, 5) == estimates[5]
    assert len(set(estimates)) == 40


def test_samples_agree_within_their_scatter() -> None:
    geometry = geometry_of(MODEL, rough_cell())
    exact = kpu_exact(MODEL, geometry, COVARIANCE)
    n_samples = 800
    samples = sample_covariance(COVARIANCE, n_samples, 1)
    assert samples.shape == (n_samples, N)
    torch.testing.assert_close(samples, sample_covariance(COVARIANCE, n_samples, 1), rtol=0.0, atol=0.0)
    torch.testing.assert_close(samples[:3], sample_covariance(COVARIANCE, 3, 1))
    found = SampledKpu(MODEL, samples).variances(geometry)
    bound = (2 / n_samples) ** 0.5  # of one component; three scatter less
    ratios = np.append(found.force / exact.force, found.energy / exact.energy)
    assert np.abs(ratios - 1.0).max() < 4 * bound
    assert np.abs(ratios - 1.0).max() > 1e-4  # and it is an estimate


def test_samples_of_a_filters_covariance_live_in_its_blocks() -> None:
    geometry, covariance = geometry_of(MODEL, rough_cell()), filtered_covariance()
    exact = kpu_exact(MODEL, geometry, covariance)
    found = kpu_sampled(MODEL, geometry, sample_covariance(covariance, 800, 2))
    np.testing.assert_allclose(found.force, exact.force, rtol=4 * (2 / 800) ** 0.5)


class Stretched:
    """θ = T φ with a dense T: harder than any real one."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.matrix = torch.eye(N, dtype=torch.float64) + 0.1 * torch.randn((N, N), dtype=torch.float64) / N**0.5

    def gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient @ self.matrix

    def step(self, step: torch.Tensor) -> torch.Tensor:
        return step @ self.matrix.t()


def test_a_covariance_in_other_coordinates() -> None:
    geometry, coordinates = geometry_of(MODEL, rough_cell()), Stretched()
    whole = BlockLayout((0, N))
    dense = random_covariance(N, 1)
    seen = blocks_of(dense, whole)
    own = blocks_of(coordinates.matrix @ dense @ coordinates.matrix.t(), whole)
    here, there = kpu_exact(MODEL, geometry, seen, coordinates), kpu_exact(MODEL, geometry, own)
    np.testing.assert_allclose(here.force, there.force, rtol=1e-10)
    assert here.energy == pytest.approx(there.energy, rel=1e-10)
    probes = [kpu_hutchinson(MODEL, geometry, *arguments) for arguments in ((seen, 8, 3, coordinates), (own, 8, 3))]
    assert probes[0] == pytest.approx(probes[1], rel=1e-10)
    samples = coordinates.step(sample_covariance(seen, 800, 3))
    np.testing.assert_allclose(kpu_sampled(MODEL, geometry, samples).force, there.force, rtol=4 * (2 / 800) ** 0.5)


def test_an_indefinite_covariance_is_named() -> None:
    matrix = BlockMatrix(BlockLayout((0, 2)), [torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)])
    with pytest.raises(DataError, match="weights 0 to 1 is not positive definite"):
        sample_covariance(matrix, 1, 1)
