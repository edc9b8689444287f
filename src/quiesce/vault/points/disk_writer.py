"""Writing one disk of a point: runs of chunks to the packs, their ids into the disk's map."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.damage import open_or_note
from quiesce.vault.format.diskmap import (
    FANOUT,
    ID_BYTES,
    PART_BYTES,
    ZERO_ID,
    ZERO_PART,
    chunk_count,
    leaf_count,
)
from quiesce.vault.format.manifest import DiskMapRef
from quiesce.vault.format.pack import Kind, blob_id
from quiesce.vault.points.bases import Base, base_map, relying_on
from quiesce.vault.points.packing import PackStream

_LOOSE_LIMIT = 1 << 16
"""Ids of unfinished leaves kept in memory per disk, about 200 bytes each."""


class VaultDiskWriter:
    """One disk being written; fulfils `quiesce.transfer.ports.DiskWriter`."""

    def __init__(
        self, contents: Contents, stream: PackStream, name: str, size_bytes: int, base: Base | None
    ) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._contents = contents
        self._stream = stream
        self._chunks = chunk_count(size_bytes, contents.chunk_bytes)
        self._leaves = bytearray(leaf_count(size_bytes, contents.chunk_bytes) * ID_BYTES)
        self._loose: dict[int, dict[int, bytes]] = {}
        self._loose_ids = 0
        self._lock = threading.Lock()
        self._zero_ids: dict[int, bytes] = {}
        # Up to here the base has chunks of the same length at the same places.
        self._vouched = 0
        self._base = base
        if base is not None:
            with relying_on(base):
                self._start_from(base)

    @property
    def chunk_bytes(self) -> int:
        return self._contents.chunk_bytes

    @property
    def base_map(self) -> DiskMapRef | None:
        """The map that this one began with, unless it was forgotten."""
        return None if self._base is None else self._base.map

    def put(self, first_chunk: int, data: memoryview) -> int:
        size = self.chunk_bytes
        end = first_chunk * size + len(data)
        whole = len(data) % size == 0 or end == self.size_bytes
        if first_chunk < 0 or not len(data) or end > self.size_bytes or not whole:
            raise ValueError(
                f"{len(data)} bytes from chunk {first_chunk} on do not fit {self.name!r}"
            )
        self._stream.beat()
        ids = []
        for at in range(0, len(data), size):
            chunk = data[at : at + size]
            blob = blob_id(self._contents.keys, Kind.CHUNK, chunk)
            ids.append(ZERO_ID if blob == self._zero_id(len(chunk)) else blob)
        stored = self._stream.add_run(ids, data)
        with self._lock:
            for number, blob in enumerate(ids, start=first_chunk):
                self._set(number, blob)
        return stored

    def zero(self, first_chunk: int, count: int) -> None:
        end = first_chunk + count
        if not 0 <= first_chunk <= end <= self._chunks:
            raise ValueError(f"chunks {first_chunk}–{end} do not lie in {self.name!r}")
        at = first_chunk
        with self._lock:
            while at < end:
                leaf = at // FANOUT
                leaf_end = min((leaf + 1) * FANOUT, self._chunks)
                if at == leaf * FANOUT and end >= leaf_end:
                    self._loose_ids -= len(self._loose.pop(leaf, ()))
                    self._place(leaf, ZERO_ID)
                    at = leaf_end
                else:
                    self._set(at, ZERO_ID)
                    at += 1

    def populated(self, first_chunk: int, count: int) -> Iterator[tuple[int, int]]:
        """By leaves, which are in memory."""
        end = min(first_chunk + count, self._vouched)
        leaf = first_chunk // FANOUT
        while leaf * FANOUT < end:
            begin = max(first_chunk, leaf * FANOUT)
            while leaf * FANOUT < end and self._leaf_id(leaf) != ZERO_ID:
                leaf += 1
            if min(end, leaf * FANOUT) > begin:
                yield begin, min(end, leaf * FANOUT) - begin
            leaf += 1

    def holds(self, chunk: int, data: memoryview) -> bool:
        leaf, place = divmod(chunk, FANOUT)
        found = self._part(leaf)[place * ID_BYTES : (place + 1) * ID_BYTES]
        return found == self._id(data)

    def forget_base(self) -> None:
        with self._lock:
            self._leaves = bytearray(len(self._leaves))
            self._loose.clear()
            self._loose_ids = self._vouched = 0
            self._base = None

    def finish(self) -> DiskMapRef:
        """Add what is left of the map. Idempotent.

        :raise VaultFailure: vault.base-missing
        """
        with self._lock:
            self._settle_all()
            nodes = []
            for at in range(0, len(self._leaves), PART_BYTES):
                part = bytes(self._leaves[at : at + PART_BYTES]).ljust(PART_BYTES, b"\0")
                nodes.append(self._add_part(part))
            return DiskMapRef(self.name, self.size_bytes, self.chunk_bytes, tuple(nodes))

    def _id(self, chunk: memoryview) -> bytes:
        blob = blob_id(self._contents.keys, Kind.CHUNK, chunk)
        return ZERO_ID if blob == self._zero_id(len(chunk)) else blob

    def _leaf_id(self, leaf: int) -> bytes:
        return bytes(self._leaves[leaf * ID_BYTES : (leaf + 1) * ID_BYTES])

    def _length(self, chunk: int) -> int:
        return min(self.chunk_bytes, self.size_bytes - chunk * self.chunk_bytes)

    def _zero_id(self, length: int) -> bytes:
        found = self._zero_ids.get(length)
        if found is None:
            found = blob_id(self._contents.keys, Kind.CHUNK, bytes(length))
            self._zero_ids[length] = found
        return found

    def _start_from(self, found: Base) -> None:
        leaves = base_map(self._contents, found).leaf_ids()
        base = found.map
        keep = min(len(self._leaves), len(leaves))
        self._leaves[:keep] = leaves[:keep]
        same = self.size_bytes == base.size_bytes
        shorter = min(self.size_bytes, base.size_bytes)
        self._vouched = self._chunks if same else shorter // self.chunk_bytes
        if self.size_bytes < base.size_bytes and self._chunks:
            self._cut(self._chunks - 1)

    def _cut(self, last: int) -> None:
        """The disk shrank: what the base held beyond its end must not come back when it grows."""
        leaf = last // FANOUT
        self._loose.setdefault(leaf, {})  # settling drops places beyond the end
        part = self._part(leaf)
        at = last % FANOUT * ID_BYTES
        blob = part[at : at + ID_BYTES]
        length = self._length(last)
        if blob != ZERO_ID and length < self.chunk_bytes:
            plain = open_or_note(self._contents, Kind.CHUNK, [blob])[blob]
            if len(plain) > length:
                cut = memoryview(plain)[:length]
                self.put(last, cut)

    def _set(self, chunk: int, blob: bytes) -> None:
        leaf, place = divmod(chunk, FANOUT)
        loose = self._loose.setdefault(leaf, {})
        self._loose_ids += place not in loose
        loose[place] = blob
        if len(loose) == min(FANOUT, self._chunks - leaf * FANOUT):
            self._settle(leaf)
        elif self._loose_ids > _LOOSE_LIMIT:
            self._settle_all()

    def _settle_all(self) -> None:
        for leaf in sorted(self._loose):
            self._settle(leaf)

    def _settle(self, leaf: int) -> None:
        """Turn the loose ids of a leaf, over the leaf that stood there, into a new leaf."""
        loose = self._loose[leaf]
        places = min(FANOUT, self._chunks - leaf * FANOUT)
        part = bytearray(PART_BYTES if len(loose) == places else self._part(leaf))
        part[places * ID_BYTES :] = bytes(PART_BYTES - places * ID_BYTES)
        for place, blob in loose.items():
            part[place * ID_BYTES : (place + 1) * ID_BYTES] = blob
        self._place(leaf, self._add_part(bytes(part)))
        del self._loose[leaf]
        self._loose_ids -= len(loose)

    def _place(self, leaf: int, blob: bytes) -> None:
        self._leaves[leaf * ID_BYTES : (leaf + 1) * ID_BYTES] = blob

    def _part(self, leaf: int) -> bytes:
        blob = self._leaf_id(leaf)
        if blob == ZERO_ID:
            return ZERO_PART
        part = self._stream.read(blob)
        if part is not None:
            return part
        with contextlib.nullcontext() if self._base is None else relying_on(self._base):
            return open_or_note(self._contents, Kind.MAP, [blob])[blob]

    def _add_part(self, part: bytes) -> bytes:
        if part == ZERO_PART:
            return ZERO_ID
        blob = blob_id(self._contents.keys, Kind.MAP, part)
        self._stream.add(Kind.MAP, blob, part)
        return blob
