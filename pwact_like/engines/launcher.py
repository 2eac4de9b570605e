"""How the embedded engines are called."""

from __future__ import annotations

import shlex
import sys


def own_command(command: str, verb: str) -> str:
    """Shell text that runs ``pwact-like VERB`` through the user's command.

    An empty command means this very installation. ``pwact-like`` and ``srun pwact-like`` get the verb, and
    ``pwact-like train`` has it already.
    """
    command = command.strip()
    if not command:
        return f"{shlex.quote(sys.executable)} -m pwact_like {verb}"
    return command if command.split()[-1].lower() == verb else f"{command} {verb}"
