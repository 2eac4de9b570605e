"""What the finished trainings say of their models' errors: trust levels, how to explore, and what recalibrates the next training.

Everything here is a function of the settings and of the products alone, so that an interrupted campaign decides the same again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pwact_like.config.common import DataPath
from pwact_like.config.train import LabelledBefore
from pwact_like.engines.protocols import ExploreUncertainty
from pwact_like.errors import InputError, Problem
from pwact_like.fsio import is_finished, read_manifest
from pwact_like.stages.exploration import exploration_folder
from pwact_like.stages.labelling import label_folder
from pwact_like.stages.selection import levels_facts, levels_from, levels_text, selection_folder
from pwact_like.stages.training import is_made_by, training_folder
from pwact_like.uncertainty.levels import Levels, RelativeLevels, TrustLevels
from pwact_like.uncertainty.suggestion import UPPER_RATIO

if TYPE_CHECKING:
    from pwact_like.config.run import RunParam, Strategy
    from pwact_like.engines.protocols import Trainer
    from pwact_like.stages.base import Place
    from pwact_like.stages.training import TrainingStage

log = logging.getLogger(__name__)

LEAST_OF_FORCES = 0.1  # of the training labels' force RMS: a model that is as good as this need not be better to be trusted
LABELLINGS = 2  # the last ones recalibrate: what older models were wrong by says little of the present one


@dataclass(frozen=True)
class LevelsInForce:
    """Trust levels of an iteration, and where they come from."""

    levels: Levels
    source: str

    @property
    def upper(self) -> float | None:
        """The upper level in eV/Å; None when each run has its own."""
        return self.levels.upper if isinstance(self.levels, TrustLevels) else None


def levels_in_force(strategy: Strategy, known: Sequence[Mapping[str, Any] | None]) -> LevelsInForce:
    """Trust levels of an iteration.

    Parameters
    ----------
    strategy
        Levels that it gives win.
    known
        What the trainings of iterations 0, 1, … up to this one have learned of their errors (`KnownErrors.facts`); None where nothing.

    Notes
    -----
    The calibration suggests a level by what is usual on validation frames, so it sinks as the model gets better: levels that follow it
    are passed by the same share of frames for ever, and a campaign never converges. Those of the first iteration alone would stay as
    lax as the first model was poor. So the lower level is the least that any training has suggested so far, which may only tighten, and
    ends at ``LEAST_OF_FORCES`` of the force RMS of the first training's labels: a tenth of what there is to be predicted. The upper level
    keeps its ratio to the lower one, ``UPPER_RATIO`` at least; where the user gives one of the two, the other keeps that ratio to it.
    """
    lower, upper = strategy.given_levels
    if strategy.is_relative:
        assert lower is not None and upper is not None
        return LevelsInForce(RelativeLevels(lower, upper), "param.json")
    if lower is not None and upper is not None:
        return LevelsInForce(TrustLevels(lower, upper), "param.json")
    found = [(number, facts) for number, facts in enumerate(known) if facts is not None]
    if not found:
        raise InputError(
            Problem("param.json: strategy.uncertainty", "no training has learned its model's errors yet", "give both levels, or rewind")
        )
    last = found[-1][1]
    ratio = max(UPPER_RATIO, last["upper_ev_per_ang"] / last["lower_ev_per_ang"])
    if lower is not None:
        return LevelsInForce(TrustLevels(lower, ratio * lower), f"param.json; upper {ratio:g} times lower")
    number, tightest = min(found, key=lambda item: item[1]["lower_ev_per_ang"])
    least = LEAST_OF_FORCES * found[0][1]["force_rms_ev_per_ang"]
    level, source = tightest["lower_ev_per_ang"], f"the calibration of iteration {number}"
    if level < least:
        level, source = least, f"{LEAST_OF_FORCES:g} of the training forces' RMS ({source}: {level:.4g} eV/Å)"
    if upper is None:
        return LevelsInForce(TrustLevels(level, ratio * level), source)
    if ratio * level > upper:
        level, source = upper / ratio, f"the upper level over {ratio:g} ({source}: {level:.4g} eV/Å)"
    return LevelsInForce(TrustLevels(level, upper), f"param.json; lower from {source}")


def tell(iteration: int, levels: LevelsInForce, facts: Mapping[str, Any]) -> None:
    """Log the levels of an iteration, and what its model's calibration rests on."""
    calibration = facts["calibration"]
    log.info("iteration %d: levels %s, from %s", iteration, levels_text(levels_facts(levels.levels, levels.source)), levels.source)
    if calibration["note"]:
        log.warning("iteration %d: calibration of the uncertainty: %s", iteration, calibration["note"])


def trainings_facts(places: Sequence[Place]) -> list[dict[str, Any] | None]:
    """What each finished training has learned of its model's errors; None for a committee's."""
    folders = [training_folder(place) for place in places]
    return [read_manifest(folder)["facts"].get("uncertainty") if is_finished(folder) else None for folder in folders]


def levels_to_select(places: Sequence[Place], strategy: Strategy) -> LevelsInForce:
    """Levels by which the frames of a finished exploration, the last of these iterations', are selected.

    Those in force now, unless strategy.uncertainty or kpu_scale was edited since: its levels are meant for other values than those in
    the exploration's tables, and the levels that it was explored with count. A finished selection has its own, whatever was edited.
    """
    place = places[-1]
    folder = exploration_folder(place)
    if is_finished(selection_folder(folder)):
        selected = read_manifest(selection_folder(folder))["facts"]
        return LevelsInForce(levels_from(selected), selected["levels_from"])
    explored, now = read_manifest(folder)["facts"], explored_with_now(strategy)
    was = explored.get("uncertainty", now)
    if was == now:
        return levels_in_force(strategy, trainings_facts(places))
    recorded = explored["levels"]
    log.info(
        "iteration %d was explored with %s: its frames are selected by the levels of then (%s); %s counts from the next one on",
        place.iteration,
        _called(was),
        levels_text(recorded),
        _called(now),
    )
    return LevelsInForce(levels_from(recorded), f"{recorded['levels_from']}, when it was explored with {_called(was)}")


def explored_with_now(strategy: Strategy) -> dict[str, str]:
    """What the deviation tables of the next exploration will hold (see `exploration.explored_with`)."""
    return {"kind": strategy.uncertainty, "scale": strategy.kpu_scale if strategy.uncertainty == "kpu" else "calibrated"}


def _called(uncertainty: Mapping[str, str]) -> str:
    return uncertainty["kind"] + (" (relative scale)" if uncertainty["scale"] == "relative" else "")


def without_what_waits(now: RunParam, edited: RunParam, iteration: int) -> RunParam:
    """An edited param.json without what counts from the next training on, the models of this iteration being trained; itself if nothing."""
    update: dict[str, Any] = {}
    if explored_with_now(edited.strategy) != explored_with_now(now.strategy):
        log.info("strategy was edited, uncertainty too: it counts from the next training on, iteration %d ends as it began", iteration)
        update["strategy"] = now.strategy
    if edited.train.engine != now.train.engine:
        log.info("the trainer was edited: train and explore count from the next training on, iteration %d ends as it began", iteration)
        update |= {"train": now.train, "explore": now.explore}
    return edited.model_copy(update=update) if update else edited


def goes_on_with(place: Place, trainer: Trainer) -> bool:
    """Whether a training can go on with the models of the iteration before it (``place``): they are this trainer's.

    The trainer may have been edited; then the training begins from scratch, and says so when it begins.
    """
    if is_made_by(place, trainer):
        return True
    after = replace(place, iteration=place.iteration + 1)
    if not is_finished(training_folder(after)):
        log.warning(
            "iteration %d: the models before it were made by another trainer than %s (%s): its training begins from scratch",
            after.iteration,
            trainer.name,
            read_manifest(training_folder(place))["facts"]["engine"],
        )
    return False


def suits(facts: Mapping[str, Any], uncertainty: str) -> bool:
    """Whether the models of a finished training can tell their errors in this way; a kpu-committee's has left all that kpu needs."""
    made = made_for(facts)
    return made == uncertainty or (made, uncertainty) == ("kpu-committee", "kpu")


def made_for(facts: Mapping[str, Any]) -> str:
    """The strategy.uncertainty that a finished training was made for."""
    return str(facts["uncertainty"]["kind"]) if facts.get("uncertainty") else "committee"


def explored_by(training: TrainingStage, strategy: Strategy) -> ExploreUncertainty | None:
    """How the uncertainty of a finished training's models is computed; None for a committee.

    Raises
    ------
    InputError
        When the training was made by another trainer, or for another uncertainty: it was edited since.
    """
    kind = strategy.uncertainty
    cure = (
        "undo the change until this iteration has explored (from then on it counts for the next one), "
        f"or train these models anew: pwact-like rewind --to {training.place.iteration}:train"
    )
    if not is_made_by(training.place, training.trainer):
        made = f"{training.facts['engine']} ({', '.join(sorted({path.name for path in training.models}))})"
        what = f"the trainer is {training.trainer.name} now, and the models in {training.folder}, which are to explore, were made by {made}"
        raise InputError(Problem("param.json: train", what, cure))
    if not suits(training.facts, kind):
        raise InputError(
            Problem(
                "param.json: strategy.uncertainty",
                f"{kind} is wanted now, and the models in {training.folder}, which are to explore, were trained for "
                f"{made_for(training.facts)}",
                cure,
            )
        )
    kpu = training.kpu
    return None if kind == "committee" or kpu is None else ExploreUncertainty(kind, kpu, strategy.kpu_scale)


def labelled_before(places: Sequence[Place]) -> tuple[LabelledBefore, ...]:
    """The last labellings of these iterations, each with the model that had explored, the newest last.

    Test frames are not among them: they calibrate nothing.
    """
    found: list[LabelledBefore] = []
    for place in reversed(places):
        models, labels = read_manifest(training_folder(place))["facts"], read_manifest(label_folder(place))["facts"]
        if labels["train_frames"] and models.get("kpu"):
            folder = training_folder(place)
            data = DataPath(path=label_folder(place) / labels["data"], format=labels["data_format"])
            found.append(LabelledBefore(model=folder / models["models"][0], kpu=folder / models["kpu"], data=(data,)))
        if len(found) == LABELLINGS:
            break
    return tuple(reversed(found))
