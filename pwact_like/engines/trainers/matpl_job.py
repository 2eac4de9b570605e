"""Steps of a MatPL training's job: ``prepare`` merges the data before, ``finish`` writes lcurve.csv and test.json after.

Run in the attempt's folder: ``python -m pwact_like.engines.trainers.matpl_job prepare|finish``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pwact_like.engines.trainers.data_files import LEARNING_CURVE, TEST, frames_in, merge_sets, write_curve
from pwact_like.engines.trainers.matpl_results import curve_rows, read_test
from pwact_like.fsio import read_json, write_json


def prepare(folder: Path) -> None:
    """Merge each set into one extended-XYZ file: energies eV, forces eV/Å, virials eV in our sign (pwdata's for VASP and CP2K)."""
    from pwact_like.data.formats.extxyz import frame_text

    merge_sets(folder, frame_text, read_json(folder / "train.json")["atom_type"])


def finish(folder: Path) -> None:
    """Learning curve and the test set's errors in our form, from the files that MatPL left."""
    batch = int(read_json(folder / "train.json")["optimizer"].get("batch_size", 1))
    steps = max(1, frames_in(folder / "train.xyz") // batch)
    write_curve(folder / LEARNING_CURVE, curve_rows(folder, steps))
    n_test = frames_in(folder / "test.xyz")
    if n_test:
        write_json(folder / TEST, read_test(folder, n_test))


if __name__ == "__main__":
    {"prepare": prepare, "finish": finish}[sys.argv[1]](Path.cwd())
