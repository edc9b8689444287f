"""What the storage endpoint saw of one VM: evidence for a diagnosis, without secrets."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

_KEPT = 64
_TEXT_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Seen:
    """One request and its answer. `path` is without the query, `operation` the query's `comp` and
    whether a snapshot was named; `code` is Azure's error code, empty when it went well. The text
    is printable."""

    peer: str
    method: str
    path: str
    operation: str
    status: int
    code: str
    milliseconds: float
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


class Journal:
    """The last requests, those that were let in and those that were not, each kept apart: nobody
    without a valid signature can push out what a valid one did. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._let_in: deque[Seen] = deque(maxlen=_KEPT)
        self._refused: deque[Seen] = deque(maxlen=_KEPT)

    def add(self, seen: Seen, *, let_in: bool) -> None:
        """`let_in`: whether it came with a signature that is valid for what it asked."""
        kept = self._let_in if let_in else self._refused
        with self._lock:
            kept.append(seen)

    def recent(self) -> tuple[Seen, ...]:
        """Oldest first."""
        with self._lock:
            both = [*self._let_in, *self._refused]
        return tuple(sorted(both, key=lambda seen: seen.at))


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text[:_TEXT_LIMIT])
