"""Labels by a big pre-trained model (dft_style ``bigmodel``): CHGNet, SevenNet, MACE or any ASE calculator, or a user's script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pwact_like.engines.labelers.bigmodel_weights import MODELS, installed_version, is_dotted, wheel_weights
from pwact_like.engines.labelers.embedded import EmbeddedLabeler
from pwact_like.engines.labelers.fingerprints import hash_of_file, short_hash
from pwact_like.engines.labelers.options import Option, Table
from pwact_like.engines.protocols import Labeler, LabelKind, LabelRequest
from pwact_like.errors import InputError, Problem

if TYPE_CHECKING:
    from pwact_like.config.common import StageInput
    from pwact_like.config.labelling import LabelSettings

FRAMES_A_TASK = 200


def bigmodel_labeler(settings: LabelSettings) -> Labeler:
    """A user's script where one is named (PWact's way), else a model that runs here.

    Raises
    ------
    InputError
        When the options are wrong.
    """
    if settings.bigmodel_script is not None:
        from pwact_like.engines.labelers.bigmodel_script import ScriptLabeler

        return ScriptLabeler(settings)
    return BigModelLabeler(settings)


class BigModelLabeler(EmbeddedLabeler):
    """A model by name or by its weight file; one task labels many structures, for the model is loaded once a task.

    Files that options name are taken relative to the folder of the settings file, and linked into the task's folder.
    """

    name: ClassVar[str] = "bigmodel"
    engine_table: ClassVar[Table] = {
        "model": Option("text", None, "chgnet, sevennet, mace, or the dotted name of a calculator's class; required"),
        "variant": Option("text", None, "which of the weights in the model's package, e.g. 0.3.0 or 7net-l3i5"),
        "model_file": Option("text", None, "file of weights, in place of those in the package; mace has no others"),
        "modal": Option("text", None, "sevennet: the modality of a multi-modal model, e.g. mpa"),
        "device": Option("text", "auto", "auto (a GPU where there is one), cpu or cuda"),
        "dtype": Option("text", "float64", "mace: float64 or float32", choices=("float64", "float32")),
        "batch": Option("count", FRAMES_A_TASK, "structures that a campaign's task labels with one loading of the model", least=1),
        "calculator_args": Option("group", None, "keyword arguments of a calculator named by its class", aliases=("args",)),
    }

    def _file(self, name: str) -> Path:
        base = self._settings.source.parent if self._settings.source else Path.cwd()
        return base / name

    def _merged(self, entry: StageInput, kind: LabelKind | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options, with the model's canonical name, its variant, and the hash of its weights."""
        given, options = super()._merged(entry, kind)
        where = self._where_settings()
        name = str(given["model"])
        if is_dotted(name):
            unused = [key for key in ("variant", "model_file", "modal") if given[key] is not None]
            if unused:
                cure = "a calculator that is named by its class takes its settings, files too, from calculator_args"
                raise InputError(Problem(f"{where}.{unused[0]}", f"no effect with model {name}", cure))
            return given, options
        name = {"sevenn": "sevennet", "7net": "sevennet"}.get(name.strip().lower(), name.strip().lower())
        if name not in MODELS:
            cure = f"known: {', '.join(MODELS)}; or module.Class of an ASE calculator; or bigmodel_script"
            raise InputError(Problem(f"{where}.model", f"{given['model']!r} is no big model", cure))
        given["model"] = name
        if given["calculator_args"]:
            raise InputError(
                Problem(f"{where}.calculator_args", f"no effect with model {name}", "it is for a calculator named by its class")
            )
        if given["model_file"] is not None:
            path = self._file(given["model_file"])
            if not path.is_file():
                raise InputError(Problem(f"{where}.model_file", f"{path} is no file", "name the model's file of weights"))
            if given["variant"] is not None:
                raise InputError(Problem(f"{where}.variant", "no effect beside model_file", "leave one of them out"))
        else:
            given["variant"] = (given["variant"] or MODELS[name].default_variant).strip().lower()
            path = wheel_weights(name, given["variant"], where)
        given["weights_sha256"] = hash_of_file(path)
        return given, options

    def _argument_files(self, engine_options: Mapping[str, Any]) -> dict[str, Path]:
        """Argument of a calculator named by its class → the existing file that it names."""
        found = {}
        for key, value in (engine_options.get("calculator_args") or {}).items():
            if isinstance(value, str) and 0 < len(value) < 4096 and "\n" not in value and "\0" not in value and self._file(value).is_file():
                found[key] = self._file(value).resolve()
        return found

    def linked_files(self, engine_options: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        """Link the weight file, or the files that a calculator's arguments name."""
        if engine_options.get("model_file") is not None:
            path = self._file(engine_options["model_file"]).resolve()
            engine_options["model_file"] = f"weights{path.suffix}"
            return ((engine_options["model_file"], str(path)),)
        files = self._argument_files(engine_options)
        names = {key: f"{key}{path.suffix}" for key, path in files.items()}
        if names:
            engine_options["calculator_args"] = {**engine_options["calculator_args"], **names}
        return tuple((names[key], str(path)) for key, path in files.items())

    def version(self) -> str:
        """Of the model's package in this Python."""
        name = self._given["engine"].get("model")
        return installed_version(str(name).strip().lower() if str(name).strip().lower() in MODELS else str(name)) if name else ""

    def check_structure(self, request: LabelRequest, engine_options: Mapping[str, Any]) -> list[Problem]:
        """CHGNet reads crystals only."""
        if engine_options["model"] == "chgnet" and not request.atoms.pbc.all():
            cure = "give it a cell with room around it and pbc in all directions, or use another model"
            return [Problem(f"{self._where_settings()}.model", "CHGNet takes structures that are periodic in all directions", cure)]
        return []

    def frames_a_task(self, entry: StageInput) -> int:
        """``batch``."""
        return int(self._merged(entry, "scf")[0]["batch"])

    def fingerprint(self, engine_options: Mapping[str, Any]) -> str:
        """E.g. ``bigmodel-chgnet-0.3.0-1a2b3c4d``: model, variant or the file's stem, and the hash of the weights and what else decides."""
        name = str(engine_options["model"])
        if is_dotted(name):
            arguments = dict(engine_options.get("calculator_args") or {})
            arguments.update({key: hash_of_file(path) for key, path in self._argument_files(engine_options).items()})
            return f"bigmodel-{name}-{short_hash([name, arguments, installed_version(name)])}"
        which = engine_options["variant"] or Path(str(engine_options["model_file"])).stem
        decisive = [name, engine_options["weights_sha256"], engine_options["modal"], engine_options["dtype"] if name == "mace" else ""]
        return f"bigmodel-{name}-{which}-{short_hash(decisive)}"
