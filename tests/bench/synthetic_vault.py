"""A vault of any size by its metadata alone, for `bench_scale`.

    synthetic_vault.py FOLDER CHUNKS

Real: format, keys, index segments, manifests, and the packs that hold the maps. Invented: the packs
of chunks, which are names in a listing and, for whoever asks, a header and a footer. Chunk number i
has an id made from i, so that nothing about 10^8 chunks has to be remembered.

A VM has 10^5 chunks of its own: a disk of 80,000 chunks (10.5 GB), read in full once, and four
increments that each replace 125 chunks in 40 of its 313 leaves. Chunks lie in frames of eight, and
take 99 KB each: 10^8 chunks are 13 TB of disks in 9.9 TB of packs.
"""

from __future__ import annotations

import random
import struct
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from quiesce.model.point import PointDisk, RecoveryPoint
from quiesce.model.snapshot import Consistency, ConsistencyLabel, Route
from quiesce.vault import KeyFile, LocalStore, Vault
from quiesce.vault.format.diskmap import FANOUT, ID_BYTES, PART_BYTES
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.manifest import (
    DiskMapRef,
    Manifest,
    point_id_of,
    point_key,
    write_manifest,
)
from quiesce.vault.format.pack import (
    END_MAGIC,
    HEAD_BYTES,
    MAGIC,
    Codec,
    Kind,
    blob_id,
    pack_key,
)
from quiesce.vault.format.segment import (
    SEGMENT_ROWS,
    extent,
    join_segments,
    read_segment,
    write_segment,
)
from quiesce.vault.points.packing import PACK_BYTES, PackStream
from quiesce.vault.stores.store import ObjectInfo

KEY = KeyFile(bytes(range(32)))
CHUNKS_OF_A_VM = 100_000
DISK_CHUNKS = 80_000
INCREMENTS = 4
LEAVES_CHANGED, CHANGED_IN_A_LEAF = 40, 125
FRAME_CHUNKS, FRAME_BYTES = 8, 792_000
PACK_CHUNKS = (PACK_BYTES - 65536) // FRAME_BYTES * FRAME_CHUNKS
SALT = bytes(32)
LONG_AGO = datetime.now(UTC) - timedelta(days=30)
FOOTER_ROW = np.dtype(
    [("id", ">u8", 4), ("offset", "<u4"), ("length", "<u4"), ("codec", "u1"), ("kind", "u1"),
     ("place", "u1"), ("zeros", "V5")]
)  # fmt: skip
"""As docs/explanation/vault-format.md has it."""

Words = NDArray[np.uint64]


def chunk_words(numbers: Words) -> Words:
    """Ids of chunks as four 64-bit numbers each (SplitMix64 of number and place)."""
    with np.errstate(over="ignore"):
        z = (numbers[:, None] * np.uint64(4) + np.arange(1, 5, dtype=np.uint64)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def chunk_ids(numbers: Words) -> bytes:
    return chunk_words(numbers).astype(">u8").tobytes()


def pack_of(number: int) -> bytes:
    """The name of an invented pack."""
    return blake3(b"invented pack %d" % number).digest()


class SyntheticStore:
    """A local store, and invented packs beside what it holds."""

    def __init__(self, inner: LocalStore, packs: int, keys: VaultKeys | None = None) -> None:
        self._inner = inner
        self._packs = packs
        self._names: dict[str, int] = {}
        self._head = MAGIC + SALT + bytes(HEAD_BYTES - 40)
        self._cipher = None if keys is None else keys.pack_cipher(SALT)
        self._last = threading.local()
        self.size_bytes = len(self._tail(0)) + self._start if keys else 0

    address = "synthetic"
    _start = HEAD_BYTES + PACK_CHUNKS // FRAME_CHUNKS * FRAME_BYTES

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from self._inner.list(prefix)
        if prefix.startswith("packs"):
            for number in range(self._packs):
                yield ObjectInfo(pack_key(pack_of(number)), self.size_bytes, LONG_AGO)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        number = self._number(key)
        if number is None:
            return self._inner.get_range(key, offset, length)
        if offset == 0:
            return self._head[:length]
        return self._tail(number)[offset - self._start :][:length]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _number(self, key: str) -> int | None:
        if not key.startswith("packs/"):
            return None
        if not self._names:
            self._names = {pack_key(pack_of(n)): n for n in range(self._packs)}
        return self._names.get(key)

    def _tail(self, number: int) -> bytes:
        """Footer and trailer."""
        if getattr(self._last, "number", None) != number:
            assert self._cipher is not None
            rows = np.zeros(PACK_CHUNKS, FOOTER_ROW)
            rows["id"] = chunk_words(_chunks_of_pack(number))
            places = np.arange(PACK_CHUNKS)
            rows["offset"] = HEAD_BYTES + places // FRAME_CHUNKS * FRAME_BYTES
            rows["length"] = FRAME_BYTES
            rows["codec"], rows["kind"] = Codec.FRAME, Kind.CHUNK
            rows["place"] = places % FRAME_CHUNKS
            nonce = self._start.to_bytes(12, "big")
            footer = self._cipher.encrypt(nonce, rows.tobytes(), self._head)
            trailer = struct.pack("<II8s", self._start, len(footer), END_MAGIC)
            self._last.number, self._last.tail = number, footer + trailer
        tail: bytes = self._last.tail
        return tail


def _chunks_of_pack(number: int) -> Words:
    return np.arange(number * PACK_CHUNKS, (number + 1) * PACK_CHUNKS, dtype=np.uint64)


def open_store(folder: Path, chunks: int) -> SyntheticStore:
    """The store that `build` made for so many chunks."""
    inner = LocalStore(folder)
    keys = Vault.open(EmptyView(inner), KEY).contents.keys
    return SyntheticStore(inner, -(-chunks // PACK_CHUNKS), keys)


class EmptyView(SyntheticStore):
    """Only format and keys, so that opening the vault takes no time."""

    def __init__(self, inner: LocalStore) -> None:
        super().__init__(inner, 0)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._inner.list(prefix) if prefix.startswith("keys") else iter(())


def build(folder: Path, chunks: int) -> None:
    vault = Vault.create(LocalStore.create(folder), KEY)
    stream = PackStream(vault.contents, 1, lambda: None)
    for number in range(chunks // CHUNKS_OF_A_VM):
        _add_vm(vault, stream, number)
    stream.flush()
    stream.close()
    vault.contents.save_index()
    store = SyntheticStore(LocalStore(folder), -(-chunks // PACK_CHUNKS), vault.contents.keys)
    _add_segments(vault, -(-chunks // PACK_CHUNKS), store.size_bytes)


def _add_segments(vault: Vault, packs: int, pack_bytes: int) -> None:
    row = read_segment(write_segment([]))[1].dtype
    places = np.arange(PACK_CHUNKS)
    extents = np.array(
        [extent(FRAME_BYTES, Codec.FRAME, int(p) % FRAME_CHUNKS) for p in places], np.uint32
    )
    at_once = SEGMENT_ROWS // PACK_CHUNKS
    for first in range(0, packs, at_once):
        count = min(at_once, packs - first)
        rows = np.zeros(count * PACK_CHUNKS, row)
        start = first * PACK_CHUNKS
        words = chunk_words(np.arange(start, start + len(rows), dtype=np.uint64))
        rows["hi"], rows["lo"] = words[:, 0], words[:, 1]
        rows["rest"] = words[:, 2:].astype(">u8").view("V16")[:, 0]
        rows["pack"] = np.repeat(np.arange(count, dtype=np.uint32), PACK_CHUNKS)
        rows["offset"] = np.tile(HEAD_BYTES + places // FRAME_CHUNKS * FRAME_BYTES, count)
        rows["extent"] = np.tile(extents, count)
        names = [(pack_of(first + n), pack_bytes) for n in range(count)]
        vault.contents.put_segment(join_segments([(names, rows)], frozenset()))


def _add_vm(vault: Vault, stream: PackStream, number: int) -> None:
    """A full point and its increments."""
    dice = random.Random(number)
    leaves = -(-DISK_CHUNKS // FANOUT)
    fresh = number * CHUNKS_OF_A_VM
    disk = np.zeros((leaves * FANOUT, 4), ">u8")
    disk[:DISK_CHUNKS] = chunk_words(np.arange(fresh, fresh + DISK_CHUNKS, dtype=np.uint64))
    fresh += DISK_CHUNKS
    ids = bytearray(leaves * ID_BYTES)
    changed = range(leaves)
    for generation in range(INCREMENTS + 1):
        if generation:
            changed = dice.sample(range(leaves - 1), LEAVES_CHANGED)
            for leaf in changed:
                places = leaf * FANOUT + np.array(dice.sample(range(FANOUT), CHANGED_IN_A_LEAF))
                numbers = np.arange(fresh, fresh + CHANGED_IN_A_LEAF, dtype=np.uint64)
                disk[places] = chunk_words(numbers)
                fresh += CHANGED_IN_A_LEAF
        for leaf in changed:
            part = disk[leaf * FANOUT : (leaf + 1) * FANOUT].tobytes()
            ids[leaf * ID_BYTES : (leaf + 1) * ID_BYTES] = _add_part(vault, stream, part)
        nodes = tuple(
            _add_part(vault, stream, bytes(ids[at : at + PART_BYTES]).ljust(PART_BYTES, b"\0"))
            for at in range(0, len(ids), PART_BYTES)
        )
        _add_point(vault, f"vm{number}", generation, nodes)


def _add_part(vault: Vault, stream: PackStream, part: bytes) -> bytes:
    blob = blob_id(vault.contents.keys, Kind.MAP, part)
    stream.add(Kind.MAP, blob, part)
    return blob


def _add_point(vault: Vault, vm: str, generation: int, nodes: tuple[bytes, ...]) -> None:
    keys, chunk = vault.contents.keys, vault.contents.chunk_bytes
    job = f"{vm}-{generation}"
    at = LONG_AGO + timedelta(hours=generation)
    disk = PointDisk("vda", DISK_CHUNKS * chunk, "raw", job, generation > 0)
    point = RecoveryPoint(
        point_id_of(keys, job), vm, job, at, at, Route.OFFLINE,
        ConsistencyLabel(Consistency.OFFLINE), None, (disk,),
    )  # fmt: skip
    parts = (DiskMapRef("vda", disk.size_bytes, chunk, nodes),)
    vault.contents.store.put(point_key(point.id), write_manifest(keys, Manifest(point, parts)))


if __name__ == "__main__":
    build(Path(sys.argv[1]), int(sys.argv[2]))
