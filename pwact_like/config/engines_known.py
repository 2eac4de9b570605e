"""Which engines exist, which of them are built here, and how one is recognised in a command."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from pwact_like.config.init_bulk import InitBulkParam
from pwact_like.config.run import RunParam
from pwact_like.config.source import nearest
from pwact_like.errors import Problem

if TYPE_CHECKING:
    from pwact_like.config.load import Loaded, Param
    from pwact_like.config.train import TrainSettings

Role = Literal["train", "explore", "label"]
EMBEDDED_OPTIMIZERS = ("LKF", "ADAM")
DEEPMD_OPTIMIZERS = {"tensorflow": ("ADAM",), "pytorch": ("ADAM", "LKF")}
ADAM_TRAINERS = ("chgnet", "mace", "nep")  # have Adam only; when none is named, it is that
EMBEDDED_MD_RUNS = ("embedded", "chgnet")  # trainers whose models the embedded MD can run
MATPL_MODELS = ("DP", "NEP")


@dataclass(frozen=True)
class KnownEngine:
    """An engine that PWact knows or that is ours.

    Attributes
    ----------
    name
        Canonical name, lower-case.
    what
        What it is, for messages.
    needs_command
        Whether it has no default command.
    compresses
        For trainers: whether it can compress its models (strategy.compress).
    """

    name: str
    what: str
    needs_command: bool = True
    compresses: bool = False


ENGINES: dict[Role, dict[str, KnownEngine]] = {
    "train": {
        engine.name: engine
        for engine in (
            KnownEngine("embedded", "the embedded trainer (pwact-like train)", needs_command=False),
            KnownEngine("matpl", "MatPL", compresses=True),
            KnownEngine("chgnet", "CHGNet, fine-tuned (pwact-like train)", needs_command=False),
            KnownEngine("mace", "MACE (mace_run_train)"),
            KnownEngine("nep", "NEP by torchnep"),
            KnownEngine("deepmd", "DeePMD-kit (dp)", needs_command=False, compresses=True),
        )
    },
    "explore": {
        engine.name: engine
        for engine in (
            KnownEngine("embedded", "the embedded MD (pwact-like md)", needs_command=False),
            KnownEngine("lammps", "LAMMPS"),
        )
    },
    "label": {
        engine.name: engine
        for engine in (
            KnownEngine("xtb", "GFN-xTB through tblite", needs_command=False),
            KnownEngine("ase", "an ASE calculator", needs_command=False),
            KnownEngine("cp2k", "CP2K", needs_command=False),
            KnownEngine("qe", "Quantum ESPRESSO's pw.x", needs_command=False),
            KnownEngine("dftb", "DFTB+", needs_command=False),
            KnownEngine("pwmat", "PWmat"),
            KnownEngine("vasp", "VASP"),
            KnownEngine("bigmodel", "a big model by name, or behind a user's script", needs_command=False),
        )
    },
}

# other names of the same engines, lower-case
ENGINE_ALIASES: dict[Role, dict[str, str]] = {
    "train": {"dp": "deepmd", "pwact-like": "embedded", "pwact_like": "embedded", "internal": "embedded"},
    "explore": {"lmp": "lammps", "pwact-like": "embedded", "pwact_like": "embedded"},
    "label": {
        "tblite": "xtb",
        "gfn1-xtb": "xtb",
        "dftb+": "dftb",
        "dftbplus": "dftb",
        "pwscf": "qe",
        "pw.x": "qe",
        "espresso": "qe",
        "quantum-espresso": "qe",
        "quantum_espresso": "qe",
    },
}

# name of a program → engine
_PROGRAMS: dict[Role, tuple[tuple[str, str], ...]] = {
    "train": ((r"matpl|pwmlff", "matpl"), (r"dp", "deepmd"), (r"mace_run_train", "mace"), (r"pwact[-_]like|pwact", "embedded")),
    "explore": ((r"lmp([-_.].*)?|lammps.*", "lammps"), (r"pwact[-_]like|pwact", "embedded")),
    "label": (),
}


# an engine of another package registers as ``labeler.NAME`` and so on (engines/registry.py)
ENTRY_POINTS = "pwact_like.engines"
_ENTRY_ROLES: dict[Role, str] = {"train": "trainer", "explore": "explorer", "label": "labeler"}


def canonical(role: Role, name: str) -> str:
    """Canonical name of an engine, or "" when it is unknown."""
    key = name.strip().lower()
    key = ENGINE_ALIASES[role].get(key, key)
    return key if engine_info(role, key) is not None else ""


def engine_info(role: Role, name: str) -> KnownEngine | None:
    """An engine by its canonical name: of the tables above, or of another package that registered it."""
    if name in ENGINES[role]:
        return ENGINES[role][name]
    return KnownEngine(name, f"{name} (another package's)", needs_command=False) if name and is_foreign(role, name) else None


def is_foreign(role: Role, name: str) -> bool:
    """Whether another package brings this engine."""
    return name not in ENGINES[role] and bool(metadata.entry_points(group=ENTRY_POINTS, name=f"{_ENTRY_ROLES[role]}.{name}"))


def needs_command(role: Role, name: str) -> str:
    """What the engine is, if it has no default command; else ""."""
    info = engine_info(role, name)
    return info.what if info is not None and info.needs_command else ""


def unknown_engine_cure(role: Role, name: object) -> str:
    """The nearest engine's name, or all of them."""
    near = nearest(str(name).strip().lower(), [*ENGINES[role], *ENGINE_ALIASES[role]])
    return f"did you mean {near!r}?" if near else f"known: {', '.join(ENGINES[role])}"


def engine_of_command(role: Role, command: str) -> str:
    """Engine that a command runs: embedded for an empty one, "" when no word tells.

    A word counts by its last path component: ``/opt/bin/lmp_mpi`` is LAMMPS.
    """
    if not command.strip():
        return "embedded"
    for word in command.split():
        program = PurePath(word.strip("\"'")).name.lower()
        for pattern, engine in _PROGRAMS[role]:
            if re.fullmatch(pattern, program):
                return engine
    return ""


def unavailable(loaded: Loaded[Param]) -> list[Problem]:
    """What these settings ask for that is not built here yet: notes for ``check``, a refusal for ``run`` and ``init_bulk``."""
    param = loaded.param
    assert isinstance(param, RunParam | InitBulkParam)
    file = str(param.source or "param.json")
    found: list[Problem] = []

    def add(path: str, what: str, cure: str) -> None:
        found.append(Problem(f"{file}: {path}", f"{what} is not built here yet", cure))

    if isinstance(param, InitBulkParam):
        return found
    trainer = engine_info("train", param.train.engine)
    if param.train.engine == "embedded":
        if param.train.model_type != "DP":
            add("train.model_type", f"{param.train.model_type} in the embedded trainer", "use DP")
        if param.train.optimizer.name not in EMBEDDED_OPTIMIZERS:
            add("train.optimizer.optimizer", f"{param.train.optimizer.name} in the embedded trainer", "use LKF or ADAM")
    elif param.train.engine == "deepmd":
        _deepmd(add, param.train)
    elif param.train.engine == "matpl" and param.train.model_type not in MATPL_MODELS:
        add("train.model_type", f"{param.train.model_type} by MatPL", "use DP or NEP")
    elif param.train.engine in ADAM_TRAINERS and trainer is not None and param.train.optimizer.name != "ADAM":
        add("train.optimizer.optimizer", f"{param.train.optimizer.name} by {trainer.what}", "use ADAM, or name none")
    if (
        param.strategy.chosen_by in ("direct", "fps", "entropy")
        and param.strategy.choice_descriptor == "model"
        and param.train.engine != "embedded"
    ):
        add("strategy.choice_descriptor", f"the descriptors of a model of {param.train.engine}", "use soap")
    if param.strategy.uncertainty != "committee" and trainer is not None and trainer.name in ENGINES["train"]:
        if trainer.name != "embedded":
            what = f"{param.strategy.uncertainty} with {trainer.what}"
            add("strategy.uncertainty", what, 'use committee, or the embedded trainer: "command": "pwact-like"')
    if param.strategy.compress and trainer is not None and not trainer.compresses:
        add("strategy.compress", f"compression with {trainer.what}", "set it to false")
    if param.explore.engine == "embedded" and any(job.lmps_in_idx for entry in param.explore.md_jobs for job in entry):
        add("explore.md_jobs", "running a LAMMPS input (lmps_in_idx) in the embedded MD", "give nsteps, ensemble, temps instead")
    _explored_models(add, param)
    return found


def _deepmd(add: Callable[[str, str, str], None], train: TrainSettings) -> None:
    if train.deepmd.input is not None:
        return  # the model and the optimizer are the user's
    if train.model_type != "DP":
        add("train.model_type", f"{train.model_type} by DeePMD-kit", "use DP, or give an input of your own: train.deepmd.input")
    known = DEEPMD_OPTIMIZERS[train.deepmd.backend]
    if train.optimizer.name not in known:
        what = f"{train.optimizer.name} in DeePMD-kit's {train.deepmd.backend} route"
        add("train.optimizer.optimizer", what, f"use {' or '.join(known)}" + (" (pytorch has LKF, too)" if "LKF" not in known else ""))
    if train.optimizer.weight_decay:
        add(
            "train.optimizer.weight_decay",
            "weight decay in DeePMD-kit's Adam",
            "leave it out, or give an input of your own: train.deepmd.input",
        )


def _explored_models(add: Callable[[str, str, str], None], param: RunParam) -> None:
    """The explorer must be able to run what the trainer leaves."""
    trainer, explorer = param.train.engine, param.explore.engine
    known = ENGINES["train"].get(trainer)
    if known is not None and explorer == "embedded" and trainer not in EMBEDDED_MD_RUNS:
        add("explore", f"running the models of {known.what} in the embedded MD", "explore with LAMMPS (explore.command in resource.json)")
