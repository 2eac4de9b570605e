"""init_param.json."""

import pytest
from config_files import bulk_files, changed, write

from pwact_like.config.engines_known import unavailable
from pwact_like.config.init_bulk import BulkSystem
from pwact_like.config.load import load_init_bulk
from pwact_like.errors import InputError


def load(folder, settings=None, resource=None, **changes):
    settings = bulk_files(folder) if settings is None else settings
    for path, value in changes.items():
        settings = changed(settings, path.replace("__", "."), value)
    file = write(folder, "resource.json", resource) if resource is not None else None
    return load_init_bulk(write(folder, "init_param.json", settings), file, folder)


def problems(folder, settings=None, **changes):
    with pytest.raises(InputError) as caught:
        load(folder, settings, **changes)
    return {problem.where.partition("init_param.json: ")[2]: f"{problem.what} | {problem.cure}" for problem in caught.value.problems}


def pwmat_files(folder):
    settings = bulk_files(folder)
    for name in ("relax.input", "aimd.input", "aimd2.input", "scf.input"):
        (folder / name).write_text("4 1\njob = scf\n")
    (folder / "Si.SG15.PBE.UPF").write_text("<UPF>")
    return {**settings, "dft_style": "PWmat", "aimd_input": "aimd.input", "pseudo": "Si.SG15.PBE.UPF"}


def test_the_plain_case(tmp_path):
    loaded = load(tmp_path)
    (system,) = loaded.param.sys_configs
    assert system.file == tmp_path / "Si.poscar" and system.format == "vasp/poscar" and system.pbc == (True, True, True)
    assert (system.relax, system.aimd, system.perturb, system.cell_pert_fraction, system.atom_pert_distance) == (False, True, 2, 0.03, 0.01)
    assert system.scale == () and system.super_cell is None
    assert loaded.param.aimd_input[0].options == {"temperature_k": 600, "nsteps": 10}
    assert (loaded.param.data_format, loaded.param.interval, loaded.param.data_shuffle, loaded.param.scf_max_num) == (
        "extxyz",
        1,
        False,
        None,
    )
    assert not loaded.notes and not unavailable(loaded)


@pytest.mark.parametrize(
    ("given", "matrix"),
    [
        ([1, 2, 3], ((1, 0, 0), (0, 2, 0), (0, 0, 3))),
        ([1, 0, 0, 0, 2, 0, 0, 0, 1], ((1, 0, 0), (0, 2, 0), (0, 0, 1))),
        ([[1, 0, 0], [0, 2, 0], [0, 0, 1]], ((1, 0, 0), (0, 2, 0), (0, 0, 1))),
        ([[-1, 1, 1], [1, -1, 1], [1, 1, -1]], ((-1, 1, 1), (1, -1, 1), (1, 1, -1))),
        (None, None),
    ],
)
def test_supercells(given, matrix):
    assert BulkSystem(config="x", super_cell=given).super_cell == matrix


@pytest.mark.parametrize("given", [[1, 2], [1.5, 1, 1], [0, 1, 1], [[1, 0, 0], [1, 0, 0], [0, 0, 1]], "2x2x2", [True, 1, 1], [1, 1, -1]])
def test_no_supercells(tmp_path, given):
    assert set(problems(tmp_path, sys_configs__0__super_cell=given)) == {"sys_configs[0].super_cell"}


def test_stage_inputs_in_every_form(tmp_path):
    settings = pwmat_files(tmp_path)
    settings["sys_configs"][0] |= {"relax": True, "relax_input_idx": 0, "aimd_input_idx": 1}
    settings["relax_input"] = {"input": "relax.input", "KSPACING": 0.3, "flag_symm": "0"}
    settings["AIMD_INPUT"] = ["aimd.input", {"Input": "aimd2.input"}]
    del settings["aimd_input"]
    param = load(tmp_path, settings).param
    assert [(entry.input.name, entry.kspacing, entry.flag_symm) for entry in param.relax_input] == [("relax.input", 0.3, 0)]
    assert [(entry.input.name, entry.kspacing, entry.flag_symm) for entry in param.aimd_input] == [
        ("aimd.input", None, None),
        ("aimd2.input", None, None),
    ]
    assert param.labelling.pseudo == (tmp_path / "Si.SG15.PBE.UPF",)
    found = problems(tmp_path, settings, relax_input=[{"kspacing": -1}, "gone.input"], AIMD_INPUT=["aimd.input"])
    assert set(found) == {"relax_input[0].input", "relax_input[0].kspacing", "relax_input[1]", "sys_configs[0].aimd_input_idx"}


def test_a_stage_that_is_asked_for_needs_its_input(tmp_path):
    settings = pwmat_files(tmp_path)
    settings["sys_configs"][0] |= {"relax": True, "scf": True, "aimd": False, "bigmodel": True, "direct": True}
    assert set(problems(tmp_path, settings)) == {"relax_input", "scf_input", "bigmodel_input", "direct_input"}
    assert "exclude" in problems(tmp_path, sys_configs__0__bigmodel=True)["sys_configs[0]"]


def test_an_embedded_engine_needs_no_input_to_relax(tmp_path):
    param = load(tmp_path, sys_configs__0__relax=True, sys_configs__0__scf=True).param
    assert len(param.relax_input) == len(param.scf_input) == 1 and param.relax_input[0].options == {}
    assert "'fmax'" in problems(tmp_path, relax_input={"fmx": 1})["relax_input.fmx"]


def test_options_beside_dft_style(tmp_path):
    param = load(tmp_path, Method="GFN2-xTB", options={"Accuracy": 0.5, "fmax": 0.1}).param
    assert param.labelling.options == {"method": "GFN2-xTB", "accuracy": 0.5, "fmax": 0.1}
    assert param.labelling.source == tmp_path / "init_param.json"
    assert "'method'" in problems(tmp_path, metod="x")["metod"]
    assert "beside options" in problems(tmp_path, method="x", options={"method": "y"})["options.method"]


def test_a_single_system_a_prefix_and_a_glob(tmp_path):
    settings = bulk_files(tmp_path)
    (tmp_path / "s").mkdir()
    for name in ("b", "a"):
        (tmp_path / "s" / f"{name}.poscar").write_text((tmp_path / "Si.poscar").read_text())
    param = load(tmp_path, {**settings, "sys_config_prefix": "s", "sys_configs": {"config": "*.poscar", "perturb": 3}}).param
    assert [(system.file.name, system.perturb) for system in param.sys_configs] == [("a.poscar", 3), ("b.poscar", 3)]
    assert "sys_configs" in problems(tmp_path, settings, sys_configs=[])
    found = problems(tmp_path, settings, sys_configs=[{"config": "gone"}, {"perturb": -1}, {"config": 5}, 7])
    assert set(found) == {
        "sys_configs[0].config",
        "sys_configs[1].config",
        "sys_configs[1].perturb",
        "sys_configs[2].config",
        "sys_configs[3]",
    }


def test_scale_and_pbc_short_forms(tmp_path):
    (system,) = load(tmp_path, sys_configs__0__scale=0.9, sys_configs__0__pbc=[1, 1, 0]).param.sys_configs
    assert system.scale == (0.9,) and system.pbc == (True, True, False)
    assert set(problems(tmp_path, sys_configs__0__scale=[1.0, 0])) == {"sys_configs[0].scale[1]"}


def test_unknown_keys(tmp_path):
    found = problems(tmp_path, sys_configs__0__pertub=3, dft_stile="vasp", interva=2)
    assert "'perturb'" in found["sys_configs[0].pertub"] and "'dft_style'" in found["dft_stile"] and "'interval'" in found["interva"]
    assert any("scf_style" in note for note in load(tmp_path, scf_style="vasp").notes)


def test_engines_that_are_not_built_are_notes(tmp_path):
    settings = pwmat_files(tmp_path)
    (tmp_path / "md.py").write_text("")
    settings["sys_configs"].append({"config": "Si.poscar", "bigmodel": True, "direct": True})
    settings |= {"bigmodel_input": "md.py", "direct_input": "md.py"}
    resource = {"DFT": {"command": "PWmat"}, "explore": {"command": "python md.py"}, "direct": {"command": "python direct.py"}}
    loaded = load(tmp_path, settings, resource)
    whats = " ".join(problem.what for problem in unavailable(loaded))
    assert not whats and not any("init_bulk refuses it" in note for note in loaded.notes)
    with pytest.raises(InputError) as caught:
        load(tmp_path, settings, {"DFT": {"command": "PWmat"}})
    assert {problem.where.rpartition(": ")[2] for problem in caught.value.problems} == {"explore", "direct"}


def test_no_stage_needs_no_engine(tmp_path):
    settings = pwmat_files(tmp_path)
    loaded = load(tmp_path, settings, {"explore": {"command": "x"}}, sys_configs__0__aimd=False)
    assert not unavailable(loaded)
