"""MACE as the big model that labels: a file of weights, in an environment of its own, by the command of resource.json."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from labeler_contract import accept, run_commands, start_attempt
from support import ROOT

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.bigmodel import BigModelLabeler
from pwact_like.engines.protocols import LabelRequest
from pwact_like.outcome import Ok

BIN = os.environ.get("PWACT_LIKE_MACE_BIN", "")
DISPLACEMENT_ANG, STRAIN = 1e-3, 1e-4  # double precision: forces and virial agree to the third order

# Weights as they are drawn, with a short-range repulsion: what is tested is what becomes of its numbers.
MAKE_WEIGHTS = """
import sys, numpy as np, torch
from mace import modules  # before e3nn, which it lets load its constants
from e3nn import o3
torch.manual_seed(1)
torch.set_default_dtype(torch.float64)
block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
model = modules.ScaleShiftMACE(
    r_max=4.0, num_bessel=4, num_polynomial_cutoff=5, max_ell=2, interaction_cls=block, interaction_cls_first=block,
    num_interactions=2, num_elements=1, hidden_irreps=o3.Irreps("8x0e"), MLP_irreps=o3.Irreps("8x0e"), gate=torch.nn.functional.silu,
    atomic_energies=np.array([-5.0]), avg_num_neighbors=4.0, atomic_numbers=[14], correlation=2, pair_repulsion=True,
    atomic_inter_scale=3.0, atomic_inter_shift=0.1,
)
torch.save(model, sys.argv[1])
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A small MACE model of silicon."""
    path = tmp_path_factory.mktemp("weights") / "small.model"
    subprocess.run([f"{BIN}/python", "-c", MAKE_WEIGHTS, str(path)], check=True, capture_output=True)
    return path


def silicon():
    """Two atoms in a sheared cell, off their places."""
    atoms = bulk("Si")
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[-0.03, 0.01, 0], [0, -0.05, 0], [0, 0.02, -0.04]])), scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def moved(atom: int, axis: int, by_ang: float):
    """One coordinate displaced."""
    atoms = silicon()
    atoms.positions[atom, axis] += by_ang
    return atoms


def strained(direction, by: float):
    """Cell and atoms strained."""
    atoms = silicon()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + by * direction), scale_atoms=True)
    return atoms


@pytest.mark.engines
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not BIN, reason="needs program mace_run_train: pip install torch mace-torch in a new environment, its bin folder in PWACT_LIKE_MACE_BIN"
)
def test_mace_s_forces_and_virial_are_derivatives_of_its_energy(tmp_path, weights):
    """All structures go through one task, as a campaign's do: weights linked, MACE's own Python, read back in order."""
    directions = [np.eye(3), np.array([[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]), np.diag([0.0, 0.0, 1.0])]
    places = [(0, 0), (1, 1), (1, 2)]
    structures = [silicon()]
    structures += [moved(*place, sign * DISPLACEMENT_ANG) for place in places for sign in (1, -1)]
    structures += [strained(direction, sign * STRAIN) for direction in directions for sign in (1, -1)]
    options = {"model": "mace", "model_file": str(weights), "device": "cpu", "dtype": "float64"}
    labeler = BigModelLabeler(LabelSettings(dft_style="bigmodel", options=options))
    requests = [LabelRequest("scf", atoms, StageInput(), 7) for atoms in structures]
    task = tmp_path / "a batch"
    files = labeler.write_batch(task, requests)
    attempt = start_attempt(task, files, 1)
    # MACE's environment sees the other packages of the tests' own, but no package that is installed to be edited
    commands = labeler.commands(f"env PYTHONPATH={shlex.quote(str(ROOT))} {BIN}/python -m pwact_like label", requests[0])
    assert run_commands(attempt, commands) == 0, (attempt / "stdout").read_text()
    assert labeler.batch_outcome(attempt) == Ok()
    accept(task, attempt, files)
    frames = labeler.read_batch(task)
    energies = np.array([frame.label.energy_ev for frame in frames])
    forces, virial = frames[0].label.forces_ev_per_ang, frames[0].label.virial_ev
    assert abs(forces).max() > 0.1 and abs(virial).max() > 0.1
    slopes = (energies[1::2] - energies[2::2]) / 2.0
    for (atom, axis), slope in zip(places, slopes[:3], strict=True):
        assert forces[atom, axis] == pytest.approx(-slope / DISPLACEMENT_ANG, abs=1e-4 * abs(forces).max())
    for direction, slope in zip(directions, slopes[3:], strict=True):
        assert (virial * direction).sum() == pytest.approx(-slope / STRAIN, abs=1e-4 * abs(virial).max())
    level = labeler.level_of_theory(StageInput())
    assert level.startswith("bigmodel-mace-") and {frame.level_of_theory for frame in frames} == {level}
