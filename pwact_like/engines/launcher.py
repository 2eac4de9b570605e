"""How the embedded engines are called, and our own steps before and after another program."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

_VERBS = frozenset({"train", "eval", "md", "label", "choose"})


def own_command(command: str, verb: str) -> str:
    """Shell text that runs ``pwact-like VERB`` through the user's command.

    An empty command means this very installation. ``pwact-like`` and ``srun pwact-like`` get the verb; a verb that the
    command ends with gives way to it.
    """
    words = command.split()
    if not words:
        return f"{shlex.quote(sys.executable)} -m pwact_like {verb}"
    command = command.strip()
    if len(words) > 1 and words[-1].lower() in _VERBS:
        command = command.rsplit(None, 1)[0]
    return f"{command} {verb}"


def own_step(module: str, *arguments: str) -> str:
    """Shell text that runs a module of this package with this very Python.

    What a site's script has put into PYTHONPATH gives way for this line: MatPL's has a folder ``ase`` in it, which is not ASE.
    """
    root = Path(__file__).resolve().parents[2]
    words = ["env", "-u", "PYTHONHOME", f"PYTHONPATH={root}", sys.executable, "-m", module, *arguments]
    return " ".join(map(shlex.quote, words))
