"""What is looked at before a campaign starts: foreign folders, and the inputs of every later stage.

The labelling program's input is used days after the start; a missing pseudopotential must not wait until then.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.config.load import Loaded, load_run
from pwact_like.engines.protocols import ExploreRequest, ExploreUncertainty, LabelRequest, Trainer, TrainRequest
from pwact_like.engines.registry import explorer_for, labeler_for, trainer_for
from pwact_like.errors import DataError, InputError, NotAvailableError, Problem
from pwact_like.fsio import is_finished, read_manifest, write_json
from pwact_like.stages.exploration import Run, plan_runs
from pwact_like.stages.initial_data import DATASET_FOLDER, DATASET_KIND
from pwact_like.stages.training import compression, known_errors, refuse_no_kpu
from pwact_like.workflows.driver import fork
from pwact_like.workflows.history import iteration_folders

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import DataPath
    from pwact_like.config.examine import Probes
    from pwact_like.config.run import RunParam

MARKER = "made_by_pwact_like.json"  # in dataset: without it, or our manifest, nothing of the campaign's folders is touched
MAX_STRUCTURES = 500


def refuse_foreign(work_dir: Path) -> None:
    """Refuse to write where the user's own files or PWact's iterations lie.

    Raises
    ------
    InputError
        Naming every such place.
    """
    dataset = work_dir / DATASET_FOLDER
    if is_finished(dataset) and read_manifest(dataset).get("kind") == DATASET_KIND:
        return
    problems = []
    if dataset.exists() and (not dataset.is_dir() or any(dataset.iterdir())) and not (dataset / MARKER).is_file():
        problems.append(
            Problem(
                str(dataset),
                "this is there already and was not made by pwact_like, which keeps the campaign's data sets in a folder of this name",
                "rename it (and its paths in init_data), or give another --work-dir; nothing in it was touched",
            )
        )
    foreign = [*iteration_folders(work_dir), *(path for path in (work_dir / "al.record",) if path.exists())]
    if foreign:
        problems.append(
            Problem(
                str(foreign[0]),
                f"{len(foreign)} files or folders of another campaign lie here (PWact's, perhaps), and no {DATASET_FOLDER}/manifest.json "
                "of ours; they are never adopted or overwritten",
                "give another --work-dir; labels in them can be read as init_data",
            )
        )
    if problems:
        raise InputError(problems)


def claim(work_dir: Path) -> None:
    """Mark the folder of the data sets as ours, before anything is written there."""
    dataset = work_dir / DATASET_FOLDER
    if not is_finished(dataset):
        write_json(dataset / MARKER, {"workflow": "run", "what": "the campaign's data sets"})


def look_into(param: Path, resource: Path | None, work_dir: Path | None, lenient: bool, probes: Probes) -> Loaded[RunParam]:
    """Load the settings once more and look into the structures, the data and the inputs of every stage, in a child process.

    Raises
    ------
    InputError
        With every problem.
    """
    loaded: Loaded[RunParam] = fork(_look_into, param, resource, work_dir, lenient, probes)
    return loaded


def no_data(path: DataPath) -> None:
    """Stand in for the probe of data that were taken over before."""


def _look_into(param: Path, resource: Path | None, work_dir: Path | None, lenient: bool, probes: Probes) -> Loaded[RunParam]:
    loaded = load_run(param, resource, work_dir=work_dir, lenient=lenient, probes=probes)
    problems = find_problems(loaded)
    if problems:
        raise InputError(problems)
    if loaded.param.explore.engine == "lammps":
        from pwact_like.engines.explorers.lammps import own_input_notes

        loaded = replace(loaded, notes=(*loaded.notes, *own_input_notes(loaded.param.explore)))
    return loaded


def find_problems(loaded: Loaded[RunParam]) -> list[Problem]:
    """Write one input of each kind into a folder that is thrown away; what the engines refuse, each problem once."""
    found: dict[Problem, None] = {}
    with tempfile.TemporaryDirectory(prefix="pwact_like_rehearsal_") as scratch:
        _try(_steps(loaded, Path(scratch)), found)
    return list(found)


def models_problems(param: RunParam) -> list[Problem]:
    """Look into the models of init_model_list; what the trainer refuses of them, each problem once."""
    found: dict[Problem, None] = {}
    _try(_models_steps(param, trainer_for(param.train)), found)
    return list(found)


Step = tuple[str, Path | None, Callable[[], Any]]
"""Name for messages, folder that it stands for in them, what to try."""


def _try(steps: Iterator[Step], found: dict[Problem, None]) -> None:
    for name, folder, step in steps:
        # the scratch folder means nothing to the user: the structure does
        scratch = "" if folder is None else str(folder)
        try:
            step()
        except InputError as error:
            for problem in error.problems:
                where, what = (text.replace(scratch, name) if scratch else text for text in (problem.where, problem.what))
                found[Problem(where, what, problem.cure)] = None
        except (NotAvailableError, DataError) as error:
            found[Problem(name, str(error).replace(scratch, name) if scratch else str(error))] = None


def _models_steps(param: RunParam, trainer: Trainer) -> Iterator[Step]:
    learned = param.strategy.learned
    for model in param.init_model_list:
        if learned is not None:
            yield "init_model_list", None, partial(known_errors, trainer, model, learned.kind, "init_model_list")
        yield "init_model_list", None, partial(trainer.taken_over, model)
    if learned is None:
        yield "init_model_list", None, partial(trainer.refuse_committee, param.init_model_list)


def _steps(loaded: Loaded[RunParam], scratch: Path) -> Iterator[Step]:
    """Of every kind of task that the campaign will have."""
    param, resource = loaded.param, loaded.resource
    commands = {name: "" if (section := getattr(resource, name)) is None else section.command for name in ("train", "explore", "dft")}
    trainer, explorer, labeler = trainer_for(param.train), explorer_for(param.explore), labeler_for(param.dft.labelling)
    learned = param.strategy.learned
    training = TrainRequest(
        param.init_data, param.valid_data, param.test_data, param.train, seed=1, uncertainty=learned, compress=compression(param.strategy)
    )
    if learned is not None:
        for engine in (trainer, explorer):
            yield "strategy.uncertainty", scratch, partial(refuse_no_kpu, engine)
    yield from _models_steps(param, trainer)
    yield "train", scratch, partial(trainer.commands, commands["train"], training)
    if param.init_data:
        yield "train", scratch / "train", partial(trainer.write, scratch / "train", training)
    count = 1 if param.strategy.uncertainty == "kpu" else param.strategy.model_num
    models = tuple(Path(f"{index}/{trainer.model_file}") for index in range(count))
    uncertainty = None if learned is None else ExploreUncertainty(learned.kind, Path("0/kpu"), param.strategy.kpu_scale)
    for number, (run, atoms) in enumerate(_kinds(param)):
        name, folder = str(run.structure), scratch / str(number)
        request = ExploreRequest(atoms, models, run.md, 1, None, run.lmps_in, uncertainty)
        yield name, folder, partial(_refuse_no_cell, param, name, atoms)
        yield name, folder / "md", partial(explorer.write, folder / "md", request)
        yield "explore", folder, partial(explorer.commands, commands["explore"], request)
        frame = atoms.copy()
        frame.pbc = run.md.boundary
        label = LabelRequest("scf", frame, param.dft.entry, seed=1)
        yield name, folder / "scf", partial(labeler.write, folder / "scf", label)
        yield "DFT", folder, partial(labeler.commands, commands["dft"], label)


def _kinds(param: RunParam) -> Iterator[tuple[Run, Atoms]]:
    """One trajectory of each kind (elements, cell, ensemble, boundaries, LAMMPS input) among all entries of md_jobs."""
    from pwact_like.data.formats import read_structure

    structures: dict[tuple[Path, str | None], Atoms] = {}
    seen = set()
    for entry in param.explore.md_jobs:
        for run in plan_runs(entry, param.explore.sys_configs, param.strategy.max_select, param.explore.lmps_in):
            place = (run.structure, run.format)
            if place not in structures:
                if len(structures) >= MAX_STRUCTURES:
                    continue
                structures[place] = read_structure(*place)
            atoms = structures[place]
            kind = (frozenset(atoms.numbers.tolist()), atoms.cell.rank, run.md.ensemble, run.md.boundary, run.lmps_in)
            if kind not in seen:
                seen.add(kind)
                yield run, atoms


def _refuse_no_cell(param: RunParam, name: str, atoms: Atoms) -> None:
    if param.data_format == "pwmlff/npy" and atoms.cell.rank < 3:
        raise InputError(Problem(name, "a structure without cell cannot be written as pwmlff/npy", 'set data_format to "extxyz"'))
