"""A user's script that chooses, as PWact calls it: it reads candidate.xyz and leaves select_idx.dat (and select.xyz)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import ClassVar

from pwact_like.engines.choosers.files import CANDIDATE_FILE, INDEX_FILE, SELECT_FILE, chosen_frames, judge
from pwact_like.engines.protocols import ChoiceRequest, Chooser
from pwact_like.errors import InputError, Problem
from pwact_like.outcome import Outcome, TaskFiles


class ScriptChooser(Chooser):
    """``direct_script`` of a campaign, ``direct_input`` of init_bulk. How many it chooses is its own affair."""

    name: ClassVar[str] = "script"

    def __init__(self, script: Path) -> None:
        self._script = script

    def write(self, folder: Path, request: ChoiceRequest) -> TaskFiles:
        """Write candidate.xyz and link the script beside it.

        Raises
        ------
        InputError
            When the script is not there.
        """
        from pwact_like.data.formats import write_frames

        if not self._script.is_file():
            raise InputError(Problem(str(self._script), "the script that chooses is no file", "mend direct_script (or direct_input)"))
        folder.mkdir(parents=True, exist_ok=True)
        write_frames(folder / CANDIDATE_FILE, list(request.frames), "extxyz")
        return TaskFiles(
            inputs=(CANDIDATE_FILE,),
            links=((self._script.name, str(self._script.resolve())),),
            outputs=(INDEX_FILE,),
            optional_outputs=(SELECT_FILE,),
        )

    def commands(self, command: str) -> tuple[str, ...]:
        """The user's command as it stands (``python direct.py``); without one, this Python runs the script."""
        return (command.strip() or shlex.join([sys.executable, self._script.name]),)

    def outcome(self, folder: Path) -> Outcome:
        """Judge by select_idx.dat."""
        return judge(folder, self._script.name)

    def read(self, folder: Path) -> list[int]:
        """Numbers in candidate.xyz."""
        return chosen_frames(folder)
