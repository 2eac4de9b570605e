"""Look at this machine, and say what will and what will not work: Slurm, the programs, Python, the disk, the clocks.

Every line is OK, WARN or BAD with its cure. With resource.json each section's shell lines are executed in a child, its
programs are looked up, and it is compared with the partitions; --submit sends one tiny job for each section.
Exit status 0 when nothing is BAD, else 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pwact_like.report.doctor.findings import Finding, Level


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("resource", type=Path, nargs="?", metavar="RESOURCE", help="resource.json (default: this machine alone is looked at)")
    add("param", type=Path, nargs="?", metavar="PARAM", help="param.json or init_param.json: its engines are looked at, too")
    add("--work-dir", type=Path, metavar="DIR", help="folder of the campaign (default: PARAM's, or the current folder)")
    add("--submit", action="store_true", help="run one tiny job for each section through the scheduler, and tell what it saw")
    add("--timeout", type=_seconds, default=600.0, metavar="S", help="seconds that --submit waits for its jobs (default: 600)")
    add("--keep", action="store_true", help="keep the files of --submit (they are removed when all went well)")
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings as they come; 0, or 2 when something is BAD."""
    from pwact_like.report.doctor.examine import Wanted, examine
    from pwact_like.report.doctor.findings import Level

    wanted = Wanted(args.resource, args.param, args.work_dir, args.submit, args.timeout, args.keep)
    findings: list[Finding] = []
    topic = ""
    for item in examine(wanted):
        if isinstance(item, str):
            print(f"  ... {item}", file=sys.stderr, flush=True)
            continue
        findings.append(item)
        if args.json:
            continue
        if item.topic != topic:
            topic = item.topic
            print(topic)
        print("\n".join(_lines(item)), flush=True)
    counts = {level: sum(item.level is level for item in findings) for level in Level}
    good = counts[Level.BAD] == 0
    print(_as_json(findings, good) if args.json else _summary(counts))
    return 0 if good else 2


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError("give a number of seconds above 0")
    return value


def _lines(item: Finding) -> list[str]:
    lines = [f"  {item.level:<5} {item.text}"]
    return lines + [f"        cure: {item.cure}"] * bool(item.cure)


def _summary(counts: dict[Level, int]) -> str:
    ok, warn, bad = counts.values()
    return f"\n{ok} OK, {warn} WARN, {bad} BAD"


def _as_json(findings: Sequence[Finding], good: bool) -> str:
    rows = [{"topic": item.topic, "level": str(item.level), "text": item.text, "cure": item.cure} for item in findings]
    return json.dumps({"ok": good, "findings": rows}, indent=2, ensure_ascii=False)
