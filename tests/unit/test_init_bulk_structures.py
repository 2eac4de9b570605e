"""The structures of init_bulk: supercell, scale, random strain and displacement, names, files."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from pwact_like.config.init_bulk import BulkSystem
from pwact_like.data.formats import read_structure
from pwact_like.stages.crystals import (
    perturbed,
    random_displacements,
    random_strain,
    scaled,
    structure_suffix,
    super_cell,
    write_structure,
)
from pwact_like.stages.structures import build_structures


@pytest.fixture
def alloy() -> Atoms:
    """Ordered Cu3Au, a little off its sites, in a cell without right angles."""
    atoms = Atoms("AuCu3", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)], cell=[3.7, 3.8, 3.9], pbc=True)
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0, 0], [0.1, 1, 0], [0.05, -0.1, 1]]), scale_atoms=True)
    atoms.rattle(0.05, seed=4)
    return atoms


def energy_per_atom(atoms: Atoms) -> float:
    copy = atoms.copy()
    copy.calc = EMT()
    return copy.get_potential_energy() / len(copy)


@pytest.mark.parametrize(
    "matrix", [((2, 0, 0), (0, 1, 0), (0, 0, 3)), ((1, 1, 0), (-1, 1, 0), (0, 0, 1)), ((0, 1, 1), (1, 0, 1), (1, 1, 0))]
)
def test_super_cell_is_the_same_crystal(alloy, matrix):
    determinant = round(np.linalg.det(np.array(matrix)))
    larger = super_cell(alloy, matrix)
    assert len(larger) == determinant * len(alloy)
    np.testing.assert_allclose(larger.cell.array, np.array(matrix) @ alloy.cell.array, atol=1e-12)
    assert larger.get_volume() == pytest.approx(determinant * alloy.get_volume(), rel=1e-12)
    # the same crystal has the same energy an atom, by a program that knows nothing of this
    assert energy_per_atom(larger) == pytest.approx(energy_per_atom(alloy), abs=1e-10)


def test_super_cell_keeps_free_directions_and_strips_the_rest(alloy):
    alloy.pbc = (True, True, False)
    alloy.positions[0, 2] -= 9.0  # outside the cell, in the free direction
    alloy.info["energy"] = 1.0
    alloy.set_velocities(np.ones((4, 3)))
    larger = super_cell(alloy, ((2, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert larger.pbc.tolist() == [True, True, False]
    assert larger.positions[:, 2].min() == pytest.approx(alloy.positions[:, 2].min(), abs=1e-12)
    assert larger.info == {} and set(larger.arrays) == {"numbers", "positions"} and larger.calc is None


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.07])
def test_scale_is_linear_in_the_lattice_vectors(alloy, factor):
    result = scaled(alloy, factor)
    np.testing.assert_allclose(result.cell.lengths(), factor * alloy.cell.lengths(), rtol=1e-14)
    np.testing.assert_allclose(result.cell.angles(), alloy.cell.angles(), rtol=1e-12)
    assert result.get_volume() == pytest.approx(factor**3 * alloy.get_volume(), rel=1e-12)
    np.testing.assert_allclose(result.cell.scaled_positions(result.positions), alloy.cell.scaled_positions(alloy.positions), atol=1e-14)
    assert (result.positions == alloy.positions).all() == (factor == 1.0)


def test_strain_has_six_components_uniform_within_the_bound():
    rng = np.random.default_rng(7)
    draws = np.array([random_strain(rng, 0.03) - np.eye(3) for _ in range(4000)])
    assert (draws[:, *np.triu_indices(3, 1)] == 0).all()
    lower = draws[:, *np.tril_indices(3)]
    assert np.abs(lower).max() <= 0.03 and np.abs(lower).max() > 0.0299
    # moments of the uniform distribution on [−f, f]: mean 0, variance f²/3, and independent components
    assert np.abs(lower.mean(axis=0)).max() < 4 * 0.03 / np.sqrt(3 * 4000)
    np.testing.assert_allclose(lower.var(axis=0), 0.03**2 / 3, rtol=0.07)
    correlation = np.corrcoef(lower.T) - np.eye(6)
    assert np.abs(correlation).max() < 4 / np.sqrt(4000)


def test_displacements_fill_the_ball_evenly():
    vectors = random_displacements(np.random.default_rng(3), 20000, 0.2)
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths.max() <= 0.2
    # half of a ball's volume lies inside 0.5^(1/3) of its radius, an eighth inside the half of it
    assert np.mean(lengths < 0.2 * 0.5 ** (1 / 3)) == pytest.approx(0.5, abs=0.015)
    assert np.mean(lengths < 0.1) == pytest.approx(0.125, abs=0.01)
    # no direction is preferred: second moments R²/5
    np.testing.assert_allclose(vectors.T @ vectors / 20000, 0.2**2 / 5 * np.eye(3), atol=2e-4)
    assert np.abs(vectors.mean(axis=0)).max() < 0.003


def test_perturbed_depends_on_the_seed_alone(alloy):
    first, again, other = (perturbed(alloy, 0.03, 0.05, seed) for seed in (5, 5, 6))
    assert (first.positions == again.positions).all() and (first.cell.array == again.cell.array).all()
    assert not np.allclose(first.positions, other.positions) and not np.allclose(first.cell.array, other.cell.array)
    assert (first.numbers == alloy.numbers).all()


def test_perturbed_stays_within_its_bounds(alloy):
    for seed in range(200):
        result = perturbed(alloy, 0.03, 0.05, seed)
        deformation = np.linalg.solve(alloy.cell.array, result.cell.array)
        assert np.abs(deformation - np.eye(3)).max() <= 0.03 + 1e-12
        assert 0.97**3 <= result.get_volume() / alloy.get_volume() <= 1.03**3
        moved = result.positions - alloy.positions @ deformation
        assert np.linalg.norm(moved, axis=1).max() <= 0.05 + 1e-12


def test_without_displacement_the_fractional_coordinates_stay(alloy):
    result = perturbed(alloy, 0.1, 0.0, 1)
    np.testing.assert_allclose(result.cell.scaled_positions(result.positions), alloy.cell.scaled_positions(alloy.positions), atol=1e-12)
    same = perturbed(alloy, 0.0, 0.0, 1)
    np.testing.assert_allclose(same.positions, alloy.positions, atol=1e-15)
    np.testing.assert_allclose(same.cell.array, alloy.cell.array, atol=1e-15)


def names(system: BulkSystem, start: str = "init") -> tuple[list[str], list[str]]:
    built = build_structures(bulk("Cu", cubic=True), start, system, lambda number: 100 + number)
    return [one.name for one in built], [one.name for one in built if one.final]


def test_names_are_pwacts():
    """As in a collection that PWact left (auag example): 0.9_scale.config, 0.9_scale_pertub/1_pertub.config."""
    everything, final = names(BulkSystem(config="x", super_cell=[1, 1, 2], scale=[0.9, 1.01], perturb=2), "relaxed")
    ends = ["0.9_scale_pertub/0_pertub", "0.9_scale_pertub/1_pertub", "1.01_scale_pertub/0_pertub", "1.01_scale_pertub/1_pertub"]
    assert everything == ["relaxed", "super_cell", "0.9_scale", "1.01_scale", *ends]
    assert final == ends


@pytest.mark.parametrize(
    ("settings", "final"),
    [
        ({}, ["init"]),
        ({"super_cell": [2, 1, 1]}, ["super_cell"]),
        ({"scale": [1]}, ["1.0_scale"]),
        ({"scale": [1, 1.0, 0.98]}, ["1.0_scale", "0.98_scale"]),
        ({"perturb": 2}, ["pertub/0_pertub", "pertub/1_pertub"]),
        ({"super_cell": [2, 1, 1], "perturb": 1}, ["pertub/0_pertub"]),
        ({"super_cell": [2, 1, 1], "scale": 0.9}, ["0.9_scale"]),
    ],
)
def test_any_subset_of_the_chain(settings, final):
    assert names(BulkSystem(config="x", **settings))[1] == final


def test_every_perturbed_structure_has_its_own_seed_and_its_parents_size():
    system = BulkSystem(config="x", super_cell=[2, 1, 1], scale=[0.9, 1.1], perturb=2, cell_pert_fraction=0.0)
    built = build_structures(bulk("Cu", cubic=True), "init", system, lambda number: 100 + number)
    assert [one.seed for one in built if one.final] == [100, 101, 102, 103]
    assert all(one.seed == 0 for one in built if not one.final)
    volume = bulk("Cu", cubic=True).get_volume()
    assert [one.atoms.get_volume() / volume for one in built if one.final] == pytest.approx([2 * 0.9**3] * 2 + [2 * 1.1**3] * 2)


def test_suffixes():
    assert [structure_suffix(engine) for engine in ("pwmat", "vasp", "cp2k", "ase", "xtb")] == [
        ".config",
        ".poscar",
        ".xyz",
        ".xyz",
        ".xyz",
    ]


def interleaved() -> Atoms:
    """Elements in an order that no sorted file keeps."""
    atoms = perturbed(bulk("NaCl", "rocksalt", a=5.64, cubic=True), 0.03, 0.1, 9)
    assert atoms.get_chemical_symbols()[:4] == ["Na", "Cl", "Na", "Cl"]
    return atoms


def test_xyz_keeps_every_digit_and_the_order(tmp_path):
    atoms = interleaved()
    write_structure(tmp_path / "a.xyz", atoms)
    again = read_structure(tmp_path / "a.xyz")
    assert (again.positions == atoms.positions).all() and (again.cell.array == atoms.cell.array).all()
    assert (again.numbers == atoms.numbers).all() and (again.pbc == atoms.pbc).all()


def sorted_positions(atoms: Atoms) -> np.ndarray:
    return atoms.positions[np.argsort(atoms.numbers, kind="stable")]


def test_poscar_as_pymatgen_reads_it(tmp_path):
    from pymatgen.io.vasp import Poscar

    atoms = interleaved()
    write_structure(tmp_path / "a.poscar", atoms)
    poscar = Poscar.from_file(tmp_path / "a.poscar")
    assert poscar.site_symbols == ["Cl", "Na"] and poscar.natoms == [4, 4]  # one block an element, as a POTCAR has it
    np.testing.assert_allclose(poscar.structure.lattice.matrix, atoms.cell.array, atol=1e-12)
    order = np.argsort(atoms.get_chemical_symbols(), kind="stable")
    np.testing.assert_allclose(poscar.structure.cart_coords, atoms.positions[order], atol=1e-12)


def test_atom_config_as_pwdata_reads_it(tmp_path):
    from pwdata import Config

    atoms = interleaved()
    write_structure(tmp_path / "a.config", atoms)
    image = Config(data_path=str(tmp_path / "a.config"), format="pwmat/config").images[0]
    np.testing.assert_allclose(np.reshape(image.lattice, (3, 3)), atoms.cell.array, atol=1e-12)
    assert list(image.atom_types_image) == [11] * 4 + [17] * 4
    cartesian = np.reshape(image.position, (-1, 3)) @ np.reshape(image.lattice, (3, 3))
    np.testing.assert_allclose(cartesian, sorted_positions(atoms), atol=1e-10)
    np.testing.assert_allclose(read_structure(tmp_path / "a.config").positions, sorted_positions(atoms), atol=1e-12)
