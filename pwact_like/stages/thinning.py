"""What stays of trajectories that are not kept: the selected frames, in the same file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pwact_like.fsio import LEDGER_NAME, read_json, write_json
from pwact_like.stages.exploration import trajectories_of
from pwact_like.stages.selection import SELECTION_FILE

if TYPE_CHECKING:
    from pwact_like.engines.protocols import Explorer

THINNED_FILE = "thinned.json"


def is_thinned(md_folder: Path) -> bool:
    """Whether the trajectories were cut down before."""
    return (md_folder / THINNED_FILE).is_file()


def thin_trajectories(explorer: Explorer, md_folder: Path, select_folder: Path, work_dir: Path) -> None:
    """Cut every trajectory down to its selected frames, once; the paths in the csv files stay valid.

    What is dropped goes into the ledger first. Runs in a child process.
    """
    marker = md_folder / THINNED_FILE
    if is_thinned(md_folder):
        return
    kept: dict[str, list[int]] = {}
    for row in read_json(select_folder / SELECTION_FILE):
        kept.setdefault(row["leaf"], []).append(row["step"])
    trajectories = [row for row in trajectories_of(md_folder) if row["trajectory"] is not None]
    with (md_folder / LEDGER_NAME).open("a", encoding="utf-8") as ledger:
        for row in trajectories:
            entry = {"path": row["trajectory"], "kept_steps": sorted(kept.get(row["leaf"], [])), "why": "reserve_md_traj is false"}
            ledger.write(json.dumps({**entry, "time": time.time()}) + "\n")
    for row in trajectories:
        explorer.thin((work_dir / row["trajectory"]).parent, sorted(kept.get(row["leaf"], [])))
    write_json(marker, {"trajectories": len(trajectories)})
