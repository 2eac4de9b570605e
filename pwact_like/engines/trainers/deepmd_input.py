"""The input of ``dp train`` from the training settings, or from the user's own input."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from pwact_like.config.deepmd_input import read_deepmd_input
from pwact_like.config.elements import symbol
from pwact_like.config.engines_known import DEEPMD_OPTIMIZERS
from pwact_like.errors import InputError, NotAvailableError, Problem
from pwact_like.seeds import derive_seed

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings

CHECKPOINT = "model.ckpt"
CURVE = "lcurve.out"
TRAIN_FOLDER, VALID_FOLDER, TEST_FOLDER = "dp_data/train", "dp_data/valid", "dp_data/test"
_DISPLAYS = 500  # lines of lcurve.out where the user gives no print_freq
_SAVES = 20  # checkpoints of a training
_MAX_DECAY_STEPS, _DECAYS = 5000, 100
_MAX_VALID_BATCHES = 8


def dp_input(settings: TrainSettings, seed: int, *, has_valid: bool) -> dict[str, Any]:
    """The input but for what depends on the number of frames (see `with_steps`); it names no place outside the task's folder.

    Raises
    ------
    InputError
        When the user's own input does not fit the settings.
    NotAvailableError
        For a model or an optimizer that DeePMD-kit (this route of it) does not have.
    """
    if settings.deepmd.input is None:
        content = _from_settings(settings)
    else:
        content = _from_users(settings)
    model, training = content["model"], content.setdefault("training", {})
    for part, name in ((model["descriptor"], "descriptor"), (model["fitting_net"], "fitting_net")):
        for index, each in enumerate(part.get("list", ()) if part.get("type") == "hybrid" else (part,)):
            each["seed"] = derive_seed(seed, name, index)
    training["seed"] = derive_seed(seed, "training")
    training["training_data"] = {"batch_size": "auto", **training.get("training_data", {}), "systems": TRAIN_FOLDER}
    valid = training.pop("validation_data", None) or {}
    if has_valid:
        training["validation_data"] = {**valid, "systems": VALID_FOLDER}
    training |= {"disp_file": CURVE, "save_ckpt": CHECKPOINT}
    training.pop("stat_file", None)  # what an earlier training of other data has counted
    return content


def _from_settings(settings: TrainSettings) -> dict[str, Any]:
    optimizer, descriptor, backend = settings.optimizer, settings.descriptor, settings.deepmd.backend
    if settings.model_type != "DP":
        raise NotAvailableError(
            f"train.model_type {settings.model_type}: the engine deepmd trains DP; for others give DeePMD-kit's input: deepmd.input"
        )
    if optimizer.name not in DEEPMD_OPTIMIZERS[backend]:
        known = " or ".join(DEEPMD_OPTIMIZERS[backend])
        raise NotAvailableError(f"train.optimizer {optimizer.name}: DeePMD-kit's {backend} route has {known}")
    if optimizer.weight_decay:
        raise NotAvailableError("train.optimizer.weight_decay: DeePMD-kit's Adam has none; leave it out, or give an input: deepmd.input")
    sel: Any = "auto"
    if descriptor.sel is not None:
        sel = list(descriptor.sel) * (len(settings.atom_type) if len(descriptor.sel) == 1 else 1)
    content: dict[str, Any] = {
        "model": {
            "type_map": [symbol(number) for number in settings.atom_type],
            "descriptor": {
                "type": "se_e2_a",
                "rcut": descriptor.rmax,
                "rcut_smth": descriptor.rmin,
                "sel": sel,
                "neuron": list(descriptor.network_size),
                "axis_neuron": descriptor.m2,
                "resnet_dt": False,
                "type_one_side": False,
                "precision": "float64",
            },
            "fitting_net": {"type": "ener", "neuron": list(settings.fitting.network_size[:-1]), "resnet_dt": True, "precision": "float64"},
        },
        "learning_rate": {"type": "exp", "start_lr": optimizer.learning_rate, "stop_lr": optimizer.stop_lr},
        "loss": {"type": "ener", **_prefactors(settings)},
        "training": {"training_data": {"batch_size": optimizer.batch_size}},
    }
    if "print_freq" in optimizer.model_fields_set:
        content["training"]["disp_freq"] = optimizer.print_freq
    if optimizer.name == "LKF":
        content["optimizer"] = {
            "type": "LKF",
            "kf_blocksize": optimizer.block_size,
            "kf_start_pref_e": optimizer.pre_fac_etot * optimizer.train_energy,
            "kf_limit_pref_e": optimizer.pre_fac_etot * optimizer.train_energy,
            "kf_start_pref_f": optimizer.pre_fac_force * optimizer.train_force,
            "kf_limit_pref_f": optimizer.pre_fac_force * optimizer.train_force,
        }
        # the filter has no rate: this one only passes dp's check
        content["learning_rate"] = {"type": "exp", "start_lr": 1.0, "stop_lr": 1.0}
    return content


def _prefactors(settings: TrainSettings) -> dict[str, float]:
    optimizer = settings.optimizer
    found = {}
    for letter, name, wanted in (
        ("e", "etot", optimizer.train_energy),
        ("f", "force", optimizer.train_force),
        ("v", "virial", optimizer.train_virial),
    ):
        for end, word in (("start", "start"), ("end", "limit")):
            found[f"{word}_pref_{letter}"] = getattr(optimizer, f"{end}_pre_fac_{name}") if wanted else 0.0
    return found


def _from_users(settings: TrainSettings) -> dict[str, Any]:
    """The user's own input; its type_map must hold the elements of atom_type."""
    path = settings.deepmd.input
    assert path is not None
    content = copy.deepcopy(read_deepmd_input(path))
    wanted = [symbol(number) for number in settings.atom_type]
    given = content["model"].get("type_map")
    missing = [name for name in wanted if given and name not in given]
    if missing:
        raise InputError(
            Problem(
                f"{path}: model.type_map",
                f"{', '.join(missing)} of train.atom_type is not in it ({' '.join(given)})",
                "add it (sel, too, counts the elements), or leave type_map out",
            )
        )
    if not given:
        content["model"]["type_map"] = wanted
    return content


def with_steps(content: dict[str, Any], n_train: int, n_valid: int, epochs: int, numb_steps: int | None) -> dict[str, Any]:
    """The whole input: numbers of steps, of the learning rate's decay, of displays and checkpoints.

    Parameters
    ----------
    content
        From `dp_input`.
    n_train, n_valid
        Frames.
    epochs
        Passes over the training data, where neither ``numb_steps`` nor the content says how many steps.
    numb_steps
        From the settings.
    """
    content = copy.deepcopy(content)
    training = content["training"]
    batch = training["training_data"]["batch_size"]
    per_epoch = -(-n_train // batch) if isinstance(batch, int) else n_train
    if numb_steps is not None or not any(key in training for key in ("numb_steps", "num_epoch", "numb_epoch")):
        training["numb_steps"] = numb_steps or epochs * per_epoch
        for key in ("num_epoch", "numb_epoch"):
            training.pop(key, None)
    steps = training.get("numb_steps") or epochs * per_epoch
    rate = content.setdefault("learning_rate", {"type": "exp"})
    if rate.get("type", "exp") == "exp" and "decay_steps" not in rate:
        rate["decay_steps"] = max(1, min(_MAX_DECAY_STEPS, steps // _DECAYS))
    shown = training.setdefault("disp_freq", max(10, steps // _DISPLAYS))
    # dp looks whether a checkpoint is due only where it displays
    wanted = training.get("save_freq", max(1, steps // _SAVES))
    training["save_freq"] = shown * max(1, -(-wanted // shown))
    if "validation_data" in training and "numb_btch" not in training["validation_data"]:
        training["validation_data"] |= {"batch_size": 1, "numb_btch": min(n_valid, _MAX_VALID_BATCHES)}
    return content
