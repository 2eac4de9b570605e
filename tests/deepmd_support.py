"""DeePMD-kit as the tests call it: its programs have an environment of their own (bin/setup-deepmd).

Most calls go through a server (contract/deepmd_server.py) that has TensorFlow loaded and forks: the same code as ``dp``, without the
seconds that loading takes each time.
"""

from __future__ import annotations

import functools
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from support import ROOT, require_deepmd

EVALUATE = ROOT / "tests" / "contract" / "deepmd_evaluate.py"
SERVER = ROOT / "tests" / "contract" / "deepmd_server.py"
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "DP_INTRA_OP_PARALLELISM_THREADS": "1",
    "DP_INTER_OP_PARALLELISM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@functools.cache
def _server() -> tuple[subprocess.Popen[bytes], Path]:
    """The server of this test process; it ends with it, since its standard input does."""
    folder = Path(tempfile.mkdtemp(prefix="dp."))  # a socket's path must be short
    python = require_deepmd("python") / "python"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, SERVER, folder / "socket"], stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **ONE_THREAD}, cwd=folder
        )
    deadline = time.monotonic() + 200
    while not (folder / "socket").exists():
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.1)
    return process, folder / "socket"


def dp_command(program: str = "dp") -> str:
    """Shell text that does what ``dp`` does, through the server."""
    _, path = _server()
    return shlex.join([sys.executable, "-S", str(SERVER), str(path), program])


def run_deepmd(program: str, *arguments: str | Path, cwd: Path, timeout_s: float = 240) -> str:
    """Run dp or a script through the server, lmp as it is; what it has printed."""
    command = shlex.split(dp_command(program)) if program != "lmp" else [str(require_deepmd("lmp") / "lmp")]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **ONE_THREAD},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def evaluate(folder: Path, tasks: Mapping[str, tuple[Path, Sequence[Atoms]]]) -> dict[str, list[dict[str, np.ndarray]]]:
    """What DeePMD-kit's ASE calculator says: energy, forces, virial of each structure by each task's model."""
    arrays = {}
    for name, (model, structures) in tasks.items():
        arrays[f"{name}.model"] = np.array(str(model))
        for index, atoms in enumerate(structures):
            for what in ("numbers", "positions", "pbc"):
                arrays[f"{name}.{index:03d}.{what}"] = getattr(atoms, what)
            arrays[f"{name}.{index:03d}.cell"] = atoms.cell.array
    np.savez(folder / "tasks.npz", **arrays)
    run_deepmd(str(EVALUATE), folder / "tasks.npz", folder / "said.npz", cwd=folder)
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [{} for _ in structures] for name, (_, structures) in tasks.items()}
    with np.load(folder / "said.npz") as said:
        for key in said.files:
            name, index, what = key.split(".")
            found[name][int(index)][what] = said[key]
    return found


def run_until_killed(attempt: Path, commands: Sequence[str], there: Path, within_s: float = 250) -> None:
    """Run an attempt's commands as a job does, and kill all of them without warning as soon as a file is there."""
    with (attempt / "stdout").open("wb") as stdout:
        process = subprocess.Popen(
            ["bash", "-c", "\n".join(f"{{\n{command}\n}} || exit" for command in commands)],
            cwd=attempt,
            env={**os.environ, **ONE_THREAD},
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + within_s
    while not there.exists():
        assert process.poll() is None and time.monotonic() < deadline, (attempt / "stdout").read_text()[-3000:]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
