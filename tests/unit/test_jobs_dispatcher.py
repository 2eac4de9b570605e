"""The dispatcher's rules: with the real local scheduler, and tick by tick with one that can be made to fail."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import sqlite3

import pytest
from jobs_bench import scripted_bench, state_of
from jobs_support import NASTY, always_ok, campaign, executions, make_task, run_script, wait_until

from pwact_like.config.resource import ResourceSection
from pwact_like.errors import DataError, FencedError, InputError, SchedulerError, StopRequested
from pwact_like.jobs.script import attempt_folder
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.types import EndCause, JobView, Refused, TaskState
from pwact_like.outcome import Ok, Reject, Retry, TaskFiles

OUT = TaskFiles(outputs=("out",))


# ---------------------------------------------------------------------- with the real local scheduler


@pytest.mark.parametrize("name", [NASTY[2], NASTY[4], NASTY[5]])
def test_a_task_comes_to_its_end_in_any_folder(tmp_path, name):
    work_dir = tmp_path / name
    files = TaskFiles(inputs=("INPUT",), outputs=("out",), optional_outputs=("*.log", "no*"))
    task = make_task(work_dir / "t", "cat INPUT > out; echo log > a.log; touch scratch", files=files)
    (task.folder / "INPUT").write_text("content")
    with campaign(work_dir) as here:
        result = here.dispatcher.run([task], lambda task, folder: Ok(f"good {folder.name}"))[task.name]
        assert (result.state, result.attempts, result.note) == (TaskState.ACCEPTED, 1, "good 1")
        assert here.dispatcher.counts() == {"planned": 0, "queued": 0, "running": 0, "ended": 1, "failed": 0}
    assert (task.folder / "out").read_text() == "content" and (task.folder / "a.log").exists()
    assert {path.name for path in (task.folder / ".attempt" / "1").iterdir()} == {"claim", "exit", "stdout", "stderr"}
    assert '"path": "1/scratch"' in (task.folder / ".attempt" / "deleted.jsonl").read_text()
    assert (task.folder / "INPUT").exists()


def test_groups_and_slots_bring_every_task_to_its_end(tmp_path):
    tasks = [make_task(tmp_path / f"t{index:02d}", "echo $PWACT_LIKE_JOB > out") for index in range(11)]
    with campaign(tmp_path, ResourceSection(group_size=4, parallel_num=2)) as here:
        results = here.dispatcher.run(tasks, always_ok)
        assert {result.state for result in results.values()} == {TaskState.ACCEPTED} and list(results) == [task.name for task in tasks]
        assert len(here.journal.jobs()) == 3 and here.journal.jobs(live_only=True) == {}
    assert all(len(executions(task)) == 1 for task in tasks)


def test_what_is_done_is_not_done_again(tmp_path):
    tasks = [make_task(tmp_path / name, "touch out") for name in "abc"]
    judged = []
    for _ in range(2):
        with campaign(tmp_path) as here:
            results = here.dispatcher.run(tasks, lambda task, folder: (judged.append(task.name), Ok("first"))[1])
            assert [result.note for result in results.values()] == ["first"] * 3
    assert sorted(judged) == ["a", "b", "c"] and all(len(executions(task)) == 1 for task in tasks)


def test_a_task_whose_folder_was_removed_is_done_anew_in_a_job_of_another_name(tmp_path):
    """The second first attempt once asked for a job of the first one's name, and the journal refused it."""
    task = make_task(tmp_path / "t", "touch out")
    for rounds in (1, 2, 3):
        with campaign(tmp_path) as here:
            assert here.dispatcher.run([task], always_ok)["t"].state is TaskState.ACCEPTED
            assert len(here.journal.jobs()) == rounds
        assert len(executions(task)) == 1
        shutil.rmtree(task.folder)
        make_task(tmp_path / "t", "touch out")


def test_attempts_are_counted_and_the_diagnosis_is_one_line(tmp_path):
    task = make_task(tmp_path / "t", "echo first >&2; echo 'Segmentation fault é' >&2; echo >&2; exit 139")
    good = make_task(tmp_path / "u", "touch out")
    with campaign(tmp_path) as here:
        results = here.dispatcher.run([task, good], always_ok)
        result = results["t"]
        assert (result.state, result.attempts) == (TaskState.FAILED, 3)
        assert result.reason == f"exit status 139: Segmentation fault é ({attempt_folder(task, 3)}/stderr)"
        assert results["u"].state is TaskState.ACCEPTED
        assert here.dispatcher.counts()["failed"] == 1
    assert [line[0] for line in executions(task)] == ["1", "2", "3"]
    assert all((attempt_folder(task, number) / "stderr").exists() for number in (1, 2, 3)), "failed attempts stay on disk"
    with campaign(tmp_path) as here:
        assert here.dispatcher.run([task, good], always_ok)["t"].state is TaskState.FAILED
    assert len(executions(task)) == 3


def test_a_retry_brings_its_changes_and_the_checkpoint(tmp_path):
    task = make_task(
        tmp_path / "t",
        'cat ck 2>/dev/null; echo "$MIXING $STEPS" >> ck; cp ck out',
        files=TaskFiles(outputs=("out",), carry=("ck",)),
        max_attempts=4,
    )

    def judge(task, folder):
        number = int(folder.name)
        return [Retry("mix less", {"MIXING": "0.1"}), Retry("more steps", {"STEPS": "9"}), Ok()][number - 1]

    with campaign(tmp_path) as here:
        assert here.dispatcher.run([task], judge)["t"].attempts == 3
        assert [row.reason for row in here.journal.attempts("t")] == ["mix less", "more steps", ""]
    assert (task.folder / "out").read_text() == " \n0.1 \n0.1 9\n"


def test_reject_is_final(tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    with campaign(tmp_path) as here:
        result = here.dispatcher.run([task], lambda task, folder: Reject("the SCF did not converge"))["t"]
    assert (result.state, result.attempts, result.reason) == (TaskState.FAILED, 1, "the SCF did not converge")
    assert not (task.folder / "out").exists()


def test_a_missing_output_is_a_failed_attempt(tmp_path):
    task = make_task(tmp_path / "t", "echo strange >&2", max_attempts=2)
    with campaign(tmp_path, grace_s=0.0) as here:
        result = here.dispatcher.run([task], always_ok)["t"]
    assert (result.state, result.attempts) == (TaskState.FAILED, 2) and "left no out: strange" in result.reason


@pytest.mark.parametrize("error", [DataError("OUTCAR: line 7 is cut off"), ValueError("could not convert"), KeyError("energy"), EOFError()])
def test_a_judge_that_raises_fails_the_attempt_only(tmp_path, error):
    tasks = [make_task(tmp_path / name, "touch out", max_attempts=2) for name in ("bad", "good")]

    def judge(task, folder):
        if task.name == "bad":
            raise error
        return Ok()

    with campaign(tmp_path) as here:
        results = here.dispatcher.run(tasks, judge)
    assert results["good"].state is TaskState.ACCEPTED
    assert (
        results["bad"].attempts == 2
        and type(error).__name__ in results["bad"].reason
        and str(attempt_folder(tasks[0], 2)) in results["bad"].reason
    )


def test_a_full_disk_is_not_the_attempts_fault(tmp_path):
    task = make_task(tmp_path / "t", "touch out")

    def full(task, folder):
        raise OSError(errno.ENOSPC, "No space left on device", "some/file")

    with campaign(tmp_path) as here, pytest.raises(DataError, match=r"some/file: No space left.*start again"):
        here.dispatcher.run([task], full)
    with campaign(tmp_path) as here:
        assert here.dispatcher.run([task], always_ok)["t"].attempts == 1
    assert len(executions(task)) == 1


def test_secrets_live_only_as_long_as_needed(tmp_path):
    files = TaskFiles(inputs=("INCAR", "POTCAR"), outputs=("out",), optional_outputs=("P*",), secret=("POTCAR",))
    tasks = [
        make_task(tmp_path / name, f"test -s POTCAR && {command}", files=files) for name, command in (("a", "touch out"), ("b", "exit 1"))
    ]

    def plan():
        for task in tasks:
            for name in files.inputs:
                (task.folder / name).write_text("licensed")

    for _ in range(2):
        plan()
        with campaign(tmp_path) as here:
            results = here.dispatcher.run(tasks, always_ok)
        assert [results[name].state for name in "ab"] == [TaskState.ACCEPTED, TaskState.FAILED]
        assert results["b"].attempts == 3
        assert list(tmp_path.rglob("POTCAR")) == []


def test_an_output_may_be_a_folder_or_lie_in_one(tmp_path):
    task = make_task(
        tmp_path / "t", "mkdir -p model sub; echo 1 > model/weights; echo 2 > sub/curve", files=TaskFiles(outputs=("model", "sub/curve"))
    )
    (task.folder / "model").mkdir()
    (task.folder / "model" / "older").touch()
    with campaign(tmp_path) as here:
        here.dispatcher.run([task], always_ok)
    assert (task.folder / "model" / "weights").exists() and not (task.folder / "model" / "older").exists()
    assert (task.folder / "sub" / "curve").exists()
    assert (attempt_folder(task, 1) / "replaced.model" / "older").exists()


@pytest.mark.parametrize("recorded", [True, False])
def test_jobs_of_what_is_no_longer_asked_for_are_cancelled(tmp_path, recorded, caplog):
    """Settings were edited between two starts; edited back, the task goes on from where it was."""
    tasks = [make_task(tmp_path / name, "touch out") for name in "ab"]
    with scripted_bench(tmp_path) as build:
        if not recorded:
            build.scheduler.replies = [None, "unknown"]
        build(tasks).tick()
        assert build.scheduler.submissions == [view.name for view in build.scheduler.jobs.values()] and len(build.scheduler.jobs) == 2
        build.scheduler.silent = not recorded
        caplog.set_level(logging.INFO)
        dispatcher = build(tasks[:1])
        if not recorded:
            assert build.scheduler.cancelled == [] and "stay for now (connect failure)" in caplog.text
            build.scheduler.silent = False
            dispatcher = build(tasks[:1])
        assert build.scheduler.cancelled == ["2"] and "no longer asked for: b" in caplog.text
        assert [job.name for job in dispatcher.job_rows()] == build.scheduler.submissions[:1]
        assert list(dispatcher.journal.tasks()) == ["a"]
        assert dispatcher.counts() == {"planned": 0, "queued": 1, "running": 0, "ended": 0, "failed": 0}
        build.scheduler.run("1")
        build.scheduler.end("1")
        build.scheduler.end("2", EndCause.CANCELLED)
        dispatcher.tick()
        assert dispatcher.done and state_of(dispatcher, "a") is TaskState.ACCEPTED
        dispatcher = build(tasks)
        dispatcher.tick()
        assert len(set(build.scheduler.submissions)) == 3
        build.scheduler.run("3")
        build.scheduler.end("3")
        dispatcher.tick()
        assert dispatcher.done and state_of(dispatcher, "b") is TaskState.ACCEPTED
    assert len(executions(tasks[1])) == 1


def test_a_job_that_others_share_with_what_is_no_longer_asked_for_runs_on(tmp_path):
    tasks = [make_task(tmp_path / name, "touch out") for name in "ab"]
    with scripted_bench(tmp_path) as build:
        build(tasks, train=ResourceSection(group_size=2)).tick()
        dispatcher = build(tasks[:1])
        assert build.scheduler.cancelled == [] and list(dispatcher.journal.tasks()) == ["a"]
        build.scheduler.run("1")
        build.scheduler.end("1")
        dispatcher.tick()
        assert dispatcher.done and dispatcher.journal.jobs(live_only=True) == {}


def test_a_changed_task_is_an_error_that_names_it(tmp_path):
    tasks = [make_task(tmp_path / name, "touch out") for name in ("a", "b")]
    with campaign(tmp_path) as here:
        here.dispatcher.run(tasks, always_ok)
    changed = [make_task(tmp_path / name, "touch out", key=f"new {name}") for name in ("a", "b")]
    with campaign(tmp_path) as here, pytest.raises(InputError, match=r"(?s)1\. a: its inputs changed.*2\. b: .*remove"):
        here.dispatcher.run(changed, always_ok)
    for task in changed:
        for path in (*(task.folder / ".attempt" / "1").iterdir(), *(task.folder / ".attempt").glob("*.log")):
            path.unlink()
        (task.folder / ".attempt" / "1").rmdir()
        (task.folder / ".attempt").rmdir()
        (task.folder / "out").unlink()
    with campaign(tmp_path) as here:
        assert here.dispatcher.run(changed, always_ok)["a"].state is TaskState.ACCEPTED
        assert here.journal.tasks()["a"].key == "new a"


def test_an_accepted_task_whose_output_is_gone_is_named(tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    with campaign(tmp_path) as here:
        here.dispatcher.run([task], always_ok)
    (task.folder / "out").unlink()
    with campaign(tmp_path) as here, pytest.raises(InputError, match="out is missing"):
        here.dispatcher.run([task], always_ok)


def test_two_tasks_share_neither_name_nor_key_nor_folder(tmp_path):
    one = make_task(tmp_path / "t", "touch out")
    with campaign(tmp_path) as here:
        with pytest.raises(InputError, match=r"(?s)same name.*same key.*same folder"):
            here.dispatcher.run([one, one], always_ok)
        here.dispatcher.run([one], always_ok)
        with pytest.raises(InputError, match="the same work as t"):
            here.dispatcher.run([make_task(tmp_path / "u", "touch out", key=one.key)], always_ok)


def test_an_old_attempts_folder_is_never_taken_for_ours(tmp_path):
    """The journal was deleted, the folders were not: their markers are of another campaign."""
    task = make_task(tmp_path / "t", "echo new > out")
    attempt_folder(task, 4).mkdir(parents=True)
    (attempt_folder(task, 4) / "out").write_text("old")
    (attempt_folder(task, 4) / "exit").write_text("0")
    with campaign(tmp_path) as here:
        assert here.dispatcher.run([task], always_ok)["t"].attempts == 5
    assert (task.folder / "out").read_text() == "new\n"


def test_a_job_killed_by_the_system_is_lost_and_its_task_tried_again(tmp_path):
    task = make_task(tmp_path / "t", "if [ $(basename $PWD) = 1 ]; then kill -9 0; fi; touch out")
    with campaign(tmp_path) as here:
        result = here.dispatcher.run([task], always_ok)["t"]
        assert (result.state, result.attempts) == (TaskState.ACCEPTED, 2)
        first = here.journal.attempts("t")[0]
        assert (first.cause, first.strike) == (EndCause.LOST, True) and "gone" in first.reason


def test_a_job_that_dies_in_the_users_lines_ends_with_their_words(tmp_path):
    task = make_task(tmp_path / "t", "touch out", max_attempts=2)
    with campaign(tmp_path, ResourceSection(env_list=["echo 'no module vasp/6' >&2; exit 1"])) as here:
        result = here.dispatcher.run([task], always_ok)["t"]
    assert (result.state, result.attempts) == (TaskState.FAILED, 2) and "no module vasp/6" in result.reason
    assert executions(task) == []


def test_tasks_that_had_not_begun_when_their_job_was_lost_get_no_strike(tmp_path):
    tasks = [
        make_task(tmp_path / f"t{index}", "if [ $(basename $PWD) = 1 ]; then kill -9 0; fi; touch out", max_attempts=2)
        for index in range(4)
    ]
    with campaign(tmp_path, ResourceSection(group_size=-1)) as here:
        results = here.dispatcher.run(tasks, always_ok)
        assert {result.state for result in results.values()} == {TaskState.ACCEPTED}
        assert all(here.journal.strikes(task.name) <= 1 for task in tasks)


def test_ctrl_c_leaves_the_jobs_and_the_next_master_takes_them_up(tmp_path):
    tasks = [make_task(tmp_path / name, "while [ ! -e ../../../go ]; do sleep 0.02; done; touch out") for name in ("a", "b")]
    stop = StopFlag()
    ticks = []

    def on_tick():
        ticks.append(1)
        if all(executions(task) for task in tasks):
            os.kill(os.getpid(), signal.SIGINT)

    with campaign(tmp_path, stop=stop, on_tick=on_tick) as here, stop.installed(), pytest.raises(StopRequested) as caught:
        here.dispatcher.run(tasks, always_ok)
    assert caught.value.exit_status == 130 and ticks
    with campaign(tmp_path) as here:
        here.dispatcher.begin(tasks, always_ok)
        here.dispatcher.tick()
        assert here.dispatcher.counts()["running"] == 2 and len(here.scheduler.live()) == 2
        (tmp_path / "go").touch()
        results = here.dispatcher.run(tasks, always_ok)
    assert {result.attempts for result in results.values()} == {1} and all(len(executions(task)) == 1 for task in tasks)


def test_a_stop_wakes_the_waiting_master_at_once(tmp_path):
    task = make_task(tmp_path / "t", "sleep 30")
    stop = StopFlag()
    with campaign(tmp_path, stop=stop, on_tick=lambda: signal.setitimer(signal.ITIMER_REAL, 0.1), poll_s=(20.0, 20.0)) as here:
        before = signal.signal(signal.SIGALRM, lambda *_: stop.set(signal.SIGTERM))
        try:
            with pytest.raises(StopRequested) as caught:
                here.dispatcher.run([task], always_ok)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert caught.value.exit_status == 143
        here.scheduler.cancel(here.scheduler.live())


def test_a_second_ctrl_c_ends_the_tick_between_two_judgements(tmp_path):
    tasks = [make_task(tmp_path / f"t{index}", "touch out") for index in range(6)]
    stop = StopFlag()
    judged = []

    def judge(task, folder):
        judged.append(task.name)
        stop.set(signal.SIGINT)
        return Ok()

    with campaign(tmp_path, ResourceSection(group_size=-1), stop=stop) as here:
        here.dispatcher.begin(tasks, judge)
        here.dispatcher.tick()
        wait_until(lambda: here.scheduler.live() == [])
        with pytest.raises(StopRequested):
            here.dispatcher.tick()
        assert 1 <= len(judged) < 6
        assert here.dispatcher.counts()["ended"] == len(judged), "what was judged is recorded"


def test_a_dry_run_writes_every_script_and_submits_nothing(tmp_path):
    tasks = [make_task(tmp_path / f"t{index}", "echo $((6*7)) > out") for index in range(5)]
    with campaign(tmp_path, ResourceSection(group_size=2)) as here:
        paths = here.dispatcher.dry_run(tasks)
        assert len(paths) == 3 and all(path.is_relative_to(here.state_dir / "dry-run") for path in paths)
        assert not (here.state_dir / "jobs").exists() and here.journal.tasks() == {}
        assert all(executions(task) == [] for task in tasks)
        run_script(paths[0])
        assert (attempt_folder(tasks[0], 1) / "out").read_text() == "42\n", "a script can be run by hand"
        assert here.dispatcher.run(tasks, always_ok)["t0"].attempts == 2


def test_shell_that_bash_cannot_parse_is_refused_before_anything_is_done(tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    with campaign(tmp_path, ResourceSection(env_list=["export A='"])) as here:
        with pytest.raises(InputError, match="cannot parse"):
            here.dispatcher.run([task], always_ok)
        assert here.journal.tasks() == {}


def test_a_fenced_master_submits_nothing(tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    with campaign(tmp_path) as here:
        (here.state_dir / "lock").write_text("{}")
        with pytest.raises(FencedError):
            here.dispatcher.run([task], always_ok)
        assert not list(here.state_dir.glob("jobs/*/queued"))
        (here.state_dir / "lock").unlink()


# ---------------------------------------------------------------------- with a scheduler that can be made to fail


@pytest.fixture
def bench(tmp_path):
    with scripted_bench(tmp_path) as build:
        yield build


def test_a_silent_scheduler_changes_nothing(bench, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    dispatcher.tick()
    bench.scheduler.silent = True
    for _ in range(50):
        bench.clock.now += 60
        dispatcher.tick()
    assert state_of(dispatcher) is None and bench.scheduler.submissions == ["pwl-bench-" + bench.scheduler.submissions[0][10:]]
    assert caplog.text.count("does not answer") == 1, "said once, not every tick"
    bench.scheduler.silent = False
    bench.scheduler.run()
    bench.scheduler.end()
    dispatcher.tick()
    assert state_of(dispatcher) is TaskState.ACCEPTED and "answers again" in caplog.text


def test_the_marker_counts_even_when_the_scheduler_is_silent(bench, tmp_path):
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    dispatcher.tick()
    bench.scheduler.jobs["1"] = JobView("1", bench.scheduler.submissions[0], alive=True, running=True)
    dispatcher.tick()
    bench.scheduler.silent = True
    bench.scheduler.run()
    dispatcher.tick()
    assert state_of(dispatcher) is TaskState.ACCEPTED


def test_absent_once_is_not_gone(bench, tmp_path):
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    dispatcher.tick()
    bench.scheduler.hidden = {"1"}
    dispatcher.tick()
    bench.scheduler.hidden = set()
    for _ in range(5):
        bench.clock.now += 100
        dispatcher.tick()
    assert len(bench.scheduler.submissions) == 1 and dispatcher.counts()["queued"] == 1


def test_absent_for_good_is_lost_after_the_grace_period(bench, tmp_path):
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    dispatcher.tick()
    bench.scheduler.hidden = {"1"}
    dispatcher.tick()
    dispatcher.tick()
    bench.clock.now += 29
    dispatcher.tick()
    assert len(bench.scheduler.submissions) == 1
    bench.clock.now += 2
    dispatcher.tick()
    assert len(bench.scheduler.submissions) == 2, "a new attempt"
    assert dispatcher.journal.attempts("t")[0].cause == "lost"


def test_a_marker_that_comes_late_is_taken(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task])
    dispatcher.tick()
    bench.scheduler.end(cause=EndCause.COMPLETED)
    dispatcher.tick()
    bench.clock.now += 20
    dispatcher.tick()
    assert state_of(dispatcher) is None
    bench.scheduler.run()
    bench.clock.now += 20
    dispatcher.tick()
    assert state_of(dispatcher) is TaskState.ACCEPTED and len(executions(task)) == 1


def test_outputs_that_come_late_are_waited_for(bench, tmp_path):
    task = make_task(tmp_path / "t", "true")
    dispatcher = bench([task])
    dispatcher.tick()
    bench.scheduler.run()
    bench.scheduler.end()
    dispatcher.tick()
    assert state_of(dispatcher) is None
    (attempt_folder(task, 1) / "out").touch()
    bench.clock.now += 5
    dispatcher.tick()
    assert state_of(dispatcher) is TaskState.ACCEPTED


@pytest.mark.parametrize(
    ("cause", "strike"),
    [
        (EndCause.TIMEOUT, True),
        (EndCause.OUT_OF_MEMORY, True),
        (EndCause.NODE_FAIL, False),
        (EndCause.PREEMPTED, False),
        (EndCause.CANCELLED, False),
    ],
)
def test_the_scheduler_names_the_cause_of_a_loss(bench, tmp_path, cause, strike):
    task = make_task(tmp_path / "t", "touch out", max_attempts=1)
    dispatcher = bench([task])
    dispatcher.tick()
    attempt_folder(task, 1).mkdir(parents=True)
    (attempt_folder(task, 1) / "claim").touch()
    bench.scheduler.end(cause=cause, reason="said Slurm")
    dispatcher.tick()
    bench.clock.now += 31
    dispatcher.tick()
    row = dispatcher.journal.attempts("t")[0]
    assert (row.cause, row.strike) == (cause, strike) and "said Slurm" in row.reason
    assert state_of(dispatcher) is (TaskState.FAILED if strike else None)


def test_attempts_without_a_strike_end_too(bench, tmp_path):
    dispatcher = bench([make_task(tmp_path / "t", "touch out", max_attempts=2)])
    for number in range(1, 30):
        dispatcher.tick()
        if state_of(dispatcher) is not None:
            break
        bench.scheduler.end(str(number), cause=EndCause.NODE_FAIL)
        dispatcher.tick()
        bench.clock.now += 31
    assert state_of(dispatcher) is TaskState.FAILED and len(bench.scheduler.submissions) == 10


def test_a_refusal_for_now_is_waited_out(bench, tmp_path):
    bench.scheduler.replies = [Refused("AssocMaxSubmitJobLimit", wait=True)] * 3
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    for _ in range(20):
        dispatcher.tick()
        bench.clock.now += 2
    assert len(bench.scheduler.submissions) == 4, "after 5, 10 and 20 seconds"
    assert len(set(bench.scheduler.submissions)) == 1 and dispatcher.journal.attempts("t")[0].number == 1


def test_a_refusal_for_good_ends_the_master_and_loses_nothing(bench, tmp_path):
    bench.scheduler.replies = [Refused("invalid partition specified", wait=False)]
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task])
    with pytest.raises(SchedulerError, match=r"invalid partition.*resource\.json"):
        dispatcher.tick()
    dispatcher = bench([task])
    dispatcher.tick()
    assert len(bench.scheduler.submissions) == 2 and [row.number for row in dispatcher.journal.attempts("t")] == [1]


@pytest.mark.parametrize("restart", [False, True])
def test_a_submission_without_an_answer_is_looked_up_by_name(bench, tmp_path, restart):
    bench.scheduler.replies = ["unknown"]
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task])
    dispatcher.tick()
    if restart:
        dispatcher = bench([task])
    for _ in range(5):
        dispatcher.tick()
    assert len(bench.scheduler.submissions) == 1
    assert next(iter(dispatcher.journal.jobs().values())).scheduler_id == "1"


@pytest.mark.parametrize("restart", [False, True])
def test_a_submission_that_never_arrived_is_made_again_after_two_clear_answers(bench, tmp_path, restart):
    bench.scheduler.replies = ["never arrived"]
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task])
    dispatcher.tick()
    if restart:
        dispatcher = bench([task])
    bench.scheduler.silent = True
    for _ in range(5):
        dispatcher.tick()
    bench.scheduler.silent = False
    dispatcher.tick()
    assert len(bench.scheduler.submissions) == 1
    dispatcher.tick()
    assert bench.scheduler.submissions == [bench.scheduler.submissions[0]] * 2, "under the same name"
    assert [row.number for row in dispatcher.journal.attempts("t")] == [1]


def test_an_intent_whose_job_has_run_and_was_forgotten_is_not_submitted_again(bench, tmp_path):
    bench.scheduler.replies = ["unknown"]
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task])
    dispatcher.tick()
    bench.scheduler.run()
    bench.scheduler.hidden = {"1"}
    dispatcher = bench([task])
    for _ in range(4):
        dispatcher.tick()
    assert state_of(dispatcher) is TaskState.ACCEPTED and len(bench.scheduler.submissions) == 1


def test_at_most_max_jobs_at_a_time(bench, tmp_path):
    tasks = [make_task(tmp_path / f"t{index}", "touch out") for index in range(7)]
    dispatcher = bench(tasks, max_jobs=3)
    dispatcher.tick()
    assert len(bench.scheduler.submissions) == 3
    bench.scheduler.run("2")
    bench.scheduler.end("2")
    dispatcher.tick()
    assert len(bench.scheduler.submissions) == 4 and dispatcher.counts() == {
        "planned": 3,
        "queued": 3,
        "running": 0,
        "ended": 1,
        "failed": 0,
    }


def test_a_job_of_many_tasks_is_judged_task_by_task(bench, tmp_path):
    tasks = [make_task(tmp_path / f"t{index}", "touch out") for index in range(3)]
    dispatcher = bench(tasks, train=ResourceSection(group_size=-1))
    dispatcher.tick()
    bench.scheduler.jobs["1"] = JobView("1", bench.scheduler.submissions[0], alive=True, running=True)
    attempt_folder(tasks[1], 1).mkdir(parents=True)
    (attempt_folder(tasks[1], 1) / "out").touch()
    (attempt_folder(tasks[1], 1) / "exit").write_text("0\n")
    dispatcher.tick()
    assert list(dispatcher.results()) == ["t1"] and dispatcher.counts()["running"] == 2
    again = bench(tasks, train=ResourceSection(group_size=-1))
    again.tick()
    assert len(bench.scheduler.submissions) == 1 and again.counts()["running"] == 2


def test_tasks_of_a_lost_job_taken_up_by_a_new_master_get_no_strike(bench, tmp_path):
    """Its other tasks were done before the restart: the job had done something."""
    tasks = [make_task(tmp_path / f"t{index}", "touch out") for index in range(2)]
    section = ResourceSection(group_size=-1)
    dispatcher = bench(tasks, train=section)
    dispatcher.tick()
    bench.scheduler.jobs["1"] = JobView("1", bench.scheduler.submissions[0], alive=True, running=True)
    attempt_folder(tasks[0], 1).mkdir(parents=True)
    (attempt_folder(tasks[0], 1) / "out").touch()
    (attempt_folder(tasks[0], 1) / "exit").write_text("0\n")
    dispatcher.tick()
    dispatcher = bench(tasks, train=section)
    bench.scheduler.end(cause=EndCause.UNKNOWN)
    dispatcher.tick()
    bench.clock.now += 31
    dispatcher.tick()
    row = dispatcher.journal.attempts("t1")[0]
    assert row.cause == "not begun" and not row.strike


def test_the_intent_is_on_disk_before_the_job_is_handed_over(bench, tmp_path):
    seen = {}
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    submit = bench.scheduler.submit

    def spy(script, name):
        other = sqlite3.connect(tmp_path / "state" / "journal.sqlite")
        seen["job"] = other.execute("SELECT name, state, scheduler_id FROM jobs").fetchone()
        seen["attempt"] = other.execute("SELECT state, job FROM attempts").fetchone()
        other.close()
        return submit(script, name)

    bench.scheduler.submit = spy
    dispatcher.tick()
    name = bench.scheduler.submissions[0]
    assert seen == {"job": (name, "submitting", None), "attempt": ("submitting", name)}


def test_a_failure_on_a_full_disk_is_not_held_against_the_task(bench, tmp_path, monkeypatch):
    task = make_task(tmp_path / "t", "exit 1")
    dispatcher = bench([task])
    dispatcher.tick()
    bench.scheduler.run()
    bench.scheduler.end()
    monkeypatch.setattr("pwact_like.jobs.attempt.FULL_DISK_BYTES", 1 << 80)
    with pytest.raises(OSError, match="No space left"):
        dispatcher.tick()
    assert dispatcher.journal.strikes("t") == 0
    monkeypatch.undo()
    dispatcher = bench([task])
    dispatcher.tick()
    assert dispatcher.journal.strikes("t") == 1 and len(bench.scheduler.submissions) == 2


def test_a_job_that_began_and_ended_while_the_scheduler_was_silent(bench, tmp_path):
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    dispatcher.tick()
    bench.scheduler.silent = True
    bench.scheduler.run()
    dispatcher.tick()
    assert state_of(dispatcher) is TaskState.ACCEPTED


def test_two_folders_with_the_same_campaign_have_different_job_names(tmp_path):
    names = []
    for folder in ("one", "two"):
        task = make_task(tmp_path / folder / "t", "touch out")
        with campaign(tmp_path / folder) as here:
            here.dispatcher.run([task], always_ok)
            names += list(here.journal.jobs())
    assert len(set(names)) == 2
