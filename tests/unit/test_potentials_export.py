"""What `pwact-like export` takes and refuses; that DeePMD-kit agrees is told by tests/contract/test_export_deepmd.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
h5py = pytest.importorskip("h5py")

from test_potentials_function import SPEC, rough_model  # noqa: E402

from pwact_like.cli.main import main  # noqa: E402
from pwact_like.potentials import DeepPotSpec  # noqa: E402
from pwact_like.potentials.modelfile import save_model  # noqa: E402


def test_a_model_goes_beside_its_source(tmp_path, capsys):
    save_model(tmp_path / "model.pt", rough_model())
    assert main(["export", str(tmp_path / "model.pt")]) == 0
    assert (tmp_path / "model.dp").is_file()
    said = capsys.readouterr().out
    assert "dp convert-backend" in said and "pair_coeff * * Al Cu" in said and "14 Al, 20 Cu" in said


def test_folders_stand_for_their_models(tmp_path, capsys):
    for name in ("train.000/model.pt", "train.000/member.000.pt", "train.001/model.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_model(tmp_path / name, rough_model())
    assert main(["export", str(tmp_path), "-o", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train.000.model.dp", "train.000.member.000.dp", "train.001.model.dp"}
    said = capsys.readouterr()
    assert "factor" in said.err and "out_file model_devi.out" in said.out
    assert main(["export", str(tmp_path)]) == 2
    assert "need a folder" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "out"), "-o", str(tmp_path)]) == 2
    assert "no model.pt in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fitting", "words"), [((8, 16), "layer 2 of the fitting network (8 → 16)"), ((24, 24), "layer 1"), ((48,), "layer 1")]
)
def test_residual_connections_that_the_tensorflow_route_does_not_know_are_refused(tmp_path, capsys, fitting, words):
    save_model(tmp_path / "model.pt", rough_model(replace(SPEC, fitting=fitting)))  # the descriptor has 24 components
    assert main(["export", str(tmp_path / "model.pt")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "model.dp").exists()


def test_the_name_must_end_in_dp(tmp_path, capsys):
    save_model(tmp_path / "model.pt", rough_model())
    assert main(["export", str(tmp_path / "model.pt"), "-o", str(tmp_path / "model.pb")]) == 2
    assert "suffix" in capsys.readouterr().err


def test_many_elements_fit_into_the_file(tmp_path):
    """HDF5's older form of an attribute ends at 64 kB."""
    save_model(tmp_path / "model.pt", rough_model(DeepPotSpec(tuple(range(1, 15)), 4.0, 1.0, (2, 4), 2, (3,), sel=(4,) * 14)))
    assert main(["export", str(tmp_path / "model.pt")]) == 0
    with h5py.File(tmp_path / "model.dp") as file:
        text = file.attrs["json"]
        assert len(text) > 1 << 16
        networks = json.loads(text)["model"]["descriptor"]["embeddings"]["networks"]
        assert len(networks) == 196 and len(file) > 600
