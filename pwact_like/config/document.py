"""Writes the manual's pages on settings from the models: ``python -m pwact_like.config.document`` in the root of the source tree."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pwact_like.config.base import Settings
from pwact_like.config.common import DataPath, GaussianParam, StageInput, SysConfig
from pwact_like.config.engines_known import ENGINES
from pwact_like.config.init_bulk import BulkSystem, InitBulkParam
from pwact_like.config.inline import ENGINE_OPTIONS, STAGE_OPTIONS
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.config.run import Convergence, Explore, MdJob, RunParam, Strategy
from pwact_like.config.train import (
    ChgnetSettings,
    DeepmdSettings,
    Descriptor,
    Fitting,
    LabelledBefore,
    MaceSettings,
    NepSettings,
    Optimizer,
    TrainSettings,
    UncertaintySettings,
)
from pwact_like.fsio import write_text

# spellings of the manual where they are not the field's name
_SHOWN = {"dft": "DFT", "rmax": "Rmax", "rmin": "Rmin", "m2": "M2", "fitting": "fitting_net"}
_PLAIN = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path", type(None): "null"}
_SHORT_FORMS = {
    DataPath: "path, object, or list of either",
    StageInput: "path, object, or list of either",
    SysConfig: "path, object, or list of either",
    BulkSystem: "object or list",
    tuple[MdJob, ...]: "list of objects or of lists of objects",
}
_NOTE = "<!-- made by pwact_like/config/document.py from the settings models: change those, not this page -->"


@dataclass(frozen=True)
class Section:
    """A table of a page: heading, what is said before it, the models whose keys it lists (minus ``without``)."""

    heading: str
    text: str
    models: tuple[type[Settings], ...]
    without: tuple[str, ...] = ()


_COMMON = (
    "Keys may be written in any case. A key that begins with `_` is a comment. `number or list` takes one value or a list. "
    "Relative paths start at `work_dir`. An unknown key is an error (`--lenient` makes it a note); keys that PWact or MatPL knows and that "
    "change nothing here are accepted with a note. `pwact-like check` shows every problem at once."
)
_DATA_PATH = Section("Data paths", "Labelled data: a path, an object with these keys, or a list of either.", (DataPath,))
_GAUSSIAN = Section("gaussian_param", "", (GaussianParam,))


def _engines_text() -> str:
    lines = ["Engines:", ""]
    for role, engines in ENGINES.items():
        names = ", ".join(f"{engine.name} ({engine.what})" for engine in engines.values())
        lines.append(f"- {role}: {names}")
    lines += ["", "Settings of the embedded labelling engines stand beside `dft_style`, in an object `options`, or in a stage's entry:", ""]
    lines += [f"- `dft_style` {engine}: {', '.join(f'`{name}`' for name in sorted(names))}" for engine, names in ENGINE_OPTIONS.items()]
    lines += [f"- {stage}: {', '.join(f'`{name}`' for name in sorted(names))}" for stage, names in STAGE_OPTIONS.items() if names]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Name of a page → its text."""
    label_text = "Which program labels structures, and what it needs.\n\n" + _engines_text()
    dft = Section("DFT", label_text, (LabelSettings, StageInput))
    run = (
        Section(
            "param.json", "`train` has [a page of its own](settings-train.md); it may also name a file: `train_input_file`.", (RunParam,)
        ),
        Section("strategy", "", (Strategy,)),
        Section("strategy.convergence", "", (Convergence,)),
        Section("explore", "", (Explore,)),
        Section("explore.sys_configs", "A path, a glob pattern, or an object with these keys.", (SysConfig,)),
        Section("explore.md_jobs", "Every structure at every temperature and pressure makes one trajectory.", (MdJob,)),
        dft,
        _GAUSSIAN,
        _DATA_PATH,
    )
    train = (
        Section("train", "The section `train` of param.json, and the file of `pwact-like train`.", (TrainSettings,)),
        Section("model.descriptor", "", (Descriptor,)),
        Section("model.fitting_net", "", (Fitting,)),
        Section("optimizer", "An object with these keys, or the optimizer's name.", (Optimizer,)),
        Section("deepmd", "With the engine deepmd alone; see [its page](engines/deepmd.md).", (DeepmdSettings,)),
        Section("chgnet", "With the engine chgnet alone; see [its page](engines/chgnet.md).", (ChgnetSettings,)),
        Section("mace", "With the engine mace alone; see [its page](engines/mace.md).", (MaceSettings,)),
        Section("nep", "With the engine nep alone; see [its page](engines/nep.md).", (NepSettings,)),
        Section(
            "uncertainty",
            "What a stand-alone training leaves besides the model: kpu.pt and uncertainty.json, and for kpu-committee member.000.pt …; "
            "`true` stands for the defaults. In a campaign the section `strategy` says it.",
            (UncertaintySettings,),
        ),
        Section("uncertainty.labelled", "Labels that followed a model: an object, or a list.", (LabelledBefore,)),
        _DATA_PATH,
    )
    bulk = (
        Section("init_param.json", label_text, (InitBulkParam, LabelSettings)),
        Section("sys_configs", "", (BulkSystem,)),
        Section("relax_input, aimd_input, scf_input", "A file, an object with these keys, or a list of either.", (StageInput,)),
        _GAUSSIAN,
    )
    resource = (
        Section("resource.json", "The file may be left out: then everything runs on this machine.", (Resource,)),
        Section("train, explore, DFT, direct", "", (ResourceSection,)),
    )
    return {
        "settings-run.md": _page("Settings of run", run),
        "settings-train.md": _page("Settings of training", train),
        "settings-init_bulk.md": _page("Settings of init_bulk", bulk),
        "settings-resource.md": _page("Settings of resource.json", resource),
    }


def _page(title: str, sections: Sequence[Section]) -> str:
    parts = [f"# {title}", _NOTE, _COMMON]
    for section in sections:
        parts.append(f"## {section.heading}")
        if section.text:
            parts.append(section.text)
        parts.append(_table(section))
    return "\n\n".join(parts) + "\n"


def _table(section: Section) -> str:
    rows = ["| key | value | default | what |", "|---|---|---|---|"]
    for model in section.models:
        others: dict[str, list[str]] = {}
        for alias, name in model.aliases.items():
            if alias != _SHOWN.get(name, name).lower():
                others.setdefault(name, []).append(f"`{alias}`")
        for name, field in model.model_fields.items():
            if name in model.filled_by_loader or name in section.without:
                continue
            shown = "optimizer" if model is Optimizer and name == "name" else _SHOWN.get(name, name)
            spelled = [other for other in others.get(name, []) if other != f"`{shown}`"]
            text = (field.description or "") + (f" Also: {', '.join(spelled)}." if spelled else "")
            cells = (f"`{shown}`", _type(field.annotation), _default(model, name, field), text)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _default(model: type[Settings], name: str, field: FieldInfo) -> str:
    if name in ("work_dir", "campaign", "engine"):
        return "see there"
    if field.is_required() or (model is RunParam and name == "dft"):
        return "required"
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None or value in ((), "", {}) or isinstance(value, Settings):
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(str(item).lower() if isinstance(item, bool) else f"{item}" for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _type(annotation: Any) -> str:
    """A type in the user's words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in get_args(annotation) if part is not type(None)))
    if origin is tuple and get_args(annotation)[0] in _SHORT_FORMS:
        return _SHORT_FORMS[get_args(annotation)[0]]
    if origin is tuple:
        inner = [part for part in get_args(annotation) if part is not Ellipsis]
        if len(inner) == 3 and Ellipsis not in get_args(annotation):
            return f"3 × {_type(inner[0])}" if get_origin(inner[0]) is not tuple else "3, 9 or 3×3 integers"
        return f"{_type(inner[0])} or list"
    if origin is dict or annotation is dict:
        return "object"
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "object"
    return _PLAIN.get(annotation, "value")


def main(folder: Path = Path("docs")) -> None:
    """Write the pages."""
    for name, text in pages().items():
        write_text(folder / name, text)


if __name__ == "__main__":
    main()
