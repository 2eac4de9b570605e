"""The contract of exploring engines, for the embedded one, and what only it does."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from explorer_contract import ExplorerContract
from labeler_contract import run_commands, start_attempt

from pwact_like.cli.main import main
from pwact_like.engines.explorers import md_files
from pwact_like.engines.explorers.embedded import EmbeddedExplorer
from pwact_like.errors import InputError, NotAvailableError
from pwact_like.outcome import Ok, Reject

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def silicon_models(tmp_path_factory) -> tuple[Path, ...]:
    """Small Deep Potentials with random weights: soft, smooth and different."""
    from pwact_like.potentials import DeepPotential, DeepPotSpec, save_model

    folder = tmp_path_factory.mktemp("models with spaces")
    spec = DeepPotSpec((14,), rmax_ang=4.0, rmin_ang=1.0, embedding=(4, 8), m2=2, fitting=(8, 8), sel=(40,))
    paths = []
    for seed in range(3):
        model = DeepPotential(spec, seed, torch.tensor([0.1]), torch.tensor([[0.1, 0.1]]), torch.tensor([-5.0]))
        paths.append(folder / f"{seed}" / "model.pt")
        save_model(paths[-1], model)
    return tuple(paths)


class TestEmbeddedExplorer(ExplorerContract):
    def explorer(self):
        return EmbeddedExplorer()

    @pytest.fixture
    def models(self, silicon_models):
        return silicon_models

    def forces(self, models, atoms):
        from pwact_like.potentials import load_model

        return np.array([load_model(path).compute(atoms).forces_ev_per_ang for path in models])

    def execute(self, attempt, commands):
        # in this process: torch takes two seconds to load
        return main(["md", str(attempt / "md.json")])

    def test_the_command_itself_in_a_folder_with_spaces(self, tmp_path, models):
        explorer, request = self.explorer(), self.request(models)
        task = tmp_path / "a 'task' $HOME"
        files = explorer.write(task, request)
        attempt = start_attempt(task, files, 1)
        assert run_commands(attempt, explorer.commands("", request)) == 0, (attempt / "stdout").read_text()
        assert explorer.outcome(attempt) == Ok()
        in_process, _ = self.run(tmp_path / "other", request)
        for name in files.outputs:
            assert (attempt / name).read_bytes() == (in_process / name).read_bytes()

    def test_commands(self, models):
        request = self.request(models)
        assert self.explorer().commands("", request) == (f"{shlex.quote(sys.executable)} -m pwact_like md md.json",)
        assert self.explorer().commands("pwact-like", request) == ("pwact-like md md.json",)
        assert self.explorer().commands(" srun -n 1 pwact-like md ", request) == ("srun -n 1 pwact-like md md.json",)

    def test_a_run_that_goes_astray_is_ok_with_a_note(self, tmp_path, models):
        request = self.request(models, upper_level=1e-9)
        attempt, _ = self.run(tmp_path, request)
        outcome = self.explorer().outcome(attempt)
        assert isinstance(outcome, Ok) and "1 of 5 frames" in outcome.note and "deviation" in outcome.note
        assert "deviation" in self.explorer().read(attempt).ended

    def test_a_run_without_a_frame_is_rejected(self, tmp_path, models):
        atoms = self.atoms()
        atoms.positions[1] = atoms.positions[0] + 0.2
        attempt, _ = self.run(tmp_path, self.request(models, atoms=atoms))
        outcome = self.explorer().outcome(attempt)
        assert isinstance(outcome, Reject) and "apart" in outcome.reason

    def test_the_next_attempt_goes_on_and_the_whole_is_equal(self, tmp_path, models, monkeypatch):
        """Through the files that the dispatcher carries over; with real neighbour lists."""
        monkeypatch.setattr(md_files, "CHECKPOINT_SECONDS", 0.0)
        explorer = self.explorer()
        request = self.request(models, ensemble="npt-tri", press_bar=0.0, nsteps=260, trj_freq=5, temp_k=900.0)
        whole, files = self.run(tmp_path / "whole", request)
        task = tmp_path / "cut"
        explorer.write(task, request)
        first = start_attempt(task, files, 1)
        settings = json.loads((task / "md.json").read_text())
        (first / "md.json").write_text(json.dumps(settings | {"nsteps": 137}))  # as if the time had run out
        assert self.execute(first, ()) == 0
        second = start_attempt(task, files, 2)
        assert (second / "md.checkpoint.npz").is_file()
        assert self.execute(second, ()) == 0
        for name in (*files.outputs, "md.log"):
            assert (whole / name).read_bytes() == (second / name).read_bytes(), name

    def test_a_users_lammps_input_is_refused(self, tmp_path, models):
        with pytest.raises(NotAvailableError, match="LAMMPS"):
            self.explorer().write(tmp_path, self.request(models, lmps_in=tmp_path / "in.lmps"))

    def test_a_structure_without_cell_is_refused(self, tmp_path, models):
        atoms = self.atoms()
        atoms.cell = None
        with pytest.raises(InputError, match="cell"):
            self.explorer().write(tmp_path, self.request(models, atoms=atoms))
