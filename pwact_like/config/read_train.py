"""Reads the training settings: MatPL's nesting, or flat."""

from __future__ import annotations

from typing import Any

from pwact_like.config.base import Settings
from pwact_like.config.deepmd_input import deepmd_input_problems
from pwact_like.config.engines_known import ADAM_TRAINERS, canonical, unknown_engine_cure
from pwact_like.config.matpl_keys import ADAM_ONLY, KALMAN_ONLY
from pwact_like.config.reader import Reader, describe
from pwact_like.config.sections import listed, model_keys, read_data_paths
from pwact_like.config.source import Pairs, Table, plain, read_json_file
from pwact_like.config.train import (
    ChgnetSettings,
    DeepmdSettings,
    Descriptor,
    Fitting,
    LabelledBefore,
    MaceSettings,
    NepSettings,
    Optimizer,
    TrainSettings,
    UncertaintySettings,
)
from pwact_like.errors import InputError

_OWN = model_keys(TrainSettings)
_ENGINES_OWN: dict[str, type[Settings]] = {"chgnet": ChgnetSettings, "nep": NepSettings, "mace": MaceSettings}
_DATA = ("train_data", "valid_data", "test_data")


def read_train(reader: Reader, table: Table, *, engine: str = "embedded") -> TrainSettings | None:
    """Read training settings.

    Parameters
    ----------
    reader
        Where problems and notes go.
    table
        The section (or the whole of TRAIN.json).
    engine
        The training engine, unless the section names one.
    """
    table = _with_input_file(reader, table)
    engine = read_engine_key(reader, table, engine)
    # MatPL hands its own keys on, so they have an effect there
    quiet = engine not in ("embedded", "deepmd", "", *ADAM_TRAINERS)
    given: dict[str, Any] = {
        "engine": engine or "embedded",
        "raw": {path.rpartition(".")[2]: plain(value) for path, value in table.entries.values()},
    }
    failed = set() if engine else {"engine"}

    model = _section(reader, table, "model")
    handled = {"model", "train_input_file", "engine"}
    parts: tuple[tuple[str, str, type[Settings], Table | None], ...] = (
        ("descriptor", "descriptor", Descriptor, model),
        ("fitting", "fitting_net", Fitting, model),
        ("optimizer", "optimizer", Optimizer, None),
    )
    notes_before = len(reader.notes)
    for name, key, kind, outer in parts:
        flat = model_keys(kind) - _OWN - {"network_size", "name"}
        merged, taken = _merge(reader, [(table, key, flat), *([(outer, key, flat)] if outer else [])])
        handled |= {key, name} | taken
        if merged is None:
            failed.add(name)
            continue
        extra: dict[str, Any] = {}
        if kind is Optimizer:
            extra["explicit"] = any(merged.get(alias) is not None for alias in ("optimizer", "opt_name", "name"))
            if engine in ("deepmd", *ADAM_TRAINERS) and not extra["explicit"]:
                extra["name"] = "ADAM"
        built = reader.build(kind, merged, given=extra, train_rule=True)
        if built is None:
            failed.add(name)
            continue
        given[name] = built
        if isinstance(built, Optimizer):
            _optimizer_notes(reader, built, merged, engine)
    if model is not None:
        inside = {"descriptor", "fitting_net", "fitting"} | (model_keys(Descriptor) | model_keys(Fitting)) - {"network_size"}
        for key, (path, _) in model.entries.items():
            if key not in inside:
                reader.unknown(TrainSettings, path, key, inside, train_rule=True)
    for key in _DATA:
        names = [key, *(alias for alias, name in TrainSettings.aliases.items() if name == key and alias in table)]
        for name in names:
            if table.get(name) is not None:
                handled.add(name)
                paths = read_data_paths(reader, table.get(name), table.where(name))
                if paths is None:
                    failed.add(key)
                else:
                    given[key] = (*given.get(key, ()), *paths)
    if table.get("init_model") is not None:
        start = reader.path(table.get("init_model"), table.where("init_model"), what="model")
        if start is None:
            failed.add("init_model")
        else:
            given["init_model"] = start
    if table.get("deepmd") is not None:
        handled.add("deepmd")
        own = _deepmd(reader, table, engine)
        if own is None:
            failed.add("deepmd")
        else:
            given["deepmd"] = own
            if own.input is not None:
                _idle_beside_input(reader, table, given)
    if table.get("uncertainty") is not None:
        handled.add("uncertainty")
        uncertainty = _uncertainty(reader, table.get("uncertainty"), table.where("uncertainty"))
        if uncertainty is None:
            failed.add("uncertainty")
        else:
            given["uncertainty"] = uncertainty
    if engine in ADAM_TRAINERS:
        idle = sorted(name for part in ("descriptor", "fitting") if part in given for name in given[part].model_fields_set)
        if idle:
            reader.note(table.path or "train", f"{', '.join(idle)}: the engine {engine} has a model of its own, so they change nothing")
    for key, kind in _ENGINES_OWN.items():
        if table.get(key) is not None:
            handled.add(key)
            section = _own(reader, table, key, kind, engine)
            if section is None:
                failed.add(key)
            else:
                given[key] = section
    settings = reader.build(TrainSettings, table, given=given, failed=failed, handled=handled, train_rule=True)
    if quiet:
        del reader.notes[notes_before:]
    if settings is not None and settings.format:
        settings = _default_format(settings)
    return settings


def _deepmd(reader: Reader, table: Table, engine: str) -> DeepmdSettings | None:
    """The section ``deepmd``; the user's own input is looked into."""
    path = table.where("deepmd")
    inner = reader.table(table.get("deepmd"), path)
    if inner is None:
        return None
    if engine not in ("deepmd", ""):
        reader.note(path, f"only the engine deepmd uses this; the training engine is {engine}")
    given: dict[str, Any] = {}
    failed = set()
    if inner.get("input") is not None:
        file = reader.path(inner.get("input"), inner.where("input"), what="DeePMD-kit input")
        problems = [] if file is None else deepmd_input_problems(file)
        reader.problems.extend(problems)
        if file is None or problems:
            failed.add("input")
        else:
            given["input"] = file
    return reader.build(DeepmdSettings, inner, given=given, failed=failed)


def _idle_beside_input(reader: Reader, table: Table, given: dict[str, Any]) -> None:
    """Name the settings that the user's own DeePMD-kit input makes idle."""
    used = {"name", "explicit", "epochs"}  # epochs counts where the input has no numb_steps
    idle = [name for key in ("descriptor", "fitting", "optimizer") if key in given for name in sorted(given[key].model_fields_set - used)]
    if given.get("optimizer") is not None and given["optimizer"].explicit:
        idle.append("optimizer")
    if idle:
        reader.note(table.where("deepmd"), f"its input gives the model, the loss and the learning rate: {', '.join(idle)} have no effect")


def _own(reader: Reader, table: Table, key: str, kind: type[Settings], engine: str) -> Settings | None:
    """The section of one engine's own settings."""
    inner = reader.table(table.get(key), table.where(key))
    if inner is not None and engine not in (key, ""):
        reader.note(table.where(key), f"only the engine {key} uses this; the training engine is {engine}")
    if inner is None:
        return None
    given: dict[str, Any] = {}
    failed = set()
    if inner.get("foundation_model") is not None:
        model = reader.path(inner.get("foundation_model"), inner.where("foundation_model"), what="model")
        if model is None:
            failed.add("foundation_model")
        else:
            given["foundation_model"] = model
    if isinstance(inner.get("keywords"), Pairs):
        given["keywords"] = plain(inner.get("keywords"))
    return reader.build(kind, inner, given=given, failed=failed)


def _uncertainty(reader: Reader, value: Any, path: str) -> UncertaintySettings | None:
    """The section ``uncertainty``; ``true`` stands for its defaults."""
    table = Table(path, {}) if value is True else reader.table(value, path)
    if table is None:
        return None
    given: dict[str, Any] = {}
    failed = set()
    entries = table.get("labelled")
    if entries is not None:
        found = []
        for item, place in listed(entries, table.where("labelled")):
            inner = reader.table(item, place)
            if inner is None:
                failed.add("labelled")
                continue
            files = {key: reader.path(inner.get(key), inner.where(key), what=what) for key, what in (("model", "model"), ("kpu", "kpu.pt"))}
            data = read_data_paths(reader, inner.get("data"), inner.where("data"))
            built = None
            if data is not None and all(files.values()):
                built = reader.build(LabelledBefore, inner, given={**files, "data": data}, handled=("model", "kpu", "data"))
            if built is None:
                failed.add("labelled")
            else:
                found.append(built)
        given["labelled"] = tuple(found)
    return reader.build(UncertaintySettings, table, given=given, failed=failed, handled=("labelled",))


def read_engine_key(reader: Reader, table: Table, engine: str) -> str:
    """The trainer that the section names, else ``engine``; "" when its name is unknown (reported)."""
    named = table.get("engine")
    if named is None:
        return engine
    found = canonical("train", named) if isinstance(named, str) else ""
    if not found:
        reader.problem(table.where("engine"), f"{describe(named)} is no training engine", unknown_engine_cure("train", named))
    return found


def _with_input_file(reader: Reader, table: Table) -> Table:
    """Add the keys of ``train_input_file``; keys that stand in param.json itself win."""
    name = table.get("train_input_file")
    if name is None:
        return table
    place = table.where("train_input_file")
    file = reader.path(name, place, what="training settings")
    if file is None or not file.is_file():
        return table
    try:
        value = read_json_file(file)
    except InputError as error:
        reader.problems.extend(error.problems)
        return table
    inner = reader.table(value, place)
    if inner is None:
        return table
    both = sorted(set(inner.entries) & set(table.entries))
    if both:
        reader.note(place, f"{', '.join(both)} of {file.name} give way to the same keys beside it")
    return Table(table.path, {**inner.entries, **table.entries})


def _section(reader: Reader, table: Table, key: str) -> Table | None:
    return reader.table(table.get(key), table.where(key)) if table.get(key) is not None else None


def _merge(reader: Reader, places: list[tuple[Table, str, set[str]]]) -> tuple[Table | None, set[str]]:
    """Gather a section's keys from its own object and from the tables where they stand flat; a key given twice is a problem.

    Returns
    -------
    tuple
        The merged table (None if a piece is no object) and the flat keys of the outermost table that were taken.
    """
    entries: dict[str, tuple[str, Any]] = {}
    taken: set[str] = set()
    good = True
    path = ""
    for number, (outer, key, flat) in enumerate(places):
        pieces = {name: entry for name, entry in outer.entries.items() if name in flat}
        if number == 0:
            taken = set(pieces)
        sources = [pieces]
        value = outer.get(key)
        if not path or key in outer or pieces:
            path = outer.where(key)
        if isinstance(value, str) and key == "optimizer":
            value = Pairs((("optimizer", value),))
        if value is not None:
            inner = reader.table(value, outer.where(key))
            good = good and inner is not None
            sources.append(dict(inner.entries) if inner else {})
        for source in sources:
            for name, entry in source.items():
                if name in entries:
                    reader.problem(entry[0], f"says the same as {entries[name][0]}", "keep one of them")
                else:
                    entries[name] = entry
    return (Table(path, entries) if good else None), taken


def _optimizer_notes(reader: Reader, optimizer: Optimizer, table: Table, engine: str) -> None:
    if engine == "deepmd" and not optimizer.explicit:
        reader.note(table.path, "no optimizer is named: Adam is used, DeePMD-kit's own")
    if engine not in ("embedded", "deepmd", *ADAM_TRAINERS):
        return
    if engine == "embedded" and not optimizer.explicit:
        reader.note(table.path, "no optimizer is named: the Kalman filter LKF is used, as in PWact")
    others = KALMAN_ONLY if optimizer.name == "ADAM" else ADAM_ONLY
    idle = [table.where(key) for key in table.entries if Optimizer.aliases.get(key, key) in others]
    if idle:
        reader.note(table.path, f"{optimizer.name} does not use {', '.join(name.rpartition('.')[2] for name in idle)}")


def _default_format(settings: TrainSettings) -> TrainSettings:
    """``format`` beside the data holds for every path that names none itself."""
    update = {
        key: tuple(path if path.format else path.model_copy(update={"format": settings.format}) for path in getattr(settings, key))
        for key in _DATA
    }
    return settings.model_copy(update=update)
