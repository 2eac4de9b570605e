"""Steps of a MACE training's job: ``prepare`` merges the data before, ``finish`` puts MACE's results into our form after.

Run in the attempt's folder: ``python -m pwact_like.engines.trainers.mace_job prepare|finish``. MACE reads energies in eV, forces in
eV/Å and ASE's stress (eV/Å³, positive in tension) under names of their own: REF_energy, REF_forces, REF_stress.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pwact_like.engines.trainers.data_files import LEARNING_CURVE, TEST, errors_report, frames_in, merge_sets, write_curve
from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_json

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame


def frame_text(frame: Frame) -> str:
    """A labelled frame under MACE's names."""
    from pwact_like.data.formats.xyz_text import format_frame

    assert frame.label is not None
    pairs: dict[str, object] = {"REF_energy": float(frame.label.energy_ev)}
    if frame.label.virial_ev is not None:
        pairs["REF_stress"] = -np.asarray(frame.label.virial_ev, dtype=np.float64) / abs(frame.atoms.get_volume())
    return format_frame(frame.atoms, pairs, frame.label.forces_ev_per_ang).replace(":forces:R:3", ":REF_forces:R:3", 1)


def prepare(folder: Path) -> None:
    """Merge each set into one extended-XYZ file."""
    merge_sets(folder, frame_text, read_json(folder / "run.json")["atom_type"], needs_cell=False)


def finish(folder: Path) -> None:
    """Learning curve and test errors."""
    batch = int(read_json(folder / "mace.yaml").get("batch_size", 10))
    steps = max(1, frames_in(folder / "train.xyz") // batch)
    write_curve(folder / LEARNING_CURVE, curve_rows(folder / read_json(folder / "run.json")["curve"], steps))
    if (folder / "test.xyz").is_file():
        write_json(folder / TEST, read_test(folder))


def curve_rows(path: Path, steps_an_epoch: int) -> list[dict[str, float | int | None]]:
    """Rows of lcurve.csv from results/…_train.txt: MACE judges the validation frames only, one JSON object an epoch.

    Raises
    ------
    DataError
        When the file is missing or a line is no JSON object.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: MACE's learning curve cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            if found["mode"] != "eval" or found.get("epoch") is None:
                continue
            epoch = int(found["epoch"]) + 1
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: line {number}: {error}") from error
        row: dict[str, float | int | None] = {"step": epoch * steps_an_epoch, "epoch": epoch}
        names = {"energy_rmse_ev_per_atom": "rmse_e_per_atom", "force_rmse_ev_per_ang": "rmse_f"}
        names["virial_rmse_ev_per_atom"] = "rmse_virials_per_atom"
        row |= {f"valid_{ours}": found.get(theirs) for ours, theirs in names.items()}
        rows.append(row)
    return rows


def read_test(folder: Path) -> dict[str, Any]:
    """The test set's errors from tested.xyz, which holds labels (REF_) and predictions (MACE_).

    Raises
    ------
    DataError
        When frames or predictions are missing.
    """
    from ase.io import read

    wanted = frames_in(folder / "test.xyz")
    try:
        frames = read(folder / "tested.xyz", index=":", format="extxyz")
        if len(frames) != wanted:
            raise DataError(f"{folder / 'tested.xyz'}: MACE judged {len(frames)} frames, and the test set has {wanted}")
        energies = [np.array([float(atoms.info[f"{who}_energy"]) for atoms in frames]) for who in ("MACE", "REF")]
        forces = [np.concatenate([atoms.arrays[f"{who}_forces"] for atoms in frames]) for who in ("MACE", "REF")]
        none = np.full((3, 3), np.nan)
        virials = [
            np.array([-abs(atoms.get_volume()) * _matrix(atoms.info.get(f"{who}_stress", none)) for atoms in frames])
            for who in ("MACE", "REF")
        ]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{folder / 'tested.xyz'}: MACE's predictions cannot be read: {error}") from error
    has_virial = np.isfinite(virials[0]).all()
    sizes = np.array([len(atoms) for atoms in frames])
    return errors_report(sizes, (energies[0], energies[1]), (forces[0], forces[1]), (virials[0], virials[1]) if has_virial else None)


def _matrix(value: Any) -> Any:
    return np.asarray(value, dtype=np.float64).reshape(3, 3)


if __name__ == "__main__":
    {"prepare": prepare, "finish": finish}[sys.argv[1]](Path.cwd())
