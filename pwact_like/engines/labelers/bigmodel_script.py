"""Labels by the user's own script (``bigmodel_script``), as PWact calls it: it reads select.xyz and leaves train.xyz.

train.xyz holds the structures of select.xyz in their order, with energies (eV) and forces (eV/Å), and, where the script
gives them, a virial (eV, −V·σ) or a stress (ASE's, eV/Å³).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pwact_like.engines.labelers.fingerprints import hash_of_file, short_hash
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import DataError, InputError, Problem
from pwact_like.outcome import Ok, Outcome, Reject, Retry, TaskFiles

if TYPE_CHECKING:
    from pwact_like.config.common import StageInput
    from pwact_like.config.labelling import LabelSettings
    from pwact_like.data.frames import Frame

SELECT_FILE = "select.xyz"
TRAIN_FILE = "train.xyz"
ALL_IN_ONE = 1_000_000  # PWact hands all chosen structures of an iteration to one call of the script


class ScriptLabeler(Labeler):
    """One call of the script labels all the structures of a task; it does single points only."""

    name: ClassVar[str] = "bigmodel"

    def __init__(self, settings: LabelSettings) -> None:
        if settings.bigmodel_script is None:
            raise InputError(Problem("bigmodel_script", "this key is required", "name the script"))
        if settings.options:
            place = f"{settings.source or 'param.json'}: {next(iter(settings.options))}"
            raise InputError(Problem(place, "no effect beside bigmodel_script: the script does what it does", "leave one of them out"))
        self._script = settings.bigmodel_script
        self._where = f"{settings.source or 'param.json'}: bigmodel_script"

    def frames_a_task(self, entry: StageInput) -> int:
        """All of an iteration."""
        return ALL_IN_ONE

    def write(self, folder: Path, request: LabelRequest) -> TaskFiles:
        """Write select.xyz and link the script beside it.

        Raises
        ------
        InputError
            For a relaxation or MD.
        """
        if request.kind != "scf":
            raise InputError(
                Problem(
                    self._where,
                    f"a labelling script does single points, and {request.kind} is asked for",
                    'name a model instead ("model": "chgnet"), or use MD with a big model (bigmodel in sys_configs)',
                )
            )
        return self.write_batch(folder, [request])

    def write_batch(self, folder: Path, requests: Sequence[LabelRequest]) -> TaskFiles:
        """Write select.xyz with every structure, and link the script beside it."""
        from pwact_like.data.formats import write_frames
        from pwact_like.data.frames import Frame

        if not self._script.is_file():
            raise InputError(Problem(self._where, f"{self._script} is no file", "name the script that reads select.xyz"))
        folder.mkdir(parents=True, exist_ok=True)
        write_frames(folder / SELECT_FILE, [Frame(request.atoms) for request in requests], "extxyz")
        return TaskFiles(inputs=(SELECT_FILE,), links=((self._script.name, str(self._script.resolve())),), outputs=(TRAIN_FILE,))

    def commands(self, command: str, request: LabelRequest) -> tuple[str, ...]:
        """The user's command as it stands (``python label.py``); without one, this Python runs the script."""
        return (command.strip() or shlex.join([sys.executable, self._script.name]),)

    def outcome(self, folder: Path, kind: LabelKind) -> Outcome:
        """As `batch_outcome`."""
        return self.batch_outcome(folder)

    def batch_outcome(self, folder: Path) -> Outcome:
        """Judge by train.xyz: as many structures as in select.xyz, and one with a label at least."""
        if not (folder / TRAIN_FILE).exists():
            return Retry(f"{self._script.name} left no {TRAIN_FILE}; see stdout and stderr in {folder}")
        try:
            found = self.read_batch(folder)
        except (DataError, ValueError) as error:
            return Retry(f"{TRAIN_FILE} cannot be read: {error}")
        reasons = [one for one in found if isinstance(one, str)]
        if len(reasons) == len(found):
            return Reject(reasons[0])
        return Ok(f"{len(reasons)} of {len(found)} structures have no label; the first: {reasons[0]}" if reasons else "")

    def read(self, folder: Path, kind: LabelKind) -> list[Frame]:
        """The frame of a task with one structure.

        Raises
        ------
        DataError
            When it has no label.
        """
        (found,) = self.read_batch(folder)
        if isinstance(found, str):
            raise DataError(f"{folder / TRAIN_FILE}: {found}")
        return [found]

    def read_batch(self, folder: Path) -> list[Frame | str]:
        """One a structure of select.xyz: its frame, or why there is none.

        Raises
        ------
        DataError
            When train.xyz does not hold as many structures.
        """
        from pwact_like.data.formats import iter_frames, read_frames

        frames = read_frames(folder / TRAIN_FILE, "extxyz")
        asked = sum(1 for _ in iter_frames(folder / SELECT_FILE, "extxyz"))
        if len(frames) != asked:
            raise DataError(f"{folder / TRAIN_FILE}: {len(frames)} structures, and {SELECT_FILE} has {asked}; their order must be the same")
        return [_labelled(frame, self._script.name) for frame in frames]

    def level_of_theory(self, entry: StageInput) -> str:
        """E.g. ``bigmodel-label-1a2b3c4d``: the script's name and the hash of its text (what it loads is not known here)."""
        return script_theory(self._script)


def script_theory(script: Path) -> str:
    """Level of theory of what a script computes: its name and the hash of its text."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", script.stem)
    return f"bigmodel-{stem}-{short_hash(hash_of_file(script))}"


def _labelled(frame: Frame, script: str) -> Frame | str:
    import numpy as np

    if frame.label is None:
        return f"{script} gave no energy or no forces"
    numbers = [frame.label.energy_ev, *frame.label.forces_ev_per_ang.ravel()]
    if frame.label.virial_ev is not None:
        numbers += list(frame.label.virial_ev.ravel())
    return frame if np.isfinite(numbers).all() else f"{script} gave energy, forces or virial that are not finite"
