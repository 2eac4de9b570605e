"""`pwact-like check`: structures, data, input files, and PWact's own pairs."""

import json
import os
from importlib import metadata

import pytest
import vasp_files
from config_files import POSCAR_SI, XYZ_SI, bulk_files, changed, run_files, write
from support import ROOT

from pwact_like.cli.check import probes
from pwact_like.cli.main import main
from pwact_like.config.engines_known import unavailable
from pwact_like.config.inline import ENGINE_OPTIONS, STAGE_OPTIONS
from pwact_like.config.load import kind_of, load_init_bulk, load_run
from pwact_like.errors import InputError

SHARED = ROOT.parent / "shared" / "data" / "pwact-inputs"


def examine(folder, settings, load=load_run, resource=None):
    file = write(folder, "resource.json", resource) if resource is not None else None
    return load(write(folder, "param.json", settings), file, folder, probes=probes())


def problems(folder, settings, load=load_run):
    with pytest.raises(InputError) as caught:
        examine(folder, settings, load)
    return {problem.where.partition("param.json: ")[2]: f"{problem.what} | {problem.cure}" for problem in caught.value.problems}


def poscar(symbols, counts):
    """A cubic cell with the atoms in a row."""
    total = sum(counts)
    rows = "".join(f"{index / total} 0.1 0.2\n" for index in range(total))
    return f"row\n1.0\n20 0 0\n0 9 0\n0 0 9\n{' '.join(symbols)}\n{' '.join(map(str, counts))}\nDirect\n{rows}"


def test_good_settings(tmp_path, capsys, monkeypatch):
    write(tmp_path, "param.json", run_files(tmp_path))
    write(tmp_path, "resource.json", {"train": {"command": "pwact-like"}})
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["check", "param.json", "resource.json"]) == 0
    out = capsys.readouterr().out
    assert "ok: settings of run" in out and "1 entries of md_jobs with 1 trajectories" in out and "note: param.json: train.optimizer" in out
    assert sorted(tmp_path.rglob("*")) == before
    write(tmp_path, "init_param.json", bulk_files(tmp_path))
    assert main(["CHECK", "init_param.json"]) == 0
    assert "ok: settings of init_bulk" in capsys.readouterr().out


def test_models_to_begin_with_are_looked_into(tmp_path, capsys):
    """A file that is no model was found when the campaign had begun."""
    settings = run_files(tmp_path) | {"init_model_list": ["a.pt", "b.pt", "c.pt", "d.pt"]}
    for name in settings["init_model_list"]:
        (tmp_path / name).write_text("no model")
    param = write(tmp_path, "param.json", settings)
    assert main(["check", str(param), "--work-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'a.pt'}: not a whole file of pwact-like train" in said and str(tmp_path / "d.pt") in said
    (tmp_path / "b.pt").unlink()
    assert main(["check", str(param), "--work-dir", str(tmp_path)]) == 2
    assert "init_model_list[1]" in capsys.readouterr().err


def test_problems_are_numbered_and_nothing_is_written(tmp_path, capsys):
    settings = changed(run_files(tmp_path), "strategy.model_num", 1)
    write(tmp_path, "param.json", changed(settings, "init_data", ["gone.xyz"]))
    before = sorted(tmp_path.rglob("*"))
    assert main(["check", str(tmp_path / "param.json"), "--work-dir", str(tmp_path)]) == 2
    caught = capsys.readouterr()
    assert "1. " in caught.err and "2. " in caught.err and "init_data[0]" in caught.err and not caught.out
    assert sorted(tmp_path.rglob("*")) == before


def test_lenient(tmp_path, capsys):
    write(tmp_path, "param.json", changed(run_files(tmp_path), "strategy.max_selct", 1))
    arguments = ["check", str(tmp_path / "param.json"), "--work-dir", str(tmp_path)]
    assert main(arguments) == 2
    assert "did you mean 'max_select'?" in capsys.readouterr().err
    assert main([*arguments, "--lenient"]) == 0
    assert "max_selct" in capsys.readouterr().out


def test_the_counts_of_trajectories(tmp_path, capsys):
    settings = run_files(tmp_path)
    (tmp_path / "many").mkdir()
    for number in range(3):
        (tmp_path / "many" / f"{number}.poscar").write_text(POSCAR_SI)
    settings["explore"] = {
        "sys_configs": ["Si.poscar", "many/*.poscar"],
        "md_jobs": [
            [
                {"sys_idx": [0, 1], "nsteps": 10, "temps": [1, 2], "press": [1, 2, 3], "ensemble": "npt"},
                {"sys_idx": 1, "nsteps": 10, "temps": 300, "press": [1, 2], "ensemble": "nvt"},
            ],
            {"sys_idx": 0, "nsteps": 10, "temps": 300},
        ],
    }
    write(tmp_path, "param.json", settings)
    assert main(["check", str(tmp_path / "param.json"), "--work-dir", str(tmp_path)]) == 0
    # (1 + 3 structures) × 2 temperatures × 3 pressures + 3 structures × 1 temperature; then one
    assert "2 entries of md_jobs with 27, 1 trajectories" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"uncertainty": "kpu"}, "levels from each training's calibration"),
        ({"uncertainty": "kpu", "kpu_lower": 0.1, "kpu_upper": 0.4}, "levels 0.1 to 0.4 eV/Å"),
        ({"uncertainty": "kpu", "kpu_lower": 0.1}, "levels lower 0.1 eV/Å, upper from it"),
        ({"uncertainty": "kpu", "kpu_upper": 0.4}, "levels upper 0.4 eV/Å, lower from each training's calibration"),
        ({"uncertainty": "kpu", "kpu_scale": "relative"}, "levels 0.5 times the KPU of each run's first frames, and 1.5 times that"),
        ({"uncertainty": "kpu-committee"}, "1 model and 4 members drawn from it (laplace)"),
    ],
)
def test_which_levels_hold(tmp_path, capsys, strategy, words):
    write(tmp_path, "param.json", changed(run_files(tmp_path), "strategy", strategy))
    assert main(["check", str(tmp_path / "param.json"), "--work-dir", str(tmp_path)]) == 0
    assert words in capsys.readouterr().out


def test_an_unreadable_structure_is_named(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "broken.poscar").write_text(POSCAR_SI[:60])
    found = problems(
        tmp_path, changed(settings, "explore.sys_configs", ["Si.poscar", {"config": "broken.poscar", "format": "vasp/poscar"}])
    )
    assert list(found) == ["explore.sys_configs[1]"] and "broken.poscar" in found["explore.sys_configs[1]"]
    found = problems(tmp_path, changed(bulk_files(tmp_path), "sys_configs.0.config", "broken.poscar"), load_init_bulk)
    assert list(found) == ["sys_configs[0].config"]


def test_structures_are_looked_into_even_when_other_keys_are_wrong(tmp_path):
    (tmp_path / "Ge.poscar").write_text(poscar(["Ge"], [8]))
    settings = changed(run_files(tmp_path), "explore.sys_configs", ["Ge.poscar"])
    found = problems(tmp_path, changed(settings, "strategy.model_num", 1))
    assert set(found) == {"strategy", "explore.sys_configs[0]"} and "atom_type" in found["explore.sys_configs[0]"]


def test_data_with_an_element_that_the_model_lacks(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "init.xyz").write_text(XYZ_SI.replace("Si 0.00 0.00 0.00", "Ge 0.00 0.00 0.00"))
    assert "Ge" in problems(tmp_path, settings)["init_data"]
    (tmp_path / "init.xyz").write_text(XYZ_SI[: len(XYZ_SI) // 2])
    assert "init.xyz" in problems(tmp_path, settings)["init_data"]


def test_tblite_takes_one_size(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "big.poscar").write_text(poscar(["Si"], [16]))
    (tmp_path / "small.poscar").write_text(poscar(["Si"], [8]))
    mixed = changed(settings, "explore.sys_configs", ["Si.poscar", "big.poscar"])
    found = problems(tmp_path, mixed)
    assert list(found) == ["DFT.dft_style"] and "8 atoms" in found["DFT.dft_style"] and "16 atoms in big.poscar" in found["DFT.dft_style"]
    assert examine(tmp_path, changed(mixed, "DFT", {"dft_style": "ase", "calculator": "emt"})).param
    data_differs = changed(settings, "explore.sys_configs", ["big.poscar"])
    assert "init_data" in problems(tmp_path, data_differs)["DFT.dft_style"]
    assert examine(tmp_path, changed(data_differs, "strategy.allow_mixed_theory", True)).param
    loaded = examine(tmp_path, changed(settings, "explore.sys_configs", ["Si.poscar", "small.poscar"]))
    assert any("differ in shape" in note for note in loaded.notes)


def test_tblite_takes_one_supercell_in_init_bulk(tmp_path):
    settings = bulk_files(tmp_path)
    systems = [{"config": "Si.poscar", "aimd": True}, {"config": "Si.poscar", "super_cell": [2, 1, 1], "aimd": True}]
    assert "16 atoms" in problems(tmp_path, changed(settings, "sys_configs", systems), load_init_bulk)["dft_style"]
    systems[1]["aimd"] = False  # then it is not labelled
    assert examine(tmp_path, changed(settings, "sys_configs", systems), load_init_bulk).param


def test_an_element_without_pseudopotential(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "AuAg.poscar").write_text(poscar(["Au", "Ag"], [4, 4]))
    (tmp_path / "scf.input").write_text("4 1\njob = scf\n")
    for name in ("Au.SG15.PBE.UPF", "Ag.SG15.PBE.UPF", "pseudo.UPF"):
        (tmp_path / name).write_text("<UPF>")
    (tmp_path / "init.xyz").write_text(XYZ_SI.replace("Si ", "Ag "))
    settings["explore"]["sys_configs"] = ["AuAg.poscar"]
    settings["train"]["atom_type"] = [47, 79]
    settings["DFT"] = {"dft_style": "pwmat", "input": "scf.input", "pseudo": ["Au.SG15.PBE.UPF", "Ag.SG15.PBE.UPF"]}
    assert examine(tmp_path, settings).param
    found = problems(tmp_path, changed(settings, "DFT.pseudo", "Au.SG15.PBE.UPF"))
    assert list(found) == ["DFT.pseudo"] and "no pseudopotential for Ag of AuAg.poscar" in found["DFT.pseudo"]
    with pytest.raises(InputError, match=r"pseudo\.UPF names no element"):
        examine(tmp_path, changed(settings, "DFT.pseudo.0", "pseudo.UPF"))
    with pytest.raises(InputError, match="two pseudopotentials for Ag"):
        examine(tmp_path, changed(settings, "DFT.pseudo.0", "Ag.SG15.PBE.UPF"))
    # DFTB has Slater–Koster files instead
    (tmp_path / "scf.input").write_text("4 1\njob = scf\nUSE_DFTB = T\nDFTB_DETAIL = 1, 0\n")
    dftb = changed(settings, "DFT.pseudo")
    assert "in_skf" in problems(tmp_path, dftb)["DFT.input"]
    (tmp_path / "skf").mkdir()
    assert examine(tmp_path, changed(dftb, "DFT.in_skf", "skf")).param
    (tmp_path / "scf.input").write_text("4 1\njob = scf\nUSE_DFTB = T\nDFTB_DETAIL = 3, 0\n")
    assert examine(tmp_path, dftb).param


def test_potcars_name_their_element_in_the_first_line(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "INCAR").write_text("ENCUT = 300\nLWAVE = .FALSE.\nLCHARG = F\n")
    (tmp_path / "POTCAR_a").write_text("  PAW_PBE Si_GW 05Jan2001\n")
    (tmp_path / "POTCAR_b").write_text("  PAW_PBE Ge_d 05Jan2001\n")
    settings["DFT"] = {"dft_style": "VASP", "input": "INCAR", "pseudo": ["POTCAR_a"], "kspacing": 0.3}
    assert examine(tmp_path, settings).param
    assert "for Si" in problems(tmp_path, changed(settings, "DFT.pseudo", "POTCAR_b"))["DFT.pseudo"]
    (tmp_path / "POTCAR_b").write_text("\n")
    assert "names no element" in problems(tmp_path, changed(settings, "DFT.pseudo", ["POTCAR_a", "POTCAR_b"]))["DFT.pseudo"]


def test_gaussian_basis_sets_for_every_element(tmp_path):
    settings = run_files(tmp_path)
    for name in ("cp2k.inp", "BASIS", "POT"):
        (tmp_path / name).write_text("x")
    gaussian = {"basis_set_file": "BASIS", "potential_file": "POT", "atom_list": ["Si"], "basis_set_list": ["A"], "potential_list": ["B"]}
    settings["DFT"] = {"dft_style": "cp2k", "input": "cp2k.inp", "gaussian_param": gaussian}
    assert examine(tmp_path, settings).param
    found = problems(tmp_path, changed(settings, "DFT.gaussian_param.atom_list", ["Ge"]))
    assert "Si" in next(iter(found.values()))


def test_traps_of_vasp(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "INCAR").write_text("NSW = 100 ! steps\n IBRION = 2; LCHARG = .FALSE.\n# LWAVE = F\nMAGMOM = 8*1\nKSPACING = 0.2\n")
    (tmp_path / "POTCAR").write_text("PAW_PBE Si 05Jan2001\n")
    settings["DFT"] = {"dft_style": "vasp", "input": "INCAR", "pseudo": "POTCAR", "kspacing": 0.3}
    notes = "\n".join(examine(tmp_path, settings).notes)
    for words in ("NSW = 100 and IBRION = 2", "LWAVE not .FALSE.", "MAGMOM", "the kspacing 0.3 has no effect"):
        assert words in notes
    (tmp_path / "INCAR").write_text("NSW = 0\nIBRION = -1\nLWAVE = .F.\nLCHARG = .false.\nEDIFF = 1E-6\n")
    assert not any("INCAR" in note for note in examine(tmp_path, settings).notes)
    (tmp_path / "INCAR").write_text("LWAVE = F\nLCHARG = F\nISPIN = 2\n")
    notes = "\n".join(examine(tmp_path, changed(settings, "DFT.kspacing")).notes)
    assert "ISPIN = 2 and no MAGMOM" in notes and "neither kspacing nor KSPACING" in notes
    (tmp_path / "INCAR").write_text("LWAVE = F\nLCHARG = F\nISPIN = 2\nMAGMOM = Si:1\nEDIFF = 1d-5\n")
    assert not any("INCAR" in note for note in examine(tmp_path, settings).notes)  # by element: nothing to say


def test_labels_without_a_virial_are_announced(tmp_path):
    settings = bulk_files(tmp_path) | {"dft_style": "vasp", "pseudo": "POTCAR", "aimd_input": {"input": "INCAR", "kspacing": 0.3}}
    (tmp_path / "POTCAR").write_text(vasp_files.potcar("Si"))
    for text, told in ((vasp_files.aimd(5), False), (vasp_files.aimd(5).replace("ISIF = 2\n", ""), True)):
        (tmp_path / "INCAR").write_text(text)
        notes = examine(tmp_path, settings, load_init_bulk).notes
        assert any("the labels have no virial" in note for note in notes) == told
    settings |= {"dft_style": "pwmat", "pseudo": "Si.UPF", "aimd_input": {"input": "etot.input", "kspacing": 0.3}}
    (tmp_path / "Si.UPF").write_text("x")
    for text, told in ((vasp_files.etot_aimd(5), False), (vasp_files.etot_aimd(5).replace("OUT.STRESS = T\n", ""), True)):
        (tmp_path / "etot.input").write_text(text)
        notes = examine(tmp_path, settings, load_init_bulk).notes
        assert any("the labels have no virial" in note for note in notes) == told


VASP, QE = "LWAVE = F; LCHARG = F\n", "&electrons\n"


@pytest.mark.parametrize(
    ("engine", "text", "told"),
    [
        ("vasp", VASP, "no EDIFF: VASP's default of 1e-4 eV"),
        ("vasp", f"{VASP}EDIFF = 1E-3 ! quick\n", "label.input has EDIFF = 0.001 eV"),
        ("vasp", f"{VASP}EDIFF = 1.0d-3\n", "set EDIFF = 1E-6"),
        ("vasp", f"{VASP}EDIFF = 1E-4\n", ""),
        ("vasp", f"{VASP}EDIFF = 1E-6\nISMEAR = -5\n", "ISMEAR = -5: with Blöchl's tetrahedra"),
        ("vasp", f"{VASP}EDIFF = 1E-6\nISMEAR = 0\n", ""),
        ("qe", f"{QE} mixing_beta = 0.3, conv_thr = 1.0d-4\n/\n", "label.input has conv_thr = 0.0001 Ry"),
        ("qe", f"{QE} conv_thr=1e-5 ! 1e-9\n/\n", "set conv_thr = 1e-08 or less"),
        ("qe", f"{QE} conv_thr = 1.d-6, ! conv_thr = 1.0\n/\n&control\n etot_conv_thr = 1e-3, forc_conv_thr=1e-2\n/", ""),
        ("qe", f"{QE}/\n", ""),  # pw.x's default is 1e-6
        ("cp2k", "&SCF\n  eps_scf 1.0E-4\n&END\n", "label.input has EPS_SCF = 0.0001:"),
        ("cp2k", "&SCF\n EPS_SCF 1.0E-4\n &OUTER_SCF\n  EPS_SCF 1E-6\n &END\n&END\n", ""),
        ("cp2k", "&SCF\n EPS_SCF 1E-5\n # EPS_SCF 1.0\n EPS_SCF_HISTORY 1.0\n&END\n", ""),
        ("cp2k", "&SCF\n EPS_SCF $EPS\n&END\n", ""),
    ],
)
def test_loose_electronic_thresholds_are_announced(tmp_path, engine, text, told):
    settings = run_files(tmp_path)
    (tmp_path / "Si.UPF").write_text('<PP_HEADER element="Si" functional="PBE"/>')
    (tmp_path / "POTCAR").write_text(vasp_files.potcar("Si"))
    (tmp_path / "label.input").write_text(text)
    pseudo = {} if engine == "cp2k" else {"pseudo": "POTCAR" if engine == "vasp" else "Si.UPF"}
    settings["DFT"] = {"dft_style": engine, "input": "label.input", "kspacing": 0.3} | pseudo
    notes = [note for note in examine(tmp_path, settings).notes if "label.input" in note]
    if told:
        assert any(told in note for note in notes)
    else:
        assert notes == []


@pytest.mark.parametrize(("engine", "card"), [("qe", "  k_points automatic\n2 2 2 1 1 1\n"), ("dftb", "KPointsAndWeights = { }\n")])
def test_k_points_that_a_kspacing_replaces_are_announced(tmp_path, engine, card):
    settings = run_files(tmp_path)
    (tmp_path / "Si.UPF").write_text('<PP_HEADER element="Si" functional="PBE"/>')
    (tmp_path / "label.input").write_text(f"! a comment\n{card}")
    for entry, told in (({"kspacing": 0.3}, True), ({}, False)):
        settings["DFT"] = {"dft_style": engine, "input": "label.input", "pseudo": "Si.UPF", "in_skf": str(tmp_path)} | entry
        notes = " ".join(examine(tmp_path, settings).notes)
        assert ("has no effect: the kspacing 0.3 holds" in notes) == told


def test_k_points_set_twice_for_pwmat(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "scf.input").write_text("4 1\njob = scf\nmp_n123 = 1 1 1 0 0 0\n")
    (tmp_path / "Si.UPF").write_text("x")
    settings["DFT"] = {"dft_style": "pwmat", "input": "scf.input", "pseudo": "Si.UPF", "kspacing": 0.3}
    assert "MP_N123" in problems(tmp_path, settings)["DFT.input"]
    assert examine(tmp_path, changed(settings, "DFT.kspacing")).param


def test_the_sign_of_the_virial_is_watched(tmp_path):
    settings = run_files(tmp_path)
    frames = []
    for number in range(12):
        edge = 5.2 + 0.04 * number
        trace = (edge - 5.4) * 50  # rises with the volume: the wrong sign
        lines = XYZ_SI.splitlines()
        lines[1] = (
            lines[1].replace("5.43 0 0 0 5.43 0 0 0 5.43", f"{edge} 0 0 0 {edge} 0 0 0 {edge}")
            + f' virial="{trace} 0 0 0 {trace} 0 0 0 {trace}"'
        )
        frames.append("\n".join(lines) + "\n")
    (tmp_path / "init.xyz").write_text("".join(frames))
    assert any("trace rises" in note for note in examine(tmp_path, settings).notes)
    flipped = changed(settings, "init_data", [{"path": "init.xyz", "virial_sign": -1}])
    assert not any("trace rises" in note for note in examine(tmp_path, flipped).notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DFT": {"dft_style": "xtb", "method": "GFN9"}}, ["'GFN9' is none of"]),
        ({"DFT": {"dft_style": "ase", "calculator": "emt"}}, ["EMT has no parameters for Si"]),
        ({"DFT": {"dft_style": "ase"}}, ["calculator is missing"]),
        ({"DFT": {"dft_style": "xtb", "accuracy": -1, "max_iterations": 0.5}}, ["accuracy", "max_iterations"]),
    ],
)
def test_the_labelling_engine_is_tried(tmp_path, capsys, changes, words):
    """What an engine refuses is told before a campaign is begun, and its trial leaves nothing behind."""
    write(tmp_path, "param.json", {**run_files(tmp_path), **changes})
    before = sorted(tmp_path.rglob("*"))
    assert main(["check", str(tmp_path / "param.json"), "--work-dir", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words), err
    assert "pwact_like_check_" not in err and sorted(tmp_path.rglob("*")) == before


def test_every_stage_of_init_bulk_is_tried(tmp_path, capsys):
    settings = bulk_files(tmp_path)
    settings["sys_configs"][0]["relax"] = True
    settings |= {"relax_input": {"fmax": -1}, "aimd_input": {"temperature_k": 300}}
    write(tmp_path, "param.json", settings)
    assert main(["check", str(tmp_path / "param.json"), "--work-dir", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "fmax" in err and "nsteps is missing" in err


def test_the_structure_that_is_tried_is_the_supercell(tmp_path, capsys):
    """A list that fits the supercell was refused for the cell of the file."""
    settings = bulk_files(tmp_path)
    (tmp_path / "INCAR").write_text(vasp_files.aimd(5) + "ISPIN = 2\nMAGMOM = 16*1\n")
    vasp_files.write_potcars(tmp_path, Si=245.3)
    settings["sys_configs"][0] |= {"super_cell": [1, 1, 2]}
    settings |= {"dft_style": "vasp", "pseudo": "POTCAR_Si", "aimd_input": {"input": "INCAR", "kspacing": 0.3}}
    write(tmp_path, "param.json", settings)
    assert main(["check", str(tmp_path / "param.json"), "--work-dir", str(tmp_path)]) == 0
    settings["sys_configs"][0] |= {"super_cell": [1, 1, 1]}
    write(tmp_path, "param.json", settings)
    assert main(["check", str(tmp_path / "param.json"), "--work-dir", str(tmp_path)]) == 2
    assert "16 values, and the structure of 8 atoms needs 8" in capsys.readouterr().err


def test_an_engine_of_another_package(tmp_path, monkeypatch):
    monkeypatch.setattr(
        metadata, "entry_points", lambda **wanted: [object()] if wanted == {"group": "pwact_like.engines", "name": "labeler.mine"} else []
    )
    settings = changed(run_files(tmp_path), "DFT", {"dft_style": "Mine", "options": {"Anything": [1]}})
    loaded = examine(tmp_path, settings)
    assert loaded.param.dft.labelling.engine == "mine" and loaded.param.dft.labelling.options == {"anything": [1]}
    assert not unavailable(loaded)
    assert "DFT.dft_style" in problems(tmp_path, changed(settings, "DFT.dft_style", "yours"))


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    settings = run_files(tmp_path)
    (tmp_path / "cp2k.inp").write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root everything is readable
    assert "permission" in problems(tmp_path, changed(settings, "DFT", {"dft_style": "cp2k", "input": "cp2k.inp"}))["DFT.input"]


def test_inline_names_are_those_of_the_engines():
    from pwact_like.engines.labelers import options
    from pwact_like.engines.labelers.ase_calculator import AseLabeler
    from pwact_like.engines.labelers.bigmodel import BigModelLabeler
    from pwact_like.engines.labelers.tblite import XtbLabeler

    def names(table):
        return {name for key, option in table.items() for name in (key, *option.aliases)}

    assert {stage: names(table) for stage, table in options.STAGE_OPTIONS.items()} == STAGE_OPTIONS
    tables = {"xtb": XtbLabeler.engine_table, "ase": AseLabeler.engine_table, "bigmodel": BigModelLabeler.engine_table}
    assert {engine: names(table) for engine, table in tables.items()} == ENGINE_OPTIONS


@pytest.mark.parametrize("name", ["param.json", "init_param.json"])
def test_the_templates_are_good(tmp_path, name):
    (tmp_path / "structures").mkdir()
    (tmp_path / "structures" / "my_structure.vasp").write_text(POSCAR_SI)
    (tmp_path / "collection" / "init_config_0").mkdir(parents=True)
    (tmp_path / "collection" / "init_config_0" / "train.xyz").write_text(XYZ_SI)
    template = ROOT / "templates" / name
    load = load_run if kind_of(template) == "run" else load_init_bulk
    loaded = load(template, ROOT / "templates" / "resource.json", tmp_path, probes=probes())
    assert loaded.notes == ()


@pytest.mark.parametrize(
    "param",
    [
        "auag_pwmat/init_bulk/init_param.json",
        "auag_pwmat/run_iter_lmps/param.json",
        "si_pwmat/init_bulk/init_param.json",
        "si_pwmat_bigmodel_direct/init_bulk_pwmat/init_param.json",
        "si_pwmat_bigmodel_direct/run_iter_direct_pwmat/param.json",
    ],
)
def test_pwacts_own_pairs(param, capsys):
    path = SHARED / param
    if not path.is_file():
        pytest.skip(f"{path} is not here: PWact's examples are not part of this project")
    before = sorted(SHARED.rglob("*"))
    assert main(["check", str(path), str(path.parent / "resource.json"), "--work-dir", str(path.parent)]) == 0
    out = capsys.readouterr().out
    assert "PWmat is not built" not in out
    assert sorted(SHARED.rglob("*")) == before
    names = {key.lower() for key in json.loads(path.read_text()) if not key.startswith("_")}
    assert not [line for line in out.splitlines() if "unknown key" in line], names
