"""What a DeePMD-kit task does before and after ``dp``, in its own folder: data in dp's format and input.json, then errors and curve.

    python -m pwact_like.engines.trainers.deepmd_job prepare
    python -m pwact_like.engines.trainers.deepmd_job finish

Both read train.json of the current folder (see `trainers.deepmd`).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pwact_like.config.common import DataPath
from pwact_like.engines.trainers.deepmd_files import diverged, read_curve, read_test, write_curve
from pwact_like.engines.trainers.deepmd_input import CURVE, TEST_FOLDER, TRAIN_FOLDER, VALID_FOLDER, with_steps
from pwact_like.errors import DataError, PwactLikeError
from pwact_like.fsio import read_json, write_json, write_text, write_through

TASK = "train.json"
INPUT, USED_INPUT, START = "input.json", "used_input.json", "start.args"
COUNTS = "dp_data/counts.json"
DETAILS = "dp_test"
LEARNING_CURVE, TEST = "lcurve.csv", "test.json"
INIT = "init"
CHECKPOINTS = {
    "tensorflow": ("model.ckpt.index", "model.ckpt.meta", "model.ckpt.data-00000-of-00001"),
    "pytorch": ("model.ckpt.pt",),
}
_FOLDERS = {"train": TRAIN_FOLDER, "valid": VALID_FOLDER, "test": TEST_FOLDER}
_SEED = "seed"  # of the model's section: may differ between a model and the training that goes on from it


def prepare(folder: Path) -> None:
    """Write the data sets, and for a training input.json and how to start.

    Raises
    ------
    DataError
        Without labelled frames, or with frames that DeePMD-kit's format cannot hold.
    """
    task = read_json(folder / TASK)
    counts = {kind: _write_data(folder, kind, entries) for kind, entries in task["data"].items()}
    write_json(folder / COUNTS, counts)
    if "input" not in task:
        return
    elements = {name for count in counts.values() for name in count["elements"]}
    foreign = sorted(elements - set(task["input"]["model"]["type_map"]))
    if foreign:
        raise DataError(f"the data hold {', '.join(foreign)}, which the model does not know; add it to train.atom_type")
    content = with_steps(
        task["input"], counts["train"]["frames"], counts.get("valid", {}).get("frames", 0), task["epochs"], task["numb_steps"]
    )
    backend = task["backend"]
    start = ""
    if all((folder / name).is_file() for name in CHECKPOINTS[backend]):
        start = "--restart model.ckpt"
        if (folder / USED_INPUT).is_file():  # the attempt before had its shape from a frozen model
            content["model"] = read_json(folder / USED_INPUT)["model"]
    elif all((folder / INIT / name).is_file() for name in CHECKPOINTS[backend]):
        start = f"--init-model {INIT}/model.ckpt"
    elif task["init_model"]:
        start = f"--init-frz-model {INIT}/{task['init_model']} --use-pretrain-script"
    if (folder / INIT / USED_INPUT).is_file():
        _same_shape(content["model"], read_json(folder / INIT / USED_INPUT)["model"])
    write_json(folder / INPUT, content)
    write_text(folder / START, f"{start}\n")


def finish(folder: Path) -> None:
    """Write lcurve.csv and test.json; put files in the place of links to the last checkpoint.

    Raises
    ------
    DataError
        When dp's results are not whole, or the training has diverged.
    """
    task, counts = read_json(folder / TASK), read_json(folder / COUNTS)
    if "input" in task:
        rows = read_curve(folder / CURVE)
        bad = diverged(rows)
        if bad:
            raise DataError(f"{folder / CURVE}: {bad} is no finite number at the end: the training has diverged; lower learning_rate")
        batch = read_json(folder / INPUT)["training"]["training_data"]["batch_size"]
        frames = counts["train"]["frames"]
        write_curve(folder / LEARNING_CURVE, rows, frames / batch if isinstance(batch, int) else frames)
        for name in CHECKPOINTS[task["backend"]]:
            path = folder / name
            if path.is_symlink():
                source = path.resolve()
                write_through(path, lambda temporary, source=source: _copy(source, temporary))  # type: ignore[misc]
    if "test" in counts:
        write_json(folder / TEST, read_test(folder / DETAILS, counts["test"]["frames"], counts["test"]["virials"]))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _write_data(folder: Path, kind: str, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write one set as deepmd/npy; how many frames, how many with a virial, which elements."""
    from pwact_like.data.formats import read_labelled, write_frames

    frames = []
    for entry in entries:
        data = DataPath(**{**entry, "path": folder / entry["path"]})
        found = read_labelled(data.path, data.format, virial_sign=data.virial_sign)
        for index, reason in found.rejected[:1]:
            sys.stderr.write(f"{entry['path']}: {len(found.rejected)} frame(s) left out; the first: frame {index}: {reason}\n")
        frames += found.frames
    if not frames:
        raise DataError(f"{', '.join(entry['path'] for entry in entries)}: no labelled frame ({kind} data)")
    write_frames(folder / _FOLDERS[kind], frames, "deepmd/npy")
    return {
        "frames": len(frames),
        "virials": sum(frame.label is not None and frame.label.virial_ev is not None for frame in frames),
        "elements": sorted({name for frame in frames for name in frame.atoms.get_chemical_symbols()}),
    }


def _same_shape(model: dict[str, Any], before: dict[str, Any]) -> None:
    """Take counted slots over from the model that the training goes on from; refuse what differs.

    Raises
    ------
    DataError
        Naming what differs.
    """
    if before["descriptor"].get("type") == "hybrid":
        model["descriptor"] = before["descriptor"]  # with the slots of all its parts
    differing = []
    for part in ("type_map", "descriptor", "fitting_net"):
        now, then = model[part], before[part]
        if isinstance(now, dict):
            for key in sorted(set(now) - {_SEED}):
                counted = key == "sel" and isinstance(now[key], str)  # "auto": as many as the first training has counted
                if key in then and now[key] != then[key] and not counted:
                    differing.append(f"{part}.{key} ({then[key]} → {now[key]})")
        elif now != then:
            differing.append(f"{part} ({' '.join(then)} → {' '.join(now)})")
    if differing:
        raise DataError(
            f"the model to start from has another shape: {', '.join(differing)}; undo the change, or train from scratch "
            "(use_pre_model false, no init_model_list)"
        )
    if "sel" in before["descriptor"]:
        model["descriptor"]["sel"] = before["descriptor"]["sel"]


def main(arguments: Sequence[str]) -> int:
    """Prepare or finish in the current folder; 2 for what a user can mend."""
    try:
        {"prepare": prepare, "finish": finish}[arguments[0]](Path())
    except PwactLikeError as error:
        sys.stderr.write(f"pwact-like: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
