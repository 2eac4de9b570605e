"""Readers of PWmat's and VASP's outputs, against the raw lines of the files and against other programs' readers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, require_shared

from pwact_like.data.formats import TruncatedError, detect_format, read_frames, read_labelled, read_structure
from pwact_like.errors import DataError

DATA = ROOT / "tests" / "data" / "data"


def test_movement_numbers_are_those_of_the_raw_lines():
    first, second = read_frames(DATA / "MOVEMENT")
    # Ep, the second of "Etot,Ep,Ek"; Etot would be -333.5009543
    assert first.label.energy_ev == -333.6541178
    assert second.label.energy_ev == -333.6541299
    assert first.atoms.numbers.tolist() == [3, 14, 3]
    np.testing.assert_array_equal(first.atoms.cell.array, [[4.059163, 0, 0], [-0.221158, 4.907825, 0], [-0.305853, 0.234674, 5.097689]])
    scaled = [[0.596247000000001, 0.127017000000002, 0.213952000000003], [0.750639000000004, -0.124572000000005, 0.000642000000006]]
    np.testing.assert_allclose(first.atoms.get_scaled_positions(wrap=False)[:2], scaled, rtol=0, atol=3e-16)
    # the block is called -force, and "Force (eV/Angstrom)" has the same sign (see the physics test below)
    assert first.label.forces_ev_per_ang[0].tolist() == [0.071173183860090, 0.001850379397468, -0.053513899337771]
    assert second.label.forces_ev_per_ang[1].tolist() == [0.100000000000001, 0.150000000000002, -0.100000000000003]
    np.testing.assert_array_equal(
        first.label.virial_ev, [[-15.3888, 5.32451, 6.98146], [5.32427, -21.6184, -4.75911], [6.98220, -4.75892, -15.0045]]
    )
    assert second.label.virial_ev is None, "no stress was printed: masked, not zero"
    assert first.atoms.pbc.all() and first.atoms.calc is None


def test_movement_virial_sign_can_be_flipped():
    plain, flipped = (read_frames(DATA / "MOVEMENT", virial_sign=sign)[0].label.virial_ev for sign in (1, -1))
    np.testing.assert_array_equal(plain, -flipped)


@pytest.mark.parametrize(("cut", "line"), [(20, "line 20"), (19, "line 19"), (40, "line 40"), (6, "line 6")])
def test_truncated_movement_names_file_and_line(tmp_path, cut, line):
    path = tmp_path / "MOVEMENT"
    lines = (DATA / "MOVEMENT").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:cut]))
    with pytest.raises(TruncatedError, match=r"MOVEMENT.*" + line):
        read_frames(path)


def test_movement_cut_inside_a_number_is_noticed(tmp_path):
    path = tmp_path / "MOVEMENT"
    text = (DATA / "MOVEMENT").read_text()
    path.write_text(text[: text.rindex("0.200000000000000") + 9])  # "0.2000000"
    with pytest.raises(TruncatedError):
        read_frames(path)
    result = read_labelled(path, truncated_ok=True)
    assert len(result.frames) == 1
    assert result.rejected[0][0] == 1


def test_movement_with_fortran_stars_names_the_line(tmp_path):
    path = tmp_path / "MOVEMENT"
    lines = (DATA / "MOVEMENT").read_text().splitlines(keepends=True)
    lines[22] = "  14         *****************         0.029763393320812         0.001609607985142\n"
    path.write_text("".join(lines))
    with pytest.raises(DataError, match="line 23"):
        read_frames(path)


def test_raw_pwmat_forces_are_minus_the_gradient_of_ep():
    """Σ −F·dx is the rise of Ep along a real trajectory, from the frame called "Force (eV/Angstrom)" on."""
    frames = read_frames(require_shared("LiSi_50.MOVEMENT"))
    assert len(frames) == 50
    for before, after in list(itertools.pairwise(frames))[:20]:
        shift = after.atoms.get_scaled_positions(wrap=False) - before.atoms.get_scaled_positions(wrap=False)
        shift = (shift - np.round(shift)) @ before.atoms.cell.array
        force = 0.5 * (before.label.forces_ev_per_ang + after.label.forces_ev_per_ang)
        rise = after.label.energy_ev - before.label.energy_ev
        assert -(force * shift).sum() == pytest.approx(rise, abs=0.02 * abs(rise) + 2e-3)


@pytest.mark.parametrize("name", ["Cu72_300K.MOVEMENT", "LiSi_50.MOVEMENT"])
def test_movement_agrees_with_the_raw_text(name):
    """Every number of every frame, from the text itself."""
    path = require_shared(name)
    frames = read_frames(path)
    lines = path.read_text().splitlines()
    starts = [place for place, line in enumerate(lines) if "Iteration (fs)" in line]
    assert len(frames) == len(starts)
    for frame, start in zip(frames, starts, strict=True):
        assert frame.label.energy_ev == float(lines[start].split("Ek (eV) =")[1].split()[1])
        n_atoms = int(lines[start].split()[0])
        forces = next(place for place in range(start, len(lines)) if lines[place].startswith(" Force"))
        expected = [[-float(word) for word in line.split()[1:4]] for line in lines[forces + 1 : forces + 1 + n_atoms]]
        np.testing.assert_array_equal(frame.label.forces_ev_per_ang, expected)
        lattice = next(place for place in range(start, len(lines)) if lines[place].startswith(" Lattice"))
        stress = [[-float(word) for word in line.split(":")[1].split()] for line in lines[lattice + 1 : lattice + 4]]
        np.testing.assert_array_equal(frame.label.virial_ev, stress)


def test_movement_virial_falls_with_the_volume():
    """Our sign in raw PWmat output; pwdata, which negates too, reads the same numbers."""
    pwdata = pytest.importorskip("pwdata")
    path = require_shared("LiSi_50.MOVEMENT")
    frames = read_frames(path)
    images = pwdata.Config("pwmat/movement", str(path)).images
    for frame, image in zip(frames, images, strict=True):
        assert frame.label.energy_ev == image.Ep
        np.testing.assert_array_equal(frame.label.forces_ev_per_ang, np.array(image.force).reshape(-1, 3))
        np.testing.assert_array_equal(frame.label.virial_ev, image.virial)


def test_mlmd_is_read_like_a_movement(tmp_path):
    text = "".join((DATA / "MOVEMENT").read_text().splitlines(keepends=True)[33:])
    path = tmp_path / "OUT.MLMD"
    path.write_text(
        text.replace(" -------------------------------------------------", " ----------------------------------------------END")
    )
    assert detect_format(path) == "pwmat/mlmd"
    (frame,) = read_frames(path)
    assert frame.label.energy_ev == -333.6541299
    (sample,) = read_frames(require_shared("OUT.MLMD"))
    assert sample.label.energy_ev == -846.3607047
    assert sample.label.virial_ev is None


def test_atom_config(tmp_path):
    path = tmp_path / "atom.config"
    path.write_text(" 2\n LATTICE\n 2.5 0 0\n 0 2.5 0\n 0.5 0 5\n POSITION\n 6 0.1 0.2 0.3 1 1 1\n 1 0.5 0.5 0.5 0 0 0")
    atoms = read_structure(path)
    assert atoms.get_chemical_symbols() == ["C", "H"]
    np.testing.assert_allclose(atoms.positions, [[0.4, 0.5, 1.5], [1.5, 1.25, 2.5]])
    path.write_text(" 3\n LATTICE\n 2.5 0 0\n 0 2.5 0\n 0.5 0 5\n POSITION\n 6 0.1 0.2 0.3 1 1 1\n 1 0.5 0.5 0.5 0 0 0")
    with pytest.raises(TruncatedError, match="2 of 3"):
        read_structure(path)


def test_every_structure_of_the_sample_inputs_reads():
    root = require_shared("pwact-inputs") / "structures"
    found = sorted(path for path in root.rglob("*") if path.is_file() and ("POSCAR" in path.name or path.suffix == ".config"))
    assert len(found) > 15
    for path in found:
        atoms = read_structure(path)
        assert len(atoms) > 0 and atoms.pbc.all(), path


def test_outcar_numbers_and_convergence():
    result = read_labelled(DATA / "OUTCAR")
    assert [index for index, _ in result.rejected] == [1]
    assert "ionic step 2" in result.rejected[0][1] and "NELM = 4" in result.rejected[0][1]
    first, third = result.frames
    assert (first.label.energy_ev, third.label.energy_ev) == (-17.12345678, -17.20000001)
    assert first.atoms.get_chemical_symbols() == ["Si", "Si", "C"]
    # columns that touch ("-0.000000100-12.500000000") are told apart
    np.testing.assert_array_equal(first.atoms.cell.array, [[-1e-7, -12.5, 10.25], [3.0, 0.1, 0.0], [0.0, 0.2, 4.000000001]])
    np.testing.assert_array_equal(third.atoms.cell.array, np.diag([3.1, 3.2, 3.3]))
    assert first.atoms.positions[1].tolist() == [3.66353, 3.74279, 3.63406]
    assert first.label.forces_ev_per_ang[2].tolist() == [-0.001979, 0.087824, 0.059322]
    # "Total": XX YY ZZ XY YZ ZX of FORCE on cell, our sign
    np.testing.assert_array_equal(
        first.label.virial_ev, [[1.04304, 4.54418, 6.60905], [4.54418, 2.70038, -5.6596], [6.60905, -5.6596, 3.65745]]
    )
    assert third.label.virial_ev is None
    assert [frame.origin.step for frame in result.frames] == [1, 3]


def test_outcar_without_end_is_an_error_that_names_the_step(tmp_path):
    text = (DATA / "OUTCAR").read_text()
    path = tmp_path / "OUTCAR"
    path.write_text(text[: text.index(" General timing")])
    with pytest.raises(TruncatedError, match="after ionic step 3"):
        read_frames(path)
    assert len(read_labelled(path, truncated_ok=True).frames) == 2
    path.write_text(text[: text.index("      3.30000      0.40000")])
    with pytest.raises(TruncatedError, match="1 of 3 lines of positions and forces"):
        read_frames(path)
    path.write_text(text[: text.index("--- Iteration      1")])
    with pytest.raises(DataError, match="no ionic step"):
        read_frames(path)


def test_unconverged_frames_are_named_in_the_log(caplog):
    assert len(read_frames(DATA / "OUTCAR")) == 2
    assert "1 frame(s) left out" in caplog.text


def test_real_outcar_agrees_with_ase_and_the_raw_lines():
    from ase.io import read

    path = require_shared("Si_OUTCAR")
    result = read_labelled(path)
    images = read(path, index=":", format="vasp-out")
    assert result.rejected == []
    assert len(result.frames) == len(images) == 6
    for frame, image in zip(result.frames, images, strict=True):
        assert frame.label.energy_ev == image.calc.results["free_energy"]
        np.testing.assert_array_equal(frame.label.forces_ev_per_ang, image.calc.results["forces"])
        np.testing.assert_array_equal(frame.atoms.positions, image.positions)
        np.testing.assert_array_equal(frame.atoms.cell.array, image.cell.array)
        # ASE reads the line "in kB", which has been rounded from another unit
        expected = -image.get_volume() * image.get_stress(voigt=False)
        np.testing.assert_allclose(frame.label.virial_ev, expected, rtol=2e-5, atol=1e-3)
    first = result.frames[0].label
    assert first.energy_ev == -591.25539916  # line 3019
    assert first.virial_ev[0].tolist() == [677.04304, 8.54418, 3.60905]  # line 2723: XX, XY, ZX


def test_vasprun_against_the_raw_numbers_and_ase():
    from ase.io import read
    from ase.units import GPa

    result = read_labelled(DATA / "vasprun.xml")
    (frame,) = result.frames
    assert result.rejected[0][0] == 1 and "NELM = 4" in result.rejected[0][1]
    assert frame.label.energy_ev == -14.54320001
    assert frame.label.forces_ev_per_ang[0].tolist() == [0.12345678, -0.00000002, 0.3]
    np.testing.assert_allclose(frame.atoms.positions[1], [1.0, 2.5 + 0.0625, 0.75], atol=1e-15)
    # 10 kB = 1 GPa, V = 120 Å³; positive under compression, as ours
    assert frame.label.virial_ev[0, 0] == pytest.approx(1.0 * GPa * 120.0, rel=1e-6)
    image = read(DATA / "vasprun.xml", index=0, format="vasp-xml")
    np.testing.assert_allclose(frame.label.virial_ev, -120.0 * image.get_stress(voigt=False, apply_constraint=False), rtol=1e-6)
    assert image.calc.results["free_energy"] == frame.label.energy_ev


def test_vasprun_cut_short(tmp_path):
    path = tmp_path / "vasprun.xml"
    path.write_text((DATA / "vasprun.xml").read_text().replace("</modeling>", ""))
    with pytest.raises(TruncatedError, match="after 2 calculations"):
        read_frames(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("MOVEMENT", "pwmat/movement"), ("OUTCAR", "vasp/outcar"), ("vasprun.xml", "vasp/xml"), ("cp2k_md/cp2k.out", "cp2k/md")],
)
def test_formats_are_recognised_by_content_too(tmp_path, name, expected):
    assert detect_format(DATA / name) == expected
    renamed = tmp_path / "data"
    renamed.write_bytes((DATA / name).read_bytes())
    assert detect_format(renamed) == expected


def test_missing_and_unknown(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_frames(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"unknown format 'vasp/outcat'.*vasp/outcar"):
        read_frames(DATA / "OUTCAR", "vasp/outcat")
    odd = tmp_path / "odd"
    odd.write_text("hello\n")
    with pytest.raises(DataError, match=str(Path("odd"))):
        read_frames(odd)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="holds none of"):
        read_frames(tmp_path / "folder")


# ---- XDATCAR ----------------------------------------------------------------------------------------------------------

XDATCAR = """cubic diamond
           1
     5.400000    0.000000    0.000000
     0.100000    5.500000    0.000000
     0.000000    0.200000    5.600000
   Li_sv/0f1e  Si
   1   2
Direct configuration=     1
   0.00000000  0.50000000  0.25000000
   0.10000000  0.20000000 -0.30000000
   0.75000000  0.75000000  1.25000000
"""
SECOND = "Direct configuration=     5\n   0.10000000  0.50000000  0.25000000\n" + 2 * "   0.10000000  0.20000000  0.30000000\n"


@pytest.mark.parametrize("name", ["XDATCAR", "run3_xdatcar.txt", "positions"])
def test_an_xdatcar_is_a_trajectory_whatever_its_name(tmp_path, name):
    """Found by an attack: without -f it was taken for a POSCAR, and one frame was read of it."""
    path = tmp_path / name
    path.write_text(XDATCAR + SECOND)
    assert detect_format(path) == "vasp/xdatcar"
    first, second = read_frames(path)
    cell = np.array([[5.4, 0, 0], [0.1, 5.5, 0], [0, 0.2, 5.6]])
    assert first.label is None and first.atoms.numbers.tolist() == [3, 14, 14] and first.atoms.pbc.all()
    np.testing.assert_array_equal(first.atoms.cell.array, cell)
    np.testing.assert_allclose(first.atoms.positions[1], 0.1 * cell[0] + 0.2 * cell[1] - 0.3 * cell[2], rtol=0, atol=1e-15)
    assert [frame.origin.step for frame in (first, second)] == [1, 5]


def test_an_xdatcar_with_a_changing_cell_is_what_ase_reads(tmp_path):
    from ase.io import read

    path = tmp_path / "XDATCAR"
    grown = (
        XDATCAR.replace("Li_sv/0f1e", "Li")
        .replace("           1\n", "        1.05\n")
        .replace("configuration=     1", "configuration=     2")
    )
    path.write_text(XDATCAR.replace("Li_sv/0f1e", "Li") + grown)
    ours, theirs = read_frames(path), read(path, index=":", format="vasp-xdatcar")
    assert len(ours) == len(theirs) == 2
    for frame, atoms in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(frame.atoms.cell.array, atoms.cell.array, rtol=0, atol=1e-14)
        np.testing.assert_allclose(frame.atoms.positions, atoms.positions, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (XDATCAR + SECOND[:-20], TruncatedError, "configuration 5"),
        (XDATCAR[: XDATCAR.index("Direct")], TruncatedError, "no configuration"),
        (XDATCAR.replace("0.50000000", "**********"), DataError, "line 9"),
        (XDATCAR.replace("   1   2", "   1"), DataError, "line 6: 2 elements and 1 counts"),
        (XDATCAR.replace("Si", "Xy"), DataError, "'Xy' is not a chemical element"),
        (XDATCAR + "strange\nlines\n" + "x\n" * 6, DataError, "line 13: no head"),
    ],
)
def test_a_broken_xdatcar_names_the_place(tmp_path, text, error, words):
    path = tmp_path / "XDATCAR"
    path.write_text(text)
    with pytest.raises(error, match=words.replace("*", "\\*")):
        read_frames(path)
