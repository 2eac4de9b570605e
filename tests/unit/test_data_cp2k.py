"""CP2K's output, against the printed lines, against finite differences of CP2K's own energies, and in truncated form."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, clean_environment, require_program

from pwact_like.data.cp2k_geometry import read_input, standard_orientation
from pwact_like.data.cp2k_output import read_cp2k_output
from pwact_like.data.formats import TruncatedError, read_frames, read_labelled
from pwact_like.errors import DataError
from pwact_like.units import ANG_PER_BOHR, EV_PER_HARTREE

DATA = ROOT / "tests" / "data" / "data"

# energies (Hartree) that CP2K 2023.1 printed for the structure of cp2k_scf with atom 0 moved along x by ∓0.005 Å, and
# with the cell and the atoms strained: ε_xx = ∓0.002, ε_zz = ∓0.002, ε_xz = ε_zx = ∓0.001
ENERGY_X = (-7.868322170937006, -7.867710027134192)
ENERGY_XX = (-7.867899232356809, -7.868140927881409)
ENERGY_ZZ = (-7.867867262267464, -7.868172810002403)
ENERGY_XZ = (-7.868240117472278, -7.867801848710561)


def slope(energies: tuple[float, float], step: float) -> float:
    """dE/dx in eV from E(−step), E(+step) in Hartree."""
    return (energies[1] - energies[0]) * EV_PER_HARTREE / (2.0 * step)


def test_single_point_numbers_are_those_printed():
    (frame,) = read_cp2k_output(DATA / "cp2k_scf" / "cp2k.out").frames
    assert frame.label.energy_ev == -7.868023517014085 * EV_PER_HARTREE
    np.testing.assert_allclose(
        frame.label.forces_ev_per_ang,
        np.array([[-0.03239490, 0.03138859, -0.01141821], [0.03239630, -0.03138745, 0.01141586]]) * (EV_PER_HARTREE / ANG_PER_BOHR),
        rtol=1e-15,
    )
    # the exponent counts: 6.72927396432E+00 GPa on the diagonal, -1.22040423475E+01 beside it
    gpa = frame.label.virial_ev / frame.atoms.get_volume() * 160.2176634
    np.testing.assert_allclose(gpa[0], [6.72927396432, -5.18493473756, -12.2040423475], rtol=1e-14)


def test_forces_and_virial_are_the_derivatives_of_the_energy():
    label = read_cp2k_output(DATA / "cp2k_scf" / "cp2k.out").frames[0].label
    assert label.forces_ev_per_ang[0, 0] == pytest.approx(-slope(ENERGY_X, 0.005), abs=2e-4)
    # W = −∂E/∂ε; tr W > 0 under compression
    assert label.virial_ev[0, 0] == pytest.approx(-slope(ENERGY_XX, 0.002), abs=1e-3)
    assert label.virial_ev[2, 2] == pytest.approx(-slope(ENERGY_ZZ, 0.002), abs=1e-3)
    assert 2.0 * label.virial_ev[0, 2] == pytest.approx(-slope(ENERGY_XZ, 0.001), abs=1e-3)
    assert np.trace(label.virial_ev) > 0.0


def test_structure_comes_with_all_digits_from_the_input_file():
    (frame,) = read_cp2k_output(DATA / "cp2k_scf" / "cp2k.out").frames
    text = (DATA / "cp2k_scf" / "cp2k.inp").read_text()
    rows = re.findall(r"^\s+(?:A|B|C|Si) (\S+) (\S+) (\S+)$", text, re.MULTILINE)
    expected = np.array(rows, dtype=float)
    np.testing.assert_array_equal(frame.atoms.cell.array, expected[:3])
    np.testing.assert_array_equal(frame.atoms.positions, expected[3:])


def test_given_atoms_win_and_a_strange_cell_is_refused(tmp_path):
    shutil.copy(DATA / "cp2k_scf" / "cp2k.out", tmp_path)
    path = tmp_path / "cp2k.out"
    with pytest.raises(DataError, match=r"cp2k\.inp.*is needed"):
        read_cp2k_output(path)
    atoms = read_input(DATA / "cp2k_scf" / "cp2k.inp")
    atoms.positions += 1e-9
    (frame,) = read_cp2k_output(path, atoms).frames
    np.testing.assert_array_equal(frame.atoms.positions, atoms.positions)
    atoms.set_cell(atoms.cell.array * 1.01)
    with pytest.raises(DataError, match="not that of the structure that was given"):
        read_cp2k_output(path, atoms)
    atoms.set_cell(atoms.cell.array / 1.01)
    with pytest.raises(DataError, match="forces of 2 atoms, but the structure has 4"):
        read_cp2k_output(path, atoms + atoms)


def test_unconverged_is_rejected_although_energies_are_printed():
    result = read_cp2k_output(DATA / "cp2k_unconverged" / "cp2k.out")
    assert result.frames == []
    assert result.rejected[0][0] == 0 and "SCF not converged" in result.rejected[0][1]


def test_one_unconverged_step_of_a_trajectory(tmp_path):
    shutil.copytree(DATA / "cp2k_md", tmp_path / "md")
    path = tmp_path / "md" / "cp2k.out"
    parts = path.read_text().split("  *** SCF run converged in")
    parts[2] = "  *** WARNING in qs_scf.F:601 :: SCF run NOT converged ***\n" + parts[2].split("***\n", 1)[1]
    path.write_text(
        "  *** SCF run converged in".join(parts[:2])
        + parts[2]
        + "  *** SCF run converged in"
        + "  *** SCF run converged in".join(parts[3:])
    )
    result = read_cp2k_output(path)
    assert [index for index, _ in result.rejected] == [1]
    assert [frame.origin.step for frame in result.frames] == [0, 2, 3]
    assert result.frames[1].label.energy_ev == -7.872823760809291 * EV_PER_HARTREE


def test_md_pairs_energies_with_positions_and_cells():
    result = read_cp2k_output(DATA / "cp2k_md" / "cp2k.out")
    assert result.rejected == [] and len(result.frames) == 4
    last = result.frames[3]
    assert last.label.energy_ev == -7.873300597781788 * EV_PER_HARTREE
    positions = (DATA / "cp2k_md" / "md-pos-1.xyz").read_text().splitlines()
    cells = (DATA / "cp2k_md" / "md-1.cell").read_text().splitlines()
    np.testing.assert_array_equal(last.atoms.positions[1], [float(word) for word in positions[15].split()[1:]])
    np.testing.assert_array_equal(last.atoms.cell.array.ravel(), [float(word) for word in cells[4].split()[2:11]])
    # NPT: along the trajectory −W:strain is the change of energy (trapezoidal rule; the strains are of 2 %)
    for before, after in zip(result.frames, result.frames[1:], strict=False):
        strain = np.linalg.solve(before.atoms.cell.array, after.atoms.cell.array) - np.eye(3)
        scaled = np.linalg.solve(before.atoms.cell.array.T, before.atoms.positions.T).T
        moved = after.atoms.positions - scaled @ after.atoms.cell.array
        virial = 0.5 * (before.label.virial_ev + after.label.virial_ev)
        forces = 0.5 * (before.label.forces_ev_per_ang + after.label.forces_ev_per_ang)
        expected = -(virial * strain).sum() - (forces * moved).sum()
        assert after.label.energy_ev - before.label.energy_ev == pytest.approx(expected, rel=0.05, abs=1.5e-3)


def test_md_without_forces_in_the_output_takes_the_trajectory_file(tmp_path):
    shutil.copytree(DATA / "cp2k_md", tmp_path / "md")
    path = tmp_path / "md" / "cp2k.out"
    text = re.sub(r" ATOMIC FORCES in(?:.|\n)*?SUM OF ATOMIC FORCES[^\n]*\n", "", path.read_text())
    path.write_text(text)
    printed = read_cp2k_output(DATA / "cp2k_md" / "cp2k.out").frames
    for frame, other in zip(read_cp2k_output(path).frames, printed, strict=True):
        np.testing.assert_allclose(frame.label.forces_ev_per_ang, other.label.forces_ev_per_ang, atol=5e-7)
    (tmp_path / "md" / "md-frc-1.xyz").unlink()
    result = read_cp2k_output(path)
    assert result.frames == [] and "no forces were printed" in result.rejected[0][1]


def test_npt_without_cell_file_gives_no_frame_with_a_wrong_cell(tmp_path):
    shutil.copytree(DATA / "cp2k_md", tmp_path / "md")
    (tmp_path / "md" / "md-1.cell").unlink()
    result = read_cp2k_output(tmp_path / "md" / "cp2k.out")
    assert result.frames == [] and "the cell changes in this run" in result.rejected[0][1]


def test_cell_optimisation_turns_the_frame():
    result = read_cp2k_output(DATA / "cp2k_cell_opt" / "cp2k.out")
    assert result.rejected == [] and len(result.frames) == 4
    first = result.frames[0]
    start = read_input(DATA / "cp2k_cell_opt" / "cp2k.inp")
    # the printed, turned cell (three decimals), and the same distances as before
    np.testing.assert_allclose(first.atoms.cell.array, [[3.828, 0, 0], [1.876, 3.284, 0], [1.983, 1.098, 3.113]], atol=6e-4)
    assert first.atoms.get_distance(0, 1) == pytest.approx(start.get_distance(0, 1), abs=1e-9)
    assert first.label.energy_ev == pytest.approx(-7.868023403828934 * EV_PER_HARTREE)
    # the same lengths of forces and eigenvalues of the virial as the unturned single point
    unturned = read_cp2k_output(DATA / "cp2k_scf" / "cp2k.out").frames[0]
    assert np.linalg.norm(first.label.forces_ev_per_ang[0]) == pytest.approx(np.linalg.norm(unturned.label.forces_ev_per_ang[0]), rel=1e-3)
    np.testing.assert_allclose(np.linalg.eigvalsh(first.label.virial_ev), np.linalg.eigvalsh(unturned.label.virial_ev), atol=3e-3)
    cells = (DATA / "cp2k_cell_opt" / "copt-1.cell").read_text().splitlines()
    np.testing.assert_array_equal(result.frames[3].atoms.cell.array.ravel(), [float(word) for word in cells[3].split()[2:11]])


def test_standard_orientation_keeps_lengths_and_angles():
    cell = np.array([[0.3, 2.0, 1.0], [-1.0, 0.2, 2.5], [2.0, -0.5, 0.1]])
    for hand in (cell, cell[[1, 0, 2]]):
        turned = standard_orientation(hand)
        np.testing.assert_allclose(turned @ turned.T, hand @ hand.T, atol=1e-12)
        assert np.linalg.det(turned) == pytest.approx(abs(np.linalg.det(hand)))
        assert turned[0, 1] == turned[0, 2] == turned[1, 2] == 0.0


@pytest.mark.parametrize("marker", ["SUM OF ATOMIC FORCES", " STRESS|      y ", "  **** **** ******  **  PROGRAM ENDED"])
def test_truncated_output_names_file_and_line(tmp_path, marker):
    shutil.copytree(DATA / "cp2k_md", tmp_path / "md")
    path = tmp_path / "md" / "cp2k.out"
    text = path.read_text()
    path.write_text(text[: text.rindex(marker)])
    with pytest.raises(TruncatedError, match=r"cp2k\.out.*line \d+"):
        read_cp2k_output(path)
    with pytest.raises(TruncatedError):
        read_frames(path)


def test_killed_run_can_be_read_on_demand(tmp_path):
    shutil.copytree(DATA / "cp2k_md", tmp_path / "md")
    path = tmp_path / "md" / "cp2k.out"
    text = path.read_text()
    path.write_text(text[: text.rindex("ENERGY| Total FORCE_EVAL")])
    result = read_labelled(path, truncated_ok=True)
    assert len(result.frames) == 3
    assert "3 energies" in result.rejected[0][1]


def test_other_versions_of_the_tables(tmp_path):
    """Up to 7.1 the stress tensor had another head; from 2024 on the forces have their own prefix."""
    text = (DATA / "cp2k_scf" / "cp2k.out").read_text()
    reference = read_cp2k_output(DATA / "cp2k_scf" / "cp2k.out").frames[0].label
    shutil.copy(DATA / "cp2k_scf" / "cp2k.inp", tmp_path)
    path = tmp_path / "cp2k.out"
    old = re.sub(
        r" STRESS\| Analytical(?:.|\n)*?STRESS\| 1/3 Trace",
        " STRESS TENSOR [GPa]\n\n            X               Y               Z\n"
        "  X       6.72927396       -5.18493474      -12.20404235\n  Y      -5.18493474        3.67499102       -1.49022889\n"
        "  Z     -12.20404235       -1.49022889        8.50726331\n\n  1/3 Trace(STRESS TENSOR):",
        text,
    )
    path.write_text(old)
    np.testing.assert_allclose(read_cp2k_output(path).frames[0].label.virial_ev, reference.virial_ev, atol=1e-8)
    new = re.sub(
        r" ATOMIC FORCES in(?:.|\n)*?SUM OF ATOMIC FORCES[^\n]*",
        " FORCES| Atomic forces [hartree/bohr]\n FORCES|   Atom           x                   y                   z                  |f|\n"
        " FORCES|      1 -3.23949000E-02  3.13885900E-02 -1.14182100E-02  4.65274E-02\n"
        " FORCES|      2  3.23963000E-02 -3.13874500E-02  1.14158600E-02  4.65270E-02\n"
        " FORCES| Sum     1.40000000E-06  1.14000000E-06 -2.35000000E-06  2.96000E-06",
        text,
    ).replace("energy [a.u.]:", "energy [hartree]")
    new = re.sub(r"(STRESS\| Analytical stress tensor) \[GPa\]", r"\1 [bar]", new)
    path.write_text(new)
    label = read_cp2k_output(path).frames[0].label
    np.testing.assert_allclose(label.forces_ev_per_ang, reference.forces_ev_per_ang, atol=1e-12)
    np.testing.assert_allclose(label.virial_ev, reference.virial_ev / 1e4, rtol=1e-12)
    path.write_text(text.replace("[GPa]", "[psi]"))
    with pytest.raises(DataError, match=r"unknown unit \[psi\]"):
        read_cp2k_output(path)


def test_abort_at_an_scf_that_does_not_converge_is_a_reject(tmp_path):
    """CP2K 2024 and later stop there: nothing is lost, there is just no label."""
    text = (DATA / "cp2k_unconverged" / "cp2k.out").read_text()
    shutil.copy(DATA / "cp2k_unconverged" / "cp2k.inp", tmp_path)
    path = tmp_path / "cp2k.out"
    path.write_text(text[: text.index("*** WARNING")] + " *  SCF run NOT converged. To continue the calculation regardless, please *\n")
    result = read_cp2k_output(path)
    assert result.frames == [] and "SCF not converged" in result.rejected[0][1]


def test_a_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "cp2k.out"
    path.write_text("hello\n")
    with pytest.raises(DataError, match="not what CP2K prints"):
        read_cp2k_output(path)


def test_input_with_abc_scaled_and_bohr(tmp_path):
    path = tmp_path / "x.inp"
    path.write_text(
        "&FORCE_EVAL\n&SUBSYS\n&CELL\n ABC [angstrom] 4.0 5.0 6.0 ! comment\n ALPHA_BETA_GAMMA 90 90 120\n&END CELL\n"
        "&COORD\n SCALED\n Si1 0.5 0.0 0.25\n H 0 0 0\n&END COORD\n&KIND Si1\n ELEMENT Si\n&END KIND\n&END SUBSYS\n&END FORCE_EVAL\n"
    )
    atoms = read_input(path)
    assert atoms.get_chemical_symbols() == ["Si", "H"]
    np.testing.assert_allclose(atoms.cell.cellpar(), [4, 5, 6, 90, 90, 120])
    np.testing.assert_allclose(atoms.positions[0], [2.0, 0.0, 1.5], atol=1e-12)


@pytest.mark.engines
def test_real_cp2k_forces_and_stress_by_finite_differences(tmp_path):
    """A fresh run of this machine's CP2K: the reader's forces and virial are the derivatives of its energies."""
    program = require_program("cp2k.popt", "apt-get install --no-install-recommends cp2k cp2k-data")
    template = (DATA / "cp2k_scf" / "cp2k.inp").read_text()
    template = template.replace("&FORCES ON", "&FORCES ON\n      NDIGITS 12")
    start = read_input(DATA / "cp2k_scf" / "cp2k.inp")

    def run(name: str, strain: np.ndarray, shift_x: float) -> tuple[float, Path]:
        folder = tmp_path / name
        folder.mkdir()
        atoms = start.copy()
        atoms.positions[0, 0] += shift_x
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        rows = iter([*zip("ABC", atoms.cell.array, strict=True), *zip(atoms.symbols, atoms.positions, strict=True)])

        def row(_: re.Match[str]) -> str:
            label, vector = next(rows)
            return f"      {label} " + " ".join(f"{value:.12f}" for value in vector)

        text = re.sub(r"^\s+(?:A|B|C|Si) \S+ \S+ \S+$", row, template, flags=re.MULTILINE)
        (folder / "cp2k.inp").write_text(text)
        with (folder / "cp2k.out").open("w") as out:
            subprocess.run([program, "-i", "cp2k.inp"], cwd=folder, stdout=out, check=True, timeout=240, env=clean_environment())
        (frame,) = read_cp2k_output(folder / "cp2k.out").frames
        return frame.label.energy_ev, folder / "cp2k.out"

    _, output = run("start", np.zeros((3, 3)), 0.0)
    label = read_cp2k_output(output).frames[0].label
    strain = np.array([[1.0, 0.3, 0.0], [0.3, -0.5, 0.4], [0.0, 0.4, 2.0]]) * 1e-3
    plus, minus = run("plus", strain, 0.0)[0], run("minus", -strain, 0.0)[0]
    assert -(label.virial_ev * strain).sum() == pytest.approx((plus - minus) / 2.0, abs=3e-6)
    right, left = run("right", np.zeros((3, 3)), 0.004)[0], run("left", np.zeros((3, 3)), -0.004)[0]
    assert label.forces_ev_per_ang[0, 0] == pytest.approx(-(right - left) / 0.008, abs=3e-4)
    assert len(re.findall(r"^\s+1\s+1\s+Si\s+-?\d\.\d{10,}", output.read_text(), re.MULTILINE)) == 1, (
        "NDIGITS gives more digits, and they are read"
    )
