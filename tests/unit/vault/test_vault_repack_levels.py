"""What repacking stores is as long as it was, whatever level the backup was compressed at."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache

import pytest
from paper_store import PaperStore
from repack_scene import assert_sound, collect_to_the_end
from small_vault import stored
from vault_scene import FakeClock, Scene, random_bytes

from quiesce.model.point import RecoveryPoint
from quiesce.vault.contents.contents import Contents
from quiesce.vault.format.config import CHUNK_BYTES
from quiesce.vault.format.pack import Codec, Entry, Kind, pack_name, read_footer
from quiesce.vault.points.packing import PackStream
from quiesce.vault.upkeep.carrying import carry, split

FRAME = 1024 * 1024 // CHUNK_BYTES
"""Chunks of one frame."""


_WORDS = 4000


@cache
def words() -> list[bytes]:
    dice = random.Random(0)
    return [dice.randbytes(dice.randint(4, 9)) for _ in range(_WORDS)]


@cache
def text(seed: int) -> bytes:
    """One chunk that a high level makes notably shorter than a low one."""
    shares = [number**-0.5 for number in range(1, _WORDS + 1)]
    drawn = random.Random(seed).choices(words(), shares, k=CHUNK_BYTES // 4)
    return b"".join(drawn)[:CHUNK_BYTES]


def disk_of_text(chunks: Iterable[int]) -> bytes:
    return b"".join(text(number) for number in chunks)


def back_up(scene: Scene, job: str, disk: bytes, level: int, vm: str = "web") -> RecoveryPoint:
    writer = scene.vault.writer(vm, job, compression_level=level)
    target = writer.disk("sda", len(disk))
    target.put(0, memoryview(disk))
    return scene.commit(writer, len(disk))


@pytest.fixture
def scene(paper: PaperStore, clock: FakeClock) -> Scene:
    return Scene.create(paper, clock)


def left_in_part(scene: Scene, kept: Iterable[int], level: int) -> bytes:
    """A vault with one pack, of which only these chunks are still needed: their disk."""
    disk = disk_of_text(kept)
    whole = disk_of_text(range(2 * FRAME)) + random_bytes(1, 3 * FRAME * CHUNK_BYTES)
    doomed = back_up(scene, "doomed", whole, level)
    back_up(scene, "kept", disk, level, vm="db")
    scene.clock.advance(days=1)
    scene.delete(doomed)
    return disk


def test_the_text_of_these_tests_tells_the_levels_apart(scene: Scene) -> None:
    sizes = []
    for level in (1, 9, 19):
        at = Scene.create(PaperStore(scene.clock), scene.clock)
        back_up(at, "job", disk_of_text(range(2 * FRAME)), level)
        sizes.append(stored(at.store))
    low, high, highest = sizes
    assert low > 1.3 * high > 1.3 * highest


@pytest.mark.parametrize("level", [1, 9, 19])
def test_frames_that_live_whole_are_as_long_as_before(scene: Scene, level: int) -> None:
    disk = left_in_part(scene, range(2 * FRAME), level)
    plan = scene.vault.plan_collect()
    assert len(plan.repack.packs) == 1
    done = scene.vault.collect(plan)
    assert done.copied_bytes == plan.repack.copy_bytes
    collect_to_the_end(scene)
    assert_sound(scene, disk)


@pytest.mark.parametrize("level", [1, 3, 9])
def test_what_is_left_of_frames_is_about_as_long_as_its_share(scene: Scene, level: int) -> None:
    disk = left_in_part(scene, range(0, 2 * FRAME, 2), level)
    plan = scene.vault.plan_collect()
    done = scene.vault.collect(plan)
    assert 0 < done.copied_bytes <= 1.06 * plan.repack.copy_bytes
    collect_to_the_end(scene)
    assert_sound(scene, disk)


def entries_of(contents: Contents) -> list[list[Entry]]:
    sizes = {pack_name(i.key): i.size_bytes for i in contents.store.list("packs/")}
    return [read_footer(contents.keys, contents.store, n, s) for n, s in sizes.items() if n]


def test_a_frame_is_carried_as_one_and_its_chunks_keep_their_places(scene: Scene) -> None:
    left_in_part(scene, range(FRAME), 9)
    (before,) = (e for e in entries_of(scene.vault.contents) if len(e) > 3 * FRAME)
    old = {entry.id: entry for entry in before}
    collect_to_the_end(scene)
    carried = [e for es in entries_of(scene.vault.contents) for e in es if e.codec is Codec.FRAME]
    assert [entry.place for entry in carried] == list(range(FRAME))
    assert len({entry.offset for entry in carried}) == 1
    assert all(entry.length == old[entry.id].length for entry in carried)


def test_a_frame_that_is_damaged_is_left_where_it_is_and_may_be_mended_there(
    scene: Scene, paper: PaperStore
) -> None:
    disk = left_in_part(scene, range(FRAME), 1)
    key, offset = scene.place_of("db", 0)
    paper.spoil(key, offset + 40)
    plan = scene.vault.plan_collect()
    done = scene.vault.collect(plan)
    assert len(done.left) == 1
    paper.spoil(key, offset + 40)
    assert_sound(scene, disk)


def test_a_chunk_that_another_thread_stores_meanwhile_is_not_carried_along(scene: Scene) -> None:
    left_in_part(scene, range(FRAME), 1)
    contents = scene.vault.contents
    (name,) = scene.vault.plan_collect().repack.packs
    size = contents.pack_sizes()[name]
    entries = read_footer(contents.keys, contents.store, name, size)
    contents.index.retire([name])
    whole, torn = split(entries, [entry.codec is Codec.FRAME for entry in entries])
    assert torn == []
    stream = PackStream(contents, 1, lambda: None)
    try:
        known = entries[3].id
        first = stream.add_chunks([(known, text(3))])
        carried, unopened = carry(contents, stream, name, whole)
        stream.flush()
    finally:
        stream.close()
    assert first > 0
    assert carried > 0
    assert unopened == []
    new = [row.id for rows in entries_of(contents) if rows != entries for row in rows]
    assert {new.count(entry.id) for entry in entries if entry.codec is Codec.FRAME} == {1}
    assert dict(contents.open_blobs(Kind.CHUNK, [known])) == {known: text(3)}
