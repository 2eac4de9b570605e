"""Which engine a settings file asks for; the engine's module is imported only then."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pwact_like.config.lammps_styles import EMBEDDED
from pwact_like.errors import NotAvailableError

if TYPE_CHECKING:
    from pwact_like.config.labelling import LabelSettings
    from pwact_like.config.run import Explore
    from pwact_like.config.train import TrainSettings
    from pwact_like.engines.protocols import Explorer, Labeler, Trainer

ENTRY_POINTS = "pwact_like.engines"
"""Group of entry points for engines from elsewhere, named ``labeler.NAME``, ``trainer.NAME`` or ``explorer.NAME``."""

_PACKAGE = "pwact_like.engines"
LABELERS: Mapping[str, tuple[str, str]] = {
    "ase": (f"{_PACKAGE}.labelers.ase_calculator", "AseLabeler"),
    "bigmodel": (f"{_PACKAGE}.labelers.bigmodel", "bigmodel_labeler"),
    "cp2k": (f"{_PACKAGE}.labelers.cp2k", "Cp2kLabeler"),
    "dftb": (f"{_PACKAGE}.labelers.dftb", "DftbLabeler"),
    "pwmat": (f"{_PACKAGE}.labelers.pwmat", "PwmatLabeler"),
    "qe": (f"{_PACKAGE}.labelers.qe", "QeLabeler"),
    "vasp": (f"{_PACKAGE}.labelers.vasp", "VaspLabeler"),
    "xtb": (f"{_PACKAGE}.labelers.tblite", "XtbLabeler"),
}
TRAINERS: Mapping[str, tuple[str, str]] = {
    "chgnet": (f"{_PACKAGE}.trainers.chgnet", "ChgnetTrainer"),
    "deepmd": (f"{_PACKAGE}.trainers.deepmd", "DeepmdTrainer"),
    "embedded": (f"{_PACKAGE}.trainers.embedded", "EmbeddedTrainer"),
    "mace": (f"{_PACKAGE}.trainers.mace", "MaceTrainer"),
    "matpl": (f"{_PACKAGE}.trainers.matpl", "MatplTrainer"),
    "nep": (f"{_PACKAGE}.trainers.nep", "NepTrainer"),
}
EXPLORERS: Mapping[str, tuple[str, str]] = {
    "embedded": (f"{_PACKAGE}.explorers.embedded", "EmbeddedExplorer"),
    "lammps": (f"{_PACKAGE}.explorers.lammps", "LammpsExplorer"),
}

# engine → (package that it imports, how to get it)
_PACKAGES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("labeler", "xtb"): ("tblite", "pip install 'pwact-like[xtb]'"),
    ("trainer", "embedded"): ("torch", "pip install 'pwact-like[torch]'"),
    ("trainer", "chgnet"): ("chgnet", "pip install 'pwact-like[torch,chgnet]'"),
    ("explorer", "embedded"): ("torch", "pip install 'pwact-like[torch]'"),
}
_SECTION = {"labeler": "DFT (dft_style)", "trainer": "train", "explorer": "explore"}


def labeler_for(settings: LabelSettings) -> Labeler:
    """The labelling engine of these settings (by ``engine``, which follows from ``dft_style``).

    Raises
    ------
    NotAvailableError
        For an engine that is not built; the message names those that are.
    InputError
        When the engine's options are wrong.
    """
    labeler: Labeler = _class_of("labeler", settings.engine, LABELERS)(settings)
    return labeler


def trainer_for(settings: TrainSettings) -> Trainer:
    """The training engine of these settings. Raises as `labeler_for`."""
    trainer: Trainer = _class_of("trainer", settings.engine, TRAINERS).of(settings)
    return trainer


def explorer_for(settings: Explore) -> Explorer:
    """The exploring engine of these settings. Raises as `labeler_for`."""
    explorer: Explorer = _class_of("explorer", settings.engine, EXPLORERS).from_settings(settings)
    return explorer


def explorer_that_ran(present: Explorer, settings: Explore, engine: str) -> Explorer:
    """The engine that has explored, to read what it left: the present one, unless the settings were edited since.

    Raises as `labeler_for`.
    """
    if engine in ("", present.name):  # an exploration of an older version does not tell
        return present
    # a pair style tells how to run, and reading needs none: that of the present settings may be none of LAMMPS's
    return explorer_for(settings.model_copy(update={"engine": engine, "lmps_pair": (EMBEDDED,)}))


def availability(role: str, name: str) -> str:
    """Why an engine cannot be used here: "" when it can, else what is missing and the cure (for the notes of `check`).

    Parameters
    ----------
    role
        ``labeler``, ``trainer`` or ``explorer``.
    name
        The engine.
    """
    table = {"labeler": LABELERS, "trainer": TRAINERS, "explorer": EXPLORERS}[role]
    if name not in table and _entry_point(role, name) is None:
        return _not_built(role, name, table)
    package, cure = _PACKAGES.get((role, name), ("", ""))
    if package and importlib.util.find_spec(package) is None:
        return f"the engine {name} ({_SECTION[role]}) needs {package}, which is not installed in this Python: {cure}"
    return ""


def _not_built(role: str, name: str, table: Mapping[str, Any]) -> str:
    return f"there is no engine {name!r} ({_SECTION[role]}); built: {', '.join(sorted(table))}"


def _entry_point(role: str, name: str) -> importlib.metadata.EntryPoint | None:
    found = importlib.metadata.entry_points(group=ENTRY_POINTS, name=f"{role}.{name}")
    return next(iter(found), None)


def _class_of(role: str, name: str, table: Mapping[str, tuple[str, str]]) -> Any:
    if name in table:
        module, class_name = table[name]
        return getattr(importlib.import_module(module), class_name)
    entry_point = _entry_point(role, name)
    if entry_point is not None:
        return entry_point.load()
    raise NotAvailableError(_not_built(role, name, table))
