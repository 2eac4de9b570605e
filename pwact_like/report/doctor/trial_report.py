"""What a trial job tells of its node, and what that means for the section."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.report.doctor.findings import Finding, amount, bad, ok, one_line, warn
from pwact_like.report.doctor.programs import MODULE_FAULT, own_command, version_finding
from pwact_like.report.doctor.shell import Place, look_up_lines
from pwact_like.report.doctor.slurm_findings import CLOCK_WARN_S
from pwact_like.report.doctor.words import programs_of

if TYPE_CHECKING:
    from pwact_like.config.resource import ResourceSection

STAMP = "stamp"
PROGRAMS = "programs"
_MARK = "pwl-doctor"


@dataclass(frozen=True)
class NodeReport:
    """What a job said of its node.

    Attributes
    ----------
    facts
        By name: host, begin and end (seconds since 1970), cores, free (kB), python, version, gpus, modules.
    places
        Where the section's programs are there.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    places: tuple[Place, ...] = ()

    def number(self, name: str) -> float | None:
        """A fact that is a number."""
        try:
            return float(self.facts.get(name, ""))
        except ValueError:
            return None


def words_of(section: ResourceSection) -> tuple[str, ...]:
    """Programs to look for on the node."""
    return programs_of(section.command).words if section.command.strip() else (shlex.quote(sys.executable),)


def trial_commands(section: ResourceSection) -> tuple[str, ...]:
    """Shell lines of the trial's task: they tell about the node, and fail only when nothing can be written."""
    own = own_command(section)
    lines = [
        f"pwl_tell() {{ printf '{_MARK}\\t%s\\t%s\\n' \"$1\" \"$(printf '%s' \"$2\" | tr '\\n\\t' '; ')\"; }}",
        f": >{STAMP} || exit 1",
        'pwl_tell begin "$(date +%s.%N)"',
        'pwl_tell host "$HOSTNAME"',
        'pwl_tell cores "$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null)"',  # nproc obeys them
        "pwl_tell free \"$(df -Pk . 2>/dev/null | awk 'NR == 2 {print $4}')\"",
        "pwl_tell gpus \"$(nvidia-smi -L 2>/dev/null | grep '^GPU')\"",
        'pwl_tell visible "${CUDA_VISIBLE_DEVICES-${ROCR_VISIBLE_DEVICES-${ZE_AFFINITY_MASK-}}}"',
        'pwl_tell modules "$(type module >/dev/null 2>&1 && module -t list 2>&1)"',
        'pwl_tell tmp "${TMPDIR:-/tmp}"',
        *look_up_lines(words_of(section), PROGRAMS),
    ]
    if own:
        lines.append(f'pwl_version=$({own} --version 2>&1); pwl_tell "version$?" "$pwl_version"')
    return ("\n".join([*lines, 'pwl_tell end "$(date +%s.%N)"']),)


def read_report(stdout: str, programs: str, words: Sequence[str]) -> NodeReport:
    """What the job said, from its output and its file of programs."""
    facts = {}
    for line in stdout.splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[0] == _MARK:
            facts[fields[1]] = fields[2].strip("; ")
    rows = {row[1]: row for line in programs.splitlines() if len(row := line.split("\t")) == 4 and row[0] == "program"}
    places = [Place(word, *(rows[str(number)][2:] if str(number) in rows else ("", ""))) for number, word in enumerate(words)]
    return NodeReport(facts, tuple(places))


def node_findings(topic: str, section: ResourceSection, report: NodeReport, job_stderr: str, local: bool) -> Iterator[Finding]:
    """What the node has of what the section needs (``local``: the node is this machine, whose cores are told already)."""
    host = report.facts.get("host", "?")
    said = one_line(re.sub(r"\S*/(job\.sh|slurm_script): ", "", job_stderr))
    if said:
        text = f"source_list, module_list and env_list say on {host}: {said}"
        cure = "correct them; `module avail` in a job names the modules"
        yield bad(topic, text, cure) if MODULE_FAULT.search(said) else ok(topic, text)
    found = [place.path for place in report.places if place.kind == "file"]
    if found:
        yield ok(topic, f"{host} has {', '.join(found)}")
    for place in report.places:
        if not place.found:
            yield bad(topic, f"{place.word} is not found on {host}", "load the module that brings it there, or give its full path")
    own = own_command(section)
    version = next((name for name in report.facts if name.startswith("version")), None)
    if own and version is not None:
        text = report.facts[version]
        good = version == "version0"
        yield version_finding(topic, f"{own} (on {host})", text if good else None, "" if good else text)
    yield from _share_findings(topic, section, report, host, local)


def _share_findings(topic: str, section: ResourceSection, report: NodeReport, host: str, local: bool) -> Iterator[Finding]:
    """Cores, GPUs, room, modules."""
    cores, free_kb = report.number("cores"), report.number("free")
    parts = [f"{cores:.0f} core(s)"] if cores is not None else []
    if report.facts.get("modules"):
        parts.append(f"modules: {one_line(report.facts['modules'], 200)}")
    if free_kb is not None:
        parts.append(f"{amount(1024 * free_kb)} free in the work folder")
    gpus = report.facts.get("gpus", "")
    parts.append(f"GPUs: {one_line(gpus, 200)}" if gpus else "no GPU is seen")
    yield ok(topic, f"{host}: {'; '.join(parts)}")
    if cores is not None and cores < section.cpu_per_node and not local:
        yield warn(topic, f"{section.cpu_per_node} cores are asked for and {cores:.0f} are given on {host}", f"cpu_per_node: {cores:.0f}")
    visible = report.facts.get("visible", "")
    if section.gpu_per_node and not gpus and visible:
        yield ok(topic, f"{host} gives GPU(s) {visible}; nvidia-smi lists none")
    elif section.gpu_per_node and not gpus:
        cure = "gpu_per_node: 0, or a queue_name with GPUs; where nvidia-smi is missing, load the module that brings it"
        yield warn(topic, f"{section.gpu_per_node} GPU(s) are asked for, and nvidia-smi shows none on {host}", cure)


def clock_findings(
    topic: str, report: NodeReport, stamp: float | None, submitted: float, seen: float, here_skew_s: float
) -> Iterator[Finding]:
    """The node's clock against this machine's.

    Parameters
    ----------
    stamp
        Time stamp that the file system gave to a file of the job when its clock showed ``begin``.
    submitted, seen
        This machine's clock before the submission and when the end was seen: the job lies between them.
    here_skew_s
        By how much the file system's clock is ahead of this machine's.
    """
    begin, end = report.number("begin"), report.number("end")
    if begin is None:
        return
    # a file system whose clients give the time stamps hides a skew, the bounds show a large one
    outside = min(0.0, begin - submitted) or max(0.0, (end or begin) - seen)
    by_stamp = begin - stamp + here_skew_s if stamp is not None else 0.0
    skew_s = max(outside, by_stamp, key=abs)
    host = report.facts.get("host", "?")
    if abs(skew_s) > CLOCK_WARN_S:
        text = f"the clock of {host} is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's"
        yield warn(topic, text, "times in logs will look wrong; the machines should use NTP: tell the administrators")
    else:
        yield ok(topic, f"the clock of {host} agrees with this machine's within {max(1, round(abs(skew_s)))} s")


def tail(path: Path, length: int = 4096) -> str:
    """The end of a text file; "" when there is none."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    return content[-length:].decode("utf-8", "replace")
