"""The VASP labeler's inputs, against pymatgen; its judgement of real and spoilt outputs. VASP itself was never run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import stand_in_vasp
import vasp_files
from ase import Atoms
from ase.build import bulk
from support import ROOT, require_shared

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.data.formats import read_structure
from pwact_like.engines.labelers.atom_order import asked_of, write_asked
from pwact_like.engines.labelers.vasp import VaspLabeler
from pwact_like.engines.protocols import LabelRequest
from pwact_like.errors import DataError, InputError
from pwact_like.outcome import Ok, Reject, Retry

DATA = ROOT / "tests" / "data" / "data"
CUTOFFS = {"Fe": 267.9, "O": 400.0, "Li": 140.0, "Si": 245.3, "C": 400.0, "Cu": 295.0, "Al": 240.0}


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "The inputs"
    folder.mkdir()
    vasp_files.write_potcars(folder, **CUTOFFS)
    (folder / "INCAR").write_text(vasp_files.INCAR)
    return folder


def labeler_of(folder: Path, *elements: str) -> VaspLabeler:
    pseudo = [folder / f"POTCAR_{element}" for element in elements or CUTOFFS]
    return VaspLabeler(LabelSettings(dft_style="vasp", pseudo=pseudo, source=folder / "param.json"))


def oxide() -> Atoms:
    """Atoms of two elements in turn."""
    atoms = bulk("FeO", "rocksalt", a=4.3).repeat((2, 1, 1))
    atoms.rattle(0.05, seed=1)
    return atoms


def write(inputs, task, incar=None, kind="scf", atoms=None, kspacing=0.4, seed=7, labeler=None):
    if incar is not None:
        (inputs / "INCAR").write_text(incar)
    request = LabelRequest(kind, atoms if atoms is not None else oxide(), StageInput(input=inputs / "INCAR", kspacing=kspacing), seed)
    return (labeler or labeler_of(inputs)).write(task, request)


def refused(inputs, task, incar=None, **changes) -> str:
    with pytest.raises(InputError) as caught:
        write(inputs, task, incar, **changes)
    assert all(problem.cure for problem in caught.value.problems), caught.value
    assert not (task / "POTCAR").exists()
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:POTCAR data with symbol")
def test_pymatgen_reads_what_is_written(inputs, tmp_path):
    from pymatgen.io.vasp import Incar, Kpoints, Poscar, Potcar

    task = tmp_path / "task"
    files = write(inputs, task)
    assert set(files.inputs) == {"INCAR", "KPOINTS", "POSCAR", "POTCAR", "asked.json"} and files.secret == ("POTCAR",)
    incar = Incar.from_file(task / "INCAR")
    assert incar == Incar.from_file(inputs / "INCAR") and incar["ENCUT"] == 300 and incar["LWAVE"] is False
    poscar = Poscar.from_file(task / "POSCAR")
    assert poscar.site_symbols == ["Fe", "O"] and poscar.natoms == [2, 2]
    atoms = oxide()[[0, 2, 1, 3]]
    np.testing.assert_allclose(poscar.structure.lattice.matrix, atoms.cell.array, rtol=0, atol=1e-12)
    np.testing.assert_allclose(poscar.structure.cart_coords, atoms.positions, rtol=0, atol=1e-12)
    potcar = Potcar.from_file(task / "POTCAR")
    assert [single.TITEL for single in potcar] == ["PAW_PBE Fe 01Jan2000", "PAW_PBE O 01Jan2000"]
    assert [single.element for single in potcar] == poscar.site_symbols
    kpoints = Kpoints.from_file(task / "KPOINTS")
    assert kpoints.style.name == "Gamma"
    # VASP: n = max(1, ceil(|b|·2π / KSPACING))
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(oxide().cell.array).T, axis=1)
    assert kpoints.kpts[0] == tuple(np.ceil(lengths / 0.4).astype(int))


def test_kpoints_only_where_the_incar_has_no_kspacing(inputs, tmp_path):
    files = write(inputs, tmp_path / "own", vasp_files.INCAR + "KSPACING = 0.25\n")
    assert "KPOINTS" not in files.inputs and not (tmp_path / "own" / "KPOINTS").exists()
    write(inputs, tmp_path / "none", vasp_files.INCAR, kspacing=None)
    write(inputs, tmp_path / "half", kspacing=0.5)
    kpoints = [(tmp_path / name / "KPOINTS").read_text().splitlines()[3] for name in ("none", "half")]
    assert kpoints[0] == kpoints[1]


def test_the_users_text_stays_and_md_gets_a_seed(inputs, tmp_path):
    given = vasp_files.aimd(5)
    write(inputs, tmp_path / "md", given, kind="aimd", seed=1_234_567_890)
    assert (tmp_path / "md" / "INCAR").read_text() == given + "RANDOM_SEED = 334567890 0 0\n"
    own = given + "random_seed = 1 2 3\n"
    write(inputs, tmp_path / "own", own, kind="aimd")
    assert (tmp_path / "own" / "INCAR").read_text() == own


def test_moments_and_u_by_element_follow_the_structure(inputs, tmp_path):
    from pymatgen.io.vasp import Incar

    text = vasp_files.INCAR + "ISPIN=2; MAGMOM = Fe:5 \\\n O:0.6 Li:0 # of all\nLDAU = T\nLDAUL = Fe:2; LDAUU= Fe:4.0 ; LDAUJ =Fe:0\n"
    write(inputs, tmp_path / "oxide", text)
    incar = Incar.from_file(tmp_path / "oxide" / "INCAR")
    assert incar["MAGMOM"] == [5, 5, 0.6, 0.6]
    assert (incar["LDAUL"], incar["LDAUU"], incar["LDAUJ"]) == ([2, -1], [4.0, 0.0], [0.0, 0.0])
    lithium = Atoms("OLiFeO", positions=np.eye(4, 3) * 2, cell=[6, 6, 6], pbc=True)
    write(inputs, tmp_path / "lithium", atoms=lithium)
    incar = Incar.from_file(tmp_path / "lithium" / "INCAR")
    assert incar["MAGMOM"] == [5, 0, 0.6, 0.6] and incar["LDAUL"] == [2, -1, -1] and incar["LDAUU"] == [4.0, 0.0, 0.0]
    vectors = vasp_files.INCAR + "LSORBIT = .TRUE.\nMAGMOM = Fe:0,0,5 O:0,0,0\n"
    write(inputs, tmp_path / "vectors", vectors)
    assert "MAGMOM = 0 0 5  0 0 5  0 0 0  0 0 0\n" in (tmp_path / "vectors" / "INCAR").read_text()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("ISPIN = 2\nMAGMOM = 8*1", "8 values, and the structure of 4 atoms needs 4"),
        ("ISPIN = 2\nMAGMOM = 2*5 2*0", "another order than the structure's file"),
        ("ISPIN = 2\nMAGMOM = Fe:5", "no value for O"),
        ("ISPIN = 2\nMAGMOM = Fe:five O:0", "a number wanted"),
        ("LDAU = T\nLDAUL = Fe:2\nLDAUU = F:4\nLDAUJ = Fe:0", "F is named, and pseudo has no potential for it"),
        ("ISPIN = 2\nMAGMOM = Fe:5 0", "'0' is not ELEMENT:VALUE"),
        ("LSORBIT = T\nMAGMOM = 4*1", "4 values, and the structure of 4 atoms needs 12"),
        ("LDAU = T\nLDAUL = 2\nLDAUU = 4 0\nLDAUJ = 0 0", "1 values, and the structure has 2 elements (Fe O)"),
        ("LDAU = T\nLDAUL = Fe:2\nLDAUJ = Fe:0", "LDAUU is missing"),
        ("NSW = 3", "a single point must not move the atoms"),
        ("ICHARG = 11", "not made self-consistent"),
        ("ML_LMLFF = T", "machine-learned"),
        ("IMAGES = 3", "no label"),
    ],
)
def test_settings_that_are_refused_with_a_cure(inputs, tmp_path, lines, words):
    assert words in refused(inputs, tmp_path / "task", vasp_files.INCAR + lines + "\n")


def test_a_plain_list_holds_where_its_order_can_be_one_only(inputs, tmp_path):
    text = vasp_files.INCAR + "ISPIN = 2\nMAGMOM = 2*5 2*0\nLDAU = T\nLDAUL = 2 -1\nLDAUU = 4 0\nLDAUJ = 0 0\n"
    sorted_atoms = oxide()[[0, 2, 1, 3]]
    labeler = labeler_of(inputs, "Fe", "O")
    write(inputs, tmp_path / "sorted", text, atoms=sorted_atoms, labeler=labeler)
    assert (tmp_path / "sorted" / "INCAR").read_text() == text
    said = refused(inputs, tmp_path / "turned", atoms=oxide()[[1, 3, 0, 2]])
    assert "MAGMOM" in said and "LDAUU" in said and "O Fe in the structure's file, Fe O in the POSCAR" in said
    said = refused(inputs, tmp_path / "more", atoms=sorted_atoms)  # a structure of Li and O would take iron's values for lithium
    assert said.count("a plain list cannot mean Fe O here and something else with Al C Cu Li Si") == 2
    write(inputs, tmp_path / "equal", vasp_files.INCAR + "ISPIN = 2\nMAGMOM = 4*1\n")


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("relax", ("NSW = 60", "NSW = 0"), "NSW = 0 makes no steps, and this is the INCAR of a relaxation"),
        ("relax", ("IBRION = 2\n", ""), "IBRION is missing, which means 0: that is MD"),
        ("relax", ("IBRION = 2", "IBRION = 6"), "no relaxation"),
        ("relax", ("ISIF = 3", "NWRITE = 0"), "NWRITE"),
        ("aimd", ("NSW = 5\n", ""), "an MD run"),
        ("aimd", ("POTIM = 2.0\n", ""), "POTIM"),
        ("aimd", ("IBRION = 0", "IBRION = 2"), "no MD"),
        ("aimd", ("ISIF = 2", "ISIF = 3"), "relaxes the cell"),
    ],
)
def test_an_incar_of_another_stage_is_refused(inputs, tmp_path, kind, change, words):
    text = vasp_files.RELAX if kind == "relax" else vasp_files.aimd(5)
    assert change[0] in text
    assert words in refused(inputs, tmp_path / "task", text.replace(*change), kind=kind)


def test_constant_pressure_is_mdalgo_3(inputs, tmp_path):
    text = vasp_files.aimd(5).replace("ISIF = 2", "ISIF = 3").replace("MDALGO = 0", "MDALGO = 3")
    assert write(inputs, tmp_path / "task", text, kind="aimd").inputs


def test_structures_that_vasp_cannot_take(inputs, tmp_path):
    molecule = Atoms("FeO", [[0, 0, 0], [0, 0, 1.6]])
    assert "needs a cell" in refused(inputs, tmp_path / "a", atoms=molecule)
    left = oxide()
    left.set_cell(left.cell.array[[1, 0, 2]], scale_atoms=False)
    assert "left-handed" in refused(inputs, tmp_path / "b", atoms=left)


def test_potentials_that_are_refused(inputs, tmp_path):
    def said() -> str:
        with pytest.raises(InputError) as caught:
            labeler_of(inputs, "Fe", "O")
        assert all(problem.cure for problem in caught.value.problems)
        return str(caught.value)

    good = vasp_files.potcar("O", 400.0)
    path = inputs / "POTCAR_O"
    for text, words in [
        (good.replace("End of Dataset", ""), "ends too early"),
        (good + vasp_files.potcar("C"), "2 potentials (TITEL) in it"),
        (good.replace("TITEL  = PAW_PBE O", "TITEL  = PAW_PBE C"), "its first line says O, TITEL says C"),
        (good.replace("VRHFIN =O", "VRHFIN =N"), "VRHFIN N"),
        (good.replace("LEXCH  = PE", "LEXCH  = CA"), "different functionals"),
        (vasp_files.potcar("Fe_pv"), "two potentials for Fe"),
        ("\n", "no element"),
    ]:
        path.write_text(text)
        assert words in said(), words
    path.unlink()
    assert "cannot be read" in said()


def test_an_element_without_potential_and_a_cutoff_that_would_change(inputs, tmp_path):
    assert "no POTCAR for O" in refused(inputs, tmp_path / "a", labeler=labeler_of(inputs, "Fe"))
    free = vasp_files.INCAR.replace("ENCUT = 300;", "")
    write(inputs, tmp_path / "both", free)  # O is the hardest, and it is there
    said = refused(inputs, tmp_path / "iron", atoms=bulk("Fe"))
    assert "267.9 eV for Fe" in said and "ENCUT = 400" in said


def test_the_level_of_theory_follows_what_decides_energies(inputs):
    def level(incar=vasp_files.INCAR, kspacing=0.4, labeler=None) -> str:
        (inputs / "INCAR").write_text(incar)
        return (labeler or labeler_of(inputs)).level_of_theory(StageInput(input=inputs / "INCAR", kspacing=kspacing))

    base = level()
    assert base.startswith("vasp-PBE-")
    for same in (vasp_files.RELAX, vasp_files.aimd(9), vasp_files.INCAR.replace("ENCUT = 300", "encut=300") + "NCORE = 4\nALGO = Fast\n"):
        assert level(same) == base
    others = [
        level(vasp_files.INCAR.replace("300", "400")),
        level(vasp_files.INCAR + "GGA = PS\n"),
        level(vasp_files.INCAR + "IVDW = 12\n"),
        level(vasp_files.INCAR.replace("SIGMA = 0.1", "SIGMA = 0.2")),
        level(kspacing=0.3),
        level(vasp_files.INCAR + "KSPACING = 0.4\n"),
        level(labeler=labeler_of(inputs, "Fe")),
        level(vasp_files.INCAR + "METAGGA = R2SCAN\n"),
        level(vasp_files.INCAR + "LHFCALC = T\n"),
    ]
    assert len({base, *others}) == len(others) + 1
    assert others[1].startswith("vasp-PBEsol-") and others[7].startswith("vasp-R2SCAN-") and others[8].startswith("vasp-PBE+HF-")
    (inputs / "POTCAR_C").write_text(vasp_files.potcar("C", 400.0).replace("98.1", "98.2"))
    assert level() != base


def test_the_command(inputs):
    request = LabelRequest("scf", oxide(), StageInput(input=inputs / "INCAR"), 1)
    assert "mpirun -np 4 vasp_gam" in labeler_of(inputs).commands("mpirun -np 4 vasp_gam", request)[0]
    assert "vasp_std; }" in labeler_of(inputs).commands("", request)[0]
    assert "vasp_std; }" in labeler_of(inputs).commands("mpirun vasp_std ; ", request)[0]


# outputs


def ran(inputs, task, kind="scf", incar=None, atoms=None):
    """A task's folder after the stand-in has run in it."""
    write(inputs, task, incar, kind=kind, atoms=atoms if atoms is not None else metal())
    assert stand_in_vasp.main(task) == 0
    return labeler_of(inputs)


def metal() -> Atoms:
    """What EMT knows: aluminium and copper in turn."""
    a = 3.9
    atoms = Atoms("CuAlCuAl", [[0, 0, 0], [0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]], cell=[a, a, a], pbc=True)
    atoms.rattle(0.05, seed=2)
    return atoms


def edit(path: Path, *change: str, count: int = -1) -> None:
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, count))


def test_spoilt_outputs_are_never_labels(inputs, tmp_path):
    labeler = ran(inputs, tmp_path / "task")
    assert labeler.outcome(tmp_path / "task", "scf") == Ok()

    def judged(change) -> object:
        folder = tmp_path / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "task", folder)
        (folder / "vasprun.xml").unlink()
        change(folder)
        outcome = labeler.outcome(folder, "scf")
        if not isinstance(outcome, Ok):
            with pytest.raises(DataError):
                labeler.read(folder, "scf")
        return outcome

    reached = "aborting loop because EDIFF is reached"
    unconverged = judged(lambda folder: edit(folder / "OUTCAR", reached, "aborting loop because nothing is"))
    assert isinstance(unconverged, Reject) and "SCF not converged" in unconverged.reason
    truncated = judged(lambda folder: edit(folder / "OUTCAR", " General timing", ""))
    assert isinstance(truncated, Retry) and "ends too early" in truncated.reason
    missing = judged(lambda folder: (folder / "OUTCAR").unlink())
    assert isinstance(missing, Retry) and "VASP left no OUTCAR" in missing.reason
    first_force = (tmp_path / "task" / "OUTCAR").read_text().split("TOTAL-FORCE")[1].splitlines()[2].split()[3]
    nan = judged(lambda folder: edit(folder / "OUTCAR", first_force, "NaN"))
    assert isinstance(nan, Reject) and "not finite" in nan.reason
    stars = judged(lambda folder: edit(folder / "OUTCAR", first_force, "*********"))
    assert isinstance(stars, Retry) and "numbers expected" in stars.reason
    # a POTCAR in another order, or of another element
    turned = judged(lambda folder: edit(folder / "OUTCAR", "PAW_PBE Al", "PAW_PBE Ni"))
    assert isinstance(turned, Reject) and "Ni2 Cu2" in turned.reason and "Al2 Cu2 were asked" in turned.reason


def test_vasprun_stands_in_for_an_outcar_that_cannot_be_read(inputs, tmp_path):
    labeler = ran(inputs, tmp_path)
    (whole,) = labeler.read(tmp_path, "scf")
    edit(tmp_path / "OUTCAR", " General timing", "")
    outcome = labeler.outcome(tmp_path, "scf")
    assert isinstance(outcome, Ok) and "read from vasprun.xml" in outcome.note
    (frame,) = labeler.read(tmp_path, "scf")
    assert frame.label.energy_ev == pytest.approx(whole.label.energy_ev, abs=1e-8)
    np.testing.assert_allclose(frame.label.forces_ev_per_ang, whole.label.forces_ev_per_ang, atol=1e-6)
    np.testing.assert_allclose(frame.label.virial_ev, whole.label.virial_ev, atol=1e-4)
    edit(tmp_path / "vasprun.xml", "</modeling>", "")
    assert isinstance(labeler.outcome(tmp_path, "scf"), Retry)


def test_files_of_two_runs_are_noticed(inputs, tmp_path):
    labeler = ran(inputs, tmp_path / "one")
    moved = metal()
    moved.rattle(0.02, seed=5)
    ran(inputs, tmp_path / "two", atoms=moved)
    shutil.copy(tmp_path / "two" / "vasprun.xml", tmp_path / "one" / "vasprun.xml")
    outcome = labeler.outcome(tmp_path / "one", "scf")
    assert isinstance(outcome, Retry) and "not of one run" in outcome.reason
    # old versions leave terms of the energy out of vasprun.xml: the OUTCAR holds, with a note
    energy = labeler_of(inputs).read(tmp_path / "two", "scf")[0].label.energy_ev
    edit(tmp_path / "two" / "vasprun.xml", f"{energy:16.8f}", f"{energy + 1:16.8f}")
    outcome = labeler.outcome(tmp_path / "two", "scf")
    assert isinstance(outcome, Ok) and "the former is taken" in outcome.note
    assert labeler.read(tmp_path / "two", "scf")[0].label.energy_ev == energy


def test_md_drops_steps_that_did_not_converge(inputs, tmp_path):
    labeler = ran(inputs, tmp_path, "aimd", vasp_files.aimd(6))
    assert labeler.outcome(tmp_path, "aimd") == Ok()
    text = (tmp_path / "OUTCAR").read_text()
    second = text.index("Iteration      2(   2)")
    (tmp_path / "OUTCAR").write_text(text[:second] + text[second:].replace("EDIFF is reached", "NELM", 1))
    outcome = labeler.outcome(tmp_path, "aimd")
    assert isinstance(outcome, Ok) and "1 of 6 frames dropped (ionic steps 2)" in outcome.note
    frames = labeler.read(tmp_path, "aimd")
    assert [frame.origin.step for frame in frames] == [1, 3, 4, 5, 6]
    np.testing.assert_array_equal(frames[0].atoms.positions, metal().positions)
    edit(tmp_path / "INCAR", "NSW = 6", "NSW = 9")
    assert "ended early: 6 of 9" in labeler.outcome(tmp_path, "aimd").note


def test_a_relaxation_must_say_that_it_is_done(inputs, tmp_path):
    labeler = ran(inputs, tmp_path, "relax", vasp_files.RELAX)
    assert labeler.outcome(tmp_path, "relax") == Ok()
    (frame,) = labeler.read(tmp_path, "relax")
    last = read_structure(tmp_path / "CONTCAR", "vasp/poscar")
    back = asked_of(metal(), "symbol").order
    np.testing.assert_allclose(frame.atoms.get_scaled_positions()[back], last.get_scaled_positions(), atol=1e-12)
    assert list(frame.atoms.numbers) == list(metal().numbers)
    (tmp_path / "CONTCAR").write_text((tmp_path / "POSCAR").read_text())  # not of this structure: it is not taken
    (rounded,) = labeler.read(tmp_path, "relax")
    np.testing.assert_allclose(rounded.atoms.positions, frame.atoms.positions, atol=1e-5)
    edit(tmp_path / "OUTCAR", "reached required accuracy", "no accuracy")
    outcome = labeler.outcome(tmp_path, "relax")
    assert isinstance(outcome, Reject) and "relaxation not converged" in outcome.reason


def test_a_relaxation_whose_last_step_did_not_converge_gives_no_earlier_one(inputs, tmp_path):
    labeler = ran(inputs, tmp_path, "relax", vasp_files.RELAX)
    assert isinstance(labeler.outcome(tmp_path, "relax"), Ok)
    (tmp_path / "vasprun.xml").unlink()
    before, reached, after = (tmp_path / "OUTCAR").read_text().rpartition("aborting loop because EDIFF is reached")
    assert reached in before
    (tmp_path / "OUTCAR").write_text(f"{before}aborting loop EDIFF was not reached (unconverged){after}")
    outcome = labeler.outcome(tmp_path, "relax")
    assert isinstance(outcome, Reject) and "the last structure of the relaxation" in outcome.reason


def test_a_box_has_no_virial(inputs, tmp_path):
    slab = metal()
    slab.pbc = [True, True, False]
    labeler = ran(inputs, tmp_path, atoms=slab)
    (frame,) = labeler.read(tmp_path, "scf")
    assert frame.label.virial_ev is None and list(frame.atoms.pbc) == [True, True, False]
    assert (tmp_path / "KPOINTS").read_text().splitlines()[3].endswith(" 1")


def test_the_real_outcar(inputs, tmp_path):
    """VASP 6.4.2: six MD steps of 128 silicon atoms; the numbers are those of its lines 2723, 2881, 3019, 9409 and 9547."""
    shutil.copy(require_shared("Si_OUTCAR"), tmp_path / "OUTCAR")
    (tmp_path / "INCAR").write_text(vasp_files.aimd(6))
    write_asked(tmp_path, asked_of(bulk("Si", cubic=True).repeat((4, 4, 1)), "symbol"))
    labeler = labeler_of(inputs)
    assert labeler.outcome(tmp_path, "aimd") == Ok()
    frames = labeler.read(tmp_path, "aimd")
    assert (frames[0].label.energy_ev, frames[5].label.energy_ev) == (-591.25539916, -588.93718103)
    assert frames[0].label.forces_ev_per_ang[0].tolist() == [-0.248543, 0.213847, 0.120387]
    assert frames[0].label.virial_ev[0, 0] == 677.04304  # compressed: positive
    assert isinstance(labeler.outcome(tmp_path, "scf"), Reject)
    (tmp_path / "OUTCAR").write_text(vasp_files.first_ionic_step((tmp_path / "OUTCAR").read_text()))
    assert labeler.outcome(tmp_path, "scf") == Ok()
    (frame,) = labeler.read(tmp_path, "scf")
    assert frame.label.energy_ev == -591.25539916
    assert frame.atoms.positions[1].tolist() != bulk("Si", cubic=True).positions[1].tolist()  # another structure: the gate refuses it


def test_an_outcar_of_another_order_of_elements_is_rejected(tmp_path, inputs):
    """Its TITEL lines say Si, Si, C; the POSCAR has C, Si, Si: forces would go to other atoms."""
    shutil.copy(DATA / "OUTCAR", tmp_path / "OUTCAR")
    (tmp_path / "INCAR").write_text(vasp_files.aimd(3))
    asked = Atoms("SiCSi", positions=np.zeros((3, 3)), cell=np.eye(3) * 5, pbc=True)
    write_asked(tmp_path, asked_of(asked, "symbol"))
    outcome = labeler_of(inputs).outcome(tmp_path, "aimd")
    assert isinstance(outcome, Reject) and "Si2 C1" in outcome.reason and "C1 Si2 were asked" in outcome.reason
