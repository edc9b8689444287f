"""A raw image as a source: the same bytes are read, whether or not the page cache can be passed."""

from __future__ import annotations

import errno
import mmap
import os
import random
from pathlib import Path

import pytest

from quiesce.block.file import FileSource
from quiesce.model.failure import StorageFailure

MIB = 1 << 20
CONTENT = random.Random(7).randbytes(3 * MIB + 512 + 3)


def aligned(length: int) -> memoryview:
    return memoryview(mmap.mmap(-1, length + 8))


@pytest.fixture(params=["/var/tmp", "/dev/shm"])
def image(request):
    path = Path(request.param) / f"quiesce-test-{os.getpid()}.raw"
    path.write_bytes(CONTENT)  # and not synced: a read past the cache must see it all the same
    yield path
    path.unlink()


@pytest.mark.parametrize("offset", [0, 4096, 512, 1, 2 * MIB])
@pytest.mark.parametrize("length", [MIB, 4096, 777, MIB + 515])
@pytest.mark.parametrize("shift", [0, 1])
def test_bytes_are_read_whatever_their_alignment(image, offset, length, shift):
    source = FileSource(image)
    buffer = aligned(length)[shift : shift + length]
    source.read_into(offset, buffer)
    source.close()
    assert bytes(buffer) == CONTENT[offset : offset + length]


def test_the_end_of_an_image_that_fills_no_block_is_read(image):
    source = FileSource(image)
    buffer = aligned(len(CONTENT))[: len(CONTENT)]
    source.read_into(0, buffer)
    source.close()
    assert bytes(buffer) == CONTENT


def test_a_file_that_shrinks_while_it_is_read_past_the_cache_is_an_error(image):
    source = FileSource(image)
    os.truncate(image, MIB + 512)
    with pytest.raises(StorageFailure) as caught:
        source.read_into(0, aligned(2 * MIB)[: 2 * MIB])
    source.close()
    assert caught.value.code == "storage.io-error"


def test_a_bad_sector_is_an_error_and_is_not_read_again_through_the_cache(image, monkeypatch):
    source = FileSource(image)
    tries = []

    def failing(descriptor, buffers, offset):
        tries.append(offset)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(StorageFailure) as caught:
        source.read_into(0, aligned(MIB)[:MIB])
    source.close()
    assert caught.value.code == "storage.io-error"
    assert tries == [0]
