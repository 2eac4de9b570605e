"""The CP2K labeler's inputs, commands, judgement and fingerprint; the program itself runs in the contract test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from pwact_like.config.common import GaussianParam, StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.cp2k import Cp2kLabeler
from pwact_like.engines.labelers.cp2k_input import read_input_file
from pwact_like.engines.labelers.kpoints import grid_from_kspacing
from pwact_like.engines.protocols import LabelRequest
from pwact_like.errors import InputError
from pwact_like.outcome import Ok, Reject, Retry

BASIS = """\
# basis sets
Si  DZ-TEST DZ-TEST-q4
 1
 3 0 1 4 1 1
  1.2  0.3 0.4
C  DZ-TEST
 1
 3 0 1 4 1 1
  2.2  0.3 0.4
"""
POTENTIALS = "Si GTH-X-q4 GTH-X\n 2 2\n 0.44 1 -6.9\nC GTH-X-q4\n 2 2\n 0.35 1 -8.5\n"
TEMPLATE = """\
&GLOBAL
  PROJECT Mine
&END
&FORCE_EVAL
  METHOD Quickstep
  &DFT
    UKS T
    &SCF
      EPS_SCF 1e-6
    &END
    &XC
      &XC_FUNCTIONAL PBE
      &END
      &VDW_POTENTIAL
        &PAIR_POTENTIAL
          PARAMETER_FILE_NAME Tables/dftD3.dat
        &END
      &END
    &END
  &END
  &SUBSYS
    &CELL
      ABC 9 9 9
    &END
    &COORD
      H 0 0 0
    &END
    &KIND Si
      BASIS_SET OLD
      MAGNETIZATION 1.0
    &END
    &TOPOLOGY
      COORD_FILE_NAME old.xyz
      &GENERATE
      &END
    &END
  &END
&END
&MOTION
  &MD
    ENSEMBLE NVE
    STEPS 5
  &END
  &PRINT
    &TRAJECTORY
      &EACH
        MD 10
      &END
    &END
  &END
&END
"""


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "The inputs"
    (folder / "Tables").mkdir(parents=True)
    (folder / "Tables" / "dftD3.dat").write_text("table\n")
    (folder / "BasisSets").write_text(BASIS)
    (folder / "Potentials").write_text(POTENTIALS)
    (folder / "Si.inp").write_text(TEMPLATE)
    return folder


def settings(folder: Path, **changes) -> LabelSettings:
    gaussian = {
        "basis_set_file": folder / "BasisSets",
        "potential_file": folder / "Potentials",
        "atom_list": ("Si", "C"),
        "basis_set_list": ("DZ-TEST", "DZ-TEST"),
        "potential_list": ("GTH-X-q4", "GTH-X-q4"),
        **changes,
    }
    return LabelSettings(dft_style="cp2k", gaussian_param=GaussianParam(**gaussian), source=folder / "param.json")


def silicon() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=2)
    return atoms


def write(folder, task, kind="scf", atoms=None, kspacing=None, labeler=None):
    labeler = labeler or Cp2kLabeler(settings(folder))
    request = LabelRequest(kind, atoms if atoms is not None else silicon(), StageInput(input=folder / "Si.inp", kspacing=kspacing), 99)
    files = labeler.write(task, request)
    return read_input_file(task / "cp2k.inp"), files


def test_structure_and_kinds_are_ours_and_the_rest_stays(inputs, tmp_path):
    root, files = write(inputs, tmp_path / "task")
    subsys = root.find("FORCE_EVAL", "SUBSYS")
    atoms = silicon()
    rows = [line.text.split() for line in subsys.find("COORD").lines()]
    assert [row[0] for row in rows] == ["Si"] * 8
    assert np.array_equal(np.array([row[1:] for row in rows], dtype=float), atoms.positions)
    assert [float(word) for word in subsys.find("CELL").value("A").split()] == list(atoms.cell.array[0])
    assert len(subsys.sections("CELL")) == len(subsys.sections("COORD")) == 1
    kind = subsys.find("KIND")
    assert (kind.value("BASIS_SET"), kind.value("POTENTIAL"), kind.value("MAGNETIZATION")) == ("DZ-TEST", "GTH-X-q4", "1.0")
    assert subsys.find("TOPOLOGY").value("COORD_FILE_NAME") == "" and subsys.find("TOPOLOGY", "GENERATE") is not None
    assert root.find("GLOBAL").value("RUN_TYPE") == "ENERGY_FORCE"
    assert "PARAMETER_FILE_NAME Tables/dftD3.dat" in (tmp_path / "task" / "cp2k.inp").read_text()
    assert dict(files.links) == {
        "BasisSets": str(inputs / "BasisSets"),
        "Potentials": str(inputs / "Potentials"),
        "Tables/dftD3.dat": str(inputs / "Tables" / "dftD3.dat"),
    }
    assert files.inputs == ("cp2k.inp",) and files.outputs == ("cp2k.out",)
    assert root.find("FORCE_EVAL").value("STRESS_TENSOR") == "ANALYTICAL"


def test_a_file_above_the_input_is_written_out_absolutely(inputs, tmp_path):
    (inputs.parent / "above.dat").write_text("x")
    (inputs / "Si.inp").write_text(TEMPLATE.replace("Tables/dftD3.dat", "../above.dat"))
    root, files = write(inputs, tmp_path / "task")
    pair = root.find("FORCE_EVAL", "DFT", "XC", "VDW_POTENTIAL", "PAIR_POTENTIAL")
    assert pair.value("PARAMETER_FILE_NAME") == str(inputs.parent / "above.dat")
    assert len(files.links) == 2


def test_md_prints_every_step_and_is_seeded(inputs, tmp_path):
    root, files = write(inputs, tmp_path / "task", "aimd")
    assert root.find("GLOBAL").value("RUN_TYPE") == "MD"
    assert root.find("GLOBAL").value("SEED") == "99"
    for name in ("TRAJECTORY", "FORCES", "CELL", "STRESS"):
        assert root.find("MOTION", "PRINT", name, "EACH").value("MD") == "1"
    assert root.find("MOTION", "MD").value("STEPS") == "5"
    assert "label-pos-1.xyz" in files.optional_outputs


@pytest.mark.parametrize(("asked", "got"), [("ENERGY", "CELL_OPT"), ("cell_opt", "CELL_OPT"), ("geo_opt", "GEO_OPT")])
def test_a_relaxation_moves_the_cell_unless_the_user_says_geo_opt(inputs, tmp_path, asked, got):
    (inputs / "Si.inp").write_text(TEMPLATE.replace("PROJECT Mine", f"RUN_TYPE {asked}"))
    root, _ = write(inputs, tmp_path / "task", "relax")
    assert root.find("GLOBAL").value("RUN_TYPE") == got
    assert root.find("MOTION", "PRINT", "RESTART", "EACH").value(got) == "1"


@pytest.mark.parametrize(
    ("kspacing", "scheme"),
    [
        # |b| = 2π/5.43 = 1.1571 per Å
        (1.2, ""),
        (0.6, "MACDONALD 2 2 2 0.25 0.25 0.25"),
        (0.4, "MONKHORST-PACK 3 3 3"),
    ],
)
def test_kpoints_are_gamma_centred(inputs, tmp_path, kspacing, scheme):
    root, _ = write(inputs, tmp_path / "task", kspacing=kspacing)
    section = root.find("FORCE_EVAL", "DFT", "KPOINTS")
    assert (section.value("SCHEME") if section else "") == scheme


def test_the_grid_follows_the_reciprocal_vectors():
    """A hexagonal cell: |b1| = 2π/(a·sin 120°), so a plain 2π/a would be too coarse."""
    cell = np.array([[3.0, 0, 0], [-1.5, 1.5 * 3**0.5, 0], [0, 0, 12.0]])
    # 2π/(3·sin 60°) = 2.4184; 2π/12 = 0.5236
    assert grid_from_kspacing(cell, np.array([True] * 3), 0.5) == (5, 5, 2)
    assert grid_from_kspacing(cell, np.array([True, True, False]), 0.5) == (5, 5, 1)
    # a spacing that divides a vector evenly gains no point
    assert grid_from_kspacing(np.eye(3) * 2 * np.pi, np.array([True] * 3), 0.1) == (10, 10, 10)


def test_the_users_kpoints_stay_without_a_kspacing(inputs, tmp_path):
    (inputs / "Si.inp").write_text(TEMPLATE.replace("UKS T", "&KPOINTS\n SCHEME GAMMA\n &END"))
    root, _ = write(inputs, tmp_path / "one")
    assert root.find("FORCE_EVAL", "DFT", "KPOINTS").value("SCHEME") == "GAMMA"
    root, _ = write(inputs, tmp_path / "two", kspacing=0.4)
    assert root.find("FORCE_EVAL", "DFT", "KPOINTS").value("SCHEME") == "MONKHORST-PACK 3 3 3"


def test_a_molecule_in_a_box_asks_for_no_stress(inputs, tmp_path):
    atoms = Atoms("Si2", [[0, 0, 0], [0, 0, 2.2]], cell=[8, 8, 8], pbc=False)
    root, _ = write(inputs, tmp_path / "task", atoms=atoms, kspacing=0.2)
    assert root.find("FORCE_EVAL").value("STRESS_TENSOR") == ""
    assert root.find("FORCE_EVAL", "SUBSYS", "CELL").value("PERIODIC") == "NONE"
    assert root.find("FORCE_EVAL", "DFT", "KPOINTS") is None
    with pytest.raises(InputError, match="put the molecule into a box"):
        write(inputs, tmp_path / "none", atoms=Atoms("Si"))


def test_an_element_without_basis_set_is_named_with_the_cure(inputs, tmp_path):
    with pytest.raises(InputError, match="Ge has no basis set and potential") as caught:
        write(inputs, tmp_path / "task", atoms=bulk("Ge"))
    assert "gaussian_param" in str(caught.value) and "param.json" in str(caught.value)
    assert not (tmp_path / "task" / "cp2k.inp").exists()


def test_names_that_the_files_lack_are_told_all_at_once(inputs):
    with pytest.raises(InputError) as caught:
        Cp2kLabeler(settings(inputs, basis_set_list=("TZ-TEST", "DZ-TEST"), potential_list=("GTH-X", "GTH-X")))
    assert len(caught.value.problems) == 2  # C has no alias GTH-X
    text = str(caught.value)
    assert "BasisSets has no TZ-TEST for Si" in text and "it has DZ-TEST" in text
    assert "Potentials has no GTH-X for C" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("&MOTION", "&EXT_RESTART\n RESTART_FILE_NAME x\n&END\n&MOTION"), "takes the structure from a restart file"),
        (("ABC 9 9 9", "ABC 9 9 9\n MULTIPLE_UNIT_CELL 2 2 2"), "MULTIPLE_UNIT_CELL"),
        (("    STEPS 5\n", ""), "has no STEPS"),
    ],
)
def test_what_cannot_work_is_refused(inputs, tmp_path, change, message):
    (inputs / "Si.inp").write_text(TEMPLATE.replace(*change))
    with pytest.raises(InputError, match=message):
        write(inputs, tmp_path / "task", "aimd")


def test_an_include_that_holds_our_sections_is_refused(inputs, tmp_path):
    (inputs / "sub.inc").write_text("&SUBSYS\n&END\n")
    (inputs / "Si.inp").write_text(TEMPLATE.replace("  METHOD", "@INCLUDE sub.inc\n  METHOD"))
    with pytest.raises(InputError, match=r"sub\.inc holds &SUBSYS"):
        write(inputs, tmp_path / "task")
    (inputs / "sub.inc").write_text("METHOD QS\n")
    _, files = write(inputs, tmp_path / "task")
    assert "sub.inc" in dict(files.links)


def test_the_level_of_theory_hangs_on_what_decides_energies_only(inputs):
    path = inputs / "Si.inp"

    def level(text=TEMPLATE, kspacing=0.5, **changes):
        path.write_text(text)
        return Cp2kLabeler(settings(inputs, **changes)).level_of_theory(StageInput(input=path, kspacing=kspacing))

    first = level()
    assert first.startswith("cp2k-PBE-") and len(first.rsplit("-", 1)[1]) == 8
    same = [
        TEMPLATE.replace("STEPS 5", "STEPS 500").replace("NVE", "NVT"),
        TEMPLATE.replace("PROJECT Mine", "PROJECT Other\n  RUN_TYPE MD  ! comment"),
        TEMPLATE.replace("    UKS T", "\n      uks    t   # spin"),
        TEMPLATE.replace("EPS_SCF 1e-6", "EPS_SCF 1e-7\n MAX_SCF 7"),
        TEMPLATE.replace("ABC 9 9 9", "ABC 8 8 8"),
        TEMPLATE.replace("BASIS_SET OLD", "BASIS_SET OLDER"),
    ]
    assert {level(text) for text in same} == {first}
    different = [
        level(TEMPLATE.replace("PBE", "PADE")),
        level(TEMPLATE.replace("UKS T", "UKS F")),
        level(TEMPLATE.replace("MAGNETIZATION 1.0", "MAGNETIZATION 2.0")),
        level(TEMPLATE.replace("EPS_SCF 1e-6", "&SMEAR\n ELECTRONIC_TEMPERATURE 900\n&END")),
        level(kspacing=0.25),
        level(atom_list=("Si",), basis_set_list=("DZ-TEST",), potential_list=("GTH-X-q4",)),
    ]
    (inputs / "Potentials").write_text(POTENTIALS.replace("-6.9", "-6.8"))
    different.append(level())
    (inputs / "Potentials").write_text(POTENTIALS)
    (inputs / "Tables" / "dftD3.dat").write_text("another table\n")
    different.append(level())
    assert len({first, *different}) == 1 + len(different)


@pytest.mark.parametrize(
    ("command", "inner"),
    [
        ("", "cp2k.psmp -i cp2k.inp -o cp2k.out"),
        ("mpirun -np 4 cp2k.popt", "mpirun -np 4 cp2k.popt -i cp2k.inp -o cp2k.out"),
        ("mpirun -np 4 cp2k.popt -i cp2k.inp", "mpirun -np 4 cp2k.popt -i cp2k.inp -o cp2k.out"),
        ("x -o cp2k.out -i cp2k.inp", "x -o cp2k.out -i cp2k.inp"),
        ("srun my-in-tool cp2k", "srun my-in-tool cp2k -i cp2k.inp -o cp2k.out"),
    ],
)
def test_the_users_command_is_completed(inputs, command, inner):
    request = LabelRequest("scf", silicon(), StageInput(input=inputs / "Si.inp"), 1)
    (line,) = Cp2kLabeler(settings(inputs)).commands(command, request)
    assert f"; {inner}; }}" in line


def test_another_output_name_is_refused(inputs):
    request = LabelRequest("scf", silicon(), StageInput(input=inputs / "Si.inp"), 1)
    with pytest.raises(InputError, match=r"called cp2k\.out here"):
        Cp2kLabeler(settings(inputs)).commands("cp2k -o my.out", request)


def test_newer_cp2ks_abort_after_an_unconverged_scf_counts_as_an_end(inputs, tmp_path):
    """CP2K 2024 ends with status 1 there; any other failure keeps its status. A stand-in program plays both."""
    program = tmp_path / "my cp2k"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$SAYS" > "$4"\nexit 3\n')
    program.chmod(0o755)
    request = LabelRequest("scf", silicon(), StageInput(input=inputs / "Si.inp"), 1)
    (line,) = Cp2kLabeler(settings(inputs)).commands(f"'{program}'", request)
    for says, status in (("*** WARNING: SCF run NOT converged ***", 0), ("segmentation fault", 3)):
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env={**os.environ, "SAYS": says}, check=False)
        assert done.returncode == status


@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_a_cp2k_that_was_killed_keeps_its_status(inputs, tmp_path, name):
    """Its status became that of grep: 0 where an SCF of the MD had not converged, else 1, and the time limit was never seen."""
    program = tmp_path / "my cp2k"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$SAYS" > "$4"\nkill -$SIGNAL $$\n')
    program.chmod(0o755)
    request = LabelRequest("aimd", silicon(), StageInput(input=inputs / "Si.inp"), 1)
    (line,) = Cp2kLabeler(settings(inputs)).commands(f"'{program}'", request)
    for says in ("*** WARNING: SCF run NOT converged ***", "SCF run converged in 9 steps"):
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env={**os.environ, "SAYS": says, "SIGNAL": name}, check=False)
        assert done.returncode == {"TERM": 143, "KILL": 137}[name]


def test_an_output_without_its_end_is_tried_again(inputs, tmp_path):
    task = tmp_path / "task"
    write(inputs, task)
    labeler = Cp2kLabeler(settings(inputs))
    assert isinstance(labeler.outcome(task, "scf"), Retry)
    (task / "cp2k.out").write_text(
        " CP2K| version string: CP2K version 2023.1\n GLOBAL| Project name   label\n GLOBAL| Run type   ENERGY_FORCE\n"
    )
    assert isinstance(labeler.outcome(task, "scf"), Retry)
    with (task / "cp2k.out").open("a") as stream:
        stream.write(" *** WARNING in qs_scf.F:598 :: SCF run NOT converged ***\n")
        stream.write(" ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:  -31.5\n  **** **** ******  **  PROGRAM ENDED AT  2026\n")
    assert isinstance(labeler.outcome(task, "scf"), Reject)


def test_a_real_md_run_half_of_whose_scfs_failed(tmp_path):
    """CP2K 2023.1, two silicon atoms, MAX_SCF 8: steps 1 and 3 did not converge. Numbers are lines 380 to 393 of its output."""
    source = Path(__file__).parents[1] / "data" / "labelers" / "cp2k_md_half_converged"
    task = tmp_path / "task"
    shutil.copytree(source, task)
    labeler = Cp2kLabeler(LabelSettings(dft_style="cp2k"))
    outcome = labeler.outcome(task, "aimd")
    assert isinstance(outcome, Ok)
    assert outcome.note.startswith("2 of 4 frames dropped (evaluations 1, 3): SCF not converged")
    first, second = labeler.read(task, "aimd")
    hartree, bohr = 27.211386245988, 0.529177210903  # CODATA 2018
    assert second.label.energy_ev == pytest.approx(-7.765653151014494 * hartree, abs=1e-9)
    assert second.label.forces_ev_per_ang[0, 0] == pytest.approx(0.087445770406 * hartree / bohr, abs=1e-9)
    # stress × volume (of label-1.cell) / 160.2176634, positive under compression
    assert second.label.virial_ev[1, 2] == pytest.approx(-14.6787834821 * 40.02575175 / 160.2176634, abs=1e-8)
    np.testing.assert_array_equal(second.atoms.positions[0], [-0.1072116880, 0.0245142514, 0.0015956033])
    np.testing.assert_array_equal(first.atoms.positions[1], [1.3575, 1.3575, 1.3575])
    # a run that was cut off before its last step is not taken
    text = (task / "cp2k.out").read_text()
    (task / "cp2k.out").write_text(text[: text.index("ENERGY|", len(text) * 6 // 10)])
    assert isinstance(labeler.outcome(task, "aimd"), Retry)
    # nor as a relaxation
    (task / "cp2k.out").write_text(text)
    assert isinstance(labeler.outcome(task, "relax"), Reject)
    assert isinstance(labeler.outcome(task, "scf"), Reject)
