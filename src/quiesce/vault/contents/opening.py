"""From ids to proven plain bytes: read neighbours at once, decrypt, unpack, compare with the id."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quiesce.model.failure import Evidence, Failure, StorageFailure, VaultFailure
from quiesce.vault.contents.index import ChunkIndex
from quiesce.vault.contents.index_runs import Location
from quiesce.vault.contents.sectors import read_each
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.pack import (
    HEAD_BYTES,
    Codec,
    Entry,
    Kind,
    NewerPackError,
    PackError,
    blob_id,
    blob_in,
    head_cipher,
    open_range,
    pack_key,
)
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import UNREADABLE, Store

_CIPHERS = 1024
_GAP_BYTES = 256 * 1024
"""A hole that is read along rather than skipped. Threads of one backup store their segments side
by side; measured: a restore takes 40 % of the reads for a quarter more bytes."""
_READ_BYTES = 2 * 1024 * 1024
_FEW = 4
_KEPT_FRAMES = 16
"""Frames kept of at most 1 MiB each, when only `_FEW` blobs are asked for at once: small reads
come back to the same frame, long ones do not."""

Opened = tuple[bytes, Buffer]
Room = Callable[[Sequence[bytes]], memoryview | None]
"""Where these chunks are wanted one behind the other, if they are: a frame is unpacked there."""
Place = tuple[Location, bytes]
Item = TypeVar("Item")


def newer(what: str, inner: ValueError) -> VaultFailure:
    return VaultFailure(
        "vault.version-unsupported",
        f"{what} was written by a newer Quiesce than this one.",
        evidence=[Evidence(str(inner), what)],
        remedy="Upgrade Quiesce on this machine; nothing was changed.",
    )


class Opener:
    """Opens blobs of one vault wherever the index finds them. Thread-safe."""

    def __init__(self, store: Store, keys: VaultKeys, index: ChunkIndex, chunk_bytes: int) -> None:
        self._store = store
        self._keys = keys
        self._index = index
        self._chunk_bytes = chunk_bytes
        self._ciphers: OrderedDict[int, AESGCM] = OrderedDict()
        self._frames: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def open(
        self, kind: Kind, ids: Iterable[bytes], room: Room = lambda ids: None
    ) -> Iterator[Opened]:
        """(id, content) of each blob, in the order they lie in packs. A frame is opened once for
        all of its chunks that are wanted; into `room`, where it is wanted whole.

        :raise VaultFailure: vault.pack-missing, vault.corrupt-chunk
        :raise ObjectMissing: a pack vanished meanwhile
        """
        places: list[Place] = []
        for blob in ids:
            location = self._index.locate(blob)
            if location is None:
                raise self._unplaced(blob)
            places.append((location, blob))
        if len(places) <= _FEW:
            places, kept = self._kept(places)
            for location, blob, frame in kept:
                try:
                    content = self._prove(kind, location, blob, frame)
                except VaultFailure as failure:
                    content = self._open_other_copy(kind, location, blob, failure)
                yield blob, content
        places.sort()
        few = len(places) <= _FEW
        for _, same in groupby(places, lambda place: place[0].pack):
            for group in neighbours(list(same), _where):
                yield from self._open_group(kind, group, None if few else room)

    def _open_group(
        self, kind: Kind, group: Sequence[Place], room: Room | None
    ) -> Iterator[Opened]:
        first, last = group[0][0], group[-1][0]
        key = pack_key(self._index.name_of(first.pack))
        try:
            stored = memoryview(
                self._store.get_range(key, first.offset, last.offset + last.length - first.offset)
            )
        except StorageFailure as failure:
            if failure.code not in UNREADABLE:
                raise
            yield from self._open_around(kind, group, key, room)
            return
        for offset, same in groupby(group, lambda place: place[0].offset):
            members = list(same)
            start = offset - first.offset
            piece = stored[start : start + members[0][0].length]
            yield from self._open_range(kind, members, piece, room)

    def _open_around(
        self, kind: Kind, group: Sequence[Place], key: str, room: Room | None
    ) -> Iterator[Opened]:
        """A group that cannot be read at once."""
        ranges = [list(same) for _, same in groupby(group, lambda place: place[0].offset)]
        read = read_each(self._store, key, (_where(members[0]) for members in ranges))
        for members, stored in zip(ranges, read, strict=True):
            if isinstance(stored, StorageFailure):
                for place, blob in members:
                    failure = self._corrupt(kind, place, blob, stored)
                    yield blob, self._open_other_copy(kind, place, blob, failure)
            else:
                yield from self._open_range(kind, members, stored, room)

    def _open_range(
        self, kind: Kind, members: Sequence[Place], stored: Buffer, room: Room | None
    ) -> Iterator[Opened]:
        """Blobs that share a range of their pack. Without `room`, the frame is kept."""
        location, blob = members[0]
        in_order = all(place.place == number for number, (place, _) in enumerate(members))
        wanted = room([blob for _, blob in members]) if room and in_order else None
        try:
            plain = self._unpack(kind, location, blob, stored, wanted)
        except VaultFailure as failure:
            for place, blob in members:
                yield blob, self._open_other_copy(kind, place, blob, failure)
            return
        if room is None and location.codec is Codec.FRAME:
            self._keep(location, bytes(plain))
        for place, blob in members:
            try:
                content = self._prove(kind, place, blob, plain)
            except VaultFailure as failure:
                content = self._open_other_copy(kind, place, blob, failure)
            yield blob, content

    def _unpack(
        self,
        kind: Kind,
        place: Location,
        blob: bytes,
        stored: Buffer,
        room: memoryview | None = None,
    ) -> Buffer:
        try:
            return open_range(self.cipher(place.pack), _entry(kind, place, blob), stored, room)
        except PackError as inner:
            with self._lock:  # the head may have been read wrongly: whoever tries again reads it
                self._ciphers.pop(place.pack, None)
            raise self._corrupt(kind, place, blob, inner) from inner

    def _prove(self, kind: Kind, place: Location, blob: bytes, plain: Buffer) -> Buffer:
        try:
            content = blob_in(_entry(kind, place, blob), plain, self._chunk_bytes)
            if blob_id(self._keys, kind, content) != blob:
                raise PackError("content does not have its id")
        except PackError as inner:
            raise self._corrupt(kind, place, blob, inner) from inner
        return content

    def _open_other_copy(
        self, kind: Kind, bad: Location, blob: bytes, failure: VaultFailure
    ) -> Buffer:
        """Any copy that opens serves.

        :raise VaultFailure: `failure`, when none does
        """
        for place in self._index.copies(blob):
            if place == bad:
                continue
            key = pack_key(self._index.name_of(place.pack))
            with contextlib.suppress(Failure):
                stored = self._store.get_range(key, place.offset, place.length)
                return self._prove(kind, place, blob, self._unpack(kind, place, blob, stored))
        raise failure

    def cipher(self, pack: int) -> AESGCM:
        """:raise VaultFailure: vault.corrupt-chunk, vault.version-unsupported"""
        with self._lock:
            cipher = self._ciphers.get(pack)
            if cipher is not None:
                self._ciphers.move_to_end(pack)
                return cipher
        key = pack_key(self._index.name_of(pack))
        try:
            cipher = head_cipher(self._keys, self._store.get_range(key, 0, HEAD_BYTES))
        except NewerPackError as inner:
            raise newer(key, inner) from inner
        except (PackError, StorageFailure) as inner:
            if isinstance(inner, StorageFailure) and inner.code not in UNREADABLE:
                raise
            raise VaultFailure(
                "vault.corrupt-chunk",
                f"The header of {key} is damaged.",
                evidence=[Evidence(str(inner), f"{self._store.address}/{key}")],
                retryable=_passes(inner),
            ) from inner
        with self._lock:
            self._ciphers[pack] = cipher
            if len(self._ciphers) > _CIPHERS:
                self._ciphers.popitem(last=False)
        return cipher

    def _kept(self, places: list[Place]) -> tuple[list[Place], list[tuple[Location, bytes, bytes]]]:
        """Places that must be read, and those whose frame is at hand."""
        rest, kept = [], []
        with self._lock:
            for location, blob in places:
                frame = self._frames.get((location.pack, location.offset))
                if frame is None:
                    rest.append((location, blob))
                else:
                    self._frames.move_to_end((location.pack, location.offset))
                    kept.append((location, blob, frame))
        return rest, kept

    def _keep(self, location: Location, frame: bytes) -> None:
        with self._lock:
            self._frames[location.pack, location.offset] = frame
            if len(self._frames) > _KEPT_FRAMES:
                self._frames.popitem(last=False)

    def _corrupt(
        self, kind: Kind, place: Location, blob: bytes, inner: PackError | StorageFailure
    ) -> VaultFailure:
        key = pack_key(self._index.name_of(place.pack))
        return VaultFailure(
            "vault.corrupt-chunk",
            f"A {'chunk' if kind is Kind.CHUNK else 'map part'} in {key} is damaged.",
            evidence=[
                Evidence(
                    f"bytes {place.offset}–{place.offset + place.length}: {inner}",
                    f"{self._store.address}/{key}",
                    raw=blob.hex(),
                )
            ],
            retryable=_passes(inner),
        )

    def _unplaced(self, blob: bytes) -> VaultFailure:
        missing = self._index.missing_packs()
        evidence = [Evidence("no stored pack holds it whole", "index", raw=blob.hex())]
        evidence += [
            Evidence("missing or truncated", f"{self._store.address}/{pack_key(name)}")
            for name in missing[:8]
        ]
        return VaultFailure(
            "vault.pack-missing",
            "A pack that this recovery point needs is missing from the vault.",
            evidence=evidence,
        )


def _passes(inner: PackError | StorageFailure) -> bool:
    """What cannot be read now may be readable later; what is damaged stays so."""
    return isinstance(inner, StorageFailure) and inner.retryable


def _where(place: Place) -> tuple[int, int]:
    return place[0].offset, place[0].length


def _entry(kind: Kind, place: Location, blob: bytes) -> Entry:
    return Entry(blob, place.offset, place.length, place.codec, kind, place.place)


def neighbours(
    items: Sequence[Item], where: Callable[[Item], tuple[int, int]]
) -> Iterator[Sequence[Item]]:
    """Items of one pack in groups that are read at once. They come in the order of the pack;
    `where` says offset and length."""
    at = 0
    while at < len(items):
        start, length = where(items[at])
        reached = start + length
        end = at + 1
        while end < len(items):
            offset, length = where(items[end])
            if offset - reached > _GAP_BYTES or offset + length - start > _READ_BYTES:
                break
            reached = offset + length
            end += 1
        yield items[at:end]
        at = end
