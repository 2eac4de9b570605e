"""What Slurm's answers mean for a campaign: text in, findings out; nothing is run here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from pwact_like.jobs.slurm_commands import PROGRAMS, CommandResult, clean_environment
from pwact_like.jobs.slurm_text import read_config, refusal, seconds_of
from pwact_like.jobs.types import Refused
from pwact_like.report.doctor.cluster import Cluster, controller_answers, controller_time
from pwact_like.report.doctor.findings import Finding, bad, ok, one_line, warn

if TYPE_CHECKING:
    from pwact_like.config.resource import Resource

TOPIC = "slurm"
OPTIONAL = ("sacct", "sinfo")
SHORTEST_MEMORY_S = 30.0  # MinJobAge below this: a job's end may be forgotten between two looks
CLOCK_WARN_S = 60.0
_VERSION_TIMEOUT_S = 20.0


def command_findings(run: Callable[..., CommandResult], where: Callable[[str], str | None] = shutil.which) -> Iterator[Finding]:
    """Each command: on PATH, and its version."""
    versions: dict[str, str] = {}
    failures: dict[str, list[str]] = {}
    for program in (*PROGRAMS, *OPTIONAL):
        if where(program) is None:
            if program in PROGRAMS:
                yield bad(
                    TOPIC, f"{program} is not on PATH", "load the cluster's slurm module, or extend PATH, before pwact-like is started"
                )
            else:
                lost = {"sacct": "why a job ended long ago", "sinfo": "which nodes a section fits"}[program]
                yield warn(TOPIC, f"{program} is not on PATH: it cannot be told {lost}")
            continue
        result = run(program, "--version", timeout_s=_VERSION_TIMEOUT_S)
        if result.ok:
            versions[program] = result.out.split()[-1] if result.out.split() else "?"
        else:
            failures.setdefault(_fatal(result.words.replace(f"{program}: ", "")), []).append(program)
    for words, programs in failures.items():
        yield bad(TOPIC, f"{', '.join(programs)} --version: {words}", _configuration_cure(words))
    if versions:
        different = len(set(versions.values())) > 1
        told = (
            ", ".join(f"{name} {version}" for name, version in versions.items())
            if different
            else f"{', '.join(versions)}: {next(iter(versions.values()))}"
        )
        yield (
            warn(TOPIC, f"commands of different versions: {told}", "see which folders on PATH they come from")
            if different
            else ok(TOPIC, told)
        )


def _fatal(words: str) -> str:
    """Of several complaints in a row the one that ended the command."""
    found = re.search(r"fatal: (.+)", words)
    return found[1] if found else words


def _configuration_cure(words: str) -> str:
    if re.search(r"configuration source|slurm\.conf|fetch.config", words):
        return (
            "Slurm's commands find no configuration: is this a login node of the cluster? "
            "SLURM_CONF names the file where it is not /etc/slurm/slurm.conf"
        )
    return "try it by hand; ask the administrators"


def ping_finding(ping: CommandResult, took_s: float) -> Finding:
    """Whether a controller answers, and how fast."""
    if controller_answers(ping.out):
        said = one_line(ping.out, 200)
        if took_s > 5.0:
            return warn(
                TOPIC, f"the controller answers after {took_s:.1f} s ({said})", "slurm_timeout_s in resource.json must be well above that"
            )
        return ok(TOPIC, f"the controller answers in {took_s:.2f} s ({said})")
    said = _fatal(one_line(ping.out, 200) or ping.words)
    cure = 'wait until "scontrol ping" says UP; or write "scheduler": "local" into resource.json to run on this machine'
    return bad(TOPIC, f"the controller does not answer: {said}", cure)


def config_findings(text: str, now: float, resource: Resource | None = None) -> Iterator[Finding]:
    """What ``scontrol show config`` says of things that a campaign depends on.

    Parameters
    ----------
    now
        This machine's clock when the answer came (seconds since 1970).
    """
    config = read_config(text)
    age_s = seconds_of(config.get("MinJobAge", ""))
    if age_s is not None:
        longest = min(60.0, age_s / 2) if age_s else 60.0
        if age_s == 0:
            yield ok(TOPIC, "MinJobAge 0: finished jobs stay known")
        elif age_s < SHORTEST_MEMORY_S:
            said = f"MinJobAge {age_s:.0f} s: the controller soon forgets how a job ended; it is asked every {longest:.0f} s"
            yield warn(TOPIC, said, "results count all the same; ask the administrators for MinJobAge=300")
        else:
            yield ok(TOPIC, f"MinJobAge {age_s:.0f} s: finished jobs stay known for that long; it is asked every {longest:.0f} s at least")
    yield from _accounting(config)
    yield from _limits(config, resource)
    kill_wait, requeue = (config.get(key, "not told") for key in ("KillWait", "JobRequeue"))
    yield ok(TOPIC, f"KillWait {kill_wait}, JobRequeue {requeue} (jobs are submitted with --no-requeue)")
    preempt = config.get("PreemptMode", "OFF")
    if preempt not in ("OFF", "(null)"):
        yield ok(TOPIC, f"PreemptMode {preempt}: jobs may be preempted; that is not held against a task, it is tried again")
    clock = controller_time(text)
    if clock is not None:
        yield clock_finding(TOPIC, "the controller's clock", clock - now)


def clock_finding(topic: str, what: str, skew_s: float) -> Finding:
    """How far a clock is from this machine's."""
    text = f"{what} is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's"
    if abs(skew_s) > CLOCK_WARN_S:
        return warn(topic, text, "times in logs and limits will look wrong; the machines should use NTP: tell the administrators")
    return ok(topic, f"{what} agrees with this machine's within {max(1, round(abs(skew_s)))} s")


def _accounting(config: Mapping[str, str]) -> Iterator[Finding]:
    storage = config.get("AccountingStorageType", "")
    if "slurmdbd" in storage:
        yield ok(TOPIC, f"accounting: {storage}, enforced: {config.get('AccountingStorageEnforce', 'none')}")
    elif storage:
        text = f"accounting: {storage}: sacct cannot say why a job ended that the controller has forgotten"
        yield warn(TOPIC, text, "after a long pause of the master such ends are told as lost; what the job's files say counts all the same")


def _limits(config: Mapping[str, str], resource: Resource | None) -> Iterator[Finding]:
    most = config.get("MaxJobCount", "")
    yield ok(TOPIC, f"MaxJobCount {most or 'not told'}, MaxArraySize {config.get('MaxArraySize', 'not told')} (arrays are not used)")
    if resource is not None and resource.max_jobs is not None and most.isdigit() and resource.max_jobs > int(most):
        yield warn(TOPIC, f"max_jobs {resource.max_jobs} is above MaxJobCount {most} of the whole cluster", "max_jobs: some hundreds")


def environment_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that would change what Slurm's commands do."""
    kept = clean_environment(environment)
    ours = {
        name: value
        for name, value in environment.items()
        if name.startswith(("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_"))
    }
    stripped = [name for name in ours if name not in kept]
    job = environment.get("SLURM_JOB_ID")
    if job:
        text = f"this shell is inside Slurm's job {job}: a master started here ends with it"
        yield warn(TOPIC, text, "start `run` on a login node; a master that was ended goes on at its next start")
    standing = [f"{name}={ours[name]}" for name in ours if name in kept]
    if standing:
        yield ok(TOPIC, f"taken from the environment: {', '.join(standing)}")
    options = [name for name in stripped if name.startswith("SBATCH_")]
    if options:
        text = f"not handed on to sbatch, since they outrank a script's own lines: {', '.join(f'{name}={ours[name]}' for name in options)}"
        yield warn(TOPIC, text, "if they are meant, write them into resource.json (queue_name, time, custom_flags)")
    others = [name for name in stripped if name not in options]
    if others:
        yield ok(TOPIC, f"not handed on to Slurm's commands: {one_line(', '.join(others), 200)}")


def association_findings(text: str, user: str) -> Iterator[Finding]:
    """The user's own limits, of ``sacctmgr -n -P show assoc … format=account,partition,maxjobs,maxsubmit,grpjobs,qos``."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") >= 5]
    if not rows:
        return
    accounts = dict.fromkeys(row[0] for row in rows)
    qos = ", ".join(dict.fromkeys(row[5] for row in rows if row[5])) or "the default"
    yield ok(TOPIC, f"accounts of {user}: {', '.join(list(accounts)[:10])}; QOS: {qos}")
    for row in rows:
        limits = [f"{name} {value}" for name, value in zip(("MaxJobs", "MaxSubmitJobs", "GrpJobs"), row[2:5], strict=True) if value]
        if limits:
            where = f"account {row[0]}" + f", partition {row[1]}" * bool(row[1])
            yield ok(TOPIC, f"limits of {where}: {', '.join(limits)}; what is above them waits, and is not failed")


def verdict_finding(topic: str, result: CommandResult, away: bool = False) -> Finding:
    """What ``sbatch --test-only`` says of a section's script.

    Parameters
    ----------
    away
        Whether nodes would fit, and are down or drained: --test-only then refuses what sbatch would take and let wait.
    """
    said = one_line(re.sub(r"sbatch: (error: )?", "", result.err or result.out))
    if result.ok:
        return ok(topic, f"sbatch --test-only takes the script{f': {said}' if said else ''}")
    if result.status is None:
        return warn(topic, f"sbatch --test-only did not answer: {result.words}", "the controller may be busy: try again")
    answer = refusal(f"{result.err}{result.out}".replace("allocation failure:", "sbatch: error: allocation failure:"))
    if away and "node configuration is not available" in said:
        return warn(topic, f"sbatch --test-only: {said}, since the nodes that fit are away", "jobs wait until they come back")
    if isinstance(answer, Refused) and not answer.wait:
        return bad(topic, f"sbatch refuses this section's script: {said or result.words}", _refusal_cure(said))
    return warn(topic, f"sbatch does not take this section's script now: {said or result.words}", "limits pass; try again later")


def _refusal_cure(text: str) -> str:
    for pattern, cure in (
        (r"account", "correct --account in custom_flags (sacctmgr show assoc user=$USER names yours), and queue_name"),
        (r"partition", "correct queue_name (sinfo -s names the partitions)"),
        (r"qos", "correct --qos in custom_flags (sacctmgr show assoc user=$USER format=qos names yours)"),
        (r"time limit", 'lower "time", or take another queue_name'),
        (r"memory", 'lower "memory"'),
        (r"node configuration|node count|more processors|gres", "ask for less: cpu_per_node, gpu_per_node, number_node, memory"),
        (r"unrecognized option|invalid option|invalid .* specification", "correct custom_flags: sbatch --help names the options"),
    ):
        if re.search(pattern, text, re.IGNORECASE):
            return cure
    return "correct this section of resource.json"


def partition_findings(cluster: Cluster) -> Iterator[Finding]:
    """One line a partition: what it has."""
    for name, partition in cluster.partitions.items():
        nodes = [kind for kind in cluster.nodes if kind.partition == name]
        total, usable = sum(kind.count for kind in nodes), sum(kind.count for kind in nodes if kind.usable)
        parts = [f"partition {name}" + " (default)" * partition.default, f"{partition.state}"]
        if nodes:
            cpus, memory, gpus = (_range([getattr(kind, key) for kind in nodes]) for key in ("cpus", "memory_mb", "gpus"))
            parts += [f"{total} node(s), {usable} usable", f"{cpus} CPUs and {memory} MB a node", f"{gpus} GPUs a node" * (gpus != "0")]
        if partition.max_time_s is not None:
            parts.append(f"at most {partition.max_time_s / 3600:g} h")
        text = ", ".join(part for part in parts if part)
        yield (
            ok(TOPIC, text) if partition.state == "UP" and (usable or not nodes) else warn(TOPIC, text, "jobs wait there for better times")
        )


def _range(values: list[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"
