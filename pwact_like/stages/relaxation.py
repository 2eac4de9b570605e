"""The relaxations of init_bulk: the starting structures and, where asked for, what the labelling program makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.errors import DataError
from pwact_like.seeds import sha256_file
from pwact_like.stages.bulk import Asked, Bulk, LabellingStage, recipe_hash, system_name
from pwact_like.stages.crystals import bare

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import StageInput
    from pwact_like.engines.protocols import Labeler

RELAXED_FILE = "relaxed.xyz"  # every relaxed structure, in the order of the accepted rows

Start = tuple[Path, str | None, tuple[bool, bool, bool]]
"""File, format and periodic directions of a starting structure."""


def starts(bulk: Bulk) -> list[Start]:
    """The starting structures' files."""
    return [(system.file, system.format, system.pbc) for system in bulk.systems]


def start_recipe(bulk: Bulk, index: int) -> list[Any]:
    """What of a starting structure decides the results."""
    system = bulk.systems[index]
    return [index, sha256_file(system.file), system.format, system.pbc]


def read_starts(files: Sequence[Start]) -> list[Atoms]:
    """Read starting structures (runs in a child process: the readers are heavy)."""
    from pwact_like.data.formats import read_structure

    return [bare(read_structure(path, format_name), pbc) for path, format_name, pbc in files]


class RelaxationStage(LabellingStage):
    """Relax the structures whose system says so."""

    kind = "relax"

    @property
    def recipe(self) -> str:
        """Structures, inputs and seed."""
        wanted = [
            [start_recipe(self.bulk, index), self.bulk.entry_recipe(self.entry(index), self.labeler)]
            for index, system in enumerate(self.bulk.systems)
            if system.relax
        ]
        return recipe_hash("relax", self.bulk.place.root_seed, wanted)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The user's structures only."""
        return ()

    def entry(self, system: int) -> StageInput:
        """``relax_input[relax_input_idx]``."""
        return self.bulk.param.relax_input[self.bulk.systems[system].relax_input_idx]

    def structures(self) -> Iterator[tuple[Asked, Atoms]]:
        """The starting structures of the systems with ``relax``."""
        wanted = [index for index, system in enumerate(self.bulk.systems) if system.relax]
        files = starts(self.bulk)
        read = self.bulk.fork(read_starts, [files[index] for index in wanted]) if wanted else []
        for index, atoms in zip(wanted, read, strict=True):
            yield Asked(index, system_name(index), self.bulk.seed(index, "relax", 0)), atoms

    def read_results(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep the relaxed structures with every digit; one that cannot be read or has other atoms is a failure."""
        if not rows:
            return rows
        files = starts(self.bulk)
        read: list[dict[str, Any]] = self.bulk.fork(
            read_relaxed, self.bulk.labeler, self.bulk.place.work_dir, self.folder, rows, [files[row["system"]] for row in rows]
        )
        return read

    def product_files(self) -> Sequence[str]:
        """The relaxed structures, if there are any."""
        return [RELAXED_FILE] if (self.folder / RELAXED_FILE).is_file() else []


def read_relaxed(
    labeler: Labeler, work_dir: Path, folder: Path, rows: list[dict[str, Any]], files: Sequence[Start]
) -> list[dict[str, Any]]:
    """Read the accepted relaxations into one file; returns the rows, ``index`` naming the place in it (runs in a child process)."""
    from pwact_like.data.formats import write_frames
    from pwact_like.data.frames import Frame, Origin

    relaxed: list[Frame] = []
    told = []
    for row, start in zip(rows, files, strict=True):
        new = dict(row)
        if row["accepted"]:
            try:
                (frame,) = labeler.read(work_dir / row["folder"], "relax")
                (asked,) = read_starts([start])
                if list(frame.atoms.numbers) != list(asked.numbers):
                    raise DataError("it has other atoms, or in another order, than the structure that was to be relaxed")
                origin = Origin(source=row["folder"], task=row["task"], seed=row["seed"])
                new["index"] = len(relaxed)
                relaxed.append(Frame(bare(frame.atoms, start[2]), frame.label, origin))
            except (DataError, ValueError) as error:
                new |= {"accepted": False, "reason": f"the result cannot be read: {error}"}
        told.append(new)
    if relaxed:
        write_frames(folder / RELAXED_FILE, relaxed, "extxyz")
    return told
