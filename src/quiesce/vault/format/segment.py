"""Index segments: which blob lies where, stored.

A segment is a sealed object (kind "index", bound to no name) `index/<its checksum, hex>`:
    packs u32 · rows u32 · packs × (BLAKE3 32 · size u32) · rows × row, sorted by id
    row (44 bytes): id 32 · pack u32 (place in the list above) · offset u32 · extent u32
    extent: bits 0–20 length (tag included) · 21–28 place · 29 zero · 30–31 codec
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

from quiesce.vault.format.pack import (
    HEAD_BYTES,
    LENGTH_LIMIT_BYTES,
    PACK_BYTES,
    TAG_BYTES,
    Codec,
    Entry,
    Kind,
    PackError,
)

_COUNTS = struct.Struct("<II")
_PACK = struct.Struct("<32sI")
_ROW = np.dtype([("hi", ">u8"), ("lo", ">u8"), ("rest", "V16"), ("pack", "<u4"), ("offset", "<u4"),
                 ("extent", "<u4")])  # fmt: skip
_FOOTER_ROW = np.dtype([("hi", ">u8"), ("lo", ">u8"), ("rest", "V16"), ("offset", "<u4"),
                        ("length", "<u4"), ("codec", "u1"), ("kind", "u1"), ("place", "u1"),
                        ("zeros", "V5")])  # fmt: skip
"""As in `pack`."""
_LENGTH_BITS, _CODEC_SHIFT = 21, 30
LENGTH_MASK = (1 << _LENGTH_BITS) - 1
_SPARE_BIT = 1 << 29
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
            (entry.id, number, entry.offset, extent(entry.length, entry.codec, entry.place))
            for number, pack in enumerate(packs)
            for entry in pack.entries
        ),
    )
    parts = [_COUNTS.pack(len(packs), len(rows))]
    parts += [_PACK.pack(pack.name, pack.size_bytes) for pack in packs]
    row = struct.Struct("<32sIII")
    parts += [row.pack(*values) for values in rows]
    return b"".join(parts)


def rows_of_footer(footer: bytes, start: int) -> NDArray[Any]:
    """The rows of a pack's footer, which begins at `start`, as rows of a segment that tells of this
    pack alone; not sorted yet.

    :raise PackError: what is wrong
    """
    found = np.frombuffer(footer, _FOOTER_ROW)
    lengths = found["length"].astype(np.uint64)
    if len(found) and (
        int(found["offset"].min()) < HEAD_BYTES
        or not TAG_BYTES <= int(lengths.min()) <= int(lengths.max()) <= LENGTH_LIMIT_BYTES
        or int((found["offset"] + lengths).max()) > start
        or int(found["codec"].max()) > max(Codec)
        or int(found["kind"].max()) > max(Kind)
    ):
        raise PackError("footer has a row out of range")
    rows = np.zeros(len(found), _ROW)
    for field in ("hi", "lo", "rest", "offset"):
        rows[field] = found[field]
    rows["extent"] = (
        found["length"]
        | found["place"].astype(np.uint32) << np.uint32(_LENGTH_BITS)
        | found["codec"].astype(np.uint32) << np.uint32(_CODEC_SHIFT)
    )
    return rows


def extent(length: int, codec: Codec, place: int) -> int:
    """A row's last field."""
    return length | place << _LENGTH_BITS | codec << _CODEC_SHIFT


def read_extent(value: int) -> tuple[int, Codec, int]:
    """(length, codec, place) of a row's last field."""
    return value & LENGTH_MASK, Codec(value >> _CODEC_SHIFT), value >> _LENGTH_BITS & 0xFF


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
        length, codec, place = read_extent(int(row["extent"]))
        blob = bytes(row.tobytes()[:32])
        found.append(Entry(blob, int(row["offset"]), length, codec, Kind.CHUNK, place))
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
        lengths = rows["extent"] & np.uint32(LENGTH_MASK)
        if (
            int(rows["pack"].max()) >= packs
            or int(rows["offset"].min()) < HEAD_BYTES
            or int(lengths.min()) < TAG_BYTES
            or int((rows["offset"].astype(np.uint64) + lengths).max()) > PACK_BYTES
            or int((rows["extent"] >> np.uint32(_CODEC_SHIFT)).max()) > max(Codec)
            or bool((rows["extent"] & np.uint32(_SPARE_BIT)).any())
        ):
            raise SegmentError("a row is out of range")
    return names, rows
