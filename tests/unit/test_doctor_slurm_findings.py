"""The doctor on Slurm: recorded outputs of Slurm 22.05 in, findings out."""

from __future__ import annotations

import pytest
from doctor_support import levels, one

from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.jobs.slurm_commands import CommandResult
from pwact_like.report.doctor import examine, partitions, slurm_findings
from pwact_like.report.doctor.cluster import NodeKind, controller_answers, controller_time, gpus_of, read_cluster
from pwact_like.report.doctor.findings import Level

# scontrol show config, shortened; with SLURM_TIME_FORMAT=%s
CONFIG = """Configuration data as of 1795559316
AccountingStorageEnforce = none
AccountingStorageType   = accounting_storage/none
JobRequeue              = 1
KillWait                = 30 sec
MaxArraySize            = 1001
MaxJobCount             = 10000
MinJobAge               = 300 sec
PreemptMode             = OFF
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at vm is UP
"""
# scontrol show partition -o
PARTITIONS = (
    "PartitionName=cpu AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A DefaultTime=00:10:00 "
    "DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=01:00:00 MinNodes=0 LLN=NO "
    "MaxCPUsPerNode=UNLIMITED Nodes=n[1-2] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE "
    "PreemptMode=OFF State=UP TotalCPUs=8 TotalNodes=2 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerCPU=1500 "
    "MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=32000M,node=2,billing=8\n"
    "PartitionName=gpu AllowGroups=ALL AllowAccounts=phys,chem AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A DefaultTime=NONE "
    "DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=1 MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=16 "
    "Nodes=n3 State=UP TotalCPUs=32 TotalNodes=1 DefMemPerNode=UNLIMITED MaxMemPerNode=64000\n"
    "PartitionName=old AllowAccounts=ALL Default=NO DefaultTime=NONE MaxNodes=UNLIMITED MaxTime=2-00:00:00 MaxCPUsPerNode=UNLIMITED "
    "Nodes=n4 State=DOWN TotalCPUs=4 TotalNodes=1 MaxMemPerNode=UNLIMITED\n"
)
# sinfo -h -a -e -o "%R|%a|%T|%D|%c|%m|%G"
SINFO = """cpu|up|idle|1|4|16000|(null)
cpu|up|drained|1|4|16000|(null)
gpu|up|mixed|1|32|128000|gpu:a100:2(S:0-1)
old|down|idle|1|4|8000|(null)
"""
CLUSTER = read_cluster(CONFIG, PARTITIONS, SINFO)


def result(status: int | None = 0, out: str = "", err: str = "", program: str = "sbatch") -> CommandResult:
    return CommandResult((program,), status, out, err)


# ---------------------------------------------------------------------- Slurm's answers


def test_a_cluster_is_read_from_its_commands():
    cpu, gpu = CLUSTER.partitions["cpu"], CLUSTER.partitions["gpu"]
    assert (cpu.default, cpu.max_time_s, cpu.default_time_s, cpu.memory_per_cpu_mb, cpu.max_nodes) == (True, 3600, 600, 1500, None)
    assert (gpu.max_time_s, gpu.max_nodes, gpu.max_cpus_per_node, gpu.max_memory_mb, gpu.accounts) == (None, 1, 16, 64000, ("phys", "chem"))
    assert CLUSTER.partitions["old"].state == "DOWN" and CLUSTER.default_partition == "cpu"
    assert [(kind.partition, kind.usable, kind.gpus) for kind in CLUSTER.nodes] == [
        ("cpu", True, 0),
        ("cpu", False, 0),
        ("gpu", True, 2),
        ("old", True, 0),
    ]
    assert read_cluster("", "noise\n", "sinfo: error\na|b\n").nodes == ()


@pytest.mark.parametrize(("gres", "count"), [("(null)", 0), ("gpu:2", 2), ("gpu:a100:4(S:0-1),nvme:1,gpu:v100:2(S:0,1)", 6), ("gpu", 1)])
def test_gpus_of_gres(gres, count):
    assert gpus_of(gres) == count


@pytest.mark.parametrize(
    ("state", "usable"), [("idle", True), ("idle~", True), ("mixed-", True), ("idle*", False), ("down$", False), ("drained", False)]
)
def test_usable_nodes(state, usable):
    assert NodeKind("p", state, 1, 1, 1, 0).usable is usable


def test_the_controller_s_answer_and_clock():
    assert controller_answers("Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n")
    assert not controller_answers("Slurmctld(primary) at a is DOWN\n") and not controller_answers("")
    assert controller_time(CONFIG) == 1795559316.0
    assert controller_time("Configuration data as of 2026-11-24T22:28:36\n") is None
    findings = list(slurm_findings.config_findings(CONFIG, 1795559316.0 - 90))
    assert one(findings, "90 s ahead of").level is Level.WARN
    assert one(slurm_findings.config_findings(CONFIG, 1795559316.4), "agrees with").level is Level.OK


def test_what_the_configuration_means():
    findings = list(slurm_findings.config_findings(CONFIG, 0.0, Resource(max_jobs=20000)))
    assert one(findings, "MinJobAge 300 s: finished jobs").level is Level.OK
    assert one(findings, "sacct cannot say why").level is Level.WARN
    assert one(findings, "max_jobs 20000").level is Level.WARN
    forgetful = CONFIG.replace("300 sec", "10 sec").replace("accounting_storage/none", "accounting_storage/slurmdbd")
    findings = list(slurm_findings.config_findings(forgetful.replace("= OFF", "= REQUEUE"), 0.0))
    assert one(findings, "soon forgets").level is Level.WARN
    assert one(findings, "accounting: accounting_storage/slurmdbd").level is Level.OK
    assert one(findings, "PreemptMode REQUEUE").level is Level.OK
    assert list(slurm_findings.config_findings("", 0.0))  # an empty answer is no fault of ours


def test_commands_and_their_versions():
    there = {"sbatch", "squeue", "scancel", "scontrol"}
    versions = {"scancel": "slurm 20.11.2"}
    ran = lambda program, *_, **__: result(0, versions.get(program, "slurm 22.05.8") + "\n")  # noqa: E731
    found = list(slurm_findings.command_findings(ran, lambda name: name if name in there else None))
    assert one(found, "different versions").level is Level.WARN
    assert one(found, "sacct is not on PATH").level is Level.WARN
    found = list(slurm_findings.command_findings(ran, lambda name: None))
    assert one(found, "sbatch is not on PATH").level is Level.BAD
    fatal = "error: fetch_config: DNS SRV lookup failed\n{0}: fatal: Could not establish a configuration source"
    found = list(
        slurm_findings.command_findings(lambda program, *_, **__: result(1, "", fatal.format(program), program), lambda name: name)
    )
    assert one(found, "SLURM_CONF").text.endswith("--version: Could not establish a configuration source")


def test_a_controller_that_does_not_answer_is_bad():
    assert slurm_findings.ping_finding(result(0, "Slurmctld(primary) at vm is UP\n"), 0.01).level is Level.OK
    assert slurm_findings.ping_finding(result(0, "Slurmctld(primary) at vm is UP\n"), 9.0).level is Level.WARN
    assert slurm_findings.ping_finding(result(1, "Slurmctld(primary) at vm is DOWN\n"), 0.01).level is Level.BAD
    assert slurm_findings.ping_finding(result(None), 20.0).level is Level.BAD


def test_variables_that_change_sbatch_are_named():
    environment = {"SBATCH_PARTITION": "x", "SBATCH_ACCOUNT": "phys", "SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "10", "HOME": "/h"}
    found = list(slurm_findings.environment_findings(environment))
    assert one(found, "inside Slurm's job 7").level is Level.WARN
    assert one(found, "SBATCH_PARTITION=x").level is Level.WARN
    assert one(found, "taken from the environment: SBATCH_ACCOUNT=phys").level is Level.OK
    assert "SLURM_MEM_PER_NODE" in one(found, "not handed on to Slurm's commands").text
    assert not list(slurm_findings.environment_findings({"HOME": "/h"}))


def test_the_user_s_limits():
    found = list(slurm_findings.association_findings("phys||10|100||normal,long\nchem|gpu||||\n", "me"))
    assert "phys, chem" in one(found, "accounts of me").text and "normal,long" in one(found, "accounts of me").text
    assert "MaxJobs 10, MaxSubmitJobs 100" in one(found, "limits of account phys").text
    assert not list(slurm_findings.association_findings("You are not running a supported accounting_storage plugin", "me"))


@pytest.mark.parametrize(
    ("status", "err", "level", "cure"),
    [
        (0, "sbatch: Job 5 to start at 2026-11-24T22:29:13 using 1 processors on nodes n1 in partition cpu", Level.OK, ""),
        (1, "allocation failure: Requested node configuration is not available", Level.BAD, "cpu_per_node"),
        (
            1,
            "sbatch: error: invalid partition specified: nope\nallocation failure: Invalid partition name specified",
            Level.BAD,
            "queue_name",
        ),
        (1, "sbatch: error: Invalid account or account/partition combination specified", Level.BAD, "--account"),
        (1, "allocation failure: Invalid qos specification", Level.BAD, "--qos"),
        (255, "sbatch: unrecognized option '--fooo=3'\nTry \"sbatch --help\" for more information", Level.BAD, "custom_flags"),
        (255, "sbatch: error: Invalid --time specification", Level.BAD, "custom_flags"),
        (
            1,
            "sbatch: error: AssocMaxSubmitJobLimit\nallocation failure: Job violates accounting/QOS policy (job submit limit)",
            Level.WARN,
            "later",
        ),
        (1, "sbatch: error: Unable to contact slurm controller (connect failure)", Level.WARN, "later"),
        (None, "", Level.WARN, "busy"),
    ],
)
def test_what_sbatch_thinks_of_a_script(status, err, level, cure):
    found = slurm_findings.verdict_finding("t", result(status, "", err))
    assert found.level is level and cure in found.cure


def test_drained_nodes_are_no_refusal():
    """--test-only says "not available" of what sbatch takes and lets wait (seen with 22.05 on a drained node)."""
    refused = result(1, "", "allocation failure: Requested node configuration is not available")
    assert slurm_findings.verdict_finding("t", refused, away=True).level is Level.WARN
    drained = read_cluster(CONFIG, PARTITIONS, SINFO.replace("|idle|", "|drained|"))
    assert partitions.nodes_are_away(ResourceSection(cpu_per_node=4), drained) and not partitions.nodes_are_away(ResourceSection(), CLUSTER)
    assert not partitions.nodes_are_away(ResourceSection(cpu_per_node=5), drained)
    found = list(partitions.section_findings("t", ResourceSection(cpu_per_node=4), drained))
    assert "BAD" not in levels(found) and one(found, "sinfo -R").level is Level.WARN


# ---------------------------------------------------------------------- a section against its partitions


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"queue_name": "nope"}, "no partition 'nope'"),
        ({"queue_name": "cpu,nope"}, "no partition 'nope'"),
        ({"time": "2:00:00"}, "above the 1:00:00"),
        ({"custom_flags": ["-t 1-0"]}, "time 1-0:00:00 is above"),
        ({"cpu_per_node": 5}, "has 5 CPUs: the most is 4"),
        ({"gpu_per_node": 1}, "has 1 GPUs: the most is 0"),
        ({"queue_name": "gpu", "custom_flags": ["--gres=gpu:a100:4"]}, "has 4 GPUs: the most is 2"),
        ({"memory": "20G"}, "has 20480 MB of memory: the most is 16000"),
        ({"number_node": 3, "cpu_per_node": 4}, "3 node(s) with 4 CPU(s)"),
        ({"queue_name": "gpu", "number_node": 2}, "number_node 2 is above the 1"),
        ({"queue_name": "gpu", "cpu_per_node": 17}, "cpu_per_node 17 is above the 16"),
        ({"queue_name": "gpu", "memory": "100G"}, "above the 64000 MB"),
        ({"queue_name": "gpu", "custom_flags": ["--account=bio"]}, "account bio may not use partition gpu"),
        ({"queue_name": "old"}, "partition old is DOWN"),
    ],
)
def test_what_no_node_can_give_is_bad(settings, words):
    found = one(partitions.section_findings("t", ResourceSection(**settings), CLUSTER), words)
    assert found.level is Level.BAD and found.cure


def test_what_fits_is_told_with_what_slurm_takes_for_the_rest():
    found = list(partitions.section_findings("t", ResourceSection(cpu_per_node=2), CLUSTER))
    assert one(found, "1 node(s) with 2 CPU(s) in cpu: 2 node(s) fit, 1 of them can be used now").level is Level.OK
    assert one(found, "no time is given: jobs get the partition's default, 0:10:00").level is Level.WARN
    assert one(found, "3000 MB a node (1500 MB a CPU)").level is Level.OK
    assert levels(partitions.section_findings("t", ResourceSection(time="1:00:00", memory="1G"), CLUSTER)) == {"OK"}
    assert one(partitions.section_findings("t", ResourceSection(custom_flags=["--qos=long"]), CLUSTER), "QOS long").level is Level.WARN


def test_of_several_partitions_one_that_can_is_enough():
    found = list(
        partitions.section_findings("t", ResourceSection(queue_name="cpu,gpu", cpu_per_node=8, time="1:00:00", memory="1G"), CLUSTER)
    )
    assert levels(found) == {"OK", "WARN"} and one(found, "has 8 CPUs").level is Level.WARN


def test_a_cluster_without_default_partition_wants_a_queue():
    cluster = read_cluster(CONFIG, PARTITIONS.replace("Default=YES", "Default=NO"), SINFO)
    assert one(partitions.section_findings("t", ResourceSection(), cluster), "no default partition").level is Level.BAD
    assert not list(partitions.section_findings("t", ResourceSection(), read_cluster("", "", "")))


def test_a_section_on_this_machine():
    assert one(examine.local_findings("t", ResourceSection(cpu_per_node=8), cores=2, gpus=0), "8 cores").level is Level.WARN
    assert one(examine.local_findings("t", ResourceSection(gpu_per_node=1), cores=2, gpus=0), "1 GPU(s)").level is Level.WARN
    assert levels(examine.local_findings("t", ResourceSection(queue_name="x"), cores=2, gpus=0)) == {"OK"}
