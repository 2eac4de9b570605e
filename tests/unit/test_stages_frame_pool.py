"""The pool of explored frames, the csv files, and other levels on an exploration that was done."""

import csv
import re

import numpy as np
import pytest

from pwact_like.cli.main import main
from pwact_like.errors import DataError, InputError
from pwact_like.fsio import write_manifest
from pwact_like.stages.frame_pool import CSV_NAMES, read_pool, write_csvs
from pwact_like.stages.refilter import refilter
from pwact_like.stages.selection import counts_line, levels_facts, summary
from pwact_like.uncertainty.choice import choose
from pwact_like.uncertainty.levels import FrameClass, RelativeLevels, TrustLevels
from pwact_like.uncertainty.table import TableWriter

DEEPMD_HEADER = (
    "#       step         max_devi_v         min_devi_v         avg_devi_v         max_devi_f         min_devi_f         avg_devi_f\n"
)


def write_table(path, values, first=0, every=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{first + every * n:12d} 0.1 0.1 0.1 {value!r} 0.0 0.01\n" for n, value in enumerate(values)]
    path.write_text(DEEPMD_HEADER + "".join(lines))


def row(tmp_path, leaf, values, planned=None, group=0, quota=100, structure="a.xyz", ended=""):
    if values is not None:
        write_table(tmp_path / leaf / "model_devi.out", values)
    return {
        "leaf": leaf,
        "system": leaf,
        "group": group,
        "quota": quota,
        "structure": structure,
        "frames_planned": planned if planned is not None else len(values),
        "trajectory": None if values is None else f"{leaf}/traj.xyz",
        "table": None if values is None else f"{leaf}/model_devi.out",
        "ended": ended,
    }


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_missing_frames_and_lost_runs_count_as_failed(tmp_path):
    rows = [row(tmp_path, "one", [0.01, 0.2, 0.5], planned=5, ended="atoms collided"), row(tmp_path, "two", None, planned=4, ended="gone")]
    pool = read_pool(rows, tmp_path)
    counts = pool.counts(pool.classify(TrustLevels(0.1, 0.3)))
    assert counts == {"frames_planned": 9, "frames": 3, "accurate": 1, "candidate": 1, "failed": 7}
    assert counts["accurate"] + counts["candidate"] + counts["failed"] == counts["frames_planned"]
    assert pool.counts_of(0, TrustLevels(0.1, 0.3)) == (1, 1, 3)
    assert pool.counts_of(1, TrustLevels(0.1, 0.3)) == (0, 0, 4)
    assert any("gone" in note for note in pool.notes)


def test_without_tolerance_a_run_that_died_early_counts_for_nothing(tmp_path):
    rows = [row(tmp_path, "one", [0.01, 0.2], planned=5, ended="died"), row(tmp_path, "two", [0.01, 0.2], structure="b.xyz")]
    pool = read_pool(rows, tmp_path, lmps_tolerance=False)
    assert pool.counts(pool.classify(TrustLevels(0.1, 0.3)))["failed"] == 5
    assert pool.eligible.tolist() == [False, False, True, True]


def test_the_same_start_structure_is_labelled_once(tmp_path):
    rows = [row(tmp_path, "a", [0.2, 0.2]), row(tmp_path, "b", [0.2, 0.2]), row(tmp_path, "c", [0.2], structure="other.xyz")]
    assert read_pool(rows, tmp_path).eligible.tolist() == [True, True, False, True, True]


def test_every_frame_stands_in_exactly_one_list_and_paths_are_whole(tmp_path):
    rows = [row(tmp_path, "a", [0.05, 0.2, 0.25, 0.9, float("nan")], quota=1), row(tmp_path, "b, c", [0.3, 0.2], structure="b", group=1)]
    pool = read_pool(rows, tmp_path)
    classes = pool.classify(TrustLevels(0.1, 0.3))
    choice = choose(classes, pool.values, pool.groups, [1, 100], random_share=0.5)
    write_csvs(tmp_path, pool, classes, choice)
    lists = {name: read_csv(tmp_path / file) for name, file in CSV_NAMES.items()}
    assert list(lists["accurate"][0]) == ["", "devi_force", "config_index", "file_path"]
    seen = [
        (line["file_path"], line["config_index"]) for name in ("accurate", "candidate", "candidate_delete", "fail") for line in lists[name]
    ]
    assert len(seen) == len(set(seen)) == 7
    assert {len(lists["candidate"]), len(lists["candidate_delete"])} == {2, 1}
    assert lists["fail"][-1]["file_path"] == str(tmp_path / "b, c" / "traj.xyz")
    assert lists["accurate"][0]["devi_force"] == "0.05" and lists["accurate"][0]["config_index"] == "0"


def test_a_table_longer_than_planned_is_refused(tmp_path):
    with pytest.raises(DataError, match="only 1 were planned"):
        read_pool([row(tmp_path, "a", [0.1, 0.2], planned=1)], tmp_path)


def test_one_frame_tables_and_no_tables_work(tmp_path):
    # PWact's defect: a one-frame model_devi.out crashed
    assert len(read_pool([row(tmp_path, "a", [0.2])], tmp_path).values) == 1
    empty = read_pool([row(tmp_path, "b", None, planned=3)], tmp_path)
    assert empty.counts(empty.classify(TrustLevels(0.1, 0.3)))["failed"] == 3
    write_csvs(
        tmp_path,
        empty,
        empty.classify(TrustLevels(0.1, 0.3)),
        choose(empty.classify(TrustLevels(0.1, 0.3)), empty.values, empty.groups, [1]),
    )
    assert read_csv(tmp_path / "candidate.csv") == []


def test_counts_line_is_pwacts():
    # the line that stands in the brief, made from its own figures
    facts = {"frames_planned": 48, "accurate": 16, "candidate": 24, "failed": 8}
    assert counts_line(facts) == "Total structures 48    accurate 16 rate 33.33%    selected 24 rate 50.00%    error 8 rate 16.67%"
    assert "rate 0.00%" in counts_line({"frames_planned": 0, "accurate": 0, "candidate": 0, "failed": 0})


def kpu_row(tmp_path, leaf, values, *, unit="1", **changes):
    path = tmp_path / leaf / "model_devi.out"
    path.parent.mkdir(parents=True)
    with TableWriter(path, "kpu", unit) as table:
        for number, value in enumerate(values):
            table.append(10 * number, (value, value, value))
    fields = {"leaf": leaf, "system": leaf, "group": 0, "quota": 9, "structure": f"{leaf}.xyz", "frames_planned": len(values), "ended": ""}
    return {**fields, "trajectory": f"{leaf}/traj.xyz", "table": f"{leaf}/model_devi.out", **changes}


def test_levels_relative_to_a_run_s_own_frames_are_each_run_s(tmp_path):
    """PWact's kpu_lower and kpu_upper; the second run is a thousand times more uncertain, and falls as the first does."""
    shape = [1.0, 0.5, 2.0, 7.0, float("nan")]
    rows = [kpu_row(tmp_path, "cold", [1e-4 * value for value in shape]), kpu_row(tmp_path, "hot", [0.1 * value for value in shape])]
    pool = read_pool(rows, tmp_path)
    levels = RelativeLevels(1.5, 3.0)
    pool.refuse_other_unit(levels)
    expected = [FrameClass.ACCURATE, FrameClass.ACCURATE, FrameClass.CANDIDATE, FrameClass.FAILED, FrameClass.FAILED]
    assert pool.classify(levels).tolist() == expected * 2
    assert pool.counts_of(0, levels) == pool.counts_of(1, levels) == (2, 1, 2)
    assert pool.levels_of(1, levels).lower == pytest.approx(0.15) and pool.levels_of(1, levels).upper == pytest.approx(0.45)
    text = summary(
        {**pool.counts(pool.classify(levels)), **levels_facts(levels, "param.json"), "kind": pool.kind, "notes": []}
        | {"chosen_candidates": 2, "chosen_random": 0, "rescued": 0},
        rows,
        pool,
        levels,
    )
    assert "levels: lower 1.5 upper 4.5 times each run's own first values (kpu, a variance), from param.json" in text
    assert re.search(r"hot +5 +2 +1 +2 +0.15 +0.45  complete", text)


def test_levels_and_tables_of_different_units_are_refused(tmp_path):
    variance = read_pool([kpu_row(tmp_path, "a", [1e-4])], tmp_path)
    sigma = read_pool([kpu_row(tmp_path, "b", [0.1], unit="eV/Ang")], tmp_path)
    sigma.refuse_other_unit(TrustLevels(0.05, 0.2))
    for pool, levels in ((variance, TrustLevels(0.05, 0.2)), (sigma, RelativeLevels(0.5, 1.5))):
        with pytest.raises(DataError, match="kpu_scale was edited"):
            pool.refuse_other_unit(levels)
    read_pool([row(tmp_path, "c", None, planned=3)], tmp_path).refuse_other_unit(RelativeLevels(0.5, 1.5))  # nothing was explored


def test_filter_takes_levels_in_the_unit_of_a_kpu_table(tmp_path):
    for unit, values, lower in (("eV/Ang", [0.05, 0.2, 0.5], 0.075), ("1", [1e-4, 2e-4, 9e-4], 1.5)):
        md = tmp_path / unit.replace("/", "") / "md"
        kpu_row(md / "md.000.sys.000", "md.000.sys.000.t.000", values, unit=unit)
        text, _ = refilter(md, lower, 3 * lower, save=False)
        assert "accurate 1 rate 33.33%    selected 1 rate 33.33%    error 1 rate 33.33%" in text and "(kpu" in text


def test_filter_reads_a_folder_without_manifest_and_saves_beside_it(tmp_path, capsys):
    md = tmp_path / "01.explore" / "md"
    write_table(md / "md.000.sys.000" / "md.000.sys.000.t.000" / "model_devi.out", np.linspace(0.0, 0.4, 5).tolist())
    assert main(["Filter", "-i", str(md), "-l", "0.15", "-u", "0.35", "-s"]) == 0
    printed = capsys.readouterr().out
    assert "accurate 2 rate 40.00%" in printed and "selected 2 rate 40.00%" in printed and "error 1 rate 20.00%" in printed
    assert len(read_csv(md.parent / "filter" / "candidate.csv")) == 2
    assert not (md.parent / "select").exists()


def test_filter_names_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="not below"):
        refilter(tmp_path, 0.3, 0.2, save=False)
    with pytest.raises(InputError, match="no deviation table"):
        refilter(tmp_path, 0.1, 0.2, save=False)


def relative_exploration(folder, values):
    """Finished, with one run whose table holds a variance without unit."""
    md = folder / "iter.0000/01.explore/md"
    leaf = md / "md.000.sys.000/md.000.sys.000.t.000"
    leaf.mkdir(parents=True)
    with TableWriter(leaf / "model_devi.out", kind="kpu", unit="1") as table:
        for step, value in enumerate(values):
            table.append(step, (value, value / 2, value / 2))
    names = {"trajectory": "traj.xyz", "table": "model_devi.out"}
    paths = {key: str((leaf / name).relative_to(folder)) for key, name in names.items()}
    run = {"leaf": leaf.name, "system": leaf.parent.name, "group": 0, "quota": 9, "structure": "a.xyz", "ended": "", **paths}
    write_manifest(md, "trajectories", facts={"trajectories": [{**run, "frames_planned": len(values)}]})
    return md


def test_other_levels_on_pwacts_scale_are_multiples_and_say_so(tmp_path, capsys):
    """Found by an attack: they were compared, as if in eV/Å, with variances without unit."""
    md = relative_exploration(tmp_path, [2e-9, 1e-9, 3e-9, 9e-9])
    assert main(["filter", "-i", str(md), "-l", "0.6", "-u", "2", "-s"]) == 0
    said = capsys.readouterr().out
    assert "levels: lower 0.6 upper 2 times each run's own first values (kpu, a variance)" in said
    assert "accurate 1 rate 25.00%    selected 2 rate 50.00%    error 1 rate 25.00%" in said
    assert "1.2e-09" in said and "4e-09" in said
    assert [float(line["devi_force"]) for line in read_csv(md.parent / "filter/candidate.csv")] == [2e-9, 3e-9]


def test_no_option_of_filter_is_ignored_without_a_word(tmp_path, capsys):
    """Found by an attack."""
    md = relative_exploration(tmp_path, [1.0])
    for options, words in (
        (["-l", "0.1", "-u", "0.3", "--tolerance", "0.2"], "--tolerance: it belongs to --suggest"),
        (["-l", "0.1", "-u", "0.3", "--pairs", "p.npz"], "--pairs: it belongs to --suggest"),
        (["--suggest", "-s"], "--suggest writes no lists"),
        (["--suggest", "-l", "0.3"], "both levels are wanted"),
        (["--suggest", "-l", "0.3", "-u", "0.1"], "0.3 and 0.1"),
        (["-l", "nan", "-u", "0.1"], "nan and 0.1"),
        (["--suggest", "--pairs", "p.npz"], "--tolerance"),
    ):
        assert main(["filter", "-i", str(md), *options]) == 2
        assert words in capsys.readouterr().err, options
    assert main(["filter", "-i", str(md), "--suggest", "-l", "2", "-u", "1", "-s", "--pairs", "p.npz"]) == 2
    assert capsys.readouterr().err.count("\n") == 3, "all at once"


def test_suggested_levels_are_not_compared_with_variances_without_unit(tmp_path, capsys):
    md = relative_exploration(tmp_path, [1.0, 9.0])
    sigma = np.linspace(0.05, 0.5, 30)
    np.savez(tmp_path / "pairs.npz", **{"kpu.sigma": sigma, "kpu.error": sigma, "kpu.frame": np.arange(30)})
    asked = ["filter", "-i", str(md), "--suggest", "--tolerance", "0.2", "--pairs", str(tmp_path / "pairs.npz"), "-l", "0.1", "-u", "0.3"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "of the labelled frames" in said and "note: this iteration was explored with kpu_scale relative" in said
    assert "with lower 0.1:" in said and "explored frames" not in said
