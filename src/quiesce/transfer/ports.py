"""What moving data needs from disks and from the vault.

`quiesce.block` and `quiesce.vault` fulfil these without importing them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol

from quiesce.model.extent import Extent
from quiesce.model.failure import Evidence
from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import ConsistencyLabel, FreezeReport, Route


class BlockSource(Protocol):
    """A disk at one point in time, read-only. Thread-safe: reads from several threads overlap."""

    @property
    def size_bytes(self) -> int: ...

    def extents(self) -> Iterator[Extent]:
        """The whole disk from 0 to `size_bytes`, in order and without gaps. CLEAN appears only
        when the source was opened with a dirty bitmap."""

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset_bytes`; the range lies inside the disk.

        :raise StorageFailure: storage.io-error, storage.scratch-full (the snapshot broke),
            or VmFailure vm.gone when the connection ended.
        """

    def close(self) -> None: ...


class BlockTarget(Protocol):
    """A disk being restored. Thread-safe for ranges that do not overlap. New targets read as
    zeros, so zero extents need not be written; an overwritten one is zeroed first."""

    @property
    def size_bytes(self) -> int: ...

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        """All of this range will be written, in pieces and in no order: have its space ready, if
        that is of any use here. What is not reserved may be written as well.

        :raise RestoreFailure: restore.no-space
        """

    def write(self, offset_bytes: int, data: memoryview) -> None: ...

    def finish(self) -> None:
        """Make everything durable and put the target in place under its final name."""

    def abandon(self) -> tuple[Evidence, ...]:
        """Remove what was written; the final name was never touched. What stays behind, if it
        cannot be removed. Idempotent; never raises."""


class DiskWriter(Protocol):
    """One disk of a point being written. Chunks never put or zeroed are the base's, or zeros
    when there is no base. Thread-safe.

    The base's map is read as it is needed. Where it turns out to be damaged, any call raises
    VaultFailure vault.base-missing; `forget_base` and a full read go on from there."""

    @property
    def chunk_bytes(self) -> int: ...

    def put(self, first_chunk: int, data: memoryview) -> int:
        """Store a run of neighbouring chunks (each `chunk_bytes` long, the disk's last one may be
        shorter). Returns the bytes it newly occupies in the vault: 0 when all was there already.
        An all-zero chunk is recorded as a hole. `data` may be reused once this returns."""

    def zero(self, first_chunk: int, count: int) -> None:
        """Record whole chunks as holes."""

    def populated(self, first_chunk: int, count: int) -> Iterator[tuple[int, int]]:
        """(first, count) of the parts of a run where the base may hold data and `holds` can tell:
        not the end of a disk that has got another size. Roughly, for nothing is read for it."""

    def holds(self, chunk: int, data: memoryview) -> bool:
        """Whether the base has this content at the place of this chunk, nothing having been put
        or zeroed yet. Its map tells: none of its data are read."""

    def forget_base(self) -> None:
        """Begin anew without a base: nothing was put or zeroed, and unwritten chunks are zeros."""

    def finish(self) -> object:
        """All was put and zeroed: complete the map. Idempotent."""


class PointWriter(Protocol):
    """A recovery point in the making, idempotent by job id: opening it again after a crash finds
    every finished pack, and a job that was already committed is found as such."""

    @property
    def committed(self) -> RecoveryPoint | None:
        """The point, when this job id has committed one already."""

    def disk(self, name: str, size_bytes: int, *, base_generation: str = "") -> DiskWriter:
        """`base_generation`: take unwritten chunks from the point of this VM and disk that has
        this generation. A shrunk or grown disk takes what overlaps; growth reads as zeros.

        :raise VaultFailure: vault.base-missing
        """

    def commit(
        self,
        *,
        taken_at: datetime,
        route: Route,
        consistency: ConsistencyLabel,
        freeze: FreezeReport | None,
        disks: tuple[PointDisk, ...],
    ) -> RecoveryPoint:
        """Flush everything durably, then create the manifest: the point exists from here on."""

    def abandon(self) -> None:
        """Give up; finished packs stay as garbage for a later run or GC. Idempotent."""


class DiskReader(Protocol):
    """One disk of a committed point: random access, thread-safe."""

    @property
    def size_bytes(self) -> int: ...

    def extents(self) -> Iterator[Extent]:
        """DATA and ZERO runs over the whole disk, from the map alone."""

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """:raise VaultFailure: vault.corrupt-chunk, vault.pack-missing; names pack and range."""
