"""Pair styles of LAMMPS that are known by name, and which one a trainer's models want.

Sources: the manuals of DeePMD-kit (pair_style deepmd), MatPL 2025.3 (matpl, matpl/dp, matpl/nep), MACE (its LAMMPS page),
NEP_CPU and pair_allegro (their README files).
"""

from __future__ import annotations

EMBEDDED = "embedded"
AUTO = "auto"
EXPORTED = "deepmd"
"""The style for which models of the embedded trainer can be converted."""

_DEVI = "out_freq {out_freq} out_file {out_file}"
PAIR_STYLES: dict[str, tuple[str, ...]] = {
    EMBEDDED: (),
    # models with messages between atoms want the map; it costs nothing
    "deepmd": ("atom_modify map yes", f"pair_style deepmd {{models}} {_DEVI}", "pair_coeff * * {elements}"),
    "matpl": (f"pair_style matpl {{models}} {_DEVI}", "pair_coeff * * {numbers}"),
    "matpl/dp": (f"pair_style matpl/dp {{models}} {_DEVI}", "pair_coeff * * {numbers}"),
    "matpl/nep": (f"pair_style matpl/nep {{models}} {_DEVI}", "pair_coeff * * {numbers}"),
    "mace": (
        "newton on",
        "atom_modify map yes",
        "pair_style mace no_domain_decomposition",
        "pair_coeff * * {model} {elements}",
    ),
    "nep": ("pair_style nep", "pair_coeff * * {model} {elements}"),
    "allegro": ("newton on", "pair_style allegro", "pair_coeff * * {model} {elements}"),
}


def style_of_trainer(engine: str, model_type: str) -> str:
    """Name of the pair style for the models of a trainer; "" when it cannot be told."""
    if engine == "embedded":
        return EMBEDDED
    if engine == "matpl":
        return {"DP": "matpl/dp", "NEP": "matpl/nep"}.get(model_type.upper(), "matpl")
    return engine if engine in PAIR_STYLES else ""
