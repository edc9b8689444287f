"""Reading a disk of a committed point at any offset."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import Evidence, VaultFailure
from quiesce.vault.contents.contents import Contents
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
from quiesce.vault.format.pack import Kind
from quiesce.vault.stores.files import Buffer

_CACHED_CHUNKS = 64
_CACHED_LEAVES = 256
_SMALL_READ = 4

_KINDS = ExtentKind.ZERO, ExtentKind.DATA

OpenParts = Callable[[Kind, Sequence[bytes]], dict[bytes, bytes]]


class _Cache:
    """The last few blobs by id. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, blob: bytes) -> bytes | None:
        with self._lock:
            found = self._kept.get(blob)
            if found is not None:
                self._kept.move_to_end(blob)
            return found

    def keep(self, blob: bytes, data: bytes) -> None:
        with self._lock:
            self._kept[blob] = data
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)


class DiskMap:
    """A stored map, walked without holding it: nodes once, leaves as they are needed. `open_parts`
    is how: as the vault's contents open blobs, unless told otherwise."""

    def __init__(
        self, contents: Contents, ref: DiskMapRef, open_parts: OpenParts | None = None
    ) -> None:
        self._open = open_parts or (lambda kind, ids: dict(contents.open_blobs(kind, ids)))
        self._ref = ref
        self._leaves: bytes | None = None
        self._cache = _Cache(_CACHED_LEAVES)

    def leaf_ids(self) -> bytes:
        """Ids of all leaves, joined."""
        if self._leaves is None:
            nodes = [node for node in self._ref.nodes if node != ZERO_ID]
            opened = self._open(Kind.MAP, nodes)
            leaves = b"".join(opened.get(node, ZERO_PART) for node in self._ref.nodes)
            count = leaf_count(self._ref.size_bytes, self._ref.chunk_bytes)
            if any(len(part) != PART_BYTES for part in opened.values()):
                raise _misshapen(self._ref)
            self._leaves = leaves[: count * ID_BYTES]
        return self._leaves

    def leaf(self, number: int) -> bytes:
        blob = self.leaf_ids()[number * ID_BYTES : (number + 1) * ID_BYTES]
        if blob == ZERO_ID:
            return ZERO_PART
        part = self._cache.get(blob)
        if part is None:
            part = self._open(Kind.MAP, [blob])[blob]
            if len(part) != PART_BYTES:
                raise _misshapen(self._ref)
            self._cache.keep(blob, part)
        return part

    def chunk(self, number: int) -> bytes:
        leaf, place = divmod(number, FANOUT)
        return self.leaf(leaf)[place * ID_BYTES : (place + 1) * ID_BYTES]


def _misshapen(ref: DiskMapRef) -> VaultFailure:
    return VaultFailure(
        "vault.corrupt-manifest",
        f"The map of disk {ref.name!r} has a part of the wrong length.",
        evidence=[Evidence("part length", "map")],
    )


class VaultDiskReader:
    """One disk of a point; fulfils `quiesce.transfer.ports.DiskReader`. Threads decode in
    parallel: no lock is held while reading, decrypting or unpacking."""

    def __init__(self, contents: Contents, ref: DiskMapRef, label: str) -> None:
        self._contents = contents
        self._ref = ref
        self._label = label
        self._map = DiskMap(contents, ref)
        self._cache = _Cache(_CACHED_CHUNKS)

    @property
    def size_bytes(self) -> int:
        return self._ref.size_bytes

    @property
    def lost(self) -> tuple[Extent, ...]:
        """What was read as zeros since it could not be read: none here, where that fails."""
        return ()

    @property
    def why(self) -> tuple[Evidence, ...]:
        """Why that could not be read: the first few facts."""
        return ()

    def extents(self) -> Iterator[Extent]:
        chunk, size = self._ref.chunk_bytes, self.size_bytes
        start, kind = 0, ExtentKind.ZERO
        for first, count, found in self._runs():
            begin = first * chunk
            if found is not kind and begin > start:
                yield Extent(start, begin - start, kind)
                start = begin
            kind = found
            if min((first + count) * chunk, size) == size and size > start:
                yield Extent(start, size - start, kind)

    def _runs(self) -> Iterator[tuple[int, int, ExtentKind]]:
        """(first chunk, count, kind), neighbours not merged."""
        leaves = self._map.leaf_ids()
        total = chunk_count(self.size_bytes, self._ref.chunk_bytes)
        for number in range(len(leaves) // ID_BYTES):
            first = number * FANOUT
            count = min(FANOUT, total - first)
            if leaves[number * ID_BYTES : (number + 1) * ID_BYTES] == ZERO_ID:
                yield first, count, ExtentKind.ZERO
                continue
            words = np.frombuffer(self._map.leaf(number), np.uint64).reshape(FANOUT, -1)
            data = np.any(words[:count], axis=1)
            borders = (np.flatnonzero(data[1:] != data[:-1]) + 1).tolist()
            for begin, end in pairwise((0, *borders, count)):
                yield first + begin, end - begin, _KINDS[bool(data[begin])]

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """:raise VaultFailure: vault.corrupt-chunk, vault.pack-missing; names pack and range"""
        end = offset_bytes + len(buffer)
        if not 0 <= offset_bytes <= end <= self.size_bytes:
            raise ValueError(f"{offset_bytes}–{end} lies outside of {self._label}")
        if not len(buffer):
            return
        size = self._ref.chunk_bytes
        numbers = range(offset_bytes // size, -(-end // size))

        def place(number: int, plain: Buffer) -> None:
            if isinstance(plain, memoryview) and plain.obj is buffer.obj:
                return  # unpacked into its place
            begin = max(number * size, offset_bytes)
            finish = min((number + 1) * size, end)
            part = buffer[begin - offset_bytes : finish - offset_bytes]
            data = memoryview(plain)[begin - number * size : finish - number * size]
            part[: len(data)] = data
            # A chunk shorter than its place reads as zeros beyond its end: so a disk may grow.
            if len(data) < len(part):
                part[len(data) :] = bytes(len(part) - len(data))

        wanted: dict[bytes, list[int]] = {}
        for number in numbers:
            blob = self._map.chunk(number)
            kept = b"" if blob == ZERO_ID else self._cache.get(blob)
            if kept is None:
                wanted.setdefault(blob, []).append(number)
            else:
                place(number, kept)

        def room(blobs: Sequence[bytes]) -> memoryview | None:
            first = wanted[blobs[0]][0]
            if any(wanted[blob] != [number] for number, blob in enumerate(blobs, first)):
                return None
            begin, finish = first * size, (first + len(blobs)) * size
            if begin < offset_bytes or finish > end:
                return None
            return buffer[begin - offset_bytes : finish - offset_bytes]

        try:
            for blob, content in self._contents.open_views(Kind.CHUNK, wanted, room):
                for number in wanted[blob]:
                    place(number, content)
                # Long runs are read once, by a restore; small reads come back to the same chunks.
                if len(numbers) <= _SMALL_READ:
                    self._cache.keep(blob, bytes(content))
        except VaultFailure as inner:
            raise VaultFailure(
                inner.code,
                f"{self._label} cannot be read between bytes {numbers.start * size} and "
                f"{numbers.stop * size}: {inner.message}",
                evidence=inner.evidence,
                retryable=inner.retryable,
            ) from inner
