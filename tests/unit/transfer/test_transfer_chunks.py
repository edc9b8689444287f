from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.model.extent import Extent, ExtentKind
from quiesce.transfer.chunks import ChunkRun, chunk_runs, segments

DATA, ZERO, CLEAN = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.CLEAN


def laid_out(*lengths_and_kinds: tuple[int, ExtentKind]) -> list[Extent]:
    extents, position = [], 0
    for length, kind in lengths_and_kinds:
        extents.append(Extent(position, length, kind))
        position += length
    return extents


def test_a_chunk_of_which_only_a_part_changed_is_read_whole():
    extents = laid_out((130, CLEAN), (1, DATA), (169, CLEAN))
    runs = list(chunk_runs(extents, 300, 100, has_base=True))
    assert runs == [ChunkRun(0, 1, CLEAN), ChunkRun(1, 1, DATA), ChunkRun(2, 1, CLEAN)]


def test_a_chunk_that_is_partly_zeroed_and_partly_clean_is_read_whole():
    extents = laid_out((50, ZERO), (150, CLEAN))
    runs = list(chunk_runs(extents, 200, 100, has_base=True))
    assert runs == [ChunkRun(0, 1, DATA), ChunkRun(1, 1, CLEAN)]


def test_without_a_base_nothing_may_be_left_out_as_clean():
    assert list(chunk_runs(laid_out((200, CLEAN)), 200, 100, has_base=False)) == [
        ChunkRun(0, 2, DATA)
    ]


def test_the_short_last_chunk_counts_as_whole():
    extents = laid_out((100, DATA), (33, ZERO))
    runs = list(chunk_runs(extents, 133, 100, has_base=True))
    assert runs == [ChunkRun(0, 1, DATA), ChunkRun(1, 1, ZERO)]


@pytest.mark.parametrize("extents", [[], [Extent(0, 50, DATA)], [Extent(10, 90, DATA)]])
def test_an_incomplete_map_is_never_taken_for_a_disk(extents):
    with pytest.raises(ValueError, match="extents"):
        list(chunk_runs(extents, 100, 10, has_base=True))


def test_a_run_is_cut_where_a_restore_will_cut_it():
    assert list(segments(ChunkRun(3, 70, DATA), 32)) == [
        ChunkRun(3, 29, DATA),
        ChunkRun(32, 32, DATA),
        ChunkRun(64, 9, DATA),
    ]


@given(first=st.integers(0, 500), count=st.integers(0, 500), at_once=st.integers(1, 64))
def test_segments_cover_a_run_once_and_are_never_longer(first, count, at_once):
    cut = list(segments(ChunkRun(first, count, DATA), at_once))
    assert [chunk for s in cut for chunk in range(s.first, s.first + s.count)] == list(
        range(first, first + count)
    )
    assert all(0 < s.count <= at_once for s in cut)


@given(
    pieces=st.lists(st.tuples(st.integers(1, 450), st.sampled_from(ExtentKind)), max_size=40),
    chunk=st.integers(1, 128),
    has_base=st.booleans(),
)
def test_every_chunk_comes_once_and_is_skipped_only_if_all_its_bytes_allow_it(
    pieces, chunk, has_base
):
    extents = laid_out(*pieces)
    size = sum(length for length, _ in pieces)
    kinds = [kind for length, kind in pieces for _ in range(length)]
    runs = list(chunk_runs(extents, size, chunk, has_base=has_base))
    position = 0
    for before, after in pairwise(runs):
        assert before.kind is not after.kind
    for run in runs:
        assert run.first == position
        position += run.count
        for number in range(run.first, position):
            inside = set(kinds[number * chunk : (number + 1) * chunk])
            if not has_base and CLEAN in inside:
                inside = (inside - {CLEAN}) | {DATA}
            assert run.kind is (inside.pop() if len(inside) == 1 else DATA)
    assert position == -(-size // chunk)
