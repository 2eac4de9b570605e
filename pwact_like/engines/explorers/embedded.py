"""The embedded explorer: ``pwact-like md`` with the embedded potentials."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pwact_like.config.train import KPU_FILE
from pwact_like.engines.explorers.batch_files import BATCH_CHECKPOINT, BatchExplorer
from pwact_like.engines.explorers.md_files import CHECKPOINT, LOG, RESULT, TABLE, TRAJECTORY, MdResult
from pwact_like.engines.explorers.md_input import MD_JSON, START, STOP_DEVIATION_LEVELS, to_json
from pwact_like.engines.launcher import own_command
from pwact_like.engines.protocols import ExploreRequest, Trajectory
from pwact_like.errors import DataError, InputError, NotAvailableError, Problem
from pwact_like.fsio import write_json, write_text
from pwact_like.outcome import Ok, Outcome, Reject, TaskFiles

if TYPE_CHECKING:
    from ase import Atoms


class EmbeddedExplorer(BatchExplorer):
    """One trajectory, or a batch of them, is one call of ``pwact-like md``; everything it needs lies in the task's folder."""

    name: ClassVar[str] = "embedded"
    can_kpu = True

    def write(self, folder: Path, request: ExploreRequest) -> TaskFiles:
        """Write md.json and start.xyz; the models and kpu.pt are links.

        Raises
        ------
        InputError
            For models that give no deviation, or settings that cannot be run.
        NotAvailableError
            For a LAMMPS input of the user's own.
        """
        linked = _write_run(folder, request, "")
        return TaskFiles(
            inputs=(MD_JSON, START),
            links=linked,
            outputs=(TRAJECTORY, TABLE, RESULT),
            optional_outputs=(LOG,),
            carry=(CHECKPOINT, TRAJECTORY, TABLE, LOG),
            checkpoints=(CHECKPOINT,),
        )

    def write_batch(self, folder: Path, requests: Mapping[str, ExploreRequest]) -> TaskFiles:
        """A run's md.json and start.xyz lie in a folder of its own; models and kpu.pt are linked once, beside these folders.

        Raises
        ------
        InputError, NotAvailableError
            See `write`.
        """
        linked = [_write_run(folder / name, request, "../") for name, request in requests.items()]
        if any(links != linked[0] for links in linked):
            raise InputError(Problem(str(folder), "runs with different models cannot share a process", "set explore.md_batch to 1"))
        # what was left over when runs were shared out is run as any single one is, with the checkpoint in its own folder
        checkpoint = BATCH_CHECKPOINT if len(requests) > 1 else f"{next(iter(requests))}/{CHECKPOINT}"
        return TaskFiles(
            inputs=tuple(f"{name}/{file}" for name in requests for file in (MD_JSON, START)),
            links=linked[0],
            outputs=tuple(f"{name}/{RESULT}" for name in requests),
            optional_outputs=tuple(f"{name}/{file}" for name in requests for file in (TRAJECTORY, TABLE, LOG)),
            carry=(checkpoint, *(f"{name}/{file}" for name in requests for file in (TRAJECTORY, TABLE, LOG))),
            checkpoints=(checkpoint,),
        )

    def batch_commands(self, command: str, requests: Mapping[str, ExploreRequest]) -> tuple[str, ...]:
        """``pwact-like md`` with every run's md.json."""
        return (" ".join([own_command(command, "md"), *(shlex.quote(f"{name}/{MD_JSON}") for name in requests)]),)

    def commands(self, command: str, request: ExploreRequest) -> tuple[str, ...]:
        """``pwact-like md md.json``, through the user's launcher if resource.json names one (``mpirun … pwact-like``)."""
        return (f"{own_command(command, 'md')} {MD_JSON}",)

    def outcome(self, folder: Path) -> Outcome:
        """Ok with a note for a run that ended early and left frames."""
        try:
            result = MdResult.read(folder)
        except DataError as error:
            return Reject(str(error))
        if result.frames == 0:
            return Reject(f"no frame was written: {result.ended}")
        missing = [name for name in (TRAJECTORY, TABLE) if not (folder / name).is_file()]
        if missing:
            return Reject(f"{' and '.join(missing)} missing in {folder}")
        if result.ended:
            return Ok(f"ended early with {result.frames} of {result.frames_planned} frames: {result.ended}")
        return Ok()

    def read(self, folder: Path) -> Trajectory:
        """Trajectory, table, and why it ended early."""
        for name in (TRAJECTORY, TABLE):
            if not (folder / name).is_file():
                raise DataError(f"{folder / name} is missing; was the folder cleaned?")
        return Trajectory(folder / TRAJECTORY, folder / TABLE, MdResult.read(folder).ended)

    def frames(self, folder: Path, steps: Iterable[int]) -> list[Atoms]:
        """Fetch by step, reading only these frames."""
        from pwact_like.data.xyz_trajectory import fetch_steps

        return fetch_steps(folder / TRAJECTORY, steps)

    def thin(self, folder: Path, steps: Iterable[int]) -> None:
        """Keep these steps only."""
        from pwact_like.data.xyz_trajectory import keep_steps

        keep_steps(folder / TRAJECTORY, steps)

    def version(self) -> str:
        """The package's own."""
        from pwact_like import __version__

        return __version__


def _write_run(folder: Path, request: ExploreRequest, to_models: str) -> tuple[tuple[str, str], ...]:
    """Write md.json and start.xyz; returns the links that md.json counts on at ``to_models``."""
    from pwact_like.data.formats.xyz_text import format_frame

    if request.lmps_in is not None:
        raise NotAvailableError(
            f"{request.lmps_in}: the embedded MD reads no LAMMPS input; give nsteps, ensemble and temps in md_jobs, "
            "or explore with LAMMPS (explore.command in resource.json)"
        )
    kpu = request.uncertainty
    if kpu is None and len(request.models) < 2:
        raise InputError(
            Problem(str(folder), "a deviation needs a committee of at least two models", "set strategy.model_num to 3 or more")
        )
    if kpu is not None and (len(request.models) > 1) != (kpu.kind == "kpu-committee"):
        wanted = "the model and its members" if kpu.kind == "kpu-committee" else "one model"
        raise InputError(Problem(str(folder), f"{kpu.kind} wants {wanted}, and there are {len(request.models)} models"))
    if len(request.atoms) < 2:
        raise InputError(Problem(str(folder), "one atom: molecular dynamics needs at least two", "take a supercell"))
    if request.md.boundary and request.atoms.cell.rank < 3:
        raise InputError(
            Problem(str(folder), "the start structure has no cell of three vectors", "give one, or set boundary to false in md_jobs")
        )
    names = tuple(f"model.{index:03d}{path.suffix}" for index, path in enumerate(request.models))
    atoms = request.atoms.copy()
    atoms.pbc = request.md.boundary
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / START, format_frame(atoms, {"step": 0}))
    stop = None if request.upper_level is None else STOP_DEVIATION_LEVELS * request.upper_level
    there = tuple(to_models + name for name in names)
    write_json(folder / MD_JSON, to_json(request.md, there, request.seed, stop, kpu, to_models + KPU_FILE))
    linked = [*zip(names, request.models, strict=True), *([(KPU_FILE, kpu.kpu)] if kpu is not None else [])]
    return tuple((name, str(path.resolve())) for name, path in linked)
