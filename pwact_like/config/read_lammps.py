"""Reads what param.json's explore section says of LAMMPS: its pair style, and PLUMED's input."""

from __future__ import annotations

import itertools
from typing import Any

from pwact_like.config.lammps_styles import AUTO, EMBEDDED, EXPORTED, PAIR_STYLES, style_of_trainer
from pwact_like.config.lammps_switches import variables_of
from pwact_like.config.reader import Reader, describe
from pwact_like.config.source import Table
from pwact_like.config.train import TrainSettings

_KEYS = ("lmps_pair", "lmps_plumed")


def read_lammps(
    reader: Reader, table: Table, program: tuple[str, str], train: TrainSettings | None, given: dict[str, Any], failed: set[str]
) -> None:
    """Fill in lmps_pair, lmps_plumed and what follows from ``program``, (engine, command); every problem goes to the reader."""
    engine, command = program
    if table.get("lmps_plumed") is not None:
        found = reader.path(table.get("lmps_plumed"), table.where("lmps_plumed"), what="PLUMED input")
        if found is None:
            failed.add("lmps_plumed")
        else:
            given["lmps_plumed"] = found
    if engine != "lammps":
        for key in _KEYS:
            if table.get(key) is not None:
                reader.note(table.where(key), f"without effect: the exploration runs with {engine or 'another engine'}")
        return
    given["lmps_variables"] = variables_of(command)
    pair = _pair(reader, table, train)
    if pair is None:
        failed.add("lmps_pair")
    else:
        given["lmps_pair"] = pair
        given["lmps_export"] = pair == (EXPORTED,) and train is not None and train.engine == EMBEDDED


def _pair(reader: Reader, table: Table, train: TrainSettings | None) -> tuple[str, ...] | None:
    """The style's name, or the user's lines; None after a problem, or where the trainer is not known."""
    value = table.get("lmps_pair", AUTO)
    where = table.where("lmps_pair")
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) and line.strip() for line in lines):
        reader.problem(where, f"a name or lines in quotes are wanted here, not {describe(value)}", f"known: {', '.join(PAIR_STYLES)}")
        return None
    name = lines[0].strip().lower()
    if train is None:
        return None
    if len(lines) > 1 or name not in (AUTO, *PAIR_STYLES):
        return tuple(lines)
    wanted = style_of_trainer(train.engine, train.model_type)
    if name == AUTO:
        if not wanted:
            reader.problem(where, f"which pair style the models of {train.engine} want is not known", "name it, or give its lines")
        return (wanted,) if wanted else None
    if (name, train.engine) == (EXPORTED, EMBEDDED):
        return (name,) if _can_export(reader, train, where) else None
    if (name == EMBEDDED) != (train.engine == "embedded"):
        made = "the embedded trainer" if train.engine == "embedded" else train.engine
        reader.problem(where, f"{name} cannot read the models of {made}", f"write {wanted!r}, or leave it out" if wanted else "")
        return None
    return (name,)


def _can_export(reader: Reader, train: TrainSettings, where: str) -> bool:
    """Whether DeePMD-kit's TensorFlow route has a form for the network (see ``potentials.dp_file.refuse_other_forms``)."""
    widths = (train.descriptor.network_size[-1] * train.descriptor.m2, *train.fitting.network_size[:-1])
    steps = list(itertools.pairwise(widths))
    odd = [f"{n_in} → {n_out}" for place, (n_in, n_out) in enumerate(steps) if n_out == 2 * n_in or (n_out == n_in and place == 0)]
    if odd:
        reader.problem(
            where,
            f"the fitting network has a residual connection ({', '.join(odd)}) that DeePMD-kit's TensorFlow route does not know",
            "take fitting widths that are equal or do not double, or embedded",
        )
    return not odd
