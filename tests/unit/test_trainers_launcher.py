"""How the embedded engines are called."""

from __future__ import annotations

import shlex
import sys

import pytest

from pwact_like.engines.launcher import own_command


@pytest.mark.parametrize(
    ("command", "verb", "expected"),
    [
        ("", "md", f"{shlex.quote(sys.executable)} -m pwact_like md"),
        ("  ", "train", f"{shlex.quote(sys.executable)} -m pwact_like train"),
        ("pwact-like", "md", "pwact-like md"),
        ("pwact-like train", "train", "pwact-like train"),
        ("pwact-like train", "eval", "pwact-like eval"),
        ("srun -n 1 'my env/bin/pwact-like' MD ", "md", "srun -n 1 'my env/bin/pwact-like' md"),
        ("/opt/train", "train", "/opt/train train"),
    ],
)
def test_the_users_command_gets_the_verb(command, verb, expected):
    assert own_command(command, verb) == expected
