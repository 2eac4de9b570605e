"""Check param.json (of run or init_bulk, told by its keys) and resource.json: all problems at once, nothing is written.

Exit status 0 when all is well, 2 when there are problems. Engines need not be installed here: a note says which of
them this version cannot run.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.errors import InputError, Problem

if TYPE_CHECKING:
    from pwact_like.config.common import DataPath, StageInput
    from pwact_like.config.examine import DataFacts, Probes, StructureFacts
    from pwact_like.config.init_bulk import InitBulkParam, Matrix3
    from pwact_like.config.labelling import LabelSettings
    from pwact_like.config.resource import Resource, ResourceSection
    from pwact_like.config.run import MdJob, RunParam, Strategy
    from pwact_like.engines.protocols import Labeler, LabelKind

    Try = tuple[LabelKind, StageInput, Path, str | None, Matrix3 | None]

MAX_DATA_BYTES = 300_000_000
MAX_TRIES = 50


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("param", type=Path, help="param.json of run, or init_param.json of init_bulk")
    parser.add_argument("resource", type=Path, nargs="?", help="resource.json (default: this machine, one core a task)")
    parser.add_argument("--work-dir", type=Path, help="folder that relative paths start at; overrides work_dir of the param file")
    parser.add_argument("--lenient", action="store_true", help="unknown keys are warnings instead of errors")


def run(args: argparse.Namespace) -> int:
    """Check, and print notes and a summary; problems are raised together."""
    from pwact_like.config.engines_known import unavailable
    from pwact_like.config.load import kind_of, load_init_bulk, load_run

    kind = kind_of(args.param)
    if kind == "run":
        campaign = load_run(args.param, args.resource, work_dir=args.work_dir, lenient=args.lenient, probes=probes())
        notes, summary = campaign.notes, _run_summary(campaign.param, campaign.resource)
        engines = [("trainer", campaign.param.train.engine), ("explorer", campaign.param.explore.engine)]
        labelling, tries, section = campaign.param.dft.labelling, _run_tries(campaign.param), campaign.resource.dft
        problems: dict[Problem, None] = {}
    else:
        start = load_init_bulk(args.param, args.resource, work_dir=args.work_dir, lenient=args.lenient, probes=probes())
        notes, summary = start.notes, _bulk_summary(start.param, start.resource)
        engines = []
        labelling, tries, section = start.param.labelling, _bulk_tries(start.param), start.resource.dft
        problems = _try_big_model(start.param, start.resource.explore)
    if kind == "run" and campaign.param.explore.engine == "lammps":
        from pwact_like.engines.explorers.lammps import check_settings, conversion_notes, own_input_notes

        explore = campaign.resource.explore
        command = explore.command if explore else ""
        notes = (*notes, *conversion_notes(campaign.param.explore, command))
        try:
            check_settings(campaign.param.explore, command)
            notes = (*notes, *own_input_notes(campaign.param.explore))
        except InputError as error:
            problems.update(dict.fromkeys(error.problems))
    if kind == "run" and not unavailable(campaign):
        from pwact_like.workflows.start import models_problems

        problems.update(dict.fromkeys(models_problems(campaign.param)))
    if tries:
        engines.append(("labeler", labelling.engine))
    problems.update(_try_labelling(labelling, tries, section.command if section else ""))
    if problems:
        raise InputError(list(problems))
    for note in [*notes, *_missing_packages(engines)]:
        print(f"note: {note}")
    print("\n".join([f"ok: settings of {kind}", *(f"  {line}" for line in summary)]))
    return 0


def probes() -> Probes:
    """How structures and labelled data are read when settings are checked (libraries are loaded at the first file)."""
    from pwact_like.config.examine import Probes

    return Probes(structure=_structure, data=_data)


def _structure(path: Path, format_name: str | None) -> StructureFacts:
    from pwact_like.config.examine import StructureFacts
    from pwact_like.data.formats import read_structure

    atoms = read_structure(path, format_name)
    a, b, c = (float(length) for length in atoms.cell.lengths())
    return StructureFacts(tuple(int(number) for number in atoms.numbers), (a, b, c))


def _data(data: DataPath) -> DataFacts | None:
    from pwact_like.config.examine import DataFacts
    from pwact_like.data.checks import virial_sign_warning
    from pwact_like.data.formats import read_labelled

    files = [file for file in data.path.rglob("*") if file.is_file()] if data.path.is_dir() else [data.path]
    if sum(file.stat().st_size for file in files) > MAX_DATA_BYTES:
        return None
    frames = read_labelled(data.path, data.format, virial_sign=data.virial_sign).frames
    return DataFacts(
        sizes=frozenset(len(frame.atoms) for frame in frames),
        numbers=frozenset(int(number) for frame in frames for number in frame.atoms.numbers),
        virial_warning=virial_sign_warning(frames),
    )


def _missing_packages(engines: Sequence[tuple[str, str]]) -> list[str]:
    """What the engines that are built here import and this Python lacks."""
    from pwact_like.engines.registry import EXPLORERS, LABELERS, TRAINERS, availability

    built = {"trainer": TRAINERS, "explorer": EXPLORERS, "labeler": LABELERS}
    return [text for role, name in engines if name in built[role] and (text := availability(role, name))]


def _run_tries(param: RunParam) -> list[Try]:
    return [("scf", param.dft.entry, file, config.format, None) for config in param.explore.sys_configs for file in config.files[:1]]


def _bulk_tries(param: InitBulkParam) -> list[Try]:
    tries: list[Try] = []
    for system in param.sys_configs:
        if system.relax:
            tries.append(("relax", param.relax_input[system.relax_input_idx], system.file, system.format, None))
        if system.aimd:
            tries.append(("aimd", param.aimd_input[system.aimd_input_idx], system.file, system.format, system.super_cell))
        if system.scf:
            tries.append(("scf", param.scf_input[system.scf_input_idx], system.file, system.format, system.super_cell))
    return tries


def _try_big_model(param: InitBulkParam, section: ResourceSection | None) -> dict[Problem, None]:
    """What is wrong with the entries of bigmodel_input that are used."""
    from pwact_like.engines.labelers.bigmodel_md import BigModelMd

    systems = [system for system in param.sys_configs if system.bigmodel]
    tries: list[Try] = [("aimd", param.bigmodel_input[one.bigmodel_input_idx], one.file, one.format, one.super_cell) for one in systems]
    return _try(BigModelMd(param.source), tries, section.command if section else "") if tries else {}


def _try_labelling(labelling: LabelSettings, tries: Sequence[Try], command: str) -> dict[Problem, None]:
    """What a labelling engine refuses: options, the input file, elements.

    Raises
    ------
    InputError
        When the engine cannot be made at all.
    """
    from pwact_like.config.engines_known import engine_info
    from pwact_like.engines.registry import labeler_for

    if not tries or engine_info("label", labelling.engine) is None:
        return {}
    return _try(labeler_for(labelling), tries, command)


def _try(engine: Labeler, tries: Sequence[Try], command: str) -> dict[Problem, None]:
    """Let an engine write the inputs of some tasks into a folder that is thrown away, and its commands; everything that it refuses."""
    from pwact_like.data.formats import read_structure
    from pwact_like.engines.protocols import LabelRequest
    from pwact_like.stages.crystals import super_cell

    problems: dict[Problem, None] = {}
    for number, (kind, entry, file, format_name, matrix) in enumerate(tries[:MAX_TRIES]):
        with tempfile.TemporaryDirectory(prefix="pwact_like_check_") as name:
            folder = Path(name) / str(number)
            try:
                atoms = read_structure(file, format_name)
                request = LabelRequest(kind, atoms if matrix is None else super_cell(atoms, matrix), entry, seed=1)
                engine.write(folder, request)
                engine.commands(command, request)
            except InputError as error:
                # the task's folder is nothing that the user knows: the structure stands for it
                for problem in error.problems:
                    where, what = (text.replace(str(folder), str(file)) for text in (problem.where, problem.what))
                    problems[Problem(where, what, problem.cure)] = None
    return problems


def _trajectories(entry: tuple[MdJob, ...], param: RunParam) -> int:
    """Trajectories of an entry of md_jobs: structures × temperatures × pressures."""
    total = 0
    for job in entry:
        structures = sum(len(param.explore.sys_configs[index].files) for index in job.sys_idx)
        total += structures if job.lmps_in_idx else structures * len(job.temps) * len(job.pressures)
    return total


def _run_summary(param: RunParam, resource: Resource) -> list[str]:
    counts = [_trajectories(entry, param) for entry in param.explore.md_jobs]
    strategy = param.strategy
    repeats = f", each repeated at most {strategy.convergence.max_repeats} times" if strategy.convergence else ""
    optimizer = f", {param.train.optimizer.name}" if param.train.engine == "embedded" else ""
    return [
        f"work_dir: {param.work_dir}",
        f"scheduler: {resource.scheduler}",
        f"train: {param.train.engine}, {param.train.model_type}{optimizer}, {_models_text(strategy)}, "
        f"init_data: {len(param.init_data)} path(s), init_model_list: {len(param.init_model_list)}",
        f"explore: {param.explore.engine}, {sum(len(config.files) for config in param.explore.sys_configs)} structure(s), "
        f"{len(counts)} entries of md_jobs with {', '.join(map(str, counts))} trajectories{repeats}",
        f"select: {strategy.uncertainty}, levels {_levels_text(strategy)}",
        f"label: {param.dft.labelling.engine}",
    ]


def _models_text(strategy: Strategy) -> str:
    """What an iteration trains."""
    learned = strategy.learned
    if learned is None:
        return f"{strategy.model_num} models"
    drawn = f"{learned.members} members drawn from it" if learned.kind == "kpu-committee" else f"its errors by {learned.samples} draws"
    return f"1 model and {drawn} ({learned.posterior})"


def _levels_text(strategy: Strategy) -> str:
    """Which levels hold."""
    lower, upper = strategy.given_levels
    if strategy.is_relative:
        return f"{lower:g} times the KPU of each run's first frames, and {upper:g} times that"
    if lower is None and upper is None:
        return "from each training's calibration (eV/Å; they tighten, never loosen)"
    if lower is None or upper is None:
        return (
            f"lower {lower:g} eV/Å, upper from it" if lower is not None else f"upper {upper:g} eV/Å, lower from each training's calibration"
        )
    return f"{lower:g} to {upper:g} eV/Å"


def _bulk_summary(param: InitBulkParam, resource: Resource) -> list[str]:
    stages = [name for name in ("relax", "aimd", "bigmodel", "direct", "scf") if any(getattr(system, name) for system in param.sys_configs)]
    variants = [max(1, len(system.scale)) * max(1, system.perturb) for system in param.sys_configs]
    return [
        f"work_dir: {param.work_dir}",
        f"scheduler: {resource.scheduler}",
        f"{len(param.sys_configs)} structure(s) with {', '.join(map(str, variants))} variant(s)",
        f"stages: {', '.join(stages) or 'none: structures only'}",
        f"label: {param.labelling.engine}",
    ]
