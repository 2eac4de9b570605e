"""JSON with positions, duplicates, comments; near misses."""

import pytest
from config_files import changed, run_files, write
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pwact_like.config.load import kind_of, load_run
from pwact_like.config.source import edit_distance, nearest, plain, read_json_file
from pwact_like.errors import InputError


def test_a_syntax_error_is_told_with_file_line_and_column(tmp_path):
    path = write(tmp_path, "param.json", '{\n  "a": 1,\n  "b": 2,\n}\n')
    with pytest.raises(InputError) as caught:
        read_json_file(path)
    (problem,) = caught.value.problems
    assert problem.where == f"{path}: line 4, column 1" or problem.where == f"{path}: line 3, column 9"
    assert "comma" in problem.cure


@pytest.mark.parametrize("text", ["{'a': 1}", '{"a": 1 // why\n}', '{"a": True}', '{"a": 1 "b": 2}'])
def test_the_usual_slips_come_with_a_cure(tmp_path, text):
    with pytest.raises(InputError) as caught:
        read_json_file(write(tmp_path, "param.json", text))
    assert caught.value.problems[0].cure


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}'])
def test_nan_is_no_json(tmp_path, text):
    with pytest.raises(InputError, match="no JSON number"):
        read_json_file(write(tmp_path, "param.json", text))


def test_missing_file_folder_and_bytes(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b'{"a": "\xff\xfe"}')
    for path, words in ((tmp_path / "none.json", "no such file"), (tmp_path, "folder"), (tmp_path / "bytes.json", "UTF-8")):
        with pytest.raises(InputError, match=words):
            read_json_file(path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "param.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert plain(read_json_file(path)) == {"a": 1}


def test_keys_that_differ_only_by_case_are_refused(tmp_path):
    settings = run_files(tmp_path)
    text = '{"TRAIN": {"model_type": "DP", "atom_type": [14]},' + write(tmp_path, "x.json", settings).read_text()[1:]
    with pytest.raises(InputError) as caught:
        load_run(write(tmp_path, "param.json", text), work_dir=tmp_path)
    assert "'train'" in str(caught.value) and "'TRAIN'" in str(caught.value)


def test_a_key_given_twice_is_refused(tmp_path):
    settings = run_files(tmp_path)
    text = '{"seed": 1, "seed": 2,' + write(tmp_path, "x.json", settings).read_text()[1:]
    with pytest.raises(InputError, match=r"seed.*twice"):
        load_run(write(tmp_path, "param.json", text), work_dir=tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("devi", "deiv", 1), ("ca", "abc", 3), ("flaw", "lawn", 2)],
)
def test_edit_distance(first, second, distance):
    # textbook values (optimal string alignment: a swap of neighbours is one edit)
    assert edit_distance(first, second) == edit_distance(second, first) == distance


def test_nearest_is_near():
    known = ["temps", "nsteps", "ensemble", "press"]
    assert nearest("tmeps", known) == "temps"
    assert nearest("ensembel", known) == "ensemble"
    assert nearest("walltime", known) == ""
    assert nearest("xy", ["m2", "lr"], limit=2) == ""  # two edits turn any two letters into any two others
    assert nearest("anything", []) == ""


@hypothesis_settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.booleans(), min_size=40, max_size=40))
def test_keys_in_any_case_mean_the_same(tmp_path_factory, flips):
    folder = tmp_path_factory.getbasetemp() / "case"
    settings = run_files(folder)
    plain_param = load_run(write(folder, "plain.json", settings), work_dir=folder).param
    numbers = iter(range(10**6))

    def flip(value):
        if isinstance(value, dict):
            return {
                "".join(c.upper() if flips[next(numbers) % len(flips)] else c.lower() for c in key): flip(item)
                for key, item in value.items()
            }
        return [flip(item) for item in value] if isinstance(value, list) else value

    param = load_run(write(folder, "plain.json", flip(settings)), work_dir=folder).param
    assert param.model_dump(exclude={"train": {"raw"}}) == plain_param.model_dump(exclude={"train": {"raw"}})


def test_which_command_a_file_is_for(tmp_path):
    assert kind_of(write(tmp_path, "a.json", {"Sys_Configs": [], "dft_style": "vasp"})) == "init_bulk"
    assert kind_of(write(tmp_path, "b.json", {"train": {}, "explore": {}, "DFT": {}})) == "run"
    resource = {"train": {"command": "MatPL"}, "DFT": {"command": "vasp"}, "scheduler": "local"}
    for content in (resource, {}, {"a": 1}):
        with pytest.raises(InputError, match="neither"):
            kind_of(write(tmp_path, "c.json", content))
    with pytest.raises(InputError, match="object"):
        kind_of(write(tmp_path, "d.json", [1]))


def test_a_file_of_the_other_command_is_one_clear_error(tmp_path):
    path = write(tmp_path, "init_param.json", {"sys_configs": ["a"], "dft_style": "vasp"})
    with pytest.raises(InputError) as caught:
        load_run(path)
    (problem,) = caught.value.problems
    assert "init_bulk" in problem.what


def test_comments_at_every_level(tmp_path):
    settings = changed(run_files(tmp_path), "DFT._flag", "0 or 3")
    settings = changed(settings, "explore.md_jobs.0._why", {"Deep": 1})
    settings["_work_dir"] = "/nowhere"
    assert load_run(write(tmp_path, "param.json", settings), work_dir=tmp_path).notes
