"""Start a job: what it takes of a node, where its output goes, what it finds in its environment."""

from __future__ import annotations

from fake import processes
from fake.store import JOB_VARIABLE, Folder, Job, Locked, State
from fake.units import compress


def needs(job: Job, node: dict) -> tuple[int, int]:
    """CPUs and memory (MB) that a job takes of a node."""
    cpus = int(node["cpus"]) if job.exclusive else job.cpus_per_node
    if job.mem_per_node == -1:  # --mem=0: all of it
        return cpus, int(node["memory_mb"])
    return cpus, job.mem_per_node or job.mem_per_cpu * cpus


def begin(folder: Folder, locked: Locked, job: Job, partition: str, nodes: list[str], free: dict[str, dict]) -> None:
    """Start a job on these nodes."""
    state = locked.state
    job.partition, job.nodes, job.state, job.reason, job.start = partition, nodes, "RUNNING", "None", state.stamp
    job.began = state.now
    job.gpus = {}
    for name in nodes:
        job.cpus, job.memory_mb = needs(job, state.nodes[name])
        if job.gpus_per_node:
            job.gpus[name] = free[name]["gpus"][: job.gpus_per_node]
    job.run += 1
    output, error = output_paths(job)
    script = f"{folder.job_folder(job.array_id or job.id)}/slurm_script"
    pid, started, gate = processes.start(
        folder, job.id, job.run, [script, *job.arguments], _environment(folder, state, job), job.workdir, (output, error, job.append)
    )
    state.runs.append((job.id, job.run, pid, started))
    locked.gates.append(gate)


def output_paths(job: Job) -> tuple[str, str]:
    """Absolute paths of standard output and error; slurmd expands % in the whole path, and a backslash switches that off."""

    def expanded(path: str) -> str:
        full = path if path.startswith("/") else f"{job.workdir}/{path}"
        if "\\" in full:
            return full.replace("\\", "")
        return expand_pattern(full, job)

    output = expanded(job.output or ("slurm-%A_%a.out" if job.array_id else "slurm-%j.out"))
    return output, expanded(job.error) if job.error else output


def expand_pattern(text: str, job: Job) -> str:
    """Replace %j, %4j, %x and so on."""
    values = {
        "j": str(job.id),
        "J": str(job.id),
        "A": str(job.array_id or job.id),
        "a": str(job.array_index) if job.array_id else "4294967294",
        "x": job.name,
        "u": job.user,
        "N": job.nodes[0] if job.nodes else "",
        "n": "0",
        "t": "0",
        "s": "batch",
        "%": "%",
    }
    parts, index = [], 0
    while index < len(text):
        if text[index] == "%":
            after = index + 1
            while after < len(text) and text[after].isdigit():
                after += 1
            if after < len(text) and text[after] in values:
                parts.append(values[text[after]].rjust(int(text[index + 1 : after] or 0), "0"))
                index = after + 1
                continue
        parts.append(text[index])
        index += 1
    return "".join(parts)


def _environment(folder: Folder, state: State, job: Job) -> dict[str, str]:
    with open(f"{folder.job_folder(job.array_id or job.id)}/environment", "rb") as stream:  # noqa: PTH123
        stored = stream.read().decode(errors="surrogateescape")
    environment = dict(item.partition("=")[::2] for item in stored.split("\0") if "=" in item)
    tasks = max(job.tasks, job.min_nodes * max(1, job.tasks_per_node))
    many = f"(x{len(job.nodes)})" if len(job.nodes) > 1 else ""
    values = {
        "SLURM_JOB_ID": job.id,
        "SLURM_JOBID": job.id,
        "SLURM_JOB_NAME": job.name,
        "SLURM_JOB_PARTITION": job.partition,
        "SLURM_JOB_NODELIST": compress(job.nodes),
        "SLURM_NODELIST": compress(job.nodes),
        "SLURM_JOB_NUM_NODES": len(job.nodes),
        "SLURM_NNODES": len(job.nodes),
        "SLURM_NTASKS": tasks,
        "SLURM_NPROCS": tasks,
        "SLURM_TASKS_PER_NODE": f"{max(1, tasks // len(job.nodes))}{many}",
        "SLURM_CPUS_ON_NODE": job.cpus,
        "SLURM_JOB_CPUS_PER_NODE": f"{job.cpus}{many}",
        "SLURM_JOB_USER": job.user,
        "SLURM_JOB_UID": job.uid,
        "SLURM_JOB_ACCOUNT": job.account or None,
        "SLURM_JOB_QOS": job.qos or None,
        "SLURM_CLUSTER_NAME": state.config["cluster"],
        "SLURMD_NODENAME": job.nodes[0],
        "SLURM_NODEID": 0,
        "SLURM_PROCID": 0,
        "SLURM_LOCALID": 0,
        "SLURM_GTIDS": 0,
        "SLURM_GET_USER_ENV": None,
        "SLURM_CPUS_PER_TASK": job.cpus_per_task if job.cpus_per_task > 1 else None,
        "SLURM_NTASKS_PER_NODE": job.tasks_per_node or None,
        "SLURM_MEM_PER_NODE": job.mem_per_node if job.mem_per_node > 0 else None,
        "SLURM_MEM_PER_CPU": None if job.mem_per_node else job.mem_per_cpu,
        "SLURM_RESTART_COUNT": job.restarts or None,
        "SLURM_ARRAY_JOB_ID": job.array_id or None,
        "SLURM_ARRAY_TASK_ID": job.array_index if job.array_id else None,
        "ENVIRONMENT": "BATCH",
        JOB_VARIABLE: folder.token(job.id, job.run),
    }
    if job.gpus:
        listed = ",".join(str(gpu) for gpu in job.gpus[job.nodes[0]])
        values |= {"SLURM_JOB_GPUS": listed, "SLURM_GPUS_ON_NODE": job.gpus_per_node, "CUDA_VISIBLE_DEVICES": listed}
    environment.update({name: str(value) for name, value in values.items() if value is not None})
    return environment
