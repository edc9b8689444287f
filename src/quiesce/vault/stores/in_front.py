"""What stands in front of a store and does one thing to what passes: the rest goes through."""

from __future__ import annotations

from collections.abc import Iterator

from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import ObjectInfo, Put, Store


class InFront:
    """Fulfils `Store` by handing every call on to `origin`."""

    tells_copies = False
    """Whether it may answer with what it has kept, whatever has become of that in the store."""

    def __init__(self, origin: Store) -> None:
        self.origin = origin

    @property
    def address(self) -> str:
        return self.origin.address

    @property
    def uploads_at_once(self) -> int:
        return self.origin.uploads_at_once

    def put(self, key: str, data: Buffer) -> Put:
        return self.origin.put(key, data)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        return self.origin.get(key, limit_bytes=limit_bytes)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self.origin.get_range(key, offset, length)

    def stat(self, key: str) -> ObjectInfo:
        return self.origin.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.origin.list(prefix)

    def delete(self, key: str) -> None:
        self.origin.delete(key)

    def free_bytes(self) -> int | None:
        return self.origin.free_bytes()

    def keep_reserve(self, size_bytes: int) -> None:
        self.origin.keep_reserve(size_bytes)

    def give_back_reserve(self) -> None:
        self.origin.give_back_reserve()


def origin_of(store: Store) -> Store:
    """The store itself: what looks for damage reads there."""
    return store.origin if isinstance(store, InFront) and store.tells_copies else store
