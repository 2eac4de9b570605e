"""The contract of training engines, for the embedded one, and what only it does."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labeler_contract import run_commands, start_attempt
from trainer_contract import TrainerContract, copper, run_in_process

from pwact_like.config.common import DataPath
from pwact_like.config.train import Descriptor, Fitting, LabelledBefore, Optimizer, TrainSettings, UncertaintySettings
from pwact_like.data.formats import write_frames
from pwact_like.data.frames import Label
from pwact_like.engines.trainers.embedded import EmbeddedTrainer
from pwact_like.errors import InputError, NotAvailableError
from pwact_like.outcome import Ok, Reject
from pwact_like.stages.base import Place, TaskMaker

torch = pytest.importorskip("torch")


class TestEmbeddedTrainer(TrainerContract):
    def trainer(self):
        return EmbeddedTrainer()

    def settings(self, epochs=30):
        return TrainSettings(
            atom_type=(29,),
            descriptor=Descriptor(rmax=4.5, rmin=1.0, m2=4, network_size=(4, 8)),
            fitting=Fitting(network_size=(12, 12, 1)),
            optimizer=Optimizer(name="ADAM", epochs=epochs, learning_rate=1e-2),
        )

    def predict(self, model, *structures):
        from pwact_like.potentials import load_model

        predictions = map(load_model(model).compute, structures)
        return [(prediction.energy_ev, prediction.forces_ev_per_ang) for prediction in predictions]

    def execute(self, attempt: Path, commands):
        return run_in_process(attempt, commands)

    def test_the_command_itself_in_a_folder_with_spaces(self, tmp_path, data):
        trainer, request = self.trainer(), self.request(data, epochs=1)
        task = tmp_path / "a 'task' $HOME"
        files = trainer.write(task, request)
        attempt = start_attempt(task, files, 1)
        assert run_commands(attempt, trainer.commands("", request)) == 0, (attempt / "stdout").read_text()
        assert trainer.outcome(attempt) == Ok()
        in_process, _ = self.run(tmp_path / "other", request)
        assert (attempt / "model.pt").read_bytes() == (in_process / "model.pt").read_bytes()
        (task / "model.pt").write_bytes((attempt / "model.pt").read_bytes())
        judging = start_attempt(task, trainer.write_judging(task, request), 2)
        assert run_commands(judging, trainer.judging_commands("", request)) == 0
        assert json.loads((judging / "test.json").read_text())["n_frames"] == 5

    def test_commands(self, data):
        request = self.request(data)
        warm = replace(request, init_model=Path("m.pt"))
        assert self.trainer().commands("", request) == (f"{shlex.quote(sys.executable)} -m pwact_like train train.json -o .",)
        assert self.trainer().commands("srun pwact-like train", warm) == (
            "srun pwact-like train train.json -o . --init-model init_model.pt",
        )
        assert self.trainer().judging_commands("pwact-like train", request) == (
            "pwact-like eval model.pt data/test.000/test.xyz --json >test.json",
        )

    def test_train_json_reads_back_as_the_settings_it_was_made_from(self, tmp_path, data):
        from pwact_like.config.load import load_train

        settings = TrainSettings(
            atom_type=(3, 14),
            descriptor=Descriptor(rmax=5.5, rmin=2.0, m2=3, network_size=(5, 7), sel=(20, 30)),
            fitting=Fitting(network_size=(9, 8, 1)),
            optimizer=Optimizer(
                name="ADAM",
                epochs=3,
                batch_size=2,
                learning_rate=2e-3,
                stop_lr=1e-6,
                train_virial=True,
                start_pre_fac_virial=0.3,
                end_pre_fac_force=2.0,
                explicit=True,
                print_freq=7,
                weight_decay=1e-5,
            ),
        )
        request = replace(self.request(data, seed=77), settings=settings)
        flipped = DataPath(path=data["test"], format="extxyz", virial_sign=-1)
        request = replace(request, train_data=(request.train_data[0], flipped))
        files = self.trainer().write(tmp_path, request)
        attempt = start_attempt(tmp_path, files, 1)
        read, notes = load_train(attempt / "train.json", attempt)
        assert notes == ()
        for name in ("model_type", "atom_type", "descriptor", "fitting", "optimizer"):
            assert getattr(read, name) == getattr(settings, name)
        assert read.seed == 77
        assert [path.virial_sign for path in read.train_data] == [1, -1]
        assert read.train_data[1].format == "extxyz"
        for given, found in zip(
            (*request.train_data, *request.valid_data, *request.test_data),
            (*read.train_data, *read.valid_data, *read.test_data),
            strict=True,
        ):
            assert found.path.resolve() == given.path.resolve()
            assert found.path.name == given.path.name

    def test_data_of_the_other_virial_sign_and_folders_train_the_same_model(self, tmp_path, data):
        frames = copper(6, 1)
        flipped = [
            replace(frame, label=Label(frame.label.energy_ev, frame.label.forces_ev_per_ang, -frame.label.virial_ev)) for frame in frames
        ]
        write_frames(tmp_path / "ours.xyz", frames)
        write_frames(tmp_path / "flipped.xyz", flipped)
        settings = self.settings(2)
        settings = settings.model_copy(update={"optimizer": settings.optimizer.model_copy(update={"train_virial": True})})
        models = []
        for name, sign in (("ours.xyz", 1), ("flipped.xyz", -1)):
            request = replace(self.request(data), settings=settings, train_data=(DataPath(path=tmp_path / name, virial_sign=sign),))
            models.append(self.train(tmp_path / f"task {sign}", request).model.read_bytes())
        assert models[0] == models[1]

    def test_a_model_of_nan_is_rejected(self, tmp_path, data):
        attempt, _ = self.run(tmp_path, self.request(data, epochs=1))
        path = attempt / "model.pt"
        with np.load(path) as archive:
            arrays = {name: archive[name].copy() for name in archive.files}
        next(array for array in arrays.values() if array.dtype == np.float64 and array.ndim == 2)[0, 0] = np.nan
        with path.open("wb") as stream:
            np.savez(stream, **arrays)
        outcome = self.trainer().outcome(attempt)
        assert isinstance(outcome, Reject) and "diverged" in outcome.reason
        path.write_bytes(path.read_bytes()[:2000])
        assert isinstance(self.trainer().outcome(attempt), Reject)

    @pytest.mark.parametrize(
        ("change", "words"),
        [({"model_type": "NEP"}, "NEP"), ({"optimizer": Optimizer(name="GKF")}, "GKF")],
    )
    def test_what_is_not_built_is_refused_before_anything_is_written(self, tmp_path, data, change, words):
        request = replace(self.request(data), settings=self.settings().model_copy(update=change))
        with pytest.raises(NotAvailableError, match=words):
            self.trainer().write(tmp_path / "task", request)
        assert not (tmp_path / "task").exists()

    @pytest.fixture(scope="class")
    @classmethod
    def knowing(cls, tmp_path_factory, data) -> Path:
        """A training that has learned its model's errors and drawn a committee."""
        contract = cls()
        request = replace(contract.request(data, epochs=2), uncertainty=UncertaintySettings(kind="kpu-committee", members=3))
        folder = tmp_path_factory.mktemp("knowing")
        contract.train(folder, request)
        return folder

    def test_a_training_learns_its_model_s_errors_when_asked(self, knowing):
        trainer = self.trainer()
        known = trainer.known_errors(knowing, "kpu-committee")
        assert [path.name for path in known.members] == ["member.000.pt", "member.001.pt", "member.002.pt"]
        assert known.files == ("kpu.pt", "uncertainty.json", *(path.name for path in known.members))
        assert all((knowing / name).is_file() for name in known.files)
        assert known.facts["kind"] == "kpu-committee" and known.facts["labellings"] == 0
        assert 0.0 < known.facts["lower_ev_per_ang"] < known.facts["upper_ev_per_ang"]
        assert trainer.known_errors(knowing, "kpu").members == ()

    def test_what_is_asked_of_errors_reads_back_and_names_no_place(self, tmp_path, data, knowing):
        from pwact_like.config.load import load_train

        before = LabelledBefore(model=knowing / "model.pt", kpu=knowing / "kpu.pt", data=(DataPath(path=data["train_b"]),))
        wanted = UncertaintySettings(posterior="last-layer", tau=0.01, samples=7, keep_covariance=True, labelled=(before, before))
        request = replace(self.request(data), uncertainty=wanted)
        files = self.trainer().write(tmp_path, request)
        assert files.outputs[-2:] == ("kpu.pt", "uncertainty.json")
        for place in (knowing, data["train_b"].parent):
            assert str(place) not in (tmp_path / "train.json").read_text()
        read, notes = load_train(tmp_path / "train.json", start_attempt(tmp_path, files, 1))
        assert notes == () and read.uncertainty.model_copy(update={"labelled": ()}) == wanted.model_copy(update={"labelled": ()})
        for found in read.uncertainty.labelled:
            assert found.model.resolve() == before.model.resolve() and found.kpu.resolve() == before.kpu.resolve()
            assert [path.path.resolve() for path in found.data] == [data["train_b"].resolve()]

    def test_labels_that_followed_recalibrate(self, tmp_path, data, knowing):
        before = LabelledBefore(model=knowing / "model.pt", kpu=knowing / "kpu.pt", data=(DataPath(path=data["train_b"]),))
        request = replace(
            self.request(data, epochs=2, init_model=knowing / "model.pt"), uncertainty=UncertaintySettings(samples=4, labelled=(before,))
        )
        self.train(tmp_path, request)
        facts = self.trainer().known_errors(tmp_path, "kpu").facts
        assert facts["labellings"] == 1 and facts["calibration"]["n_frames"] == 4 + 3

    def test_the_key_of_a_training_follows_the_labels_that_recalibrate(self, tmp_path, data, knowing):
        def key(name, labels):
            before = LabelledBefore(model=knowing / "model.pt", kpu=knowing / "kpu.pt", data=(DataPath(path=labels),))
            request = replace(self.request(data), uncertainty=UncertaintySettings(labelled=(before,)))
            folder = tmp_path / name
            files = self.trainer().write(folder, request)
            return TaskMaker(Place(tmp_path, 1))("embedded", folder, "train", ("true",), files, 1).key

        copy = tmp_path / "elsewhere" / "train_b.xyz"
        copy.parent.mkdir()
        copy.write_bytes(data["train_b"].read_bytes())
        first = key("a", data["train_b"])
        assert key("b", copy) == first
        copy.write_bytes(data["valid"].read_bytes())
        assert key("c", copy) != first

    @pytest.mark.parametrize("lost", ["kpu.pt", "uncertainty.json", "member.001.pt"])
    def test_a_training_that_left_less_than_was_asked_is_rejected(self, tmp_path, knowing, lost):
        shutil.copytree(knowing, tmp_path / "attempt", ignore=shutil.ignore_patterns(".attempt"))
        assert self.trainer().outcome(tmp_path / "attempt") == Ok()
        (tmp_path / "attempt" / lost).unlink()
        outcome = self.trainer().outcome(tmp_path / "attempt")
        assert isinstance(outcome, Reject) and lost in outcome.reason

    def test_a_training_without_data_is_refused(self, tmp_path, data):
        with pytest.raises(InputError, match="init_data"):
            self.trainer().write(tmp_path, replace(self.request(data), train_data=()))
