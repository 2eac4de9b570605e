"""The Slurm that other tests are run on does what it is there for: starts, runs jobs, and breaks when told to."""

from __future__ import annotations

import socket
import time

import cluster_config
import pytest
from cluster_config import free_ports
from cluster_daemon import comm_of, wait_for

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize(("partition", "node"), [("cpu", "n2"), ("gpu", "n3"), ("short", "n1")])
def test_a_job_runs_on_each_partition(cluster, tmp_path, partition, node):
    flags = ["--gres=gpu:1"] if partition == "gpu" else []
    said = tmp_path / "said"
    job = cluster.sbatch("-p", partition, "-w", node, *flags, "-o", said, script='echo "$SLURMD_NODENAME" "$CUDA_VISIBLE_DEVICES"')
    cluster.wait_state(job, "COMPLETED")
    assert said.read_text().split() == [node, *(["0"] if flags else [])]


def test_its_clocks_are_as_the_tests_expect(cluster):
    limits = {row[0].rstrip("*"): row[1] for row in _partitions(cluster)}
    assert limits == {"cpu": "1:00:00", "gpu": "1:00:00", "short": "1:00"}


def _partitions(cluster):
    return [line.split("|") for line in cluster.run("sinfo", "-h", "-o", "%P|%l").stdout.splitlines()]


def test_a_job_survives_the_controller(cluster, tmp_path):
    done = tmp_path / "done"
    job = cluster.sbatch("-o", "/dev/null", script=f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; touch {done}")
    cluster.wait_state(job, "RUNNING")
    step = cluster.processes()[0]
    cluster.slurmctld_kill()
    assert "controller" in cluster.run("squeue", check=False).stderr
    cluster.slurmctld_start()
    assert cluster.state(job) == "RUNNING" and step in cluster.processes()
    cluster.wait_up()
    (tmp_path / "go").touch()
    cluster.wait_state(job, "COMPLETED")
    assert done.exists()


def test_what_a_killed_controller_had_not_saved_is_lost(cluster):
    """Its disk is up to six seconds behind: what was submitted last it does not know, and gives the id out again."""
    job = cluster.sbatch("-o", "/dev/null", "-J", "lost", script="true")
    cluster.slurmctld_kill(saved=False)
    cluster.slurmctld_start()
    assert not cluster.squeue("-t", "all", "-n", "lost") or cluster.state(job) == "PENDING"


def test_a_controller_can_forget_all(cluster):
    cluster.sbatch("-o", "/dev/null", "-H", script="true")
    cluster.slurmctld_kill()
    cluster.slurmctld_start(forget=True)
    assert cluster.squeue("-t", "all") == []
    cluster.wait_up()
    assert cluster.sbatch("-o", "/dev/null", script="true") == "1"


@pytest.mark.parametrize("with_jobs", [False, True])
def test_a_dead_node_fails_its_jobs(cluster, with_jobs):
    jobs = [cluster.sbatch("-o", "/dev/null", "-w", "n1", flag, script="sleep 300") for flag in ("--no-requeue", "--requeue")]
    for job in jobs:
        cluster.wait_state(job, "RUNNING")
    other = cluster.sbatch("-o", "/dev/null", "-w", "n2", script="sleep 300")
    cluster.wait_state(other, "RUNNING")
    began = time.monotonic()
    cluster.slurmd_kill("n1", with_jobs=with_jobs)
    assert (cluster.processes("n1") == []) is with_jobs
    cluster.wait_state(jobs[0], "NODE_FAIL", timeout_s=35)
    print(f"NODE_FAIL after {time.monotonic() - began:.1f} s")
    assert cluster.state(jobs[1]) == "PENDING" and cluster.state(other) == "RUNNING"
    cluster.slurmd_start("n1")
    # the jobs that ran on without their slurmd are ended by the new one
    assert wait_for(lambda: not cluster.processes("n1"), 20) and cluster.processes("n2")


def test_settings_change_and_come_back(cluster):
    cluster.reconfigure(MinJobAge=2)
    job = cluster.sbatch("-o", "/dev/null", script="true")
    cluster.wait_state(job, "COMPLETED")
    assert wait_for(lambda: not cluster.squeue("-t", "all", "-n", "wrap"), 30)
    assert "Invalid job id" in cluster.run("squeue", "-j", job, check=False).stderr
    cluster.repair()
    assert "MinJobAge               = 300" in cluster.scontrol("show", "config")


def test_a_job_over_its_memory_is_killed(cluster, tmp_path):
    job = cluster.sbatch(
        "--mem=50", "-o", tmp_path / "said", script="exec python3 -c 'x = bytearray(200 << 20); import time; time.sleep(60)'"
    )
    assert cluster.wait_state(job, "FAILED") and cluster.job(job)["ExitCode"] == "0:9"
    assert "exceeded memory limit" in (tmp_path / "said").read_text()


def test_the_kernel_ends_a_job_over_its_memory(cgroup_cluster, tmp_path):
    job = cgroup_cluster.sbatch("--mem=50", "-o", tmp_path / "said", script="python3 -c 'x = bytearray(200 << 20)'; true")
    assert cgroup_cluster.wait_state(job, "OUT_OF_MEMORY", "COMPLETED", "FAILED") == "OUT_OF_MEMORY"
    assert cgroup_cluster.job(job)["ExitCode"] == "0:125" and "oom-kill event" in (tmp_path / "said").read_text()


def test_accounting_remembers(accounting_cluster):
    jobs = [accounting_cluster.sbatch("-o", "/dev/null", "-J", "name-1", script=script) for script in ("true", "exit 3")]
    ends = [("COMPLETED", "0:0"), ("FAILED", "3:0")]
    for job, (state, code) in zip(jobs, ends, strict=True):
        assert accounting_cluster.wait_recorded(job, state)[:4] == [job, "name-1", state, code]
    accounting_cluster.slurmdbd_kill()
    assert accounting_cluster.run("sacct", check=False).returncode == 1
    meanwhile = accounting_cluster.sbatch("-o", "/dev/null", script="true")
    accounting_cluster.wait_state(meanwhile, "COMPLETED")
    accounting_cluster.slurmdbd_start()
    accounting_cluster.wait_recorded(meanwhile, "COMPLETED", timeout_s=60)


def test_accounting_limits_submissions(accounting_cluster):
    def submit():
        return accounting_cluster.run("sbatch", "-o", "/dev/null", "--wrap", "sleep 60", check=False)

    accounting_cluster.set_limits(MaxSubmitJobs=1)
    assert submit().returncode == 0
    refused = submit()
    assert refused.returncode == 1 and "AssocMaxSubmitJobLimit" in refused.stderr and "violates accounting/QOS policy" in refused.stderr
    accounting_cluster.repair()
    assert [submit().returncode, submit().returncode] == [0, 0]
    refused = accounting_cluster.run("sbatch", "-A", "nobody", "--wrap", "true", check=False)
    assert refused.returncode == 1 and "Invalid account" in refused.stderr


def test_a_port_that_somebody_takes_meanwhile(real_cluster, monkeypatch):
    """A slurmd's; the same goes for slurmctld's, which tries for a quarter of a minute before it gives up."""
    taken = socket.create_server(("127.0.0.1", 0))
    asked = []

    def ports(count):
        asked.append(count)
        found = free_ports(count)
        if len(asked) == 1:
            found[2] = taken.getsockname()[1]
        return found

    monkeypatch.setattr(cluster_config, "free_ports", ports)
    with taken, type(real_cluster)() as another:
        assert len(asked) == 2 and set(another.node_states().values()) == {"idle"}


def test_closing_leaves_nothing(real_cluster):
    """A cluster of its own beside the other one: nothing is shared, and nothing stays."""
    with type(real_cluster)() as another:
        another.sbatch("-o", "/dev/null", script="trap '' TERM; sleep 300 & sleep 300")
        assert wait_for(lambda: len(another.processes()) == 4, 20)  # slurmstepd, the script, and its two
        pids = [*another.processes(), *(daemon.pid for daemon in another.daemons.values())]
        folder = another.folder
        assert set(pids).isdisjoint(real_cluster.processes())
    assert [comm_of(pid) for pid in pids if comm_of(pid)] == []
    assert not folder.exists() and real_cluster.run("squeue").returncode == 0
