"""Faults of a campaign that would cost labels, days, or the right answer; each test is named after one."""

from types import SimpleNamespace

import jobs_support
import micro
import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from pwact_like.config.common import DataPath
from pwact_like.errors import BudgetExceededError, InputError, JobError
from pwact_like.fsio import write_json, write_manifest
from pwact_like.jobs.types import TaskState
from pwact_like.outcome import Reject, TaskFiles
from pwact_like.stages.base import Place
from pwact_like.stages.exploration import entry_explored, exploration_folder
from pwact_like.stages.initial_data import InitialDataRequest, InitialDataStage, make_initial_data
from pwact_like.stages.selection import starts_in_test_set
from pwact_like.stages.training import TrainingStage
from pwact_like.uncertainty.levels import FrameClass
from pwact_like.workflows.convergence import IterationFacts, next_entry
from pwact_like.workflows.driver import Driver
from pwact_like.workflows.session import give_another_round, promise_another_round
from pwact_like.workflows.start import claim, refuse_foreign


def request_of(folder, *names, seed=1, **changes):
    paths = tuple(DataPath(path=folder / name) for name in names)
    fields = {"init_data": paths, "valid_data": (), "test_data": (), "test_share": 0.3, "seed": seed}
    fields |= {"allow_mixed_theory": False, "label_theory": "", "elements": (29,)}
    return InitialDataRequest(folder=folder / "dataset", **(fields | changes))


def in_this_process(function, *arguments):
    return function(*arguments)


# ---- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_frame_named_twice_is_not_split_into_train_and_test(tmp_path, seed):
    write(tmp_path / "a.xyz", micro.copper_frames(6, seed=5), format="extxyz")
    facts = make_initial_data(request_of(tmp_path, "a.xyz", "a.xyz", seed=seed))
    assert facts["frames"]["train"] + facts["frames"]["test"] == 6 and facts["repeated"] == 6


def test_what_tells_how_wrong_a_model_is_was_never_trained_on(tmp_path):
    # held out anew at every training, validation frames were among those that the model had been warm-started from
    write(tmp_path / "a.xyz", micro.copper_frames(12, seed=5), format="extxyz")
    request = request_of(tmp_path, "a.xyz", valid_share=0.1, test_share=0.0)
    assert make_initial_data(request)["frames"] == {"train": 10, "valid": 2, "test": 0}  # 10 % would be one: too few to calibrate
    first = (tmp_path / "dataset/valid.xyz").read_text()
    make_initial_data(request)
    assert (tmp_path / "dataset/valid.xyz").read_text() == first
    write(tmp_path / "v.xyz", micro.copper_frames(3, seed=8), format="extxyz")
    given = request_of(tmp_path, "a.xyz", valid_share=0.1, test_share=0.0, valid_data=(DataPath(path=tmp_path / "v.xyz"),))
    assert make_initial_data(given)["frames"] == {"train": 12, "valid": 3, "test": 0}


def test_data_added_after_the_sets_were_made_are_not_ignored_without_a_word(tmp_path):
    write(tmp_path / "a.xyz", micro.copper_frames(4, seed=5), format="extxyz")
    write(tmp_path / "b.xyz", micro.copper_frames(5, seed=6), format="extxyz")
    place = Place(tmp_path, 1)
    InitialDataStage(place, request_of(tmp_path, "a.xyz"), in_this_process).collect({})
    (tmp_path / "a.xyz").rename(tmp_path / "moved.xyz")
    InitialDataStage(place, request_of(tmp_path, "moved.xyz"), in_this_process).refuse_new_sources()
    with pytest.raises(InputError, match=r"b\.xyz was added"):
        InitialDataStage(place, request_of(tmp_path, "moved.xyz", "b.xyz"), in_this_process).refuse_new_sources()


def test_a_start_structure_of_the_test_set_is_not_labelled_for_training(tmp_path):
    known, other = micro.copper_frames(2, seed=5)
    write(tmp_path / "test.xyz", [known], format="extxyz")
    starts = {"a": Atoms(known.numbers, known.positions + known.cell[0], cell=known.cell, pbc=True), "b": other}
    request = SimpleNamespace(
        test_data=(DataPath(path=tmp_path / "test.xyz"),),
        place=Place(tmp_path, 1),
        explorer=SimpleNamespace(frames=lambda folder, steps: [starts[folder.name]]),
    )
    pool = SimpleNamespace(steps=np.array([0, 2, 0, 2]), trajectory=np.array([0, 0, 1, 1]), eligible=np.ones(4, dtype=bool))
    classes = np.full(4, FrameClass.CANDIDATE)
    rows = [{"trajectory": "a/traj.xyz"}, {"trajectory": "b/traj.xyz"}]
    assert starts_in_test_set(request, pool, classes, rows).tolist() == [True, False, False, False]


# ---- folders ----------------------------------------------------------------------------------------------------------


def test_the_users_own_folder_dataset_is_not_overwritten(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "train.xyz").write_text("months of work")
    with pytest.raises(InputError, match="not made by pwact_like"):
        refuse_foreign(tmp_path)


def test_pwacts_iterations_are_not_adopted(tmp_path):
    (tmp_path / "iter.0000" / "00.train").mkdir(parents=True)
    with pytest.raises(InputError, match="another campaign"):
        refuse_foreign(tmp_path)


def test_a_campaign_killed_while_it_made_its_data_sets_goes_on(tmp_path):
    refuse_foreign(tmp_path)
    claim(tmp_path)
    (tmp_path / "dataset" / "train.xyz").write_text("half of them")
    refuse_foreign(tmp_path)
    write_manifest(tmp_path / "dataset", "dataset")
    (tmp_path / "iter.0000").mkdir()
    refuse_foreign(tmp_path)


# ---- edited settings --------------------------------------------------------------------------------------------------


def test_what_was_explored_stays_what_it_was_when_the_rules_are_edited(tmp_path):
    place = Place(tmp_path, 1, 1)
    assert entry_explored(place) is None
    write_manifest(exploration_folder(place), "trajectories", facts={"entry": 1, "trajectories": []})
    assert entry_explored(place) == 1
    history = [IterationFacts(0, 10, 0, 3, 0.1), IterationFacts(5, 10, 0, 3, 0.1)]
    assert next_entry(history, 2, None).entry is None  # md_jobs was shortened


class NamesOnly:
    """A trainer that writes nothing."""

    name, model_file, can_judge = "none", "model.pt", False

    def __init__(self):
        self.starts = []

    def write(self, folder, request):
        self.starts.append(request.init_model)
        folder.mkdir(parents=True, exist_ok=True)
        return TaskFiles(outputs=("model.pt",))

    def commands(self, command, request):
        return ("true",)

    def version(self):
        return ""


def training(folder, iteration, members, previous, **changes):
    return TrainingStage(Place(folder, 1, iteration), NamesOnly(), None, "", members, (), (), (), init_models=previous, **changes)


def test_an_edited_model_num_takes_the_models_that_there_are(tmp_path):
    before = training(tmp_path, 0, 3, ())
    write_manifest(before.folder, "models", facts={"models": [f"train.{member:03d}/model.pt" for member in range(3)]})
    assert training(tmp_path, 0, 4, ()).models == before.models and len(before.models) == 3
    stage = training(tmp_path, 1, 4, before.models)
    stage.plan()
    assert stage.trainer.starts == [*before.models, None]
    with pytest.raises(InputError, match="model_num"):
        training(tmp_path, 1, 4, before.models, skip_training=True).plan()


# ---- convergence ------------------------------------------------------------------------------------------------------


def test_a_rising_error_is_no_plateau():
    rule = SimpleNamespace(accurate_fraction=0.9, force_rmse_target=None, plateau=0.05, max_repeats=3)

    def after(last):
        return next_entry([IterationFacts(0, 100, 95, 5, 0.10), IterationFacts(0, 100, 95, 5, last)], 1, rule)

    assert after(0.104).state == "converged"
    assert after(0.2).entry == 0 and "risen" in after(0.2).reason


# ---- failed tasks -----------------------------------------------------------------------------------------------------


class OneStage:
    """A stage of given tasks, all of which must succeed."""

    name, finished = "label", False

    def __init__(self, tasks, judge=jobs_support.always_ok):
        self.tasks, self.judge = tasks, judge

    def plan(self):
        return self.tasks

    def collect(self, results):
        if any(result.state is TaskState.FAILED for result in results.values()):
            raise BudgetExceededError("too many")


def drive(folder, stage):
    with jobs_support.campaign(folder) as campaign:
        give_another_round(campaign.journal)
        driver = Driver(
            campaign.dispatcher,
            lambda *_: None,
            on_give_up=lambda tasks: promise_another_round(campaign.journal, campaign.dispatcher.resource, tasks),
        )
        try:
            driver(stage)
        except (BudgetExceededError, JobError):
            return campaign.dispatcher.counts()["failed"]
        return 0


def test_failed_tasks_are_tried_again_when_the_cause_is_mended(tmp_path):
    # "mend the cause and start again" did nothing: tasks out of attempts stayed failed for ever
    good = jobs_support.make_task(tmp_path / "good", "touch out")
    bad = jobs_support.make_task(tmp_path / "bad", f"test -e '{tmp_path}/mended'", "touch out")
    assert drive(tmp_path, OneStage([good, bad])) == 1
    assert [len(jobs_support.executions(task)) for task in (good, bad)] == [1, 3]
    (tmp_path / "mended").touch()
    assert drive(tmp_path, OneStage([good, bad])) == 0
    assert [len(jobs_support.executions(task)) for task in (good, bad)] == [1, 4]


def test_what_its_engine_rejected_is_not_tried_again_unchanged(tmp_path):
    task = jobs_support.make_task(tmp_path / "scf", "touch out")
    stage = OneStage([task], judge=lambda *_: Reject("the SCF did not converge"))
    assert drive(tmp_path, stage) == 1 and drive(tmp_path, stage) == 1
    assert len(jobs_support.executions(task)) == 1


# ---- the first minute -------------------------------------------------------------------------------------------------


def test_what_the_last_stage_refuses_is_told_before_the_first_training(tmp_path):
    param, resource = micro.write_campaign(tmp_path)
    write_json(resource, {"scheduler": "local", "DFT": {"command": "mpirun vasp_std"}})
    done = micro.pwact_like(tmp_path, "run", param.name, resource.name)
    assert done.returncode == 2 and "does not run pwact-like" in done.stderr
    assert not list(tmp_path.glob("iter.*")) and not (tmp_path / "dataset").exists()


def test_a_structure_of_unknown_elements_is_told_before_the_first_training(tmp_path):
    param, resource = micro.write_campaign(tmp_path)
    write(tmp_path / "start.xyz", Atoms("CuNi", positions=[[0, 0, 0], [1.8, 1.8, 0]], cell=[3.6] * 3, pbc=True), format="extxyz")
    done = micro.pwact_like(tmp_path, "run", param.name, resource.name)
    assert done.returncode == 2 and "Ni, which train.atom_type does not name" in done.stderr
    assert not (tmp_path / "dataset").exists()
