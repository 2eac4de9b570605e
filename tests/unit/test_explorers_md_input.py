"""md.json and the command line of ``pwact-like md``: every problem at once, by hand and from a file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk

from pwact_like.cli.main import main
from pwact_like.data.xyz_trajectory import fetch_steps, steps
from pwact_like.engines.explorers.md_input import from_settings, read_md_json, to_json
from pwact_like.engines.protocols import MdSettings
from pwact_like.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("start.xyz", "model.pt"):
        (tmp_path / name).write_text("")
    return tmp_path


GOOD = {"structure": "start.xyz", "models": ["model.pt"], "ensemble": "nvt", "temp": 300, "nsteps": 10}


def test_what_is_written_is_what_is_read(folder):
    for md in (
        MdSettings("npt-tri", 1000, 20, 0.0005, 450.5, press_bar=-12.5, taut_ps=0.2, taup_ps=1.25),
        MdSettings("nvt", 7, 3, 0.002, 10.0, taut_ps=0.05, boundary=False),
        MdSettings("nve", 0, 1, 0.001, 0.0),
    ):
        (folder / "md.json").write_text(json.dumps(to_json(md, ("model.pt",), 2**31 - 2, 1.5)))
        read = read_md_json(folder / "md.json")
        assert read.md == md
        assert (read.seed, read.stop.deviation, read.structure, read.models) == (
            2**31 - 2,
            1.5,
            folder / "start.xyz",
            (folder / "model.pt",),
        )


def test_defaults_and_pwacts_words(folder):
    read = from_settings({**GOOD, "Ensemble": "NPT", "press": 1, "_comment": 3} | {"ensemble": "NPT"}, folder, "md.json")
    assert read.md == MdSettings("npt-iso", 10, 10, 0.001, 300.0, press_bar=1.0)
    assert (read.stop.deviation, read.stop.distance_ang, read.stop.temp_k, read.stop.volume_ratio) == (None, 0.5, 5000.0, 4.0)
    assert from_settings(GOOD | {"temp": 2000}, folder, "md.json").stop.temp_k == 20000.0
    assert from_settings(GOOD | {"models": "model.pt"}, folder, "md.json").models == (folder / "model.pt",)


def test_all_problems_at_once(folder):
    bad = {
        "structure": "none.xyz",
        "models": ["model.pt", "other.pt"],
        "ensemble": "npt-iso",
        "temp": "hot",
        "nsteps": 10.5,
        "trj_freq": 0,
        "md_dt": -1,
        "tautt": 0.1,
        "boundary": 1,
        "seed": True,
    }
    with pytest.raises(InputError) as caught:
        from_settings(bad, folder, "md.json")
    text = str(caught.value)
    for words in ("none.xyz is missing", "other.pt is missing", "press: the key is missing", "temp:", "nsteps:", "trj_freq:", "md_dt:"):
        assert words in text, words
    assert "did you mean taut?" in text and "boundary:" in text and "seed:" in text
    assert len(caught.value.problems) == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ensemble": "npt-z", "press": 1}, "npt-iso"),
        ({"ensemble": "npt", "press": 1, "boundary": False}, "periodic"),
        ({"temp": 0}, "above 0 K"),
        ({"temp": float("nan")}, "finite"),
        ({"models": []}, "at least one"),
        ({"stop_volume": 0.5}, "above 1"),
    ],
)
def test_single_problems(folder, change, words):
    with pytest.raises(InputError, match=words):
        from_settings(GOOD | change, folder, "md.json")


@pytest.mark.parametrize(("text", "words"), [("{", "not valid JSON"), ("[1]", "object"), (None, "missing")])
def test_files_that_are_none(tmp_path, text, words):
    if text is not None:
        (tmp_path / "md.json").write_text(text)
    with pytest.raises(InputError, match=words):
        read_md_json(tmp_path / "md.json")


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """A folder with a structure and three small models, which is the current one."""
    torch = pytest.importorskip("torch")
    from pwact_like.potentials import DeepPotential, DeepPotSpec, save_model

    place = tmp_path_factory.mktemp("by hand")
    spec = DeepPotSpec((14,), rmax_ang=4.0, rmin_ang=1.0, embedding=(4, 8), m2=2, fitting=(8,), sel=(40,))
    for seed in range(3):
        save_model(place / f"m{seed}.pt", DeepPotential(spec, seed, torch.tensor([0.1]), torch.tensor([[0.1, 0.1]])))
    bulk("Si", cubic=True).write(place / "POSCAR")
    bulk("Cu", cubic=True).write(place / "Cu.vasp")
    return place


def test_a_committee_by_hand(by_hand, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(by_hand)
    out = tmp_path / "out"
    command = ["md", "m0.pt", "m1.pt", "m2.pt", "-s", "POSCAR", "--temp", "300", "--nsteps", "20", "--trj-freq", "5", "-o", str(out)]
    assert main([*command, "--ensemble", "npt-aniso", "--press", "100", "--seed", "3"]) == 0
    assert "5 of 5 frames" in capsys.readouterr().out
    assert steps(out / "traj.xyz") == [0, 5, 10, 15, 20]
    assert np.loadtxt(out / "model_devi.out").shape == (5, 7)
    assert len(fetch_steps(out / "traj.xyz", [20])[0]) == 8
    # another run does not overwrite it
    assert main([*command, "--ensemble", "nvt"]) == 2
    assert "another folder" in capsys.readouterr().err or "already" in capsys.readouterr().err


def test_one_model_by_hand(by_hand, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(by_hand)
    assert main(["MD", "m0.pt", "-s", "POSCAR", "--temp", "300", "--nsteps", "4", "--trj-freq", "2", "-o", str(tmp_path)]) == 0
    assert not (tmp_path / "model_devi.out").exists()
    assert "3 of 3 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m0.pt"], ["structure", "temp", "nsteps"]),
        (["m9.pt", "-s", "POSCAR", "--temp", "1", "--nsteps", "1"], ["m9.pt is missing"]),
        (["m0.pt", "-s", "Cu.vasp", "--temp", "1", "--nsteps", "1"], ["Cu", "does not know"]),
        (["POSCAR", "-s", "POSCAR", "--temp", "1", "--nsteps", "1"], ["POSCAR", "not a file that pwact-like train wrote"]),
        (["md.json", "--temp", "300"], ["md.json says everything itself: --temp"]),
        (["md.json"], ["md.json", "missing"]),
    ],
)
def test_wrong_calls_say_what_is_wrong_and_leave_nothing(by_hand, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(by_hand)
    assert main(["md", *arguments, "-o", str(tmp_path / "out")]) == 2
    complaint = capsys.readouterr().err
    assert all(word in complaint for word in words), complaint
    assert not (tmp_path / "out").exists()
