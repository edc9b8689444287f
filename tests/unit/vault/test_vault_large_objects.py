"""Large objects, which are written past the page cache where that can be done."""

from __future__ import annotations

import mmap
import random
import tempfile
from pathlib import Path

import pytest

from quiesce.vault.stores.local import LocalStore
from quiesce.vault.stores.store import Put

MIB = 1 << 20


@pytest.mark.parametrize("folder", ["/var/tmp", "/dev/shm"])
@pytest.mark.parametrize("length", [MIB, 3 * MIB + 512, 3 * MIB + 1])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_large_object_is_stored_whole_whatever_its_alignment(folder, length, shift):
    content = random.Random(length).randbytes(length + shift)
    buffer = memoryview(mmap.mmap(-1, len(content)))
    buffer[:] = content
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = LocalStore.create(Path(place) / "store")
        assert store.put("packs/00/a", buffer[shift:]) is Put.CREATED
        assert store.get("packs/00/a", limit_bytes=length) == content[shift:]


@pytest.mark.parametrize("folder", ["/var/tmp", "/dev/shm"])
@pytest.mark.parametrize("offset", [0, 1, 4096, MIB - 1, 3 * MIB, 4 * MIB])
@pytest.mark.parametrize("length", [MIB // 2, 2 * MIB, 3 * MIB + 5])
def test_a_long_range_is_read_as_far_as_the_object_goes(folder, offset, length):
    content = random.Random(length).randbytes(3 * MIB + 513)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = LocalStore.create(Path(place) / "store")
        store.put("packs/00/a", content)
        assert store.get_range("packs/00/a", offset, length) == content[offset : offset + length]


def test_what_was_read_stays_as_it_was_while_more_is_read(tmp_path):
    store = LocalStore.create(tmp_path / "store")
    store.put("packs/00/a", b"a" * MIB)
    store.put("packs/00/b", b"b" * MIB)
    part = memoryview(store.get_range("packs/00/a", 1, MIB - 1))[4096:]
    assert store.get_range("packs/00/b", 0, MIB) == b"b" * MIB
    assert part == b"a" * (MIB - 1 - 4096)
