"""A disk's map: which chunk stands at which place, in two levels shared between points.

A leaf is 256 chunk ids (8192 bytes, 32 MiB of disk at 128 KiB chunks), a node 256 leaf ids; both
are blobs of kind 1. The manifest lists the node ids. 32 zero bytes stand for zeros: an all-zero
chunk, leaf or node is not stored. Places beyond the disk's end are zero.
"""

from __future__ import annotations

from collections.abc import Iterator

ID_BYTES = 32
FANOUT = 256
PART_BYTES = ID_BYTES * FANOUT
ZERO_ID = bytes(ID_BYTES)
ZERO_PART = bytes(PART_BYTES)


def ids_of(part: bytes) -> Iterator[bytes]:
    """The ids in a leaf, a node or a part of one."""
    for at in range(0, len(part), ID_BYTES):
        yield part[at : at + ID_BYTES]


def chunk_count(size_bytes: int, chunk_bytes: int) -> int:
    return -(-size_bytes // chunk_bytes)


def leaf_count(size_bytes: int, chunk_bytes: int) -> int:
    return -(-chunk_count(size_bytes, chunk_bytes) // FANOUT)


def node_count(size_bytes: int, chunk_bytes: int) -> int:
    return -(-leaf_count(size_bytes, chunk_bytes) // FANOUT)
