"""scontrol."""

from __future__ import annotations

import os

from fake import actions, controller
from fake.launch import output_paths
from fake.options import Reply, Table
from fake.schedule import free_resources
from fake.squeue import end_time, min_memory
from fake.store import Folder, Job, State
from fake.units import clock, compress, limit, memory, span

TABLE = Table("scontrol", "oneliner/o all/a hide quiet/Q version/V")
_DOWN = "*****************************************\n** RESTORE SLURMCTLD DAEMON TO SERVICE **\n*****************************************\n"


def ping(up: bool) -> Reply:
    """Whether the controller is there; it is said on stdout."""
    host = os.uname().nodename
    return Reply(0 if up else 1, f"Slurmctld(primary) at {host} is {'UP' if up else 'DOWN'}\n{'' if up else _DOWN}")


def scontrol(folder: Folder, state: State, argv: list[str]) -> Reply:
    """Show and change."""
    found, words = TABLE.parse(argv)
    one_line = any(name == "oneliner" for name, _ in found)
    if not words:
        raise Reply(1, err="scontrol: error: the fake has no dialogue\n")
    verb, *rest = words
    if verb == "ping":
        return ping(True)
    if verb in {"requeue", "hold", "release"}:
        return _change(folder, state, verb, rest)
    if verb != "show":
        raise Reply(1, err=f"invalid keyword: {verb}\n")
    if not rest:
        raise Reply(1, err="too few arguments for keyword:show\n")
    if len(rest) > 2:
        raise Reply(1, err="too many arguments for keyword:show\n")
    what, name = rest[0], rest[1] if len(rest) == 2 else ""
    if what == "config":
        return Reply(0, _config(state))
    if what in {"job", "jobs"}:
        return _show_job(state, name, one_line)
    if what in {"partition", "partitions"}:
        return _show(state.partitions, name, "Partition", one_line, lambda key: _partition(state, key))
    if what in {"node", "nodes"}:
        return _show(state.nodes, name, "Node", one_line, lambda key: _node(state, key))
    raise Reply(1, err=f"invalid entity:{what} for keyword:show \n")


def _config(state: State) -> str:
    with open(f"{os.path.dirname(__file__)}/config.txt", encoding="utf-8") as stream:  # noqa: PTH120, PTH123
        text = stream.read()
    values = state.config | {
        "accounting_type": "accounting_storage/slurmdbd" if state.config["accounting"] else "accounting_storage/none",
        "enforce": "associations,limits,qos" if state.config["accounting"] else "none",
        "boot": clock(state.config["boot"]),
        "next_id": state.next_id,
        "node_count": len(state.nodes),
    }
    return f"Configuration data as of {clock(state.stamp)}\n{text.format(**values)}\n{ping(True).out}"


def _change(folder: Folder, state: State, verb: str, words: list[str]) -> Reply:
    if not words:
        raise Reply(1, err=f"too few arguments for keyword:{verb}\n")
    err = ""
    for word in ",".join(words).split(","):
        job = state.job(int(word)) if word.isdigit() else None
        if job is None:
            err += f"Invalid job id specified for job {word}\n"
        elif verb == "hold":
            actions.set_pending_reason(folder, state, job.id, "JobHeldUser")
        elif verb == "release":
            actions.set_pending_reason(folder, state, job.id, "")
        elif not job.requeue:
            err += f"Requested operation is presently disabled for job {word}\n"
        elif job.state == "PENDING":
            err += f"Job is pending execution for job {word}\n"
        else:
            controller.requeue(folder, state, job)
    return Reply(1 if err else 0, err=err)


def _show(table: dict[str, dict], name: str, word: str, one_line: bool, lines_of: object) -> Reply:
    if name and name not in table:
        raise Reply(1, out=f"{word} {name} not found\n")
    return Reply(0, "".join(_record(lines_of(key), one_line) for key in table if name in {"", key}))  # type: ignore[operator]


def _record(lines: list[str], one_line: bool) -> str:
    # the three blanks at the beginning of a line are one when all is in one line
    return " ".join(lines) + "\n" if one_line else "\n   ".join(lines) + "\n\n"


def _show_job(state: State, name: str, one_line: bool) -> Reply:
    jobs = state.all_jobs()
    if name:
        base, _, index = name.partition("_")
        if not base.isdigit():
            raise Reply(1, err="scontrol_print_job error: Invalid job id specified\n")
        jobs = [
            job
            for job in jobs
            if base in {str(job.id), str(job.array_id)} and (not index or (job.array_id and index == str(job.array_index)))
        ]
        if not jobs:
            raise Reply(1, err="slurm_load_jobs error: Invalid job id specified\n")
    elif not jobs:
        return Reply(0, "No jobs in the system\n")
    return Reply(0, "".join(_record(_job(state, job), one_line) for job in jobs))


def tres(job: Job, memory_first: bool = False) -> str:
    """What it was given, or asks for."""
    nodes = len(job.nodes) or job.min_nodes
    cpus = (job.cpus or job.cpus_per_node) * nodes
    size = job.memory_mb or (max(0, job.mem_per_node) or job.mem_per_cpu * job.cpus_per_node)
    parts = [f"cpu={cpus}", f"mem={memory(size * nodes)}", f"node={nodes}", f"billing={cpus}"]
    if memory_first:  # sacct: by the name
        parts = sorted(parts)
    return ",".join([*parts, *([f"gres/gpu={job.gpus_per_node * nodes}"] if job.gpus_per_node else [])])


def _job(state: State, job: Job) -> list[str]:
    output, error = output_paths(job)
    array = f" ArrayJobId={job.array_id} ArrayTaskId={job.array_index}" if job.array_id else ""
    ran = 0.0 if job.start is None or job.state == "PENDING" else (job.end or state.stamp) - job.start
    nodes = len(job.nodes) or job.min_nodes
    cpus = (job.cpus or job.cpus_per_node) * nodes
    per = f"MinMemoryNode={min_memory(job)}" if job.mem_per_node else f"MinMemoryCPU={min_memory(job)}"
    start, end = (clock(moment) if moment is not None else "Unknown" for moment in (job.start, end_time(job)))
    lines = [
        f"JobId={job.id}{array} JobName={job.name}",
        f"UserId={job.user}({job.uid}) GroupId={job.user}({job.uid}) MCS_label=N/A",
        f"Priority={4294901760 - job.id} Nice=0 Account={job.account or '(null)'} QOS={job.qos or '(null)'}",
        f"JobState={job.display} Reason={job.reason.replace(' ', '_')} Dependency={job.dependency or '(null)'}",
        f"Requeue={int(job.requeue)} Restarts={job.restarts} BatchFlag=1 Reboot=0 ExitCode={job.exit_code}:{job.exit_signal}",
        f"RunTime={span(ran, full=True)} TimeLimit={limit(job.limit_min, full=True)} TimeMin=N/A",
        f"SubmitTime={clock(job.submit)} EligibleTime={clock(job.submit)}",
        f"AccrueTime={clock(job.submit)}",
        f"StartTime={start} EndTime={end} Deadline=N/A",
        f"SuspendTime=None SecsPreSuspend=0 LastSchedEval={clock(job.start or job.submit)} Scheduler=Main",
        f"Partition={job.partition} AllocNode:Sid={os.uname().nodename}:{job.submit_pid}",
        f"ReqNodeList={compress(job.nodelist) or '(null)'} ExcNodeList={compress(job.exclude) or '(null)'}",
        f"NodeList={compress(job.nodes)}",
        *([f"BatchHost={job.nodes[0]}"] if job.nodes else []),
        f"NumNodes={nodes} NumCPUs={cpus} NumTasks={job.tasks} CPUs/Task={job.cpus_per_task} ReqB:S:C:T=0:0:*:*",
        f"TRES={tres(job)}",
        f"Socks/Node=* NtasksPerN:B:S:C={job.tasks_per_node}:0:*:* CoreSpec=*",
        f"MinCPUsNode={job.cpus_per_task * max(1, job.tasks_per_node)} {per} MinTmpDiskNode=0",
        f"Features={job.constraint or '(null)'} DelayBoot=00:00:00",
        f"OverSubscribe={'NO' if job.exclusive else 'OK'} Contiguous=0 Licenses=(null) Network=(null)",
        f"Command={job.command}",
        f"WorkDir={job.workdir}",
        *([f"Comment={job.comment} "] if job.comment else []),
        f"StdErr={error}",
        "StdIn=/dev/null",
        f"StdOut={output}",
        "Power=",
        *([f"TresPerNode=gres:{job.gres}"] if job.gres else []),
        "",
    ]
    return lines


def _partition(state: State, name: str) -> list[str]:
    facts = state.partitions[name]
    nodes = [state.nodes[node] for node in facts["nodes"]]
    cpus, size = sum(node["cpus"] for node in nodes), sum(node["memory_mb"] for node in nodes)
    default = limit(facts["default_time_min"], full=True) if facts["default_time_min"] != facts["max_time_min"] else "NONE"
    return [
        f"PartitionName={name}",
        "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL",
        f"AllocNodes=ALL Default={'YES' if facts['default'] else 'NO'} QoS=N/A",
        f"DefaultTime={default} DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO",
        f"MaxNodes={facts['max_nodes'] or 'UNLIMITED'} MaxTime={limit(facts['max_time_min'], full=True)} MinNodes=0 LLN=NO "
        "MaxCPUsPerNode=UNLIMITED",
        f"Nodes={compress(facts['nodes'])}",
        "PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO",
        "OverTimeLimit=NONE PreemptMode=OFF",
        f"State={facts['state']} TotalCPUs={cpus} TotalNodes={len(nodes)} SelectTypeParameters=NONE",
        "JobDefaults=(null)",
        "DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED",
        f"TRES=cpu={cpus},mem={memory(size)},node={len(nodes)},billing={cpus}",
    ]


def node_state(state: State, name: str, used: int) -> str:
    """IDLE, MIXED, ALLOCATED, DOWN*, DRAINED, DRAINING."""
    node = state.nodes[name]
    if node["state"] == "DOWN":
        return "DOWN*"
    if node["state"] == "DRAIN":
        return "DRAINING" if used else "DRAINED"
    return "IDLE" if not used else "ALLOCATED" if used >= node["cpus"] else "MIXED"


def _node(state: State, name: str) -> list[str]:
    node = state.nodes[name]
    free = free_resources(state, state.all_jobs())[name]
    used, used_memory = node["cpus"] - free["cpus"], node["memory_mb"] - free["memory"]
    word = node_state(state, name, used)
    word = {"DRAINED": "IDLE+DRAIN", "DRAINING": ("ALLOCATED" if not free["cpus"] else "MIXED") + "+DRAIN"}.get(word, word)
    features = ",".join(node["features"]) or "(null)"
    allocated = f"cpu={used},mem={memory(used_memory)}" if used else ""
    partitions = ",".join(key for key, facts in state.partitions.items() if name in facts["nodes"])
    boot = clock(state.config["boot"])
    return [
        f"NodeName={name} Arch=x86_64 CoresPerSocket=1 ",
        f"CPUAlloc={used} CPUEfctv={node['cpus']} CPUTot={node['cpus']} CPULoad=0.00",
        f"AvailableFeatures={features}",
        f"ActiveFeatures={features}",
        f"Gres={'gpu:' + str(node['gpus']) if node['gpus'] else '(null)'}",
        f"NodeAddr=127.0.0.1 NodeHostName={name} Port=6818 Version={state.config['version']}",
        "OS=Linux 6.1.0 #1 SMP PREEMPT_DYNAMIC ",
        f"RealMemory={node['memory_mb']} AllocMem={used_memory} FreeMem={node['memory_mb']} Sockets={node['cpus']} Boards=1",
        f"State={word} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A",
        f"Partitions={partitions} ",
        f"BootTime={boot} SlurmdStartTime={boot}",
        f"LastBusyTime={boot}",
        f"CfgTRES=cpu={node['cpus']},mem={memory(node['memory_mb'])},billing={node['cpus']}",
        f"AllocTRES={allocated}",
        "CapWatts=n/a",
        "CurrentWatts=0 AveWatts=0",
        "ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s",
    ]
