"""What a writer tells of its base without reading any of the base's data."""

from __future__ import annotations

import pytest
from vault_scene import Scene, disk_of

from quiesce.vault.format.config import CHUNK_BYTES
from quiesce.vault.format.diskmap import FANOUT

CHUNKS = (1, 2, 0, 3)


def increment(scene: Scene, size_bytes: int):
    return scene.vault.writer("web", "job2").disk("sda", size_bytes, base_generation="job1")


def chunk(data: bytes, number: int) -> memoryview:
    return memoryview(data)[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]


def test_a_chunk_is_the_bases_or_it_is_not(scene: Scene) -> None:
    data = disk_of(*CHUNKS, tail=100)
    scene.backup("job1", data)
    writer = increment(scene, len(data))
    assert all(writer.holds(number, chunk(data, number)) for number in range(5))
    changed = bytearray(data)
    for number in range(5):
        changed[number * CHUNK_BYTES + 7] ^= 1
    assert not any(writer.holds(number, chunk(bytes(changed), number)) for number in range(5))


def test_no_data_are_read_to_tell(scene: Scene, tmp_path) -> None:
    data = disk_of(*CHUNKS)
    scene.backup("job1", data)
    writer = increment(scene, len(data))
    wanted = []
    opener = scene.vault.contents.open_blobs

    def watched(kind, ids):
        wanted.append(kind.name)
        return opener(kind, ids)

    scene.vault.contents.open_blobs = watched
    assert writer.holds(0, chunk(data, 0))
    assert set(wanted) == {"MAP"}


def test_where_the_base_holds_nothing_there_is_nothing_to_look_at(scene: Scene) -> None:
    leaf = disk_of(*[1] * 2)
    data = bytes(FANOUT * CHUNK_BYTES) + leaf + bytes((2 * FANOUT - 2) * CHUNK_BYTES) + leaf
    scene.backup("job1", data)
    writer = increment(scene, len(data))
    assert list(writer.populated(0, 3 * FANOUT + 2)) == [(FANOUT, FANOUT), (3 * FANOUT, 2)]
    assert list(writer.populated(FANOUT + 1, 1)) == [(FANOUT + 1, 1)]
    assert list(writer.populated(2 * FANOUT, FANOUT)) == []


@pytest.mark.parametrize("tail", [5000, 100])
def test_the_end_of_a_disk_that_has_got_another_size_is_not_looked_at(
    scene: Scene, tail: int
) -> None:
    scene.backup("job1", disk_of(*CHUNKS, tail=1000))
    writer = increment(scene, 4 * CHUNK_BYTES + tail)
    assert list(writer.populated(0, 5)) == [(0, 4)]


def test_a_full_read_has_nothing_to_be_compared_with(scene: Scene) -> None:
    writer = scene.vault.writer("web", "job1").disk("sda", 5 * CHUNK_BYTES)
    assert list(writer.populated(0, 5)) == []
