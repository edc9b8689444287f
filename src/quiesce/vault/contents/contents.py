"""What a vault holds, as one process knows it: the index kept in step with the store."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

from numpy.typing import NDArray

from quiesce.model.failure import Failure, StorageFailure, VaultFailure
from quiesce.vault.contents.index import ChunkIndex
from quiesce.vault.contents.opening import Opener, Room, newer
from quiesce.vault.contents.records import Records
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.pack import (
    Kind,
    NewerPackError,
    PackError,
    open_footer,
    pack_key,
    pack_name,
    read_footer,
)
from quiesce.vault.format.sealed import NewerSealError, SealError, content_name, read_sealed, seal
from quiesce.vault.format.segment import (
    SEGMENT_ROWS,
    PackedRows,
    SegmentError,
    join_segments,
    read_segment,
    rows_of_footer,
    write_segment,
)
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import UNREADABLE, ObjectMissing, Store, delete_if_allowed

Clock = Callable[[], datetime]
_INDEX_KIND = "index"
_LOOKS = 256


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Refresh:
    """What a look at the store found wrong with the index itself.

    `damaged_segments` could not be read; `unindexed` packs are told of by no readable segment,
    `unreadable_packs` are such packs whose footer cannot be read either. `unread_records`: marks
    and records of damage that could not be read, and were passed over.
    """

    damaged_segments: tuple[str, ...]
    unindexed: int
    unreadable_packs: tuple[str, ...]
    unread_records: frozenset[str]


class Contents:
    """Index, keys and store of one open vault. Thread-safe."""

    def __init__(self, store: Store, keys: VaultKeys, chunk_bytes: int, clock: Clock) -> None:
        self.store = store
        self.keys = keys
        self.chunk_bytes = chunk_bytes
        self.clock = clock
        self.index = ChunkIndex()
        self.records = Records(store, keys, clock)
        self._segments: dict[str, frozenset[bytes]] = {}
        self._bad_segments: dict[str, str] = {}
        self._all_told = False
        """Whether what the bad segments told of stored packs was found again in their footers."""
        self._refreshing = threading.Lock()
        self._saving = threading.Lock()
        self._opener = Opener(store, keys, self.index, chunk_bytes)

    def through(self, store: Store) -> Contents:
        """The same contents, read through another view of their store, such as a meter."""
        other = copy.copy(self)
        other.store = store
        other.records = Records(store, self.keys, self.clock)
        other._opener = Opener(store, self.keys, self.index, self.chunk_bytes)
        return other

    # ── keeping the index in step ────────────────────────────────────────────────────────────

    def refresh(self, *, scan_unindexed: bool = False) -> Refresh:
        """Learn what other writers have added and collected meanwhile.

        With `scan_unindexed`, or when a segment cannot be read, the footers of packs that no
        readable segment tells of are read too: this finds the packs of a writer that was killed
        and rebuilds a lost or damaged index.
        """
        with self._refreshing:
            # Marks before packs: a pack marked and deleted in between is then merely absent.
            unread: set[str] = set()
            marks = self.records.garbage(unread)
            garbage = frozenset(pack for mark in marks for pack in mark.packs)
            damage = self.records.damage(unread)
            for _ in range(3):
                if self._load_segments():
                    break
            # A pack that is stored from here on may be missing from the list, and is there.
            known = self.index.count_packs()
            sizes = self.pack_sizes()
            indexed = frozenset().union(*self._segments.values())
            self._look_by_name(indexed, sizes)
            scanned = 0
            unreadable: tuple[str, ...] = ()
            if scan_unindexed or self._bad_segments:
                scanned, unreadable = self._scan(sizes, garbage)
                self._all_told = not unreadable
            self.index.observe(
                sizes,
                packs=known,
                indexed=indexed,
                garbage=garbage,
                damaged=frozenset(
                    (pack, chunk) for pack, chunks in damage.items() for chunk in chunks
                ),
            )
            bad = tuple(sorted(self._bad_segments))
            return Refresh(bad, scanned, unreadable, frozenset(unread))

    def _look_by_name(self, indexed: frozenset[bytes], sizes: dict[bytes, int]) -> None:
        """A list may be late, a look by name is not: what is told of and not listed is looked for,
        before a backup or a restore fails for a pack that is there. First of all what no segment
        tells of yet: were it forgotten, none ever would, though a manifest may rely on it."""
        unsaved = [pack.name for pack in self.index.unsaved() if pack.name not in sizes]
        for name in chain(unsaved, islice(indexed - sizes.keys(), _LOOKS)):
            with contextlib.suppress(ObjectMissing):
                sizes[name] = self.store.stat(pack_key(name)).size_bytes

    def pack_sizes(self) -> dict[bytes, int]:
        sizes = {}
        for info in self.store.list("packs/"):
            name = pack_name(info.key)
            if name is not None:
                sizes[name] = info.size_bytes
        return sizes

    def _load_segments(self) -> bool:
        """Whether all listed segments were there: one may be merged away while we look."""
        listed = {info.key for info in self.store.list("index/")}
        complete = True
        for key in listed - self._segments.keys() - self._bad_segments.keys():
            try:
                names, rows = read_segment(self.open_segment(key))
            except ObjectMissing:
                complete = False
                continue
            except NewerSealError as inner:
                raise newer(key, inner) from inner
            except (SealError, SegmentError) as inner:
                self._bad_segments[key] = str(inner)
                continue
            self.index.add_segment(names, rows)
            self._segments[key] = frozenset(name for name, _ in names)
        for gone in self._segments.keys() - listed:
            del self._segments[gone]
        for gone in self._bad_segments.keys() - listed:
            del self._bad_segments[gone]
        return complete

    def _scan(
        self, sizes: dict[bytes, int], garbage: frozenset[bytes]
    ) -> tuple[int, tuple[str, ...]]:
        scanned = 0
        unreadable = []
        for name, size in sizes.items():
            if self.index.knows(name):
                continue
            try:
                entries = read_footer(self.keys, self.store, name, size)
            except ObjectMissing:
                continue
            except NewerPackError as inner:
                raise newer(pack_key(name), inner) from inner
            except PackError:
                unreadable.append(pack_key(name))
                continue
            except StorageFailure as failure:
                if failure.code not in UNREADABLE:
                    raise
                unreadable.append(pack_key(name))
                continue
            # What is about to be collected is read if need be, but not indexed anew.
            rows = PackedRows(name, size, tuple(entries))
            self.index.add_pack(rows, saved=name in garbage)
            scanned += 1
        return scanned, tuple(sorted(unreadable))

    def segments(self) -> dict[str, frozenset[bytes]]:
        """Readable segments and the packs that each tells of."""
        return dict(self._segments)

    def open_segment(self, key: str) -> bytes:
        """:raise SealError: what is wrong · :raise ObjectMissing: merged away meanwhile"""
        return read_sealed(self.store, self.keys, _INDEX_KIND, "", key)

    def save_index(self) -> None:
        """Store segments that tell of every pack known here, then drop damaged ones, as far as
        they may be deleted; none while a pack's footer cannot be read either, as when the whole
        disk fails to be read for a while.

        When this returns, every pack that any writer of this process has finished is told of by
        a stored segment.
        """
        with self._saving:
            packs = self.index.unsaved()
            for group in _groups(packs):
                key = self.put_segment(write_segment(group))
                self._segments[key] = frozenset(pack.name for pack in group)
                self.index.saved(group)
            for key in list(self._bad_segments) if self._all_told else ():
                if delete_if_allowed(self.store, key) is None:
                    self._bad_segments.pop(key, None)

    def put_segment(self, plain: bytes) -> str:
        """Store a segment; its key."""
        stored = seal(self.keys, _INDEX_KIND, "", plain)
        key = f"index/{content_name(stored)}"
        self.store.put(key, stored)
        return key

    def replace_segment(self, key: str) -> None:
        """Of a segment that this process has read whole and that is damaged in the store now: a new
        one tells the same, from the copy in a cache, or as far as the footers of its packs tell
        it. Holding the lease, so that no pack goes meanwhile."""
        told = self._segments.get(key, frozenset())
        parts = list(self._told_anew(key, told))
        if parts:
            new = self.put_segment(join_segments(parts, frozenset()))
            self._segments[new] = frozenset(name for names, _ in parts for name, _ in names)
        self._segments.pop(key, None)
        if delete_if_allowed(self.store, key) is not None:
            self._bad_segments[key] = "damaged, and may not be deleted"

    def _told_anew(
        self, key: str, packs: Iterable[bytes]
    ) -> Iterator[tuple[list[tuple[bytes, int]], NDArray[Any]]]:
        with contextlib.suppress(ObjectMissing, SealError, SegmentError):
            yield read_segment(self.open_segment(key))
            return
        for name in packs:
            try:
                size = self.store.stat(pack_key(name)).size_bytes
                rows = rows_of_footer(*open_footer(self.keys, self.store, name, size))
            except (ObjectMissing, PackError):
                continue
            except StorageFailure as failure:
                if failure.code not in UNREADABLE:
                    raise
                continue
            yield [(name, size)], rows

    # ── reading blobs ────────────────────────────────────────────────────────────────────────

    def open_blobs(self, kind: Kind, ids: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """(id, content) of each blob once, opened and proven, in the order they lie in packs.
        Neighbours are read at once, so that a few MiB are in memory at a time.

        :raise VaultFailure: vault.pack-missing, vault.corrupt-chunk; names pack and range
        """
        for blob, content in self.open_views(kind, ids):
            yield blob, bytes(content)

    def open_views(
        self, kind: Kind, ids: Iterable[bytes], room: Room = lambda ids: None
    ) -> Iterator[tuple[bytes, Buffer]]:
        """As `open_blobs`, without a copy: a view keeps all of its frame in memory, or is a part
        of `room`."""
        waiting = dict.fromkeys(ids)
        try:
            for blob, content in self._opener.open(kind, list(waiting), room):
                del waiting[blob]
                yield blob, content
            return
        except Failure as failure:
            if failure.code not in ("vault.pack-missing", "storage.object-missing"):
                raise
        # Another process may have moved things or lost an index segment: look again, once.
        self.refresh(scan_unindexed=True)
        try:
            yield from self._opener.open(kind, waiting, room)
        except ObjectMissing as inner:
            raise VaultFailure(
                "vault.pack-missing",
                "A pack vanished from the vault while it was being read.",
                evidence=inner.evidence,
            ) from inner

    def read_blob(self, kind: Kind, blob: bytes) -> bytes:
        return dict(self.open_blobs(kind, [blob]))[blob]


def _groups(packs: Sequence[PackedRows]) -> list[list[PackedRows]]:
    """Packs in groups of at most `SEGMENT_ROWS` rows (each pack has far fewer)."""
    groups: list[list[PackedRows]] = []
    rows = 0
    for pack in packs:
        if not groups or rows + len(pack.entries) > SEGMENT_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(pack)
        rows += len(pack.entries)
    return groups
