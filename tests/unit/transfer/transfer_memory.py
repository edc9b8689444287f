"""A vault and disks in memory, to the letter of `transfer.ports`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import VaultFailure
from quiesce.model.point import RecoveryPoint
from quiesce.model.snapshot import (
    Consistency,
    ConsistencyLabel,
    Route,
    SessionDisk,
    Snapshot,
    SnapshotSession,
)

CHUNK = 128 * 1024


class FakeClock:
    """Seconds, which pass only when somebody waits."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._began = self._now
        self._lock = Lock()

    def __call__(self) -> float:
        return self._now - self._began

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


@dataclass
class MemorySource:
    """Reads from `content`; extents as told; counts what travelled."""

    content: bytes
    told: Sequence[Extent]
    on_read: Callable[[int], None] = lambda _: None
    read_bytes: int = 0
    closed: bool = False
    _lock: Any = field(default_factory=Lock)

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def extents(self) -> Iterator[Extent]:
        return iter(self.told)

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        self.on_read(offset_bytes)
        part = self.content[offset_bytes : offset_bytes + len(buffer)]
        assert len(part) == len(buffer), "read beyond the disk's end"
        buffer[:] = part
        with self._lock:
            self.read_bytes += len(buffer)

    def close(self) -> None:
        self.closed = True


class MemoryDisk:
    """DiskWriter, and DiskReader once the point is committed."""

    chunk_bytes = CHUNK

    def __init__(self, vault: MemoryVault, size_bytes: int, base: bytes) -> None:
        self._vault = vault
        self.size_bytes = size_bytes
        self.bad_chunks: frozenset[int] = frozenset()
        """Where the base's map cannot be read, as it turns out late."""
        self.content = bytearray(base[:size_bytes].ljust(size_bytes, b"\0"))

    def put(self, first_chunk: int, data: memoryview) -> int:
        start = first_chunk * CHUNK
        end = start + len(data)
        assert start < end <= self.size_bytes
        assert len(data) % CHUNK == 0 or end == self.size_bytes, "not whole chunks"
        new = 0
        for at in range(start, end, CHUNK):
            self._vault.on_put(at // CHUNK)
            copy = bytes(data[at - start : at - start + CHUNK])
            self.content[at : at + len(copy)] = copy
            with self._vault.lock:
                if copy not in self._vault.chunks and copy.strip(b"\0") != b"":
                    new += len(copy)
                self._vault.chunks.add(copy)
        return new

    def zero(self, first_chunk: int, count: int) -> None:
        start = first_chunk * CHUNK
        end = min(start + count * CHUNK, self.size_bytes)
        assert count > 0
        assert start < end
        self.content[start:end] = bytes(end - start)

    def populated(self, first_chunk: int, count: int) -> Iterator[tuple[int, int]]:
        for chunk in range(first_chunk, first_chunk + count):
            if any(self.content[chunk * CHUNK : (chunk + 1) * CHUNK]):
                yield chunk, 1

    def holds(self, chunk: int, data: memoryview) -> bool:
        self._rely_on(chunk)
        return self.content[chunk * CHUNK : (chunk + 1) * CHUNK] == data

    def forget_base(self) -> None:
        self.bad_chunks = frozenset()
        self.content = bytearray(self.size_bytes)

    def finish(self) -> None:
        for chunk in self.bad_chunks:
            self._rely_on(chunk)

    def _rely_on(self, chunk: int) -> None:
        if chunk in self.bad_chunks:
            raise VaultFailure("vault.base-missing", "its map is damaged")

    def extents(self) -> Iterator[Extent]:
        for start in range(0, self.size_bytes, CHUNK):
            part = self.content[start : start + CHUNK]
            kind = ExtentKind.DATA if any(part) else ExtentKind.ZERO
            yield Extent(start, len(part), kind)

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        buffer[:] = self.content[offset_bytes : offset_bytes + len(buffer)]


class MemoryVault:
    """Both the vault and its point writers: `writer(job)` begins a point."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.chunks: set[bytes] = set()
        self.generations: dict[tuple[str, str], bytes] = {}
        self.points: dict[str, RecoveryPoint] = {}
        self.on_put: Callable[[int], None] = lambda _: None
        self.bad_chunks: frozenset[int] = frozenset()

    def writer(self, job_id: str) -> MemoryWriter:
        return MemoryWriter(self, job_id)


class MemoryWriter:
    def __init__(self, vault: MemoryVault, job_id: str) -> None:
        self._vault = vault
        self._job_id = job_id
        self.disks: dict[str, MemoryDisk] = {}
        self.abandoned = False

    @property
    def committed(self) -> RecoveryPoint | None:
        return self._vault.points.get(self._job_id)

    def disk(self, name: str, size_bytes: int, *, base_generation: str = "") -> MemoryDisk:
        base = b""
        if base_generation:
            try:
                base = self._vault.generations[name, base_generation]
            except KeyError:
                raise VaultFailure("vault.base-missing", "no such generation") from None
        self.disks[name] = MemoryDisk(self._vault, size_bytes, base)
        if base_generation:
            self.disks[name].bad_chunks = self._vault.bad_chunks
        return self.disks[name]

    def commit(self, **facts: Any) -> RecoveryPoint:
        assert not self.abandoned
        for disk in facts["disks"]:
            self._vault.generations[disk.name, disk.generation] = bytes(
                self.disks[disk.name].content
            )
        point = RecoveryPoint(
            id=f"point-{self._job_id}",
            vm="vm",
            job_id=self._job_id,
            committed_at=datetime.now(UTC),
            **facts,
        )
        self._vault.points[self._job_id] = point
        return point

    def abandon(self) -> None:
        self.abandoned = True


def snapshot_of(*disks: SessionDisk) -> Snapshot:
    session = SnapshotSession("task", datetime(2026, 1, 2, tzinfo=UTC), Route.HOST, disks)
    return Snapshot(session, ConsistencyLabel(Consistency.FILE_SYSTEM, "no scripts"), None)


def session_disk(name: str, size_bytes: int, **more: Any) -> SessionDisk:
    return SessionDisk(name, size_bytes, Path("/nowhere"), name, **more)
