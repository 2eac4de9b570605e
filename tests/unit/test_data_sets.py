"""Data sets and gates: hash, split, merge, counts, label checks, warnings."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from support import ROOT, require_shared

from pwact_like.data.checks import (
    check_label,
    force_above,
    level_of_theory_conflict,
    minimum_distance_ang,
    net_force_ratio,
    same_structure,
    virial_sign_warning,
)
from pwact_like.data.dataset import choose, dataset_hash, merge, read_data_paths, split, type_counts
from pwact_like.data.formats import write_frames
from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.errors import DataError
from pwact_like.units import virial_from_stress

DATA = ROOT / "tests" / "data" / "data"


def emt_frames(count: int = 6, scale: float = 0.0) -> list[Frame]:
    """Copper with EMT: labels from an independent program."""
    frames = []
    for number in range(count):
        atoms = bulk("Cu", "fcc", a=3.6 * (1.0 + scale * number), cubic=True)
        atoms.rattle(0.02, seed=number)
        atoms.calc = EMT()
        virial = virial_from_stress(atoms.get_stress(), atoms.get_volume())
        label = Label(atoms.get_potential_energy(), atoms.get_forces(), virial)
        atoms.calc = None
        frames.append(Frame(atoms, label, Origin(step=number)))
    return frames


def test_hash_ignores_order_and_origin_and_nothing_else():
    frames = emt_frames()
    reference = dataset_hash(frames)
    assert dataset_hash(frames[::-1]) == reference
    assert dataset_hash([replace(frame, origin=Origin("elsewhere", 3, "t", 9, 1)) for frame in frames]) == reference
    assert len(reference) == 64
    assert dataset_hash(frames[1:]) != reference
    assert dataset_hash([*frames, frames[0]]) != reference, "a frame twice is another data set"

    def changed(**changes: object) -> str:
        return dataset_hash([replace(frames[0], **changes), *frames[1:]])

    label = frames[0].label
    assert changed(label=replace(label, energy_ev=np.nextafter(label.energy_ev, 0))) != reference
    assert changed(label=replace(label, virial_ev=None)) != reference
    assert changed(label=replace(label, virial_ev=np.zeros((3, 3)))) != changed(label=replace(label, virial_ev=None))
    moved = frames[0].atoms.copy()
    moved.positions[0, 0] = np.nextafter(moved.positions[0, 0], 1)
    assert changed(atoms=moved) != reference
    free = frames[0].atoms.copy()
    free.pbc = False
    assert changed(atoms=free) != reference
    with pytest.raises(DataError, match="without label"):
        changed(label=None)


def test_hash_takes_minus_zero_for_zero(tmp_path):
    one = Frame(Atoms("Si", positions=[[0.0, 0, 0]], cell=np.eye(3), pbc=True), Label(0.0, np.zeros((1, 3))))
    other = Frame(Atoms("Si", positions=[[-0.0, 0, 0]], cell=np.eye(3), pbc=True), Label(-0.0, -np.zeros((1, 3))))
    assert dataset_hash([one]) == dataset_hash([other])
    write_frames(tmp_path / "a.xyz", [other])


def test_split_is_seeded_disjoint_and_leaves_none_empty():
    frames = emt_frames(5)
    rest, chosen = split(frames, 0.4, 7)
    assert len(rest) == 3 and len(chosen) == 2
    assert {id(frame) for frame in rest} | {id(frame) for frame in chosen} == {id(frame) for frame in frames}
    assert [frame.origin.step for frame in split(frames, 0.4, 7)[1]] == [frame.origin.step for frame in chosen]
    assert len({tuple(choose(20, 0.5, seed)) for seed in range(20)}) > 15
    assert [len(part) for part in split(frames, 0.01, 1)] == [4, 1]
    assert [len(part) for part in split(frames, 0.99, 1)] == [1, 4]
    assert [len(part) for part in split(frames[:1], 0.5, 1)] == [1, 0]
    assert [len(part) for part in split(frames, 0.0, 1)] == [5, 0]
    assert [len(part) for part in split(frames, 1.0, 1)] == [0, 5]
    assert [len(part) for part in split([], 0.5, 1)] == [0, 0]
    with pytest.raises(DataError, match="between 0 and 1"):
        split(frames, 1.5, 1)


def test_every_frame_is_chosen_equally_often():
    counts = np.bincount(np.concatenate([choose(10, 0.3, seed) for seed in range(2000)]), minlength=10)
    assert counts.sum() == 6000
    assert (np.abs(counts - 600) < 5 * np.sqrt(2000 * 0.3 * 0.7)).all()


def test_counts_and_merge():
    frames = emt_frames(2)
    carbon = Frame(Atoms("CCu", positions=[[0, 0, 0], [2, 0, 0]], cell=[5, 5, 5], pbc=True), Label(0.0, np.zeros((2, 3))))
    assert type_counts([*frames, carbon]) == {6: 1, 29: 9}
    assert len(merge(frames, [carbon], frames)) == 3


def test_data_paths_are_read_with_their_sign(tmp_path, caplog):
    entries = [
        SimpleNamespace(path=DATA / "OUTCAR", format=None, virial_sign=-1),
        SimpleNamespace(path=DATA / "MOVEMENT", format="PWMAT/Movement", virial_sign=1),
    ]
    frames = read_data_paths(entries)
    assert [frame.label.energy_ev for frame in frames] == [-17.12345678, -17.20000001, -333.6541178, -333.6541299]
    assert frames[0].label.virial_ev[0, 0] == -1.04304
    assert "1 frame(s) left out" in caplog.text
    (tmp_path / "a.xyz").write_text("1\n\nSi 0 0 0\n")
    with pytest.raises(DataError, match=r"a\.xyz: no labelled frame in it: no energy or no forces"):
        read_data_paths([SimpleNamespace(path=tmp_path / "a.xyz", format="extxyz", virial_sign=1)])


def test_good_labels_pass():
    for frame in emt_frames(3):
        assert check_label(frame, frame.atoms) is None
        assert check_label(frame) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"energy_ev": float("nan")}, "energy is not finite"),
        ({"forces_ev_per_ang": np.full((4, 3), np.inf)}, "force on atom 0"),
        ({"forces_ev_per_ang": np.zeros((3, 3))}, r"4 atoms, but forces of shape \(3, 3\)"),
        ({"virial_ev": np.full((3, 3), np.nan)}, "virial is not finite"),
        ({"forces_ev_per_ang": np.full((4, 3), 0.2)}, "net force is 2"),
    ],
)
def test_bad_labels_are_rejected(change, reason):
    (frame,) = emt_frames(1)
    message = check_label(replace(frame, label=replace(frame.label, **change)), frame.atoms)
    assert message is not None
    assert re.search(reason, message), message


def test_net_force_ratio_by_hand():
    forces = np.array([[1.0, 0, 0], [-1.0, 0, 0], [0.0, 2.0, 0], [0.0, -1.8, 0]])
    assert net_force_ratio(forces) == pytest.approx(0.2 / np.sqrt(1 + 1 + 4 + 3.24))
    assert net_force_ratio(np.zeros((5, 3))) == 0.0
    # a crystal at rest: what a DFT program leaves is noise, in the same direction on every atom as often as not
    assert net_force_ratio(np.full((8, 3), 2e-4)) == pytest.approx(8**0.5 * 2e-4 * 3**0.5 / 2e-2)
    rng = np.random.default_rng(0)
    ratios = [net_force_ratio(rng.normal(size=(500, 3))) for _ in range(50)]
    assert 0.8 < np.mean(ratios) < 1.2, "independent random forces give about 1"


def test_net_force_gate_lets_raw_pwmat_pass():
    from pwact_like.data.formats import read_frames

    frames = read_frames(require_shared("LiSi_50.MOVEMENT"))
    assert all(check_label(frame, frame.atoms) is None for frame in frames)


def test_minimum_distance_sees_periodic_images():
    close = Atoms("Si2", positions=[[0.1, 0, 0], [4.8, 0, 0]], cell=[5, 5, 5], pbc=True)
    assert minimum_distance_ang(close, 0.5) == pytest.approx(0.3)
    close.pbc = False
    assert minimum_distance_ang(close, 0.5) == np.inf
    thin = Atoms("Si", positions=[[0, 0, 0]], cell=[0.4, 5, 5], pbc=True)
    assert minimum_distance_ang(thin, 0.5) == pytest.approx(0.4)
    frame = Frame(Atoms("Si2", positions=[[0.1, 0, 0], [4.8, 0, 0]], cell=[5, 5, 5], pbc=True), Label(0.0, np.zeros((2, 3))))
    assert "0.300 Å apart" in check_label(frame)
    assert check_label(frame, min_distance_ang=0.2) is None


def test_a_label_of_an_exploded_structure_is_left_out_where_the_user_says_so():
    frame = emt_frames(1)[0]
    largest = np.linalg.norm(frame.label.forces_ev_per_ang, axis=1).max()
    assert force_above(frame, None) is None and force_above(frame, 1.001 * largest) is None
    assert force_above(frame, 0.999 * largest) == f"the largest force is {largest:.4g} eV/Å (at most {0.999 * largest:g}: max_force)"


def test_same_structure():
    asked = bulk("Si", "diamond", a=5.4, cubic=True)
    asked.rattle(0.1, seed=0)
    wrapped = asked.copy()
    wrapped.positions += asked.cell.array[0] - 2 * asked.cell.array[2]
    assert same_structure(wrapped, asked) is None
    moved = asked.copy()
    moved.positions[3, 1] += 0.002
    assert "atom 3 (from 0) is 0.002 Å" in same_structure(moved, asked)
    swapped = asked[[1, 0, *range(2, 8)]]
    assert "Å from where it was asked" in same_structure(swapped, asked)
    alloy = asked.copy()
    alloy.numbers[5] = 6
    assert "atom 5 (from 0) is C, Si was asked" in same_structure(alloy, asked)
    strained = asked.copy()
    strained.set_cell(asked.cell.array * 1.001, scale_atoms=True)
    assert "the cell differs" in same_structure(strained, asked)
    assert "7 atoms, 8 were asked" in same_structure(asked[:7], asked)
    broken = asked.copy()
    broken.positions[0, 0] = np.nan
    assert same_structure(broken, asked) is not None


def test_virial_sign_warning_on_independent_labels():
    frames = emt_frames(6, scale=0.01)
    assert virial_sign_warning(frames) is None
    wrong = [replace(frame, label=replace(frame.label, virial_ev=-frame.label.virial_ev)) for frame in frames]
    assert "virial_sign" in virial_sign_warning(wrong)
    assert virial_sign_warning(wrong[:3]) is None, "too few to tell"
    fixed = [
        replace(frame, label=replace(frame.label, virial_ev=np.random.default_rng(i).normal(size=(3, 3))))
        for i, frame in enumerate(emt_frames(9))
    ]
    assert virial_sign_warning(fixed) is None, "one volume tells nothing"


def test_virial_sign_of_the_samples():
    from pwact_like.data.formats import read_frames

    sample = require_shared("Si64_aimd_pwmat.xyz")
    assert "+0.95" in virial_sign_warning(read_frames(sample))
    assert virial_sign_warning(read_frames(sample, virial_sign=-1)) is None


def test_level_of_theory_conflict():
    one = [Frame(Atoms("Si"), None, Origin(), "vasp-PBE-aa")]
    same = [Frame(Atoms("C"), None, Origin(), "vasp-PBE-aa")]
    other = [Frame(Atoms("Si"), None, Origin(), "xtb-GFN1-bb")]
    unknown = [Frame(Atoms("Si"))]
    assert level_of_theory_conflict({"a": one, "b": same, "c": unknown}) is None
    problem = level_of_theory_conflict({"init.xyz": one, "labels": other})
    assert "vasp-PBE-aa (init.xyz); xtb-GFN1-bb (labels)" in str(problem)
    assert "allow_mixed_theory" in problem.cure
