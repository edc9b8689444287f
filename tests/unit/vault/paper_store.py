"""Stores that exist only in memory: exact, fast, copied at will; and one whose lists lag behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from copy import copy
from datetime import datetime, timedelta

from vault_scene import turned

from quiesce.model.failure import Evidence, StorageFailure
from quiesce.vault.contents.contents import Clock, utc_now
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.in_front import InFront
from quiesce.vault.stores.store import ObjectInfo, ObjectMissing, Put, Store, check_key


class PaperStore:
    """A store in memory, strictly consistent, as the contract of `Store` has it."""

    address = "paper"
    uploads_at_once = 1

    def __init__(self, clock: Clock = utc_now) -> None:
        self.clock = clock
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.kept_until: dict[str, datetime] = {}
        """Objects under a retention lock."""
        self.bad_sectors: dict[str, tuple[int, int]] = {}
        """Of an object, from where to where it cannot be read."""
        self.reserve_bytes = 0
        self._lock = threading.Lock()

    def copy(self) -> PaperStore:
        other = copy(self)
        other.objects = dict(self.objects)
        other.kept_until = dict(self.kept_until)
        other.bad_sectors = dict(self.bad_sectors)
        other._lock = threading.Lock()
        return other

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def spoil(self, key: str, at: int = 100) -> None:
        """Turn a bit of an object."""
        data, when = self.objects[key]
        self.objects[key] = turned(data, at), when

    def put(self, key: str, data: Buffer) -> Put:
        kept = bytes(data), self.clock()
        with self._lock:
            there = self.objects.setdefault(check_key(key), kept) is not kept
        return Put.ALREADY_THERE if there else Put.CREATED

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        data = self._found(key)[0]
        if len(data) > limit_bytes:
            raise StorageFailure("storage.object-too-large", f"{key} is {len(data)} bytes long.")
        self._pass_sectors(key, 0, len(data))
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        data = self._found(key)[0]
        self._pass_sectors(key, offset, length)
        return data[offset : offset + length]

    def _pass_sectors(self, key: str, offset: int, length: int) -> None:
        start, end = self.bad_sectors.get(key, (0, 0))
        if offset < end and start < offset + length:
            raise StorageFailure(
                "storage.io-error",
                f"Could not read {key}: Input/output error.",
                evidence=[Evidence(f"bytes {start}–{end} cannot be read", key)],
                retryable=True,
            )

    def stat(self, key: str) -> ObjectInfo:
        data, at = self._found(key)
        return ObjectInfo(key, len(data), at)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = prefix.rstrip("/") + "/"
        for key, (data, at) in list(self.objects.items()):
            if key.startswith(folder):
                yield ObjectInfo(key, len(data), at)

    def delete(self, key: str) -> None:
        if key in self.objects and self.kept_until.get(key, self.clock()) > self.clock():
            raise StorageFailure("storage.locked", f"{key} is kept by a retention lock.")
        with self._lock:
            self.objects.pop(check_key(key), None)
            self.bad_sectors.pop(key, None)

    def change(self, key: str, data: bytes) -> None:
        """As a disk that rots does it: nobody is told, and its time stays."""
        self.objects[key] = data, self.objects[key][1]

    def free_bytes(self) -> int | None:
        return None

    def keep_reserve(self, size_bytes: int) -> None:
        self.reserve_bytes = max(self.reserve_bytes, size_bytes)

    def give_back_reserve(self) -> None:
        self.reserve_bytes = 0

    def _found(self, key: str) -> tuple[bytes, datetime]:
        try:
            return self.objects[check_key(key)]
        except KeyError:
            raise ObjectMissing(
                "storage.object-missing", f"{key} does not exist.", evidence=[Evidence("none", key)]
            ) from None


class StaleLists(InFront):
    """A store whose lists may be up to `lag_seconds` old, key by key, as `is_stale` decides: an
    object made since then may be missing from them, a deleted one may still be in them. Reading,
    putting and deleting by key are exact, as in every object store of today. Shared by actors."""

    def __init__(
        self,
        origin: Store,
        clock: Clock,
        lag_seconds: float,
        is_stale: Callable[[str], bool] = lambda key: True,
    ) -> None:
        super().__init__(origin)
        self._clock = clock
        self.lag = timedelta(seconds=lag_seconds)
        self.is_stale = is_stale
        self._changes: list[tuple[datetime, str, ObjectInfo | None]] = []
        """When a key was changed, and what a list said of it before."""
        self._lock = threading.Lock()

    def put(self, key: str, data: Buffer) -> Put:
        with self._lock:
            result = self.origin.put(key, data)
            if result is Put.CREATED:
                self._changes.append((self._clock(), key, None))
        return result

    def delete(self, key: str) -> None:
        with self._lock:
            try:
                before = self.origin.stat(key)
            except ObjectMissing:
                return
            self.origin.delete(key)
            self._changes.append((self._clock(), key, before))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = prefix.rstrip("/") + "/"
        with self._lock:
            now = self._clock()
            self._changes = [c for c in self._changes if abs(now - c[0]) < self.lag]
            shown = {info.key: info for info in self.origin.list(prefix)}
            # The oldest change of a key within the lag decides what an old list says of it.
            for _, key, before in reversed(self._changes):
                if key.startswith(folder) and self.is_stale(key):
                    shown.pop(key, None)
                    if before is not None:
                        shown[key] = before
        yield from shown.values()
