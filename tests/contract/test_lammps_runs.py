"""What only LAMMPS does: its numbers against other programs', the virial of fix external, restarts, early ends, own inputs."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from labeler_contract import run_commands, start_attempt
from lammps_support import (
    LMP,
    TERSOFF,
    deep_potential_files,
    drive_here,
    potentials_folder,
    run_task,
    settings,
    tersoff_file,
)
from support import require_deepmd, require_shared
from test_explorers_kpu import a_request
from test_explorers_kpu import run as run_embedded
from test_explorers_kpu import training as training

from pwact_like.config.lammps_switches import variables_of
from pwact_like.data.lammps_dump import DumpIndex
from pwact_like.engines.explorers import lammps_input
from pwact_like.engines.explorers.lammps import LammpsExplorer
from pwact_like.engines.explorers.lammps_restart import restart_step
from pwact_like.engines.protocols import ExploreRequest, MdSettings
from pwact_like.outcome import Ok
from pwact_like.time_limit import STOP_FILE_VARIABLE
from pwact_like.uncertainty.table import read_table

pytestmark = pytest.mark.engines

if importlib.util.find_spec("lammps") is None and os.environ.get("CI", "").lower() != "true":
    pytest.skip("no lammps: pip install 'pwact-like[lammps]'", allow_module_level=True)

BAR_OF_LAMMPS = 1.6021765e6  # metal units' nktv2p, bar in an eV/Å³ (LAMMPS's src/update.cpp); CODATA's is 8·10⁻⁸ larger
MD = MdSettings("nvt", nsteps=60, trj_freq=10, md_dt_ps=0.001, temp_k=500.0)


@pytest.fixture(scope="module")
def tersoffs(tmp_path_factory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("tersoff")
    return tuple(tersoff_file(folder / f"{index}" / "Si.tersoff", strength) for index, strength in enumerate((1.0, 1.01, 0.98)))


@pytest.fixture(scope="module")
def deep_potentials(tmp_path_factory) -> tuple[Path, ...]:
    return deep_potential_files(tmp_path_factory.mktemp("deep"))


def skewed(left_handed: bool = False) -> Atoms:
    """Sixteen atoms in a cell without a right angle that LAMMPS cannot take as it is; some lie outside of it."""
    atoms = bulk("Si") * (2, 2, 2)
    strain = np.array([[0.03, 0.05, -0.02], [0.01, -0.02, 0.04], [0.02, 0.0, 0.05]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    if left_handed:
        atoms.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
    atoms.rattle(0.1, seed=1)
    return atoms


def own_input(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["units metal", "read_data lmp.config", *lines]) + "\n")
    return path


PRINTED = (
    "compute vir all pressure NULL virial",
    'fix numbers all print 5 "$(step) $(pe:%.16g) $(etotal:%.16g) $(econserve:%.16g) $(c_vir[1]:%.16g) $(c_vir[2]:%.16g) '
    '$(c_vir[3]:%.16g) $(c_vir[4]:%.16g) $(c_vir[5]:%.16g) $(c_vir[6]:%.16g)" file numbers.txt screen no title "#"',
)


@pytest.mark.parametrize("left_handed", [False, True])
def test_the_virial_of_fix_external(tmp_path, deep_potentials, left_handed):
    """Equal to our own on the same structures, and to finite differences of the energy over the cell; NPT conserves what it must."""
    from pwact_like.potentials import load_model

    text = own_input(
        tmp_path / "own.lmps",
        "velocity all create 900 1",
        "timestep 0.001",
        "fix md all npt temp 900 900 0.05 tri 0.0 0.0 0.1",
        *PRINTED,
        "run 100",
    )
    explorer = LammpsExplorer(settings("embedded"))
    request = ExploreRequest(skewed(left_handed), deep_potentials, replace(MD, trj_freq=5), 17, None, lmps_in=text)
    attempt, _, status = run_task(explorer, tmp_path / "task", request)
    assert status == 0 and explorer.outcome(attempt) == Ok()
    model = load_model(deep_potentials[0])
    numbers = np.loadtxt(attempt / "numbers.txt")
    steps = [0, 5, 50, 100]
    frames = explorer.frames(attempt, steps)
    assert np.sign(np.linalg.det(frames[3].cell.array)) == (-1.0 if left_handed else 1.0)
    np.testing.assert_allclose(frames[0].positions, request.atoms.positions, atol=1e-12)
    np.testing.assert_allclose(frames[0].cell.array, request.atoms.cell.array, atol=1e-12)
    for step, frame in zip(steps, frames, strict=True):
        row = numbers[numbers[:, 0] == step][0]
        result = model.compute(frame)
        assert row[1] == pytest.approx(result.energy_ev, rel=1e-12)
        raw = DumpIndex.build(attempt / "traj.lammpstrj").fetch_frames([step])[0].atoms
        turn = np.linalg.solve(raw.cell.array, frame.cell.array)  # a row vector of LAMMPS's frame times this is one of ours
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        virial = turn @ result.virial_ev @ turn.T
        pressures = virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]] / frame.get_volume() * BAR_OF_LAMMPS
        np.testing.assert_allclose(row[4:], pressures, rtol=0, atol=1e-8 * abs(pressures).max())
    # calculus: W = -dE/d(strain)
    frame, slope = frames[1], np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            energies = []
            for sign in (1.0, -1.0):
                strained = frame.copy()
                step = np.eye(3)
                step[i, j] += sign * 1e-5
                strained.set_cell(frame.cell.array @ step, scale_atoms=True)
                energies.append(model.compute(strained).energy_ev)
            slope[i, j] = -(energies[0] - energies[1]) / 2e-5
    raw = DumpIndex.build(attempt / "traj.lammpstrj").fetch_frames([5])[0].atoms
    turn = np.linalg.solve(raw.cell.array, frame.cell.array)
    of_lammps = numbers[numbers[:, 0] == 5][0][4:] / BAR_OF_LAMMPS * frame.get_volume()
    slope = turn @ slope @ turn.T
    np.testing.assert_allclose(of_lammps, slope[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], atol=1e-6 * abs(slope).max())
    # the thermostat's and barostat's conserved quantity would drift with a wrong virial as the energy does
    energy, conserved = numbers[:, 2], numbers[:, 3]
    assert np.ptp(conserved) < 2e-3 * np.ptp(energy)


@pytest.mark.parametrize("left_handed", [False, True])
def test_energy_forces_and_pressure_of_a_pair_style_are_those_of_ase(tmp_path, tersoffs, left_handed):
    from ase.calculators.tersoff import Tersoff

    text = own_input(tmp_path / "own.lmps", "fix md all nve", *PRINTED, "run 0")
    explorer = LammpsExplorer(settings(*TERSOFF))
    request = ExploreRequest(skewed(left_handed), tersoffs, MD, 17, None, lmps_in=text)
    attempt, _, status = run_task(explorer, tmp_path / "task", request)
    assert status == 0, (attempt / "stdout").read_text()
    (frame,) = explorer.frames(attempt, [0])
    frame.calc = Tersoff.from_lammps(str(tersoffs[0]))
    row = np.loadtxt(attempt / "numbers.txt")
    assert row[1] == pytest.approx(frame.get_potential_energy(), rel=1e-9)
    (raw,) = DumpIndex.build(attempt / "traj.lammpstrj").fetch_frames([0])
    turn = np.linalg.solve(raw.atoms.cell.array, frame.cell.array)
    np.testing.assert_allclose(raw.forces @ turn, frame.get_forces(), atol=1e-6)
    pressure = -np.trace(frame.get_stress(voigt=False)) / 3.0 * BAR_OF_LAMMPS
    assert row[4:7].mean() == pytest.approx(pressure, rel=1e-5)


def test_types_follow_the_model_and_not_the_structure(tmp_path):
    """Carbon first in the model, silicon first in the structure."""
    from ase.calculators.tersoff import Tersoff

    file = potentials_folder() / "SiC.tersoff"
    atoms = bulk("SiC", "zincblende", 4.4, cubic=True)
    atoms.rattle(0.08, seed=2)
    explorer = LammpsExplorer(settings(*TERSOFF, elements=(6, 14)))
    request = ExploreRequest(atoms, (file, file), replace(MD, nsteps=0), 17, None)
    attempt, _, status = run_task(explorer, tmp_path / "task", request)
    assert status == 0, (attempt / "stdout").read_text()
    (frame,) = explorer.frames(attempt, [0])
    assert frame.get_chemical_symbols() == atoms.get_chemical_symbols()
    atoms.calc = Tersoff.from_lammps(str(file))
    (raw,) = DumpIndex.build(attempt / "traj.lammpstrj").fetch_frames([0])
    np.testing.assert_allclose(raw.forces, atoms.get_forces(), atol=1e-6)
    assert read_table(attempt / "model_devi.out").value.tolist() == [0.0]  # twice the same model


def test_lennard_jones_in_own_lines_and_free_boundaries(tmp_path):
    """Energy of a pair by hand: 4ε((σ/r)¹² − (σ/r)⁶); the atoms are far outside of any cell."""
    model = tmp_path / "unused"
    model.write_text("")
    explorer = LammpsExplorer(settings("variable file string {model}", "pair_style lj/cut 9.0", "pair_coeff * * 0.01 3.4", elements=(18,)))
    atoms = Atoms("Ar2", positions=[(-70.0, 3.0, 8.0), (-66.2, 3.0, 8.0)])
    request = ExploreRequest(atoms, (model, model), replace(MD, ensemble="nve", nsteps=20, boundary=False, temp_k=1e-3), 17, None)
    attempt, _, status = run_task(explorer, tmp_path / "task", request)
    assert status == 0, (attempt / "stdout").read_text()
    frames = explorer.frames(attempt, [0, 20])
    assert not frames[0].pbc.any() and frames[0].cell.rank == 0
    np.testing.assert_allclose(frames[0].positions, atoms.positions, atol=1e-12)
    rows = [line.split() for line in (attempt / "md.log").read_text().splitlines() if line.split()[:1] == ["0"] and len(line.split()) == 13]
    assert float(rows[0][2]) == pytest.approx(0.04 * ((3.4 / 3.8) ** 12 - (3.4 / 3.8) ** 6), rel=1e-6)
    assert frames[1].get_distance(0, 1) < 3.8  # pulled together


# ---- early ends and restarts ---------------------------------------------------------------------------------------


def test_a_run_that_explodes_counts_with_its_frames(tmp_path, tersoffs):
    explorer = LammpsExplorer(settings(*TERSOFF))
    md = MdSettings("nve", nsteps=2000, trj_freq=2, md_dt_ps=0.02, temp_k=60000.0)
    request = ExploreRequest(bulk("Si", cubic=True), tersoffs, md, 17, None)
    attempt, _, status = run_task(explorer, tmp_path / "task", request)
    assert status == 0, (attempt / "stdout").read_text()
    outcome = explorer.outcome(attempt)
    assert isinstance(outcome, Ok) and "of 1001 frames: ERROR" in outcome.note
    ended = explorer.read(attempt).ended
    steps = read_table(attempt / "model_devi.out").steps
    assert ended.startswith("ERROR") and 1 <= len(steps) < 1001
    assert DumpIndex.build(attempt / "traj.lammpstrj").index.steps.tolist() == steps.tolist()


def test_an_input_that_lammps_refuses_fails_with_its_error(tmp_path, tersoffs):
    explorer = LammpsExplorer(settings("pair_style tersof", "pair_coeff * * {model} {elements}"))
    attempt, _, status = run_task(explorer, tmp_path / "task", ExploreRequest(bulk("Si", cubic=True), tersoffs, MD, 17, None))
    assert status == 1
    assert "Unrecognized pair style 'tersof'" in (attempt / "stdout").read_text().splitlines()[-1]


def test_a_driven_run_that_goes_astray_is_told(tmp_path, deep_potentials):
    explorer = LammpsExplorer(settings("embedded"))
    request = ExploreRequest(bulk("Si", cubic=True), deep_potentials, replace(MD, nsteps=40), 17, upper_level=1e-9)
    attempt, _, status = run_task(explorer, tmp_path / "task", request)
    assert status == 0
    outcome = explorer.outcome(attempt)
    # a perfect crystal has no deviation: the second frame has
    assert isinstance(outcome, Ok) and "2 of 5 frames" in outcome.note and "step 10: the force deviation is" in outcome.note
    assert DumpIndex.build(attempt / "traj.lammpstrj").index.steps.tolist() == [0, 10]


def test_colliding_atoms_end_a_driven_run(tmp_path, deep_potentials):
    atoms = bulk("Si", cubic=True)
    atoms.positions[1] = atoms.positions[0] + 0.2
    explorer = LammpsExplorer(settings("embedded"))
    attempt, _, status = run_task(explorer, tmp_path / "task", ExploreRequest(atoms, deep_potentials, MD, 17, None))
    assert status == 1  # not a frame is left
    assert not (attempt / "md_result.json").exists()


@pytest.mark.parametrize("embedded", [True, False])
@pytest.mark.parametrize("killed", [False, True])
def test_the_next_attempt_goes_on_and_the_whole_is_equal(tmp_path, monkeypatch, deep_potentials, tersoffs, embedded, killed):
    """Stopped for the job's time, or killed in the midst of writing a frame; through the files that the dispatcher carries over."""
    monkeypatch.setattr(lammps_input, "RESTART_STEPS", 25)
    explorer = LammpsExplorer(settings("embedded") if embedded else settings(*TERSOFF))
    models = deep_potentials if embedded else tersoffs
    md = MdSettings("npt-tri", nsteps=120, trj_freq=10, md_dt_ps=0.001, temp_k=500.0, press_bar=0.0)
    request = ExploreRequest(skewed(), models, md, 17, None)
    whole, _, status = run_task(explorer, tmp_path / "whole", request)
    assert status == 0
    (tmp_path / "time_limit").touch()
    monkeypatch.setattr(lammps_input, "LOOK_EVERY_STEPS", 38)
    task = tmp_path / "cut"
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(tmp_path / "time_limit"))
    first, files, status = run_task(explorer, task, request)
    assert status == 75
    assert restart_step(first / "md.restart.stop") == 38 and restart_step(first / "md.restart.1") == 25
    if killed:
        (first / "md.restart.stop").unlink()
        (first / "md.restart.2").write_bytes((first / "md.restart.1").read_bytes()[:-1])  # torn
        with (first / "traj.lammpstrj").open("ab") as stream:
            stream.write((first / "traj.lammpstrj").read_bytes()[:300].replace(b"\n0\n", b"\n40\n", 1))
    monkeypatch.delenv(STOP_FILE_VARIABLE)
    second = start_attempt(task, files, 2)
    commands = explorer.commands("lmp" if embedded else LMP, request)
    assert (drive_here(second, commands) if embedded else run_commands(second, commands)) == 0
    assert ("md.restart.1" if killed else "md.restart.stop") in (second / "begin.lammps").read_text()
    assert explorer.outcome(second) == Ok()
    assert DumpIndex.build(second / "traj.lammpstrj").index.steps.tolist() == list(range(0, 121, 10))
    tables = [read_table(folder / "model_devi.out") for folder in (whole, second)]
    assert tables[1].steps.tolist() == tables[0].steps.tolist() and tables[1].note == ""
    np.testing.assert_allclose(tables[1].value, tables[0].value, rtol=1e-4)
    steps = list(range(0, 121, 10))
    for one, other in zip(explorer.frames(whole, steps), explorer.frames(second, steps), strict=True):
        np.testing.assert_allclose(other.positions, one.positions, atol=1e-6)
        np.testing.assert_allclose(other.cell.array, one.cell.array, atol=1e-6)


def test_a_killed_program_is_tried_again_and_goes_on(tmp_path, monkeypatch, tersoffs):
    """SIGKILL for LAMMPS itself: no early end, but a failure; the next attempt begins behind step 0."""
    explorer = LammpsExplorer(settings(*TERSOFF))
    md = MdSettings("nvt", nsteps=400000, trj_freq=500, md_dt_ps=0.001, temp_k=300.0)
    request = ExploreRequest(bulk("Si", cubic=True), tersoffs[:2], md, 17, None)
    files = explorer.write(tmp_path, request)
    first = start_attempt(tmp_path, files, 1)
    commands = explorer.commands(LMP, request)
    script = "\n".join(f"{{\n{command}\n}} || exit" for command in commands)
    with (first / "stdout").open("wb") as stdout:
        process = subprocess.Popen(["bash", "-c", script], cwd=first, stdout=stdout, stderr=subprocess.STDOUT)
        try:
            while restart_step(first / "md.restart.2") is None and process.poll() is None:
                time.sleep(0.05)
            (victim,) = _programs_in(first)
            os.kill(victim, signal.SIGKILL)
            status = process.wait(timeout=60)
        finally:
            process.kill()
    assert status == 1 and "tells no error" in (first / "stdout").read_text()
    assert not (first / "md_result.json").exists()
    second = start_attempt(tmp_path, files, 2)
    text = (second / "in.lammps").read_text()
    (second / "in.lammps").write_text(text.replace("run 400000 upto", "variable last equal $(step)+600\nrun ${last} upto"))
    assert run_commands(second, commands) == 0, (second / "stdout").read_text()
    assert "resumed equal 1" in (second / "begin.lammps").read_text()
    steps = read_table(second / "model_devi.out").steps
    assert len(steps) > 2 and steps.tolist() == list(range(0, int(steps[-1]) + 1, 500))


def _programs_in(folder: Path) -> list[int]:
    """Processes of the program lmp that work in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder and (entry / "exe").readlink().name == "lmp":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("kind", ["kpu", "relative", "kpu-committee"])
def test_a_model_that_knows_its_errors(tmp_path, training, kind):
    """The same table at the start structure as without LAMMPS; the levels' unit and kind are in it."""
    request = replace(a_request(training, kind), md=replace(MD, nsteps=20, trj_freq=10))
    explorer = LammpsExplorer(settings("embedded"))
    assert explorer.can_kpu and not LammpsExplorer(settings(*TERSOFF)).can_kpu
    attempt, _, status = run_task(explorer, tmp_path / "task", request)
    assert status == 0 and explorer.outcome(attempt) == Ok()
    table = read_table(attempt / "model_devi.out")
    without = read_table(run_embedded(tmp_path / "without", request) / "model_devi.out")
    assert (table.kind, table.unit) == (without.kind, without.unit) and table.steps.tolist() == [0, 10, 20]
    assert table.value[0] == pytest.approx(without.value[0], rel=1e-6)


# ---- the user's own inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["in0.lmps", "in4.lmps", "AuAg/in0.lmps", "AuAg/in5.lmps"])
def test_pwacts_own_inputs_are_run(tmp_path, tersoffs, name):
    """The shipped examples, stale mass, pair and read lines and all; with a potential that pip's LAMMPS has."""
    path = require_shared("pwact-inputs/in_lmps_files") / name
    if name.startswith("AuAg"):
        pair, elements, atoms = ("variable f string {model}", "pair_style zero 4.0", "pair_coeff * *"), (47, 79), bulk("Ag", cubic=True)
        atoms.numbers[2] = 79
    else:
        pair, elements, atoms = TERSOFF, (14,), bulk("Si", cubic=True)
    explorer = LammpsExplorer(settings(*pair, elements=elements))
    request = ExploreRequest(atoms, tersoffs, replace(MD, trj_freq=20), 17, None, lmps_in=path)
    attempt, _, status = run_task(explorer, tmp_path / "task", request)
    assert status == 0, (attempt / "stdout").read_text()
    assert explorer.outcome(attempt) == Ok()
    assert explorer.frames_planned(tmp_path / "task", request.md) == 21
    assert read_table(attempt / "model_devi.out").steps.tolist() == list(range(0, 401, 20))
    (frame,) = explorer.frames(attempt, [400])
    assert (frame.numbers == atoms.numbers).all()
    assert bool(abs(frame.cell.array - atoms.cell.array).max() > 1e-9) == ("npt" in path.read_text())


@pytest.mark.parametrize("pair", [TERSOFF, ("embedded",)])
def test_variables_of_the_command(tmp_path, tersoffs, deep_potentials, pair):
    """As many steps as -var says, in the program and in the embedded potential's driver; -var restart does not stand in our way."""
    text = own_input(tmp_path / "own.lmps", "variable restart index 1", "velocity all create $T 1", "fix md all nve", "run ${N}")
    command = "-v N 20 -var T 300 400 -v restart 0"
    explorer = LammpsExplorer(settings(*pair, lmps_variables=variables_of(f"lmp {command}")))
    models = deep_potentials if explorer.is_embedded else tersoffs[:2]
    request = ExploreRequest(bulk("Si", cubic=True), models, MD, 17, None, lmps_in=text)
    attempt = start_attempt(tmp_path / "task", explorer.write(tmp_path / "task", request), 1)
    program = "lmp" if explorer.is_embedded else LMP
    commands = explorer.commands(f"{program} {command}", request)
    status = drive_here(attempt, commands) if explorer.is_embedded else run_commands(attempt, commands)
    assert status == 0, (attempt / "stdout").read_text()
    assert read_table(attempt / "model_devi.out").steps.tolist() == [0, 10, 20]


def test_a_lost_atom_ends_the_run(tmp_path, tersoffs):
    """An input that lets atoms go: all frames are of the start structure's atoms, and the run ends where the first one is lost."""
    text = own_input(
        tmp_path / "own.lmps",
        "boundary f f f",
        "thermo 10",
        "thermo_modify lost ignore",
        "set atom 1 vx 2000",
        "fix md all nve",
        "run 100",
    )
    explorer = LammpsExplorer(settings(*TERSOFF))
    request = ExploreRequest(bulk("Si", cubic=True), tersoffs[:2], replace(MD, trj_freq=5), 17, None, lmps_in=text)
    attempt, _, status = run_task(explorer, tmp_path / "task", request)
    assert status == 0, (attempt / "stdout").read_text()
    assert "Lost atoms" in explorer.read(attempt).ended
    steps = read_table(attempt / "model_devi.out").steps.tolist()
    assert 0 < steps[-1] < 100 and {len(frame) for frame in explorer.frames(attempt, steps)} == {8}


def test_several_runs_in_one_input(tmp_path, monkeypatch, tersoffs):
    monkeypatch.setattr(lammps_input, "LOOK_EVERY_STEPS", 26)
    text = own_input(
        tmp_path / "own.lmps",
        "velocity all create 300 1",
        "fix heat all nvt temp 300 900 0.05",
        "run 20",
        "unfix heat",
        "fix hot all nvt temp 900 900 0.05",
        "run 30",
    )
    explorer = LammpsExplorer(settings(*TERSOFF))
    request = ExploreRequest(bulk("Si", cubic=True), tersoffs[:2], MD, 17, None, lmps_in=text)
    whole, _, status = run_task(explorer, tmp_path / "whole", request)
    assert status == 0
    assert read_table(whole / "model_devi.out").steps.tolist() == [0, 10, 20, 30, 40, 50]
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(text))
    first, files, status = run_task(explorer, tmp_path / "cut", request)
    assert status == 75 and restart_step(first / "md.restart.stop") == 26
    monkeypatch.delenv(STOP_FILE_VARIABLE)
    second = start_attempt(tmp_path / "cut", files, 2)
    assert run_commands(second, explorer.commands(LMP, request)) == 0, (second / "stdout").read_text()
    assert DumpIndex.build(second / "traj.lammpstrj").index.steps.tolist() == [0, 10, 20, 30, 40, 50]
    ends = [explorer.frames(folder, [50])[0].positions for folder in (whole, second)]
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-6)


@pytest.mark.parametrize("halted_at", [14, 20, 26])
def test_a_command_between_two_runs_is_done_once_and_at_its_step(tmp_path, monkeypatch, tersoffs, halted_at):
    """Wherever the job's time ends: before that step, at it, or after it."""
    monkeypatch.setattr(lammps_input, "LOOK_EVERY_STEPS", halted_at)
    lines = ("velocity all create 300 1", "fix md all nve", "run 20", "change_box all x scale 1.02 remap", "run 20")
    explorer = LammpsExplorer(settings(*TERSOFF))
    own = own_input(tmp_path / "own.lmps", *lines)
    request = ExploreRequest(bulk("Si", cubic=True), tersoffs[:2], MD, 17, None, lmps_in=own)
    whole, _, status = run_task(explorer, tmp_path / "whole", request)
    assert status == 0
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(own))
    first, files, status = run_task(explorer, tmp_path / "cut", request)
    assert status == 75 and restart_step(first / "md.restart.stop") == halted_at
    monkeypatch.delenv(STOP_FILE_VARIABLE)
    second = start_attempt(tmp_path / "cut", files, 2)
    assert run_commands(second, explorer.commands(LMP, request)) == 0, (second / "stdout").read_text()
    ends = [explorer.frames(folder, [30, 40]) for folder in (whole, second)]
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(other.positions, one.positions, atol=1e-6)


def test_a_lammps_without_plumed_is_refused(tmp_path, tersoffs, deep_potentials):
    plumed = tmp_path / "my plumed.dat"
    plumed.write_text("d: DISTANCE ATOMS=1,2\n")
    for pair, models in ((TERSOFF, tersoffs), (("embedded",), deep_potentials)):
        explorer = LammpsExplorer(settings(*pair, lmps_plumed=plumed))
        files = explorer.write(tmp_path / pair[0], request := ExploreRequest(bulk("Si", cubic=True), models, MD, 17, None))
        assert ("plumed.dat", str(plumed)) in files.links and not files.carry
        assert "fix pwl_plumed all plumed plumedfile plumed.dat" in (tmp_path / pair[0] / "in.lammps").read_text()
        attempt = start_attempt(tmp_path / pair[0], files, 1)
        commands = explorer.commands("lmp" if explorer.is_embedded else LMP, request)
        assert run_commands(attempt, commands) == 2
        assert "lmps_plumed" in (attempt / "stdout").read_text().splitlines()[-1]


# ---- DeePMD-kit's pair style ---------------------------------------------------------------------------------------


# what several calls of dp do, with TensorFlow loaded once
DP_CALLS = """
import json, os, sys
import deepmd.tf.entrypoints.main
from deepmd.main import main
for folder, arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        main(arguments)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


def deepmd_models(folder: Path, programs: Path, count: int = 2) -> tuple[Path, ...]:
    """Models of one training step each: rough, and different."""
    data = folder / "data" / "set.000"
    data.mkdir(parents=True)
    atoms = skewed()
    for name, array in (
        ("coord", atoms.positions.reshape(1, -1)),
        ("box", atoms.cell.array.reshape(1, -1)),
        ("energy", np.array([[-60.0]])),
        ("force", np.zeros((1, 3 * len(atoms)))),
    ):
        np.save(data / f"{name}.npy", array)
    (folder / "data" / "type.raw").write_text("0\n" * len(atoms))
    (folder / "data" / "type_map.raw").write_text("Si\n")
    models = []
    for seed in range(1, count + 1):
        place = folder / str(seed)
        place.mkdir()
        descriptor = {"type": "se_e2_a", "sel": [40], "rcut": 4.5, "rcut_smth": 1.0, "neuron": [4, 8], "axis_neuron": 2, "seed": seed}
        settings = {
            "model": {"type_map": ["Si"], "descriptor": descriptor, "fitting_net": {"neuron": [8, 8], "seed": seed}},
            "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-5},
            "loss": {"type": "ener"},
            "training": {"training_data": {"systems": ["../data"], "batch_size": 1}, "numb_steps": 1, "seed": seed},
        }
        (place / "input.json").write_text(json.dumps(settings))
        models.append(place / "model.pb")
    calls = [[str(path.parent), line.split()] for path in models for line in ("train input.json", "freeze -o model.pb")]
    done = subprocess.run(
        [programs / "python", "-c", DP_CALLS, json.dumps(calls)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(models)


def test_the_deviation_that_deepmd_writes_is_that_of_its_models_forces(tmp_path):
    """Its out_file against the forces of each of its models along the same trajectory; a triclinic cell under pressure."""
    programs = require_deepmd("lmp")
    models = deepmd_models(tmp_path, programs)
    explorer = LammpsExplorer(settings("deepmd"))
    request = ExploreRequest(skewed(), models, replace(MD, ensemble="npt-tri", press_bar=0.0, nsteps=20), 17, None)
    files = explorer.write(tmp_path / "task", request)
    attempt = start_attempt(tmp_path / "task", files, 1)
    assert run_commands(attempt, explorer.commands(str(programs / "lmp"), request)) == 0, (attempt / "stdout").read_text()
    assert explorer.outcome(attempt) == Ok()
    table = read_table(attempt / "model_devi.out")
    assert table.steps.tolist() == [0, 10, 20] and table.value.min() > 0.0
    LammpsExplorer(settings("pair_style deepmd {model}", "pair_coeff * * {elements}")).write(attempt, request)
    dumps = []
    for index in range(2):
        assert run_commands(attempt, (f"{programs / 'lmp'} -in rerun.00{index}.lammps -log none",)) == 0
        dumps.append(DumpIndex.build(attempt / f"forces.00{index}.lammpstrj"))
    for row, step in enumerate(table.steps.tolist()):
        forces = np.array([dump.fetch_frames([step])[0].forces for dump in dumps])
        sigma = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
        found = [table.value[row], table.minimum[row], table.mean[row]]
        np.testing.assert_allclose(found, [sigma.max(), sigma.min(), sigma.mean()], rtol=1e-5)
