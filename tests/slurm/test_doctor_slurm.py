"""The doctor on a real cluster: sections against partitions, sbatch's own word, and jobs that are submitted, given up, ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from doctor_support import levels, one
from jobs_support import wait_until
from support import clean_environment, run_cli

from pwact_like import __version__
from pwact_like.report.doctor.findings import Finding, Level

pytestmark = pytest.mark.slurm

# a line that hangs in a job, and not on the login node
HANGS = '[ -z "$SLURM_JOB_ID" ] || sleep 300'


@pytest.fixture
def place(tmp_path) -> Path:
    folder = tmp_path / "quo'te and blank"
    folder.mkdir()
    return folder


def write(folder: Path, **sections: object) -> Path:
    path = folder / "resource.json"
    path.write_text(json.dumps({"scheduler": "slurm", **sections}))
    return path


def doctor(folder: Path, *arguments: str | Path) -> tuple[int, list[Finding]]:
    ran = run_cli("doctor", *arguments, "--json", cwd=folder)
    assert "Traceback" not in ran.stderr, ran.stderr
    rows = json.loads(ran.stdout)["findings"]
    return ran.returncode, [Finding(row["topic"], Level(row["level"]), row["text"], row["cure"]) for row in rows]


def about(findings: list[Finding], topic: str) -> list[Finding]:
    return [item for item in findings if item.topic == topic]


def jobs_left(cluster) -> list[list[str]]:
    return [row for row in cluster.squeue() if row[1] in ("PENDING", "RUNNING") and row[3].startswith("pwl-doctor")]


def test_what_the_cluster_is(cluster, place):
    status, found = doctor(place, write(place, scheduler="auto"))
    slurm = about(found, "slurm")
    assert status == 0 and one(found, "jobs go to Slurm")
    assert one(slurm, "the controller answers").level is Level.OK and one(slurm, "MinJobAge 300 s").level is Level.OK
    assert one(slurm, "the controller's clock agrees").level is Level.OK
    assert "4 CPUs and 16000 MB a node" in one(slurm, "partition cpu (default), UP").text
    assert "2 GPUs a node" in one(slurm, "partition gpu, UP").text
    assert one(slurm, "sacct cannot say").level is Level.WARN


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cpu_per_node": 64}, "sbatch refuses this"),
        ({"queue_name": "nope"}, "sbatch refuses this"),
        ({"memory": "64G"}, "sbatch refuses this"),
        ({"custom_flags": ["--constraint=none_such"]}, "sbatch refuses this"),
        ({"custom_flags": ["--no-such-option=1"]}, "sbatch refuses this"),
        ({"time": "2-00:00:00"}, "is above the 1:00:00"),
        ({"gpu_per_node": 1}, "has 1 GPUs"),
    ],
)
def test_sections_that_cannot_run_are_bad(cluster, place, settings, words):
    status, found = doctor(place, write(place, DFT={"command": "ls", **settings}))
    assert status == 2 and one(about(found, "resource.json: DFT"), words).level is Level.BAD
    assert not jobs_left(cluster)


def test_sections_that_can_are_well(cluster, place):
    settings = {"cpu_per_node": 2, "time": "0:30:00", "memory": "1G"}
    status, found = doctor(
        place, write(place, train={"command": "pwact-like", **settings}, DFT={"queue_name": "gpu", "gpu_per_node": 2, **settings})
    )
    assert status == 0
    for section in ("train", "DFT"):
        mine = about(found, f"resource.json: {section}")
        assert levels(mine) == {"OK"} and one(mine, "sbatch --test-only takes the script")


def test_a_drained_node_is_a_warning(cluster, place):
    cluster.scontrol("update", "node=n3", "state=drain", "reason=test")
    try:
        status, found = doctor(place, write(place, DFT={"command": "ls", "queue_name": "gpu", "time": "10", "memory": "1G"}))
    finally:
        cluster.scontrol("update", "node=n3", "state=resume")
    mine = about(found, "resource.json: DFT")
    assert status == 0 and one(mine, "sinfo -R").level is Level.WARN and one(mine, "--test-only").level is Level.WARN


def test_jobs_of_every_section(cluster, place, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "nope")  # would outrank the script's own line
    sections = {
        "train": {"command": "pwact-like", "cpu_per_node": 2, "time": "0:30:00", "memory": "1G", "env_list": ["export A=1"]},
        "DFT": {"command": "ls", "queue_name": "gpu", "gpu_per_node": 1, "time": "0:30:00", "memory": "1G"},
    }
    status, found = doctor(place, write(place, **sections), "--submit", "--timeout", "120")
    assert status == 0, [item for item in found if item.level is Level.BAD]
    assert one(found, "SBATCH_PARTITION=nope").level is Level.WARN
    train, dft = (about(found, f"resource.json: {section}, as a job") for section in sections)
    assert one(train, "a job ran on n") and one(train, f"pwact-like {__version__} runs") and one(train, "the clock of")
    assert one(train, "files were seen here").level is Level.OK
    assert one(dft, "a job ran on n3") and one(dft, "GPU(s)")
    assert sorted(path.name for path in place.iterdir()) == ["resource.json"] and not jobs_left(cluster)


def test_the_nodes_have_the_last_word(cluster, place):
    """A program that only the node has is no fault, and one that only the login node has is."""
    (place / "bin").mkdir()
    (place / "bin" / "solver").write_text("#!/bin/sh\n")
    (place / "bin" / "solver").chmod(0o755)
    path = f'export PATH="$PATH:{place / "bin"}"'
    in_job, outside = f'[ -z "$SLURM_JOB_ID" ] || {path}', f'[ -n "$SLURM_JOB_ID" ] || {path}'
    common = {"command": "solver", "time": "10", "memory": "1G"}
    resource = write(place, train={**common, "env_list": [in_job, ":"]}, DFT={**common, "env_list": [outside, ":"]})
    _, found = doctor(place, resource, "--submit", "--timeout", "120")
    assert "BAD" not in levels([*about(found, "resource.json: train"), *about(found, "resource.json: train, as a job")])
    assert one(about(found, "resource.json: DFT, as a job"), "solver is not found on").level is Level.BAD


def test_a_job_that_hangs_is_cancelled(cluster, place):
    status, found = doctor(place, write(place, DFT={"command": "ls", "env_list": [HANGS], "memory": "1G"}), "--submit", "--timeout", "5")
    assert status == 2 and one(found, "has not ended after").level is Level.BAD
    wait_until(lambda: not jobs_left(cluster), 30)


def test_a_job_that_waits_for_ever_is_given_up_soon(cluster, place):
    cluster.scontrol("update", "partition=gpu", "state=down")
    try:
        status, found = doctor(
            place, write(place, DFT={"command": "ls", "queue_name": "gpu", "memory": "1G"}), "--submit", "--timeout", "100"
        )
    finally:
        cluster.scontrol("update", "partition=gpu", "state=up")
    assert status == 2 and one(found, "will not come by itself: PartitionDown").level is Level.BAD
    assert one(found, "partition gpu is DOWN: no job starts there").level is Level.BAD
    wait_until(lambda: not jobs_left(cluster), 30)


def test_ctrl_c_ends_the_jobs(cluster, place):
    resource = write(place, DFT={"command": "ls", "env_list": [HANGS], "memory": "1G"})
    command = [sys.executable, "-P", "-m", "pwact_like", "doctor", str(resource), "--submit"]
    with subprocess.Popen(
        command, cwd=place, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: any(row[1] == "RUNNING" for row in jobs_left(cluster)), 60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    wait_until(lambda: not jobs_left(cluster), 30)
    assert not (place / ".pwact_like").exists()


def test_a_job_that_is_cancelled_by_somebody_else(cluster, place):
    resource = write(place, grace_s=2, DFT={"command": "ls", "env_list": [HANGS], "memory": "1G"})
    command = [sys.executable, "-P", "-m", "pwact_like", "doctor", str(resource), "--submit", "--json"]
    with subprocess.Popen(
        command, cwd=place, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        wait_until(lambda: any(row[1] == "RUNNING" for row in jobs_left(cluster)), 60)
        cluster.run("scancel", jobs_left(cluster)[0][0])
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert any("without its exit marker: cancelled" in row["text"] for row in json.loads(out)["findings"])


def test_a_controller_that_is_away(cluster, place):
    cluster.slurmctld_stop()
    try:
        status, found = doctor(place, write(place, DFT={"command": "ls"}), "--submit")
        assert status == 2 and one(about(found, "slurm"), "the controller does not answer").level is Level.BAD
        assert one(found, "nothing was submitted").level is Level.BAD
        status, found = doctor(place)
        assert status == 0 and one(about(found, "slurm"), "the controller does not answer").level is Level.WARN
    finally:
        cluster.slurmctld_start()
        cluster.wait_up()
