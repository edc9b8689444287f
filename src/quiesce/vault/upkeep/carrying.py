"""Ranges of a pack in which everything lives, stored in new packs as they were compressed.

They are opened and proven, and encrypted anew, since a range is bound to its pack and its place
there; they are not compressed anew. So a copy is as long as what it is a copy of, whatever level
the policy of its backup had, and takes less time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quiesce.model.failure import StorageFailure
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.opening import neighbours
from quiesce.vault.contents.sectors import read_each
from quiesce.vault.format.pack import (
    HEAD_BYTES,
    Entry,
    PackError,
    Piece,
    blob_id,
    blob_in,
    head_cipher,
    open_range,
    pack_key,
    packed_range,
)
from quiesce.vault.points.packing import PackStream
from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.store import Store

Range = Sequence[Entry]
"""All entries of one range, in the order of their places."""


def split(entries: Sequence[Entry], lives: Sequence[bool]) -> tuple[list[Range], list[Entry]]:
    """The ranges of which every entry lives, as they lie in the pack; and what lives in others."""
    whole: list[Range] = []
    torn: list[Entry] = []
    rows = sorted(zip(entries, lives, strict=True), key=lambda row: (row[0].offset, row[0].place))
    for _, same in groupby(rows, lambda row: row[0].offset):
        members = list(same)
        living = [entry for entry, alive in members if alive]
        if [entry.place for entry in living] == list(range(len(members))):
            whole.append(living)
        else:
            torn += living
    return whole, torn


def carry(
    contents: Contents, stream: PackStream, name: bytes, ranges: Sequence[Range]
) -> tuple[int, list[Entry]]:
    """Into `stream`. The bytes newly stored, and the entries of ranges that do not open: of these
    another copy may.

    :raise PackError: it is no pack · :raise StorageFailure: as `Store.get_range`
    """
    store, key = contents.store, pack_key(name)
    stored = 0
    unopened: list[Entry] = []
    if not ranges:
        return stored, unopened
    cipher = head_cipher(contents.keys, store.get_range(key, 0, HEAD_BYTES))
    for run in neighbours(ranges, _where):
        for members, part in _read(store, key, run):
            try:
                piece, plain = _proven(contents, cipher, members, part)
            except PackError:
                unopened += members
                continue
            stored += stream.add_packed(piece, plain)
    return stored, unopened


def _read(store: Store, key: str, run: Sequence[Range]) -> Iterator[tuple[Range, Buffer]]:
    """Neighbours are read at once; around a bad sector one by one, and nothing where it lies."""
    start = run[0][0].offset
    (data,) = read_each(store, key, [(start, _end(run[-1]) - start)])
    if isinstance(data, StorageFailure):
        for members, part in zip(run, read_each(store, key, map(_where, run)), strict=True):
            yield members, b"" if isinstance(part, StorageFailure) else part
        return
    whole = memoryview(data)
    for members in run:
        begin = members[0].offset - start
        yield members, whole[begin : begin + members[0].length]


def _proven(
    contents: Contents, cipher: AESGCM, members: Range, stored: Buffer
) -> tuple[Piece, Buffer]:
    """:raise PackError: what is wrong"""
    first = members[0]
    plain = open_range(cipher, first, stored)
    for entry in members:
        blob = blob_in(entry, plain, contents.chunk_bytes)
        if blob_id(contents.keys, entry.kind, blob) != entry.id:
            raise PackError("content does not have its id")
    ids = [entry.id for entry in members]
    return Piece(ids, packed_range(cipher, first, stored), first.codec, first.kind), plain


def _where(members: Range) -> tuple[int, int]:
    return members[0].offset, members[0].length


def _end(members: Range) -> int:
    return members[0].offset + members[0].length
