"""Training with the Kalman filter: observations, coordinates, warm start, virials, several elements, single precision."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

torch = pytest.importorskip("torch")

from test_potentials_training import SPEC, arrays_of, emt_frames, prepared, settings_for  # noqa: E402

from pwact_like.config.train import Optimizer  # noqa: E402
from pwact_like.data.frames import Frame, Label  # noqa: E402
from pwact_like.errors import DataError  # noqa: E402
from pwact_like.potentials import checkpoint  # noqa: E402
from pwact_like.potentials.committee import Committee  # noqa: E402
from pwact_like.potentials.coordinates import Coordinates, descriptor_scalings, start_in  # noqa: E402
from pwact_like.potentials.deep_potential import DeepPotential, descriptors  # noqa: E402
from pwact_like.potentials.modelfile import read_model  # noqa: E402
from pwact_like.potentials.observations import draw_groups, gradients_of, observe  # noqa: E402
from pwact_like.potentials.optimizer import FlatParameters  # noqa: E402
from pwact_like.potentials.steppers import KalmanStepper, noise_shares  # noqa: E402
from pwact_like.potentials.training import train  # noqa: E402
from pwact_like.potentials.training_set import TrainingSet  # noqa: E402

LKF = {"name": "LKF", "block_size": 200}


@pytest.fixture
def data() -> tuple[DeepPotential, TrainingSet]:
    model = DeepPotential(SPEC, seed=3)
    return model, TrainingSet(prepared(emt_frames(5, 1)), SPEC, model.davg, model.dstd)


def test_groups_are_drawn_without_replacement_and_by_place(data) -> None:
    _, frames = data
    n_atoms = frames.batch([0, 1, 2]).n_atoms  # 8, 4 and 4 atoms
    groups = draw_groups(7, 11, n_atoms, n_select=6, group_size=3)
    drawn = torch.cat(groups).numpy()
    assert len(np.unique(drawn)) == len(drawn) == 6 + 4 + 4 and drawn.max() < 16
    assert [len(group) for group in groups] == [9, 5]
    again = draw_groups(7, 11, n_atoms, n_select=6, group_size=3)
    assert all(torch.equal(a, b) for a, b in zip(groups, again, strict=True))
    assert not torch.equal(groups[0], draw_groups(7, 12, n_atoms, n_select=6, group_size=3)[0])


@pytest.mark.parametrize("indices", [[0], [0, 1, 2]])
def test_observations_are_the_reductions_of_their_table(data, indices) -> None:
    """Errors against the formulas written out with loops, and H against finite differences."""
    model, frames = data
    settings = Optimizer(name="LKF", train_virial=True, nselect=4, groupsize=2)
    batch = frames.batch(indices)
    parameters = FlatParameters(model)
    result = model(batch.geometry, virials=True)
    found = observe(result, batch, settings, seed=1, step=2)
    assert [each.kind for each in found] == ["energy", "virial", "force", "force"]
    n = batch.n_atoms.numpy()
    assert {each.n_frames for each in found} == {len(indices)}
    # 0.1 meV/atom, 1 meV/Å, 1 meV/atom, as errors of the same scalars
    leasts = [1e-4 * settings.pre_fac_etot, 1e-3 * settings.pre_fac_virial, *[1e-3 * settings.pre_fac_force * np.mean(1.0 / n)] * 2]
    assert [each.least for each in found] == pytest.approx(leasts)
    d_energy = (batch.energies - result.energies[0]).detach().numpy()
    assert found[0].error == pytest.approx(np.mean(settings.pre_fac_etot * np.abs(d_energy) / n))
    d_virial = (batch.virials - result.virials[0]).detach().numpy()
    independent = np.stack([d_virial[:, a, b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], axis=1)
    assert found[1].error == pytest.approx(np.mean(settings.pre_fac_virial * np.abs(independent).mean(axis=1) / n))
    d_force = np.abs((batch.forces - result.forces[0]).detach().numpy())
    owner = batch.atom_frame.numpy()
    for each, group in zip(found[2:], draw_groups(1, 2, batch.n_atoms, 4, 2), strict=True):
        group = group.numpy()
        means = [d_force[group[owner[group] == b]].mean() / n[b] for b in range(len(n))]
        assert each.error == pytest.approx(settings.pre_fac_force * np.mean(means))

    rows = gradients_of(found, parameters.gradient)
    start, step = parameters.values.clone(), 1e-5
    signs = [torch.sign(batch.energies - result.energies[0]).detach()]
    for place in np.random.default_rng(0).choice(len(start), size=12, replace=False):
        values = []
        for sign in (1.0, -1.0):
            parameters.values.copy_(start)
            parameters.values[place] += sign * step
            moved = model(batch.geometry, virials=True)
            values.append(float((signs[0] * moved.energies[0] / batch.n_atoms).mean()) * settings.pre_fac_etot)
        parameters.values.copy_(start)
        assert float(rows[0, place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_gradients_of_force_and_virial_observations_are_finite_differences(data) -> None:
    """The signs are those of the errors at the start, so errors fall linearly along the weights: e(θ + tδ) = e − t H·δ."""
    model, frames = data
    settings = Optimizer(name="LKF", train_virial=True)
    batch = frames.batch([0])
    parameters = FlatParameters(model)
    found = observe(model(batch.geometry, virials=True), batch, settings, 1, 2)
    rows = gradients_of(found, parameters.gradient)
    assert float(parameters.gradient.abs().max()) == 0.0
    direction = torch.randn(len(parameters.values), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = []
    for t in (1e-7, -1e-7):
        parameters.values.add_(direction, alpha=t)
        errors.append([each.error for each in observe(model(batch.geometry, virials=True), batch, settings, 1, 2)])
        parameters.values.sub_(direction, alpha=t)
    slope = (np.array(errors[0]) - np.array(errors[1])) / 2e-7
    np.testing.assert_allclose(slope, -(rows @ direction).numpy(), rtol=1e-5)


def test_coordinates_are_a_linear_map_and_its_transpose(data) -> None:
    """h·(Tδ) = (Tᵀh)·δ, and the first layer sees what was promised."""
    model, frames = data
    parameters = FlatParameters(model)
    scalings = descriptor_scalings(model, frames)
    coordinates = Coordinates(scalings, parameters.layout)
    generator = torch.Generator().manual_seed(1)
    h, d = (torch.randn((4, len(parameters.values)), dtype=torch.float64, generator=generator) for _ in range(2))
    assert torch.allclose((h * coordinates.step(d)).sum(dim=1), (coordinates.gradient(h) * d).sum(dim=1), rtol=1e-10)

    seen = {kind: [] for kind in range(2)}
    for index in range(len(frames)):
        for kind, found in descriptors(model, frames.batch([index]).geometry).items():
            seen[kind].append(found)
    drawn = [net[0].weight.detach().clone() for net in model.fitting], [net[0].bias.detach().clone() for net in model.fitting]
    start_in(coordinates, parameters)
    for kind in range(2):
        x = torch.cat(seen[kind])
        mean, size = scalings[f"fitting.{kind}.0"]
        assert torch.allclose(mean, x.mean(dim=0)) and torch.allclose(size, x.square().sum(dim=1).mean().sqrt().expand_as(size))
        wanted = ((x - mean) / size) @ drawn[0][kind] + drawn[1][kind]
        assert torch.allclose(x @ model.fitting[kind][0].weight + model.fitting[kind][0].bias, wanted, atol=1e-10)
    again = Coordinates({name: pair for name, pair in scalings.items()}, parameters.layout)
    assert {name: array.tobytes() for name, array in again.arrays().items()} == {
        name: array.tobytes() for name, array in coordinates.arrays().items()
    }


def test_two_elements_of_mixed_sizes_are_learnt(tmp_path: Path) -> None:
    frames, valid = emt_frames(12, 1), emt_frames(6, 2)
    settings = settings_for(tmp_path, frames, valid, epochs=30, **LKF)
    result = train(settings, tmp_path / "out", progress=False)
    with (tmp_path / "out" / "lcurve.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["valid_force_rmse_ev_per_ang"]]
    assert result.valid["force_rmse_ev_per_ang"] < 0.5 * float(rows[0]["valid_force_rmse_ev_per_ang"])
    assert float(rows[-1]["lr"]) > 0.999, "the column holds λ"
    assert "lambda" in (tmp_path / "out" / "train.log").read_text()


def test_virials_are_trained_when_wanted(tmp_path: Path) -> None:
    frames, errors = emt_frames(6, 1, gold=False), {}
    for wanted in (False, True):
        settings = settings_for(
            tmp_path, frames, frames, epochs=12, train_virial=wanted, **LKF, **({"pre_fac_virial": 4.0} if wanted else {})
        )
        errors[wanted] = train(settings, tmp_path / str(wanted), progress=False).valid["virial_rmse_ev_per_atom"]
    assert errors[True] < 0.7 * errors[False]


def test_a_frame_of_a_lone_atom_trains_its_energy(tmp_path: Path) -> None:
    """Found by an attack: a force without any neighbour has no gradient, and the training broke."""
    lone = Frame(Atoms("Cu", cell=[20.0] * 3, pbc=True), Label(-0.25, np.zeros((1, 3)), np.zeros((3, 3))))
    frames = [*emt_frames(4, 1, gold=False), lone]
    settings = settings_for(tmp_path, frames, frames, epochs=6, train_virial=True, **LKF)
    assert np.isfinite(train(settings, tmp_path / "out", progress=False).valid["energy_rmse_ev_per_atom"])


def test_forces_alone_or_energies_alone(tmp_path: Path) -> None:
    """What is trained alone is learnt, the other not, and as many observations are made."""
    frames = emt_frames(8, 1)
    rms = np.sqrt(np.mean(np.concatenate([frame.label.forces_ev_per_ang.ravel() for frame in frames]) ** 2))
    found = {}
    for name, wanted in (("force", {"train_energy": False}), ("energy", {"train_force": False})):
        result = train(settings_for(tmp_path, frames, frames, epochs=12, **LKF, **wanted), tmp_path / name, progress=False)
        found[name] = result.valid | {"observations": read_model(result.model)[1]["facts"]["observations"]}
    assert found["energy"]["observations"] == 12 * 8
    groups = [-(-len(frame.atoms) // 6) for frame in frames]
    assert found["force"]["observations"] == 12 * sum(groups)
    assert found["force"]["force_rmse_ev_per_ang"] < 0.3 * rms and found["energy"]["force_rmse_ev_per_ang"] > 0.6 * rms
    assert found["energy"]["energy_rmse_ev_per_atom"] < 0.3 * found["force"]["energy_rmse_ev_per_atom"]


def stepper_of(data: TrainingSet, model: DeepPotential, n_steps: int, **optimizer: object) -> tuple[KalmanStepper, FlatParameters]:
    parameters = FlatParameters(model)
    settings = Optimizer(**{"name": "LKF", "block_size": 10_000, "epochs": 1, **optimizer})
    return KalmanStepper(model, settings, 1, parameters, Coordinates({}, parameters.layout), n_steps), parameters


def test_the_final_weights_are_the_mean_of_the_last_steps(data) -> None:
    model, frames = data
    stepper, parameters = stepper_of(frames, model, 8, average_share=0.5)
    seen = []
    for number in range(8):
        stepper.step(frames.batch([number % len(frames)]), number)
        seen.append(parameters.values.clone())
    stepper.finish()
    wanted = torch.stack(seen[4:]).mean(dim=0)
    assert torch.allclose(parameters.values, wanted, rtol=1e-12) and not torch.allclose(wanted, seen[-1], rtol=1e-3)


@pytest.mark.parametrize(("epochs", "n_steps"), [(5, 5), (5, 10), (2, 200)])
def test_the_prior_counts_once_an_epoch_however_short_it_is(data, epochs, n_steps, monkeypatch) -> None:
    model, frames = data
    stepper, parameters = stepper_of(frames, model, n_steps, epochs=epochs, kalman_prior=1.0, p0_weight=0.5)
    start, pulls = parameters.values.clone(), []
    update = stepper.filter.update
    monkeypatch.setattr(stepper.filter, "update", lambda *rest, pull, **named: pulls.append(pull) or update(*rest, pull=pull, **named))
    for number in range(3):
        before = parameters.values.clone()
        stepper.step(frames.batch([0]), number)
        way, precision = pulls[-1]
        assert precision == pytest.approx(1.0 / (0.5 * n_steps / epochs))
        if number == 0:
            assert float((before - start).norm()) == 0.0
    assert torch.allclose(way, parameters.values - start) and float(way.norm()) > 0.0


def test_shares_of_the_noise_follow_the_prefactors() -> None:
    assert noise_shares(Optimizer(name="LKF")) == {"energy": 0.1, "force": 1.0, "virial": 1.0, "atomic": 1.0}
    other = noise_shares(Optimizer(name="LKF", pre_fac_etot=2.0, pre_fac_force=1.0, pre_fac_virial=4.0, pre_fac_ei=0.0))
    assert other == pytest.approx({"energy": 0.025, "force": 4.0, "virial": 0.0625})


@pytest.mark.parametrize("kind", ["energy", "force"])
@pytest.mark.parametrize("indices", [[0], [0, 1, 2]])
def test_fixed_noise_is_the_fields_update(data, kind, indices) -> None:
    """RLEKF written out for a batch: H a sum over its frames, e √B times their mean, R = 1 (Hu et al.)."""
    model, frames = data
    wanted = {"train_energy": kind == "energy", "train_force": kind == "force", "nselect": 100, "groupsize": 100}
    stepper, parameters = stepper_of(frames, model, 9, kalman_noise="fixed", kalman_lambda=0.98, p0_weight=0.3, average_share=0.0, **wanted)
    h, errors, weights = torch.zeros_like(parameters.values), [], list(model.parameters())
    for index in indices:
        batch = frames.batch([index])
        said, n = model(batch.geometry), int(batch.n_atoms)
        if kind == "energy":
            delta, value, factor = batch.energies - said.energies[0], said.energies[0], 1.0 / n
        else:
            delta, value, factor = (batch.forces - said.forces[0]).reshape(-1), said.forces[0].reshape(-1), 2.0 / n / (3 * n)
        gradient = torch.autograd.grad((torch.sign(delta.detach()) * value).sum(), weights, allow_unused=True)
        h += factor * torch.cat([(torch.zeros_like(w) if g is None else g).reshape(-1) for g, w in zip(gradient, weights, strict=True)])
        errors.append(factor * float(delta.detach().abs().sum()))
    expected = len(indices) ** 0.5 * np.mean(errors) * 0.3 * h / (0.98 + 0.3 * float(h @ h))
    before = parameters.values.clone()
    parameters.gradient.zero_()
    stepper.step(frames.batch(indices), 0)
    torch.testing.assert_close(parameters.values - before, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.slow
def test_one_broken_energy_does_not_spoil_the_others(tmp_path: Path) -> None:
    """Found by an attack: +50 eV on one frame of 40."""
    frames, valid = emt_frames(40, 1), emt_frames(20, 2)
    found = {}
    for name, shift in (("clean", 0.0), ("broken", 50.0)):
        label = frames[7].label
        some = [*frames[:7], Frame(frames[7].atoms, Label(label.energy_ev + shift, label.forces_ev_per_ang)), *frames[8:]]
        (tmp_path / name).mkdir()
        found[name] = train(settings_for(tmp_path / name, some, valid, epochs=15, **LKF), tmp_path / name / "out", progress=False).valid
    for what, most in (("energy_rmse_ev_per_atom", 2.0), ("force_rmse_ev_per_ang", 1.2)):
        assert found["broken"][what] < most * found["clean"][what]


def test_warm_start_carries_weights_and_coordinates_and_begins_with_a_new_covariance(tmp_path: Path) -> None:
    train(settings_for(tmp_path, emt_frames(4, 1), **LKF), tmp_path / "first", progress=False)
    before = arrays_of(tmp_path / "first" / "model.pt")
    assert before["scaling.fitting.0.0.mean"].shape == (24,)
    settings = settings_for(tmp_path, emt_frames(3, 9), **LKF, p0_weight=1e-14)
    train(settings, tmp_path / "second", init_model=tmp_path / "first" / "model.pt", progress=False)
    after = arrays_of(tmp_path / "second" / "model.pt")
    assert before.keys() == after.keys()
    for name in before.keys() - {"header"}:
        if name.startswith(("scaling.", "d", "energy_bias")):
            np.testing.assert_array_equal(after[name], before[name])
        else:
            np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    # an Adam-trained model has no coordinates: they come from the data, and the function does not change by that
    train(settings_for(tmp_path, emt_frames(4, 1)), tmp_path / "adam", progress=False)
    train(settings, tmp_path / "third", init_model=tmp_path / "adam" / "model.pt", progress=False)
    np.testing.assert_allclose(
        arrays_of(tmp_path / "third" / "model.pt")["fitting.0.0.weight"],
        arrays_of(tmp_path / "adam" / "model.pt")["fitting.0.0.weight"],
        atol=1e-6,
    )


def test_checkpoint_of_another_block_size_is_refused(tmp_path: Path, data) -> None:
    model, _frames = data
    parameters = FlatParameters(model)
    coordinates = Coordinates({}, parameters.layout)
    one, other = (KalmanStepper(model, Optimizer(name="LKF", block_size=size), 1, parameters, coordinates, 5) for size in (100, 200))
    checkpoint.write_checkpoint(tmp_path / "c.pt", "key", one, checkpoint.Progress(1, "", checkpoint.SquaredErrors()))
    with pytest.raises(DataError, match="other blocks"):
        checkpoint.resume(tmp_path / "c.pt", "key", other)


def test_single_precision_covariance_trains_as_well(tmp_path: Path) -> None:
    frames, valid = emt_frames(10, 1), emt_frames(6, 2)
    errors = [
        train(settings_for(tmp_path, frames, valid, epochs=25, p_float32=single, **LKF), tmp_path / str(single), progress=False)
        for single in (False, True)
    ]
    double, single = (result.valid["force_rmse_ev_per_ang"] for result in errors)
    assert single == pytest.approx(double, rel=0.2)


def test_atomic_energies_are_trained_when_wanted(tmp_path: Path) -> None:
    """A model's own partition, with gold's share moved to copper, is learnt but for the share."""
    teacher = DeepPotential(SPEC, seed=11)
    frames = []
    for frame in emt_frames(6, 1):
        said = Committee([teacher]).compute(frame.atoms)
        atomic = said.atomic_energies[0]
        moved = atomic + np.where(frame.atoms.numbers == 79, -5.0, 0.0)
        frames.append(Frame(frame.atoms, Label(float(said.energies_ev[0]), said.forces[0], None, moved)))
    spread = {}
    for wanted in (False, True):
        settings = settings_for(tmp_path, frames, epochs=12, train_ei=wanted, pre_fac_ei=3.0, **LKF)
        model = read_model(train(settings, tmp_path / str(wanted), progress=False).model)[0]
        errors = {29: [], 79: []}
        for frame in frames:
            said = Committee([model]).compute(frame.atoms).atomic_energies[0]
            for number in errors:
                errors[number].extend((said - frame.label.atomic_energies_ev)[frame.atoms.numbers == number])
        spread[wanted] = np.std(errors[29])
    assert spread[True] < 0.5 * spread[False]
    with pytest.raises(DataError, match="no training frame has atomic energies"):
        train(settings_for(tmp_path, emt_frames(3, 1), train_ei=True, **LKF), tmp_path / "none", progress=False)
