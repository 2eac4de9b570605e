"""What the finished products say of every iteration: for status, records and decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pwact_like.fsio import is_finished, read_manifest, write_text
from pwact_like.stages.labelling import HASHES_FILE
from pwact_like.stages.selection import counts_line

STAGES = ("train", "explore", "select", "label")
_FOLDERS = {"train": "00.train", "explore": "01.explore/md", "select": "01.explore/select", "label": "02.label/result"}


def iteration_folders(work_dir: Path) -> list[Path]:
    """``iter.NNNN`` folders that this campaign has begun, in order."""
    return sorted(path for path in work_dir.glob("iter.[0-9][0-9][0-9][0-9]*") if path.is_dir())


def product_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Facts of the finished stages of one iteration."""
    return {name: read_manifest(folder / sub)["facts"] for name, sub in _FOLDERS.items() if is_finished(folder / sub)}


def iteration_row(index: int, folder: Path, entry: int | None) -> dict[str, Any]:
    """One row of ``status --json``; None where the stage is not finished.

    ``stage`` is the stage under way, or ``done``.
    """
    facts = product_facts(folder)
    select, label, train = facts.get("select", {}), facts.get("label", {}), facts.get("train", {})
    stages = ("train",) if entry is None else STAGES
    stage = next((name for name in stages if name not in facts), "done")
    return {
        "index": index,
        "entry": entry,
        "stage": stage,
        "trajectories": len(facts["explore"]["trajectories"]) if "explore" in facts else None,
        "frames_planned": select.get("frames_planned", facts.get("explore", {}).get("frames_planned")),
        "frames": select.get("frames"),
        "uncertainty": train["uncertainty"]["kind"] if train.get("uncertainty") else "committee" if train else None,
        "lower": select.get("lower"),
        "upper": select.get("upper"),
        "relative": select.get("relative", False if select else None),
        "levels_from": select.get("levels_from"),
        "accurate": select.get("accurate"),
        "candidate": select.get("candidate"),
        "failed": select.get("failed"),
        "selected": select.get("selected"),
        "labelled": label.get("labelled"),
        "rejected": label.get("rejected"),
        "energy_rmse_ev_per_atom": train.get("energy_rmse_ev_per_atom"),
        "force_rmse_ev_per_ang": train.get("force_rmse_ev_per_ang"),
    }


def write_records(work_dir: Path, n_iterations: int) -> None:
    """Write al.record and iter_select.txt anew from the products: right after an interruption too.

    al.record: a line "iteration task" for each finished task (0 train, 1 explore, 2 label), as PWact writes it.
    """
    record, selections = [], []
    for index in range(n_iterations):
        facts = product_facts(work_dir / f"iter.{index:04d}")
        for task, stage in enumerate(("train", "select", "label")):
            if stage in facts:
                record.append(f"{index} {task}\n")
        if "select" in facts:
            selections.append(f"iter.{index:04d}  {counts_line(facts['select'])}\n")
    write_text(work_dir / "al.record", "".join(record))
    write_text(work_dir / "iter_select.txt", "".join(selections))


def dataset_facts(work_dir: Path, n_iterations: int) -> dict[str, Any]:
    """Number of labelled frames (training, validation and test) and their hash, in an order-free canonical form."""
    from pwact_like.data.hashes import combine_hashes

    folders = [work_dir / "dataset", *(work_dir / f"iter.{index:04d}" / _FOLDERS["label"] for index in range(n_iterations))]
    hashes = [line for folder in folders if is_finished(folder) for line in (folder / HASHES_FILE).read_text().split()]
    return {"frames": len(hashes), "sha256": combine_hashes(hashes) if hashes else None}
