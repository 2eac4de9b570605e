"""Settings of ``run``: param.json as frozen models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pwact_like.config.base import (
    CampaignName,
    Floats,
    Fraction,
    Indices,
    Int,
    NonNegativeInt,
    Paths,
    PositiveFloat,
    PositiveFloats,
    PositiveInt,
    Settings,
    Strings,
)
from pwact_like.config.common import DataPath, StageInput, SysConfig
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.lammps_styles import AUTO, PAIR_STYLES
from pwact_like.config.train import TrainSettings, UncertaintySettings
from pwact_like.units import time_step_problem

MAX_TEMPERATURE_K = 1.0e5
DEFAULT_QUOTA = 100  # PWact's: labels of an explored structure when neither select_sys nor max_select is set
RELATIVE_LOWER, RELATIVE_UPPER = 0.5, 1.5  # PWact's kpu_lower and kpu_upper
_LEARNED = UncertaintySettings()
Ensemble = Literal["nve", "nvt", "npt-iso", "npt-aniso", "npt-tri"]
ENSEMBLE_NAMES: dict[str, Ensemble] = {
    "nve": "nve",
    "nvt": "nvt",
    "npt": "npt-iso",
    "npt-i": "npt-iso",
    "npt-iso": "npt-iso",
    "npt-a": "npt-aniso",
    "npt-aniso": "npt-aniso",
    "npt-t": "npt-tri",
    "npt-tri": "npt-tri",
}


def _word(value: Any) -> Any:
    """A keyword in any case, with ``_`` for ``-``."""
    return value.strip().lower().replace("_", "-") if isinstance(value, str) else value


class Convergence(Settings):
    """When an entry of md_jobs is good enough; without it every entry is explored once, as PWact does."""

    accurate_fraction: Fraction = Field(default=0.9, description="Share of the planned frames that must be accurate.")
    force_rmse_target: PositiveFloat | None = Field(
        default=None, description="Force RMSE on the test set in eV/Å that is good enough; without it the plateau decides."
    )
    plateau: PositiveFloat = Field(
        default=0.05, description="Plateau: the test set's force RMSE has changed by no more than this share since the model before."
    )
    max_repeats: PositiveInt = Field(default=3, description="An entry is explored at most so many times.")


class Strategy(Settings):
    """Uncertainty, trust levels, choice, and what the campaign tolerates."""

    aliases: ClassVar[dict[str, str]] = {"lower_model_deiv_f": "lower_model_devi_f", "upper_model_deiv_f": "upper_model_devi_f"}
    no_effect: ClassVar[frozenset[str]] = frozenset({"md_type"})

    uncertainty: Literal["committee", "kpu", "kpu-committee"] = Field(
        default="committee",
        description="committee (several trainings); kpu (one training, and how wrong its forces are by the covariance of its weights); "
        "kpu-committee (one training, and a committee drawn from that covariance).",
    )
    model_num: PositiveInt = Field(
        default=4,
        le=1000,
        description="committee: models, 3 or more; kpu-committee: members drawn from the one training, 2 or more; kpu: 1.",
    )
    lower_model_devi_f: PositiveFloat | None = Field(
        default=0.05, description="Below it a frame is accurate, eV/Å. kpu-committee: left out, it comes from the calibration."
    )
    upper_model_devi_f: PositiveFloat | None = Field(
        default=0.15,
        description="At it or above, or not finite, a frame is failed, eV/Å. kpu-committee: left out, it comes from the calibration.",
    )
    kpu_lower: PositiveFloat | None = Field(
        default=None,
        description="kpu: below it a frame is accurate, eV/Å; left out, it comes from the calibration. With kpu_scale relative: times the "
        f"KPU of the run's first frames ({RELATIVE_LOWER}).",
    )
    kpu_upper: PositiveFloat | None = Field(
        default=None,
        description="kpu: at it or above a frame is failed, eV/Å; left out, it comes from the calibration. With kpu_scale relative: times "
        f"the lower level, above 1 ({RELATIVE_UPPER}).",
    )
    kpu_scale: Literal["calibrated", "relative"] = Field(
        default="calibrated",
        description="kpu: calibrated (eV/Å, fitted to labels that the model has not seen) or relative (PWact's: a variance without unit, "
        "compared with that of the first 1 % of the run's own frames).",
    )
    kpu_posterior: Literal["laplace", "filter", "last-layer"] = Field(
        default=_LEARNED.posterior,
        description="kpu, kpu-committee: covariance of the weights: laplace (a pass over the training data at the final weights), filter "
        "(the Kalman filter's own; optimizer LKF) or last-layer (the output layers alone: cheapest).",
    )
    kpu_samples: PositiveInt = Field(
        default=_LEARNED.samples, description="kpu: draws of the weights by which MD computes it; relative error √(2/kpu_samples)."
    )
    kpu_tau: PositiveFloat = Field(
        default=_LEARNED.tau,
        description="kpu, kpu-committee with laplace or last-layer: prior precision over the mean eigenvalue of the data's.",
    )
    kpu_keep_covariance: bool = Field(
        default=_LEARNED.keep_covariance, description="kpu, kpu-committee: keep the covariance in kpu.pt, for exact KPU later (large)."
    )
    valid_share: Fraction = Field(
        default=_LEARNED.valid_share,
        description="kpu, kpu-committee: without valid_data, this share of init_data (2 frames at least) is not trained on and calibrates.",
    )
    max_select: NonNegativeInt | None = Field(
        default=None,
        description="At most so many candidates of an explored structure are labelled; select_sys of a job overrides; "
        "100 when neither is set.",
    )
    lmps_tolerance: bool = Field(default=True, description="An MD run that dies early still counts with the frames it has.")
    compress: bool = Field(default=False, description="Compress the model before exploring.")
    compress_order: Literal[3, 5] = Field(default=3, description="Order of the compression's polynomials.")
    compress_dx: PositiveFloat = Field(default=0.01, description="Grid of the compression.")
    direct: bool = Field(
        default=False,
        description="Choose among the candidates with DIRECT: by direct_script where that is given, else as choice direct does.",
    )
    direct_script: Path | None = Field(
        default=None, description="With direct: script that reads candidate.xyz and leaves select_idx.dat (numbers from 0) and select.xyz."
    )
    choice: Literal["random", "direct", "fps", "entropy"] | None = Field(
        default=None,
        description="How candidates are chosen when there are more than may be labelled: random, direct (one of each cluster), fps "
        "(farthest points) or entropy; a job, by the section direct of resource.json. Left out: random, or direct with direct.",
    )
    choice_descriptor: Literal["soap", "model"] = Field(
        default="soap", description="What direct, fps and entropy compare: SOAP power spectra, or the descriptors of the embedded model."
    )
    choice_num: PositiveInt | None = Field(
        default=None, description="With choice or direct: at most so many candidates of an iteration; left out: as max_select allows."
    )
    random_share: Fraction = Field(default=0.1, description="Share of a batch of labels that is drawn at random from all explored frames.")
    test_share: Fraction = Field(default=0.1, description="Share of the first labels that becomes the test set when there is no test_data.")
    failure_budget: Fraction = Field(default=0.5, description="Share of a stage's tasks that may fail before the campaign stops.")
    allow_mixed_theory: bool = Field(default=False, description="Accept training data of different levels of theory.")
    min_distance_ang: PositiveFloat = Field(default=0.5, description="A label whose atoms are closer than this is rejected, Å.")
    net_force_tolerance: PositiveFloat = Field(default=0.1, description="A label with |ΣF|/(√N·F_rms) above this is rejected.")
    max_force: PositiveFloat | None = Field(default=None, description="A label with a larger force is left out, eV/Å; by default none is.")
    convergence: Convergence | None = Field(default=None, description="When to repeat an entry of md_jobs, when to stop; left out: once.")

    @field_validator("uncertainty", "kpu_scale", "kpu_posterior", "choice", "choice_descriptor", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return _word(value)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kind = _word(data.get("uncertainty"))
        if kind == "kpu-committee":
            return {"lower_model_devi_f": None, "upper_model_devi_f": None, **data}
        if kind == "kpu":
            relative = _word(data.get("kpu_scale")) == "relative"
            return {"model_num": 1, **({"kpu_lower": RELATIVE_LOWER, "kpu_upper": RELATIVE_UPPER} if relative else {}), **data}
        return data

    @model_validator(mode="after")
    def _agree(self) -> Strategy:
        faults = []
        lower, upper = self.given_levels
        names = ("kpu_lower", "kpu_upper") if self.uncertainty == "kpu" else ("lower_model_devi_f", "upper_model_devi_f")
        if self.is_relative:
            if upper is not None and upper <= 1.0:
                faults.append(f"kpu_upper ({upper:g}) must be above 1: with kpu_scale relative it is the upper level over the lower one")
        elif lower is not None and upper is not None and lower >= upper:
            faults.append(f"{names[0]} ({lower:g}) must be smaller than {names[1]} ({upper:g})")
        if self.uncertainty == "committee":
            if self.model_num < 3:
                faults.append(f"model_num is {self.model_num}: a committee needs 3 models or more")
            faults += [
                f"{name} is missing: a committee needs it" for name, level in zip(names, self.given_levels, strict=True) if level is None
            ]
        if self.uncertainty == "kpu" and self.model_num != 1:
            faults.append(f"model_num is {self.model_num}: kpu uses one model (kpu-committee draws several from one training)")
        if self.uncertainty == "kpu-committee" and self.model_num < 2:
            faults.append(f"model_num is {self.model_num}: kpu-committee needs 2 members or more")
        if self.direct and self.choice not in (None, "direct"):
            faults.append(f"direct is true and choice is {self.choice}: keep one of them")
        if self.direct and self.direct_script is not None and self.choice == "direct":
            faults.append("direct_script and choice direct are both given: the script is a choice of its own; keep one of them")
        if self.kpu_scale == "relative" and self.uncertainty != "kpu":
            faults.append(f"kpu_scale is relative, and only kpu has that scale: {self.uncertainty} is in eV/Å")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def chosen_by(self) -> Literal["random", "script", "direct", "fps", "entropy"]:
        """How candidates are chosen: random means no job of its own."""
        if self.direct:
            return "script" if self.direct_script is not None else "direct"
        return self.choice or "random"

    @property
    def trained_models(self) -> int:
        """Trainings an iteration."""
        return self.model_num if self.uncertainty == "committee" else 1

    @property
    def is_relative(self) -> bool:
        """Whether levels are multiples of each run's own first values."""
        return self.uncertainty == "kpu" and self.kpu_scale == "relative"

    @property
    def given_levels(self) -> tuple[float | None, float | None]:
        """Lower and upper level as the user gives them (None: from the calibration); kpu_lower and kpu_upper as they are if relative."""
        return (self.kpu_lower, self.kpu_upper) if self.uncertainty == "kpu" else (self.lower_model_devi_f, self.upper_model_devi_f)

    @property
    def learned(self) -> UncertaintySettings | None:
        """What each training is to learn of its model's errors; None for a committee."""
        if self.uncertainty == "committee":
            return None
        return UncertaintySettings(
            kind=self.uncertainty,
            posterior=self.kpu_posterior,
            tau=self.kpu_tau,
            samples=self.kpu_samples,
            members=self.model_num if self.uncertainty == "kpu-committee" else _LEARNED.members,
            keep_covariance=self.kpu_keep_covariance,
            valid_share=self.valid_share,
        )


class MdJob(Settings):
    """Trajectories of one kind: every structure of sys_idx at every temperature and pressure."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"mass", "kspacing"})

    sys_idx: Indices = Field(description="Entries of explore.sys_configs, one or a list, counted from 0.")
    select_sys: Indices = Field(
        default=(),
        description="At most so many candidates of a structure of the entry at the same place of sys_idx; "
        "one number holds for all; left out: strategy.max_select.",
    )
    lmps_in_idx: Indices = Field(
        default=(),
        description="Entries of explore.lmps_in, one for all or one for each of sys_idx; "
        "then nsteps, ensemble, temps, … come from that file.",
    )
    nsteps: PositiveInt | None = Field(default=None, description="MD steps; required unless lmps_in_idx is given.")
    md_dt: PositiveFloat = Field(default=0.001, description="Time step in ps.")
    trj_freq: PositiveInt = Field(default=10, description="A frame every so many steps.")
    ensemble: Ensemble = Field(default="nve", description="nve, nvt, npt (= npt-i = npt-iso), npt-a (npt-aniso), npt-t (npt-tri).")
    temps: PositiveFloats = Field(default=(), description="Temperatures in K, one or a list (for nve: of the velocities at the start).")
    press: Floats = Field(default=(), description="Pressures in bar, one or a list; required for npt.")
    taut: PositiveFloat = Field(default=0.1, description="Time constant of the thermostat in ps.")
    taup: PositiveFloat = Field(default=0.5, description="Time constant of the barostat in ps.")
    neigh_modify: PositiveInt = Field(default=10, description="LAMMPS: delay of the neighbour list in steps.")
    merge_traj: bool = Field(default=False, description="PWact's switch for one trajectory file a run; here there is always one.")
    boundary: bool = Field(default=True, description="Periodic boundaries.")

    @field_validator("md_dt")
    @classmethod
    def _picoseconds(cls, value: float) -> float:
        if wrong := time_step_problem(value):
            raise ValueError(wrong)
        return value

    @field_validator("temps")
    @classmethod
    def _kelvin(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if max(value, default=0.0) > MAX_TEMPERATURE_K:
            raise ValueError(f"{max(value):g} K: no temperature for atoms (at most {MAX_TEMPERATURE_K:g})")
        return value

    @field_validator("ensemble", mode="before")
    @classmethod
    def _canonical(cls, value: Any) -> Any:
        if isinstance(value, str):
            name = value.strip().lower().replace("_", "-")
            if name not in ENSEMBLE_NAMES:
                raise ValueError(f"{value!r} is no ensemble; known: {', '.join(ENSEMBLE_NAMES)}")
            return ENSEMBLE_NAMES[name]
        return value

    @model_validator(mode="after")
    def _complete(self) -> MdJob:
        count = len(self.sys_idx)
        if not count:
            raise ValueError("sys_idx is empty: name at least one entry of sys_configs")
        for name in ("select_sys", "lmps_in_idx"):
            given: tuple[int, ...] = getattr(self, name)
            if len(given) == 1 and count > 1:
                object.__setattr__(self, name, given * count)
            elif given and len(given) != count:
                raise ValueError(f"{name} has {len(given)} entries and sys_idx has {count}: give one for all, or one for each")
        if self.lmps_in_idx:
            return self
        missing = []
        if self.nsteps is None:
            missing.append("nsteps (number of MD steps)")
        if not self.temps:
            missing.append("temps (K; for nve the temperature of the velocities at the start)")
        if self.ensemble.startswith("npt") and not self.press:
            missing.append("press (bar)")
        if missing:
            raise ValueError(f"{self.ensemble} needs {' and '.join(missing)}")
        return self

    @property
    def pressures(self) -> tuple[float | None, ...]:
        """Pressures that make trajectories: those given for npt, else one None."""
        return self.press if self.ensemble.startswith("npt") and self.press else (None,)


class Explore(Settings):
    """What is explored, and how."""

    filled_by_loader: ClassVar[frozenset[str]] = frozenset({"elements", "lmps_export", "lmps_variables"})

    engine: str = Field(
        default="embedded", description="MD engine: embedded (ASE), lammps, …; follows from the command of resource.json when left out."
    )
    sys_config_prefix: str = Field(default="", description="Folder before the paths of sys_configs.")
    sys_configs: tuple[SysConfig, ...] = Field(description="Starting structures: paths, glob patterns, or {config, format}.")
    lmps_prefix: str = Field(default="", description="Folder before the paths of lmps_in.")
    lmps_in: Paths = Field(default=(), description="The user's own LAMMPS inputs.")
    lmps_pair: Strings = Field(
        default=(AUTO,),
        description=f"LAMMPS: pair style of the models: {', '.join(PAIR_STYLES)} (embedded: the embedded potential through fix external; "
        "deepmd with the embedded trainer: its models converted by DeePMD-kit inside the job, and run at its speed), "
        "or own lines with pair_style and pair_coeff, where {models} or {model}, {elements}, {numbers}, {out_freq}, {out_file} stand for "
        "what they say. Left out, or auto: as the trainer's models want it.",
    )
    lmps_export: bool = Field(default=False, description="LAMMPS: models of the embedded trainer are converted for the pair style deepmd.")
    lmps_variables: tuple[tuple[str, ...], ...] = Field(default=(), description="LAMMPS: (name, value, …) of the command's -var switches.")
    lmps_plumed: Path | None = Field(
        default=None, description="LAMMPS: a PLUMED input that every run gets (fix plumed); such runs begin anew after an interruption."
    )
    elements: tuple[int, ...] = Field(default=(), description="Atomic numbers of the atom types, as trained.")
    md_batch: PositiveInt = Field(
        default=1, description="embedded: so many trajectories share a process and its steps; 8 pays for cells of up to 16 atoms."
    )
    md_jobs: tuple[tuple[MdJob, ...], ...] = Field(description="One entry an iteration: a job or a list of jobs.")


class Dft(Settings):
    """How candidates are labelled."""

    labelling: LabelSettings = Field(default_factory=LabelSettings, description="The program and what it needs.")
    entry: StageInput = Field(default_factory=StageInput, description="Input of the single points.")


class RunParam(Settings):
    """param.json of ``run``."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"record_file", "init_data_only_pretrain", "reserve_feature"})

    filled_by_loader: ClassVar[frozenset[str]] = frozenset({"source"})

    work_dir: Path = Field(description="Folder of the campaign; left out: the current folder.")
    campaign: CampaignName = Field(
        default="campaign", description="Name of the campaign in job names; left out: made from the folder's name."
    )
    seed: Int = Field(default=1, description="Root of every random number of the campaign.")
    data_format: Literal["extxyz", "pwmlff/npy"] = Field(default="extxyz", description="Format of the labelled data: extxyz or pwmlff/npy.")
    reserve_work: bool = Field(default=False, description="Keep the working files of an iteration.")
    reserve_md_traj: bool = Field(default=False, description="Keep whole MD trajectories (else only the selected frames stay).")
    reserve_scf_files: bool = Field(default=False, description="Keep the files of the single points.")
    init_data: tuple[DataPath, ...] = Field(default=(), description="Labelled data to begin with.")
    valid_data: tuple[DataPath, ...] = Field(default=(), description="Validation data.")
    test_data: tuple[DataPath, ...] = Field(default=(), description="Test data: judged on, never trained on.")
    init_model_list: Paths = Field(
        default=(),
        description="Models to begin with, as many as are trained (committee: model_num, else 1); the first training is skipped. For kpu "
        "and kpu-committee kpu.pt, uncertainty.json and the members must lie beside the model, as its training left them.",
    )
    use_pre_model: bool = Field(default=True, description="Each member starts from its own last model.")
    train: TrainSettings = Field(description="Training.")
    strategy: Strategy = Field(default_factory=Strategy, description="Uncertainty, levels, choice, convergence.")
    explore: Explore = Field(description="Exploration.")
    dft: Dft = Field(default_factory=Dft, description="Labelling.")
    source: Path | None = Field(default=None, description="The file that this was read from.")

    @field_validator("data_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value
