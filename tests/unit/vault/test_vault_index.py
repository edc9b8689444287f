"""The index in memory: asked for many at once it says what it says of each alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quiesce.vault.contents.index import ChunkIndex
from quiesce.vault.format.pack import HEAD_BYTES, Codec, Entry, Kind
from quiesce.vault.format.segment import PackedRows, read_segment, write_segment

IDS = [bytes([hi]) * 8 + bytes([lo]) * 8 + bytes(16) for hi in range(4) for lo in range(3)]
"""Few of them share their first 64 bits, none their first 128."""
PACKS = [bytes([number]) * 32 for number in range(6)]


def packed(number: int, ids: list[bytes]) -> PackedRows:
    entries = [
        Entry(blob, HEAD_BYTES + 100 * at, 100, Codec.FRAME, Kind.CHUNK, at)
        for at, blob in enumerate(ids)
    ]
    return PackedRows(PACKS[number], 5000, tuple(entries))


@settings(deadline=None)
@given(
    packs=st.lists(st.lists(st.sampled_from(IDS), max_size=5), max_size=len(PACKS)),
    from_segments=st.sets(st.integers(0, 5)),
    gone=st.sets(st.integers(0, 5)),
    garbage=st.sets(st.integers(0, 5)),
    damaged=st.sets(st.tuples(st.integers(0, 5), st.sampled_from(IDS))),
    folded=st.booleans(),
    asked=st.lists(st.sampled_from(IDS), max_size=30),
)
def test_many_ids_are_found_as_each_alone(
    packs: list[list[bytes]],
    from_segments: set[int],
    gone: set[int],
    garbage: set[int],
    damaged: set[tuple[int, bytes]],
    folded: bool,
    asked: list[bytes],
) -> None:
    index = ChunkIndex()
    for number, ids in enumerate(packs):
        rows = packed(number, ids)
        if number in from_segments:
            index.add_segment(*read_segment(write_segment([rows])))
        else:
            index.add_pack(rows, saved=False)
    index.observe(
        {name: 5000 for number, name in enumerate(PACKS) if number not in gone},
        packs=index.count_packs(),
        indexed=frozenset(PACKS),
        garbage=frozenset(PACKS[number] for number in garbage),
        damaged=frozenset((PACKS[number], blob) for number, blob in damaged),
    )
    if folded:
        index.snapshot()
    expected = {
        blob
        for number, ids in enumerate(packs)
        for blob in ids
        if number not in gone | garbage and (number, blob) not in damaged
    }
    assert index.holds(asked) == [blob in expected for blob in asked]
    assert [index.find(blob) is not None for blob in asked] == index.holds(asked)
