"""The time, as something that tests can set."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock's time, aware, UTC. May jump either way."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)
