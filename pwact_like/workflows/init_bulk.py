"""init_bulk: relax → supercell → scale → perturb → MD or single points → collection. Labelled data to start from.

What is left to do follows from the finished products alone, so a start after a kill goes on where the last one ended.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.errors import InputError, Problem
from pwact_like.stages.base import Fork, Place
from pwact_like.stages.bulk import Bulk
from pwact_like.stages.bulk_folders import claim_work_folder, clean_work_folder, refuse_foreign, refuse_other_recipes, refuse_other_sources
from pwact_like.stages.bulk_rehearsal import rehearse
from pwact_like.stages.collection import CollectionStage, stages_before_collection
from pwact_like.workflows.driver import fork
from pwact_like.workflows.session import Session

if TYPE_CHECKING:
    from pwact_like.config.init_bulk import InitBulkParam

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectedData:
    """One system's part of the collection; ``data`` is None where there are structures only."""

    system: str
    structure: str
    data: Path | None
    frames: int
    rejected: int


@dataclass(frozen=True)
class BulkEnd:
    """What init_bulk left."""

    collection: Path
    frames: int
    rejected: int
    sha256: str
    systems: tuple[CollectedData, ...]
    kept_failures: tuple[Path, ...]


def check_param(param: InitBulkParam) -> None:
    """What the settings models do not know.

    Raises
    ------
    InputError
        With every problem.
    """
    problems = [
        Problem(
            f"{param.source or 'init_param.json'}: sys_configs[{index}].cell_pert_fraction",
            f"{system.cell_pert_fraction} could turn the cell inside out: it is the largest component of a strain",
            "give something below 1, 0.03 for example",
        )
        for index, system in enumerate(param.sys_configs)
        if system.perturb and system.cell_pert_fraction >= 1.0
    ]
    if problems:
        raise InputError(problems)


def check_start(loaded: Any) -> None:
    """Refuse what must not be started, before anything is written (not even a status).

    Raises
    ------
    InputError
        For settings that make no sense, inputs that the labelling program cannot be run with (those of the last stage too, not
        after days of relaxing), a folder that holds another program's collection, or products of other settings.
    NotAvailableError
        For a labelling engine that is not built.
    """
    check_param(loaded.param)
    refuse_foreign(loaded.param.work_dir)
    sections = {name: getattr(loaded.resource, name) for name in ("dft", "explore", "direct")}
    bulk = _bulk(loaded.param, {name: section.command if section else "" for name, section in sections.items()}, fork)
    collection = CollectionStage(bulk)
    if (bulk.engine is not None or bulk.md_engine is not None) and not collection.finished:
        rehearse(bulk)
    refuse_other_recipes([*stages_before_collection(bulk), collection])


def run_init_bulk(session: Session, loaded: Any) -> BulkEnd:
    """Run, or go on with, the init_bulk of a loaded init_param.json; `check_start` comes before.

    Raises
    ------
    InputError
        When a product was made from an earlier one than there is now.
    """
    param: InitBulkParam = loaded.param
    bulk = _bulk(param, {name: session.command(name) for name in ("dft", "explore", "direct")}, session.fork)
    collection = CollectionStage(bulk)
    refuse_foreign(param.work_dir)  # once more, under the lock
    if not collection.finished:
        claim_work_folder(param.work_dir)
        for stage in stages_before_collection(bulk):
            refuse_other_sources(stage)
            session.drive(stage)
        session.drive(collection)
    end = _end(param.work_dir, collection.facts)
    levels = sorted({row["level_of_theory"] for row in collection.facts["systems"] if row["frames"]})
    if len(levels) > 1:
        log.warning("the systems were labelled at different levels of theory, which `run` will not mix: %s", ", ".join(levels))
    if not param.reserve_work:
        clean_work_folder(param.work_dir, [name for row in collection.facts["systems"] for name in row["failed_tasks"]])
    board = session.board
    board.dataset = {"frames": end.frames, "sha256": end.sha256}
    board.state, board.stage, board.reason = "finished", "", f"{end.frames} labelled frames of {len(end.systems)} systems are collected"
    board.publish()
    log.info("finished: %s", board.reason)
    return end


def _bulk(param: InitBulkParam, commands: Mapping[str, str], in_child: Fork) -> Bulk:
    from pwact_like.engines.labelers.bigmodel_md import BigModelMd
    from pwact_like.engines.registry import labeler_for

    labelled = any(system.relax or system.aimd or system.scf for system in param.sys_configs)
    return Bulk(
        place=Place(param.work_dir, param.seed),
        param=param,
        engine=labeler_for(param.labelling) if labelled else None,
        command=commands["dft"],
        fork=in_child,
        md_engine=BigModelMd(param.source) if any(system.bigmodel for system in param.sys_configs) else None,
        md_command=commands["explore"],
        direct_command=commands["direct"],
    )


def _end(work_dir: Path, facts: dict[str, Any]) -> BulkEnd:
    collection = work_dir / "collection"
    systems = tuple(
        CollectedData(
            system=row["system"],
            structure=row["structure"],
            data=collection / row["data"] if row["data"] else None,
            frames=row["frames"],
            rejected=row["rejected"],
        )
        for row in facts["systems"]
    )
    failures = [work_dir / name for row in facts["systems"] for name in row["failed_tasks"]]
    return BulkEnd(
        collection, facts["frames"], facts["rejected"], facts["sha256"], systems, tuple(path for path in failures if path.is_dir())
    )
