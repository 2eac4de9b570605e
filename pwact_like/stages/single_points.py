"""The single points of init_bulk: frames of the ab-initio MD once more with better settings, or the structures themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pwact_like.errors import DataError
from pwact_like.fsio import read_json, read_manifest, write_json
from pwact_like.seeds import derive_seed
from pwact_like.stages.aimd import AimdStage, step_numbers
from pwact_like.stages.bigmodel import BigModelStage, DirectStage, accepted_runs, chosen_places, chosen_systems, is_chosen
from pwact_like.stages.bulk import Asked, LabellingStage, recipe_hash, system_name
from pwact_like.stages.structures import STRUCTURES_FILE, StructuresStage

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import StageInput
    from pwact_like.data.frames import Frame
    from pwact_like.engines.protocols import Labeler

log = logging.getLogger(__name__)

ASKED_FRAMES = "asked.xyz"
ASKED_ROWS = "asked.json"


class SinglePointStage(LabellingStage):
    """Label with single points: at most scf_max_num in all, drawn with a seed."""

    kind = "scf"

    @property
    def recipe(self) -> str:
        """Structures or MD, inputs, and what decides the choice."""
        param = self.bulk.param
        wanted = [
            [index, self.bulk.entry_recipe(self.entry(index), self.labeler)] for index, system in enumerate(self.bulk.systems) if system.scf
        ]
        before = [AimdStage(self.bulk).recipe, param.interval] if self._relabelled() else [StructuresStage(self.bulk).recipe]
        if self._relabelled("bigmodel"):
            before += [BigModelStage(self.bulk).recipe, param.interval]
        if chosen_systems(self.bulk):
            before.append(DirectStage(self.bulk).recipe)
        return recipe_hash("scf", before, self.bulk.place.root_seed, wanted, param.scf_max_num)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The structures, and the MD whose frames are labelled again."""
        structures = StructuresStage(self.bulk).folder
        runs = [(AimdStage, "aimd"), (BigModelStage, "bigmodel")]
        found = [structures, *(stage(self.bulk).folder for stage, flag in runs if self._relabelled(flag))]
        return (*found, DirectStage(self.bulk).folder) if chosen_systems(self.bulk) else tuple(found)

    def _relabelled(self, flag: str = "aimd") -> list[int]:
        """Systems whose MD is labelled again."""
        return [index for index, system in enumerate(self.bulk.systems) if system.scf and getattr(system, flag)]

    def entry(self, system: int) -> StageInput:
        """``scf_input[scf_input_idx]``."""
        return self.bulk.param.scf_input[self.bulk.systems[system].scf_input_idx]

    def structures(self) -> Iterator[tuple[Asked, Atoms]]:
        """Chosen in a child process, which leaves them in files; the master reads one at a time."""
        systems = self.bulk.systems
        relabelled = self._relabelled()
        runs = read_manifest(self.bulk.work_folder / "aimd")["facts"]["rows"] if relabelled else []
        request = ChoiceRequest(
            folder=self.folder,
            work_dir=self.bulk.place.work_dir,
            structures=self.bulk.work_folder / "structures",
            labeler=self.bulk.labeler,
            direct=frozenset(index for index, system in enumerate(systems) if system.scf and not system.aimd and not system.bigmodel),
            runs=tuple(row for row in runs if row["accepted"] and row["system"] in relabelled),
            interval=self.bulk.param.interval,
            max_num=self.bulk.param.scf_max_num,
            seed=derive_seed(self.bulk.place.root_seed, "scf", "choice"),
            md_labeler=self.bulk.md_engine,
            md_runs=tuple(accepted_runs(self.bulk, self._relabelled("bigmodel"))),
            chosen=chosen_places(self.bulk),
            chosen_systems=tuple(chosen_systems(self.bulk)),
        )
        for row in self.bulk.fork(choose_frames, request):
            log.warning("scf: %s is given up: %s", row["folder"], row["reason"])
        rows = read_json(self.folder / ASKED_ROWS)["rows"]
        if not rows:
            return
        from pwact_like.data.formats import iter_frames

        counts: dict[int, int] = {}
        for row, frame in zip(rows, iter_frames(self.folder / ASKED_FRAMES, "extxyz"), strict=True):
            system = row["system"]
            number = counts.get(system, 0)
            counts[system] = number + 1
            task = f"{system_name(system)}/{row['name']}"
            if row["step"] is not None:
                task = f"{task}/{row['step']}-scf"
            facts = {"name": row["name"], "step": row["step"], "index": row["index"]}
            yield Asked(system, task, self.bulk.seed(system, "scf", number), facts), frame.atoms


@dataclass(frozen=True)
class ChoiceRequest:
    """Everything the child process needs; picklable.

    Attributes
    ----------
    direct
        Systems whose structures are labelled as they are.
    runs
        Rows of the accepted MD runs whose frames are labelled again; ``md_runs`` are those of a big model, which ``md_labeler`` reads.
    chosen
        What was chosen among the frames of ``chosen_systems``, see `chosen_places`.
    """

    folder: Path
    work_dir: Path
    structures: Path
    labeler: Labeler
    direct: frozenset[int]
    runs: Sequence[Mapping[str, Any]]
    interval: int
    max_num: int | None
    seed: int
    md_labeler: Labeler | None = None
    md_runs: Sequence[Mapping[str, Any]] = ()
    chosen: Mapping[str, frozenset[int]] | None = None
    chosen_systems: Sequence[int] = ()


def choose_frames(request: ChoiceRequest) -> list[dict[str, Any]]:
    """Gather what may be labelled, draw at most max_num of it, and leave frames and rows in the stage's folder.

    Returns the runs that cannot be read, with their reasons.
    """
    from pwact_like.data.formats import write_frames

    unreadable: list[dict[str, Any]] = []
    candidates = sorted([*_of_structures(request), *_of_runs(request, unreadable)], key=lambda pair: pair[0]["system"])
    if request.max_num is not None and len(candidates) > request.max_num:
        # more asked for than there are means all of them
        drawn = np.random.default_rng(request.seed).choice(len(candidates), size=request.max_num, replace=False)
        candidates = [candidates[place] for place in sorted(drawn)]
    request.folder.mkdir(parents=True, exist_ok=True)
    rows = [row | {"index": place} for place, (row, _) in enumerate(candidates)]
    if candidates:
        write_frames(request.folder / ASKED_FRAMES, [frame for _, frame in candidates], "extxyz")
    write_json(request.folder / ASKED_ROWS, {"rows": rows, "unreadable": unreadable})
    return unreadable


def unreadable_runs(folder: Path) -> list[dict[str, Any]]:
    """MD runs that could not be read when their frames were to be labelled again (of a finished stage)."""
    runs: list[dict[str, Any]] = read_json(folder / ASKED_ROWS)["unreadable"]
    return runs


def _of_structures(request: ChoiceRequest) -> Iterator[tuple[dict[str, Any], Frame]]:
    from pwact_like.data.formats import iter_frames

    if not request.direct:
        return
    rows = read_manifest(request.structures)["facts"]["rows"]
    if not rows:
        return
    for row, frame in zip(rows, iter_frames(request.structures / STRUCTURES_FILE, "extxyz"), strict=True):
        if row["final"] and row["system"] in request.direct:
            yield {"system": row["system"], "name": row["name"], "step": None}, frame


def _of_runs(request: ChoiceRequest, unreadable: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Frame]]:
    from pwact_like.data.frames import Frame

    of_model = ((request.md_labeler, row) for row in request.md_runs if request.md_labeler is not None)
    for labeler, row in [*((request.labeler, row) for row in request.runs), *of_model]:
        try:
            frames = labeler.read(request.work_dir / row["folder"], "aimd")
        except (DataError, ValueError) as error:
            unreadable.append({**row, "accepted": False, "reason": f"the MD run cannot be read: {error}"})
            continue
        places = step_numbers([frame.origin.step for frame in frames])
        for place, frame in zip(places, frames, strict=True):
            if place % request.interval == 0 and is_chosen(request.chosen, request.chosen_systems, row, place):
                step = frame.origin.step if frame.origin.step >= 0 else place
                yield {"system": row["system"], "name": row["name"], "step": step}, Frame(frame.atoms)
