"""The MD runner: frames and table, seeds, exact resumption, and every way to go astray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from toy_potentials import LennardJones, Remembering, ScaledCommittee

from pwact_like.data.xyz_trajectory import fetch_steps, steps
from pwact_like.engines.explorers import md_files
from pwact_like.engines.explorers.dynamics import least_distance, run_md
from pwact_like.engines.explorers.md_files import MdResult
from pwact_like.engines.explorers.md_input import MdInput, StopLimits
from pwact_like.engines.explorers.potential import deviation_row
from pwact_like.engines.protocols import MdSettings
from pwact_like.errors import InputError
from pwact_like.uncertainty.table import read_table

FILES = ("traj.xyz", "model_devi.out", "md.log", "md_result.json")


def argon() -> Atoms:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    return atoms


def an_input(**changes) -> MdInput:
    md = MdSettings("nvt", nsteps=60, trj_freq=10, md_dt_ps=0.004, temp_k=40.0)
    names = {"ensemble", "nsteps", "trj_freq", "md_dt_ps", "temp_k", "press_bar", "boundary"}
    md = replace(md, **{name: changes.pop(name) for name in list(changes) if name in names})
    return replace(MdInput(Path("start.xyz"), (), md, seed=5, stop=StopLimits(), checkpoint_steps=20), **changes)


def test_frames_table_and_log_along_the_run(tmp_path):
    result = run_md(argon(), ScaledCommittee(1.1, 0.9), an_input(), tmp_path)
    assert result == MdResult("", 60, 7, 7) == MdResult.read(tmp_path)
    assert result.frames_planned == an_input().md.frames_planned
    table = read_table(tmp_path / "model_devi.out")
    assert table.steps.tolist() == steps(tmp_path / "traj.xyz") == [0, 10, 20, 30, 40, 50, 60]
    frames = fetch_steps(tmp_path / "traj.xyz", [0, 60])
    np.testing.assert_array_equal(frames[0].positions, argon().positions)  # to the last bit
    assert frames[1].pbc.all() and (frames[1].cell.array == argon().cell.array).all()
    # the table agrees with what the written structure says: σ_a = std(scales)·|F_a|
    _, forces, virial = LennardJones().evaluate(frames[1].positions, frames[1].cell.array)
    sigma = np.std([1.0, 1.1, 0.9]) * np.linalg.norm(forces, axis=1)
    np.testing.assert_allclose([table.value[-1], table.minimum[-1], table.mean[-1]], [sigma.max(), sigma.min(), sigma.mean()], rtol=2e-6)
    row = np.loadtxt(tmp_path / "model_devi.out")[-1]
    assert row[1] == pytest.approx(np.std([1.0, 1.1, 0.9]) * abs(virial).max() / 32, rel=2e-6)
    log = np.loadtxt(tmp_path / "md.log")
    assert log[:, 0].tolist() == table.steps.tolist()
    np.testing.assert_allclose(log[:, 1], 0.004 * log[:, 0])
    assert log[0, 2] == pytest.approx(40.0, abs=1e-6)
    assert log[0, 4] == pytest.approx(LennardJones().evaluate(argon().positions, argon().cell.array)[0], abs=1e-8)
    assert np.ptp(log[:, 6]) < 1e-3  # the conserved quantity


def test_deviation_row_is_deepmd_kits(tmp_path):
    """Against its formulas (deepmd/infer/model_devi.py: norm of std; the virial's mean is its norm over 3)."""
    rng = np.random.default_rng(0)
    forces, virials = rng.normal(size=(4, 7, 3)), rng.normal(size=(4, 3, 3))
    row = deviation_row(forces, virials)
    f = np.linalg.norm(np.std(forces, axis=0), axis=-1)
    v = np.std(virials.reshape(4, 9), axis=0) / 7
    np.testing.assert_allclose(row.forces, [f.max(), f.min(), f.mean()], rtol=1e-14)
    np.testing.assert_allclose(row.virials, [v.max(), v.min(), np.linalg.norm(v) / 3], rtol=1e-14)


def test_one_model_runs_without_a_table(tmp_path):
    assert run_md(argon(), LennardJones(), an_input(), tmp_path).frames == 7
    assert not (tmp_path / "model_devi.out").exists()


def test_the_committee_is_only_asked_at_frames_unless_told_otherwise(tmp_path):
    class Counting(ScaledCommittee):
        compared = 0

        def compare(self, atoms):
            self.compared += 1
            return super().compare(atoms)

    few, many = Counting(1.1), Counting(1.1)
    run_md(argon(), few, an_input(), tmp_path / "few")
    run_md(argon(), many, an_input(deviation_every_step=True), tmp_path / "many")
    assert (few.compared, few.calls) == (7, 61)
    assert (many.compared, many.calls) == (61, 61)
    assert (tmp_path / "few/traj.xyz").read_bytes() == (tmp_path / "many/traj.xyz").read_bytes()


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run_md(argon(), ScaledCommittee(1.1), an_input(seed=seed), tmp_path / name)
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a/traj.xyz").read_bytes() != (tmp_path / "c/traj.xyz").read_bytes()


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt-iso", "npt-aniso", "npt-tri"])
def test_a_killed_run_goes_on_to_the_last_bit(tmp_path, monkeypatch, ensemble):
    monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
    run = an_input(ensemble=ensemble, press_bar=2000.0 if ensemble.startswith("npt") else None)
    run_md(argon(), Remembering(1.1), run, tmp_path / "whole")
    for die_at in (36, 36):  # at steps 35 and 56: behind the checkpoints of 20 and 40, with frames written since
        with pytest.raises(KeyboardInterrupt):
            run_md(argon(), Remembering(1.1, die_at=die_at), run, tmp_path / "cut")
        (tmp_path / "cut/traj.xyz").open("a").write("32\nhalf a fra")
    assert run_md(argon(), Remembering(1.1), run, tmp_path / "cut").ended == ""
    for file in FILES:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_the_second_start_really_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run_md(argon(), Remembering(1.1, die_at=58), an_input(), tmp_path)
    potential = Remembering(1.1)
    run_md(argon(), potential, an_input(), tmp_path)
    assert potential.calls == 20  # steps 41 to 60


def test_without_the_files_of_a_checkpoint_the_run_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
    run_md(argon(), Remembering(1.1), an_input(), tmp_path / "whole")
    for damage in ("short", "missing", "torn"):
        folder = tmp_path / damage
        with pytest.raises(KeyboardInterrupt):
            run_md(argon(), Remembering(1.1, die_at=58), an_input(), folder)
        if damage == "short":
            (folder / "traj.xyz").write_text("")
        elif damage == "missing":
            (folder / "model_devi.out").unlink()
        else:
            checkpoint = folder / "md.checkpoint.npz"
            checkpoint.write_bytes(checkpoint.read_bytes()[:-300])
        run_md(argon(), Remembering(1.1), an_input(), folder)
        assert (folder / "traj.xyz").read_bytes() == (tmp_path / "whole/traj.xyz").read_bytes()


def test_a_checkpoint_of_another_run_is_refused_and_a_longer_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
    run_md(argon(), Remembering(1.1), an_input(), tmp_path)
    for other in (an_input(seed=9), an_input(temp_k=50.0)):
        with pytest.raises(InputError, match="another folder"):
            run_md(argon(), Remembering(1.1), other, tmp_path)
    potential = Remembering(1.1)
    assert run_md(argon(), potential, an_input(nsteps=100), tmp_path).frames == 11
    assert potential.calls == 40


def test_colliding_atoms_end_the_run_and_the_frames_stay(tmp_path):
    class Falling(ScaledCommittee):
        """Pulls atoms 0 and 1 together."""

        def drive(self, atoms):
            forces = np.zeros((len(atoms), 3))
            forces[0] = 0.5 * (atoms.positions[1] - atoms.positions[0])
            forces[1] = -forces[0]
            return 0.0, forces, np.zeros((3, 3))

    result = run_md(argon(), Falling(1.1), an_input(ensemble="nve", nsteps=1000, trj_freq=5, md_dt_ps=0.002), tmp_path)
    assert "apart" in result.ended and result.ended.startswith("step ")
    assert 1 < result.frames < result.frames_planned
    found = fetch_steps(tmp_path / "traj.xyz", steps(tmp_path / "traj.xyz"))
    assert len(found) == result.frames == len(read_table(tmp_path / "model_devi.out"))
    assert min(least_distance(frame, 0.5) for frame in found) == np.inf


def test_a_hot_run_ends(tmp_path):
    class Kicking(ScaledCommittee):
        def drive(self, atoms):
            energy, forces, virial = super().drive(atoms)
            forces[3, 0] += 500.0 * (self.calls > 25)
            return energy, forces, virial

    result = run_md(argon(), Kicking(1.1), an_input(nsteps=1000), tmp_path)
    assert "temperature" in result.ended and result.frames == 3


@pytest.mark.parametrize("what", ["energy", "force", "huge"])
def test_numbers_that_are_not_finite_end_the_run(tmp_path, what):
    class Broken(ScaledCommittee):
        def drive(self, atoms):
            energy, forces, virial = super().drive(atoms)
            if self.calls > 25:
                if what == "energy":
                    energy = np.nan
                else:
                    forces[2] = np.nan if what == "force" else 1e300
            return energy, forces, virial

    for ensemble in ("nve", "nvt", "npt-tri"):
        run = an_input(ensemble=ensemble, press_bar=0.0 if ensemble == "npt-tri" else None)
        result = run_md(argon(), Broken(1.1), run, tmp_path / ensemble)
        assert "finite" in result.ended or "temperature" in result.ended
        assert result.frames == 3
        assert np.isfinite(fetch_steps(tmp_path / ensemble / "traj.xyz", [20])[0].positions).all()


def test_an_exploding_deviation_ends_the_run_behind_its_frame(tmp_path):
    limits = StopLimits(deviation=1e-6)
    result = run_md(argon(), ScaledCommittee(1.5), an_input(stop=limits), tmp_path / "frames")
    assert "deviation" in result.ended and result.frames == 1
    assert read_table(tmp_path / "frames/model_devi.out").value[0] > 1e-6
    # a member that gives NaN is no accurate committee
    result = run_md(argon(), ScaledCommittee(np.nan), an_input(stop=limits), tmp_path / "nan")
    assert "deviation" in result.ended and result.frames == 1
    assert np.isnan(read_table(tmp_path / "nan/model_devi.out").value[0])

    class Growing(ScaledCommittee):
        def compare(self, atoms):
            self.scales = np.array([1.0, 1.0 if self.calls < 33 else 50.0])
            return super().compare(atoms)

    run = an_input(stop=StopLimits(deviation=0.05), deviation_every_step=True)
    result = run_md(argon(), Growing(1.0), run, tmp_path / "every")
    assert result.ended.startswith("step 33") and result.frames == 4


def test_an_exploding_cell_ends_the_run(tmp_path):
    run = an_input(ensemble="npt-iso", press_bar=-2e4, nsteps=3000)
    result = run_md(argon(), ScaledCommittee(1.1), run, tmp_path)
    assert "volume" in result.ended and result.frames >= 1


def test_a_cell_that_shears_away_ends_the_run(tmp_path):
    class Shearing(ScaledCommittee):
        def drive(self, atoms):
            virial = np.zeros((3, 3))
            virial[0, 1] = virial[1, 0] = 2.0
            return 0.0, np.zeros((len(atoms), 3)), virial

    run = an_input(ensemble="npt-tri", press_bar=0.0, nsteps=3000)
    result = run_md(argon(), Shearing(1.1), run, tmp_path)
    assert "stretched" in result.ended and result.frames >= 1


def test_the_pressure_of_the_log_is_in_bar(tmp_path):
    run_md(argon(), LennardJones(), an_input(), tmp_path)
    log = np.loadtxt(tmp_path / "md.log")
    atoms = argon()
    _, _, virial = LennardJones().evaluate(atoms.positions, atoms.cell.array)
    # p = (N_f kT + tr W)/(3V), 1 eV/Å³ = 1.602176634e6 bar
    expected = (93 * 8.617333262e-5 * 40.0 + np.trace(virial)) / (3 * atoms.get_volume()) * 1.602176634e6
    assert log[0, 3] == pytest.approx(expected, rel=1e-6)


def test_free_boundaries(tmp_path):
    droplet = argon()[:13]
    droplet.cell = None
    result = run_md(droplet, ScaledCommittee(1.1), an_input(boundary=False), tmp_path)
    assert result.ended == ""
    frame = fetch_steps(tmp_path / "traj.xyz", [60])[0]
    assert not frame.pbc.any() and frame.cell.rank == 0
    assert np.ptp(np.loadtxt(tmp_path / "md.log")[:, 6]) < 1e-3


def test_what_cannot_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least two"):
        run_md(argon()[:1], LennardJones(), an_input(), tmp_path)
    free = argon()
    free.cell = None
    with pytest.raises(InputError, match="cell"):
        run_md(free, LennardJones(), an_input(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_least_distance_sees_images_and_says_infinity_beyond_the_limit():
    atoms = Atoms("Si2", positions=[[0.1, 2, 2], [4.8, 2, 2]], cell=[5, 5, 5], pbc=True)
    assert least_distance(atoms, 0.5) == pytest.approx(0.3)
    atoms.pbc = False
    assert least_distance(atoms, 0.5) == np.inf
    assert least_distance(atoms, 0.0) == np.inf
