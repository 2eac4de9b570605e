"""The Quantum ESPRESSO labeler's inputs, commands, judgement and fingerprint; pw.x itself runs in the contract test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.qe import QeLabeler
from pwact_like.engines.labelers.qe_input import read_input_file
from pwact_like.engines.labelers.qe_sections import rydberg_velocities
from pwact_like.engines.protocols import LabelRequest
from pwact_like.errors import InputError
from pwact_like.outcome import Ok, Reject, Retry

DATA = Path(__file__).parents[1] / "data" / "labelers"
HARTREE, BOHR = 27.211386245988, 0.529177210903  # CODATA 2018
UPF = (
    '<UPF version="2.0.1">\n<PP_INFO>Fe element="C"</PP_INFO>\n<PP_HEADER\n element="{0} "\n functional=" SLA  PW   PBX  PBC "/>\n</UPF>\n'
)
TEMPLATE = """\
&CONTROL
  calculation = 'scf'
  Prefix = 'mine', outdir = '/scratch', wfcdir = '/fast'
  pseudo_dir = 'The PPs'
  nstep = 20
/
&SYSTEM
  ibrav = 1, celldm(1) = 10.2, nat = 1, ntyp = 3
  ecutwfc = 30
  nspin = 2, occupations = 'smearing', smearing = 'mv', degauss = 0.01
  starting_magnetization(1) = 0.7, starting_magnetization(3) = -0.2 ! iron, nickel
  lda_plus_u = .true., Hubbard_U(1) = 4.0
/
&ELECTRONS
  conv_thr = 1.d-8, startingpot = 'file', startingwfc = 'atomic'
/
&IONS
  tempw = 600
/
ATOMIC_SPECIES
Fe_a 55.9 Fe.UPF
O    16.0 O.UPF
Ni   58.7 Ni.UPF
K_POINTS automatic
3 3 3 1 1 1
"""


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "The inputs"
    (folder / "The PPs").mkdir(parents=True)
    for symbol in ("Fe", "O", "Ni"):
        (folder / "The PPs" / f"{symbol}.UPF").write_text(UPF.format(symbol))
    (folder / "pw.in").write_text(TEMPLATE)
    return folder


def labeler(folder, **settings) -> QeLabeler:
    return QeLabeler(LabelSettings(dft_style="qe", source=folder / "param.json", **settings))


def write(folder, task, kind="scf", atoms=None, kspacing=None, **settings):
    atoms = atoms if atoms is not None else iron_oxide()
    files = labeler(folder, **settings).write(task, LabelRequest(kind, atoms, StageInput(input=folder / "pw.in", kspacing=kspacing), 99))
    return read_input_file(task / "pw.in"), files


def iron_oxide() -> Atoms:
    atoms = bulk("FeO", "rocksalt", a=4.3, cubic=True)
    atoms.rattle(0.1, seed=2)
    return atoms


def problems(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        write(*arguments, **options)
    return str(caught.value)


def test_structure_and_species_are_ours_and_the_rest_stays(inputs, tmp_path):
    root, files = write(inputs, tmp_path / "task")
    atoms = iron_oxide()
    rows = [row.split() for row in root.card("ATOMIC_POSITIONS").rows]
    assert [row[0] for row in rows] == [{"Fe": "Fe_a", "O": "O"}[symbol] for symbol in atoms.symbols]
    assert np.array_equal(np.array([row[1:] for row in rows], dtype=float), atoms.positions)
    assert np.array_equal(np.array([row.split() for row in root.card("CELL_PARAMETERS").rows], dtype=float), atoms.cell.array)
    assert root.card("ATOMIC_SPECIES").rows == ["Fe_a 55.9 Fe.UPF", "O 16.0 O.UPF"]
    given = {name: root.value("SYSTEM", name) for name in ("ibrav", "nat", "ntyp", "celldm", "nspin", "ecutwfc", "smearing")}
    assert given == {"ibrav": "0", "nat": "8", "ntyp": "2", "celldm": "", "nspin": "2", "ecutwfc": "30", "smearing": "mv"}
    control = {
        name: root.value("CONTROL", name) for name in ("calculation", "prefix", "outdir", "wfcdir", "pseudo_dir", "tstress", "tprnfor")
    }
    assert control == {
        "calculation": "scf",
        "prefix": "label",
        "outdir": "./out",
        "wfcdir": "",
        "pseudo_dir": "./",
        "tstress": ".true.",
        "tprnfor": ".true.",
    }
    assert root.card("K_POINTS").rows == ["3 3 3 1 1 1"]
    assert root.value("ELECTRONS", "startingpot") == "" and root.value("ELECTRONS", "startingwfc") == "atomic"
    assert "IONS" not in root.namelists  # pw.x does not read it for a single point
    assert files.inputs == ("pw.in",) and files.outputs == ("pw.out",) and files.optional_outputs == ("pw.xml",)
    assert dict(files.links) == {f"{symbol}.UPF": str(inputs / "The PPs" / f"{symbol}.UPF") for symbol in ("Fe", "O")}


@pytest.mark.parametrize(
    ("formula", "moments", "plus_u"),
    [
        ("FeO", {("starting_magnetization", "1"): "0.7", ("hubbard_u", "1"): "4.0"}, ".true."),
        ("NiO", {("starting_magnetization", "2"): "-0.2"}, ""),
        ("OFeNi", {("starting_magnetization", "1"): "0.7", ("starting_magnetization", "3"): "-0.2", ("hubbard_u", "1"): "4.0"}, ".true."),
    ],
)
def test_moments_and_u_follow_the_composition(inputs, tmp_path, formula, moments, plus_u):
    """Species 1, 2, 3 of the user are Fe, O, Ni; a structure without iron has O as 1 and Ni as 2, and no U at all."""
    atoms = Atoms(formula, np.arange(9.0).reshape(3, 3)[: len(Atoms(formula))], cell=[9, 9, 9], pbc=True)
    root, _ = write(inputs, tmp_path / "task", atoms=atoms)
    found = {(item.name, item.index): item.value for item in root.namelists["SYSTEM"].assignments if item.index}
    assert found == moments
    assert root.value("SYSTEM", "lda_plus_u") == plus_u


def test_a_hubbard_card_follows_the_composition(inputs, tmp_path):
    old = "lda_plus_u = .true., Hubbard_U(1) = 4.0"
    (inputs / "pw.in").write_text(TEMPLATE.replace(old, "") + "HUBBARD (ortho-atomic)\nU Fe_a-3d 4.0\nU Ni-3d 6.0\n")
    root, _ = write(inputs, tmp_path / "iron")
    assert (root.card("HUBBARD").rows, root.card("HUBBARD").option) == (["U Fe_a-3d 4.0"], "ortho-atomic")
    (inputs / "pw.in").write_text(TEMPLATE.replace(old, "") + "HUBBARD (ortho-atomic)\nU Fe_a-3d 4.0\n")
    root, _ = write(inputs, tmp_path / "nickel", atoms=bulk("NiO", "rocksalt", a=4.2))
    assert root.card("HUBBARD") is None
    (inputs / "pw.in").write_text(TEMPLATE.replace(old, "") + "HUBBARD (ortho-atomic)\nV Fe_a-3d O-2p 1 2 0.8\n")
    assert "V counts atoms" in problems(inputs, tmp_path / "v")


def test_everything_wrong_is_told_at_once(inputs, tmp_path):
    (inputs / "The PPs" / "Fe.UPF").unlink()
    (inputs / "pw.in").write_text(
        TEMPLATE.replace("ecutwfc = 30", "")
        .replace("'smearing', smearing", "'tetrahedra', smearing")
        .replace("K_POINTS automatic\n3 3 3 1 1 1\n", "")
    )
    said = problems(inputs, tmp_path / "task")
    for words in (
        f"the pseudopotential Fe.UPF of Fe is not in {inputs / 'The PPs'}",
        "mend pseudo_dir, or list it in `pseudo`",
        "ecutwfc is missing",
        "with tetrahedra the forces are not those of the energy",
        "no K_POINTS, and no kspacing",
    ):
        assert words in said
    assert not (tmp_path / "task").exists()


def test_elements_without_pseudopotential_are_all_named(inputs, tmp_path):
    said = problems(inputs, tmp_path / "task", atoms=bulk("GaAs", "zincblende", a=5.6))
    assert "Ga has no pseudopotential; there are: Fe, Ni, O" in said and "As has no pseudopotential" in said
    assert "add its file to `pseudo` in param.json, or a line to ATOMIC_SPECIES of pw.in" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Ni   58.7 Ni.UPF", "Ni   58.7 O.UPF"), "O.UPF is for O, and Ni is Ni"),
        (("Ni   58.7 Ni.UPF", "Fe2  55.9 Fe.UPF"), "two species of Fe: Fe_a and Fe2"),
        (("Ni   58.7 Ni.UPF", "Zz 1 O.UPF"), "'Zz' names no element"),
        (("Ni   58.7 Ni.UPF", "Ni Ni.UPF"), "label, mass and pseudopotential file are wanted"),
        (("starting_magnetization(3)", "starting_magnetization(4)"), "ATOMIC_SPECIES has 3 species"),
        (("starting_magnetization(1) = 0.7,", "starting_magnetization = 0.7, 0.1, 0.1,"), "is a list"),
        (("starting_magnetization(1) = 0.7,", "starting_magnetization(1) = 0.7, 0.1,"), "is a list"),
        (("starting_magnetization(1) = 0.7,", "starting_magnetization(1) = 3*0.7,"), "is a list"),
        (("Hubbard_U(1) = 4.0", "Hubbard_J(1) = 4.0"), "which species is this?"),
        (("starting_magnetization(1) = 0.7, ", ""), "none of Fe_a, O has a starting_magnetization"),
        (("Hubbard_U(1) = 4.0", "Hubbard_V(1,2,1) = 0.8"), "Hubbard_V counts atoms"),
        (("K_POINTS automatic", "CONSTRAINTS\n1\n'distance' 1 2\nK_POINTS automatic"), "its forces would get into the labels"),
    ],
)
def test_what_cannot_work_is_refused(inputs, tmp_path, change, message):
    (inputs / "pw.in").write_text(TEMPLATE.replace(*change))
    assert message in problems(inputs, tmp_path / "task")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("  nstep = 20\n", ""), "aimd needs nstep"),
        (("  tempw = 600\n", ""), "aimd needs tempw"),
        (("tempw = 600", "tempw = 600, ion_dynamics = 'langevin'"), "no MD that could be seeded"),
        (("'scf'", "'vc-md'"), "MD with a moving cell"),
    ],
)
def test_an_md_that_cannot_work_is_refused(inputs, tmp_path, change, message):
    (inputs / "pw.in").write_text(TEMPLATE.replace(*change))
    assert message in problems(inputs, tmp_path / "task", "aimd")


def test_pseudopotentials_of_param_json_go_before_the_inputs(inputs, tmp_path):
    other = inputs / "my Fe (v2).upf"
    other.write_text(UPF.format("Fe").replace("PBX", "PSX").replace("PBC", "PSC"))
    carbon = inputs / "C_first.UPF"
    carbon.write_text("<PP_INFO>\n</PP_INFO>\n<PP_HEADER>\n   0   Version Number\n  C    Element\n</PP_HEADER>\n")  # the old format
    root, files = write(inputs, tmp_path / "task", pseudo=(other, carbon))
    assert root.card("ATOMIC_SPECIES").rows[0] == "Fe_a 55.9 my_Fe__v2_.upf"  # pw.x takes no blanks
    assert dict(files.links)["my_Fe__v2_.upf"] == str(other)
    root, _ = write(inputs, tmp_path / "carbide", atoms=bulk("FeC", "rocksalt", a=4.0), pseudo=(other, carbon))
    assert root.card("ATOMIC_SPECIES").rows == ["Fe_a 55.9 my_Fe__v2_.upf", "C 12.011 C_first.UPF"]  # the mass is ASE's
    (inputs / "none").write_text("x")
    said = problems(inputs, tmp_path / "wrong", pseudo=(other, inputs / "The PPs" / "Fe.UPF", inputs / "none"))
    assert "two files for Fe" in said and "is no file that names an element" in said


@pytest.mark.parametrize(("asked", "got"), [("scf", "vc-relax"), ("vc-relax", "vc-relax"), ("RELAX", "relax")])
def test_a_relaxation_moves_the_cell_unless_the_user_says_relax(inputs, tmp_path, asked, got):
    (inputs / "pw.in").write_text(TEMPLATE.replace("'scf'", f"'{asked}'"))
    root, _ = write(inputs, tmp_path / "task", "relax")
    assert root.value("CONTROL", "calculation") == got
    assert ("CELL" in root.namelists) is (got == "vc-relax") and "IONS" in root.namelists
    (inputs / "pw.in").write_text(TEMPLATE.replace("'scf'", f"'{asked}'").replace("tempw = 600", "ion_dynamics = 'verlet'"))
    assert "relaxes nothing" in problems(inputs, tmp_path / "no", "relax")


@pytest.mark.parametrize(
    ("kspacing", "card"),
    [
        # |b| = 2π/4.3 = 1.4612 per Å
        (1.5, ("gamma", [])),
        (0.8, ("automatic", ["2 2 2 0 0 0"])),
        (0.4, ("automatic", ["4 4 4 0 0 0"])),
    ],
)
def test_kpoints_are_gamma_centred(inputs, tmp_path, kspacing, card):
    root, _ = write(inputs, tmp_path / "task", kspacing=kspacing)
    assert (root.card("K_POINTS").option, root.card("K_POINTS").rows) == card
    (inputs / "pw.in").write_text(TEMPLATE.replace("nspin = 2", "noncolin = .TRUE."))
    root, _ = write(inputs, tmp_path / "noncollinear", kspacing=kspacing)
    assert root.card("K_POINTS").option == "automatic"  # the quicker way at Γ knows no spinors


def test_start_velocities_have_the_temperature_and_follow_the_seed(inputs, tmp_path):
    root, _ = write(inputs, tmp_path / "task", "aimd")
    assert root.value("SYSTEM", "nosym") == ".true." and root.value("IONS", "ion_velocities") == "from_input"
    rows = np.array([row.split()[1:] for row in root.card("ATOMIC_VELOCITIES").rows], dtype=float)
    # in SI: bohr per ħ/Ry is 5.29177210903e-11 m / 4.83777e-17 s
    masses = np.array([{"Fe": 55.9, "O": 16.0}[symbol] for symbol in iron_oxide().symbols]) * 1.66053906660e-27
    speed = rows * 5.29177210903e-11 / 4.8377686531e-17
    kinetic_j = 0.5 * (masses[:, None] * speed**2).sum()
    assert kinetic_j / (0.5 * (3 * 8 - 3) * 1.380649e-23) == pytest.approx(600.0, rel=1e-6)
    np.testing.assert_allclose((masses[:, None] * rows).sum(axis=0), 0.0, atol=1e-38)
    assert not np.allclose(rydberg_velocities(masses, 600.0, 98), rydberg_velocities(masses, 600.0, 99))
    # pw.x itself printed 5999.99999990 K (line 187 of its output) for the velocities of that input
    root = read_input_file(DATA / "qe_md_stopped" / "pw.in")
    own = np.array([row.split()[1:] for row in root.card("ATOMIC_VELOCITIES").rows], dtype=float)
    kinetic_j = 0.5 * 28.0855 * 1.66053906660e-27 * ((own * 5.29177210903e-11 / 4.8377686531e-17) ** 2).sum()
    assert kinetic_j / (1.5 * 1.380649e-23) == pytest.approx(6000.0, rel=1e-5)


def test_a_molecule_in_a_box_is_not_periodic_and_has_no_virial(inputs, tmp_path):
    atoms = Atoms("FeO", [[0, 0, 0], [0, 0, 1.6]], cell=[8, 8, 8], pbc=False)
    root, _ = write(inputs, tmp_path / "task", atoms=atoms, kspacing=0.2)
    assert root.card("K_POINTS").option == "gamma"
    assert "put the molecule into a box" in problems(inputs, tmp_path / "none", atoms=Atoms("Fe"))
    shutil.copytree(DATA / "qe_vc_relax", tmp_path / "relaxed")
    text = (tmp_path / "relaxed" / "pw.in").read_text()
    (tmp_path / "relaxed" / "pw.in").write_text(text.replace("periodic along xyz", "periodic along xy"))
    (frame,) = labeler(inputs).read(tmp_path / "relaxed", "relax")
    assert list(frame.atoms.pbc) == [True, True, False] and frame.label.virial_ev is None


def test_the_level_of_theory_hangs_on_what_decides_energies_only(inputs):
    path = inputs / "pw.in"

    def level(text=TEMPLATE, kspacing=0.5, **settings):
        path.write_text(text)
        return labeler(inputs, **settings).level_of_theory(StageInput(input=path, kspacing=kspacing))

    first = level()
    assert first.startswith("qe-PBE-") and len(first.rsplit("-", 1)[1]) == 8
    same = [
        TEMPLATE.replace("'scf'", "'md'").replace("nstep = 20", "nstep = 7").replace("tempw = 600", "tempw = 900"),
        TEMPLATE.replace("ecutwfc = 30", "ECUTWFC=3.0d1 ! comment\n nosym = .true., nbnd = 40"),
        TEMPLATE.replace("conv_thr = 1.d-8", "conv_thr = 1.d-9, mixing_beta = 0.3"),
        TEMPLATE.replace("celldm(1) = 10.2", "A = 5.0").replace("= 0.7", "= 7.0d-1"),
        TEMPLATE.replace("3 3 3 1 1 1", "4 4 4 0 0 0"),
        TEMPLATE.replace("Fe_a 55.9", "Fe 56"),
        # the species in another order, with their numbers
        TEMPLATE.replace("Fe_a 55.9 Fe.UPF\nO    16.0 O.UPF", "O    16.0 O.UPF\nFe_a 55.9 Fe.UPF")
        .replace("starting_magnetization(1)", "starting_magnetization(2)")
        .replace("Hubbard_U(1)", "Hubbard_U(2)"),
    ]
    assert {level(text) for text in same} == {first}
    different = [
        level(TEMPLATE.replace("ecutwfc = 30", "ecutwfc = 31")),
        level(TEMPLATE.replace("degauss = 0.01", "degauss = 0.02")),
        level(TEMPLATE.replace("nspin = 2", "nspin = 1")),
        level(TEMPLATE.replace("= 0.7", "= 0.6")),
        level(TEMPLATE.replace("Hubbard_U(1) = 4.0", "Hubbard_U(1) = 5.0")),
        level(TEMPLATE.replace("ecutwfc = 30", "ecutwfc = 30, vdw_corr = 'dft-d3'")),
        level(TEMPLATE.replace("calculation = 'scf'", "tefield = .true.")),
        level(kspacing=0.25),
        level(kspacing=None),
        level(TEMPLATE.replace("3 3 3 1 1 1", "4 4 4 0 0 0"), kspacing=None),
    ]
    (inputs / "The PPs" / "O.UPF").write_text(UPF.format("O") + "other\n")
    different.append(level())
    assert len({first, *different}) == 1 + len(different)
    assert "qe-PBE+DFT-D3-" in different[5]


@pytest.mark.parametrize(
    ("command", "inner"),
    [
        ("", "pw.x -in pw.in > pw.out"),
        ("mpirun -np 4 pw.x -nk 2", "mpirun -np 4 pw.x -nk 2 -in pw.in > pw.out"),
        ("pw.x -i pw.in", "pw.x -i pw.in > pw.out"),
        ("pw.x < pw.in >pw.out", "pw.x < pw.in >pw.out"),
        ("srun -i none /opt/qe/pw.x", "srun -i none /opt/qe/pw.x -in pw.in > pw.out"),
        ("pw.x 2> said", "pw.x 2> said -in pw.in > pw.out"),
    ],
)
def test_the_users_command_is_completed(inputs, command, inner):
    (line,) = labeler(inputs).commands(command, LabelRequest("scf", iron_oxide(), StageInput(input=inputs / "pw.in"), 1))
    assert f"; {inner}; }}" in line


@pytest.mark.parametrize("command", ["pw.x -in my.in", "pw.x > my.out", "pw.x <my.in", "pw.x -in", "pw.x | tee pw.out"])
def test_other_names_are_refused(inputs, command):
    with pytest.raises(InputError, match=r"the input is called pw\.in and the output pw\.out here"):
        labeler(inputs).commands(command, LabelRequest("scf", iron_oxide(), StageInput(input=inputs / "pw.in"), 1))


@pytest.mark.parametrize(
    ("says", "status", "ends"),
    [
        ("JOB DONE.", 2, 0),  # not converged
        ("     Error in routine readpp (1):", 1, 0),
        ("cut short", 137, 137),
        ("", 9, 9),
    ],
)
def test_an_end_in_pws_own_words_counts_and_the_wave_functions_go(inputs, tmp_path, says, status, ends):
    """A stand-in program plays pw.x with its statuses."""
    program = tmp_path / "my pw.x"
    program.write_text(
        "#!/bin/sh\nmkdir -p out/label.save\necho big > out/label.save/wfc1.dat\necho xml > out/label.save/data-file-schema.xml\n"
    )
    with program.open("a") as stream:
        stream.write('printf "%s\\n" "$SAYS"\nexit "$STATUS"\n')
    program.chmod(0o755)
    (line,) = labeler(inputs).commands(f"'{program}'", LabelRequest("scf", iron_oxide(), StageInput(input=inputs / "pw.in"), 1))
    environment = {**os.environ, "SAYS": says, "STATUS": str(status)}
    assert subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, check=False).returncode == ends
    assert (tmp_path / "pw.xml").read_text() == "xml\n" and not (tmp_path / "out").exists()


BOX = " %%%%%%%%\n     Error in routine {0} (1):\n     {1}\n %%%%%%%%\n\n     stopping ...\n"


@pytest.mark.parametrize(
    ("routine", "message", "kind", "words"),
    [
        ("readpp", "file ./Si.UPF not found", Reject, "pw.x stopped in readpp: file ./Si.UPF not found"),
        ("electrons", "charge is wrong: smearing is needed", Reject, "set occupations = 'smearing'"),
        ("checkallsym", "some of the original symmetry operations not satisfied", Reject, "nosym = .true."),
        (" read_namelists", "bad line in namelist &system", Reject, "pw.x stopped in read_namelists: bad line"),
        ("davcio", "error writing file", Retry, "error writing file"),
    ],
)
def test_pws_box_of_errors_is_repeated_with_a_cure(inputs, tmp_path, routine, message, kind, words):
    (tmp_path / "pw.out").write_text(BOX.format(routine, message))
    outcome = labeler(inputs).outcome(tmp_path, "scf")
    assert isinstance(outcome, kind) and words in outcome.reason


def test_a_real_md_that_stopped_at_an_scf(tmp_path):
    """pw.x 6.7, two silicon atoms, six SCF steps allowed: enough for three structures. Numbers from its XML file and output."""
    task = tmp_path / "task"
    shutil.copytree(DATA / "qe_md_stopped", task)
    engine = QeLabeler(LabelSettings(dft_style="qe"))
    outcome = engine.outcome(task, "aimd")
    assert isinstance(outcome, Ok)
    assert outcome.note.startswith("1 of 4 frames dropped (evaluations 3): SCF not converged ('convergence NOT achieved')")
    assert outcome.note.endswith("ended early: 4 of 6 frames")
    first, _, third = engine.read(task, "aimd")
    np.testing.assert_allclose(first.atoms.positions, [[0, 0, 0], [1.3575, 1.3575, 1.3575]], atol=1e-12)
    # <step n_step="3">: etot, the first force; structure as ATOMIC_POSITIONS printed before it
    assert third.label.energy_ev == pytest.approx(-7.803345123939875 * HARTREE, abs=1e-9)
    assert third.label.forces_ev_per_ang[0, 1] == pytest.approx(-5.320020428510465e-2 * HARTREE / BOHR, abs=1e-9)
    np.testing.assert_allclose(third.atoms.positions[1], [1.2470688644, 1.2733522219, 1.2802204604], atol=2e-10)
    # "total stress", third block, row 2 column 3, in Ry/bohr³; the volume is 2.715³·2 Å³; positive under compression, no kinetic part
    assert third.label.virial_ev[1, 2] == pytest.approx(0.00129074 * HARTREE / 2 / BOHR**3 * 2 * 2.715**3, rel=1e-8)
    # the first block, row 1 column 1: each frame has its own
    assert first.label.virial_ev[0, 0] == pytest.approx(0.00022845 * HARTREE / 2 / BOHR**3 * 2 * 2.715**3, rel=1e-6)
    assert [frame.origin.step for frame in (first, third)] == [0, 2]
    # an XML file that lacks a step: which stress belongs to which structure would be a guess
    xml = (task / "pw.xml").read_text()
    (task / "pw.xml").write_text(xml.replace('<step n_step="3">', "<!--").replace("  </step>\n  <output>", "-->\n  <output>"))
    assert isinstance(engine.outcome(task, "aimd"), Retry)


def test_a_real_relaxation_ends_with_its_new_scf(tmp_path):
    """pw.x 6.7: BFGS ended at -15.65954750 Ry, the last SCF with the new cell's basis gave -15.65889606 Ry: that is the label."""
    task = tmp_path / "task"
    shutil.copytree(DATA / "qe_vc_relax", task)
    engine = QeLabeler(LabelSettings(dft_style="qe"))
    assert isinstance(engine.outcome(task, "relax"), Ok)
    (frame,) = engine.read(task, "relax")
    assert frame.label.energy_ev == pytest.approx(-7.829448028832460 * HARTREE, abs=1e-9)
    assert frame.label.energy_ev == pytest.approx(-15.65889606 * HARTREE / 2, abs=1e-6)
    assert frame.label.forces_ev_per_ang[0, 2] == pytest.approx(-6.024910964864160e-4 * HARTREE / BOHR, abs=1e-10)
    np.testing.assert_allclose(
        frame.atoms.cell.array[1], np.array([4.995152586148157, 0.3909795579467112, 5.190970037843013]) * BOHR, atol=1e-12
    )
    volume = abs(np.linalg.det(frame.atoms.cell.array))
    assert frame.label.virial_ev[0, 1] == pytest.approx(-4.100874937480442e-6 * HARTREE / BOHR**3 * volume, abs=1e-9)


def test_the_label_of_another_structure_is_none(tmp_path):
    """The output of a relaxation in the place of a single point's: its label belongs to the relaxed structure, not to the asked one."""
    engine = QeLabeler(LabelSettings(dft_style="qe"))
    shutil.copytree(DATA / "qe_vc_relax", tmp_path / "other")
    outcome = engine.outcome(tmp_path / "other", "scf")
    assert isinstance(outcome, Retry) and "not the structure that was asked for" in outcome.reason
    shutil.copytree(DATA / "qe_md_stopped", tmp_path / "md")
    assert isinstance(engine.outcome(tmp_path / "md", "aimd"), Ok)
    text = (tmp_path / "md" / "pw.in").read_text()
    assert "1.3575 1.3575 1.3575" in text
    (tmp_path / "md" / "pw.in").write_text(text.replace("1.3575 1.3575 1.3575", "1.3575 1.3575 1.3675"))
    outcome = engine.outcome(tmp_path / "md", "aimd")
    assert isinstance(outcome, Retry) and "atom 1 (from 0) is 0.01" in outcome.reason


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (("bfgs converged in", "bfgs failed after"), Reject, "relaxation not converged"),
        (("JOB DONE", "JOB"), Retry, "there is no 'JOB DONE'"),
        (("JOB DONE", "convergence NOT achieved after 50 iterations: stopping\n JOB DONE"), Reject, "SCF not converged"),
        (
            ("estimated scf accuracy    <          1.0E-12 Ry", "estimated scf accuracy    <          1.0E-06 Ry"),
            Reject,
            "accuracy 1e-06 Ry",
        ),
        (("JOB DONE", "Maximum CPU time exceeded\n JOB DONE"), Reject, "stopped at max_seconds"),
        (("   0.00002764", "   **********"), Retry, "three rows of the stress are expected"),
    ],
)
def test_faults_in_a_relaxations_output_are_seen(tmp_path, change, kind, words):
    task = tmp_path / "task"
    shutil.copytree(DATA / "qe_vc_relax", task)
    text = (task / "pw.out").read_text()
    assert change[0] in text
    (task / "pw.out").write_text(text.replace(*change))
    outcome = QeLabeler(LabelSettings(dft_style="qe")).outcome(task, "relax")
    assert isinstance(outcome, kind) and words in outcome.reason


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (("<forces", "<forses"), Retry),
        (("</qes:espresso>", ""), Retry),
        (("-7.829448028832460e0", "NaN?"), Retry),
        (('<atom name="Si" index="2">', '<ghost name="Si" index="2">'), Retry),
        (("<convergence_achieved>true", "<convergence_achieved>false"), Reject),
    ],
)
def test_faults_in_an_xml_file_are_seen(tmp_path, change, kind):
    task = tmp_path / "task"
    shutil.copytree(DATA / "qe_vc_relax", task)
    text = (task / "pw.xml").read_text()
    assert change[0] in text
    (task / "pw.xml").write_text(text.replace(*change).replace("ghost>", "atom>"))
    assert isinstance(QeLabeler(LabelSettings(dft_style="qe")).outcome(task, "relax"), kind)
    (task / "pw.xml").unlink()
    assert isinstance(QeLabeler(LabelSettings(dft_style="qe")).outcome(task, "relax"), Retry)


def test_names_of_the_engine():
    from pwact_like.config.engines_known import canonical

    assert {canonical("label", name) for name in ("QE", "pwscf", "Quantum-ESPRESSO", "espresso", "pw.x")} == {"qe"}
