"""All checks, one after the other; what one raises becomes a finding, and the next goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.errors import PwactLikeError, StopRequested
from pwact_like.jobs.choose import detect
from pwact_like.jobs.local import machine_gpus
from pwact_like.jobs.signals import StopFlag
from pwact_like.report.doctor import installation
from pwact_like.report.doctor.disk import examine_folder
from pwact_like.report.doctor.findings import Finding, bad, failed_check, guarded, ok, softened, warn
from pwact_like.report.doctor.machine import examine_machine, master_findings
from pwact_like.report.doctor.partitions import section_findings
from pwact_like.report.doctor.programs import examine_section, survey
from pwact_like.report.doctor.settings import Given, read_given, shown
from pwact_like.report.doctor.slurm import Asked
from pwact_like.report.doctor.slurm_findings import environment_findings
from pwact_like.report.doctor.trial import Trials

TOPIC = "scheduler"


@dataclass(frozen=True)
class Wanted:
    """What the user asked for."""

    resource: Path | None = None
    param: Path | None = None
    work_dir: Path | None = None
    submit: bool = False
    timeout_s: float = 600.0
    keep: bool = False


def examine(wanted: Wanted) -> Iterator[Finding | str]:
    """Look at everything; findings, and lines on what goes on.

    Raises
    ------
    StopRequested
        On a signal while trial jobs are awaited; they are ended first.
    """
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        (installation.TOPIC, lambda: [installation.python_finding()]),
        (installation.TOPIC, installation.package_findings),
        (installation.TOPIC, installation.launcher_findings),
        ("engines", installation.engine_findings),
        ("programs", survey),
        ("machine", examine_machine),
    ]
    yield from _all(checks)
    given = read_given(wanted.resource, wanted.param, wanted.work_dir)
    yield from given.findings
    name, found = _scheduler(given)
    yield from found
    slurm = name == "slurm"
    yield from _all(
        [
            ("disk", lambda: examine_folder(given.work_dir, slurm and not wanted.submit)),
            ("master", lambda: master_findings(given.work_dir)),
        ]
    )
    asked = Asked(given.resource.slurm_timeout_s if given.resource is not None else 60.0)
    if slurm or (name == "" and shutil.which("sbatch")):
        # nobody may have asked for the cluster: then what is wrong with it is a warning
        soft = given.resource is None
        yield from softened(guarded("slurm", lambda: asked.examine(given.resource)), soft)
        yield from guarded("slurm", lambda: environment_findings(os.environ))
    for section_name, section in given.sections.items():
        topic = _heading(given, section_name)
        # where the nodes are asked, they decide
        yield from softened(guarded(topic, partial(examine_section, topic, section, slurm, wanted.submit)), slurm and wanted.submit)
        if slurm:
            yield from guarded(topic, partial(section_findings, topic, section, asked.cluster))
            if asked.answers:
                yield from guarded(topic, partial(asked.try_section, topic, section))
        elif name == "local":
            yield from guarded(topic, partial(local_findings, topic, section))
    if wanted.submit:
        yield from _submit(wanted, given, name, asked)


def local_findings(topic: str, section: ResourceSection, cores: int | None = None, gpus: int | None = None) -> Iterator[Finding]:
    """A section against this machine, which runs its jobs."""
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    gpus = len(machine_gpus()) if gpus is None else gpus
    asked = section.number_node * section.cpu_per_node
    if asked > cores:
        yield warn(topic, f"{asked} cores are asked for, and this machine gives {cores}: jobs get all of them", f"cpu_per_node: {cores}")
    if section.gpu_per_node > gpus:
        yield warn(topic, f"{section.gpu_per_node} GPU(s) are asked for, and this machine has {gpus}", f"gpu_per_node: {gpus}")
    if asked <= cores and section.gpu_per_node <= gpus:
        yield ok(topic, f"{cores // asked} job(s) of {asked} core(s) fit on this machine at a time")
    if section.queue_name or section.custom_flags:
        yield ok(topic, "queue_name and custom_flags have no effect: jobs run on this machine")


def _all(checks: Iterable[tuple[str, Callable[[], Iterable[Finding]]]]) -> Iterator[Finding]:
    for topic, check in checks:
        yield from guarded(topic, check)


def _scheduler(given: Given) -> tuple[str, list[Finding]]:
    """Name of the scheduler that a campaign would use, "" when that cannot be told."""
    asked = given.resource.scheduler if given.resource is not None else "auto"
    where = f"{given.file} says {asked}" if given.resource is not None else "no resource.json is given"
    try:
        name = detect(asked)
    except PwactLikeError:
        # the checks of Slurm tell why; without resource.json jobs run here anyway
        text = f"{where}: sbatch is on PATH and its controller does not answer, so that nobody can tell where jobs should go"
        finding = (warn if given.resource is None else bad)(TOPIC, text, 'write "scheduler": "local" or "slurm" into resource.json')
        return "", [finding]
    if given.resource is None and name == "slurm":
        text = "Slurm answers here; a campaign without resource.json runs on this machine all the same, one with it uses Slurm"
        return name, [ok(TOPIC, text)]
    return name, [ok(TOPIC, f"{where}: jobs go to {'Slurm' if name == 'slurm' else 'this machine'}")]


def _heading(given: Given, name: str) -> str:
    return f"{given.file}: {shown(name)}"


def _submit(wanted: Wanted, given: Given, name: str, asked: Asked) -> Iterator[Finding | str]:
    if given.resource is None and wanted.resource is not None:
        yield bad("trial", "nothing was submitted, since resource.json cannot be read", "correct it first")
        return
    if given.resource is None:
        name = "local"  # as a campaign without resource.json
    if name == "" or (name == "slurm" and not asked.answers):
        yield bad("trial", "nothing was submitted, since Slurm does not answer", "try again when it does")
        return
    if not given.work_dir.is_dir():
        yield bad("trial", f"nothing was submitted, since {given.work_dir} is no folder", "make it, or give another one with --work-dir")
        return
    sections = {f"{_heading(given, key)}, as a job": (key, section) for key, section in given.sections.items()}
    sections = sections or {"a job": ("default", ResourceSection())}
    resource = given.resource if given.resource is not None else Resource(scheduler="local")
    stop = StopFlag()
    try:
        with stop.installed():
            yield from Trials(given.work_dir, resource, name, sections, wanted.timeout_s, wanted.keep, stop).run()
    except StopRequested:
        raise
    except Exception as error:
        yield failed_check("trial", error)
    finally:
        stop.close()
