"""Readers of the pieces that run and init_bulk share: data paths, stage inputs, labelling."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pwact_like.config.base import Settings
from pwact_like.config.common import DataPath, GaussianParam, StageInput
from pwact_like.config.engines_known import canonical, unknown_engine_cure
from pwact_like.config.inline import all_names, stage_names, takes_options
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.reader import Reader, describe
from pwact_like.config.source import Pairs, Table, plain


def listed(value: Any, path: str) -> Iterator[tuple[Any, str]]:
    """One value or a list of them, each with its JSON path."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield item, f"{path}[{index}]"
    else:
        yield value, path


def read_data_paths(reader: Reader, value: Any, path: str) -> tuple[DataPath, ...] | None:
    """Labelled data: a path, {path, format, virial_sign}, or a list of either; patterns become one entry a match."""
    found: list[DataPath] = []
    good = True
    for item, place in listed(value, path):
        if isinstance(item, Pairs):
            table = reader.table(item, place)
            name = table.get("path") if table else None
            where = table.where("path") if table else place
        else:
            table, name, where = Table(place, {}), item, place
        if not isinstance(name, str) or not name.strip():
            reader.problem(where, f"a path in quotes is wanted here, not {describe(name)}")
            name = None
        files = reader.matches(name, where, folders=True) if name else None
        # one file stands for all matches when the other keys are checked, so that each problem is told once
        model = reader.build(DataPath, table, given={"path": files[0] if files else Path()}, handled=("path",)) if table else None
        if files is None or model is None:
            good = False
            continue
        found.extend(model.model_copy(update={"path": file}) for file in files)
    return tuple(found) if good else None


def read_stage_inputs(reader: Reader, value: Any, path: str, *, engine: str, stage: str) -> tuple[StageInput, ...] | None:
    """Inputs of a stage: a file, {input, kspacing, flag_symm}, or a list of either.

    With an embedded engine an object may hold the engine's own settings instead of an input file.
    """
    found = [_stage_input(reader, item, place, engine, stage) for item, place in listed(value, path)]
    good = [entry for entry in found if entry is not None]
    return tuple(good) if len(good) == len(found) else None


def _stage_input(reader: Reader, value: Any, path: str, engine: str, stage: str) -> StageInput | None:
    if not isinstance(value, Pairs):
        file = reader.path(value, path, what="input file")
        return StageInput(input=file) if file else None
    table = reader.table(value, path)
    if table is None:
        return None
    options, taken = read_options(reader, table, engine, stage_names(engine, stage))
    hints = stage_names(engine, stage)
    return stage_from_table(reader, table, options=options, taken=taken, required=not takes_options(engine), hints=hints)


def stage_from_table(
    reader: Reader, table: Table, *, options: Mapping[str, Any], taken: Collection[str], required: bool, hints: Collection[str] = ()
) -> StageInput | None:
    """A stage's input from {input, kspacing, flag_symm}; ``taken`` keys have been read already."""
    given: dict[str, Any] = {"options": dict(options)}
    failed = set()
    if table.get("input") is not None:
        file = reader.path(table.get("input"), table.where("input"), what="input file")
        if file is None:
            failed.add("input")
        else:
            given["input"] = file
    elif required:
        reader.problem(table.where("input"), "this key is required: the program's input file")
        failed.add("input")
    return reader.build(StageInput, table, given=given, failed=failed, handled=taken, hints=hints)


def read_options(reader: Reader, table: Table, engine: str, names: Collection[str]) -> tuple[dict[str, Any], set[str]]:
    """Settings of an embedded engine: those of ``options``, and those that stand inline in the table.

    Returns
    -------
    tuple
        Lower-case name → value (deeper keys as written), and the keys of the table that were read.
    """
    found: dict[str, Any] = {}
    taken: set[str] = set()
    for key, (_, value) in table.entries.items():
        if _normal(key) in names:
            taken.add(key)
            if value is not None:
                found[_normal(key)] = plain(value)
    if "options" not in table:
        return found, taken
    taken.add("options")
    if not takes_options(engine):
        cure = "write these settings into the program's input file"
        reader.problem(table.where("options"), "inline settings are for the embedded engines (dft_style xtb, ase or bigmodel)", cure)
        return found, taken
    known = all_names(engine)
    inner = reader.table(table.get("options", Pairs(())), table.where("options"))
    for key, (place, value) in inner.entries.items() if inner else ():
        if known and _normal(key) not in known:
            reader.unknown(LabelSettings, place, key, known, train_rule=False)
        elif _normal(key) in found:
            reader.problem(place, f"{key!r} stands beside options too", "keep one of them")
        elif value is not None:
            found[_normal(key)] = plain(value)
    return found, taken


def _normal(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def read_dft_style(reader: Reader, table: Table) -> tuple[str, str]:
    """(dft_style, labelling engine), both canonical; "" for the engine when it is unknown (reported)."""
    style = table.get("dft_style", "pwmat")
    engine = table.get("engine", style)
    for key, value in (("dft_style", style), ("engine", engine)):
        if not isinstance(value, str) or not canonical("label", value):
            reader.problem(table.where(key), f"{describe(value)} is no labelling engine", unknown_engine_cure("label", value))
            return "", ""
    return canonical("label", style), canonical("label", engine)


def read_labelling(
    reader: Reader, table: Table, source: Path, *, style: str, engine: str, options: Mapping[str, Any]
) -> LabelSettings | None:
    """What the labelling program needs, from the keys of ``table`` that LabelSettings has."""
    given: dict[str, Any] = {"options": dict(options), "source": source, "dft_style": style, "engine": engine}
    failed: set[str] = set()
    if table.get("pseudo") is not None:
        given["pseudo"] = tuple(
            reader.path(item, place, what="pseudopotential file") for item, place in listed(table.get("pseudo"), table.where("pseudo"))
        )
        if None in given["pseudo"]:
            del given["pseudo"]
            failed.add("pseudo")
    for key, folder in (("in_skf", True), ("bigmodel_script", False)):
        if table.get(key) is not None:
            file = reader.path(table.get(key), table.where(key), folder=folder)
            if file is None:
                failed.add(key)
            else:
                given[key] = file
    if table.get("gaussian_param") is not None:
        gaussian = read_gaussian(reader, table.get("gaussian_param"), table.where("gaussian_param"), engine)
        if gaussian is None:
            failed.add("gaussian_param")
        else:
            given["gaussian_param"] = gaussian
    if not engine:
        failed.update(("dft_style", "engine"))
    return reader.build(LabelSettings, table.only(model_keys(LabelSettings)), given=given, failed=failed)


def read_gaussian(reader: Reader, value: Any, path: str, engine: str) -> GaussianParam | None:
    """Basis sets and potentials; the lists must match. A bare name that is no file here may be one of CP2K's own data files."""
    table = reader.table(value, path)
    if table is None:
        return None
    given: dict[str, Any] = {}
    failed = set()
    for key in ("basis_set_file", "potential_file"):
        if table.get(key) is None:
            continue
        name = table.get(key)
        if engine == "cp2k" and isinstance(name, str) and name.strip() and Path(name).name == name and not reader.resolve(name).exists():
            given[key] = Path(name)
            reader.note(table.where(key), f"{name} is not in {reader.base}: CP2K's own data file of this name is taken")
            continue
        file = reader.path(name, table.where(key))
        if file is None:
            failed.add(key)
        else:
            given[key] = file
    model = reader.build(GaussianParam, table, given=given, failed=failed)
    if model is None:
        return None
    count = len(model.atom_list)
    good = True
    for key, names in (("basis_set_list", model.basis_set_list), ("potential_list", model.potential_list)):
        if len(names) != count:
            reader.problem(table.where(key), f"{len(names)} entries for {count} elements of atom_list", "give one for each element")
            good = False
    return model if good else None


def model_keys(model: type[Settings]) -> set[str]:
    """Every JSON key (lower-case) of a model that the loader does not fill itself."""
    return {*model.aliases, *(name for name in model.model_fields if name not in model.filled_by_loader)}
