"""What the labelling engines share that `pwact-like label` runs: files, command, outcome, reading."""

from __future__ import annotations

import re
import shlex
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pwact_like.engines.labelers.begun_note import BEGUN_FILE
from pwact_like.engines.labelers.job_files import (
    CHECKPOINT_FILE,
    JOB_FILE,
    LABEL_FILE,
    PARTIAL_FILE,
    RESULT_FILE,
    STRUCTURE_FILE,
    LabelJob,
    read_result,
    write_job,
)
from pwact_like.engines.labelers.options import STAGE_OPTIONS, Table, check_options, options_from_file, with_defaults
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.outcome import Ok, Outcome, Reject, Retry, TaskFiles

if TYPE_CHECKING:
    from pwact_like.config.common import StageInput
    from pwact_like.config.labelling import LabelSettings
    from pwact_like.data.frames import Frame

_LAUNCHER = re.compile(r"(^|/)(pwact[-_]like|pwact)$")


class EmbeddedLabeler(Labeler):
    """A labelling engine that `pwact-like label label.json` runs.

    Its options come from three places, the later ones winning: ``options`` beside dft_style, the JSON file named by the
    stage's ``input``, and the options written inline into the stage's entry.
    """

    engine_table: ClassVar[Table]

    def __init__(self, settings: LabelSettings) -> None:
        self._settings = settings
        everything = {name: table for name, table in STAGE_OPTIONS.items() if table} | {"engine": self.engine_table}
        given, problems = check_options(everything, settings.options, self._where_settings())
        if problems:
            raise InputError(problems)
        self._given: Mapping[str, Mapping[str, Any]] = given

    def _where_settings(self) -> str:
        return f"{self._settings.source}: options" if self._settings.source else "options"

    def _merged(self, entry: StageInput, kind: LabelKind | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of the engine and of the stage, complete; ``kind`` None: of the engine only.

        Raises
        ------
        InputError
            With everything wrong in them.
        """
        stage_table = STAGE_OPTIONS[kind] if kind is not None else {}
        tables = {"engine": self.engine_table, "stage": stage_table}
        if kind is None:  # whatever stage the entry belongs to
            tables = {"engine": self.engine_table, **STAGE_OPTIONS}
        engine_given = dict(self._given["engine"])
        stage_given = dict(self._given[kind]) if stage_table and kind is not None else {}
        problems: list[Problem] = []
        sources: list[tuple[str, Mapping[str, Any]]] = []
        if entry.input is not None:
            sources.append((str(entry.input), options_from_file(entry.input)))
        sources.append(
            (self._where_settings() if self._settings.source is None else f"{self._settings.source}: options of the stage", entry.options)
        )
        for where, content in sources:
            found, wrong = check_options(tables, content, where)
            engine_given.update(found["engine"])
            stage_given.update(found.get("stage", {}))
            problems += wrong
        where = " or ".join(source for source, content in sources if content) or self._where_settings()
        engine_options, missing = with_defaults(self.engine_table, engine_given, where)
        problems += missing
        stage_options, missing = with_defaults(stage_table, stage_given, where)
        problems += missing
        if problems:
            raise InputError(problems)
        return engine_options, stage_options

    def check_structure(self, request: LabelRequest, engine_options: Mapping[str, Any]) -> list[Problem]:
        """What the engine cannot do with this structure."""
        return []

    def linked_files(self, engine_options: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        """(name, absolute path) of files that the options name; may rewrite the options to those names."""
        return ()

    @abstractmethod
    def fingerprint(self, engine_options: Mapping[str, Any]) -> str:
        """Readable name and short hash of what decides the energies."""

    def write(self, folder: Path, request: LabelRequest) -> TaskFiles:
        """Write label.json and structure.xyz."""
        engine_options, options = self._merged(request.input, request.kind)
        problems = self.check_structure(request, engine_options)
        if request.kind == "aimd" and len(request.atoms) < 2:
            problems.append(Problem(str(folder), "MD of a single atom has nothing that moves", "use a larger cell (super_cell)"))
        if problems:
            raise InputError(problems)
        level = self.fingerprint(engine_options)
        links = self.linked_files(engine_options)
        folder.mkdir(parents=True, exist_ok=True)
        job = LabelJob(request.kind, self.name, request.seed, engine_options, options, level)
        write_job(folder, job, [request.atoms])
        # an attempt that ends in a refusal by the engine leaves no label.xyz, so only result.json is a must
        return TaskFiles(
            inputs=(JOB_FILE, STRUCTURE_FILE),
            links=links,
            outputs=(RESULT_FILE,),
            optional_outputs=(LABEL_FILE,),
            carry=(PARTIAL_FILE, CHECKPOINT_FILE) if request.kind == "aimd" else (),
            checkpoints=(CHECKPOINT_FILE,) if request.kind == "aimd" else (),
        )

    def write_batch(self, folder: Path, requests: Sequence[LabelRequest]) -> TaskFiles:
        """Write label.json and structure.xyz of single points that one task does, one after the other."""
        engine_options, _ = self._merged(requests[0].input, "scf")
        problems = {problem: None for request in requests for problem in self.check_structure(request, engine_options)}
        if problems:
            raise InputError(list(problems))
        level = self.fingerprint(engine_options)
        links = self.linked_files(engine_options)
        folder.mkdir(parents=True, exist_ok=True)
        write_job(
            folder, LabelJob("scf", self.name, requests[0].seed, engine_options, {}, level, batch=True), [one.atoms for one in requests]
        )
        return TaskFiles(
            inputs=(JOB_FILE, STRUCTURE_FILE),
            links=links,
            outputs=(RESULT_FILE, LABEL_FILE),
            carry=(PARTIAL_FILE, CHECKPOINT_FILE, BEGUN_FILE),
            checkpoints=(CHECKPOINT_FILE,),  # without it the first end of a job's time would cost every label of the batch
            passes_over=True,
        )

    def batch_outcome(self, folder: Path) -> Outcome:
        """Judge by result.json and label.xyz: every structure has a label or a reason."""
        try:
            found = self.read_batch(folder)
        except (DataError, ValueError) as error:
            return Retry(f"pwact-like label left no result: {error}")
        reasons = [one for one in found if isinstance(one, str)]
        if len(reasons) == len(found):
            return Reject(f"no structure could be labelled; the first: {reasons[0]}" if reasons else "no structure")
        return Ok(f"{len(reasons)} of {len(found)} structures have no label; the first: {reasons[0]}" if reasons else "")

    def read_batch(self, folder: Path) -> list[Frame | str]:
        """One a structure: its frame, or why there is none.

        Raises
        ------
        DataError
            When label.xyz and result.json do not belong together.
        """
        from pwact_like.data.formats import read_frames

        result = read_result(folder)
        frames = read_frames(folder / LABEL_FILE, "extxyz") if result.frames else []
        if any(frame.label is None for frame in frames):
            raise DataError(f"{folder / LABEL_FILE}: a frame has no energy or no forces")
        if len(frames) != result.frames or len(frames) != sum(not reason for reason in result.reasons):
            raise DataError(f"{folder / LABEL_FILE}: {len(frames)} frames, and {RESULT_FILE} promises {result.frames}")
        rest = iter(frames)
        return [str(reason) if reason else next(rest) for reason in result.reasons]

    def commands(self, command: str, request: LabelRequest) -> tuple[str, ...]:
        """`pwact-like label label.json`, by this Python when the user names no command.

        Raises
        ------
        InputError
            When the user's command does not run pwact-like.
        """
        command = command.strip()
        if not command:
            return (shlex.join([sys.executable, "-m", "pwact_like", "label", JOB_FILE]),)
        words = command.split()
        if JOB_FILE in words:
            return (command,)
        launchers = [place for place, word in enumerate(words) if _LAUNCHER.search(word.strip("\"'"))]
        if not launchers:
            raise InputError(
                Problem(
                    f"{self._settings.source or 'resource.json'}: command of the labelling section",
                    f"{command!r} does not run pwact-like, which the engine {self.name} needs",
                    "write `pwact-like label`, with a launcher before it if need be, or leave the command out",
                )
            )
        if "label" not in words[launchers[-1] :]:
            command += " label"
        return (f"{command} {JOB_FILE}",)

    def outcome(self, folder: Path, kind: LabelKind) -> Outcome:
        """Judge by result.json and label.xyz."""
        try:
            result = read_result(folder)
        except DataError as error:
            return Retry(f"pwact-like label left no result: {error}")
        if result.frames == 0:
            return Reject(result.reason or "no label")
        try:
            frames = self.read(folder, kind)
        except (DataError, ValueError) as error:
            return Retry(f"the label cannot be read: {error}")
        if len(frames) != result.frames:
            return Retry(f"{folder / LABEL_FILE}: {len(frames)} frames, and {RESULT_FILE} promises {result.frames}")
        if result.reason:
            return Ok(f"ended early with {result.frames} of {result.frames_planned} frames: {result.reason}")
        return Ok()

    def read(self, folder: Path, kind: LabelKind) -> list[Frame]:
        """Frames of label.xyz.

        Raises
        ------
        DataError
            When a frame has no label, or there are too many for this kind.
        """
        from pwact_like.data.formats import read_frames

        path = folder / LABEL_FILE
        frames = read_frames(path, "extxyz")
        if any(frame.label is None for frame in frames):
            raise DataError(f"{path}: a frame has no energy or no forces")
        if kind != "aimd" and len(frames) != 1:
            raise DataError(f"{path}: {len(frames)} frames where one is expected")
        return frames

    def level_of_theory(self, entry: StageInput) -> str:
        """Readable name and short hash of what decides the energies."""
        engine_options, _ = self._merged(entry, None)
        return self.fingerprint(engine_options)
