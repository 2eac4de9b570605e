"""Write the inputs of every stage of init_bulk once, somewhere else, to find what is wrong before the first task runs.

The last stage's input file is used days after the start; a missing pseudopotential in it must not wait until then.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import InputError, Problem
from pwact_like.stages.aimd import AimdStage
from pwact_like.stages.bigmodel import BigModelStage
from pwact_like.stages.bulk import Bulk, LabellingStage
from pwact_like.stages.crystals import super_cell
from pwact_like.stages.relaxation import RelaxationStage, Start, read_starts, starts
from pwact_like.stages.single_points import SinglePointStage

if TYPE_CHECKING:
    from pwact_like.config.common import StageInput
    from pwact_like.config.init_bulk import Matrix3


@dataclass(frozen=True)
class Scene:
    """One input that will be written: of which structure, at which stage, from which entry."""

    start: Start
    super_cell: Matrix3 | None
    kind: LabelKind
    entry: StageInput
    labeler: Labeler
    command: str


def rehearse(bulk: Bulk) -> None:
    """Write every system's inputs of every stage into a folder that is thrown away.

    Raises
    ------
    InputError
        With every problem of every stage.
    """
    stages: list[LabellingStage] = [RelaxationStage(bulk), AimdStage(bulk), BigModelStage(bulk), SinglePointStage(bulk)]
    scenes = [
        Scene(start, None if stage.kind == "relax" else system.super_cell, stage.kind, stage.entry(index), stage.labeler, stage.command)
        for index, (system, start) in enumerate(zip(bulk.systems, starts(bulk), strict=True))
        for stage in stages
        if getattr(system, stage.name)
    ]
    problems = bulk.fork(find_problems, scenes)
    if problems:
        raise InputError(problems)


def find_problems(scenes: Sequence[Scene]) -> list[Problem]:
    """What the programs' inputs lack, each problem once (runs in a child process)."""
    found: dict[Problem, None] = {}
    with tempfile.TemporaryDirectory(prefix="pwact_like_rehearsal_") as scratch:
        for number, scene in enumerate(scenes):
            (atoms,) = read_starts([scene.start])
            if scene.super_cell is not None:
                atoms = super_cell(atoms, scene.super_cell)
            folder = Path(scratch) / str(number)
            request = LabelRequest(scene.kind, atoms, scene.entry, seed=1)
            try:
                scene.labeler.write(folder, request)
                scene.labeler.commands(scene.command, request)
            except InputError as error:
                for problem in error.problems:
                    # the scratch folder means nothing to the user: the structure does
                    where = problem.where.replace(str(folder), f"{scene.start[0]} ({scene.kind})")
                    found[Problem(where, problem.what, problem.cure)] = None
    return list(found)
