"""explain, status and the copy of the journal that explain reads."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from jobs_support import always_ok, campaign, make_task
from support import run_cli

from pwact_like.errors import DataError, InputError
from pwact_like.fsio import write_json, write_manifest
from pwact_like.jobs.journal_read import read_copy
from pwact_like.jobs.rows import JobShown
from pwact_like.outcome import Ok, Retry
from pwact_like.report.explain import find_task
from pwact_like.report.status import duration, job_lines
from pwact_like.workflows.snapshot import MOST_JOBS, Snapshot


@pytest.fixture
def told(tmp_path):
    """A folder with an accepted task, one that failed first, and one that failed for good."""
    good = make_task(tmp_path / "iter.0000/02.label/scf/a", "touch out", name="iter.0000/02.label/scf/a")
    flaky = make_task(tmp_path / "iter.0000/02.label/scf/b", "touch out", name="iter.0000/02.label/scf/b")
    bad = make_task(
        tmp_path / "iter.0000/02.label/bad", "echo the SCF went astray >&2; exit 9", name="iter.0000/02.label/bad", max_attempts=2
    )

    def judge(task, folder):
        return Retry("its forces do not add up", {"MIXING": "0.1"}) if task is flaky and folder.name == "1" else Ok()

    with campaign(tmp_path) as here:
        here.dispatcher.run([good, flaky, bad], judge)
    return tmp_path


def test_the_story_of_a_task_that_failed(told):
    done = run_cli("explain", "bad", "--work-dir", told)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "iter.0000/02.label/bad: failed after 2 attempts" in text and "reason: exit status 9: the SCF went astray" in text
    assert text.count("attempt 1: rejected, failed (counts as a failed attempt)") == 1 and "attempt 2: rejected" in text
    assert f"files: {told}/iter.0000/02.label/bad/.attempt/1" in text and "exit marker: 9" in text and "    | the SCF went astray" in text
    assert "job: pwl-test-" in text and "pwact-like retry iter.0000/02.label/bad" in text


def test_the_story_of_a_task_that_was_tried_again(told):
    text = run_cli("explain", "scf/b", "--work-dir", told).stdout
    assert "accepted after 2 attempts" in text and "why: its forces do not add up" in text and "asked for: MIXING=0.1" in text
    assert text.rstrip().endswith("now: done; its outputs are in its folder")


def test_a_task_is_found_by_name_part_and_path(told):
    wanted = "iter.0000/02.label/scf/a"
    for word in (wanted, "scf/a", str(told / wanted), str(told / wanted / ".attempt/1/stderr"), f"{told}/{wanted}/"):
        assert find_task(told, word).task.name == wanted, word
    done = run_cli("explain", ".attempt/1", "--work-dir", told, cwd=told / wanted)
    assert wanted in done.stdout


def test_a_trajectory_is_found_in_the_task_that_it_shares(tmp_path):
    """Before the exploration is done its usual folder is not there yet; run.log names it nevertheless."""
    with campaign(tmp_path) as here:
        folders = [tmp_path / f"iter.000{iteration}/01.explore/md/batch.000" for iteration in (0, 1)]
        tasks = [make_task(folder, "touch out", name=str(folder.relative_to(tmp_path))) for folder in folders]
        for folder, leaves in zip(folders, (("md.000.sys.000.t.000", "md.000.sys.000.t.001"), ("md.000.sys.000.t.000",)), strict=True):
            for leaf in leaves:
                (folder / leaf).mkdir(parents=True)
        here.dispatcher.run(tasks, lambda *_: Ok())
    for word in (
        "md.000.sys.000.t.001",
        "iter.0000/01.explore/md/md.000.sys.000/md.000.sys.000.t.000",
        "md.000.sys.000/md.000.sys.000.t.001",
    ):
        assert find_task(tmp_path, word).task.name == tasks[0].name, word
    for word, what in (("md.000.sys.000.t.000", "2 tasks have this"), ("..", "no such task"), ("qq/", "no such task")):
        with pytest.raises(InputError, match=what):
            find_task(tmp_path, word)


def test_json(told):
    content = json.loads(run_cli("explain", "bad", "run", "--json", "--work-dir", told).stdout)
    assert content["state"] == "failed" and [attempt["exit_marker"] for attempt in content["attempts"]] == ["9", "9"]
    assert content["attempts"][0]["strike"] and content["attempts"][0]["job_record"]["name"] == content["attempts"][0]["job"]


def test_an_unknown_task_is_named_with_near_misses(told):
    done = run_cli("explain", "iter.0000/02.label/bat", "--work-dir", told)
    assert done.returncode == 2 and "did you mean iter.0000/02.label/bad" in done.stderr
    with pytest.raises(InputError, match="2 tasks have this in their names"):
        find_task(told, "scf/")


def test_where_nothing_was_started(tmp_path):
    done = run_cli("explain", "x", "--work-dir", tmp_path)
    assert done.returncode == 2 and "nothing was ever started here" in done.stderr


def test_a_task_is_found_by_a_path_that_leads_over_a_link(told, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "here"
    link.symlink_to(told)
    for work_dir in (told, link):
        done = run_cli("explain", link / "iter.0000/02.label/scf/a/.attempt", "--work-dir", work_dir)
        assert done.returncode == 0 and done.stdout.startswith("iter.0000/02.label/scf/a: accepted"), done.stderr


def test_the_cure_of_a_failed_task_is_one_that_works(told):
    """It named `retry`, which refuses a task whose stage was finished without it."""
    write_manifest(told / "iter.0000/02.label/result", "labels")
    done = run_cli("explain", "bad", "--work-dir", told)
    assert "`pwact-like rewind --to 0:label`" in done.stdout and "retry" not in done.stdout
    refused = run_cli("retry", "bad", "--workflow", "run", "--work-dir", told)
    assert refused.returncode == 2 and "rewind --to 0:label" in refused.stderr


@pytest.mark.parametrize(
    ("state", "changes", "text"),
    [
        ("stopped", {}, "now: its job is queued; no master runs (stopped): the same command as before goes on"),
        ("running", {"stuck": True, "reason": "PartitionTimeLimit"}, "it will not begin by itself (PartitionTimeLimit)"),
        ("running", {}, "now: its job is queued; the scheduler does not answer at present"),
    ],
)
def test_what_is_the_case_now(state, changes, text, tmp_path):
    task = make_task(tmp_path / "a", "sleep 60")
    with campaign(tmp_path) as here:
        here.dispatcher.begin([task], always_ok)
        here.dispatcher.tick()
        (row,) = here.dispatcher.job_rows()
        board = Snapshot(
            here.state_dir, "run", "a", here.dispatcher.counts, lambda: [replace(row, **changes)], "local", lambda: not changes
        )
        board.state = state
        board.publish()
        done = run_cli("explain", "a", "--work-dir", tmp_path)
        content = json.loads(run_cli("explain", "a", "--json", "--work-dir", tmp_path).stdout)
        here.scheduler.cancel(here.scheduler.live())
    assert text in done.stdout and text.removeprefix("now: ") in content["now"]


def test_kill_does_not_depend_on_the_snapshot(tmp_path):
    """A damaged status.json, which only has a hint, kept the jobs alive."""
    task = make_task(tmp_path / "a", "sleep 60")
    with campaign(tmp_path) as here:
        here.dispatcher.begin([task], always_ok)
        here.dispatcher.tick()
        (name,) = here.scheduler.live()
    (tmp_path / ".pwact_like/run/status.json").write_text('{"workflow": ')
    done = run_cli("kill", "run", "--work-dir", tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == ["ended 1 job:", f"  {name}"], done.stderr
    assert here.scheduler.live() == []


def test_kill_names_the_job_that_the_master_is(tmp_path):
    state_dir = tmp_path / ".pwact_like" / "run"
    process = {"host": "node7", "pid": 123, "start": 1, "boot": "another"}
    write_json(state_dir / "lock", {"process": process, "epoch": 1, "since": time.time()})
    write_json(state_dir / "status.json", {"slurm_job": "4711"})
    done = run_cli("kill", "run", "--work-dir", tmp_path)
    assert done.returncode == 4 and "runs on node7: end it with: scancel 4711" in done.stderr


# ---------------------------------------------------------------------- the copy


def test_the_copy_is_whole_while_the_master_writes(told):
    """Thousands of transactions meanwhile: every copy holds a state that there was."""
    path = told / ".pwact_like/run/journal.sqlite"
    stop = threading.Event()

    def write():
        connection = sqlite3.connect(path, isolation_level=None)
        number = 0
        while not stop.is_set():
            number += 1
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('a', ?)", (str(number),))
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('b', ?)", (str(number),))
            connection.execute("COMMIT")
            time.sleep(0.002)
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(15):
            with read_copy(path) as journal:
                assert journal.meta("a") == journal.meta("b") and len(journal.tasks()) == 3
    finally:
        stop.set()
        thread.join()


def test_a_transaction_of_a_killed_master_is_rolled_back_in_the_copy(told):
    path = told / ".pwact_like/run/journal.sqlite"
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('PRAGMA cache_size=1'); "
        "c.execute('BEGIN IMMEDIATE'); c.execute('DELETE FROM tasks'); "
        "[c.execute('INSERT INTO events (time, kind, what) VALUES (0, ?, ?)', ('x', 'y' * 3000)) for _ in range(300)]; "
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.with_name("journal.sqlite-journal").exists(), "the test needs a hot journal"
    before = path.read_bytes()
    with read_copy(path) as journal:
        assert len(journal.tasks()) == 3 and not any(kind == "x" for _, kind, _ in journal.events())
    assert path.read_bytes() == before and path.with_name("journal.sqlite-journal").exists(), "the original was touched"


def test_a_file_that_is_no_journal(tmp_path):
    (tmp_path / "journal.sqlite").write_text("not a database, but long enough to have a header " * 5)
    with pytest.raises(DataError, match="cannot be used"), read_copy(tmp_path / "journal.sqlite") as journal:
        journal.tasks()


# ---------------------------------------------------------------------- status


def shown(number, **changes):
    fields = {"said": "RUNNING", "reason": "", "node": "n1", "since": 1000.0, "tasks": 2, "stuck": False, "state": "running"}
    return JobShown(name=f"pwl-a-{number}-1", id=str(number), section="DFT", **{**fields, **changes})


def snapshot(tmp_path, rows, **changes):
    board = Snapshot(tmp_path, "run", "a", lambda: {"running": len(rows)}, job_rows=lambda: rows, scheduler="slurm", **changes)
    board.publish()
    return json.loads((tmp_path / "status.json").read_text())


def test_status_shows_the_jobs(tmp_path):
    rows = [
        shown(1),
        shown(2, state="queued", said="PENDING", reason="Priority", node="", since=None),
        shown(3, state="queued", said="PENDING", reason="PartitionTimeLimit", node="", stuck=True),
    ]
    status = snapshot(tmp_path, rows)
    assert [row["id"] for row in status["jobs_in_flight"]] == ["3", "1", "2"] and status["scheduler"] == "slurm"
    text = "\n".join(job_lines(status, now=1000.0 + 5400))
    assert "3   PENDING  90 min  -     2      DFT      pwl-a-3-1  PartitionTimeLimit  <- will not begin by itself" in text
    assert "1   RUNNING  90 min  n1    2      DFT      pwl-a-1-1" in text and "Priority" in text


def test_status_of_many_jobs_is_short(tmp_path):
    status = snapshot(tmp_path, [shown(number) for number in range(1000)], silent=lambda: True)
    assert len(status["jobs_in_flight"]) == MOST_JOBS and status["jobs_left_out"] == 1000 - MOST_JOBS
    lines = job_lines(status, now=2000.0)
    assert len(lines) < 40 and "… and 970 more" in lines[-1] and "slurm does not answer at present" in lines[0]


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (3000, "50 min"), (20000, "5.6 h"), (400000, "4.6 d"), (-5, "0 s")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_status_from_the_command_line(told):
    (told / ".pwact_like/run/status.json").write_text(json.dumps(snapshot(told, [shown(7)]) | {"state": "waiting"}))
    done = run_cli("status", "--work-dir", told)
    assert done.returncode == 0 and "pwl-a-7-1" in done.stdout and "as the master last saw them" in done.stdout, done.stderr
