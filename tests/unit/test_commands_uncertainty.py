"""train with "uncertainty", kpu, eval --uncertainty, filter --suggest: the files that they leave and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_potentials_training import emt_frames, settings_for  # noqa: E402

from pwact_like.cli.main import main  # noqa: E402
from pwact_like.config.load import load_train  # noqa: E402
from pwact_like.config.train import UncertaintySettings  # noqa: E402
from pwact_like.data.formats import write_frames  # noqa: E402
from pwact_like.engines.trainers.embedded import EmbeddedTrainer  # noqa: E402
from pwact_like.errors import DataError, InputError  # noqa: E402
from pwact_like.potentials.committee import Committee, load_committee  # noqa: E402
from pwact_like.potentials.judging import methods_of  # noqa: E402
from pwact_like.potentials.kpu_file import SelfAware, read_knowledge, refuse_strange_members  # noqa: E402
from pwact_like.potentials.linear_committee import moved_model  # noqa: E402
from pwact_like.potentials.modelfile import read_model  # noqa: E402
from pwact_like.potentials.self_knowledge import hold_out, labelled_before  # noqa: E402
from pwact_like.potentials.training import train  # noqa: E402
from pwact_like.uncertainty.committee import force_deviation  # noqa: E402
from pwact_like.uncertainty.table import read_table  # noqa: E402

FRAMES, VALID, HOT = emt_frames(10, 1), emt_frames(6, 2), emt_frames(5, 3, rattle=0.3)


def trained(folder: Path, *, optimizer: str = "LKF", valid: list | None = None, **uncertainty: object) -> Path:
    settings = settings_for(folder.parent, FRAMES, VALID if valid is None else valid, name=optimizer, epochs=4)
    settings = settings.model_copy(update={"uncertainty": UncertaintySettings(**uncertainty)})
    train(settings, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def committee(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("uncertain") / "out", kind="kpu-committee", members=6, keep_covariance=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """By Adam: laplace does not need the filter."""
    return trained(tmp_path_factory.mktemp("other") / "out", optimizer="ADAM")


@pytest.fixture(scope="module")
def hot(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "hot.xyz"
    write_frames(path, HOT)
    return path


def test_members_deviate_as_kpu_says(committee) -> None:
    """The deviation of the saved members about their mean, times the factor, is the sampled KPU of kpu.pt."""
    model, _ = read_model(committee / "model.pt")
    knowledge = read_knowledge(committee / "kpu.pt", model)
    assert len(knowledge.members) == 6 and knowledge.factor >= 1.0
    members = Committee([read_model(committee / name)[0] for name in knowledge.members])
    aware = SelfAware(model, knowledge)
    for frame in VALID[:3]:
        deviation = force_deviation(members.compute(frame.atoms).forces) * knowledge.factor
        predicted = np.sqrt(aware.variances(Committee([model]).geometry(frame.atoms)).force)
        np.testing.assert_allclose(deviation, predicted, rtol=0.15)


def test_calibration_makes_z_squared_one_on_its_own_frames(committee) -> None:
    summary = json.loads((committee / "uncertainty.json").read_text())
    knowledge = read_knowledge(committee / "kpu.pt", read_model(committee / "model.pt")[0])
    sigma = knowledge.calibration.sigma(knowledge.pairs.variance)
    # six members tell a variance to a third at best, and these are 40 atoms
    assert np.mean((knowledge.pairs.error / sigma) ** 2) == pytest.approx(1.0, abs=0.35)
    assert 0.0 < summary["lower_ev_per_ang"] < summary["upper_ev_per_ang"]
    assert summary["validation_frames"] == len(VALID) and summary["members"] == list(knowledge.members)
    assert summary["calibration"]["alpha2"] == knowledge.calibration.alpha2


def test_a_file_without_a_calibration_of_its_own_gives_no_exact_kpu(committee) -> None:
    model, _ = read_model(committee / "model.pt")
    older = replace(read_knowledge(committee / "kpu.pt", model), exact=None, many=None)
    assert SelfAware(model, older).calibration == older.calibration == older.exact_calibration and older.reference is older.samples
    with pytest.raises(DataError, match="calibrated its draws only"):
        SelfAware(model, older, exact=True)


def test_exact_kpu_and_draws_have_calibrations_of_their_own(committee) -> None:
    """Found by an attack: `--exact` took the scale of six members, whose variances scatter by a third and more."""
    model, _ = read_model(committee / "model.pt")
    knowledge = read_knowledge(committee / "kpu.pt", model)
    assert len(knowledge.reference) == 64 and len(knowledge.samples) == 6
    # centred draws of six: five times one to three degrees of freedom, so u/v is 1.15 to 1.7 in the mean, and one scale shared by all
    factor = knowledge.calibration.alpha2 / knowledge.exact_calibration.alpha2
    few, exact = (SelfAware(model, knowledge, exact=wanted) for wanted in (False, True))
    assert few.calibration == knowledge.calibration and exact.calibration == knowledge.exact_calibration
    z2 = {"few": [], "exact": []}
    truth, by_six = [], []
    for frame in VALID:
        said = Committee([model])
        error = np.linalg.norm(said.compute(frame.atoms).forces[0] - frame.label.forces_ev_per_ang, axis=1)
        geometry = said.geometry(frame.atoms)
        for name, aware in (("few", few), ("exact", exact)):
            z2[name].append(error**2 / aware.sigma(geometry) ** 2)
        truth.append(exact.variances(geometry).force)
        by_six.append(few.variances(geometry).force)
    assert np.mean(np.concatenate(z2["exact"])) == pytest.approx(1.0, abs=0.1)
    assert np.mean(np.concatenate(z2["few"])) == pytest.approx(1.0, abs=0.35)
    assert factor == pytest.approx(np.mean(np.concatenate(truth) / np.concatenate(by_six)), rel=0.25)


@pytest.mark.parametrize("posterior", ["laplace", "filter", "last-layer"])
def test_every_posterior_is_sampled_as_it_is(tmp_path, posterior) -> None:
    """Many draws and the exact covariance give the same variances; the last layer moves the output layers alone."""
    folder = trained(tmp_path / "out", posterior=posterior, samples=400, keep_covariance=posterior != "last-layer")
    model, _ = read_model(folder / "model.pt")
    knowledge = read_knowledge(folder / "kpu.pt", model)
    if posterior == "last-layer":
        n_output = sum(p.numel() for name, p in model.named_parameters() if name.startswith("output."))
        assert float(knowledge.samples[:, :-n_output].abs().max()) == 0.0 and float(knowledge.samples[:, -n_output:].abs().min()) > 0.0
        return
    geometry = Committee([model]).geometry(VALID[0].atoms)
    sampled, exact = (SelfAware(model, knowledge, exact=wanted).variances(geometry).force for wanted in (False, True))
    # three components a force, 400 draws each: at worst one effective component
    np.testing.assert_allclose(sampled, exact, rtol=4.0 * (2.0 / 400) ** 0.5)


def test_without_validation_data_frames_are_held_out(tmp_path) -> None:
    folder = trained(tmp_path / "out", valid=[])
    summary = json.loads((folder / "uncertainty.json").read_text())
    assert summary["validation_frames"] == 2 and "held out" in (folder / "train.log").read_text()
    kept, held = hold_out(list(range(10)), 0.3, seed=4)
    assert sorted([*kept, *held]) == list(range(10)) and len(held) == 3
    with pytest.raises(InputError, match="give valid_data"):
        hold_out([1, 2, 3], 0.1, seed=1)


def test_labels_that_followed_recalibrate(tmp_path, committee, hot) -> None:
    from pwact_like.config.common import DataPath
    from pwact_like.config.train import LabelledBefore

    before = LabelledBefore(model=committee / "model.pt", kpu=committee / "kpu.pt", data=(DataPath(path=hot, format="extxyz"),))
    folder = trained(tmp_path / "out", labelled=(before,))
    knowledge = read_knowledge(folder / "kpu.pt", read_model(folder / "model.pt")[0])
    assert json.loads((folder / "uncertainty.json").read_text())["labellings"] == 1
    found = labelled_before(before.model, before.kpu, before.data, print)
    assert found is not None
    pairs, own = found
    # the hot labels were off by more than the validation set says, or by less: the new scale lies between
    off = np.mean((pairs.error / own.sigma(pairs.variance)) ** 2)
    change = knowledge.calibration.sigma(knowledge.pairs.variance).mean() / knowledge.own_calibration.sigma(knowledge.pairs.variance).mean()
    assert (change > 1.0) == (off > 1.0)


def test_adam_has_no_filter_and_laplace_does_not_mind(tmp_path, other) -> None:
    assert (other / "kpu.pt").is_file()
    with pytest.raises(InputError, match="use LKF, or laplace"):
        trained(tmp_path / "none", optimizer="ADAM", posterior="filter")


def test_resumed_after_the_last_step_ends_with_the_same_files(tmp_path, monkeypatch) -> None:
    """Cut off while the posterior is made: the training is not repeated."""
    from pwact_like.potentials import training

    whole = trained(tmp_path / "a" / "out") if (tmp_path / "a").mkdir() is None else None
    (tmp_path / "b").mkdir()

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "learn_errors", die)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b" / "out")
    assert (tmp_path / "b" / "out" / "checkpoint.pt").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(training.Stepper, "step", None)
        cut = trained(tmp_path / "b" / "out")
    assert whole is not None
    for name in ("model.pt", "kpu.pt", "uncertainty.json"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name


def test_what_an_earlier_training_left_does_not_speak_of_the_new_model(tmp_path) -> None:
    """Found by an attack: kpu.pt stayed when the model was trained anew without uncertainty."""
    folder = trained(tmp_path / "out", kind="kpu-committee", members=3)
    for name in ("test.json", "member.007.pt.bak", "member.mine.pt"):
        (folder / name).write_text("{}")
    again = trained(folder, kind="kpu-committee", members=2, tau=1e-4)
    assert sorted(path.name for path in again.glob("member.*")) == ["member.000.pt", "member.001.pt", "member.007.pt.bak", "member.mine.pt"]
    knowledge = read_knowledge(folder / "kpu.pt", read_model(folder / "model.pt")[0])
    refuse_strange_members(knowledge, [(folder / name, read_model(folder / name)[0]) for name in knowledge.members], folder / "kpu.pt")
    train(settings_for(tmp_path, FRAMES, VALID, epochs=2), folder, progress=False)
    assert {path.name for path in folder.iterdir()} == {
        "model.pt",
        "lcurve.csv",
        "train.log",
        "deleted.jsonl",
        "member.007.pt.bak",
        "member.mine.pt",
    }
    assert "kpu.pt, member.000.pt, member.001.pt, uncertainty.json: left by an earlier training" in (folder / "train.log").read_text()


def test_another_model_s_kpu_is_refused(committee, other) -> None:
    with pytest.raises(DataError, match="another model's uncertainty"):
        read_knowledge(committee / "kpu.pt", read_model(other / "model.pt")[0])


def test_kpu_command_writes_pwacts_file(tmp_path, committee, hot, capsys) -> None:
    out = tmp_path / "kpu_model_devi.out"
    assert main(["kpu", "-m", str(committee / "model.pt"), "-c", str(hot), "-s", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "# step etot_kpu f_kpu_mean f_kpu_max f_kpu_min" and len(lines) == 1 + len(HOT)
    _, energy, mean, largest, least = (float(word) for word in lines[1].split())
    model, _ = read_model(committee / "model.pt")
    aware = SelfAware(model, read_knowledge(committee / "kpu.pt", model))
    found = aware.variances(Committee([model]).geometry(HOT[0].atoms))
    assert (energy, mean, largest, least) == pytest.approx(
        (found.energy, found.force.mean() / 3, found.force.max() / 3, found.force.min() / 3), rel=1e-6
    )
    assert read_table(out).kind == "kpu" and len(read_table(out)) == len(HOT)
    assert main(["kpu", "-m", str(committee / "model.pt"), "-c", str(hot), str(hot), "-s", str(out), "--calibrated", "--exact"]) == 0
    table = read_table(out)
    assert (table.kind, table.unit, len(table)) == ("kpu", "eV/Ang", 2 * len(HOT)) and (table.value >= table.mean).all()
    # one frame is a trajectory too
    one = tmp_path / "one.xyz"
    write_frames(one, HOT[:1])
    assert main(["kpu", "-m", str(committee / "model.pt"), "-c", str(one), "-s", str(out)]) == 0 and len(read_table(out)) == 1
    assert main(["kpu", "-m", str(committee / "model.pt"), "-c", str(tmp_path / "none.xyz")]) == 2
    assert "is not there" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_told(tmp_path, committee, hot, capsys) -> None:
    """Found by an attack: a traceback."""
    model, absent = str(committee / "model.pt"), "cuda:99"
    (tmp_path / "train.json").write_text(json.dumps({"atom_type": ["Cu"], "train_data": [str(hot)]}))
    for command in (
        ["eval", model, str(hot)],
        ["eval", model, str(hot), "--uncertainty", str(tmp_path / "u")],
        ["kpu", "-m", model, "-c", str(hot), "-s", str(tmp_path / "o")],
        ["train", str(tmp_path / "train.json"), "-o", str(tmp_path / "t"), "-q"],
    ):
        for name in (absent, "gpu", "meta"):
            assert main([*command, "--device", name]) == 2, command
            said = capsys.readouterr().err
            assert f"--device: nothing can be computed on '{name}'" in said and "(here: cpu" in said and "Traceback" not in said
    assert not (tmp_path / "t").exists() and not (tmp_path / "o").exists()


def test_an_output_that_cannot_be_written_is_told_before_the_work(tmp_path, committee, hot, capsys, monkeypatch) -> None:
    """Found by an attack: hours of work were lost for a name."""
    from pwact_like.potentials import modelfile

    model = str(committee / "model.pt")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    HOT[0].atoms.write(tmp_path / "start.xyz")
    (tmp_path / "u.npz").mkdir()
    monkeypatch.setattr(modelfile, "read_arrays", None)  # no model is read before
    run = ["md", model, "-s", str(tmp_path / "start.xyz"), "--temp", "300", "--nsteps", "1", "-o"]
    for command, words in (
        (["kpu", "-m", model, "-c", str(hot), "-s", str(tmp_path / "folder")], "-s: "),
        (["kpu", "-m", model, "-c", str(hot), "-s", str(tmp_path / "file/new/o")], "file is no folder"),
        (["eval", model, str(hot), "--save", str(tmp_path / "file/p.npz")], "--save: "),
        (["eval", model, str(hot), "--uncertainty", str(tmp_path / "u")], "u.npz is a folder"),
        (["eval", model, str(hot), "--uncertainty", "."], "no beginning of file names"),
        ([*run, str(tmp_path / "file")], "a folder is wanted"),
        ([*run, str(tmp_path / "file/sub")], "-o: "),
    ):
        assert main(command) == 2, command
        assert words in capsys.readouterr().err, command


def test_options_of_an_uncertainty_that_is_not_judged_are_not_ignored(committee, other, hot, capsys) -> None:
    models = [str(committee / "model.pt"), str(other / "model.pt")]
    assert main(["eval", *models, str(hot), "--exact", "--tau", "0.1", "--calibrate-on", str(hot), "--kpu", str(committee / "kpu.pt")]) == 2
    said = capsys.readouterr().err
    assert all(f"--{name}: it belongs to --uncertainty" in said for name in ("exact", "tau", "calibrate-on", "kpu"))
    assert "--kpu: it is of one model, and there are 2" in said


def test_exact_needs_the_covariance(tmp_path, other, hot, capsys) -> None:
    assert main(["kpu", "-m", str(other / "model.pt"), "-c", str(hot), "-s", str(tmp_path / "o"), "--exact"]) == 2
    assert "keep_covariance" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_eval_judges_all_kinds_alike(tmp_path, committee, other, hot, capsys) -> None:
    prefix = tmp_path / "judged" / "hot"
    models = [str(committee / "model.pt"), str(other / "model.pt")]
    assert main(["eval", *models, str(hot), "--uncertainty", str(prefix), "--calibrate-on", str(hot), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [name.split()[0] for name in said["uncertainty"]] == ["committee", "kpu-committee", "kpu"]
    saved = json.loads(prefix.with_name("hot.json").read_text())
    for name, quality in said["uncertainty"].items():
        # calibrated on the very frames that are judged: only then must the mean of z² be 1
        close = 1e-6 if name.startswith("committee") else 0.15  # few draws are so far as they scatter
        assert quality["z_variance"] == pytest.approx(1.0, abs=close) and quality["n_frames"] == len(HOT)
        assert saved[name]["calibration"]["alpha2"] > 0.0
    with np.load(prefix.with_name("hot.npz")) as arrays:
        assert sorted({name.rpartition(".")[2] for name in arrays.files}) == ["error", "frame", "sigma"]
    assert prefix.with_name("hot.png").read_bytes().startswith(b"\x89PNG")
    assert main(["eval", models[0], str(hot), "--uncertainty", str(prefix)]) == 0
    assert "rho atoms" in capsys.readouterr().out
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "model.pt").write_bytes((other / "model.pt").read_bytes())
    assert main(["eval", str(bare / "model.pt"), str(hot), "--uncertainty", str(prefix)]) == 2
    assert "knows nothing of its errors" in capsys.readouterr().err


def test_members_of_one_training_are_no_plain_committee(committee, other, hot, capsys) -> None:
    """Found by an attack: their deviation, without the factor in kpu.pt, was in the fifth digit, and nothing warned."""
    model, *members = (str(path) for path in (committee / "model.pt", *sorted(committee.glob("member.*.pt"))))
    for models in (members, [model, *members], [str(other / "model.pt"), members[0]]):
        with pytest.raises(InputError, match="every frame would look accurate"):
            methods_of([Path(path) for path in models])
        with pytest.raises(InputError, match="--kpu"):
            load_committee(models)
        assert main(["eval", *models, str(hot)]) == 2
        assert "drawn from the training of model.pt" in capsys.readouterr().err
    with pytest.raises(InputError, match="drawn from the training"):
        EmbeddedTrainer().refuse_committee([Path(path) for path in [str(other / "model.pt"), members[0]]])
    EmbeddedTrainer().refuse_committee([committee / "model.pt", other / "model.pt"])
    # one alone is a model like any other, and the model speaks for its members
    assert main(["eval", members[0], str(hot)]) == 0
    assert [method.name.split()[0] for method in methods_of([Path(model)])] == ["kpu-committee"]


def test_a_member_of_another_training_does_not_get_this_one_s_factor(tmp_path, committee) -> None:
    knowledge = read_knowledge(committee / "kpu.pt", read_model(committee / "model.pt")[0])
    members = [(committee / name, read_model(committee / name)[0]) for name in knowledge.members]
    refuse_strange_members(knowledge, members[::-1], committee / "kpu.pt")
    strange = (tmp_path / "strange.pt", moved_model(members[0][1], torch.full((sum(p.numel() for p in members[0][1].parameters()),), 1e-9)))
    with pytest.raises(InputError, match=r"strange\.pt: this is no member"):
        refuse_strange_members(knowledge, [strange, *members[1:]], committee / "kpu.pt")
    with pytest.raises(InputError, match=r"member\.001\.pt: this member is given twice"):
        refuse_strange_members(knowledge, [members[1], *members[1:]], committee / "kpu.pt")
    with pytest.raises(InputError, match="5 members are given"):
        refuse_strange_members(knowledge, members[1:], committee / "kpu.pt")


def test_filter_suggests_from_saved_pairs(tmp_path, committee, hot, capsys) -> None:
    prefix = tmp_path / "hot"
    assert main(["eval", str(committee / "model.pt"), str(hot), "--uncertainty", str(prefix)]) == 0
    capsys.readouterr()
    suggest = ["filter", "-i", str(tmp_path), "--suggest", "--pairs", str(tmp_path / "hot.npz")]
    assert main([*suggest, "--tolerance", "0.5", "-l", "0.1", "-u", "0.4"]) == 0
    said = capsys.readouterr().out
    assert "kpu-committee: 5 labelled frames" in said and "suggested: lower" in said and "with lower 0.1:" in said
    assert main([*suggest[:-1], str(hot)]) == 2 and main(["filter", "-i", str(tmp_path), "-l", "1"]) == 2
    assert main(["filter", "-i", str(tmp_path), "--suggest"]) == 2
    assert "give pairs with --pairs" in capsys.readouterr().err


def test_the_section_is_read_with_every_problem(tmp_path) -> None:
    write_frames(tmp_path / "t.xyz", FRAMES[:2])

    def load(**section: object):
        (tmp_path / "train.json").write_text(json.dumps({"atom_type": ["Cu", "Au"], "train_data": ["t.xyz"], "uncertainty": section}))
        return load_train(tmp_path / "train.json", tmp_path)[0].uncertainty

    assert load(kind="kpu-committee", members=3) == UncertaintySettings(kind="kpu-committee", members=3)
    with pytest.raises(InputError) as caught:
        load(kind="guess", members=1, tau=-1.0, labelled=[{"model": "none.pt", "kpu": "none.pt", "data": ["t.xyz"]}], sampels=3)
    for part in ("kind", "members", "tau", "labelled", "none.pt", "'samples'"):
        assert part in str(caught.value), part
