"""MD with a big model in init_bulk (``bigmodel_input``): a model by name, or the user's script, as PWact calls it.

The script reads POSCAR and leaves traj.xyz: the frames of its MD, each with energy and forces where they are to be labels.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers.bigmodel import BigModelLabeler
from pwact_like.engines.labelers.bigmodel_script import script_theory
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.outcome import Ok, Outcome, Reject, Retry, TaskFiles

if TYPE_CHECKING:
    from pwact_like.config.common import StageInput
    from pwact_like.data.frames import Frame

POSCAR_FILE = "POSCAR"
TRAJECTORY_FILE = "traj.xyz"


class BigModelMd(Labeler):
    """Each entry of bigmodel_input is a script, or the settings of a model and its MD (in the entry, or in a .json file).

    Parameters
    ----------
    source
        The settings file: paths in the settings of a model are relative to its folder.
    """

    name: ClassVar[str] = "bigmodel"

    def __init__(self, source: Path | None) -> None:
        self._model = BigModelLabeler(LabelSettings(dft_style="bigmodel", source=source))

    def write(self, folder: Path, request: LabelRequest) -> TaskFiles:
        """Write POSCAR beside the script, or label.json and structure.xyz.

        Raises
        ------
        InputError
            For anything but MD, and for settings that the model refuses.
        """
        if request.kind != "aimd":
            raise InputError(Problem(str(folder), f"a big model's entry in bigmodel_input is for MD, not for {request.kind}"))
        script = script_of(request.input)
        if script is None:
            return self._model.write(folder, request)
        if not script.is_file():
            raise InputError(Problem(str(script), "the script of the big model's MD is no file", "mend bigmodel_input"))
        from ase.io import write

        folder.mkdir(parents=True, exist_ok=True)
        # not sorted: the frames must come back with the atoms in the order of the structure
        write(str(folder / POSCAR_FILE), request.atoms, format="vasp", direct=True, sort=False, vasp5=True)
        return TaskFiles(inputs=(POSCAR_FILE,), links=((script.name, str(script.resolve())),), outputs=(TRAJECTORY_FILE,))

    def commands(self, command: str, request: LabelRequest) -> tuple[str, ...]:
        """The user's command as it stands for a script (``python md.py``); `pwact-like label` for a model."""
        script = script_of(request.input)
        if script is None:
            return self._model.commands(command, request)
        return (command.strip() or shlex.join([sys.executable, script.name]),)

    def outcome(self, folder: Path, kind: LabelKind) -> Outcome:
        """Ok for a trajectory with a frame or more."""
        if _is_of_model(folder):
            return self._model.outcome(folder, kind)
        if not (folder / TRAJECTORY_FILE).is_file():
            return Retry(f"the script left no {TRAJECTORY_FILE}; see stdout and stderr in {folder}")
        try:
            frames = self.read(folder, kind)
        except (DataError, ValueError) as error:
            return Retry(f"{TRAJECTORY_FILE} cannot be read: {error}")
        return Ok() if frames else Reject(f"{TRAJECTORY_FILE} holds no frame")

    def read(self, folder: Path, kind: LabelKind) -> list[Frame]:
        """Frames of the MD; those of a script have labels only if it wrote them."""
        if _is_of_model(folder):
            return self._model.read(folder, kind)
        from pwact_like.data.formats import read_frames

        return read_frames(folder / TRAJECTORY_FILE, "extxyz")

    def level_of_theory(self, entry: StageInput) -> str:
        """Of the model, or the script's name and the hash of its text."""
        script = script_of(entry)
        return self._model.level_of_theory(entry) if script is None else script_theory(script)


def script_of(entry: StageInput) -> Path | None:
    """The script of an entry; None where it holds, or names, the settings of a model."""
    return entry.input if entry.input is not None and entry.input.suffix.lower() != ".json" else None


def _is_of_model(folder: Path) -> bool:
    return not (folder / POSCAR_FILE).is_file()
