"""A user's own input of DeePMD-kit: read, and checked for what pwact_like must be able to replace in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pwact_like.config.source import plain, read_json_file
from pwact_like.errors import InputError, Problem


def read_deepmd_input(path: Path) -> dict[str, Any]:
    """The input as ordinary dicts and lists.

    Raises
    ------
    InputError
        With every problem of the file (see `deepmd_input_problems`).
    """
    problems = deepmd_input_problems(path)
    if problems:
        raise InputError(problems)
    content: dict[str, Any] = plain(read_json_file(path))
    return content


def deepmd_input_problems(path: Path) -> list[Problem]:
    """What is wrong with an input: no JSON, no model of its own, of a form that cannot be filled in."""
    try:
        content = plain(read_json_file(path))
    except InputError as error:
        return list(error.problems)
    if not isinstance(content, dict):
        return [Problem(str(path), "an object { } is wanted", "give an input of `dp train`")]
    found: list[Problem] = []

    def add(place: str, what: str, cure: str = "") -> None:
        found.append(Problem(f"{path}: {place}", what, cure))

    model = content.get("model")
    if not isinstance(model, dict):
        add("model", "this object is missing", "give an input of `dp train`, or leave deepmd.input out")
    elif "model_dict" in model:
        add("model.model_dict", "an input of several tasks cannot be used here: an iteration's data are one task", "give one model")
    else:
        names = model.get("type_map")
        if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            add("model.type_map", "a list of element symbols is wanted", "leave it out: atom_type says it")
        for key in ("descriptor", "fitting_net"):
            if not isinstance(model.get(key), dict):
                add(f"model.{key}", "this object is missing")
    training = content.get("training", {})
    if not isinstance(training, dict):
        add("training", "an object { } is wanted")
        return found
    if "systems" in training or "stop_batch" in training:
        add(
            "training",
            "this is an input of DeePMD-kit 1 (systems and stop_batch stand in training itself)",
            "convert it to the form of 2 or 3",
        )
    for key in ("training_data", "validation_data"):
        data = training.get(key, {})
        if not isinstance(data, dict):
            add(f"training.{key}", "an object { } is wanted")
            continue
        if isinstance(data.get("batch_size"), list) or data.get("sys_probs") is not None or ";" in str(data.get("auto_prob", "")):
            what = "batch_size, sys_probs and auto_prob with one value a system belong to systems that are not those of the campaign"
            add(f"training.{key}", what, "give one value for all")
    steps = training.get("numb_steps")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        add("training.numb_steps", f"a number of steps is wanted, not {steps!r}")
    return found
