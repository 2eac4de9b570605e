"""Several runs of molecular dynamics in one process, step by step together: the potential is asked once a step for all of them.

Each run keeps its own folder, files, seed and end; one that goes astray, fails or is done leaves the others. Together they have one
checkpoint, of one step: the last bits of a result depend on who is evaluated with whom, so an interrupted batch goes on in the company
it had, and ends with the bytes of one that was not interrupted. Against a run alone its trajectories differ by rounding.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pwact_like.engines.explorers import md_files
from pwact_like.engines.explorers.dynamics import AstrayError, MdLoop, Progress, fingerprint_of, finite_numbers, start_structure
from pwact_like.engines.explorers.md_files import MdFiles, MdResult, checkpoint_from, read_arrays, strange_checkpoint, write_arrays
from pwact_like.engines.explorers.md_input import MdInput
from pwact_like.engines.explorers.potential import Assessment, Driven, Potential
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.seeds import sha256_file
from pwact_like.time_limit import TimeLimit, out_of_time

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class BatchRun:
    """One run of a batch: where its files go, its start structure, its settings."""

    folder: Path
    atoms: Atoms
    settings: MdInput


def run_batch(runs: Sequence[BatchRun], potential: Potential, checkpoint: Path, progress: Progress | None = None) -> list[MdResult]:
    """Run all of them, or go on from their checkpoint; each leaves in its own folder what `run_md` leaves.

    Parameters
    ----------
    runs
        All with the same models and the same kind of uncertainty, which are those of ``potential``; structures and settings may differ.
    potential
        What drives the atoms.
    checkpoint
        File of the checkpoint of all; it is written every so many steps as the greatest ``checkpoint_steps`` of the runs says.
    progress
        Called with the number of the step.

    Returns
    -------
    results
        In the order of ``runs``. A structure that cannot be run, or not be evaluated, ends its run with 0 frames and the reason.

    Raises
    ------
    InputError
        When the runs do not belong together, or the checkpoint belongs to other ones.
    OutOfTimeError
        When the job's time is nearly over; the checkpoint is written.
    """
    refuse_mixed(runs)
    with ExitStack() as stack:
        return _Batch(runs, potential, checkpoint, stack).run(progress)


def refuse_mixed(runs: Sequence[BatchRun]) -> None:
    """Refuse runs with different models, or two in one folder."""
    first, *others = runs
    problems = [
        Problem(str(run.folder), f"its models or its uncertainty are not those of {first.folder}", "run it by itself")
        for run in others
        if _resolved(run.settings) != _resolved(first.settings)
    ]
    folders = [run.folder.resolve() for run in runs]
    problems += [Problem(str(folder), "given twice") for folder in dict.fromkeys(folders) if folders.count(folder) > 1]
    if problems:
        raise InputError(problems)


def _resolved(settings: MdInput) -> tuple[Any, ...]:
    uncertainty = settings.uncertainty
    known = None if uncertainty is None else replace(uncertainty, kpu=uncertainty.kpu.resolve())
    return *(path.resolve() for path in settings.models), known


class _Batch:
    """All runs of a process, those that still run as loops with their open files."""

    def __init__(self, runs: Sequence[BatchRun], potential: Potential, checkpoint: Path, stack: ExitStack) -> None:
        self.runs = runs
        self.potential = potential
        self.checkpoint = checkpoint
        self.results: dict[int, MdResult] = {}
        self.loops: dict[int, MdLoop] = {}
        self.files: dict[int, MdFiles] = {}
        self.left: dict[int, dict[str, np.int64]] = {}  # how long the files of those are that are done
        self.saved_at = time.monotonic()
        hash_of = cache(sha256_file)  # the models are the same for all
        for number, run in enumerate(runs):
            try:
                atoms = start_structure(run.atoms, run.settings)
            except InputError as error:
                self._end(number, str(error))
                continue
            self.loops[number] = MdLoop(atoms, potential, run.settings, fingerprint_of(atoms, run.settings, hash_of))
        digest = hashlib.sha256(repr([(n, loop.fingerprint, runs[n].settings.md.nsteps) for n, loop in self.loops.items()]).encode())
        self.fingerprint = digest.hexdigest()
        stored = self._load()
        if stored is None:
            checkpoint.unlink(missing_ok=True)
            begun = self._begin()
            self._open(stack, dict.fromkeys(self.loops))
            for number, astray in begun.items():
                self._end(number, astray)
            for number in list(self.loops):
                self._guarded(number, lambda loop, files: loop.add_frame(files))
        else:
            self._resume(stack, stored)

    def run(self, progress: Progress | None) -> list[MdResult]:
        """All steps of all runs."""
        every = max(run.settings.checkpoint_steps for run in self.runs)
        limit = TimeLimit()
        self._leave_the_done()
        while self.loops:
            step = self._one_step()
            if progress is not None:
                progress(step)
            if every and self.loops and step % every == 0:
                # the neighbour lists of a batch that goes on must be those that a resumed one makes anew
                self.potential.forget()
                self._save(insist=limit.is_near)
                if limit.is_near:
                    raise out_of_time(f"stopped after step {step} with {len(self.loops)} of {len(self.runs)} runs not done")
        return [self.results[number] for number in range(len(self.runs))]

    def _begin(self) -> dict[int, str]:
        """Evaluate the start structures, before a file is touched; returns why some cannot be run."""
        astray = {}
        for number, loop in self.loops.items():
            try:
                loop.start()
            except AstrayError as error:
                astray[number] = str(error)
        found = self._ask(number for number in self.loops if number not in astray)
        for number, said in found.items():
            try:
                self.loops[number].take(_or_raise(said))
            except AstrayError as error:
                astray[number] = str(error)
        return astray

    def _one_step(self) -> int:
        for number in list(self.loops):
            self._guarded(number, lambda loop, _: loop.begin_step())
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._ask(self.loops)
        step = 0
        for number, said in found.items():
            step = self.loops[number].step
            self._guarded(number, lambda loop, files, said=said: _finish(loop, files, said))  # type: ignore[misc]
        self._leave_the_done()
        return step

    def _ask(self, numbers: Iterable[int]) -> dict[int, Driven | Assessment | DataError]:
        """What the potential says of each structure, or why it cannot be evaluated."""
        asked = {number: self.loops[number] for number in numbers}
        found: dict[int, Driven | Assessment | DataError] = {}
        for assess in (False, True):
            structures = {number: loop.atoms for number, loop in asked.items() if loop.assess_now is assess}
            try:
                found |= self._evaluate(structures, assess)
            except DataError:
                for number, atoms in structures.items():  # one of them spoils it for all: which?
                    try:
                        found |= self._evaluate({number: atoms}, assess)
                    except DataError as error:
                        found[number] = error
        return {number: found[number] for number in asked}

    def _evaluate(self, structures: Mapping[int, Atoms], assess: bool) -> Mapping[int, Driven | Assessment]:
        if not structures:
            return {}
        return self.potential.assess_all(structures) if assess else self.potential.drive_all(structures)

    def _guarded(self, number: int, work: Any) -> None:
        """A part of a run's step; a run that goes astray in it leaves."""
        loop = self.loops[number]
        try:
            with finite_numbers():
                work(loop, self.files[number])
        except AstrayError as astray:
            self._end(number, str(astray))

    def _leave_the_done(self) -> None:
        for number, loop in list(self.loops.items()):
            if loop.step >= self.runs[number].settings.md.nsteps:
                self._end(number, "")

    def _end(self, number: int, why: str) -> None:
        loop, files, run = self.loops.pop(number, None), self.files.get(number), self.runs[number]
        step, frames = (loop.step, loop.frames) if loop is not None else (0, 0)
        if files is not None:
            files.close()
            self.left[number] = files.sizes()
        self._tell(number, MdResult(f"step {step}: {why}" if why else "", step, frames, run.settings.md.frames_planned))

    def _tell(self, number: int, result: MdResult) -> None:
        self.results[number] = result
        self.runs[number].folder.mkdir(parents=True, exist_ok=True)
        result.write(self.runs[number].folder)

    def _open(self, stack: ExitStack, sizes: Mapping[int, Mapping[str, int] | None]) -> None:
        table = (self.potential.kind, self.potential.unit) if self.potential.kind else None
        for number in self.loops:
            self.files[number] = stack.enter_context(MdFiles(self.runs[number].folder, table=table, sizes=sizes[number]))

    def _save(self, insist: bool) -> None:
        now = time.monotonic()
        if now - self.saved_at < md_files.CHECKPOINT_SECONDS and not insist:
            return
        self.saved_at = now
        arrays: dict[str, Any] = {"fingerprint": np.str_(self.fingerprint)}
        own: dict[int, dict[str, Any]] = {n: {**loop.snapshot(), **self.files[n].sizes()} for n, loop in self.loops.items()}
        for number, sizes in self.left.items():
            result = self.results[number]
            ended = {"ended": np.str_(result.ended), "step": np.int64(result.step), "frames": np.int64(result.frames)}
            own[number] = {**ended, **sizes}
        arrays |= {f"{number}.{name}": value for number, content in own.items() for name, value in content.items()}
        write_arrays(self.checkpoint, arrays)

    def _load(self) -> dict[int, md_files.Checkpoint] | None:
        content = read_arrays(self.checkpoint)
        if content is None:
            return None
        if str(content.pop("fingerprint", "")) != self.fingerprint:
            raise strange_checkpoint(self.checkpoint)
        found = {}
        for number in self.loops:
            own = {name.partition(".")[2]: value for name, value in content.items() if name.partition(".")[0] == str(number)}
            stored = checkpoint_from(own, self.runs[number].folder)
            if stored is None:
                return None  # one that begins anew would be at another step than the rest: all do
            found[number] = stored
        return found

    def _resume(self, stack: ExitStack, stored: Mapping[int, md_files.Checkpoint]) -> None:
        for number, own in stored.items():
            loop = self.loops[number]
            if "ended" not in own.arrays:
                loop.resume(own.arrays)
                continue
            self.loops.pop(number)
            self.left[number] = {f"size.{name}": np.int64(size) for name, size in own.sizes.items()}
            for name, size in own.sizes.items():
                os.truncate(self.runs[number].folder / name, size)
            step, frames = int(own.arrays["step"]), int(own.arrays["frames"])
            self._tell(number, MdResult(str(own.arrays["ended"]), step, frames, self.runs[number].settings.md.frames_planned))
        self._open(stack, {number: own.sizes for number, own in stored.items()})


def _or_raise(said: Driven | Assessment | DataError) -> Driven | Assessment:
    if isinstance(said, DataError):
        raise AstrayError(str(said)) from said
    return said


def _finish(loop: MdLoop, files: MdFiles, said: Driven | Assessment | DataError) -> None:
    loop.finish_step(_or_raise(said))
    if loop.is_frame:
        loop.add_frame(files)
