"""What has been read of one pair of files, and the questions that need several pieces at once."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pwact_like.config.engines_known import ENGINES, Role, canonical, engine_of_command
from pwact_like.config.reader import Reader
from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.config.source import Table


@dataclass(frozen=True)
class ResourceView:
    """resource.json as the readers of param.json see it: None where it was left out or could not be read."""

    reader: Reader | None
    resource: Resource | None

    def section(self, name: str) -> ResourceSection | None:
        """A section, or None."""
        section: ResourceSection | None = getattr(self.resource, name) if self.resource is not None else None
        return section

    def engine(self, role: Role, name: str) -> str:
        """Engine of a section: its ``engine`` key, else by its command's words; embedded without a section; "" when unknown (reported)."""
        section = self.section(name)
        if section is None:
            return "embedded"
        assert self.reader is not None
        if section.engine:
            found = canonical(role, section.engine)
            if not found:
                self.reader.problem(f"{name}.engine", f"{section.engine!r} is no known engine", f"known: {', '.join(ENGINES[role])}")
            return found
        found = engine_of_command(role, section.command)
        if not found:
            self.reader.problem(
                f"{name}.command",
                f"no word of {section.command!r} tells which engine this is",
                f'add "engine" to this section; known: {", ".join(ENGINES[role])}',
            )
        return found

    def require_command(self, name: str, program: str) -> None:
        """A section with a command is wanted for a program that has no default command (only where resource.json is given)."""
        if self.resource is None or self.reader is None:
            return
        section = self.section(name)
        shown = "DFT" if name == "dft" else name
        if section is None:
            self.reader.problem(shown, f"this section is missing, and {program} needs a command", f'add "{shown}": {{"command": …}}')
        elif not section.command.strip():
            self.reader.problem(f"{shown}.command", f"this key is required: {program} has no default command")


def find_work_dir(table: Table, override: Path | None) -> tuple[Path, str]:
    """(work_dir, "") or (work_dir, what is wrong with it); relative to the current folder."""
    if override is not None:
        folder = Path.cwd() / override.expanduser()
        folder = folder.resolve() if ".." in folder.parts else folder
        return folder, "" if folder.is_dir() else f"--work-dir: no such folder: {folder}"
    value = table.get("work_dir", "./")
    if not isinstance(value, str):
        return Path.cwd(), "a path in quotes is wanted here"
    folder = Path.cwd() / Path(value).expanduser()
    folder = folder.resolve() if ".." in folder.parts else folder
    return folder, "" if folder.is_dir() else f"no such folder: {folder}"


def campaign_name(table: Table, work_dir: Path) -> str:
    """The user's name for job names, or one from the folder: readable, and different for two folders of the same name."""
    named = table.get("campaign")
    if isinstance(named, str) and named.strip():
        return named.strip()
    readable = re.sub(r"[^A-Za-z0-9_]+", "_", work_dir.name).strip("_")[:24] or "campaign"
    return f"{readable}_{hashlib.sha256(str(work_dir).encode()).hexdigest()[:6]}"
