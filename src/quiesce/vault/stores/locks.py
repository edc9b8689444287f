"""Retention locks of an object store, as values: what a vault asks for, and what an object has.

What a vault asks for stands in names of empty-handed objects in its store, `locks/<mode>-<days>`,
so that whoever writes there sees it, with the vault's key or without. Where there are several the
strictest of each counts: to ask for less, one must be allowed to delete. They belong to the place
and not to the format: a reader passes them over, and a copy does not carry them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

MOST_DAYS = 3650
"""A slip of the finger in compliance mode is paid for until it ends; ten years are enough."""
FOLDER = "locks/"
_NAME = re.compile(r"locks/(governance|compliance)-([1-9][0-9]{0,3})\Z")
_SLACK = 5
_LEAST_SLACK = timedelta(days=1)


class Mode(Enum):
    """Compliance: nobody can shorten or lift the lock, not even the account's owner. Governance:
    who has s3:BypassGovernanceRetention can."""

    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"

    def serves(self, wanted: Mode) -> bool:
        return self is Mode.COMPLIANCE or wanted is Mode.GOVERNANCE


@dataclass(frozen=True, slots=True)
class Lock:
    """Of one object. `until` is UTC, by the store's time."""

    mode: Mode
    until: datetime

    def serves(self, wanted: Lock) -> bool:
        return self.mode.serves(wanted.mode) and self.until >= wanted.until


@dataclass(frozen=True, slots=True)
class Terms:
    """All that a point needs is locked for `days` from when it is committed, or longer."""

    mode: Mode
    days: int

    def cover(self, other: Terms) -> bool:
        """Whether these ask for at least as much."""
        return self.mode.serves(other.mode) and self.days >= other.days

    @property
    def time(self) -> timedelta:
        return timedelta(days=self.days)

    @property
    def slack(self) -> timedelta:
        """Whoever sets a lock lets it end so much later than is needed: until that is used up the
        object costs no request. A fifth of the time, at least a day."""
        return max(self.time / _SLACK, _LEAST_SLACK)

    @property
    def key(self) -> str:
        return f"{FOLDER}{self.mode.value}-{self.days}"


def terms_of(keys: Iterable[str]) -> Terms | None:
    """What these objects ask for together; None: nothing. Other names are passed over."""
    asked = [(Mode(m[1]), int(m[2])) for m in map(_NAME.match, keys) if m]
    asked = [(mode, days) for mode, days in asked if days <= MOST_DAYS]
    if not asked:
        return None
    strict = any(mode is Mode.COMPLIANCE for mode, _ in asked)
    return Terms(
        Mode.COMPLIANCE if strict else Mode.GOVERNANCE,
        max(days for _, days in asked),
    )
