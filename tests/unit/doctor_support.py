"""What the tests of the doctor share."""

from __future__ import annotations

from pwact_like.config.resource import ResourceSection
from pwact_like.report.doctor import programs
from pwact_like.report.doctor.findings import Finding


def levels(findings) -> set[str]:
    return {str(item.level) for item in findings}


def one(findings, words: str) -> Finding:
    """The only finding that says this."""
    found = [item for item in findings if words in f"{item.text} | {item.cure}"]
    assert len(found) == 1, [f"{item.level} {item.text} | {item.cure}" for item in findings]
    return found[0]


def examined(**settings) -> list[Finding]:
    """A section's shell lines and programs, looked at for real on this machine."""
    return list(programs.examine_section("train", ResourceSection(**settings), slurm=False))
