"""What a server says of extents is joined, or refused when it makes no sense."""

from __future__ import annotations

import struct

import nbd_script as script
import pytest

from quiesce.block import nbd_wire as wire
from quiesce.block.nbd_wire import Command
from quiesce.model.extent import Extent, ExtentKind
from quiesce.model.failure import StorageFailure


def described(allocation, dirty=None):
    def answer(sock, command, cookie, offset, length):
        assert command == Command.BLOCK_STATUS
        if dirty is not None:
            sock.sendall(script.status(cookie, script.DIRTY_ID, *dirty, done=False))
        sock.sendall(script.status(cookie, script.ALLOCATION_ID, *allocation))

    return answer


def test_extents_are_what_is_dirty_and_what_of_it_is_allocated(serve):
    answer = described([(4096, 0), (8192, 3), (4096, 1)], [(8192, 1), (6000, 0), (2192, 1)])
    assert list(serve(answer, size=16384, bitmap="b").extents()) == [
        Extent(0, 4096, ExtentKind.DATA),
        Extent(4096, 4096, ExtentKind.ZERO),
        Extent(8192, 6000, ExtentKind.CLEAN),
        Extent(14192, 2192, ExtentKind.DATA),
    ]


def test_status_that_goes_beyond_the_disk_ends_with_the_disk(serve):
    assert list(serve(described([(1 << 31, 3)]), size=1000).extents()) == [
        Extent(0, 1000, ExtentKind.ZERO)
    ]


def test_status_told_in_small_pieces_is_asked_on_and_joined(serve):
    assert list(serve(described([(512, 0)]), size=5120).extents()) == [
        Extent(0, 5120, ExtentKind.DATA)
    ]


@pytest.mark.parametrize(
    "lie",
    [
        lambda c: script.status(c, script.ALLOCATION_ID, (0, 0)),
        lambda c: script.status(c, 4711, (4096, 0)),
        lambda c: script.status(c, script.ALLOCATION_ID),
        lambda c: script.chunk(c, wire.Chunk.NONE, b""),
        lambda c: script.chunk(c, wire.Chunk.BLOCK_STATUS, b"1234567"),
        lambda c: (
            script.status(c, script.ALLOCATION_ID, (1, 0), done=False)
            + script.status(c, script.ALLOCATION_ID, (1, 0))
        ),
        lambda c: struct.pack(">IHHQI", wire.STRUCTURED_REPLY_MAGIC, 1, 5, c, 2**32 - 4),
    ],
)
def test_a_block_status_that_makes_no_sense_is_refused(serve, lie):
    source = serve(lambda sock, _, cookie, *rest: sock.sendall(lie(cookie)))
    with pytest.raises(StorageFailure) as caught:
        list(source.extents())
    assert caught.value.code == "storage.nbd-protocol"
