"""What Slurm prints, as data; the lines of a script; the environment of its commands. Texts were recorded from Slurm 22.05.8."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from pwact_like.config.resource import ResourceSection
from pwact_like.jobs.slurm_commands import SlurmCommands, clean_environment
from pwact_like.jobs.slurm_header import header
from pwact_like.jobs.slurm_text import (
    is_stuck,
    job_id,
    limit_of_partitions,
    memory_of_tres,
    read_config,
    read_pairs,
    read_sacct,
    read_squeue,
    refusal,
    seconds_of,
)
from pwact_like.jobs.types import Asks, EndCause, JobRequest, Refused, SubmitUnknown


def squeue(
    number="7", state="RUNNING", reason="None", node="n1", submitted="1000", started="1010", ended="1610", name="pwl-a-1", comment="pwl-a-1"
):
    return "|".join([number, state, reason, node, submitted, started, ended, comment, name])


# ---------------------------------------------------------------------- squeue


@pytest.mark.parametrize(
    ("state", "alive", "running", "cause"),
    [
        ("PENDING", True, False, EndCause.UNKNOWN),
        ("CONFIGURING", True, False, EndCause.UNKNOWN),
        ("RUNNING", True, True, EndCause.UNKNOWN),
        ("COMPLETING", True, True, EndCause.UNKNOWN),
        ("SUSPENDED", True, True, EndCause.UNKNOWN),
        ("REQUEUED", True, True, EndCause.UNKNOWN),
        ("REQUEUE_HOLD", True, True, EndCause.UNKNOWN),
        ("SPECIAL_EXIT", True, True, EndCause.UNKNOWN),
        ("RESV_DEL_HOLD", True, False, EndCause.UNKNOWN),
        ("REVOKED", True, True, EndCause.UNKNOWN),  # it runs on another cluster of the federation
        ("A_STATE_OF_TOMORROW", True, True, EndCause.UNKNOWN),
        ("COMPLETED", False, False, EndCause.COMPLETED),
        ("FAILED", False, False, EndCause.FAILED),
        ("TIMEOUT", False, False, EndCause.TIMEOUT),
        ("OUT_OF_MEMORY", False, False, EndCause.OUT_OF_MEMORY),
        ("CANCELLED", False, False, EndCause.CANCELLED),
        ("NODE_FAIL", False, False, EndCause.NODE_FAIL),
        ("BOOT_FAIL", False, False, EndCause.NODE_FAIL),
        ("PREEMPTED", False, False, EndCause.PREEMPTED),
    ],
)
def test_states(state, alive, running, cause):
    view = read_squeue(squeue(state=state))["7"]
    assert (view.alive, view.running, view.cause, view.said) == (alive, running, cause, state)


def test_since_when():
    assert read_squeue(squeue(state="PENDING", started="N/A", ended="N/A"))["7"].since == 1000
    assert read_squeue(squeue(state="RUNNING"))["7"].since == 1010
    assert read_squeue(squeue(state="COMPLETED"))["7"].since == 1610
    assert read_squeue(squeue(state="RUNNING", started="2026-11-24T10:00:00"))["7"].since is None, "a Slurm that knows no %s"


def test_what_is_no_line_is_left_out_and_the_rest_counts():
    text = "\n".join([squeue("1"), "slurm_load_jobs error: something", squeue("2", name="with|bars|and ünïcödé"), squeue("3")[:-12], ""])
    views = read_squeue(text)
    assert set(views) == {"1", "2"} and views["2"].name == "with|bars|and ünïcödé"


def test_array_tasks_have_ids_of_their_own():
    assert set(read_squeue("\n".join([squeue("12_0"), squeue("12_1")]))) == {"12_0", "12_1"}


@pytest.mark.parametrize(
    ("reason", "stuck"),
    [
        ("PartitionTimeLimit", True),
        ("DependencyNeverSatisfied", True),
        ("PartitionNodeLimit", True),
        ("ReqNodeNotAvail, UnavailableNodes:n1", True),
        ("(ReqNodeNotAvail, May be reserved for other job)", True),
        ("QOSMaxWallDurationPerJobLimit", True),
        ("Priority", False),
        ("Resources", False),
        ("QOSMaxJobsPerUserLimit", False),
        ("AssocGrpCPUMinutesLimit", False),
        ("None", False),
    ],
)
def test_what_waits_for_ever(reason, stuck):
    assert is_stuck(reason) is stuck
    assert read_squeue(squeue(state="PENDING", reason=reason))["7"].stuck is stuck
    assert not read_squeue(squeue(state="RUNNING", reason=reason))["7"].stuck


def test_of_an_id_that_stands_there_twice_the_living_job_counts():
    both = [squeue("1", state="RUNNING"), squeue("1", state="CANCELLED")]
    assert read_squeue("\n".join(both))["1"].alive and read_squeue("\n".join(reversed(both)))["1"].alive


def test_a_job_that_a_plugin_has_renamed_is_known_by_its_comment():
    view = read_squeue(squeue(name="prj42_pwl", comment="pwl-a-1"))["7"]
    assert view.belongs_to("pwl-a-1") and not view.belongs_to("pwl-b-1")


def test_what_it_waits_for_is_its_own_wish():
    wishes = ("MaxMemPerLimit", "PartitionTimeLimit", "QOSMaxWallDurationPerJobLimit", "AssocMaxNodePerJobLimit", "BadConstraints")
    assert all(read_squeue(squeue(state="PENDING", reason=reason))["7"].too_much for reason in wishes)
    others = ("JobHeldUser", "PartitionDown", "ReqNodeNotAvail", "Priority", "DependencyNeverSatisfied")
    assert not any(read_squeue(squeue(state="PENDING", reason=reason))["7"].too_much for reason in others)


# ---------------------------------------------------------------------- sacct, scontrol


def test_sacct():
    text = (
        "4|CANCELLED by 0|0:0|None assigned|Unknown|1795558758|cpu=1,mem=1500M,node=1|pwl-a-1\n"
        "5|OUT_OF_MEMORY|0:125|n1|1795558700|1795558758|cpu=2,mem=3000M,node=2|pwl-b-1\n"
        "6|RUNNING|0:0|n1|1795558700|Unknown|cpu=1|pwl-c-1\n"
    )
    views = read_sacct(text)
    assert views["4"].cause is EndCause.CANCELLED and views["4"].node == "" and not views["4"].alive
    assert views["5"].cause is EndCause.OUT_OF_MEMORY and views["5"].memory_mb == 1500 and "0:125" in views["5"].reason
    assert views["6"].alive and views["6"].running


def test_pairs_of_scontrol():
    text = "JobId=5 JobName=pwl-a-1 UserId=root(0) Reason=Nodes required are DOWN Dependency=(null) TRES=cpu=1,mem=1500M,node=1,billing=1"
    record = read_pairs(text)
    assert record["JobName"] == "pwl-a-1" and record["Reason"] == "Nodes required are DOWN"
    assert memory_of_tres(record["TRES"]) == 1500
    assert memory_of_tres("cpu=8,mem=2G,node=2") == 1024 and memory_of_tres("cpu=1") is None


def test_configuration():
    config = read_config("Configuration data as of 2026\nMinJobAge               = 300 sec\nSLURM_VERSION           = 22.05.8\n")
    assert seconds_of(config["MinJobAge"]) == 300 and config["SLURM_VERSION"] == "22.05.8"
    assert seconds_of("(null)") is None


def test_the_longest_time_that_a_partition_gives():
    text = (
        "PartitionName=cpu Default=YES MaxNodes=UNLIMITED MaxTime=01:00:00 State=UP\n"
        "PartitionName=long Default=NO MaxTime=7-00:00:00 State=UP\nPartitionName=free Default=NO MaxTime=UNLIMITED State=UP\n"
    )
    assert limit_of_partitions(text, "") == 3600
    assert limit_of_partitions(text, "cpu,long") == 7 * 86400
    assert limit_of_partitions(text, "free") is None and limit_of_partitions(text, "unknown") is None


# ---------------------------------------------------------------------- sbatch


@pytest.mark.parametrize(
    ("text", "number"), [("17\n", "17"), ("17;cluster\n", "17"), ("Welcome!\n17\n", "17"), ("", None), ("none\n", None)]
)
def test_the_id_of_a_submitted_job(text, number):
    assert job_id(text) == number


POLICY = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    "text",
    [
        f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}",
        f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}",
        POLICY,
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.",
        "sbatch: error: Batch job submission failed: I/O error writing script/environment to file",
        "sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)",
        "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error\nsbatch: error: fetch_config: DNS SRV lookup failed\n"
        "sbatch: error: Could not establish a configuration source",
        "sbatch: error: Batch job submission failed: Requested nodes are busy",
        "sbatch: error: Batch job submission failed: Unspecified error",
    ],
)
def test_refused_for_now(text):
    reply = refusal(text)
    assert isinstance(reply, Refused) and reply.wait


@pytest.mark.parametrize(
    "text",
    [
        "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid partition name specified",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
        f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}",
        "sbatch: unrecognized option '--frobnicate'\nTry \"sbatch --help\" for more information",
    ],
)
def test_refused_for_good(text):
    reply = refusal(text)
    assert isinstance(reply, Refused) and not reply.wait and reply.sure and reply.text in " ".join(text.split())


def test_words_that_nobody_knows_are_not_sure():
    """A site's own submit plugin: a cluster that has taken such jobs before is given time."""
    reply = refusal("sbatch: error: You already have 500 jobs queued, wait for some of them\nsbatch: error: Batch job submission failed: x")
    assert isinstance(reply, Refused) and not reply.wait and not reply.sure


@pytest.mark.parametrize("text", ["Requested node configuration is not available", "Requested time limit is invalid"])
def test_what_no_node_has_is_about_the_size(text):
    assert refusal(f"sbatch: error: Batch job submission failed: {text}").about_size


@pytest.mark.parametrize(
    "text",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        "sbatch: error: If munged is up, restart with --num-threads=10\nsbatch: error: Munge encode failed: Failed to access",
        "sbatch: error: Batch job submission failed: Protocol authentication error",
        "",
    ],
)
def test_nobody_knows_whether_it_was_taken(text):
    assert isinstance(refusal(text), SubmitUnknown)


# ---------------------------------------------------------------------- the lines of the script


def lines(section: ResourceSection, **asks) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in header(JobRequest("pwl-a-1", section, Asks(**asks)))]


def test_a_whole_section():
    section = ResourceSection(
        number_node=2, cpu_per_node=16, gpu_per_node=4, queue_name="gpu,long", custom_flags=("#SBATCH --qos=high", "-x n9"), memory="8G"
    )
    assert lines(section) == [
        "--job-name=pwl-a-1",
        "--comment=pwl-a-1",
        "--output=stdout",
        "--error=stderr",
        "--open-mode=append",
        "--no-requeue",
        "--nodes=2",
        "--ntasks-per-node=16",
        "--gres=gpu:4",
        "--partition=gpu,long",
        "--mem=8G",
        "--signal=B:USR1@120",
        "--qos=high",
        "-x n9",
    ]


def test_what_retries_ask_for_replaces_what_the_user_wrote():
    section = ResourceSection(custom_flags=("--mem=4G", "--time 30", "--mem-per-cpu=1G", "--exclude=n7", "--account=me"))
    found = lines(section, memory_mb=8192, time_s=7200, exclude=("n1", "n2"))
    assert "--mem=8192M" in found and "--time=2:00:00" in found and "--exclude=n7,n1,n2" in found and "--account=me" in found
    assert not any(line.startswith(("--mem=4G", "--time 30", "--mem-per-cpu", "--exclude=n7\n")) for line in found)
    assert sum(line.startswith("--exclude") for line in found) == 1


@pytest.mark.parametrize(
    ("time", "warning"), [("5", None), ("9:59", None), ("10", "60"), ("1:00:00", "180"), ("1-0", "300"), (None, "120"), ("30:00", "90")]
)
def test_the_warning_leaves_most_of_the_time(time, warning):
    """Slurm sends it up to a minute early: with a limit of a few minutes it would come at the start, and nothing would ever run."""
    found = [line for line in lines(ResourceSection(time=time)) if line.startswith("--signal")]
    assert found == ([f"--signal=B:USR1@{warning}"] if warning else [])


# ---------------------------------------------------------------------- commands


def test_the_environment_of_the_commands():
    before = {
        "PATH": "/bin",
        "HOME": "/h",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_ACCOUNT": "me",
        "SBATCH_REQUEUE": "1",
        "SBATCH_PARTITION": "other",
        "SQUEUE_STATES": "PD",
        "SLURM_JOB_ID": "5",
        "SLURM_MEM_PER_NODE": "100",
        "CUDA_VISIBLE_DEVICES": "0",
        "PWACT_LIKE_KILL_AT": "submitted",
    }
    assert clean_environment(before) == {"PATH": "/bin", "HOME": "/h", "SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "me"}
    del before["SLURM_JOB_ID"]
    assert clean_environment(before)["CUDA_VISIBLE_DEVICES"] == "0", "the user's own choice, outside a job"


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    begin = time.monotonic()
    result = SlurmCommands(timeout_s=0.3).run("bash", "-c", f"sleep 60 & echo $! >{tmp_path}/pid; echo early; wait")
    assert time.monotonic() - begin < 5 and result.status is None and "did not answer in time" in result.words and "early" in result.out
    child = (tmp_path / "pid").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout.strip()
    assert state[:1] in ("", "Z"), f"its child still runs: {state}"  # a zombie may be nice, too: ZN


def test_a_command_that_is_not_there():
    result = SlurmCommands().run("no-such-program-of-slurm")
    assert result.status == 127 and "no-such-program-of-slurm" in result.words and not result.ok


def test_output_that_is_no_utf8():
    result = SlurmCommands().run("printf", r"\377\376 and more")
    assert result.ok and result.out.encode("utf-8", "surrogateescape") == b"\xff\xfe and more"
    result.words.encode()  # can be logged


def test_sbatch_does_not_hand_our_locale_to_the_jobs(tmp_path, monkeypatch):
    program = tmp_path / "sbatch"
    program.write_text("#!/bin/sh\nenv\n")
    program.chmod(0o755)
    (tmp_path / "squeue").symlink_to(program)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert "LC_ALL=C.UTF-8" in SlurmCommands().run("sbatch").out.split()
    assert {"LC_ALL=C", "SLURM_TIME_FORMAT=%s"} <= set(SlurmCommands().run("squeue").out.split())
