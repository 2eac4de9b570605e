"""`init_bulk` from end to end on EMT copper, as a user runs it."""

from __future__ import annotations

import csv
import json

import bulk_micro
import micro
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read, write

RUN = ("init_bulk", "init_param.json", "resource.json")
SETTINGS = {"seed": 1, "interval": 2, "data_shuffle": True, "reserve_work": True, "scf_max_num": 4}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Everything on, run once, in a folder whose name needs quoting."""
    folder = tmp_path_factory.mktemp("a user's init bulk")
    bulk_micro.write_inputs(folder, bulk_micro.EVERYTHING, **SETTINGS)
    done = micro.pwact_like(folder, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def snapshot(folder) -> dict:
    done = micro.pwact_like(folder, "status", "init_bulk", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def labels(path) -> list:
    """(atoms, energy, forces, virial) of a data file, as ASE reads it."""
    rows = []
    for atoms in read(path, index=":"):
        results = atoms.calc.results if atoms.calc else {}
        energy = results.get("energy", atoms.info.get("energy"))
        forces = results.get("forces", atoms.arrays.get("forces"))
        rows.append((atoms, energy, forces, np.reshape(atoms.info["virial"], (3, 3))))
    return rows


def test_the_collection_has_pwacts_layout(finished):
    folder, _ = finished
    found = sorted(str(path.relative_to(folder / "collection")) for path in (folder / "collection").rglob("*") if path.is_file())
    assert found == sorted(
        [
            "datapath.txt",
            "manifest.json",
            "init_config_0/relaxed.xyz",
            "init_config_0/super_cell.xyz",
            "init_config_0/0.97_scale.xyz",
            "init_config_0/1.0_scale.xyz",
            *(f"init_config_0/{scale}_scale_pertub/0_pertub.xyz" for scale in ("0.97", "1.0")),
            "init_config_0/train.xyz",
            *(f"init_config_2/pertub/{number}_pertub.xyz" for number in range(2)),
            "init_config_2/train.xyz",
            "init_config_3/train.xyz",
            "init_config_4/1.02_scale.xyz",
            *(f"init_config_{number}/rejected.csv" for number in range(5)),
        ]
    )
    assert (folder / "collection/datapath.txt").read_text().splitlines() == [
        f'"{folder}/collection/init_config_{number}/train.xyz",' for number in (0, 2, 3)
    ]


def test_the_labels_are_emts_own(finished):
    # the truth is EMT itself, asked here without pwact_like
    folder, _ = finished
    counts = []
    for number in (0, 2, 3):
        rows = labels(folder / f"collection/init_config_{number}/train.xyz")
        counts.append(len(rows))
        for atoms, energy, forces, virial in rows:
            bare = atoms.copy()
            bare.calc = EMT()
            assert energy == pytest.approx(bare.get_potential_energy(force_consistent=True), abs=1e-10)
            np.testing.assert_allclose(forces, bare.get_forces(), atol=1e-10)
            np.testing.assert_allclose(virial, -bare.get_volume() * bare.get_stress(voigt=False), atol=1e-9)
    # two runs with the steps 0, 2, …, 8; and scf_max_num single points in all
    assert counts[0] == 2 * 5 and counts[1] + counts[2] == 4


def test_interval_and_shuffle_have_their_effect(finished):
    folder, _ = finished
    frames = read(folder / "collection/init_config_0/train.xyz", index=":")
    steps = [frame.info["step"] for frame in frames]
    assert sorted(steps) == sorted(2 * [0, 2, 4, 6, 8]) and steps != sorted(steps)
    tasks = [frame.info["task"] for frame in frames]
    assert tasks != sorted(tasks)  # mixed across the runs
    # every frame says where it stems from, by a file that is there
    assert all((folder / frame.info["source"]).is_file() for frame in frames)


def test_the_chain_of_structures(finished):
    folder, _ = finished
    collection = folder / "collection/init_config_0"
    relaxed, cell = read(collection / "relaxed.xyz"), read(collection / "super_cell.xyz")
    # EMT's copper: 3.59 Å (Jacobsen, Stoltze, Nørskov); the start was 3.7 Å
    assert (relaxed.get_volume()) ** (1 / 3) == pytest.approx(3.59, abs=0.02)
    relaxed.calc = EMT()
    assert np.abs(relaxed.get_forces()).max() < 0.02 and np.abs(relaxed.get_stress()).max() < 0.02 / relaxed.get_volume() * 4
    assert len(cell) == 8 and cell.get_volume() == pytest.approx(2 * relaxed.get_volume(), rel=1e-12)
    for factor in (0.97, 1.0):
        scaled = read(collection / f"{factor}_scale.xyz")
        assert scaled.get_volume() == pytest.approx(factor**3 * cell.get_volume(), rel=1e-12)
        perturbed = read(collection / f"{factor}_scale_pertub/0_pertub.xyz")
        deformation = np.linalg.solve(scaled.cell.array, perturbed.cell.array)
        assert 0.0 < np.abs(deformation - np.eye(3)).max() <= 0.02 + 1e-12
        moved = np.linalg.norm(perturbed.positions - scaled.positions @ deformation, axis=1)
        assert 0.0 < moved.max() <= 0.05 + 1e-12
        # the run began with exactly this structure
        run = folder / f"temp_init_bulk_work/aimd/init_config_0/{factor}_scale_pertub/0_pertub/label.xyz"
        np.testing.assert_array_equal(read(run, index=0).positions, perturbed.positions)


def test_single_points_replace_the_md_that_they_relabel(finished):
    folder, _ = finished
    frames = read(folder / "collection/init_config_3/train.xyz", index=":")
    assert {frame.info["task"].split("/")[0] for frame in frames} == {"scf"}
    run = read(folder / "temp_init_bulk_work/aimd/init_config_3/init/label.xyz", index=":")
    for frame in frames:
        np.testing.assert_array_equal(frame.positions, run[frame.info["step"]].positions)


def test_the_failed_branch_is_listed_and_the_rest_goes_on(finished):
    folder, printed = finished
    with (folder / "collection/init_config_1/rejected.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["task"] == "init_config_1" and "not converged" in row["reason"]
    assert "init_config_1 (Cu.xyz): structures only, 1 left out" in printed
    assert str(folder / "temp_init_bulk_work/relax/init_config_1") in printed
    assert "WARNING" in (folder / "init_bulk.log").read_text()


def test_every_task_ran_once_and_the_status_says_finished(finished):
    folder, printed = finished
    counts = micro.executions(folder)
    assert set(counts.values()) == {1} and len(counts) == 2 + (2 + 1) + 4
    status = snapshot(folder)
    assert status["state"] == "finished" and status["dataset"]["frames"] == 14
    line = next(line for line in printed.splitlines() if "init_data" in line and "[" in line)
    paths = json.loads("{" + line.strip().rstrip(",") + "}")["init_data"]
    assert sum(len(read(path, index=":")) for path in paths) == 14


def test_starting_again_does_nothing_and_other_settings_are_refused(finished):
    folder, _ = finished
    before = (folder / "collection/manifest.json").read_bytes()
    again = micro.pwact_like(folder, *RUN)
    assert again.returncode == 0 and "14 labelled frames in all" in again.stdout
    content = json.loads((folder / "init_param.json").read_text())
    (folder / "other.json").write_text(json.dumps({**content, "seed": 2}))
    other = micro.pwact_like(folder, "init_bulk", "other.json", "resource.json")
    assert other.returncode == 2 and "other settings" in other.stderr
    assert (folder / "collection/manifest.json").read_bytes() == before
    assert set(micro.executions(folder).values()) == {1}
    assert snapshot(folder)["state"] == "finished"  # a refused start says nothing about what is there


def test_a_subset_and_cleaning_up(tmp_path):
    """Perturbed structures and single points only, in npy folders; the work folder goes."""
    bulk_micro.write_inputs(tmp_path, [{"config": "Cu.xyz", "perturb": 1, "scf": True}], data_format="pwmlff/npy")
    done = micro.pwact_like(tmp_path, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert np.load(tmp_path / "collection/init_config_0/PWdata/Cu4/energies.npy").shape == (1, 1)
    assert (tmp_path / "collection/datapath.txt").read_text() == f'"{tmp_path}/collection/init_config_0/PWdata",\n'
    assert not (tmp_path / "temp_init_bulk_work").exists()
    assert json.loads((tmp_path / "deleted.jsonl").read_text())["path"] == "temp_init_bulk_work"


def test_dry_run_writes_the_first_stage_and_submits_nothing(tmp_path):
    bulk_micro.write_inputs(tmp_path, bulk_micro.EVERYTHING)
    done = micro.pwact_like(tmp_path, *RUN, "--dry-run")
    assert done.returncode == 0 and "submitted nothing" in done.stdout
    assert (tmp_path / "temp_init_bulk_work/relax/init_config_0/structure.xyz").is_file()
    assert list((tmp_path / ".pwact_like/init_bulk/dry-run").rglob("job.sh"))
    assert not micro.executions(tmp_path) and not (tmp_path / "collection").exists()


def test_pwacts_own_collection_is_never_touched(tmp_path):
    bulk_micro.write_inputs(tmp_path, [{"config": "Cu.xyz", "perturb": 2, "scf": True}])
    (tmp_path / "collection/init_config_0").mkdir(parents=True)
    (tmp_path / "collection/datapath.txt").write_text("theirs")
    done = micro.pwact_like(tmp_path, *RUN)
    assert done.returncode == 2 and "never overwritten" in done.stderr
    assert [path.name for path in (tmp_path / "collection").rglob("*")].count("datapath.txt") == 1
    assert (tmp_path / "collection/datapath.txt").read_text() == "theirs" and not (tmp_path / "temp_init_bulk_work").exists()


def test_what_the_last_stage_lacks_is_said_before_the_first_one_runs(tmp_path):
    systems = [{"config": "Cu.xyz", "relax": True, "aimd": True}, {"config": "one.xyz", "aimd": True}, {"config": "iron.xyz", "scf": True}]
    bulk_micro.write_inputs(tmp_path, systems)
    write(tmp_path / "one.xyz", Atoms("Cu", cell=[3, 3, 3], pbc=True))
    write(tmp_path / "iron.xyz", Atoms("Fe2", positions=[[0, 0, 0], [1.5, 1.5, 1.5]], cell=[3, 3, 3], pbc=True))
    done = micro.pwact_like(tmp_path, *RUN)
    assert done.returncode == 2
    assert "one.xyz (aimd): MD of a single atom" in done.stderr and "EMT has no parameters for Fe" in done.stderr
    assert not (tmp_path / "temp_init_bulk_work").exists() and not (tmp_path / ".pwact_like").exists()
