"""Which big models are known by name, and where their weights lie. Looks for files only: no model's package is imported here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pwact_like.errors import InputError, Problem


@dataclass(frozen=True)
class BigModel:
    """A big model that has an ASE calculator of its own.

    Attributes
    ----------
    package, distribution
        What is imported, and its name on PyPI.
    install
        How a person gets it.
    variants
        Name of a set of weights in the wheel → pattern of its file below the package; the first one is the default. Empty
        where the wheel holds no weights: then the user names a file.
    """

    package: str
    distribution: str
    install: str
    variants: Mapping[str, str]

    @property
    def default_variant(self) -> str:
        """Name of the weights taken by default, "" where the wheel holds none."""
        return next(iter(self.variants), "")


MODELS: Mapping[str, BigModel] = {
    "chgnet": BigModel(
        "chgnet",
        "chgnet",
        "pip install 'pwact-like[chgnet]'",
        {name: f"pretrained/{name}/*.pth.tar" for name in ("0.3.0", "r2scan", "0.2.0")},
    ),
    "sevennet": BigModel(
        "sevenn",
        "sevenn",
        "pip install 'pwact-like[sevennet]'",
        {
            "7net-0": "pretrained_potentials/SevenNet_0__11Jul2024/*.pth",
            "7net-l3i5": "pretrained_potentials/SevenNet_l3i5/*.pth",
            "7net-mf-0": "pretrained_potentials/SevenNet_MF_0/*.pth",
            "7net-0_22may2024": "pretrained_potentials/SevenNet_0__22May2024/*.pth",
        },
    ),
    "mace": BigModel("mace", "mace-torch", "pip install mace-torch (in an environment of its own)", {}),
}


def is_dotted(name: str) -> bool:
    """Whether a model is named by its calculator's class, ``module.Class``."""
    return "." in name and all(part.isidentifier() for part in name.split("."))


def package_folder(package: str) -> Path | None:
    """Folder of an installed package, found without importing it; None when it is not installed."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def wheel_weights(name: str, variant: str, where: str) -> Path:
    """File of a named model's weights in its installed package.

    Raises
    ------
    InputError
        When the package is not installed, its wheel holds no such weights, or the variant is unknown.
    """
    model = MODELS[name]
    if not model.variants:
        raise InputError(Problem(f"{where}.model_file", f"{name} has no weights in its package", "name the file of weights in model_file"))
    if variant not in model.variants:
        raise InputError(Problem(f"{where}.variant", f"{variant!r} is no {name} model", f"known: {', '.join(model.variants)}"))
    folder = package_folder(model.package)
    if folder is None:
        cure = f"{model.install}; or, where only the labelling job's Python has it, name its file of weights in model_file"
        raise InputError(Problem(f"{where}.model", f"{name} needs the package {model.distribution}, which is not installed here", cure))
    found = sorted(folder.glob(model.variants[variant]))
    if len(found) != 1:
        cure = "name the file of weights in model_file, or install another version"
        raise InputError(Problem(f"{where}.variant", f"{folder}: no weights {model.variants[variant]} in this version's package", cure))
    return found[0]


def installed_version(name: str) -> str:
    """Version of a model's package, "" when it is not installed."""
    try:
        return importlib.metadata.version(MODELS[name].distribution if name in MODELS else name.split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return ""
