"""Loads param.json and resource.json: all problems at once, or settings that are whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pwact_like.config.base import Settings
from pwact_like.config.engines_known import unavailable
from pwact_like.config.examine import Probes
from pwact_like.config.init_bulk import InitBulkParam
from pwact_like.config.pieces import ResourceView, find_work_dir
from pwact_like.config.read_init_bulk import read_init_bulk
from pwact_like.config.read_resource import read_resource
from pwact_like.config.read_run import read_run
from pwact_like.config.read_train import read_train
from pwact_like.config.reader import Reader
from pwact_like.config.resource import Resource
from pwact_like.config.run import RunParam
from pwact_like.config.source import Pairs, Table, read_json_file
from pwact_like.config.train import TrainSettings
from pwact_like.errors import InputError, Problem

Param = TypeVar("Param", bound=Settings)
Kind = Literal["run", "init_bulk"]

_RUN_KEYS = frozenset({"train", "train_input_file", "strategy", "explore", "dft", "init_data", "init_model_list"})
_BULK_KEYS = frozenset({"sys_configs", "relax_input", "aimd_input", "scf_input", "bigmodel_input", "direct_input"})


@dataclass(frozen=True)
class Loaded(Generic[Param]):
    """A pair of settings files, whole and checked.

    Attributes
    ----------
    param
        param.json as a model.
    resource
        resource.json as a model; the defaults (local scheduler) where it was left out.
    notes
        What the user should know: keys without effect, engines that are not built here, and the like.
    """

    param: Param
    resource: Resource
    notes: tuple[str, ...] = ()


def load_run(
    param: Path, resource: Path | None = None, work_dir: Path | None = None, lenient: bool = False, probes: Probes | None = None
) -> Loaded[RunParam]:
    """Load the settings of ``run``.

    Parameters
    ----------
    param, resource
        The files; without resource.json everything runs here with the engines' own commands.
    work_dir
        Overrides work_dir of param.json.
    lenient
        Unknown keys are notes instead of problems.
    probes
        Readers of structures and data (from the data room): with them those are looked into as well.

    Raises
    ------
    InputError
        With every problem of both files.
    """
    return _load(param, resource, work_dir, lenient, "run", partial(read_run, probes=probes))


def load_init_bulk(
    param: Path, resource: Path | None = None, work_dir: Path | None = None, lenient: bool = False, probes: Probes | None = None
) -> Loaded[InitBulkParam]:
    """Load the settings of ``init_bulk``; see `load_run`."""
    return _load(param, resource, work_dir, lenient, "init_bulk", partial(read_init_bulk, probes=probes))


def load_train(path: Path, base: Path | None = None, lenient: bool = False) -> tuple[TrainSettings, tuple[str, ...]]:
    """Load TRAIN.json of ``pwact-like train``: (settings, notes); relative paths start at ``base`` (default: the current folder).

    Raises
    ------
    InputError
        With every problem.
    """
    reader = Reader(str(path), base or Path.cwd(), lenient)
    table = reader.table(read_json_file(path), "")
    settings = read_train(reader, table) if table else None
    if table is not None and table.get("train_data") is None and not any(key in table for key in ("datasets_path", "raw_files")):
        reader.problem("train_data", "this key is required: labelled data to train on")
    wanted = None if settings is None else settings.uncertainty
    if settings is not None and wanted is not None and wanted.posterior == "filter" and settings.optimizer.name != "LKF":
        reader.problem(
            "uncertainty.posterior",
            f"filter is the covariance of the optimizer LKF, not of {settings.optimizer.name}",
            "use laplace, or LKF",
        )
    if reader.problems or settings is None:
        raise InputError(reader.problems)
    return settings, tuple(reader.notes)


def kind_of(path: Path) -> Kind:
    """Which command a param file is for, by its keys.

    Raises
    ------
    InputError
        When the file cannot be read, or it could be neither.
    """
    reader = Reader(str(path), Path.cwd())
    table = reader.table(read_json_file(path), "")
    if table is None:
        raise InputError(reader.problems)
    kind = _kind(table)
    if kind is None:
        what = "this is neither a param file of run (train, explore, DFT, …) nor one of init_bulk (sys_configs, …)"
        raise InputError(Problem(str(path), what, "give param.json first, then resource.json"))
    return kind


def _kind(table: Table) -> Kind | None:
    run, bulk = len(_RUN_KEYS & set(table.entries)), len(_BULK_KEYS & set(table.entries))
    if run == bulk == 0:
        return None
    # resource.json has train, explore and DFT too, each with a command
    sections = [value for key, (_, value) in table.entries.items() if key in ("train", "explore", "dft", "direct")]
    if not bulk and run == len(sections):
        commands = [isinstance(value, Pairs) and any(key.lower() == "command" for key, _ in value.items) for value in sections]
        if all(commands):
            return None
    return "run" if run >= bulk else "init_bulk"


def _load(
    param: Path,
    resource: Path | None,
    work_dir: Path | None,
    lenient: bool,
    kind: Kind,
    read: Callable[[Reader, Table, ResourceView, Path], Param | None],
) -> Loaded[Param]:
    problems: list[Problem] = []
    view = _load_resource(resource, lenient, problems)
    reader = Reader(str(param), Path.cwd(), lenient)
    found = None
    try:
        found = _load_param(param, work_dir, kind, read, view, reader)
    except InputError as error:
        reader.problems.extend(error.problems)
    readers = [reader, *([view.reader] if view.reader else [])]
    problems = [*(problem for each in readers for problem in each.problems), *problems]
    if problems or found is None:
        raise InputError(problems)
    notes = [note for each in readers for note in each.notes]
    loaded = Loaded(found, view.resource or Resource(scheduler="local"), ())
    refused = [f"{problem}; {kind} refuses it" for problem in unavailable(loaded)]
    return Loaded(loaded.param, loaded.resource, (*notes, *refused))


def _load_resource(path: Path | None, lenient: bool, problems: list[Problem]) -> ResourceView:
    if path is None:
        return ResourceView(None, None)
    reader = Reader(str(path), Path.cwd(), lenient)
    try:
        table = reader.table(read_json_file(path), "")
    except InputError as error:
        problems.extend(error.problems)
        return ResourceView(None, None)
    return ResourceView(reader, read_resource(reader, table) if table else None)


def _load_param(
    path: Path,
    work_dir: Path | None,
    kind: Kind,
    read: Callable[[Reader, Table, ResourceView, Path], Param | None],
    view: ResourceView,
    reader: Reader,
) -> Param | None:
    table = reader.table(read_json_file(path), "")
    if table is None:
        return None
    other = _kind(table)
    if other is not None and other != kind:
        reader.problem("", f"this is a param file of {other}, not of {kind}", f"pwact-like {other} {path} …")
        return None
    reader.base, wrong = find_work_dir(table, work_dir)
    if wrong:
        reader.base_exists = False
        named = work_dir is None
        reader.problem(table.where("work_dir") if named else "", wrong, "--work-dir DIR overrides it, e.g. --work-dir ." if named else "")
    return read(reader, table, view, path)
