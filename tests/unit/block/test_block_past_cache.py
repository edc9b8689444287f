"""Output: the same bytes arrive, whether or not the page cache can be passed."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

import pytest

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
        pytest.skip("this file system has no O_DIRECT")
    output.write(0, aligned(random.Random(1).randbytes(4 * MIB)))
    with pytest.raises(BlockingIOError):  # which says: not in the cache
        os.preadv(output.descriptor, [bytearray(4096)], 0, os.RWF_NOWAIT)
    output.close()
    output.close()
