"""The catalogue as a page of the documentation: `quiesce explain --reference`."""

from __future__ import annotations

from collections.abc import Iterator

from quiesce.diagnosis.catalogue import Catalogue, CatalogueEntry


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
    for family, heading in catalogue.families.items():
        members = catalogue.family(family)
        if not members:
            continue
        yield ""
        yield f"## {heading}"
        for entry in members:
            yield from _entry(entry)


def _entry(entry: CatalogueEntry) -> Iterator[str]:
    yield ""
    yield f"### `{entry.code}`"
    yield f"**{entry.title}.** {entry.cause}"
    yield ""
    for number, step in enumerate(entry.remedy, 1):
        yield f"{number}. {step}"
    notes = []
    if entry.mends:
        notes.append(f"By itself: {entry.mends}")
    if entry.retryable:
        notes.append("Trying again can help.")
    if entry.aliases:
        notes.append(f"Elsewhere: {', '.join(f'`{alias}`' for alias in entry.aliases)}.")
    if entry.see_also:
        notes.append(f"See also: {', '.join(f'`{code}`' for code in entry.see_also)}.")
    if notes:
        yield ""
        yield " ".join(notes)
