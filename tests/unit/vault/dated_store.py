"""A real store whose times are those of the tests' clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vault_scene import FakeClock

from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.in_front import InFront
from quiesce.vault.stores.store import ObjectInfo, Put, Store


class DatedStore(InFront):
    """What was put through any of them with this clock has the time that the clock then told."""

    def __init__(self, origin: Store, clock: FakeClock) -> None:
        super().__init__(origin)
        self._clock = clock

    def put(self, key: str, data: Buffer) -> Put:
        # Before the put, of which only the answer may get lost.
        self._clock.written.setdefault((self.address, key), self._clock())
        return self.origin.put(key, data)

    def stat(self, key: str) -> ObjectInfo:
        return self._dated(self.origin.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return map(self._dated, self.origin.list(prefix))

    def delete(self, key: str) -> None:
        self.origin.delete(key)
        self._clock.written.pop((self.address, key), None)

    def _dated(self, found: ObjectInfo) -> ObjectInfo:
        written = self._clock.written.get((self.address, found.key))
        return replace(found, modified_at=written) if written else found
