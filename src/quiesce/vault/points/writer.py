"""Writing a recovery point: its disks, then the manifest, last and at once.

Order of writes, each durable before the next: session record · packs · index segments · retention
locks, where the vault asks for them · manifest (put if absent: from here on the point exists) ·
session record deleted.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from quiesce.model.failure import Evidence, Failure, VaultFailure
from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import ConsistencyLabel, FreezeReport, Route
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.records import retire_session
from quiesce.vault.format.manifest import (
    DiskMapRef,
    Manifest,
    ManifestError,
    point_key,
    read_manifest,
    write_manifest,
)
from quiesce.vault.points.bases import Base
from quiesce.vault.points.disk_writer import VaultDiskWriter
from quiesce.vault.points.packing import PackStream, close_quietly
from quiesce.vault.stores.store import ObjectInfo, ObjectMissing, Put

HEARTBEAT = timedelta(hours=1)
SESSION_LIMIT = timedelta(hours=24)
"""A writer that has given no sign for so long is dead to garbage collection."""

Hold = Callable[
    [Sequence[DiskMapRef], Sequence[DiskMapRef], Callable[[], None]],
    contextlib.AbstractContextManager[None],
]
"""Locks what a point with these maps needs, as long as the vault asks for; then come the maps that
it was begun with, and what is to be called now and then meanwhile. Within, the point is put."""


class VaultPointWriter:
    """A point in the making; fulfils `quiesce.transfer.ports.PointWriter`."""

    def __init__(
        self,
        contents: Contents,
        *,
        vm: str,
        job_id: str,
        point_id: str,
        find_base: Callable[[str, str], Base],
        find_committed: Callable[[], RecoveryPoint | None],
        hold: Hold,
        compression_level: int,
    ) -> None:
        self._contents = contents
        self._vm = vm
        self._job_id = job_id
        self._point_id = point_id
        self._find_base = find_base
        self._find_committed = find_committed
        self._hold = hold
        self._disks: dict[str, VaultDiskWriter] = {}
        self._lock = threading.Lock()
        self._session = self._earlier = ""
        self._unread: frozenset[str] = frozenset()
        self._maybe_committed = False
        self._committed = find_committed()
        if self._committed is None:
            self._join()
        self._stream = PackStream(contents, compression_level, self._beat)

    @property
    def committed(self) -> RecoveryPoint | None:
        return self._committed

    def disk(self, name: str, size_bytes: int, *, base_generation: str = "") -> VaultDiskWriter:
        """:raise VaultFailure: vault.base-missing: read the disk in full instead"""
        if name in self._disks:
            raise ValueError(f"disk {name!r} is being written already")
        base = self._find_base(name, base_generation) if base_generation else None
        writer = VaultDiskWriter(self._contents, self._stream, name, size_bytes, base)
        self._disks[name] = writer
        return writer

    def commit(
        self,
        *,
        taken_at: datetime,
        route: Route,
        consistency: ConsistencyLabel,
        freeze: FreezeReport | None,
        disks: tuple[PointDisk, ...],
    ) -> RecoveryPoint:
        """
        :raise VaultFailure: vault.session-expired, vault.record-unread, vault.manifest-unfit
        :raise StorageFailure: as `Store.put`, and where the vault asks for retention locks
            storage.lock-denied, storage.clock-apart
        """
        if self._committed is not None:
            return self._committed
        maps = self._finish_disks(disks)
        self._stream.flush()
        self._contents.save_index()
        bases = [base for each in self._disks.values() if (base := each.base_map) is not None]
        with self._hold(maps, bases, self._beat):
            point = RecoveryPoint(
                id=self._point_id,
                vm=self._vm,
                job_id=self._job_id,
                taken_at=taken_at,
                committed_at=self._contents.clock(),
                route=route,
                consistency=consistency,
                freeze=freeze,
                disks=disks,
            )
            stored = self._readable(Manifest(point, maps))
            self._check_unread()
            self._check_session()
            # From here on, whatever the store answers: a put that failed may have taken effect.
            self._maybe_committed = True
            if self._contents.store.put(point_key(self._point_id), stored) is Put.ALREADY_THERE:
                # Our own manifest whose answer was lost, or the same job run twice at once: what is
                # there is whole, and it is this job's point.
                found = self._find_committed()
                if found is not None:
                    point = found
        self._committed = point
        self._leave()
        return point

    def abandon(self) -> None:
        if self._committed is None:
            close_quietly(self._stream, self._contents)
        self._leave()

    def _readable(self, manifest: Manifest) -> bytes:
        """The manifest as it is stored. A guest has said some of what it states, and a point whose
        manifest its own reader refuses would be none."""
        stored = write_manifest(self._contents.keys, manifest)
        try:
            read_manifest(self._contents.keys, self._point_id, stored)
        except ManifestError as inner:
            raise VaultFailure(
                "vault.manifest-unfit",
                "What is to be kept of this recovery point could not be read again.",
                evidence=[Evidence(str(inner), point_key(self._point_id))],
            ) from inner
        return stored

    def _finish_disks(self, disks: Sequence[PointDisk]) -> tuple[DiskMapRef, ...]:
        if {disk.name for disk in disks} != self._disks.keys() or len(disks) != len(self._disks):
            raise ValueError("the disks of the point are not those that were written")
        maps = []
        for disk in disks:
            writer = self._disks[disk.name]
            if disk.size_bytes != writer.size_bytes:
                raise ValueError(f"disk {disk.name!r} was written with another size")
            maps.append(writer.finish())
        return tuple(maps)

    def _join(self) -> None:
        """Tell garbage collection that this writer lives, then learn what the vault holds.

        In this order: whatever is marked as garbage after the record was stored is not deleted
        before this session ends, and whatever was marked before is seen and not referred to.

        An earlier try of the same job may still live, or have put a manifest that takes effect
        late: this session stands for what that one counts on, too.
        """
        contents = self._contents
        earlier = [s for s in contents.records.sessions() if s.point_id == self._point_id]
        self._beaten = now = contents.clock()
        self._started = min((now, *(session.started_at for session in earlier)))
        self._maybe_committed = bool(earlier)
        self._session = contents.records.put_session(self._point_id, self._started, now)
        try:
            # Later records of this session state it, too, however fast this clock is.
            self._started = min(self._started, self._check_session().modified_at)
            refresh = contents.refresh(scan_unindexed=bool(earlier))
            self._unread = refresh.unread_records
        except BaseException:
            # Else the record of a writer that never was holds back collection for 27 hours.
            with contextlib.suppress(Failure):
                contents.store.delete(self._session)
            raise
        # Only now: had this one failed to begin, they would still be needed.
        for session in earlier:
            retire_session(contents.store, session.key)

    def _beat(self) -> None:
        now = self._contents.clock()
        if not self._session or now - self._beaten < HEARTBEAT:
            return
        with self._lock:
            if not self._session or now - self._beaten < HEARTBEAT:
                return
            self._check_session()
            # A list that is late may not show the new record yet: the one before stays till then.
            old, self._earlier = self._earlier, self._session
            self._session = self._contents.records.put_session(self._point_id, self._started, now)
            self._beaten = now
        if old:
            retire_session(self._contents.store, old)

    def _check_session(self) -> ObjectInfo:
        """Garbage collection removes the record of a writer that it holds for dead before it
        deletes anything that writer could refer to. The record, when it is there.

        :raise VaultFailure: vault.session-expired
        """
        late = self._contents.clock() - self._beaten
        inner: Failure | None = None
        if late < SESSION_LIMIT:
            try:
                return self._contents.store.stat(self._session)
            except ObjectMissing as missing:
                inner = missing
        raise VaultFailure(
            "vault.session-expired",
            "This backup gave no sign for so long that the vault no longer keeps its place.",
            evidence=[Evidence(f"last sign {late} ago", self._session)],
            remedy="Run the backup again; what it has stored is used where it still exists.",
            retryable=True,
        ) from inner

    def _check_unread(self) -> None:
        """A mark or a record of damage that could not be read when this writer began holds nobody
        back: who cannot read it does not act on it. But one that was only out of reach for a while
        may tell of packs that this writer relies on, and others see it.

        :raise VaultFailure: vault.record-unread
        """
        if not self._unread:
            return
        still: set[str] = set()
        self._contents.records.garbage(still)
        self._contents.records.damage(still)
        back = self._unread - still
        if back:
            raise VaultFailure(
                "vault.record-unread",
                "What keeps damaged and abandoned data from being relied on could not be read when "
                "this backup began, and has changed since.",
                evidence=[Evidence("could not be read then", key) for key in sorted(back)[:8]],
                remedy="Run the backup again; what it has stored is used.",
                retryable=True,
            )

    def _leave(self) -> None:
        self._stream.close()
        # A record that stays only delays garbage collection, which removes it.
        with contextlib.suppress(Failure):
            if not self._maybe_committed or self._is_listed():
                for key in filter(None, (self._earlier, self._session)):
                    self._contents.store.delete(key)
        self._session = self._earlier = ""

    def _is_listed(self) -> bool:
        """Whether lists show the point already. Until then the record stands for it: collection
        must not see the one gone and the other not yet there."""
        key = point_key(self._point_id)
        return any(info.key == key for info in self._contents.store.list("points/"))
