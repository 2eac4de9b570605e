"""Model files, committees, neighbour lists that are kept, ASE's calculator, the commands train and eval."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from support import clean_environment, run_cli

torch = pytest.importorskip("torch")

from test_potentials_function import SPEC, rough_cell, rough_model  # noqa: E402
from test_potentials_training import emt_frames  # noqa: E402

from pwact_like.cli.eval import is_model  # noqa: E402
from pwact_like.data.formats import write_frames  # noqa: E402
from pwact_like.errors import DataError  # noqa: E402
from pwact_like.potentials import (  # noqa: E402
    Committee,
    DeepPotSpec,
    Potential,
    PotentialCalculator,
    load_committee,
    load_model,
    save_model,
)
from pwact_like.potentials.committee import SKIN_ANG  # noqa: E402
from pwact_like.potentials.modelfile import FORMAT, write_arrays  # noqa: E402
from pwact_like.potentials.neighbors import find_pairs, reference_of, still_complete  # noqa: E402


def saved_models(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / f"model{seed}.pt" for seed in range(count)]
    for seed, path in enumerate(paths):
        save_model(path, rough_model(seed=seed), {"seed": seed})
    return paths


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, pwact_like.potentials, pwact_like.cli.train, pwact_like.cli.eval; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=clean_environment(), check=False).returncode == 0


def test_model_files_hold_arrays_and_json_and_no_pickle(tmp_path: Path) -> None:
    (path,) = saved_models(tmp_path, 1)
    with zipfile.ZipFile(path) as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())
        for name in archive.namelist():
            assert b"|O" not in archive.read(name)[:128]  # numpy's mark of pickled objects
    with np.load(path, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        assert header["parameters"][0] == "embedding.0.0.0.weight" and header["facts"] == {"seed": 0}
        assert archive["dstd"].shape == (2, 2)
    atoms = rough_cell()
    np.testing.assert_array_equal(
        load_model(path).compute(atoms).forces_ev_per_ang, Potential(rough_model(seed=0)).compute(atoms).forces_ev_per_ang
    )
    again = tmp_path / "again.pt"
    save_model(again, rough_model(seed=0), {"seed": 0})
    assert again.read_bytes() == path.read_bytes()


def test_files_that_are_no_models_are_named_and_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "exploded",))  # type: ignore[return-value]

    (tmp_path / "torch.pt").write_bytes(pickle.dumps(Bomb()))
    np.savez(tmp_path / "object.npz", header=np.array([Bomb()], dtype=object))
    (tmp_path / "object.npz").rename(tmp_path / "object.pt")
    (path,) = saved_models(tmp_path, 1)
    (tmp_path / "half.pt").write_bytes(path.read_bytes()[:-200])
    write_arrays(tmp_path / "other.pt", {"format": "something else", "version": 1}, {})
    write_arrays(tmp_path / "newer.pt", {"format": FORMAT, "version": 99}, {})
    write_arrays(tmp_path / "hollow.pt", {"format": FORMAT, "version": 1, "spec": SPEC.to_dict()}, {"davg": np.zeros(2)})
    for name in ("torch", "object", "half", "other", "newer", "hollow", "missing"):
        with pytest.raises(DataError, match=f"{name}\\.pt"):
            load_model(tmp_path / f"{name}.pt")
    assert not (tmp_path / "exploded").exists()


def test_committee_says_what_its_members_say(tmp_path: Path) -> None:
    paths, atoms = saved_models(tmp_path), rough_cell()
    together = load_committee(paths).compute(atoms)
    assert together.forces.shape == (3, 6, 3) and together.virials.shape == (3, 3, 3) and together.energies_ev.shape == (3,)
    for member, path in enumerate(paths):
        alone = load_model(path).compute(atoms)
        assert together.energies_ev[member] == pytest.approx(alone.energy_ev, abs=1e-11)
        np.testing.assert_allclose(together.forces[member], alone.forces_ev_per_ang, atol=1e-11)
        np.testing.assert_allclose(together.virials[member], alone.virial_ev, atol=1e-11)
        np.testing.assert_allclose(together.atomic_energies[member], alone.atomic_energies, atol=1e-11)
    energies, forces, virials = together
    assert energies is together.energies_ev and forces is together.forces and virials is together.virials
    assert not np.allclose(together.forces[0], together.forces[1])


def test_committee_of_different_shapes_and_statistics() -> None:
    other = DeepPotSpec((29, 13), rmax_ang=4.0, rmin_ang=0.5, embedding=(6,), m2=2, fitting=(8,), sel=(9, 9))
    models = [rough_model(seed=0), rough_model(other, seed=1), rough_model(seed=2)]
    models[2].davg += 0.01
    atoms = rough_cell()
    together = Committee(models).compute(atoms)
    for member, model in enumerate(models):
        np.testing.assert_allclose(together.forces[member], Potential(model).compute(atoms).forces_ev_per_ang, atol=1e-11)
    with pytest.raises(DataError, match="different elements: Al Cu and Cu"):
        Committee([models[0], rough_model(DeepPotSpec((29,), sel=(9,)))])


def test_kept_neighbour_lists_change_nothing() -> None:
    rng = np.random.default_rng(1)
    atoms, potential = rough_cell(repeat=2), Potential(rough_model())
    rebuilt = 0
    for step in range(60):
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        if step % 7 == 0:
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.004, size=(3, 3))), scale_atoms=True)
        if step == 30:
            atoms.wrap()
        before = potential._committee._reference
        found = potential.compute(atoms)
        rebuilt += potential._committee._reference is not before
        fresh = Potential(rough_model()).compute(atoms)
        assert found.energy_ev == pytest.approx(fresh.energy_ev, abs=1e-11)
        np.testing.assert_allclose(found.forces_ev_per_ang, fresh.forces_ev_per_ang, atol=1e-11)
    assert 2 < rebuilt < 40  # some lists were kept, some had to be made anew
    other = atoms.copy()
    other.numbers[0] = 13
    assert potential.compute(other).energy_ev == Potential(rough_model()).compute(other).energy_ev


def test_forgetting_makes_results_depend_on_the_structure_alone() -> None:
    atoms, potential = rough_cell(), Potential(rough_model())
    first = potential.compute(atoms)
    for _ in range(3):
        moved = atoms.copy()
        moved.rattle(0.05, seed=3)
        potential.compute(moved)
    potential.forget()
    again = potential.compute(atoms)
    assert again.energy_ev == first.energy_ev
    np.testing.assert_array_equal(again.forces_ev_per_ang, first.forces_ev_per_ang)


def test_no_pair_within_the_cutoff_is_missing_while_a_list_counts_as_complete() -> None:
    rng = np.random.default_rng(3)
    start = bulk("Cu", cubic=True).repeat(2)
    reference, listed = reference_of(start), find_pairs(start, 4.0 + SKIN_ANG)
    counts = {True: 0, False: 0}
    for scale in np.linspace(0.01, 0.12, 40):
        atoms = start.copy()
        atoms.set_cell(start.cell.array @ (np.eye(3) + rng.normal(scale=scale / 4, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=scale, size=atoms.positions.shape)
        complete = still_complete(atoms, reference, 4.0, SKIN_ANG)
        counts[complete] += 1
        if complete:
            within = int((np.linalg.norm(listed.vectors(atoms.positions, atoms.cell.array), axis=1) < 4.0).sum())
            assert within == len(find_pairs(atoms, 4.0).i)
    assert min(counts.values()) > 3


def test_atoms_that_have_flown_apart_are_told_and_do_not_end_the_process():
    """Beyond some 3e5 Å vesin's boxes overflow, and the process died of a division by zero: of a batch of runs with all of them."""
    atoms = bulk("Si", cubic=True)
    atoms.pbc, atoms.cell = False, None
    near = len(find_pairs(atoms, 4.0).i)
    atoms.positions[0, 0] += 9e4
    assert 0 < len(find_pairs(atoms, 4.0).i) < near
    atoms.positions[0, 0] += 1e6
    with pytest.raises(DataError, match="flown apart"):
        find_pairs(atoms, 4.0)


def test_calculator_conserves_energy_in_dynamics() -> None:
    atoms = rough_cell(repeat=2)
    calculator = PotentialCalculator(Potential(rough_model()))
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(1))
    energies = []
    dynamics = VelocityVerlet(atoms, timestep=0.25 * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(80)
    assert np.ptp(energies) < 2e-3
    assert np.ptp(energies) < 0.05 * abs(atoms.get_kinetic_energy())


def test_calculator_agrees_with_finite_differences_of_ase_and_with_its_committee() -> None:
    from ase.calculators.fd import calculate_numerical_stress

    atoms = rough_cell()
    committee = Committee([rough_model(seed=seed) for seed in (3, 4)])
    atoms.calc = PotentialCalculator(committee)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-7)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
    assert atoms.calc.prediction.forces.shape == (2, 6, 3)
    np.testing.assert_array_equal(atoms.get_forces(), atoms.calc.prediction.forces[0])
    free = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.2]], calculator=atoms.calc)
    free.get_forces()
    with pytest.raises(NotImplementedError):
        free.get_stress()


def test_commands_train_and_eval(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_frames(data / "train.xyz", emt_frames(3, 1))
    write_frames(data / "test.xyz", emt_frames(2, 2))
    settings = {
        "model_type": "DP",
        "atom_type": ["Cu", 79],
        "train_data": ["data/train.xyz"],
        "test_data": ["data/test.xyz"],
        "model": {"descriptor": {"Rmax": 4.2, "Rmin": 1.5, "M2": 3, "network_size": [4, 8]}, "fitting_net": {"network_size": [6, 1]}},
        "optimizer": {"optimizer": "ADAM", "epochs": 2},
        "seed": 3,
    }
    (tmp_path / "TRAIN.json").write_text(json.dumps(settings))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run_cli("train", "../TRAIN.json", "-o", "out", cwd=elsewhere)  # paths start at the folder of TRAIN.json
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar where nobody looks
    out = elsewhere / "out"
    report = json.loads((out / "test.json").read_text())

    judged = run_cli("eval", out / "model.pt", data / "test.xyz", "--json", "--save", tmp_path / "said.npz", cwd=elsewhere)
    assert judged.returncode == 0, judged.stderr
    found = json.loads(judged.stdout)
    assert {name: found[name] for name in report} == pytest.approx(report, rel=1e-12)
    assert set(report) == {"n_frames", "energy_rmse_ev_per_atom", "force_rmse_ev_per_ang", "virial_rmse_ev_per_atom"}
    with np.load(tmp_path / "said.npz", allow_pickle=False) as said:
        difference = said["forces_ev_per_ang"][0] - said["label_forces_ev_per_ang"]
        assert report["force_rmse_ev_per_ang"] == pytest.approx(np.sqrt(np.mean(difference**2)))
        energy = (said["energies_ev"][0] - said["label_energies_ev"]) / said["n_atoms"]
        assert report["energy_rmse_ev_per_atom"] == pytest.approx(np.sqrt(np.mean(energy**2)))
        assert said["virials_ev"].shape == (1, 2, 3, 3) and len(said["numbers"]) == said["n_atoms"].sum()
        assert said["sources"][1].endswith("test.xyz: frame 1")


def test_command_train_starts_from_a_model_and_refuses_what_is_not_built(tmp_path: Path) -> None:
    from pwact_like.cli.main import main

    write_frames(tmp_path / "train.xyz", emt_frames(2, 1, gold=False))
    settings = {
        "atom_type": 29,
        "train_data": "train.xyz",
        "descriptor": {"Rmax": 4.2, "Rmin": 1.5, "M2": 3, "network_size": [4, 8]},
        "fitting_net": {"network_size": [6, 1]},
        "optimizer": {"epochs": 1},
    }

    def attempt(name: str, **changes: object) -> int:
        (tmp_path / "TRAIN.json").write_text(json.dumps({**settings, **changes}))
        return main(["train", str(tmp_path / "TRAIN.json"), "-o", str(tmp_path / name)])

    assert attempt("first") == 0
    assert attempt("second", init_model="first/model.pt") == 0
    assert "model.pt" in (tmp_path / "second" / "train.log").read_text()
    assert attempt("third", optimizer={"optimizer": "GKF", "epochs": 1}) == 2
    assert attempt("third", model_type="NEP") == 2
    assert attempt("third", init_model="nowhere.pt") == 2
    assert attempt("third", train_data="nowhere.xyz") == 2
    assert not (tmp_path / "third").exists()
    assert is_model(tmp_path / "first" / "model.pt") and not is_model(tmp_path / "train.xyz")
