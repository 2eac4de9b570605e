"""Choosing among an iteration's candidates those that are really labelled: a task for the scheduler, before the selection.

The candidates are gathered in a child process, a task of one's own computes descriptors and chooses (or the user's script
does), and the selection then takes what was chosen in place of a random draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pwact_like.data.frames import Frame, Origin
from pwact_like.engines.choosers.embedded import EmbeddedChooser
from pwact_like.engines.choosers.script import ScriptChooser
from pwact_like.engines.protocols import ChoiceRequest, Chooser
from pwact_like.errors import InputError, Problem
from pwact_like.fsio import is_finished, read_json, write_json, write_manifest
from pwact_like.jobs.types import Task, TaskResult
from pwact_like.outcome import Outcome, TaskFiles
from pwact_like.seeds import derive_seed
from pwact_like.stages.base import Stage, TaskMaker, require_all
from pwact_like.stages.exploration import trajectories_of
from pwact_like.stages.frame_pool import read_pool
from pwact_like.stages.selection import CHOSEN_FILE, SelectionRequest, fetch, starts_in_test_set
from pwact_like.uncertainty.choice import capped
from pwact_like.uncertainty.levels import FrameClass

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath
    from pwact_like.config.run import Strategy

POOL_FILE = "pool.json"
MAX_POOL = 4000
"""More candidates than this are thinned at random beforehand: the clusters' table of distances grows with the square."""


@dataclass(frozen=True)
class ChoiceSettings:
    """What is chosen by, and how many.

    Attributes
    ----------
    count
        At most so many of an iteration; None: as many as the quotas allow.
    after_quotas
        Whether the program gets what the quotas leave (a user's script, which knows nothing of them), not all candidates.
    """

    chooser: Chooser
    count: int | None
    after_quotas: bool
    known: tuple[DataPath, ...]
    model: Path | None


@dataclass
class ChoiceStage(Stage):
    """Choose among the candidates of one iteration."""

    request: SelectionRequest
    settings: ChoiceSettings
    command: str
    fork: Any
    name: str = "choose"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folders."""
        self.folder = choice_folder(self.request)
        self._task = self.folder / "task"

    def plan(self) -> list[Task]:
        """One task, or none where all candidates may be labelled anyway."""
        files: TaskFiles | None = self.fork(prepare, self.request, self.settings, self.folder, self._task)
        if files is None:
            return []
        place = self.request.place
        seed = derive_seed(place.root_seed, place.iteration, "choose", 0)
        commands = self.settings.chooser.commands(self.command)
        return [TaskMaker(place, "select")(self.settings.chooser.name, self._task, "direct", commands, files, seed)]

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """The chooser's word."""
        return self.settings.chooser.outcome(attempt)

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """Turn the program's numbers into those of the frames of the iteration.

        Raises
        ------
        JobError
            When the task failed: a choice that was asked for is not left out in silence.
        """
        require_all(results, "choice")
        pool = read_json(self.folder / POOL_FILE)
        chosen = [pool["frames"][index] for index in self.settings.chooser.read(self._task)] if results else pool["frames"]
        write_json(self.folder / CHOSEN_FILE, {"frames": sorted(chosen)})
        write_manifest(
            self.folder,
            "choice",
            inputs={result.task.name: result.task.key for result in results.values()},
            outputs=[POOL_FILE, CHOSEN_FILE],
            facts={
                "engine": self.settings.chooser.name,
                "candidates": pool["candidates"],
                "looked_at": len(pool["frames"]),
                "chosen": len(chosen),
            },
        )


def prepare(request: SelectionRequest, settings: ChoiceSettings, folder: Path, task: Path) -> TaskFiles | None:
    """Gather the candidates and write the task's inputs; None where there is nothing to choose (runs in a child process)."""
    from pwact_like.data.checks import minimum_distance_ang

    trajectories = trajectories_of(request.md_folder)
    pool = read_pool(trajectories, request.place.work_dir, lmps_tolerance=request.lmps_tolerance)
    pool.refuse_other_unit(request.levels)
    classes = pool.classify(request.levels)
    eligible = pool.eligible & ~starts_in_test_set(request, pool, classes, trajectories)
    candidates = np.flatnonzero((classes == FrameClass.CANDIDATE) & eligible)
    root, iteration = request.place.root_seed, request.place.iteration
    within = capped(candidates, pool.groups, pool.quotas, root, iteration)
    wanted = len(within) if settings.count is None else min(settings.count, len(within))
    offered = within if settings.after_quotas else candidates
    is_choice = bool(len(offered)) and (settings.after_quotas or wanted < len(offered))
    if is_choice and len(offered) > MAX_POOL:
        generator = np.random.default_rng(derive_seed(root, iteration, "choose", "pool"))
        offered = np.sort(generator.choice(offered, size=MAX_POOL, replace=False))
    numbers: list[int] = []
    frames: list[Frame] = []
    if is_choice:
        for index, row, step, atoms in fetch(request, pool, offered, trajectories):
            # the farthest of all would be the unphysical ones, which are never labelled
            if minimum_distance_ang(atoms, request.min_distance_ang) >= request.min_distance_ang:
                numbers.append(index)
                frames.append(
                    Frame(atoms, origin=Origin(source=str(row["trajectory"]), iteration=iteration, task=str(row["leaf"]), step=step))
                )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / POOL_FILE, {"candidates": len(candidates), "frames": numbers if frames else [int(index) for index in offered]})
    if not frames:
        return None
    choice = ChoiceRequest(
        frames=frames,
        count=wanted,
        groups=tuple(int(group) for group in pool.groups[numbers]),
        quotas=tuple(int(quota) for quota in pool.quotas),
        known=settings.known,
        model=settings.model,
    )
    return settings.chooser.write(task, choice)


def refuse_begun_choice(request: SelectionRequest) -> None:
    """Refuse to draw at random while a choice among the candidates is under way: its job would be nobody's.

    Raises
    ------
    InputError
        With the cure.
    """
    place, folder = request.place, choice_folder(request)
    if (folder / "task").exists() and not is_finished(folder):
        what = f"a choice among the candidates of iteration {place.iteration} was begun ({folder}), and now none is asked for"
        cure = f"undo the change until it is done, or end it: pwact-like rewind --to {place.iteration}:select"
        raise InputError(Problem("param.json: strategy.choice", what, cure))


def choice_folder(request: SelectionRequest) -> Path:
    """Beside the selection's."""
    return request.folder.parent / "choice"


def choice_settings(strategy: Strategy, known: tuple[DataPath, ...], model: Path) -> ChoiceSettings | None:
    """What the strategy asks for; None where candidates are drawn at random.

    Parameters
    ----------
    known
        The training data of the iteration's models.
    model
        One of these models.
    """
    how = strategy.chosen_by
    if how == "random":
        return None
    if how == "script":
        assert strategy.direct_script is not None
        return ChoiceSettings(ScriptChooser(strategy.direct_script), strategy.choice_num, True, (), None)
    uses_model = strategy.choice_descriptor == "model"
    chooser = EmbeddedChooser(how, strategy.choice_descriptor)
    return ChoiceSettings(chooser, strategy.choice_num, False, known, model if uses_model else None)
