"""Inputs as people spoil them: wrong units, impossible numbers, labels that are no numbers, open boundaries, full disks."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from config_files import bulk_files, run_files

from pwact_like.cli.main import main
from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.data.formats import read_frames, read_labelled, write_frames
from pwact_like.data.frames import Frame, Label
from pwact_like.engines.labelers.cp2k import Cp2kLabeler
from pwact_like.errors import DataError

XYZ = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 energy={energy} pbc="T T T"
Cu 0 0 0 0.1 0 0
Cu 2 2 2 -0.1 0 0
"""


def check(folder: Path, settings: dict[str, Any], resource: dict[str, Any] | None = None) -> int:
    """Exit status of ``check`` on a pair of files."""
    (folder / "param.json").write_text(json.dumps(settings))
    arguments = ["check", str(folder / "param.json"), "--work-dir", str(folder)]
    if resource is not None:
        (folder / "resource.json").write_text(json.dumps(resource))
        arguments.insert(2, str(folder / "resource.json"))
    return main(arguments)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("md_dt", 1, "1 ps are 1000 fs"),
        ("md_dt", 1e300, "ps"),
        ("temps", [300, 1e300], "no temperature for atoms"),
    ],
)
def test_md_of_a_run_in_the_wrong_unit_is_refused(tmp_path: Path, capsys: Any, key: str, value: Any, words: str) -> None:
    settings = run_files(tmp_path)
    settings["explore"]["md_jobs"][0][key] = value
    assert check(tmp_path, settings) == 2
    text = capsys.readouterr().err
    assert f"explore.md_jobs[0].{key}" in text and words in text


def test_levels_and_time_constants_in_the_wrong_unit_are_noted(tmp_path: Path, capsys: Any) -> None:
    settings = run_files(tmp_path)
    settings["strategy"] = {"lower_model_deiv_f": 50, "upper_model_deiv_f": 150}
    settings["explore"]["md_jobs"][0]["taut"] = 100
    assert check(tmp_path, settings) == 0
    text = capsys.readouterr().out
    assert "strategy.upper_model_deiv_f: 150 eV/Å is far above usual levels" in text
    assert "md_jobs[0].taut: it is in ps" in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("scale", [98, 102], "98 is no factor of lattice vectors"),
        ("cell_pert_fraction", 3, "3 % is 0.03"),
        ("atom_pert_distance", 1e300, "less than or equal to 10"),
        ("perturb", 10**30, "less than or equal to 100000"),
        ("super_cell", [10**30, 1, 1], "too large"),
        ("super_cell", [1e999, 1, 1], "give [a, b, c]"),
    ],
)
def test_structures_that_cannot_be_are_refused(tmp_path: Path, capsys: Any, key: str, value: Any, words: str) -> None:
    settings = bulk_files(tmp_path)
    system = settings["sys_configs"]
    (system[0] if isinstance(system, list) else system)[key] = value
    (tmp_path / "param.json").write_text(json.dumps(settings).replace("Infinity", "1e999"))
    assert main(["check", str(tmp_path / "param.json"), "--work-dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "words"), [("md_dt=2", "at most 0.05"), ("nsteps=1e999", "a finite number"), ("temp=1e300", "at most 100000")]
)
def test_labelling_md_in_the_wrong_unit_is_refused(tmp_path: Path, capsys: Any, option: str, words: str) -> None:
    (tmp_path / "cu.xyz").write_text(XYZ.format(energy=-1))
    given = ["calculator=emt", *(text for text in ("temp=300", "nsteps=5") if text.split("=")[0] != option.split("=")[0]), option]
    arguments = [word for text in given for word in ("--set", text)]
    out = str(tmp_path / "out.xyz")
    assert main(["label", str(tmp_path / "cu.xyz"), "--engine", "ase", "--kind", "aimd", *arguments, "-o", out]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("calculator", ["blah", "", "os. system"])
def test_check_refuses_a_calculator_that_is_no_name(tmp_path: Path, capsys: Any, calculator: str) -> None:
    settings = run_files(tmp_path)
    settings["DFT"] = {"dft_style": "ase", "calculator": calculator}
    assert check(tmp_path, settings) == 2
    assert "neither emt nor a dotted name" in capsys.readouterr().err


def test_check_refuses_a_labelling_command_that_does_not_run_the_engine(tmp_path: Path, capsys: Any) -> None:
    settings = run_files(tmp_path)
    resource = {"scheduler": "local", "DFT": {"command": "mpirun vasp_std"}}
    assert check(tmp_path, settings, resource) == 2
    assert "does not run pwact-like" in capsys.readouterr().err


def test_a_text_that_is_too_long_to_be_a_path_is_a_problem_of_the_input(tmp_path: Path, capsys: Any) -> None:
    settings = run_files(tmp_path)
    settings["init_data"] = ["x" * 5000]
    assert check(tmp_path, settings) == 2
    assert "init_data[0]: this is no path, it is too long" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ('{"sys_configs": [1', "the file ends too early"),
        ('{"seed": ' + "9" * 5000 + "}", "a number cannot be read"),
    ],
)
def test_a_broken_settings_file_is_told_as_it_is(tmp_path: Path, capsys: Any, text: str, words: str) -> None:
    (tmp_path / "param.json").write_text(text)
    assert main(["check", str(tmp_path / "param.json")]) == 2
    assert words in capsys.readouterr().err


def test_labels_that_are_no_numbers_are_left_out_and_named(tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "some.xyz"
    source.write_text(XYZ.format(energy=-1) + XYZ.format(energy="nan") + XYZ.format(energy=-2))
    result = read_labelled(source)
    assert [frame.label.energy_ev for frame in result.frames if frame.label] == [-1.0, -2.0]
    assert result.rejected == [(1, "the energy is not finite (nan)")]
    assert main(["to_pwdata", "-i", str(source), "-s", str(tmp_path / "out"), "-o", "1"]) == 0
    assert "frame 1 left out: the energy is not finite" in capsys.readouterr().err


def slab() -> Frame:
    """A structure that is open along z."""
    atoms = Atoms("Cu2", [[0, 0, 0], [1.8, 1.8, 0]], cell=[3.6, 3.6, 5.0], pbc=[True, True, False])
    return Frame(atoms, Label(-1.0, np.zeros((2, 3))))


def test_open_boundaries_survive_pwmlff_npy(tmp_path: Path) -> None:
    write_frames(tmp_path / "data", [slab()], "pwmlff/npy")
    assert read_frames(tmp_path / "data")[0].atoms.pbc.tolist() == [True, True, False]
    crystal = slab()
    crystal.atoms.pbc = True
    write_frames(tmp_path / "data", [crystal], "pwmlff/npy")  # replaces the slab and what said that it is one
    assert read_frames(tmp_path / "data")[0].atoms.pbc.all()
    assert not list((tmp_path / "data").rglob("pbc.npy"))


def test_open_boundaries_are_refused_by_deepmd_npy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="open boundaries have no place in deepmd/npy"):
        write_frames(tmp_path / "data", [slab()], "deepmd/npy")
    assert not (tmp_path / "data").exists()


CP2K_INPUT = """@SET CUT {cutoff}
@SET T {temperature}
&FORCE_EVAL
  &DFT
    &MGRID
      CUTOFF ${{CUT}}
    &END
  &END
&END
&MOTION
  &MD
    STEPS 3
    TEMPERATURE $T
  &END
&END
"""


def test_a_cutoff_in_a_cp2k_variable_is_part_of_the_level_of_theory(tmp_path: Path) -> None:
    labeler = Cp2kLabeler(LabelSettings(dft_style="cp2k", engine="cp2k"))

    def level(cutoff: int, temperature: int) -> str:
        path = tmp_path / f"{cutoff}_{temperature}.inp"
        path.write_text(CP2K_INPUT.format(cutoff=cutoff, temperature=temperature))
        return labeler.level_of_theory(StageInput(input=path))

    assert level(300, 500) != level(600, 500)
    assert level(300, 500) == level(300, 1000)  # a variable of MOTION decides no energy


def test_label_does_not_replace_its_own_structures(tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "cu.xyz"
    source.write_text(XYZ.format(energy=-1))
    assert main(["label", str(source), "--engine", "ase", "--set", "calculator=emt", "-o", str(source)]) == 2
    assert source.read_text() == XYZ.format(energy=-1)
    assert "replace the structures themselves" in capsys.readouterr().err


def test_a_full_disk_is_named_with_its_place(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "cu.xyz"
    source.write_text(XYZ.format(energy=-1))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("pwact_like.data.formats.write_frames", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage if Path(path) == tmp_path else shutil._ntuple_diskusage(9, 0, 1 << 30))
    monkeypatch.chdir(tmp_path)
    assert main(["to_pwdata", "-i", str(source), "-s", "out"]) == 1
    assert f"{tmp_path}: the disk or its quota is full" in capsys.readouterr().err


def test_md_that_died_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    from pwact_like.cli.md import _refuse_overwriting
    from pwact_like.errors import InputError

    (tmp_path / "traj.xyz").write_text("")
    with pytest.raises(InputError, match="a trajectory is here already"):
        _refuse_overwriting(tmp_path)  # somebody's
    (tmp_path / "md.log").write_text("")
    _refuse_overwriting(tmp_path)
    (tmp_path / "md_result.json").write_text("{}")
    with pytest.raises(InputError, match="a trajectory is here already"):
        _refuse_overwriting(tmp_path)  # finished


@pytest.mark.parametrize("format_name", ["pwmlff/npy", "deepmd/npy"])
def test_npy_folders_keep_the_level_of_theory(tmp_path: Path, format_name: str) -> None:
    atoms = Atoms("Cu2", [[0, 0, 0], [1.8, 1.8, 1.8]], cell=[3.6, 3.6, 3.6], pbc=True)
    frames = [Frame(atoms, Label(float(place), np.zeros((2, 3))), level_of_theory=level) for place, level in enumerate(["a-1", "", "b-23"])]
    write_frames(tmp_path / "data", frames, format_name)
    assert [frame.level_of_theory for frame in read_frames(tmp_path / "data")] == ["a-1", "", "b-23"]
    write_frames(tmp_path / "data", frames[1:2], format_name)
    assert [frame.level_of_theory for frame in read_frames(tmp_path / "data")] == [""]


def test_origin_in_extxyz_keeps_its_digits_and_foreign_keys_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "some.xyz"
    seed = 2**63 + 12345
    path.write_text(XYZ.format(energy=f"-1 seed={seed} step=7") + XYZ.format(energy="-2 seed=abc step=nan"))
    first, second = read_frames(path)
    assert (first.origin.seed, first.origin.step) == (seed, 7)
    assert (second.origin.seed, second.origin.step) == (0, 1)


CONFIG = """{count}
LATTICE
 3.6 0 0
 0 3.6 0
 0 0 3.6
POSITION
 29 0.0 0.0 0.0 1 1 1
 {element} 0.5 0.5 0.5 1 1 1
{end}"""


@pytest.mark.parametrize(
    ("count", "element", "words"),
    [(2, "999", "line 8: a position's first column"), (2, "0", "line 8"), (1, "29", "line 8: one position more"), (0, "29", "line 1")],
)
def test_an_atom_config_that_contradicts_itself_is_refused(tmp_path: Path, count: int, element: str, words: str) -> None:
    path = tmp_path / "atom.config"
    path.write_text(CONFIG.format(count=count, element=element, end=""))
    with pytest.raises(DataError, match=words):
        read_frames(path)


@pytest.mark.parametrize("end", ["", "\n", "Force\n 29 0.1 0.1 0.1\n 29 0 0 0\n", " Velocity (bohr/fs)\n 29 0 0 0\n 29 0 0 0\n"])
def test_an_atom_config_may_go_on_after_its_positions(tmp_path: Path, end: str) -> None:
    path = tmp_path / "atom.config"
    path.write_text(CONFIG.format(count=2, element="29", end=end))
    assert len(read_frames(path)[0].atoms) == 2


def test_a_lattice_behind_the_positions_of_an_atom_config_is_read(tmp_path: Path) -> None:
    path = tmp_path / "atom.config"
    path.write_text("1\nPOSITION\n 29 0.5 0 0\nLATTICE\n 3.6 0 0\n 0 3.6 0\n 0 0 3.6\n")
    np.testing.assert_allclose(read_frames(path)[0].atoms.positions, [[1.8, 0, 0]])


def test_a_cp2k_box_that_is_open_gives_no_virial(tmp_path: Path) -> None:
    data = Path(__file__).parents[1] / "data" / "data" / "cp2k_scf"
    text = (data / "cp2k.inp").read_text()
    assert read_labelled(data / "cp2k.out").frames[0].label.virial_ev is not None  # type: ignore[union-attr]
    shutil.copy(data / "cp2k.out", tmp_path)
    (tmp_path / "cp2k.inp").write_text(text.replace("&END CELL", "PERIODIC XY\n    &END CELL", 1))
    assert "PERIODIC XY" in (tmp_path / "cp2k.inp").read_text()
    (frame,) = read_labelled(tmp_path / "cp2k.out").frames
    assert frame.atoms.pbc.tolist() == [True, True, False]
    assert frame.label is not None and frame.label.virial_ev is None


def test_a_cp2k_cell_of_variables_is_named(tmp_path: Path) -> None:
    data = Path(__file__).parents[1] / "data" / "data" / "cp2k_scf"
    shutil.copy(data / "cp2k.out", tmp_path)
    lines = (data / "cp2k.inp").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.split()[:1] == ["A"])
    lines[place] = "A ${L} 0 0"
    (tmp_path / "cp2k.inp").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=rf"line {place + 1}: a cell vector is no number"):
        read_labelled(tmp_path / "cp2k.out")


def test_a_file_where_a_folder_is_wanted_is_no_fault_of_the_program(tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "cu.xyz"
    source.write_text(XYZ.format(energy=-1))
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        assert main(["to_pwdata", "-i", str(source), "-s", str(folder)]) == 2
        text = capsys.readouterr().err
        assert "check the path and its permissions" in text and "Traceback" not in text
