"""A raw image file as a source."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from quiesce.block.past_cache import ALIGNED_BYTES
from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import Evidence, StorageFailure


class FileSource:
    """A raw image or block device that nobody writes; fulfils `transfer.ports.BlockSource`.

    Holes of a sparse file are ZERO, everything else is DATA. Aligned parts are read past the page
    cache where the file system can do that: a disk is read once, copying it through the cache took
    half of a rescan's processor time and evicts what others need.

    :raise StorageFailure: storage.io-error
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._direct = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._size = os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise self._failure("it could not be opened", error) from error
        with suppress(OSError):
            same = f"/proc/self/fd/{self._descriptor}"
            self._direct = os.open(same, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)

    @property
    def size_bytes(self) -> int:
        return self._size

    def extents(self) -> Iterator[Extent]:
        position = 0
        while position < self._size:
            data = self._seek(position, os.SEEK_DATA)
            if data > position:
                yield Extent(position, data - position, ExtentKind.ZERO)
            hole = self._seek(data, os.SEEK_HOLE) if data < self._size else data
            if hole > data:
                yield Extent(data, hole - data, ExtentKind.DATA)
            position = hole

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        done = self._read_past_cache(offset_bytes, buffer)
        buffer, offset_bytes = buffer[done:], offset_bytes + done
        while buffer:
            try:
                count = os.preadv(self._descriptor, [buffer], offset_bytes)
            except OSError as error:
                raise self._failure(f"read at byte {offset_bytes} failed", error) from error
            if count == 0:
                raise self._failure(f"it ends before byte {offset_bytes}", None)
            buffer = buffer[count:]
            offset_bytes += count

    def _read_past_cache(self, offset_bytes: int, buffer: memoryview) -> int:
        """Bytes read: none where anything is not aligned or O_DIRECT is refused."""
        done = 0
        whole = len(buffer) // ALIGNED_BYTES * ALIGNED_BYTES
        if self._direct < 0 or offset_bytes % ALIGNED_BYTES:
            return 0
        try:
            while done < whole and done % ALIGNED_BYTES == 0:
                count = os.preadv(self._direct, [buffer[done:whole]], offset_bytes + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            if error.errno != errno.EINVAL:  # which says: not aligned as this device wants it
                raise self._failure(f"read at byte {offset_bytes} failed", error) from error
        return done

    def close(self) -> None:
        for descriptor in (self._direct, self._descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._direct = self._descriptor = -1

    def _seek(self, position: int, what: int) -> int:
        try:
            return min(os.lseek(self._descriptor, position, what), self._size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind `position`
                return self._size
            if error.errno == errno.EINVAL:  # a block device or file system that tells no holes
                return position if what == os.SEEK_DATA else self._size
            raise self._failure(f"asking for holes at byte {position} failed", error) from error

    def _failure(self, fact: str, error: OSError | None) -> StorageFailure:
        return StorageFailure(
            "storage.io-error",
            f"The image {self._path} could not be read.",
            evidence=[Evidence(fact, str(self._path), raw=str(error or ""))],
        )
