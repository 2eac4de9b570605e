"""Files of a task of the embedded labelling engines, and the job that label.json describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pwact_like.engines.protocols import LabelKind
from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_json

if TYPE_CHECKING:
    from ase import Atoms

JOB_FILE = "label.json"
STRUCTURE_FILE = "structure.xyz"
LABEL_FILE = "label.xyz"
RESULT_FILE = "result.json"
PARTIAL_FILE = "label.partial.xyz"
CHECKPOINT_FILE = "label.checkpoint.json"


@dataclass(frozen=True)
class LabelJob:
    """What to compute.

    Attributes
    ----------
    engine
        ``xtb``, ``ase`` or ``bigmodel``.
    engine_options, options
        Of the engine, and of the stage (relax, aimd), complete with their defaults.
    level_of_theory
        Fingerprint that goes into the labels.
    batch
        Whether the structure file holds several structures, each to be labelled with a single point.
    """

    kind: LabelKind
    engine: str
    seed: int
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    level_of_theory: str = ""
    batch: bool = False


@dataclass(frozen=True)
class JobResult:
    """What came out, as result.json has it.

    Attributes
    ----------
    reason
        Why there is no (whole) result; "" when all went well.
    frames
        Labelled frames in label.xyz; 0 means rejected.
    frames_planned
        Frames that a whole run gives.
    steps
        Steps of the optimizer or of the MD.
    converged
        Whether every frame's SCF, and for relax the structure, converged.
    reasons
        Of a batch: for each structure why it has no label, "" where it has one.
    """

    converged: bool
    frames: int
    frames_planned: int
    steps: int = 0
    reason: str = ""
    program: str = ""
    version: str = ""
    reasons: Sequence[str] = ()


def write_job(folder: Path, job: LabelJob, structures: Sequence[Atoms]) -> None:
    """Write label.json and the structures (to the last digit): one, or those of a batch."""
    from pwact_like.data.formats import write_frames
    from pwact_like.data.frames import Frame

    write_frames(folder / STRUCTURE_FILE, [Frame(atoms) for atoms in structures], "extxyz")
    content = {
        "kind": job.kind,
        "structure": STRUCTURE_FILE,
        "engine": job.engine,
        "engine_options": dict(job.engine_options),
        "options": dict(job.options),
        "level_of_theory": job.level_of_theory,
        "seed": job.seed,
        **({"batch": True} if job.batch else {}),
    }
    write_json(folder / JOB_FILE, content)


def read_job(path: Path) -> tuple[LabelJob, Path]:
    """The job and the path of its structure, which is relative to the file's folder.

    Raises
    ------
    DataError
        When the file is no such job.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: an object with kind, engine, structure, … is wanted")
    wrong = [key for key in ("kind", "engine", "structure") if not isinstance(content.get(key), str)]
    if wrong:
        raise DataError(f"{path}: {', '.join(wrong)} missing, or no text; such a file is written by a campaign's labelling stage")
    if content["kind"] not in get_args(LabelKind):
        raise DataError(f"{path}: kind: {content['kind']!r} is none of {', '.join(get_args(LabelKind))}")
    for key in ("engine_options", "options"):
        if not isinstance(content.get(key, {}), dict):
            raise DataError(f"{path}: {key}: an object is wanted")
    job = LabelJob(
        kind=content["kind"],
        engine=content["engine"],
        seed=int(content.get("seed", 0)),
        engine_options=content.get("engine_options", {}),
        options=content.get("options", {}),
        level_of_theory=str(content.get("level_of_theory", "")),
        batch=content.get("batch") is True,
    )
    return job, path.parent / content["structure"]


def read_result(folder: Path) -> JobResult:
    """result.json.

    Raises
    ------
    DataError
        When it is missing or is none.
    """
    path = folder / RESULT_FILE
    content = read_json(path)
    try:
        return JobResult(**content)
    except TypeError as error:
        raise DataError(f"{path}: not a result of pwact-like label: {error}") from error
