"""The embedded choice: ``pwact-like choose choose.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pwact_like.engines.choosers.files import CANDIDATE_FILE, INDEX_FILE, SELECT_FILE, chosen_frames, judge
from pwact_like.engines.launcher import own_command
from pwact_like.engines.protocols import ChoiceRequest, Chooser
from pwact_like.errors import InputError, Problem
from pwact_like.fsio import write_json
from pwact_like.outcome import Outcome, TaskFiles
from pwact_like.uncertainty.diversity import Method

CHOOSE_JSON = "choose.json"
MODEL = "model.pt"
Descriptor = Literal["soap", "model"]


class EmbeddedChooser(Chooser):
    """DIRECT, farthest points or entropy, on SOAP power spectra or the embedded model's own descriptors."""

    name: ClassVar[str] = "embedded"

    def __init__(self, method: Method, descriptor: Descriptor = "soap") -> None:
        self._method: Method = method
        self._descriptor: Descriptor = descriptor

    def write(self, folder: Path, request: ChoiceRequest) -> TaskFiles:
        """Write choose.json and candidate.xyz; the model and the known data are links.

        Raises
        ------
        InputError
            When the model's descriptors are asked for and there is no model.
        """
        from pwact_like.data.formats import write_frames

        links: list[tuple[str, str]] = []
        content: dict[str, Any] = {
            "candidates": CANDIDATE_FILE,
            "method": self._method,
            "descriptor": self._descriptor,
            "count": request.count,
            "groups": list(request.groups),
            "quotas": list(request.quotas),
            "known": [],
        }
        if self._descriptor == "model":
            if request.model is None:
                raise InputError(Problem("strategy.choice_descriptor", "there is no model whose descriptors could be taken", "use soap"))
            content["model"] = MODEL
            links.append((MODEL, str(request.model.resolve())))
        for number, data in enumerate(request.known if self._method != "direct" else ()):
            name = f"known/known.{number:03d}{data.path.suffix}"
            links.append((name, str(data.path.resolve())))
            content["known"].append({"path": name, "format": data.format})
        folder.mkdir(parents=True, exist_ok=True)
        write_frames(folder / CANDIDATE_FILE, list(request.frames), "extxyz")
        write_json(folder / CHOOSE_JSON, content)
        return TaskFiles(inputs=(CHOOSE_JSON, CANDIDATE_FILE), links=tuple(links), outputs=(INDEX_FILE, SELECT_FILE))

    def commands(self, command: str) -> tuple[str, ...]:
        """``pwact-like choose choose.json``, through the user's launcher if resource.json names one."""
        return (f"{own_command(command, 'choose')} {CHOOSE_JSON}",)

    def outcome(self, folder: Path) -> Outcome:
        """Judge by select_idx.dat."""
        return judge(folder, "pwact-like choose")

    def read(self, folder: Path) -> list[int]:
        """Numbers in candidate.xyz, in the order of their choice."""
        return chosen_frames(folder)
