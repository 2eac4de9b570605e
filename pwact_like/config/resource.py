"""Where and with what the tasks run: resource.json as frozen models."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pwact_like.config.base import Int, NonNegativeInt, PositiveInt, Settings, Strings

OWNED_OPTIONS = ("job-name", "comment", "output", "error", "chdir", "array", "requeue", "no-requeue", "parsable", "signal", "wait")
_OWNED_SHORT = {"-J": "job-name", "-o": "output", "-e": "error", "-D": "chdir", "-a": "array", "-W": "wait"}
_TIME = re.compile(r"(\d+|\d+:\d+(:\d+)?|\d+-\d+(:\d+(:\d+)?)?)")
_MEMORY = re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)


class ResourceSection(Settings):
    """How the tasks of one section run."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"task_run_num"})

    command: str = Field(default="", description="The program's command, verbatim shell; empty: the engine's own default.")
    engine: str = Field(default="", description="Engine, when it cannot be told from the command.")
    group_size: Int = Field(default=1, description="Tasks a job; −1: all in one job.")
    parallel_num: PositiveInt = Field(default=1, description="Tasks of a job that run at the same time.")
    number_node: PositiveInt = Field(default=1, description="Nodes of a job.")
    gpu_per_node: NonNegativeInt = Field(default=0, description="GPUs a node.")
    cpu_per_node: PositiveInt = Field(default=1, description="Processes a node.")
    queue_name: str = Field(default="", description="Partition, or several with commas.")
    custom_flags: Strings = Field(default=(), description="sbatch options, with or without `#SBATCH`; kept here without.")
    source_list: Strings = Field(default=(), description="Files to source; `source` is put before where it is missing.")
    module_list: Strings = Field(default=(), description="Modules; `module load` is put before where it is missing.")
    env_list: Strings = Field(default=(), description="Shell lines, verbatim.")
    time: str | None = Field(default=None, description="Time limit of a job in Slurm's forms (minutes, H:M:S, D-H:M:S).")
    memory: str | None = Field(default=None, description="Memory a node, e.g. `8G`; a bare number is MB.")

    @field_validator("group_size")
    @classmethod
    def _group(cls, value: int) -> int:
        if value < 1 and value != -1:
            raise ValueError("give 1 or more, or -1 for all tasks in one job")
        return value

    @field_validator("queue_name", mode="before")
    @classmethod
    def _queues(cls, value: Any) -> Any:
        text = ",".join(str(part) for part in value) if isinstance(value, list | tuple) else value
        return (
            ",".join(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else ("" if text is None else text)
        )

    @field_validator("custom_flags")
    @classmethod
    def _flags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        flags = []
        for flag in value:
            text = re.sub(r"^#\s*SBATCH\b\s*", "", flag.strip(), flags=re.IGNORECASE).strip()
            if not text:
                continue
            if "\n" in text or not text.startswith("-"):
                raise ValueError(f'{flag!r} is no sbatch option: one option in one line, e.g. "--qos=long"')
            name = owned_option(text)
            if name:
                raise ValueError(f"--{name} is set by pwact_like itself, so that it can find its jobs again; leave it out")
            flags.append(text)
        return tuple(flags)

    @field_validator("time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        if value is None:
            return None
        text = str(value).strip()
        if isinstance(value, bool) or not _TIME.fullmatch(text):
            raise ValueError(f"{value!r} is no time limit: give minutes, or H:M:S, or D-H:M:S")
        return text

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> Any:
        if value is None:
            return None
        text = str(value).strip()
        if isinstance(value, bool) or not _MEMORY.fullmatch(text):
            raise ValueError(f'{value!r} is no amount of memory: give e.g. "8G", or a number of MB')
        return text.rstrip("bB").upper()


def owned_option(flag: str) -> str:
    """Long name of the option that a flag sets if pwact_like owns it, else "" (sbatch accepts unique prefixes of long names)."""
    word = re.split(r"[=\s]", flag, maxsplit=1)[0]
    if word.startswith("--"):
        name = word[2:].lower()
        return next((owned for owned in OWNED_OPTIONS if len(name) >= 2 and owned.startswith(name)), "")
    return _OWNED_SHORT.get(word[:2], "")


class Resource(Settings):
    """resource.json; a section that is left out uses the engine's default command with one core."""

    scheduler: Literal["auto", "local", "slurm"] = Field(
        default="auto", description="auto (Slurm if it is there and answers, else local), local or slurm. Without resource.json: local."
    )
    max_jobs: PositiveInt | None = Field(default=None, description="At most so many jobs at a time.")
    train: ResourceSection | None = Field(default=None, description="Training.")
    explore: ResourceSection | None = Field(default=None, description="MD.")
    dft: ResourceSection | None = Field(default=None, description="Labelling (`DFT`).")
    direct: ResourceSection | None = Field(default=None, description="DIRECT selection.")

    @field_validator("scheduler", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value
