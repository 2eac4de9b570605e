"""Trust levels and recalibration of a campaign whose models know their errors: functions of the settings and the products."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pwact_like.config.common import DataPath
from pwact_like.config.run import Strategy
from pwact_like.config.train import UncertaintySettings
from pwact_like.engines.protocols import ExploreUncertainty, KnownErrors
from pwact_like.errors import DataError, InputError, NotAvailableError
from pwact_like.fsio import read_manifest, write_json, write_manifest
from pwact_like.outcome import TaskFiles
from pwact_like.report.status import iteration_table
from pwact_like.stages.base import Place
from pwact_like.stages.labelling import label_folder
from pwact_like.stages.training import TrainingStage, training_folder
from pwact_like.uncertainty.levels import FrameClass, RelativeLevels, TrustLevels
from pwact_like.workflows.errors_known import explored_by, labelled_before, levels_in_force, trainings_facts

KPU = Strategy(uncertainty="kpu")


def facts(lower, *, ratio=5.0, rms=1.0):
    return {"kind": "kpu", "lower_ev_per_ang": lower, "upper_ev_per_ang": ratio * lower, "force_rms_ev_per_ang": rms}


def levels(strategy, *known):
    found = levels_in_force(strategy, known)
    return found.levels.lower, found.levels.upper, found.source


# ---- levels -----------------------------------------------------------------------------------------------------------


def test_levels_tighten_with_the_calibration_and_never_loosen():
    first = levels(KPU, facts(0.4))
    assert first == (0.4, 2.0, "the calibration of iteration 0")
    assert levels(KPU, facts(0.4), facts(0.2)) == (0.2, 1.0, "the calibration of iteration 1")
    # a model that thinks less of itself, or hotter validation data, do not make lax what was strict
    assert levels(KPU, facts(0.4), facts(0.2), facts(0.3)) == (0.2, 1.0, "the calibration of iteration 1")


def test_levels_end_at_a_tenth_of_the_forces_that_the_first_model_was_trained_on():
    lower, upper, source = levels(KPU, facts(0.4), facts(0.01, rms=77.0))
    assert (lower, upper) == (0.1, 0.5)
    assert "0.1 of the training forces' RMS" in source and "iteration 1: 0.01 eV/Å" in source
    assert levels(KPU, facts(0.05))[0] == 0.1  # from the start, when the first model is that good


def test_the_upper_level_keeps_its_ratio():
    assert levels(KPU, facts(0.4, ratio=8.0))[:2] == pytest.approx((0.4, 3.2))
    assert levels(KPU, facts(0.4, ratio=2.0))[:2] == pytest.approx((0.4, 2.0))
    assert levels(KPU, facts(0.4), facts(0.2, ratio=7.0))[:2] == pytest.approx((0.2, 1.4))


def test_explicit_levels_win_and_one_alone_keeps_the_order():
    assert levels(Strategy(uncertainty="kpu", kpu_lower=0.03, kpu_upper=0.04), facts(0.4)) == (0.03, 0.04, "param.json")
    lower_only = levels(Strategy(uncertainty="kpu", kpu_lower=0.7), facts(0.01))
    assert lower_only[:2] == pytest.approx((0.7, 3.5)) and "upper 5 times lower" in lower_only[2]
    assert levels(Strategy(uncertainty="kpu", kpu_upper=3.0), facts(0.4))[:2] == (0.4, 3.0)
    pressed = levels(Strategy(uncertainty="kpu", kpu_upper=0.3), facts(0.4))
    assert pressed[:2] == pytest.approx((0.06, 0.3)) and "iteration 0" in pressed[2]
    committee = Strategy(uncertainty="kpu-committee", lower_model_devi_f=0.2)
    assert levels(committee, facts(0.4))[:2] == pytest.approx((0.2, 1.0))
    assert levels(Strategy(), None)[:2] == (0.05, 0.15)


def test_levels_of_pwacts_scale_belong_to_each_run():
    found = levels_in_force(Strategy(uncertainty="kpu", kpu_scale="relative"), ())
    assert found.levels == RelativeLevels(0.5, 1.5) and found.upper is None
    assert levels_in_force(KPU, [facts(0.4)]).upper == 2.0


def test_without_a_calibration_there_are_no_levels():
    with pytest.raises(InputError, match="no training has learned"):
        levels_in_force(KPU, [None])
    # the campaign was begun with a committee
    assert levels(KPU, None, facts(0.3))[:2] == (0.3, 1.5)


def test_a_run_s_own_levels_are_multiples_of_its_first_hundredth():
    relative = RelativeLevels(1.5, 4.0)
    values = np.concatenate([[1.0, 3.0], np.full(298, 9.0)])  # 1 % of 300 frames: three
    own = relative.of_run(values)
    assert (own.lower, own.upper) == pytest.approx((1.5 * 13.0 / 3.0, 6.0 * 13.0 / 3.0))
    assert relative.of_run(np.array([2.0, 5.0])) == TrustLevels(3.0, 12.0)  # one at least
    assert relative.of_run(np.array([np.nan, 1.0])).classify(np.array([np.nan, 1.0])).tolist() == [FrameClass.FAILED] * 2
    assert relative.of_run(np.array([])) == TrustLevels(0.0, 0.0)
    assert TrustLevels(0.1, 0.2).of_run(values) == TrustLevels(0.1, 0.2)


def test_the_table_of_iterations_shows_the_levels():
    rows = [
        {"index": 0, "lower": 0.123456, "upper": 0.61728, "relative": False},
        {"index": 1, "lower": 0.8, "upper": 3.2, "relative": True},
        {"index": 2, "lower": None, "upper": None},
        {"index": 3},  # a status that an older version has written
    ]
    lines = iteration_table(rows)
    assert "levels eV/Å" in lines[0] and "0.123 0.617" in lines[1] and "×0.8 ×3.2" in lines[2]
    assert len({len(line) for line in lines}) == 1 and not any(character in lines[3] + lines[4] for character in "×.")


# ---- products ---------------------------------------------------------------------------------------------------------


def finish(place, *, labels=3, kind="kpu", test_frames=0):
    """The products of an iteration, as far as these functions look at them."""
    known = {"uncertainty": facts(0.4) | {"kind": kind}, "kpu": "train.000/kpu.pt", "members": []} if kind != "committee" else {}
    if kind == "kpu-committee":
        known["members"] = ["train.000/member.000.pt", "train.000/member.001.pt"]
    write_manifest(training_folder(place), "models", facts={"models": ["train.000/model.pt"], **known})
    made = {"train_frames": labels, "test_frames": test_frames, "data": "train.xyz" if labels else "", "data_format": "extxyz"}
    write_manifest(label_folder(place), "labels", facts={**made, "test_data": "test/train.xyz"})


def places(folder, count):
    return [Place(folder, 1, iteration) for iteration in range(count)]


def test_the_last_two_labellings_recalibrate_each_with_the_model_that_explored(tmp_path):
    where = places(tmp_path, 5)
    for place, labels in zip(where, (3, 3, 0, 5, 0), strict=True):
        finish(place, labels=labels, test_frames=2)
    assert labelled_before(where[:1])[0].model == tmp_path / "iter.0000/00.train/train.000/model.pt"
    found = labelled_before(where)
    assert [entry.model.parts[-4] for entry in found] == ["iter.0001", "iter.0003"]
    assert [entry.kpu for entry in found] == [entry.model.with_name("kpu.pt") for entry in found]
    assert found[1].data == (DataPath(path=tmp_path / "iter.0003/02.label/result/train.xyz", format="extxyz"),)
    assert labelled_before(()) == ()


def test_a_committee_s_labellings_recalibrate_nothing(tmp_path):
    where = places(tmp_path, 2)
    finish(where[0], kind="committee")
    finish(where[1], kind="kpu")
    assert [entry.model.parts[-4] for entry in labelled_before(where)] == ["iter.0001"]
    assert [known and known["kind"] for known in trainings_facts([*where, Place(tmp_path, 1, 2)])] == [None, "kpu", None]


def stage(place, *, trainer=None, **changes):
    return TrainingStage(place, trainer or Knowing(), None, "", 1, (), (), (), **changes)


def test_what_was_trained_says_how_to_explore(tmp_path):
    where = places(tmp_path, 3)
    for place, kind in zip(where, ("committee", "kpu", "kpu-committee"), strict=True):
        finish(place, kind=kind)
    committee, kpu, drawn = (stage(place) for place in where)
    assert explored_by(committee, Strategy()) is None
    relative = Strategy(uncertainty="kpu", kpu_scale="relative")
    assert explored_by(kpu, relative) == ExploreUncertainty("kpu", training_folder(where[1]) / "train.000/kpu.pt", "relative")
    assert explored_by(drawn, Strategy(uncertainty="kpu-committee")).kind == "kpu-committee"
    assert explored_by(drawn, KPU).kind == "kpu"  # all that it needs is there
    for trained, edited in ((committee, KPU), (kpu, Strategy()), (kpu, Strategy(uncertainty="kpu-committee")), (drawn, Strategy())):
        with pytest.raises(InputError, match="rewind --to"):
            explored_by(trained, edited)


# ---- the training stage -----------------------------------------------------------------------------------------------


class Knowing:
    """A trainer whose models know their errors; it writes nothing but what it is asked."""

    name, model_file, can_judge, can_kpu = "knowing", "model.pt", False, True

    def __init__(self):
        self.requests = []

    def write(self, folder, request):
        self.requests.append(request)
        folder.mkdir(parents=True, exist_ok=True)
        return TaskFiles(outputs=("model.pt",))

    def commands(self, command, request):
        return ("true",)

    def taken_over(self, model):
        return {self.model_file: model}

    def known_errors(self, folder, kind):
        if not (folder / "kpu.pt").is_file():
            raise DataError(f"no kpu.pt in {folder}")
        members = tuple(sorted(folder.glob("member.*"))) if kind == "kpu-committee" else ()
        return KnownErrors(folder / "kpu.pt", members, facts(0.4) | {"kind": kind}, ("kpu.pt", *(path.name for path in members)))

    def version(self):
        return ""


def leave(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"{name} of {folder.name}")
    return folder / "model.pt"


def test_a_model_that_is_taken_over_takes_what_is_known_of_its_errors_along(tmp_path):
    model = leave(tmp_path / "given", "model.pt", "kpu.pt", "member.000.pt", "member.001.pt")
    wanted = UncertaintySettings(kind="kpu-committee", members=2)
    taken = stage(Place(tmp_path, 1, 1), init_models=(model,), skip_training=True, why_skipped="no new labels", uncertainty=wanted)
    assert taken.plan() == [] and taken.kpu is None
    taken.collect({})
    names = ["kpu.pt", "member.000.pt", "member.001.pt", "model.pt"]
    assert [(taken.folder / "train.000" / name).read_text() for name in names] == [f"{name} of given" for name in names]
    manifest = read_manifest(taken.folder)
    assert sorted(manifest["outputs"]) == [f"train.000/{name}" for name in names]
    assert manifest["facts"]["uncertainty"]["lower_ev_per_ang"] == 0.4
    assert taken.kpu == taken.folder / "train.000/kpu.pt" and taken.models == (taken.folder / "train.000/model.pt",)
    assert [path.name for path in taken.members] == names[1:3]


def test_a_model_without_its_errors_is_not_taken_over(tmp_path):
    model = leave(tmp_path / "given", "model.pt")
    with pytest.raises(InputError, match=r"no kpu\.pt"):
        stage(Place(tmp_path, 1), init_models=(model,), skip_training=True, uncertainty=UncertaintySettings()).plan()


def test_the_request_says_what_to_learn(tmp_path):
    trainer, wanted = Knowing(), UncertaintySettings(samples=3)
    stage(Place(tmp_path, 1), trainer=trainer, uncertainty=wanted).plan()
    assert trainer.requests[0].uncertainty == wanted


def test_an_engine_that_cannot_is_refused(tmp_path):
    blind = SimpleNamespace(name="matpl", can_kpu=False, model_file="model.pt")
    with pytest.raises(NotAvailableError, match=r"matpl has no kpu.*committee"):
        stage(Place(tmp_path, 1), trainer=blind, uncertainty=UncertaintySettings()).plan()


def test_the_embedded_trainer_names_what_is_missing(tmp_path):
    from pwact_like.engines.trainers.embedded import EmbeddedTrainer

    trainer = EmbeddedTrainer()
    with pytest.raises(DataError, match=r"no kpu\.pt and no uncertainty\.json"):
        trainer.known_errors(tmp_path, "kpu")
    (tmp_path / "kpu.pt").touch()
    write_json(tmp_path / "uncertainty.json", {"kind": "kpu", "members": []})
    assert trainer.known_errors(tmp_path, "kpu").files == ("kpu.pt", "uncertainty.json")
    with pytest.raises(DataError, match="drew no committee"):
        trainer.known_errors(tmp_path, "kpu-committee")
    write_json(tmp_path / "uncertainty.json", {"kind": "kpu-committee", "members": ["member.000.pt"]})
    with pytest.raises(DataError, match=r"member\.000\.pt missing"):
        trainer.known_errors(tmp_path, "kpu-committee")
    (tmp_path / "member.000.pt").touch()
    known = trainer.known_errors(tmp_path, "kpu-committee")
    assert known.members == (Path(tmp_path / "member.000.pt"),) and known.files[-1] == "member.000.pt"
