"""The copy of the index on this machine: used when whole, mended when not, never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3
from dated_store import DatedStore
from faulty_store import FaultyStore
from structlog.testing import capture_logs
from vault_scene import FakeClock, Scene, disk_of, turned

from quiesce.vault import LocalStore
from quiesce.vault.contents.cache import CachingStore, IndexCache
from quiesce.vault.format.sealed import content_name


@pytest.fixture
def far(tmp_path: Path, clock: FakeClock) -> FaultyStore:
    """The store itself, which counts what it is asked."""
    return FaultyStore(DatedStore(LocalStore.create(tmp_path / "vault"), clock))


@pytest.fixture
def cache(tmp_path: Path) -> IndexCache:
    return IndexCache(tmp_path / "cache")


def opened_elsewhere(far: FaultyStore, cache: IndexCache, clock: FakeClock) -> tuple[Scene, int]:
    """The vault as a new process opens it; and how many segments it fetched."""
    before = fetched(far)
    scene = Scene.at(CachingStore(far, cache), clock)
    return scene, fetched(far) - before


def fetched(far: FaultyStore) -> int:
    return sum(call.operation == "get" and call.key.startswith("index/") for call in far.log)


def files(cache: IndexCache) -> list[Path]:
    return sorted(cache._folder.glob("*"))


def test_segments_are_fetched_once_and_then_read_here(
    far: FaultyStore, cache: IndexCache, clock: FakeClock
) -> None:
    point = Scene.create(far, clock).backup("one", disk_of(1, 2))
    assert opened_elsewhere(far, cache, clock)[1] == 1
    scene, count = opened_elsewhere(far, cache, clock)
    assert count == 0
    assert scene.restore(point) == disk_of(1, 2)


def test_what_was_written_from_here_need_not_be_fetched(
    far: FaultyStore, cache: IndexCache, clock: FakeClock
) -> None:
    Scene.create(CachingStore(far, cache), clock).backup("one", disk_of(1, 2))
    assert opened_elsewhere(far, cache, clock)[1] == 0


def test_copies_are_exactly_what_is_stored_and_for_their_owner_alone(
    far: FaultyStore, cache: IndexCache, clock: FakeClock
) -> None:
    Scene.create(CachingStore(far, cache), clock).backup("one", disk_of(1, 2))
    (copy,) = files(cache)
    assert copy.read_bytes() == far.get(f"index/{copy.name}", limit_bytes=10_000)
    assert copy.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["turned", "short", "empty", "other"])
def test_a_damaged_copy_is_fetched_anew(
    far: FaultyStore, cache: IndexCache, clock: FakeClock, damage: str
) -> None:
    scene = Scene.create(CachingStore(far, cache), clock)
    point = scene.backup("one", disk_of(1, 2))
    (copy,) = files(cache)
    whole = copy.read_bytes()
    scene.backup("two", disk_of(5))
    other = next(path for path in files(cache) if path != copy).read_bytes()
    copy.write_bytes(
        {
            "turned": turned(whole, 50),
            "short": whole[:-1],
            "empty": b"",
            "other": other,
        }[damage]
    )
    fresh, count = opened_elsewhere(far, cache, clock)
    assert count == 1
    assert fresh.restore(point) == disk_of(1, 2)
    assert copy.read_bytes() == whole


def test_a_damaged_segment_of_the_store_is_not_kept(
    far: FaultyStore, cache: IndexCache, clock: FakeClock, tmp_path: Path
) -> None:
    point = Scene.create(far, clock).backup("one", disk_of(1, 2))
    (stored,) = (tmp_path / "vault" / "index").iterdir()
    stored.write_bytes(turned(stored.read_bytes(), -1))
    scene, _ = opened_elsewhere(far, cache, clock)
    assert scene.restore(point) == disk_of(1, 2)
    assert stored.name not in {path.name for path in files(cache)}


def test_a_cache_that_cannot_be_written_costs_time_only_and_is_told_of_once(
    far: FaultyStore, clock: FakeClock, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    cache = IndexCache(tmp_path / "cache")
    with capture_logs() as told:
        scene = Scene.create(CachingStore(far, cache), clock)
        points = [scene.backup(job, disk_of(n)) for n, job in ((1, "one"), (2, "two"))]
        fresh, count = opened_elsewhere(far, cache, clock)
    assert count == 2
    assert fresh.restore(points[1]) == disk_of(2)
    assert cache.problem
    assert [
        entry["event"].partition(":")[0] for entry in told if entry["log_level"] == "warning"
    ] == ["no copy of the index is kept"]


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = IndexCache(tmp_path / "cache", limit_bytes=1000)
    segments = [_sealed(bytes([n]) * 268) for n in range(4)]  # 300 bytes with its checksum
    for age, segment in enumerate(segments[:3]):
        cache.keep(content_name(segment), segment)
        os.utime(tmp_path / "cache" / content_name(segment), (age, age))
    assert cache.get(content_name(segments[0])) == segments[0]
    cache.keep(content_name(segments[3]), segments[3])
    kept = [cache.get(content_name(segment)) is not None for segment in segments]
    assert kept == [True, False, True, True]
    assert sum(path.stat().st_size for path in files(cache)) <= 1000


def test_a_merged_away_segment_leaves_the_cache_with_the_store(
    far: FaultyStore, cache: IndexCache, clock: FakeClock
) -> None:
    scene = Scene.create(CachingStore(far, cache), clock)
    scene.backup("one", disk_of(1, 2))
    gone = scene.backup("gone", disk_of(7, 8))
    scene.delete(gone)
    scene.collect_fully()
    assert {path.name for path in files(cache)} == {
        info.key.removeprefix("index/") for info in far.list("index/")
    }


def _sealed(body: bytes) -> bytes:
    start = b"QVSEAL1\n" + body[8:]
    return start + blake3(start).digest()
