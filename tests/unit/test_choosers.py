"""The choice as a task: its files, what is judged, and the command by hand."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from labeler_contract import run_commands, start_attempt

from pwact_like.cli.main import main
from pwact_like.config.common import DataPath
from pwact_like.data.frames import Frame, Origin
from pwact_like.engines.choosers.choose_run import choose_frames, run_choice_file
from pwact_like.engines.choosers.embedded import EmbeddedChooser
from pwact_like.engines.choosers.files import count_frames, read_indices
from pwact_like.engines.choosers.script import ScriptChooser
from pwact_like.engines.protocols import ChoiceRequest
from pwact_like.errors import DataError, InputError
from pwact_like.outcome import Ok, Reject, Retry


def crystals(scales) -> list:
    found = []
    for number, scale in enumerate(scales):
        atoms = bulk("Cu", a=3.6 * scale, cubic=True)
        atoms.rattle(0.02, seed=number)
        found.append(atoms)
    return found


SCALES = [1.0] * 6 + [1.02] * 3 + [1.1]


def request(**changes) -> ChoiceRequest:
    frames = [Frame(atoms, origin=Origin(step=number)) for number, atoms in enumerate(crystals(SCALES))]
    return ChoiceRequest(**{"frames": frames, "count": 3, "groups": (0,) * 10, "quotas": (10,), **changes})


@pytest.mark.parametrize("method", ["direct", "fps", "entropy"])
def test_the_stretched_crystal_is_always_chosen(tmp_path, method):
    chooser = EmbeddedChooser(method)
    files = chooser.write(tmp_path, request())
    attempt = start_attempt(tmp_path, files, 1)
    assert isinstance(chooser.outcome(attempt), Retry)  # nothing has run
    assert run_choice_file(attempt / "choose.json") == chooser.read(attempt)
    assert chooser.outcome(attempt) == Ok()
    chosen = chooser.read(attempt)
    assert len(chosen) == 3 and 9 in chosen and {0, 1, 2, 3, 4, 5} & set(chosen)
    steps = [int(atoms.info["step"]) for atoms in read(attempt / "select.xyz", index=":")]
    assert steps == chosen


def test_the_command_runs_in_any_folder(tmp_path):
    chooser = EmbeddedChooser("fps")
    write(tmp_path / "known.xyz", crystals([1.0]))
    files = chooser.write(tmp_path / "a folder", request(known=(DataPath(path=tmp_path / "known.xyz"),)))
    attempt = start_attempt(tmp_path / "a folder", files, 1)
    (command,) = chooser.commands("")
    assert sys.executable in command
    assert run_commands(attempt, (command,)) == 0, (attempt / "stdout").read_text()
    assert chooser.read(attempt)[0] == 9  # farthest from what is known


def test_known_frames_are_avoided():
    frames = [Frame(atoms) for atoms in crystals([1.0, 1.1])]
    for method in ("fps", "entropy"):
        assert choose_frames(method, frames, 1, known=[Frame(atoms) for atoms in crystals([1.1])]) == [0]


def test_a_script_is_linked_and_called_as_the_user_says(tmp_path):
    script = tmp_path / "direct.py"
    script.write_text('open("select_idx.dat", "w").write("[4, 1,\\n 7.0]")\n')
    chooser = ScriptChooser(script)
    files = chooser.write(tmp_path / "task", request())
    assert files.links == (("direct.py", str(script)),)
    assert chooser.commands("python direct.py") == ("python direct.py",)
    attempt = start_attempt(tmp_path / "task", files, 1)
    assert run_commands(attempt, chooser.commands("")) == 0
    assert chooser.outcome(attempt) == Ok() and chooser.read(attempt) == [4, 1, 7]
    with pytest.raises(InputError, match="no file"):
        ScriptChooser(tmp_path / "nowhere.py").write(tmp_path / "task", request())


@pytest.mark.parametrize(
    ("text", "what"), [("3\n12\n", "has 10"), ("1\n1\n", "twice"), ("-1", "no number"), ("one", "no number"), ("", "no frame")]
)
def test_a_choice_that_makes_no_sense_is_rejected(tmp_path, text, what):
    chooser = ScriptChooser(tmp_path / "direct.py")
    (tmp_path / "direct.py").write_text("")
    chooser.write(tmp_path / "task", request())
    (tmp_path / "task/select_idx.dat").write_text(text)
    outcome = chooser.outcome(tmp_path / "task")
    assert isinstance(outcome, Reject) and what in outcome.reason


def test_indices_in_many_shapes(tmp_path):
    path = tmp_path / "select_idx.dat"
    path.write_text("# numbers\n1.000000000000000000e+00\n3, 5 # more\n(7)\n")
    assert read_indices(path) == [1, 3, 5, 7]
    write(tmp_path / "frames.xyz", crystals([1.0, 1.0]))
    assert count_frames(tmp_path / "frames.xyz") == 2
    path.write_text("2\nLattice\nCu 0 0 0\n")
    with pytest.raises(DataError):
        count_frames(path)


def test_the_models_descriptors_are_those_that_give_its_energies(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install 'pwact-like[torch]'")
    from pwact_like.potentials import DeepPotential, DeepPotSpec, Potential, save_model
    from pwact_like.potentials.network import fit
    from pwact_like.potentials.surroundings import model_descriptors

    path = tmp_path / "model.pt"
    model = DeepPotential(
        DeepPotSpec(type_map=(11, 17), rmax_ang=4.0, rmin_ang=1.0, sel=(20, 20), embedding=(4, 8), m2=3, fitting=(8, 8)), seed=2
    )
    save_model(path, model)
    structures = [bulk("NaCl", "rocksalt", a=5.0, cubic=True)[[0, 1, 3, 2, 4, 5]], bulk("NaCl", "rocksalt", a=5.2)]
    for atoms, found in zip(structures, model_descriptors(path, structures), strict=True):
        expected = Potential(model).compute(atoms).atomic_energies
        weights = model.weights()
        for index, number in enumerate(atoms.numbers):
            kind = [11, 17].index(int(number))
            energy, _ = fit(weights.fitting[kind], torch.from_numpy(found[index : index + 1]).unsqueeze(0))
            assert float(energy) + float(weights.bias[0, kind]) == pytest.approx(expected[index], abs=1e-10)


def test_by_hand(tmp_path, capsys):
    write(tmp_path / "first.xyz", crystals(SCALES[:5]))
    write(tmp_path / "second.xyz", crystals(SCALES[5:]))
    files = [str(tmp_path / "first.xyz"), str(tmp_path / "second.xyz")]
    out, indices = tmp_path / "select.xyz", tmp_path / "select_idx.dat"
    assert main(["choose", *files, "-n", "3", "-o", str(out), "--indices", str(indices)]) == 0
    numbers = [int(word) for word in indices.read_text().split()]
    assert 9 in numbers and "3 of 10 frames" in capsys.readouterr().out
    everything = [atoms for name in files for atoms in read(name, index=":")]
    for atoms, number in zip(read(out, index=":"), numbers, strict=True):
        np.testing.assert_allclose(atoms.positions, everything[number].positions, atol=1e-7)
    assert main(["choose", *files, "-n", "2", "--every", "3", "-o", str(out), "--indices", str(indices)]) == 0
    assert all(int(word) % 3 == 0 for word in indices.read_text().split())


def test_by_hand_all_that_is_wrong_is_told_at_once(tmp_path, capsys):
    assert main(["choose", str(tmp_path / "nowhere.xyz"), "--method", "direct", "--known", str(tmp_path / "x"), "--model", "no.pt"]) == 2
    text = capsys.readouterr().err
    assert all(word in text for word in ("-n N missing", "-o OUT.xyz missing", "no such file", "does not look", "no.pt"))
    shutil.copy(__file__, tmp_path / "job.json")
    assert main(["choose", str(tmp_path / "job.json")]) != 0
    (tmp_path / "job.json").write_text(json.dumps({"method": "fps"}))
    assert main(["choose", str(tmp_path / "job.json")]) != 0
    assert "not the file of a choice" in capsys.readouterr().err
