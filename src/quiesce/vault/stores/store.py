"""Where a vault's objects lie: a small contract, whatever fulfils it.

An object is written once, whole, under a key, and never changes. Everything else in this room is
built from that. Keys are relative, `/`-separated, of at most two folders and a name made of
lower-case letters, digits, `-`, `_` and `.`; anything else is a defect of the caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from quiesce.model.failure import StorageFailure
from quiesce.vault.stores.files import Buffer

UNREADABLE = frozenset({"storage.io-error", "storage.object-too-large"})
"""Of one object: a bad sector is as much damage as a turned bit."""
CANNOT_WRITE = frozenset(
    {
        "storage.read-only",
        "storage.denied",
        "storage.locked",
        "storage.full",
        "storage.links-unsupported",
    }
)
"""Of a store that may still be read."""
MARKER = "quiesce-store"
"""Name of the object that says that a store is there, and by its content which one."""
KEY = re.compile(r"(?:[a-z0-9][a-z0-9_-]*/){0,2}[a-z0-9][a-z0-9._-]{0,199}\Z")


EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2999, 12, 31, tzinfo=UTC)
"""Times of objects lie within: a file system may say any, and whoever adds hours to one stays
within what a `datetime` can hold."""
_LATEST_SECONDS = LATEST.timestamp()


def time_of(seconds: float) -> datetime:
    """A file's time, the nearest that an object may have."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LATEST_SECONDS), UTC)


class ObjectMissing(StorageFailure):
    """No object has this key (and the store itself is there)."""


class Put(Enum):
    CREATED = "created"
    ALREADY_THERE = "already there"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`modified_at` is UTC, by the store's own clock, from `EARLIEST` to `LATEST`."""

    key: str
    size_bytes: int
    modified_at: datetime


class Store(Protocol):
    """Immutable objects by key. Thread-safe; calls overlap.

    Failures of every call: storage.vanished (the store is not there: nothing was changed),
    storage.io-error, storage.denied, with path and errno as evidence. A call that failed may be
    repeated: each is idempotent.
    """

    @property
    def address(self) -> str:
        """Where this is, for people."""

    @property
    def uploads_at_once(self) -> int:
        """How many large puts side by side make a writer faster; 1 where one fills the way."""

    def put(self, key: str, data: Buffer) -> Put:
        """Create the object if no object has this key, atomically: it is seen whole or not at
        all, and is durable once this returns. An object that is already there is left alone,
        whatever it holds.

        :raise StorageFailure: storage.full, storage.read-only, storage.links-unsupported; then
            either nothing or the whole object is there
        """

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """The whole object.

        :raise ObjectMissing: storage.object-missing
        :raise StorageFailure: storage.object-too-large when it is longer than `limit_bytes`
        """

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer only where the object ends.

        :raise ObjectMissing: storage.object-missing
        """

    def stat(self, key: str) -> ObjectInfo:
        """:raise ObjectMissing: storage.object-missing"""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below the folder `prefix` (such as "packs/"), in no order. Objects
        created or deleted meanwhile may or may not appear."""

    def delete(self, key: str) -> None:
        """Remove it. One that is not there is no failure.

        :raise StorageFailure: storage.locked while a retention lock of the store forbids it
        """

    def free_bytes(self) -> int | None:
        """Free space, or None where that has no meaning."""

    def keep_reserve(self, size_bytes: int) -> None:
        """Keep so much space back, or as much of it as there is, until it is given back. A store
        that cannot be full does nothing. Never raises storage.full."""

    def give_back_reserve(self) -> None:
        """Let the space that was kept back be used."""


def delete_if_allowed(store: Store, key: str) -> StorageFailure | None:
    """Delete what does no harm if it stays. Returns the refusal, where append-only credentials or
    a retention lock forbid it, else None."""
    try:
        store.delete(key)
    except StorageFailure as refused:
        if refused.code not in ("storage.denied", "storage.locked"):
            raise
        return refused
    return None


def check_key(key: str) -> str:
    """:raise ValueError: the key is not one (a defect: keys never come from outside)"""
    if not KEY.match(key) or ".." in key:
        raise ValueError(f"not an object key: {key!r}")
    return key
