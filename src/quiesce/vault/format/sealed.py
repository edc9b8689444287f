"""Sealed objects: every small encrypted object of a vault (manifests, index segments, records).

offset  bytes  content
0       8      magic "QVSEAL1\\n"; the digit is the version
8       32     random salt
40      n      AES-256-GCM of one zstd frame that states its content size; 16-byte tag last
               key    derive(vault key, "quiesce v1 object " ‖ kind, salt)
               nonce  twelve zeros: a key is used once, its salt is random
               associated data  bytes 0–39 ‖ name   (the object's name where it is not made
               from its content, so that no object can stand in for another)
40+n    32     BLAKE3 of all bytes before: checks the object without any key
"""

from __future__ import annotations

import secrets
import threading

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag

from quiesce.model.failure import StorageFailure
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import UNREADABLE, Store

MAGIC = b"QVSEAL1\n"
_HEAD = 40
_TAIL = 32
LIMIT_BYTES = 64 * 1024 * 1024
"""No sealed object is longer than this, neither stored nor opened."""


class SealError(ValueError):
    """The bytes are not a whole sealed object of this kind and name; says what is wrong."""


class NewerSealError(SealError):
    """Whole, but written by a newer version of the format."""


def seal(keys: VaultKeys, kind: str, name: str, plain: bytes) -> bytes:
    if len(plain) > LIMIT_BYTES:
        raise ValueError(f"{kind} of {len(plain)} bytes is too large to be sealed")
    head = MAGIC + secrets.token_bytes(32)
    frame = zstandard.ZstdCompressor(level=3).compress(plain)
    body = keys.object_cipher(kind, head[8:]).encrypt(bytes(12), frame, head + name.encode())
    return head + body + blake3(head + body).digest()


def content_name(stored: bytes) -> str:
    """The name of a sealed object that is named by its content: its own checksum."""
    return stored[-_TAIL:].hex()


def check(stored: bytes) -> None:
    """The object is whole, as anybody can see without a key.

    :raise SealError: what is wrong
    """
    if len(stored) < _HEAD + 16 + _TAIL:
        raise SealError(f"only {len(stored)} bytes long")
    if blake3(stored[:-_TAIL]).digest() != stored[-_TAIL:]:
        raise SealError("checksum does not match")
    if stored[:6] == MAGIC[:6] and stored[:8] != MAGIC:
        raise NewerSealError(f"written as version {stored[6:7]!r}")
    if stored[:8] != MAGIC:
        raise SealError(f"starts with {stored[:8]!r}")


def unseal(keys: VaultKeys, kind: str, name: str, stored: bytes) -> bytes:
    """:raise SealError: what is wrong"""
    check(stored)
    head = stored[:_HEAD]
    try:
        frame = keys.object_cipher(kind, head[8:]).decrypt(
            bytes(12), stored[_HEAD:-_TAIL], head + name.encode()
        )
    except InvalidTag as inner:
        raise SealError("not authentic") from inner
    try:
        return decompress(frame, LIMIT_BYTES)
    except zstandard.ZstdError as inner:
        raise SealError(f"not a zstd frame: {inner}") from inner


def read_sealed(store: Store, keys: VaultKeys, kind: str, name: str, key: str) -> bytes:
    """What the sealed object at `key` says. One that does not open is fetched once more: what was
    spoilt only on its way is no damage, and a mark or a record that is passed over for it may be
    the one that keeps a chunk from being referred to. One that lies on a bad sector, or is longer
    than any may be, is as damaged as one that does not open.

    :raise SealError: what is wrong
    :raise StorageFailure: as `Store.get`, but for `UNREADABLE`
    """
    try:
        return unseal(keys, kind, name, _fetched(store, key))
    except SealError:
        return unseal(keys, kind, name, _fetched(store, key))


def _fetched(store: Store, key: str) -> bytes:
    try:
        return store.get(key, limit_bytes=LIMIT_BYTES)
    except StorageFailure as failure:
        if failure.code not in UNREADABLE:
            raise
        raise SealError(f"cannot be read: {failure.message}") from failure


class _Tools(threading.local):
    """One decompressor a thread: making one costs as much as a chunk's decryption."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_tools = _Tools()


def decompress(frame: Buffer, limit_bytes: int) -> bytes:
    """One zstd frame that states its size, refused before it is unpacked when that is over
    the limit.

    :raise zstandard.ZstdError: not such a frame
    """
    size = zstandard.frame_content_size(frame)
    if size < 0 or size > limit_bytes:
        raise zstandard.ZstdError(f"frame states {size} bytes; at most {limit_bytes} allowed")
    if size == 0:
        return b""
    return _tools.decompressor.decompress(frame, max_output_size=size)


def decompressed_into(frame: Buffer, room: memoryview) -> bool:
    """Whether the frame states just the size of `room`; then it has been unpacked to it. With all
    of both at hand zstd does so in one pass, without memory of its own.

    :raise zstandard.ZstdError: not such a frame
    """
    if zstandard.frame_content_size(frame) != len(room):
        return False
    with _tools.decompressor.stream_reader(frame) as reader:
        if reader.readinto(room) != len(room):
            raise zstandard.ZstdError("the frame ends early")
    return True
