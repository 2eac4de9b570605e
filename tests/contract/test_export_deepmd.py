"""Exported potentials against DeePMD-kit itself: its ASE calculator, and LAMMPS's pair_style deepmd with LAMMPS's own units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data
from deepmd_support import evaluate, run_deepmd
from support import require_deepmd
from test_potentials_function import FIXTURE, SPEC, fixture_atoms, rough_model
from trainer_contract import copper

torch = pytest.importorskip("torch")

from pwact_like.cli.main import main  # noqa: E402
from pwact_like.data.formats import write_frames  # noqa: E402
from pwact_like.potentials import DeepPotential, DeepPotSpec, load_committee  # noqa: E402
from pwact_like.potentials.modelfile import fill_model, read_model, save_model  # noqa: E402

pytestmark = pytest.mark.engines
require_deepmd()

AGREEMENT = 1e-9  # relative
NKTV2P = 1.6021765e6  # LAMMPS's units metal: bar of an eV/Å³


def check(said: dict[str, np.ndarray], ours, member: int = 0) -> None:
    """Energy, forces and virial agree."""
    for found, expected in (
        (said["energy"], ours.energies_ev[member]),
        (said["forces"], ours.forces[member]),
        *([(said["virial"], ours.virials[member])] if "virial" in said else []),
    ):
        assert np.abs(found - expected).max() <= AGREEMENT * np.abs(expected).max()


def lithium_silicon() -> Atoms:
    """64 atoms of both elements, deformed: every pair of elements, some 30 neighbours of each."""
    random = np.random.default_rng(0)
    atoms = bulk("Si", cubic=True).repeat(2)
    numbers = atoms.get_atomic_numbers()
    numbers[random.permutation(64)[:20]] = 3
    atoms.set_atomic_numbers(numbers)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + random.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A Kalman training with a kpu-committee: model.pt and two members."""
    folder = tmp_path_factory.mktemp("trained") / "train.000"
    folder.mkdir()
    write_frames(folder / "data.xyz", copper(8, 1))
    content = {
        "atom_type": ["Cu"],
        "train_data": ["data.xyz"],
        "model": {
            "descriptor": {"Rmax": 4.5, "Rmin": 1.0, "M2": 4, "network_size": [4, 8]},
            "fitting_net": {"network_size": [12, 12]},
        },
        "optimizer": {"optimizer": "LKF", "epochs": 1},
        "uncertainty": {"kind": "kpu-committee", "members": 2, "valid_share": 0.3},
        "seed": 1,
    }
    (folder / "TRAIN.json").write_text(json.dumps(content))
    assert main(["train", str(folder / "TRAIN.json"), "-o", str(folder), "-q"]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, trained, request) -> dict[str, tuple[Path, list[Atoms]]]:
    """Name → exported model and structures to judge it by."""
    folder = tmp_path_factory.mktemp("exported models")
    spread = Atoms("Cu3", positions=[[0, 0, 0], [2.2, 0.3, 0.1], [9.0, 8.0, 7.0]], cell=[14, 15, 16], pbc=True)  # one atom alone
    shaken = copper(1, 7)[0].atoms
    models = {
        "one": (rough_model(DeepPotSpec((29,), 4.0, 2.5, (6, 6), 6, (7,), sel=(70,))), [shaken, spread]),
        "order": (rough_model(DeepPotSpec((14, 3), 5.0, 0.5, (8, 16), 4, (20, 20, 30, 30), True, sel=(60, 40))), [lithium_silicon()]),
    }
    with np.load(FIXTURE) as archive:
        fixture = dict(archive)
    theirs = DeepPotential(SPEC)
    fill_model(theirs, {key.removeprefix("weight."): value for key, value in fixture.items() if key.startswith("weight.")})
    models["fixture"] = theirs, [fixture_atoms(fixture, name) for name in ("crystal", "molecule")]
    found = {}
    for name, (model, structures) in models.items():
        save_model(folder / f"{name}.pt", model)
        assert main(["export", str(folder / f"{name}.pt"), "-o", str(folder / f"{name}.dp")]) == 0
        found[name] = folder / f"{name}.dp", structures
    assert main(["export", str(trained.parent), "-o", str(folder / "committee")]) == 0
    assert sorted(path.name for path in (folder / "committee").iterdir()) == ["member.000.dp", "member.001.dp", "model.dp"]
    for name in ("model", "member.001"):
        found[name.replace(".", "")] = folder / "committee" / f"{name}.dp", [shaken]
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory, exported) -> dict[str, list[dict[str, np.ndarray]]]:
    """All conversions and evaluations, in one process of DeePMD-kit's: TensorFlow takes its time to load."""
    return evaluate(tmp_path_factory.mktemp("said"), exported)


@pytest.mark.parametrize("name", ["one", "order"])
def test_the_calculator_of_deepmd_kit_says_the_same(exported, said, name):
    path, structures = exported[name]
    committee = load_committee([path.with_suffix(".pt")])
    for atoms, theirs in zip(structures, said[name], strict=True):
        check(theirs, committee.compute(atoms))


def test_what_deepmd_kit_s_pytorch_route_said_of_its_own_model_comes_back(said):
    with np.load(FIXTURE) as archive:
        for name, theirs in zip(("crystal", "molecule"), said["fixture"], strict=True):
            assert float(theirs["energy"]) == pytest.approx(float(archive[f"{name}_energy"]), abs=1e-10)
            np.testing.assert_allclose(theirs["forces"], archive[f"{name}_forces"], atol=1e-10)
            if "virial" in theirs:
                np.testing.assert_allclose(theirs["virial"], archive[f"{name}_virial"], atol=1e-10)


def test_a_committee_of_the_kalman_filter(trained, exported, said):
    """One by one: as a plain committee, members of one training are refused."""
    names = ("model", "member.001")
    ours = [load_committee([trained / f"{name}.pt"]).compute(exported["model"][1][0]) for name in names]
    for result, name in zip(ours, names, strict=True):
        check(said[name.replace(".", "")][0], result)
    assert abs(ours[0].energies_ev[0] - ours[1].energies_ev[0]) > 1e-8  # they are two: what agrees is not the first one twice


def test_lammps_says_the_same_in_its_own_units(tmp_path, exported, said):
    path, (atoms,) = exported["order"]
    write_lammps_data(tmp_path / "start.data", atoms, specorder=["Li", "Si"], masses=True)  # not the model's order
    (tmp_path / "in.lammps").write_text(
        f"""units metal
boundary p p p
read_data start.data
pair_style deepmd "{path.with_suffix(".pb")}"
pair_coeff * * Li Si
thermo_style custom pe vol pxx pyy pzz pxy pxz pyz
thermo_modify format float %.16g norm no
dump all all custom 1 forces.dump id fx fy fz
dump_modify all sort id format float %.16g
run 0
"""
    )
    run_deepmd("lmp", "-in", "in.lammps", "-log", "log.lammps", cwd=tmp_path)
    lines = (tmp_path / "log.lammps").read_text().splitlines()
    (start,) = (index for index, line in enumerate(lines) if line.split()[:2] == ["PotEng", "Volume"])
    energy, volume, xx, yy, zz, xy, xz, yz = map(float, lines[start + 1].split())
    prism = Prism(atoms.cell.array)
    turned = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) * volume / NKTV2P
    forces = prism.vector_to_ase(np.loadtxt(tmp_path / "forces.dump", skiprows=9)[:, 1:])
    theirs = {"energy": energy, "forces": forces, "virial": prism.tensor2_to_ase(turned)}
    check(theirs, load_committee([path.with_suffix(".pt")]).compute(atoms))


def test_the_file_says_what_it_holds(exported):
    """Facts of DeePMD-kit's format, as its own files have them."""
    import h5py

    path, _ = exported["order"]
    with h5py.File(path) as file:
        tree = json.loads(file.attrs["json"])
        assert tree["model"]["type_map"] == ["Si", "Li"] == tree["model_def_script"]["type_map"]
        assert file[tree["model"]["descriptor"]["@variables"]["dstd"]].shape == (2, 100, 4)
        first = tree["model"]["fitting"]["nets"]["networks"][1]["layers"][0]
        assert file[first["@variables"]["w"]].shape == (64, 20) and first["@variables"]["idt"] is None
    model = read_model(path.with_suffix(".pt"))[0]
    again = path.with_name("again.dp")
    from pwact_like.potentials.dp_file import write_dp

    write_dp(again, model)
    assert again.read_bytes() == path.read_bytes()
