"""Index segments: which blob lies where, stored.

A segment is a sealed object (kind "index", bound to no name) `index/<its checksum, hex>`:
    packs u32 · rows u32 · packs × (BLAKE3 32 · size u32) · rows × row, sorted by id
    row (44 bytes): id 32 · pack u32 (place in the list above) · offset u32
                    · length u32 (tag included; top bit set: codec zstd)
Integers are little-endian. Segments only repeat what the packs' footers say: a lost or damaged
one is rebuilt from them. A pack may appear in several segments.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiesce.vault.pack import HEAD_BYTES, PACK_BYTES, TAG_BYTES, Codec, Entry, Kind

_COUNTS = struct.Struct("<II")
_PACK = struct.Struct("<32sI")
_ROW = np.dtype([("hi", ">u8"), ("lo", ">u8"), ("rest", "V16"), ("pack", "<u4"), ("offset", "<u4"),
                 ("length", "<u4")])  # fmt: skip
ZSTD_BIT = 0x8000_0000
SEGMENT_ROWS = 1 << 20


class SegmentError(ValueError):
    """The opened bytes are no index segment; says what is wrong."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """A stored pack and what lies in it."""

    name: bytes
    size_bytes: int
    entries: tuple[Entry, ...]


def write_segment(packs: Sequence[PackedRows]) -> bytes:
    rows = sorted(
        (
            (entry.id, number, entry.offset, entry.length | codec_bit(entry.codec))
            for number, pack in enumerate(packs)
            for entry in pack.entries
        ),
    )
    parts = [_COUNTS.pack(len(packs), len(rows))]
    parts += [_PACK.pack(pack.name, pack.size_bytes) for pack in packs]
    row = struct.Struct("<32sIII")
    parts += [row.pack(*values) for values in rows]
    return b"".join(parts)


def codec_bit(codec: Codec) -> int:
    return ZSTD_BIT if codec is Codec.ZSTD else 0


def join_segments(
    segments: Sequence[tuple[Sequence[tuple[bytes, int]], NDArray[Any]]], drop: Set[bytes]
) -> bytes:
    """One segment that tells what several told, but for the packs in `drop`."""
    sizes: dict[bytes, int] = {}
    parts = []
    for names, rows in segments:
        # A pack that two segments tell of is taken from the first.
        keep = np.array([name not in drop and name not in sizes for name, _ in names], np.bool_)
        numbers = np.zeros(len(names), np.uint32)
        for number, (name, size) in enumerate(names):
            if keep[number]:
                numbers[number] = len(sizes)
                sizes[name] = size
        kept = rows[keep[rows["pack"]]] if len(names) else rows
        kept = kept.copy()
        kept["pack"] = numbers[kept["pack"]]
        parts.append(kept)
    # numpy joins structured rows in the machine's byte order; the format states its own.
    rows = np.concatenate(parts).astype(_ROW)
    rows = rows[np.lexsort((rows["lo"], rows["hi"]))]
    head = _COUNTS.pack(len(sizes), len(rows))
    return head + b"".join(_PACK.pack(*pack) for pack in sizes.items()) + rows.tobytes()


def entries_in_segment(plain: bytes, pack: bytes) -> list[Entry]:
    """What a segment says lies in one pack. Kinds are not kept in segments: all say CHUNK.

    :raise SegmentError: what is wrong
    """
    names, rows = read_segment(plain)
    numbers = [number for number, (name, _) in enumerate(names) if name == pack]
    found = []
    for row in rows[np.isin(rows["pack"], numbers)]:
        length = int(row["length"])
        codec = Codec.ZSTD if length & ZSTD_BIT else Codec.PLAIN
        blob = bytes(row.tobytes()[:32])
        found.append(Entry(blob, int(row["offset"]), length & (ZSTD_BIT - 1), codec, Kind.CHUNK))
    return found


def read_segment(plain: bytes) -> tuple[list[tuple[bytes, int]], NDArray[Any]]:
    """(name, size) of each pack, and the rows as a structured array.

    :raise SegmentError: what is wrong
    """
    if len(plain) < _COUNTS.size:
        raise SegmentError("too short")
    packs, count = _COUNTS.unpack_from(plain)
    start = _COUNTS.size + packs * _PACK.size
    if len(plain) != start + count * _ROW.itemsize:
        raise SegmentError("its counts do not fit its length")
    names = list(_PACK.iter_unpack(plain[_COUNTS.size : start]))
    rows = np.frombuffer(plain, _ROW, count, start)
    if count:
        ends = rows["offset"].astype(np.uint64) + (rows["length"] & np.uint32(ZSTD_BIT - 1))
        if (
            int(rows["pack"].max()) >= packs
            or int(rows["offset"].min()) < HEAD_BYTES
            or int((rows["length"] & np.uint32(ZSTD_BIT - 1)).min()) < TAG_BYTES
            or int(ends.max()) > PACK_BYTES
        ):
            raise SegmentError("a row is out of range")
    return names, rows
