"""train.json in MatPL's keys and spelling, from the train section as the user wrote it.

What the user leaves out is written as PWact writes it where PWact has a default of its own (a Deep Potential and the optimizer
LKF); every other default is MatPL's. Keys of MatPL that we do not know pass. MatPL tells no unknown key, so those that
only our embedded trainer has are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.config.engines_known import MATPL_MODELS
from pwact_like.config.matpl_keys import DESCRIPTOR_KEYS, FITTING_KEYS, OPTIMIZER_KEYS
from pwact_like.errors import InputError, NotAvailableError, Problem

if TYPE_CHECKING:
    from pwact_like.config.train import TrainSettings

_SPELLING = {"rmax": "Rmax", "rmin": "Rmin", "m2": "M2", "e_tolerance": "E_tolerance"}
_ALIASES = {"opt_name": "optimizer", "name": "optimizer", "start_lr": "learning_rate", "lr_start": "learning_rate", "lr": "learning_rate"}
_ALIASES |= {"lr_stop": "stop_lr"}
# written by us, or about our own program
_OURS = frozenset(
    "engine options train_input_file seed train_data valid_data test_data datasets_path raw_files init_model format uncertainty "
    "model_load_file model_type atom_type model descriptor fitting fitting_net optimizer nep_txt_file".split()
)
_ONLY_EMBEDDED = frozenset("sel kalman_noise kalman_prior p_ceiling average_share p_float32".split())
_DESCRIPTOR = DESCRIPTOR_KEYS - {"bias", "resnet_dt", "activation", "type_embedding", "feature_type"} | {"rmax", "rmin", "m2"}
_FITTING = FITTING_KEYS - {"bias", "resnet_dt", "activation"}
_OPTIMIZER = OPTIMIZER_KEYS | frozenset(
    "epochs batch_size print_freq learning_rate stop_lr weight_decay train_energy train_force train_virial train_ei start_pre_fac_etot "
    "end_pre_fac_etot start_pre_fac_force end_pre_fac_force start_pre_fac_virial end_pre_fac_virial pre_fac_etot pre_fac_force "
    "pre_fac_virial pre_fac_ei block_size kalman_lambda kalman_nue p0_weight nselect groupsize".split()
)

_DP: Mapping[str, Mapping[str, Any]] = {
    "descriptor": {"Rmax": 6.0, "Rmin": 0.5, "M2": 16, "network_size": [25, 25, 25]},
    "fitting_net": {"network_size": [50, 50, 50, 1]},
}
_ANY_OPTIMIZER = {"epochs": 30, "batch_size": 1, "print_freq": 10, "train_energy": True, "train_force": True, "train_virial": False}
_KALMAN = {
    "block_size": 5120,
    "kalman_lambda": 0.98,
    "kalman_nue": 0.9987,
    "train_ei": False,
    "train_egroup": False,
    "pre_fac_force": 2.0,
    "pre_fac_etot": 1.0,
    "pre_fac_ei": 1.0,
    "pre_fac_virial": 1.0,
    "pre_fac_egroup": 0.1,
}


def train_json(settings: TrainSettings, seed: int) -> dict[str, Any]:
    """Settings as MatPL's train.json has them, without data and without a model to start from.

    Raises
    ------
    NotAvailableError
        For a model that MatPL trains from PWmat's files only, or not at all.
    InputError
        For keys that only the embedded trainer has.
    """
    if settings.model_type not in MATPL_MODELS:
        raise NotAvailableError(
            f"train.model_type {settings.model_type}: DP and NEP are trained with MatPL here (LINEAR and NN take MOVEMENT files only)"
        )
    raw = _clean(settings.raw)
    top = {key.lower(): value for key, value in raw.items()}
    model = {key.lower(): value for key, value in _object(top.get("model"), "train.model").items()}
    descriptor = _section("descriptor", [model.get("descriptor"), top.get("descriptor")], [model, top], _DESCRIPTOR)
    fitting_given = [place.get(key) for place in (model, top) for key in ("fitting_net", "fitting")]
    fitting = _section("fitting_net", fitting_given, [model, top], _FITTING)
    named = top.get("optimizer")
    optimizer = _section("optimizer", [{"optimizer": named} if isinstance(named, str) else named], [top], _OPTIMIZER)
    _refuse_own({**optimizer, **descriptor, **top})
    name = str(optimizer.get("optimizer", "LKF")).strip().upper()
    defaults = {**_ANY_OPTIMIZER, **(_KALMAN if name == "LKF" else {})}
    content: dict[str, Any] = {"model_type": settings.model_type, "atom_type": list(settings.atom_type), "seed": seed}
    shape = _DP if settings.model_type == "DP" else {}
    sections = {
        "descriptor": {**shape.get("descriptor", {}), **descriptor},
        "fitting_net": {**shape.get("fitting_net", {}), **fitting},
    }
    others = {key: value for key, value in model.items() if key not in (*_DESCRIPTOR, *_FITTING, "descriptor", "fitting_net", "fitting")}
    filled = {key: value for key, value in {**sections, **others}.items() if value != {}}
    if filled:
        content["model"] = filled
    content["optimizer"] = {"optimizer": name, **{**defaults, **{key: value for key, value in optimizer.items() if key != "optimizer"}}}
    taken = _OURS | _DESCRIPTOR | _FITTING | _OPTIMIZER
    content |= {key: value for key, value in top.items() if key not in taken}
    return content


def start_from(content: dict[str, Any], name: str) -> None:
    """Name the model to start from, as PWact does: its weights, and the epochs from the first one on.

    Parameters
    ----------
    content
        train.json, changed in place.
    name
        A checkpoint (.ckpt), or for NEP a potential in text.
    """
    if Path(name).suffix == ".txt":
        content["nep_txt_file"] = name
        return
    content["recover_train"] = True
    content["model_load_file"] = name
    content["optimizer"]["reset_epoch"] = True


def _clean(value: Any) -> Any:
    """Without comments (keys that begin with ``_``) and nulls."""
    if isinstance(value, Mapping):
        return {key: _clean(item) for key, item in value.items() if not key.startswith("_") and item is not None}
    return value


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(Problem(where, f"an object is wanted, not {value!r}"))
    return value


def _section(name: str, given: list[Any], flat: list[Mapping[str, Any]], names: frozenset[str]) -> dict[str, Any]:
    """Keys of a section, from its objects and from the levels where they may stand flat, in MatPL's spelling."""
    found: dict[str, Any] = {}
    for place in flat:
        found |= {_spelt(key): value for key, value in place.items() if _ALIASES.get(key, key) in names}
    for entry in given:
        found |= {_spelt(key.lower()): value for key, value in _object(entry, f"train.{name}").items()}
    return found


def _spelt(key: str) -> str:
    key = _ALIASES.get(key, key)
    return _SPELLING.get(key, key)


def _refuse_own(given: Mapping[str, Any]) -> None:
    strange = sorted(_ONLY_EMBEDDED & {key.lower() for key in given})
    if strange:
        raise InputError(
            Problem("train", f"{', '.join(strange)}: MatPL has no such key and would say nothing of it", "leave it out, or train embedded")
        )
