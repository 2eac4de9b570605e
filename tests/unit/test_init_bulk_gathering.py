"""What init_bulk gathers: every n-th frame, gates, draws, folders that are not ours, what is cleaned up."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from pwact_like.config.common import StageInput
from pwact_like.config.init_bulk import BulkSystem, InitBulkParam
from pwact_like.config.labelling import LabelSettings
from pwact_like.data.formats import read_frames, write_frames
from pwact_like.data.frames import Frame, Label, Origin
from pwact_like.engines.labelers.ase_calculator import AseLabeler
from pwact_like.errors import BudgetExceededError, InputError, JobError
from pwact_like.fsio import is_finished, read_manifest, write_manifest
from pwact_like.jobs.types import TaskResult, TaskState
from pwact_like.seeds import derive_seed
from pwact_like.stages.aimd import AimdStage, step_numbers
from pwact_like.stages.base import Place
from pwact_like.stages.bulk import Bulk
from pwact_like.stages.bulk_folders import (
    MARKER,
    claim_work_folder,
    clean_work_folder,
    refuse_foreign,
    refuse_other_recipes,
    refuse_other_sources,
)
from pwact_like.stages.collection import COLLECTION_KIND, CollectionStage
from pwact_like.stages.relaxation import RelaxationStage
from pwact_like.stages.single_points import SinglePointStage
from pwact_like.stages.structures import StructuresStage


def call(function, *arguments):
    """In place of a child process."""
    return function(*arguments)


def make_bulk(folder, systems, **param) -> Bulk:
    """Settings for EMT copper in ``folder``; every system starts from cu.xyz."""
    atoms = bulk("Cu", a=3.7, cubic=True)
    write_frames(folder / "cu.xyz", [Frame(atoms)])
    settings = InitBulkParam(
        work_dir=folder,
        sys_configs=tuple(BulkSystem(config="cu.xyz", file=folder / "cu.xyz", **system) for system in systems),
        relax_input=(StageInput(),),
        aimd_input=(StageInput(options={"temp": 300, "nsteps": 4}),),
        scf_input=(StageInput(),),
        labelling=LabelSettings(dft_style="ase", options={"calculator": "emt"}),
        **param,
    )
    return Bulk(Place(folder, settings.seed), settings, AseLabeler(settings.labelling), "", call)


def emt_frame(atoms, step: int) -> Frame:
    """A frame with EMT's own label."""
    copy = atoms.copy()
    copy.calc = EMT()
    label = Label(copy.get_potential_energy(force_consistent=True), copy.get_forces(), -copy.get_volume() * copy.get_stress(voigt=False))
    copy.calc = None
    return Frame(copy, label, Origin(step=step))


def trajectory(atoms, steps) -> list[Frame]:
    """Rattled copies, labelled."""
    frames = []
    for step in steps:
        copy = atoms.copy()
        copy.rattle(0.05, seed=step)
        frames.append(emt_frame(copy, step))
    return frames


def end(stage, frames_of) -> None:
    """Plan a stage and collect it as if its program had left these frames; a text stands for a failure."""
    results = {}
    for task in stage.plan():
        left = frames_of(task)
        state, reason = (TaskState.FAILED, left) if isinstance(left, str) else (TaskState.ACCEPTED, "")
        if not reason:
            write_frames(task.folder / "label.xyz", left)
        results[task.name] = TaskResult(task, state, 1, reason)
    stage.collect(results)


def rejected(folder, system=0) -> list[tuple[str, str, str]]:
    with (folder / f"collection/init_config_{system}/rejected.csv").open(newline="") as stream:
        return [(row["task"], row["step"], row["reason"]) for row in csv.DictReader(stream)]


@pytest.mark.parametrize(
    ("steps", "places"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 10, 20, 40], [0, 1, 2, 4]),  # printed every tenth step, and 30 is missing
        ([1, 2, 4, 5], [0, 1, 3, 4]),
        ([5], [0]),
        ([], []),
        ([-1, -1, -1], [0, 1, 2]),  # a program that does not number them
    ],
)
def test_places_in_a_trajectory(steps, places):
    assert step_numbers(steps) == places


def test_interval_counts_places_and_gaps_are_listed(tmp_path):
    """PWact reads `interval` and never uses it; and a frame that was left out must not shift the others."""
    plan = make_bulk(tmp_path, [{"aimd": True}], interval=2)
    StructuresStage(plan).collect({})
    atoms = bulk("Cu", a=3.7, cubic=True)
    # printed every fifth step; 10 and 15 did not converge
    end(AimdStage(plan), lambda task: trajectory(atoms, [0, 5, 20, 25, 30]))
    CollectionStage(plan).collect({})
    frames = read_frames(tmp_path / "collection/init_config_0/train.xyz")
    assert [frame.origin.step for frame in frames] == [0, 20, 30]
    assert rejected(tmp_path) == [("init_config_0/init", "2", "the program left no converged label of this frame")]
    facts = read_manifest(tmp_path / "collection")["facts"]
    assert facts["frames"] == 3 and facts["rejected"] == 1
    # where a frame stems from is a file that stays
    assert {frame.origin.source for frame in frames} == {"cu.xyz"}
    assert {frame.level_of_theory for frame in frames} == {plan.labeler.level_of_theory(plan.param.aimd_input[0])}


def test_labels_that_make_no_sense_are_left_out_and_listed(tmp_path):
    plan = make_bulk(tmp_path, [{"super_cell": [2, 1, 1], "aimd": True}])
    StructuresStage(plan).collect({})
    good = trajectory(bulk("Cu", a=3.7, cubic=True).repeat((2, 1, 1)), range(6))
    pushed = replace(good[1], label=replace(good[1].label, forces_ev_per_ang=good[1].label.forces_ev_per_ang + np.array([0.3, 0.0, 0.0])))
    collided = good[3].atoms.copy()
    collided.positions[1] = collided.positions[0] + [0.3, 0.0, 0.0]
    end(AimdStage(plan), lambda task: [good[0], pushed, good[2], emt_frame(collided, 3), good[4], good[5]])
    CollectionStage(plan).collect({})
    frames = read_frames(tmp_path / "collection/init_config_0/train.xyz")
    assert [frame.origin.step for frame in frames] == [0, 2, 4, 5]
    (first, second) = rejected(tmp_path)
    assert first[:2] == ("init_config_0/super_cell", "1") and "net force" in first[2]
    assert second[:2] == ("init_config_0/super_cell", "3") and "0.300 Å apart" in second[2]


def test_a_single_point_of_another_structure_is_left_out(tmp_path):
    plan = make_bulk(tmp_path, [{"perturb": 4, "scf": True}])
    StructuresStage(plan).collect({})

    def answers(task):
        asked = read_frames(task.folder / "structure.xyz")[0].atoms
        if task.name.endswith("2_pertub"):
            asked.positions[0] += 0.05
        return [emt_frame(asked, -1)]

    end(SinglePointStage(plan), answers)
    CollectionStage(plan).collect({})
    assert len(read_frames(tmp_path / "collection/init_config_0/train.xyz")) == 3
    ((task, step, reason),) = rejected(tmp_path)
    assert (task, step) == ("init_config_0/pertub/2_pertub", "0") and "not the structure that was asked" in reason


def test_shuffle_is_seeded_and_loses_nothing(tmp_path):
    orders = []
    for name, seed, shuffle in (("plain", 1, False), ("a", 1, True), ("b", 1, True), ("c", 2, True)):
        folder = tmp_path / name
        folder.mkdir()
        plan = make_bulk(folder, [{"aimd": True}], data_shuffle=shuffle, seed=seed)
        StructuresStage(plan).collect({})
        end(AimdStage(plan), lambda task: trajectory(bulk("Cu", a=3.7, cubic=True), range(12)))
        CollectionStage(plan).collect({})
        orders.append([frame.origin.step for frame in read_frames(folder / "collection/init_config_0/train.xyz")])
    plain, first, again, other = orders
    assert plain == list(range(12)) and first == again
    assert first != plain != other != first and sorted(first) == sorted(other) == plain
    # the data set is the same whatever its order
    assert len({read_manifest(tmp_path / name / "collection")["facts"]["sha256"] for name in ("plain", "a", "c")}) == 1


def asked_steps(folder, max_num, seed=1) -> list[tuple[int, str, int]]:
    folder.mkdir()
    plan = make_bulk(folder, [{"aimd": True, "scf": True}, {"perturb": 3, "scf": True}], scf_max_num=max_num, seed=seed)
    StructuresStage(plan).collect({})
    end(AimdStage(plan), lambda task: trajectory(bulk("Cu", a=3.7, cubic=True), range(7)))
    stage = SinglePointStage(plan)
    tasks = stage.plan()
    rows = [(asked.system, asked.facts["name"], asked.facts["step"]) for asked, _ in stage.structures()]
    assert len(tasks) == len(rows) == len({task.key for task in tasks})
    return rows


def test_more_single_points_than_frames_means_all(tmp_path):
    """PWact looks for ever when scf_max_num exceeds the number of frames."""
    runs = [(0, "init", step) for step in range(7)]
    structures = [(1, f"pertub/{number}_pertub", None) for number in range(3)]
    for name, max_num in (("many", 1000), ("just", 10), ("none", None)):
        assert asked_steps(tmp_path / name, max_num) == runs + structures


def test_single_points_are_drawn_with_a_seed(tmp_path):
    first, again, other = (asked_steps(tmp_path / str(place), 5, seed) for place, seed in enumerate((1, 1, 2)))
    assert first == again != other
    assert len(first) == len(other) == len(set(first)) == 5


def test_seeds_are_distinct_and_of_their_place(tmp_path):
    plan = make_bulk(tmp_path, [{"aimd": True, "perturb": 2}, {"aimd": True, "perturb": 2}])
    StructuresStage(plan).collect({})
    tasks = AimdStage(plan).plan()
    assert [task.seed for task in tasks] == [derive_seed(1, system, "aimd", index) for system in (0, 1) for index in (0, 1)]
    assert len({task.key for task in tasks}) == 4
    assert [json.loads((task.folder / "label.json").read_text())["seed"] for task in tasks] == [task.seed for task in tasks]
    frames = read_frames(plan.work_folder / "structures/structures.xyz")
    perturbed = [frame.atoms.positions for frame in frames if len(frame.origin.task) > len("init")]
    assert all(not np.allclose(one, other) for place, one in enumerate(perturbed) for other in perturbed[:place])


def test_a_failed_relaxation_gives_up_its_branch_only(tmp_path):
    plan = make_bulk(tmp_path, [{"relax": True, "aimd": True}, {"relax": True, "aimd": True}])
    relaxed = bulk("Cu", a=3.6, cubic=True)
    end(RelaxationStage(plan), lambda task: "not converged" if task.name.endswith("_0") else [emt_frame(relaxed, -1)])
    StructuresStage(plan).collect({})
    tasks = AimdStage(plan).plan()
    assert [task.name for task in tasks] == ["temp_init_bulk_work/aimd/init_config_1/relaxed"]
    np.testing.assert_array_equal(read_frames(tasks[0].folder / "structure.xyz")[0].atoms.positions, relaxed.positions)
    end(AimdStage(plan), lambda task: trajectory(relaxed, range(3)))
    CollectionStage(plan).collect({})
    assert rejected(tmp_path, 0) == [("init_config_0", "", "not converged")]
    assert not (tmp_path / "collection/init_config_0/train.xyz").exists()
    assert (tmp_path / "collection/datapath.txt").read_text() == f'"{tmp_path}/collection/init_config_1/train.xyz",\n'


def test_a_relaxation_that_returns_other_atoms_is_a_failure(tmp_path):
    plan = make_bulk(tmp_path, [{"relax": True}, {"relax": True}])
    other = bulk("Au", a=4.0, cubic=True)
    right = bulk("Cu", a=3.6, cubic=True)
    end(RelaxationStage(plan), lambda task: [emt_frame(other if task.name.endswith("_0") else right, -1)])
    rows = read_manifest(plan.work_folder / "relax")["facts"]["rows"]
    assert [row["accepted"] for row in rows] == [False, True] and "other atoms" in rows[0]["reason"]


def test_too_many_failures_end_it_and_say_where(tmp_path):
    plan = make_bulk(tmp_path, [{"relax": True}] * 3)
    stage = RelaxationStage(plan)
    with pytest.raises(BudgetExceededError, match=r"relax: 2 of 3 tasks failed.*failed\.csv"):
        end(stage, lambda task: [emt_frame(bulk("Cu", a=3.6, cubic=True), -1)] if task.name.endswith("_0") else "no memory")
    assert not stage.finished
    assert (stage.folder / "failed.csv").read_text().count("no memory") == 2


def test_no_label_at_all_is_an_error(tmp_path):
    plan = replace(make_bulk(tmp_path, [{"aimd": True}]), failure_budget=1.0)
    StructuresStage(plan).collect({})
    end(AimdStage(plan), lambda task: "died")
    with pytest.raises(JobError, match="no labelled frame is left"):
        CollectionStage(plan).collect({})
    assert not (tmp_path / "collection").exists()


def test_too_many_rejected_labels_end_it(tmp_path):
    plan = make_bulk(tmp_path, [{"aimd": True}])
    StructuresStage(plan).collect({})
    frames = trajectory(bulk("Cu", a=3.7, cubic=True), range(3))
    pushed = [replace(frame, label=replace(frame.label, forces_ev_per_ang=frame.label.forces_ev_per_ang + 0.5)) for frame in frames[1:]]
    end(AimdStage(plan), lambda task: [frames[0], *pushed])
    with pytest.raises(BudgetExceededError, match="2 of 3 labels were rejected"):
        CollectionStage(plan).collect({})
    assert not (tmp_path / "collection").exists()


def test_structures_alone_need_no_engine(tmp_path):
    plan = replace(make_bulk(tmp_path, [{"scale": [0.9, 1.1]}]), engine=None)
    StructuresStage(plan).collect({})
    CollectionStage(plan).collect({})
    assert sorted(path.name for path in (tmp_path / "collection/init_config_0").iterdir()) == [
        "0.9_scale.xyz",
        "1.1_scale.xyz",
        "rejected.csv",
    ]
    assert (tmp_path / "collection/datapath.txt").read_text() == ""


def test_an_interrupted_collection_is_put_together_anew(tmp_path):
    plan = make_bulk(tmp_path, [{"aimd": True}])
    StructuresStage(plan).collect({})
    end(AimdStage(plan), lambda task: trajectory(bulk("Cu", a=3.7, cubic=True), range(3)))
    half = plan.work_folder / "collection/init_config_9"
    half.mkdir(parents=True)
    (half / "train.xyz").write_text("half")
    write_manifest(half.parent, COLLECTION_KIND, facts={"recipe": "killed before the rename"})
    CollectionStage(plan).collect({})
    assert is_finished(tmp_path / "collection") and not (tmp_path / "collection/init_config_9").exists()


# ---- what decides a product -----------------------------------------------------------------------------------------


def test_recipe_knows_settings_not_paths(tmp_path):
    systems = [{"relax": True, "perturb": 2, "aimd": True}]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plan = make_bulk(tmp_path / "a", systems)
    recipe = CollectionStage(plan).recipe
    assert CollectionStage(make_bulk(tmp_path / "b", systems)).recipe == recipe
    changed = [
        make_bulk(tmp_path / "b", systems, seed=2),
        make_bulk(tmp_path / "b", systems, interval=2),
        make_bulk(tmp_path / "b", systems, data_shuffle=True),
        make_bulk(tmp_path / "b", [{**systems[0], "atom_pert_distance": 0.02}]),
        make_bulk(tmp_path / "b", systems * 2),
    ]
    recipes = {CollectionStage(other).recipe for other in changed}
    assert len(recipes) == len(changed) and recipe not in recipes


def test_products_of_other_settings_are_refused_all_at_once(tmp_path):
    plan = make_bulk(tmp_path, [{"perturb": 2, "aimd": True}])
    StructuresStage(plan).collect({})
    end(AimdStage(plan), lambda task: trajectory(bulk("Cu", a=3.7, cubic=True), range(3)))
    stages = [StructuresStage(plan), AimdStage(plan), CollectionStage(plan)]
    refuse_other_recipes(stages)
    other = make_bulk(tmp_path, [{"perturb": 2, "aimd": True}], seed=2)
    with pytest.raises(InputError) as caught:
        refuse_other_recipes([StructuresStage(other), AimdStage(other), CollectionStage(other)])
    assert [problem.where for problem in caught.value.problems] == [str(stage.folder) for stage in stages[:2]]


def test_a_product_of_an_earlier_source_is_refused(tmp_path):
    plan = make_bulk(tmp_path, [{"relax": True}] * 2)
    relaxed = [emt_frame(bulk("Cu", a=3.6, cubic=True), -1)]
    end(RelaxationStage(plan), lambda task: "lost" if task.name.endswith("_0") else relaxed)
    StructuresStage(plan).collect({})
    refuse_other_sources(StructuresStage(plan))
    (plan.work_folder / "relax/manifest.json").unlink()  # the user lets the lost one run again
    end(RelaxationStage(plan), lambda task: relaxed)
    with pytest.raises(InputError, match="made from an earlier relax"):
        refuse_other_sources(StructuresStage(plan))


# ---- folders --------------------------------------------------------------------------------------------------------


def test_foreign_folders_are_refused_both_at_once(tmp_path):
    for name in ("collection", "temp_init_bulk_work"):
        (tmp_path / name).mkdir()
    refuse_foreign(tmp_path)  # empty ones are nobody's
    (tmp_path / "collection/datapath.txt").write_text("")
    (tmp_path / "temp_init_bulk_work/relax").mkdir()
    with pytest.raises(InputError) as caught:
        refuse_foreign(tmp_path)
    assert len(caught.value.problems) == 2 and "never overwritten" in str(caught.value)


def test_own_folders_are_known(tmp_path):
    claim_work_folder(tmp_path)
    (tmp_path / "temp_init_bulk_work/relax").mkdir()
    (tmp_path / "collection").mkdir()
    write_manifest(tmp_path / "collection", COLLECTION_KIND)
    refuse_foreign(tmp_path)


def make_finished(folder, *names) -> None:
    claim_work_folder(folder)
    for name in names:
        path = folder / "temp_init_bulk_work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def test_cleaning_waits_for_the_collection_and_keeps_a_ledger(tmp_path):
    make_finished(tmp_path, "aimd/init_config_0/init/label.xyz")
    clean_work_folder(tmp_path, [])
    assert (tmp_path / "temp_init_bulk_work").exists()  # nothing is collected yet
    (tmp_path / "collection").mkdir()
    write_manifest(tmp_path / "collection", COLLECTION_KIND)
    clean_work_folder(tmp_path, [])
    assert not (tmp_path / "temp_init_bulk_work").exists()
    (line,) = (tmp_path / "deleted.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "temp_init_bulk_work"
    clean_work_folder(tmp_path, [])  # and again


def test_cleaning_keeps_failed_tasks(tmp_path):
    make_finished(tmp_path, "aimd/init_config_0/init/label.xyz", "aimd/init_config_0/pertub/out", "relax/init_config_1/stderr", "relax/a")
    (tmp_path / "collection").mkdir()
    write_manifest(tmp_path / "collection", COLLECTION_KIND)
    failed = ["temp_init_bulk_work/relax/init_config_1", "temp_init_bulk_work/aimd/init_config_0/init"]
    for _ in range(2):
        clean_work_folder(tmp_path, failed)
        left = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "temp_init_bulk_work").rglob("*") if path.is_file())
        assert left == [
            "temp_init_bulk_work/aimd/init_config_0/init/label.xyz",
            f"temp_init_bulk_work/{MARKER}",
            "temp_init_bulk_work/relax/init_config_1/stderr",
        ]
    assert len((tmp_path / "deleted.jsonl").read_text().splitlines()) == 2


def test_nothing_is_cleaned_without_our_marker(tmp_path):
    make_finished(tmp_path, "relax/a")
    (tmp_path / "temp_init_bulk_work" / MARKER).unlink()
    (tmp_path / "collection").mkdir()
    write_manifest(tmp_path / "collection", COLLECTION_KIND)
    clean_work_folder(tmp_path, [])
    assert (tmp_path / "temp_init_bulk_work/relax/a").exists()
