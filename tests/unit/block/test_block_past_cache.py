"""Output: the same bytes arrive, whether or not the page cache can be passed."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from pathlib import Path

import pytest
from missing import missing

from quiesce.block import past_cache
from quiesce.block.past_cache import Output

MIB = 1 << 20


def opened(path: Path) -> Output:
    return Output(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def aligned(content: bytes) -> memoryview:
    buffer = memoryview(mmap.mmap(-1, len(content)))
    buffer[:] = content
    return buffer


@pytest.mark.parametrize("folder", ["/var/tmp", "/dev/shm"])
@pytest.mark.parametrize("offset", [0, 4096, 512, 1])
@pytest.mark.parametrize("length", [MIB, MIB + 4096, MIB + 512, 777])
@pytest.mark.parametrize("shift", [0, 1])
def test_bytes_arrive_whatever_their_alignment(folder, offset, length, shift):
    path = Path(folder) / f"quiesce-test-{os.getpid()}"
    content = random.Random(length).randbytes(length + shift)
    try:
        output = opened(path)
        output.write(offset, aligned(content)[shift:])
        output.close()
        assert path.read_bytes() == bytes(offset) + content[shift:]
    finally:
        path.unlink(missing_ok=True)


def test_what_is_aligned_leaves_the_page_cache_alone(tmp_path):
    path = tmp_path / "disk"
    output = opened(path)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        missing("this file system has no O_DIRECT")
    output.write(0, aligned(random.Random(1).randbytes(4 * MIB)))
    with pytest.raises(BlockingIOError):  # which says: not in the cache
        os.preadv(output.descriptor, [bytearray(4096)], 0, os.RWF_NOWAIT)
    output.close()
    output.close()


def test_what_is_reserved_has_its_blocks_and_reads_as_zeros(tmp_path):
    path = tmp_path / "disk"
    output = opened(path)
    os.ftruncate(output.descriptor, 16 * MIB)
    output.reserve(4 * MIB, 8 * MIB)
    assert path.stat().st_blocks * 512 == 8 * MIB
    assert path.read_bytes() == bytes(16 * MIB)
    output.close()


def test_where_nothing_can_be_reserved_nothing_fails():
    output = Output(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
    output.reserve(0, MIB)
    output.close()


def test_a_reservation_that_finds_no_room_says_so(tmp_path, monkeypatch):
    asked = []

    def full(descriptor, mode, offset, length):
        asked.append((offset, length))
        ctypes.set_errno(errno.ENOSPC if len(asked) > 1 else 0)
        return -1 if len(asked) > 1 else 0

    monkeypatch.setattr(past_cache, "_fallocate", full)
    output = opened(tmp_path / "disk")
    with pytest.raises(OSError, match="No space left"):
        output.reserve(0, 3 * past_cache.RESERVE_BYTES)
    assert asked == [(n * past_cache.RESERVE_BYTES, past_cache.RESERVE_BYTES) for n in range(2)]
    output.close()
