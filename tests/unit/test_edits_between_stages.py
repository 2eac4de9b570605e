"""What an edit between two starts must not do: read a trajectory by another engine's rules, leave a choice behind, rename a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pwact_like.config.common import SysConfig
from pwact_like.config.run import Explore, MdJob
from pwact_like.engines.explorers.embedded import EmbeddedExplorer
from pwact_like.engines.explorers.lammps import LammpsExplorer
from pwact_like.engines.registry import explorer_that_ran
from pwact_like.engines.trainers.deepmd import DeepmdTrainer
from pwact_like.engines.trainers.mace import MaceTrainer
from pwact_like.engines.trainers.matpl import MatplNepTrainer, MatplTrainer
from pwact_like.engines.trainers.nep import NepTrainer
from pwact_like.errors import InputError
from pwact_like.fsio import write_manifest
from pwact_like.stages.base import Place
from pwact_like.stages.choosing import refuse_begun_choice
from pwact_like.stages.selection import SelectionRequest
from pwact_like.uncertainty.levels import TrustLevels


def explore(engine: str) -> Explore:
    return Explore(engine=engine, sys_configs=(SysConfig(config="x"),), md_jobs=((MdJob(sys_idx=0, nsteps=1, temps=1.0),),))


def test_a_trajectory_is_read_by_the_engine_that_made_it():
    now = EmbeddedExplorer.from_settings(explore("embedded"))
    assert explorer_that_ran(now, explore("embedded"), "embedded") is now
    assert isinstance(explorer_that_ran(now, explore("embedded"), "lammps"), LammpsExplorer)
    lammps = LammpsExplorer(explore("lammps").model_copy(update={"lmps_pair": ("deepmd",)}))
    assert isinstance(explorer_that_ran(lammps, explore("lammps"), "embedded"), EmbeddedExplorer)


def test_a_choice_that_was_begun_is_not_left_behind(tmp_path):
    place, md = Place(tmp_path, 1, 2), tmp_path / "iter.0002/01.explore/md"
    explorer = EmbeddedExplorer.from_settings(explore("embedded"))
    request = SelectionRequest(place, explorer, md, md.parent / "select", TrustLevels(0.1, 0.2), "param.json", 0.1, True, 0.5)
    refuse_begun_choice(request)
    (md.parent / "choice/task").mkdir(parents=True)
    with pytest.raises(InputError, match=r"rewind --to 2:select"):
        refuse_begun_choice(request)
    refuse_begun_choice(replace(request, folder=tmp_path / "iter.0003/01.explore/select"))
    write_manifest(md.parent / "choice", "choice", outputs=[])
    refuse_begun_choice(request)


@pytest.mark.parametrize(
    ("trainer", "good", "bad"),
    [
        (DeepmdTrainer(), "a.pb", "a.pt"),
        (DeepmdTrainer("pytorch"), "a.pth", "a.pb"),
        (MaceTrainer(), "a.model-lammps.pt", "nep.txt"),
        (NepTrainer(), "nep.txt", "a.pb"),
        (MatplTrainer(), "torch_script_module.pt", "nep5.txt"),
        (MatplNepTrainer(), "nep5.txt", "a.pt"),
    ],
)
def test_a_model_of_another_program_is_not_taken_over_under_a_name_of_ours(trainer, good, bad):
    assert trainer.taken_over(Path(good))[trainer.model_file] == Path(good)
    with pytest.raises(InputError):
        trainer.taken_over(Path(bad))
