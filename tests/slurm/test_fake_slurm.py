"""The fake Slurm itself: states, clock, faults, many at a time, killed at any moment.

What it must say stands here as it was recorded with Slurm 22.05.8.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake.fake_slurm import FakeSlurm
from fake.processes import start_time
from fake.units import compress, expand, megabytes, memory, minutes
from jobs_support import wait_until

WAITING = "while [ ! -e go ]; do sleep 0.01; done"
SEEN = "%i|%T|%r|%N|%j"


@pytest.fixture
def slurm(tmp_path):
    with FakeSlurm(tmp_path / "slurm") as fake:
        yield fake


def submit(slurm: FakeSlurm, folder: Path, body: str, *options: str, name: str = "job", lines: str = "") -> int:
    """Submit a script under a name; gives its id."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.sh").write_text(f"#!/bin/bash\n{lines}\n{body}\n")
    done = slurm.run("sbatch", "--parsable", f"--job-name={name}", *options, f"{name}.sh", cwd=folder)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def seen(slurm: FakeSlurm, *more: str, pattern: str = SEEN) -> list[list[str]]:
    done = slurm.run("squeue", "-h", "-a", "-r", "-t", "all", "--me", *more, "-o", pattern)
    assert done.returncode == 0, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


# ---------------------------------------------------------------------- jobs


def test_a_job_runs_and_ends(slurm, tmp_path):
    number = submit(slurm, tmp_path, f'echo "$SLURM_JOB_ID $SLURM_JOB_NAME $SLURM_NPROCS $SLURM_SUBMIT_DIR"; {WAITING}', "-n", "2")
    assert seen(slurm) == [[str(number), "RUNNING", "None", "n1", "job"]]
    (tmp_path / "go").touch()
    job = slurm.wait("job", "COMPLETED")
    assert (job.exit_code, job.reason, job.nodes) == (0, "None", ["n1"])
    assert (tmp_path / f"slurm-{number}.out").read_text() == f"{number} job 2 {tmp_path}\n"


@pytest.mark.parametrize(
    ("body", "reason", "code"),
    [("exit 3", "NonZeroExitCode", "3:0"), ("kill -SEGV $$", "JobLaunchFailure", "0:11"), ("kill -9 $$", "JobLaunchFailure", "0:9")],
)
def test_failures(slurm, tmp_path, body, reason, code):
    number = submit(slurm, tmp_path, body)
    slurm.wait(number, "FAILED")
    record = slurm.run("scontrol", "-o", "show", "job", str(number)).stdout
    assert f"JobState=FAILED Reason={reason} " in record and f"ExitCode={code} " in record


@pytest.mark.parametrize("option", ["--output=none/out", "--chdir=/nowhere/at/all"])
def test_a_bad_path_is_a_launch_failure_without_output(slurm, tmp_path, option):
    number = submit(slurm, tmp_path, "true", option)
    assert slurm.wait(number, "FAILED").reason == "JobLaunchFailure"
    assert not list(tmp_path.glob("*.out"))


def test_the_script_is_the_one_that_was_submitted(slurm, tmp_path):
    first = submit(slurm, tmp_path, f"{WAITING}; echo first", "-o", "%x.%j", name="one")
    (tmp_path / "one.sh").write_text("#!/bin/bash\necho second\n")
    (tmp_path / "go").touch()
    slurm.wait(first, "COMPLETED")
    assert (tmp_path / f"one.{first}").read_text() == "first\n"


def test_directives_command_line_and_environment(slurm, tmp_path, monkeypatch):
    lines = "#SBATCH --comment='a b' -N2 # not this\n\n# -t 5\n#SBATCH --time 7 --account=script\ntrue\n#SBATCH --qos=late"
    monkeypatch.setenv("SBATCH_ACCOUNT", "environment")
    submit(slurm, tmp_path, "", "--time=1:01", lines=lines)
    (row,) = seen(slurm, pattern="%k|%D|%l|%a|%q|%N")
    assert row == ["a b", "2", "2:00", "environment", "(null)", "n[1-2]"]


def test_resources_are_shared_and_the_rest_waits(slurm, tmp_path):
    for number in range(4):
        submit(slurm, tmp_path, WAITING, "--nodes=1", "--ntasks-per-node=4", name=f"j{number}")
    submit(slurm, tmp_path, WAITING, "--nodes=3", "--exclusive", name="big")
    assert [(row[1], row[2], row[3]) for row in sorted(seen(slurm))] == [
        *(("RUNNING", "None", f"n{number}") for number in (1, 2, 3)),
        ("PENDING", "Resources", ""),
        ("PENDING", "Priority", ""),
    ]
    (tmp_path / "go").touch()
    slurm.wait("big", "COMPLETED")


def test_gpus_are_shared_out(tmp_path):
    with FakeSlurm(tmp_path / "slurm", nodes={"g1": {"gpus": 2}}) as slurm:
        for number in range(3):
            submit(slurm, tmp_path, f"echo $CUDA_VISIBLE_DEVICES >{number}; {WAITING}", "--gres=gpu:1", name=f"j{number}")
        wait_until(lambda: all((tmp_path / str(number)).exists() for number in (0, 1)))
        assert slurm.job("j2").display == "PENDING"
        (tmp_path / "go").touch()
        slurm.wait("j2", "COMPLETED")
        assert {(tmp_path / str(number)).read_text() for number in (0, 1)} == {"0\n", "1\n"}


def test_arrays(slurm, tmp_path):
    number = submit(slurm, tmp_path, f"echo $SLURM_ARRAY_TASK_ID; {WAITING}", "--array=0-4", "-n4", "-N1")
    assert sorted(row[0] for row in seen(slurm)) == [f"{number}_{index}" for index in range(5)]
    done = slurm.run("squeue", "-h", "-o", "%i|%F|%K")
    assert f"{number}_[3-4]|{number}|3-4" in done.stdout.splitlines()
    assert slurm.run("scancel", f"{number}_4").returncode == 0
    assert f"{number}_4" not in [row[0] for row in seen(slurm)], "a cancelled pending task leaves nothing"
    (tmp_path / "go").touch()
    wait_until(lambda: all(row[1] == "COMPLETED" for row in seen(slurm)))
    assert (tmp_path / f"slurm-{number}_3.out").read_text() == "3\n"


def test_what_a_job_leaves_behind_ends_with_it(slurm, tmp_path):
    submit(slurm, tmp_path, "setsid sleep 100 & echo $! >pid; sleep 100 & sleep 0.05")
    slurm.wait("job", "COMPLETED")
    assert not start_time(int((tmp_path / "pid").read_text())) and not slurm.pids("job")


def test_cancel_ends_all_processes(slurm, tmp_path):
    slurm.configure(kill_wait_s=30)
    number = submit(slurm, tmp_path, "trap '' TERM; (touch up; while :; do sleep 0.01; done) & wait")
    wait_until((tmp_path / "up").exists)
    assert slurm.run("scancel", str(number), "999").returncode == 0
    assert slurm.job(number).display == "COMPLETING"
    slurm.advance(31)
    assert slurm.wait(number, "CANCELLED").end is not None and not slurm.pids(number)
    assert "CANCELLED AT" in (tmp_path / f"slurm-{number}.out").read_text()


def test_a_job_is_cancelled_in_the_moment_in_which_it_begins(slurm, tmp_path):
    """The very call that ends it finds room for it first."""
    first = submit(slurm, tmp_path, "sleep 100", "-N3", "--exclusive", name="first")
    second = submit(slurm, tmp_path, "sleep 100; touch ended", name="second")
    assert slurm.job(second).display == "PENDING"
    slurm.purge(first)  # its room is free, and nobody has looked yet
    slurm.run("scancel", str(second))
    assert slurm.wait(second, "CANCELLED").run == 1 and not slurm.pids(second)


# ---------------------------------------------------------------------- clock


def test_the_time_limit_rounds_up_and_kills_after_killwait(slurm, tmp_path):
    slurm.configure(kill_wait_s=30)
    number = submit(slurm, tmp_path, "trap '' TERM; touch up; while :; do sleep 0.01; done", "--time=0:30")
    wait_until((tmp_path / "up").exists)
    slurm.advance(59)
    assert slurm.job(number).display == "RUNNING"
    slurm.advance(1.5)
    assert slurm.job(number).display == "COMPLETING"
    slurm.advance(30)
    job = slurm.wait(number, "TIMEOUT")
    assert (job.reason, job.ended - job.began) == ("TimeLimit", 60)
    assert "DUE TO TIME LIMIT" in (tmp_path / f"slurm-{number}.out").read_text()


def test_the_warning_comes_before_the_limit_to_the_batch_shell_alone(slurm, tmp_path):
    body = "trap 'echo warned; exit 5' USR1; (trap 'echo child' USR1; while :; do sleep 0.01; done) & touch up; wait"
    number = submit(slurm, tmp_path, body, "--time=2", "--signal=B:USR1@60")
    wait_until((tmp_path / "up").exists)
    slurm.advance(59)
    assert slurm.job(number).display == "RUNNING"
    slurm.advance(2)
    assert slurm.wait(number, "FAILED").exit_code == 5
    assert (tmp_path / f"slurm-{number}.out").read_text() == "warned\n"


def test_one_long_step_of_the_clock_goes_through_everything_in_order(slurm, tmp_path):
    body = "trap 'echo warned >>log' USR1; touch up; while :; do sleep 0.01; done"
    first = submit(slurm, tmp_path, body, "--time=2", "--signal=B:USR1@60", "-N3", "--exclusive", name="first")
    second = submit(slurm, tmp_path, "sleep 100", "--time=3", "-N3", "--exclusive", name="second")
    wait_until((tmp_path / "up").exists)
    slurm.advance(400)
    one, two = slurm.job(first), slurm.job(second)
    assert (one.display, two.display) == ("TIMEOUT", "TIMEOUT") and (tmp_path / "log").read_text() == "warned\n"
    assert (one.ended - one.began, two.began, two.ended - two.began) == (120, one.ended, 180)


def test_a_job_is_forgotten_after_minjobage(slurm, tmp_path):
    number = submit(slurm, tmp_path, "true")
    slurm.wait(number, "COMPLETED")
    slurm.advance(299)
    assert len(seen(slurm)) == 1
    slurm.advance(2)
    assert seen(slurm) == []
    done = slurm.run("squeue", "-h", "-j", str(number))
    assert (done.returncode, done.stderr) == (1, "slurm_load_jobs error: Invalid job id specified\n")
    done = slurm.run("squeue", "-h", "-j", f"{number},999")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert slurm.job(number).purged


def test_times_as_seconds(slurm, tmp_path, monkeypatch):
    before = int(time.time())
    submit(slurm, tmp_path, WAITING, "--time=5")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "%s")
    ((submitted, started, ends),) = seen(slurm, pattern="%V|%S|%e")
    assert before <= int(submitted) <= int(started) == int(ends) - 300


# ---------------------------------------------------------------------- what tests do to jobs


@pytest.mark.parametrize("state", ["NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "CANCELLED", "FAILED"])
def test_any_end(slurm, tmp_path, state):
    number = submit(slurm, tmp_path, "sleep 100")
    slurm.end(number, state)
    assert seen(slurm)[0][1] == state and not slurm.pids(number)


def test_an_end_later_and_a_state_of_the_future(slurm, tmp_path):
    number = submit(slurm, tmp_path, "sleep 100")
    slurm.set_state(number, "SOME_FUTURE_STATE")
    assert seen(slurm)[0][1] == "SOME_FUTURE_STATE"
    slurm.set_state(number, "")
    slurm.end(number, "PREEMPTED", in_s=50)
    slurm.advance(49)
    assert seen(slurm)[0][1] == "RUNNING"
    slurm.advance(2)
    assert seen(slurm)[0][1] == "PREEMPTED"


def test_pending_for_a_reason(slurm, tmp_path):
    number = submit(slurm, tmp_path, "true", "--time=2:00:00")
    assert seen(slurm)[0][1:3] == ["PENDING", "PartitionTimeLimit"]
    other = submit(slurm, tmp_path, "true", "--hold", name="held")
    slurm.set_pending_reason(other, "DependencyNeverSatisfied")
    assert slurm.job(other).reason == "DependencyNeverSatisfied"
    slurm.set_pending_reason(other, "")
    slurm.wait(other, "COMPLETED")
    assert slurm.job(number).display == "PENDING"


def test_a_node_fails(slurm, tmp_path):
    kept = submit(slurm, tmp_path, "sleep 100", "--no-requeue", name="kept")
    again = submit(slurm, tmp_path, f"echo ${{SLURM_RESTART_COUNT:-0}} >>starts; {WAITING}", "--nodelist=n1", name="again")
    wait_until((tmp_path / "starts").exists)
    slurm.node_down("n1")
    assert slurm.job(kept).display == "NODE_FAIL" and slurm.job(kept).reason == "NodeDown"
    assert (slurm.job(again).display, slurm.job(again).restarts) == ("PENDING", 1)
    assert slurm.run("sinfo", "-h", "-N", "-n", "n1", "-o", "%T").stdout == "down*\n"
    slurm.node_up("n1")
    (tmp_path / "go").touch()
    slurm.wait(again, "COMPLETED")
    assert (tmp_path / "starts").read_text() == "0\n1\n"


def test_split_brain(slurm, tmp_path):
    number = submit(slurm, tmp_path, f"echo begun >>log; {WAITING}; echo done >>log")
    wait_until((tmp_path / "log").exists)
    slurm.requeue(number, kill=False)
    wait_until(lambda: (tmp_path / "log").read_text() == "begun\nbegun\n")
    (tmp_path / "go").touch()
    slurm.wait(number, "COMPLETED")
    wait_until(lambda: (tmp_path / "log").read_text() == "begun\nbegun\ndone\ndone\n")


def test_controller_away(slurm, tmp_path):
    number = submit(slurm, tmp_path, WAITING)
    slurm.controller_down()
    gone = "Unable to contact slurm controller (connect failure)\n"
    for argv, status, err in (
        (("squeue", "-h"), 1, f"slurm_load_jobs error: {gone}"),
        (("scancel", str(number)), 8, f"scancel: error: Kill job error on job id {number}: {gone}"),
        (("scancel", "--name=job"), 1, f"slurm_load_jobs error: {gone}"),
        (("sbatch", "job.sh"), 1, f"sbatch: error: Batch job submission failed: {gone}"),
        (("scontrol", "show", "config"), 1, f"slurm_load_ctl_conf error: {gone}"),
        (("sinfo",), 1, f"slurm_load_partitions: {gone}"),
    ):
        done = slurm.run(*argv, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", err)
    ping = slurm.run("scontrol", "ping")
    assert ping.returncode == 1 and " is DOWN\n" in ping.stdout
    (tmp_path / "go").touch()
    wait_until((slurm.path / f"spool/{number}/run.1/end").exists)
    slurm.controller_up(ends_after_s=20)
    assert slurm.job(number).display == "RUNNING"
    slurm.advance(21)
    assert slurm.job(number).display == "COMPLETED"


def test_accounting(tmp_path):
    with FakeSlurm(tmp_path / "slurm", accounting=True, min_job_age_s=10, accounting_lag_s=30) as slurm:
        number = submit(slurm, tmp_path, "sleep 100", "--comment=c", "--mem=1G")
        slurm.wait(number, "RUNNING")
        slurm.run("scancel", str(number))
        slurm.wait(number, "CANCELLED")
        command = ("sacct", "-n", "-P", "-X", "-j", str(number), "-o", "JobID,State,ExitCode,NodeList,AllocTRES,Comment,JobName")
        assert slurm.run(*command).stdout == ""
        slurm.advance(31)
        assert seen(slurm) == []
        assert slurm.run(*command).stdout == f"{number}|CANCELLED by {os.getuid()}|0:0|n1|billing=1,cpu=1,mem=1G,node=1|c|job\n"
        assert slurm.run("sacct", "-n", "-P", "-X", "--name", "other", "-o", "JobID").stdout == ""


def test_no_accounting(slurm):
    done = slurm.run("sacct", "-n")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Slurm accounting storage is disabled\n")


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-p", "nx"), ["invalid partition specified: nx", "Batch job submission failed: Invalid partition name specified"]),
        (("-A", "nx"), ["Batch job submission failed: Invalid account or account/partition combination specified"]),
        (("--gres=gpu:1",), ["Batch job submission failed: Requested node configuration is not available"]),
        (
            ("--mem=900G",),
            ["Memory specification can not be satisfied", "Batch job submission failed: Requested node configuration is not available"],
        ),
        (("--array=0-2001",), ["Batch job submission failed: Invalid job array specification"]),
        (("-x", "n9"), ["Batch job submission failed: Invalid node name specified"]),
    ],
)
def test_refused_submissions(tmp_path, options, words):
    with FakeSlurm(tmp_path / "slurm", accounts=("mine",)) as slurm:
        (tmp_path / "job.sh").write_text("#!/bin/bash\n")
        done = slurm.run("sbatch", "--parsable", "-J", "x", *options, "job.sh", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "".join(f"sbatch: error: {line}\n" for line in words))
        left = [row[1:3] for row in seen(slurm)]
        assert left == ([["FAILED", "BadConstraints"]] if "configuration" in words[-1] else [])


def test_submit_limit_and_full_queue(tmp_path):
    with FakeSlurm(tmp_path / "slurm", max_submit=1, max_job_count=3) as slurm:
        submit(slurm, tmp_path, WAITING)
        done = slurm.run("sbatch", "job.sh", cwd=tmp_path)
        policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
        assert done.stderr == f"sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: {policy}\n"
        slurm.configure(max_submit=None, max_job_count=1)
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            slurm.run("sbatch", "job.sh", cwd=tmp_path, timeout_s=0.3)
        assert b"Slurm temporarily unable to accept job, sleeping and retrying" in caught.value.stderr


@pytest.mark.parametrize(
    ("argv", "status", "first"),
    [
        (("sbatch", "--frob"), 255, "sbatch: unrecognized option '--frob'"),
        (("sbatch", "-Z"), 255, "sbatch: invalid option -- 'Z'"),
        (("sbatch", "--time=xx", "job.sh"), 255, "sbatch: error: Invalid --time specification"),
        (("sbatch", "nowhere.sh"), 1, "sbatch: error: Unable to open file nowhere.sh"),
        (("squeue", "--json"), 1, "squeue: unrecognized option '--json'"),
        (("squeue", "-t", "list"), 1, "squeue: error: Invalid job state specified: list"),
        (("squeue", "-j", "x"), 1, "squeue: error: Invalid job id: x"),
        (("scancel",), 1, "scancel: error: No job identification provided"),
        (("scancel", "x"), 1, "scancel: error: Invalid job id x"),
        (("scontrol", "frob"), 1, "invalid keyword: frob"),
        (("sacct", "--frob"), 1, "sacct: unrecognized option '--frob'"),
        (("sinfo", "--frob"), 1, "sinfo: unrecognized option '--frob'"),
    ],
)
def test_wrong_calls_are_refused(slurm, tmp_path, argv, status, first):
    (tmp_path / "job.sh").write_text("#!/bin/bash\n")
    done = slurm.run(*argv, cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (status, first)


@pytest.mark.parametrize("command", ["sbatch", "squeue", "scancel", "scontrol", "sacct", "sinfo"])
def test_versions(slurm, command):
    assert slurm.run(command, "--version").stdout == slurm.run(command, "-V").stdout == "slurm-wlm 22.05.8\n"


def test_long_options_in_all_their_forms(slurm, tmp_path):
    submit(slurm, tmp_path, "true")
    slurm.wait("job", "COMPLETED")
    for states in (("--states=all",), ("--states", "all"), ("--stat=all",), ("-tall",), ("-t", "cd")):
        assert slurm.run("squeue", "-h", *states, "-o%i").stdout == "1\n"
    assert slurm.run("squeue", "-ho", "%i").stdout == ""


def test_config_partitions_nodes(slurm):
    config = slurm.run("scontrol", "show", "config").stdout
    for line in ("MinJobAge               = 300 sec", "MaxArraySize            = 2001", "SLURM_VERSION           = 22.05.8"):
        assert line in config.splitlines()
    assert "MaxTime=01:00:00 " in slurm.run("scontrol", "show", "partition", "-o").stdout
    assert slurm.run("sinfo", "-h", "-o", "%P|%a|%l|%D|%T|%t|%N|%c|%m|%G").stdout == "cpu*|up|1:00:00|3|idle|idle|n[1-3]|4|16000|(null)\n"


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize("kind", ["hang", "accept_then_hang", "temporarily_unable"])
def test_commands_that_hang(slurm, tmp_path, kind):
    (tmp_path / "job.sh").write_text("#!/bin/bash\ntrue\n")
    slurm.fault("sbatch", kind)
    with pytest.raises(subprocess.TimeoutExpired):
        slurm.run("sbatch", "--parsable", "job.sh", cwd=tmp_path, timeout_s=0.3)
    assert len(slurm.jobs()) == (kind == "accept_then_hang")
    assert slurm.run("sbatch", "--parsable", "job.sh", cwd=tmp_path).returncode == 0, "only once"


@pytest.mark.parametrize(
    ("kind", "status", "err", "taken"),
    [
        ("accept_then_die", -signal.SIGKILL, "", True),
        ("accept_then_error", 1, "Batch job submission failed: Socket timed out on send/recv operation", True),
        ("socket_timeout", 1, "Batch job submission failed: Socket timed out on send/recv operation", False),
        ("error:some text", 1, "some text", False),
        ("unreachable", 1, "Unable to contact slurm controller (connect failure)", False),
        ("munge", 1, "Protocol authentication error", False),
        ("empty", 0, "", False),
        ("submit_limit", 1, "AssocMaxSubmitJobLimit", False),
        ("bad_partition", 1, "Invalid partition name specified", False),
        ("bad_account", 1, "Invalid account or account/partition combination specified", False),
        ("node_configuration", 1, "Requested node configuration is not available", True),
        ("slow:0.05", 0, "", True),
        ("until:/dev/null", 0, "", True),
        ("stderr:sbatch: a note", 0, "sbatch: a note", True),
    ],
)
def test_faults_of_sbatch(slurm, tmp_path, kind, status, err, taken):
    (tmp_path / "job.sh").write_text("#!/bin/bash\ntrue\n")
    slurm.fault("sbatch", kind)
    done = slurm.run("sbatch", "--parsable", "-J", "x", "job.sh", cwd=tmp_path)
    assert done.returncode == status and err in done.stderr
    assert [job.name for job in slurm.jobs()] == ["x"] * taken
    assert bool(done.stdout) == (status == 0 and taken)


def test_faults_of_squeue(slurm, tmp_path):
    slurm.foreign_job("theirs")
    for number in range(4):
        submit(slurm, tmp_path, WAITING, name=f"j{number}")
    whole = slurm.run("squeue", "-h", "-o", "%i|%T|%j|end").stdout
    assert len(whole.splitlines()) == 5 and len(seen(slurm)) == 4
    slurm.fault("squeue", "partial")
    done = slurm.run("squeue", "-h", "-o", "%i|%T|%j|end")
    assert done.returncode == 0 and whole.startswith(done.stdout) and not done.stdout.endswith("\n") and 0 < len(done.stdout) < len(whole)
    slurm.fault("squeue", "partial:lines")
    assert len(slurm.run("squeue", "-h", "-o", "%i").stdout.splitlines()) == 2
    slurm.fault("squeue", "garbage")
    raw = subprocess.run([slurm.bin / "squeue", "-h", "-o", "%i|%T|%j|end"], env=os.environ | slurm.environment, capture_output=True)
    assert raw.returncode == 0 and whole.encode() in raw.stdout
    with pytest.raises(UnicodeDecodeError):
        raw.stdout.decode()


def test_faults_come_when_they_are_due(slurm, tmp_path):
    slurm.fault("squeue", "error:a", times=2, after=1)
    slurm.fault("squeue", "error:b", times=None, match="nonono")
    assert [slurm.run("squeue", "-h").stderr for _ in range(5)] == ["", "a\n", "a\n", "", ""]
    assert slurm.run("squeue", "-n", "nonono").stderr == "b\n" and slurm.run("squeue", "-n", "nonono").stderr == "b\n"
    slurm.clear_faults()
    assert slurm.run("squeue", "-n", "nonono").returncode == 0
    (tmp_path / "job.sh").write_text("#!/bin/bash\n#SBATCH --job-name=pwl-b\n")
    slurm.fault("sbatch", "error:c", match="pwl-b")
    assert slurm.run("sbatch", "job.sh", cwd=tmp_path).stderr == "c\n"
    assert slurm.calls("sbatch") == [["job.sh"]] and len(slurm.calls("squeue")) == 8
    slurm.forget_calls()
    assert slurm.calls() == []


# ---------------------------------------------------------------------- many at a time, killed at any moment


@pytest.mark.slurm
def test_four_threads_submit_and_none_is_lost(slurm, tmp_path):
    (tmp_path / "job.sh").write_text("#!/bin/bash\necho $SLURM_JOB_ID >>ids\n")

    def one(number: int) -> str:
        done = slurm.run("sbatch", "--parsable", "-J", f"j{number}", "-o", "/dev/null", "job.sh", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(one, range(100)))
    assert len(set(ids)) == 100 and len(slurm.calls("sbatch")) == 100
    wait_until(lambda: all(row[1] == "COMPLETED" for row in seen(slurm)), 60)
    assert {row[0]: row[4] for row in seen(slurm)} == {number: f"j{index}" for index, number in enumerate(ids)}
    assert sorted((tmp_path / "ids").read_text().split()) == sorted(ids), "each ran once"


@pytest.mark.slurm
def test_commands_killed_at_any_moment_corrupt_nothing(slurm, tmp_path):
    dice = random.Random(7)
    (tmp_path / "job.sh").write_text("#!/bin/bash\necho $SLURM_JOB_ID >>ids\n")
    environment = os.environ | slurm.environment
    told = set()
    began = time.monotonic()
    for _ in range(4):
        subprocess.run([slurm.bin / "squeue", "-h"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=30)
    longest = max(0.035, 1.5 * (time.monotonic() - began) / 4)  # on a busy machine none would be done in 35 ms
    for number in range(120):
        argv = ["sbatch", "--parsable", "-J", f"j{number}", "-o", "/dev/null", "job.sh"] if number % 3 else ["squeue", "-h"]
        process = subprocess.Popen([slurm.bin / argv[0], *argv[1:]], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        killer = threading.Timer(dice.uniform(0.005, longest), process.kill)
        killer.start()
        out = process.communicate(timeout=30)[0]
        killer.cancel()
        if number % 3 and out.strip():
            told.add(out.strip())
    wait_until(lambda: all(row[1] == "COMPLETED" for row in seen(slurm)), 60)
    rows = seen(slurm)
    assert told <= {row[0] for row in rows} and 0 < len(told) < 80, "some were killed, some not"
    assert len({row[4] for row in rows}) == len(rows)
    assert sorted((tmp_path / "ids").read_text().split()) == sorted(row[0] for row in rows), "each that was queued ran once"


def test_close_leaves_nothing(tmp_path):
    slurm = FakeSlurm(tmp_path / "slurm")
    submit(
        slurm, tmp_path, "setsid nohup bash -c 'trap \"\" TERM; echo $$ >pid; while :; do sleep 0.01; done' & trap '' TERM; sleep 100; wait"
    )
    wait_until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text().strip()))
    slurm.fault("squeue", "hang")
    hanging = subprocess.Popen([slurm.bin / "squeue"], env=os.environ | slurm.environment)
    wait_until(lambda: len(slurm.calls("squeue")) == 1)
    pids = slurm.pids("job")
    assert int((tmp_path / "pid").read_text()) in pids and len(pids) >= 3
    slurm.close()
    assert not any(start_time(pid) for pid in pids)
    assert hanging.wait(10) == -signal.SIGKILL
    assert slurm.run("sbatch", "job.sh", cwd=tmp_path).returncode == 1, "nothing begins after the end"


def test_a_second_instance_is_the_same_cluster(slurm, tmp_path):
    submit(slurm, tmp_path, "sleep 100")
    assert FakeSlurm(slurm.path).job("job").display == "RUNNING"


def test_the_commands_stay_quick():
    """Not a figure, a guard: an import too much in a command would slow every test of the dispatcher down."""
    code = "import sys; sys.path.append(sys.argv[1]); import fake.command, fake.sbatch, fake.squeue; print(*sorted(sys.modules))"
    source = Path(__file__).parent
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(source)], capture_output=True, text=True, check=True)
    assert not {"re", "json", "typing", "pathlib", "subprocess", "pytest"} & set(done.stdout.split())


# ---------------------------------------------------------------------- notations


def test_notations():
    assert [minutes(text) for text in ("5", "1:30", "0:30", "2:00:00", "1-0", "1-2:30", "1-0:0:1", "UNLIMITED", "x")] == [
        *(5, 2, 1, 120, 1440, 1590, 1441, -1, None),
    ]
    assert [memory(size) for size in (1500, 2048, 16000, 2560, 1536, 1024 * 1024)] == ["1500M", "2G", "16000M", "2.50G", "1.50G", "1T"]
    assert [megabytes(text) for text in ("2000", "2G", "512K", "1TB", "x")] == [2000, 2048, 1, 1048576, None]
    assert compress(["n1", "n2", "n3", "n5", "login"]) == "n[1-3,5],login" and compress(["n07"]) == "n07"
    assert expand("n[1-3,5],login,m[08-10]") == ["n1", "n2", "n3", "n5", "login", "m08", "m09", "m10"]
