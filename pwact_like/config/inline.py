"""Names of the embedded labelling engines' own settings, which stand inline in param.json (their values are the engines' affair).

A test keeps these names equal to the engines' tables (engines/labelers/options.py and the engines themselves).
"""

from __future__ import annotations

from pwact_like.config.engines_known import is_foreign

ENGINE_OPTIONS: dict[str, frozenset[str]] = {
    "xtb": frozenset({"method", "accuracy", "electronic_temperature", "max_iterations", "charge", "multiplicity"}),
    "ase": frozenset({"calculator", "calculator_args", "args", "calculator_kwargs"}),
    "bigmodel": frozenset("model variant model_file modal device dtype batch calculator_args args".split()),
}
"""By labelling engine; they stand beside dft_style, in ``options``, or in a stage's entry."""

STAGE_OPTIONS: dict[str, frozenset[str]] = {
    "scf": frozenset(),
    "relax": frozenset({"fmax", "cell", "pressure", "press", "max_steps", "steps", "optimizer"}),
    "aimd": frozenset("temperature_k temp temperature temps nsteps md_dt ensemble taut trj_freq checkpoint_every".split()),
}
"""By stage; they stand in the stage's entry, or in ``options``."""


def takes_options(engine: str) -> bool:
    """Whether a labelling engine has settings of its own in param.json: ours, and those of other packages (in ``options``)."""
    return engine in ENGINE_OPTIONS or is_foreign("label", engine)


def stage_names(engine: str, stage: str) -> frozenset[str]:
    """Inline settings of a stage's entry; empty for a program that reads an input file."""
    return ENGINE_OPTIONS[engine] | STAGE_OPTIONS[stage] if engine in ENGINE_OPTIONS else frozenset()


def all_names(engine: str) -> frozenset[str]:
    """Everything that may stand in an ``options`` object."""
    return ENGINE_OPTIONS[engine].union(*STAGE_OPTIONS.values()) if engine in ENGINE_OPTIONS else frozenset()
