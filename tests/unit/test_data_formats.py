"""Formats that are written here too: extended XYZ, pwmlff/npy, deepmd/npy; other programs read what we write."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from support import ROOT, require_shared

from pwact_like.data.dataset import dataset_hash
from pwact_like.data.formats import TruncatedError, iter_items, read_frames, read_labelled, read_structure, write_frames
from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.errors import DataError

DATA = ROOT / "tests" / "data" / "data"


def make_frames(count: int = 5, symbols: str = "SiCSi", seed: int = 0, virial: bool = True) -> list[Frame]:
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(count):
        cell = np.diag([4.0, 5.0, 6.0]) + rng.normal(size=(3, 3)) * 0.3
        n_atoms = len(Atoms(symbols))
        atoms = Atoms(symbols, positions=rng.normal(size=(n_atoms, 3)) * 5.0, cell=cell, pbc=True)
        label = Label(float(rng.normal() * 1e3), rng.normal(size=(n_atoms, 3)), rng.normal(size=(3, 3)) if virial else None)
        origin = Origin(source=f"iter.0001/a b\"c'{number}", iteration=1, task="md.000", step=10 * number, seed=2147483646)
        frames.append(Frame(atoms, label, origin, "xtb-GFN1-3f2a"))
    return frames


def assert_same(found: Frame, expected: Frame, atol: float = 0.0) -> None:
    np.testing.assert_array_equal(found.atoms.numbers, expected.atoms.numbers)
    np.testing.assert_array_equal(found.atoms.pbc, expected.atoms.pbc)
    np.testing.assert_array_equal(found.atoms.cell.array, expected.atoms.cell.array)
    np.testing.assert_allclose(found.atoms.positions, expected.atoms.positions, rtol=0, atol=atol)
    assert found.label.energy_ev == expected.label.energy_ev
    np.testing.assert_array_equal(found.label.forces_ev_per_ang, expected.label.forces_ev_per_ang)
    if expected.label.virial_ev is None:
        assert found.label.virial_ev is None
    else:
        np.testing.assert_array_equal(found.label.virial_ev, expected.label.virial_ev)


def test_extxyz_keeps_every_bit_and_every_key(tmp_path):
    frames = make_frames()
    frames[1] = replace(frames[1], label=replace(frames[1].label, virial_ev=None))
    frames[2].atoms.pbc = [True, False, True]
    path = tmp_path / "a folder" / "train.xyz"
    write_frames(path, frames, "extxyz")
    found = read_frames(path)
    for one, other in zip(found, frames, strict=True):
        assert_same(one, other)
        assert one.origin == other.origin
        assert one.level_of_theory == other.level_of_theory
    assert dataset_hash(found) == dataset_hash(frames)


def test_ase_reads_our_extxyz_to_the_last_bit(tmp_path):
    from ase.io import read

    frames = make_frames()
    write_frames(tmp_path / "train.xyz", frames)
    for image, frame in zip(read(tmp_path / "train.xyz", index=":"), frames, strict=True):
        np.testing.assert_array_equal(image.positions, frame.atoms.positions)
        np.testing.assert_array_equal(image.cell.array, frame.atoms.cell.array)
        np.testing.assert_array_equal(image.get_forces(), frame.label.forces_ev_per_ang)
        assert image.get_potential_energy() == frame.label.energy_ev
        assert image.info["level_of_theory"] == frame.level_of_theory
        assert image.info["step"] == frame.origin.step
        assert image.info["source"] == frame.origin.source


def test_extxyz_written_by_ase_has_its_stress_turned_into_our_virial(tmp_path):
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.io import write

    atoms = bulk("Cu", "fcc", a=3.4, cubic=True)  # compressed: 3.6 is the equilibrium
    atoms.rattle(0.05, seed=3)
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    stress = atoms.get_stress(voigt=False)
    write(tmp_path / "ase.xyz", atoms, format="extxyz")
    (frame,) = read_frames(tmp_path / "ase.xyz")
    assert frame.label.energy_ev == pytest.approx(energy, abs=1e-12)
    np.testing.assert_allclose(frame.label.forces_ev_per_ang, forces, atol=1e-7)
    np.testing.assert_allclose(frame.label.virial_ev, -atoms.get_volume() * stress, atol=1e-6)
    assert np.trace(frame.label.virial_ev) > 0.0, "compressed"


HEAD = 'Lattice="2 0 0 0 2 0 0 0 2" Properties=species:S:1:pos:R:3'


@pytest.mark.parametrize(
    ("comment", "energy", "trace"),
    [
        (HEAD + ":force:R:3 energy=-1.25", -1.25, None),
        (HEAD + ':forces:R:3 Energy=-1.25 virial="1 0 0 0 2 0 0 0 4" pbc="T T T"', -1.25, 7.0),
        (HEAD + ":forces:R:3 energy=-1.0 free_energy=-1.25 stress='0.1 0 0 0 0.2 0 0 0 0.3'", -1.25, -8.0 * 0.6),
        (HEAD + ':forces:R:3 energy=-1.25 stress="0.1 0.2 0.3 0 0 0"', -1.25, -8.0 * 0.6),
        (HEAD + ':forces:R:3 energy=-1.25 virials="1 0 0 0 2 0 0 0 4" config_type=bulk', -1.25, 7.0),
    ],
)
def test_extxyz_spellings_in_the_wild(tmp_path, comment, energy, trace):
    path = tmp_path / "wild.xyz"
    path.write_text(f"1\n{comment}\nSi 0.1 0.2 0.3 -0.5 0.25 1e-3\n")
    (frame,) = read_frames(path)
    assert frame.label.energy_ev == energy
    assert frame.label.forces_ev_per_ang.tolist() == [[-0.5, 0.25, 0.001]]
    if trace is None:
        assert frame.label.virial_ev is None
    else:
        assert np.trace(frame.label.virial_ev) == pytest.approx(trace)
        (flipped,) = read_frames(path, virial_sign=-1)
        assert np.trace(flipped.label.virial_ev) == pytest.approx(-trace)


def test_extxyz_sample_of_pwmat(tmp_path):
    path = require_shared("Si64_aimd_pwmat.xyz")
    frames = read_frames(path)
    lines = path.read_text().splitlines()
    assert len(frames) == 210 == sum(line.strip() == "64" for line in lines)
    assert frames[0].label.energy_ev == -6856.407307
    assert frames[0].label.virial_ev[0].tolist() == [-8.3383, 6.5088, -3.1937]
    assert frames[-1].atoms.positions[-1].tolist() == [float(word) for word in lines[-1].split()[1:4]]
    assert frames[-1].label.forces_ev_per_ang[-1].tolist() == [float(word) for word in lines[-1].split()[4:7]]


def test_plain_xyz_is_a_structure_without_label_and_periodicity(tmp_path):
    path = tmp_path / "water.xyz"
    path.write_text("3\nwater\nO 0 0 0 extra\nH 0.76 0 0.5 extra\nH -0.76 0 0.5 extra\n")
    (item,) = iter_items(path, "extxyz")
    assert item.label is None and not item.atoms.pbc.any()
    assert read_structure(path, "xyz").get_chemical_formula() == "H2O"
    assert read_labelled(path, "extxyz").rejected == [(0, "no energy or no forces")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2\n" + HEAD + "\nSi 0 0 0\n", "1 of 2 atoms"),
        ("1\n" + HEAD + "\nSi 0 0 0.12", "inside line 3"),
        ("1\n", "line 1"),
        ("x\n" + HEAD + "\nSi 0 0 0\n", "number of atoms is expected"),
        ("1\n" + HEAD + "\nSi 0 0\n", "line 3: 4 columns expected, 3 found"),
        ("1\n" + HEAD + "\nSi 0 0 nought\n", "line 3: positions are not numbers"),
        ("1\n" + HEAD + "\nXx 0 0 0\n", "'Xx' is not a chemical element"),
        ("1\n" + HEAD.replace("0 2", "2") + "\nSi 0 0 0\n", "Lattice: 9 numbers expected"),
        ("", "the file is empty"),
    ],
)
def test_broken_extxyz_names_file_and_place(tmp_path, text, message):
    path = tmp_path / "broken.xyz"
    path.write_text(text)
    with pytest.raises(DataError, match=r"broken\.xyz.*" + message.replace("'", ".")):
        read_frames(path, "extxyz")


def test_labels_that_are_not_finite_are_never_written(tmp_path):
    (frame,) = make_frames(1)
    frame.label.forces_ev_per_ang[1, 1] = np.nan
    for name in ("extxyz", "pwmlff/npy", "deepmd/npy"):
        path = tmp_path / name.replace("/", "_")
        with pytest.raises(DataError, match="not finite"):
            write_frames(path, [frame], name)
        assert not path.exists() or not any(path.rglob("*.*")), "nothing half-written"
    with pytest.raises(DataError, match="cannot be written"):
        write_frames(tmp_path / "x", make_frames(1), "vasp/outcar")


@pytest.mark.parametrize("name", ["pwmlff/npy", "deepmd/npy"])
def test_npy_formats_round_trip(tmp_path, name):
    frames = make_frames(4, "SiCSi") + make_frames(3, "C2", seed=1) + make_frames(2, "SiCSi", seed=2, virial=False)
    root = tmp_path / "PWdata"
    write_frames(root, frames, name)
    assert sorted(path.name for path in root.iterdir()) == ["C1Si2", "C1Si2_no_virial", "C2"]
    found = {frame.label.energy_ev: frame for frame in read_frames(root)}
    assert len(found) == 9
    for frame in frames:
        order = np.argsort(frame.atoms.numbers, kind="stable")
        label = replace(frame.label, forces_ev_per_ang=frame.label.forces_ev_per_ang[order])
        assert_same(found[frame.label.energy_ev], replace(frame, atoms=frame.atoms[order], label=label), atol=1e-14)
    # written again (after a kill): replaced, not doubled, and no stale virials
    write_frames(root, frames, name)
    assert len(read_frames(root)) == 9
    with pytest.raises(DataError, match="never mixed"):
        write_frames(root, make_frames(1, "Cu"), name)


def test_pwdata_reads_our_deepmd_folders(tmp_path):
    pwdata = pytest.importorskip("pwdata")
    frames = make_frames(4)
    write_frames(tmp_path / "out", frames, "deepmd/npy")
    images = pwdata.Config("deepmd/npy", str(tmp_path / "out" / "C1Si2")).images
    order = [1, 0, 2]
    for image, frame in zip(images, frames, strict=True):
        np.testing.assert_array_equal(np.array(image.lattice).reshape(3, 3), frame.atoms.cell.array)
        assert float(np.ravel(image.Ep)[0]) == frame.label.energy_ev
        np.testing.assert_array_equal(image.force, frame.label.forces_ev_per_ang[order])
        np.testing.assert_array_equal(np.array(image.virial).reshape(3, 3), frame.label.virial_ev)
        np.testing.assert_array_equal(image.atom_types_image, [6, 14, 14])
        np.testing.assert_array_equal(image.position, frame.atoms.positions[order])


def test_pwmlff_folders_are_those_of_pwdata(tmp_path):
    """The same source through pwdata's writer and ours: the same files, names, shapes and numbers; and we read pwdata's."""
    pwdata = pytest.importorskip("pwdata")
    pwdata.Config("pwmat/movement", str(DATA / "MOVEMENT")).to(str(tmp_path / "theirs"), format="pwmlff/npy", random=False)
    frames = read_frames(DATA / "MOVEMENT")
    write_frames(tmp_path / "ours", frames[:1], "pwmlff/npy")
    (theirs,) = {path.parent for path in (tmp_path / "theirs").rglob("position.npy")}
    (ours,) = {path.parent for path in (tmp_path / "ours").rglob("position.npy")}
    assert theirs.name == ours.name == "Li2Si1"
    assert {path.name for path in theirs.iterdir()} == {path.name for path in ours.iterdir()}
    for path in theirs.iterdir():
        one, other = np.load(ours / path.name), np.load(path)
        assert one.dtype == other.dtype, path.name
        if path.name in ("atom_type.npy", "image_type.npy"):
            assert one.shape == other.shape
            np.testing.assert_array_equal(one, other)
        else:
            assert one.shape[1:] == other.shape[1:], path.name
            if path.name == "ei.npy":  # PWmat's own atomic energies there; a share of the energy here
                assert one.sum() == pytest.approx(frames[0].label.energy_ev)
                continue
            np.testing.assert_allclose(one, other[:1], rtol=1e-14, atol=1e-15, err_msg=path.name)
    found = read_frames(tmp_path / "theirs")
    assert [frame.label.energy_ev for frame in found] == [frame.label.energy_ev for frame in frames]
    np.testing.assert_array_equal(found[0].label.virial_ev, frames[0].label.virial_ev)
    assert found[1].label.virial_ev is None, "pwdata's −1e5 means: no virial"


def test_sample_of_pwmlff_npy():
    root = require_shared("pwact-inputs") / "si_pwmat_bigmodel_direct/init_bulk_pwmat/collection/scf/PWdata"
    frames = read_frames(root)
    assert len(frames) == 10
    raw = {name: np.load(root / "Si128" / f"{name}.npy") for name in ("energies", "forces", "lattice", "position", "virials")}
    for place, frame in enumerate(frames):
        assert frame.label.energy_ev == raw["energies"][place, 0]
        np.testing.assert_array_equal(frame.label.forces_ev_per_ang.ravel(), raw["forces"][place])
        np.testing.assert_allclose(frame.atoms.get_scaled_positions(wrap=False).ravel(), raw["position"][place], atol=1e-12)
        np.testing.assert_array_equal(frame.label.virial_ev.ravel(), raw["virials"][place])


def test_deepmd_mixed_type_and_several_sets(tmp_path):
    (tmp_path / "type.raw").write_text("0\n0\n0\n")
    (tmp_path / "type_map.raw").write_text("O\nH\n")
    for number in range(2):
        part = tmp_path / f"set.00{number}"
        part.mkdir()
        np.save(part / "box.npy", np.eye(3).reshape(1, 9) * 5)
        np.save(part / "coord.npy", np.arange(9.0).reshape(1, 9))
        np.save(part / "energy.npy", np.array([float(number)]))
        np.save(part / "force.npy", np.ones((1, 9)))
        np.save(part / "real_atom_types.npy", np.array([[1, 0, -1]]))
    frames = read_frames(tmp_path)
    assert [frame.atoms.get_chemical_symbols() for frame in frames] == [["H", "O"]] * 2
    assert [frame.label.energy_ev for frame in frames] == [0.0, 1.0]
    assert all(frame.label.virial_ev is None and frame.label.forces_ev_per_ang.shape == (2, 3) for frame in frames)


def test_npy_folders_that_are_broken(tmp_path):
    write_frames(tmp_path / "train", make_frames(4), "pwmlff/npy")
    folder = tmp_path / "train" / "C1Si2"
    content = (folder / "forces.npy").read_bytes()
    (folder / "forces.npy").write_bytes(content[:-9])
    with pytest.raises(DataError, match=r"forces\.npy: not a whole"):
        read_frames(tmp_path)
    np.save(folder / "forces.npy", np.zeros((3, 9)))
    with pytest.raises(DataError, match="different numbers of frames"):
        read_frames(tmp_path)
    (folder / "lattice.npy").unlink()
    with pytest.raises(DataError, match=r"lattice\.npy: the file is missing"):
        read_frames(tmp_path)
    write_frames(tmp_path / "valid", make_frames(1), "pwmlff/npy")
    with pytest.raises(DataError, match="train and valid"):
        read_frames(tmp_path)
    assert len(read_frames(tmp_path / "valid")) == 1


def test_formats_left_to_ase(tmp_path):
    from ase.io import write

    atoms = Atoms("SiC", positions=[[0, 0, 0], [1.2, 1.1, 1.0]], cell=[4, 4, 4], pbc=True)
    atoms.calc = SinglePointCalculator(
        atoms, energy=-3.0, free_energy=-3.5, forces=np.full((2, 3), 0.25), stress=np.array([1, 2, 3, 0, 0, 0]) * 1e-3
    )
    write(tmp_path / "one.traj", [atoms, atoms])
    frames = read_frames(tmp_path / "one.traj")
    assert len(frames) == 2 and frames[0].label.energy_ev == -3.5
    assert np.trace(frames[0].label.virial_ev) == pytest.approx(-64 * 6e-3)
    write(tmp_path / "SiC.cif", atoms)
    assert read_structure(tmp_path / "SiC.cif").get_chemical_formula() == "CSi"
    write(tmp_path / "POSCAR", atoms, format="vasp")
    assert read_structure(tmp_path / "POSCAR").get_chemical_formula() == "CSi"
    write(tmp_path / "sic.lmp", atoms, format="lammps-data", masses=True, atom_style="atomic")
    structure = read_structure(tmp_path / "sic.lmp")
    assert sorted(structure.get_chemical_symbols()) == ["C", "Si"] and structure.pbc.all()
    write(tmp_path / "nomass.lmp", atoms, format="lammps-data", atom_style="atomic", specorder=["Si", "C"])
    with pytest.raises(DataError, match="elements of its types are unknown"):
        read_structure(tmp_path / "nomass.lmp", "lammps/lmp")
    assert read_structure(tmp_path / "nomass.lmp", "lammps/lmp", elements=["Si", "C"]).get_chemical_symbols() == ["Si", "C"]
    with pytest.raises(DataError, match="several"):
        read_structure(tmp_path / "one.traj")


def test_truncated_extxyz_on_demand(tmp_path):
    write_frames(tmp_path / "a.xyz", make_frames(3))
    text = (tmp_path / "a.xyz").read_text()
    (tmp_path / "a.xyz").write_text(text[:-10])
    with pytest.raises(TruncatedError):
        read_frames(tmp_path / "a.xyz")
    result = read_labelled(tmp_path / "a.xyz", truncated_ok=True)
    assert len(result.frames) == 2 and result.rejected[0][0] == 2


def test_pwmat_atomic_energies_sum_up_to_ep_and_survive_extxyz(tmp_path):
    """The block and the dE of its header make up Ep; our extxyz files keep them to the last digit."""
    lines = (ROOT / "tests" / "data" / "data" / "MOVEMENT").read_text().splitlines(keepends=True)
    n_atoms = int(lines[0].split()[0])
    end = next(index for index, line in enumerate(lines) if line.strip().startswith("-------"))
    frame = [line for line in lines[:end] if "Atomic-Energy" not in line]
    block = [f"  29   {index + 0.25:.10E}   1.0  2.0\n" for index in range(n_atoms)]
    path = tmp_path / "MOVEMENT"
    path.write_text("".join([*frame, "Atomic-Energy, Etot(eV),E_nonloc(eV),Q_atom:dE(eV)=  -0.3E+06\n", *block, lines[end]]))
    (found,) = read_frames(path)
    atomic = found.label.atomic_energies_ev
    assert atomic.sum() == pytest.approx(found.label.energy_ev, rel=1e-12)
    np.testing.assert_allclose(np.diff(atomic), 1.0)
    write_frames(tmp_path / "out.xyz", [found])
    np.testing.assert_array_equal(read_frames(tmp_path / "out.xyz")[0].label.atomic_energies_ev, atomic)
    (plain,) = read_frames(ROOT / "tests" / "data" / "data" / "MOVEMENT")[:1]
    assert plain.label.atomic_energies_ev is None or len(plain.label.atomic_energies_ev) == n_atoms
