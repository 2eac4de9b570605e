"""The contract of labelling engines, for CHGNet, SevenNet, and a user's script in PWact's way."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from typing import ClassVar

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from labeler_contract import LabelerContract, accept, run_commands, start_attempt

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers import bigmodel_calculators
from pwact_like.engines.labelers.bigmodel import BigModelLabeler, bigmodel_labeler
from pwact_like.engines.labelers.bigmodel_script import ScriptLabeler
from pwact_like.engines.labelers.job_files import LABEL_FILE
from pwact_like.engines.labelers.label_run import run_job_file, single_point
from pwact_like.engines.protocols import LabelRequest
from pwact_like.errors import InputError, OutOfTimeError
from pwact_like.jobs.attempt import attempt_folder, has_progressed
from pwact_like.jobs.types import Task
from pwact_like.outcome import Ok, Reject, Retry
from pwact_like.time_limit import STOP_FILE_VARIABLE

STRAIN = np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0], [0, 0.02, 0.01]])


def silicon(repeat=(1, 1, 1)):
    atoms = bulk("Si").repeat(repeat)
    atoms.set_cell(atoms.cell.array @ STRAIN, scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def require_package(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'pwact-like[{extra}]'")


LOAD = bigmodel_calculators.load_calculator
LOADED: dict[str, object] = {}


def load_once(options, folder):
    """The calculator of these options, kept for all tests; a file of weights is another one in every folder."""
    key = json.dumps([options, str(folder) if options.get("model_file") else ""], sort_keys=True)
    if key not in LOADED:
        LOADED[key] = LOAD(options, folder)
    return LOADED[key]


class ModelContract(LabelerContract):
    """Two atoms; everything but the first test runs in this process, where the model is loaded quicker."""

    options: ClassVar[dict]
    aimd_steps = 3

    @pytest.fixture(autouse=True)
    def _loaded_once(self, monkeypatch):
        """Loading takes seconds, and one process of a user loads once as well."""
        monkeypatch.setattr(bigmodel_calculators, "load_calculator", load_once)

    def labeler(self):
        return BigModelLabeler(LabelSettings(dft_style="bigmodel", options=self.options))

    def atoms(self):
        return silicon()

    def entry(self, kind):
        return StageInput(options={"aimd": {"temp": 500, "nsteps": self.aimd_steps}, "relax": {"fmax": 0.05}, "scf": {}}[kind])

    def execute(self, attempt, commands):
        run_job_file(attempt / "label.json")
        return 0

    def truncate(self, attempt):
        path = attempt / LABEL_FILE
        path.write_bytes(path.read_bytes()[:-40])

    def test_a_batch_is_labelled_as_each_one_alone(self, tmp_path):
        structures = [silicon(), silicon((2, 1, 1)), silicon()]
        structures[2].rattle(0.1, seed=9)
        labeler = self.labeler()
        requests = [LabelRequest("scf", atoms, self.entry("scf"), 7) for atoms in structures]
        files = labeler.write_batch(tmp_path / "batch", requests)
        attempt = start_attempt(tmp_path / "batch", files, 1)
        assert not isinstance(labeler.batch_outcome(attempt), Ok)
        assert self.execute(attempt, labeler.commands("", requests[0])) == 0
        assert labeler.batch_outcome(attempt) == Ok()
        accept(tmp_path / "batch", attempt, files)
        for number, (frame, atoms) in enumerate(zip(labeler.read_batch(tmp_path / "batch"), structures, strict=True)):
            ((alone,), _) = self.label(tmp_path / f"alone{number}", atoms)
            assert frame.label.energy_ev == alone.label.energy_ev
            assert np.array_equal(frame.label.forces_ev_per_ang, alone.label.forces_ev_per_ang)
            assert np.array_equal(frame.label.virial_ev, alone.label.virial_ev)


@pytest.mark.engines
class TestChgnet(ModelContract):
    options: ClassVar[dict] = {"model": "CHGNet", "device": "cpu"}

    @pytest.fixture(autouse=True)
    def _installed(self):
        require_package("chgnet", "chgnet")

    def test_the_level_of_theory_is_that_of_the_weights(self, tmp_path):
        level = self.labeler().level_of_theory(StageInput())
        assert level.startswith("bigmodel-chgnet-0.3.0-")
        assert level != self.labeler().level_of_theory(StageInput(options={"variant": "r2scan"}))
        from pwact_like.engines.labelers.bigmodel_weights import wheel_weights

        shutil.copy(wheel_weights("chgnet", "0.3.0", ""), tmp_path / "mine.pth.tar")
        own = BigModelLabeler(
            LabelSettings(dft_style="bigmodel", options={"model": "chgnet", "model_file": str(tmp_path / "mine.pth.tar")})
        )
        assert own.level_of_theory(StageInput()).rpartition("-")[2] == level.rpartition("-")[2]  # the same weights
        files = own.write(tmp_path / "task", LabelRequest("scf", silicon(), StageInput(), 1))
        assert files.links == (("weights.tar", str(tmp_path / "mine.pth.tar")),)
        attempt = start_attempt(tmp_path / "task", files, 1)
        run_job_file(attempt / "label.json")
        ((wheel,), _) = self.label(tmp_path / "wheel", silicon())
        assert own.read(attempt, "scf")[0].label.energy_ev == wheel.label.energy_ev

    def test_other_weights_than_the_campaign_began_with_are_refused(self, tmp_path):
        from pwact_like.errors import DataError

        self.labeler().write(tmp_path, LabelRequest("scf", silicon(), StageInput(), 1))
        job = json.loads((tmp_path / "label.json").read_text())
        job["engine_options"]["weights_sha256"] = "0" * 64
        (tmp_path / "label.json").write_text(json.dumps(job))
        with pytest.raises(DataError, match="other weights"):
            run_job_file(tmp_path / "label.json")

    def test_silicon_is_near_its_known_lattice_constant(self, tmp_path):
        # Materials Project's PBE silicon, on which CHGNet was trained: 5.47 Å (mp-149); experiment 5.43
        ((frame,), _) = self.label(tmp_path, silicon(), "relax")
        assert (4 * frame.atoms.get_volume()) ** (1 / 3) == pytest.approx(5.46, abs=0.05)

    @pytest.mark.parametrize("kind", ["scf", "relax", "aimd"])
    def test_an_atom_without_neighbours_is_refused(self, tmp_path, kind):
        """CHGNet's graph leaves it out: a constant energy and no force, at whatever distance."""
        atoms = silicon()
        atoms.set_cell(np.diag([15.0, 15.0, 30.0]))
        atoms.append("O")
        atoms.positions[-1] = [0, 0, 15]
        frames, outcome = self.label(tmp_path, atoms, kind)
        assert frames == [] and isinstance(outcome, Reject)
        assert "1 isolated atom(s) with atom_graph_cutoff=6" in outcome.reason

    def test_a_molecule_is_refused(self, tmp_path):
        from ase.build import molecule

        with pytest.raises(InputError, match="periodic in all directions"):
            self.labeler().write(tmp_path, LabelRequest("scf", molecule("H2O"), StageInput(), 1))


@pytest.mark.engines
class TestSevenNet(ModelContract):
    options: ClassVar[dict] = {"model": "sevennet", "device": "cpu"}

    @pytest.fixture(autouse=True)
    def _installed(self):
        require_package("sevenn", "sevennet")


SCRIPT = """\
from ase.calculators.emt import EMT
from ase.io import read, write
frames = read("select.xyz", index=":")
for atoms in frames:
    atoms.calc = EMT()
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
write("train.xyz", frames)
"""


class TestScript(LabelerContract):
    """PWact's contract, with a script as its users write them: ASE reads, computes and writes."""

    script = SCRIPT
    position_tolerance_ang = 1e-8  # ASE writes eight decimals

    @pytest.fixture(autouse=True)
    def _script(self, tmp_path_factory):
        self.path = tmp_path_factory.mktemp("scripts") / "emt_label.py"
        self.path.write_text(self.script)

    def labeler(self):
        return bigmodel_labeler(LabelSettings(dft_style="bigmodel", bigmodel_script=self.path))

    def atoms(self):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array @ STRAIN, scale_atoms=True)
        atoms.rattle(0.1, seed=1)
        return atoms

    def entry(self, kind):
        return StageInput()

    def execute(self, attempt, commands):
        if commands == (f"{sys.executable} emt_label.py",) and self.script == SCRIPT:  # in this process: starting Python takes a second
            from ase.calculators.emt import EMT
            from ase.io import read, write

            frames = read(attempt / "select.xyz", index=":")
            for atoms in frames:
                atoms.calc = EMT()
                atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
            write(attempt / "train.xyz", frames)
            return 0
        return run_commands(attempt, commands)

    def truncate(self, attempt):
        path = attempt / "train.xyz"
        path.write_bytes(path.read_bytes()[:-40])

    def test_relaxing_lowers_energy_and_forces(self, tmp_path):
        with pytest.raises(InputError, match="single points"):
            self.labeler().write(tmp_path, LabelRequest("relax", self.atoms(), StageInput(), 1))

    def test_md_gives_the_planned_frames_by_one_seed(self, tmp_path):
        with pytest.raises(InputError, match="single points"):
            self.labeler().write(tmp_path, LabelRequest("aimd", self.atoms(), StageInput(), 1))

    def test_the_level_of_theory_follows_the_script(self):
        before = self.labeler().level_of_theory(StageInput())
        self.path.write_text(self.script + "# edited\n")
        assert self.labeler().level_of_theory(StageInput()) != before

    def batch(self, folder, labelled: str) -> tuple[ScriptLabeler, object]:
        """A task of three structures, with this train.xyz."""
        labeler = self.labeler()
        labeler.write_batch(folder, [LabelRequest("scf", self.atoms(), StageInput(), 1)] * 3)
        (folder / "train.xyz").write_text(labelled)
        return labeler, folder

    def test_a_missing_structure_or_label_is_told(self, tmp_path):
        good = '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="T T T"\nCu 0 0 0 0 0 0\n'
        labeler, folder = self.batch(tmp_path / "two", good * 2)
        outcome = labeler.batch_outcome(folder)
        assert isinstance(outcome, Retry) and "2 structures, and select.xyz has 3" in outcome.reason
        labeler, folder = self.batch(tmp_path / "three", good + good.replace("energy=-1.5", "") + good.replace("-1.5", "nan"))
        outcome = labeler.batch_outcome(folder)
        assert isinstance(outcome, Ok) and "2 of 3" in outcome.note
        frame, unlabelled, infinite = labeler.read_batch(folder)
        assert frame.label.energy_ev == -1.5 and "no energy" in unlabelled and "finite" in infinite
        labeler, folder = self.batch(tmp_path / "none", good.replace("energy=-1.5", "") * 3)
        assert isinstance(labeler.batch_outcome(folder), Reject)
        (folder / "train.xyz").unlink()
        assert "left no train.xyz" in labeler.batch_outcome(folder).reason

    def test_the_users_command_stands_as_it_is(self):
        request = LabelRequest("scf", self.atoms(), StageInput(), 1)
        assert self.labeler().commands("python emt_label.py", request) == ("python emt_label.py",)


def options_problem(**options) -> str:
    with pytest.raises(InputError) as caught:
        BigModelLabeler(LabelSettings(dft_style="bigmodel", options=options)).level_of_theory(StageInput())
    return str(caught.value)


def test_what_is_wrong_with_the_options_is_told():
    assert "model is missing" in options_problem()
    assert "no big model" in options_problem(model="gpt") and "chgnet, sevennet, mace" in options_problem(model="gpt")
    assert "model_file" in options_problem(model="mace")
    assert "is no file" in options_problem(model="mace", model_file="nowhere.model")
    assert "no effect" in options_problem(model="my.Class", model_file="x")
    assert "did you mean" in options_problem(modle="chgnet")


def test_any_calculator_may_label_in_batches(tmp_path):
    labeler = BigModelLabeler(LabelSettings(dft_style="bigmodel", options={"model": "ase.calculators.emt.EMT", "batch": 2}))
    assert labeler.frames_a_task(StageInput()) == 2
    good, strange = bulk("Cu", cubic=True), bulk("Si")
    labeler.write_batch(tmp_path, [LabelRequest("scf", atoms, StageInput(), 1) for atoms in (good, strange, good)])
    run_job_file(tmp_path / "label.json")
    first, second, third = labeler.read_batch(tmp_path)
    assert first.label.energy_ev == third.label.energy_ev and "No EMT-potential" in second
    assert "1 of 3" in labeler.batch_outcome(tmp_path).note


def test_an_interrupted_batch_goes_on_where_it_was(tmp_path, monkeypatch):
    from pwact_like.engines.labelers import batch_run

    labeler = BigModelLabeler(LabelSettings(dft_style="bigmodel", options={"model": "ase.calculators.emt.EMT"}))
    structures = [bulk("Cu", a=3.6 + 0.01 * number) for number in range(4)]
    files = labeler.write_batch(tmp_path, [LabelRequest("scf", atoms, StageInput(), 1) for atoms in structures])
    assert "label.partial.xyz" in files.carry
    monkeypatch.setattr(batch_run, "CHECKPOINT_EVERY_S", -1.0)
    calls = []

    def compute(atoms):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(atoms)

    real = batch_run.compute_label
    monkeypatch.setattr(batch_run, "compute_label", compute)
    with pytest.raises(KeyboardInterrupt):
        run_job_file(tmp_path / "label.json")
    run_job_file(tmp_path / "label.json")
    assert len(calls) == 5  # the third once more
    energies = [frame.label.energy_ev for frame in labeler.read_batch(tmp_path)]
    assert len(set(energies)) == 4


class Choosy(EMT):
    """Refuses a structure as soon as it is given, as SevenNet does with an element that it does not know."""

    def set_atoms(self, atoms):
        if "Si" in atoms.symbols:
            raise ValueError("Model do not know atomic number: 14")


def test_a_structure_that_a_calculator_refuses_costs_no_other_label(tmp_path, monkeypatch):
    monkeypatch.setattr("ase.calculators.emt.EMT", Choosy)
    options = {"model": "ase.calculators.emt.EMT"}
    labeler = BigModelLabeler(LabelSettings(dft_style="bigmodel", options=options))
    structures = [bulk("Cu"), bulk("Si"), bulk("Cu")]
    labeler.write_batch(tmp_path / "batch", [LabelRequest("scf", atoms, StageInput(), 1) for atoms in structures])
    run_job_file(tmp_path / "batch" / "label.json")
    first, second, third = labeler.read_batch(tmp_path / "batch")
    assert first.label.energy_ev == third.label.energy_ev and "do not know atomic number" in second
    for kind, entry in (("scf", {}), ("relax", {}), ("aimd", {"temperature_k": 300, "nsteps": 2})):
        labeler.write(tmp_path / kind, LabelRequest(kind, bulk("Si"), StageInput(options=entry), 1))
        run_job_file(tmp_path / kind / "label.json")
        outcome = labeler.outcome(tmp_path / kind, kind)
        assert isinstance(outcome, Reject) and "do not know atomic number" in outcome.reason


def test_a_batch_longer_than_its_job_gets_on_by_every_attempt(tmp_path, monkeypatch):
    """The job's time ends after each label: no attempt may count as one that got nowhere, or the whole batch is given up."""
    labeler = BigModelLabeler(LabelSettings(dft_style="bigmodel", options={"model": "ase.calculators.emt.EMT"}))
    structures = [bulk("Cu", a=3.6 + 0.01 * number) for number in range(4)]
    files = labeler.write_batch(tmp_path, [LabelRequest("scf", atoms, StageInput(), 1) for atoms in structures])
    task = Task("key", "t", tmp_path, "DFT", (), files)
    stop = tmp_path / "stop"
    stop.touch()
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(stop))
    for number in (1, 2, 3, 4):
        attempt = attempt_folder(task, number)
        attempt.mkdir(parents=True)
        before = [attempt_folder(task, number - 1) / name for name in files.carry] if number > 1 else []
        for path in [*(tmp_path / name for name in files.inputs), *before]:
            shutil.copy(path, attempt)
        if number < 4:
            with pytest.raises(OutOfTimeError, match=f"{number} of 4"):
                run_job_file(attempt / "label.json")
            assert has_progressed(task, number)
        else:
            run_job_file(attempt / "label.json")
    energies = [frame.label.energy_ev for frame in labeler.read_batch(attempt)]
    assert energies == [single_point(atoms, EMT)[0].energy_ev for atoms in structures]
