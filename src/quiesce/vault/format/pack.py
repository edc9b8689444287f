"""Packs: up to 32 MiB of encrypted chunks in one object, named by its own BLAKE3.

    offset  bytes  content
    0       8      magic "QVPACK1\\n"; the digit is the version
    8       32     random salt; pack key = derive(vault key, "quiesce v1 pack", salt)
    40      24     zeros
    64      …      blobs, one after another: AES-256-GCM ciphertext, its 16-byte tag last
    F       n      footer: AES-256-GCM of the entries, tag last; associated data bytes 0–63
    F+n     16     trailer: F u32 · n u32 · magic "QVPEND1\\n"

An entry (48 bytes): id 32 · offset u32 · length u32 (tag included) · codec u8 · kind u8 · place u8
· 5 zeros. Integers are little-endian. Key of the object: `packs/<first two digits>/<BLAKE3, hex>`.

Nonce of everything in a pack: its offset in the pack, as a 96-bit big-endian number. No offset
is used twice under one key, since a pack has a salt of its own and each range is written once.
A blob's associated data: id ‖ codec ‖ kind. Codec 0 is the plain bytes, 1 one zstd frame that
states its content size. Kind 0 is a chunk of a disk: id = BLAKE3(key=chunk-id key, bytes);
kind 1 is a part of a disk's map: id = BLAKE3(key=map-id key, bytes).

Codec 2 is several chunks in one zstd frame that states its content size. Their entries share
offset and length; a chunk's place tells it apart: it is the `chunk_bytes` bytes from
place × chunk_bytes on, fewer only where the frame ends. In the frame's associated data 32 zeros
stand for the id. Opening one chunk so authenticates the frame, and the chunk by its own id.
"""

from __future__ import annotations

import secrets
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.sealed import decompress, decompressed_into
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import Store

PACK_BYTES = 32 * 1024 * 1024
MAGIC = b"QVPACK1\n"
END_MAGIC = b"QVPEND1\n"
HEAD_BYTES = 64
TAG_BYTES = 16
_ENTRY = struct.Struct("<32sIIBBB5x")
_TRAILER = struct.Struct("<II8s")
BLOB_LIMIT_BYTES = 1024 * 1024
"""No blob, and no frame of chunks, opens to more than this."""
LENGTH_LIMIT_BYTES = BLOB_LIMIT_BYTES + TAG_BYTES
"""None is longer in a pack: what zstd would make longer is stored plain."""
_NO_ID = bytes(32)


class Kind(IntEnum):
    CHUNK = 0
    MAP = 1


class Codec(IntEnum):
    PLAIN = 0
    ZSTD = 1
    FRAME = 2


class PackError(ValueError):
    """The bytes are not a whole pack or blob of this vault; says what is wrong."""


class NewerPackError(PackError):
    """Written by a newer version of the format."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a blob lies in its pack. `length` includes the tag. A chunk of a frame has the range
    of the whole frame and a `place` in it."""

    id: bytes
    offset: int
    length: int
    codec: Codec
    kind: Kind
    place: int = 0


class Piece(NamedTuple):
    """What goes into one range of a pack: a blob, or the chunks of one frame in their order.
    `data` is not encrypted yet."""

    ids: Sequence[bytes]
    data: Buffer
    codec: Codec
    kind: Kind


def pack_key(name: bytes) -> str:
    """The store's key of the pack with this BLAKE3."""
    digits = name.hex()
    return f"packs/{digits[:2]}/{digits}"


def pack_name(key: str) -> bytes | None:
    """The BLAKE3 that a store's key states, or None where the key is no pack's."""
    name = key.rpartition("/")[2]
    try:
        raw = bytes.fromhex(name)
    except ValueError:
        return None
    return raw if len(raw) == 32 and key == pack_key(raw) else None


def blob_id(keys: VaultKeys, kind: Kind, plain: Buffer) -> bytes:
    return blake3(plain, key=keys.chunk_id if kind is Kind.CHUNK else keys.map_id).digest()


def _nonce(offset: int) -> bytes:
    return offset.to_bytes(12, "big")


def _bound(entry: Entry) -> bytes:
    blob = _NO_ID if entry.codec is Codec.FRAME else entry.id
    return blob + bytes((entry.codec, entry.kind))


class PackBuilder:
    """A pack being filled in a buffer. `reserve` and `seal` are called under the writer's lock;
    `fill` runs outside of it, in several threads, each into the range it reserved."""

    def __init__(self, keys: VaultKeys, buffer: memoryview) -> None:
        salt = secrets.token_bytes(32)
        self._cipher = keys.pack_cipher(salt)
        self._buffer = buffer
        buffer[:HEAD_BYTES] = MAGIC + salt + bytes(HEAD_BYTES - 40)
        self._end = HEAD_BYTES
        self._filling = 0
        self._settled = threading.Condition()
        self.entries: list[Entry] = []

    @property
    def empty(self) -> bool:
        return not self.entries

    def reserve(self, pieces: Sequence[Piece]) -> list[Entry] | None:
        """Room for all of these, one after another, or None when they do not fit in. One entry
        for each piece: with these, `fill` must be called whatever happens."""
        size = sum(len(piece.data) + TAG_BYTES for piece in pieces)
        rows = len(self.entries) + sum(len(piece.ids) for piece in pieces)
        footer = rows * _ENTRY.size + TAG_BYTES + _TRAILER.size
        if self._end + size + footer > len(self._buffer):
            return None
        firsts = []
        for ids, data, codec, kind in pieces:
            length = len(data) + TAG_BYTES
            firsts.append(Entry(ids[0], self._end, length, codec, kind))
            self.entries.append(firsts[-1])
            self.entries += [
                Entry(blob, self._end, length, codec, kind, place)
                for place, blob in enumerate(ids[1:], start=1)
            ]
            self._end += length
        with self._settled:
            self._filling += 1
        return firsts

    def fill(self, firsts: Sequence[Entry], pieces: Sequence[Piece]) -> None:
        """What was reserved at once, once."""
        try:
            for entry, piece in zip(firsts, pieces, strict=True):
                room = self._buffer[entry.offset : entry.offset + entry.length]
                self._cipher.encrypt_into(_nonce(entry.offset), piece.data, _bound(entry), room)
        finally:
            with self._settled:
                self._filling -= 1
                self._settled.notify_all()

    def read(self, entry: Entry) -> bytes:
        """A blob of a pack that is not stored yet, opened; no chunk of a frame."""
        with self._settled:
            self._settled.wait_for(lambda: not self._filling)
        stored = self._buffer[entry.offset : entry.offset + entry.length]
        return bytes(open_range(self._cipher, entry, stored))

    def seal(self) -> memoryview:
        """Wait for ranges still being filled, add footer and trailer: the pack's bytes."""
        with self._settled:
            self._settled.wait_for(lambda: not self._filling)
        rows = b"".join(
            _ENTRY.pack(entry.id, entry.offset, entry.length, entry.codec, entry.kind, entry.place)
            for entry in self.entries
        )
        start = self._end
        footer = self._cipher.encrypt(_nonce(start), rows, bytes(self._buffer[:HEAD_BYTES]))
        tail = footer + _TRAILER.pack(start, len(footer), END_MAGIC)
        self._buffer[start : start + len(tail)] = tail
        return self._buffer[: start + len(tail)]


class _Room(threading.local):
    """Where a thread decrypts what it unpacks next: memory given out and taken back for every
    frame took a tenth of a restore's processor time."""

    def __init__(self) -> None:
        self.frame = memoryview(bytearray(BLOB_LIMIT_BYTES))


_room = _Room()


def open_range(
    cipher: AESGCM, entry: Entry, stored: Buffer, room: memoryview | None = None
) -> Buffer:
    """What the range of an entry holds: its blob, or the frame that its chunk is a part of. What
    is packed is unpacked to `room`, if it is just as long as that.

    :raise PackError: what is wrong
    """
    if len(stored) != entry.length:
        raise PackError(f"{len(stored)} of {entry.length} bytes at {entry.offset}")
    if not TAG_BYTES <= entry.length <= LENGTH_LIMIT_BYTES:
        raise PackError(f"length {entry.length} is out of range")
    try:
        if entry.codec is Codec.PLAIN:
            return cipher.decrypt(_nonce(entry.offset), stored, _bound(entry))
        frame = _room.frame[: entry.length - TAG_BYTES]
        cipher.decrypt_into(_nonce(entry.offset), stored, _bound(entry), frame)
        if room is not None and decompressed_into(frame, room):
            return room
        return decompress(frame, BLOB_LIMIT_BYTES)
    except InvalidTag as inner:
        raise PackError(f"blob at {entry.offset} is not authentic") from inner
    except zstandard.ZstdError as inner:
        raise PackError(f"blob at {entry.offset} does not decompress: {inner}") from inner


def packed_range(cipher: AESGCM, entry: Entry, stored: Buffer) -> bytes:
    """As it was compressed: what goes into the range of another pack for the same blobs. Only of
    what `open_range` opens."""
    return cipher.decrypt(_nonce(entry.offset), stored, _bound(entry))


def blob_in(entry: Entry, plain: Buffer, chunk_bytes: int) -> Buffer:
    """The blob of an entry in what its range holds. Not proven yet: see `blob_id`.

    :raise PackError: the frame ends before its place
    """
    if entry.codec is not Codec.FRAME:
        return plain
    start = entry.place * chunk_bytes
    if start >= len(plain):
        raise PackError(f"frame at {entry.offset} has no place {entry.place}")
    return memoryview(plain)[start : start + chunk_bytes]


def head_cipher(keys: VaultKeys, head: bytes) -> AESGCM:
    """The cipher of the pack that starts with these 64 bytes.

    :raise PackError: it is no pack
    """
    if len(head) < HEAD_BYTES:
        raise PackError("shorter than its header")
    if head[:6] == MAGIC[:6] and head[:8] != MAGIC:
        raise NewerPackError(f"written as version {head[6:7]!r}")
    if head[:8] != MAGIC:
        raise PackError(f"starts with {head[:8]!r}")
    return keys.pack_cipher(head[8:40])


def read_footer(keys: VaultKeys, store: Store, name: bytes, size_bytes: int) -> list[Entry]:
    """What a stored pack holds, by three small reads.

    :raise PackError: what is wrong
    :raise StorageFailure: as `Store.get_range`
    """
    return parse_rows(*open_footer(keys, store, name, size_bytes))


def open_footer(keys: VaultKeys, store: Store, name: bytes, size_bytes: int) -> tuple[bytes, int]:
    """The rows of a stored pack's footer as they are, and where they begin in the pack.

    :raise PackError, StorageFailure: as `read_footer`
    """
    key = pack_key(name)
    head = store.get_range(key, 0, HEAD_BYTES)
    trailer = store.get_range(key, max(0, size_bytes - _TRAILER.size), _TRAILER.size)
    start, length = _parse_trailer(trailer, size_bytes)
    stored = store.get_range(key, start, length)
    return _decrypt_rows(head_cipher(keys, head), head, start, stored), start


def whole_footer(keys: VaultKeys, data: memoryview) -> list[Entry]:
    """What a pack holds of which all bytes are at hand.

    :raise PackError: what is wrong
    """
    head = bytes(data[:HEAD_BYTES])
    start, length = _parse_trailer(bytes(data[-_TRAILER.size :]), len(data))
    stored = bytes(data[start : start + length])
    return parse_rows(_decrypt_rows(head_cipher(keys, head), head, start, stored), start)


def _parse_trailer(trailer: bytes, size_bytes: int) -> tuple[int, int]:
    if len(trailer) != _TRAILER.size or not HEAD_BYTES + _TRAILER.size <= size_bytes <= PACK_BYTES:
        raise PackError(f"truncated, or {size_bytes} bytes long")
    start, length, magic = _TRAILER.unpack(trailer)
    if magic != END_MAGIC or start < HEAD_BYTES or start + length + _TRAILER.size != size_bytes:
        raise PackError("trailer is damaged")
    return start, length


def _decrypt_rows(cipher: AESGCM, head: bytes, start: int, stored: bytes) -> bytes:
    """:raise PackError: what is wrong"""
    if len(stored) < TAG_BYTES:
        raise PackError("footer is truncated")
    try:
        rows = cipher.decrypt(_nonce(start), stored, head)
    except InvalidTag as inner:
        raise PackError("footer is not authentic") from inner
    if len(rows) % _ENTRY.size:
        raise PackError("footer has a broken row")
    return rows


def parse_rows(rows: bytes, start: int) -> list[Entry]:
    """The rows of a footer that begins at `start`.

    :raise PackError: what is wrong
    """
    entries = []
    for blob, offset, length, codec, kind, place in _ENTRY.iter_unpack(rows):
        if (
            offset < HEAD_BYTES
            or not TAG_BYTES <= length <= LENGTH_LIMIT_BYTES
            or offset + length > start
        ):
            raise PackError("footer has a row out of range")
        try:
            entries.append(Entry(blob, offset, length, Codec(codec), Kind(kind), place))
        except ValueError as inner:
            raise PackError("footer has an unknown codec or kind") from inner
    return entries
