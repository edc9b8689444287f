"""The failure catalogue: every code with its cause in one sentence and what mends it.

The texts are in `catalogue.toml`, next to this file; this module reads and checks them. A code
that is raised anywhere in Quiesce and not explained there fails a test.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_KNOWN_FIELDS = {"title", "cause", "remedy", "retryable", "mends", "aliases", "see_also"}


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What one code means.

    `remedy`    the steps that mend it, with exact commands in backticks
    `mends`     what Quiesce does about it by itself; empty when it can do nothing
    `aliases`   names and numbers that other products use for it
    `see_also`  codes that stand behind this symptom or lie close to it
    """

    code: str
    title: str
    cause: str
    remedy: tuple[str, ...]
    retryable: bool = False
    mends: str = ""
    aliases: tuple[str, ...] = ()
    see_also: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return family_of(self.code)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All entries by code, and the families' headings in the order they are shown."""

    entries: Mapping[str, CatalogueEntry]
    families: Mapping[str, str]

    def family(self, name: str) -> tuple[CatalogueEntry, ...]:
        return tuple(entry for entry in self.entries.values() if entry.family == name)


def family_of(code: str) -> str:
    """The part of a code before its first dot."""
    return code.partition(".")[0]


@cache
def catalogue() -> Catalogue:
    """The catalogue that this version ships.

    :raise ValueError: the shipped file breaks its own rules; a unit test keeps that from a release
    """
    text = files("quiesce.diagnosis").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return parse(text)


def parse(text: str) -> Catalogue:
    """Read a catalogue file.

    :raise ValueError: a code without a family, title, cause or remedy, an unknown field, a
        `see_also` to nowhere, or one alias for two codes
    """
    tables: dict[str, dict[str, Any]] = tomllib.loads(text)
    families: dict[str, str] = tables.pop("families", {})
    entries = {code: _entry(code, fields) for code, fields in tables.items()}
    owners: dict[str, str] = {}
    for entry in entries.values():
        if entry.family not in families:
            raise ValueError(f"{entry.code}: the family {entry.family!r} has no heading")
        for other in entry.see_also:
            if other not in entries:
                raise ValueError(f"{entry.code}: see_also names the unknown code {other!r}")
        for alias in entry.aliases:
            owner = owners.setdefault(alias.casefold(), entry.code)
            if owner != entry.code:
                raise ValueError(f"alias {alias!r} belongs to {owner} and to {entry.code}")
    return Catalogue(entries=entries, families=families)


def _entry(code: str, fields: Mapping[str, Any]) -> CatalogueEntry:
    unknown = set(fields) - _KNOWN_FIELDS
    missing = [name for name in ("title", "cause", "remedy") if not fields.get(name)]
    if unknown or missing:
        raise ValueError(f"{code}: unknown fields {sorted(unknown)}, missing fields {missing}")
    return CatalogueEntry(
        code=code,
        title=str(fields["title"]),
        cause=str(fields["cause"]),
        remedy=tuple(fields["remedy"]),
        retryable=bool(fields.get("retryable", False)),
        mends=str(fields.get("mends", "")),
        aliases=tuple(fields.get("aliases", ())),
        see_also=tuple(fields.get("see_also", ())),
    )
