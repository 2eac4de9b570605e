"""What follows a failure, by its cause: more memory, more time, another node, a checkpoint, or the end."""

from __future__ import annotations

import logging
import os
import time

import pytest
from jobs_bench import scripted_bench, state_of
from jobs_support import always_ok, make_task

from pwact_like.config.resource import ResourceSection, Retry
from pwact_like.errors import InProgress, InputError, SchedulerError
from pwact_like.jobs import attempt as folder_of
from pwact_like.jobs.script import attempt_folder
from pwact_like.jobs.types import Answer, Asks, EndCause, JobView, NoAnswer, Refused, TaskState
from pwact_like.outcome import CUT_OFF_FILE, Ok, Reject, TaskFiles, was_cut_off
from pwact_like.outcome import Retry as TryAgain


@pytest.fixture
def bench(tmp_path):
    with scripted_bench(tmp_path) as build:
        yield build


def leave(task, number, status, **files):
    """What an attempt leaves: claim, exit marker (None: none), files."""
    folder = attempt_folder(task, number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claim").touch()
    for name, content in files.items():
        (folder / name).write_text(content)
    if status is not None:
        (folder / "exit").write_text(f"{status}\n")


def run_and_end(bench, dispatcher, number, cause, task, status=None, node="n1", memory_mb=None, **files):
    """Let job ``number`` run task's attempt ``number`` and end so; ticks past the grace period."""
    name = bench.scheduler.submissions[number - 1]
    bench.scheduler.jobs[str(number)] = JobView(str(number), name, alive=True, running=True, node=node)
    dispatcher.tick()
    leave(task, number, status, **files)
    bench.scheduler.jobs[str(number)] = JobView(str(number), name, alive=False, cause=cause, node=node, memory_mb=memory_mb)
    dispatcher.tick()
    bench.clock.now += 31
    dispatcher.tick()


def asks_of(dispatcher, task):
    return dispatcher.journal.attempts(task.name)[-1].asks


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("status", [137, None])
def test_out_of_memory_gets_more_memory(bench, tmp_path, status):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task], train=ResourceSection(memory="4G"))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.OUT_OF_MEMORY, task, status)
    first = dispatcher.journal.attempts("t")[0]
    assert first.cause == EndCause.OUT_OF_MEMORY and first.strike and "it had 4096 MB" in first.reason
    assert asks_of(dispatcher, task) == Asks(memory_mb=8192)
    assert bench.scheduler.requests[-1].asks.memory_mb == 8192


def test_memory_that_nobody_named_is_asked_of_the_scheduler(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task])
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.OUT_OF_MEMORY, task, 137)
    assert asks_of(dispatcher, task).memory_mb == 2000, "twice the 1000 that the scheduler says it had"


def test_never_more_memory_than_retry_allows(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out", max_attempts=9)
    dispatcher = bench([task], train=ResourceSection(memory="4G", retry=Retry(memory_max="6G")))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.OUT_OF_MEMORY, task, 137)
    assert asks_of(dispatcher, task).memory_mb == 6144
    run_and_end(bench, dispatcher, 2, EndCause.OUT_OF_MEMORY, task, 137)
    assert state_of(dispatcher) is TaskState.FAILED and "allows no more" in dispatcher.results()["t"].reason


def test_a_killed_task_waits_for_the_schedulers_word(bench, tmp_path):
    """Among several tasks of a job one is killed for its memory: the job's state says so only at its end."""
    tasks = [make_task(tmp_path / name, "touch out") for name in "ab"]
    dispatcher = bench(tasks, train=ResourceSection(group_size=2, memory="4G"))
    dispatcher.tick()
    name = bench.scheduler.submissions[0]
    bench.scheduler.jobs["1"] = JobView("1", name, alive=True, running=True)
    leave(tasks[0], 1, 137)
    leave(tasks[1], 1, 0, out="")
    for _ in range(3):
        dispatcher.tick()
    assert state_of(dispatcher, "b") is TaskState.ACCEPTED and dispatcher.journal.attempts("a")[-1].number == 1
    bench.scheduler.jobs["1"] = JobView("1", name, alive=False, cause=EndCause.OUT_OF_MEMORY)
    dispatcher.tick()
    assert dispatcher.journal.attempts("a")[0].cause == EndCause.OUT_OF_MEMORY and asks_of(dispatcher, tasks[0]).memory_mb == 8192


def test_memory_is_told_from_the_jobs_own_output(bench, tmp_path):
    """With OverMemoryKill the state is FAILED 0:9."""
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task], train=ResourceSection(memory="1G"))
    dispatcher.tick()
    job = bench.scheduler.submissions[0]
    text = "slurmstepd: error: Step 5.4294967291 exceeded memory limit (2684354560 > 1572864000), being killed\n"
    (dispatcher.state_dir / "jobs" / job / "stderr").write_text(text)
    run_and_end(bench, dispatcher, 1, EndCause.FAILED, task)
    assert dispatcher.journal.attempts("t")[0].cause == EndCause.OUT_OF_MEMORY and asks_of(dispatcher, task).memory_mb == 2048


# ---------------------------------------------------------------------- time

CARRY = TaskFiles(outputs=("out",), carry=("checkpoint", "log"), checkpoints=("checkpoint",))


def test_a_checkpoint_goes_on_without_a_strike(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out", files=CARRY, max_attempts=2)
    dispatcher = bench([task])
    dispatcher.tick()
    for number in range(1, 8):
        run_and_end(bench, dispatcher, number, EndCause.TIMEOUT, task, None, checkpoint=f"step {number}")
    attempts = dispatcher.journal.attempts("t")
    assert len(attempts) == 8 and not any(attempt.strike for attempt in attempts)


def test_a_warned_program_ended_in_time(bench, tmp_path):
    """It wrote its checkpoint and ended with 75: the marker names the warning, whatever the job's state is."""
    task = make_task(tmp_path / "t", "touch out", files=CARRY, max_attempts=1)
    dispatcher = bench([task])
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.COMPLETED, task, "75 time limit", checkpoint="step 5")
    first = dispatcher.journal.attempts("t")[0]
    assert first.cause == EndCause.TIMEOUT and not first.strike and state_of(dispatcher) is None


def test_a_checkpoint_that_does_not_move_is_a_strike(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out", files=CARRY, max_attempts=2)
    dispatcher = bench([task])
    dispatcher.tick()
    for number in (1, 2, 3):
        run_and_end(bench, dispatcher, number, EndCause.TIMEOUT, task, None, checkpoint="step 1")
    assert [attempt.strike for attempt in dispatcher.journal.attempts("t")] == [False, True, True]
    assert state_of(dispatcher) is TaskState.FAILED


@pytest.mark.parametrize("cause", [EndCause.TIMEOUT, EndCause.PREEMPTED])
def test_a_log_is_no_progress(bench, tmp_path, cause):
    """Found by an attack: it differs after every start, and a task that got nowhere was tried for ever."""
    task = make_task(tmp_path / "t", "touch out", files=CARRY, max_attempts=3)
    dispatcher = bench([task])
    dispatcher.tick()
    for number in range(1, 20):
        if state_of(dispatcher) is not None:
            break
        run_and_end(bench, dispatcher, number, cause, task, None, log="started\n" * number)
    assert state_of(dispatcher) is TaskState.FAILED
    # by its own fault three times, or by nobody's ten times
    assert len(dispatcher.journal.attempts("t")) == (3 if cause is EndCause.TIMEOUT else 10)


def test_places_that_earlier_attempts_had_come_to_are_no_progress(bench, tmp_path):
    """As when each attempt begins anew because it cannot use the checkpoint."""
    task = make_task(tmp_path / "t", "touch out", files=CARRY, max_attempts=2)
    dispatcher = bench([task])
    dispatcher.tick()
    for number, step in enumerate((3, 5, 3, 5), start=1):
        run_and_end(bench, dispatcher, number, EndCause.TIMEOUT, task, None, checkpoint=f"step {step}")
    assert [attempt.strike for attempt in dispatcher.journal.attempts("t")] == [False, False, True, True]


def test_a_task_that_comes_to_no_checkpoint_gets_more_time(bench, tmp_path):
    """Its log had counted as a checkpoint; without one, the same time would do no better."""
    task = make_task(tmp_path / "t", "touch out", files=CARRY, max_attempts=3)
    bench.scheduler.longest = 5400
    dispatcher = bench([task], train=ResourceSection(time="1:00:00"))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, task, None, log="started")
    assert asks_of(dispatcher, task).time_s == 5400 and dispatcher.journal.attempts("t")[0].strike
    run_and_end(bench, dispatcher, 2, EndCause.TIMEOUT, task, None, log="started", checkpoint="step 1")
    run_and_end(bench, dispatcher, 3, EndCause.TIMEOUT, task, None, log="started", checkpoint="step 1")
    assert [attempt.strike for attempt in dispatcher.journal.attempts("t")] == [True, False, True, False]
    assert state_of(dispatcher) is None, "as much time as there is, and a checkpoint to go on from"


def test_a_label_gets_more_time_or_is_set_aside(bench, tmp_path):
    """Unchanged it would run into the same limit."""
    task = make_task(tmp_path / "t", "touch out", max_attempts=9)
    bench.scheduler.longest = 5400
    dispatcher = bench([task], train=ResourceSection(time="1:00:00"))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, task)
    assert asks_of(dispatcher, task).time_s == 5400, "as much as the partition allows"
    run_and_end(bench, dispatcher, 2, EndCause.TIMEOUT, task)
    assert state_of(dispatcher) is TaskState.FAILED and "more are not allowed" in dispatcher.results()["t"].reason


def test_a_label_without_a_known_limit_is_set_aside_with_the_cure(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task])
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, task)
    assert state_of(dispatcher) is TaskState.FAILED and "give `time` in resource.json" in dispatcher.results()["t"].reason


PIECES = TaskFiles(outputs=("out",), optional_outputs=("more*",), counts_cut_off=True)


def counting(task, folder):
    """An engine whose program leaves its pieces line by line in `out`, four of which are planned."""
    pieces = (folder / "out").read_text().count("\n")
    if pieces < 4 and not was_cut_off(folder):
        return TryAgain(f"{pieces} pieces of 4")
    return Ok(f"{pieces} of 4 pieces" * (pieces < 4)) if pieces else Reject("no piece in it")


@pytest.mark.parametrize("status", [None, 137, "143 time limit"])
def test_what_is_whole_of_a_task_out_of_time_counts_when_no_more_time_can_be_had(bench, tmp_path, status):
    task = make_task(tmp_path / "t", "touch out", files=PIECES, max_attempts=9)
    bench.scheduler.longest = 5400
    dispatcher = bench([task], counting, train=ResourceSection(time="1:00:00"))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, task, status, out="a\nb\n")
    assert asks_of(dispatcher, task).time_s == 5400 and not (attempt_folder(task, 1) / CUT_OFF_FILE).exists()
    run_and_end(bench, dispatcher, 2, EndCause.TIMEOUT, task, status, out="a\nb\nc\nd", more1="m", scratch="s")
    result = dispatcher.results()["t"]
    assert result.state is TaskState.ACCEPTED and result.note == "cut off by its time limit: 3 of 4 pieces"
    assert result.attempts == 2 and dispatcher.done
    assert (task.folder / "out").read_text() == "a\nb\nc\nd" and (task.folder / "more1").is_file() and was_cut_off(task.folder)
    assert "more are not allowed" in (task.folder / CUT_OFF_FILE).read_text()
    assert not (attempt_folder(task, 2) / "scratch").exists()


@pytest.mark.parametrize(("limit", "attempts"), [("1:00:00", 1), (None, 9)])
def test_what_is_whole_counts_at_the_last_attempt_and_without_a_known_limit(bench, tmp_path, limit, attempts):
    task = make_task(tmp_path / "t", "touch out", files=PIECES, max_attempts=attempts)
    dispatcher = bench([task], counting, train=ResourceSection(time=limit))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, task, out="a\nb\nc\nd\n")
    result = dispatcher.results()["t"]
    assert result.state is TaskState.ACCEPTED and result.note == "cut off by its time limit"


@pytest.mark.parametrize(("left", "words"), [({"out": "a"}, "no piece in it"), ({"scratch": "a\n"}, "more are not allowed")])
def test_a_task_out_of_time_without_a_whole_piece_fails_as_any_other(bench, tmp_path, left, words):
    task = make_task(tmp_path / "t", "touch out", files=PIECES)
    bench.scheduler.longest = 3600
    dispatcher = bench([task], counting, train=ResourceSection(time="1:00:00"))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, task, **left)
    result = dispatcher.results()["t"]
    assert result.state is TaskState.FAILED and "it had 60 minutes, and more are not allowed" in result.reason and words in result.reason
    assert not (task.folder / "out").exists() and not was_cut_off(task.folder)


@pytest.mark.parametrize("cause", [EndCause.FAILED, EndCause.OUT_OF_MEMORY, EndCause.NODE_FAIL, EndCause.CANCELLED, EndCause.LOST])
def test_pieces_count_for_no_other_cause(bench, tmp_path, cause):
    task = make_task(tmp_path / "t", "touch out", files=PIECES, max_attempts=1)
    dispatcher = bench([task], counting, train=ResourceSection(time="1:00:00", memory="1G", retry=Retry(memory_max="1G")))
    dispatcher.tick()
    for number in range(1, 12):
        if state_of(dispatcher) is not None:
            break
        run_and_end(bench, dispatcher, number, cause, task, 137, out="a\nb\n")
    assert state_of(dispatcher) is TaskState.FAILED


def test_pieces_count_for_no_task_that_did_not_say_so(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out", max_attempts=1)
    dispatcher = bench([task], always_ok, train=ResourceSection(time="1:00:00"))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, task, out="a\nb\n")
    assert state_of(dispatcher) is TaskState.FAILED


def test_pieces_do_not_count_while_the_attempt_can_be_repeated(bench, tmp_path):
    """Its turn came late: the next job is all its own."""
    task = make_task(tmp_path / "t", "touch out", files=PIECES, max_attempts=1)
    dispatcher = bench([task], counting, train=ResourceSection(time="60"))
    dispatcher.tick()
    claim = dispatcher.state_dir / "jobs" / bench.scheduler.submissions[0] / "claim"
    claim.parent.mkdir(parents=True, exist_ok=True)
    claim.touch()
    os.utime(claim, (time.time() - 3000,) * 2)
    run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, task, out="a\nb\n")
    assert state_of(dispatcher) is None and len(bench.scheduler.submissions) == 2


def test_the_acceptance_of_pieces_is_completed_after_a_kill(bench, tmp_path, monkeypatch):
    task = make_task(tmp_path / "t", "touch out", files=PIECES, max_attempts=1)
    dispatcher = bench([task], counting, train=ResourceSection(time="1:00:00"))
    dispatcher.tick()

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder_of, "accept", die)
        run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, task, out="a\n")
    assert not (task.folder / "out").exists() and was_cut_off(attempt_folder(task, 1))
    dispatcher = bench([task], counting, train=ResourceSection(time="1:00:00"))
    result = dispatcher.results()["t"]
    assert result.state is TaskState.ACCEPTED and result.note == "cut off by its time limit: 1 of 4 pieces"
    assert (task.folder / "out").read_text() == "a\n" and was_cut_off(task.folder)


def test_a_whole_run_leaves_no_mark_of_an_earlier_one(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out", files=PIECES)
    (task.folder / CUT_OFF_FILE).write_text("left alone when the outputs were removed\n")
    dispatcher = bench([task], counting)
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.COMPLETED, task, 0, out="a\nb\nc\nd\n")
    assert state_of(dispatcher) is TaskState.ACCEPTED and not was_cut_off(task.folder)


def test_a_task_whose_turn_never_came_is_not_to_blame(bench, tmp_path):
    tasks = [make_task(tmp_path / name, "touch out", max_attempts=1) for name in "ab"]
    dispatcher = bench(tasks, train=ResourceSection(group_size=2, time="60"))
    dispatcher.tick()
    bench.scheduler.jobs["1"] = JobView("1", bench.scheduler.submissions[0], alive=True, running=True)
    leave(tasks[0], 1, 0, out="")
    dispatcher.tick()
    bench.scheduler.end(cause=EndCause.TIMEOUT)
    dispatcher.tick()
    bench.clock.now += 31
    dispatcher.tick()
    row = dispatcher.journal.attempts("b")[0]
    assert (
        row.cause == EndCause.NOT_BEGUN and not row.strike and asks_of(dispatcher, tasks[1]) == Asks() and state_of(dispatcher, "b") is None
    )


# ---------------------------------------------------------------------- nodes


@pytest.mark.parametrize("cause", [EndCause.NODE_FAIL, EndCause.PREEMPTED, EndCause.CANCELLED])
def test_nobodys_fault_is_no_strike(bench, tmp_path, cause):
    task = make_task(tmp_path / "t", "touch out", max_attempts=1)
    dispatcher = bench([task])
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, cause, task)
    row = dispatcher.journal.attempts("t")[0]
    assert row.cause == cause and not row.strike and row.node == "n1" and len(bench.scheduler.submissions) == 2
    assert asks_of(dispatcher, task).exclude == (("n1",) if cause is EndCause.NODE_FAIL else ())


def test_failed_nodes_add_up_and_are_forgotten_when_none_is_left(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task])
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.NODE_FAIL, task, node="n1")
    bench.scheduler.replies = [Refused("Requested node configuration is not available", wait=False, about_size=True)]
    run_and_end(bench, dispatcher, 2, EndCause.NODE_FAIL, task, node="n2")
    attempts = dispatcher.journal.attempts("t")
    assert attempts[2].asks.exclude == ("n1", "n2") and "without the nodes n1, n2 it cannot run" in attempts[2].reason
    assert not attempts[2].strike and attempts[3].asks == Asks() and state_of(dispatcher) is None
    assert attempts[3].number == 4


def test_memory_that_no_node_has_sets_the_task_aside_and_not_the_campaign(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task], train=ResourceSection(memory="4G"))
    dispatcher.tick()
    bench.scheduler.replies = [Refused("Requested node configuration is not available", wait=False, about_size=True)]
    run_and_end(bench, dispatcher, 1, EndCause.OUT_OF_MEMORY, task, 137)
    assert state_of(dispatcher) is TaskState.FAILED and "cannot be had" in dispatcher.results()["t"].reason and dispatcher.done


def test_a_requeued_job_is_begun_anew_without_a_strike(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out", max_attempts=1)
    dispatcher = bench([task])
    dispatcher.tick()
    (dispatcher.state_dir / "jobs" / bench.scheduler.submissions[0] / "requeued").touch()
    run_and_end(bench, dispatcher, 1, EndCause.COMPLETED, task)
    row = dispatcher.journal.attempts("t")[0]
    assert row.cause == EndCause.PREEMPTED and not row.strike and len(bench.scheduler.submissions) == 2


# ---------------------------------------------------------------------- attempts and stragglers


def test_attempts_follow_from_resource_json(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out", max_attempts=None)
    dispatcher = bench([task], train=ResourceSection(retry=Retry(attempts=2)))
    dispatcher.tick()
    for number in (1, 2):
        run_and_end(bench, dispatcher, number, EndCause.FAILED, task, 3, stderr="no convergence\n")
    result = dispatcher.results()["t"]
    assert result.state is TaskState.FAILED and result.attempts == 2 and "exit status 3: no convergence" in result.reason


def test_stragglers_are_left_when_enough_are_done(bench, tmp_path):
    tasks = [make_task(tmp_path / f"t{number}", "touch out") for number in range(4)]
    dispatcher = bench(tasks, train=ResourceSection(enough=0.75, straggler_wait_s=100.0), max_jobs=4)
    dispatcher.tick()
    for number in (1, 2, 3):
        bench.scheduler.jobs[str(number)] = JobView(str(number), bench.scheduler.submissions[number - 1], alive=True, running=True)
        leave(tasks[number - 1], 1, 0, out="")
    dispatcher.tick()
    bench.clock.now += 90
    dispatcher.tick()
    assert not dispatcher.done and not bench.scheduler.cancelled
    # a new master goes on counting, which is what `--once` needs
    dispatcher = bench(tasks, train=ResourceSection(enough=0.75, straggler_wait_s=100.0), max_jobs=4)
    bench.clock.now += 12
    dispatcher.tick()
    assert bench.scheduler.cancelled == ["4"] and dispatcher.done
    result = dispatcher.results()["t3"]
    assert result.state is TaskState.FAILED and "a straggler: 3 of 4 tasks were enough" in result.reason
    assert dispatcher.journal.jobs(live_only=True) == {}


# ---------------------------------------------------------------------- the scheduler's words


def test_the_long_memory_is_asked_after_two_absences(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out", max_attempts=1)
    dispatcher = bench([task])
    dispatcher.tick()
    name = bench.scheduler.submissions[0]
    bench.scheduler.hidden.add("1")
    bench.scheduler.memory = Answer({"1": JobView("1", name, alive=False, cause=EndCause.NODE_FAIL, node="n3")})
    dispatcher.tick()
    assert bench.scheduler.looked_back == []
    leave(task, 1, None)
    dispatcher.tick()
    assert bench.scheduler.looked_back == [{"1": name}]
    bench.clock.now += 31
    dispatcher.tick()
    row = dispatcher.journal.attempts("t")[0]
    assert row.cause == EndCause.NODE_FAIL and not row.strike and asks_of(dispatcher, task).exclude == ("n3",)


def test_a_long_memory_without_an_answer_is_asked_again(bench, tmp_path):
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    dispatcher.tick()
    bench.scheduler.hidden.add("1")
    bench.scheduler.memory = NoAnswer("slurmdbd is away")
    for _ in range(4):
        bench.clock.now += 5
        dispatcher.tick()
    assert len(bench.scheduler.looked_back) == 3 and state_of(dispatcher) is None


def test_a_job_that_waits_for_ever_is_told_once(bench, tmp_path, caplog):
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    dispatcher.tick()
    view = JobView("1", bench.scheduler.submissions[0], alive=True, reason="PartitionTimeLimit", said="PENDING", stuck=True)
    bench.scheduler.jobs["1"] = view
    dispatcher.tick()
    assert "will not begin" not in caplog.text, "such a reason may pass within seconds"
    for _ in range(3):
        bench.clock.now += 6
        dispatcher.tick()
    assert caplog.text.count("will not begin by itself: PartitionTimeLimit") == 1
    (row,) = dispatcher.job_rows()
    assert (row.id, row.stuck, row.reason, row.said, row.tasks) == ("1", True, "PartitionTimeLimit", "PENDING", 1)


def test_an_unknown_reply_ends_the_round_of_submissions(bench, tmp_path):
    """With the controller away each sbatch would cost its time-out."""
    tasks = [make_task(tmp_path / f"t{number}", "touch out") for number in range(5)]
    bench.scheduler.replies = [None, "never arrived"]
    dispatcher = bench(tasks)
    dispatcher.tick()
    assert len(bench.scheduler.submissions) == 2
    for _ in range(4):
        bench.clock.now += 6
        dispatcher.tick()
    assert len(bench.scheduler.submissions) == 6 and len(set(bench.scheduler.submissions)) == 5, "the lost one twice, under one name"


# ---------------------------------------------------------------------- edits, and one look


def test_an_edited_resource_counts_for_what_is_not_submitted(bench, tmp_path):
    tasks = [make_task(tmp_path / name, "touch out") for name in "ab"]
    dispatcher = bench(tasks, train=ResourceSection(queue_name="cpu"), max_jobs=1)
    dispatcher.tick()
    edited = dispatcher.resource.model_copy(update={"train": ResourceSection(queue_name="long"), "max_jobs": 2})
    dispatcher.use(edited)
    dispatcher.tick()
    assert [request.section.queue_name for request in bench.scheduler.requests] == ["cpu", "long"]
    with pytest.raises(InputError, match="bash cannot parse"):
        dispatcher.use(edited.model_copy(update={"train": ResourceSection(env_list=("export A='",))}))
    assert dispatcher.resource is edited


def test_one_look_ends_when_only_jobs_can_go_on(bench, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task], once=True)
    with pytest.raises(InProgress, match="1 job under way"):
        dispatcher.run([task], always_ok)
    dispatcher = bench([task], once=True)
    bench.scheduler.run()
    bench.scheduler.end()
    assert dispatcher.run([task], always_ok)["t"].state is TaskState.ACCEPTED


def test_one_look_stays_until_an_absence_is_confirmed(bench, tmp_path):
    """Each call begins with a fresh count: one that looks only once would never come to two."""
    task = make_task(tmp_path / "t", "touch out", max_attempts=2)
    dispatcher = bench([task], once=True)
    with pytest.raises(InProgress):
        dispatcher.run([task], always_ok)
    bench.scheduler.hidden.add("1")
    dispatcher = bench([task], once=True)
    with pytest.raises(InProgress):
        dispatcher.run([task], always_ok)
    assert len(bench.scheduler.submissions) == 2 and dispatcher.journal.attempts("t")[0].cause == "lost"


def test_an_id_that_was_given_to_another_job_says_nothing_of_ours(bench, tmp_path):
    """Seen on a real Slurm: a controller killed before it had saved a new job forgets it, and gives its id away again."""
    task = make_task(tmp_path / "t", "touch out", max_attempts=1)
    dispatcher = bench([task])
    dispatcher.tick()
    bench.scheduler.jobs["1"] = JobView("1", "pwl-somebody-else-1", alive=False, cause=EndCause.COMPLETED)
    for _ in range(5):
        bench.clock.now += 20
        dispatcher.tick()
    row = dispatcher.journal.attempts("t")[0]
    assert row.cause == EndCause.LOST and not row.strike and len(bench.scheduler.submissions) == 2


def test_jobs_that_vanish_again_and_again_come_to_an_end(bench, tmp_path):
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    for number in range(1, 60):
        bench.scheduler.hidden.add(str(number))
        bench.clock.now += 31
        dispatcher.tick()
    assert state_of(dispatcher) is TaskState.FAILED and len(bench.scheduler.submissions) == 10


# ---------------------------------------------------------------------- found by attack


def test_a_label_that_began_late_in_its_job_is_cut_short_and_not_to_blame(bench, tmp_path):
    """With several tasks a job the time limit killed innocent labels for good: they had had a few minutes of hours."""
    tasks = [make_task(tmp_path / name, "touch out", max_attempts=1) for name in ("early", "late", "next")]
    dispatcher = bench(tasks, train=ResourceSection(group_size=2, time="60", retry=Retry(time_factor=1.0)))
    dispatcher.tick()
    name = bench.scheduler.submissions[0]
    folder = dispatcher.state_dir / "jobs" / name
    (folder / "claim").touch()
    os.utime(folder / "claim", (time.time() - 3000, time.time() - 3000))
    leave(tasks[0], 1, 0, out="")
    run_and_end(bench, dispatcher, 1, EndCause.TIMEOUT, tasks[1])
    row = dispatcher.journal.attempts("late")[0]
    assert row.cause == EndCause.TIMEOUT and not row.strike and dispatcher.journal.misfortunes("late") == 0
    assert state_of(dispatcher, "late") is None and len(bench.scheduler.submissions) == 3


def test_a_broken_node_does_not_eat_the_campaign(bench, tmp_path):
    """Jobs die there in their first lines, so it is always free and takes every attempt."""
    task = make_task(tmp_path / "t", "touch out", max_attempts=3)
    dispatcher = bench([task])
    dispatcher.tick()
    name = bench.scheduler.submissions[0]
    bench.scheduler.jobs["1"] = JobView("1", name, alive=False, cause=EndCause.FAILED, node="n1")
    dispatcher.tick()
    bench.clock.now += 31
    dispatcher.tick()
    row = dispatcher.journal.attempts("t")[0]
    assert row.cause == EndCause.LOST and row.strike and asks_of(dispatcher, task).exclude == ("n1",)


def test_the_out_of_memory_of_a_step_is_in_the_attempts_own_output(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task], train=ResourceSection(memory="1G"))
    dispatcher.tick()
    said = "slurmstepd: error: Detected 1 oom_kill event in StepId=5.0. Some of the step tasks have been OOM Killed.\n"
    run_and_end(bench, dispatcher, 1, EndCause.FAILED, task, 137, stderr=said)
    assert dispatcher.journal.attempts("t")[0].cause == EndCause.OUT_OF_MEMORY and asks_of(dispatcher, task).memory_mb == 2048


def test_the_whole_nodes_memory_is_no_number(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task], train=ResourceSection(custom_flags=("--mem=0",)))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.OUT_OF_MEMORY, task, 137)
    assert asks_of(dispatcher, task).memory_mb == 2000, "twice what the scheduler says that it had"


def test_a_wish_that_waits_for_ever_is_given_up(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task], train=ResourceSection(memory="200M"))
    dispatcher.tick()
    run_and_end(bench, dispatcher, 1, EndCause.OUT_OF_MEMORY, task, 137)
    waiting = JobView("2", bench.scheduler.submissions[1], alive=True, said="PENDING", reason="MaxMemPerLimit", stuck=True, too_much=True)
    bench.scheduler.jobs["2"] = waiting
    for _ in range(3):
        bench.clock.now += 10
        dispatcher.tick()
    assert bench.scheduler.cancelled == ["2"] and state_of(dispatcher) is TaskState.FAILED
    assert "cannot be had: MaxMemPerLimit" in dispatcher.results()["t"].reason


@pytest.mark.parametrize(
    ("words", "cause"),
    [("DUE TO TIME LIMIT", EndCause.TIMEOUT), ("DUE TO PREEMPTION", EndCause.PREEMPTED), ("DUE TO NODE FAILURE", EndCause.NODE_FAIL)],
)
def test_what_the_scheduler_forgot_stands_in_the_jobs_output(bench, tmp_path, words, cause):
    """Cron's ten minutes are longer than MinJobAge: without accounting every cause was called lost."""
    task = make_task(tmp_path / "t", "touch out", max_attempts=1)
    dispatcher = bench([task], train=ResourceSection(time="60"))
    dispatcher.tick()
    job = bench.scheduler.submissions[0]
    (dispatcher.state_dir / "jobs" / job / "stderr").write_text(f"slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2026-11-24 {words} ***\n")
    leave(task, 1, None)
    bench.scheduler.hidden.add("1")
    for _ in range(5):
        bench.clock.now += 20
        dispatcher.tick()
    assert dispatcher.journal.attempts("t")[0].cause == cause


def test_preempted_training_that_gets_on_is_not_counted(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out", files=CARRY, max_attempts=1)
    dispatcher = bench([task])
    dispatcher.tick()
    for number in range(1, 15):
        run_and_end(bench, dispatcher, number, EndCause.PREEMPTED, task, None, checkpoint=f"step {number}")
    assert state_of(dispatcher) is None and len(dispatcher.journal.attempts("t")) == 15


def test_an_answer_with_holes_counts_for_what_stands_in_it(bench, tmp_path):
    tasks = [make_task(tmp_path / name, "touch out", max_attempts=1) for name in "ab"]
    dispatcher = bench(tasks)
    dispatcher.tick()
    bench.scheduler.complete = False
    bench.scheduler.hidden.add("1")
    bench.scheduler.end("2", EndCause.NODE_FAIL)
    for _ in range(4):
        bench.clock.now += 20
        dispatcher.tick()
    assert dispatcher.journal.attempts("b")[0].cause == EndCause.NODE_FAIL and len(dispatcher.journal.attempts("a")) == 1


def test_unknown_words_of_a_cluster_that_has_taken_such_jobs_are_waited_out(bench, tmp_path, caplog):
    tasks = [make_task(tmp_path / f"t{number}", "touch out") for number in range(3)]
    bench.scheduler.replies = [None, Refused("lua: you already have 500 jobs", wait=False, sure=False)]
    dispatcher = bench(tasks)
    dispatcher.tick()
    assert dispatcher.refusal == "lua: you already have 500 jobs"
    bench.clock.now += 6
    dispatcher.tick()
    assert dispatcher.refusal == "" and len(bench.scheduler.submissions) == 4


def test_unknown_words_at_the_first_submission_end_the_master(bench, tmp_path):
    bench.scheduler.replies = [Refused("lua: no project given", wait=False, sure=False)]
    dispatcher = bench([make_task(tmp_path / "t", "touch out")])
    with pytest.raises(SchedulerError, match="no project given"):
        dispatcher.tick()


def test_one_look_ends_when_the_scheduler_is_away(bench, tmp_path):
    task = make_task(tmp_path / "t", "touch out")
    dispatcher = bench([task], once=True)
    with pytest.raises(InProgress):
        dispatcher.run([task], always_ok)
    bench.scheduler.silent = True
    dispatcher = bench([task], once=True)
    with pytest.raises(InProgress):
        dispatcher.run([task], always_ok)


def test_unrecorded_jobs_are_looked_for_with_one_question(bench, tmp_path):
    tasks = [make_task(tmp_path / f"t{number}", "touch out") for number in range(6)]
    dispatcher = bench(tasks)
    dispatcher.tick()
    dispatcher.journal._connection.execute("UPDATE jobs SET scheduler_id = NULL, state = 'submitting'")
    dispatcher = bench(tasks)
    questions = []
    find = bench.scheduler.find
    bench.scheduler.find = lambda *names: (questions.append(names), find(*names))[1]
    dispatcher.tick()
    assert [len(names) for names in questions] == [6] and all(row.id for row in dispatcher.job_rows())


@pytest.mark.parametrize("status", [143, 130, 15])
def test_a_program_that_was_made_to_end_waits_for_the_reason(bench, tmp_path, status):
    """Its marker was there before squeue knew that the job was cancelled: it was given a strike."""
    task = make_task(tmp_path / "t", "touch out", max_attempts=1)
    dispatcher = bench([task])
    dispatcher.tick()
    name = bench.scheduler.submissions[0]
    bench.scheduler.jobs["1"] = JobView("1", name, alive=True, running=True)
    leave(task, 1, status)
    dispatcher.tick()
    dispatcher.tick()
    assert len(dispatcher.journal.attempts("t")) == 1 and state_of(dispatcher) is None
    bench.scheduler.end(cause=EndCause.PREEMPTED)
    dispatcher.tick()
    row = dispatcher.journal.attempts("t")[0]
    assert row.cause == EndCause.PREEMPTED and not row.strike and len(bench.scheduler.submissions) == 2
