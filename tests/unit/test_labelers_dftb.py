"""The DFTB+ labeler: inputs, commands, judgement. The program was never run: outputs here are written in the format that ASE reads."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.dftb import DftbLabeler
from pwact_like.engines.labelers.dftb_hsd import parse
from pwact_like.engines.protocols import LabelRequest
from pwact_like.errors import InputError, NotAvailableError
from pwact_like.outcome import Ok, Reject, Retry

HARTREE, BOHR = 27.211386245988, 0.529177210903  # CODATA 2018
TEMPLATE = """\
Geometry = GenFormat { <<< "old.gen" }
Driver = GeometryOptimization { # the usual
  MaxSteps = 50; AppendGeometries = Yes
}
Hamiltonian = DFTB {
  Scc = Yes
  SccTolerance = 1e-7
  SlaterKosterFiles = Type2FileNames { Prefix = "/else where/" }
  MaxAngularMomentum { Si = "p"
    C = "p" ; O = "p" }
  Filling = Fermi { Temperature [K] = 500 }
  KPointsAndWeights = SupercellFolding {
    3 0 0
    0 3 0
    0 0 3
    0.5 0.5 0.5
  }
}
ParserOptions { ParserVersion = 12 }
"""
DONE = " SCC converged\n\nGeometry converged\n"


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "The inputs"
    (folder / "skf").mkdir(parents=True)
    for pair in ("Si-Si", "Si-C", "C-Si", "C-C"):
        (folder / "skf" / f"{pair}.skf").write_text(pair)
    (folder / "dftb_in.hsd").write_text(TEMPLATE)
    return folder


def carbide() -> Atoms:
    atoms = bulk("SiC", "zincblende", a=4.35)
    atoms.rattle(0.1, seed=2)
    return atoms


def labeler(folder, **settings) -> DftbLabeler:
    return DftbLabeler(LabelSettings(dft_style="dftb", source=folder / "param.json", **{"in_skf": folder / "skf", **settings}))


def write(folder, task, kind="scf", atoms=None, kspacing=None, **settings):
    atoms = atoms if atoms is not None else carbide()
    files = labeler(folder, **settings).write(
        task, LabelRequest(kind, atoms, StageInput(input=folder / "dftb_in.hsd", kspacing=kspacing), 1)
    )
    return parse((task / "dftb_in.hsd").read_text(), "x"), files


def test_structure_files_and_k_points_are_ours_and_the_rest_stays(inputs, tmp_path):
    root, files = write(inputs, tmp_path / "task", kspacing=1.5)
    atoms = carbide()
    written = read(tmp_path / "task" / "start.gen")  # by ASE
    assert np.array_equal(written.positions, atoms.positions) and np.array_equal(written.cell.array, atoms.cell.array)
    assert list(written.symbols) == list(atoms.symbols)
    hamiltonian = root.child("Hamiltonian")
    assert hamiltonian.child("SlaterKosterFiles").text_of("Prefix") == "skf/"
    assert [node.value for node in hamiltonian.child("KPointsAndWeights").children] == ["2 0 0", "0 2 0", "0 0 2", "0.0 0.0 0.0"]
    assert (hamiltonian.child("Filling").value, hamiltonian.child("Filling").child("Temperature").unit) == ("Fermi", "[K]")
    assert [node.name for node in hamiltonian.child("MaxAngularMomentum").children] == ["Si", "C"]  # DFTB+ refuses absent ones
    assert root.child("Driver").is_block and not root.child("Driver").children
    assert root.child("Options").text_of("WriteResultsTag") == root.child("Analysis").text_of("CalculateForces") == "Yes"
    assert files.inputs == ("dftb_in.hsd", "start.gen") and files.links == (("skf", str(inputs / "skf")),)
    (inputs / "dftb_in.hsd").write_text(TEMPLATE.replace("ParserVersion = 12", "ParserVersion = 14"))
    root, _ = write(inputs, tmp_path / "newer")
    assert root.child("Analysis").text_of("PrintForces") == "Yes"
    assert root.child("Hamiltonian").child("KPointsAndWeights").children[0].value == "3 0 0"


def test_a_relaxation_moves_the_cell_unless_the_user_says_no(inputs, tmp_path):
    root, files = write(inputs, tmp_path / "task", "relax")
    driver = root.child("Driver")
    assert (driver.value, driver.text_of("LatticeOpt"), driver.text_of("MaxSteps")) == ("GeometryOptimization", "Yes", "50")
    assert (driver.text_of("OutputPrefix"), driver.text_of("AppendGeometries")) == ("geo_end", "No")
    assert "geo_end.gen" in files.optional_outputs
    (inputs / "dftb_in.hsd").write_text(TEMPLATE.replace("MaxSteps = 50", "LatticeOpt = No"))
    root, _ = write(inputs, tmp_path / "atoms", "relax")
    assert root.child("Driver").text_of("LatticeOpt") == "No"
    with pytest.raises(NotAvailableError, match=r"MD by DFTB\+ is not built here"):
        write(inputs, tmp_path / "md", "aimd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ParserOptions { ParserVersion = 12 }", ""), "ParserVersion = … } is missing"),
        (('    C = "p" ; O = "p" }', "}"), "nothing for C"),
        (("  MaxSteps = 50;", "  MovedAtoms = 1:4\n"), "forces there are no label"),
        (("GeometryOptimization", "VelocityVerlet"), "relax needs one that relaxes"),
        (("Hamiltonian = DFTB", "Hamiltonian = Magic"), "DFTB { … } or xTB { … } is wanted"),
        (("  Scc = Yes", '  <<+ "more.hsd"'), "a file is included"),
        (("Hamiltonian = DFTB {", "Hamiltonian = DFTB {{"), "without a name before it"),
        (("ParserOptions {", "} ParserOptions {"), "closes nothing"),
        (("ParserVersion = 12 }", "ParserVersion = 12"), "ParserOptions is never closed"),
    ],
)
def test_what_cannot_work_is_refused(inputs, tmp_path, change, message):
    assert change[0] in TEMPLATE
    (inputs / "dftb_in.hsd").write_text(TEMPLATE.replace(*change))
    with pytest.raises(InputError) as caught:
        write(inputs, tmp_path / "task", "relax")
    assert message in str(caught.value)


def test_missing_files_are_all_named(inputs, tmp_path):
    with pytest.raises(InputError, match=r"has no O-O\.skf, O-Si\.skf, Si-O\.skf"):
        write(inputs, tmp_path / "task", atoms=Atoms("SiO", [[0, 0, 0], [0, 0, 1.6]], cell=[5, 5, 5], pbc=True))
    with pytest.raises(InputError, match="give in_skf"):
        write(inputs, tmp_path / "task", in_skf=None)
    (inputs / "dftb_in.hsd").write_text(TEMPLATE.replace("  KPointsAndWeights = SupercellFolding {", "  Other = X {"))
    with pytest.raises(InputError, match="no KPointsAndWeights, and no kspacing"):
        write(inputs, tmp_path / "task")


def test_the_level_of_theory_hangs_on_what_decides_energies_only(inputs):
    path = inputs / "dftb_in.hsd"

    def level(text=TEMPLATE, kspacing=0.5):
        path.write_text(text)
        return labeler(inputs).level_of_theory(StageInput(input=path, kspacing=kspacing))

    first = level()
    assert first.startswith("dftb-DFTB-")
    assert {level(TEMPLATE.replace("MaxSteps = 50", "MaxSteps = 5")), level(TEMPLATE.replace("1e-7", "1e-8"))} == {first}
    others = [
        level(TEMPLATE.replace("= 500", "= 300")),
        level(kspacing=0.25),
        level(kspacing=None),
        level(TEMPLATE.replace("Scc = Yes", "Scc = No")),
    ]
    (inputs / "skf" / "Si-C.skf").write_text("another")
    others.append(level())
    assert len({first, *others}) == 6


def test_the_level_of_theory_knows_what_stands_in_which_block(inputs):
    """The lines are the same: only their blocks tell which element has a U, or which way a k-point grid lies."""
    path = inputs / "dftb_in.hsd"

    def level(block, kspacing=0.5):
        path.write_text(TEMPLATE.replace("  Filling =", f"  {block}\n  Filling ="))
        return labeler(inputs).level_of_theory(StageInput(input=path, kspacing=kspacing))

    on_silicon = level("SpinConstants {\n Si {\n A = 1\n }\n C {\n B = 2\n }\n }")
    assert on_silicon != level("SpinConstants {\n Si {\n B = 2\n }\n C {\n A = 1\n }\n }")
    assert on_silicon == level("spinconstants = { c = { B   = 2 }; Si = { A = 1 } }")  # the same settings, written otherwise
    grid = level("", None)
    path.write_text(TEMPLATE.replace("3 0 0\n    0 3 0", "0 3 0\n    3 0 0"))
    assert labeler(inputs).level_of_theory(StageInput(input=path)) != grid


@pytest.mark.parametrize(
    ("says", "status", "ends"), [("SCC is NOT converged, maximal", 1, 0), ("ERROR!", 1, 0), ("cut", 137, 137), ("fine", 0, 0)]
)
def test_an_end_in_dftbs_own_words_counts(inputs, tmp_path, says, status, ends):
    """A stand-in program plays dftb+ with its statuses."""
    program = tmp_path / "my dftb+"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$SAYS"\nexit "$STATUS"\n')
    program.chmod(0o755)
    request = LabelRequest("scf", carbide(), StageInput(input=inputs / "dftb_in.hsd"), 1)
    (line,) = labeler(inputs).commands(f"'{program}'", request)
    environment = {**os.environ, "SAYS": says, "STATUS": str(status)}
    assert subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, check=False).returncode == ends
    assert (tmp_path / "dftb.out").read_text() == f"{says}\n"
    with pytest.raises(InputError, match=r"called dftb\.out here"):
        labeler(inputs).commands("dftb+ > my.out", request)


FORCES = np.array([[-0.01, 0.02, 0.03], [0.01, -0.02, -0.03]])
STRESS = np.array([[1.0, 0.2, 0.3], [0.2, 2.0, 0.4], [0.3, 0.4, 3.0]]) * 1e-4


def tags(energy=-3.5, forces=FORCES, stress=STRESS, end=None) -> str:
    def rows(values):
        return "\n".join("  ".join(f"{value:.15E}" for value in row) for row in values) + "\n"

    text = f"mermin_energy       :real:0:\n  {energy:.15E}\nscf_converged       :logical:0:\nT\nfermi_level         :real:1:1\n  0.1\n"
    text += f"forces              :real:2:3,{len(forces)}\n" + rows(forces)
    text += "stress              :real:2:3,3\n" + rows(stress)
    return text if end is None else text + f"end_coords          :real:2:3,{len(end)}\n" + rows(end)


def run_of(inputs, task, kind="scf"):
    """A task as DFTB+ would leave it."""
    write(inputs, task, kind)
    (task / "dftb.out").write_text(DONE)
    (task / "results.tag").write_text(tags())
    (task / "detailed.out").write_text("Total energy:                       -3.4000000000 H          -92.5187 eV\nSCC converged\n")
    return task


def test_a_label_agrees_with_ases_reader(inputs, tmp_path):
    from ase.calculators.dftb import Dftb

    task = run_of(inputs, tmp_path / "task")
    assert isinstance(labeler(inputs).outcome(task, "scf"), Ok)
    (frame,) = labeler(inputs).read(task, "scf")
    assert frame.label.energy_ev == pytest.approx(-3.5 * HARTREE, abs=1e-9)  # the free energy, not the total one
    reader = Dftb(atoms=carbide(), directory=str(task), slako_dir="none/")
    reader.atoms_input, reader.do_forces = carbide(), True
    reader.read_results()
    np.testing.assert_allclose(frame.label.forces_ev_per_ang, reader.results["forces"], rtol=1e-7)
    xx, yy, zz, yz, xz, xy = reader.results["stress"]
    expected = -carbide().get_volume() * np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    np.testing.assert_allclose(frame.label.virial_ev, expected, rtol=1e-6)
    assert np.trace(frame.label.virial_ev) > 0
    np.testing.assert_array_equal(frame.atoms.positions, carbide().positions)


def test_a_relaxed_structure_comes_from_its_own_file(inputs, tmp_path):
    task = run_of(inputs, tmp_path / "task", "relax")
    end = carbide()
    end.set_cell(end.cell.array * 1.02, scale_atoms=True)
    end.write(task / "geo_end.gen")  # by ASE
    engine = labeler(inputs)
    (task / "results.tag").write_text(tags(end=end.positions / BOHR))
    assert isinstance(engine.outcome(task, "relax"), Ok)
    (frame,) = engine.read(task, "relax")
    np.testing.assert_allclose(frame.atoms.positions, end.positions, atol=1e-9)
    np.testing.assert_allclose(frame.atoms.cell.array, end.cell.array, atol=1e-9)
    assert frame.label.virial_ev[0, 0] == pytest.approx(1e-4 * HARTREE / BOHR**3 * end.get_volume(), rel=1e-7)
    (task / "results.tag").write_text(tags(end=carbide().positions / BOHR))
    outcome = engine.outcome(task, "relax")
    assert isinstance(outcome, Retry) and "not the structure of results.tag" in outcome.reason
    (task / "dftb.out").write_text("WARNING!\n!!! Geometry did NOT converge!\n")
    outcome = engine.outcome(task, "relax")
    assert isinstance(outcome, Reject) and "raise MaxSteps" in outcome.reason


@pytest.mark.parametrize(
    ("file", "change", "kind", "words"),
    [
        ("dftb.out", (DONE, "ERROR!\n-> SCC is NOT converged, maximal SCC iterations exceeded\n"), Reject, "SCC not converged"),
        ("detailed.out", ("SCC converged", "SCC is NOT converged, maximal SCC iterations exceeded"), Reject, "SCC not converged"),
        ("dftb.out", (DONE, "ERROR!\n-> Invalid method name.\n"), Reject, "DFTB+ stopped: -> Invalid method name."),
        ("results.tag", ("mermin_energy", "other_energy "), Retry, "no mermin_energy"),
        ("results.tag", ("forces              :real:2:3,2", "forces              :real:2:3,3"), Retry, "forces cannot be read"),
        ("results.tag", ("-1.000000000000000E-02", "*****"), Retry, "forces cannot be read"),
    ],
)
def test_faults_are_seen(inputs, tmp_path, file, change, kind, words):
    task = run_of(inputs, tmp_path / "task")
    text = (task / file).read_text()
    assert change[0] in text
    (task / file).write_text(text.replace(*change, 1))
    outcome = labeler(inputs).outcome(task, "scf")
    assert isinstance(outcome, kind) and words in outcome.reason


def test_a_run_that_left_nothing_is_tried_again(inputs, tmp_path):
    assert isinstance(labeler(inputs).outcome(tmp_path, "scf"), Retry)
    task = run_of(inputs, tmp_path / "task")
    (task / "results.tag").unlink()
    assert isinstance(labeler(inputs).outcome(task, "scf"), Retry)
