"""Where and with what the tasks run: resource.json as frozen models."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pwact_like.config.base import Float, Fraction, Int, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings, Strings
from pwact_like.config.sbatch import MEMORY, TIME, owned_option, single_options, value_of

SIZES_HELP = 'give e.g. "8G", or a number of MB'


class Retry(Settings):
    """What follows when an attempt fails."""

    attempts: PositiveInt = Field(
        default=3, description="Attempts that may fail by their own fault before the task is set aside; node failures do not count."
    )
    memory_factor: Float = Field(
        default=2.0, ge=1.0, description="After running out of memory: so many times the memory (1: the task is set aside)."
    )
    memory_max: str | None = Field(default=None, description="Never more memory a node than this, e.g. `180G`.")
    time_factor: Float = Field(
        default=2.0,
        ge=1.0,
        description="After running out of time, for what cannot go on from a checkpoint: so many times the time limit, as far as the "
        "partition allows (1: the task is set aside).",
    )
    exclude_nodes: bool = Field(default=True, description="Leave out nodes that failed under the task.")

    @field_validator("memory_max", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> Any:
        return _size(value)


def _size(value: Any) -> Any:
    if value is None:
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not MEMORY.fullmatch(text):
        raise ValueError(f"{value!r} is no amount of memory: {SIZES_HELP}")
    return text.rstrip("bB").upper()


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
    retry: Retry = Field(default=Retry(), description="What follows when an attempt fails.")
    enough: Fraction = Field(
        default=1.0,
        description="Share of a stage's tasks that must have ended, well or not; then the stragglers are cancelled and count as failed "
        "(1: wait for all).",
    )
    straggler_wait_s: NonNegativeFloat = Field(default=600.0, description="Seconds that the stragglers get once enough tasks are done.")

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

    @field_validator("queue_name")
    @classmethod
    def _partitions(cls, value: str) -> str:
        if not re.fullmatch(r"[\w.+@:-]*(,[\w.+@:-]+)*", value):
            raise ValueError(f"{value!r} is no list of partitions: names of letters, digits, '-', '_' and '.', with commas between them")
        return value

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
            for option in single_options(text):
                name = owned_option(option)
                if name:
                    raise ValueError(f"--{name} is set by pwact_like itself, so that it can find its jobs again; leave it out")
                flags.append(option)
        return tuple(flags)

    @field_validator("time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        if value is None:
            return None
        text = str(value).strip()
        if isinstance(value, bool) or not TIME.fullmatch(text):
            raise ValueError(f"{value!r} is no time limit: give minutes, or H:M:S, or D-H:M:S")
        return text

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> Any:
        return _size(value)

    @model_validator(mode="after")
    def _once_only(self) -> ResourceSection:
        for key, options in (("time", ("--time", "-t")), ("memory", ("--mem",))):
            if getattr(self, key) is not None and value_of(self.custom_flags, *options) is not None:
                raise ValueError(f"both {key!r} and {options[0]} in custom_flags are given: leave one of them out")
        return self


class Resource(Settings):
    """resource.json; a section that is left out uses the engine's default command with one core."""

    scheduler: Literal["auto", "local", "slurm"] = Field(
        default="auto", description="auto (Slurm if it is there and answers, else local), local or slurm. Without resource.json: local."
    )
    max_jobs: PositiveInt | None = Field(default=None, description="At most so many jobs at a time.")
    poll_s: PositiveFloat | None = Field(
        default=None,
        description="Shortest pause in seconds between two looks at the jobs; it grows to six times this while nothing changes "
        "(default: 10 with Slurm).",
    )
    grace_s: NonNegativeFloat | None = Field(
        default=None,
        description="Seconds that a job's files may show late after its end, as on network file systems (default: 60 with Slurm).",
    )
    slurm_timeout_s: PositiveFloat = Field(
        default=60.0, description="Seconds after which a command of Slurm that does not answer is given up (it is asked again)."
    )
    train: ResourceSection | None = Field(default=None, description="Training.")
    explore: ResourceSection | None = Field(default=None, description="MD.")
    dft: ResourceSection | None = Field(default=None, description="Labelling (`DFT`).")
    direct: ResourceSection | None = Field(default=None, description="DIRECT selection.")

    @field_validator("scheduler", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value
