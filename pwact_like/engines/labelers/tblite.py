"""Labels by extended tight binding through tblite (dft_style ``xtb``).

tblite samples the Γ point only: labels of cells with different numbers of atoms or another supercell shape do not belong
into one data set (1 eV/atom lies between 8 and 64 silicon atoms); strain is fine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pwact_like.engines.labelers.embedded import EmbeddedLabeler
from pwact_like.engines.labelers.fingerprints import short_hash
from pwact_like.engines.labelers.options import Option, Table
from pwact_like.engines.protocols import LabelRequest
from pwact_like.errors import Problem

_METHODS = {"gfn1-xtb": "GFN1-xTB", "gfn2-xtb": "GFN2-xTB", "ipea1-xtb": "IPEA1-xTB"}
_SHORT = {"gfn1": "gfn1-xtb", "gfn2": "gfn2-xtb", "ipea1": "ipea1-xtb"}
_LAST_ELEMENT = 86  # radon: the parametrisations end there


class XtbLabeler(EmbeddedLabeler):
    """GFN1-xTB by default.

    Accuracy is 0.1, not tblite's 1: at 1 the forces of 8 silicon atoms carry an error of 1e-4 eV/Å, at 0.1 of 2e-6, and
    it costs nothing that can be measured.
    """

    name: ClassVar[str] = "xtb"
    engine_table: ClassVar[Table] = {
        "method": Option("text", "gfn1-xtb", "GFN1-xTB, GFN2-xTB or IPEA1-xTB", choices=(*_METHODS, *_SHORT)),
        "accuracy": Option("number", 0.1, "tblite's accuracy: smaller is tighter", above=0.0),
        "electronic_temperature": Option("number", 300.0, "electronic temperature, K", above=0.0),
        "max_iterations": Option("count", 250, "SCF iterations before it counts as not converged", least=1),
        "charge": Option("number", 0.0, "charge of the cell, e"),
        "multiplicity": Option("count", 1, "spin multiplicity 2S + 1", least=1),
    }

    def _merged(self, entry: Any, kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        engine_options, options = super()._merged(entry, kind)
        method = engine_options["method"]
        engine_options["method"] = _METHODS[_SHORT.get(method, method)]
        return engine_options, options

    def check_structure(self, request: LabelRequest, engine_options: Mapping[str, Any]) -> list[Problem]:
        """Elements beyond radon have no parameters."""
        from ase.data import chemical_symbols

        strange = sorted({int(number) for number in request.atoms.numbers if number > _LAST_ELEMENT})
        if not strange:
            return []
        names = ", ".join(chemical_symbols[number] for number in strange)
        return [Problem(self._where_settings(), f"{engine_options['method']} has no parameters for {names}", "label with a DFT program")]

    def fingerprint(self, engine_options: Mapping[str, Any]) -> str:
        """E.g. ``xtb-GFN1-1a2b3c4d``; accuracy and iterations do not count: they decide no energy."""
        method = str(engine_options["method"])
        decisive = {key: engine_options[key] for key in ("method", "electronic_temperature", "charge", "multiplicity")}
        return f"xtb-{method.removesuffix('-xTB')}-{short_hash(decisive)}"
