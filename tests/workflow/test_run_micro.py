"""`run` from end to end: what it leaves, that it repeats itself, and the special cases that broke PWact."""

from __future__ import annotations

import csv
import json

import micro
import numpy as np
import pytest
from ase.io import read


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A campaign of two entries, run once for the module, in a folder whose name needs quoting."""
    folder = tmp_path_factory.mktemp("a campaign's folder")
    micro.write_campaign(folder, entries=2)
    done = micro.pwact_like(folder, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_it_ends_finished_with_a_last_training(finished):
    folder, printed = finished
    status = micro.status(folder)
    assert status["state"] == "finished" and status["workflow"] == "run"
    assert [row["entry"] for row in status["iterations"]] == [0, 1, None]
    for row in status["iterations"][:2]:
        assert row["stage"] == "done" and row["frames_planned"] == 11 == row["frames"]
        assert row["accurate"] + row["candidate"] + row["failed"] == row["frames_planned"]
        assert row["selected"] == row["labelled"] + row["rejected"] == 4  # three candidates and one at random
    assert all(row["force_rmse_ev_per_ang"] > 0 and row["energy_rmse_ev_per_atom"] > 0 for row in status["iterations"])
    assert status["dataset"]["frames"] == 12 + 6 + sum(row["labelled"] for row in status["iterations"][:2])
    assert "final models" in printed and all((folder / path).is_file() for path in status["models"])


def test_every_task_ran_once(finished):
    counts = micro.executions(finished[0])
    assert set(counts.values()) == {1}
    assert len(counts) == 3 * 3 + 2 + 8  # trainings, MD runs, labels


def test_records_are_as_pwacts_users_know_them(finished):
    folder, _ = finished
    assert (folder / "al.record").read_text().split("\n") == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2", "2 0", ""]
    lines = (folder / "iter_select.txt").read_text().splitlines()
    assert len(lines) == 2 and lines[0].startswith("iter.0000  Total structures 11    accurate ")


def test_csv_paths_are_valid_and_hold_the_selected_steps(finished):
    folder, _ = finished
    with (folder / "iter.0000/01.explore/select/candidate.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3
    for row in rows:
        steps = [int(atoms.info["step"]) for atoms in read(row["file_path"], index=":")]
        assert int(row["config_index"]) in steps
    # reserve_md_traj is false: only the selected frames stay
    assert len(steps) == 4


def test_labels_are_emts_own(finished):
    # the truth is EMT itself, asked here without pwact_like
    from ase.calculators.emt import EMT

    folder, _ = finished
    frames = read(folder / "iter.0001/02.label/result/train.xyz", index=":")
    assert len(frames) == 4
    for atoms in frames:
        given = atoms.calc.results if atoms.calc else {}
        energy = given.get("energy", atoms.info.get("energy"))
        forces = given.get("forces", atoms.arrays.get("forces"))
        atoms.calc = EMT()
        assert energy == pytest.approx(atoms.get_potential_energy(force_consistent=True), abs=1e-10)
        assert forces == pytest.approx(atoms.get_forces(), abs=1e-10)


def test_members_differ_and_each_continues_itself(finished):
    # PWact's defect: every member was warm-started from member 0, and the committee collapsed
    folder, _ = finished

    def weights(iteration, member):
        with np.load(folder / f"iter.{iteration:04d}/00.train/train.{member:03d}/model.pt") as archive:
            return np.concatenate([archive[name].ravel() for name in archive.files if name.startswith(("embedding", "fitting", "output"))])

    before, after = [[weights(iteration, member) for member in range(3)] for iteration in (0, 1)]
    for member in range(3):
        distances = [np.linalg.norm(after[member] - start) for start in before]
        assert distances[member] < 0.5 * min(distance for other, distance in enumerate(distances) if other != member)


def test_a_finished_campaign_says_so_and_does_nothing(finished):
    folder, _ = finished
    before = micro.executions(folder)
    again = micro.pwact_like(folder, "run", "param.json", "resource.json")
    assert again.returncode == 0 and "finished" in again.stdout
    assert micro.executions(folder) == before


def test_filter_leaves_the_campaign_alone(finished):
    folder, _ = finished
    done = micro.pwact_like(folder, "filter", "-i", "iter.0000/01.explore", "-l", "0.001", "-u", "0.002")
    assert done.returncode == 0 and "Total structures 11" in done.stdout


def test_gather_collects_every_iteration(finished):
    folder, _ = finished
    done = micro.pwact_like(folder, "gather_pwdata", "-i", ".")
    assert done.returncode == 0, done.stderr
    listed = (folder / "final_pwdata/final_pwdata_list.txt").read_text()
    assert "iter.0000" in listed and "iter.0001" in listed


@pytest.mark.slow
def test_no_candidates_is_an_end_not_a_crash(tmp_path):
    # PWact's defect: zero candidates, the converged case, ended in a ZeroDivisionError
    micro.write_campaign(tmp_path, strategy={"lower_model_devi_f": 40.0, "convergence": {"accurate_fraction": 0.9}})
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    status = micro.status(tmp_path)
    assert status["state"] == "converged" and len(status["iterations"]) == 1
    assert status["iterations"][0]["candidate"] == 0 and status["iterations"][0]["labelled"] == 0


@pytest.mark.slow
def test_all_failed_labels_the_least_bad_and_is_not_convergence(tmp_path):
    micro.write_campaign(tmp_path, strategy={"lower_model_devi_f": 0.01, "upper_model_devi_f": 0.05, "convergence": {"max_repeats": 1}})
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    status = micro.status(tmp_path)
    assert status["state"] == "finished" and status["iterations"][0]["failed"] == 11
    assert status["iterations"][0]["labelled"] == 3
    assert any("not convergence" in note for note in status["notes"])


@pytest.mark.slow
def test_given_models_skip_the_first_training(finished, tmp_path):
    folder, _ = finished
    models = [str(folder / f"iter.0002/00.train/train.{member:03d}/model.pt") for member in range(3)]
    micro.write_campaign(tmp_path, init_model_list=models)
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = micro.status(tmp_path)["iterations"]
    assert not list((tmp_path / "iter.0000/00.train").glob("train.*/lcurve.csv"))
    # the models given are those that ended the other campaign, judged on the same test set
    assert rows[0]["force_rmse_ev_per_ang"] == pytest.approx(micro.status(folder)["iterations"][-1]["force_rmse_ev_per_ang"], rel=1e-9)


def test_dry_run_writes_and_submits_nothing(tmp_path):
    micro.write_campaign(tmp_path)
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "iter.0000/00.train/train.000/train.json").is_file()
    assert f"job scripts: {tmp_path / '.pwact_like/run/dry-run'}" in done.stdout and list(
        (tmp_path / ".pwact_like/run/dry-run").rglob("*.sh")
    )
    assert micro.executions(tmp_path) == {}


@pytest.mark.slow
def test_npy_labels_can_be_trained_on(tmp_path):
    micro.write_campaign(tmp_path, data_format="pwmlff/npy")
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "iter.0000/02.label/result/PWdata").rglob("forces.npy"))


@pytest.mark.slow
def test_a_failing_labeler_ends_within_its_budget_and_goes_on_when_mended(tmp_path):
    param, resource = micro.write_campaign(tmp_path)
    sections = json.loads(resource.read_text())
    sections["DFT"]["command"] = "false && pwact-like"
    resource.write_text(json.dumps(sections))
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 3 and "failure budget" in done.stderr
    assert micro.status(tmp_path)["state"] == "failed"
    assert (tmp_path / "iter.0000/02.label/result/rejected.csv").read_text().count("\n") == 5
    content = json.loads(param.read_text())
    content["strategy"]["max_force"] = 0.01  # what the user does not want is no failure
    param.write_text(json.dumps(content))
    del sections["DFT"]["command"]
    resource.write_text(json.dumps(sections))
    again = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert again.returncode == 0, again.stderr
    assert micro.status(tmp_path)["iterations"][0]["rejected"] == 4
    assert (tmp_path / "iter.0000/02.label/result/rejected.csv").read_text().count("at most 0.01: max_force") == 4
