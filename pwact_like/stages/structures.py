"""The structures of init_bulk: supercell, scaled, perturbed, in this order, each step optional. Nothing is submitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.fsio import read_manifest, write_manifest
from pwact_like.jobs.types import Task, TaskResult
from pwact_like.outcome import Ok, Outcome
from pwact_like.stages.bulk import Bulk, BulkStage, recipe_hash
from pwact_like.stages.crystals import perturbed, scaled, super_cell
from pwact_like.stages.relaxation import RELAXED_FILE, RelaxationStage, Start, read_starts, start_recipe, starts

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.init_bulk import BulkSystem

STRUCTURES_FILE = "structures.xyz"  # every structure, in the order of the rows
INITIAL = "init"
RELAXED = "relaxed"


@dataclass(frozen=True, eq=False)
class Built:
    """One structure of a system.

    Attributes
    ----------
    name
        Path of its file below ``init_config_I`` without suffix: ``relaxed``, ``super_cell``, ``0.9_scale``,
        ``0.9_scale_pertub/0_pertub``, without scale ``pertub/0_pertub``; ``init`` is the user's own.
    final
        Whether the system's MD or single points start from it: it stands at the end of the chain.
    seed
        0 where nothing is random.
    """

    name: str
    final: bool
    atoms: Atoms
    seed: int = 0


def build_structures(start: Atoms, start_name: str, system: BulkSystem, seed_of: Callable[[int], int]) -> list[Built]:
    """Every structure of a system, the start first.

    Parameters
    ----------
    start
        The relaxed structure, or the user's own.
    start_name
        ``relaxed`` or ``init``.
    system
        What is to be done.
    seed_of
        Seed of the n-th perturbed structure of this system.
    """
    levels = [[Built(start_name, False, start)]]
    if system.super_cell is not None:
        levels.append([Built("super_cell", False, super_cell(start, system.super_cell))])
    if system.scale:
        (parent,) = levels[-1]
        levels.append([Built(f"{factor!r}_scale", False, scaled(parent.atoms, factor)) for factor in dict.fromkeys(system.scale)])
    if system.perturb:
        copies = []
        for parent in levels[-1]:
            folder = f"{parent.name}_pertub" if system.scale else "pertub"
            for number in range(system.perturb):
                seed = seed_of(len(copies))
                atoms = perturbed(parent.atoms, system.cell_pert_fraction, system.atom_pert_distance, seed)
                copies.append(Built(f"{folder}/{number}_pertub", False, atoms, seed))
        levels.append(copies)
    return [Built(built.name, number == len(levels) - 1, built.atoms, built.seed) for number, level in enumerate(levels) for built in level]


@dataclass
class StructuresStage(BulkStage):
    """Build the structures of every system whose relaxation did not fail."""

    bulk: Bulk
    name: str = "structures"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folder."""
        self.folder = self.bulk.work_folder / "structures"

    @property
    def recipe(self) -> str:
        """Starting structures, relaxations, and what is done with them."""
        steps = [
            [
                start_recipe(self.bulk, index),
                system.relax,
                system.super_cell,
                system.scale,
                system.perturb,
                system.cell_pert_fraction,
                system.atom_pert_distance,
            ]
            for index, system in enumerate(self.bulk.systems)
        ]
        return recipe_hash("structures", RelaxationStage(self.bulk).recipe, self.bulk.place.root_seed, steps)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The relaxations, if there are any."""
        return (RelaxationStage(self.bulk).folder,) if any(system.relax for system in self.bulk.systems) else ()

    def plan(self) -> list[Task]:
        """Nothing to submit."""
        return []

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """Nothing to judge."""
        return Ok()

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """Build and write in a child process."""
        relax_folder = RelaxationStage(self.bulk).folder
        relaxed: dict[int, int | None] = {}
        if self.sources:
            for row in read_manifest(relax_folder)["facts"]["rows"]:
                relaxed[row["system"]] = row["index"] if row["accepted"] else None
        seeds = {
            index: [self.bulk.seed(index, "perturb", number) for number in range(system.perturb * max(1, len(system.scale)))]
            for index, system in enumerate(self.bulk.systems)
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = self.bulk.fork(
            make_structures, self.folder, self.bulk.systems, starts(self.bulk), relaxed, relax_folder / RELAXED_FILE, seeds
        )
        outputs = [STRUCTURES_FILE] if rows else []
        write_manifest(self.folder, "init_bulk structures", outputs=outputs, facts={**self.provenance(), "rows": rows})


def make_structures(
    folder: Path,
    systems: Sequence[BulkSystem],
    files: Sequence[Start],
    relaxed: Mapping[int, int | None],
    relaxed_file: Path,
    seeds: Mapping[int, Sequence[int]],
) -> list[dict[str, Any]]:
    """Build every structure; returns one row each (runs in a child process).

    Parameters
    ----------
    relaxed
        System → place of its relaxed structure in ``relaxed_file``; None where the relaxation failed: the system is given up.
    """
    from pwact_like.data.formats import read_frames, write_frames
    from pwact_like.data.frames import Frame, Origin

    relaxed_frames = read_frames(relaxed_file, "extxyz") if any(place is not None for place in relaxed.values()) else []
    frames: list[Frame] = []
    rows: list[dict[str, Any]] = []
    for index, system in enumerate(systems):
        if system.relax:
            place = relaxed[index]
            if place is None:
                continue
            start, start_name = relaxed_frames[place].atoms, RELAXED
        else:
            (start,), start_name = read_starts([files[index]]), INITIAL
        for built in build_structures(start, start_name, system, seeds[index].__getitem__):
            rows.append({"system": index, "name": built.name, "final": built.final, "seed": built.seed})
            frames.append(Frame(built.atoms, None, Origin(source=str(files[index][0]), task=built.name, seed=built.seed)))
    if frames:
        write_frames(folder / STRUCTURES_FILE, frames, "extxyz")
    return rows


def iter_structures(bulk: Bulk) -> Iterator[tuple[dict[str, Any], Atoms]]:
    """Row and structure of everything that was built, in order."""
    from pwact_like.data.formats import iter_frames

    folder = bulk.work_folder / "structures"
    rows: list[dict[str, Any]] = read_manifest(folder)["facts"]["rows"]
    if not rows:
        return
    for row, frame in zip(rows, iter_frames(folder / STRUCTURES_FILE, "extxyz"), strict=True):
        yield row, frame.atoms
