"""Times in stored JSON: ISO 8601 with a zone."""

from __future__ import annotations

from datetime import UTC, datetime

_FIRST_YEAR, _LAST_YEAR = 1970, 2999
"""Whoever adds hours or changes the zone stays within what a `datetime` can hold. 1970 is what a
record says that counts as older than all others."""


def read_time(text: str) -> datetime:
    """In UTC.

    :raise ValueError, TypeError: no such time
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without zone")
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        raise ValueError(f"a time in the year {at.year}")
    return at.astimezone(UTC)
