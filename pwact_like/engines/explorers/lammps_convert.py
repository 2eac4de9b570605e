"""Embedded models for LAMMPS's pair_style deepmd, converted inside the job, where DeePMD-kit is.

Ours become .dp files (see ``potentials.dp_file``), and ``dp convert-backend`` makes .pb files of all of them in one process,
since loading TensorFlow takes most of the time. What was converted is kept from attempt to attempt, with the digests of both files, and
for the other runs of the exploration (`lammps_converted`): one of them converts.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from pwact_like.engines.explorers.lammps_converted import ConvertedModels
from pwact_like.engines.explorers.lammps_task import CONVERTED, LmpTask
from pwact_like.errors import DataError, JobError, NotAvailableError
from pwact_like.fsio import read_json, write_json
from pwact_like.seeds import sha256_file

CURE = (
    'give LAMMPS with the folder of the environment that holds DeePMD-kit too ("/path/to/bin/lmp"), or have it on the job\'s PATH '
    "(source_list, module_list): pip install 'deepmd-kit[cpu,lmp]' in an environment of its own"
)
# the command dp, as often as there are pairs of files
_CALLS = "import sys; from deepmd.main import main; [main(['convert-backend', *pair]) for pair in zip(sys.argv[1::2], sys.argv[2::2])]"
_SAID_CHARACTERS = 2000


def find_dp(lmp: str) -> Path | None:
    """``dp`` in the folder of LAMMPS where its path is given, else on PATH; None when it is in neither.

    Parameters
    ----------
    lmp
        LAMMPS as the user's command calls it.
    """
    if "/" in lmp:
        beside = Path(lmp).expanduser().absolute().parent / "dp"
        if os.access(beside, os.X_OK):
            return beside
    found = shutil.which("dp")
    return Path(found) if found else None


def _python_of(dp: Path) -> str:
    """The Python that ``dp`` is a script of; "" when it cannot be told."""
    with dp.open("rb") as stream:
        first = stream.readline(512).decode("utf-8", "replace").strip()
    name = first.removeprefix("#!").strip() if first.startswith("#!") else ""
    if Path(name).name.startswith("python") and os.access(name, os.X_OK):
        return name
    beside = dp.resolve().parent / "python"  # pip writes a shell script where the path is long
    return str(beside) if os.access(beside, os.X_OK) else ""


def convert(folder: Path, task: LmpTask, lmp: str, shared: Path | None = None) -> list[str]:
    """Make the .pb files that the pair style reads; names of those that were made now, by this run.

    Parameters
    ----------
    folder
        The attempt's folder.
    task
        The run.
    lmp
        As `find_dp` takes it.
    shared
        Folder of converted models that the runs of an exploration share; None: there is none.

    Raises
    ------
    NotAvailableError
        When DeePMD-kit, torch or h5py is not to be had.
    DataError
        For a model that cannot be read, or that DeePMD-kit has no form for.
    JobError
        When ``dp`` fails.
    """
    digests = {name: sha256_file(folder / name) for name, _ in task.conversions}
    pending = [(model, target) for model, target in task.conversions if not _is_made(folder, target, digests[model])]
    if not pending:
        return []
    of_all = ConvertedModels(shared)
    with of_all.one_at_a_time():
        missing = [(model, target) for model, target in pending if not of_all.take(digests[model], folder / target)]
        if missing:
            _make(folder, missing, lmp)
        for model, target in missing:
            of_all.keep(digests[model], folder / target)
    known = _known(folder)
    known |= {target: {"model": digests[model], "converted": sha256_file(folder / target)} for model, target in pending}
    write_json(folder / CONVERTED, known)
    return [target for _, target in missing]


def _make(folder: Path, pending: list[tuple[str, str]], lmp: str) -> None:
    dp = find_dp(lmp)
    if dp is None:
        place = f"beside {lmp} nor on PATH" if "/" in lmp else "on PATH"
        raise NotAvailableError(f'explore.lmps_pair "deepmd" converts the models with DeePMD-kit\'s dp, which is not {place}: {CURE}')
    with tempfile.TemporaryDirectory(dir=folder, prefix="converting.") as name:
        work = Path(name)
        pairs = []
        for model, target in pending:
            pairs.append((work / Path(target).with_suffix(".dp").name, work / target))
            _export(folder / model, pairs[-1][0])
        _call(dp, pairs)
        for (_, made), (_, target) in zip(pairs, pending, strict=True):
            made.replace(folder / target)


def _known(folder: Path) -> dict[str, dict[str, str]]:
    try:
        found: dict[str, dict[str, str]] = read_json(folder / CONVERTED)
    except (DataError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_made(folder: Path, target: str, digest: str) -> bool:
    """Whether a file is there that was made of this very model."""
    path = folder / target
    return path.is_file() and _known(folder).get(target) == {"model": digest, "converted": sha256_file(path)}


def _export(model: Path, target: Path) -> None:
    from pwact_like.potentials.dp_file import write_dp
    from pwact_like.potentials.modelfile import read_model

    write_dp(target, read_model(model)[0])


def _call(dp: Path, pairs: list[tuple[Path, Path]]) -> None:
    python = _python_of(dp)
    words = [(str(old), str(new)) for old, new in pairs]
    one_by_one = [[str(dp), "convert-backend", *pair] for pair in words]
    calls = [[python, "-c", _CALLS, *itertools.chain(*words)]] if python else one_by_one
    for call in calls:
        done = subprocess.run(call, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)
        said = (done.stdout + done.stderr)[-_SAID_CHARACTERS:].strip()
        if done.returncode != 0:
            raise JobError(f"{dp} convert-backend ended with exit status {done.returncode}:\n{said}")
    if missing := [new.name for _, new in pairs if not new.is_file()]:
        raise JobError(f"{dp} convert-backend wrote no {', '.join(missing)}:\n{said}")
