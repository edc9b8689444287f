"""What the storage endpoint needs from whoever holds a snapshot open, and its blobs from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

from quiesce.model.extent import Extent

T = TypeVar("T")


class InThread(Protocol):
    """Runs something that may block or take long, outside the event loop.

    :raise Refusal: InternalError, when it could not be read or stored
    """

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


class SnapshotDisk(Protocol):
    """One disk of an open snapshot, read-only. Thread-safe: reads from several threads overlap."""

    @property
    def size_bytes(self) -> int: ...

    def extents(self) -> Iterator[Extent]:
        """The whole disk from 0 to `size_bytes`, in order and without gaps. CLEAN is what has not
        changed since the previous snapshot; it can be read all the same."""

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset_bytes`; the range lies inside the disk.

        :raise Failure: whatever keeps it from being read
        """

    def close(self) -> None: ...
