"""Labels by any ASE calculator (dft_style ``ase``): EMT, or whatever a dotted name imports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pwact_like.engines.labelers.embedded import EmbeddedLabeler
from pwact_like.engines.labelers.fingerprints import hash_of_file, short_hash
from pwact_like.engines.labelers.options import Option, Table
from pwact_like.engines.protocols import LabelRequest
from pwact_like.errors import Problem

# elements of ASE's EMT (Jacobsen, Stoltze, Nørskov, Surf. Sci. 366, 394 (1996), and the demonstration values beside them)
_EMT_ELEMENTS = frozenset({"Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt", "H", "C", "N", "O"})


class AseLabeler(EmbeddedLabeler):
    """Options: calculator (``emt`` or ``module.Class``) and calculator_args, its keyword arguments.

    An argument that names an existing file (a model, say) is linked into the task's folder, relative to the folder of
    the settings file, and known by its content.
    """

    name: ClassVar[str] = "ase"
    engine_table: ClassVar[Table] = {
        "calculator": Option("text", None, "emt, or the dotted name of a class, e.g. mypackage.calculators.MyModel; required"),
        "calculator_args": Option("group", None, "keyword arguments of the calculator", aliases=("args", "calculator_kwargs")),
    }

    def _file_arguments(self, engine_options: Mapping[str, Any]) -> dict[str, Path]:
        """Argument → absolute path of the file it names."""
        base = self._settings.source.parent if self._settings.source else Path.cwd()
        found = {}
        for key, value in (engine_options.get("calculator_args") or {}).items():
            if isinstance(value, str) and value and len(value) < 4096 and "\n" not in value and "\0" not in value:
                path = base / value
                if path.is_file():
                    found[key] = path.resolve()
        return found

    def linked_files(self, engine_options: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        """Link the files that arguments name; the calculator sees their bare names."""
        files = self._file_arguments(engine_options)
        if not files:
            return ()
        names = {key: f"{key}{path.suffix}" for key, path in files.items()}
        engine_options["calculator_args"] = {**engine_options["calculator_args"], **names}
        return tuple((names[key], str(path)) for key, path in files.items())

    def check_structure(self, request: LabelRequest, engine_options: Mapping[str, Any]) -> list[Problem]:
        """EMT knows a few elements only; any other calculator is a dotted name."""
        name = str(engine_options["calculator"])
        if name.lower() != "emt":
            if all(part.isidentifier() for part in name.split(".")) and "." in name:
                return []
            cure = "write module.Class, e.g. mypackage.calculators.MyModel"
            return [Problem(f"{self._where_settings()}.calculator", f"{name!r} is neither emt nor a dotted name", cure)]
        strange = sorted(set(request.atoms.symbols) - _EMT_ELEMENTS)
        if not strange:
            return []
        return [
            Problem(
                f"{self._where_settings()}.calculator",
                f"EMT has no parameters for {', '.join(strange)}",
                f"it knows {', '.join(sorted(_EMT_ELEMENTS))}; choose another calculator",
            )
        ]

    def fingerprint(self, engine_options: Mapping[str, Any]) -> str:
        """E.g. ``ase-emt-1a2b3c4d``."""
        name = str(engine_options["calculator"])
        name = "emt" if name.lower() == "emt" else name
        arguments = dict(engine_options.get("calculator_args") or {})
        arguments.update({key: hash_of_file(path) for key, path in self._file_arguments(engine_options).items()})
        return f"ase-{name}-{short_hash([name, arguments])}"
