"""Reads init_param.json of ``init_bulk``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pwact_like.config.common import StageInput
from pwact_like.config.engines_known import needs_command
from pwact_like.config.examine import Probes, examine_init_bulk
from pwact_like.config.init_bulk import BulkSystem, InitBulkParam
from pwact_like.config.inline import ENGINE_OPTIONS, takes_options
from pwact_like.config.input_files import check_stage_input
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.pieces import ResourceView, campaign_name
from pwact_like.config.reader import Reader, describe
from pwact_like.config.sections import (
    listed,
    model_keys,
    read_dft_style,
    read_labelling,
    read_options,
    read_stage_inputs,
)
from pwact_like.config.source import Table

# stage → (its list of inputs, whether the labelling program runs it)
STAGES = {"relax": ("relax_input", True), "aimd": ("aimd_input", True), "scf": ("scf_input", True), "bigmodel": ("bigmodel_input", False)}


def read_init_bulk(
    reader: Reader, table: Table, resources: ResourceView, source: Path, probes: Probes | None = None
) -> InitBulkParam | None:
    """Read init_param.json; every problem goes to the reader. With probes, structures are looked into."""
    given: dict[str, Any] = {"work_dir": reader.base, "campaign": campaign_name(table, reader.base), "source": source}
    failed: set[str] = set()
    style, engine = read_dft_style(reader, table)

    for stage, (key, by_program) in STAGES.items():
        if table.get(key) is not None:
            # a big model's entry is a script, or the settings of a model and its MD
            program, kind = (engine, stage) if by_program else ("bigmodel", "aimd")
            inputs = read_stage_inputs(reader, table.get(key), table.where(key), engine=program, stage=kind)
            if inputs is None:
                failed.add(key)
            else:
                given[key] = inputs
    if table.get("direct_input") is not None:
        scripts = tuple(
            reader.path(item, place, what="script") for item, place in listed(table.get("direct_input"), table.where("direct_input"))
        )
        if None in scripts:
            failed.add("direct_input")
        else:
            given["direct_input"] = scripts

    systems = _systems(reader, table)
    if systems is None:
        failed.add("sys_configs")
    else:
        given["sys_configs"] = tuple(system for system, _ in systems)
        if engine:
            given.update(_stage_checks(reader, table, resources, systems, given, failed, engine))

    label_keys = model_keys(LabelSettings)
    options, taken = read_options(reader, table, engine, ENGINE_OPTIONS.get(engine, frozenset()))
    labelling = read_labelling(reader, table, source, style=style, engine=engine, options=options)
    if labelling is None:
        failed.add("labelling")
    else:
        given["labelling"] = labelling
    label_inputs: list[StageInput] = []
    for stage, (key, by_program) in STAGES.items():
        for index, entry in enumerate(given.get(key, ()) if by_program else ()):
            label_inputs.append(entry)
            place = f"{table.where(key)}[{index}]" if isinstance(table.get(key), list) else table.where(key)
            check_stage_input(reader, place, engine, stage, entry, labelling)
    if probes is not None and reader.base_exists:
        examine_init_bulk(reader, probes, systems or (), labelling, label_inputs, table.where("pseudo"))
    handled = label_keys | taken | ENGINE_OPTIONS.get(engine, frozenset())
    return reader.build(InitBulkParam, table, given=given, failed=failed, handled=handled)


def _systems(reader: Reader, table: Table) -> list[tuple[BulkSystem, Table]] | None:
    value = table.get("sys_configs")
    if value is None:
        reader.problem("sys_configs", "this key is required: the starting structures")
        return None
    prefix = table.get("sys_config_prefix", "")
    prefix = prefix if isinstance(prefix, str) else ""
    found: list[tuple[BulkSystem, Table]] = []
    good = True
    for item, place in listed(value, table.where("sys_configs")):
        section = Table(place, {"config": (place, item)}) if isinstance(item, str) else reader.table(item, place)
        if section is None:
            good = False
            continue
        name, where = section.get("config"), section.where("config")
        files = None
        if isinstance(name, str) and name.strip():
            files = reader.matches(str(Path(prefix) / name) if prefix else name, where)
        elif name is not None:
            reader.problem(where, f"a path in quotes is wanted here, not {describe(name)}")
        known = section.only(key for key in section.entries if key != "config" or isinstance(name, str))
        failed = {key for key, bad in (("file", files is None), ("config", name is not None and not isinstance(name, str))) if bad}
        system = reader.build(BulkSystem, known, given={"file": files[0]} if files else {}, failed=failed)
        if system is None or files is None:
            good = False
            continue
        found.extend((system.model_copy(update={"file": file}), section) for file in files)
    if not found and good:
        reader.problem(table.where("sys_configs"), "no structure is named")
        return None
    return found if good else None


def _stage_checks(
    reader: Reader,
    table: Table,
    resources: ResourceView,
    systems: list[tuple[BulkSystem, Table]],
    given: dict[str, Any],
    failed: set[str],
    engine: str,
) -> dict[str, Any]:
    """Every stage that a structure uses has an input; returns the inputs that embedded engines may leave out."""
    extra: dict[str, Any] = {}
    for stage, (key, by_program) in STAGES.items():
        users = [(system, section) for system, section in systems if getattr(system, stage)]
        if not users or key in failed:
            continue
        inputs = given.get(key)
        if inputs is None:
            if by_program and takes_options(engine):
                extra[key] = inputs = (StageInput(),)
            else:
                reader.problem(table.where(key), f"this key is required: {users[0][1].where(stage)} asks for this stage")
                continue
        _check_indices(reader, users, f"{stage}_input_idx", key, len(inputs))
    direct = [(system, section) for system, section in systems if system.direct]
    if direct and "direct_input" not in failed:
        scripts = given.get("direct_input")
        if scripts is None and table.get("scf_max_num") is None:
            reader.problem(
                table.where("direct_input"),
                f"this key is required: {direct[0][1].where('direct')} asks for this stage",
                "name the script that chooses; or give scf_max_num alone, and so many frames are chosen by the embedded DIRECT",
            )
        elif scripts is not None:
            _check_indices(reader, direct, "direct_input_idx", "direct_input", len(scripts))
    for system, section in systems:
        if system.direct and not system.bigmodel:
            reader.note(
                section.where("direct"), "without effect: DIRECT chooses among the frames of a big model's MD, and bigmodel is false"
            )
        if system.scf and not system.bigmodel:
            reader.note(
                section.where("scf"),
                "without bigmodel the frames of the AIMD are labelled, or without AIMD the generated structures themselves",
            )
    if any(getattr(system, stage) for system, _ in systems for stage in ("relax", "aimd", "scf")) and needs_command("label", engine):
        resources.require_command("dft", needs_command("label", engine))
    inputs = given.get("bigmodel_input", ())
    named = [inputs[system.bigmodel_input_idx] for system, _ in systems if system.bigmodel and system.bigmodel_input_idx < len(inputs)]
    if any(entry.input is not None and entry.input.suffix.lower() != ".json" for entry in named):
        resources.require_command("explore", "the script of the big model's MD")
    if direct and given.get("direct_input"):
        resources.require_command("direct", "the script of the DIRECT selection")
    return extra


def _check_indices(reader: Reader, users: list[tuple[BulkSystem, Table]], key: str, what: str, count: int) -> None:
    seen = set()
    for system, section in users:
        index = getattr(system, key)
        if index >= count and section.where(key) not in seen:
            seen.add(section.where(key))
            reader.problem(section.where(key), f"{index} is out of range: {what} has {count} entries, counted from 0")
