"""What a Trainer, an Explorer and a Labeler are. Engines know nothing of schedulers.

An engine writes the inputs of one task into its folder, says the command, judges the outcome in an attempt's
folder and reads the results from the task's folder. Constructing one is cheap and loads no heavy package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pwact_like.errors import NotAvailableError
from pwact_like.outcome import Outcome, TaskFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ase import Atoms

    from pwact_like.config.common import DataPath, StageInput
    from pwact_like.config.run import Explore
    from pwact_like.config.train import TrainSettings, UncertaintySettings
    from pwact_like.data.frames import Frame

LabelKind = Literal["scf", "relax", "aimd"]
KpuKind = Literal["kpu", "kpu-committee"]
KpuScale = Literal["calibrated", "relative"]


@dataclass(frozen=True)
class LabelRequest:
    """One labelling task: a single point, a relaxation or an ab-initio MD run.

    ``input`` is the user's entry for this stage (input file, kspacing, flag_symm, inline options).
    """

    kind: LabelKind
    atoms: Atoms
    input: StageInput
    seed: int


class Labeler(ABC):
    """A program that gives energies, forces and virials (DFT, tight binding, any ASE calculator, a big model)."""

    name: ClassVar[str]

    @abstractmethod
    def write(self, folder: Path, request: LabelRequest) -> TaskFiles:
        """Write every input into ``folder`` (created if need be).

        Raises
        ------
        InputError
            For an element without pseudopotential, an unusable input file, …, naming file and cure.
        """

    @abstractmethod
    def commands(self, command: str, request: LabelRequest) -> tuple[str, ...]:
        """Shell lines, from the user's command (verbatim shell; "" means this engine's default)."""

    @abstractmethod
    def outcome(self, folder: Path, kind: LabelKind) -> Outcome:
        """Judge an attempt's folder: complete, converged (in every step for aimd), readable."""

    @abstractmethod
    def read(self, folder: Path, kind: LabelKind) -> list[Frame]:
        """Read labelled frames: one for scf; for relax the converged structure only; for aimd one a step."""

    def frames_a_task(self, entry: StageInput) -> int:
        """How many single points one task should do; more than 1 where loading a model takes longer than a label.

        Then the three methods below take the place of `write`, `outcome` and `read` in the labelling of a campaign.
        """
        return 1

    def write_batch(self, folder: Path, requests: Sequence[LabelRequest]) -> TaskFiles:
        """Write the inputs of several single points with one and the same entry; `commands` of the first one runs them."""
        raise NotAvailableError(f"{self.name} labels one structure a task")

    def batch_outcome(self, folder: Path) -> Outcome:
        """Judge an attempt's folder; Ok when there is a label or a reason for every structure, and one label at least."""
        raise NotAvailableError(f"{self.name} labels one structure a task")

    def read_batch(self, folder: Path) -> list[Frame | str]:
        """One a structure, in the order asked: its labelled frame, or why there is none."""
        raise NotAvailableError(f"{self.name} labels one structure a task")

    @abstractmethod
    def level_of_theory(self, entry: StageInput) -> str:
        """Fingerprint: readable code name, then a short hash of what decides the energies, e.g. ``xtb-GFN1-3f2a…``."""

    def version(self) -> str:
        """Version of the program if it can be told cheaply here, else ""."""
        return ""


@dataclass(frozen=True)
class Compression:
    """How a trained model is to be tabulated: polynomials of this order on a grid of this width (strategy.compress_order, compress_dx)."""

    order: int = 3
    dx: float = 0.01


@dataclass(frozen=True)
class TrainRequest:
    """One member's training.

    ``test_data`` is only evaluated at the end, never seen by training or stopping. ``uncertainty`` is what the training is to learn of
    its model's errors; only a trainer that ``can_kpu`` is asked for it. ``compress`` is only asked of one that can. Paths are absolute.
    """

    train_data: tuple[DataPath, ...]
    valid_data: tuple[DataPath, ...]
    test_data: tuple[DataPath, ...]
    settings: TrainSettings
    seed: int
    init_model: Path | None = None
    uncertainty: UncertaintySettings | None = None
    compress: Compression | None = None


@dataclass(frozen=True)
class TrainReport:
    """What a training left: absolute paths, and the test set's errors (None without a test set).

    ``test`` has the keys of ``pwact-like eval --json``: n_frames, energy_rmse_ev_per_atom, force_rmse_ev_per_ang,
    virial_rmse_ev_per_atom.
    """

    model: Path
    learning_curve: Path | None
    test: dict[str, Any] | None


@dataclass(frozen=True)
class KnownErrors:
    """What a training has left of its model's errors.

    Attributes
    ----------
    kpu, members
        Files, absolute: what an explorer needs besides the model, and the members of a kpu-committee.
    facts
        For the manifest: kind, calibration (alpha2, noise2, …), labellings, lower_ev_per_ang and upper_ev_per_ang (suggested levels),
        force_rms_ev_per_ang (of the training labels), and whatever else is worth keeping.
    files
        Names of all its files in the model's folder: what goes along when a model is taken over.
    """

    kpu: Path
    members: tuple[Path, ...]
    facts: dict[str, Any]
    files: tuple[str, ...]


class Trainer(ABC):
    """A program that trains a potential."""

    name: ClassVar[str]
    model_file: ClassVar[str]

    @classmethod
    def of(cls, settings: TrainSettings) -> Trainer:
        """The trainer for these settings; one whose model files differ by ``model_type`` gives another class each."""
        return cls()

    @abstractmethod
    def write(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """Write every input into ``folder``."""

    @abstractmethod
    def commands(self, command: str, request: TrainRequest) -> tuple[str, ...]:
        """Shell lines, from the user's command ("" means this engine's default)."""

    @abstractmethod
    def outcome(self, folder: Path) -> Outcome:
        """Judge an attempt's folder."""

    @abstractmethod
    def read(self, folder: Path) -> TrainReport:
        """Read the accepted results."""

    def taken_over(self, model: Path) -> dict[str, Path]:
        """Files of a task's folder → what is copied there when ``model`` is taken over as it is.

        Raises
        ------
        InputError
            When such a file cannot be explored with.
        """
        return {self.model_file: model}

    can_judge: ClassVar[bool] = False  # whether the two methods below work: judging a given model on the test set

    def write_judging(self, folder: Path, request: TrainRequest) -> TaskFiles:
        """Write the inputs of a task that only judges ``folder/model_file`` on ``request.test_data`` into test.json."""
        raise NotAvailableError(f"{self.name} cannot judge a model that it did not train")

    def judging_commands(self, command: str, request: TrainRequest) -> tuple[str, ...]:
        """Shell lines of that task."""
        raise NotAvailableError(f"{self.name} cannot judge a model that it did not train")

    def refuse_committee(self, models: Sequence[Path]) -> None:  # noqa: B027 (most models may be a committee's)
        """Refuse given models (init_model_list) that are no committee; may load heavy packages.

        Raises
        ------
        InputError
            Naming the model, with the cure.
        """

    can_kpu: ClassVar[bool] = False  # whether requests may ask for ``uncertainty``, and the method below works

    def known_errors(self, folder: Path, kind: KpuKind) -> KnownErrors:
        """What the training in ``folder`` has learned of its model's errors.

        Raises
        ------
        DataError
            When it has learned nothing, or nothing of this kind.
        """
        raise NotAvailableError(f"{self.name} knows nothing of its models' errors")

    def version(self) -> str:
        """Version of the program if it can be told cheaply here, else ""."""
        return ""


@dataclass(frozen=True)
class MdSettings:
    """One trajectory, in LAMMPS metal units.

    ``press_bar`` is None for nve and nvt. ``boundary`` False means free boundaries.
    """

    ensemble: Literal["nve", "nvt", "npt-iso", "npt-aniso", "npt-tri"]
    nsteps: int
    trj_freq: int
    md_dt_ps: float
    temp_k: float
    press_bar: float | None = None
    taut_ps: float = 0.1
    taup_ps: float = 0.5
    neigh_modify: int = 10
    boundary: bool = True

    @property
    def frames_planned(self) -> int:
        """Frames at steps 0, trj_freq, 2·trj_freq, … ≤ nsteps."""
        return self.nsteps // self.trj_freq + 1


@dataclass(frozen=True)
class ExploreUncertainty:
    """How the uncertainty along a run is computed when it is not a committee's deviation.

    Attributes
    ----------
    kind
        ``kpu``: by the draws in the file ``kpu``. ``kpu-committee``: by the members among the models, and the file's calibration.
    kpu
        What the training has left beside the model.
    scale
        ``calibrated``: eV/Å. ``relative``: a variance without unit (kpu only).
    """

    kind: KpuKind
    kpu: Path
    scale: KpuScale = "calibrated"


@dataclass(frozen=True)
class ExploreRequest:
    """One trajectory from one structure with the current models (the first one drives the atoms).

    Without ``uncertainty`` the models are a committee. With kpu there is one; with kpu-committee the others are the members, and the
    first is none of them. Above some multiples of ``upper_level`` (in the table's unit) the run may stop, for the uncertainty has
    exploded; None: levels are known only when the run is done. In ``shared`` the runs of an exploration may keep what they have in common.
    """

    atoms: Atoms
    models: tuple[Path, ...]
    md: MdSettings
    seed: int
    upper_level: float | None
    lmps_in: Path | None = None
    uncertainty: ExploreUncertainty | None = None
    shared: Path | None = None


@dataclass(frozen=True)
class Trajectory:
    """What an MD run left.

    ``table`` is the deviation table (see uncertainty/table.py), ``ended`` is "" when all steps were done, else why not.
    """

    path: Path
    table: Path
    ended: str


@dataclass(frozen=True)
class ChoiceRequest:
    """What frames are chosen from, and how many at most.

    ``groups`` and ``quotas``: the group of each frame, and how many may be chosen of each group. ``known`` is what the models were
    trained on, ``model`` one of them.
    """

    frames: Sequence[Frame]
    count: int
    groups: tuple[int, ...]
    quotas: tuple[int, ...]
    known: tuple[DataPath, ...] = ()
    model: Path | None = None


class Chooser(ABC):
    """A program that chooses among frames those that are worth a label."""

    name: ClassVar[str]

    @abstractmethod
    def write(self, folder: Path, request: ChoiceRequest) -> TaskFiles:
        """Write the frames and every other input into ``folder``."""

    @abstractmethod
    def commands(self, command: str) -> tuple[str, ...]:
        """Shell lines, from the user's command ("" means this engine's default)."""

    @abstractmethod
    def outcome(self, folder: Path) -> Outcome:
        """Judge an attempt's folder."""

    @abstractmethod
    def read(self, folder: Path) -> list[int]:
        """Numbers of the chosen frames, counted from 0 in the order of the request, each once.

        Raises
        ------
        DataError
            When they cannot be read, or there is no such frame.
        """


class Explorer(ABC):
    """A program that runs molecular dynamics and leaves one trajectory file and one deviation table a run."""

    name: ClassVar[str]
    can_kpu: bool = False  # whether requests may hold ``uncertainty``

    @classmethod
    def from_settings(cls, settings: Explore) -> Explorer:
        """The engine as param.json's section ``explore`` wants it; most need nothing of it."""
        return cls()

    @abstractmethod
    def write(self, folder: Path, request: ExploreRequest) -> TaskFiles:
        """Write every input into ``folder``."""

    @abstractmethod
    def commands(self, command: str, request: ExploreRequest) -> tuple[str, ...]:
        """Shell lines, from the user's command ("" means this engine's default)."""

    def frames_planned(self, folder: Path, md: MdSettings) -> int:
        """Frames that the task in ``folder`` was to give; only an own input of the user's says otherwise than ``md``."""
        return md.frames_planned

    @abstractmethod
    def outcome(self, folder: Path) -> Outcome:
        """Judge an attempt's folder; a run that died early and left frames is Ok with a note."""

    @abstractmethod
    def read(self, folder: Path) -> Trajectory:
        """Find trajectory and table in the task's folder."""

    @abstractmethod
    def frames(self, folder: Path, steps: Iterable[int]) -> list[Atoms]:
        """Fetch the structures at these MD steps, in the order asked, each with pbc and cell.

        Raises
        ------
        DataError
            When a step is not in the trajectory.
        """

    @abstractmethod
    def thin(self, folder: Path, steps: Iterable[int]) -> None:
        """Rewrite the trajectory atomically with these steps only (what stays when trajectories are not kept)."""

    def version(self) -> str:
        """Version of the program if it can be told cheaply here, else ""."""
        return ""
