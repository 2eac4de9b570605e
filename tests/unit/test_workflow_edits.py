"""What an edit of the settings files says, and when it counts."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

import pytest

from pwact_like.config.resource import Resource
from pwact_like.errors import InputError, Problem
from pwact_like.workflows import edits
from pwact_like.workflows.edits import Edits, Sources, differences


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (b'{"a": {"b": 3}}', b'{"a": {"b": 5}}', ["a.b: 3 \u2192 5"]),
        (b'{"a": 1}', b'{"a": 1, "c": [1, 2]}', ["c: [1, 2] is new"]),
        (b'{"a": 1, "c": "x"}', b'{"a": 1}', ['c: "x" \u2192 left out']),
        (b'{"j": [{"t": 1}, {"t": 2}]}', b'{"j": [{"t": 1}, {"t": 3}]}', ["j[1].t: 2 \u2192 3"]),
        (b'{"a": 1}', b'{ "a" : 1 }', ["only its layout has changed"]),
        (b'{"a": 1}', b'{"a": ', ["its text has changed"]),
        (b'{"a": {}}', b'{"a": []}', ["a: {} \u2192 []"]),
        (
            b'{"Strategy": {"uncertainty": "kpu"}}',
            b'{"Strategy": {"uncertainty": "committee"}}',
            [
                'Strategy.uncertainty: "kpu" \u2192 "committee" (counts from the next training on; what has explored is selected by the '
                "levels that it was explored with)"
            ],
        ),
    ],
)
def test_differences(before, after, lines):
    assert differences(before, after) == lines


@dataclass(frozen=True)
class Settings:
    """Stands for a loaded param.json."""

    seed: int = 1
    max_select: int = 3


LOCAL = Resource(scheduler="local")


@dataclass(frozen=True)
class Files:
    """Stands for ``config.load.Loaded``."""

    param: Settings
    resource: Resource = LOCAL


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An `Edits` on two files, and what loading them gives."""
    monkeypatch.setattr(edits, "LOOK_EVERY_S", 0.0)
    param, resource = tmp_path / "p.json", tmp_path / "r.json"
    param.write_text('{"max_select": 3}')
    resource.write_text("{}")
    loads = {}

    def load(first, second):
        if not first.exists():
            raise InputError(Problem(str(first), "there is no such file"))
        found = loads.get(first.read_text(), Files(Settings()))
        if isinstance(found, Exception):
            raise found
        return found

    made = Edits(Sources(param, resource, load), Files(Settings()), tmp_path / "state")
    made.tell_since_last_start()
    return made, param, loads


def edited(path, text):
    path.write_text(text)
    stamp = time.time_ns() + 10**9  # whatever the file system's clock can tell apart
    os.utime(path, ns=(stamp, stamp))


def test_an_edit_is_taken_once(here):
    made, param, loads = here
    assert made.poll() is None
    loads['{"max_select": 5}'] = Files(Settings(max_select=5))
    edited(param, '{"max_select": 5}')
    assert made.poll().param.max_select == 5 and made.poll() is None and made.param.max_select == 5


def test_half_a_file_is_told_once_and_changes_nothing(here, caplog):
    made, param, loads = here
    loads["{"] = InputError(Problem("p.json", "not JSON"))
    edited(param, "{")
    assert [made.poll() for _ in range(3)] == [None] * 3
    assert caplog.text.count("edited, and not applied") == 1 and made.param.max_select == 3


def test_a_file_that_is_gone_changes_nothing(here, caplog):
    made, param, _ = here
    param.unlink()
    assert made.poll() is None and "edited, and not applied" in caplog.text


def test_another_seed_is_another_campaign(here, caplog):
    made, param, loads = here
    loads['{"seed": 2}'] = Files(Settings(seed=2))
    edited(param, '{"seed": 2}')
    assert made.poll() is None and "seed cannot change while the campaign runs" in caplog.text


def test_what_a_stage_was_begun_with_outlives_the_master(here, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    made, param, loads = here
    made.stage_begins()
    loads['{"max_select": 5}'] = Files(Settings(max_select=5))
    edited(param, '{"max_select": 5}')
    made.poll()
    second = Edits(made._sources, Files(Settings(max_select=5)), tmp_path / "state")
    second.take_up_stage()
    assert second.param.max_select == 3 and "begun with" in caplog.text
    second.stage_ends()
    assert second.param.max_select == 5
    third = Edits(made._sources, Files(Settings(max_select=5)), tmp_path / "state")
    third.take_up_stage()
    assert third.param.max_select == 5


def test_the_next_start_tells_what_changed(here, tmp_path):
    made, param, _ = here
    edited(param, '{"max_select": 4}')
    assert Edits(made._sources, Files(Settings()), tmp_path / "state").tell_since_last_start() == ["param.json: max_select: 3 \u2192 4"]
