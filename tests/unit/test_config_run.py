"""param.json of run: PWact's forms, defects of the original, cross checks."""

from pathlib import Path

import pytest
from config_files import changed, run_files, write

from pwact_like.config.engines_known import unavailable
from pwact_like.config.load import load_run
from pwact_like.config.run import MdJob, Strategy
from pwact_like.errors import InputError


def load(folder, settings=None, resource=None, lenient=False, **changes):
    settings = run_files(folder) if settings is None else settings
    for path, value in changes.items():
        settings = changed(settings, path.replace("__", "."), value)
    file = write(folder, "resource.json", resource) if resource is not None else None
    return load_run(write(folder, "param.json", settings), file, folder, lenient)


def problems(folder, settings=None, **changes):
    with pytest.raises(InputError) as caught:
        load(folder, settings, **changes)
    return {problem.where.partition("param.json: ")[2]: f"{problem.what} | {problem.cure}" for problem in caught.value.problems}


def job(**changes):
    base = {"sys_idx": [0], "nsteps": 100, "temps": [300], "ensemble": "nvt"}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def test_the_plain_case(tmp_path):
    loaded = load(tmp_path)
    param = loaded.param
    assert param.work_dir == tmp_path and param.init_data[0].path == tmp_path / "init.xyz" and param.init_data[0].virial_sign == 1
    assert param.explore.sys_configs[0].files == (tmp_path / "Si.poscar",)
    assert (param.strategy.lower_model_devi_f, param.strategy.upper_model_devi_f, param.strategy.model_num) == (0.1, 0.3, 4)
    assert param.strategy.max_select is None and param.strategy.convergence is None and param.use_pre_model
    assert param.dft.labelling.engine == "xtb" and param.dft.entry.input is None
    assert not unavailable(loaded)
    assert len(loaded.notes) == 1 and "Kalman" in loaded.notes[0]


def test_dp_defaults_are_pwacts(tmp_path):
    train = load(tmp_path).param.train
    assert (train.descriptor.rmax, train.descriptor.rmin, train.descriptor.m2) == (6.0, 0.5, 16)
    assert train.descriptor.network_size == (25, 25, 25) and train.fitting.network_size == (50, 50, 50, 1)
    assert (train.optimizer.epochs, train.optimizer.batch_size, train.optimizer.block_size) == (30, 1, 5120)
    assert (train.optimizer.learning_rate, train.optimizer.stop_lr) == (1e-3, 3.5e-6)
    assert train.atom_type == (14,)


@pytest.mark.parametrize("key", ["Rmax", "rmax", "RMAX"])
def test_defect_3_hyper_parameters_have_their_effect_in_any_case(tmp_path, key):
    param = load(tmp_path, train__model={"Descriptor": {key: 4.25, "m2": 4}, "FITTING_NET": {"Network_Size": [20, 1]}}).param
    assert (param.train.descriptor.rmax, param.train.descriptor.m2, param.train.fitting.network_size) == (4.25, 4, (20, 1))


def test_defect_6_the_default_ensemble_works(tmp_path):
    (entry,) = load(tmp_path, explore__md_jobs=[job(ensemble=...)]).param.explore.md_jobs
    assert entry[0].ensemble == "nve" and entry[0].temps == (300.0,) and entry[0].pressures == (None,)
    assert (entry[0].md_dt, entry[0].trj_freq, entry[0].taut, entry[0].taup, entry[0].neigh_modify) == (0.001, 10, 0.1, 0.5, 10)


def test_defect_14_short_forms(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "etot.input").write_text("4 1\njob = scf\n")
    (tmp_path / "Si.SG15.PBE.UPF").write_text("<UPF>\n")
    settings["DFT"] = {"dft_style": "PWmat", "input": "etot.input", "pseudo": "Si.SG15.PBE.UPF", "flag_symm": "0", "kspacing": 0.3}
    settings["explore"] = {"sys_configs": "Si.poscar", "md_jobs": job(sys_idx=0, temps=300, select_sys=5, press=1, ensemble="npt")}
    settings["init_data"] = "init.xyz"
    settings["train"]["atom_type"] = "Si"
    param = load(tmp_path, settings).param
    assert param.dft.labelling.pseudo == (tmp_path / "Si.SG15.PBE.UPF",)
    assert (param.dft.labelling.dft_style, param.dft.entry.flag_symm, param.dft.entry.kspacing) == ("pwmat", 0, 0.3)
    ((md_job,),) = param.explore.md_jobs
    assert (md_job.sys_idx, md_job.select_sys, md_job.temps, md_job.press, md_job.ensemble) == ((0,), (5,), (300.0,), (1.0,), "npt-iso")
    assert param.train.atom_type == (14,) and len(param.init_data) == 1
    wrong = problems(tmp_path, changed(settings, "explore.md_jobs.temps", "hot"))
    assert list(wrong) == ["explore.md_jobs.temps"]  # no index that the user did not write


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("nve", "nve"),
        ("NVT", "nvt"),
        ("npt", "npt-iso"),
        ("npt-i", "npt-iso"),
        ("npt-iso", "npt-iso"),
        ("npt-a", "npt-aniso"),
        ("npt-aniso", "npt-aniso"),
        ("npt-t", "npt-tri"),
        ("NPT_tri", "npt-tri"),
    ],
)
def test_ensembles(name, canonical):
    assert MdJob(sys_idx=0, nsteps=1, temps=1, press=1, ensemble=name).ensemble == canonical


def test_ensembles_say_what_they_need(tmp_path):
    found = problems(
        tmp_path, explore__md_jobs=[[job(temps=...), job(ensemble="npt")], job(nsteps=..., ensemble="nve", temps=...), job(ensemble="nph")]
    )
    assert set(found) == {"explore.md_jobs[0][0]", "explore.md_jobs[0][1]", "explore.md_jobs[1]", "explore.md_jobs[2].ensemble"}
    assert "temps" in found["explore.md_jobs[0][0]"] and "press" in found["explore.md_jobs[0][1]"]
    assert "nsteps" in found["explore.md_jobs[1]"] and "velocities" in found["explore.md_jobs[1]"]


def test_one_value_holds_for_every_system(tmp_path):
    configs = [{"config": "Si.poscar"}] * 3
    settings = changed(run_files(tmp_path), "explore.sys_configs", configs)
    ((md_job,),) = load(tmp_path, settings, explore__md_jobs=[job(sys_idx=[0, 2, 1], select_sys=[7])]).param.explore.md_jobs
    assert md_job.select_sys == (7, 7, 7)
    assert (
        "select_sys has 2 entries"
        in problems(tmp_path, settings, explore__md_jobs=[job(sys_idx=[0, 2, 1], select_sys=[7, 8])])["explore.md_jobs[0]"]
    )


def test_indices_out_of_range(tmp_path):
    found = problems(
        tmp_path, explore__md_jobs=[job(sys_idx=[0, 1, 5]), [job(Sys_Idx=3, sys_idx=...)], job(lmps_in_idx=0), job(sys_idx=-1)]
    )
    assert "1, 5 is out of range" in found["explore.md_jobs[0].sys_idx"]
    assert "explore.md_jobs[1][0].Sys_Idx" in found
    assert "lmps_in has 0" in found["explore.md_jobs[2].lmps_in_idx"]
    assert "explore.md_jobs[3].sys_idx" in found


def test_the_users_own_lammps_inputs(tmp_path):
    (tmp_path / "lmps").mkdir()
    for number in range(2):
        (tmp_path / "lmps" / f"in{number}.lmps").write_text("run 10\n")
    settings = changed(run_files(tmp_path), "explore.lmps_prefix", "lmps")
    settings["explore"]["lmps_in"] = ["in0.lmps", "in1.lmps"]
    settings["explore"]["sys_configs"] = ["Si.poscar", "Si.poscar"]
    settings["explore"]["md_jobs"] = [
        [{"sys_idx": [0, 1], "lmps_in_idx": 1, "trj_freq": 5}, {"sys_idx": [0, 1], "lmps_in_idx": [0, 1], "nsteps": 7}]
    ]
    loaded = load(tmp_path, settings, resource={"explore": {"command": "mpirun lmp_mpi"}})
    first, second = loaded.param.explore.md_jobs[0]
    assert first.lmps_in_idx == (1, 1) and first.nsteps is None and second.lmps_in_idx == (0, 1)
    assert loaded.param.explore.lmps_in == (tmp_path / "lmps" / "in0.lmps", tmp_path / "lmps" / "in1.lmps")
    assert any("nsteps without effect" in note for note in loaded.notes)
    assert not any("LAMMPS" in problem.what for problem in unavailable(loaded))
    # with the embedded MD the input cannot be run: a note in check, a refusal in run
    assert any("lmps_in_idx" in problem.what for problem in unavailable(load(tmp_path, settings)))
    assert "explore.lmps_in[1]" in problems(tmp_path, changed(settings, "explore.lmps_in.1", "in9.lmps"))


def test_only_the_embedded_trainer_knows_its_errors(tmp_path):
    for engine, told in (("deepmd", True), ("chgnet", True), ("embedded", False)):
        settings = changed(changed(run_files(tmp_path), "train.engine", engine), "strategy", {"uncertainty": "kpu"})
        found = [problem for problem in unavailable(load(tmp_path, settings)) if "strategy.uncertainty" in problem.where]
        assert bool(found) == told, engine


def test_globs_are_expanded_and_sorted(tmp_path):
    settings = run_files(tmp_path)
    for name in ("b/2.poscar", "a/10.poscar", "a/1.poscar", "a/.hidden.poscar", "odd[1].poscar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((tmp_path / "Si.poscar").read_text())
    settings["explore"] |= {
        "sys_config_prefix": ".",
        "sys_configs": ["*/*.poscar", {"Config": "a/*.poscar", "format": "vasp/poscar"}, "odd[1].poscar"],
    }
    configs = load(tmp_path, settings).param.explore.sys_configs
    assert [[str(file.relative_to(tmp_path)) for file in config.files] for config in configs] == [
        ["a/1.poscar", "a/10.poscar", "b/2.poscar"],
        ["a/1.poscar", "a/10.poscar"],
        ["odd[1].poscar"],
    ]
    assert configs[1].format == "vasp/poscar" and configs[1].config == "a/*.poscar"
    assert "no file matches" in problems(tmp_path, changed(settings, "explore.sys_configs.0", "c/*.poscar"))["explore.sys_configs[0]"]


def test_data_paths_in_every_form(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "set" / "Si8").mkdir(parents=True)
    for name in ("b.xyz", "a.xyz"):
        (tmp_path / name).write_text("x")
    settings["init_data"] = ["init.xyz", {"PATH": "set/*", "format": "pwmlff/npy", "virial_sign": -1}, str(tmp_path / "[ab].xyz")]
    settings["valid_data"] = {"path": "init.xyz"}
    param = load(tmp_path, settings).param
    assert [(item.path.name, item.format, item.virial_sign) for item in param.init_data] == [
        ("init.xyz", None, 1),
        ("Si8", "pwmlff/npy", -1),
        ("a.xyz", None, 1),
        ("b.xyz", None, 1),
    ]
    assert len(param.valid_data) == 1 and param.test_data == ()
    found = problems(
        tmp_path,
        settings,
        init_data=["none.xyz", {"path": "init.xyz", "virial_sign": 2}, {"format": "x"}, {"path": "init.xyz", "sing": 1}, 5],
    )
    assert set(found) == {"init_data[0]", "init_data[1].virial_sign", "init_data[2].path", "init_data[3].sing", "init_data[4]"}
    assert "--work-dir" in found["init_data[0]"]


def test_relative_paths_start_at_work_dir_and_dots_follow_links(tmp_path, monkeypatch):
    settings = run_files(tmp_path / "real" / "campaign")
    (tmp_path / "real" / "above.xyz").write_text((tmp_path / "real" / "campaign" / "init.xyz").read_text())
    (tmp_path / "link").symlink_to(tmp_path / "real" / "campaign")
    settings["init_data"] = ["../above.xyz", "./init.xyz"]
    settings["Work_Dir"] = "link"
    path = write(tmp_path, "param.json", settings)
    monkeypatch.chdir(tmp_path)
    param = load_run(path).param
    assert param.work_dir == tmp_path / "link"
    assert [item.path for item in param.init_data] == [tmp_path / "real" / "above.xyz", tmp_path / "link" / "init.xyz"]
    settings["Work_Dir"] = "/no/such/place"
    path = write(tmp_path, "param.json", settings)
    with pytest.raises(InputError) as caught:
        load_run(path)
    (problem,) = caught.value.problems  # not one for each relative path besides
    assert problem.where.endswith("param.json: Work_Dir") and "--work-dir" in problem.cure
    assert load_run(path, work_dir=Path("real/campaign")).param.work_dir == tmp_path / "real" / "campaign"
    with pytest.raises(InputError, match="--work-dir: no such folder"):
        load_run(path, work_dir=tmp_path / "nowhere")


def test_campaign_names_differ_by_folder(tmp_path):
    names = {load(tmp_path / where / "run").param.campaign for where in ("a", "b")}
    assert len(names) == 2 and all(name.startswith("run_") for name in names)
    assert load(tmp_path, campaign="copper").param.campaign == "copper"
    assert "campaign" in problems(tmp_path, campaign="x; rm -rf /")


def test_every_problem_at_once(tmp_path):
    found = problems(
        tmp_path,
        init_data=["gone.xyz"],
        data_format="deepmd",
        seed="x",
        train__atom_type=["Xx"],
        train__optimizer={"optimizer": "ADAM", "epochs": -1, "batch_sise": 1},
        strategy__model_num=2,
        strategy__failure_budget=1.5,
        explore__sys_configs=["gone.poscar"],
        explore__md_jobs=[job(sys_idx=[3], temps="x", nsteps=0), job(sys_idx=[3])],
        explore__md_job=[],
        DFT={"dft_style": "wasp"},
    )
    assert set(found) == {
        "init_data[0]",
        "data_format",
        "seed",
        "train.atom_type[0]",
        "train.optimizer.epochs",
        "train.optimizer.batch_sise",
        "strategy",
        "strategy.failure_budget",
        "explore.sys_configs[0]",
        "explore.md_jobs[0].temps",
        "explore.md_jobs[0].nsteps",
        "explore.md_jobs[0].sys_idx",
        "explore.md_jobs[1].sys_idx",
        "explore.md_job",
        "DFT.dft_style",
    }
    assert "'vasp'" in found["DFT.dft_style"] and "'batch_size'" in found["train.optimizer.batch_sise"]


def test_required_sections(tmp_path):
    assert set(problems(tmp_path, {"init_data": [], "strategy": {}, "expolre": {}})) == {"init_data", "train", "explore", "DFT", "expolre"}


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("explore.md_jobs.0.ensembel", "ensemble"),
        ("strategy.max_selct", "max_select"),
        ("init_dat", "init_data"),
        ("DFT.kspcing", "kspacing"),
        ("explore.sys_configs.0.fromat", "format"),
        ("DFT.acuracy", "accuracy"),
    ],
)
def test_unknown_keys_are_errors_with_the_nearest_name(tmp_path, path, near):
    settings = changed(run_files(tmp_path), path, 1)
    where = path.replace(".0.", "[0].")
    assert f"did you mean '{near}'?" in problems(tmp_path, settings)[where]
    loaded = load(tmp_path, settings, lenient=True)
    assert any(where in note and near in note for note in loaded.notes)


def test_a_key_far_from_all_others_is_an_error_too(tmp_path):
    assert "--lenient" in problems(tmp_path, strategy__walltime_of_the_queue=5)["strategy.walltime_of_the_queue"]


def test_inside_train_unknown_keys_are_notes_unless_nearly_right(tmp_path):
    loaded = load(tmp_path, train__brand_new_option=5, train__precision="float32", train__optimizer={"max_norm": 5, "swarm": 1})
    notes = "\n".join(loaded.notes)
    for key in ("train.brand_new_option", "train.precision", "train.optimizer.max_norm", "train.optimizer.swarm"):
        assert key in notes
    assert "'atom_type'" in problems(tmp_path, train__atm_type=[14])["train.atm_type"]
    assert "'rmax'" in problems(tmp_path, train__model={"descriptor": {"Rmaxx": 4}})["train.model.descriptor.Rmaxx"]
    assert any("Rmaxx" in note for note in load(tmp_path, train__model={"descriptor": {"Rmaxx": 4}}, lenient=True).notes)


def test_keys_of_pwact_without_effect_are_named(tmp_path):
    notes = "\n".join(load(tmp_path, record_file="x", strategy__md_type=2, explore__md_jobs=[job(mass=[28])]).notes)
    for key in ("record_file", "strategy.md_type", "explore.md_jobs[0].mass"):
        assert f"{key}: known to PWact" in notes


def test_levels_and_numbers_of_models(tmp_path):
    for strategy, words in (
        ({"lower_model_deiv_f": 0.3, "upper_model_devi_f": 0.3}, "smaller"),
        ({"model_num": 2}, "3 models"),
        ({"uncertainty": "KPU", "model_num": 4}, "one model"),
        ({"uncertainty": "kpu", "kpu_lower": 2, "kpu_upper": 1.5}, "kpu_lower (2)"),
        ({"uncertainty": "kpu", "kpu_scale": "relative", "kpu_lower": 2, "kpu_upper": 0.9}, "above 1"),
        ({"kpu_scale": "relative"}, "only kpu has that scale"),
        ({"uncertainty": "kpu_committee", "kpu_scale": "relative"}, "only kpu has that scale"),
        ({"uncertainty": "kpu_committee", "model_num": 1}, "2 members"),
        ({"uncertainty": "KPU-Committee", "upper_model_devi_f": 0.05, "lower_model_devi_f": 0.1}, "smaller"),
    ):
        assert words in problems(tmp_path, strategy=strategy)["strategy"]
    assert (
        "says the same"
        in problems(tmp_path, strategy={"lower_model_deiv_f": 0.1, "lower_model_devi_f": 0.1})["strategy.lower_model_devi_f"]
    )
    assert Strategy(uncertainty="kpu").model_num == 1 and Strategy().model_num == 4


def test_two_faults_of_a_strategy_are_both_told(tmp_path):
    both = problems(tmp_path, strategy={"model_num": 2, "lower_model_devi_f": 9})["strategy"]
    assert "3 models" in both and "smaller" in both


def test_kpu_and_what_excludes_it(tmp_path):
    loaded = load(tmp_path, strategy={"uncertainty": "KPU"}, train__optimizer="ADAM")
    assert not unavailable(loaded) and loaded.param.strategy.given_levels == (None, None)
    assert loaded.param.strategy.trained_models == 1 and not loaded.param.strategy.is_relative
    learned = loaded.param.strategy.learned
    assert (learned.kind, learned.posterior, learned.samples, learned.tau) == ("kpu", "laplace", 16, 1e-6)
    assert any("valid_data" in note and "10%" in note for note in loaded.notes)
    by_filter = {"uncertainty": "kpu", "kpu_posterior": "Filter"}
    assert load(tmp_path, strategy=by_filter).param.strategy.learned.posterior == "filter"
    assert "not of ADAM" in problems(tmp_path, strategy=by_filter, train__optimizer="ADAM")["strategy.kpu_posterior"]
    assert "exclude" in problems(tmp_path, strategy={"uncertainty": "kpu", "compress": True})["strategy.compress"]
    assert "model_type DP" in problems(tmp_path, strategy={"uncertainty": "kpu"}, train__model_type="NEP")["strategy.uncertainty"]


def test_kpu_committee_has_its_own_defaults_and_the_committee_keeps_its(tmp_path):
    strategy = load(tmp_path, strategy={"uncertainty": "kpu_committee", "kpu_posterior": "last_layer"}).param.strategy
    assert (strategy.uncertainty, strategy.model_num, strategy.trained_models, strategy.given_levels) == (
        "kpu-committee",
        4,
        1,
        (None, None),
    )
    assert (strategy.learned.members, strategy.learned.posterior) == (4, "last-layer")
    assert Strategy(uncertainty="kpu-committee", lower_model_devi_f=0.1).given_levels == (0.1, None)
    assert Strategy().given_levels == (0.05, 0.15) and Strategy().learned is None and Strategy().trained_models == 4


def test_pwacts_scale_keeps_pwacts_levels(tmp_path):
    relative = {"uncertainty": "kpu", "kpu_scale": "Relative"}
    loaded = load(tmp_path, strategy=relative)
    assert loaded.param.strategy.is_relative and loaded.param.strategy.given_levels == (0.5, 1.5)
    assert any("0.75 times" in note for note in loaded.notes)
    assert not any("times the KPU" in note for note in load(tmp_path, strategy={**relative, "kpu_lower": 1.2, "kpu_upper": 3}).notes)


def test_notes_say_which_levels_hold(tmp_path):
    def notes(**strategy):
        return [note for note in load(tmp_path, strategy=strategy).notes if "strategy." in note]

    (note,) = notes(uncertainty="kpu", kpu_lower=0.1)
    assert "kpu_lower" in note and "taken as eV/Å" in note
    (note,) = notes(uncertainty="kpu", upper_model_deiv_f=0.3)
    assert "strategy.upper_model_deiv_f" in note and "without effect" in note
    assert len(notes(kpu_lower=0.5, kpu_upper=1.5, kpu_samples=8)) == 3
    assert notes(uncertainty="kpu-committee", lower_model_devi_f=0.1) == []
    assert any("meV" in note for note in notes(uncertainty="kpu-committee", upper_model_devi_f=150))
    assert any("without effect in a campaign" in note for note in load(tmp_path, train__uncertainty=True).notes)


def test_convergence(tmp_path):
    assert load(tmp_path, strategy__convergence={}).param.strategy.convergence.max_repeats == 3
    convergence = load(tmp_path, strategy__convergence={"Accurate_Fraction": 0.8, "force_rmse_target": 0.05}).param.strategy.convergence
    assert (convergence.accurate_fraction, convergence.force_rmse_target, convergence.plateau) == (0.8, 0.05, 0.05)
    found = problems(tmp_path, strategy__convergence={"accurate_fraction": 90, "max_repeat": 2})
    assert set(found) == {"strategy.convergence.accurate_fraction", "strategy.convergence.max_repeat"}


def test_models_to_begin_with(tmp_path):
    settings = run_files(tmp_path)
    del settings["init_data"]
    assert "init_bulk" in problems(tmp_path, settings)["init_data"]
    for number in range(4):
        (tmp_path / f"{number}.pt").write_text("model")
    settings["init_model_list"] = [f"{number}.pt" for number in range(4)]
    assert len(load(tmp_path, settings).param.init_model_list) == 4
    assert "3 models for model_num 4" in problems(tmp_path, settings, init_model_list=["0.pt", "1.pt", "2.pt"])["init_model_list"]
    assert set(problems(tmp_path, settings, init_model_list=["0.pt", "9.pt"])) == {"init_model_list[1]"}


def test_a_model_to_begin_with_for_kpu_has_its_errors_beside_it(tmp_path):
    settings = changed(run_files(tmp_path), "strategy", {"uncertainty": "kpu"})
    for name in ("model.pt", "other.pt"):
        (tmp_path / name).write_text("model")
    found = problems(tmp_path, settings, init_model_list=["model.pt"])
    assert "kpu.pt and uncertainty.json missing" in found["init_model_list"] and "leave init_model_list out" in found["init_model_list"]
    for name in ("kpu.pt", "uncertainty.json"):
        (tmp_path / name).write_text("{}")
    assert len(load(tmp_path, settings, init_model_list=["model.pt"]).param.init_model_list) == 1
    assert "2 models for kpu" in problems(tmp_path, settings, init_model_list=["model.pt", "other.pt"])["init_model_list"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("explore.md_jobs.0.md_dt", 0, "greater than 0"),
        ("explore.md_jobs.0.trj_freq", 2.5, "whole number"),
        ("explore.md_jobs.0.nsteps", True, "not true or false"),
        ("explore.md_jobs.0.boundary", "perhaps", "true or false"),
        ("strategy.random_share", "x", "a number"),
        ("explore.md_jobs", [], "nothing would be explored"),
        ("explore.md_jobs.0", [], "nothing would be explored"),
        ("explore.md_jobs.0", 5, "an object"),
        ("strategy", [], "an object"),
        ("DFT.pseudo", "gone.UPF", "no such pseudopotential"),
        ("DFT.in_skf", "gone", "no such folder"),
        ("train", None, "required"),
        ("train.optimizer", {"optimizer": "MAGIC"}, "ADAM"),
        ("strategy.direct_script", ".", "folder"),
    ],
)
def test_wrong_values_are_told_in_plain_words(tmp_path, path, value, words):
    found = problems(tmp_path, changed(run_files(tmp_path), path, value))
    assert len(found) == 1 and words in next(iter(found.values()))


def test_inline_settings_of_an_embedded_labelling_engine(tmp_path):
    labelling = load(
        tmp_path, DFT={"dft_style": "ASE", "Calculator": "emt", "options": {"Calculator_Args": {"asap_Cutoff": True}}}
    ).param.dft.labelling
    assert labelling.options == {"calculator": "emt", "calculator_args": {"asap_Cutoff": True}}
    found = problems(tmp_path, DFT={"dft_style": "ase", "calculater": "emt", "options": {"fmaxx": 1}})
    assert "'calculator'" in found["DFT.calculater"] and "'fmax'" in found["DFT.options.fmaxx"]
    (tmp_path / "cp2k.inp").write_text("&GLOBAL\n&END\n")
    assert "DFT.options" in problems(tmp_path, DFT={"dft_style": "cp2k", "input": "cp2k.inp", "options": {"a": 1}})
    assert "DFT.calculator" in problems(tmp_path, DFT={"dft_style": "cp2k", "input": "cp2k.inp", "calculator": "emt"})


def test_a_program_needs_its_input_file(tmp_path):
    assert set(problems(tmp_path, DFT={"dft_style": "cp2k"})) == {"DFT.input"}
    assert set(problems(tmp_path, DFT={"dft_style": "bigmodel"})) == {"DFT.model"}
    (tmp_path / "label.py").write_text("")
    loaded = load(tmp_path, DFT={"dft_style": "bigmodel", "bigmodel_script": "label.py"})
    assert loaded.param.dft.labelling.bigmodel_script == tmp_path / "label.py"


def test_how_much_one_call_of_a_labelling_script_may_get_is_told(tmp_path):
    (tmp_path / "label.py").write_text("")

    def told(**changes):
        loaded = load(tmp_path, DFT={"dft_style": "bigmodel", "bigmodel_script": "label.py"}, **changes)
        return "".join(note for note in loaded.notes if "DFT.bigmodel_script" in note)

    assert "one call of label.py labels all structures of an iteration, 100 at most" in told()
    assert told(strategy__max_select=50) == ""
    assert "70 at most" in told(explore__md_jobs=[[job(select_sys=[30]), job(select_sys=[40])], job(select_sys=[60])])
    assert told(strategy__choice="fps", strategy__choice_num=20) == ""
    assert not any("script" in note for note in load(tmp_path, DFT={"dft_style": "bigmodel", "model": "chgnet"}).notes)


def test_gaussian_param(tmp_path):
    settings = run_files(tmp_path)
    for name in ("cp2k.inp", "BASIS", "POT"):
        (tmp_path / name).write_text("x")
    gaussian = {
        "Basis_Set_File": "BASIS",
        "potential_file": "POT",
        "atom_list": "Si",
        "basis_set_list": ["DZVP"],
        "potential_list": ["GTH"],
        "kspacing": 0.4,
    }
    settings["DFT"] = {"dft_style": "CP2K", "input": "cp2k.inp", "gaussian_param": gaussian}
    assert load(tmp_path, settings).param.dft.labelling.gaussian_param.atom_list == ("Si",)
    found = problems(tmp_path, settings, DFT__gaussian_param={**gaussian, "Basis_Set_File": "data/GONE"})
    assert set(found) == {"DFT.gaussian_param.Basis_Set_File"}
    loaded = load(tmp_path, settings, DFT__gaussian_param={**gaussian, "Basis_Set_File": "BASIS_MOLOPT"})
    assert loaded.param.dft.labelling.gaussian_param.basis_set_file == Path("BASIS_MOLOPT")
    assert any("CP2K's own data file" in note for note in loaded.notes)
    assert (
        "1 elements"
        in problems(tmp_path, settings, DFT__gaussian_param={**gaussian, "potential_list": []})["DFT.gaussian_param.potential_list"]
    )


def test_settings_are_frozen(tmp_path):
    param = load(tmp_path).param
    with pytest.raises(ValueError, match="frozen"):
        param.seed = 3
