"""The index in memory against what a list of rows says."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from quiesce.vault.contents.index import ChunkIndex
from quiesce.vault.format.pack import HEAD_BYTES, Codec, Entry, Kind
from quiesce.vault.format.segment import PackedRows, read_segment, write_segment

FEW_HALVES = [bytes([n]) * 8 for n in range(3)]
"""Halves of ids, so few that ids share them."""
BLOBS = st.builds(
    lambda high, low: high + low + bytes(16),
    st.sampled_from(FEW_HALVES),
    st.sampled_from(FEW_HALVES),
)
PACKS = st.lists(
    st.tuples(st.lists(BLOBS, max_size=6, unique=True), st.booleans()), min_size=1, max_size=8
)
"""What lies in each, and whether a stored segment tells of it."""


def pack_of(number: int, blobs: list[bytes]) -> PackedRows:
    entries = tuple(
        Entry(blob, HEAD_BYTES + place * 100, 100, Codec.ZSTD, Kind.CHUNK)
        for place, blob in enumerate(blobs)
    )
    return PackedRows(blake3(bytes([number])).digest(), 10_000, entries)


def index_of(packs: list[tuple[PackedRows, bool]]) -> ChunkIndex:
    """Some packs just written, the others told of by a segment each."""
    index = ChunkIndex()
    for pack, stored in packs:
        if stored:
            index.add_segment(*read_segment(write_segment([pack])))
        else:
            index.add_pack(pack, saved=False)
    return index


@settings(max_examples=200, deadline=None)
@given(PACKS, st.booleans())
def test_a_blob_is_found_where_some_pack_holds_it_and_nowhere_else(
    given_packs: list[tuple[list[bytes], bool]], in_one_run: bool
) -> None:
    packs = [(pack_of(n, blobs), stored) for n, (blobs, stored) in enumerate(given_packs)]
    index = index_of(packs)
    if in_one_run:
        index.snapshot()
    for high in FEW_HALVES:
        for low in FEW_HALVES:
            blob = high + low + bytes(16)
            places = {
                (pack.name, entry.offset)
                for pack, _ in packs
                for entry in pack.entries
                if entry.id == blob
            }
            assert (index.find(blob) is not None) == bool(places)
            assert {(index.name_of(c.pack), c.offset) for c in index.copies(blob)} == places


@settings(max_examples=200, deadline=None)
@given(PACKS, st.data())
def test_the_copy_that_serves_is_the_same_whatever_order_the_packs_were_learnt_in(
    given_packs: list[tuple[list[bytes], bool]], data: st.DataObject
) -> None:
    packs = [(pack_of(n, blobs), stored) for n, (blobs, stored) in enumerate(given_packs)]
    names = [pack.name for pack, _ in packs]
    held = [(pack.name, entry.id) for pack, _ in packs for entry in pack.entries]
    garbage = frozenset(data.draw(st.sets(st.sampled_from(names)), "garbage"))
    missing = data.draw(st.sets(st.sampled_from(names)), "missing")
    damaged = frozenset(data.draw(st.sets(st.sampled_from(held)), "damaged") if held else ())
    blobs = sorted({blob for _, blob in held})

    def best(blob: bytes) -> tuple[bytes, bool]:
        """Good before damaged or missing, usable before garbage, then by name."""
        bad, _, name = min(
            (name in missing or (name, blob) in damaged, name in missing | garbage, name)
            for name, other in held
            if other == blob
        )
        return name, not bad

    for order in (packs, packs[::-1]):
        index = index_of(order)
        sizes = {name: 10_000 for name in names if name not in missing}
        index.observe(sizes, packs=len(names), indexed=set(names), garbage=garbage, damaged=damaged)
        snapshot = index.snapshot()
        rows = snapshot.rows(b"".join(blobs))
        found = [(snapshot.names[snapshot.pack_of[row]], bool(snapshot.good[row])) for row in rows]
        assert found == [best(blob) for blob in blobs]


def test_ids_that_no_pack_holds_have_no_row() -> None:
    blob = FEW_HALVES[0] + FEW_HALVES[1] + bytes(16)
    snapshot = index_of([(pack_of(1, [blob]), True)]).snapshot()
    absent = [FEW_HALVES[0] * 4, FEW_HALVES[1] * 4, b"\xff" * 32, bytes(32)]
    assert (snapshot.rows(b"".join(absent)) == -1).all()
    assert (ChunkIndex().snapshot().rows(absent[0]) == -1).all()


@pytest.mark.parametrize("count", [1, 2, 40])
def test_all_rows_of_many_segments_are_found_one_by_one_and_at_once(count: int) -> None:
    index = ChunkIndex()
    dice = np.random.default_rng(count)
    blobs = [[dice.bytes(32) for _ in range(dice.integers(1, 50))] for _ in range(count)]
    for number, some in enumerate(blobs):
        index.add_segment(*read_segment(write_segment([pack_of(number, some)])))
    everything = [blob for some in blobs for blob in some]
    assert len(index) == len(everything)
    assert all(index.find(blob) is not None for blob in everything)
    snapshot = index.snapshot()
    assert len(snapshot) == len(everything)
    assert (snapshot.rows(b"".join(everything)) >= 0).all()
