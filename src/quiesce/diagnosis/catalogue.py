"""The failure catalogue: every code with its cause in one sentence and what mends it.

The texts are in `catalogue.toml`, next to this file; this module reads and checks them. A code
that is raised anywhere in Quiesce and not explained there fails a test.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from typing import Any

from quiesce.diagnosis.conditions import Rule
from quiesce.diagnosis.conditions import parse as condition
from quiesce.diagnosis.remedies import filled
from quiesce.model.diagnosis import MendAction

_KNOWN_FIELDS = {"title", "cause", "remedy", "retryable", "mends", "aliases", "see_also"} | {
    "symptom",
    "circumstance",
    "explains",
    "proof",
    "against",
    "mend_by",
    "phrases",
}


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What one code means.

    `remedy`    what mends it, with exact commands in backticks, of a guest of which nothing is
                known; `remedies.remedy_for` has them for one that is
    `steps`     the same as it is written, with the placeholders of `remedies`
    `mends`     what Quiesce does about it by itself; empty when it can do nothing
    `aliases`   names and numbers that other products use for it
    `see_also`  codes that stand behind this symptom or lie close to it
    `symptom`   the code names no cause by itself
    `circumstance`  it makes failures likely and breaks nothing: it is named as the cause when
                nothing else is proven, and beside it otherwise
    `explains`  the codes that may be seen when this is the cause
    `proof`     lists of conditions: all of any one list prove it
    `against`   lists of conditions: all of any one list rule it out
    `mend_by`   what Quiesce does about it by itself, in the order it is tried
    `phrases`   patterns of foreign error texts that mean it, in any case
    """

    code: str
    title: str
    cause: str
    remedy: tuple[str, ...]
    steps: tuple[str, ...]
    retryable: bool = False
    mends: str = ""
    aliases: tuple[str, ...] = ()
    see_also: tuple[str, ...] = ()
    symptom: bool = False
    circumstance: bool = False
    explains: tuple[str, ...] = ()
    proof: tuple[tuple[str, ...], ...] = ()
    against: tuple[tuple[str, ...], ...] = ()
    mend_by: tuple[MendAction, ...] = ()
    phrases: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return family_of(self.code)


@dataclass(frozen=True, slots=True)
class Rules:
    """An entry's `proof` and `against` as the engine reads them."""

    proof: tuple[Rule, ...]
    against: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All entries by code, and the families' headings in the order they are shown."""

    entries: Mapping[str, CatalogueEntry]
    families: Mapping[str, str]
    rules: Mapping[str, Rules]
    causes: Mapping[str, tuple[CatalogueEntry, ...]]
    """Per code, the entries that explain it directly."""

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
        `see_also` or `explains` to nowhere, one alias for two codes, a condition that is none, a
        mend or pattern that is none, or an entry that explains itself by way of others
    """
    tables: dict[str, dict[str, Any]] = tomllib.loads(text)
    families: dict[str, str] = tables.pop("families", {})
    entries = {code: _entry(code, fields) for code, fields in tables.items()}
    owners: dict[str, str] = {}
    for entry in entries.values():
        if entry.family not in families:
            raise ValueError(f"{entry.code}: the family {entry.family!r} has no heading")
        for other in (*entry.see_also, *entry.explains):
            if other not in entries:
                raise ValueError(f"{entry.code}: names the unknown code {other!r}")
        for alias in entry.aliases:
            owner = owners.setdefault(alias.casefold(), entry.code)
            if owner != entry.code:
                raise ValueError(f"alias {alias!r} belongs to {owner} and to {entry.code}")
    causes = {
        code: tuple(entry for entry in entries.values() if code in entry.explains)
        for code in entries
    }
    _check_order(entries)
    rules = {entry.code: _rules(entry) for entry in entries.values()}
    return Catalogue(entries, families, rules, causes)


def _check_order(entries: Mapping[str, CatalogueEntry]) -> None:
    try:
        TopologicalSorter({code: entry.explains for code, entry in entries.items()}).prepare()
    except CycleError as error:
        raise ValueError(f"{' explains '.join(error.args[1])}") from None


def _entry(code: str, fields: Mapping[str, Any]) -> CatalogueEntry:
    unknown = set(fields) - _KNOWN_FIELDS
    missing = [name for name in ("title", "cause", "remedy") if not fields.get(name)]
    if unknown or missing:
        raise ValueError(f"{code}: unknown fields {sorted(unknown)}, missing fields {missing}")
    entry = CatalogueEntry(
        code=code,
        title=str(fields["title"]),
        cause=str(fields["cause"]),
        remedy=tuple(filled(step) for step in fields["remedy"]),
        steps=tuple(fields["remedy"]),
        retryable=bool(fields.get("retryable", False)),
        mends=str(fields.get("mends", "")),
        aliases=tuple(fields.get("aliases", ())),
        see_also=tuple(fields.get("see_also", ())),
        symptom=bool(fields.get("symptom", False)),
        circumstance=bool(fields.get("circumstance", False)),
        explains=tuple(fields.get("explains", ())),
        proof=tuple(map(tuple, fields.get("proof", ()))),
        against=tuple(map(tuple, fields.get("against", ()))),
        mend_by=tuple(MendAction(each) for each in fields.get("mend_by", ())),
        phrases=tuple(fields.get("phrases", ())),
    )
    if not all((*entry.proof, *entry.against)):
        raise ValueError(f"{code}: a rule without conditions would hold always")
    for phrase in entry.phrases:
        re.compile(phrase)
    return entry


def _rules(entry: CatalogueEntry) -> Rules:
    def parsed(lists: Iterable[Iterable[str]]) -> tuple[Rule, ...]:
        return tuple(tuple(condition(each) for each in conditions) for conditions in lists)

    try:
        return Rules(parsed(entry.proof), parsed(entry.against))
    except ValueError as error:
        raise ValueError(f"{entry.code}: {error}") from None
