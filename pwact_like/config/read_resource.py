"""Reads resource.json."""

from __future__ import annotations

from typing import Any

from pwact_like.config.reader import Reader
from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.config.source import Table

SECTIONS = ("train", "explore", "dft", "direct")


def read_resource(reader: Reader, table: Table) -> Resource | None:
    """Read resource.json; section names in any case."""
    given: dict[str, Any] = {}
    failed: set[str] = set()
    for name in SECTIONS:
        if table.get(name) is None:
            continue
        section = reader.table(table.get(name), table.where(name))
        built = reader.build(ResourceSection, section) if section else None
        if built is None:
            failed.add(name)
        else:
            given[name] = built
    return reader.build(Resource, table, given=given, failed=failed)
