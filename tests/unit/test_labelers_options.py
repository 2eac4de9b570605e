"""Options of the embedded labelling engines, commands, fingerprints, thermostat, and `pwact-like label` by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from pwact_like.cli.main import main
from pwact_like.config.common import StageInput
from pwact_like.config.inline import ENGINE_OPTIONS as INLINE_ENGINE
from pwact_like.config.inline import STAGE_OPTIONS as INLINE_STAGE
from pwact_like.config.labelling import LabelSettings
from pwact_like.data.formats import read_frames, write_frames
from pwact_like.data.frames import Frame
from pwact_like.engines.labelers import dynamics
from pwact_like.engines.labelers.ase_calculator import AseLabeler
from pwact_like.engines.labelers.bigmodel import BigModelLabeler
from pwact_like.engines.labelers.job_files import LABEL_FILE, RESULT_FILE
from pwact_like.engines.labelers.options import STAGE_OPTIONS
from pwact_like.engines.labelers.tblite import XtbLabeler
from pwact_like.engines.protocols import LabelRequest
from pwact_like.engines.registry import availability, labeler_for
from pwact_like.errors import InputError, NotAvailableError
from pwact_like.outcome import Ok, Reject, Retry
from pwact_like.seeds import sha256_file


def xtb(**options) -> XtbLabeler:
    return XtbLabeler(LabelSettings(dft_style="xtb", options=options))


def request(kind="scf", entry=None, **options) -> LabelRequest:
    return LabelRequest(kind, bulk("Si"), entry or StageInput(options=options), 3)


def job(labeler, tmp_path, asked) -> dict:
    labeler.write(tmp_path / "task", asked)
    return json.loads((tmp_path / "task" / "label.json").read_text())


def test_the_settings_files_know_these_options():
    def names(table):
        return {name for key, option in table.items() for name in (key, *option.aliases)}

    assert {stage: frozenset(names(table)) for stage, table in STAGE_OPTIONS.items()} == INLINE_STAGE
    tables = {"xtb": XtbLabeler.engine_table, "ase": AseLabeler.engine_table, "bigmodel": BigModelLabeler.engine_table}
    assert {engine: frozenset(names(table)) for engine, table in tables.items()} == INLINE_ENGINE


def test_the_stage_goes_before_its_file_goes_before_the_settings(tmp_path):
    path = tmp_path / "aimd.json"
    path.write_text(json.dumps({"temp": 500, "NSTEPS": 20, "md_dt": 0.002, "_comment": 1}))
    entry = StageInput(input=path, options={"nsteps": 30})
    content = job(xtb(nsteps=10, taut=0.5, method="gfn2", accuracy=1.0), tmp_path, request("aimd", entry))
    assert content["options"] == {
        "temperature_k": 500.0,
        "nsteps": 30,
        "md_dt": 0.002,
        "ensemble": "nvt",
        "taut": 0.5,
        "trj_freq": 1,
        "checkpoint_every": 10,
    }
    assert content["engine_options"]["method"] == "GFN2-xTB" and content["engine_options"]["accuracy"] == 1.0
    assert content["seed"] == 3 and content["level_of_theory"].startswith("xtb-GFN2-")
    assert str(tmp_path) not in (tmp_path / "task" / "label.json").read_text()  # nothing absolute: the key is of content


def test_every_wrong_option_is_told_at_once(tmp_path):
    with pytest.raises(InputError) as caught:
        xtb().write(tmp_path, request("aimd", nsteps=0, temprature=300, ensemble="npt", fmax=1.0))
    text = str(caught.value)
    assert len(caught.value.problems) == 5
    assert "nsteps: must be at least 1" in text and "did you mean temperature_k?" in text
    assert "'npt' is none of nvt, nve" in text and "fmax" in text and "temperature_k is missing" in text
    with pytest.raises(InputError, match="GFN9"):
        xtb(method="GFN9")
    with pytest.raises(InputError, match="calculator is missing"):
        AseLabeler(LabelSettings(dft_style="ase")).write(tmp_path, request())
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        xtb().write(tmp_path, request(entry=StageInput(input=tmp_path / "bad.json")))


def test_elements_that_an_engine_does_not_know_are_named(tmp_path):
    emt = AseLabeler(LabelSettings(dft_style="ase", options={"calculator": "emt"}))
    with pytest.raises(InputError, match="EMT has no parameters for Si"):
        emt.write(tmp_path / "a", request())
    with pytest.raises(InputError, match="no parameters for U"):
        xtb().write(tmp_path / "b", LabelRequest("scf", bulk("U", "bcc", 3.4), StageInput(), 1))


def test_the_level_of_theory_hangs_on_the_hamiltonian_only():
    entry = StageInput()
    level = xtb().level_of_theory(entry)
    assert level == xtb(accuracy=0.01, max_iterations=900).level_of_theory(StageInput(options={"fmax": 0.1}))
    others = [xtb(method="GFN2"), xtb(electronic_temperature=3000), xtb(charge=1)]
    assert len({level, *(other.level_of_theory(entry) for other in others)}) == 4


def test_a_file_of_the_calculator_is_linked_and_known_by_its_content(tmp_path):
    model = tmp_path / "my model.pt"
    model.write_bytes(b"weights")
    settings = LabelSettings(
        dft_style="ase",
        options={"calculator": "some.Model", "calculator_args": {"path": "my model.pt", "dtype": "f8"}},
        source=tmp_path / "p.json",
    )
    labeler = AseLabeler(settings)
    files = labeler.write(tmp_path / "task", request())
    assert files.links == (("path.pt", str(model)),)
    content = json.loads((tmp_path / "task" / "label.json").read_text())
    assert content["engine_options"]["calculator_args"] == {"path": "path.pt", "dtype": "f8"}
    first = labeler.level_of_theory(StageInput())
    model.write_bytes(b"other weights")
    assert labeler.level_of_theory(StageInput()) != first


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("pwact-like", "pwact-like label label.json"),
        ("pwact-like label", "pwact-like label label.json"),
        ("/opt/my env/bin/pwact-like label", "/opt/my env/bin/pwact-like label label.json"),
        ("python -m pwact_like label", "python -m pwact_like label label.json"),
        ("srun -n 1 pwact label label.json", "srun -n 1 pwact label label.json"),
    ],
)
def test_the_users_command_is_completed(command, line):
    assert xtb().commands(command, request()) == (line,)


def test_a_command_of_another_program_is_refused():
    with pytest.raises(InputError, match="does not run pwact-like"):
        xtb().commands("mpirun -np 4 PWmat", request())


def test_outcomes_of_broken_results(tmp_path):
    labeler = xtb()
    assert isinstance(labeler.outcome(tmp_path, "scf"), Retry)
    (tmp_path / RESULT_FILE).write_text('{"frames": 1}')
    assert isinstance(labeler.outcome(tmp_path, "scf"), Retry)
    result = {"converged": False, "frames": 0, "frames_planned": 1, "reason": "SCF not converged"}
    (tmp_path / RESULT_FILE).write_text(json.dumps(result))
    assert labeler.outcome(tmp_path, "scf") == Reject("SCF not converged")
    (tmp_path / RESULT_FILE).write_text(json.dumps({**result, "frames": 1}))
    assert isinstance(labeler.outcome(tmp_path, "scf"), Retry)  # promised, and not there


def test_md_that_fails_on_the_way_keeps_what_it_has(tmp_path, monkeypatch):
    from pwact_like.engines.labelers.calculators import CalculationError
    from pwact_like.engines.labelers.label_run import run_job_file

    labeler = AseLabeler(LabelSettings(dft_style="ase", options={"calculator": "emt"}))
    asked = LabelRequest("aimd", bulk("Cu", cubic=True), StageInput(options={"temp": 300, "nsteps": 9}), 1)
    labeler.write(tmp_path, asked)
    real, calls = dynamics.compute_label, []

    def fails_in_step_5(atoms):
        calls.append(1)
        if len(calls) == 6:
            raise CalculationError("SCF not converged in 250 cycles")
        return real(atoms)

    monkeypatch.setattr(dynamics, "compute_label", fails_in_step_5)
    run_job_file(tmp_path / "label.json")
    outcome = labeler.outcome(tmp_path, "aimd")
    assert isinstance(outcome, Ok)
    assert outcome.note == "ended early with 5 of 10 frames: the calculation of step 5 failed: SCF not converged in 250 cycles"
    assert len(labeler.read(tmp_path, "aimd")) == 5


def test_start_velocities_have_the_temperature_and_no_momentum():
    masses = np.array([1.0, 12.0, 28.0, 63.5])
    velocities = dynamics.start_velocities(masses, 700.0, np.random.default_rng(1))
    assert np.abs((masses[:, None] * velocities).sum(axis=0)).max() < 1e-12
    # 2 E_kin = (3N − 3) k T, k = 8.617333262e-5 eV/K (CODATA 2018)
    assert 2 * dynamics.kinetic_energy(velocities, masses) == pytest.approx((3 * 4 - 3) * 8.617333262e-5 * 700.0)


def test_bussis_factor_gives_the_canonical_kinetic_energy():
    """Rescaling alone, no forces: K becomes Gamma-distributed, <K> = n k T / 2 and var K = n (k T)² / 2."""
    random = np.random.default_rng(7)
    n_dof, kt = 21, 8.617333262e-5 * 600
    energy, seen = 10 * kt, []
    for step in range(60000):
        energy *= dynamics.bussi_factor(energy, 600.0, n_dof, 0.5, random) ** 2
        if step > 100:
            seen.append(energy)
    assert np.mean(seen) == pytest.approx(n_dof * kt / 2, rel=0.01)
    assert np.var(seen) == pytest.approx(n_dof * kt**2 / 2, rel=0.04)


def test_nve_conserves_the_energy(tmp_path):
    """EMT copper, 40 steps of 2 fs: the total drifts by far less than what moves between potential and kinetic energy."""
    from ase import units

    from pwact_like.engines.labelers.calculators import calculator_factory

    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    options = {"temperature_k": 600.0, "nsteps": 40, "md_dt": 0.002, "ensemble": "nve", "taut": 0.1, "trj_freq": 1, "checkpoint_every": 100}
    make = calculator_factory("ase", {"calculator": "emt"}, tmp_path)
    count, steps, reason = dynamics.run_aimd(tmp_path, atoms, make, options, 5, "")
    assert (count, steps, reason) == (41, 40, "")
    frames = read_frames(tmp_path / LABEL_FILE, "extxyz")
    dt = 2.0 * units.fs
    positions = np.array([frame.atoms.positions for frame in frames])
    velocities = (positions[2:] - positions[:-2]) / (2 * dt)  # exact for velocity Verlet
    kinetic = 0.5 * (atoms.get_masses()[None, :, None] * velocities**2).sum(axis=(1, 2))
    potential = np.array([frame.label.energy_ev for frame in frames[1:-1]])
    assert np.ptp(kinetic + potential) < 0.02 * np.ptp(potential)


def test_registry_names_the_cure():
    with pytest.raises(NotAvailableError, match=r"no engine 'gaussian' .*; built: ase, bigmodel, cp2k, dftb, pwmat, qe, vasp, xtb"):
        labeler_for(LabelSettings(dft_style="gaussian"))
    assert isinstance(labeler_for(LabelSettings(dft_style="XTB")), XtbLabeler)
    assert availability("labeler", "xtb") == ""
    assert "no engine" in availability("labeler", "gaussian")


def test_a_missing_package_is_named_with_the_cure(monkeypatch, tmp_path):
    import sys

    from pwact_like.engines.labelers.calculators import calculator_factory

    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(NotAvailableError, match=r"pip install 'pwact-like\[xtb\]'"):
        calculator_factory("xtb", job(xtb(), tmp_path, request())["engine_options"], tmp_path)()
    with pytest.raises(NotAvailableError, match="install its package"):
        calculator_factory("ase", {"calculator": "nowhere_to_be_found.Model"}, tmp_path)()
    with pytest.raises(InputError, match="refuses its arguments"):
        calculator_factory(
            "ase", {"calculator": "ase.calculators.lj.LennardJones", "calculator_args": {"atoms": 1, "x": object()}}, tmp_path
        )()


def test_label_by_hand(tmp_path, capsys):
    copper = bulk("Cu", cubic=True)
    frames = [Frame(copper), Frame(copper.repeat((2, 1, 1)))]
    write_frames(tmp_path / "cu.xyz", frames, "extxyz")
    out = tmp_path / "out.xyz"
    assert main(["label", str(tmp_path / "cu.xyz"), "--engine", "ase", "--set", "calculator=emt", "-o", str(out)]) == 0
    labelled = read_frames(out, "extxyz")
    assert labelled[1].label.energy_ev == pytest.approx(2 * labelled[0].label.energy_ev)
    assert labelled[0].level_of_theory.startswith("ase-emt-")
    assert labelled[0].origin.source == str(tmp_path / "cu.xyz")
    assert "2 labelled frames" in capsys.readouterr().out
    assert main(["label", str(tmp_path / "cu.xyz"), "--engine", "ase"]) == 2
    assert "-o OUT.xyz missing" in capsys.readouterr().err
    before = sha256_file(out)
    refused = ["label", str(tmp_path / "cu.xyz"), "--engine", "xtb", "--set", "max_iterations=1", "-o", str(out)]
    assert main(refused) == 1
    assert "SCF not converged" in capsys.readouterr().err
    assert sha256_file(out) == before


def test_a_job_file_says_everything_itself(tmp_path: Path, capsys):
    xtb().write(tmp_path, request())
    assert main(["label", str(tmp_path / "label.json"), "--engine", "xtb"]) == 2
    assert "says everything itself" in capsys.readouterr().err
    (tmp_path / "structure.xyz").unlink()
    assert main(["label", str(tmp_path / "label.json")]) == 2
    assert "structure.xyz" in capsys.readouterr().err
