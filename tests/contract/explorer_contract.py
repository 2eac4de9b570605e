"""What every exploring engine must do, on the real program; a test module subclasses and names its engine.

The truth here: the structure that was given, the number of frames that was planned, equality of runs with equal seeds,
and the committee's own forces at the frames, from which the deviation follows by its definition.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from labeler_contract import accept, run_commands, start_attempt

from pwact_like.engines.protocols import Explorer, ExploreRequest, MdSettings
from pwact_like.errors import DataError, InputError
from pwact_like.outcome import Ok, Reject, TaskFiles
from pwact_like.uncertainty.table import read_table

ENSEMBLES = ("nve", "nvt", "npt-iso", "npt-aniso", "npt-tri")


class ExplorerContract:
    """Subclass it, and say how to make the explorer and its models."""

    command = ""
    md = MdSettings("nvt", nsteps=20, trj_freq=5, md_dt_ps=0.001, temp_k=300.0)

    def explorer(self) -> Explorer:
        raise NotImplementedError

    @pytest.fixture
    def models(self) -> tuple[Path, ...]:
        """At least three models for silicon that differ."""
        raise NotImplementedError

    def forces(self, models: tuple[Path, ...], atoms: Atoms) -> np.ndarray:
        """Forces of all models, (K, n_atoms, 3) in eV/Å, by another way than the explorer's."""
        raise NotImplementedError

    def atoms(self) -> Atoms:
        atoms = bulk("Si", cubic=True) * (2, 1, 1)
        atoms.rattle(0.03, seed=4)
        return atoms

    def request(self, models: tuple[Path, ...], **changes) -> ExploreRequest:
        names = {"ensemble", "nsteps", "trj_freq", "temp_k", "press_bar", "boundary", "md_dt_ps"}
        md = replace(self.md, **{name: changes.pop(name) for name in list(changes) if name in names})
        return replace(ExploreRequest(self.atoms(), models, md, seed=17, upper_level=1e3), **changes)

    def execute(self, attempt: Path, commands: tuple[str, ...]) -> int:
        """Run the commands in the attempt's folder; the exit status."""
        return run_commands(attempt, commands)

    def run(self, task: Path, request: ExploreRequest) -> tuple[Path, TaskFiles]:
        """Write and run attempt 1."""
        explorer = self.explorer()
        files = explorer.write(task, request)
        attempt = start_attempt(task, files, 1)
        status = self.execute(attempt, explorer.commands(self.command, request))
        assert status == 0, (attempt / "stdout").read_text() if (attempt / "stdout").exists() else status
        return attempt, files

    def test_inputs_name_no_place_and_are_written_again_the_same(self, tmp_path, models):
        contents = []
        for name in ("here", "some where/else"):
            for _ in range(2):
                files = self.explorer().write(tmp_path / name, self.request(models))
                contents.append({file: (tmp_path / name / file).read_bytes() for file in files.inputs})
        assert contents[0] and all(content == contents[0] for content in contents)
        for text in contents[0].values():
            assert str(tmp_path).encode() not in text
        assert {Path(target) for _, target in files.links} >= {path.resolve() for path in models}
        self.explorer().write(tmp_path / "here", self.request(models, seed=18))
        assert {file: (tmp_path / "here" / file).read_bytes() for file in files.inputs} != contents[0]

    def test_a_run_from_input_to_frames(self, tmp_path, models):
        explorer = self.explorer()
        request = self.request(models)
        attempt, files = self.run(tmp_path / "a task", request)
        assert all((attempt / name).is_file() for name in files.outputs)
        assert explorer.outcome(attempt) == Ok()
        task = tmp_path / "a task"
        accept(task, attempt, files)
        left = explorer.read(task)
        assert left.ended == "" and left.path.is_file() and left.table.parent == task

        table = read_table(left.table)
        assert table.steps.tolist() == [0, 5, 10, 15, 20]
        assert len(table) == request.md.frames_planned
        assert np.isfinite(table.value).all() and (table.value >= table.mean).all() and (table.mean >= table.minimum).all()

        frames = explorer.frames(task, [20, 0, 10])
        np.testing.assert_allclose(frames[1].positions, request.atoms.positions, atol=1e-6)
        np.testing.assert_allclose(frames[1].cell.array, request.atoms.cell.array, atol=1e-6)
        assert all(frame.pbc.all() and (frame.numbers == request.atoms.numbers).all() for frame in frames)
        assert 1e-3 < abs(frames[0].positions - frames[2].positions).max() < 0.5
        for frame, step in zip(frames, (20, 0, 10), strict=True):
            forces = self.forces(models, frame)
            sigma = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
            row = table.steps.tolist().index(step)
            np.testing.assert_allclose(
                [table.value[row], table.minimum[row], table.mean[row]], [sigma.max(), sigma.min(), sigma.mean()], rtol=1e-4
            )
        with pytest.raises(DataError, match="7"):
            explorer.frames(task, [0, 7])

        explorer.thin(task, [10, 20])
        assert abs(explorer.frames(task, [20])[0].positions - frames[0].positions).max() == 0.0
        with pytest.raises(DataError):
            explorer.frames(task, [0])
        explorer.thin(task, [])
        assert left.path.is_file()
        assert read_table(left.table).steps.tolist() == [0, 5, 10, 15, 20]

    @pytest.mark.parametrize("ensemble", ENSEMBLES)
    def test_every_ensemble_runs_and_equal_seeds_give_equal_runs(self, tmp_path, models, ensemble):
        explorer = self.explorer()
        press = 1e4 if ensemble.startswith("npt") else None
        frames = []
        for name, seed in (("a", 17), ("b", 17), ("c", 18)):
            request = self.request(models, ensemble=ensemble, press_bar=press, seed=seed)
            attempt, _ = self.run(tmp_path / name, request)
            assert explorer.outcome(attempt) == Ok()
            frames.append(explorer.frames(attempt, [20])[0])
        assert (frames[0].positions == frames[1].positions).all() and (frames[0].cell.array == frames[1].cell.array).all()
        assert abs(frames[0].positions - frames[2].positions).max() > 1e-4
        strain = frames[0].cell.array @ np.linalg.inv(self.atoms().cell.array)
        moved = abs(strain - np.eye(3))
        if press is None:
            assert moved.max() < 1e-7
            return
        assert moved.max() > 1e-7
        off_diagonal = moved[~np.eye(3, dtype=bool)].max()
        if ensemble == "npt-iso":
            np.testing.assert_allclose(np.diag(strain), strain[0, 0], rtol=1e-7)
        if ensemble != "npt-tri":
            assert off_diagonal < 1e-7
        if ensemble == "npt-aniso":
            assert np.ptp(np.diag(strain)) > 1e-9

    def test_free_boundaries(self, tmp_path, models):
        attempt, _ = self.run(tmp_path, self.request(models, boundary=False))
        assert not self.explorer().frames(attempt, [10])[0].pbc.any()

    def test_an_empty_attempt_is_rejected(self, tmp_path, models):
        assert isinstance(self.explorer().outcome(tmp_path), Reject)
        with pytest.raises(DataError):
            self.explorer().read(tmp_path)

    def test_one_model_is_no_committee(self, tmp_path, models):
        with pytest.raises(InputError, match="committee"):
            self.explorer().write(tmp_path, self.request(models[:1]))
