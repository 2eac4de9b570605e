"""ASE calculators of big models, loaded once a process and shared by all of its structures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pwact_like.engines.labelers.bigmodel_weights import MODELS, is_dotted, wheel_weights
from pwact_like.errors import DataError, InputError, NotAvailableError, Problem
from pwact_like.seeds import sha256_file


def bigmodel_factory(options: Mapping[str, Any], folder: Path) -> Callable[[], Any]:
    """A factory that loads the model at its first call; later calls give the same calculator, without memory of a structure.

    These models' energies depend on the structure alone, so sharing one calculator changes no digit.

    Raises
    ------
    NotAvailableError
        When the model's package is not installed.
    DataError
        When the weights are not those that the campaign's master has seen.
    """
    loaded: list[Any] = []

    def make() -> Any:
        if not loaded:
            loaded.append(load_calculator(options, folder))
        calculator = loaded[0]
        calculator.reset()
        return calculator

    return make


def load_calculator(options: Mapping[str, Any], folder: Path) -> Any:
    """Load weights (a file in ``folder``, or those of the package) and make the calculator; see `bigmodel_factory`."""
    name = str(options["model"])
    if is_dotted(name):
        from pwact_like.engines.labelers.calculators import named_calculator

        return named_calculator(name, options.get("calculator_args") or {}, folder)
    variant = str(options.get("variant") or "")
    weights = folder / options["model_file"] if options.get("model_file") else wheel_weights(name, variant, "engine_options")
    expected = options.get("weights_sha256")
    if expected and sha256_file(weights) != expected:
        raise DataError(
            f"{weights}: these are other weights of {name} than the campaign began with (another version of the package in the labelling "
            "job's Python, most often): name one file of weights in model_file, or install the same version in both places"
        )
    # what these packages print while they load would stand between our own lines
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            return _LOADERS[name](weights, variant, _device(str(options.get("device") or "auto")), options)
        except ImportError as error:
            raise NotAvailableError(f"{name} cannot be imported ({error}): {MODELS[name].install}, where the labelling runs") from error
        except (RuntimeError, ValueError, KeyError, OSError, AttributeError, TypeError) as error:
            raise InputError(Problem(f"engine_options.model ({weights})", f"{name} cannot load its weights: {error}")) from error


def _device(asked: str) -> str:
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _chgnet(weights: Path, variant: str, device: str, options: Mapping[str, Any]) -> Any:
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    # weights 0.2.0 were trained with a bias in the last layer, as CHGNet.load itself knows
    known = {"mlp_out_bias": variant == "0.2.0", "version": variant} if not options.get("model_file") else {}
    model = CHGNet.from_file(str(weights), **known)
    # an atom without neighbours within 6 Å would add a constant and have no force, as far as it may drift (chgnet 0.4.2)
    return CHGNetCalculator(model=model, use_device=device, on_isolated_atoms="error")


def _sevennet(weights: Path, variant: str, device: str, options: Mapping[str, Any]) -> Any:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(model=str(weights), device=device, modal=options.get("modal"))


def _mace(weights: Path, variant: str, device: str, options: Mapping[str, Any]) -> Any:
    from mace.calculators import MACECalculator

    return MACECalculator(model_paths=str(weights), device=device, default_dtype=options.get("dtype") or "float64")


_LOADERS: Mapping[str, Callable[[Path, str, str, Mapping[str, Any]], Any]] = {"chgnet": _chgnet, "sevennet": _sevennet, "mace": _mace}
