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
