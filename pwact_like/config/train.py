"""Training settings, in MatPL's words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pwact_like.config import matpl_keys
from pwact_like.config.base import (
    Counts,
    Fraction,
    Int,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Settings,
    Strings,
    as_tuple,
)
from pwact_like.config.common import DataPath
from pwact_like.config.elements import atomic_number

Elements = Annotated[tuple[Annotated[int, BeforeValidator(atomic_number)], ...], BeforeValidator(as_tuple)]
KPU_FILE, UNCERTAINTY_FILE = "kpu.pt", "uncertainty.json"  # what a training with `uncertainty` leaves beside the model
CURVE_COLUMNS = (  # of lcurve.csv, whatever engine has trained
    "step",
    "epoch",
    "lr",
    "energy_rmse_ev_per_atom",
    "force_rmse_ev_per_ang",
    "virial_rmse_ev_per_atom",
    "valid_energy_rmse_ev_per_atom",
    "valid_force_rmse_ev_per_ang",
    "valid_virial_rmse_ev_per_atom",
)
ModelType = Literal["DP", "NEP", "LINEAR", "NN", "LSP", "CHEBY"]


class Descriptor(Settings):
    """Descriptor and embedding network of a Deep Potential."""

    no_effect: ClassVar[frozenset[str]] = matpl_keys.DESCRIPTOR_KEYS

    rmax: PositiveFloat = Field(default=6.0, le=100.0, description="Cutoff radius in Å.")
    rmin: NonNegativeFloat = Field(default=0.5, description="Where the quintic switch begins, Å.")
    m2: PositiveInt = Field(default=16, description="Columns of the second (smaller) embedding matrix.")
    network_size: Counts = Field(default=(25, 25, 25), description="Widths of the embedding network.")
    sel: Annotated[Counts | None, BeforeValidator(lambda value: value if value is None else as_tuple(value))] = Field(
        default=None,
        description="Neighbour slots of each element within Rmax (one number, or one for each of atom_type); "
        "counted from the data when left out.",
    )

    @model_validator(mode="after")
    def _order(self) -> Descriptor:
        if self.rmin >= self.rmax:
            raise ValueError(f"Rmin ({self.rmin:g} Å) must be smaller than Rmax ({self.rmax:g} Å)")
        if self.m2 > self.network_size[-1]:
            raise ValueError(f"M2 ({self.m2}) cannot exceed the last width of network_size ({self.network_size[-1]})")
        return self


class Fitting(Settings):
    """Fitting network: from the descriptor to the atomic energy."""

    no_effect: ClassVar[frozenset[str]] = matpl_keys.FITTING_KEYS

    network_size: Counts = Field(default=(50, 50, 50, 1), description="Widths of the fitting network; the last one is 1.")

    @field_validator("network_size")
    @classmethod
    def _ends_in_one(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value[-1] != 1:
            value = (*value, 1)
        return value


class Optimizer(Settings):
    """Optimizer. ``explicit`` is False when the user named none; then it is the Kalman filter, as in PWact, and a note says so."""

    filled_by_loader: ClassVar[frozenset[str]] = frozenset({"explicit"})
    aliases: ClassVar[dict[str, str]] = {
        "optimizer": "name",
        "opt_name": "name",
        "start_lr": "learning_rate",
        "lr_start": "learning_rate",
        "lr": "learning_rate",
        "lr_stop": "stop_lr",
    }
    no_effect: ClassVar[frozenset[str]] = matpl_keys.OPTIMIZER_KEYS

    name: Literal["ADAM", "LKF", "GKF", "SGD"] = Field(
        default="LKF", description="LKF (layer-wise Kalman filter), ADAM, GKF or SGD (JSON key `optimizer`); any case."
    )
    explicit: bool = Field(default=False, description="Whether the user named the optimizer.")
    epochs: PositiveInt = Field(default=30, description="Passes over the training data.")
    batch_size: PositiveInt = Field(default=1, description="Frames a step.")
    print_freq: PositiveInt = Field(default=10, description="A line of lcurve.csv every so many steps.")
    learning_rate: PositiveFloat = Field(default=1e-3, description="Adam: learning rate at the start.")
    stop_lr: PositiveFloat = Field(default=3.5e-6, description="Adam: learning rate at the last step; it decays exponentially.")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="Adam: decoupled weight decay.")
    train_energy: bool = Field(default=True, description="Train on energies.")
    train_force: bool = Field(default=True, description="Train on forces.")
    train_virial: bool = Field(default=False, description="Train on virials; frames without one train on energy and forces.")
    train_ei: bool = Field(
        default=False, description="Kalman filter: train on atomic energies too, where the data have them (PWmat's MOVEMENT)."
    )
    start_pre_fac_etot: NonNegativeFloat = Field(default=0.02, description="Adam: weight of the energy (per atom) at the start.")
    end_pre_fac_etot: NonNegativeFloat = Field(default=1.0, description="Adam: weight of the energy at the end.")
    start_pre_fac_force: NonNegativeFloat = Field(default=1000.0, description="Adam: weight of the forces at the start.")
    end_pre_fac_force: NonNegativeFloat = Field(default=1.0, description="Adam: weight of the forces at the end.")
    start_pre_fac_virial: NonNegativeFloat = Field(
        default=0.02, description="Adam: weight of the virial (per atom) at the start; used with train_virial."
    )
    end_pre_fac_virial: NonNegativeFloat = Field(default=1.0, description="Adam: weight of the virial at the end; used with train_virial.")
    pre_fac_etot: NonNegativeFloat = Field(default=1.0, description="Kalman filter: weight of the energy.")
    pre_fac_force: NonNegativeFloat = Field(default=2.0, description="Kalman filter: weight of the forces.")
    pre_fac_virial: NonNegativeFloat = Field(default=1.0, description="Kalman filter: weight of the virial.")
    pre_fac_ei: NonNegativeFloat = Field(default=1.0, description="Kalman filter: weight of the atomic energies; used with train_ei.")
    block_size: PositiveInt = Field(default=5120, description="Kalman filter: largest block of the covariance.")
    kalman_lambda: Fraction = Field(default=0.999, description="Kalman filter: memory factor at the start (MatPL: 0.98).")
    kalman_nue: Fraction = Field(default=0.9987, description="Kalman filter: rate at which the memory factor goes to 1.")
    p0_weight: PositiveFloat = Field(
        default=1.0, description="Kalman filter: initial covariance is p0_weight times the identity (MatPL: 0.01)."
    )
    p_ceiling: PositiveFloat | None = Field(
        default=None,
        description="Kalman filter: forgetting raises no weight's variance above this; left out: 5 p0_weight with measured noise, "
        "else no bound.",
    )
    kalman_noise: Literal["measured", "fixed"] = Field(
        default="measured",
        description="Kalman filter: noise of an observation; measured: running mean square of the errors of its kind "
        "(at least 0.1 meV/atom, 1 meV/Å), fixed: 1, as in MatPL and DeePMD-kit.",
    )
    kalman_prior: NonNegativeFloat = Field(
        default=0.1,
        description="Kalman filter with measured noise: weight of the prior, which holds the weights where the data say nothing; it counts "
        "once an epoch.",
    )
    average_share: Fraction = Field(
        default=0.15, description="Kalman filter: the final weights are the mean over this last share of the steps; 0: the last ones."
    )
    p_float32: bool = Field(default=False, description="Kalman filter: keep the covariance in single precision.")
    nselect: PositiveInt = Field(default=60, description="Kalman filter: atoms whose forces update the weights in a step (MatPL: 24).")
    groupsize: PositiveInt = Field(default=6, description="Kalman filter: atoms in one force update.")

    @field_validator("name", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.strip().upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _rates(self) -> Optimizer:
        if self.stop_lr > self.learning_rate:
            raise ValueError(f"stop_lr ({self.stop_lr:g}) exceeds learning_rate ({self.learning_rate:g}): the rate decays")
        if not (self.train_energy or self.train_force or self.train_virial):
            raise ValueError("train_energy, train_force and train_virial are all false: there is nothing to train on")
        if all(weight == 0.0 for weight in self._weights()):
            raise ValueError("every prefactor of what is trained on is 0: there is nothing to train on")
        if self.p_ceiling is not None and self.p_ceiling < self.p0_weight:
            raise ValueError(f"p_ceiling ({self.p_ceiling:g}) is below p0_weight ({self.p0_weight:g}), where the covariance starts")
        return self

    def _weights(self) -> list[float]:
        """Prefactors of what is trained on, at the start and at the end."""
        if self.name == "ADAM":
            kinds = [(self.train_energy, "etot"), (self.train_force, "force"), (self.train_virial, "virial")]
            return [getattr(self, f"{when}_pre_fac_{kind}") for wanted, kind in kinds if wanted for when in ("start", "end")]
        kinds = [(self.train_energy, "etot"), (self.train_force, "force"), (self.train_virial, "virial"), (self.train_ei, "ei")]
        return [getattr(self, f"pre_fac_{kind}") for wanted, kind in kinds if wanted]


class LabelledBefore(Settings):
    """Labels that came after a model was trained, with that model: what it had said of them is compared with what is true."""

    model: Path = Field(description="Model file that explored.")
    kpu: Path = Field(description="Its kpu.pt.")
    data: tuple[DataPath, ...] = Field(description="The labels that followed.")


class UncertaintySettings(Settings):
    """What a training leaves besides the model: how wrong it is (kpu.pt), and members of a committee.

    The strategy section of param.json fills it in a campaign.
    """

    kind: Literal["kpu", "kpu-committee"] = Field(default="kpu", description="kpu, or kpu-committee, which leaves members too.")
    posterior: Literal["laplace", "filter", "last-layer"] = Field(
        default="laplace",
        description="Covariance of the weights: laplace (a pass over the training data at the final weights), filter (the Kalman "
        "filter's own P) or last-layer (the output layers alone: cheapest).",
    )
    tau: PositiveFloat = Field(default=1e-6, description="laplace and last-layer: prior precision over the mean eigenvalue of the data's.")
    samples: PositiveInt = Field(
        default=16, description="Draws of the weights by which KPU is computed in MD; relative error √(2/samples)."
    )
    members: PositiveInt = Field(default=4, ge=2, description="kpu-committee: number of members.")
    keep_covariance: bool = Field(
        default=False, description="laplace and filter: keep the covariance in kpu.pt, for exact KPU later (large)."
    )
    valid_share: Fraction = Field(
        default=0.1, description="Without valid_data, this share of the training frames is held out and calibrates the uncertainty."
    )
    labelled: tuple[LabelledBefore, ...] = Field(default=(), description="Labels of earlier iterations, newest last, for recalibration.")


class DeepmdSettings(Settings):
    """What only the engine deepmd knows."""

    backend: Literal["tensorflow", "pytorch"] = Field(
        default="tensorflow", description="tensorflow (model.pb) or pytorch (`dp --pt`, model.pth; the only one with LKF); any case."
    )
    input: Path | None = Field(
        default=None,
        description="Your own DeePMD-kit input (JSON): it gives model, learning rate, loss and the rest of `training`; data, type_map, "
        "seeds, disp_file and save_ckpt are pwact_like's.",
    )
    numb_steps: PositiveInt | None = Field(
        default=None, description="Training steps; left out: those of `input`, else `epochs` passes over the training data."
    )

    @field_validator("backend", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value


class ChgnetSettings(Settings):
    """What only the engine chgnet knows."""

    weights: Literal["0.3.0", "0.2.0", "r2scan"] = Field(default="0.3.0", description="Shipped weights to start from.")
    spread: NonNegativeFloat = Field(
        default=0.003,
        description="At the start every weight is moved at random by this share of its array's spread, else the members of a "
        "committee would hardly differ; 0: not at all.",
    )


class NepSettings(Settings):
    """What only the engine nep (torchnep) knows: the potential, in the words of nep.in."""

    cutoff: Annotated[tuple[PositiveFloat, ...], BeforeValidator(as_tuple)] = Field(
        default=(8.0, 4.0), description="Radial and angular cutoff in Å (or two for each element)."
    )
    n_max: Counts = Field(default=(4, 4), description="Highest radial and angular expansion order.")
    basis_size: Counts = Field(default=(8, 8), description="Radial and angular basis functions.")
    l_max: Annotated[tuple[Int, ...], BeforeValidator(as_tuple)] = Field(
        default=(4, 2, 0), description="Angular orders of three-, four- and five-body terms."
    )
    neuron: PositiveInt = Field(default=30, description="Width of the hidden layer.")
    zbl: PositiveFloat | None = Field(default=None, description="Outer cutoff of the ZBL repulsion in Å; left out: none.")
    lambda_e: NonNegativeFloat = Field(default=0.01, description="Weight of the energy (with train_energy).")
    lambda_f: NonNegativeFloat = Field(default=1.0, description="Weight of the forces (with train_force).")
    lambda_v: NonNegativeFloat = Field(default=0.01, description="Weight of the virial (with train_virial).")
    precision: Literal["float32", "float64"] = Field(default="float32", description="Of the training.")
    lines: Strings = Field(default=(), description="More lines for nep.in, as they are.")


class MaceSettings(Settings):
    """What only the engine mace knows: options of mace_run_train."""

    foundation_model: Path | None = Field(default=None, description="A MACE model to fine-tune (.model); left out: from scratch.")
    r_max: PositiveFloat = Field(default=5.0, description="Cutoff in Å.")
    num_channels: PositiveInt = Field(default=64, description="Channels.")
    max_l: Int = Field(default=1, ge=0, description="Highest order of the messages (MACE's max_L).")
    num_interactions: PositiveInt = Field(default=2, description="Layers.")
    correlation: PositiveInt = Field(default=3, description="Body order of a layer, less one.")
    e0s: str = Field(default="average", description="Energies of the elements: average (fitted to the data) or a dictionary in quotes.")
    energy_weight: NonNegativeFloat = Field(default=1.0, description="Weight of the energy (with train_energy).")
    forces_weight: NonNegativeFloat = Field(default=100.0, description="Weight of the forces (with train_force).")
    stress_weight: NonNegativeFloat = Field(default=1.0, description="Weight of the stress (with train_virial).")
    default_dtype: Literal["float32", "float64"] = Field(default="float64", description="Precision.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where it is trained.")
    keywords: dict[str, Any] = Field(default_factory=dict, description="More options of mace_run_train, as they are.")


class TrainSettings(Settings):
    """The ``train`` section of param.json, and TRAIN.json of ``pwact-like train``."""

    filled_by_loader: ClassVar[frozenset[str]] = frozenset({"raw"})
    aliases: ClassVar[dict[str, str]] = {"fitting_net": "fitting", "datasets_path": "train_data", "raw_files": "train_data"}
    no_effect: ClassVar[frozenset[str]] = matpl_keys.TRAIN_KEYS

    model_type: ModelType = Field(default="DP", description="DP, NEP, LINEAR, NN or LSP; any case.")
    atom_type: Elements = Field(description="Elements of the model: atomic numbers or symbols, one or a list.")
    engine: str = Field(
        default="embedded",
        description="Training engine: embedded, chgnet, nep, mace, matpl, …; follows from the command of resource.json when left out.",
    )
    descriptor: Descriptor = Field(default_factory=Descriptor, description="Descriptor; inside `model`, as in MatPL, or at this level.")
    fitting: Fitting = Field(default_factory=Fitting, description="Fitting network; inside `model`, as in MatPL, or at this level.")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="Optimizer; left out: the Kalman filter LKF.")
    deepmd: DeepmdSettings = Field(default_factory=DeepmdSettings, description="What only the engine deepmd knows.")
    mace: MaceSettings = Field(default_factory=MaceSettings, description="What only the engine mace knows.")
    nep: NepSettings = Field(default_factory=NepSettings, description="What only the engine nep knows.")
    chgnet: ChgnetSettings = Field(default_factory=ChgnetSettings, description="What only the engine chgnet knows.")
    seed: Int | None = Field(
        default=None, description="Seed of a stand-alone training; in a campaign every member's seed follows from the campaign's seed."
    )
    train_data: tuple[DataPath, ...] = Field(default=(), description="Stand-alone training: labelled data.")
    valid_data: tuple[DataPath, ...] = Field(default=(), description="Stand-alone training: validation data; left out: all frames train.")
    test_data: tuple[DataPath, ...] = Field(default=(), description="Stand-alone training: data that is only evaluated at the end.")
    init_model: Path | None = Field(
        default=None,
        description="Stand-alone training: model to start from; elements that it has never met get their "
        "statistics and reference energies from train_data.",
    )
    format: str | None = Field(default=None, description="Stand-alone training: format of the data; guessed when left out.")
    uncertainty: UncertaintySettings | None = Field(
        default=None, description="Stand-alone training: what to learn of the model's own errors; left out: nothing."
    )
    raw: dict[str, Any] = Field(default_factory=dict, description="The section as the user wrote it.")

    @field_validator("model_type", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.strip().upper() if isinstance(value, str) else value

    @field_validator("atom_type")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("name at least one element")
        if len(set(value)) != len(value):
            raise ValueError("an element is named twice")
        return value

    @model_validator(mode="after")
    def _sel_length(self) -> TrainSettings:
        sel = self.descriptor.sel
        if sel is not None and len(sel) not in (1, len(self.atom_type)):
            raise ValueError(f"sel has {len(sel)} numbers for {len(self.atom_type)} elements: give one number, or one for each element")
        return self
