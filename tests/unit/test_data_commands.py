"""to_pwdata and gather_pwdata, through the launcher."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, require_shared

from pwact_like.cli.main import main
from pwact_like.data.formats import read_frames, write_frames
from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.fsio import write_manifest

DATA = ROOT / "tests" / "data" / "data"


def energies(path: Path) -> list[float]:
    return [frame.label.energy_ev for frame in read_frames(path)]


def long_movement(path: Path, count: int = 10) -> Path:
    """The sample's second frame again and again, with energies −333.0, −333.1, …"""
    frame = "".join((DATA / "MOVEMENT").read_text().splitlines(keepends=True)[33:])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(frame.replace("-0.3336541299E+03", f"-0.3330{number}00000E+03") for number in range(count)))
    return path


@pytest.mark.parametrize("out_format", ["pwmlff/npy", "deepmd/npy", "extxyz"])
def test_to_pwdata_keeps_every_digit(tmp_path, capsys, out_format):
    target = tmp_path / "out"
    status = main(
        ["to_pwdata", "-i", str(DATA / "MOVEMENT"), str(DATA / "OUTCAR"), "-s", str(target), "--out-format", out_format, "-o", "1.0"]
    )
    assert status == 0
    output = capsys.readouterr()
    assert "2 frames in train, 0 in valid" in output.out
    assert "frame 1 left out: ionic step 2: SCF not converged" in output.err
    frames = {frame.label.energy_ev: frame for name in ("MOVEMENT", "OUTCAR") for frame in read_frames(target / name / "train")}
    # the raw lines of the two files
    assert sorted(frames) == [-333.6541299, -333.6541178, -17.20000001, -17.12345678]
    movement, outcar = frames[-333.6541178], frames[-17.12345678]
    lithium = [0, 1] if out_format != "extxyz" else [0, 2]
    np.testing.assert_array_equal(
        movement.label.forces_ev_per_ang[lithium],
        [[0.071173183860090, 0.001850379397468, -0.053513899337771], [-0.025527250499077, 0.027913013923344, 0.055123507322913]],
    )
    assert movement.label.virial_ev[0].tolist() == [-15.3888, 5.32451, 6.98146]
    carbon = 0 if out_format != "extxyz" else 2
    assert outcar.label.forces_ev_per_ang[carbon].tolist() == [-0.001979, 0.087824, 0.059322]
    np.testing.assert_allclose(outcar.atoms.positions[carbon], [0.64526, 0.79215, 0.47428], rtol=0, atol=1e-14)
    assert not (target / "MOVEMENT" / "valid").exists()


def test_to_pwdata_splits_by_ratio_gap_and_seed(tmp_path):
    source = long_movement(tmp_path / "MOVEMENT")

    def convert(*options: str) -> tuple[list[float], list[float]]:
        target = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert main(["to_pwdata", "-i", str(source), "-s", str(target), "--out-format", "extxyz", *options]) == 0
        return energies(target / "MOVEMENT" / "train"), energies(target / "MOVEMENT" / "valid")

    train, valid = convert()
    assert (len(train), len(valid)) == (8, 2)
    assert sorted(train + valid) == sorted(energies(source)) and not set(train) & set(valid)
    assert convert() == (train, valid), "the draw is seeded"
    assert len({tuple(convert("--seed", str(seed))[1]) for seed in range(6)}) > 1
    assert convert("-r", "False") == (energies(source)[:8], energies(source)[8:])
    assert convert("-g", "3", "-o", "0.5", "-r", "false") == (energies(source)[0:6:3], energies(source)[6::3])


def test_to_pwdata_merges_and_tells_apart_inputs_of_the_same_name(tmp_path):
    sources = [long_movement(tmp_path / name / "MOVEMENT", 5) for name in ("a", "b")]
    arguments = ["to_pwdata", "-i", *map(str, sources), "-f", "PWmat/movement"]
    assert main([*arguments, "-s", str(tmp_path / "apart")]) == 0
    assert sorted(path.name for path in (tmp_path / "apart").iterdir()) == ["a_MOVEMENT", "b_MOVEMENT"]
    assert main([*arguments, "-s", str(tmp_path / "merged"), "-m", "True"]) == 0
    assert len(energies(tmp_path / "merged" / "train")) == 8 and len(energies(tmp_path / "merged" / "valid")) == 2
    assert main([*arguments, "-s", str(tmp_path / "merged2"), "-m"]) == 0


def test_to_pwdata_tells_all_that_is_wrong_and_writes_nothing(tmp_path, capsys):
    broken = tmp_path / "MOVEMENT"
    broken.write_text((DATA / "MOVEMENT").read_text()[:-300])
    target = tmp_path / "out"
    assert main(["to_pwdata", "-i", str(broken), str(DATA / "OUTCAR"), "-s", str(target)]) == 2
    assert "MOVEMENT: the file ends too early" in (message := capsys.readouterr().err) and "nothing was written" in message
    assert not target.exists()
    assert main(["to_pwdata", "-i", str(tmp_path / "none"), "-s", str(target), "-o", "0", "-g", "0"]) == 2
    message = capsys.readouterr().err
    assert "no such file" in message and "-o" in message and "-g" in message
    target.mkdir()
    (target / "old").touch()
    assert main(["to_pwdata", "-i", str(DATA / "MOVEMENT"), "-s", str(target)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert main(["to_pwdata", "-i", str(broken), "-s", str(tmp_path / "part"), "--truncated-ok"]) == 0
    assert len(energies(tmp_path / "part" / "MOVEMENT" / "train")) == 1


def test_to_pwdata_warns_of_the_other_sign(tmp_path, capsys):
    source = require_shared("Si64_aimd_pwmat.xyz")
    assert main(["to_pwdata", "-i", str(source), "-s", str(tmp_path / "a"), "-g", "20"]) == 0
    assert "--virial-sign -1" in capsys.readouterr().err
    assert main(["to_pwdata", "-i", str(source), "-s", str(tmp_path / "b"), "-g", "20", "--virial-sign", "-1"]) == 0
    assert capsys.readouterr().err == ""


def campaign(root: Path, data: str = "train.xyz") -> None:
    """Two finished iterations and one that is not."""
    rng = np.random.default_rng(0)
    (root / ".pwact_like").mkdir(parents=True)
    atoms = read_frames(DATA / "MOVEMENT")[0].atoms
    for iteration, count in enumerate((3, 2, 1)):
        frames = [
            Frame(
                atoms, Label(float(rng.normal()), rng.normal(size=(3, 3)), rng.normal(size=(3, 3))), Origin(iteration=iteration, step=step)
            )
            for step in range(count)
        ]
        result = root / f"iter.000{iteration}" / "02.label" / "result"
        write_frames(result / data, frames, "extxyz" if data == "train.xyz" else "pwmlff/npy")
        if iteration == 0:
            write_frames(result / "test" / "train.xyz", frames[:1], "extxyz")
        if iteration < 2:
            names = [str(path.relative_to(result)) for path in result.rglob("*") if path.is_file()]
            write_manifest(result, "labels", outputs=names)


def listed_paths(root: Path) -> list[Path]:
    """The list's lines are what goes between the brackets of init_data, as PWact writes them."""
    text = (root / "final_pwdata" / "final_pwdata_list.txt").read_text()
    return [Path(path) for path in json.loads(f"[{text.rstrip().rstrip(',')}]")]


@pytest.mark.parametrize("data", ["train.xyz", "PWdata"])
def test_gather_pwdata_copies_what_is_finished(tmp_path, capsys, data):
    root = tmp_path / "a campaign"
    campaign(root, data)
    for _ in range(2):  # a second time replaces
        assert main(["gather_pwdata", "-i", str(root)]) == 0
        output = capsys.readouterr().out
        assert "5 frames" in output and "left out, not finished: iter.0002" in output and "never to be trained on" in output
        listed = listed_paths(root)
        assert listed == [root / "final_pwdata" / f"iter.000{number}" / data for number in (0, 1)]
        for number, path in enumerate(listed):
            source = root / f"iter.000{number}" / "02.label" / "result" / data
            assert energies(path) == energies(source)
            pairs = itertools.chain(
                [(source, path)] if source.is_file() else ((one, path / one.relative_to(source)) for one in source.rglob("*.npy"))
            )
            assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)
        assert sorted(path.name for path in root.iterdir() if path.name.startswith((".final", "final"))) == ["final_pwdata"]


def test_gather_pwdata_merges_and_converts(tmp_path, capsys):
    campaign(tmp_path)
    assert main(["gather_pwdata", "-i", str(tmp_path), "-m", "--out-format", "deepmd/npy"]) == 0
    (listed,) = listed_paths(tmp_path)
    expected = [energy for number in (0, 1) for energy in energies(tmp_path / f"iter.000{number}" / "02.label" / "result" / "train.xyz")]
    assert energies(listed) == expected
    assert main(["gather_pwdata", "-i", str(tmp_path), "--out-format", "pwmlff/npy"]) == 0
    assert len(listed_paths(tmp_path)) == 2


def test_gather_pwdata_refuses_what_is_no_campaign_or_not_its_own(tmp_path, capsys):
    assert main(["gather_pwdata", "-i", str(tmp_path)]) == 2
    assert "no iteration with finished labels" in capsys.readouterr().err
    campaign(tmp_path)
    (tmp_path / "final_pwdata").mkdir()
    (tmp_path / "final_pwdata" / "mine").touch()
    assert main(["gather_pwdata", "-i", str(tmp_path)]) == 2
    assert "was not made by this command" in capsys.readouterr().err
    assert (tmp_path / "final_pwdata" / "mine").exists()
