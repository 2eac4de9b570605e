"""resource.json."""

import pytest
from config_files import changed, run_files, write

from pwact_like.config.engines_known import canonical, engine_of_command
from pwact_like.config.load import load_run
from pwact_like.config.resource import ResourceSection
from pwact_like.config.sbatch import owned_option
from pwact_like.errors import InputError


def load(folder, resource, **changes):
    settings = run_files(folder)
    for path, value in changes.items():
        settings = changed(settings, path.replace("__", "."), value)
    return load_run(write(folder, "param.json", settings), write(folder, "resource.json", resource), folder)


def problems(folder, resource, **changes):
    with pytest.raises(InputError) as caught:
        load(folder, resource, **changes)
    return caught.value.problems


def test_left_out_it_means_this_machine(tmp_path):
    loaded = load_run(write(tmp_path, "param.json", run_files(tmp_path)), work_dir=tmp_path)
    assert loaded.resource.scheduler == "local"
    assert loaded.resource.train is None and loaded.resource.dft is None
    assert (loaded.param.train.engine, loaded.param.explore.engine) == ("embedded", "embedded")


def test_sections_in_any_case_and_unknown_extras_of_pwact(tmp_path):
    resource = {
        "Train": {"command": "pwact-like", "_parallel_num": 5},
        "EXPLORE": {"command": ""},
        "dft": {"command": "", "task_run_num": 1, "Group_Size": -1, "queue_name": "3080ti, 3090", "module_list": "pwmat"},
        "Scheduler": "LOCAL",
        "max_jobs": 3,
    }
    loaded = load(tmp_path, resource)
    section = loaded.resource.dft
    assert (section.group_size, section.queue_name, section.module_list, section.parallel_num) == (-1, "3080ti,3090", ("pwmat",), 1)
    assert (loaded.resource.scheduler, loaded.resource.max_jobs, loaded.resource.train.parallel_num) == ("local", 3, 1)
    assert any("dft.task_run_num" in note for note in loaded.notes)


def test_custom_flags_with_and_without_sbatch():
    section = ResourceSection(custom_flags=["#SBATCH --qos=long", "# SBATCH -A me", "--time=10:00", "#SBATCH"])
    assert section.custom_flags == ("--qos=long", "-A me", "--time=10:00")


@pytest.mark.parametrize(
    "flag",
    [
        "-J x",
        "-Jx",
        "--job-name=x",
        "--job-name x",
        "--jo=x",
        "#SBATCH --output=o",
        "-o o",
        "-e e",
        "--error=e",
        "-D /",
        "--chdir=/",
        "-a 1-3",
        "--array=1-3",
        "--requeue",
        "--no-requeue",
        "--parsable",
        "--signal=USR1",
        "--wait",
        "-W",
        "--comment=x",
        "#SBATCH   --COMMENT=x",
    ],
)
def test_options_that_are_ours_are_refused(tmp_path, flag):
    (problem,) = problems(tmp_path, {"DFT": {"custom_flags": ["--qos=a", flag]}})
    assert problem.where.endswith("DFT.custom_flags") and "leave it out" in problem.what


@pytest.mark.parametrize(
    "flag", ["--time=1", "--mem=4G", "--account=a", "--qos=q", "-p x", "--exclusive", "--constraint=a", "-N 1", "--wait-all-nodes=1"]
)
def test_options_that_are_the_users(flag):
    assert owned_option(flag) == ""


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("time", ["30", 30, "1:00:00", "2-12", "1-02:03:04"], ["soon", "1h", True, "1:2:3:4"]),
        ("memory", ["8G", "8gb", 4000, "100M"], ["much", "8 gigs", -1]),
        ("group_size", [1, 20, -1, "5"], [0, -2, 1.5, "x", True]),
        ("cpu_per_node", [1, 64], [0, "many", None]),
    ],
)
def test_values(tmp_path, key, good, bad):
    for value in good:
        load(tmp_path, {"DFT": {key: value}})
    for value in bad:
        if value is None:
            assert load(tmp_path, {"DFT": {key: value}}).resource.dft.cpu_per_node == 1  # null is left out
            continue
        (problem,) = problems(tmp_path, {"DFT": {key: value}})
        assert problem.where.endswith(f"resource.json: DFT.{key}")


def test_memory_has_one_spelling():
    assert [ResourceSection(memory=value).memory for value in ("8gb", "8G", 4000)] == ["8G", "8G", "4000"]


def test_unknown_keys(tmp_path):
    found = problems(tmp_path, {"DFT": {"comand": "vasp"}, "Trian": {"command": "x"}, "schedulr": "local"})
    texts = [str(problem) for problem in found]
    assert any("DFT.comand" in text and "'command'" in text for text in texts)
    assert any("Trian" in text and "'train'" in text for text in texts)
    assert any("schedulr" in text and "'scheduler'" in text for text in texts)
    assert len(texts) == 3


def test_problems_of_both_files_come_together(tmp_path):
    found = problems(tmp_path, {"DFT": {"group_size": 0}}, strategy__model_num=2)
    assert {problem.where.rpartition("/")[2].split(":")[0] for problem in found} == {"param.json", "resource.json"}
    with pytest.raises(InputError) as caught:
        load_run(
            write(tmp_path, "param.json", changed(run_files(tmp_path), "strategy.model_num", 2)), write(tmp_path, "r.json", "{"), tmp_path
        )
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("role", "command", "engine"),
    [
        ("train", "", "embedded"),
        ("train", "pwact-like", "embedded"),
        ("train", "python -m pwact_like train", "embedded"),
        ("train", "MatPL", "matpl"),
        ("train", "/opt/MatPL-2025.3/bin/MatPL", "matpl"),
        ("train", "OMP_NUM_THREADS=4 dp --pt", "deepmd"),
        ("train", "python my_train.py", ""),
        ("explore", "mpirun -np 1 lmp_mpi", "lammps"),
        ("explore", "mpirun -np 4 /opt/bin/lmp", "lammps"),
        ("explore", "lammps.sh", "lammps"),
        ("explore", "lmpx", ""),
        ("explore", "/home/me/lmp/run.sh", ""),
    ],
)
def test_the_engine_follows_from_the_command(role, command, engine):
    assert engine_of_command(role, command) == engine


def test_an_engine_that_no_word_tells_needs_its_name(tmp_path):
    (problem,) = problems(tmp_path, {"train": {"command": "python my_train.py"}})
    assert problem.where.endswith("train.command") and '"engine"' in problem.cure
    loaded = load(tmp_path, {"train": {"command": "run_matpl.sh", "engine": "MatPL"}})
    assert loaded.param.train.engine == "matpl"
    (problem,) = problems(tmp_path, {"train": {"engine": "gpumd"}})
    assert "gpumd" in problem.what


def test_a_program_without_default_command_needs_one(tmp_path):
    settings = run_files(tmp_path)
    (tmp_path / "INCAR").write_text("LWAVE = F\nLCHARG = F\n")
    (tmp_path / "POTCAR").write_text("PAW_PBE Si 05Jan2001\n")
    settings["DFT"] = {"dft_style": "vasp", "input": "INCAR", "pseudo": "POTCAR"}
    param = write(tmp_path, "param.json", settings)
    assert load_run(param, None, tmp_path).param.dft.labelling.engine == "vasp"
    for resource, where in (({"train": {}}, "DFT"), ({"DFT": {"command": " "}}, "DFT.command")):
        with pytest.raises(InputError) as caught:
            load_run(param, write(tmp_path, "resource.json", resource), tmp_path)
        assert caught.value.problems[0].where.endswith(f"resource.json: {where}")


def test_names_of_engines():
    assert canonical("label", " tblite ") == "xtb" and canonical("label", "PWmat") == "pwmat" and canonical("label", "quantum") == ""


@pytest.mark.parametrize("name", ["cpu\n#SBATCH --output=/etc/passwd", "cpu\nrm -rf ~", "a b", "$(id)", "cpu;long"])
def test_a_partition_that_would_be_a_line_of_the_script_is_refused(name):
    with pytest.raises(ValueError, match="no list of partitions"):
        ResourceSection(queue_name=name)


def test_partitions_of_the_field_are_taken():
    assert ResourceSection(queue_name=["3090", "new3-x", "gpu_A100.q"]).queue_name == "3090,new3-x,gpu_A100.q"


@pytest.mark.parametrize(
    "flag",
    ["-p cpu -J vasp", "--qos=a --job-name=x", "-p a -o log", "-k -M all", "--exclusive --array=0-3", "#SBATCH -N 1 --comment 'my job'"],
)
def test_owned_options_behind_others_in_one_line_are_refused(flag):
    """Our jobs had another name then, were taken for lost, and were submitted again: one task ran eight times at once."""
    with pytest.raises(ValueError, match="is set by pwact_like itself"):
        ResourceSection(custom_flags=[flag])


@pytest.mark.parametrize("flag", ["-HJx", "-QJx", "-sJ name"])
def test_short_options_in_one_word_are_refused(flag):
    with pytest.raises(ValueError, match="several options in one word"):
        ResourceSection(custom_flags=[flag])


def test_options_of_one_line_are_taken_one_by_one():
    section = ResourceSection(custom_flags=["-N1 -t30", "#SBATCH --qos=high --mem 4G # for the big ones", "--constraint='a&b'"])
    assert section.custom_flags == ("-N1", "-t30", "--qos=high", "--mem 4G", "--constraint='a&b'")
    with pytest.raises(ValueError, match="both 'time' and --time"):
        ResourceSection(custom_flags=["-N1 -t30"], time="60")


def test_a_quote_that_does_not_close_is_refused():
    with pytest.raises(ValueError, match="quotation"):
        ResourceSection(custom_flags=["--constraint='a"])
