"""What vault tests share: a small vault with a fake clock, and disks as plain bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from quiesce.model.failure import Failure
from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import Consistency, ConsistencyLabel, FreezeReport, MountFreeze, Route
from quiesce.vault import KeyFile, Vault
from quiesce.vault.contents.contents import Clock
from quiesce.vault.format.config import CHUNK_BYTES
from quiesce.vault.format.diskmap import ids_of
from quiesce.vault.format.pack import Kind, pack_key
from quiesce.vault.points.disk_writer import VaultDiskWriter
from quiesce.vault.points.reader import DiskMap
from quiesce.vault.points.writer import VaultPointWriter
from quiesce.vault.stores.store import Store

KEY = KeyFile(bytes(range(32)))
LABEL = ConsistencyLabel(Consistency.CRASH, "no agent")
RUN_CHUNKS = 32
"""The chunks that a backup puts at once."""
FREEZE = FreezeReport((MountFreeze("/", "ext4", 1.5, 20.25),), True, 10.0)


class FakeClock:
    """Starts at the real time, since a store's own times are real; moves only when told."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.written: dict[tuple[str, str], datetime] = {}
        """When an object of a store that goes by this clock was put, by address and key."""

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **kind: float) -> None:
        self.now += timedelta(**kind)

    def seen_by(self, **wrong_by: float) -> Clock:
        """The same time by the clock of a machine that is wrong by so much."""
        return lambda: self.now + timedelta(**wrong_by)


def random_bytes(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def turned(data: bytes, at: int) -> bytes:
    """With one bit turned in the byte `at`, counted from the end when it is negative."""
    spoilt = bytearray(data)
    spoilt[at] ^= 1
    return bytes(spoilt)


def disk_of(*chunks: int, tail: int = 0) -> bytes:
    """A disk, one number a chunk: 0 is zeros, any other seeds its own bytes."""
    parts = [random_bytes(n, CHUNK_BYTES) if n else bytes(CHUNK_BYTES) for n in chunks]
    return b"".join(parts) + (random_bytes(999, tail) if tail else b"")


def runs_of(chunks: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of neighbours, as many at once as a backup puts."""
    left = sorted(chunks)
    while left:
        count = 1
        while count < min(RUN_CHUNKS, len(left)) and left[count] == left[0] + count:
            count += 1
        yield left[0], count
        left = left[count:]


def put_all(target: VaultDiskWriter, disk: bytes, *, pause: Callable[[], None] = int) -> None:
    """Write a whole disk chunk by chunk, with a pause after each."""
    size = target.chunk_bytes
    for at in range(0, len(disk), size):
        target.put(at // size, memoryview(disk)[at : at + size])
        pause()


class Scene:
    """A vault and the short ways in and out of it."""

    def __init__(self, vault: Vault, clock: FakeClock) -> None:
        self.vault = vault
        self.clock = clock

    @classmethod
    def create(cls, store: Store, clock: FakeClock) -> Scene:
        return cls(Vault.create(store, KEY, clock=clock), clock)

    @classmethod
    def at(cls, store: Store, clock: FakeClock) -> Scene:
        """The vault that is in this store."""
        return cls(Vault.open(store, KEY, clock=clock), clock)

    @property
    def store(self) -> Store:
        return self.vault.contents.store

    @property
    def folder(self) -> Path:
        return Path(self.store.address)

    def reopened(self, store: Store | None = None) -> Scene:
        """The same vault as another process sees it."""
        return Scene.at(store or self.store, self.clock)

    def backup(
        self,
        job: str,
        disks: Mapping[str, bytes] | bytes,
        *,
        vm: str = "web",
        base: str = "",
        changed: Mapping[str, set[int]] | None = None,
    ) -> RecoveryPoint:
        """Back up whole disks; with `base`, only the chunks in `changed` travel."""
        if isinstance(disks, bytes):
            disks = {"sda": disks}
        writer = self.vault.writer(vm, job)
        if writer.committed is not None:
            return writer.committed
        try:
            return self._written(writer, job, disks, base, changed or {})
        except Failure:
            writer.abandon()  # as a job does; who dies has no time for it
            raise

    def _written(
        self,
        writer: VaultPointWriter,
        job: str,
        disks: Mapping[str, bytes],
        base: str,
        changed: Mapping[str, set[int]],
    ) -> RecoveryPoint:
        rows = []
        for name, data in disks.items():
            target = writer.disk(name, len(data), base_generation=base)
            view = memoryview(data)
            stored = 0
            size = target.chunk_bytes
            chunks = set(range(-(-len(data) // size)))
            if base:
                chunks &= changed.get(name, set())
            for first, count in runs_of(chunks):
                stored += target.put(first, view[first * size : (first + count) * size])
            rows.append(PointDisk(name, len(data), "raw", job, bool(base), "", len(data), stored))
        return writer.commit(
            taken_at=self.clock(),
            route=Route.HOST,
            consistency=LABEL,
            freeze=FREEZE,
            disks=tuple(rows),
        )

    def commit(
        self, writer: VaultPointWriter, size_bytes: int, generation: str = "g"
    ) -> RecoveryPoint:
        """A point of one disk, which was written in full."""
        return writer.commit(
            taken_at=self.clock(),
            route=Route.HOST,
            consistency=LABEL,
            freeze=None,
            disks=(PointDisk("sda", size_bytes, "raw", generation, False),),
        )

    def restore(self, point: RecoveryPoint | str, disk: str = "sda") -> bytes:
        point_id = point if isinstance(point, str) else point.id
        reader = self.vault.reader(point_id, disk)
        data = bytearray(reader.size_bytes)
        reader.read_into(0, memoryview(data))
        return bytes(data)

    def place_of(self, vm: str, chunk: int) -> tuple[str, int]:
        """The pack that a chunk of the VM's oldest point lies in, and where in it."""
        contents = self.vault.contents
        ref = self.vault.manifest(self.vault.points(vm)[0].id).maps[0]
        place = contents.index.locate(DiskMap(contents, ref).chunk(chunk))
        assert place is not None
        return pack_key(contents.index.name_of(place.pack)), place.offset

    def map_part_of(self, vm: str, *, leaf: bool = False) -> tuple[str, int]:
        """The pack that the first node of the VM's oldest point lies in, or the first leaf below
        it, and a place within its bytes there."""
        contents = self.vault.contents
        blob = self.vault.manifest(self.vault.points(vm)[0].id).maps[0].nodes[0]
        if leaf:
            blob = next(ids_of(contents.read_blob(Kind.MAP, blob)))
        place = contents.index.locate(blob)
        assert place is not None
        return pack_key(contents.index.name_of(place.pack)), place.offset + 3

    def delete(self, *points: RecoveryPoint) -> None:
        self.vault.execute(self.vault.plan_deletion([point.id for point in points]))

    def collect_fully(self) -> None:
        """Mark, wait until everything is ripe, delete."""
        for _ in range(3):
            self.clock.advance(hours=30)
            self.vault.collect(self.vault.plan_collect())

    def packs(self) -> list[Path]:
        return sorted((self.folder / "packs").glob("*/*"))
