"""Defects that a review found, one test each: copies, damage, silence, and races."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from faulty_store import Call, FaultyStore
from vault_scene import FakeClock, Scene, disk_of, put_all

from quiesce.model.failure import Failure, StorageFailure
from quiesce.model.point import RecoveryPoint
from quiesce.vault import LocalStore
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.lease import Lease
from quiesce.vault.contents.records import LEASE_KEY
from quiesce.vault.upkeep.verify_packs import verify_packs

DISK = disk_of(1, 2, 3)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[164] ^= 1
    path.write_bytes(data)


@pytest.fixture
def twins(scene: Scene) -> tuple[RecoveryPoint, Path, Path]:
    """Two backups at once that stored the same chunks: a point of one, and both packs."""
    writers = scene.vault.writer("web", "one"), scene.vault.writer("mail", "two")
    for target in [writer.disk("sda", len(DISK)) for writer in writers]:
        put_all(target, DISK)
    point = scene.commit(writers[0], len(DISK), "one")
    (first,) = scene.packs()
    scene.commit(writers[1], len(DISK), "two")
    (second,) = set(scene.packs()) - {first}
    return point, first, second


@pytest.mark.parametrize("bad", [1, 2])
def test_a_reader_tries_the_other_copy_of_a_damaged_chunk(
    scene: Scene, twins: tuple[RecoveryPoint, Path, Path], bad: int
) -> None:
    flip(twins[bad])  # type: ignore[arg-type]
    assert scene.reopened().restore(twins[0]) == DISK


def test_a_good_copy_outlives_the_damage_and_collection_of_the_other(
    scene: Scene, twins: tuple[RecoveryPoint, Path, Path]
) -> None:
    point, _, bad = twins
    flip(bad)
    assert not scene.vault.verify("chunks").hurt
    scene.collect_fully()
    assert scene.reopened().restore(point) == DISK


def test_a_pack_that_was_mended_from_a_copy_counts_as_good_again(scene: Scene) -> None:
    point = scene.backup("one", DISK)
    (pack,) = scene.packs()
    sound = pack.read_bytes()
    flip(pack)
    assert scene.vault.verify("chunks").hurt
    pack.write_bytes(sound)
    again = scene.reopened()
    assert not again.vault.verify("chunks").hurt
    assert not list(scene.store.list("damage/"))
    assert again.restore(point) == DISK


def test_a_long_backup_that_stores_nothing_new_still_gives_signs_of_life(scene: Scene) -> None:
    scene.backup("one", DISK)
    writer = scene.vault.writer("web", "two")
    target = writer.disk("sda", len(DISK))
    for _ in range(30):
        put_all(target, DISK)
        scene.clock.advance(hours=1)
    scene.commit(writer, len(DISK), "two")
    assert len(scene.vault.points("web")) == 2


@pytest.mark.parametrize("whole", [True, False], ids=["whole pack", "one sector"])
def test_a_bad_sector_names_the_points_it_hurts_and_spares_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    scene.backup("one", DISK, vm="web")
    (victim,) = scene.packs()
    scene.backup("two", disk_of(4, 5, 6), vm="mail")
    real = LocalStore.get_range

    def get_range(store: LocalStore, key: str, offset: int, length: int) -> bytes:
        if key.endswith(victim.name) and (whole or offset < 100_000 < offset + length):
            raise StorageFailure("storage.io-error", "EIO", retryable=True)
        return real(store, key, offset, length)

    monkeypatch.setattr(LocalStore, "get_range", get_range)
    assert [health.vm for health in scene.vault.verify("chunks").hurt] == ["web"]


def test_a_bad_sector_in_a_manifest_costs_its_point_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = scene.backup("one", DISK, vm="web")
    scene.backup("two", disk_of(4, 5, 6), vm="mail")
    real = LocalStore.get

    def get(store: LocalStore, key: str, *, limit_bytes: int) -> bytes:
        if key == f"points/{lost.id}":
            raise StorageFailure("storage.io-error", "EIO", retryable=True)
        return real(store, key, limit_bytes=limit_bytes)

    monkeypatch.setattr(LocalStore, "get", get)
    fresh = scene.reopened()
    assert [point.vm for point in fresh.vault.points()] == ["mail"]
    with pytest.raises(Failure) as caught:
        fresh.vault.point(lost.id)
    assert caught.value.code == "vault.corrupt-manifest"
    assert "EIO" in str(caught.value.evidence[0].fact)
    fresh.backup("three", disk_of(4, 5, 6), vm="mail", base="two")
    assert [hurt.point_id for hurt in fresh.vault.verify("structure").hurt] == [lost.id]
    assert [f.object for f in verify_packs(fresh.store).findings] == [f"points/{lost.id}"]
    fresh.delete(lost)
    assert {point.vm for point in fresh.vault.points()} == {"mail"}


def test_a_store_whose_making_was_killed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            LocalStore.create(tmp_path / "half")
    LocalStore.create(tmp_path / "half").put("points/x", b"there")


def test_a_pack_stored_beside_a_refresh_does_not_count_as_missing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = scene.vault.writer("web", "one")
    put_all(writer.disk("sda", len(DISK)), DISK)
    contents = scene.vault.contents
    real = contents.pack_sizes

    def list_and_then_commit() -> dict[bytes, int]:
        listed = real()
        scene.commit(writer, len(DISK), "one")
        return listed

    monkeypatch.setattr(contents, "pack_sizes", list_and_then_commit)
    contents.refresh()
    assert scene.packs()
    assert contents.index.missing_packs() == ()


def test_garbage_that_a_scan_finds_is_not_referred_to(scene: Scene) -> None:
    point = scene.backup("one", DISK)
    scene.delete(point)
    scene.clock.advance(hours=30)
    scene.vault.collect(scene.vault.plan_collect())  # marks
    assert list(scene.store.list("garbage/"))
    for segment in list(scene.store.list("index/")):
        scene.store.delete(segment.key)
    scene.reopened().vault.writer("web", "two")  # killed: its next run scans for its packs
    before = set(scene.packs())
    again = scene.reopened().backup("two", DISK)
    assert set(scene.packs()) > before
    scene.reopened().collect_fully()
    assert scene.reopened().restore(again) == DISK


def test_a_writer_that_could_not_start_leaves_no_session(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StorageFailure("storage.io-error", "EIO")

    monkeypatch.setattr(Contents, "refresh", refuse)
    with pytest.raises(Failure):
        scene.vault.writer("web", "two")
    assert not list(scene.store.list("sessions/"))


def test_a_lease_that_two_threads_renew_at_once_is_not_lost(
    tmp_path: Path, clock: FakeClock
) -> None:
    far = FaultyStore(LocalStore.create(tmp_path / "far"))
    lease = Lease(Scene.create(far, clock).vault.contents)
    clock.advance(hours=2)
    far.log.clear()
    found: list[Failure | None] = []

    def second() -> None:
        try:
            lease.beat()
            found.append(None)
        except Failure as failure:
            found.append(failure)

    other = threading.Thread(target=second)

    def before(call: Call) -> None:
        if (call.operation, call.key) == ("put", LEASE_KEY) and not other.ident:
            other.start()  # deleted, and not made again yet
            other.join(0.5)  # it waits, or else it ends at once

    far.before = before
    lease.beat()
    other.join()
    assert found == [None]
    assert far.puts.count(LEASE_KEY) == 2, "taken once, renewed once"
