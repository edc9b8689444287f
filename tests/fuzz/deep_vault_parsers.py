"""Targets that read what a vault's store gives back. Where a parser stands behind a seal or a
cipher, the input is what is inside: whoever has the key of a vault may be hostile, too."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import zstandard
from blake3 import blake3
from deep_http import Target

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "vault"))

from paper_store import PaperStore

from quiesce.model.failure import AuthFailure, Failure, VaultFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.lease import leased
from quiesce.vault.contents.records import Records
from quiesce.vault.format import keys
from quiesce.vault.format.config import VaultConfig, parse_config, write_config
from quiesce.vault.format.diskmap import PART_BYTES
from quiesce.vault.format.keys import (
    KdfCost,
    KeyFile,
    Passphrase,
    RecoveryKey,
    VaultKeys,
    unlock,
)
from quiesce.vault.format.manifest import DiskMapRef, ManifestError, read_manifest
from quiesce.vault.format.pack import (
    END_MAGIC,
    HEAD_BYTES,
    MAGIC,
    PACK_BYTES,
    Codec,
    Entry,
    Kind,
    PackError,
    blob_in,
    head_cipher,
    open_footer,
    open_range,
    pack_key,
    parse_rows,
    whole_footer,
)
from quiesce.vault.format.sealed import SealError, seal, unseal
from quiesce.vault.format.segment import (
    PackedRows,
    SegmentError,
    entries_in_segment,
    join_segments,
    read_segment,
    rows_of_footer,
    write_segment,
)
from quiesce.vault.format.slots import list_slots
from quiesce.vault.points.reader import DiskMap

_KEYS = VaultKeys(bytes(32))
_HEAD = MAGIC + bytes(HEAD_BYTES - len(MAGIC))
_CIPHER = head_cipher(_KEYS, _HEAD)
_AT = datetime(2026, 11, 23, tzinfo=UTC)
_BOUND = VaultConfig("ab" * 16, 4096, _AT).bound
_POINT = "0123456789abcdef"
_RECORDS = ("sessions/0-0", "garbage/0", "damage/0", "deleted/0", "sessions/gc")


_BLOBS_BYTES = 1 << 16


def _pack_of(rows: bytes) -> bytes:
    """A whole pack, with room for blobs, whose footer says this."""
    start = HEAD_BYTES + _BLOBS_BYTES
    footer = _CIPHER.encrypt(start.to_bytes(12, "big"), rows, _HEAD)
    trailer = struct.pack("<II8s", start, len(footer), END_MAGIC)
    return _HEAD + bytes(_BLOBS_BYTES) + footer + trailer


def pack() -> Target:
    """Read whole, by ranges from a store, and its rows alone: all refuse the same, and what is
    taken can be written into the index and read from there."""

    def target(data: bytes) -> None:
        _same_rows(data[: len(data) // 48 * 48], PACK_BYTES)
        for stored in (data, _HEAD + data, _pack_of(data)):
            name = blake3(stored).digest()
            store = PaperStore(lambda: _AT)
            store.put(pack_key(name), stored)
            try:
                footer = open_footer(_KEYS, store, name, len(stored))
            except PackError:
                footer = None
            try:
                entries = whole_footer(_KEYS, memoryview(stored))
            except PackError:
                assert footer is None or _same_rows(*footer) is None
                continue
            assert footer is not None
            assert _same_rows(*footer) == entries

    return target


def _same_rows(rows: bytes, start: int) -> list[Entry] | None:
    """The entries, or None where both readers of rows refuse them."""
    try:
        entries = parse_rows(rows, start)
    except PackError:
        entries = None
    try:
        in_index = rows_of_footer(rows, start)
    except PackError:
        assert entries is None
        return None
    assert entries is not None
    assert len(in_index) == len(entries)
    name = bytes(32)
    segment = write_segment([PackedRows(name, PACK_BYTES, tuple(entries))])
    told = entries_in_segment(segment, name)
    assert Counter(told) == Counter(replace(entry, kind=Kind.CHUNK) for entry in entries)
    return entries


def pack_seeds() -> list[bytes]:
    row = struct.pack("<32sIIBBB5x", bytes(32), HEAD_BYTES, 16, 0, 0, 0)
    return [_pack_of(b""), row, row * 2]


def blob() -> Target:
    """A stored frame: the first two bytes choose codec and place."""

    def target(data: bytes) -> None:
        if len(data) < 2:
            return
        codec = Codec(data[0] % len(Codec))
        entry = Entry(bytes(32), HEAD_BYTES, len(data) + 14, codec, Kind.CHUNK, data[1] % 8)
        stored = _encrypted(entry, data[2:])
        try:
            plain = blob_in(entry, open_range(_CIPHER, entry, stored), 4096)
        except PackError:
            return
        assert len(plain) <= 1 << 20

    return target


def _encrypted(entry: Entry, data: bytes) -> bytes:
    from quiesce.vault.format.pack import _bound, _nonce

    return _CIPHER.encrypt(_nonce(entry.offset), data, _bound(entry))


def blob_seeds() -> list[bytes]:
    frame = zstandard.ZstdCompressor().compress(bytes(range(256)) * 64)
    return [bytes((codec, place)) + frame for codec in range(3) for place in (0, 3)]


def segment() -> Target:
    def target(data: bytes) -> None:
        try:
            names, rows = read_segment(data)
        except SegmentError:
            return
        for name, _ in names[:4]:
            entries_in_segment(data, name)
        read_segment(join_segments([(names, rows), (names, rows)], frozenset()))

    return target


def segment_seeds() -> list[bytes]:
    row = struct.pack("<32sIII", bytes(32), 0, HEAD_BYTES, 16)
    return [struct.pack("<II", 1, 2) + bytes(32) + struct.pack("<I", 4096) + row * 2]


def sealed() -> Target:
    head = b"QVSEAL1\n" + bytes(32)

    def target(data: bytes) -> None:
        body = _KEYS.object_cipher("index", head[8:]).encrypt(bytes(12), data, head)
        for stored in (data, head + data, head + body + blake3(head + body).digest()):
            try:
                assert len(unseal(_KEYS, "index", "", stored)) <= 64 << 20
            except SealError:
                continue

    return target


def sealed_seeds() -> list[bytes]:
    return [seal(_KEYS, "index", "", b"plain"), zstandard.ZstdCompressor().compress(b"plain")]


def manifest() -> Target:
    def target(data: bytes) -> None:
        try:
            read_manifest(_KEYS, _POINT, seal(_KEYS, "manifest", _POINT, data))
        except (SealError, ManifestError):
            return

    return target


def manifest_seeds() -> list[bytes]:
    disk = {
        "name": "sda", "size_bytes": 4096, "chunk_bytes": 4096, "nodes": ["00" * 32],
        "format": "raw", "generation": "g", "incremental": False, "full_read_reason": "",
        "read_bytes": 1, "stored_bytes": 1,
    }  # fmt: skip
    mount = {"mount": "/", "file_system": "ext4", "freeze_ms": 1, "frozen_ms": 2, "skipped": ""}
    whole = {
        "version": 1, "vm": "web", "job_id": "j", "taken_at": _AT.isoformat(),
        "committed_at": _AT.isoformat(), "route": "host",
        "consistency": {"level": "crash", "reason": "r"},
        "freeze": {"held": True, "hold_seconds": 1.5, "mounts": [mount]}, "disks": [disk],
    }  # fmt: skip
    return [json.dumps(whole).encode()]


_MATERIALS = (KeyFile(bytes(32)), RecoveryKey(bytes(32)), Passphrase("p", KdfCost(1, 64, 1)))


def slot() -> Target:
    """Tried with each kind of key, and listed without any. Argon2 is left out: what it may cost is
    checked before it begins."""

    def stretched(text: str, salt: bytes, cost: KdfCost) -> bytes:
        assert 1 <= cost.time_cost <= 64
        assert 8 <= cost.memory_kib <= 4 << 20
        assert 1 <= cost.lanes <= 64
        return bytes(32)

    def target(data: bytes) -> None:
        store = PaperStore(lambda: _AT)
        store.put("format", config_seeds()[0])
        store.put("keys/slot-0", data)
        list_slots(store)
        with mock.patch.object(keys, "_stretch", stretched):
            for material in _MATERIALS:
                with contextlib.suppress(AuthFailure, VaultFailure):
                    unlock([data], material, _BOUND)

    return target


def slot_seeds() -> list[bytes]:
    return [_KEYS.wrap(material, _BOUND, _AT) for material in _MATERIALS]


def config() -> Target:
    def target(data: bytes) -> None:
        try:
            parse_config(data, "there")
        except VaultFailure:
            return

    return target


def config_seeds() -> list[bytes]:
    return [write_config(VaultConfig("ab" * 16, 4096, _AT))]


def record() -> Target:
    """The same JSON as a record of every kind, a lease among them."""

    def target(data: bytes) -> None:
        store = PaperStore(lambda: _AT)
        for key in _RECORDS:
            kind = "lease" if key.endswith("gc") else key.partition("/")[0].removesuffix("s")
            store.put(key, seal(_KEYS, kind, key, data))
        records = Records(store, _KEYS)
        for read in (records.sessions, records.garbage, records.damage, records.deleted):
            read()
        records.damaged_packs()
        records.unreadable()
        for mark in records.garbage():
            assert mark.at + timedelta(hours=27) > mark.at
        with contextlib.suppress(VaultFailure), leased(Contents(store, _KEYS, 4096, lambda: _AT)):
            pass

    return target


def record_seeds() -> list[bytes]:
    at = _AT.isoformat()
    values = {"started_at": at, "at": at, "packs": ["00" * 32], "pack": "00" * 32, "chunks": ["11"]}
    return [json.dumps(values).encode()]


class _Blobs:
    """Contents that answer every blob with the same bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_blob(self, kind: Kind, blob: bytes) -> bytes:
        return self._data

    def open_blobs(self, kind: Kind, ids: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        return [(each, self._data) for each in ids]


def disk_map() -> Target:
    def target(data: bytes) -> None:
        for part in (data, data.ljust(PART_BYTES, b"\0")):
            ref = DiskMapRef("sda", 300 * 4096, 4096, (b"n" * 32,))
            try:
                found = DiskMap(_Blobs(part), ref)  # type: ignore[arg-type]
                assert len(found.chunk(299)) == 32
            except Failure:
                continue

    return target


def disk_map_seeds() -> list[bytes]:
    return [bytes(64), b"l" * PART_BYTES]


PARSER_TARGETS: dict[str, tuple[Callable[[], Target], Callable[[], list[bytes]]]] = {
    "pack": (pack, pack_seeds),
    "blob": (blob, blob_seeds),
    "segment": (segment, segment_seeds),
    "sealed": (sealed, sealed_seeds),
    "manifest": (manifest, manifest_seeds),
    "slot": (slot, slot_seeds),
    "config": (config, config_seeds),
    "record": (record, record_seeds),
    "disk-map": (disk_map, disk_map_seeds),
}
