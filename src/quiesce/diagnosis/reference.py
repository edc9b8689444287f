"""The catalogue as a page of the documentation: `quiesce explain --reference`."""

from __future__ import annotations

from collections.abc import Iterator

from quiesce.diagnosis.catalogue import Catalogue, CatalogueEntry, Rules
from quiesce.diagnosis.rule_words import mend_words, rule_words


def as_markdown(catalogue: Catalogue) -> str:
    """docs/reference/failures.md; a test keeps the page and the catalogue equal."""
    return "\n".join(_lines(catalogue)) + "\n"


def _lines(catalogue: Catalogue) -> Iterator[str]:
    yield "# Failures and what mends them"
    yield ""
    yield "<!-- Written by `quiesce explain --reference` from diagnosis/catalogue.toml. -->"
    yield ""
    yield "Every failure has a stable code. `quiesce explain CODE` says the same as this page, and"
    yield "also takes the names and numbers after *Elsewhere*, or a pasted error text."
    yield ""
    yield "A symptom is a code that names no cause by itself. Under *Proven by* stand facts of"
    yield "which any one line proves the cause, under *Ruled out by* those of which any one line"
    yield "excludes it; [how Quiesce finds the cause](../explanation/diagnosis.md) tells where"
    yield "they are from."
    for family, heading in catalogue.families.items():
        members = catalogue.family(family)
        if not members:
            continue
        yield ""
        yield f"## {heading}"
        for entry in members:
            yield from _entry(entry, catalogue.rules[entry.code])


def _entry(entry: CatalogueEntry, rules: Rules) -> Iterator[str]:
    yield ""
    yield f"### `{entry.code}`"
    yield f"**{entry.title}.** {entry.cause}"
    yield ""
    for number, step in enumerate(entry.remedy, 1):
        yield f"{number}. {step}"
    for heading, each in (("Proven by", rules.proof), ("Ruled out by", rules.against)):
        if each:
            yield ""
            yield f"{heading}:"
            yield ""
            yield from (f"- {rule_words(rule)}" for rule in each)
    notes = []
    if entry.symptom:
        notes.append("A symptom: it names no cause by itself.")
    if entry.circumstance:
        notes.append("A circumstance: the cause only when nothing else is proven.")
    if entry.explains:
        notes.append(f"Explains: {', '.join(f'`{code}`' for code in entry.explains)}.")
    if entry.mends:
        notes.append(f"By itself: {entry.mends}")
    if entry.mend_by:
        notes.append(f"What Quiesce does: it {mend_words(entry.mend_by)}.")
    if entry.retryable:
        notes.append("Trying again can help.")
    if entry.aliases:
        notes.append(f"Elsewhere: {', '.join(f'`{alias}`' for alias in entry.aliases)}.")
    if entry.see_also:
        notes.append(f"See also: {', '.join(f'`{code}`' for code in entry.see_also)}.")
    if notes:
        yield ""
        yield "  \n".join(notes)
