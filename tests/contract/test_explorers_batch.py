"""Several trajectories in one process: each is the one that it is alone, to rounding; they fail alone, and go on to the last bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from labeler_contract import accept, start_attempt

from pwact_like.cli.main import main
from pwact_like.data.xyz_trajectory import fetch_steps, steps
from pwact_like.engines.explorers import md_files
from pwact_like.engines.explorers.batch import BatchRun, run_batch
from pwact_like.engines.explorers.dynamics import run_md
from pwact_like.engines.explorers.embedded import EmbeddedExplorer
from pwact_like.engines.explorers.md_files import MdResult
from pwact_like.engines.explorers.md_input import MdInput, StopLimits
from pwact_like.engines.explorers.potential import ModelPotential
from pwact_like.engines.protocols import ExploreRequest, MdSettings
from pwact_like.errors import InputError
from pwact_like.outcome import Ok, Reject
from pwact_like.time_limit import STOP_FILE_VARIABLE
from pwact_like.uncertainty.table import read_table

torch = pytest.importorskip("torch")

FILES = ("traj.xyz", "model_devi.out", "md.log", "md_result.json")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, ...]:
    """Small Deep Potentials with random weights for silicon and germanium."""
    from pwact_like.potentials import DeepPotential, DeepPotSpec, save_model

    spec = DeepPotSpec((14, 32), rmax_ang=4.0, rmin_ang=1.0, embedding=(4, 8), m2=2, fitting=(8, 8), sel=(40, 40))
    paths = []
    for seed in range(3):
        spread = torch.tensor([[0.1, 0.1], [0.12, 0.11]])
        paths.append(tmp_path_factory.mktemp("models") / "model.pt")
        save_model(paths[-1], DeepPotential(spec, seed, torch.tensor([0.1, 0.05]), spread, torch.tensor([-5.0, -4.0])))
    return tuple(paths)


def silicon(seed: int = 4) -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.03, seed=seed)
    return atoms


def triclinic() -> Atoms:
    atoms = bulk("Si", cubic=False) * (3, 2, 2)
    atoms.numbers[::3] = 32
    deformed = atoms.cell.array @ np.array([[1.02, 0.03, 0.0], [0.0, 0.98, 0.04], [0.01, 0.0, 1.0]])
    atoms.set_cell(deformed, scale_atoms=True)
    atoms.rattle(0.03, seed=2)
    return atoms


def settings_of(models, seed=1, **changes) -> MdInput:
    md = MdSettings("nvt", nsteps=40, trj_freq=10, md_dt_ps=0.001, temp_k=300.0)
    names = {"ensemble", "nsteps", "trj_freq", "temp_k", "press_bar", "boundary"}
    md = replace(md, **{name: changes.pop(name) for name in list(changes) if name in names})
    return replace(MdInput(Path("start.xyz"), models, md, seed=seed, stop=StopLimits(), checkpoint_steps=20), **changes)


def mixed_runs(folder: Path, models) -> list[BatchRun]:
    """Every ensemble, cells of several shapes, sizes and elements, free boundaries."""
    npt = {"press_bar": 1e4, "temp_k": 500.0}
    droplet = silicon(9)
    droplet.cell = None
    return [
        BatchRun(folder / "nve", silicon(), settings_of(models, 1, ensemble="nve")),
        BatchRun(folder / "nvt", bulk("Ge", cubic=True) * (2, 1, 1), settings_of(models, 2)),
        BatchRun(folder / "npt-iso", silicon(5), settings_of(models, 3, ensemble="npt-iso", **npt)),
        BatchRun(folder / "npt-aniso", triclinic(), settings_of(models, 4, ensemble="npt-aniso", **npt)),
        BatchRun(folder / "npt-tri", triclinic(), settings_of(models, 5, ensemble="npt-tri", **npt)),
        BatchRun(folder / "free", droplet, settings_of(models, 6, boundary=False)),
        BatchRun(folder / "short", silicon(6), settings_of(models, 7, nsteps=15, trj_freq=5, deviation_every_step=True)),
    ]


def alone(run: BatchRun, folder: Path, models) -> Path:
    run_md(run.atoms, ModelPotential(models), run.settings, folder)
    return folder


def same(batched: Path, lone: Path) -> None:
    """Equal to rounding: about 1e-15 of a force a step, which tens of steps of an MD do not yet magnify beyond 1e-9 Å."""
    there = steps(lone / "traj.xyz")
    assert steps(batched / "traj.xyz") == there
    for a, b in zip(fetch_steps(batched / "traj.xyz", there), fetch_steps(lone / "traj.xyz", there), strict=True):
        assert (a.numbers == b.numbers).all() and (a.pbc == b.pbc).all()
        np.testing.assert_allclose(a.positions, b.positions, rtol=0, atol=1e-9)
        np.testing.assert_allclose(a.cell.array, b.cell.array, rtol=0, atol=1e-9)
    tables = [read_table(folder / "model_devi.out") for folder in (batched, lone)]
    assert tables[0].steps.tolist() == tables[1].steps.tolist() and tables[0].kind == tables[1].kind
    np.testing.assert_allclose(tables[0].value, tables[1].value, rtol=2e-6, atol=1e-12)
    logs = [np.loadtxt(folder / "md.log") for folder in (batched, lone)]
    np.testing.assert_allclose(*logs, rtol=1e-6, atol=2e-8)


def test_every_run_of_a_batch_is_the_one_that_it_is_alone(tmp_path, models):
    runs = mixed_runs(tmp_path, models)
    results = run_batch(runs, ModelPotential(models), tmp_path / "checkpoint")
    moved = 0.0
    for run, result in zip(runs, results, strict=True):
        assert result == MdResult("", run.settings.md.nsteps, 4 if run.folder.name == "short" else 5, result.frames_planned)
        lone = alone(run, tmp_path / "lone" / run.folder.name, models)
        same(run.folder, lone)
        assert json.loads((run.folder / "md_result.json").read_text()) == json.loads((lone / "md_result.json").read_text())
        frames = fetch_steps(run.folder / "traj.xyz", [0, 10])
        moved = max(moved, abs(frames[1].positions - frames[0].positions).max())
    assert moved > 1e-2


class Dying(ModelPotential):
    """Ends the process, as a kill does, at a call."""

    def __init__(self, models, die_at: int) -> None:
        super().__init__(models)
        self.left = die_at

    def drive_all(self, structures):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().drive_all(structures)


def test_a_killed_batch_goes_on_to_the_last_bit(tmp_path, models, monkeypatch):
    monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
    whole, cut = (mixed_runs(tmp_path / name, models) for name in ("whole", "cut"))
    results = run_batch(whole, ModelPotential(models), tmp_path / "whole.npz")
    for die_at in (31, 12):  # behind the checkpoint of step 20; "short" is done by then
        with pytest.raises(KeyboardInterrupt):
            run_batch(cut, Dying(models, die_at), tmp_path / "cut.npz")
        (cut[0].folder / "traj.xyz").open("a").write("8\nhalf a fra")
        (cut[-1].folder / "md_result.json").unlink()  # the next attempt has another folder, and only what is carried over
    potential = Dying(models, 10**9)
    assert run_batch(cut, potential, tmp_path / "cut.npz") == results
    assert 10**9 - potential.left <= 20  # it went on, and did not begin anew
    for one, other in zip(whole, cut, strict=True):
        for file in FILES:
            assert (one.folder / file).read_bytes() == (other.folder / file).read_bytes(), f"{one.folder.name} {file}"


def test_near_the_time_limit_a_batch_writes_its_checkpoint_and_ends(tmp_path, models, monkeypatch):
    (tmp_path / "stop").touch()
    whole, cut = (mixed_runs(tmp_path / name, models) for name in ("whole", "cut"))
    run_batch(whole, ModelPotential(models), tmp_path / "whole.npz")
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(tmp_path / "stop"))
    from pwact_like.errors import OutOfTimeError

    with pytest.raises(OutOfTimeError, match="step 20 with 6 of 7 runs"):
        run_batch(cut, ModelPotential(models), tmp_path / "cut.npz")
    monkeypatch.delenv(STOP_FILE_VARIABLE)
    run_batch(cut, ModelPotential(models), tmp_path / "cut.npz")
    for one, other in zip(whole, cut, strict=True):
        assert (one.folder / "traj.xyz").read_bytes() == (other.folder / "traj.xyz").read_bytes()


def test_without_a_runs_file_the_whole_batch_begins_anew(tmp_path, models, monkeypatch):
    monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
    runs = mixed_runs(tmp_path, models)[:3]
    with pytest.raises(KeyboardInterrupt):
        run_batch(runs, Dying(models, 31), tmp_path / "c.npz")
    (runs[1].folder / "traj.xyz").unlink()
    assert [result.frames for result in run_batch(runs, ModelPotential(models), tmp_path / "c.npz")] == [5, 5, 5]
    same(runs[1].folder, alone(runs[1], tmp_path / "lone", models))
    with pytest.raises(InputError, match="another structure"):
        run_batch(runs[:2], ModelPotential(models), tmp_path / "c.npz")


def test_who_fails_fails_alone(tmp_path, models):
    """An exploding run, colliding atoms, an element that no model knows, one atom, a run without a cell."""
    collided, strange, flat = silicon(), silicon(), silicon()
    collided.positions[1] = collided.positions[0] + 0.2
    strange.numbers[3] = 6
    flat.cell = None
    runs = [
        BatchRun(tmp_path / "good", silicon(), settings_of(models, 1)),
        BatchRun(tmp_path / "hot", silicon(), settings_of(models, 2, stop=StopLimits(temp_k=20.0))),
        BatchRun(tmp_path / "deviating", silicon(), settings_of(models, 2, stop=StopLimits(deviation=1e-9))),
        BatchRun(tmp_path / "collided", collided, settings_of(models, 3)),
        BatchRun(tmp_path / "strange", strange, settings_of(models, 4)),
        BatchRun(tmp_path / "one atom", silicon()[:1], settings_of(models, 5)),
        BatchRun(tmp_path / "flat", flat, settings_of(models, 6)),
        BatchRun(tmp_path / "good too", triclinic(), settings_of(models, 7, ensemble="npt-tri", press_bar=0.0)),
    ]
    results = run_batch(runs, ModelPotential(models), tmp_path / "c.npz")
    assert [result.frames for result in results] == [5, 1, 1, 0, 0, 0, 0, 5]
    said = ["", "temperature", "deviation", "apart", "C, which the model does not know", "at least two", "cell", ""]
    for run, result, words in zip(runs, results, said, strict=True):
        assert words in result.ended and bool(result.ended) == bool(words)
        outcome = EmbeddedExplorer().outcome(run.folder)
        assert isinstance(outcome, Ok if result.frames else Reject)
        if result.frames:
            lone = alone(run, tmp_path / "lone" / run.folder.name, models)
            same(run.folder, lone)
            assert MdResult.read(lone) == result


def test_a_run_whose_structure_cannot_be_evaluated_any_more_leaves_the_others(tmp_path, models):
    """What only the evaluation finds out: here the element that becomes unknown on the way."""

    class Changing(ModelPotential):
        calls = 0

        def drive_all(self, structures):
            self.calls += 1
            if self.calls == 12 and 1 in structures:
                structures[1].numbers[0] = 6
            return super().drive_all(structures)

    runs = mixed_runs(tmp_path, models)[:3]
    results = run_batch(runs, Changing(models), tmp_path / "c.npz")
    assert [result.frames for result in results] == [5, 2, 5]
    assert results[1].ended.startswith("step 13") and "does not know" in results[1].ended
    same(runs[2].folder, alone(runs[2], tmp_path / "lone", models))


def test_runs_with_other_models_or_in_one_folder_are_refused(tmp_path, models):
    first, second = mixed_runs(tmp_path, models)[:2]
    with pytest.raises(InputError, match="not those of"):
        run_batch([first, replace(second, settings=settings_of(models[::-1]))], ModelPotential(models), tmp_path / "c.npz")
    with pytest.raises(InputError, match="given twice"):
        run_batch([first, first], ModelPotential(models), tmp_path / "c.npz")


def requests_of(models, **changes) -> dict[str, ExploreRequest]:
    md = MdSettings("npt-tri", nsteps=260, trj_freq=5, md_dt_ps=0.001, temp_k=600.0, press_bar=0.0)
    md = replace(md, **changes)
    return {f"a leaf.{n}": ExploreRequest(silicon(n), models, replace(md, temp_k=300.0 + 200 * n), 17 + n, 1e3) for n in range(3)}


@pytest.mark.parametrize("size", [3, 1])
def test_the_next_attempt_of_a_batch_goes_on_and_the_whole_is_equal(tmp_path, models, monkeypatch, size):
    """Through the command, and the files that the dispatcher copies, links and carries over; also of a batch that is but one run."""
    monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
    explorer, requests = EmbeddedExplorer(), dict(list(requests_of(models).items())[:size])
    (command,) = explorer.batch_commands("pwact-like", requests)
    assert command == "pwact-like md " + " ".join(f"'a leaf.{number}/md.json'" for number in range(size))
    finished = {}
    for name in ("whole", "cut"):
        task = tmp_path / name
        files = explorer.write_batch(task, requests)
        attempt = start_attempt(task, files, 1)
        if name == "cut":
            (tmp_path / "stop").touch()
            monkeypatch.setenv(STOP_FILE_VARIABLE, str(tmp_path / "stop"))
            assert main(["md", *(str(attempt / leaf / "md.json") for leaf in requests)]) == 75
            monkeypatch.delenv(STOP_FILE_VARIABLE)
            (checkpoint,) = files.checkpoints
            assert (attempt / checkpoint).is_file()
            attempt = start_attempt(task, files, 2)
            assert (attempt / checkpoint).is_file() and checkpoint in files.carry
            begun = read_table(attempt / next(iter(requests)) / "model_devi.out").steps
            assert len(begun) > 1
        assert main(["md", *(str(attempt / leaf / "md.json") for leaf in requests)]) == 0
        assert explorer.batch_outcome(attempt, requests) == Ok()
        accept(task, attempt, files)
        finished[name] = task
    for leaf, request in requests.items():
        assert len(read_table(explorer.read(finished["whole"] / leaf).table)) == request.md.frames_planned
        for file in FILES:
            assert (finished["whole"] / leaf / file).read_bytes() == (finished["cut"] / leaf / file).read_bytes(), f"{leaf}/{file}"


def test_a_start_structure_of_one_atom_is_told_before_the_first_training(tmp_path, models):
    """LAMMPS's explorer refused it; here each of its runs failed three times, after the training."""
    request = replace(requests_of(models)["a leaf.0"], atoms=bulk("Si", cubic=False)[:1])
    for write in (
        lambda: EmbeddedExplorer().write(tmp_path / "x", request),
        lambda: EmbeddedExplorer().write_batch(tmp_path, {"x": request}),
    ):
        with pytest.raises(InputError, match=r"at least two.*supercell"):
            write()
    assert not (tmp_path / "x").exists()


def test_a_batch_is_judged_run_by_run(tmp_path, models):
    explorer, requests = EmbeddedExplorer(), requests_of(models, nsteps=10)
    bad = silicon()
    bad.positions[1] = bad.positions[0] + 0.2
    requests["a leaf.1"] = replace(requests["a leaf.1"], atoms=bad)
    files = explorer.write_batch(tmp_path, requests)
    attempt = start_attempt(tmp_path, files, 1)
    assert main(["md", *(str(attempt / leaf / "md.json") for leaf in requests)]) == 0
    assert all((attempt / name).is_file() for name in files.outputs)
    outcome = explorer.batch_outcome(attempt, requests)
    assert isinstance(outcome, Ok) and outcome.note.startswith("a leaf.1: no frame was written") and "apart" in outcome.note
    assert isinstance(explorer.batch_outcome(attempt, ["a leaf.1"]), Reject)
    shutil.rmtree(attempt / "a leaf.0")
    assert "a leaf.0" in explorer.batch_outcome(attempt, requests).note


def test_options_beside_several_inputs_are_refused(tmp_path, models, capsys):
    explorer = EmbeddedExplorer()
    explorer.write_batch(tmp_path, requests_of(models))
    names = [str(path) for path in sorted(tmp_path.glob("*/md.json"))]
    assert len(names) == 3
    assert main(["md", *names, "--temp", "300"]) == 2 and "--temp" in capsys.readouterr().err
    assert main(["md", *names, "-o", str(tmp_path / "x")]) == 2 and "-o" in capsys.readouterr().err
    assert main(["md", *names]) == 2  # no models there: each of the three is told of
    assert capsys.readouterr().err.count("model.000.pt is missing") == 3


def test_the_stage_plans_batches_and_collects_trajectories(tmp_path, models):
    """Tasks, files, judgement and product of an exploration whose first run of three loses its frames, without a dispatcher."""
    from pwact_like.jobs.types import TaskResult, TaskState
    from pwact_like.stages.base import Place
    from pwact_like.stages.exploration import ExplorationStage, Run, trajectories_of

    collided = silicon()
    collided.positions[1] = collided.positions[0] + 0.2
    structures = {Path("bad"): collided, Path("good"): triclinic()}
    md = MdSettings("nvt", nsteps=10, trj_freq=5, md_dt_ps=0.001, temp_k=300.0)
    runs = [
        Run("md.000.sys.000", f"md.000.sys.000.t.{n:03d}", Path("good" if n else "bad"), None, replace(md, temp_k=300.0 + n), None, 0, 9)
        for n in range(3)
    ]

    def stage(size: int) -> ExplorationStage:
        place = Place(tmp_path / f"by {size}", 5)
        return ExplorationStage(place, EmbeddedExplorer(), "", models, runs, None, lambda path, _: structures[path], 0.4, md_batch=size)

    seeds = {}
    for size, names in ((2, ["batch.000", "batch.001"]), (1, [f"md.000.sys.000/{run.leaf}" for run in runs])):
        exploring = stage(size)
        tasks = exploring.plan()
        assert [task.name for task in tasks] == [f"iter.0000/01.explore/md/{name}" for name in names]
        assert tasks == stage(size).plan() and len({task.key for task in tasks}) == len(tasks)
        results = {}
        for task in tasks:
            attempt = start_attempt(task.folder, task.files, 1)
            assert main(["md", *(str(path) for path in sorted(attempt.rglob("md.json")))]) == 0
            said = exploring.judge(task, attempt)
            if isinstance(said, Ok):
                accept(task.folder, attempt, task.files)
                results[task.name] = TaskResult(task, TaskState.ACCEPTED, 1, note=said.note)
            else:
                results[task.name] = TaskResult(task, TaskState.FAILED, 1, said.reason)
        assert len(results) == len(names)
        for _ in range(2):  # as after a kill before the manifest
            exploring.collect(results)
            (exploring.folder / "manifest.json").rename(exploring.folder / "first.json")
        exploring.collect(results)
        assert (exploring.folder / "first.json").read_bytes() == (exploring.folder / "manifest.json").read_bytes()
        rows = trajectories_of(exploring.folder)
        assert [row["leaf"] for row in rows] == [run.leaf for run in runs] and exploring.facts["lost"] == 1
        assert rows[0]["table"] is None and "apart" in rows[0]["ended"]
        for row in rows[1:]:
            usual = exploring.folder / row["system"] / row["leaf"]
            assert (usual / "traj.xyz").samefile(exploring.place.work_dir / row["trajectory"])
            assert read_table(exploring.place.work_dir / row["table"]).steps.tolist() == [0, 5, 10]
            seeds.setdefault(row["leaf"], []).append(json.loads((usual / "md.json").read_text())["seed"])
    assert all(one == other for one, other in seeds.values()) and len(seeds) == 2


def test_an_exploration_that_was_begun_is_not_shared_out_anew(tmp_path, models):
    """An edit of md_batch between two starts left the runs of before behind: all were run a second time."""
    from pwact_like.stages.base import Place
    from pwact_like.stages.exploration import ExplorationStage, Run

    md = MdSettings("nvt", nsteps=5, trj_freq=5, md_dt_ps=0.001, temp_k=300.0)
    runs = [Run("md.000.sys.000", f"md.000.sys.000.t.{n:03d}", Path("x"), None, md, None, 0, 9) for n in range(4)]

    def plan(folder: Path, size: int):
        return ExplorationStage(Place(folder, 5, 3), EmbeddedExplorer(), "", models, runs, None, lambda *_: silicon(), md_batch=size).plan()

    for begun in (1, 2, 4):
        folder = tmp_path / str(begun)
        plan(folder, 3)  # only planned: inputs lie there, and nothing has begun
        task = plan(folder, begun)[0]
        attempt = start_attempt(task.folder, task.files, 1)
        for state in ("under way", "accepted"):
            if state == "accepted":
                assert main(["md", *(str(path) for path in sorted(attempt.rglob("md.json")))]) == 0
                accept(task.folder, attempt, task.files)
                shutil.rmtree(attempt)
                attempt.mkdir()
            assert plan(folder, begun)[0] == task
            for other in {1, 2, 4} - {begun}:
                if (begun, other) == (2, 4):  # the same task with more in it: the journal refuses that, and names the rewind
                    assert plan(folder, other)[0].name == task.name and plan(folder, other)[0].key != task.key
                    continue
                with pytest.raises(InputError, match=r"explore.md_batch.*begun.*rewind --to 3:explore"):
                    plan(folder, other)
