"""Faults of a campaign that would cost labels, days, or the right answer; each test is named after one."""

from types import SimpleNamespace

import jobs_support
import micro
import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from pwact_like.config.common import DataPath
from pwact_like.config.load import load_run
from pwact_like.engines.registry import explorer_for, labeler_for, trainer_for
from pwact_like.errors import BudgetExceededError, InputError, JobError
from pwact_like.fsio import read_json, write_json, write_manifest
from pwact_like.jobs.types import TaskState
from pwact_like.outcome import Reject, TaskFiles
from pwact_like.stages.base import Place
from pwact_like.stages.exploration import entry_explored, exploration_folder
from pwact_like.stages.initial_data import InitialDataRequest, InitialDataStage, make_initial_data
from pwact_like.stages.selection import starts_in_test_set
from pwact_like.stages.training import TrainingStage
from pwact_like.uncertainty.levels import FrameClass, TrustLevels
from pwact_like.workflows.active_learning import Campaign
from pwact_like.workflows.convergence import IterationFacts, next_entry
from pwact_like.workflows.driver import Driver
from pwact_like.workflows.session import give_another_round, promise_another_round
from pwact_like.workflows.snapshot import Snapshot
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


class StageUnderWayError(Exception):
    """A stage that is not finished; the campaign stops here."""

    def __init__(self, stage):
        self.stage = stage


def finish_iteration(place, *stages, uncertainty=None):
    """The products of an iteration as far as a later start looks at them."""
    trained = {"engine": "embedded", "models": ["train.000/model.pt"], "force_rmse_ev_per_ang": 0.1}
    explored = {"uncertainty": {"kind": "committee", "scale": "calibrated"}}
    if uncertainty is not None:
        learned = {"kind": uncertainty, "lower_ev_per_ang": 0.3, "upper_ev_per_ang": 1.5, "force_rms_ev_per_ang": 1.0}
        learned["calibration"] = {"note": ""}
        trained |= {"uncertainty": learned, "kpu": "train.000/kpu.pt", "members": []}
        explored["uncertainty"] = {"kind": uncertainty, "scale": "calibrated"}
    levels = {"lower": 0.3, "upper": 1.5, "relative": False, "levels_from": "the calibration of iteration 0"}
    counts = {"frames_planned": 11, "frames": 11, "accurate": 5, "candidate": 6, "failed": 0, "selected": 3, "rescued": 0}
    labelled = {"labelled": 3, "rejected": 0, "train_frames": 3, "test_frames": 0, "data": "train.xyz", "data_format": "extxyz"}
    folder = place.iteration_folder()
    products = {
        "train": ("00.train", "models", trained),
        "explore": ("01.explore/md", "trajectories", {"entry": place.iteration, "trajectories": [], **explored, "levels": levels}),
        "select": ("01.explore/select", "selection", {**counts, **levels}),
        "label": ("02.label/result", "labels", {**labelled, "level_of_theory": ""}),
    }
    for stage in stages:
        name, kind, facts = products[stage]
        (folder / name).mkdir(parents=True)
        (folder / name / "frame_hashes.txt").write_text("")
        write_manifest(folder / name, kind, facts=facts)


def finish_without_labels(place):
    """An iteration in which no frame was worth a label."""
    finish_iteration(place, *WHOLE[:3])
    label = {"labelled": 0, "rejected": 0, "train_frames": 0, "test_frames": 0, "data": "", "data_format": "extxyz"}
    folder = place.iteration_folder() / "02.label/result"
    folder.mkdir(parents=True)
    (folder / "frame_hashes.txt").write_text("")
    write_manifest(folder, "labels", facts={**label, "level_of_theory": ""})


def begin_again(folder, param=None, **strategy):
    """A start in a folder where products lie already, until a stage is to be done: (campaign, that stage or what was raised)."""
    path, resource = micro.write_campaign(folder, entries=3, strategy=strategy, reserve_md_traj=True, **(param or {}))
    param = load_run(path, resource, work_dir=folder).param
    board = Snapshot(folder / ".pwact_like/run", "run", "c", dict)

    def drive(stage):
        if stage.folder == folder / "dataset":
            return stage.finished or stage.collect({})
        if not stage.finished:
            raise StageUnderWayError(stage)
        return None

    session = SimpleNamespace(
        board=board, edits=SimpleNamespace(param=param), drive=drive, fork=in_this_process, command=lambda section: "pwact-like"
    )
    campaign = Campaign(session, param, trainer_for(param.train), explorer_for(param.explore), labeler_for(param.dft.labelling))
    try:
        campaign.run()
    except StageUnderWayError as stopped:
        return campaign, stopped.stage
    except InputError as error:
        return campaign, error
    raise AssertionError("everything was done already")


KPU = {"uncertainty": "kpu", "model_num": 1, "lower_model_devi_f": None, "upper_model_devi_f": None}
WHOLE = ("train", "explore", "select", "label")


def test_an_edited_uncertainty_does_not_lock_what_is_finished(tmp_path):
    """Found by an attack: finished iterations were asked for levels and kinds that their models had never been made for."""
    finish_iteration(Place(tmp_path, 1, 0), *WHOLE, uncertainty="kpu")
    finish_iteration(Place(tmp_path, 1, 1), *WHOLE)
    # from kpu by way of a committee to PWact's scale
    campaign, stage = begin_again(tmp_path, **KPU, kpu_scale="relative")
    assert isinstance(stage, TrainingStage) and stage.place.iteration == 2 and stage.uncertainty.kind == "kpu"
    assert [row["entry"] for row in campaign.session.board.iterations] == [0, 1, 2]
    campaign, stage = begin_again(tmp_path)
    assert stage.place.iteration == 2 and stage.uncertainty is None and stage.n_members == 3


@pytest.mark.parametrize(("before", "after"), [("kpu", {}), (None, KPU), ("kpu", {**KPU, "kpu_scale": "relative"})])
def test_what_has_explored_is_selected_by_the_levels_of_then(tmp_path, caplog, before, after):
    caplog.set_level("INFO")
    finish_iteration(Place(tmp_path, 1, 0), *WHOLE, uncertainty=before)
    finish_iteration(Place(tmp_path, 1, 1), "train", "explore", uncertainty=before)
    _, stage = begin_again(tmp_path, **after)
    assert (stage.name, stage.request.place.iteration, stage.request.levels) == ("select", 1, TrustLevels(0.3, 1.5))
    assert f"when it was explored with {before or 'committee'}" in stage.request.levels_from
    assert "are selected by the levels of then" in caplog.text
    # the same uncertainty with other levels: these were edited to count
    _, stage = begin_again(tmp_path, **({**KPU, "kpu_lower": 0.2, "kpu_upper": 0.4} if before else {}))
    assert stage.request.levels == (TrustLevels(0.2, 0.4) if before else TrustLevels(1e-4, 50.0))


def test_models_of_another_uncertainty_do_not_explore_and_no_iteration_is_lost_from_sight(tmp_path):
    """Found by an attack: after the refusal `status` and al.record ended with the first iteration."""
    finish_iteration(Place(tmp_path, 1, 0), *WHOLE, uncertainty="kpu")
    finish_iteration(Place(tmp_path, 1, 1), "train", uncertainty="kpu")
    campaign, error = begin_again(tmp_path)
    assert "committee is wanted now" in str(error) and "trained for kpu" in str(error)
    assert "rewind --to 1:train" in str(error) and "until this iteration has explored" in str(error)
    assert [row["index"] for row in campaign.session.board.iterations] == [0, 1]
    assert campaign.session.board.iterations[1]["force_rmse_ev_per_ang"] == 0.1
    first = read_json(tmp_path / ".pwact_like/run/status.json")["iterations"]
    assert len(first) == 2 and (tmp_path / "al.record").read_text() == "0 0\n0 1\n0 2\n1 0\n"


def test_models_that_cannot_tell_their_errors_as_wanted_now_are_not_taken_over(tmp_path):
    """Without new labels the next iteration takes the models over: of a committee's there is no kpu.pt, for ever."""
    finish_without_labels(Place(tmp_path, 1, 0))
    _, stage = begin_again(tmp_path, **KPU)
    assert stage.place.iteration == 1 and not stage.skip_training and len(stage.init_models) == 1
    _, stage = begin_again(tmp_path)
    assert stage.skip_training


def test_an_uncertainty_edited_under_a_running_master_waits_for_the_next_training(tmp_path):
    """It ended the master between a training and its exploration."""
    finish_iteration(Place(tmp_path, 1, 0), "train", uncertainty="kpu")
    campaign, stage = begin_again(tmp_path, **KPU)
    assert stage.name == "explore" and stage.uncertainty.kind == "kpu"
    before = campaign.param
    path, resource = micro.write_campaign(tmp_path, entries=3, strategy={"max_select": 7})
    edited = load_run(path, resource, work_dir=tmp_path).param
    campaign.session.edits.param = edited
    for _ in range(2):
        campaign._take_edits(within=0)
        assert campaign.param.strategy is before.strategy and not campaign.param.reserve_md_traj
    campaign._take_edits()
    assert campaign.param is edited


CHGNET = {"train": {"engine": "chgnet", "atom_type": [29]}}


def test_models_of_another_trainer_are_neither_taken_over_nor_gone_on_with(tmp_path, caplog):
    """Both trainers call their file model.pt: the Deep Potential would have been taken for a CHGNet."""
    finish_without_labels(Place(tmp_path, 1, 0))
    _, stage = begin_again(tmp_path, CHGNET)
    assert stage.place.iteration == 1 and stage.trainer.name == "chgnet" and not stage.skip_training and stage.init_models == ()
    assert "made by another trainer than chgnet (embedded): its training begins from scratch" in caplog.text
    caplog.clear()
    _, stage = begin_again(tmp_path)
    assert stage.skip_training and not caplog.text


def test_models_of_another_trainer_do_not_explore(tmp_path):
    finish_iteration(Place(tmp_path, 1, 0), *WHOLE)
    finish_iteration(Place(tmp_path, 1, 1), "train")
    _, error = begin_again(tmp_path, CHGNET)
    text = str(error)
    assert "the trainer is chgnet now" in text and "were made by embedded (model.pt)" in text and "rewind --to 1:train" in text


def test_a_trainer_edited_under_a_running_master_waits_for_the_next_training(tmp_path):
    finish_iteration(Place(tmp_path, 1, 0), "train")
    campaign, stage = begin_again(tmp_path)
    before = campaign.param
    path, resource = micro.write_campaign(tmp_path, entries=2, strategy={"max_select": 7}, **CHGNET)
    edited = load_run(path, resource, work_dir=tmp_path).param
    campaign.session.edits.param = edited
    campaign._take_edits(within=0)
    assert stage.name == "explore" and campaign.trainer.name == "embedded"
    assert (campaign.param.train, campaign.param.explore, campaign.param.strategy) == (before.train, before.explore, edited.strategy)
    campaign._take_edits()
    assert campaign.param is edited and campaign.trainer.name == "chgnet"


def test_a_command_of_another_explorer_does_not_run_an_iteration_that_was_begun_with_this_one(tmp_path):
    """resource.json counts at once where param.json's edit waits: every job would have failed with an error of argparse's."""
    finish_iteration(Place(tmp_path, 1, 0), "train")
    _, stage = begin_again(tmp_path)
    assert stage.name == "explore" and stage.explorer.name == "embedded"
    stage.command = "srun -n 1 lmp_mpi -sf gpu"
    with pytest.raises(InputError, match=r"explore.command.*runs lammps, and this iteration, which has begun, explores with embedded.*put"):
        stage.plan()
    for command in ("", "srun pwact-like md", "apptainer exec lammps.sif pwact-like", "my_own_wrapper"):
        stage.command = command
        stage._refuse_other_program()


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
