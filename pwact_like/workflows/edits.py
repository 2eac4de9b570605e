"""param.json and resource.json that the user edits while the master runs, or between two starts: shown, and applied to what has not begun.

What is in force lies beside the journal (``inputs/param.json``, ``inputs/resource.json``), so that every start can say
what changed since the last one. When param.json is edited while a stage is under way, what that stage began with is kept in
``inputs/stage``: a master that is killed meanwhile goes on with it until the stage is done.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwact_like.config.load import Loaded
from pwact_like.errors import InputError, Problem, PwactLikeError
from pwact_like.fsio import write_bytes

log = logging.getLogger(__name__)

COPIES = "inputs"
STAGE = "stage"
LOOK_EVERY_S = 5.0
_MOST_LINES = 40

# a campaign is what these make it: with others it is another one
FIXED = ("work_dir", "campaign", "seed", "init_data", "valid_data", "test_data", "data_format")


# what an edit of these means cannot be guessed from "it counts for what has not begun"
_MEANING = {
    "strategy.uncertainty": "counts from the next training on; what has explored is selected by the levels that it was explored with",
    "strategy.kpu_scale": "counts from the next exploration on; what has explored is selected by the levels that it was explored with",
}


@dataclass(frozen=True)
class Sources:
    """Where the settings came from: the two files (the second may be missing), and how to load such files again.

    ``takes_param`` says that an edited param.json counts before the next start, too.
    """

    param: Path
    resource: Path | None
    load: Callable[[Path, Path | None], Loaded[Any]]
    takes_param: bool = True

    def reload(self) -> Loaded[Any]:
        """Load the files as they are now."""
        return self.load(self.param, self.resource)

    @property
    def files(self) -> dict[str, Path]:
        """Name for messages and copies → file."""
        named = {"param.json": self.param.resolve()}
        return named if self.resource is None else {**named, "resource.json": self.resource.resolve()}


class Edits:
    """Watches the settings files.

    Parameters
    ----------
    sources
        The files; None: nothing is watched.
    loaded
        What was loaded from them at the start.
    state_dir
        Holds the copies of what is in force.
    """

    def __init__(self, sources: Sources | None, loaded: Loaded[Any], state_dir: Path) -> None:
        self._sources = sources
        self._folder = state_dir / COPIES
        self.loaded = loaded
        self._held: Loaded[Any] | None = None
        self._in_a_stage = False
        self._next_look = 0.0
        self._stamps: dict[str, tuple[int, int]] = {}
        self._contents: dict[str, bytes] = {}
        if sources is not None:
            self._stamps = {name: _stamp(path) for name, path in sources.files.items()}
            self._contents = {name: _content(path) for name, path in sources.files.items()}

    @property
    def param(self) -> Any:
        """param.json for what is planned now: of a stage that an earlier master began, what it was begun with."""
        return self.loaded.param if self._held is None else self._held.param

    def take_up_stage(self) -> None:
        """Load what the stage under way was begun with, if param.json was edited meanwhile."""
        folder = self._folder / STAGE
        param, resource = folder / "param.json", folder / "resource.json"
        if self._sources is None or not param.is_file():
            return
        try:
            self._held = self._sources.load(param, resource if resource.is_file() else None)
            log.info("the stage under way goes on with the param.json that it was begun with (%s)", param)
        except PwactLikeError as error:
            log.warning("%s: what the stage under way was begun with cannot be loaded: %s", param, error)

    def stage_begins(self) -> None:
        """A stage is planned: edits of param.json count from the next one on."""
        self._in_a_stage = True

    def stage_ends(self) -> None:
        """The stage is done, or has failed and is the user's to mend."""
        self._in_a_stage, self._held = False, None
        forget_stage(self._folder.parent)

    def tell_since_last_start(self) -> list[str]:
        """Log what changed since the files were last in force, and keep copies of what is now."""
        lines: list[str] = []
        for name, content in self._contents.items():
            copy = self._folder / name
            if copy.is_file() and (before := _content(copy)) != content:
                lines += [f"{name}: {line}" for line in differences(before, content)]
        self._show("edited since the last start", lines)
        self._keep()
        return lines

    def poll(self) -> Loaded[Any] | None:
        """The settings, loaded anew, when a file has changed and all is well with it; what is wrong is told once.

        Looks at most every few seconds.
        """
        if self._sources is None or time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + LOOK_EVERY_S
        stamps = {name: _stamp(path) for name, path in self._sources.files.items()}
        if stamps == self._stamps:
            return None
        self._stamps = stamps
        contents = {name: _content(path) for name, path in self._sources.files.items()}
        changed = {name: content for name, content in contents.items() if content != self._contents[name]}
        if not changed:
            return None
        lines = [f"{name}: {line}" for name, content in changed.items() for line in differences(self._contents[name], content)]
        try:
            loaded = self._sources.reload()
            _insist_on_same_campaign(self.loaded, loaded)
        except PwactLikeError as error:
            # an editor may have saved half of it: nothing is applied until the files are whole
            log.warning("%s edited, and not applied:\n%s", " and ".join(changed), error)
            return None
        if self._in_a_stage and "param.json" in changed and not (self._folder / STAGE).exists() and self._sources.takes_param:
            for name, content in self._contents.items():
                write_bytes(self._folder / STAGE / name, content)
        self._contents = contents
        self.loaded = loaded
        later = "param.json" in changed and not self._sources.takes_param
        self._show("edited; " + ("param.json counts at the next start" if later else "it counts for what has not begun"), lines)
        self._keep()
        return loaded

    def _keep(self) -> None:
        for name, content in self._contents.items():
            write_bytes(self._folder / name, content)

    @staticmethod
    def _show(what: str, lines: Sequence[str]) -> None:
        if lines:
            more = [f"… and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
            log.info("%s:\n%s", what, "\n".join(f"  {line}" for line in [*lines[:_MOST_LINES], *more]))


def forget_stage(state_dir: Path) -> None:
    """Forget what the stage under way was begun with."""
    shutil.rmtree(state_dir / COPIES / STAGE, ignore_errors=True)


def differences(before: bytes, after: bytes) -> list[str]:
    """What differs between two JSON texts, a line for each place: ``strategy.max_select: 3 → 5``; what it means where that is not plain."""
    try:
        old, new = _flat(json.loads(before)), _flat(json.loads(after))
    except ValueError:
        return ["its text has changed"]
    lines = []
    for place in dict.fromkeys([*old, *new]):
        meaning = f" ({_MEANING[place.lower()]})" if place.lower() in _MEANING else ""
        if place not in new:
            lines.append(f"{place}: {old[place]} → left out{meaning}")
        elif place not in old:
            lines.append(f"{place}: {new[place]} is new{meaning}")
        elif old[place] != new[place]:
            lines.append(f"{place}: {old[place]} → {new[place]}{meaning}")
    return lines or ["only its layout has changed"]


def _flat(value: Any, place: str = "") -> dict[str, str]:
    """Every leaf of a JSON value by its path, as JSON."""
    if isinstance(value, Mapping) and value:
        return {at: leaf for key, inner in value.items() for at, leaf in _flat(inner, f"{place}.{key}" if place else str(key)).items()}
    if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        return {at: leaf for number, inner in enumerate(value) for at, leaf in _flat(inner, f"{place}[{number}]").items()}
    return {place or "all of it": json.dumps(value, ensure_ascii=False)}


def _insist_on_same_campaign(before: Loaded[Any], after: Loaded[Any]) -> None:
    """Refuse an edit that would make another campaign of this one.

    Raises
    ------
    InputError
        Naming the keys.
    """
    changed = [key for key in FIXED if getattr(before.param, key, None) != getattr(after.param, key, None)]
    if before.resource.scheduler != after.resource.scheduler:
        changed.append("scheduler")
    if changed:
        where = "param.json, resource.json"
        cure = "undo that change; another campaign wants another work_dir"
        raise InputError(Problem(where, f"{', '.join(changed)} cannot change while the campaign runs", cure))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
