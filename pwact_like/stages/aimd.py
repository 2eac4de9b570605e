"""The ab-initio MD of init_bulk: one run from every structure at the end of a system's chain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pwact_like.stages.bulk import Asked, Bulk, LabellingStage, recipe_hash, system_name
from pwact_like.stages.structures import StructuresStage, iter_structures

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import StageInput


class AimdStage(LabellingStage):
    """Run MD with the labelling program itself; every step of it is a label."""

    kind = "aimd"
    flag: ClassVar[str] = "aimd"  # key of sys_configs that asks for it; the stage's name, and its folder's

    def __init__(self, bulk: Bulk) -> None:
        super().__init__(bulk)
        self.name = self.flag
        self.folder = bulk.work_folder / self.flag

    @property
    def recipe(self) -> str:
        """Structures and inputs."""
        wanted = [
            [index, self.bulk.entry_recipe(self.entry(index), self.labeler)]
            for index, system in enumerate(self.bulk.systems)
            if getattr(system, self.flag)
        ]
        return recipe_hash(self.flag, StructuresStage(self.bulk).recipe, self.bulk.place.root_seed, wanted)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The structures."""
        return (StructuresStage(self.bulk).folder,)

    def entry(self, system: int) -> StageInput:
        """``aimd_input[aimd_input_idx]``."""
        return self.bulk.param.aimd_input[self.bulk.systems[system].aimd_input_idx]

    def structures(self) -> Iterator[tuple[Asked, Atoms]]:
        """The last structures of the chains of the systems that ask for it."""
        counts: dict[int, int] = {}
        for index, (row, atoms) in enumerate(iter_structures(self.bulk)):
            system = row["system"]
            if not row["final"] or not getattr(self.bulk.systems[system], self.flag):
                continue
            number = counts.get(system, 0)
            counts[system] = number + 1
            task = f"{system_name(system)}/{row['name']}"
            yield Asked(system, task, self.bulk.seed(system, self.flag, number), {"name": row["name"], "index": index}), atoms


def step_numbers(steps: Sequence[int]) -> list[int]:
    """Place of every frame in its trajectory, 0, 1, 2, …; a frame that was left out leaves a gap.

    Programs count MD steps and may print every m-th only, so the places follow from the steps' common divisor. Steps
    that do not rise (a program that does not number them) count as complete.
    """
    differences = [second - first for first, second in itertools.pairwise(steps)]
    if not differences or min(differences) <= 0:
        return list(range(len(steps)))
    stride = math.gcd(*differences)
    return [(step - steps[0]) // stride for step in steps]
