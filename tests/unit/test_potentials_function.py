"""The Deep Potential's function: DeePMD-kit's numbers, finite differences, continuity, symmetries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

torch = pytest.importorskip("torch")

from pwact_like.errors import DataError  # noqa: E402
from pwact_like.potentials import Committee, DeepPotential, DeepPotSpec, Potential  # noqa: E402
from pwact_like.potentials.modelfile import fill_model  # noqa: E402

FIXTURE = Path(__file__).resolve().parents[1] / "data" / "potentials" / "deepmd_kit_3.2.0_al_cu.npz"
SPEC = DeepPotSpec((13, 29), rmax_ang=4.5, rmin_ang=1.0, embedding=(4, 4, 8), m2=3, fitting=(12, 12, 6), resnet_dt=True, sel=(14, 20))


def rough_model(spec: DeepPotSpec = SPEC, seed: int = 3) -> DeepPotential:
    """Random weights, and statistics that make empty slots count (davg is not zero)."""
    n = spec.n_types
    davg = torch.linspace(0.05, 0.09, n, dtype=torch.float64)
    dstd = torch.linspace(0.07, 0.13, 2 * n, dtype=torch.float64).view(n, 2)
    return DeepPotential(spec, seed, davg, dstd, torch.linspace(-3.0, -2.0, n, dtype=torch.float64))


def rough_cell(seed: int = 5, repeat: int = 1) -> Atoms:
    """Six atoms of two elements in a skewed cell smaller than twice the cutoff."""
    rng = np.random.default_rng(seed)
    cell = np.array([[5.2, 0, 0], [0.4, 5.6, 0], [-0.3, 0.5, 4.9]])
    scaled = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.25, 0.25, 0.3], [0.75, 0.7, 0.25]])
    atoms = Atoms(numbers=[29, 13, 29, 29, 13, 29], positions=scaled @ cell + rng.normal(scale=0.15, size=(6, 3)), cell=cell, pbc=True)
    return make_supercell(atoms, np.diag([repeat, 1, 1]))


def fixture_atoms(data: dict[str, np.ndarray], name: str) -> Atoms:
    cell = data.get(f"{name}_cell")
    numbers = np.array([13, 29])[data[f"{name}_types"]]
    return Atoms(numbers=numbers, positions=data[f"{name}_positions"], cell=cell, pbc=cell is not None)


@pytest.mark.parametrize("name", ["crystal", "molecule", "single"])
def test_equals_deepmd_kit(name: str) -> None:
    with np.load(FIXTURE) as archive:
        data = dict(archive)
    model = DeepPotential(SPEC)
    fill_model(model, {key.removeprefix("weight."): value for key, value in data.items() if key.startswith("weight.")})
    found = Potential(model).compute(fixture_atoms(data, name))
    assert found.energy_ev == pytest.approx(float(data[f"{name}_energy"]), abs=1e-11)
    np.testing.assert_allclose(found.atomic_energies, data[f"{name}_atomic"], atol=1e-11)
    np.testing.assert_allclose(found.forces_ev_per_ang, data[f"{name}_forces"], atol=1e-11)
    np.testing.assert_allclose(found.virial_ev, data[f"{name}_virial"], atol=1e-11)


def test_usual_net_has_the_number_of_weights_of_deepmd_kit() -> None:
    # counted by DeePMD-kit 3.2.0 for neuron 25-25-25, axis_neuron 16, fitting 50-50-50
    def count(spec: DeepPotSpec) -> int:
        return sum(parameter.numel() for parameter in DeepPotential(spec).parameters())

    assert count(DeepPotSpec((14,), sel=(52,))) == 26_551
    assert count(DeepPotSpec((14,), sel=(52,), resnet_dt=True)) == 26_651


def test_forces_are_minus_the_energy_gradient() -> None:
    potential, atoms = Potential(rough_model()), rough_cell()
    forces = potential.compute(atoms).forces_ev_per_ang
    step = 1e-4
    for atom in range(len(atoms)):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * step
                energies.append(potential.compute(moved).energy_ev)
            assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=2e-7)


def test_virial_is_minus_the_strain_gradient() -> None:
    potential, atoms = Potential(rough_model()), rough_cell()
    virial = potential.compute(atoms).virial_ev
    step = 1e-5
    np.testing.assert_allclose(virial, virial.T, atol=1e-12)
    for i in range(3):
        for j in range(3):
            energies = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[i, j] += sign * step
                strained = atoms.copy()
                strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                energies.append(potential.compute(strained).energy_ev)
            assert virial[i, j] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-6)


def test_energy_and_forces_are_continuous_as_an_atom_crosses_rmax() -> None:
    potential = Potential(rough_model())

    def at(distance: float) -> tuple[float, np.ndarray]:
        found = potential.compute(Atoms("CuAlCu", positions=[[0, 0, 0], [0, 2.2, 0], [distance, 0, 0]]))
        return found.energy_ev, found.forces_ev_per_ang

    # the third atom leaves the first one's sphere at 4.5 Å: the switch's second derivative is continuous there
    inside, outside = at(4.5 - 1e-6), at(4.5 + 1e-6)
    assert inside[0] == pytest.approx(outside[0], abs=1e-12)
    np.testing.assert_allclose(inside[1], outside[1], atol=1e-9)
    # and it is not that nothing happens there at all
    assert abs(at(4.0)[0] - at(4.5)[0]) > 1e-5


def test_nothing_jumps_where_there_are_more_neighbours_than_slots() -> None:
    crowded = DeepPotSpec((29,), rmax_ang=4.0, rmin_ang=1.0, embedding=(4, 8), m2=3, fitting=(6,), sel=(4,))
    potential, atoms = Potential(rough_model(crowded)), bulk("Cu", cubic=True).repeat((2, 1, 1))  # 18 neighbours
    atoms.rattle(0.1, seed=1)
    forces = potential.compute(atoms).forces_ev_per_ang
    moved = [atoms.copy(), atoms.copy()]
    for copy, sign in zip(moved, (1, -1), strict=True):
        copy.positions[0, 0] += sign * 1e-4
    energies = [potential.compute(copy).energy_ev for copy in moved]
    assert forces[0, 0] == pytest.approx(-(energies[0] - energies[1]) / 2e-4, abs=2e-7)


def test_two_equal_cells_have_twice_the_energy_and_the_same_forces() -> None:
    potential = Potential(rough_model())
    one, two = potential.compute(rough_cell()), potential.compute(rough_cell(repeat=2))
    assert two.energy_ev == pytest.approx(2 * one.energy_ev, abs=1e-10)
    np.testing.assert_allclose(two.virial_ev, 2 * one.virial_ev, atol=1e-10)
    np.testing.assert_allclose(two.forces_ev_per_ang, np.tile(one.forces_ev_per_ang, (2, 1)), atol=1e-10)


def test_one_atom_feels_its_own_images() -> None:
    spec = DeepPotSpec((29,), rmax_ang=5.0, rmin_ang=1.0, embedding=(4, 8), m2=3, fitting=(6,), sel=(60,))
    potential = Potential(rough_model(spec))
    primitive = bulk("Cu", a=3.6)  # one atom; neighbours up to the fourth shell are its images
    conventional = bulk("Cu", a=3.6, cubic=True).repeat((3, 2, 2))
    one, many = potential.compute(primitive), potential.compute(conventional)
    assert many.energy_ev == pytest.approx(len(conventional) * one.energy_ev, abs=1e-9)
    np.testing.assert_allclose(many.virial_ev, len(conventional) * one.virial_ev, atol=1e-9)
    np.testing.assert_allclose(one.forces_ev_per_ang, 0.0, atol=1e-12)


def test_rotation_translation_permutation() -> None:
    potential, atoms = Potential(rough_model()), rough_cell()
    before = potential.compute(atoms)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]  # a reflection may be in it: also a symmetry
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation)
    turned.positions = atoms.positions @ rotation
    after = potential.compute(turned)
    assert after.energy_ev == pytest.approx(before.energy_ev, abs=1e-11)
    np.testing.assert_allclose(after.forces_ev_per_ang, before.forces_ev_per_ang @ rotation, atol=1e-11)
    np.testing.assert_allclose(after.virial_ev, rotation.T @ before.virial_ev @ rotation, atol=1e-11)

    shifted = atoms.copy()
    shifted.positions += [3.3, -7.7, 21.0]  # out of the cell, unwrapped
    np.testing.assert_allclose(potential.compute(shifted).forces_ev_per_ang, before.forces_ev_per_ang, atol=1e-11)
    np.testing.assert_allclose(before.forces_ev_per_ang.sum(axis=0), 0.0, atol=1e-12)

    order = np.random.default_rng(4).permutation(len(atoms))
    permuted = potential.compute(atoms[order])
    np.testing.assert_allclose(permuted.forces_ev_per_ang, before.forces_ev_per_ang[order], atol=1e-11)
    np.testing.assert_allclose(permuted.atomic_energies, before.atomic_energies[order], atol=1e-11)


def test_partial_periodicity_is_a_large_cell_in_the_free_direction() -> None:
    potential, atoms = Potential(rough_model()), rough_cell()
    slab = atoms.copy()
    slab.pbc = (True, True, False)
    padded = atoms.copy()
    cell = atoms.cell.array.copy()
    cell[2] *= 40.0 / np.linalg.norm(cell[2])
    padded.set_cell(cell)
    truth = potential.compute(padded)
    np.testing.assert_allclose(potential.compute(slab).forces_ev_per_ang, truth.forces_ev_per_ang, atol=1e-11)
    slab.cell[2] = 0.0  # and with no cell vector there at all
    assert potential.compute(slab).energy_ev == pytest.approx(truth.energy_ev, abs=1e-11)
    free = Atoms(atoms.numbers, atoms.positions)
    boxed = Atoms(atoms.numbers, atoms.positions, cell=[60, 60, 60], pbc=True)
    assert potential.compute(free).energy_ev == pytest.approx(potential.compute(boxed).energy_ev, abs=1e-11)


def test_isolated_atoms_have_no_forces_and_their_energies_add() -> None:
    potential = Potential(rough_model())
    copper, aluminium = potential.compute(Atoms("Cu")), potential.compute(Atoms("Al"))
    both = potential.compute(Atoms("CuAl", positions=[[0, 0, 0], [4.6, 0, 0]]))
    assert both.energy_ev == pytest.approx(copper.energy_ev + aluminium.energy_ev, abs=1e-12)
    np.testing.assert_array_equal(both.forces_ev_per_ang, 0.0)


def test_unusable_structures_are_named() -> None:
    potential = Potential(rough_model())
    with pytest.raises(DataError, match=r"holds Fe, which the model does not know \(its elements: Al Cu\)"):
        potential.compute(Atoms("CuFe", positions=[[0, 0, 0], [2, 0, 0]]))
    with pytest.raises(DataError, match="not finite"):
        potential.compute(Atoms("Cu2", positions=[[0, 0, 0], [np.nan, 0, 0]]))
    with pytest.raises(DataError, match="no cell vector"):
        potential.compute(Atoms("Cu", cell=[3, 3, 0], pbc=True))


def test_jacobians_of_forces_by_weights_through_torch_func() -> None:
    """What a Kalman filter and KPU need: any observation, differentiated by the parameters, one at a time or batched."""
    from torch.func import functional_call, jacrev, jvp

    model = rough_model()
    committee = Committee([model], "cpu")
    geometry = committee.geometry(rough_cell())
    parameters = dict(model.named_parameters())
    assert next(iter(parameters)) == "embedding.0.0.0.weight" and list(parameters)[-1] == "output.1.bias"

    def forces(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(model, values, (geometry,), {"plain": True}).forces[0].reshape(-1)

    jacobian = jacrev(forces)(parameters)
    direction = {name: torch.randn_like(value) for name, value in parameters.items()}
    along = sum((jacobian[name].flatten(1) @ direction[name].flatten()) for name in parameters)
    step = 1e-6
    ends = [forces({name: value + sign * step * direction[name] for name, value in parameters.items()}) for sign in (1, -1)]
    torch.testing.assert_close(along, (ends[0] - ends[1]) / (2 * step), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(forces(parameters), model(geometry).forces[0].reshape(-1), atol=1e-14, rtol=0.0)
    torch.testing.assert_close(jvp(forces, (parameters,), (direction,))[1], along, atol=1e-12, rtol=1e-10)
