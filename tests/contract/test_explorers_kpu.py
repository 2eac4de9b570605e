"""Embedded MD with a model that knows its own errors: what the table holds, exact resumption, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from labeler_contract import start_attempt

from pwact_like.cli.main import main
from pwact_like.engines.explorers import md_files
from pwact_like.engines.explorers.embedded import EmbeddedExplorer
from pwact_like.engines.explorers.md_input import read_md_json
from pwact_like.engines.protocols import ExploreRequest, ExploreUncertainty, MdSettings
from pwact_like.errors import InputError
from pwact_like.outcome import Ok
from pwact_like.uncertainty.calibration import Calibration, Pairs
from pwact_like.uncertainty.table import read_table

torch = pytest.importorskip("torch")

CALIBRATION = Calibration(alpha2=4.0, noise2=1e-4, n_pairs=50)
KINDS = ("kpu", "relative", "kpu-committee")


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Path:
    """A folder as a training leaves it: a small silicon model, kpu.pt, and five members drawn from its covariance."""
    from pwact_like.potentials import DeepPotential, DeepPotSpec, save_model
    from pwact_like.potentials.committee import Committee
    from pwact_like.potentials.kpu_file import Knowledge, save_knowledge
    from pwact_like.potentials.linear_committee import centred, linear_committee

    folder = tmp_path_factory.mktemp("a training")
    spec = DeepPotSpec((14,), rmax_ang=4.0, rmin_ang=1.0, embedding=(4, 8), m2=2, fitting=(8, 8), sel=(40,))
    model = DeepPotential(spec, 1, torch.tensor([0.1]), torch.tensor([[0.1, 0.1]]), torch.tensor([-5.0]))
    count = sum(parameter.numel() for parameter in model.parameters())
    samples = 0.01 * torch.randn((5, count), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    committee = linear_committee(model, samples, [Committee([model]).geometry(silicon())], tolerance=1e-3)
    for number, member in enumerate(committee.members):
        save_model(folder / f"member.{number:03d}.pt", member, {"member_of": "model.pt", "epsilon": committee.epsilon})
    save_model(folder / "model.pt", model)
    pairs = Pairs(np.ones(1), np.ones(1), np.zeros(1, dtype=int))
    names = tuple(f"member.{number:03d}.pt" for number in range(5))
    knowledge = Knowledge("laplace", centred(samples), CALIBRATION, CALIBRATION, pairs, 1.0, members=names, factor=committee.factor)
    save_knowledge(folder / "kpu.pt", model, knowledge)
    return folder


def silicon():
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    atoms.rattle(0.03, seed=4)
    return atoms


def a_request(training: Path, kind: str, **changes) -> ExploreRequest:
    names = {"ensemble", "nsteps", "trj_freq", "temp_k", "press_bar"}
    md = replace(
        MdSettings("nvt", nsteps=20, trj_freq=5, md_dt_ps=0.001, temp_k=300.0),
        **{name: changes.pop(name) for name in list(changes) if name in names},
    )
    members = sorted(training.glob("member.*.pt")) if kind == "kpu-committee" else []
    scale = "relative" if kind == "relative" else "calibrated"
    uncertainty = ExploreUncertainty("kpu" if kind == "relative" else kind, training / "kpu.pt", scale)
    upper = None if kind == "relative" else 1e3
    return replace(ExploreRequest(silicon(), (training / "model.pt", *members), md, 17, upper, uncertainty=uncertainty), **changes)


def run(task: Path, request: ExploreRequest, **settings) -> Path:
    """Attempt 1 in this process; ``settings`` are set in its md.json."""
    files = EmbeddedExplorer().write(task, request)
    attempt = start_attempt(task, files, 1)
    if settings:
        (attempt / "md.json").write_text(json.dumps(json.loads((task / "md.json").read_text()) | settings))
    assert main(["md", str(attempt / "md.json")]) == 0
    return attempt


def variances(training: Path, atoms) -> np.ndarray:
    """KPU of each atom's force by its definition, mean_s |J δ_s|², with J from finite differences of the forces."""
    from pwact_like.potentials.committee import Committee
    from pwact_like.potentials.kpu_file import read_knowledge
    from pwact_like.potentials.linear_committee import moved_model
    from pwact_like.potentials.modelfile import read_model

    model = read_model(training / "model.pt")[0]
    samples, h = read_knowledge(training / "kpu.pt", model).samples, 1e-4
    steps = [[Committee([moved_model(model, sign * h * sample)]).compute(atoms).forces[0] for sign in (1, -1)] for sample in samples]
    return np.mean([np.sum(((ahead - behind) / (2 * h)) ** 2, axis=1) for ahead, behind in steps], axis=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_holds_what_the_covariance_of_the_weights_says(tmp_path, training, kind):
    attempt = run(tmp_path, a_request(training, kind))
    assert EmbeddedExplorer().outcome(attempt) == Ok()
    table = read_table(attempt / "model_devi.out")
    assert (table.kind, table.unit) == ("kpu", "1") if kind == "relative" else (kind, "eV/Ang")
    assert table.steps.tolist() == [0, 5, 10, 15, 20]
    for row, atoms in enumerate(EmbeddedExplorer().frames(attempt, table.steps.tolist())):
        v = variances(training, atoms)
        values = v / 3.0 if kind == "relative" else np.sqrt(CALIBRATION.alpha2 * v + CALIBRATION.noise2)
        # a committee's members are linear to a thousandth
        tolerance = 3e-3 if kind == "kpu-committee" else 1e-5
        found = [table.value[row], table.minimum[row], table.mean[row]]
        np.testing.assert_allclose(found, [values.max(), values.min(), values.mean()], rtol=tolerance)


def test_the_same_model_drives_the_atoms_whatever_tells_its_errors(tmp_path, training):
    kinds = [run(tmp_path / kind, a_request(training, kind)) for kind in KINDS]
    steps = [EmbeddedExplorer().frames(attempt, [20])[0].positions for attempt in kinds]
    np.testing.assert_array_equal(steps[0], steps[1])
    np.testing.assert_allclose(steps[0], steps[2], atol=1e-10)


@pytest.mark.parametrize("kind", ["kpu", "kpu-committee"])
def test_the_next_attempt_goes_on_to_the_last_bit(tmp_path, training, kind, monkeypatch):
    monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
    request = a_request(training, kind, ensemble="npt-tri", press_bar=0.0, nsteps=130, temp_k=900.0)
    whole = run(tmp_path / "whole", request)
    run(tmp_path / "cut", request, nsteps=117)  # as if the time had run out
    files = EmbeddedExplorer().write(tmp_path / "cut", request)
    second = start_attempt(tmp_path / "cut", files, 2)
    assert (second / "md.checkpoint.npz").is_file()
    assert main(["md", str(second / "md.json")]) == 0
    for name in (*files.outputs, "md.log"):
        assert (whole / name).read_bytes() == (second / name).read_bytes(), name


def test_a_checkpoint_is_good_for_its_own_uncertainty_only(tmp_path, training, monkeypatch, capsys):
    monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
    attempt = run(tmp_path, a_request(training, "kpu", nsteps=110), nsteps=105)
    content = json.loads((attempt / "md.json").read_text())
    content["uncertainty"]["scale"] = "relative"
    (attempt / "md.json").write_text(json.dumps(content))
    assert main(["md", str(attempt / "md.json")]) == 2
    assert "a run with other settings" in capsys.readouterr().err


def test_inputs_name_no_place_and_the_files_are_links(tmp_path, training):
    for kind in KINDS:
        files = EmbeddedExplorer().write(tmp_path / kind, a_request(training, kind))
        assert str(training) not in (tmp_path / kind / "md.json").read_text()
        assert dict(files.links)["kpu.pt"] == str(training / "kpu.pt")
        assert len(files.links) == (7 if kind == "kpu-committee" else 2)


def test_an_exploding_uncertainty_stops_a_run_where_levels_are_known(tmp_path, training):
    attempt = run(tmp_path / "calibrated", a_request(training, "kpu", upper_level=1e-9))
    assert "deviation" in EmbeddedExplorer().read(attempt).ended
    EmbeddedExplorer().write(tmp_path / "relative", a_request(training, "relative"))
    assert "stop_deviation" not in json.loads((tmp_path / "relative" / "md.json").read_text())


def test_by_hand(tmp_path, training, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    silicon().write("start.xyz")
    asked = ["-s", "start.xyz", "--temp", "300", "--nsteps", "10", "--kpu", str(training / "kpu.pt")]
    assert main(["md", str(training / "model.pt"), *asked, "-o", "alone"]) == 0
    assert read_table(tmp_path / "alone/model_devi.out").kind == "kpu" and "eV/Å" in capsys.readouterr().out
    members = [str(path) for path in sorted(training.glob("member.*.pt"))]
    assert main(["md", str(training / "model.pt"), *members, *asked, "-o", "committee"]) == 0
    assert read_table(tmp_path / "committee/model_devi.out").kind == "kpu-committee"
    assert main(["md", str(training / "model.pt"), *members[1:], *asked, "-o", "few"]) == 2
    assert "4 members are given besides the model, and its training drew 5" in capsys.readouterr().err
    assert main(["md", str(training / "model.pt"), *members[1:], str(training / "model.pt"), *asked, "-o", "strange"]) == 2
    assert "model.pt: this is no member of the training" in capsys.readouterr().err
    # without kpu.pt nobody knows their factor: every frame would be accurate
    assert main(["md", str(training / "model.pt"), *members, *asked[:-2], "-o", "plain"]) == 2
    assert "--kpu KPU.PT" in capsys.readouterr().err and not (tmp_path / "plain").exists()
    assert main(["md", members[0], *asked, "-o", "wrong"]) != 0
    assert "another model's uncertainty" in capsys.readouterr().err and not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "kpus"}, "kpu-committee"),
        ({"scale": "eV"}, "relative"),
        ({"kpu": "missing.pt"}, "missing"),
        ({"kind": "kpu-committee"}, "its members"),
        ({"kind": "kpu-committee", "scale": "relative"}, "no relative scale"),
        ({"samples": 3}, "unknown key samples"),
    ],
)
def test_what_is_wrong_in_md_json_is_told(tmp_path, training, changes, words):
    task = tmp_path / "task"
    files = EmbeddedExplorer().write(task, a_request(training, "kpu"))
    attempt = start_attempt(task, files, 1)
    content = json.loads((attempt / "md.json").read_text())
    content["uncertainty"] |= changes
    (attempt / "md.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        read_md_json(attempt / "md.json")


def test_models_that_do_not_fit_the_kind_are_refused(tmp_path, training):
    for kind, models in (("kpu", (Path("a.pt"), Path("b.pt"))), ("kpu-committee", (Path("a.pt"),))):
        with pytest.raises(InputError, match=kind):
            EmbeddedExplorer().write(tmp_path, a_request(training, kind, models=models))


@pytest.mark.parametrize("kind", KINDS)
def test_runs_that_share_a_process_are_those_that_they_are_alone(tmp_path, training, kind):
    explorer = EmbeddedExplorer()
    requests = {f"run.{seed}": a_request(training, kind, seed=seed) for seed in (17, 18)}
    requests["run.19"] = a_request(training, kind, seed=19, ensemble="npt-tri", press_bar=0.0, atoms=silicon()[:8])
    files = explorer.write_batch(tmp_path / "batch", requests)
    attempt = start_attempt(tmp_path / "batch", files, 1)
    assert main(["md", *(str(attempt / name / "md.json") for name in requests)]) == 0
    assert explorer.batch_outcome(attempt, requests) == Ok()
    for name, request in requests.items():
        lone = run(tmp_path / name, request)
        tables = [read_table(folder / "model_devi.out") for folder in (attempt / name, lone)]
        assert (tables[0].kind, tables[0].unit) == (tables[1].kind, tables[1].unit)
        # the members of a kpu-committee stand close together: rounding is magnified by their factor
        np.testing.assert_allclose(tables[0].value, tables[1].value, rtol=1e-5)
        ends = [explorer.frames(folder, [20])[0] for folder in (attempt / name, lone)]
        np.testing.assert_allclose(ends[0].positions, ends[1].positions, rtol=0, atol=1e-9)
