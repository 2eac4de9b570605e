"""Checks that look into structures and data; how those are read comes from outside (this room knows no file formats)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwact_like.config.common import DataPath, StageInput, SysConfig
from pwact_like.config.elements import symbol
from pwact_like.config.init_bulk import BulkSystem
from pwact_like.config.input_files import pseudo_elements, uses_dftb
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.reader import Reader
from pwact_like.config.run import Strategy
from pwact_like.config.source import Table
from pwact_like.config.train import TrainSettings
from pwact_like.errors import DataError

MAX_STRUCTURES = 500
SHAPE_TOLERANCE = 0.25


@dataclass(frozen=True)
class StructureFacts:
    """What the checks need of a structure: atomic numbers, and the lengths of the cell vectors in Å."""

    numbers: tuple[int, ...]
    lengths_ang: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class DataFacts:
    """What the checks need of labelled data: numbers of atoms, elements, and a warning about the virial's sign."""

    sizes: frozenset[int]
    numbers: frozenset[int]
    virial_warning: str | None = None


@dataclass(frozen=True)
class Probes:
    """How structures and data are read; both raise DataError. ``data`` may return None for what is too large to look at."""

    structure: Callable[[Path, str | None], StructureFacts]
    data: Callable[[DataPath], DataFacts | None]


@dataclass(frozen=True)
class _Seen:
    """A structure that the labelling program gets; ``in_data`` when its labels enter the data set (a relaxation's do not)."""

    place: str
    name: str
    size: int
    numbers: frozenset[int]
    lengths_ang: tuple[float, float, float]
    in_data: bool = True


def examine_run(reader: Reader, probes: Probes, given: dict[str, Any], configs: Sequence[tuple[SysConfig, str]], pseudo_path: str) -> None:
    """Check what ``run`` would explore, label and train on."""
    train: TrainSettings | None = given.get("train")
    strategy: Strategy | None = given.get("strategy")
    seen = []
    for place, file, format_name in _few(reader, [(place, file, config.format) for config, place in configs for file in config.files]):
        facts = _look(reader, probes, place, file, format_name)
        if facts is not None:
            seen.append(_Seen(place, file.name, len(facts.numbers), frozenset(facts.numbers), facts.lengths_ang))
    if train is not None:
        known = frozenset(train.atom_type)
        _foreign(reader, ((one.place, one.name, one.numbers) for one in seen), known)
    sizes: dict[int, str] = {}
    for key in ("init_data", "valid_data", "test_data"):
        for data in given.get(key, ()):
            data_facts = _look_data(reader, probes, key, data)
            if data_facts is None:
                continue
            if train is not None:
                _foreign(reader, [(key, data.path.name, data_facts.numbers)], frozenset(train.atom_type))
            if strategy is None or not strategy.allow_mixed_theory:
                for size in data_facts.sizes:
                    sizes.setdefault(size, f"{key} ({data.path.name})")
    dft = given.get("dft")
    if dft is not None:
        _label_checks(reader, seen, dft.labelling, [dft.entry], pseudo_path, "DFT.dft_style", sizes)


def examine_init_bulk(
    reader: Reader,
    probes: Probes,
    systems: Sequence[tuple[BulkSystem, Table]],
    labelling: LabelSettings | None,
    inputs: Sequence[StageInput],
    pseudo_path: str,
) -> None:
    """Check what ``init_bulk`` would label."""
    seen = []
    places = {system.file: (system, section.where("config")) for system, section in systems}
    for place, file, format_name in _few(reader, [(place, system.file, system.format) for system, place in places.values()]):
        facts = _look(reader, probes, place, file, format_name)
        if facts is None:
            continue
        for system, section in systems:
            if system.file == file and (system.relax or system.aimd or system.scf):
                cells, lengths = _super_cell(system, facts.lengths_ang)
                size, in_data = len(facts.numbers) * cells, system.aimd or system.scf
                seen.append(_Seen(section.where("config"), file.name, size, frozenset(facts.numbers), lengths, in_data))
    if labelling is not None and seen:
        _label_checks(reader, seen, labelling, inputs, pseudo_path, "dft_style", {})


def _super_cell(system: BulkSystem, lengths_ang: tuple[float, float, float]) -> tuple[int, tuple[float, float, float]]:
    """Number of cells, and the lengths of a diagonal supercell (zeros where it is not diagonal: then no shape is compared)."""
    if system.super_cell is None:
        return 1, lengths_ang
    (a, b, c), (d, e, f), (g, h, i) = system.super_cell
    cells = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if any((b, c, d, f, g, h)):
        return cells, (0.0, 0.0, 0.0)
    return cells, (a * lengths_ang[0], e * lengths_ang[1], i * lengths_ang[2])


def _few(reader: Reader, items: Sequence[tuple[str, Path, str | None]]) -> Sequence[tuple[str, Path, str | None]]:
    """The first structures of a very long list, with a note; every entry of the settings is looked at once at least."""
    if len(items) <= MAX_STRUCTURES:
        return items
    first = {place: item for item in reversed(items) for place in (item[0],)}
    chosen = [*first.values(), *[item for item in items if first[item[0]] is not item]][:MAX_STRUCTURES]
    reader.note("", f"{len(items)} structures: {len(chosen)} of them were looked into")
    return chosen


def _look(reader: Reader, probes: Probes, place: str, file: Path, format_name: str | None) -> StructureFacts | None:
    try:
        return probes.structure(file, format_name)
    except DataError as error:
        reader.problem(place, f"no structure can be read: {error}", "" if format_name else 'name the "format" if it was guessed wrong')
        return None


def _look_data(reader: Reader, probes: Probes, key: str, data: DataPath) -> DataFacts | None:
    try:
        facts = probes.data(data)
    except DataError as error:
        reader.problem(
            key, f"cannot be read: {error}", "" if data.format else 'give {"path": …, "format": …} if the format was guessed wrong'
        )
        return None
    if facts is not None and facts.virial_warning:
        reader.note(key, f"{data.path}: {facts.virial_warning}")
    return facts


def _foreign(reader: Reader, items: Iterable[tuple[str, str, frozenset[int]]], known: frozenset[int]) -> None:
    told = set()
    for place, name, numbers in items:
        foreign = tuple(sorted(numbers - known))
        if foreign and (place, foreign) not in told:
            told.add((place, foreign))
            names = ", ".join(symbol(number) for number in foreign)
            reader.problem(place, f"{name} has {names}, which train.atom_type does not name", "add it to atom_type, or leave the file out")


def _label_checks(
    reader: Reader,
    seen: Sequence[_Seen],
    labelling: LabelSettings,
    inputs: Sequence[StageInput],
    pseudo_path: str,
    style_path: str,
    sizes: dict[int, str],
) -> None:
    """Pseudopotentials for every element; one size for an engine that samples the Γ point only."""
    if labelling.engine == "xtb":
        _one_size(reader, [one for one in seen if one.in_data], style_path, sizes)
    available = _available(reader, labelling, inputs, pseudo_path)
    if available is None:
        return
    told: set[int] = set()
    for one in seen:
        for number in sorted(one.numbers - told):
            if symbol(number) not in available:
                told.add(number)
                where = f"{one.name} ({one.place})"
                have = ", ".join(sorted(available)) or "none"
                reader.problem(
                    pseudo_path,
                    f"no pseudopotential for {symbol(number)} of {where}; there are: {have}",
                    f"add the file for {symbol(number)}",
                )


def _available(reader: Reader, labelling: LabelSettings, inputs: Sequence[StageInput], pseudo_path: str) -> set[str] | None:
    """Elements with a pseudopotential; None for a program that needs none."""
    if labelling.gaussian_param is not None:
        return set(labelling.gaussian_param.atom_list)
    if labelling.engine == "vasp" or (labelling.engine == "pwmat" and not any(uses_dftb(entry) for entry in inputs)):
        return set(pseudo_elements(reader, pseudo_path, labelling))
    return None


def _one_size(reader: Reader, seen: Sequence[_Seen], path: str, sizes: dict[int, str]) -> None:
    """Refuse labels of cells of different size where only Γ is sampled (8 and 64 atoms of silicon differ by 1 eV/atom)."""
    all_sizes = dict(sizes)
    for one in seen:
        all_sizes.setdefault(one.size, f"{one.name} ({one.place})")
    if len(all_sizes) > 1:
        listed = "; ".join(f"{size} atoms in {where}" for size, where in sorted(all_sizes.items()))
        reader.problem(
            path,
            f"tblite samples the Γ point only, so labels of cells of different size do not belong together: {listed}",
            "use one supercell for all structures, or an engine with k-points (cp2k)",
        )
        return
    shapes = [(one, sorted(one.lengths_ang)) for one in seen if min(one.lengths_ang) > 0]
    for one, lengths in shapes[1:]:
        first, wanted = shapes[0]
        if any(abs(length / other - 1) > SHAPE_TOLERANCE for length, other in zip(lengths, wanted, strict=True)):
            reader.note(
                path,
                f"tblite samples the Γ point only: the cells of {first.name} and {one.name} differ in shape, "
                "their labels may not belong together",
            )
            return
