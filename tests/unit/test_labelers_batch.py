"""One structure of a batch that fails, crashes the process or runs out of memory costs itself and no other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.resource import ResourceSection, Retry
from pwact_like.engines.labelers.begun_note import BEGUN_FILE, BegunNote
from pwact_like.engines.labelers.bigmodel import BigModelLabeler
from pwact_like.engines.labelers.label_run import run_job_file, single_point
from pwact_like.engines.protocols import LabelRequest
from pwact_like.errors import JobError
from pwact_like.jobs.attempt import attempt_folder, has_progressed
from pwact_like.jobs.script import Work
from pwact_like.jobs.triage import MISFORTUNES, JobFacts, triage
from pwact_like.jobs.types import EndCause, Task
from pwact_like.jobs.verdict import Bad
from pwact_like.outcome import Ok

# what happens at a lattice constant (Å); everything else is EMT
MOODY = """\
import os, signal
from ase.calculators.emt import EMT

class Moody(EMT):
    def __init__(self, raises="", at=(), memory_at=(), dies_at=(), waits_at=(), **kwargs):
        super().__init__(**kwargs)
        self.raises, self.at, self.memory_at, self.dies_at, self.waits_at = raises, at, memory_at, dies_at, waits_at

    def calculate(self, atoms=None, *arguments, **kwargs):
        length = round(float(abs(atoms.cell.array).max()) * 2, 2)
        if length in self.at:
            raise {"KeyError": KeyError, "OSError": OSError, "AssertionError": AssertionError}[self.raises]("Xx")
        if length in self.memory_at:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if length in self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if length in self.waits_at:
            import time
            open("waiting", "w").close()
            time.sleep(60)
        super().calculate(atoms, *arguments, **kwargs)
"""
LENGTHS = [3.5, 3.55, 3.6, 3.65, 3.7]


@pytest.fixture
def moody(tmp_path, monkeypatch):
    """Makes a batch of five copper crystals with a calculator that has its moods; gives the labeler, and runs an attempt."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "moody_calculator.py").write_text(MOODY)
    monkeypatch.syspath_prepend(str(modules))
    return lambda **moods: Batch(tmp_path, modules, moods)


class Batch:
    def __init__(self, folder: Path, modules: Path, moods: dict) -> None:
        self.modules, self.attempts = modules, 0
        options = {"model": "moody_calculator.Moody", "calculator_args": moods}
        self.labeler = BigModelLabeler(LabelSettings(dft_style="bigmodel", options=options))
        requests = [LabelRequest("scf", bulk("Cu", a=length), StageInput(), 1) for length in LENGTHS]
        self.files = self.labeler.write_batch(folder / "task", requests)
        self.task = Task("key", "t", folder / "task", "DFT", (), self.files)

    def attempt(self) -> Path:
        """The folder of the next attempt, with what a job's script brings into it."""
        self.attempts += 1
        folder = attempt_folder(self.task, self.attempts)
        folder.mkdir(parents=True)
        earlier = [attempt_folder(self.task, number) for number in range(self.attempts - 1, 0, -1)]
        for name in self.files.inputs:
            shutil.copy(self.task.folder / name, folder)
        for name in self.files.carry:
            found = next((old / name for old in earlier if (old / name).exists()), None)
            if found:
                shutil.copy(found, folder)
        return folder

    def start(self, folder: Path) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.modules), *sys.path])}
        return subprocess.Popen([sys.executable, "-m", "pwact_like", "label", "label.json"], cwd=folder, env=environment)

    def found(self, folder: Path) -> list[float | str]:
        """Energies and reasons."""
        return [one if isinstance(one, str) else one.label.energy_ev for one in self.labeler.read_batch(folder)]


def energies() -> list[float]:
    return [single_point(bulk("Cu", a=length), EMT)[0].energy_ev for length in LENGTHS]


@pytest.mark.parametrize("kind", ["KeyError", "OSError", "AssertionError"])
def test_an_unexpected_exception_costs_its_structure_only(moody, kind):
    batch = moody(raises=kind, at=[3.55, 3.6])
    folder = batch.attempt()
    run_job_file(folder / "label.json")
    found = batch.found(folder)
    assert [found[0], *found[3:]] == [energies()[0], *energies()[3:]]
    assert kind in found[1] and "Xx" in found[1] and kind in found[2]
    assert isinstance(batch.labeler.batch_outcome(folder), Ok)


def test_one_unexpected_exception_at_every_structure_fails_the_job_and_says_so(moody):
    batch = moody(raises="KeyError", at=LENGTHS)
    for _ in range(2):  # a later attempt begins anew: it may be on a node that is sound
        folder = batch.attempt()
        with pytest.raises(JobError, match=r"none of 5 structures .* installation's: .*unexpected KeyError: 'Xx'"):
            run_job_file(folder / "label.json")
        assert not (folder / "result.json").exists()


def test_a_full_disk_is_not_a_structures_fault(moody, monkeypatch):
    import errno

    from pwact_like.engines.labelers import batch_run

    def full(atoms):
        raise OSError(errno.ENOSPC, "No space left on device")

    batch = moody()
    monkeypatch.setattr(batch_run, "compute_label", full)
    with pytest.raises(OSError, match="No space"):
        run_job_file(batch.attempt() / "label.json")


def test_memory_that_runs_out_twice_at_one_structure_refuses_it(moody):
    batch = moody(memory_at=[3.6])
    with pytest.raises(JobError, match=r"memory ran out at structure 3 of 5 \(CUDA out of memory"):
        run_job_file(batch.attempt() / "label.json")
    folder = batch.attempt()
    run_job_file(folder / "label.json")
    found = batch.found(folder)
    assert [*found[:2], *found[3:]] == [*energies()[:2], *energies()[3:]]
    assert "fresh process" in found[2] and "20.00 GiB" in found[2]


def test_memory_that_runs_out_once_refuses_nothing(moody, monkeypatch):
    """Somebody else's program had the GPU's memory: MemoryError and torch's words are treated alike."""
    from pwact_like.engines.labelers import batch_run

    batch, real, calls = moody(), batch_run.compute_label, []

    def compute(atoms):
        calls.append(1)
        if len(calls) in (2, 5):
            raise MemoryError
        return real(atoms)

    monkeypatch.setattr(batch_run, "compute_label", compute)
    for place in (2, 4):  # at two places: the second one is not the one that the attempt began with
        with pytest.raises(JobError, match=f"memory ran out at structure {place} of 5"):
            run_job_file(batch.attempt() / "label.json")
    folder = batch.attempt()
    run_job_file(folder / "label.json")
    assert batch.found(folder) == energies()


def test_a_structure_that_kills_the_process_twice_is_passed_over(moody):
    """As the kernel's out-of-memory killer does it: nothing is said, and no checkpoint was written since the start."""
    batch = moody(dies_at=[3.65])
    for has_come_further in (False, True):  # the note itself is no progress: a task that dies for ever would be tried for ever
        folder = batch.attempt()
        assert batch.start(folder).wait() == -signal.SIGKILL
        assert json.loads((folder / BEGUN_FILE).read_text())["begun"] == 3
        assert has_progressed(batch.task, batch.attempts) is has_come_further
    folder = batch.attempt()
    assert batch.start(folder).wait() == 0
    found = batch.found(folder)
    assert [*found[:3], found[4]] == [*energies()[:3], energies()[4]]
    assert "died at this structure in 2 attempts" in found[3]


def test_several_structures_that_kill_the_process_cost_no_label_of_the_others(moody):
    """Three attempts, the default of resource.json, had been used up at the second one, and with them every label of the batch."""
    batch, strikes = moody(dies_at=[3.5, 3.6, 3.7]), 0
    while batch.start(folder := batch.attempt()).wait() == -signal.SIGKILL:
        bad, _ = triage(Work(batch.task, batch.attempts), Bad("exit status 137"), JobFacts(), ResourceSection())
        strikes += bad.strike
        assert not bad.final and not bad.harmless and batch.attempts <= MISFORTUNES
    assert strikes < Retry().attempts
    found = batch.found(folder)
    assert [found[1], found[3]] == [energies()[1], energies()[3]]
    assert all("died at this structure in 2 attempts" in found[index] for index in (0, 2, 4))


def test_memory_of_a_batch_that_cannot_be_raised_is_not_its_end(moody):
    """Slurm ended the process for its memory, and nobody had said how much it may have: one structure is passed over, the rest goes on."""
    batch = moody()
    batch.attempt()
    bad, _ = triage(Work(batch.task, 1), Bad("killed", EndCause.OUT_OF_MEMORY), JobFacts(), ResourceSection())
    assert bad.strike and not bad.final and "memory" in bad.reason
    alone = replace(batch.task, files=replace(batch.task.files, passes_over=False))
    bad, _ = triage(Work(alone, 1), Bad("killed", EndCause.OUT_OF_MEMORY), JobFacts(), ResourceSection())
    assert bad.final


def test_a_process_that_is_told_to_end_is_laid_to_no_structure(moody):
    batch = moody(waits_at=[3.55])
    folder = batch.attempt()
    process = batch.start(folder)
    deadline = time.monotonic() + 60
    while not (folder / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert json.loads((folder / BEGUN_FILE).read_text()) == {"begun": -1, "deaths": {}, "short_of_memory": -1}


def test_a_note_that_cannot_be_read_is_none(tmp_path):
    for text in ("", "{", "[]", '{"begun": 3}', '{"begun": 3, "deaths": [], "short_of_memory": 0}'):
        (tmp_path / BEGUN_FILE).write_text(text)
        assert not BegunNote(tmp_path).deaths
