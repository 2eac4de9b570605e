"""The input of ``pwact-like md``: md.json, in PWact's words where PWact has them."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pwact_like.config.run import ENSEMBLE_NAMES
from pwact_like.config.train import KPU_FILE
from pwact_like.engines.protocols import ExploreUncertainty, MdSettings
from pwact_like.errors import InputError, Problem
from pwact_like.units import time_step_problem

T = TypeVar("T")

MD_JSON = "md.json"
START = "start.xyz"

# when an exploring run has gone astray; each can be set in md.json
STOP_DEVIATION_LEVELS = 10.0  # times the upper trust level
STOP_DISTANCE_ANG = 0.5
STOP_TEMPERATURE_FACTOR = 10.0
STOP_TEMPERATURE_LEAST_K = 5000.0
STOP_VOLUME_RATIO = 4.0
CHECKPOINT_FRAMES = 20


@dataclass(frozen=True)
class StopLimits:
    """When a run stops and keeps what it has.

    Attributes
    ----------
    deviation
        Greatest force deviation, in the table's unit (eV/Å); None: none. The frame that passes it, or is not finite, is still written.
    distance_ang
        Least distance of two atoms; a frame below it is not written. 0: never.
    temp_k
        Greatest instantaneous temperature.
    volume_ratio
        Greatest ratio, either way, of the volume to that of the start.
    """

    deviation: float | None = None
    distance_ang: float = STOP_DISTANCE_ANG
    temp_k: float = STOP_TEMPERATURE_LEAST_K
    volume_ratio: float = STOP_VOLUME_RATIO


@dataclass(frozen=True)
class MdInput:
    """One run of ``pwact-like md``; paths are absolute.

    Without ``uncertainty`` several models are a committee. ``deviation_every_step`` asks for the uncertainty at every step, so that an
    exploding one stops the run at once; otherwise only at the frames. ``checkpoint_steps``: how often the run can be continued from,
    exactly.
    """

    structure: Path
    models: tuple[Path, ...]
    md: MdSettings
    seed: int
    stop: StopLimits
    format: str | None = None
    deviation_every_step: bool = False
    checkpoint_steps: int = 0
    uncertainty: ExploreUncertainty | None = None


def default_stop_temp(temp_k: float) -> float:
    """Ten times the set temperature, at least 5000 K: an instantaneous temperature never gets there by chance."""
    return max(STOP_TEMPERATURE_FACTOR * temp_k, STOP_TEMPERATURE_LEAST_K)


def to_json(
    md: MdSettings,
    models: tuple[str, ...],
    seed: int,
    stop_deviation: float | None,
    uncertainty: ExploreUncertainty | None = None,
    kpu_file: str = KPU_FILE,
) -> dict[str, Any]:
    """Content of md.json for a run in the file's own folder: names only, so that equal runs have equal files."""
    settings: dict[str, Any] = {
        "structure": START,
        "models": list(models),
        "ensemble": md.ensemble,
        "nsteps": md.nsteps,
        "trj_freq": md.trj_freq,
        "md_dt": md.md_dt_ps,
        "temp": md.temp_k,
        "seed": seed,
        "boundary": md.boundary,
    }
    if md.ensemble != "nve":
        settings["taut"] = md.taut_ps
    if md.press_bar is not None:
        settings |= {"press": md.press_bar, "taup": md.taup_ps}
    if stop_deviation is not None:
        settings["stop_deviation"] = stop_deviation
    if uncertainty is not None:
        settings["uncertainty"] = {"kind": uncertainty.kind, "kpu": kpu_file, "scale": uncertainty.scale}
    return settings


def read_md_json(path: Path) -> MdInput:
    """Read md.json.

    Raises
    ------
    InputError
        With every problem: unknown keys, wrong values, missing files.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(Problem(str(path), "the file is missing")) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(Problem(str(path), f"not valid JSON: {error}")) from error
    if not isinstance(content, dict):
        raise InputError(Problem(str(path), "a JSON object is expected", 'e.g. {"structure": "start.xyz", "models": ["model.pt"], …}'))
    return from_settings(content, path.parent.resolve(), str(path))


def from_settings(content: Mapping[str, Any], folder: Path, where: str) -> MdInput:
    """Check settings (md.json's keys, any case) and make them an input; relative paths count from ``folder``."""
    settings = _Settings({str(key).lower(): value for key, value in content.items() if not str(key).startswith("_")}, where)
    ensemble = settings.get("ensemble", "nve", _ensemble)
    nsteps = settings.get("nsteps", None, _whole(0), required=True)
    trj_freq = settings.get("trj_freq", 10, _whole(1))
    md_dt = settings.get("md_dt", 0.001, _number(above=0.0))
    temp = settings.get("temp", None, _number(least=0.0), required=True)
    under_pressure = isinstance(ensemble, str) and ensemble.startswith("npt")
    press = settings.get("press", None, _number(), required=under_pressure)
    taut = settings.get("taut", 0.1, _number(above=0.0))
    taup = settings.get("taup", 0.5, _number(above=0.0))
    boundary = settings.get("boundary", True, _flag)
    seed = settings.get("seed", 0, _whole(0))
    structure = settings.get("structure", None, _text, required=True)
    form = settings.get("format", None, _text)
    models = settings.get("models", None, _texts, required=True)
    deviation = settings.get("stop_deviation", None, _number(above=0.0))
    distance = settings.get("stop_distance", STOP_DISTANCE_ANG, _number(least=0.0))
    stop_temp = settings.get("stop_temp", None, _number(above=0.0))
    ratio = settings.get("stop_volume", STOP_VOLUME_RATIO, _number(above=1.0))
    every_step = settings.get("deviation_every_step", False, _flag)
    checkpoint = settings.get("checkpoint_steps", None, _whole(0))
    uncertainty = settings.get("uncertainty", None, _uncertainty)
    if md_dt is not None and (wrong := time_step_problem(md_dt)):
        settings.wrong("md_dt", wrong)
    if under_pressure and boundary is False:
        settings.wrong("boundary", "a pressure needs periodic boundaries", "set boundary to true, or take nvt")
    if ensemble is not None and ensemble != "nve" and temp == 0:
        settings.wrong("temp", f"{ensemble} needs a temperature above 0 K")
    if uncertainty is not None and models:
        several = uncertainty.kind == "kpu-committee"
        if (len(models) > 1) != several:
            what = "wants the model and then its members" if several else "is of one model"
            settings.wrong("models", f"{len(models)} given, and {uncertainty.kind} {what}")
    files = [("structure", structure), *(("models", model) for model in models or ())]
    for key, name in [*files, *([("uncertainty", str(uncertainty.kpu))] if uncertainty is not None else [])]:
        if name is not None and not (folder / name).is_file():
            settings.wrong(key, f"{folder / name} is missing")
    settings.finish()
    return MdInput(
        structure=folder / structure,
        models=tuple(folder / model for model in models),
        md=MdSettings(
            ensemble=ensemble,
            nsteps=nsteps,
            trj_freq=trj_freq,
            md_dt_ps=md_dt,
            temp_k=temp,
            press_bar=press if under_pressure else None,
            taut_ps=taut,
            taup_ps=taup,
            boundary=boundary,
        ),
        seed=seed,
        stop=StopLimits(deviation, distance, default_stop_temp(temp) if stop_temp is None else stop_temp, ratio),
        format=form,
        deviation_every_step=every_step,
        checkpoint_steps=CHECKPOINT_FRAMES * trj_freq if checkpoint is None else checkpoint,
        uncertainty=None if uncertainty is None else replace(uncertainty, kpu=folder / uncertainty.kpu),
    )


class _Settings:
    """Takes keys one by one and gathers what is wrong with them."""

    def __init__(self, content: dict[str, Any], where: str) -> None:
        self._left = content
        self._known: list[str] = []
        self._where = where
        self._problems: list[Problem] = []

    def wrong(self, key: str, what: str, cure: str = "") -> None:
        """Note a problem."""
        self._problems.append(Problem(f"{self._where}: {key}", what, cure))

    def get(self, key: str, default: Any, convert: Callable[[Any], Any], *, required: bool = False) -> Any:
        """Take a key; None after a problem."""
        self._known.append(key)
        if key not in self._left or self._left[key] is None:
            self._left.pop(key, None)
            if required:
                self.wrong(key, "the key is missing")
            return default
        value = self._left.pop(key)
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            self.wrong(key, f"{json.dumps(value, default=str)}: {error}")
            return None

    def finish(self) -> None:
        """Complain, of unknown keys too."""
        for key in self._left:
            near = difflib.get_close_matches(key, self._known, n=1)
            self.wrong(key, "unknown key", f"did you mean {near[0]}?" if near else f"known: {', '.join(self._known)}")
        if self._problems:
            raise InputError(self._problems)


def _ensemble(value: Any) -> str:
    name = str(value).strip().lower()
    if name not in ENSEMBLE_NAMES:
        raise ValueError(f"no such ensemble; known: {', '.join(ENSEMBLE_NAMES)}")
    return ENSEMBLE_NAMES[name]


def _number(*, above: float | None = None, least: float | None = None) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        if isinstance(value, bool | list | dict):
            raise TypeError("one number is expected")
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("must be finite")
        if above is not None and not number > above:
            raise ValueError(f"must be above {above:g}")
        if least is not None and number < least:
            raise ValueError(f"must not be below {least:g}")
        return number

    return convert


def _whole(least: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        number = _number(least=least)(value)
        if number != int(number):
            raise ValueError("a whole number is expected")
        return int(number)

    return convert


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false is expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a file name is expected" if not value else "text is expected")
    return value


def _uncertainty(value: Any) -> ExploreUncertainty:
    keys = {"kind": ("kpu", "kpu-committee"), "scale": ("calibrated", "relative")}
    if not isinstance(value, dict):
        raise TypeError('an object is expected, e.g. {"kind": "kpu", "kpu": "kpu.pt", "scale": "calibrated"}')
    found = {"kind": "kpu", "kpu": KPU_FILE, "scale": "calibrated"} | {str(key).lower(): item for key, item in value.items()}
    if odd := sorted(set(found) - {"kind", "kpu", "scale"}):
        raise ValueError(f"unknown key {', '.join(odd)}; known: kind, kpu, scale")
    for key, known in keys.items():
        if found[key] not in known:
            raise ValueError(f"{key} is {found[key]!r}; known: {', '.join(known)}")
    if found["scale"] == "relative" and found["kind"] != "kpu":
        raise ValueError(f"{found['kind']} has no relative scale")
    return ExploreUncertainty(found["kind"], Path(_text(found["kpu"])), found["scale"])


def _texts(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names:
        raise ValueError("name at least one model")
    return tuple(_text(name) for name in names)
