"""A committee on several structures at once says what it says of each alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from pwact_like.errors import DataError

torch = pytest.importorskip("torch")

from pwact_like.potentials.committee import Committee  # noqa: E402
from pwact_like.potentials.deep_potential import DeepPotential  # noqa: E402
from pwact_like.potentials.joined import JoinedCommittee  # noqa: E402
from pwact_like.potentials.spec import DeepPotSpec  # noqa: E402


def models() -> list[DeepPotential]:
    """Two of one shape, and one of another shape and normalisation: two passes."""
    found = []
    for seed, width in ((0, 8), (1, 8), (2, 12)):
        spec = DeepPotSpec((14, 32), rmax_ang=4.5, rmin_ang=1.0, embedding=(4, 8), m2=2, fitting=(width, width), sel=(30, 30))
        mean, spread = torch.tensor([0.1, 0.05 + 0.01 * width]), torch.tensor([[0.1, 0.1], [0.12, 0.11]])
        found.append(DeepPotential(spec, seed, mean, spread, torch.tensor([-5.0, -4.0])))
    return found


def structures() -> dict[int, Atoms]:
    """Other sizes, shapes, elements and boundaries; a dimer with one pair, an atom with none."""
    mixed = bulk("Si", cubic=True) * (2, 1, 1)
    mixed.numbers[::3] = 32
    sheared = bulk("Ge") * (2, 2, 2)
    sheared.set_cell(sheared.cell.array @ np.array([[1.02, 0.03, 0.0], [0.0, 0.98, 0.04], [0.01, 0.0, 1.0]]), scale_atoms=True)
    found = {3: bulk("Si", cubic=True), 0: mixed, 7: sheared, 4: Atoms("SiGe", [[0, 0, 0], [0.3, 2.4, 0]]), 5: Atoms("Ge")}
    for number, atoms in found.items():
        atoms.rattle(0.05, seed=number)
    return found


def assert_equal(joined, committee, asked):
    found = joined.compute(asked)
    assert list(found) == list(asked)
    for number, atoms in asked.items():
        committee.forget()
        alone = committee.compute(atoms)
        for name in ("energies_ev", "forces", "virials", "atomic_energies"):
            one, other = getattr(found[number], name), getattr(alone, name)
            assert one.shape == other.shape
            # sums of some hundred terms of order 1 to 10 eV
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12, err_msg=f"{number} {name}")


def test_the_same_as_one_by_one():
    committee = Committee(models(), "cpu")
    asked = structures()
    assert len(committee.groups) == 2
    assert_equal(JoinedCommittee(committee), committee, asked)
    assert_equal(JoinedCommittee(committee), committee, {7: asked[7]})
    assert JoinedCommittee(committee).compute({}) == {}


def test_along_a_run_with_cells_that_move_and_a_changing_company():
    """Neighbour lists that are kept, made anew, and joined anew, each of them too late or too early would show."""
    committee, random = Committee(models(), "cpu"), np.random.default_rng(3)
    joined, asked = JoinedCommittee(Committee(models(), "cpu")), structures()
    tables = []
    for step in range(30):
        for number, atoms in asked.items():
            atoms.positions += random.normal(scale=0.02, size=(len(atoms), 3))
            if number in (0, 7):
                atoms.set_cell(atoms.cell.array @ (np.eye(3) + random.normal(scale=0.004, size=(3, 3))), scale_atoms=True)
        company = {number: atoms for number, atoms in asked.items() if not (number == 3 and 10 <= step < 20)}
        assert_equal(joined, committee, company)
        tables.append(joined._tables)
    renewed = sum(before is not after for before, after in itertools.pairwise(tables))
    assert 3 < renewed < 25  # some lists served several steps


def test_the_same_company_gives_the_same_bits_after_forgetting():
    joined, asked = JoinedCommittee(Committee(models(), "cpu")), structures()
    first = joined.compute(asked)
    joined.forget()
    for number, said in joined.compute(asked).items():
        assert (said.forces == first[number].forces).all() and (said.virials == first[number].virials).all()


def test_a_structure_that_the_models_do_not_know_is_told_of_and_the_rest_goes_on():
    committee, asked = Committee(models(), "cpu"), structures()
    joined = JoinedCommittee(committee)
    joined.compute(asked)
    asked[3].numbers[0] = 6
    with pytest.raises(DataError, match="C, which the model does not know"):
        joined.compute(asked)
    del asked[3]
    assert_equal(joined, committee, asked)
