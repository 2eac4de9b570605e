"""What a LAMMPS task's folder holds, and lmp.json, which tells its later steps what the run was meant to be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pwact_like.engines.explorers.md_files import LOG, RESULT, TABLE
from pwact_like.errors import DataError
from pwact_like.fsio import read_json, write_json

TASK = "lmp.json"
INPUT = "in.lammps"
DATA = "lmp.config"
BEGIN = "begin.lammps"
PLUMED = "plumed.dat"
PLUMED_LOG = "plumed.log"
TRAJECTORY = "traj.lammpstrj"
RAW = "lmp_devi.out"  # the deviations as the program (or the driver) writes them
EARLIER = "earlier_devi.out"  # those of earlier attempts, up to where this one began
STEP = "lmp.step"
EXIT = "lmp.exit"
CONVERTED = "converted.json"  # digests of the models that were converted for the pair style, and of what they became
STOP_LINK = "stop_file"
RESTARTS = ("md.restart.1", "md.restart.2", "md.restart.stop")
RESTART_STEPS = 500

MARKER = "# ---- pwact-like: the embedded potential begins here"
"""Line of in.lammps at which the driver sets up fix external."""

__all__ = [
    "BEGIN",
    "CONVERTED",
    "DATA",
    "EARLIER",
    "EXIT",
    "INPUT",
    "LOG",
    "MARKER",
    "PLUMED",
    "PLUMED_LOG",
    "RAW",
    "RESTARTS",
    "RESTART_STEPS",
    "RESULT",
    "STEP",
    "STOP_LINK",
    "TABLE",
    "TASK",
    "TRAJECTORY",
    "LmpTask",
    "begin_text",
    "forces_name",
    "rerun_name",
]


@dataclass(frozen=True)
class LmpTask:
    """One run.

    Attributes
    ----------
    elements
        Symbol of each atom type, in the model's order.
    rotation
        Orthogonal Q, 3×3: a row vector of LAMMPS's frame times Q is one of ours.
    cell
        The start structure's own, 3×3 in Å.
    boundary
        Whether all three directions are periodic.
    nsteps, trj_freq
        Last step, and steps from frame to frame.
    deviations
        ``file``: the pair style writes them; ``rerun``: LAMMPS runs over the trajectory once for each model; ``driver``:
        ours, while it drives; ``replay``: ours, over the trajectory after the run.
    models
        Names of the models' files in the task's folder.
    uncertainty
        kind and scale of a potential that knows its errors (driver and replay only); None for a committee.
    stop_deviation, stop_temp_k
        Where a driven run stops (None: never), the deviation in the table's unit. A replayed one counts up to that deviation.
    exported
        Whether the models are embedded ones, which are converted for the pair style inside the job.
    variables
        (name, value, …) of each that the command sets with -var. The driver gives them to LAMMPS, and a task with others is another one.
    """

    elements: tuple[str, ...]
    rotation: tuple[tuple[float, ...], ...]
    cell: tuple[tuple[float, ...], ...]
    boundary: bool
    nsteps: int
    trj_freq: int
    deviations: str
    models: tuple[str, ...]
    uncertainty: dict[str, str] | None = None
    stop_deviation: float | None = None
    stop_temp_k: float | None = None
    exported: bool = False
    variables: tuple[tuple[str, ...], ...] = ()

    @property
    def pair_models(self) -> tuple[str, ...]:
        """Names of the files that the pair style reads; the first one drives."""
        names = self.models[:1] if self.deviations == "replay" else self.models
        return tuple(str(Path(name).with_suffix(".pb")) for name in names) if self.exported else names

    @property
    def conversions(self) -> tuple[tuple[str, str], ...]:
        """(model, what the pair style reads of it); empty where it reads the models themselves."""
        return tuple(zip(self.models, self.pair_models, strict=False)) if self.exported else ()

    @property
    def frames_planned(self) -> int:
        """Frames at steps 0, trj_freq, … ≤ nsteps."""
        return self.nsteps // self.trj_freq + 1

    def write(self, folder: Path) -> None:
        """Write lmp.json."""
        content = asdict(self)
        if not self.variables:
            del content["variables"]  # a task without is the one that it was before there were any
        write_json(folder / TASK, content)

    @classmethod
    def read(cls, folder: Path) -> LmpTask:
        """Read lmp.json.

        Raises
        ------
        DataError
            When it is missing or is none of ours.
        """
        content = read_json(folder / TASK)
        try:
            return cls(**{name: _frozen(value) for name, value in content.items()})
        except (TypeError, AttributeError) as error:
            raise DataError(f"{folder / TASK}: not a LAMMPS task of pwact-like: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def begin_text(restart: str = "", step: int = 0) -> str:
    """Content of begin.lammps: whether the run goes on, from which restart file, and at which step all commands were done already.

    The file of a run that was halted is written behind all commands, those of a run's own every so many steps before the ones behind it.
    """
    done = step if restart == RESTARTS[2] else -1
    lines = (f"pwl_resumed equal {int(bool(restart))}", f"pwl_restart string {restart or 'none'}", f"pwl_done equal {done}")
    return "".join(f"variable {line}\n" for line in lines)


def forces_name(index: int) -> str:
    """Dump of the forces of a model along the trajectory."""
    return f"forces.{index:03d}.lammpstrj"


def rerun_name(index: int) -> str:
    """Input of the run over the finished trajectory with a model; its log has ``.log`` for ``.lammps``."""
    return f"rerun.{index:03d}.lammps"
