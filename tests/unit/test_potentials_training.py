"""Training: statistics, loss, resumption to the last bit, warm start, two elements, errors that fall."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

torch = pytest.importorskip("torch")

from pwact_like.config.common import DataPath  # noqa: E402
from pwact_like.config.train import Descriptor, Fitting, Optimizer, TrainSettings  # noqa: E402
from pwact_like.data.formats import write_frames  # noqa: E402
from pwact_like.data.frames import Frame, Label  # noqa: E402
from pwact_like.errors import DataError, InputError, NotAvailableError  # noqa: E402
from pwact_like.potentials import DeepPotSpec, load_model, read_model  # noqa: E402
from pwact_like.potentials.deep_potential import DeepPotential  # noqa: E402
from pwact_like.potentials.loss import learning_rate, loss_and_errors, prefactors  # noqa: E402
from pwact_like.potentials.statistics import complete, count_sel, environment_spread, reference_energies  # noqa: E402
from pwact_like.potentials.training import train  # noqa: E402
from pwact_like.potentials.training_set import TrainingSet, prepare_frames  # noqa: E402
from pwact_like.units import virial_from_stress  # noqa: E402

SPEC = DeepPotSpec((29, 79), rmax_ang=4.2, rmin_ang=1.5, embedding=(4, 8), m2=3, fitting=(10, 10), sel=(20, 20))


def emt_frame(atoms: Atoms, *, virial: bool = True) -> Frame:
    """Label by ASE's EMT."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    w = virial_from_stress(atoms.get_stress(voigt=False), atoms.get_volume()) if virial else None
    return Frame(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc), Label(energy, forces, w))


def emt_frames(count: int, seed: int, *, gold: bool = True, rattle: float = 0.12) -> list[Frame]:
    """Small cells of copper, with some gold, of 4 and 8 atoms, rattled and strained."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        atoms = bulk("Cu", a=3.65 * rng.uniform(0.97, 1.04), cubic=True)
        if index % 3 == 0:
            atoms = atoms.repeat((1, 1, 2))
        if gold and index % 2:
            atoms.numbers[rng.integers(len(atoms))] = 79
        atoms.positions += rng.normal(scale=rattle, size=(len(atoms), 3))
        frames.append(emt_frame(atoms))
    return frames


def settings_for(
    folder: Path, train_frames: list[Frame], valid: list[Frame] = (), test: list[Frame] = (), **optimizer: object
) -> TrainSettings:
    data = {}
    for name, frames in (("train_data", train_frames), ("valid_data", valid), ("test_data", test)):
        if frames:
            path = folder / f"{name}.xyz"
            write_frames(path, frames)
            data[name] = (DataPath(path=path, format="extxyz"),)
    return TrainSettings(
        atom_type=(29, 79),
        descriptor=Descriptor(rmax=4.2, rmin=1.5, m2=3, network_size=(4, 8)),
        fitting=Fitting(network_size=(10, 10, 1)),
        optimizer=Optimizer(**{"name": "ADAM", "epochs": 3, "print_freq": 4, **optimizer}),
        seed=5,
        **data,
    )


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def prepared(frames: list[Frame]) -> list:
    return prepare_frames(((f"frame {index}", frame) for index, frame in enumerate(frames)), SPEC)


def test_slots_statistics_and_reference_energies() -> None:
    # fcc copper, 3.6 Å: 12 neighbours at 2.546 Å, 6 at 3.6 Å within 4.2 Å
    copper = bulk("Cu", a=3.6)
    frame = emt_frame(copper)
    frames = prepared([frame])
    assert count_sel(frames, 2) == (20, 4)  # 18 · 1.1 = 19.8 → 20; no gold: the least
    davg, dstd = environment_spread(frames, SPEC)

    def s(r: float) -> float:
        u = (r - 1.5) / (4.2 - 1.5)
        return (1 - 10 * u**3 + 15 * u**4 - 6 * u**5) / r

    first, second = s(3.6 / np.sqrt(2)), s(3.6)
    mean = (12 * first + 6 * second) / 40
    square = (12 * first**2 + 6 * second**2) / 40
    assert davg[0].item() == pytest.approx(mean, rel=1e-12)
    assert dstd[0].tolist() == pytest.approx([np.sqrt(square - mean**2), np.sqrt(square / 3)], rel=1e-12)
    assert davg[1].item() == 0.0 and dstd[1].tolist() == [0.1, 0.1]

    mixed = [
        Frame(Atoms(numbers), Label(energy, np.zeros((len(numbers), 3))))
        for numbers, energy in (([29], -3.0), ([29, 79], -7.5), ([79, 79], -9.0))
    ]
    np.testing.assert_allclose(reference_energies(prepared(mixed), 2), [-3.0, -4.5], atol=1e-12)
    one_composition = prepared([Frame(Atoms([29, 29, 79, 79]), Label(-10.0, np.zeros((4, 3))))])
    np.testing.assert_allclose(reference_energies(one_composition, 2), [-2.5, -2.5], atol=1e-12)


def test_schedule_is_exponential_and_prefactors_follow_it() -> None:
    settings = Optimizer(train_virial=True)
    assert learning_rate(settings, 0, 100) == 1e-3
    assert learning_rate(settings, 100, 100) == pytest.approx(3.5e-6)
    assert learning_rate(settings, 50, 100) == pytest.approx(np.sqrt(1e-3 * 3.5e-6))
    start, end = prefactors(settings, 1e-3), prefactors(settings, 0.0)
    assert [start.energy, start.force, start.virial] == pytest.approx([0.02, 1000.0, 0.02])
    assert [end.energy, end.force, end.virial] == [1.0, 1.0, 1.0]
    assert prefactors(Optimizer(train_energy=False), 1e-4).energy == 0.0


def test_loss_of_a_batch_is_its_definition_and_missing_virials_are_masked() -> None:
    frames = emt_frames(4, seed=1)
    without = [frames[0], Frame(frames[1].atoms, Label(frames[1].label.energy_ev, frames[1].label.forces_ev_per_ang)), *frames[2:]]
    model = DeepPotential(SPEC, seed=2)
    data = TrainingSet(prepared(without), SPEC, model.davg, model.dstd)
    weights = prefactors(Optimizer(train_virial=True), 3e-4)
    batch = data.batch([0, 1, 2, 3])
    loss, errors = loss_and_errors(model(batch.geometry, virials=True), batch, weights)

    from pwact_like.potentials import Potential

    potential, terms, squares = Potential(model), [], np.zeros(3)
    for frame in without:
        said, label, n = potential.compute(frame.atoms), frame.label, len(frame.atoms)
        d_energy, d_force = said.energy_ev - label.energy_ev, said.forces_ev_per_ang - label.forces_ev_per_ang
        term = weights.energy * d_energy**2 / n + weights.force * np.mean(d_force**2)
        squares += [(d_energy / n) ** 2, np.sum(d_force**2), 0.0]
        if label.virial_ev is not None:
            d_virial = said.virial_ev - label.virial_ev
            term += weights.virial * np.mean(d_virial**2) / n
            squares[2] += np.sum((d_virial / n) ** 2)
        terms.append(term)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-10)
    assert [errors.energy, errors.force, errors.virial] == pytest.approx(squares.tolist(), rel=1e-10)
    assert (errors.n_energies, errors.n_virials) == (4, 27)

    # the gradient too is the mean of the frames' own
    loss.backward()
    together = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for index in range(4):
        one = data.batch([index])
        (loss_and_errors(model(one.geometry, virials=True), one, weights)[0] / 4).backward()
    for parameter, gradient in zip(model.parameters(), together, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-9)


def test_gradient_of_the_loss_is_its_finite_difference() -> None:
    data_frames = emt_frames(2, seed=4)[1:]  # with gold: every network is used
    model = DeepPotential(SPEC, seed=2)
    data = TrainingSet(prepared(data_frames), SPEC, model.davg, model.dstd)
    batch, weights = data.batch([0]), prefactors(Optimizer(train_virial=True), 3e-4)

    def loss() -> torch.Tensor:
        return loss_and_errors(model(batch.geometry, virials=True), batch, weights)[0]

    loss().backward()
    for _, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        slope = (parameter.grad * direction).sum().item()
        ends = []
        with torch.no_grad():
            for change in (1e-6, -2e-6):
                parameter.add_(direction, alpha=change)
                ends.append(loss().item())
            parameter.add_(direction, alpha=1e-6)
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-4)


def test_training_lowers_the_errors_and_leaves_its_files(tmp_path: Path) -> None:
    train_frames, valid, test = emt_frames(8, 1), emt_frames(4, 2), emt_frames(4, 3)
    settings = settings_for(tmp_path, train_frames, valid, test, epochs=30, learning_rate=1e-2, stop_lr=1e-4)
    network = {"descriptor": Descriptor(rmax=4.2, rmin=1.5, m2=4, network_size=(8, 16)), "fitting": Fitting(network_size=(20, 20))}
    settings = settings.model_copy(update=network)
    result = train(settings, tmp_path / "out", progress=False)
    assert result.n_steps == 240
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["lcurve.csv", "model.pt", "test.json", "train.log"]
    with (out / "lcurve.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert int(rows[-1]["step"]) == 240 and int(rows[-1]["epoch"]) == 30
    assert float(rows[0]["lr"]) > float(rows[-1]["lr"])
    valid_rows = [row for row in rows if row["valid_force_rmse_ev_per_ang"]]
    assert float(valid_rows[-1]["valid_force_rmse_ev_per_ang"]) < 0.5 * float(valid_rows[0]["valid_force_rmse_ev_per_ang"])
    assert float(valid_rows[-1]["valid_energy_rmse_ev_per_atom"]) < 0.5 * float(valid_rows[0]["valid_energy_rmse_ev_per_atom"])
    # the figures of the files are those of the model in the file
    potential = load_model(out / "model.pt")
    assert potential.type_map == (29, 79) and potential.cutoff_ang == 4.2
    for frames, errors in ((valid, result.valid), (test, result.test)):
        difference = np.concatenate([potential.compute(f.atoms).forces_ev_per_ang - f.label.forces_ev_per_ang for f in frames])
        assert errors["force_rmse_ev_per_ang"] == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-6)
        assert errors["n_frames"] == 4
    assert result.valid["force_rmse_ev_per_ang"] == pytest.approx(float(valid_rows[-1]["valid_force_rmse_ev_per_ang"]), rel=1e-5)


def test_virials_are_trained_when_wanted(tmp_path: Path) -> None:
    frames, errors = emt_frames(5, 1, gold=False), {}
    for wanted in (False, True):
        heavy = {"start_pre_fac_virial": 20.0, "end_pre_fac_virial": 100.0}
        settings = settings_for(tmp_path, frames, frames, epochs=20, learning_rate=1e-2, train_virial=wanted, **heavy)
        errors[wanted] = train(settings, tmp_path / str(wanted), progress=False).valid["virial_rmse_ev_per_atom"]
    assert errors[True] < 0.6 * errors[False]
    bare = [Frame(frame.atoms, Label(frame.label.energy_ev, frame.label.forces_ev_per_ang)) for frame in frames]
    settings = settings_for(tmp_path, bare, bare, train_virial=False)
    assert train(settings, tmp_path / "bare", progress=False).valid["virial_rmse_ev_per_atom"] is None
    with pytest.raises(DataError, match="no training frame has a virial"):
        train(settings_for(tmp_path, bare, train_virial=True), tmp_path / "none", progress=False)


@pytest.mark.parametrize("stops", [(1,), (4, 3)])
@pytest.mark.parametrize("optimizer", [{"name": "ADAM", "weight_decay": 0.01}, {"name": "LKF", "block_size": 60}], ids=["adam", "lkf"])
def test_resumed_training_ends_with_the_same_bits(tmp_path: Path, stops: tuple[int, ...], optimizer: dict) -> None:
    frames, valid = emt_frames(5, 1), emt_frames(2, 2)
    settings = settings_for(tmp_path, frames, valid, batch_size=2, train_virial=True, **optimizer)
    train(settings, tmp_path / "whole", progress=False)
    for stop in stops:  # of nine steps, three an epoch
        train(settings, tmp_path / "parts", progress=False, max_steps=stop)
        assert (tmp_path / "parts" / "checkpoint.pt").exists() and not (tmp_path / "parts" / "model.pt").exists()
        # what a kill leaves of the curve does not matter
        (tmp_path / "parts" / "lcurve.csv").write_text("half a row")
    train(settings, tmp_path / "parts", progress=False)
    for name in ("model.pt", "lcurve.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "parts" / "checkpoint.pt").exists()


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    frames = emt_frames(3, 1)
    train(settings_for(tmp_path, frames), tmp_path / "out", progress=False, max_steps=2)
    with pytest.raises(InputError, match="with other settings, data or seed"):
        train(settings_for(tmp_path, frames, epochs=4), tmp_path / "out", progress=False)
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"PK half a file")
    with pytest.raises(DataError, match=r"checkpoint\.pt.*damaged"):
        train(settings_for(tmp_path, frames), tmp_path / "out", progress=False)


@pytest.mark.parametrize("optimizer", ["ADAM", "LKF"])
def test_same_seed_same_model_other_seed_other_model(tmp_path: Path, optimizer: str) -> None:
    settings = settings_for(tmp_path, emt_frames(3, 1), name=optimizer)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        train(settings.model_copy(update={"seed": seed}), tmp_path / name, progress=False)
    assert (tmp_path / "a" / "model.pt").read_bytes() == (tmp_path / "b" / "model.pt").read_bytes()
    name = "fitting.0.0.weight"
    assert not np.array_equal(arrays_of(tmp_path / "a" / "model.pt")[name], arrays_of(tmp_path / "c" / "model.pt")[name])


def test_results_do_not_depend_on_the_memory_for_environments(tmp_path: Path) -> None:
    model = DeepPotential(SPEC, seed=2)
    frames = prepared(emt_frames(3, 1))
    kept, made = (TrainingSet(frames, SPEC, model.davg, model.dstd, cache_bytes=size) for size in (1 << 30, 0))
    for _ in range(2):
        assert torch.equal(model(kept.batch([1]).geometry).forces, model(made.batch([1]).geometry).forces)
    assert kept.batch([1]) is kept.batch([1]) and made.batch([1]) is not made.batch([1])


def test_warm_start_carries_weights_statistics_and_reference_energies(tmp_path: Path) -> None:
    first = emt_frames(4, 1)
    train(settings_for(tmp_path, first), tmp_path / "first", progress=False)
    before = arrays_of(tmp_path / "first" / "model.pt")
    dense = [emt_frame(frame.atoms.copy().repeat((1, 1, 2))) for frame in emt_frames(3, 9)]
    settings = settings_for(tmp_path, dense, learning_rate=1e-9, stop_lr=1e-9)
    train(settings, tmp_path / "second", init_model=tmp_path / "first" / "model.pt", progress=False)
    after = arrays_of(tmp_path / "second" / "model.pt")
    for name in ("davg", "dstd", "energy_bias"):
        np.testing.assert_array_equal(after[name], before[name])
    for name in before.keys() - {"header"}:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    assert read_model(tmp_path / "second" / "model.pt")[0].spec == read_model(tmp_path / "first" / "model.pt")[0].spec


def shifted(frames: list[Frame], by: dict[int, float]) -> list[Frame]:
    """With so much more energy for each atom of an element, eV."""
    return [
        Frame(
            frame.atoms, Label(frame.label.energy_ev + sum(by.get(int(z), 0.0) for z in frame.atoms.numbers), frame.label.forces_ev_per_ang)
        )
        for frame in frames
    ]


@pytest.mark.parametrize("optimizer", [{"learning_rate": 1e-9, "stop_lr": 1e-9}, {"name": "LKF", "block_size": 200, "p0_weight": 1e-14}])
def test_warm_start_completes_what_the_first_training_never_met(tmp_path: Path, optimizer: dict) -> None:
    """Found by an attack: gold, unknown to the first data, kept the energy 0, and the model was 54 eV an atom off."""
    shifts = {29: -3.0, 79: -54.0}
    first = settings_for(tmp_path, shifted(emt_frames(4, 1, gold=False), shifts), **optimizer)
    train(first, tmp_path / "first", progress=False)
    before = arrays_of(tmp_path / "first" / "model.pt")
    frames = shifted(emt_frames(6, 3), shifts)
    settings = settings_for(tmp_path, frames, frames, **optimizer)
    result = train(settings, tmp_path / "second", init_model=tmp_path / "first" / "model.pt", progress=False)
    after = arrays_of(tmp_path / "second" / "model.pt")
    # copper was seen: to the bit; its scaling too
    for name in ("davg", "dstd", "energy_bias"):
        np.testing.assert_array_equal(after[name][0], before[name][0])
    # gold: what is left of the energies by its number of atoms, and the statistics of its own surroundings
    n_gold = np.array([(frame.atoms.numbers == 79).sum() for frame in frames])
    left = np.array([frame.label.energy_ev - before["energy_bias"][0] * (frame.atoms.numbers == 29).sum() for frame in frames])
    assert after["energy_bias"][1] == pytest.approx((n_gold @ left) / (n_gold @ n_gold), rel=1e-12)
    spec = read_model(tmp_path / "first" / "model.pt")[0].spec
    davg, dstd = environment_spread(prepare_frames((("", frame) for frame in frames), spec), spec)
    assert after["davg"][1] == davg[1] != 0.0 and after["dstd"][1].tolist() == dstd[1].tolist() != [0.1, 0.1]
    assert result.valid["energy_rmse_ev_per_atom"] < 1.5
    if "name" in optimizer:
        assert "scaling.fitting.1.0.mean" not in before
        np.testing.assert_array_equal(after["scaling.fitting.0.0.mean"], before["scaling.fitting.0.0.mean"])
        # its first layer, as it was drawn, now acts on scaled inputs
        model = read_model(tmp_path / "second" / "model.pt")[0]
        drawn = before["fitting.1.0.weight"] / after["scaling.fitting.1.0.spread"][:, None]
        np.testing.assert_allclose(model.fitting[1][0].weight.detach().numpy(), drawn, atol=1e-6)
    assert "Au: new to" in (tmp_path / "second" / "train.log").read_text()
    # once met, it is carried like the others
    train(
        settings_for(tmp_path, shifted(emt_frames(3, 8), {79: -99.0}), **optimizer),
        tmp_path / "third",
        init_model=result.model,
        progress=False,
    )
    for name in ("davg", "dstd", "energy_bias"):
        np.testing.assert_array_equal(arrays_of(tmp_path / "third" / "model.pt")[name], after[name])


def test_warm_start_refuses_energies_that_cannot_be_told_apart(tmp_path: Path) -> None:
    spec = replace(SPEC, type_map=(29, 79, 46), sel=(20, 20, 20))
    model = DeepPotential(spec, seed=1, bias=torch.tensor([-3.0, 0.0, 0.0], dtype=torch.float64))
    model.davg[0], model.dstd[:] = 0.05, 0.1
    cell = {"cell": [20.0] * 3, "pbc": True}

    def frame(symbols: str, energy: float) -> Frame:
        atoms = Atoms(symbols, positions=[[2.6 * index, 0.0, 0.0] for index in range(len(symbols) // 2)], **cell)
        return Frame(atoms, Label(energy, np.zeros((len(atoms), 3))))

    def ready(frames: list[Frame]) -> list:
        return prepare_frames((("", each) for each in frames), spec)

    with pytest.raises(InputError, match=r"Au and Pd are new.*one proportion only"):
        complete(model, ready([frame("AuPd", -10.0), frame("CuAuPd", -13.0)]))
    assert model.energy_bias.tolist() == [-3.0, 0.0, 0.0], "refused, nothing was changed"
    assert complete(model, ready([frame("AuPd", -10.0), frame("CuAuAu", -15.0)])) == [1, 2]
    np.testing.assert_allclose(model.energy_bias, [-3.0, -6.0, -4.0], atol=1e-12)
    assert complete(model, ready([frame("AuPd", -99.0)])) == [], "nothing is new any more"


def test_warm_start_from_another_shape_or_other_elements_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, emt_frames(3, 1))
    train(settings, tmp_path / "first", progress=False)
    model = tmp_path / "first" / "model.pt"
    other = settings.model_copy(update={"descriptor": settings.descriptor.model_copy(update={"m2": 4, "rmin": 1.0})})
    with pytest.raises(InputError) as caught:
        train(other, tmp_path / "second", init_model=model, progress=False)
    assert "Rmin" in str(caught.value) and "M2" in str(caught.value)
    with pytest.raises(InputError, match="for Cu Au, and atom_type says Cu "):
        train(settings.model_copy(update={"atom_type": (29,)}), tmp_path / "third", init_model=model, progress=False)
    # the same elements in another order are the same elements
    swapped = settings.model_copy(update={"atom_type": (79, 29)})
    train(swapped, tmp_path / "fourth", init_model=model, progress=False)


def test_what_is_not_built_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, emt_frames(1, 1))
    with pytest.raises(NotAvailableError, match='GKF is not built into pwact_like: set "optimizer": "LKF" or "ADAM"'):
        train(settings.model_copy(update={"optimizer": Optimizer(name="GKF", explicit=True)}), tmp_path / "out", progress=False)
    with pytest.raises(NotAvailableError, match="model_type NEP"):
        train(settings.model_copy(update={"model_type": "NEP"}), tmp_path / "out", progress=False)


def test_bad_frames_are_all_named(tmp_path: Path) -> None:
    good = emt_frames(2, 1)[0]
    bad = [good, Frame(Atoms("Fe"), Label(-1.0, np.zeros((1, 3)))), Frame(good.atoms), Frame(Atoms("Cu"), Label(np.inf, np.zeros((1, 3))))]
    with pytest.raises(DataError) as caught:
        prepared(bad)
    text = str(caught.value)
    assert "frame 1: the structure holds Fe" in text and "frame 2: no energy" in text and "frame 3: its energy" in text
