"""Names and conditions of trajectories, as PWact has them."""

from pathlib import Path
from types import SimpleNamespace

from pwact_like.config.run import MdJob
from pwact_like.stages.exploration import plan_runs
from pwact_like.stages.md_batches import batches


def systems(*counts):
    names = iter(f"s{number}" for number in range(100))
    return [SimpleNamespace(files=tuple(Path(next(names)) for _ in range(count)), format=None) for count in counts]


def job(**settings):
    return MdJob(**({"nsteps": 100, "temps": [300.0]} | settings))


def test_every_temperature_and_pressure_is_one_trajectory():
    runs = plan_runs([job(sys_idx=[1], ensemble="npt", temps=[500, 700], press=[100, 200])], systems(1, 1), None)
    assert [run.leaf for run in runs] == [
        "md.000.sys.001.t.000.p.000",
        "md.000.sys.001.t.000.p.001",
        "md.000.sys.001.t.001.p.000",
        "md.000.sys.001.t.001.p.001",
    ]
    assert [(run.md.temp_k, run.md.press_bar) for run in runs] == [(500, 100), (500, 200), (700, 100), (700, 200)]
    assert {run.md.ensemble for run in runs} == {"npt-iso"}
    assert {run.group for run in runs} == {0}


def test_the_default_ensemble_runs():
    # PWact's defect: the default, nve, generated no MD job
    (run,) = plan_runs([job(sys_idx=[0])], systems(1), None)
    assert run.md.ensemble == "nve" and run.md.press_bar is None and run.leaf == "md.000.sys.000.t.000"


def test_quotas_belong_to_the_entry_and_default_to_max_select_then_100():
    entry = [job(sys_idx=[0, 2], select_sys=[3, 4]), job(sys_idx=[1])]
    runs = plan_runs(entry, systems(1, 1, 2), 7)
    assert [(run.system, run.quota) for run in runs] == [
        ("md.000.sys.000", 3),
        ("md.000.sys.002", 4),
        ("md.000.sys.003", 4),
        ("md.001.sys.001", 7),
    ]
    assert [run.group for run in runs] == [0, 1, 2, 3]
    assert plan_runs([job(sys_idx=[0])], systems(1), None)[0].quota == 100


def test_planned_frames_count_step_zero():
    (run,) = plan_runs([job(sys_idx=[0], nsteps=95, trj_freq=10)], systems(1), None)
    assert run.md.frames_planned == 10


def test_batches_are_even_and_hold_runs_of_one_length_only():
    entry = [job(sys_idx=[0], temps=list(range(100, 1000, 100))), job(sys_idx=[0], nsteps=200), job(sys_idx=[1], temps=[300, 400])]
    runs = plan_runs(entry, systems(1, 1), None)
    found = batches(Path("md"), runs, 4)
    assert [batch.folder for batch in found] == [Path(f"md/batch.{number:03d}") for number in range(4)]
    assert [[run.md.nsteps for run in batch.runs] for batch in found] == [[100] * 4, [100] * 4, [100] * 3, [200]]
    leaves = [run.leaf for batch in found for run in batch.runs]
    assert sorted(leaves) == sorted(run.leaf for run in runs) and len(set(leaves)) == 12
    assert batches(Path("md"), runs, 100)[0].runs == tuple(run for run in runs if run.md.nsteps == 100)
