"""What an edit between two starts must not do: read a trajectory by another engine's rules, leave a choice behind, rename a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pwact_like.config.common import SysConfig
from pwact_like.config.run import Explore, MdJob
from pwact_like.engines.explorers.embedded import EmbeddedExplorer
from pwact_like.engines.explorers.lammps import LammpsExplorer
from pwact_like.engines.registry import explorer_that_ran
from pwact_like.engines.trainers.chgnet import ChgnetTrainer
from pwact_like.engines.trainers.deepmd import DeepmdTrainer
from pwact_like.engines.trainers.embedded import EmbeddedTrainer
from pwact_like.engines.trainers.mace import MaceTrainer
from pwact_like.engines.trainers.matpl import MatplNepTrainer, MatplTrainer
from pwact_like.engines.trainers.nep import NepTrainer
from pwact_like.errors import InputError
from pwact_like.fsio import write_manifest
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.plan import open_plan
from pwact_like.jobs.types import Task
from pwact_like.outcome import TaskFiles
from pwact_like.potentials.spec import CHGNET_FORMAT, FORMAT
from pwact_like.stages.base import Place, TaskMaker
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


def model_file(path: Path, kind: str) -> Path:
    """A model file, as far as its header and one array."""
    with path.open("wb") as stream:
        np.savez(stream, header=np.frombuffer(json.dumps({"format": kind, "version": 1}).encode(), dtype=np.uint8), weights=np.ones(3))
    return path


def test_a_model_is_known_by_its_content_where_two_trainers_name_it_alike(tmp_path):
    ours, chgnet = model_file(tmp_path / "model.pt", FORMAT), model_file(tmp_path / "chgnet.pt", CHGNET_FORMAT)
    assert EmbeddedTrainer().taken_over(ours) == {"model.pt": ours}
    assert ChgnetTrainer().taken_over(chgnet) == {"model.pt": chgnet}
    with pytest.raises(InputError, match="this is a 'pwact_like chgnet', and the trainer embedded goes on with"):
        EmbeddedTrainer().taken_over(chgnet)
    with pytest.raises(InputError, match="this is a 'pwact_like deep potential', and the trainer chgnet goes on with"):
        ChgnetTrainer().taken_over(ours)
    (tmp_path / "cut.pt").write_bytes(ours.read_bytes()[:200])
    with pytest.raises(InputError, match="not a whole file of pwact-like train"):
        EmbeddedTrainer().taken_over(tmp_path / "cut.pt")


def test_a_changed_input_names_the_rewind(tmp_path):
    """A structure choice edited from fps to entropy while its job was open told the user to remove a folder."""
    state, task_folder = tmp_path / ".pwact_like/run", tmp_path / "iter.0002/01.explore/choice/task"
    task_folder.mkdir(parents=True)

    def task(text: str) -> Task:
        (task_folder / "choose.json").write_text(text)
        return TaskMaker(Place(tmp_path, 1, 2), "select")(
            "embedded", task_folder, "direct", ("true",), TaskFiles(inputs=("choose.json",)), 1
        )

    with MasterLock(state) as lock, Journal(state / "journal.sqlite", lock) as journal:
        open_plan(journal, [task("fps")], tmp_path)
        (task_folder / ".attempt/1").mkdir(parents=True)
        (task_folder / ".attempt/1/claim").write_text("")
        with pytest.raises(InputError, match=r"inputs changed since it was begun \(undo the change, or .*pwact-like rewind --to 2:select"):
            open_plan(journal, [task("entropy")], tmp_path)
        open_plan(journal, [task("fps")], tmp_path)
