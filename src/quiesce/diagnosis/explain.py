"""What a code, a foreign product's code or a pasted error text means. Works without a server."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from quiesce.diagnosis.catalogue import Catalogue, CatalogueEntry, catalogue
from quiesce.model.failure import NotFoundFailure

_DOTTED = re.compile(r"\b[a-z]+\.[a-z0-9]+(?:-[a-z0-9]+)*\b")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]+|\d{2,}")
_MAX_SUGGESTIONS = 5
_LONGEST_TEXT = 20_000
"""Characters of a pasted text that are looked at; a whole log belongs to `doctor --bundle`."""


class Match(StrEnum):
    """How a question was understood."""

    CODE = "code"
    ALIAS = "alias"
    FAMILY = "family"
    TEXT = "text"
    """Found inside a longer, pasted text."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The entries that answer `asked`, most certain first. `related` are the entries that they
    refer to by `see_also`, and of a symptom those that explain it; `alias` is the foreign name or
    text that was recognised, if it was one."""

    asked: str
    match: Match
    entries: tuple[CatalogueEntry, ...]
    related: tuple[CatalogueEntry, ...] = ()
    alias: str = ""


def explain(question: str, *, source: Catalogue | None = None) -> Explanation:
    """Explain a code, an alias such as `GuestAgentSnapshotTaskStatusError` or `121`, a family
    such as `network`, or an error text that contains any of them or that other programs print.

    :raise NotFoundFailure: input.unknown-code, with the nearest codes as evidence
    """
    known = source or catalogue()
    asked = question.strip()[:_LONGEST_TEXT]
    lowered = asked.casefold().rstrip(".:")

    if lowered in known.entries:
        return _explanation(known, asked, Match.CODE, [known.entries[lowered]])
    for entry in known.entries.values():
        for alias in entry.aliases:
            if alias.casefold() == lowered:
                return _explanation(known, asked, Match.ALIAS, [entry], alias)
    family = lowered.rstrip(".*")
    if family in known.families and (members := known.family(family)):
        return Explanation(asked=asked, match=Match.FAMILY, entries=members)
    found, alias = _inside_text(known, asked)
    if found:
        return _explanation(known, asked, Match.TEXT, found, alias)
    raise _unknown(known, asked)


def _explanation(
    known: Catalogue,
    asked: str,
    match: Match,
    entries: Iterable[CatalogueEntry],
    alias: str = "",
) -> Explanation:
    main = tuple(entries)
    codes = dict.fromkeys(code for entry in main for code in entry.see_also)
    for entry in main:
        if entry.symptom:
            codes |= dict.fromkeys(cause.code for cause in known.causes[entry.code])
    related = tuple(known.entries[code] for code in codes if known.entries[code] not in main)
    return Explanation(asked=asked, match=match, entries=main, related=related, alias=alias)


def _inside_text(known: Catalogue, text: str) -> tuple[list[CatalogueEntry], str]:
    """Entries whose code, alias or phrase stands in a longer text: codes in the order of the text,
    then aliases, then what other programs say."""
    lowered = text.casefold()
    found = [known.entries[code] for code in _DOTTED.findall(lowered) if code in known.entries]
    words = {word.casefold() for word in _WORD.findall(text)}
    recognised = ""
    for entry in known.entries.values():
        for alias in entry.aliases:
            folded = alias.casefold()
            # A bare number means a code only when the text speaks of a code or an error:
            # "121 files" does not.
            if folded.isdigit() and not re.search(rf"(code|error)\W{{0,3}}{folded}\b", lowered):
                continue
            if folded in words or (" " in folded and folded in lowered):
                found.append(entry)
                recognised = recognised or alias
    said = sorted(_phrases(known, text), key=lambda each: each[0].start())
    recognised = recognised or (said[0][0][0] if said else "")
    return list(dict.fromkeys([*found, *(entry for _, entry in said)])), recognised


def _phrases(known: Catalogue, text: str) -> Iterator[tuple[re.Match[str], CatalogueEntry]]:
    for entry in known.entries.values():
        for phrase in entry.phrases:
            match = re.search(phrase, text, re.IGNORECASE)
            if match:
                yield match, entry


def _unknown(known: Catalogue, asked: str) -> NotFoundFailure:
    names: dict[str, str] = {}
    for entry in known.entries.values():
        names[entry.code] = entry.code
        names[entry.code.partition(".")[2]] = entry.code
        for alias in entry.aliases:
            names[alias.casefold()] = entry.code
    close = difflib.get_close_matches(asked.casefold(), names, n=_MAX_SUGGESTIONS * 2, cutoff=0.6)
    by_word = [
        entry.code
        for entry in known.entries.values()
        if len(asked) > 2
        and (
            asked.casefold() in entry.title.casefold() or asked.casefold() in entry.cause.casefold()
        )
    ]
    near = list(dict.fromkeys([*(names[name] for name in close), *by_word]))[:_MAX_SUGGESTIONS]
    remedy = (
        f"Perhaps you mean: {', '.join(near)}." if near else "See all codes: `quiesce explain`."
    )
    return NotFoundFailure(
        "input.unknown-code", f"The catalogue does not know {asked!r}.", remedy=remedy
    )
