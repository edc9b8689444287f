"""Deletion and garbage collection, beside writers that run."""

from __future__ import annotations

from datetime import timedelta

import pytest
from faulty_store import FaultyStore
from paper_store import PaperStore
from vault_scene import FakeClock, Scene, disk_of, put_all

from quiesce.model.failure import Failure
from quiesce.vault.format.config import CHUNK_BYTES


def test_a_deleted_point_is_gone_at_once_and_its_data_after_the_margin(scene: Scene) -> None:
    gone = scene.backup("one", disk_of(1, 2, 3))
    kept = scene.backup("two", disk_of(4, 5, 6))
    plan = scene.vault.plan_deletion([gone.id])
    occupied = {pack.stat().st_size for pack in scene.packs()}
    assert plan.freed_bytes in occupied
    assert len(scene.vault.points()) == 2, "a plan deletes nothing"
    scene.vault.execute(plan)
    assert scene.reopened().vault.points() == (kept,)
    with pytest.raises(Failure) as caught:
        scene.vault.point(gone.id)
    assert caught.value.code == "vault.point-unknown"
    assert len(scene.packs()) == 2
    scene.collect_fully()
    assert len(scene.packs()) == 1
    assert scene.reopened().restore(kept) == disk_of(4, 5, 6)
    report = scene.reopened().vault.verify("chunks")
    assert report.intact
    assert report.findings == ()


def test_data_shared_with_a_point_that_stays_is_not_counted_and_not_removed(scene: Scene) -> None:
    first = scene.backup("one", disk_of(1, 2, 3))
    second = scene.backup("two", disk_of(1, 9, 3), base="one", changed={"sda": {1}})
    plan = scene.vault.plan_deletion([first.id])
    assert plan.freed_bytes == 0
    scene.vault.execute(plan)
    scene.collect_fully()
    assert scene.reopened().restore(second) == disk_of(1, 9, 3)


def test_nothing_is_deleted_before_the_margin(scene: Scene) -> None:
    scene.delete(scene.backup("one", disk_of(1)))
    scene.clock.advance(hours=4)
    assert len(scene.vault.collect(scene.vault.plan_collect()).mark) == 1
    scene.clock.advance(hours=23)
    plan = scene.vault.plan_collect()
    assert plan.delete == ()
    assert plan.waiting_bytes > 0
    scene.clock.advance(hours=2)
    assert len(scene.vault.collect(scene.vault.plan_collect()).delete) == 1
    assert scene.packs() == []


def test_a_plan_alone_changes_nothing(scene: Scene) -> None:
    scene.delete(scene.backup("one", disk_of(1)))
    scene.clock.advance(hours=30)
    watched = FaultyStore(scene.store)
    scene.reopened(watched).vault.plan_collect()
    assert watched.changes == 0


def test_collection_never_removes_what_a_running_writer_refers_to(scene: Scene) -> None:
    """The writer began before the mark and took the garbage for good."""
    disk = disk_of(1, 2, 3)
    scene.delete(scene.backup("one", disk))
    scene.clock.advance(hours=2)
    writer = scene.reopened().vault.writer("web", "two")
    target = writer.disk("sda", len(disk))
    put_all(target, disk)
    other = scene.reopened()
    for _ in range(10):
        scene.clock.advance(hours=5)
        if _ % 2:
            writer._beat()
        other.vault.collect(other.vault.plan_collect())
    point = scene.commit(writer, len(disk))
    scene.collect_fully()
    assert scene.reopened().restore(point) == disk


def test_a_writer_that_begins_after_the_mark_does_not_rely_on_marked_packs(
    clock: FakeClock,
) -> None:
    scene = Scene.create(PaperStore(clock), clock)  # whose times are this clock's, too
    disk = disk_of(1, 2, 3)
    scene.delete(scene.backup("one", disk))
    scene.clock.advance(hours=4)
    scene.vault.collect(scene.vault.plan_collect())
    scene.clock.advance(hours=20)
    writer = scene.reopened().vault.writer("web", "two")
    target = writer.disk("sda", len(disk))
    put_all(target, disk)
    scene.clock.advance(hours=6)
    other = scene.reopened()
    assert other.vault.collect(other.vault.plan_collect()).delete
    point = scene.commit(writer, len(disk))
    assert scene.reopened().restore(point) == disk
    assert scene.reopened().vault.verify("chunks").intact


def test_a_point_deleted_while_it_is_the_base_of_a_writer_stays_until_that_ends(
    scene: Scene,
) -> None:
    disk = disk_of(1, 2, 3, 4)
    base = scene.backup("one", disk)
    scene.clock.advance(hours=2)
    writer = scene.reopened().vault.writer("web", "two")
    target = writer.disk("sda", len(disk), base_generation="one")
    scene.delete(base)
    other = scene.reopened()
    for _ in range(4):
        scene.clock.advance(hours=12)
        writer._beat()
        other.vault.collect(other.vault.plan_collect())
    changed = disk_of(1, 9, 3, 4)
    target.put(1, memoryview(changed)[CHUNK_BYTES : 2 * CHUNK_BYTES])
    point = scene.commit(writer, len(disk))
    scene.collect_fully()
    assert scene.reopened().restore(point) == changed


def test_a_writer_that_was_silent_for_days_cannot_commit_and_its_job_starts_anew(
    scene: Scene,
) -> None:
    disk = disk_of(1, 2)
    writer = scene.vault.writer("web", "job")
    put_all(writer.disk("sda", len(disk)), disk)
    scene.clock.advance(days=3)
    scene.collect_fully()
    with pytest.raises(Failure) as caught:
        scene.commit(writer, len(disk))
    assert caught.value.code == "vault.session-expired"
    assert scene.vault.points() == ()
    point = scene.reopened().backup("job", disk)
    scene.collect_fully()
    assert scene.reopened().restore(point) == disk


def test_packs_of_a_crashed_writer_are_collected_and_block_nobody(scene: Scene) -> None:
    kept = scene.backup("one", disk_of(1))
    writer = scene.vault.writer("web", "crashed")
    put_all(writer.disk("sda", 4 * CHUNK_BYTES), disk_of(5, 6, 7, 8))
    writer._stream.flush()
    assert len(scene.packs()) == 2
    fresh = scene.reopened()
    for _ in range(4):
        scene.clock.advance(hours=30)
        fresh.vault.collect(fresh.vault.plan_collect())
    assert len(scene.packs()) == 1
    assert list((scene.folder / "sessions").iterdir()) == []
    assert scene.reopened().restore(kept) == disk_of(1)


def test_many_small_segments_become_few(scene: Scene) -> None:
    disks = {f"job{n}": disk_of(n) for n in range(1, 40)}
    for job, disk in disks.items():
        scene.backup(job, disk)
    assert len(list((scene.folder / "index").iterdir())) == 39
    scene.vault.collect(scene.vault.plan_collect())
    assert len(list((scene.folder / "index").iterdir())) == 1
    fresh = scene.reopened()
    for point in fresh.vault.points():
        assert fresh.restore(point) == disks[point.job_id]


def test_two_collections_do_not_run_at_once_and_a_dead_one_is_taken_over(scene: Scene) -> None:
    scene.vault.contents.records.put("sessions/gc", "lease", {"at": scene.clock()})
    plan = scene.vault.plan_collect()
    with pytest.raises(Failure) as caught:
        scene.vault.collect(plan)
    assert caught.value.code == "vault.collect-running"
    scene.clock.advance(hours=7)
    scene.vault.collect(scene.vault.plan_collect())


def test_clocks_that_disagree_by_less_than_the_skew_lose_nothing(scene: Scene) -> None:
    """The writer's clock is 50 minutes ahead: it says it began after a mark that it never saw."""
    disk = disk_of(1, 2, 3)
    scene.delete(scene.backup("one", disk))
    scene.clock.advance(hours=2)
    scene.clock.now += timedelta(minutes=50)
    writer = scene.reopened().vault.writer("web", "two")
    scene.clock.now -= timedelta(minutes=50)
    put_all(writer.disk("sda", len(disk)), disk)
    other = scene.reopened()
    other.vault.collect(other.vault.plan_collect())
    for _ in range(3):
        scene.clock.advance(hours=9)
        writer._beat()
        other.vault.collect(other.vault.plan_collect())
    point = scene.commit(writer, len(disk))
    assert scene.reopened().restore(point) == disk
