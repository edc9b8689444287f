"""A store that is still to be made: nothing is in it yet, so that a plan can be made for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from quiesce.model.failure import StorageFailure
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import ObjectInfo, ObjectMissing, Put


def nearest_folder(path: Path) -> Path:
    """This, or the nearest above it that is there."""
    return next((place for place in (path, *path.parents) if place.exists()), path)


class Nowhere:
    """Fulfils `Store` as far as a plan looks; refuses every change."""

    uploads_at_once = 1

    def __init__(self, address: str) -> None:
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    def put(self, key: str, data: Buffer) -> Put:
        raise self._vanished()

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        raise self._missing(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        raise self._missing(key)

    def stat(self, key: str) -> ObjectInfo:
        raise self._missing(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(())

    def delete(self, key: str) -> None:
        raise self._vanished()

    def free_bytes(self) -> int | None:
        """Of a folder: what is free where it would be made."""
        if not self._address.startswith("/"):
            return None
        try:
            figures = os.statvfs(nearest_folder(Path(self._address)))
        except OSError:
            return None
        return figures.f_bavail * figures.f_frsize

    def keep_reserve(self, size_bytes: int) -> None:
        raise self._vanished()

    def give_back_reserve(self) -> None:
        raise self._vanished()

    def _missing(self, key: str) -> ObjectMissing:
        return ObjectMissing("storage.object-missing", f"{self._address}/{key} does not exist.")

    def _vanished(self) -> StorageFailure:
        return StorageFailure("storage.vanished", f"There is no store at {self._address} yet.")
