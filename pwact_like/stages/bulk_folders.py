"""Which folders init_bulk may write in, and what it removes at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pwact_like.errors import InputError, Problem
from pwact_like.fsio import MANIFEST_NAME, delete_with_ledger, is_finished, read_manifest, write_json
from pwact_like.seeds import sha256_file
from pwact_like.stages.bulk import COLLECTION_FOLDER, WORK_FOLDER, BulkStage
from pwact_like.stages.collection import COLLECTION_KIND

MARKER = "made_by_pwact_like.json"  # in temp_init_bulk_work: without it nothing there is touched
WHY_CLEANED = "init_bulk: reserve_work is false"


def refuse_foreign(work_dir: Path) -> None:
    """Refuse to work where another program's collection or work folder lies.

    Raises
    ------
    InputError
        Naming every such folder.
    """
    collection, work = work_dir / COLLECTION_FOLDER, work_dir / WORK_FOLDER
    problems = []
    if _holds_anything(collection) and not _is_ours(collection):
        problems.append(
            Problem(
                str(collection),
                "this folder is there already and was not made by pwact_like (there is no manifest of ours in it); it is never overwritten",
                "move it away, or give another --work-dir; its data can be read as init_data",
            )
        )
    if _holds_anything(work) and not (work / MARKER).is_file():
        problems.append(
            Problem(
                str(work),
                f"this folder is there already and was not made by pwact_like (there is no {MARKER} in it); nothing in it is touched",
                "move it away, or give another --work-dir",
            )
        )
    if problems:
        raise InputError(problems)


def claim_work_folder(work_dir: Path) -> None:
    """Mark the work folder as ours, before anything is written there."""
    write_json(work_dir / WORK_FOLDER / MARKER, {"workflow": "init_bulk", "what": "work folders of init_bulk; removed at its end"})


def refuse_other_recipes(stages: Sequence[BulkStage]) -> None:
    """Refuse to take finished products for those of other settings.

    Raises
    ------
    InputError
        Naming every such product, with the cure.
    """
    problems = [
        Problem(
            str(stage.folder),
            "this product is finished and was made with other settings: an input file, a structure, an option, the seed or the labelling "
            "program changed since; a finished product is never rewritten",
            "put the settings back; or remove this folder to make it anew; or give another --work-dir",
        )
        for stage in stages
        if stage.finished and stage.facts.get("recipe") != stage.recipe
    ]
    if problems:
        raise InputError(problems)


def refuse_other_sources(stage: BulkStage) -> None:
    """Refuse a finished product whose sources were made anew since.

    Raises
    ------
    InputError
        With the cure.
    """
    if not stage.finished:
        return
    recorded = stage.facts.get("from", {})
    for folder in stage.sources:
        if is_finished(folder) and recorded.get(folder.name) != sha256_file(folder / MANIFEST_NAME):
            raise InputError(
                Problem(
                    str(stage.folder),
                    f"this product was made from an earlier {folder.name} than the one in {folder}, which was made anew since",
                    "remove this folder to make it anew as well",
                )
            )


def clean_work_folder(work_dir: Path, failed_tasks: Iterable[str]) -> None:
    """Remove the work folder once the collection is finished; the folders of failed tasks stay, for they are evidence.

    Parameters
    ----------
    failed_tasks
        Their folders relative to ``work_dir``.
    """
    work = work_dir / WORK_FOLDER
    if not work.is_dir() or not (work / MARKER).is_file() or not is_finished(work_dir / COLLECTION_FOLDER):
        return
    kept = {path for name in failed_tasks if (path := work_dir / name).is_dir()}
    doomed = list(_all_but(work, kept | {work / MARKER})) if kept else [work]
    delete_with_ledger(work_dir, doomed, WHY_CLEANED)


def _all_but(folder: Path, kept: set[Path]) -> Iterator[Path]:
    """The largest parts of a folder that hold nothing of what is kept."""
    for path in sorted(folder.iterdir()):
        if path in kept:
            continue
        if path.is_dir() and not path.is_symlink() and any(path in keeper.parents for keeper in kept):
            yield from _all_but(path, kept)
        else:
            yield path


def _holds_anything(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _is_ours(collection: Path) -> bool:
    return is_finished(collection) and read_manifest(collection).get("kind") == COLLECTION_KIND
