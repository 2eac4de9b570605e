"""`run` with several trajectories a process: the same files under the same names, one task a batch, and the same end after kills."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import micro
import numpy as np
import pytest

from pwact_like.cli.main import main
from pwact_like.data.xyz_trajectory import fetch_steps
from pwact_like.uncertainty.table import read_table

LEAVES = [f"md.000.sys.000.t.{number:03d}" for number in range(3)] + ["md.001.sys.000.t.000"]


def write_campaign(folder: Path) -> None:
    """Three temperatures of one length, and one longer run: two batches of two trajectories and of one, and one by its length."""
    param, _ = micro.write_campaign(folder)
    (job,) = json.loads(param.read_text())["explore"]["md_jobs"]
    entry = [{**job, "temps": [300, 400, 500]}, {**job, "nsteps": 30}]
    micro.edit(param, lambda content: content["explore"].update(md_jobs=[entry], md_batch=2))


def run(folder: Path, **kill) -> int:
    done = micro.pwact_like(folder, "run", "param.json", "resource.json", **kill)
    assert kill or done.returncode == 0, done.stdout + done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a campaign of batches")
    write_campaign(folder)
    micro.edit(folder / "param.json", lambda content: content.update(reserve_work=True, reserve_md_traj=True))
    run(folder)
    return folder


def exploration(folder: Path) -> Path:
    return folder / "iter.0000/01.explore/md"


@pytest.mark.slow
def test_every_trajectory_is_where_it_always_is_and_what_it_is_alone(finished, tmp_path):
    md = exploration(finished)
    begun = [name for name in micro.executions(finished) if "01.explore" in name]
    assert begun == [f"iter.0000/01.explore/md/batch.{number:03d}" for number in range(3)]
    assert [sorted(path.parent.name for path in md.glob(f"batch.{n:03d}/*/md.json")) for n in range(3)] == [
        LEAVES[:2],
        LEAVES[2:3],
        LEAVES[3:],
    ]
    facts = json.loads((md / "manifest.json").read_text())["facts"]
    assert [row["leaf"] for row in facts["trajectories"]] == LEAVES
    assert (facts["lost"], facts["frames_planned"]) == (0, 3 * 11 + 16)
    models = sorted((finished / "iter.0000/00.train").glob("train.*/model.pt"))
    seeds = set()
    for row in facts["trajectories"]:
        usual = md / row["system"] / row["leaf"]
        assert (usual / "traj.xyz").samefile(finished / row["trajectory"]) and (usual / "md.log").is_file()
        table = read_table(finished / row["table"])
        assert len(table) == row["frames_planned"] and row["ended"] == ""
        content = json.loads((usual / "md.json").read_text()) | {"models": [str(path) for path in models]}
        seeds.add(content["seed"])
        lone = tmp_path / row["leaf"]
        lone.mkdir()
        (lone / "md.json").write_text(json.dumps(content))
        (lone / "start.xyz").write_bytes((usual / "start.xyz").read_bytes())
        assert main(["md", str(lone / "md.json")]) == 0
        np.testing.assert_allclose(table.value, read_table(lone / "model_devi.out").value, rtol=2e-6, atol=1e-12)
        last = int(table.steps[-1])
        frames = [fetch_steps(folder / "traj.xyz", [last])[0].positions for folder in (usual, lone)]
        np.testing.assert_allclose(*frames, rtol=0, atol=1e-9)
    assert len(seeds) == 4
    status = micro.status(finished)
    assert status["state"] == "finished" and status["iterations"][0]["labelled"] > 0


@pytest.mark.slow
def test_selected_frames_are_found_under_the_batches(finished):
    rows = (exploration(finished).parent / "select/candidate.csv").read_text().splitlines()[1:]
    assert rows and all(Path(row.rsplit(",", 1)[1]).exists() or (finished / row.rsplit(",", 1)[1]).exists() for row in rows)


@pytest.mark.crash
def test_a_killed_campaign_of_batches_ends_the_same(tmp_path):
    for name in ("undisturbed", "killed"):
        write_campaign(tmp_path / name)
    run(tmp_path / "undisturbed")
    # the third training is accepted at accepted:3; renaming a batch's outputs is what follows
    for point in ("accepted:3", "accepting:5", "collecting"):
        assert run(tmp_path / "killed", kill_at=point) == -signal.SIGKILL, point
    run(tmp_path / "killed")
    ends = [(micro.status(tmp_path / name)["dataset"], micro.executions(tmp_path / name)) for name in ("undisturbed", "killed")]
    assert ends[0] == ends[1] and set(ends[0][1].values()) == {1}


def test_md_batch_of_another_engine_is_told_to_have_no_effect(tmp_path):
    from pwact_like.config.load import load_run

    param, resource = micro.write_campaign(tmp_path)
    micro.edit(param, lambda content: content["explore"].update(md_batch=4, engine="lammps"))
    micro.edit(resource, lambda content: content["explore"].update(command="lmp"))
    notes = [str(note) for note in load_run(param, resource, tmp_path).notes]
    assert any("md_batch" in note and "without effect" in note for note in notes), notes
