"""`retry`: failed tasks begin anew at the next start, on the user's word."""

from __future__ import annotations

import pytest
from jobs_support import always_ok, campaign, executions, make_task

from pwact_like.cli.main import main
from pwact_like.fsio import write_json, write_manifest
from pwact_like.jobs.lock import MasterLock
from pwact_like.outcome import Ok, Reject
from pwact_like.workflows.retry import finished_product, stage_of
from pwact_like.workflows.rewind_plan import RewindPlan, write_plan
from pwact_like.workflows.session import give_another_round


def label_task(folder, step, *commands, iteration=0, **changes):
    name = f"iter.{iteration:04d}/02.label/scf/md.000.sys.000/md.000.sys.000.t.000/{step}-scf"
    return make_task(folder / name, *(commands or ("touch out",)), name=name, **changes)


def drive(folder, tasks, judge=always_ok):
    """One start of a master: the states of the tasks at its end."""
    with campaign(folder) as started:
        give_another_round(started.journal)
        started.dispatcher.run(tasks, judge)
        return [str(started.journal.tasks()[task.name].state) for task in tasks]


def retry(folder, *arguments):
    return main(["retry", *map(str, arguments), "--work-dir", str(folder), "--workflow", "run"])


def reject_all(task, folder):
    return Reject("the SCF did not converge")


def test_what_its_engine_rejected_is_tried_again_on_the_users_word(tmp_path, capsys):
    good, bad = label_task(tmp_path, 2), label_task(tmp_path, 4)
    assert drive(tmp_path, [good, bad], lambda task, folder: Reject("no") if task == bad else Ok()) == ["accepted", "failed"]
    assert drive(tmp_path, [good, bad]) == ["accepted", "failed"]  # not by itself
    assert retry(tmp_path) == 0
    assert "1 task begins anew" in (printed := capsys.readouterr().out) and f"{bad.name}: attempt 1 failed: no" in printed
    assert drive(tmp_path, [good, bad]) == ["accepted", "accepted"]
    assert [line[0] for line in executions(bad)] == ["1", "2"]  # another attempt, and the first one's folder is there
    assert (bad.folder / ".attempt" / "1" / "exit").is_file() and len(executions(good)) == 1


def test_a_task_out_of_attempts_gets_all_of_them_again(tmp_path):
    bad = label_task(tmp_path, 4, f"test -e '{tmp_path}/mended'", "touch out")
    assert drive(tmp_path, [bad]) == ["failed"]
    assert retry(tmp_path) == 0 and drive(tmp_path, [bad]) == ["failed"]
    (tmp_path / "mended").touch()
    assert retry(tmp_path) == 0 and retry(tmp_path) == 0  # twice is once
    assert drive(tmp_path, [bad]) == ["accepted"]
    assert [line[0] for line in executions(bad)] == [str(number) for number in range(1, 8)]


def test_a_failed_task_of_a_finished_stage_is_left_alone(tmp_path, capsys):
    old, new = label_task(tmp_path, 4), label_task(tmp_path, 4, iteration=1)
    drive(tmp_path, [old, new], reject_all)
    write_manifest(tmp_path / "iter.0000/02.label/result", "labels")
    assert retry(tmp_path) == 0
    printed = capsys.readouterr().out
    assert new.name in printed and old.name not in printed and "1 failed task" in printed
    assert drive(tmp_path, [old, new]) == ["failed", "accepted"]
    assert retry(tmp_path, old.name) == 2
    assert "rewind --to 0:label" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word", ["4-scf", "iter.0001/02.label/scf/md.000.sys.000/md.000.sys.000.t.000/4-scf/", "{folder}", "{folder}/.attempt/1"]
)
def test_a_task_by_a_part_of_its_name_or_its_folder(word, tmp_path, capsys):
    # that of iteration 0, whose name has "4-scf", too, was accepted
    tasks = [label_task(tmp_path, 4), label_task(tmp_path, 4, iteration=1), label_task(tmp_path, 6, iteration=1)]
    drive(tmp_path, tasks, lambda task, folder: Ok() if task == tasks[0] else Reject("no"))
    assert retry(tmp_path, word.format(folder=tasks[1].folder)) == 0
    assert "1 task begins" in capsys.readouterr().out
    assert drive(tmp_path, tasks) == ["accepted", "accepted", "failed"]


def test_a_path_is_relative_to_the_users_folder(tmp_path, monkeypatch):
    task = label_task(tmp_path, 4)
    drive(tmp_path, [task], reject_all)
    monkeypatch.chdir(task.folder)
    assert retry(tmp_path, ".attempt") == 0 and retry(tmp_path, ".") == 0


def test_all_that_cannot_be_retried_is_told_at_once(tmp_path, capsys):
    accepted, finished, failed, waiting = (label_task(tmp_path, step, iteration=step % 2) for step in (2, 3, 4, 6))
    other = label_task(tmp_path, 8)
    drive(tmp_path, [accepted, finished, failed, other], lambda task, folder: Ok() if task == accepted else Reject("no"))
    write_manifest(tmp_path / "iter.0001/02.label/result", "labels")
    with campaign(tmp_path) as started:
        started.dispatcher.begin([waiting], always_ok)
    assert retry(tmp_path, accepted.name, finished.name, waiting.name, "4-sfc", "md.000", failed.name) == 2
    said = capsys.readouterr().err
    assert all(f"{number}. " in said for number in range(1, 6)) and "6. " not in said
    assert "it was accepted" in said and "finished without it" in said and "still under way (attempt 1)" in said
    assert f"did you mean {failed.name}" in said and "2 tasks have this in their names" in said
    assert drive(tmp_path, [failed]) == ["failed"]  # all or nothing


def test_a_running_master_is_not_disturbed(tmp_path, capsys):
    drive(tmp_path, [label_task(tmp_path, 4)], reject_all)
    with MasterLock(tmp_path / ".pwact_like" / "run"):
        assert retry(tmp_path) == 4
    assert "Ctrl-C or SIGTERM" in (said := capsys.readouterr().err) and "its jobs stay" in said
    assert retry(tmp_path) == 0


def test_nothing_failed_nothing_started_and_a_half_done_rewind(tmp_path, capsys):
    assert retry(tmp_path) == 2
    assert "no run was ever started here" in capsys.readouterr().err and not list(tmp_path.iterdir())
    drive(tmp_path, [label_task(tmp_path, 4)])
    assert retry(tmp_path) == 0
    assert "nothing to try again" in capsys.readouterr().out
    write_plan(tmp_path / ".pwact_like" / "run", RewindPlan("0:label", "rewound/x", ("iter.0000/02.label",), 1))
    assert retry(tmp_path) == 2
    assert "rewind --to 0:label" in capsys.readouterr().err


def test_the_workflow_that_moved_last_is_meant(tmp_path, capsys):
    drive(tmp_path, [label_task(tmp_path, 4)], reject_all)
    for workflow, heartbeat in (("init_bulk", 1.0), ("run", 2.0)):
        content = {"workflow": workflow, "state": "failed", "reason": "", "heartbeat": heartbeat}
        write_json(tmp_path / ".pwact_like" / workflow / "status.json", content)
    assert main(["retry", "--work-dir", str(tmp_path)]) == 0
    assert "1 task begins anew at the next start of run" in capsys.readouterr().out


def test_the_stage_of_a_task_follows_from_its_name(tmp_path):
    assert stage_of("run", "iter.0012/00.train/train.001") == ("12:train", "iter.0012/00.train")
    assert stage_of("run", "iter.0000/01.explore/md/md.000.sys.000/x") == ("0:explore", "iter.0000/01.explore/md")
    assert stage_of("init_bulk", "temp_init_bulk_work/relax/init_config_0") == ("relax", "temp_init_bulk_work/relax")
    assert stage_of("run", "good") is stage_of("init_bulk", "good") is None
    task = "temp_init_bulk_work/scf/init_config_0/0"
    assert finished_product(tmp_path, "init_bulk", task) is None
    write_manifest(tmp_path / "collection", "init_bulk collection")  # the work folder is gone by then
    assert finished_product(tmp_path, "init_bulk", task) == tmp_path / "collection"
