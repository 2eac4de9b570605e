"""Derivatives of energies, forces and virials by the weights: against autograd and finite differences."""

from __future__ import annotations

import pytest
from ase import Atoms

torch = pytest.importorskip("torch")

from kpu_support import SMALL, autograd_rows, geometry_of, rough_cell, rough_model, training_set  # noqa: E402

from pwact_like.potentials import DeepPotential, DeepPotSpec, jacobian  # noqa: E402
from pwact_like.potentials.geometry import Geometry  # noqa: E402
from pwact_like.potentials.jacobian import Linearization, energy_gradient, force_jacobian, force_jvp, force_vjp  # noqa: E402
from pwact_like.potentials.linear_committee import moved_model  # noqa: E402
from pwact_like.potentials.optimizer import FlatParameters  # noqa: E402

SPECS = {
    "small": SMALL,
    # residuals of both kinds in both networks, and trainable time steps
    "residuals": DeepPotSpec(
        (3, 14), rmax_ang=4.4, rmin_ang=1.0, embedding=(4, 4, 8), m2=3, fitting=(12, 12, 6), resnet_dt=True, sel=(14, 20)
    ),
    # no residual, M2 = M, more neighbours than slots, a deep embedding that ends narrower
    "crowded": DeepPotSpec((3, 14), rmax_ang=4.4, rmin_ang=1.0, embedding=(4, 8, 8, 5), m2=5, fitting=(40, 13), sel=(1, 3)),
    "shallow": DeepPotSpec((3, 14), rmax_ang=4.4, rmin_ang=1.0, embedding=(5,), m2=2, fitting=(7,), sel=(14, 20)),
}
STRUCTURES = {
    "crystal": rough_cell(),
    "molecule": Atoms("Si2Li", positions=[[0, 0, 0], [0, 2.3, 0.3], [2.1, 0.1, 0.4]]),
    "apart": Atoms("SiLi", positions=[[0, 0, 0], [9, 0, 0]]),  # no pairs at all
    "one atom": Atoms("Si", cell=[2.9, 3.1, 3.2], pbc=True),  # its neighbours are its images
    "one element": Atoms("Li3", positions=[[0, 0, 0], [0, 2.3, 0.3], [2.1, 0.1, 9.9]]),  # and an isolated atom beside a pair
}


def assert_near(found: torch.Tensor, truth: torch.Tensor, scale: torch.Tensor | None = None) -> None:
    """To 1e-10 of the largest element; ``scale`` where symmetry makes all of them rounding."""
    largest = float((truth if scale is None else scale).abs().max())
    torch.testing.assert_close(found, truth, rtol=0.0, atol=1e-10 * max(largest, 1e-30))


def case(spec: str, structure: str) -> tuple[DeepPotential, Geometry]:
    model = rough_model(SPECS[spec])
    return model, geometry_of(model, STRUCTURES[structure])


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("spec", SPECS)
def test_all_derivatives_equal_autograd(spec: str, structure: str) -> None:
    model, geometry = case(spec, structure)
    energy, forces, virials = autograd_rows(model, geometry)
    n_atoms, n = geometry.layout.n_atoms, len(energy)
    linear = Linearization(model, geometry)
    assert linear.n_weights == n and linear.n_atoms == n_atoms
    # symmetry makes the forces of one atom vanish: there rounding is judged by the energy's derivatives
    scale = energy if structure == "one atom" else None
    assert_near(linear.energy_gradient(), energy)
    assert_near(linear.force_jacobian(), forces, scale)
    assert_near(linear.virial_jacobian(), virials)
    torch.manual_seed(1)
    vectors = torch.randn((4, n_atoms, 3), dtype=torch.float64)
    assert_near(linear.force_vjp(vectors), vectors.flatten(1) @ forces, scale)
    directions = torch.randn((5, n), dtype=torch.float64)
    energies_along, forces_along = linear.jvp(directions)
    assert_near(energies_along, directions @ energy)
    assert_near(forces_along.flatten(1), directions @ forces.t(), scale)
    last = sum(layer.weight.numel() + layer.bias.numel() for layer in model.output)
    by_energy, by_forces = linear.output_jacobian()
    assert_near(by_energy, energy[-last:])
    assert_near(by_forces, forces[:, -last:], scale)


def test_finite_differences_of_the_weights() -> None:
    model, geometry = case("residuals", "crystal")
    n = sum(parameter.numel() for parameter in model.parameters())
    energy, forces = energy_gradient(model, geometry), force_jacobian(model, geometry)
    step = 1e-6
    for index in range(0, n, 37):
        direction = torch.zeros(n, dtype=torch.float64)
        direction[index] = step
        ends = [moved_model(model, sign * direction)(geometry) for sign in (1.0, -1.0)]
        slope = (ends[0].forces - ends[1].forces).reshape(-1) / (2 * step)
        torch.testing.assert_close(forces[:, index], slope, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(energy[index], (ends[0].energies - ends[1].energies)[0, 0] / (2 * step), rtol=1e-6, atol=1e-7)


def test_weights_are_flat_as_the_filters_have_them() -> None:
    model, geometry = case("residuals", "crystal")
    before = energy_gradient(model, geometry)
    flat = FlatParameters(model)  # the parameters become views of one vector
    name, first, shape = next(entry for entry in flat.layout if entry[0] == "fitting.1.1.idt")
    model(geometry).energies.sum().backward()
    torch.testing.assert_close(before, flat.gradient, rtol=0.0, atol=1e-11)
    assert name and torch.equal(before[first : first + shape[0]].abs() > 0, torch.ones(shape, dtype=torch.bool))
    torch.testing.assert_close(energy_gradient(model, geometry), before, rtol=0.0, atol=1e-14)


def test_some_atoms_and_small_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, geometry = case("small", "crystal")
    n_atoms = geometry.layout.n_atoms
    torch.manual_seed(1)
    vectors = torch.randn((7, n_atoms, 3), dtype=torch.float64)
    whole = force_jacobian(model, geometry)
    directions = torch.randn((7, whole.shape[1]), dtype=torch.float64)
    along = force_jvp(model, geometry, directions)[1]
    products = force_vjp(model, geometry, vectors)
    some = torch.tensor([4, 0, 5])  # any order, both elements
    assert_near(force_jacobian(model, geometry, some), whole.view(n_atoms, 3, -1)[some].flatten(0, 1))
    monkeypatch.setattr(jacobian, "CHUNK", 1)
    assert_near(force_jacobian(model, geometry), whole)
    assert_near(force_jvp(model, geometry, directions)[1], along)
    assert_near(force_vjp(model, geometry, vectors), products)


def test_forces_sum_to_zero_whatever_the_weights() -> None:
    model, geometry = case("residuals", "crystal")
    rows = force_jacobian(model, geometry)
    assert_near(rows.view(-1, 3, rows.shape[1]).sum(dim=0), torch.zeros((3, rows.shape[1]), dtype=torch.float64), rows)


def test_several_frames_at_once_are_refused() -> None:
    model = rough_model()
    batch = training_set(model, [rough_cell(1), rough_cell(2)]).batch([0, 1])
    with pytest.raises(ValueError, match="one frame at a time"):
        energy_gradient(model, batch.geometry)
