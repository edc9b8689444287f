"""The small blobs that guests write: status, report, log."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

PAGE_BYTES = 512

_etag_numbers = itertools.count(secrets.randbits(48))


class BlobType(StrEnum):
    BLOCK = "BlockBlob"
    PAGE = "PageBlob"


def new_etag() -> str:
    return f'"0x{next(_etag_numbers):X}"'


@dataclass(frozen=True, slots=True)
class Blob:
    """What one blob holds. A change is a new value with a new `etag`; `written` is false for the
    empty one that was there before anybody wrote to it."""

    content: bytes = b""
    kind: BlobType = BlobType.BLOCK
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/octet-stream"
    written: bool = False
    modified_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    etag: str = field(default_factory=new_etag)


class Cell:
    """The place of one blob of at most `limit_bytes`, in memory. Thread-safe. `stored` is called
    with each new content, one after the other."""

    def __init__(
        self, limit_bytes: int, *, stored: Callable[[bytes], None] = lambda content: None
    ) -> None:
        self.limit_bytes = limit_bytes
        self._stored = stored
        self._lock = threading.Lock()
        self._blob = Blob()

    def load(self) -> Blob:
        return self._blob

    def change(self, edit: Callable[[Blob], Blob]) -> Blob:
        """Put what `edit` makes of the blob that is there; nobody comes between. What `edit`
        raises leaves it as it was.

        :raise OSError: it cannot be stored; the old one stays
        """
        with self._lock:
            old = self.load()
            new = edit(old)
            self._store(new)
            if new.content is not old.content:
                self._stored(new.content)
            return new

    def _store(self, blob: Blob) -> None:
        self._blob = blob
