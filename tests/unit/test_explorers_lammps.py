"""LAMMPS without LAMMPS: inputs both ways, what is refused, pair styles, cells, restarts, and how a run's end is judged."""

from __future__ import annotations

import hashlib
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from config_files import run_files, write
from lammps_support import settings

from pwact_like.cli.main import main
from pwact_like.config.lammps_switches import variables_of
from pwact_like.config.load import load_run
from pwact_like.engines.explorers import lammps_command, lammps_convert, lammps_finish, lammps_replay, lammps_restart
from pwact_like.engines.explorers.lammps import LammpsExplorer
from pwact_like.engines.explorers.lammps_cell import data_file, to_lower, turn_back
from pwact_like.engines.explorers.lammps_own import OwnInput
from pwact_like.engines.explorers.lammps_pair import pair_style
from pwact_like.engines.explorers.lammps_script import Variables, parse_script, split_words
from pwact_like.engines.explorers.lammps_task import LmpTask
from pwact_like.engines.explorers.md_files import MdResult
from pwact_like.engines.explorers.potential import Assessment, Deviation
from pwact_like.engines.protocols import ExploreRequest, ExploreUncertainty, MdSettings
from pwact_like.errors import InputError, JobError, NotAvailableError, OutOfTimeError
from pwact_like.time_limit import STOP_FILE_VARIABLE
from pwact_like.uncertainty.table import read_table

MD = MdSettings("nvt", nsteps=40, trj_freq=10, md_dt_ps=0.002, temp_k=300.0)
MODELS = (Path("/somewhere/0/graph.pb"), Path("/somewhere/1/graph.pb"))


def request(md: MdSettings = MD, **more) -> ExploreRequest:
    return replace(ExploreRequest(bulk("Si", cubic=True), MODELS, md, 17, None), **more)


def written(tmp_path: Path, explorer: LammpsExplorer, asked: ExploreRequest) -> list[str]:
    explorer.write(tmp_path / "task", asked)
    return (tmp_path / "task" / "in.lammps").read_text().splitlines()


# ---- by keywords ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ensemble", "press", "fix"),
    [
        ("nve", None, "fix md all nve"),
        ("nvt", None, "fix md all nvt temp 300.0 300.0 0.1"),
        ("npt-iso", 10.0, "fix md all npt temp 300.0 300.0 0.1 iso 10.0 10.0 0.5 fixedpoint 0.0 0.0 0.0"),
        ("npt-aniso", -5.0, "fix md all npt temp 300.0 300.0 0.1 aniso -5.0 -5.0 0.5 fixedpoint 0.0 0.0 0.0"),
        ("npt-tri", 0.0, "fix md all npt temp 300.0 300.0 0.1 tri 0.0 0.0 0.5 fixedpoint 0.0 0.0 0.0 flip no"),
    ],
)
def test_the_input_by_keywords(tmp_path, ensemble, press, fix):
    lines = written(
        tmp_path, LammpsExplorer(settings("deepmd", elements=(8, 14))), request(replace(MD, ensemble=ensemble, press_bar=press))
    )
    for line in (
        "units metal",
        "boundary p p p",
        "neigh_modify delay 10",
        "mass 1 15.999",
        "atom_modify map yes",
        "pair_style deepmd model.000.pb model.001.pb out_freq 10 out_file lmp_devi.out",
        "pair_coeff * * O Si",
        'if "${pwl_resumed} == 0" then "velocity all create 300.0 17 mom yes rot no dist gaussian"',
        fix,
        "timestep 0.002",
        "dump pwl_dump all custom 10 traj.lammpstrj id type element xu yu zu fx fy fz",
        "run 40 upto",
    ):
        assert line in lines, line
    assert lines.index("units metal") < lines.index("pair_coeff * * O Si") < lines.index(fix) < lines.index("run 40 upto")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("matpl", ["pair_style matpl model.000.pb model.001.pb out_freq 10 out_file lmp_devi.out", "pair_coeff * * 14 8"]),
        ("matpl/dp", ["pair_style matpl/dp model.000.pb model.001.pb out_freq 10 out_file lmp_devi.out", "pair_coeff * * 14 8"]),
        ("MatPL/NEP", ["pair_style matpl/nep model.000.pb model.001.pb out_freq 10 out_file lmp_devi.out", "pair_coeff * * 14 8"]),
        (
            "mace",
            ["newton on", "atom_modify map yes", "pair_style mace no_domain_decomposition", "pair_coeff * * model.000.pb Si O"],
        ),
        ("nep", ["pair_style nep", "pair_coeff * * model.000.pb Si O"]),
        ("allegro", ["newton on", "pair_style allegro", "pair_coeff * * model.000.pb Si O"]),
    ],
)
def test_pair_styles(tmp_path, name, expected):
    lines = written(tmp_path, LammpsExplorer(settings(name, elements=(14, 8))), request())
    places = [lines.index(line) for line in expected]
    assert places == sorted(places)
    box = next(place for place, line in enumerate(lines) if "read_data" in line)
    for line, place in zip(expected, places, strict=True):
        assert (place < box) == line.startswith(("newton", "atom_modify"))
    # styles that know no deviation are run over the trajectory once a model
    reruns = sorted(path.name for path in (tmp_path / "task").glob("rerun.*.lammps"))
    assert reruns == ([] if "matpl" in name.lower() else ["rerun.000.lammps", "rerun.001.lammps"])
    for index, rerun in enumerate(reruns):
        assert expected[-1].replace("000", f"{index:03d}") in (tmp_path / "task" / rerun).read_text()


def test_own_pair_lines_keep_lammps_s_own_variables():
    style = pair_style(["variable c equal 3.0", "pair_style lj/cut ${c}", "pair_coeff * * {model} {numbers}"], "here")
    assert style.lines(["a", "b"], ["Si", "O"], 5)[1] == ["variable c equal 3.0", "pair_style lj/cut ${c}", "pair_coeff * * a 14 8"]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["depmd"], "neither a known name"),
        (["pair_style x {modell}", "pair_coeff * * {model}"], "{modell}: no such placeholder"),
        (["pair_style x {models}"], "no {out_file}"),
        (["pair_style x"], "the models appear nowhere"),
        (["pair_style x {model}", "run 10"], "'run' belongs to the run"),
        (["pair_style x {models} {out_file}", "pair_coeff {model}"], "exclude each other"),
    ],
)
def test_pair_lines_that_are_wrong(lines, text):
    with pytest.raises(InputError) as caught:
        pair_style(lines, "explore.lmps_pair")
    assert text in str(caught.value)


def test_everything_wrong_with_a_run_is_told_at_once(tmp_path):
    explorer = LammpsExplorer(settings("deepmd", elements=(8,)))
    atoms = bulk("Si", cubic=True)
    atoms.cell = None
    kpu = ExploreUncertainty("kpu", tmp_path / "kpu.pt")
    with pytest.raises(InputError) as caught:
        explorer.write(tmp_path, request(atoms=atoms, uncertainty=kpu))
    text = str(caught.value)
    assert all(part in text for part in ("kpu needs the embedded potential", "no cell", "the model knows no Si"))
    with pytest.raises(InputError, match="periodic"):
        explorer = LammpsExplorer(settings("deepmd"))
        explorer.write(tmp_path, request(replace(MD, ensemble="npt-iso", press_bar=0.0, boundary=False)))


# ---- the user's own inputs -----------------------------------------------------------------------------------------

OWN = """\
# run 7 in a comment, and pair_style too
variable  NSTEPS equal 4*100
variable  restart equal 0
variable  DUMP_FREQ equal 5
variable  T equal 500.0 # a tail
units     metal
boundary  p p p
atom_style atomic
neighbor  1.5 bin
if "${restart} > 0" then "read_restart lmps.restart.*" else "read_data lmp.config"
mass 1 28.086
pair_style matpl a.pt b.pt &
   out_freq ${DUMP_FREQ} &
   out_file model_devi.out
pair_coeff * * 14
compute run all temp
group mass type 1
thermo ${DUMP_FREQ}
dump 3 all custom ${DUMP_FREQ} traj/*.lammpstrj id type x y z
dump_modify 3 flush yes
dump 4 all xyz 1 more.xyz
dump_modify 4 every 2
restart 10000 lmps.restart
if "${restart} == 0" then "velocity all create ${T} 76752"
fix 1 all npt temp $T $T 0.1 iso 1 1 0.5
print "a # in quotes"
run ${NSTEPS} upto
"""


def test_an_own_input_keeps_what_is_not_ours(tmp_path):
    path = tmp_path / "in0.lmps"
    path.write_text(OWN)
    lines = written(tmp_path, LammpsExplorer(settings("deepmd")), request(lmps_in=path))
    for line in (
        "variable restart equal ${pwl_resumed}",
        "variable DUMP_FREQ equal 10",
        "neighbor 1.5 bin",
        'if "${pwl_resumed} > 0" then "read_restart ${pwl_restart}" else "read_data lmp.config"',
        "mass 1 28.085",
        "pair_style deepmd model.000.pb model.001.pb out_freq 10 out_file lmp_devi.out",
        "compute run all temp",
        "group mass type 1",
        "thermo ${DUMP_FREQ}",
        "dump_modify pwl_dump flush yes",
        "fix 1 all npt temp $T $T 0.1 iso 1 1 0.5",
        'print "a # in quotes"',
        "run 400 upto start 0 stop 400",
    ):
        assert lines.count(line) == 1, line
    text = "\n".join(lines)
    assert not any(part in text for part in ("matpl", "28.086", "more.xyz", "lmps.restart", "76752", "every 2", "# a tail"))
    place = next(number for number, line in enumerate(lines) if "velocity all create ${T}" in line)
    assert lines[place - 1].startswith('if "${pwl_resumed} > 0" then "jump SELF') and lines[place + 1].startswith("label")
    assert LammpsExplorer(settings("deepmd")).frames_planned(tmp_path / "task", MD) == 41


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("include other.in", "line 3: include: commands of another file are not seen (put its lines here)"),
        ("label loop", "line 3: label: loops and jumps"),
        ("minimize 1e-4 1e-6 10 10", "line 3: minimize: it is no MD run"),
        ("units real", "line 3: 'units real': the run is in metal units"),
        ("atom_style charge", "line 3: 'atom_style charge'"),
        ("boundary p p f", "line 3: 'boundary p p f': all three directions"),
        ("run ${WHAT}", "line 3: 'run ${WHAT}': how many steps these are cannot be told"),
        ('if "1 > 0" then "run 10"', "line 3: a run inside an if"),
        ('if "1 > 0" then "pair_coeff * *"', "line 3: pair_coeff inside an if"),
        ("${CMD} 1", "line 3: ${CMD}: which command this is cannot be told"),
        ("create_atoms 1 box", "line 3: create_atoms: the frames would no longer be"),
        ('print "never closed', "line 3: a quote"),
        ("dump 1 all atom 5 x\ndump_modify 1 thresh x > 1", "line 4: dump_modify thresh: every frame is needed"),
        ("run 100 every 10 NULL", "line 3: run … every"),
        ("fix 1 all evaporate 10 1 whole 1", "line 3: fix evaporate: the frames would no longer be"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_line(tmp_path, line, text):
    path = tmp_path / "in.lmps"
    path.write_text(f"units metal\nread_data x\n{line}\nrun 10\n")
    with pytest.raises(InputError) as caught:
        OwnInput.read(path)
    assert f"{path}: {text}" in str(caught.value)


NOTED = """\
units metal
read_data x
mass 1 2.014
mass 2 107.87
mass 2 28.0855
variable m equal 15.999
mass 3 $m
dump 1 all custom 5 x id type x y z
dump_modify 1 colname x px flush yes format 4 %.3f
dump 2 all xyz 5 x.xyz
thermo_modify flush yes lost ignore
if "1 > 0" then "thermo_modify lost warn"
run 10
"""


def test_what_an_own_input_loses_is_told_with_its_line(tmp_path, capsys):
    """By check, and in the input: a second dump, isotopes, types in another order, the dump's form, and that lost atoms are passed over."""
    files = run_files(tmp_path)
    write(tmp_path, "noted.in", NOTED)
    files["explore"] |= {"lmps_pair": "embedded", "lmps_in": "noted.in", "md_jobs": [{"sys_idx": 0, "lmps_in_idx": 0}]}
    files["train"]["atom_type"] = ["H", "O", "Si"]
    resource = write(tmp_path, "resource.json", {"explore": {"command": "lmp"}})
    assert main(["check", str(write(tmp_path, "param.json", files)), str(resource), "--work-dir", str(tmp_path)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "noted.in: line" in line]
    expected = {
        3: "mass 1 2.014 is replaced by 1.008, the standard mass of H: no isotope is run",
        5: "mass 2 28.0855 is that of Si, and type 2 is O here",
        7: "mass 3 15.999 is that of O, and type 3 is Si here",
        9: "dump_modify colname x px, format 4 %.3f: left out",
        10: "dump 2 is left out",
        11: "thermo_modify lost is set to error",
        12: "thermo_modify lost is set to error",
    }
    assert len(said) == len(expected)
    for line, what in expected.items():
        assert any(f"noted.in: line {line}: {what}" in one for one in said), (line, said)
    explorer = LammpsExplorer(settings("deepmd", elements=(1, 8, 14)))
    lines = written(tmp_path, explorer, request(lmps_in=tmp_path / "noted.in"))
    assert "thermo_modify flush yes lost error" in lines and 'if "1 > 0" then "thermo_modify lost error"' in lines
    assert "dump_modify pwl_dump flush yes" in lines and not any("colname" in line or "%.3f" in line for line in lines)


def test_variables_of_the_command_are_those_of_the_input(tmp_path):
    """-var gives the number of steps, is passed on to the embedded potential's driver, and never sets what is ours."""
    command = "mpirun -v -np 2 lmp_mpi -v N 30 -var T -5 6 -var restart 0 -var DUMP_FREQ 3 -sf gpu >out"
    given = variables_of(command)
    assert given == (("N", "30"), ("T", "-5", "6"), ("restart", "0"), ("DUMP_FREQ", "3"))
    line = lammps_command.commands_of(command, is_embedded=False, n_reruns=0, plumed=False)[2]
    assert "{ mpirun -v -np 2 lmp_mpi -v N 30 -var T -5 6 -sf gpu >out -in in.lammps" in line
    path = tmp_path / "in.lmps"
    path.write_text('if "${restart} > 0" then "read_restart a" else "read_data x"\nvariable N index 10\nrun ${N}\n')
    lines = written(tmp_path, LammpsExplorer(settings("embedded", lmps_variables=given)), request(lmps_in=path))
    assert "run 30 upto start 0 stop 30" in lines
    assert lines.index("variable restart equal ${pwl_resumed}") < lines.index("variable N index 10")
    assert "variable DUMP_FREQ equal 10" in lines
    assert LmpTask.read(tmp_path / "task").variables == (("N", "30"), ("T", "-5", "6"))
    files = run_files(tmp_path)
    resource = write(tmp_path, "resource.json", {"explore": {"command": command}})
    assert load_run(write(tmp_path, "param.json", files), resource, tmp_path).param.explore.lmps_variables == given


def test_a_variable_of_the_command_that_lammps_would_stumble_over(tmp_path):
    path = tmp_path / "in.lmps"
    path.write_text("read_data x\nvariable N equal 10\nrun ${N}\n")
    with pytest.raises(InputError, match=r"line 2: 'variable N equal 10': -var N of explore.command sets it too"):
        OwnInput.read(path, (("N", "30"),))
    path.write_text("read_data x\nrun ${N}\n")
    with pytest.raises(InputError, match="how many steps these are cannot be told"):
        OwnInput.read(path, (("N", "$STEPS"),))
    with pytest.raises(InputError, match="-var N: a value of the shell's"):
        lammps_command.driver_command('lmp -var N "$STEPS"')


def test_a_task_without_variables_is_the_one_that_it_was(tmp_path):
    task().write(tmp_path)
    assert "variables" not in (tmp_path / "lmp.json").read_text() and LmpTask.read(tmp_path) == task()


def test_an_input_without_structure_or_run_is_refused(tmp_path):
    path = tmp_path / "in.lmps"
    path.write_text("# run 10\n")
    with pytest.raises(InputError) as caught:
        OwnInput.read(path)
    assert "no read_data" in str(caught.value) and "no run" in str(caught.value)


def test_boundaries_and_several_runs_of_an_own_input(tmp_path):
    path = tmp_path / "in.lmps"
    path.write_text("boundary f f f\nread_data x\nfix 1 all nve\nrun 10 post no\nrun 25 start 0\n")
    own = OwnInput.read(path)
    assert own.nsteps == 35 and own.boundary is False
    explorer = LammpsExplorer(settings("deepmd"))
    lines = written(tmp_path, explorer, request(lmps_in=path))
    assert "boundary f f f" in lines and "box tilt large" not in lines
    assert [line for line in lines if line.startswith("run")] == ["run 10 upto post no start 0 stop 10", "run 35 upto start 0 stop 35"]
    assert lines.index("label pwl_after_3") < lines.index("run 35 upto start 0 stop 35")
    assert lines[lines.index("run 35 upto start 0 stop 35") - 1] == 'if "$(step) > 35" then "jump SELF pwl_after_4"'


def test_words_and_variables():
    assert [word.text for word in split_words("a 'b c' \"d # e\" $(1 + 2) # f")] == ["a", "b c", "d # e", "$(1 + 2)"]
    commands = parse_script('one &\ntwo\n\n  # no & here\nprint """a\nb"""\nthree', "x")
    assert [(command.line, command.arguments) for command in commands] == [(1, ("two",)), (5, ("a\nb",)), (7, ())]
    variables = Variables()
    for words in (
        ("N", "equal", "10"),
        ("M", "equal", "v_N*3+$(2^3)"),
        ("i", "index", "4", "5"),
        ("i", "index", "9"),
        ("x", "string", "a"),
    ):
        variables.define(words)
    assert variables.number("${M}") is None  # an immediate inside an expression is LAMMPS's to tell
    variables.define(("M", "equal", "v_N*3+2^3"))
    assert [variables.number(text) for text in ("${M}", "$i", "${x}", "1e3", "$(v_N/4)")] == [38.0, 4.0, None, 1000.0, 2.5]


# ---- cells ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_any_cell_is_a_lammps_cell_times_a_turn(sign):
    cell = np.random.default_rng(3).normal(size=(3, 3)) * 4.0
    cell[2] *= sign * np.sign(np.linalg.det(cell))
    lower, turn = to_lower(cell)
    assert (np.triu(lower, 1) == 0.0).all() and (np.diag(lower) > 0.0).all()
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(lower @ turn, cell, atol=1e-13)
    assert np.linalg.det(turn) == pytest.approx(sign)


def test_a_data_file_read_by_ase(tmp_path):
    """ASE's reader as the other program: cell, elements, masses and distances."""
    from ase.io import read

    atoms = bulk("SiC", "zincblende", 4.4)
    atoms.rattle(0.1, seed=1)
    (tmp_path / "lmp.config").write_text(data_file(atoms, ("C", "Ge", "Si"), True))
    found = read(tmp_path / "lmp.config", format="lammps-data", units="metal", atom_style="atomic")
    assert found.get_chemical_symbols() == atoms.get_chemical_symbols()
    np.testing.assert_allclose(found.cell.lengths(), atoms.cell.lengths(), rtol=1e-12)
    np.testing.assert_allclose(found.cell.angles(), atoms.cell.angles(), rtol=1e-12)
    assert found.get_distance(0, 1, mic=True) == pytest.approx(atoms.get_distance(0, 1, mic=True), rel=1e-10)
    _, turn = to_lower(atoms.cell.array)
    back = turn_back(found, turn, True, atoms.cell.array)
    np.testing.assert_allclose(back.cell.array, atoms.cell.array, atol=1e-12)


# ---- restarts and ends ---------------------------------------------------------------------------------------------


def task(**changes) -> LmpTask:
    rows = tuple(tuple(row) for row in np.eye(3).tolist())
    return replace(LmpTask(("Si",), rows, rows, True, 40, 10, "file", ("model.000.pb", "model.001.pb")), **changes)


def restart_bytes(step: int) -> bytes:
    """The beginning and the end of a restart file of LAMMPS 22 Jul 2025, as it stands on disk."""
    head = b"LammpS RestartT\0" + struct.pack("=ii", 1, 3) + struct.pack("=ii", 0, 12) + b"22 Jul 2025\0"
    for flag, value in ((1, 4), (48, 4), (2, 4), (3, 8)):
        head += struct.pack("=ii", flag, value)
    head += struct.pack("=ii", 4, 6) + b"metal\0" + struct.pack("=iq", 5, step)
    return head + b"\0" * 100 + b"LammpS RestartT\0"


def dump_frame(step: int) -> str:
    return (
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 4\n0 4\n0 4\n"
        "ITEM: ATOMS id type element xu yu zu fx fy fz\n1 1 Si 0 0 0 1 0 0\n2 1 Si 1 1 1 -1 0 0\n"
    )


DEEPMD = """\
#       step         max_devi_v         min_devi_v         avg_devi_v         max_devi_f         min_devi_f         avg_devi_f
           0       7.000000e-03       1.000000e-03       3.000000e-03       5.000000e-02       1.000000e-02       2.000000e-02
          10       7.100000e-03       1.100000e-03       3.100000e-03       5.100000e-02       1.100000e-02       2.100000e-02
          20       7.200000e-03       1.200000e-03       3.200000e-03       5.200000e-02       1.200000e-02       2.200000e-02
"""
MATPL = """\
#    step    avg_devi_f     min_devi_f     max_devi_f     avg_devi_e     min_devi_e     max_devi_e
        0      0.055000      0.001000      0.090000      0.1      0.1      0.1
       10      0.066000      0.001000      0.095000      0.1      0.1      0.1
"""


def test_restart_files(tmp_path):
    path = tmp_path / "md.restart.1"
    path.write_bytes(restart_bytes(1234567))
    assert lammps_restart.restart_step(path) == 1234567
    for content in (restart_bytes(5)[:-1], b"", b"LammpS RestartT\0", b"something else LammpS RestartT\0"):
        path.write_bytes(content)
        assert lammps_restart.restart_step(path) is None
    assert lammps_restart.restart_step(tmp_path / "missing") is None


def test_an_attempt_goes_on_from_the_furthest_whole_restart(tmp_path):
    (tmp_path / "md.restart.1").write_bytes(restart_bytes(20))
    (tmp_path / "md.restart.2").write_bytes(restart_bytes(25)[:-3])
    (tmp_path / "md.restart.stop").write_bytes(restart_bytes(10))
    (tmp_path / "traj.lammpstrj").write_text("".join(map(dump_frame, (0, 10, 20, 30)))[:-7])
    (tmp_path / "lmp_devi.out").write_text(DEEPMD)
    assert lammps_restart.begin(tmp_path, task()) == 20
    assert "variable pwl_restart string md.restart.1" in (tmp_path / "begin.lammps").read_text()
    assert (tmp_path / "traj.lammpstrj").read_text() == dump_frame(0) + dump_frame(10)
    assert not (tmp_path / "lmp_devi.out").exists()
    kind, unit, rows = lammps_restart.joined_rows(tmp_path)
    assert (kind, unit) == ("committee", "eV/Ang")
    assert rows == {0: ((0.05, 0.01, 0.02), (0.007, 0.001, 0.003)), 10: ((0.051, 0.011, 0.021), (0.0071, 0.0011, 0.0031))}


def test_a_restart_without_its_frames_is_of_no_use(tmp_path):
    (tmp_path / "md.restart.1").write_bytes(restart_bytes(40))
    (tmp_path / "traj.lammpstrj").write_text(dump_frame(0) + dump_frame(10))
    assert lammps_restart.begin(tmp_path, task()) is None
    assert "resumed equal 0" in (tmp_path / "begin.lammps").read_text()
    assert not (tmp_path / "traj.lammpstrj").exists() and not (tmp_path / "md.restart.1").exists()


def test_matpl_s_deviations_become_our_table(tmp_path):
    """Its avg_devi_f is max_a σ_a; frames without a row go, a half-written one too."""
    (tmp_path / "traj.lammpstrj").write_text("".join(map(dump_frame, (0, 10, 20, 30)))[:-9])
    (tmp_path / "lmp_devi.out").write_text(MATPL)
    result = lammps_finish.finish(tmp_path, task(), "ERROR: Lost atoms")
    assert result == MdResult("ERROR: Lost atoms", 10, 2, 5)
    table = read_table(tmp_path / "model_devi.out")
    assert table.steps.tolist() == [0, 10] and table.value.tolist() == [0.055, 0.066] and np.isnan(table.mean).all()
    assert (tmp_path / "traj.lammpstrj").read_text() == dump_frame(0) + dump_frame(10)


def test_deepmd_s_deviations_become_our_table(tmp_path):
    (tmp_path / "traj.lammpstrj").write_text("".join(map(dump_frame, (0, 10, 20))))
    (tmp_path / "lmp_devi.out").write_text(DEEPMD)
    result = lammps_finish.finish(tmp_path, task(nsteps=20), "")
    assert result == MdResult("", 20, 3, 3)
    lines = (tmp_path / "model_devi.out").read_text().splitlines()
    assert lines[0] == "# deviation table: kind=committee unit=eV/Ang"
    assert lines[-1].split() == DEEPMD.splitlines()[-1].split()


def test_a_style_that_wrote_fewer_frames_than_planned_is_told(tmp_path):
    (tmp_path / "traj.lammpstrj").write_text("".join(map(dump_frame, (0, 10, 20))))
    (tmp_path / "lmp_devi.out").write_text(DEEPMD)
    assert "2 of 5 frames are missing" in lammps_finish.finish(tmp_path, task(), "").ended


@pytest.mark.parametrize(
    ("status", "step", "log", "verdict"),
    [
        (0, "40", "", ""),
        (0, "30", "", "step 30: the input ended the run before step 40"),
        (1, None, "ERROR: Lost atoms: original 8 current 7\nLast command: run 40\n", "ERROR: Lost atoms: original 8 current 7"),
        (1, None, "ERROR on proc 3: Non-numeric positions\n", "ERROR on proc 3: Non-numeric positions"),
        (139, None, "Step Temp\n", "LAMMPS crashed (SIGSEGV)"),
        (137, None, "Step Temp\n", JobError),
        (143, None, "Step Temp\n", JobError),
        (1, None, "Step Temp\n", JobError),
        (0, None, "quit\n", JobError),
    ],
)
def test_how_a_run_ended(tmp_path, status, step, log, verdict):
    (tmp_path / "md.log").write_text(log)
    if step is not None:
        (tmp_path / "lmp.step").write_text(step + "\n")
    if isinstance(verdict, str):
        assert lammps_finish.how_it_ended(tmp_path, task(), status) == verdict
    else:
        with pytest.raises(verdict):
            lammps_finish.how_it_ended(tmp_path, task(), status)


def test_the_end_of_the_job_s_time_is_no_end_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(tmp_path))
    (tmp_path / "lmp.step").write_text("30\n")
    with pytest.raises(OutOfTimeError):
        lammps_finish.how_it_ended(tmp_path, task(), 0)
    (tmp_path / "lmp.step").write_text("40\n")
    assert lammps_finish.how_it_ended(tmp_path, task(), 0) == ""
    with pytest.raises(OutOfTimeError):  # the runs over the trajectory were left out
        lammps_finish.how_it_ended(tmp_path, task(deviations="rerun"), 0)


# ---- commands and settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("mpirun -np 4 lmp_mpi -in in.lammps", "mpirun -np 4 lmp_mpi"),
        ("lmp -log x.log -sf gpu -i y", "lmp -sf gpu"),
        ("lmp  -in-place  x", "lmp  -in-place  x"),
        ("", "lmp"),
    ],
)
def test_the_user_s_command(command, expected):
    lines = lammps_command.commands_of(command, is_embedded=False, n_reruns=2, plumed=False)
    assert f"{{ {expected} -in in.lammps -log md.log; }}" in lines[2]
    assert [f"rerun.00{index}.lammps" in lines[4 + index] for index in range(2)] == [True, True]
    assert lines[-1].endswith("-m pwact_like lammps end")


def test_flags_of_the_launcher_are_not_taken_for_those_of_lammps():
    """Srun's -l labels lines, and took the word after it, LAMMPS itself, along."""
    for command, left in {
        "srun -l lmp": "srun -l lmp",
        "srun -i none -l lmp_mpi -sf gpu -l my.log -in in.x": "srun -i none -l lmp_mpi -sf gpu",
        "lmp -l my.log": "lmp",
        "my_wrapper.sh -in in.x": "my_wrapper.sh",
    }.items():
        assert lammps_command.without_own_flags(command) == left


def test_the_embedded_potential_takes_lammps_s_place_behind_the_launcher():
    assert lammps_command.driver_command("srun -n 1 /opt/lmp_mpi -sf gpu") == f"srun -n 1 {lammps_command.own_program()}"
    assert lammps_command.driver_command("") == lammps_command.own_program()
    with pytest.raises(InputError, match="no word of"):
        lammps_command.driver_command("my_wrapper.sh")


def test_frames_of_free_boundaries_have_the_start_s_cell():
    atoms = Atoms("H2", positions=[(0, 0, 0), (0, 0, 1)], cell=np.eye(3) * 200, pbc=True)
    frame = turn_back(atoms, np.eye(3), False, np.diag([5.0, 6.0, 7.0]))
    assert not frame.pbc.any() and frame.cell.lengths().tolist() == [5.0, 6.0, 7.0]


def test_the_pair_style_follows_the_trainer(tmp_path):
    files = run_files(tmp_path)
    resource = write(tmp_path, "resource.json", {"explore": {"command": "mpirun -np 2 lmp_mpi"}})

    def load(resource):
        return load_run(write(tmp_path, "param.json", files), resource, tmp_path)

    loaded = load(resource).param
    assert loaded.explore.engine == "lammps" and loaded.explore.lmps_pair == ("embedded",)
    assert loaded.explore.elements == tuple(loaded.train.atom_type)
    files["explore"]["lmps_pair"] = ["pair_style sw", "pair_coeff * * {model} {elements}"]
    assert load(resource).param.explore.lmps_pair == tuple(files["explore"]["lmps_pair"])
    assert any("lmps_pair: without effect" in note for note in load(None).notes)
    assert not load(resource).param.explore.lmps_export
    files["explore"]["lmps_pair"] = "matpl"
    with pytest.raises(InputError, match="matpl cannot read the models of the embedded trainer"):
        load(resource)


def test_embedded_models_are_converted_for_the_pair_style_deepmd(tmp_path, monkeypatch, capsys):
    """What is said before anything runs: a network without a form there, dp that is not to be had."""
    files = run_files(tmp_path)
    files["explore"]["lmps_pair"] = "deepmd"
    there = tmp_path / "with dp" / "bin"
    there.mkdir(parents=True)
    (there / "dp").write_text("#!/bin/sh\n")
    (there / "dp").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SITE", str(there.parent))

    def check(command):
        resource = write(tmp_path, "resource.json", {"explore": {"command": command}})
        return main(["check", str(write(tmp_path, "param.json", files)), str(resource), "--work-dir", str(tmp_path)])

    for command, said in (
        ("mpirun -np 2 lmp_mpi", "here it is not on PATH"),
        ("/nowhere/lmp", "here it is not beside /nowhere/lmp nor on PATH"),
        ("srun -n 1 $SITE/bin/lmp", ""),
    ):
        assert check(command) == 0
        out = capsys.readouterr().out
        assert said in out and ("DeePMD-kit's dp" in out) == bool(said)
    explore = load_run(tmp_path / "param.json", tmp_path / "resource.json", tmp_path).param.explore
    assert explore.lmps_export and explore.lmps_pair == ("deepmd",) and LammpsExplorer(explore).can_kpu
    for widths, odd in (([50, 100, 100, 1], "50 → 100"), ([400, 50, 50, 1], "400 → 400")):
        files["train"]["model"] = {"descriptor": {"M2": 16, "network_size": [25, 25, 25]}, "fitting_net": {"network_size": widths}}
        assert check("lmp") == 2
        assert f"a residual connection ({odd})" in capsys.readouterr().err


def exported(**more) -> LammpsExplorer:
    return LammpsExplorer(settings("deepmd", elements=(8, 14), lmps_export=True, **more))


OURS = (Path("/somewhere/0/model.pt"), Path("/somewhere/1/model.pt"))


def test_the_run_of_a_converted_committee(tmp_path):
    asked = request(models=OURS)
    lines = written(tmp_path, exported(), asked)
    assert lines.count("pair_style deepmd model.000.pb model.001.pb out_freq 10 out_file lmp_devi.out") == 1
    assert "pair_coeff * * O Si" in lines and "atom_modify map yes" in lines
    task = LmpTask.read(tmp_path / "task")
    assert task.deviations == "file" and task.stop_deviation is None
    assert task.conversions == (("model.000.pt", "model.000.pb"), ("model.001.pt", "model.001.pb"))
    files = exported().write(tmp_path / "task", asked)
    assert [name for name, _ in files.links] == ["model.000.pt", "model.001.pt"]
    assert files.carry[:3] == ("converted.json", "model.000.pb", "model.001.pb") and "converted.json" not in files.checkpoints
    link, convert, *rest = exported().commands("mpirun -np 2 ~/dp/bin/lmp -sf gpu", asked)
    assert link.startswith("ln ") and convert.endswith('-m pwact_like lammps convert --lmp "~/dp/bin/lmp"')
    assert "mpirun -np 2 ~/dp/bin/lmp -sf gpu -in in.lammps" in rest[1]
    assert exported().commands("lmp", asked)[1].endswith("lammps convert")


@pytest.mark.parametrize(("kind", "models"), [("kpu", OURS[:1]), ("kpu-committee", OURS)])
def test_a_converted_model_that_knows_its_errors_drives_alone(tmp_path, kind, models):
    """Its uncertainty is ours, after the run: the members are not converted."""
    asked = request(models=models, uncertainty=ExploreUncertainty(kind, Path("/somewhere/0/kpu.pt")), upper_level=0.5)
    lines = written(tmp_path, exported(), asked)
    assert lines.count("pair_style deepmd model.000.pb") == 1
    task = LmpTask.read(tmp_path / "task")
    assert task.deviations == "replay" and task.conversions == (("model.000.pt", "model.000.pb"),)
    assert task.uncertainty == {"kind": kind, "scale": "calibrated"} and task.stop_deviation > 0.5
    with pytest.raises(InputError, match="needs the embedded potential"):
        LammpsExplorer(settings("deepmd", elements=(8, 14))).write(tmp_path / "other", asked)


def conversion_task(folder: Path) -> LmpTask:
    exported().write(folder, request(models=OURS))
    for name in ("model.000.pt", "model.001.pt"):
        (folder / name).write_text(name)
    return LmpTask.read(folder)


def test_a_job_without_dp_says_so(tmp_path, monkeypatch):
    task = conversion_task(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailableError, match="is not beside /nowhere/lmp nor on PATH: give LAMMPS with the folder"):
        lammps_convert.convert(tmp_path, task, "/nowhere/lmp")
    assert not list(tmp_path.glob("*.pb"))


def test_models_are_converted_once_and_again_when_they_change(tmp_path, monkeypatch):
    """A dp that copies; the digests of model and file decide, not their times."""
    task = conversion_task(tmp_path)
    calls = tmp_path / "calls"
    (tmp_path / "dp").write_text(f'#!/bin/sh\n[ "$1" = convert-backend ] || exit 3\necho "$2" >>"{calls}"\ncp "$2" "$3"\n')
    (tmp_path / "dp").chmod(0o755)
    monkeypatch.setattr(lammps_convert, "_export", lambda model, target: target.write_bytes(model.read_bytes()))
    convert = lambda: lammps_convert.convert(tmp_path, task, str(tmp_path / "lmp"))  # noqa: E731
    assert convert() == ["model.000.pb", "model.001.pb"] and (tmp_path / "model.001.pb").read_text() == "model.001.pt"
    assert convert() == []
    (tmp_path / "model.001.pt").write_text("another model")
    assert convert() == ["model.001.pb"] and (tmp_path / "model.001.pb").read_text() == "another model"
    (tmp_path / "model.000.pb").write_text("torn")
    assert convert() == ["model.000.pb"] and (tmp_path / "model.000.pb").read_text() == "model.000.pt"
    (tmp_path / "converted.json").write_text("{")
    assert convert() == ["model.000.pb", "model.001.pb"] and len(calls.read_text().splitlines()) == 6
    (tmp_path / "dp").write_text("#!/bin/sh\necho no such backend >&2\nexit 4\n")
    (tmp_path / "model.000.pb").unlink()
    with pytest.raises(JobError, match=r"(?s)exit status 4.*no such backend"):
        convert()
    (tmp_path / "dp").write_text("#!/bin/sh\n")
    with pytest.raises(JobError, match=r"wrote no model\.000\.pb"):
        convert()
    assert not list(tmp_path.glob("converting.*"))


def test_runs_of_an_exploration_share_what_one_of_them_converted(tmp_path, monkeypatch):
    """Four at once: one conversion; a torn or half-written file is not taken; without a folder to share all is as before."""
    calls, shared = tmp_path / "calls", tmp_path / "shared"
    (tmp_path / "dp").write_text(f'#!/bin/sh\nsleep 0.3\necho "$2" >>"{calls}"\ncp "$2" "$3"\n')
    (tmp_path / "dp").chmod(0o755)
    monkeypatch.setattr(lammps_convert, "_export", lambda model, target: target.write_bytes(model.read_bytes()))

    def convert(name: str, where: Path | None = shared) -> list[str]:
        return lammps_convert.convert(tmp_path / name, conversion_task(tmp_path / name), str(tmp_path / "lmp"), where)

    shared.mkdir()
    digest = hashlib.sha256(b"model.000.pt").hexdigest()
    (shared / ".tmpkilled").write_text("half of")
    (shared / f"{digest[:32]}.{digest[:32]}.pb").write_text("torn")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(convert, ("a", "b", "c", "d")))
    assert sorted(made) == [[], [], [], ["model.000.pb", "model.001.pb"]] and len(calls.read_text().splitlines()) == 2
    assert {(tmp_path / name / "model.000.pb").read_text() for name in "abcd"} == {"model.000.pt"}
    assert convert("a") == [] and convert("e") == []  # an attempt that goes on, and a later run
    for path in shared.iterdir():
        path.write_text("torn")
    assert convert("f") == ["model.000.pb", "model.001.pb"] and convert("g") == []
    (tmp_path / "a file").write_text("")
    assert convert("h", tmp_path / "a file") == convert("i", None) == ["model.000.pb", "model.001.pb"]
    line = exported().commands("lmp", request(models=OURS, shared=tmp_path / "with space"))[1]
    assert line.endswith(f"lammps convert --shared '{tmp_path / 'with space'}'")


def test_check_looks_into_the_pair_lines_and_the_own_inputs(tmp_path, capsys):
    files = run_files(tmp_path)
    resource = write(tmp_path, "resource.json", {"explore": {"command": "lmp"}})
    write(tmp_path, "bad.in", "read_data x\nminimize 1 1 1 1\nrun 5\n")
    files["explore"] |= {"lmps_pair": "depmd", "lmps_in": "bad.in", "md_jobs": [{"sys_idx": 0, "lmps_in_idx": 0}]}
    arguments = ["check", str(write(tmp_path, "param.json", files)), str(resource), "--work-dir", str(tmp_path)]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "depmd: neither a known name" in said and f"{tmp_path / 'bad.in'}: line 2: minimize" in said


# ---- our uncertainty over a finished trajectory -----------------------------------------------------------------------


def replayed(folder: Path, positions: dict[int, np.ndarray], monkeypatch, **changes) -> tuple[str, LmpTask]:
    """A trajectory of two atoms whose uncertainty is told by their distance."""

    class Potential:
        kind, unit = "kpu", "eV/Ang"

        def assess(self, atoms):
            distance = atoms.get_distance(0, 1)
            return Assessment(0.0, np.zeros((2, 3)), np.zeros((3, 3)), Deviation((distance, distance / 2, distance / 4)))

    monkeypatch.setattr(lammps_replay, "potential_for", lambda models, uncertainty: Potential())
    head = "ITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS ff ff ff\n0 90\n0 90\n0 90\nITEM: ATOMS id type element xu yu zu fx fy fz\n"
    frames = (f"ITEM: TIMESTEP\n{step}\n{head}1 1 Si 1 1 1 0 0 0\n2 1 Si 1 1 {1 + place} 0 0 0\n" for step, place in positions.items())
    (folder / "traj.lammpstrj").write_text("".join(frames))
    run = task(deviations="replay", exported=True, boundary=False, models=("model.000.pt",), **changes)
    return lammps_replay.replay(folder, run), run


def test_every_frame_gets_our_uncertainty_after_the_run(tmp_path, monkeypatch):
    (tmp_path / "lmp_devi.out").write_text(DEEPMD)  # of an attempt whose trajectory was begun anew
    ended, run = replayed(tmp_path, {0: 2.0, 10: 2.5, 20: 3.0, 30: 3.5, 40: 4.0}, monkeypatch)
    assert ended == ""
    assert lammps_finish.finish(tmp_path, run, ended, "a note") == MdResult("", 40, 5, 5, "a note") == MdResult.read(tmp_path)
    table = read_table(tmp_path / "model_devi.out")
    assert (table.kind, table.unit) == ("kpu", "eV/Ang")
    assert table.value.tolist() == [2.0, 2.5, 3.0, 3.5, 4.0] and table.mean[1] == 0.625


@pytest.mark.parametrize(
    ("positions", "stop", "said", "n_frames"),
    [
        ({0: 2.0, 10: 0.1, 20: 2.0}, None, "step 10: two atoms are 0.100 Å apart", 1),
        ({0: 2.0, 10: 3.0, 20: 2.0}, 2.9, "step 10: the force deviation is 3 eV/Å (limit 2.9 eV/Å)", 2),
    ],
)
def test_a_trajectory_that_went_astray_counts_up_to_there(tmp_path, monkeypatch, positions, stop, said, n_frames):
    ended, run = replayed(tmp_path, positions, monkeypatch, stop_deviation=stop)
    assert said in ended
    assert lammps_finish.finish(tmp_path, run, ended).frames == n_frames
    assert read_table(tmp_path / "model_devi.out").steps.tolist() == [0, 10][:n_frames]


def test_rows_of_an_earlier_attempt_are_not_made_again(tmp_path, monkeypatch):
    lammps_restart.write_rows(tmp_path / "earlier_devi.out", "kpu", "eV/Ang", {0: ((9.0, 8.0, 7.0), (np.nan,) * 3)})
    ended, run = replayed(tmp_path, {0: 2.0, 10: 2.5}, monkeypatch)
    assert lammps_finish.finish(tmp_path, run, ended).frames == 2
    assert read_table(tmp_path / "model_devi.out").value.tolist() == [9.0, 2.5]
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(tmp_path))
    with pytest.raises(OutOfTimeError, match="step 10 of 40"):
        replayed(tmp_path, {0: 2.0, 10: 2.5}, monkeypatch)


def test_left_out_neighbours_are_told(tmp_path):
    """The counts of a supercell large enough that every neighbour is another atom."""
    torch = pytest.importorskip("torch")
    from pwact_like.potentials import DeepPotential, DeepPotSpec, save_model

    (tmp_path / "traj.lammpstrj").write_text(dump_frame(0) + dump_frame(10))
    run = task(exported=True, models=("model.000.pt",))
    atoms = Atoms("Si2", positions=[[0, 0, 0], [1, 1, 1]], cell=[4, 4, 4], pbc=True)
    around = (atoms * 3).get_all_distances(mic=True)[26]  # twelve Å: images do not come near twice
    expected = int((around < 4.5).sum()) - 1
    for slots, said in ((expected, ""), (expected - 1, f"2 of 2 frames looked at ({expected} Si around an atom at step 10, and slots for")):
        spec = DeepPotSpec((14,), rmax_ang=4.5, rmin_ang=1.0, embedding=(4, 8), m2=2, fitting=(8, 8), sel=(slots,))
        model = DeepPotential(spec, 1, torch.tensor([0.1]), torch.tensor([[0.1, 0.1]]), torch.tensor([-5.0]))
        save_model(tmp_path / "model.000.pt", model)
        note = lammps_replay.slots_note(tmp_path, run)
        assert said in note and bool(note) == bool(said)
