"""The PWmat labeler's inputs against the rules of PWact's manual, its judgement of real and spoilt outputs. PWmat itself was never run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import stand_in_pwmat
import vasp_files
from ase import Atoms
from ase.build import bulk
from support import require_shared

from pwact_like.config.common import GaussianParam, StageInput
from pwact_like.config.input_files import settings_of
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.load import load_init_bulk, load_run
from pwact_like.data.formats import read_structure
from pwact_like.engines.labelers.atom_order import Asked, asked_of, write_asked
from pwact_like.engines.labelers.pwmat import PwmatLabeler
from pwact_like.engines.protocols import LabelRequest
from pwact_like.errors import DataError, InputError
from pwact_like.outcome import Ok, Reject, Retry


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "The inputs"
    folder.mkdir()
    for element in ("Si", "O", "Fe", "Cu", "Al"):
        (folder / f"{element}.SG15.PBE.UPF").write_text(f"<UPF> {element}\n")
    return folder


def labeler_of(folder: Path, **changes) -> PwmatLabeler:
    pseudo = sorted(folder.glob("*.UPF"))
    return PwmatLabeler(LabelSettings(**{"dft_style": "pwmat", "pseudo": pseudo, "source": folder / "param.json", **changes}))


def oxide() -> Atoms:
    """Iron first by symbol, oxygen first by number."""
    atoms = bulk("FeO", "rocksalt", a=4.3).repeat((2, 1, 1))
    atoms.rattle(0.05, seed=1)
    return atoms


def write(inputs, task, etot=vasp_files.ETOT, kind="scf", atoms=None, labeler=None, **entry):
    (inputs / "etot.input").write_text(etot)
    request = LabelRequest(kind, atoms if atoms is not None else oxide(), StageInput(input=inputs / "etot.input", **entry), 7)
    return (labeler or labeler_of(inputs)).write(task, request)


def refused(inputs, task, etot=vasp_files.ETOT, **changes) -> str:
    with pytest.raises(InputError) as caught:
        write(inputs, task, etot, **changes)
    assert all(problem.cure for problem in caught.value.problems), caught.value
    return str(caught.value)


def test_the_users_text_stays_and_ours_follows(inputs, tmp_path):
    files = write(inputs, tmp_path / "task", kspacing=0.5)
    assert (tmp_path / "task" / "etot.input").read_text().splitlines() == [
        "4 1",
        "Ecut = 50   # Ry",
        "Ecut2 = 200",
        "XCFUNCTIONAL = PBE",
        "E_error = 0",
        "Rho_error = 1E-5",
        "OUT.STRESS = T",
        "JOB = SCF",
        "IN.ATOM = atom.config",
        "IN.PSP1 = O.SG15.PBE.UPF",
        "IN.PSP2 = Fe.SG15.PBE.UPF",
        # n = round(2π·abs(b) / 0.5)
        "MP_N123 = " + " ".join(str(max(1, round(length / 0.5))) for length in lengths(oxide())) + " 0 0 0 0",
        "OUT.MLMD = T",
        "OUT.FORCE = T",
        "OUT.WG = F",
        "OUT.RHO = F",
        "OUT.VR = F",
    ]
    assert dict(files.links) == {f"{element}.SG15.PBE.UPF": str(inputs / f"{element}.SG15.PBE.UPF") for element in ("O", "Fe")}
    assert files.outputs == ("OUT.MLMD", "REPORT")
    # read back by the project's reader and by one of the tests' own
    for config in (read_structure(tmp_path / "task" / "atom.config"), stand_in_pwmat.read_config(tmp_path / "task" / "atom.config")):
        assert config.get_chemical_symbols() == ["O", "O", "Fe", "Fe"]
        np.testing.assert_allclose(config.positions, oxide().positions[[1, 3, 0, 2]], rtol=0, atol=1e-12)
        np.testing.assert_allclose(config.cell.array, oxide().cell.array, rtol=0, atol=1e-12)


def lengths(atoms: Atoms) -> list[float]:
    """Lengths of the reciprocal vectors with 2π, 1/Å."""
    return [float(2 * np.pi * np.linalg.norm(vector)) for vector in atoms.cell.reciprocal()]


def test_k_points_and_their_flag(inputs, tmp_path):
    def k_points(kind="scf", extra="", **entry) -> str:
        texts = {"scf": vasp_files.ETOT, "relax": vasp_files.ETOT_RELAX, "aimd": vasp_files.etot_aimd(5)}
        write(inputs, tmp_path / "task", texts[kind] + extra, kind, **entry)
        return settings_of(tmp_path / "task" / "etot.input")["MP_N123"]

    # silicon's cell: 2π/5.43 = 1.157 /Å: 1.157 / 0.5 = 2.3, / 0.3 = 3.86, / 3 = 0.39
    silicon = bulk("Si", a=5.43, cubic=True)
    assert k_points(atoms=silicon) == "2 2 2 0 0 0 0"
    assert k_points(atoms=silicon, kspacing=0.3) == "4 4 4 0 0 0 0"
    assert k_points(atoms=silicon, kspacing=3.0) == "1 1 1 0 0 0 0"
    assert [k_points(kind, atoms=silicon)[-1] for kind in ("scf", "relax", "aimd")] == ["0", "0", "3"]
    assert k_points("aimd", atoms=silicon, flag_symm=2)[-1] == "2"
    assert k_points("aimd", "flag_symm = 1\n", atoms=silicon)[-1] == "1"
    assert "FLAG_SYMM" not in settings_of(tmp_path / "task" / "etot.input")
    assert k_points(extra="mp_n123 = 3 3 1 0 0 0\n", atoms=silicon) == "3 3 1 0 0 0"
    assert k_points(extra="mp_n123 = 3 3 1 0 0 0\n", atoms=silicon, flag_symm=3) == "3 3 1 0 0 0 3"
    assert k_points(extra="mp_n123 = 3 3 1 0 0 0 2\n", atoms=silicon) == "3 3 1 0 0 0 2"


@pytest.mark.parametrize(
    ("extra", "entry", "words"),
    [
        ("mp_n123 = 1 1 1 0 0 0\n", {"kspacing": 0.3}, "k-points are set twice"),
        ("mp_n123 = 1 1 1 0 0 0 2\n", {"flag_symm": 3}, "its flag is 2"),
        ("flag_symm = 2\n", {"flag_symm": 3}, "FLAG_SYMM"),
        ("USE_GAUSSIAN = T\n", {}, "gaussian_param is missing"),
        ("USE_DFTB = T\n", {}, "in_skf"),
        ("LDAU_PSP3 = 2 4.0\n", {}, "which element is meant"),
        ("SPIN = 2\nMAGNETIC = Fe:5\n", {}, "no moment for O"),
        ("SPIN = 2\nMAGNETIC = 4*1\n", {}, "ELEMENT:MOMENT is wanted"),
        ("MAGNETIC = Fe:5 O:0\n", {}, "SPIN = 2"),
    ],
)
def test_settings_that_are_refused_with_a_cure(inputs, tmp_path, extra, entry, words):
    assert words in refused(inputs, tmp_path / "task", vasp_files.ETOT + extra, **entry)


def test_inputs_that_are_refused(inputs, tmp_path):
    assert "node1 and node2" in refused(inputs, tmp_path / "a", vasp_files.ETOT.removeprefix("4 1\n"))
    assert "TDDFT gives no labels" in refused(inputs, tmp_path / "b", vasp_files.ETOT.replace("= scf", "= TDDFT"))
    assert "MD_DETAIL" in refused(inputs, tmp_path / "c", kind="aimd")
    assert "needs a cell" in refused(inputs, tmp_path / "d", atoms=Atoms("FeO", [[0, 0, 0], [0, 0, 1.6]]))
    assert "no pseudopotential for Ge" in refused(inputs, tmp_path / "e", atoms=bulk("Ge"))
    (inputs / "pseudo.UPF").write_text("x")
    with pytest.raises(InputError, match="names no element"):
        labeler_of(inputs)


def test_the_job_follows_the_stage(inputs, tmp_path):
    write(inputs, tmp_path / "md", vasp_files.etot_aimd(5).replace("job = md", "job = relax"), "aimd")
    settings = settings_of(tmp_path / "md" / "etot.input")
    assert settings["JOB"] == "MD" and "OUT.MLMD" not in settings


def test_moments_and_u_follow_the_elements(inputs, tmp_path):
    text = vasp_files.ETOT.replace("IN.PSP1 = Old.UPF", "IN.PSP1 = Fe.SG15.PBE.UPF\nIN.PSP2 = Ni.UPF\nLDAU_PSP1 = 2 4.0\nLDAU_PSP2 = 2 6.0")
    write(inputs, tmp_path / "task", text + "SPIN = 2\nMAGNETIC = Fe:5 O:0.5\n")
    settings = settings_of(tmp_path / "task" / "etot.input")
    assert settings["LDAU_PSP2"] == "2 4.0" and settings["IN.PSP2"].startswith("Fe") and "LDAU_PSP1" not in settings
    assert "MAGNETIC" not in settings
    lines = (tmp_path / "task" / "atom.config").read_text().splitlines()
    assert [line.split() for line in lines[lines.index("MAGNETIC") + 1 :]] == [["8", "0.5"], ["8", "0.5"], ["26", "5"], ["26", "5"]]
    assert len(read_structure(tmp_path / "task" / "atom.config")) == 4


def test_gaussian_basis_sets_and_slater_koster_files(inputs, tmp_path):
    shared = require_shared("pwact-inputs") / "si_pwmat_bigmodel_direct" / "init_bulk_pwmat"
    gaussian = GaussianParam(
        basis_set_file=shared / "BASIS_MOLOPT_1",
        potential_file=shared / "POTENTIAL_1",
        atom_list=("Si",),
        basis_set_list=("SZV-MOLOPT-SR-GTH",),
        potential_list=("GTH-PBE-q4",),
        kspacing=0.3,
    )
    labeler = labeler_of(inputs, gaussian_param=gaussian, pseudo=())
    silicon = bulk("Si", a=5.43, cubic=True)
    files = write(inputs, tmp_path / "gauss", vasp_files.ETOT + "USE_GAUSSIAN = T 1.E-8 15.0\n", atoms=silicon, labeler=labeler)
    settings = settings_of(tmp_path / "gauss" / "etot.input")
    assert settings["IN.PSP1"] == "Si GTH-PBE-q4 POTENTIAL_1" and settings["IN.BASIS1"] == "Si SZV-MOLOPT-SR-GTH BASIS_MOLOPT_1"
    assert settings["MP_N123"] == "4 4 4 0 0 0 0"
    assert {name for name, _ in files.links} == {"BASIS_MOLOPT_1", "POTENTIAL_1"}
    assert "no basis set" in refused(inputs, tmp_path / "no", vasp_files.ETOT + "USE_GAUSSIAN = T\n", labeler=labeler)
    (inputs / "skf").mkdir()
    (inputs / "skf" / "Si-Si.skf").write_text("0.02 399\n")
    labeler = labeler_of(inputs, in_skf=inputs / "skf", pseudo=())
    files = write(inputs, tmp_path / "dftb", vasp_files.ETOT + "USE_DFTB = T\nDFTB_DETAIL = 1, 0\n", atoms=silicon, labeler=labeler)
    assert settings_of(tmp_path / "dftb" / "etot.input")["IN.SKF"] == "./in_skf/"
    assert files.links == (("in_skf", str(inputs / "skf")),)
    charges = write(inputs, tmp_path / "c", vasp_files.ETOT + "USE_DFTB = T\nDFTB_DETAIL = 3\n", labeler=labeler_of(inputs, pseudo=()))
    assert charges.links == () and "IN.SKF" not in settings_of(tmp_path / "c" / "etot.input")


def test_the_level_of_theory_follows_what_decides_energies(inputs):
    def level(etot=vasp_files.ETOT, labeler=None, **entry) -> str:
        (inputs / "etot.input").write_text(etot)
        return (labeler or labeler_of(inputs)).level_of_theory(StageInput(input=inputs / "etot.input", **entry))

    base = level()
    assert base.startswith("pwmat-PBE-")
    for same in (vasp_files.ETOT_RELAX, vasp_files.etot_aimd(9), vasp_files.ETOT.replace("Ecut = 50", "ECUT=50") + "OUT.RHO = T\n"):
        assert level(same) == base
    assert level(kspacing=0.5) == base and level(vasp_files.ETOT + "IN.SOLVENT = F\nIN.WG = T\n") == base
    plus_u = "LDAU = T\n{}LDAU_PSP{} = 2 5.0\n"
    iron, oxygen = vasp_files.ETOT.replace("IN.PSP1 = Old.UPF\n", ""), "IN.PSP1 = Fe.UPF\nIN.PSP2 = O.UPF\n"
    of_iron = level(iron + plus_u.format(oxygen, 1))
    assert level(iron + plus_u.format("IN.PSP1 = O.UPF\nIN.PSP2 = Fe.UPF\n", 2)) == of_iron
    smeared = vasp_files.ETOT + "scf_iter0_1 = 6 4 3 0.0 0.025 2\nscf_iter0_2 = 94 4 3 1.0 0.{} 2\n"
    others = [
        level(vasp_files.ETOT.replace("Ecut = 50", "Ecut = 60")),
        level(vasp_files.ETOT + "VDW = DFT-D3\n"),
        level(kspacing=0.3),
        level(vasp_files.ETOT + "mp_n123 = 2 2 2 0 0 0\n"),
        level(smeared.format("025")),
        level(smeared.format("2")),
        level(vasp_files.ETOT + "IN.A_FIELD = T 0 0 0.1\n"),
        level(vasp_files.ETOT + "MAGNETIC = Si:1\n"),
        of_iron,
        level(iron + plus_u.format(oxygen, 2)),
    ]
    assert len({base, *others}) == len(others) + 1
    (inputs / "Si.SG15.PBE.UPF").write_text("<UPF> another\n")
    assert level() != base


@pytest.mark.parametrize(
    ("param", "count"),
    [
        ("auag_pwmat/run_iter_lmps/param.json", 60),
        ("si_pwmat_bigmodel_direct/run_iter_direct_pwmat/param.json", 11),
        ("si_pwmat_bigmodel_direct/init_bulk_pwmat/init_param.json", 1),
    ],
)
def test_the_single_points_of_pwacts_own_pairs(tmp_path, param, count):
    """Those of pairs whose other stages another engine may stop."""
    path = require_shared(f"pwact-inputs/{param}")
    if path.name == "param.json":
        settings = load_run(path, None, path.parent).param
        labelling, entry = settings.dft.labelling, settings.dft.entry
        files = [(file, config.format) for config in settings.explore.sys_configs for file in config.files]
    else:
        bulk_settings = load_init_bulk(path, None, path.parent).param
        labelling, entry = bulk_settings.labelling, bulk_settings.scf_input[0]
        files = [(system.file, system.format) for system in bulk_settings.sys_configs if system.scf]
    assert len(files) == count
    labeler = PwmatLabeler(labelling)
    for number, (file, format_name) in enumerate(files):
        atoms = read_structure(file, format_name)
        request = LabelRequest("scf", atoms, entry, 1)
        task = tmp_path / str(number)
        files_of_task = labeler.write(task, request)
        rendered = settings_of(task / "etot.input")
        counts = [max(1, round(length / (entry.kspacing or 0.5))) for length in lengths(atoms)]
        assert rendered["MP_N123"] == f"{counts[0]} {counts[1]} {counts[2]} 0 0 0 0"
        assert (rendered["JOB"], rendered["OUT.MLMD"], rendered["OUT.FORCE"], rendered["ENERGY_DECOMP"]) == ("SCF", "T", "T", "T, 1")
        written = read_structure(task / "atom.config")
        back = asked_of(atoms, "number").order
        np.testing.assert_allclose(written.positions, atoms.positions[back], atol=1e-9)
        pseudo = [f"{element}.SG15.PBE.UPF" for element in dict.fromkeys(written.get_chemical_symbols())]
        assert [rendered[f"IN.PSP{number + 1}"] for number in range(len(pseudo))] == pseudo
        assert all(Path(target).is_file() for _, target in files_of_task.links)


# outputs


def metal() -> Atoms:
    """What EMT knows: copper and aluminium in turn."""
    a = 3.9
    atoms = Atoms("CuAlCuAl", [[0, 0, 0], [0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]], cell=[a, a, a], pbc=True)
    atoms.rattle(0.05, seed=2)
    return atoms


def ran(inputs, task, kind="scf", etot=vasp_files.ETOT) -> PwmatLabeler:
    """A task's folder after the stand-in has run in it."""
    files = write(inputs, task, etot, kind, atoms=metal())
    for name, target in files.links:
        (task / name).symlink_to(target)
    assert stand_in_pwmat.main(task) == 0
    return labeler_of(inputs)


def test_spoilt_outputs_are_never_labels(inputs, tmp_path):
    labeler = ran(inputs, tmp_path / "task")
    assert labeler.outcome(tmp_path / "task", "scf") == Ok()

    def judged(change) -> object:
        folder = tmp_path / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "task", folder, symlinks=True)
        change(folder)
        outcome = labeler.outcome(folder, "scf")
        assert not isinstance(outcome, Ok)
        with pytest.raises(DataError):
            labeler.read(folder, "scf")
        return outcome

    unconverged = judged(lambda folder: (folder / "REPORT").write_text(vasp_files.REPORT.format(reason=vasp_files.UNCONVERGED)))
    assert isinstance(unconverged, Reject) and "ending_scf_reason = niter reached" in unconverged.reason
    endings = f" ending_scf_reason = {vasp_files.CONVERGED}\n ending_scf_reason = {vasp_files.UNCONVERGED}\n"
    last = judged(lambda folder: (folder / "REPORT").write_text(endings))
    assert isinstance(last, Reject) and "1 of 2 SCFs not converged" in last.reason
    killed = judged(lambda folder: (folder / "REPORT").write_text(" iter=   1   ave_lin=  1.0\n"))
    assert isinstance(killed, Retry) and "no 'ending_scf_reason'" in killed.reason
    assert isinstance(judged(lambda folder: (folder / "REPORT").unlink()), Retry)
    assert isinstance(judged(lambda folder: (folder / "OUT.MLMD").unlink()), Retry)
    text = (tmp_path / "task" / "OUT.MLMD").read_text()
    truncated = judged(lambda folder: (folder / "OUT.MLMD").write_text(text[:-100]))
    assert isinstance(truncated, Retry) and "ends too early" in truncated.reason
    force = text.split("-force")[1].splitlines()[1].split()[1]
    nan = judged(lambda folder: (folder / "OUT.MLMD").write_text(text.replace(force, "NaN")))
    assert isinstance(nan, Reject) and "not finite" in nan.reason
    twice = judged(lambda folder: (folder / "OUT.MLMD").write_text(text * 2))
    assert isinstance(twice, Reject) and "one frame is expected, 2" in twice.reason
    turned = judged(lambda folder: (folder / "OUT.MLMD").write_text(text.replace("\n  13 ", "\n  28 ")))
    assert isinstance(turned, Reject) and "Ni2 Cu2" in turned.reason and "Al2 Cu2 were asked" in turned.reason


def test_md_drops_frames_that_did_not_converge(inputs, tmp_path):
    labeler = ran(inputs, tmp_path, "aimd", vasp_files.etot_aimd(6))
    assert labeler.outcome(tmp_path, "aimd") == Ok()
    endings = [vasp_files.CONVERGED] * 6
    endings[2] = vasp_files.UNCONVERGED
    (tmp_path / "REPORT").write_text("".join(f" ending_scf_reason = {text}\n" for text in endings))
    outcome = labeler.outcome(tmp_path, "aimd")
    assert isinstance(outcome, Ok) and "1 of 6 frames dropped (frames 2)" in outcome.note
    frames = labeler.read(tmp_path, "aimd")
    assert [frame.origin.step for frame in frames] == [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(frames[0].atoms.positions, metal().positions)
    # one SCF more than frames: whose it is cannot be told
    (tmp_path / "REPORT").write_text("".join(f" ending_scf_reason = {text}\n" for text in [*endings, vasp_files.CONVERGED]))
    outcome = labeler.outcome(tmp_path, "aimd")
    assert isinstance(outcome, Reject) and "cannot be told" in outcome.reason
    (tmp_path / "REPORT").write_text(f" ending_scf_reason = {vasp_files.CONVERGED}\n" * 7)
    assert labeler.outcome(tmp_path, "aimd") == Ok()


def test_a_relaxation_must_have_small_forces(inputs, tmp_path):
    labeler = ran(inputs, tmp_path, "relax", vasp_files.ETOT_RELAX)
    assert labeler.outcome(tmp_path, "relax") == Ok()
    (frame,) = labeler.read(tmp_path, "relax")
    assert np.abs(frame.label.forces_ev_per_ang).max() < 0.01 and list(frame.atoms.numbers) == list(metal().numbers)
    etot = tmp_path / "etot.input"
    etot.write_text(etot.read_text().replace("60 0.01", "60 0.00001"))
    outcome = labeler.outcome(tmp_path, "relax")
    assert isinstance(outcome, Reject) and "relaxation not converged" in outcome.reason and "1e-05 wanted" in outcome.reason


def test_the_real_outputs(inputs, tmp_path):
    """OUT.MLMD: Ep in its first line; MOVEMENT: the blocks of its first and last frame, negated."""
    sample = require_shared("OUT.MLMD")
    structure = read_structure(sample)
    write_asked(tmp_path, Asked(structure, np.arange(len(structure))))
    shutil.copy(sample, tmp_path / "OUT.MLMD")
    (tmp_path / "etot.input").write_text(vasp_files.ETOT)
    (tmp_path / "REPORT").write_text(vasp_files.REPORT.format(reason=vasp_files.CONVERGED))
    labeler = labeler_of(inputs)
    assert labeler.outcome(tmp_path, "scf") == Ok()
    (frame,) = labeler.read(tmp_path, "scf")
    assert frame.label.energy_ev == -846.3607047 and frame.label.virial_ev is None

    movement = require_shared("LiSi_50.MOVEMENT")
    lines = movement.read_text().splitlines()
    shutil.copy(movement, tmp_path / "MOVEMENT")
    assert lines[5].startswith(" Position")
    numbers = [int(line.split()[0]) for line in lines[6:82]]
    first = Atoms(numbers=numbers, positions=np.zeros((76, 3)), cell=np.diag([10.6, 10.9, 10.6]), pbc=True)
    write_asked(tmp_path, asked_of(first, "number"))
    (tmp_path / "etot.input").write_text(vasp_files.etot_aimd(50))
    (tmp_path / "REPORT").write_text(f" ending_scf_reason = {vasp_files.CONVERGED}\n" * 50)
    assert labeler.outcome(tmp_path, "aimd") == Ok()
    frames = labeler.read(tmp_path, "aimd")
    assert len(frames) == 50 and frames[0].label.energy_ev == -13354.74369
    assert frames[0].label.virial_ev[0].tolist() == [-15.4940, 5.35866, 7.06282]
    forces = next(place for place, line in enumerate(lines) if line.startswith(" Force"))
    assert frames[0].label.forces_ev_per_ang[5].tolist() == [-float(word) for word in lines[forces + 6].split()[1:4]]
