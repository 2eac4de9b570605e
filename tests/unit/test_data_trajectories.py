"""Trajectories fetched by step: LAMMPS dumps and extended XYZ, whole, restarted, truncated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from pwact_like.data import xyz_trajectory
from pwact_like.data.formats import TruncatedError, read_frames, read_labelled
from pwact_like.data.lammps_dump import DumpIndex, index_dump
from pwact_like.data.xyz_trajectory import XyzTrajectoryWriter, fetch_steps, index_xyz, keep_steps
from pwact_like.errors import DataError

ORTHOGONAL = """ITEM: TIMESTEP
{step}
ITEM: NUMBER OF ATOMS
3
ITEM: BOX BOUNDS pp pp ff
-1.0 4.0
0.0 6.0
0.5 7.5
ITEM: ATOMS id type x y z fx fy fz
3 1 0.{step}1 0.25 1.125 -0.5 0.25 0.125
1 2 1.{step}2 2.25 2.125 0.5 -0.25 0.125
2 1 2.{step}3 3.25 3.125 0.0 0.0 -0.25
"""

# https://docs.lammps.org/Howto_triclinic.html: bounds of a box with lo = 0, lengths 4 5 6, xy = 1, xz = -0.5, yz = 0.75
TRICLINIC = """ITEM: UNITS
metal
ITEM: TIME
0.5
ITEM: TIMESTEP
7
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS xy xz yz pp pp pp
-0.5 5.0 1.0
0.0 5.75 -0.5
0.0 6.0 0.75
ITEM: ATOMS id element xs ys zs
1 Si 0.0 0.0 0.0
2 C 0.5 0.25 0.125
"""


def write_dump(path: Path, steps: list[int]) -> None:
    path.write_text("".join(ORTHOGONAL.format(step=step) for step in steps))


def test_dump_frames_are_the_raw_lines(tmp_path):
    path = tmp_path / "all.lammpstrj"
    write_dump(path, [0, 10, 20, 30])
    dump = DumpIndex.build(path)
    assert dump.steps.tolist() == [0, 10, 20, 30] and dump.dropped == ""
    late, early = dump.fetch_frames([30, 10], ["Si", "C"])
    assert (late.step, early.step) == (30, 10)
    assert late.atoms.get_chemical_symbols() == ["C", "Si", "Si"], "sorted by id"
    np.testing.assert_array_equal(late.atoms.positions, [[1.302, 2.25, 2.125], [2.303, 3.25, 3.125], [0.301, 0.25, 1.125]])
    np.testing.assert_array_equal(late.forces, [[0.5, -0.25, 0.125], [0, 0, -0.25], [-0.5, 0.25, 0.125]])
    np.testing.assert_array_equal(late.atoms.cell.array, np.diag([5.0, 6.0, 7.0]))
    assert late.atoms.pbc.tolist() == [True, True, False]


def test_triclinic_scaled_dump(tmp_path):
    path = tmp_path / "tri.dump"
    path.write_text(TRICLINIC + TRICLINIC.replace("\n7\n", "\n8\n"))
    (atoms,) = DumpIndex.build(path).fetch([7])
    np.testing.assert_allclose(atoms.cell.array, [[4, 0, 0], [1, 5, 0], [-0.5, 0.75, 6]], atol=1e-15)
    assert atoms.get_chemical_symbols() == ["Si", "C"]
    np.testing.assert_allclose(atoms.positions[1], [0.5 * 4 + 0.25 * 1 - 0.125 * 0.5, 0.25 * 5 + 0.125 * 0.75, 0.75])


def test_general_triclinic_dump(tmp_path):
    path = tmp_path / "general.dump"
    head, atoms = TRICLINIC.split("ITEM: BOX BOUNDS")[0], TRICLINIC.split("0.75\n")[1]
    path.write_text(head + "ITEM: BOX BOUNDS abc origin pp pp pp\n1 2 3 0.1\n-1 2 0 0.2\n0 1 4 0.3\n" + atoms)
    (found,) = DumpIndex.build(path).fetch([7])
    np.testing.assert_array_equal(found.cell.array, [[1, 2, 3], [-1, 2, 0], [0, 1, 4]])
    np.testing.assert_allclose(found.positions[0], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("columns", ["id type x y z", "id type xu yu zu", "id type xs ys zs", "type id xsu ysu zsu"])
def test_ase_reads_the_same_structures(tmp_path, columns):
    from ase.io import read

    rng = np.random.default_rng(1)
    path = tmp_path / "all.dump"
    text = []
    for step in range(3):
        rows = rng.random((5, 3))
        body = "\n".join(
            " ".join(["1", str(i + 1)][:: 1 if columns.startswith("type") else -1] + [f"{v:.12g}" for v in row])
            for i, row in enumerate(rows)
        )
        text.append(
            f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n5\nITEM: BOX BOUNDS xy xz yz pp pp pp\n"
            f"0.0 6.5 1.0\n0.0 5.25 0.5\n0.0 4.0 0.25\nITEM: ATOMS {columns}\n{body}\n"
        )
    path.write_text("".join(text))
    images = read(path, index=":", format="lammps-dump-text", units="metal", specorder=["Si"])
    for image, atoms in zip(images, DumpIndex.build(path).fetch([0, 1, 2], ["Si"]), strict=True):
        np.testing.assert_allclose(atoms.cell.array, image.cell.array, atol=1e-12)
        np.testing.assert_allclose(atoms.positions, image.positions, atol=1e-9)
        np.testing.assert_array_equal(atoms.numbers, image.numbers)


def test_restarted_dump_last_one_wins_even_after_a_broken_frame(tmp_path):
    path = tmp_path / "all.dump"
    frames = [ORTHOGONAL.format(step=step) for step in (0, 10, 20)]
    again = [ORTHOGONAL.format(step=20).replace("0.201", "0.999"), ORTHOGONAL.format(step=30)]
    path.write_text("".join(frames)[:-25] + "".join(again))  # the run was killed while it wrote step 20
    dump = DumpIndex.build(path)
    assert dump.steps.tolist() == [0, 10, 20, 30]
    assert dump.fetch([20], ["Si", "C"])[0].positions[2, 0] == 0.999
    path.write_text("".join(frames)[:-25] + again[1])
    with pytest.raises(DataError, match=r"all\.dump: step 20: 3 atoms with 8 columns are expected"):
        DumpIndex.build(path).fetch([20], ["Si", "C"])


@pytest.mark.parametrize("cut", [1, 30, 100, 170, 215, 220, 225, 230, 235])
def test_truncated_last_frame_is_dropped_and_told(tmp_path, cut):
    path = tmp_path / "all.dump"
    write_dump(path, [0, 10, 20])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    dump = DumpIndex.build(path)
    steps = dump.steps.tolist()
    assert steps == [0, 10] and "left out" in dump.dropped
    assert len(dump.fetch(steps, ["Si", "C"])) == 2
    with pytest.raises(DataError, match=r"no frame at step 20; there are steps 0 to 10.*left out"):
        dump.fetch([20])
    assert DumpIndex.build(path).fetch_frames([10], ["Si", "C"])[0].step == 10
    with pytest.raises(TruncatedError):
        read_frames(path, elements=["Si", "C"])
    assert len(read_labelled(path, elements=["Si", "C"], truncated_ok=True).rejected) == 3, "two without label, one broken"


def test_dump_marks_across_the_pieces_that_are_read(tmp_path, monkeypatch):
    path = tmp_path / "all.dump"
    write_dump(path, list(range(0, 1000, 10)))
    expected = index_dump(path)
    for size in (64, 97, 1000, 4097):
        monkeypatch.setattr("pwact_like.data.lammps_dump._CHUNK_BYTES", size)
        found = index_dump(path)
        np.testing.assert_array_equal(found.begins, expected.begins)
        np.testing.assert_array_equal(found.steps, np.arange(0, 1000, 10))


def test_dump_errors_name_file_and_cure(tmp_path):
    path = tmp_path / "all.dump"
    write_dump(path, [0])
    with pytest.raises(DataError, match="no column element: name the elements"):
        DumpIndex.build(path).fetch([0])
    with pytest.raises(DataError, match="type 2 has no element"):
        DumpIndex.build(path).fetch([0], ["Si"])
    path.write_text("hello\n")
    with pytest.raises(DataError, match="not a LAMMPS dump"):
        DumpIndex.build(path)
    with pytest.raises(DataError, match="No such file"):
        DumpIndex.build(tmp_path / "nothing")


def test_dump_is_thinned_byte_for_byte(tmp_path):
    path = tmp_path / "all.dump"
    write_dump(path, [0, 10, 20, 30])
    DumpIndex.build(path).keep([30, 0])
    assert path.read_text() == ORTHOGONAL.format(step=0) + ORTHOGONAL.format(step=30)


def trajectory(path: Path, steps: range) -> list[Atoms]:
    rng = np.random.default_rng(5)
    structures = []
    with XyzTrajectoryWriter(path) as writer:
        for step in steps:
            atoms = Atoms(
                "SiCu", positions=rng.normal(size=(2, 3)) * 3, cell=rng.normal(size=(3, 3)) + 4 * np.eye(3), pbc=[True, True, False]
            )
            writer.write(atoms, step, energy_ev=-1.0 / 3.0 * step, forces_ev_per_ang=rng.normal(size=(2, 3)), temperature_k=300.1)
            structures.append(atoms)
    return structures


def test_xyz_trajectory_keeps_every_bit_and_ase_reads_it(tmp_path):
    from ase.io import read

    path = tmp_path / "traj.xyz"
    structures = trajectory(path, range(0, 100, 5))
    assert xyz_trajectory.steps(path) == list(range(0, 100, 5))
    found = fetch_steps(path, [95, 0, 50])
    for atoms, place in zip(found, (19, 0, 10), strict=True):
        np.testing.assert_array_equal(atoms.positions, structures[place].positions)
        np.testing.assert_array_equal(atoms.cell.array, structures[place].cell.array)
        np.testing.assert_array_equal(atoms.numbers, structures[place].numbers)
        np.testing.assert_array_equal(atoms.pbc, structures[place].pbc)
    images = read(path, index=":")
    np.testing.assert_array_equal(images[7].positions, structures[7].positions)
    assert images[7].info["step"] == 35 and images[7].get_potential_energy() == -35.0 / 3.0


def test_xyz_trajectory_goes_on_after_a_killed_run(tmp_path):
    path = tmp_path / "traj.xyz"
    structures = trajectory(path, range(0, 30, 10))
    whole = path.read_bytes()
    last = index_xyz(path).begins[-1]
    for size in (len(whole) - 1, len(whole) - 60, int(last) + 1, int(last) + 2, int(last) + 40):
        path.write_bytes(whole[:size])
        index = index_xyz(path)
        assert index.steps.tolist() == [0, 10] and "not whole" in index.dropped
        with pytest.raises(DataError, match="no frame at step 20"):
            fetch_steps(path, [20])
        with XyzTrajectoryWriter(path) as writer:
            writer.write(structures[2], 20)
        assert xyz_trajectory.steps(path) == [0, 10, 20]
        np.testing.assert_array_equal(fetch_steps(path, [20])[0].positions, structures[2].positions)


def test_xyz_trajectory_is_thinned_and_last_of_a_repeated_step_counts(tmp_path):
    path = tmp_path / "traj.xyz"
    structures = trajectory(path, range(0, 50, 10))
    with XyzTrajectoryWriter(path) as writer:
        writer.write(structures[0], 30)
    np.testing.assert_array_equal(fetch_steps(path, [30])[0].positions, structures[0].positions)
    keep_steps(path, [30, 10])
    assert xyz_trajectory.steps(path) == [10, 30] and len(index_xyz(path)) == 2
    keep_steps(path, [])
    assert path.read_bytes() == b"" and xyz_trajectory.steps(path) == []
    assert list(tmp_path.iterdir()) == [path], "no temporary file stays"


def test_xyz_index_across_pieces_and_with_changing_sizes(tmp_path, monkeypatch):
    path = tmp_path / "mixed.xyz"
    text = "".join(f"{n}\ncomment without a step\n" + "Si 0 0 0.5\n" * n for n in (1, 5, 2, 7, 1))
    path.write_text(text)
    for size in (1, 7, 64, 1 << 20):
        monkeypatch.setattr("pwact_like.data.xyz_trajectory._CHUNK_BYTES", size)
        index = index_xyz(path)
        assert index.steps.tolist() == [0, 1, 2, 3, 4] and index.dropped == ""
        assert index.ends[-1] == len(text)
    assert len(fetch_steps(path, [3])[0]) == 7
    path.write_text("1\nx\nSi 0 0 0\nnonsense\nx\n")
    with pytest.raises(DataError, match="frame 1"):
        index_xyz(path)
